package cli

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	pb "github.com/loopbackd/loopback/api/loopback/v1"
	"github.com/loopbackd/loopback/fault"
	carried "github.com/loopbackd/loopback/file"
	"github.com/loopbackd/loopback/id"
	"github.com/loopbackd/loopback/shell"
)

func (a *app) fileCommand() *cobra.Command {
	type T = *pb.FileTransfer
	var most int
	ls := &cobra.Command{Use: "list", Short: "List the files that were put and got, newest first", Args: args(), RunE: a.with(func(ctx context.Context, s *api, _ []string) error {
		return list(a, ctx, most, func(ctx context.Context, p *pb.Page) ([]T, string, error) {
			r, err := call(ctx, s, s.files.ListFileTransfers, &pb.ListFileTransfersRequest{Workspace: s.Workspace, Page: p})
			return r.GetItems(), r.GetNextPageToken(), err
		}, "no file was put or got",
			column[T]{"ID", T.GetId}, column[T]{"KIND", T.GetKind}, column[T]{"STATE", T.GetState}, column[T]{"HOST", T.GetHost},
			column[T]{"SIZE", func(t T) string { return sizeOf(t) }}, column[T]{"AGE", func(t T) string { return ago(t.CreatedAt) }}, column[T]{"PATH", T.GetName})
	})}
	ls.Flags().IntVar(&most, "limit", 100, "show at most this many; 0: all")
	return noun("file", "Put files on hosts and get them from there", a.filePut(), a.fileGet(), ls,
		&cobra.Command{Use: "show TRANSFER", Short: "Show what became of a file", Args: args("TRANSFER"), RunE: a.with(func(ctx context.Context, s *api, w []string) error {
			t, err := call(ctx, s, s.files.GetFileTransfer, &pb.GetFileTransferRequest{Transfer: w[0]})
			if err != nil {
				return err
			}
			return a.print(t, fileFields(t)...)
		})},
		&cobra.Command{Use: "cancel TRANSFER", Short: "End a transfer; what it would have replaced stays", Args: args("TRANSFER"), RunE: a.with(func(ctx context.Context, s *api, w []string) error {
			t, err := call(ctx, s, s.files.CancelFileTransfer, &pb.CancelFileTransferRequest{Transfer: w[0]})
			if err != nil {
				return err
			}
			return a.print(t, fileFields(t)...)
		})})
}

func fileFields(t *pb.FileTransfer) [][2]string {
	mode := ""
	if t.Mode != 0 {
		mode = fmt.Sprintf("%04o", t.Mode)
	}
	return [][2]string{{"id", t.Id}, {"kind", t.Kind}, {"host", t.Host}, {"path", t.Name}, {"state", t.State}, {"why", t.Error}, {"hint", t.Hint}, {"size", sizeOf(t)},
		{"sha256", t.Sha256}, {"mode", mode}, {"owner", t.Owner}, {"started", stamp(t.CreatedAt)}, {"ended", stamp(t.EndedAt)}}
}

func sizeOf(t *pb.FileTransfer) string {
	if t.Size < 0 {
		return ""
	}
	return bytesize(t.Size)
}

// place is HOST:PATH.
func place(word string) (host, at string, err error) {
	host, at, ok := strings.Cut(word, ":")
	if !ok || host == "" || !path.IsAbs(at) {
		return "", "", usage("%q is not HOST:PATH, with the absolute path of a file on the host", word)
	}
	return host, at, nil
}

func (a *app) filePut() *cobra.Command {
	q := &pb.StartFilePutRequest{}
	var mode string
	c := &cobra.Command{
		Use: "put LOCAL HOST:PATH", Short: "Put a file on a host", Args: args("LOCAL", "HOST:PATH"),
		Long: `Put a file on a host. It is written beside the target and takes its place in one step, once all of it is there and has the SHA-256
that it has here: there is the old file or the new one, never a part. After a cut it goes on where it was.

It needs a reason (--reason) and the permission file.put, which is given for a time only. The folder must be there. Mode and owner are
those of the file that is replaced, else this file's mode, and root.`,
		Example: "  loopback file put --reason INC-7 nginx.conf web-1:/etc/nginx/nginx.conf\n  loopback file put --reason 'new key' --mode 0600 --owner app:app key.pem web-1:/srv/app/key.pem",
	}
	c.RunE = a.with(func(ctx context.Context, s *api, w []string) error {
		ctx, cancel := s.deadline(ctx, true)
		defer cancel()
		var err error
		if q.Host, q.Path, err = place(w[1]); err != nil {
			return err
		}
		if strings.HasSuffix(q.Path, "/") {
			q.Path += filepath.Base(w[0])
		}
		q.Path = path.Clean(q.Path)
		if mode != "" {
			m, err := strconv.ParseUint(mode, 8, 32)
			if err != nil || m == 0 || m > 0o777 {
				return usage("--mode is %q, not permission bits such as 0644", mode)
			}
			q.Mode = uint32(m)
		}
		f, err := os.Open(w[0])
		if err != nil {
			return usage("%s cannot be read: %s", w[0], errors.Unwrap(err))
		}
		defer f.Close()
		info, err := f.Stat()
		if err != nil {
			return err
		}
		if !info.Mode().IsRegular() {
			return usage("%s is no file", w[0])
		}
		sum := sha256.New()
		if q.Size, err = io.Copy(sum, f); err != nil {
			return fmt.Errorf("read %s: %w", w[0], err)
		}
		q.Workspace, q.Sha256, q.DefaultMode, q.RequestId = s.Workspace, hex.EncodeToString(sum.Sum(nil)), uint32(info.Mode().Perm()), id.New("req", time.Now())
		t, err := call(ctx, s, s.files.StartFilePut, q)
		if err != nil {
			return err
		}
		err = a.goOn(ctx, s, t, func(offset int64, tell func(int64)) (int64, error) {
			return s.sendFile(ctx, t.Id, f, offset, t.Size, tell)
		})
		return a.carried(ctx, s, t, err)
	})
	f := c.Flags()
	f.StringVar(&mode, "mode", "", "permission `BITS` of the file, such as 0644")
	f.StringVar(&q.Owner, "owner", "", "`USER[:GROUP]` who owns it")
	f.BoolVar(&q.Fresh, "new", false, "fail where there is such a file")
	return c
}

func (a *app) fileGet() *cobra.Command {
	c := &cobra.Command{
		Use: "get HOST:PATH LOCAL", Short: "Get a file from a host", Args: args("HOST:PATH", "LOCAL"),
		Long: `Get a file from a host. It takes LOCAL's place in one step, once all of it is here and has the SHA-256 that the host says. After a
cut it goes on where it was. LOCAL may be a folder.

It needs a reason (--reason) and the permission file.get, which is given for a time only: root reads everything.`,
		Example: "  loopback file get --reason INC-7 db-1:/var/log/postgresql/postgresql.log .",
	}
	c.RunE = a.with(func(ctx context.Context, s *api, w []string) error {
		host, at, err := place(w[0])
		if err != nil {
			return err
		}
		ctx, cancel := s.deadline(ctx, true)
		defer cancel()
		t, err := call(ctx, s, s.files.StartFileGet, &pb.StartFileGetRequest{Workspace: s.Workspace, Host: host, Path: path.Clean(at), RequestId: id.New("req", time.Now())})
		if err != nil {
			return err
		}
		return a.fetch(ctx, s, t, w[1])
	})
	return c
}

// fetch brings what a host sends into a file, or a folder.
func (a *app) fetch(ctx context.Context, s *api, t *pb.FileTransfer, local string) error {
	if info, err := os.Stat(local); err == nil && info.IsDir() {
		local = filepath.Join(local, path.Base(t.Name))
	}
	part, err := os.CreateTemp(filepath.Dir(local), "."+filepath.Base(local)+".*")
	if err != nil {
		return usage("no file can be made in %s: %s", filepath.Dir(local), errors.Unwrap(err))
	}
	defer os.Remove(part.Name()) // what is in its place has this name no more
	defer part.Close()
	sum, offset := sha256.New(), int64(0)
	err = a.goOn(ctx, s, t, func(_ int64, tell func(int64)) (int64, error) {
		if t.Kind == string(carried.OfHost) || t.Size < 0 && offset > 0 { // which is another each time
			if err := errors.Join(part.Truncate(0), seek(part, 0)); err != nil {
				return 0, err
			}
			sum.Reset()
			offset = 0
		}
		n, err := s.receiveFile(ctx, t, part, sum, offset, func(n int64) { tell(offset + n) })
		offset += n
		return n, err
	})
	now := t
	if err == nil {
		if now, err = call(ctx, s, s.files.GetFileTransfer, &pb.GetFileTransferRequest{Transfer: t.Id}); err == nil {
			switch {
			case now.State != string(carried.Succeeded):
				err = fault.New(fault.Internal, "file_failed", "the transfer %s: %s", now.State, now.Error)
			case now.Sha256 != hex.EncodeToString(sum.Sum(nil)):
				err = fault.New(fault.Conflict, "file_damaged", "what came has another SHA-256 than what the host sent; %s was not changed", local).
					WithHint("the file may have changed while it was got: get it anew")
			}
		}
	}
	if err == nil {
		mode := fs.FileMode(0o600)
		if now.Mode != 0 {
			mode = fs.FileMode(now.Mode) & 0o777
		}
		err = errors.Join(part.Chmod(mode), part.Sync(), os.Rename(part.Name(), local))
	}
	return a.carried(ctx, s, now, err)
}

func seek(f *os.File, to int64) error {
	_, err := f.Seek(to, io.SeekStart)
	return err
}

// carried tells how it ended; a transfer that is given up is cancelled, so that nothing of it lies about on the host.
func (a *app) carried(ctx context.Context, s *api, t *pb.FileTransfer, failed error) error {
	ending, stop := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer stop()
	if failed != nil {
		_, _ = call(ending, s, s.files.CancelFileTransfer, &pb.CancelFileTransferRequest{Transfer: t.Id}) // one that is over needs none
		return failed
	}
	if now, err := call(ending, s, s.files.GetFileTransfer, &pb.GetFileTransferRequest{Transfer: t.Id}); err == nil {
		t = now
	}
	return a.print(t, fileFields(t)...)
}

// goesOn is how long a transfer is tried that does not come on.
const goesOn = 10 * time.Minute

// goOn has a transfer go on until it is over, as long as it comes on.
func (a *app) goOn(ctx context.Context, s *api, t *pb.FileTransfer, attempt func(offset int64, tell func(int64)) (int64, error)) error {
	offset, shown, since, told := int64(0), time.Now(), time.Now(), false
	tell := func(at int64) {
		if a.Interactive && time.Since(shown) > time.Second {
			shown = time.Now()
			if t.Size > 0 {
				a.hint("%s of %s (%d %%)", bytesize(at), bytesize(t.Size), 100*at/t.Size)
			} else {
				a.hint("%s", bytesize(at))
			}
		}
	}
	for {
		n, err := attempt(offset, tell)
		if err == nil {
			return nil
		}
		f := fault.Of(err)
		full := f.Kind == fault.Exhausted && f.RetryAfter == 0 // a disk, or the file's own size, which no wait mends
		switch {
		case ctx.Err() != nil:
			return err
		case f.Code != carried.ErrOffset.Code && f.Code != "file_overtaken" && (full || !passing(err)), time.Since(since) > goesOn:
			return err
		case !told:
			told = true
			a.hint("%s; going on as soon as that is over", oneLine(err.Error()))
		}
		if n > 0 {
			since = time.Now()
		}
		if !pause(ctx, err) {
			return fault.Of(ctx.Err())
		}
		now, err := call(ctx, s, s.files.GetFileTransfer, &pb.GetFileTransferRequest{Transfer: t.Id})
		switch {
		case err != nil && !passing(err):
			return err
		case err != nil:
		case now.State == string(carried.Succeeded):
			return nil // and the answer was lost
		case carried.State(now.State).Over():
			f := fault.New(fault.Internal, now.ErrorCode, "%s", now.Error)
			f.Hint = now.Hint
			return f
		default:
			offset, t.Size = now.Offset, now.Size
		}
	}
}

// bytesURL is where the bytes of a transfer go.
func (c *api) bytesURL(transfer string, kind carried.Kind, offset int64) string {
	return c.URL + "/file/v1/" + url.PathEscape(transfer) + "?" + url.Values{"kind": {string(kind)}, "offset": {strconv.FormatInt(offset, 10)}}.Encode()
}

func (c *api) bytes(r *http.Request) (*http.Response, error) {
	c.caller.sign(r.Header)
	answer, err := c.http.Do(r)
	if err != nil {
		return nil, fault.New(fault.Unavailable, "connect_failed", "the way to the control plane broke off").WithCause(err)
	}
	if answer.StatusCode == http.StatusOK {
		return answer, nil
	}
	defer answer.Body.Close()
	body, _ := io.ReadAll(io.LimitReader(answer.Body, 4<<10)) // as much as came
	if f := shell.DecodeOver(body); f.Code != "session_lost" {
		return nil, f
	}
	return nil, fault.New(fault.Unavailable, "http_status", "what answers at %s does not know of files (status %d)", c.URL, answer.StatusCode)
}

// sendFile brings a file's bytes from an offset on, and tells how many were sent.
func (c *api) sendFile(ctx context.Context, transfer string, f *os.File, offset, size int64, tell func(int64)) (int64, error) {
	counted := &counter{Reader: io.NewSectionReader(f, offset, size-offset), told: func(n int64) { tell(offset + n) }}
	r, err := http.NewRequestWithContext(ctx, http.MethodPut, c.bytesURL(transfer, carried.ToHost, offset), struct{ io.Reader }{counted})
	if err != nil {
		return 0, err
	}
	r.ContentLength = size - offset
	if r.ContentLength == 0 {
		r.Body = http.NoBody
	}
	answer, err := c.bytes(r)
	if err != nil {
		return counted.n, err
	}
	defer answer.Body.Close()
	_, err = io.Copy(io.Discard, io.LimitReader(answer.Body, 64<<10))
	return counted.n, err
}

// receiveFile fetches a file's bytes from an offset on, and tells how many came.
func (c *api) receiveFile(ctx context.Context, t *pb.FileTransfer, to io.Writer, sum hash.Hash, offset int64, tell func(int64)) (int64, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, c.bytesURL(t.Id, carried.Kind(t.Kind), offset), nil)
	if err != nil {
		return 0, err
	}
	r.Header.Set("Accept-Encoding", "identity")
	answer, err := c.bytes(r)
	if err != nil {
		return 0, err
	}
	defer answer.Body.Close()
	if t.Size < 0 && answer.ContentLength >= 0 {
		t.Size = offset + answer.ContentLength
	}
	counted := &counter{Reader: answer.Body, told: tell}
	written, err := io.CopyBuffer(struct{ io.Writer }{io.MultiWriter(to, sum)}, struct{ io.Reader }{counted}, make([]byte, 256<<10))
	if err != nil && counted.failed != nil {
		err = fault.New(fault.Unavailable, "connect_failed", "the way to the control plane broke off").WithCause(err)
	}
	return written, err
}

// counter tells how much was read.
type counter struct {
	io.Reader
	n      int64
	told   func(int64)
	failed error
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	c.n += int64(n)
	c.told(c.n)
	if err != nil && err != io.EOF {
		c.failed = err
	}
	return n, err
}

// outputIsFile marks commands whose -o may be a file.
const outputIsFile = "output-is-file"

func (a *app) hostDiagnose() *cobra.Command {
	var out string
	c := &cobra.Command{
		Annotations: map[string]string{outputIsFile: "yes"},
		Use:         "diagnose HOST", Short: "Have a host tell what it knows of itself, for support", Args: args("HOST"), ValidArgsFunction: a.completeHosts,
		Long: `Have a host tell what it knows of itself, as a tar archive: how its agent is, the agent's journal, what loopback-agent doctor finds, its
network, its configuration's sections. Tokens, keys and passwords are taken out. No shell and no reason is needed; the permission is
hosts.diagnose.`,
		Example: "  loopback host diagnose web-1\n  loopback host diagnose web-1 -o /tmp/web-1.tar.gz",
	}
	c.RunE = a.with(func(ctx context.Context, s *api, w []string) error {
		ctx, cancel := s.deadline(ctx, true)
		defer cancel()
		switch a.flags.output {
		case "table", "json", "yaml":
		default:
			out, a.flags.output = a.flags.output, "table"
		}
		t, err := call(ctx, s, s.files.StartDiagnosis, &pb.StartDiagnosisRequest{Workspace: s.Workspace, Host: w[0], RequestId: id.New("req", time.Now())})
		if err != nil {
			return err
		}
		return a.fetch(ctx, s, t, first(out, path.Base(t.Name)))
	})
	c.Flags().StringVarP(&out, "file", "f", "", "`FILE` to write (default: HOST-diagnosis.tar.gz here); -o takes it, too")
	return c
}

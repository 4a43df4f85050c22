package file

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/file"
	"github.com/loopbackd/loopback/id"
	"github.com/loopbackd/loopback/stream"
)

// pipe is a connection of messages over a pipe.
type pipe struct {
	net.Conn
	r *bufio.Reader
}

func (p *pipe) Send(_ context.Context, m []byte) error {
	_, err := p.Write(append([]byte{byte(len(m) >> 16), byte(len(m) >> 8), byte(len(m))}, m...))
	return err
}

func (p *pipe) Receive(context.Context) ([]byte, error) {
	var head [3]byte
	if _, err := io.ReadFull(p.r, head[:]); err != nil {
		return nil, err
	}
	m := make([]byte, int(head[0])<<16|int(head[1])<<8|int(head[2]))
	_, err := io.ReadFull(p.r, m)
	return m, err
}

// plane is the control plane's side of one attempt.
type plane struct {
	end  *stream.End
	word *bufio.Reader
	cut  func()        // the connection, for good
	done chan struct{} // the carrier has returned
}

func carry(t *testing.T, c Carrier) *plane {
	t.Helper()
	p := &plane{end: stream.New(stream.Options{Window: file.Window}), done: make(chan struct{})}
	p.word = bufio.NewReader(p.end.Reader(file.WordNumber))
	over := false
	ctx, stop := context.WithCancel(context.Background())
	dial := func(context.Context) (stream.Conn, error) {
		if over {
			return nil, fault.New(fault.NotFound, "stream_unknown", "no such session")
		}
		over = true
		ours, theirs := net.Pipe()
		p.cut = func() { _ = ours.Close() }
		go func() { _ = p.end.Carry(ctx, &pipe{ours, bufio.NewReader(ours)}) }()
		return &pipe{theirs, bufio.NewReader(theirs)}, nil
	}
	go func() {
		defer close(p.done)
		c.Carry(ctx, dial)
	}()
	t.Cleanup(func() { p.end.Close(nil); <-p.done; stop() })
	return p
}

func (p *plane) says(t *testing.T) file.Word {
	t.Helper()
	line, err := p.word.ReadBytes('\n')
	var w file.Word
	if err == nil {
		err = json.Unmarshal(line, &w)
	}
	if err != nil {
		t.Fatal(err)
	}
	if w.Result != nil {
		_, _ = p.word.ReadByte() // its end
	}
	return w
}

func newTask(kind file.Kind, path string, content []byte) file.Task {
	sum := sha256.Sum256(content)
	return file.Task{Transfer: id.New("file", time.Now()), Kind: kind, Path: path, Size: int64(len(content)), SHA256: hex.EncodeToString(sum[:]), DefaultMode: 0o640}
}

func (p *plane) send(t *testing.T, content []byte) {
	t.Helper()
	w := p.end.Writer(file.DataNumber)
	if _, err := w.Write(content); err != nil && !errors.Is(err, stream.ErrStopped) {
		t.Fatal(err)
	}
	_ = w.Close()
}

func put(t *testing.T, task file.Task, content []byte) file.Result {
	t.Helper()
	p := carry(t, Carrier{Task: task, Dir: filepath.Join(t.TempDir(), "notes")})
	p.send(t, content)
	r := *p.says(t).Result
	p.end.Close(nil)
	<-p.done
	return r
}

// only demands that a folder holds exactly these names.
func only(t *testing.T, dir string, names ...string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range entries {
		got = append(got, e.Name())
	}
	if strings.Join(got, " ") != strings.Join(names, " ") {
		t.Errorf("%s holds %q, wanted %q", dir, got, names)
	}
}

var content = bytes.Repeat([]byte("0123456789abcdef"), 1<<16) // 1 MiB

func TestAFileIsPutInOneStep(t *testing.T) {
	dir := t.TempDir()
	at := filepath.Join(dir, "f")
	if r := put(t, newTask(file.ToHost, at, content), content); r.Code != "" || r.Size != int64(len(content)) {
		t.Fatalf("got %+v", r)
	}
	got, err := os.ReadFile(at)
	info, _ := os.Stat(at)
	if err != nil || !bytes.Equal(got, content) || info.Mode() != 0o640 {
		t.Errorf("got %d bytes, mode %v, %v", len(got), info.Mode(), err)
	}
	only(t, dir, "f")
	// One that replaces it has its mode, and an empty one is one, too.
	if err := os.Chmod(at, 0o604); err != nil {
		t.Fatal(err)
	}
	if r := put(t, newTask(file.ToHost, at, nil), nil); r.Code != "" {
		t.Fatalf("got %+v", r)
	}
	if info, err := os.Stat(at); err != nil || info.Size() != 0 || info.Mode() != 0o604 {
		t.Errorf("got %v, %v", info, err)
	}
	fresh := newTask(file.ToHost, at, content)
	fresh.Fresh = true
	if r := put(t, fresh, content); r.Code != "file_exists" {
		t.Errorf("a new file in the place of one: got %+v", r)
	}
	if info, err := os.Stat(at); err != nil || info.Size() != 0 {
		t.Errorf("the file there: got %v, %v", info, err)
	}
	only(t, dir, "f")
}

func TestWhatGoesWrongLeavesTheOldFile(t *testing.T) {
	for name, wrong := range map[string]struct {
		code string
		set  func(t *testing.T, dir string, task *file.Task) []byte
	}{
		"other bytes": {"file_damaged", func(*testing.T, string, *file.Task) []byte { return bytes.Repeat([]byte("x"), len(content)) }},
		"less":        {"file_size", func(*testing.T, string, *file.Task) []byte { return content[1:] }},
		"more":        {"file_size", func(*testing.T, string, *file.Task) []byte { return append(content[:len(content):len(content)], 1) }},
		"a disk without room": {"disk_full", func(t *testing.T, dir string, task *file.Task) []byte {
			if err := unix.Mount("none", dir, "tmpfs", 0, "size=512k"); err != nil {
				t.Skip("mounting a file system that fills up needs root: ", err)
			}
			t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
			if err := os.WriteFile(filepath.Join(dir, "f"), []byte("old"), 0o600); err != nil {
				t.Fatal(err)
			}
			return content
		}},
		"a user that is not there": {"user_not_found", func(_ *testing.T, _ string, task *file.Task) []byte { task.Owner = "no-such-user"; return content }},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			at := filepath.Join(dir, "f")
			if err := os.WriteFile(at, []byte("old"), 0o600); err != nil {
				t.Fatal(err)
			}
			task := newTask(file.ToHost, at, content)
			sent := wrong.set(t, dir, &task)
			if r := put(t, task, sent); r.Code != wrong.code {
				t.Errorf("got %+v, wanted %s", r, wrong.code)
			}
			if got, err := os.ReadFile(at); err != nil || string(got) != "old" {
				t.Errorf("the old file: got %q, %v", got, err)
			}
			only(t, dir, "f")
		})
	}
}

func TestNoPathLeadsRootWhereOthersSendIt(t *testing.T) {
	theirs := t.TempDir()
	if err := os.Chmod(theirs, 0o777); err != nil {
		t.Fatal(err)
	}
	ours := t.TempDir()
	secret := filepath.Join(ours, "secret")
	try := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	try(os.WriteFile(secret, []byte("secret"), 0o600))
	try(os.Symlink(ours, filepath.Join(theirs, "folder")))
	try(os.Symlink(secret, filepath.Join(theirs, "link")))
	try(os.Symlink(secret, filepath.Join(ours, "link")))
	try(os.Link(secret, filepath.Join(theirs, "name"))) // as anybody may in a /tmp of a kernel that does not protect them
	try(os.Symlink(filepath.Join(ours, "loop"), filepath.Join(ours, "loop")))
	try(os.Symlink(ours, filepath.Join(ours, "here")))
	try(os.Mkdir(filepath.Join(ours, "sub"), 0o700))
	try(syscall.Mkfifo(filepath.Join(ours, "fifo"), 0o600))
	for path, want := range map[string]string{
		filepath.Join(theirs, "folder", "x"):  "file_link",
		filepath.Join(theirs, "link"):         "file_is_link",
		filepath.Join(ours, "link"):           "file_is_link",
		filepath.Join(ours, "sub"):            "file_not_regular",
		filepath.Join(ours, "fifo"):           "file_not_regular",
		filepath.Join(ours, "secret", "x"):    "file_not_regular",
		filepath.Join(ours, "loop", "x"):      "file_not_regular",
		filepath.Join(ours, "none", "x"):      "file_not_found",
		filepath.Join(ours, "here", "a-file"): "",
		"relative":                            "file_invalid",
		ours + "/../x":                        "file_invalid",
	} {
		if r := put(t, newTask(file.ToHost, path, content), content); r.Code != want {
			t.Errorf("put %s: got %q, wanted %q", path, r.Code, want)
		}
	}
	for path, want := range map[string]string{
		filepath.Join(theirs, "folder", "secret"): "file_link",
		filepath.Join(theirs, "link"):             "file_link",
		filepath.Join(theirs, "name"):             "file_link",
		filepath.Join(ours, "link"):               "",
		filepath.Join(ours, "sub"):                "file_not_regular",
		filepath.Join(ours, "fifo"):               "file_not_regular",
		filepath.Join(ours, "none"):               "file_not_found",
		"/dev/zero":                               "file_not_regular",
		"/proc/self/status":                       "",
	} {
		task := newTask(file.FromHost, path, nil)
		p := carry(t, Carrier{Task: task, Dir: t.TempDir()})
		w := p.says(t)
		if w.Ready != nil {
			got, err := io.ReadAll(p.end.Reader(file.DataNumber))
			if err != nil || len(got) == 0 {
				t.Errorf("get %s: got %d bytes, %v", path, len(got), err)
			}
			w = p.says(t)
		}
		if w.Result.Code != want {
			t.Errorf("get %s: got %q, wanted %q", path, w.Result.Code, want)
		}
	}
}

// A put that is cut goes on from what has come; what nobody goes on with is removed.
func TestACutFileGoesOnOrIsRemoved(t *testing.T) {
	dir, notes := t.TempDir(), filepath.Join(t.TempDir(), "notes")
	at := filepath.Join(dir, "f")
	task := newTask(file.ToHost, at, content)
	half := len(content) / 2
	lingering, go_ := make(chan struct{}), make(chan struct{})
	first := carry(t, Carrier{Task: task, Dir: notes, Linger: func(context.Context) { close(lingering); <-go_ }})
	w := first.end.Writer(file.DataNumber)
	if _, err := w.Write(content[:half]); err != nil {
		t.Fatal(err)
	}
	if err := first.end.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := w.Consumed(); n != uint64(half) {
		t.Errorf("%d bytes were consumed, wanted %d", n, half)
	}
	first.cut()
	<-lingering
	only(t, dir, partPrefix+task.Transfer)
	// A second attempt takes it over; the first, which wakes meanwhile, leaves it.
	task.Offset = int64(half)
	second := carry(t, Carrier{Task: task, Dir: notes, Linger: func(context.Context) {}})
	if _, err := second.end.Writer(file.DataNumber).Write(content[half : half+100_000]); err != nil {
		t.Fatal(err)
	}
	if err := second.end.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	close(go_)
	<-first.done
	second.send(t, content[half+100_000:])
	if r := second.says(t).Result; r.Code != "" {
		t.Errorf("got %+v", r)
	}
	if got, err := os.ReadFile(at); err != nil || !bytes.Equal(got, content) {
		t.Errorf("got %d bytes, %v", len(got), err)
	}
	second.end.Close(nil)
	<-second.done
	only(t, dir, "f")
	only(t, notes)

	// From more than there is.
	task.Transfer = id.New("file", time.Now())
	if r := put(t, task, content[half:]); r.Code != file.ErrOffset.Code || r.Size != 0 {
		t.Errorf("got %+v, wanted to go on from 0", r)
	}
	// Nobody goes on.
	task.Transfer, task.Offset = id.New("file", time.Now()), 0
	third := carry(t, Carrier{Task: task, Dir: notes, Linger: func(context.Context) {}})
	if _, err := third.end.Writer(file.DataNumber).Write(content[:half]); err != nil {
		t.Fatal(err)
	}
	if err := third.end.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	third.cut()
	<-third.done
	only(t, dir, "f")
	only(t, notes)
	// What a process that was killed left is swept.
	left := id.New("file", time.Now())
	name := filepath.Join(dir, partPrefix+left)
	note, _ := json.Marshal(at)
	if err := errors.Join(os.WriteFile(name, content, 0o600), os.WriteFile(filepath.Join(notes, left+".json"), note, 0o600)); err != nil {
		t.Fatal(err)
	}
	sweep(notes, time.Now().Add(-time.Hour))
	only(t, dir, partPrefix+left, "f")
	sweep(notes, time.Now().Add(time.Hour))
	only(t, dir, "f")
	only(t, notes)
}

func TestAFileIsGotFromAnOffset(t *testing.T) {
	at := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(at, content, 0o640); err != nil {
		t.Fatal(err)
	}
	task := newTask(file.FromHost, at, content)
	get := func(t *testing.T) (file.Ready, []byte, file.Result) {
		p := carry(t, Carrier{Task: task, Dir: t.TempDir()})
		w := p.says(t)
		if w.Ready == nil {
			return file.Ready{}, nil, *w.Result
		}
		got, err := io.ReadAll(p.end.Reader(file.DataNumber))
		if err != nil {
			t.Fatal(err)
		}
		return *w.Ready, got, *p.says(t).Result
	}
	ready, got, r := get(t)
	if !bytes.Equal(got, content) || ready.Size != task.Size || ready.Mode != 0o640 || r.SHA256 != task.SHA256 {
		t.Errorf("got %+v, %d bytes, %+v", ready, len(got), r)
	}
	task.Offset, task.Version = 1000, ready.Version
	if _, got, r := get(t); !bytes.Equal(got, content[1000:]) || r.SHA256 != task.SHA256 {
		t.Errorf("from 1000: got %d bytes, %+v", len(got), r)
	}
	if err := os.WriteFile(at, content[1:], 0o640); err != nil {
		t.Fatal(err)
	}
	if _, _, r := get(t); r.Code != "file_changed" {
		t.Errorf("of another file: got %+v", r)
	}
}

func TestTheCeilingDecidesFirst(t *testing.T) {
	l := NewLauncher(Options{Now: time.Now})
	defer l.Close()
	var got *fault.Error
	l.Order(Order{ID: id.New("fto", time.Now()), NotAfter: time.Now().Add(time.Minute), Task: newTask(file.ToHost, "/x", nil)}, func(f *fault.Error) { got = f })
	if got == nil || got.Code != "files_not_allowed" {
		t.Errorf("got %v", got)
	}
}

// Package file puts files on the host and reads them, as the control plane orders.
//
//	order ──▶ ceiling? ──▶ a process of its own ──▶ path ──▶ stream ──▶ beside the target ──▶ size, SHA-256 ──▶ rename
//
// The agent has none of root's powers, so a file is moved by a process of its own in a transient unit (Launcher); it dials its
// stream itself, and goes on while the agent is replaced. Where there is no systemd the agent does it.
//
// What comes is written to a file beside the target, with the room for all of it reserved first; it takes the target's place in
// one step, once it is whole, is what was said at the beginning, has its mode and owner, and is on the disk. Whatever goes wrong
// before leaves the old file. What has come when the stream is cut stays for the next attempt, a quarter of an hour long, and is
// removed after it, or by the next process that looks (sweep), if this one was killed.
//
// No path leads root where others send it: see folder.
package file

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"log/slog"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/loopbackd/loopback/durable"
	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/file"
	"github.com/loopbackd/loopback/id"
	"github.com/loopbackd/loopback/stream"
)

// How long things last.
const (
	patience = 10 * time.Minute // without a connection
	settle   = time.Minute      // for the control plane to take the result
	lingers  = 15 * time.Minute // what has come of a file, for the next attempt
	stale    = time.Hour        // and what a process that was killed left
	chunk    = 256 << 10
)

// Carrier moves one file.
type Carrier struct {
	Task file.Task
	Dir  string // of notes of what lies about
	// Bundle is what the host tells of itself; nil: this one tells nothing.
	Bundle func(ctx context.Context) ([]byte, error)
	Log    *slog.Logger
	// Linger waits before what has come is removed; nil: a quarter of an hour.
	Linger func(ctx context.Context)
}

// Carry does the task, on the connections that dial makes, and returns when nothing is left of it to do.
func (c Carrier) Carry(ctx context.Context, dial func(context.Context) (stream.Conn, error)) {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	sweep(c.Dir, time.Now().Add(-stale))
	end := stream.New(stream.Options{Window: file.Window})
	keeping := make(chan struct{})
	go func() {
		defer close(keeping)
		_ = end.Keep(context.WithoutCancel(ctx), patience, dial) // whoever reads and writes hears of it
	}()
	stop := context.AfterFunc(ctx, func() { end.Close(fault.Of(ctx.Err())) })
	defer stop()
	r, part, err := c.do(ctx, end)
	if err != nil {
		r = file.Refused(err)
		if errors.Is(err, file.ErrOffset) {
			r.Size = c.Task.Offset // which is what there is
		}
	}
	cut := end.Err() != nil
	if !cut {
		c.Log.Info("a file was carried", "transfer", c.Task.Transfer, "kind", c.Task.Kind, "path", c.Task.Path, "bytes", r.Size, "sha256", r.SHA256, "error", r.Error)
		line, _ := json.Marshal(file.Word{Result: &r}) // plain fields
		w := end.Writer(file.WordNumber)
		if _, err := w.Write(append(line, '\n')); err == nil {
			_ = w.Close()
			flushing, done := context.WithTimeout(ctx, settle)
			_ = end.Flush(flushing) // one that is not taken is asked for again
			done()
		}
	}
	end.Close(nil)
	<-keeping
	if part != nil {
		why := end.Err()
		if errors.Is(why, file.ErrCancelled) || errors.Is(why, file.ErrNotAllowed) || errors.Is(why, file.ErrOver) {
			cut = false // nobody goes on with it
		}
		if cut && ctx.Err() == nil {
			c.Log.Info("a file was cut off on its way", "transfer", c.Task.Transfer, "path", c.Task.Path, "error", end.Err())
			c.linger(ctx)
		}
		part.forget(cut)
	}
}

func (c Carrier) linger(ctx context.Context) {
	if c.Linger != nil {
		c.Linger(ctx)
		return
	}
	t := time.NewTimer(lingers)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

func (c *Carrier) do(ctx context.Context, end *stream.End) (file.Result, *part, error) {
	if err := c.Task.Validate(); err != nil {
		return file.Result{}, nil, err
	}
	switch c.Task.Kind {
	case file.ToHost:
		return c.put(ctx, end)
	case file.FromHost:
		r, err := c.get(ctx, end)
		return r, nil, err
	case file.OfHost:
		if c.Bundle != nil {
			b, err := c.Bundle(ctx)
			if err != nil {
				return file.Result{}, nil, err
			}
			r, err := send(end, strings.NewReader(string(b)), file.Ready{Size: int64(len(b))}, 0)
			return r, nil, err
		}
	}
	return file.Result{}, nil, fault.New(fault.Precondition, "order_unknown", "the host's agent does not know this kind of order").WithHint("update the agent")
}

// put takes a file in. The part is what lies about of it, if something does.
func (c *Carrier) put(ctx context.Context, end *stream.End) (r file.Result, p *part, err error) {
	t := &c.Task
	data := end.Reader(file.DataNumber)
	defer data.Stop()
	dir, name, err := folder(t.Path, false)
	if err != nil {
		return r, nil, err
	}
	defer dir.Close()
	looks, err := c.looks(dir, name)
	if err != nil {
		return r, nil, err
	}
	p, err = c.open(dir)
	if err != nil {
		if p != nil {
			_ = p.file.Close()
		}
		return r, p, err
	}
	defer p.file.Close()
	defer p.remember()
	sum := sha256.New()
	if _, err := io.CopyN(sum, p.file, t.Offset); err != nil {
		return r, p, named(err)
	}
	if err := receive(ctx, data, io.MultiWriter(p.file, sum), t.Size-t.Offset); err != nil {
		return r, p, err
	}
	r = file.Result{Size: t.Size, SHA256: hex.EncodeToString(sum.Sum(nil)), Mode: looks.mode, Owner: fmt.Sprintf("%d:%d", looks.uid, looks.gid)}
	if r.SHA256 != t.SHA256 {
		return r, p, fault.New(fault.Conflict, "file_damaged", "what came has another SHA-256 than what was sent: %s; nothing was changed", r.SHA256).
			WithHint("the file may have changed while it was sent: begin anew")
	}
	return r, p, p.place(dir, name, looks, t.Fresh)
}

// receive writes what comes, of which each byte is acknowledged that was written.
func receive(ctx context.Context, data *stream.Reader, to io.Writer, size int64) error {
	buffer := make([]byte, chunk)
	for got := int64(0); ; {
		n, err := data.Next(ctx, buffer)
		if n > 0 {
			if got += int64(n); got > size {
				return fault.New(fault.Invalid, "file_size", "more came than was said")
			}
			if _, err := to.Write(buffer[:n]); err != nil {
				return named(err)
			}
			data.Ack(data.Offset())
		}
		if err == io.EOF {
			if data.Ack(data.Offset()); got < size {
				return fault.New(fault.Invalid, "file_size", "less came than was said")
			}
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// looks are what a file is to have besides its bytes.
type looks struct {
	mode     uint32
	uid, gid int
}

// looks are those that the task says, or those of the file that is replaced.
func (c *Carrier) looks(dir *os.File, name string) (l looks, err error) {
	t := c.Task
	l = looks{mode: t.DefaultMode, uid: os.Geteuid(), gid: os.Getegid()}
	var is unix.Stat_t
	switch err := unix.Fstatat(int(dir.Fd()), name, &is, unix.AT_SYMLINK_NOFOLLOW); {
	case errors.Is(err, unix.ENOENT):
	case err != nil:
		return l, named(err)
	case is.Mode&unix.S_IFMT == unix.S_IFLNK:
		return l, errIsLink
	case is.Mode&unix.S_IFMT != unix.S_IFREG:
		return l, errRegular
	case t.Fresh:
		return l, errExists
	default:
		l = looks{mode: is.Mode & 0o777, uid: int(is.Uid), gid: int(is.Gid)}
	}
	if t.Mode != 0 {
		l.mode = t.Mode
	}
	if l.mode == 0 {
		l.mode = 0o644
	}
	if t.Owner == "" {
		return l, nil
	}
	return l, l.own(t.Owner)
}

// own takes in USER or USER:GROUP; names or numbers.
func (l *looks) own(owner string) error {
	name, group, grouped := strings.Cut(owner, ":")
	u, err := user.Lookup(name)
	if err != nil {
		if u, err = user.LookupId(name); err != nil {
			return fault.New(fault.NotFound, "user_not_found", "the host has no user %s", name)
		}
	}
	number := u.Gid
	if grouped {
		g, err := user.LookupGroup(group)
		if err != nil {
			if g, err = user.LookupGroupId(group); err != nil {
				return fault.New(fault.NotFound, "group_not_found", "the host has no group %s", group)
			}
		}
		number = g.Gid
	}
	if l.uid, err = strconv.Atoi(u.Uid); err == nil {
		l.gid, err = strconv.Atoi(number)
	}
	return err
}

// part is what has come of a file, beside its target.
type part struct {
	file *os.File
	dir  string // of its target, as the path says
	name string
	note string // that it lies about
	was  unix.Stat_t
	gone bool
}

// partPrefix begins the names of files that are on their way.
const partPrefix = ".loopback-"

// open makes the part, or goes on with what has come in an earlier attempt, from the task's offset on.
func (c *Carrier) open(dir *os.File) (*part, error) {
	t := &c.Task
	if !id.Valid("file", t.Transfer) {
		return nil, fault.New(fault.Invalid, "order_malformed", "the transfer's id is not one")
	}
	p := &part{dir: filepath.Dir(t.Path), name: partPrefix + t.Transfer, note: filepath.Join(c.Dir, t.Transfer+".json")}
	b, err := json.Marshal(t.Path)
	if err == nil {
		err = durable.MkdirAll(c.Dir, 0o700)
	}
	if err == nil {
		err = durable.WriteFile(p.note, b, 0o600)
	}
	if err != nil {
		return nil, named(err)
	}
	flags := unix.O_RDWR | unix.O_NOFOLLOW | unix.O_CLOEXEC
	fd, err := unix.Openat(int(dir.Fd()), p.name, flags, 0)
	if errors.Is(err, unix.ENOENT) {
		fd, err = unix.Openat(int(dir.Fd()), p.name, flags|unix.O_CREAT|unix.O_EXCL, 0o600)
	}
	if err != nil {
		return nil, errors.Join(named(err), os.Remove(p.note))
	}
	p.file = os.NewFile(uintptr(fd), p.name)
	var is unix.Stat_t
	if err := unix.Fstat(fd, &is); err != nil {
		return p, named(err)
	}
	if is.Mode&unix.S_IFMT != unix.S_IFREG || int(is.Uid) != os.Geteuid() || is.Nlink != 1 {
		p.gone = true // it is somebody else's
		return p, fault.New(fault.Denied, "file_link", "somebody else made %s in that folder", p.name)
	}
	if is.Size < t.Offset {
		t.Offset = is.Size
		return p, file.ErrOffset
	}
	if err := unix.Ftruncate(fd, t.Offset); err != nil {
		return p, named(err)
	}
	// A disk that is too small is found out now.
	if t.Size > 0 {
		if err := unix.Fallocate(fd, unix.FALLOC_FL_KEEP_SIZE, 0, t.Size); errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) || errors.Is(err, unix.EFBIG) {
			return p, errFull.WithCause(err)
		}
	}
	return p, nil
}

// place puts the part in the target's place.
func (p *part) place(dir *os.File, name string, l looks, fresh bool) error {
	fd := int(p.file.Fd())
	if err := unix.Fchown(fd, l.uid, l.gid); err != nil {
		return named(err)
	}
	if err := unix.Fchmod(fd, l.mode); err != nil {
		return named(err)
	}
	if err := unix.Fsync(fd); err != nil {
		return named(err)
	}
	var is, there unix.Stat_t
	if err := errors.Join(unix.Fstat(fd, &is), unix.Fstatat(int(dir.Fd()), p.name, &there, unix.AT_SYMLINK_NOFOLLOW)); err != nil {
		return named(err)
	}
	if is.Dev != there.Dev || is.Ino != there.Ino {
		return errLink // somebody put another in its place
	}
	flags := uint(0)
	if fresh {
		flags = unix.RENAME_NOREPLACE
	}
	if err := unix.Renameat2(int(dir.Fd()), p.name, int(dir.Fd()), name, flags); err != nil {
		return named(err)
	}
	p.gone = true
	return named(dir.Sync())
}

// forget removes what has come, unless it is in its place, or, after a cut, an attempt after this one goes on with it.
func (p *part) forget(cut bool) {
	if !p.gone && p.file != nil {
		if dir, _, err := folder(filepath.Join(p.dir, p.name), false); err == nil {
			defer dir.Close()
			var is unix.Stat_t
			if err := unix.Fstatat(int(dir.Fd()), p.name, &is, unix.AT_SYMLINK_NOFOLLOW); err == nil {
				if cut && (is.Ino != p.was.Ino || is.Mtim != p.was.Mtim || is.Size != p.was.Size) {
					return
				}
				_ = unix.Unlinkat(int(dir.Fd()), p.name, 0)
			}
		}
	}
	_ = os.Remove(p.note)
}

// remember notes how the part is when this attempt leaves it.
func (p *part) remember() {
	if p != nil && p.file != nil {
		_ = unix.Fstat(int(p.file.Fd()), &p.was)
	}
}

// sweep removes what processes that were killed before a time left.
func sweep(dir string, before time.Time) {
	notes, _ := os.ReadDir(dir) // what cannot be read now is swept another time
	for _, n := range notes {
		info, err := n.Info()
		transfer := strings.TrimSuffix(n.Name(), ".json")
		if err != nil || info.ModTime().After(before) || !id.Valid("file", transfer) {
			continue
		}
		note := filepath.Join(dir, n.Name())
		var target string
		if b, err := os.ReadFile(note); err == nil && json.Unmarshal(b, &target) == nil {
			p := part{dir: filepath.Dir(target), name: partPrefix + transfer, note: note, file: &os.File{}}
			p.forget(false)
		}
	}
}

// get sends a file.
func (c *Carrier) get(ctx context.Context, end *stream.End) (file.Result, error) {
	var r file.Result
	t := c.Task
	dir, name, err := folder(t.Path, true)
	if err != nil {
		return r, err
	}
	defer dir.Close()
	fd, err := unix.Openat(int(dir.Fd()), name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0) // a FIFO would wait
	if err != nil {
		return r, named(err)
	}
	f := os.NewFile(uintptr(fd), name)
	defer f.Close()
	var is, of unix.Stat_t
	if err := errors.Join(unix.Fstat(fd, &is), unix.Fstat(int(dir.Fd()), &of)); err != nil {
		return r, named(err)
	}
	version := fmt.Sprintf("%x-%x-%x", is.Dev, is.Ino, is.Mtim.Nano())
	switch {
	case is.Mode&unix.S_IFMT != unix.S_IFREG:
		return r, errRegular
	case is.Nlink > 1 && !trusted(int(dir.Fd())) && (is.Uid != of.Uid || of.Mode&0o022 != 0): // in /tmp, anybody may have made the name
		return r, errHardLink
	case is.Size > file.MaxSize:
		return r, fault.New(fault.Exhausted, "file_too_large", "the file has %d bytes; at most %d are got", is.Size, int64(file.MaxSize))
	case t.Offset > 0 && t.Version != version:
		return r, errChanged
	}
	ready := file.Ready{Size: is.Size, Mode: is.Mode & 0o777, Version: version}
	if is.Size == 0 {
		ready.Size = -1 // what the kernel writes as it is read
	}
	return send(end, f, ready, t.Offset)
}

var errChanged = fault.New(fault.Conflict, "file_changed", "the file changed on the host while it was got").WithHint("begin anew; of a file that changes all the time, get a copy")

// send sends what is read from an offset on, and the hash of all of it.
func send(end *stream.End, from io.Reader, ready file.Ready, offset int64) (r file.Result, err error) {
	line, _ := json.Marshal(file.Word{Ready: &ready}) // plain fields
	if _, err := end.Writer(file.WordNumber).Write(append(line, '\n')); err != nil {
		return r, err
	}
	if ready.Size >= 0 {
		from = io.LimitReader(from, ready.Size) // what is added meanwhile is not asked for
	} else {
		from = io.LimitReader(from, file.MaxSize)
	}
	data := end.Writer(file.DataNumber)
	defer data.Close()
	sum := sha256.New()
	if _, err := io.CopyN(sum, from, offset); err != nil {
		return r, errChanged.WithCause(err)
	}
	n, err := io.CopyBuffer(struct{ io.Writer }{io.MultiWriter(sum, data)}, struct{ io.Reader }{from}, make([]byte, chunk))
	r = result(sum, offset+n)
	switch {
	case err != nil:
		return r, named(err)
	case ready.Size >= 0 && r.Size != ready.Size:
		return r, errChanged
	}
	return r, nil
}

func result(sum hash.Hash, size int64) file.Result {
	return file.Result{Size: size, SHA256: hex.EncodeToString(sum.Sum(nil))}
}

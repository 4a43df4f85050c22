package sink

import (
	"bufio"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"

	"github.com/loopbackd/loopback/durable"
	"github.com/loopbackd/loopback/sink"
)

// file appends lines of JSON to a file below the data folder, and has them on the disk before it says so. It opens the
// file by name for each batch, so that whoever rotates it may move it away. A line that a crash cut short is taken back.
type file struct{ path string }

func newFile(s sink.Sink, dataDir string) (Sender, error) {
	organisation := s.Organisation
	if organisation == "" {
		organisation = "deployment"
	}
	dir := filepath.Join(dataDir, "sinks", organisation)
	if err := durable.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	return &file{filepath.Join(dir, s.Target)}, nil
}

func (f *file) Send(_ context.Context, batch []Event) (err error) {
	_, missing := os.Stat(f.path)
	out, err := os.OpenFile(f.path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	end, err := whole(out)
	if err != nil {
		return err
	}
	if _, err := out.Seek(end, io.SeekStart); err != nil {
		return err
	}
	w := bufio.NewWriterSize(out, 256<<10)
	for _, e := range batch {
		w.Write(e.Body)
		w.WriteByte('\n')
	}
	if err := errors.Join(w.Flush(), out.Sync()); err != nil {
		return errors.Join(err, out.Truncate(end)) // on a full disk: no half a line stays
	}
	if missing != nil {
		return durable.SyncDir(filepath.Dir(f.path))
	}
	return nil
}

// whole is where the last whole line ends; what follows is cut off.
func whole(f *os.File) (int64, error) {
	end, err := f.Seek(0, io.SeekEnd)
	if err != nil || end == 0 {
		return 0, err
	}
	buffer := make([]byte, 64<<10)
	for at := end; at > 0; {
		n := min(at, int64(len(buffer)))
		at -= n
		if _, err := f.ReadAt(buffer[:n], at); err != nil {
			return 0, err
		}
		for i := n - 1; i >= 0; i-- {
			if buffer[i] == '\n' {
				if at+i+1 == end {
					return end, nil
				}
				return at + i + 1, f.Truncate(at + i + 1)
			}
		}
	}
	return 0, f.Truncate(0)
}

func (f *file) Close() error { return nil }

package recording

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/loopbackd/loopback/durable"
)

// Forget deletes what was recorded and keeps what it comes to: the head, and the leaves that lead to it. Open tells the proof as before.
// It may be called again, after a crash or an error too, and where there is nothing. Nobody writes the recording any more.
//
// A recording that nobody ended has its head written first. Where the disk does not take it, what was recorded goes all the same: that
// is what was asked for.
func Forget(dir string) error {
	events := filepath.Join(dir, eventsFile)
	if _, err := os.Stat(events); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if r, err := Open(dir, nil); err == nil {
		if !r.ended {
			_ = writeHead(dir, closed{r.head, r.index})
		}
		if err := r.Close(); err != nil {
			return err
		}
	}
	if err := os.Remove(events); err != nil && !errors.Is(err, fs.ErrNotExist) { // which somebody else did at the same time
		return fmt.Errorf("delete a recording: %w", err)
	}
	return durable.SyncDir(dir)
}

// Held is how many bytes of what was recorded are on the disk; 0 where it was forgotten.
func Held(dir string) (int64, error) {
	info, err := os.Stat(filepath.Join(dir, eventsFile))
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}

// Remove deletes a recording of which there is nothing to keep, its proof neither.
func Remove(dir string) error {
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	return durable.SyncDir(filepath.Dir(dir))
}

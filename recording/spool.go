package recording

import (
	"errors"
	"os"
	"path/filepath"
	"sync"

	"github.com/loopbackd/loopback/durable"
	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/id"
)

// reserveFile holds a spool's reserve.
const reserveFile = ".reserve"

// Spool is a folder of recordings, with a reserve of disk space. On a disk that is full, recordings under way end; a new one
// takes what it needs to begin from the reserve, so that somebody can still open a shell and make room. Fill sets aside again
// what was taken, where the disk has it.
//
// Several processes may use one spool: each takes from the reserve under a lock of its own, and the worst that a race does is
// that both take.
type Spool struct {
	dir     string
	reserve int64
	mu      sync.Mutex
}

// OpenSpool opens a spool and makes its folder. reserve is how many bytes are set aside, where the disk has them.
func OpenSpool(dir string, reserve int64) (*Spool, error) {
	s := &Spool{dir: dir, reserve: reserve}
	if err := durable.MkdirAll(dir, 0o700); err != nil {
		return nil, failure(err)
	}
	if err := s.Fill(); err != nil && !errors.Is(err, ErrFull) {
		return nil, err
	}
	return s, nil
}

// Path of a session's recording.
func (s *Spool) Path(session string) string { return filepath.Join(s.dir, session) }

// Create begins a recording, with space from the reserve where the disk has none.
func (s *Spool) Create(session string, keys *Keyring) (*Writer, error) {
	if !id.Valid("ses", session) {
		return nil, fault.New(fault.Invalid, "session_invalid", "%q is no id of a session", session)
	}
	w, err := Create(s.Path(session), session, keys)
	for errors.Is(err, ErrFull) {
		var freed bool
		if freed, err = s.give(2 * step); err != nil || !freed {
			return nil, errors.Join(ErrFull, err)
		}
		w, err = Create(s.Path(session), session, keys)
	}
	return w, err
}

// give makes the reserve smaller, and tells whether there was anything to give.
func (s *Spool) give(n int64) (bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f, err := os.OpenFile(filepath.Join(s.dir, reserveFile), os.O_RDWR, 0)
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil || info.Size() == 0 {
		return false, err
	}
	return true, f.Truncate(max(0, info.Size()-n))
}

// Fill sets the reserve aside again. ErrFull: the disk does not have it all.
func (s *Spool) Fill() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	f, err := os.OpenFile(filepath.Join(s.dir, reserveFile), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return failure(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	for size := info.Size(); size < s.reserve; {
		next := min(s.reserve, size+step)
		if err := allocate(f, size, next-size); errors.Is(err, errNoAllocate) {
			return nil
		} else if err != nil {
			return failure(err)
		}
		// Not beyond what is set aside: the file's size says what there is to give.
		if err := f.Truncate(next); err != nil {
			return failure(err)
		}
		size = next
	}
	return nil
}

// Sessions are those of which there is a recording, in order of their ids, and so of their times.
func (s *Spool) Sessions() ([]string, error) {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return nil, err
	}
	var out []string
	for _, e := range entries {
		if e.IsDir() && id.Valid("ses", e.Name()) {
			out = append(out, e.Name())
		}
	}
	return out, nil
}

package recording

import (
	"crypto/cipher"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/loopbackd/loopback/durable"
	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/ledger"
)

// Names of a recording's files in its folder.
const (
	eventsFile = "events"
	headFile   = "head" // JSON (closed), once the recording has ended
)

// closed is the file of a recording that has ended.
type closed struct {
	Head
	Index []Chunk `json:"index"`
}

// Room that a writer keeps ahead of what it has written: step is set aside at a time; with less than spare left and no more
// to be had it takes nothing but the end.
const (
	step  = 1 << 20
	spare = 96 << 10
)

// Writer records. Its methods are safe for concurrent use.
type Writer struct {
	dir  string
	file *os.File
	keys *Keyring

	mu       sync.Mutex
	chunking chunking
	aead     cipher.AEAD
	reserved int64 // the file's blocks are there up to here
	reserves bool  // the file system can set blocks aside
	dirty    bool
	failed   error // of an earlier call: nothing more is written
	record   []byte
	plain    []byte
}

// Create begins a recording in a folder that it makes. keys are those of the session.
func Create(dir, session string, keys *Keyring) (*Writer, error) {
	if err := durable.MkdirAll(filepath.Dir(dir), 0o700); err != nil {
		return nil, failure(err)
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, failure(err)
	}
	f, err := os.OpenFile(filepath.Join(dir, eventsFile), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, failure(err)
	}
	w := &Writer{dir: dir, file: f, keys: keys, reserves: true}
	w.chunking.head.Session = session
	err = w.reserve(step)
	if err == nil {
		_, err = f.Write([]byte(magic))
	}
	if err == nil {
		w.chunking.at = int64(len(magic))
		err = errors.Join(f.Sync(), durable.SyncDir(dir), durable.SyncDir(filepath.Dir(dir)))
	}
	if err != nil {
		return nil, errors.Join(failure(err), f.Close(), os.RemoveAll(dir))
	}
	return w, nil
}

// Continue goes on with a recording that a crash cut off: what was not finished at its end is dropped, and Head says how far it
// goes. A recording that has ended is ErrEnded.
func Continue(dir, session string, keys *Keyring) (*Writer, error) {
	if _, err := os.Stat(filepath.Join(dir, headFile)); err == nil {
		return nil, ErrEnded
	}
	f, err := os.OpenFile(filepath.Join(dir, eventsFile), os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) { // a crash came before the first event
		return nil, fault.New(fault.NotFound, "recording_missing", "there is no recording of session %s", session).WithCause(err)
	}
	if err != nil {
		return nil, failure(err)
	}
	w := &Writer{dir: dir, file: f, keys: keys, reserves: true}
	w.chunking.head.Session = session
	if err := w.replay(); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return w, nil
}

// ErrEnded refuses to go on with a recording that has ended.
var ErrEnded = fault.New(fault.Precondition, "recording_ended", "the recording has ended")

// replay reads what is there and cuts the rest off.
func (w *Writer) replay() error {
	c := &w.chunking
	s := newScanner(w.file)
	if err := s.begin(); err != nil {
		return err
	}
	c.at = int64(len(magic))
	for {
		r, err := s.next()
		if err != nil { // the file's end, or what a power cut left there
			break
		}
		aead, salt := w.aead, []byte(nil)
		if r.begins {
			if c.leaf != nil {
				c.end()
			}
			var want [SaltSize]byte
			if aead, want, err = w.keys.key(c.head.Chunks); err != nil {
				return err
			}
			if salt = want[:]; want != r.salt {
				break
			}
		} else if c.leaf == nil {
			break
		}
		number := c.count
		if r.begins {
			number = 0
		}
		n := nonce(number)
		plain, err := aead.Open(nil, n[:], r.sealed, nil)
		if err != nil {
			break
		}
		e, err := Parse(plain)
		if err != nil {
			break
		}
		if r.begins {
			c.begin(salt, e.At)
			w.aead = aead
		}
		c.add(r.bytes, len(salt), lengthSize+len(plain), e.At)
	}
	if err := w.file.Truncate(c.at); err != nil {
		return failure(err)
	}
	w.dirty = true
	if err := w.reserve(c.at + step); err != nil && !errors.Is(err, ErrFull) {
		return err
	}
	_, err := w.file.Seek(c.at, 0)
	return failure(err)
}

// Add records an event. It returns once the kernel has it: a SIGKILL takes nothing away after that. After ErrFull an Exit or a
// Marker still fits; after any other error nothing does.
func (w *Writer) Add(e Event) error {
	if len(e.Data) > MaxData || !e.Kind.known() || e.At < 0 || e.At > maxAt {
		return errMalformed
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.failed != nil {
		return w.failed
	}
	c := &w.chunking
	if e.At = e.At.Truncate(time.Microsecond); e.At < c.head.Length {
		return fault.New(fault.Invalid, "recording_order", "an event's time lies before that of the event before it")
	}
	w.plain = e.Append(w.plain[:0])
	sealed := len(w.plain) + tagSize
	// What the disk can no longer take is refused before anything of it is counted.
	need := c.at + int64(lengthSize+SaltSize+sealed)
	if need > w.reserved && w.reserves {
		if err := w.reserve(need + step); err != nil {
			return err
		}
	}
	if w.reserves && e.Kind != Exit && e.Kind != Marker && need+spare > w.reserved {
		if err := w.reserve(need + step); err != nil {
			return err
		}
	}
	var salt []byte
	if c.cut(lengthSize+sealed, e.At) {
		c.end()
		aead, s, err := w.keys.key(c.head.Chunks)
		if err != nil {
			return err
		}
		w.aead, salt = aead, s[:]
		c.begin(salt, e.At)
	}
	mark := sealed
	if salt != nil {
		mark |= begins
	}
	w.record = append(w.record[:0], 0, 0, 0)
	putLength(w.record, mark)
	w.record = append(w.record, salt...)
	w.record = seal(w.record, w.aead, c.count, w.plain)
	if _, err := w.file.WriteAt(w.record, c.at); err != nil {
		w.failed = failure(err)
		return w.failed
	}
	w.dirty = true
	// The leaf covers the salt once, first: see begin.
	if salt != nil {
		copy(w.record[SaltSize:], w.record[:lengthSize])
		c.add(w.record[SaltSize:], SaltSize, lengthSize+len(w.plain), e.At)
	} else {
		c.add(w.record, 0, lengthSize+len(w.plain), e.At)
	}
	return nil
}

// reserve sets blocks aside up to a size. Where the disk is full, what is there already decides.
func (w *Writer) reserve(upTo int64) error {
	if !w.reserves || upTo <= w.reserved {
		return nil
	}
	err := allocate(w.file, w.reserved, upTo-w.reserved)
	switch {
	case err == nil:
		w.reserved = upTo
		return nil
	case errors.Is(err, errNoAllocate):
		w.reserves = false
		return nil
	}
	return failure(err)
}

// Head is what has been recorded so far.
func (w *Writer) Head() Head {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.chunking.now()
}

// Sync makes what was added so far survive a power cut, and returns how far that is.
func (w *Writer) Sync() (Head, error) {
	w.mu.Lock()
	h, dirty := w.chunking.head, w.dirty
	w.dirty = false
	w.mu.Unlock()
	if !dirty {
		return h, nil
	}
	if err := w.file.Sync(); err != nil {
		// What the kernel failed to write it may forget: this file is not to be trusted any further.
		w.mu.Lock()
		defer w.mu.Unlock()
		w.failed = failure(err)
		return h, w.failed
	}
	return h, nil
}

// End ends the recording and makes it durable; a Tail may go on reading until Close. The head is right also where it could not be
// written: a Reader finds the same by reading the events.
func (w *Writer) End() (Head, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	c := &w.chunking
	c.end()
	c.head.Root = c.tree.Root()
	err := w.failed
	if err == nil {
		err = failure(errors.Join(w.file.Truncate(c.at), w.file.Sync()))
	}
	w.failed = ErrEnded
	if err == nil {
		err = writeHead(w.dir, closed{c.head, c.chunks})
	}
	return c.head, err
}

// Close gives the file free. A recording that has not ended can be continued.
func (w *Writer) Close() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.failed = ErrEnded
	return w.file.Close()
}

// Leaves are the leaves of the chunks so far, that of the chunk under way included: what tells, of two heads that differ, where
// they begin to.
func (w *Writer) Leaves() []ledger.Hash {
	w.mu.Lock()
	defer w.mu.Unlock()
	out := make([]ledger.Hash, len(w.chunking.chunks))
	for i, c := range w.chunking.chunks {
		out[i] = c.Leaf
	}
	if w.chunking.leaf != nil {
		w.chunking.leaf.Sum(out[len(out)-1][:0])
	}
	return out
}

func writeHead(dir string, c closed) error {
	b, err := json.Marshal(c)
	if err != nil {
		return err
	}
	return failure(durable.WriteFile(filepath.Join(dir, headFile), append(b, '\n'), 0o600))
}

// failure tells a full disk from other errors.
func failure(err error) error {
	if err == nil {
		return nil
	}
	if isFull(err) {
		return ErrFull.WithCause(err)
	}
	return fmt.Errorf("record: %w", err)
}

// Extent is Head without its root: how far the recording goes, at no cost.
func (w *Writer) Extent() Head {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.chunking.head
}

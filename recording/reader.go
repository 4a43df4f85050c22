package recording

import (
	"bytes"
	"crypto/cipher"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"time"

	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/ledger"
)

// Reader reads a recording: one that has ended, or as much of another as was there when it was opened. What it returns was
// checked against the leaf of its chunk, and the leaves against the head.
type Reader struct {
	dir   string
	file  *os.File // nil: what was recorded is forgotten, and only the proof is left
	keys  *Keyring // nil: nothing can be read, but all be checked
	head  Head
	index []Chunk
	ended bool
}

// Open opens a recording. With nil for keys it can be checked, not read; the times of one that has not ended are unknown then.
// Of a recording that has not ended, what is unfinished at its end is left out. The folder's name is the session's id. One that was
// forgotten (see Forget) can be opened without keys: its leaves still lead to its head.
func Open(dir string, keys *Keyring) (*Reader, error) {
	f, err := os.Open(filepath.Join(dir, eventsFile))
	if errors.Is(err, fs.ErrNotExist) && keys == nil {
		r := &Reader{dir: dir}
		if err := r.open(); err != nil {
			return nil, err
		}
		if r.ended {
			return r, nil
		}
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fault.New(fault.NotFound, "recording_missing", "there is no such recording").WithCause(err)
	}
	if err != nil {
		return nil, err
	}
	r := &Reader{dir: dir, file: f, keys: keys}
	if err := r.open(); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return r, nil
}

// maxHead bounds the file of a head: an index of all chunks.
const maxHead = 256 << 20

func (r *Reader) open() error {
	info, err := os.Stat(filepath.Join(r.dir, headFile))
	if errors.Is(err, fs.ErrNotExist) {
		if r.file == nil {
			return nil
		}
		return r.scan()
	}
	if err != nil {
		return err
	}
	if info.Size() > maxHead {
		return ErrTampered.WithCause(fmt.Errorf("a head of %d bytes", info.Size()))
	}
	b, err := os.ReadFile(filepath.Join(r.dir, headFile))
	if err != nil {
		return err
	}
	var c closed
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&c); err != nil {
		return ErrTampered.WithCause(err)
	}
	r.head, r.index, r.ended = c.Head, c.Index, true
	return r.checkIndex()
}

// checkIndex holds the index against the head, and the file's size against both.
func (r *Reader) checkIndex() error {
	if int64(len(r.index)) != r.head.Chunks {
		return ErrTampered.WithCause(fmt.Errorf("%d chunks, the head says %d", len(r.index), r.head.Chunks))
	}
	var tree ledger.Range
	at, event, last := int64(len(magic)), int64(0), time.Duration(0)
	for i, c := range r.index {
		if c.Offset != at || c.Size < lengthSize+SaltSize || c.Size > ChunkSize+maxSealed+SaltSize+lengthSize || c.At < last || c.Event < event || i > 0 && c.Event == event {
			return ErrTampered.WithCause(fmt.Errorf("chunk %d is not where the index has it", i))
		}
		at, event, last = at+c.Size, c.Event, c.At
		tree.AddHash(c.Leaf)
	}
	if tree.Root() != r.head.Root {
		return ErrTampered.WithCause(errors.New("the leaves are not those of the head"))
	}
	if r.file == nil {
		return nil
	}
	info, err := r.file.Stat()
	if err != nil {
		return err
	}
	if info.Size() != at {
		return ErrTampered.WithCause(fmt.Errorf("%d bytes, the index says %d", info.Size(), at))
	}
	return nil
}

// scan makes the index of a recording that has not ended.
func (r *Reader) scan() error {
	var c chunking
	c.head.Session = filepath.Base(r.dir)
	c.at = int64(len(magic))
	s := newScanner(r.file)
	if err := s.begin(); err != nil {
		return err
	}
	var aead cipher.AEAD
	for {
		record, err := s.next()
		if err != nil {
			break
		}
		if !record.begins && c.leaf == nil {
			break
		}
		var at time.Duration
		if r.keys != nil {
			number := c.count
			if record.begins {
				number = 0
				if aead, _, err = r.keys.key(c.head.Chunks); err != nil {
					return err
				}
			}
			n := nonce(number)
			text, err := aead.Open(nil, n[:], record.sealed, nil)
			if err != nil {
				break
			}
			e, err := Parse(text)
			if err != nil {
				break
			}
			at = e.At
		}
		salted := 0
		if record.begins {
			c.end()
			c.begin(record.salt[:], at)
			salted = SaltSize
		}
		c.add(record.bytes, salted, lengthSize+len(record.sealed)-tagSize, at)
	}
	c.end()
	c.head.Root = c.tree.Root()
	r.head, r.index = c.head, c.chunks
	return nil
}

// Close closes the file.
func (r *Reader) Close() error {
	if r.file == nil {
		return nil
	}
	return r.file.Close()
}

// Head of the recording, as far as it goes.
func (r *Reader) Head() Head { return r.head }

// Forgotten tells whether what was recorded is gone, and only the proof is left.
func (r *Reader) Forgotten() bool { return r.file == nil }

// Ended tells whether the recording was closed by its recorder.
func (r *Reader) Ended() bool { return r.ended }

// Chunks of the recording.
func (r *Reader) Chunks() []Chunk { return slices.Clone(r.index) }

// Verify reads all of it and says what is wrong: ErrTampered names the chunk. Chunks that were shredded, or forgotten, are vouched for
// by their leaf.
func (r *Reader) Verify() error {
	for i, c := range r.index {
		if c.Shredded || r.file == nil {
			continue
		}
		if _, err := r.chunk(i); err != nil {
			return err
		}
	}
	return nil
}

// chunk reads a chunk and holds it against its leaf.
func (r *Reader) chunk(i int) ([]byte, error) {
	c := r.index[i]
	b := make([]byte, c.Size)
	if _, err := r.file.ReadAt(b, c.Offset); err != nil {
		return nil, ErrTampered.WithCause(fmt.Errorf("chunk %d: %w", i, err))
	}
	h := sha256.New()
	h.Write([]byte{0})
	h.Write(b[lengthSize : lengthSize+SaltSize])
	h.Write(b[:lengthSize])
	h.Write(b[lengthSize+SaltSize:])
	var leaf ledger.Hash
	if h.Sum(leaf[:0]); leaf != c.Leaf {
		return nil, ErrTampered.WithCause(fmt.Errorf("chunk %d is not what its leaf says", i))
	}
	return b, nil
}

// Seek is the number of the chunk in which the events at a time are; of the first where it lies before all.
func (r *Reader) Seek(at time.Duration) int {
	return max(0, sort.Search(len(r.index), func(i int) bool { return r.index[i].At > at })-1)
}

// Events are those from a chunk on, in order. Data is valid until the next. Where a chunk was shredded there is a Marker that
// says so in its place. After an error there is nothing more.
func (r *Reader) Events(from int) iter.Seq2[Event, error] {
	return func(yield func(Event, error) bool) {
		if r.keys == nil {
			yield(Event{}, fault.New(fault.Precondition, "recording_sealed", "the recording cannot be read without its keys"))
			return
		}
		for i := from; i < len(r.index); i++ {
			if !r.events(i, yield) {
				return
			}
		}
	}
}

func (r *Reader) events(i int, yield func(Event, error) bool) bool {
	c := r.index[i]
	if c.Shredded || !r.keys.Holds(int64(i)) {
		return yield(Event{At: c.At, Kind: Marker, Data: []byte("[this part of the recording was shredded]")}, nil)
	}
	b, err := r.chunk(i)
	if err != nil {
		yield(Event{}, err)
		return false
	}
	aead, _, err := r.keys.key(int64(i))
	if err != nil {
		yield(Event{}, err)
		return false
	}
	s := newScanner(bytes.NewReader(b))
	for number := int64(0); ; number++ {
		record, err := s.next()
		if err == io.EOF {
			return true
		}
		var e Event
		if err == nil {
			n := nonce(number)
			var plain []byte
			if plain, err = aead.Open(record.sealed[:0], n[:], record.sealed, nil); err == nil {
				e, err = Parse(plain)
			}
		}
		if err != nil {
			yield(Event{}, ErrTampered.WithCause(fmt.Errorf("chunk %d, event %d: %w", i, number, err)))
			return false
		}
		if !yield(e, nil) {
			return false
		}
	}
}

// HeadAt is what the recording's head was after so many events: how a recorder that was cut off shows to have been in step. It is
// ErrShredded where the key of the chunk is gone that it ends in.
func (r *Reader) HeadAt(events int64) (Head, error) {
	if events < 0 || events > r.head.Events {
		return Head{}, fault.New(fault.Invalid, "recording_short", "the recording has %d events, not %d", r.head.Events, events)
	}
	if events == r.head.Events {
		return r.head, nil
	}
	i := sort.Search(len(r.index), func(i int) bool { return r.index[i].Event >= events }) - 1
	var c chunking
	c.head.Session = r.head.Session
	for _, before := range r.index[:max(i, 0)] {
		c.tree.AddHash(before.Leaf)
		c.head.Chunks++
	}
	if i < 0 {
		c.head.Root = c.tree.Root()
		return c.head, nil
	}
	if r.index[i].Shredded || r.file == nil {
		return Head{}, ErrShredded
	}
	b, err := r.chunk(i)
	if err != nil {
		return Head{}, err
	}
	s := newScanner(bytes.NewReader(b))
	c.head.Events = r.index[i].Event
	for c.head.Events < events {
		record, err := s.next()
		if err != nil {
			return Head{}, ErrTampered.WithCause(err)
		}
		if record.begins {
			c.begin(record.salt[:], 0)
		}
		c.add(record.bytes, 0, 0, 0)
	}
	return Head{Session: c.head.Session, Chunks: c.head.Chunks, Events: events, Root: c.now().Root}, nil
}

// Shred makes one chunk unreadable for good: its bytes here are overwritten, and it is marked in the index. The proof still
// verifies, by the leaf. The keyring with the key taken out (Keyring.Shred) has to be durable before.
func Shred(dir string, chunk int64) error {
	r, err := Open(dir, nil)
	if err != nil {
		return err
	}
	defer r.Close()
	if !r.ended {
		return fault.New(fault.Precondition, "recording_running", "the recording has not ended")
	}
	if r.file == nil {
		return ErrShredded
	}
	if chunk < 0 || chunk >= int64(len(r.index)) {
		return fault.New(fault.NotFound, "recording_chunk", "the recording has %d chunks; there is no chunk %d", len(r.index), chunk)
	}
	r.index[chunk].Shredded = true
	if err := writeHead(dir, closed{r.head, r.index}); err != nil {
		return err
	}
	f, err := os.OpenFile(filepath.Join(dir, eventsFile), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	c := r.index[chunk]
	_, err = f.WriteAt(make([]byte, c.Size), c.Offset)
	return errors.Join(err, f.Sync(), f.Close())
}

// Differ is the first chunk in which two recordings of one session differ; not ok where the shorter is the beginning of the
// longer. The chunk in which the shorter ends may be one of these: HeadAt tells whether it was cut off in step.
func Differ(a, b []ledger.Hash) (chunk int, ok bool) {
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] {
			return i, true
		}
	}
	return 0, false
}

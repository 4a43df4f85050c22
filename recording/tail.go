package recording

import (
	"crypto/cipher"
	"errors"
	"fmt"
	"sort"
)

// Tail follows a recording while it is written: from any point, at its own pace, holding nothing in memory for being behind. It
// is what the host sends from, and what the control plane shows watchers from. One goroutine may use it.
type Tail struct {
	w      *Writer
	at     int64 // in the file
	chunk  int64
	number int64 // of the event in its chunk
	aead   cipher.AEAD
	pos    int64 // in bytes of frames
	buf    []byte
	rest   []byte
	plain  []byte
}

// tailBuffer is how much a Tail reads at a time.
const tailBuffer = 64 << 10

// Tail begins before the event whose frame begins at pos, counted as Head.Bytes is; within a frame, before that one. A pos past
// the recording's end is told by ok being false.
func (w *Writer) Tail(pos int64) (t *Tail, ok bool, err error) {
	w.mu.Lock()
	c := &w.chunking
	if pos < 0 || pos > c.head.Bytes {
		w.mu.Unlock()
		return nil, false, nil
	}
	t = &Tail{w: w, at: int64(len(magic)), chunk: -1}
	i := sort.Search(len(c.chunks), func(i int) bool { return c.chunks[i].Byte > pos }) - 1
	if i > 0 {
		t.at, t.chunk, t.pos = c.chunks[i].Offset, int64(i)-1, c.chunks[i].Byte
	}
	w.mu.Unlock()
	for t.pos < pos {
		before := *t
		_, there, err := t.Next()
		if err != nil || !there {
			return nil, false, err
		}
		if t.pos > pos {
			before.buf, before.rest = nil, nil
			*t = before
			break
		}
	}
	return t, true, nil
}

// Pos is where the next event's frame begins.
func (t *Tail) Pos() int64 { return t.pos }

// Next is the next event, where there is one already. Its data is valid until the next call.
func (t *Tail) Next() (Event, bool, error) {
	if len(t.rest) == 0 {
		if more, err := t.fill(); !more || err != nil {
			return Event{}, false, err
		}
	}
	n := length(t.rest)
	size := lengthSize + n&^begins
	if n&begins != 0 {
		size += SaltSize
	}
	if len(t.rest) < size { // the buffer ends within it: the file does not
		t.rest = nil
		if more, err := t.fill(); !more || err != nil {
			return Event{}, false, err
		}
		if len(t.rest) < size {
			return Event{}, false, ErrTampered.WithCause(fmt.Errorf("at %d", t.at))
		}
	}
	sealed := t.rest[lengthSize:size]
	if n&begins != 0 {
		sealed = sealed[SaltSize:]
		aead, _, err := t.w.keys.key(t.chunk + 1)
		if err != nil {
			return Event{}, false, err
		}
		t.aead, t.number = aead, 0
		t.chunk++
	}
	if t.aead == nil {
		return Event{}, false, ErrTampered.WithCause(errors.New("no chunk begins"))
	}
	nonce := nonce(t.number)
	plain, err := t.aead.Open(t.plain[:0], nonce[:], sealed, nil)
	if err != nil {
		return Event{}, false, ErrTampered.WithCause(err)
	}
	t.plain = plain
	e, err := Parse(plain)
	if err != nil {
		return Event{}, false, err
	}
	t.rest = t.rest[size:]
	t.at += int64(size)
	t.pos += int64(lengthSize + len(plain))
	t.number++
	return e, true, nil
}

// fill reads from the file what there is.
func (t *Tail) fill() (more bool, err error) {
	t.w.mu.Lock()
	end := t.w.chunking.at
	t.w.mu.Unlock()
	n := min(end-t.at, tailBuffer)
	if n <= 0 {
		t.buf, t.rest = nil, nil // one who waits holds no buffer
		return false, nil
	}
	if int64(cap(t.buf)) < n {
		t.buf = make([]byte, n)
	}
	t.buf = t.buf[:n]
	if _, err := t.w.file.ReadAt(t.buf, t.at); err != nil {
		return false, fmt.Errorf("read what was recorded: %w", err)
	}
	t.rest = t.buf
	return true, nil
}

package recording

import (
	"bufio"
	"errors"
	"io"
)

// scanner reads records.
type scanner struct {
	r    *bufio.Reader
	buf  []byte
	full record
}

// record is one as it lies in the file. Its slices are valid until the next.
type record struct {
	begins bool
	salt   [SaltSize]byte
	sealed []byte
	bytes  []byte // what the leaf covers: length and sealed
}

func newScanner(r io.Reader) *scanner { return &scanner{r: bufio.NewReaderSize(r, 64<<10)} }

// begin reads the magic.
func (s *scanner) begin() error {
	b := make([]byte, len(magic))
	if _, err := io.ReadFull(s.r, b); err != nil || string(b) != magic {
		return errMagic
	}
	return nil
}

var errMagic = ErrTampered.WithCause(errors.New("no recording begins so"))

// next is the next record. io.EOF is a file that ends where a record does; errCutShort one that ends within.
func (s *scanner) next() (*record, error) {
	var head [lengthSize]byte
	if _, err := io.ReadFull(s.r, head[:]); err != nil {
		if err == io.EOF {
			return nil, io.EOF
		}
		return nil, errCutShort
	}
	n := length(head[:])
	r := &s.full
	r.begins = n&begins != 0
	n &^= begins
	if n < tagSize+2 || n > maxSealed {
		return nil, errCutShort
	}
	if r.begins {
		if _, err := io.ReadFull(s.r, r.salt[:]); err != nil {
			return nil, errCutShort
		}
	}
	s.buf = append(s.buf[:0], head[:]...)
	if cap(s.buf) < lengthSize+n {
		s.buf = append(make([]byte, 0, lengthSize+maxSealed), s.buf...)
	}
	s.buf = s.buf[:lengthSize+n]
	if _, err := io.ReadFull(s.r, s.buf[lengthSize:]); err != nil {
		return nil, errCutShort
	}
	r.sealed, r.bytes = s.buf[lengthSize:], s.buf
	return r, nil
}

var errCutShort = ErrTampered.WithCause(errors.New("it ends, or is damaged, within an event"))

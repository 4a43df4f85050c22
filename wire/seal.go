package wire

import (
	"sync"
	"sync/atomic"

	"github.com/flynn/noise"

	"github.com/loopbackd/loopback/fault"
)

// Sizes, in bytes.
const (
	MaxEnvelope = 1 << 20 // what one Send may carry

	maxMessage  = noise.MaxMsgLen
	tagSize     = 16
	maxFragment = maxMessage - tagSize - flagSize
	flagSize    = 1

	// An agent sends small fragments, because a server's TLS keeps for every connection a buffer as large as the
	// largest record that ever came in on it.
	uplinkFragment = 2 << 10
)

// Flags of a fragment. Any other bit is a fault.
const (
	flagMore  = 0x00
	flagLast  = 0x01 // the envelope is complete
	flagClose = 0x02 // the peer's last word: an encoded reason
)

// rekeyInterval is how many messages a cipher key seals.
const rekeyInterval = 1 << 32

// sealing is one direction of a link. Both ends count alike, so a key moves on at the same message on both.
type sealing struct {
	state *noise.CipherState
	every uint64
}

func (s *sealing) advance() {
	if n := s.state.Nonce(); n != 0 && n%s.every == 0 {
		s.state.Rekey()
	}
}

// seal encrypts in place: buffer has the plaintext and tagSize bytes of capacity behind it.
func (s *sealing) seal(buffer []byte) ([]byte, error) {
	s.advance()
	return s.state.Encrypt(buffer[:0], nil, buffer)
}

// open decrypts in place. Any failure is ErrTampered: the link is over.
func (s *sealing) open(message []byte) ([]byte, error) {
	if len(message) < tagSize+flagSize {
		return nil, ErrTampered
	}
	s.advance()
	plain, err := s.state.Decrypt(message[:0], nil, message)
	if err != nil {
		return nil, ErrTampered
	}
	return plain, nil
}

// sealEnvelope cuts an envelope into fragments of at most limit bytes and hands each, sealed, to write. The slice that
// write gets is valid during the call only.
func (s *sealing) sealEnvelope(envelope []byte, limit int, write func([]byte) error) error {
	if len(envelope) > MaxEnvelope {
		return ErrTooLarge
	}
	for {
		piece, flag := envelope, byte(flagLast)
		if len(piece) > limit {
			piece, flag = piece[:limit], flagMore
		}
		if err := s.sealFragment(flag, piece, write); err != nil {
			return err
		}
		if envelope = envelope[len(piece):]; flag == flagLast {
			return nil
		}
	}
}

func (s *sealing) sealFragment(flag byte, piece []byte, write func([]byte) error) error {
	buffer, release := borrow(flagSize + len(piece) + tagSize)
	defer release()
	plain := append(append((*buffer)[:0], flag), piece...)
	message, err := s.seal(plain)
	if err != nil {
		return fault.New(fault.Internal, "link_exhausted", "the link's keys are used up").WithCause(err)
	}
	return write(message)
}

// Sealing buffers are shared: a link in rest holds none.
var (
	smallBuffers = sync.Pool{New: func() any { b := make([]byte, 0, 1<<10); return &b }}
	largeBuffers = sync.Pool{New: func() any { b := make([]byte, 0, 1<<16); return &b }}
)

func borrow(size int) (*[]byte, func()) {
	pool := &smallBuffers
	if size > 1<<10 {
		pool = &largeBuffers
	}
	b := pool.Get().(*[]byte)
	return b, func() { pool.Put(b) }
}

// assembly puts envelopes together again.
type assembly struct {
	parts  []byte
	budget *budget // nil: unbounded
}

// add takes a fragment's plaintext. It returns an envelope when one is complete; the slice is valid until the next call.
// A reason is the peer's last word.
func (a *assembly) add(plain []byte) (envelope []byte, complete bool, err error) {
	flag, piece := plain[0], plain[flagSize:]
	switch {
	case flag == flagClose:
		return nil, false, decodeReason(piece)
	case flag != flagLast && flag != flagMore, flag == flagMore && len(piece) == 0:
		return nil, false, ErrMalformed
	case len(a.parts)+len(piece) > MaxEnvelope:
		return nil, false, ErrTooLarge
	case flag == flagLast && len(a.parts) == 0:
		return piece, true, nil
	}
	if !a.budget.take(len(piece)) {
		return nil, false, ErrTooBusy
	}
	a.parts = append(a.parts, piece...)
	if flag == flagMore {
		return nil, false, nil
	}
	envelope = a.parts
	a.reset()
	return envelope, true, nil
}

// reset forgets an unfinished envelope.
func (a *assembly) reset() {
	a.budget.give(len(a.parts))
	a.parts = nil
}

// budget bounds what all links of a server together hold of unfinished envelopes: anybody may shake hands, so what a
// stranger can make the server remember is bounded for all strangers together.
type budget struct {
	limit int64
	used  atomic.Int64
}

func (b *budget) take(n int) bool {
	if b == nil {
		return true
	}
	if b.used.Add(int64(n)) > b.limit {
		b.used.Add(int64(-n))
		return false
	}
	return true
}

func (b *budget) give(n int) {
	if b != nil {
		b.used.Add(int64(-n))
	}
}

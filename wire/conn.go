package wire

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/trust"
)

// goodbye is how long an agent's last word may take: a poll may need a new connection for it.
const goodbye = 3 * time.Second

// Conn is the agent's end of a link. Its methods are safe for concurrent use. It is made by Dialer.Dial and holds
// goroutines and a connection until Close.
type Conn struct {
	uplink   uplink
	signed   trust.Signed
	keyset   trust.Keyset
	hash     [32]byte
	fallback error
	fragment int // bytes of the largest piece

	in    sealing // the receiving goroutine's
	parts assembly

	sending chan struct{} // holds one: who takes it may use out and the uplink
	out     sealing

	frames chan []byte
	ended  atomic.Pointer[fault.Error]
	done   chan struct{}  // closes when the link begins to end
	left   chan struct{}  // closes when its last word is said, or cannot be
	work   sync.WaitGroup // goroutines of this link
}

// uplink is what an agent's transport does for its Conn.
type uplink interface {
	// send takes messages that belong together up. Calls do not overlap.
	send(ctx context.Context, messages [][]byte) error
	// receive feeds Conn.take until the link ends or take refuses, and says why.
	receive(c *Conn) *fault.Error
	// leave ends sending in order; receive returns within lastWords of it. drain, called after receive has returned, waits
	// as long for the peer's end, so that nothing said last is thrown away with unread bytes.
	leave()
	drain()
	// cut makes receive, send and drain return.
	cut()
	transport() string
}

func newConn(u uplink, s *session, signed trust.Signed, keyset trust.Keyset, fragment int) *Conn {
	c := &Conn{
		uplink: u, signed: signed, keyset: keyset, hash: s.hash, fragment: fragment,
		in: s.in, out: s.out,
		sending: make(chan struct{}, 1), frames: make(chan []byte), done: make(chan struct{}), left: make(chan struct{}),
	}
	c.work.Go(func() {
		reason := c.uplink.receive(c)
		c.end(reason)
		<-c.left // somebody else's last word may be under way
		if reason.Code != ErrLost.Code {
			c.uplink.drain()
		}
		c.uplink.cut()
		close(c.frames)
	})
	return c
}

// Send seals an envelope and sends it. It returns when the transport has taken it, which is no word on whether it
// arrived. When ctx ends in the middle of that, the link does too.
func (c *Conn) Send(ctx context.Context, envelope []byte) error {
	if len(envelope) > MaxEnvelope {
		return ErrTooLarge
	}
	select {
	case c.sending <- struct{}{}:
		defer func() { <-c.sending }()
	case <-c.done:
		return c.reason()
	case <-ctx.Done():
		return fault.Of(ctx.Err())
	}
	if c.ended.Load() != nil {
		return c.reason()
	}
	var messages [][]byte
	err := c.out.sealEnvelope(envelope, c.fragment, func(m []byte) error {
		messages = append(messages, append([]byte(nil), m...))
		return nil
	})
	if err == nil {
		err = c.uplink.send(ctx, messages)
	}
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		c.end(ErrLost.WithCause(ctx.Err()))
		return c.reason()
	}
	return c.failed(ending(err))
}

// Receive returns the next envelope. When ctx ends first, the link stands and nothing is lost. Every other error means
// that the link is over, and why.
func (c *Conn) Receive(ctx context.Context) ([]byte, error) {
	select {
	case envelope, ok := <-c.frames:
		if !ok {
			return nil, c.reason()
		}
		return envelope, nil
	case <-ctx.Done():
		return nil, fault.Of(ctx.Err())
	}
}

// Hash is the handshake's hash: what proofs on this link are bound to.
func (c *Conn) Hash() []byte { return c.hash[:] }

// Keyset is what the control plane is trusted by, verified.
func (c *Conn) Keyset() trust.Keyset { return c.keyset }

// Signed is the keyset as it came: what to store.
func (c *Conn) Signed() trust.Signed { return c.signed }

// Transport is WebSocket or Poll.
func (c *Conn) Transport() string { return c.uplink.transport() }

// Fallback is why the link polls though a WebSocket was wanted; nil where it does not.
func (c *Conn) Fallback() error { return c.fallback }

// Close ends the link, tells the control plane so by a sealed word where there is a way, and waits for the link's
// goroutines: three seconds at most where there is none. Envelopes not yet received are dropped.
func (c *Conn) Close() error {
	c.end(ErrClosed)
	c.work.Wait()
	return nil
}

func (c *Conn) reason() error { return c.ended.Load() }

// take opens a message on the receiving goroutine. A non-nil error ends the link.
func (c *Conn) take(message []byte) *fault.Error {
	plain, err := c.in.open(message)
	if err != nil {
		return fault.Of(err)
	}
	envelope, complete, err := c.parts.add(plain)
	if err != nil {
		return fault.Of(err)
	}
	if !complete {
		return nil
	}
	select {
	case c.frames <- append([]byte(nil), envelope...):
		return nil
	case <-c.done:
		return c.ended.Load()
	}
}

// end gives the reason for which the link ends, unless it has one, and brings it about.
func (c *Conn) end(reason *fault.Error) {
	if !c.ended.CompareAndSwap(nil, reason) {
		return
	}
	close(c.done)
	defer close(c.left)
	if reason.Code == ErrLost.Code || reason.Code == ErrIdle.Code {
		c.uplink.cut() // nobody is there to be told
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), goodbye)
	defer cancel()
	select {
	case c.sending <- struct{}{}:
		defer func() { <-c.sending }()
	case <-ctx.Done():
		c.uplink.cut()
		return
	}
	defer c.uplink.leave()
	_ = c.out.sealFragment(flagClose, encodeReason(reason), func(m []byte) error {
		return c.uplink.send(ctx, [][]byte{m})
	})
}

// failed ends the link for a send that failed. The other direction may hold the peer's own word on why: it goes first.
func (c *Conn) failed(err *fault.Error) error {
	timer := time.NewTimer(lastWords)
	defer timer.Stop()
	select {
	case <-c.done:
	case <-timer.C:
		c.end(err)
	}
	return c.reason()
}

package wire

import (
	"fmt"
	"net/netip"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/loopbackd/loopback/fault"
)

// Names of the transports.
const (
	WebSocket = "websocket"
	Poll      = "poll"
)

// Receiver takes what a link brings in. Its methods are never called two at a time for one link. Receive's slice is valid
// during the call only; while it runs the link reads no further, which is how a slow handler slows its sender. Closed is
// the last call and comes exactly once, with the reason in the terms of the package comment, or the one given to Close.
type Receiver interface {
	Receive(envelope []byte)
	Closed(reason error)
}

// carrier moves sealed messages for a link.
type carrier interface {
	// write sends one message. Calls do not overlap. The slice is valid during the call only.
	write(message []byte) error
	// heard counts the idle timeout from now on; called from within receive.
	heard()
	// closing makes room for last words: writes from here on take lastWords at most.
	closing()
	// shut ends the connection; orderly where the transport has a way to say so. It may be called again, and while a
	// write is under way, which it then ends.
	shut(orderly bool)
	transport() string
}

// Link is the control plane's end of one agent's link. Its methods are safe for concurrent use.
type Link struct {
	server  *Server
	carrier carrier
	remote  netip.Addr

	reading  // the goroutine that reads only
	receiver Receiver
	accepted bool

	sending sync.Mutex // guards out; held while writing
	out     sealing
	hash    [32]byte

	ended atomic.Pointer[fault.Error] // why the link ends: the first reason given stays
	idle  atomic.Int64                // idle timeout in nanoseconds
}

// reading is a link's receiving half.
type reading struct {
	in    sealing // zero until the handshake is done
	parts assembly
}

// Send seals an envelope and hands it to the connection. It blocks while the peer is slow to take it, and ends the link
// with link_slow when the server's WriteTimeout passes first. An error that is not the envelope's own means that the
// link is over.
func (l *Link) Send(envelope []byte) error {
	if len(envelope) > MaxEnvelope {
		return ErrTooLarge
	}
	err := l.sealed(envelope)
	if err == nil {
		return nil
	}
	if over := l.ended.Load(); over != nil {
		return over
	}
	reason := ending(err)
	if isFault(reason, ErrIdle) {
		reason = ErrSlow
	}
	return l.end(reason)
}

func (l *Link) sealed(envelope []byte) error {
	l.sending.Lock()
	defer l.sending.Unlock()
	if reason := l.ended.Load(); reason != nil {
		return reason
	}
	return l.out.sealEnvelope(envelope, maxFragment, l.carrier.write)
}

// Hash is the handshake's hash: what proofs on this link are bound to.
func (l *Link) Hash() []byte { return l.hash[:] }

// Remote is the agent's address, as told by a trusted proxy where there is one.
func (l *Link) Remote() netip.Addr { return l.remote }

// Transport is WebSocket or Poll.
func (l *Link) Transport() string { return l.carrier.transport() }

// SetIdleTimeout ends the link with link_idle once nothing has come for this long. It counts from the next message on.
func (l *Link) SetIdleTimeout(d time.Duration) { l.idle.Store(int64(d)) }

// Close ends the link and tells the agent why, sealed: kind, code, message and retry-after of the reason cross, its hint
// and cause do not. A nil reason is link_closed. Close returns within about a second, however deaf the peer is, and does
// not wait for Closed, which a Receiver may therefore cause from within its own calls.
func (l *Link) Close(reason error) {
	if reason == nil {
		reason = ErrClosed
	}
	l.end(fault.Of(reason))
}

// end gives the reason for which the link ends, unless it has one, and brings it about. It returns the reason that holds.
func (l *Link) end(reason *fault.Error) *fault.Error {
	if !l.ended.CompareAndSwap(nil, reason) {
		return l.ended.Load()
	}
	l.carrier.closing()
	said := false
	if reason.Code != ErrLost.Code {
		l.sending.Lock() // a stuck writer is off within the moment that closing leaves it
		if l.out.state != nil {
			said = l.out.sealFragment(flagClose, encodeReason(reason), l.carrier.write) == nil
		}
		l.sending.Unlock()
	}
	l.carrier.shut(said)
	return reason
}

// receive takes one message of the peer's and decides the link's fate by it.
func (l *Link) receive(message []byte) {
	if l.ended.Load() != nil {
		return
	}
	// A defect in a handler costs its own link, not the fleet's.
	defer func() {
		if p := recover(); p != nil {
			l.end(fault.Of(fmt.Errorf("handling a message: %v\n%s", p, debug.Stack())))
		}
	}()
	if l.in.state == nil {
		l.shake(message)
		return
	}
	plain, err := l.in.open(message)
	if err != nil {
		l.end(fault.Of(err))
		return
	}
	envelope, complete, err := l.parts.add(plain)
	if err != nil {
		l.end(fault.Of(err))
		return
	}
	if l.receiver == nil && !l.accept() {
		return
	}
	if complete {
		l.receiver.Receive(envelope)
	}
}

// shake answers the handshake.
func (l *Link) shake(first []byte) {
	second, s, err := l.server.respond(first)
	if err != nil {
		l.end(fault.Of(err))
		return
	}
	l.sending.Lock()
	l.in, l.out, l.hash = s.in, s.out, s.hash
	err = l.carrier.write(second)
	l.sending.Unlock()
	if err != nil {
		l.end(ending(err))
	}
}

// accept hands the link to its owner. The first sealed message has come: behind the handshake is somebody who holds its
// keys, not a recording of one.
func (l *Link) accept() bool {
	l.idle.Store(int64(l.server.idleTimeout()))
	l.accepted = true
	l.carrier.heard() // the owner may take longer than what is left for a handshake
	l.server.established()
	l.receiver = l.server.Accept(l)
	if l.receiver == nil {
		l.end(ErrClosed)
		return false
	}
	return true
}

// finished is called once by whoever reads the link, when it will read no more.
func (l *Link) finished(cause *fault.Error) {
	reason := l.end(cause)
	l.parts.reset()
	switch {
	case l.receiver != nil:
		l.receiver.Closed(reason)
	case !l.accepted:
		l.server.unestablished(l.remote, reason)
	}
	l.server.forget(l)
}

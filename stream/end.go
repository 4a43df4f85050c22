package stream

import (
	"context"
	"sync"
	"time"

	"github.com/loopbackd/loopback/fault"
)

// Patience of the protocol.
const (
	ackDelay     = 20 * time.Millisecond // consumption is told by then at the latest
	resumeWithin = 10 * time.Second      // for the peer's first frame
	pingBusy     = 2 * time.Second       // of silence, while something is unanswered
	pingIdle     = 20 * time.Second      // of silence otherwise
	pongWithin   = 5 * time.Second
)

// Carrier is a connection as an End uses it.
type Carrier interface {
	// Send moves one message, valid during the call only. It blocks while the connection is slow; an error means that the
	// connection is over. Calls do not overlap.
	Send(message []byte) error
	// Close ends the connection for this reason, which an End gives it once at most. It may be called while Send is.
	Close(reason error)
}

// Options of an End.
type Options struct {
	// Window is how many bytes of a channel may be written and not consumed, and received and not read: DefaultWindow where it
	// is 0, MaxWindow at most.
	Window int
}

// End is one of a session's two ends. Its methods are safe for concurrent use.
type End struct {
	window int
	done   chan struct{} // closes when the session is over

	mu      sync.Mutex // guards all below, channels' fields included
	writers [MaxChannels]*Writer
	readers [MaxChannels]*Reader
	now     *Attachment // that stands; nil: none
	count   uint64      // attachments so far
	over    error       // why the session is over; nil: it is not
	flushed []chan struct{}
	counts  Counts
}

// Counts are what a session has seen so far.
type Counts struct {
	Attachments uint64
	Sent        uint64 // bytes of channels, those sent again among them
	Resent      uint64 // bytes that had to be sent again
	Received    uint64 // bytes of channels
}

// New makes an End that is attached to nothing yet.
func New(o Options) *End {
	if o.Window <= 0 {
		o.Window = DefaultWindow
	}
	return &End{window: min(max(o.Window, MaxPayload), MaxWindow), done: make(chan struct{})}
}

// Writer is the writing side of a channel, the same at each call.
func (e *End) Writer(channel byte) *Writer {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.writer(channel)
}

func (e *End) writer(channel byte) *Writer {
	w := e.writers[channel]
	if w == nil {
		w = &Writer{end: e, channel: channel, room: make(chan struct{}, 1)}
		if e.now != nil && e.now.heard {
			w.limit = e.now.grant
		}
		e.writers[channel] = w
	}
	return w
}

// Reader is the reading side of a channel, the same at each call.
func (e *End) Reader(channel byte) *Reader { return e.ReaderAt(channel, 0) }

// ReaderAt is Reader for an End that takes the place of one whose durable offset was this; it counts for a channel's first
// call alone, which must come before the first attachment.
func (e *End) ReaderAt(channel byte, offset uint64) *Reader {
	e.mu.Lock()
	defer e.mu.Unlock()
	fresh := e.readers[channel] == nil
	r := e.reader(channel)
	if fresh {
		r.ring.base, r.consumed, r.told, r.limit = offset, offset, offset, offset+uint64(e.window)
	}
	return r
}

func (e *End) reader(channel byte) *Reader {
	r := e.readers[channel]
	if r == nil {
		r = &Reader{end: e, channel: channel, data: make(chan struct{}, 1), limit: uint64(e.window)}
		e.readers[channel] = r
	}
	return r
}

// Done closes when the session is over.
func (e *End) Done() <-chan struct{} { return e.done }

// Err is why the session is over: ErrDone where all is well, nil while it is not over.
func (e *End) Err() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.over
}

// Counts tells what the session has seen.
func (e *End) Counts() Counts {
	e.mu.Lock()
	defer e.mu.Unlock()
	c := e.counts
	c.Attachments = e.count
	return c
}

// Attached tells whether a connection carries the session now.
func (e *End) Attached() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.now != nil && e.now.heard
}

// Flush waits until the peer has consumed all that was written, and the ends of what was closed, or wants no more of it.
func (e *End) Flush(ctx context.Context) error {
	for {
		e.mu.Lock()
		if e.settled() {
			e.mu.Unlock()
			return nil
		}
		if e.over != nil {
			defer e.mu.Unlock()
			return e.over
		}
		wait := make(chan struct{})
		e.flushed = append(e.flushed, wait)
		e.mu.Unlock()
		select {
		case <-wait:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (e *End) settled() bool {
	for _, w := range e.writers {
		if w != nil && !w.settled() {
			return false
		}
	}
	return true
}

// Close ends the session: the peer is told why where a connection stands, as readily as it takes it. Nil is ErrDone. What
// the peer has not consumed is lost; Flush first where it matters.
func (e *End) Close(reason error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.over != nil {
		return
	}
	e.finish(reason)
	if e.now != nil {
		e.now.bye, e.now.parting = true, encodeReason(reason)
		e.stir()
	}
}

// finish makes the session over. mu is held.
func (e *End) finish(reason error) {
	if e.over != nil {
		return
	}
	if reason == nil {
		reason = ErrDone
	}
	e.over = reason
	close(e.done)
	e.tellFlushed()
	for _, w := range e.writers {
		if w != nil {
			w.ring.trim(w.ring.end())
			w.sent = w.ring.end()
		}
	}
}

func (e *End) tellFlushed() {
	for _, wait := range e.flushed {
		close(wait)
	}
	e.flushed = nil
}

// stir has the attachment look for something to send. mu is held.
func (e *End) stir() {
	if e.now != nil {
		notify(e.now.wake)
	}
}

func notify(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// violated ends the session for what the peer did. mu is held.
func (e *End) violated(reason *fault.Error) error {
	e.finish(reason)
	return reason
}

package stream

import (
	"context"
	"encoding/binary"
	"sync"
	"time"
)

// Attachment is an End on one connection. Who reads the connection calls Receive for each message and Lost when it has
// ended; Run, on a goroutine of its own, sends.
type Attachment struct {
	end     *End
	carrier Carrier
	wake    chan struct{} // holds one when there may be something to send
	gone    chan struct{} // closes when the attachment has ended

	// Guarded by End.mu.
	why       error // it has ended
	said      bool  // our resume was sent
	heard     bool  // the peer's resume has come
	since     time.Time
	lastHeard time.Time
	pinged    time.Time // the ping under way was sent; zero: none is
	pings     uint64
	pong      uint64 // to be answered; 0: none
	bye       bool
	parting   []byte
	grant     uint64 // what the peer grants a channel at first
	turn      int    // the writer whose turn it is
}

// Attach makes the carrier the one that the session goes on by. An attachment that stood is ended: the newest wins.
func (e *End) Attach(c Carrier) *Attachment {
	now := time.Now()
	a := &Attachment{end: e, carrier: c, wake: make(chan struct{}, 1), gone: make(chan struct{}), since: now, lastHeard: now}
	e.mu.Lock()
	before := e.now
	if e.over != nil {
		// The peer has not heard yet that, and how, it ended.
		a.bye = true
		if e.over != ErrDone {
			a.parting = encodeReason(e.over)
		}
	}
	e.now = a
	e.count++
	for _, w := range e.writers {
		if w != nil {
			w.limit, w.endSent = 0, false
		}
	}
	for _, r := range e.readers {
		if r != nil {
			r.toldEnd, r.toldStop = false, false
		}
	}
	e.mu.Unlock()
	if before != nil && before.lost(ErrSuperseded) {
		go before.carrier.Close(ErrSuperseded) // it may be a black hole, and take its time
	}
	notify(a.wake)
	return a
}

// Lost ends the attachment: the connection is gone, or is to go. The session waits for the next one.
func (a *Attachment) Lost(reason error) {
	if a.lost(reason) {
		a.carrier.Close(reason)
	}
}

func (a *Attachment) lost(reason error) bool {
	e := a.end
	e.mu.Lock()
	defer e.mu.Unlock()
	if a.why != nil {
		return false
	}
	a.why = reason
	close(a.gone)
	if e.now == a {
		e.now = nil
	}
	return true
}

// Receive takes a message in. It does not wait for readers. An error has ended the attachment.
func (a *Attachment) Receive(message []byte) error {
	err := a.receive(message)
	if err != nil {
		a.Lost(err)
	}
	return err
}

func (a *Attachment) receive(message []byte) error {
	e := a.end
	e.mu.Lock()
	defer e.mu.Unlock()
	a.lastHeard = time.Now()
	for len(message) > 0 {
		if a.why != nil {
			return a.why
		}
		f, rest, err := nextFrame(message)
		if err == nil {
			err = a.take(f)
		}
		if err != nil {
			return err
		}
		message = rest
	}
	return nil
}

// take acts on one frame. mu is held.
func (a *Attachment) take(f frame) error {
	e := a.end
	if f.kind == typeBye {
		reason := decodeReason(f.payload)
		e.finish(reason)
		return reason
	}
	if !a.heard {
		if f.kind != typeResume {
			return e.violated(ErrMalformed)
		}
		return a.resume(f)
	}
	if e.over != nil {
		return nil // our bye is on the way
	}
	switch f.kind {
	case typeData:
		return a.data(f)
	case typeEnd:
		r := e.reader(f.channel)
		if r.stopped && f.offset >= r.ring.base {
			r.ring.skip(f.offset)
			r.consumed = f.offset
		}
		if f.offset != r.ring.end() || len(f.payload) != 0 {
			return e.violated(ErrMalformed)
		}
		r.ended = true
		if r.stopped {
			r.endRead = true
		}
		notify(r.data)
		e.stir()
	case typeAck:
		return a.ack(f)
	case typeStop:
		w := e.writer(f.channel)
		w.stopped = true
		w.ring.trim(w.ring.end())
		w.sent = w.ring.end()
		notify(w.room)
		a.settle()
		e.stir()
	case typePing:
		a.pong = f.offset
		e.stir()
	case typePong:
		if f.offset == a.pings {
			a.pinged = time.Time{}
		}
	case typeResume:
		return e.violated(ErrMalformed)
	}
	return nil // of a newer peer, which can do without
}

// resume takes in what the peer has, and begins to send from there. mu is held.
func (a *Attachment) resume(f frame) error {
	e := a.end
	marks, err := readMarks(f.payload)
	if err != nil {
		return e.violated(ErrMalformed)
	}
	if f.offset > MaxWindow {
		return e.violated(ErrMalformed)
	}
	a.heard, a.grant = true, f.offset
	// A channel that the peer does not name is one of which it has received nothing.
	held := [MaxChannels]mark{}
	for _, m := range marks {
		held[m.channel] = m
		e.writer(m.channel)
	}
	for i, w := range e.writers {
		if w == nil || w.stopped {
			continue
		}
		m := held[i]
		if m.received < w.ring.base {
			return e.violated(ErrGone)
		}
		w.again = max(w.again, m.received)
		w.consumed = max(w.consumed, m.consumed)
		w.ring.trim(min(max(m.consumed, w.ring.base), w.ring.end()))
		if m.received > w.ring.end() {
			w.ring.trim(w.ring.end())
		}
		before := w.sent
		w.sent = min(m.received, w.ring.end())
		e.counts.Resent += max(before, w.sent) - w.sent
		w.limit = max(m.limit, a.grant)
		w.endRead = w.endRead || m.flags&flagEnd != 0
		notify(w.room)
	}
	a.settle()
	e.stir()
	return nil
}

func (a *Attachment) data(f frame) error {
	e := a.end
	r := e.reader(f.channel)
	if r.ended || f.offset != r.ring.end() || len(f.payload) == 0 {
		return e.violated(ErrMalformed)
	}
	if r.stopped {
		r.ring.skip(f.offset + uint64(len(f.payload)))
		r.consumed = r.ring.base
		return nil
	}
	if f.offset+uint64(len(f.payload)) > max(r.limit, r.ring.base+uint64(e.window)) {
		return e.violated(ErrMalformed)
	}
	r.ring.append(f.payload)
	e.counts.Received += uint64(len(f.payload))
	notify(r.data)
	return nil
}

func (a *Attachment) ack(f frame) error {
	e := a.end
	w := e.writer(f.channel)
	if len(f.payload) != 9 {
		return e.violated(ErrMalformed)
	}
	limit := binary.BigEndian.Uint64(f.payload[1:])
	switch {
	case w.stopped:
		return nil
	case f.offset > max(w.sent, w.again), limit > 1<<62, f.payload[0]&flagEnd != 0 && !w.endSent:
		return e.violated(ErrMalformed)
	}
	if f.offset > w.ring.base {
		w.consumed = max(w.consumed, f.offset)
		w.ring.trim(min(f.offset, w.ring.end()))
		notify(w.room)
	}
	w.endRead = w.endRead || f.payload[0]&flagEnd != 0
	w.limit = max(w.limit, limit)
	a.settle()
	e.stir()
	return nil
}

func (a *Attachment) settle() {
	if len(a.end.flushed) > 0 && a.end.settled() {
		a.end.tellFlushed()
	}
}

// messages are what Run composes in: an attachment in rest holds none.
var messages = sync.Pool{New: func() any { b := make([]byte, 0, MaxMessage); return &b }}

// Run sends until the attachment ends, and says why it did.
func (a *Attachment) Run(ctx context.Context) error {
	defer context.AfterFunc(ctx, func() { a.Lost(context.Cause(ctx)) })()
	guard := a.guard()
	defer guard.Stop()
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		buffer := messages.Get().(*[]byte)
		a.end.mu.Lock()
		message, until, last := a.compose((*buffer)[:0], time.Now())
		why := a.why
		a.end.mu.Unlock()
		var err error
		if why == nil && len(message) > 0 {
			guard.Reset(pingBusy + pongWithin)
			err = a.carrier.Send(message)
			guard.Stop()
		}
		messages.Put(buffer)
		switch {
		case why != nil:
			return why
		case err != nil:
			a.Lost(err)
			return err
		case last:
			a.Lost(ErrDone)
			return ErrDone
		case until == 0:
			a.Lost(ErrSilent)
			return ErrSilent
		case len(message) > 0:
			continue
		}
		timer.Reset(until)
		select {
		case <-a.wake:
		case <-timer.C:
		case <-a.gone:
		}
	}
}

// guard fires where a Send takes long: into a black hole it would wait for as long as the carrier has patience.
func (a *Attachment) guard() *time.Timer {
	var guard *time.Timer
	guard = time.AfterFunc(time.Hour, func() {
		a.end.mu.Lock()
		silent := time.Since(a.lastHeard)
		a.end.mu.Unlock()
		if silent >= pingBusy+pongWithin {
			a.Lost(ErrSilent)
			return
		}
		guard.Reset(pingBusy + pongWithin - silent)
	})
	return guard
}

// compose appends what is to be sent now. It also says when to look again though nothing happens; 0 means that the carrier
// is dead. last means that nothing will follow. mu is held.
func (a *Attachment) compose(b []byte, now time.Time) (_ []byte, until time.Duration, last bool) {
	e := a.end
	if !a.said {
		a.said = true
		b = a.composeResume(b)
	}
	if a.bye {
		return appendFrame(b, frame{kind: typeBye, payload: a.parting}), time.Hour, true
	}
	if !a.heard {
		return b, max(0, a.since.Add(resumeWithin).Sub(now)), false
	}
	if a.pong != 0 {
		b = appendFrame(b, frame{kind: typePong, offset: a.pong})
		a.pong = 0
	}
	until = time.Hour
	for _, r := range e.readers {
		if r == nil {
			continue
		}
		if r.stopped && !r.toldStop {
			b = appendFrame(b, frame{kind: typeStop, channel: r.channel})
			r.toldStop = true
		}
		if r.due(now) {
			b = a.composeAck(b, r)
		} else if !r.ackAt.IsZero() {
			until = min(until, r.ackAt.Sub(now))
		}
	}
	b, outstanding := a.composeData(b)
	if len(b) > 0 {
		for _, r := range e.readers { // it costs next to nothing to say so along with it
			if r != nil && r.owing() && len(b)+headerSize+9 <= MaxMessage {
				b = a.composeAck(b, r)
			}
		}
	}
	b, alive := a.composePing(b, now, outstanding)
	return b, min(until, alive), false
}

func (a *Attachment) composeResume(b []byte) []byte {
	e := a.end
	var marks []byte
	for _, r := range e.readers {
		if r == nil {
			continue
		}
		m := mark{channel: r.channel, received: r.ring.end(), consumed: r.consumed, limit: r.ring.base + uint64(e.window)}
		if r.finalRead() {
			m.flags, r.toldEnd = flagEnd, true
		}
		r.told, r.limit, r.ackAt = r.consumed, m.limit, time.Time{}
		marks = appendMark(marks, m)
	}
	return appendFrame(b, frame{kind: typeResume, offset: uint64(e.window), payload: marks})
}

func (a *Attachment) composeAck(b []byte, r *Reader) []byte {
	var payload [9]byte
	if r.finalRead() {
		payload[0], r.toldEnd = flagEnd, true
	}
	r.told, r.ackAt, r.limit = r.consumed, time.Time{}, max(r.limit, r.ring.base+uint64(a.end.window))
	binary.BigEndian.PutUint64(payload[1:], r.limit)
	return appendFrame(b, frame{kind: typeAck, channel: r.channel, offset: r.consumed, payload: payload[:]})
}

// composeData appends what writers have and peers granted, in turn, and tells whether anything is on the way.
func (a *Attachment) composeData(b []byte) (_ []byte, outstanding bool) {
	e := a.end
	start := a.turn
	for i := range MaxChannels {
		at := (start + i) % MaxChannels
		w := e.writers[at]
		if w == nil || w.stopped {
			continue
		}
		for len(b)+headerSize < MaxMessage {
			n := int(min(w.ring.end()-w.sent, max(w.limit, w.sent)-w.sent, MaxPayload, uint64(MaxMessage-len(b)-headerSize)))
			if n <= 0 {
				break
			}
			b = appendHeader(b, typeData, w.channel, w.sent, n)
			b = b[:len(b)+n]
			w.ring.copyTo(b[len(b)-n:], w.sent)
			w.sent += uint64(n)
			e.counts.Sent += uint64(n)
			a.turn = (at + 1) % MaxChannels
			if i > 0 {
				break // others have their turn
			}
		}
		if w.closed && !w.endSent && w.sent == w.ring.end() && w.sent >= w.again && len(b)+headerSize <= MaxMessage {
			b = appendFrame(b, frame{kind: typeEnd, channel: w.channel, offset: w.sent})
			w.endSent = true
		}
		outstanding = outstanding || !w.settled()
	}
	return b, outstanding
}

func (a *Attachment) composePing(b []byte, now time.Time, outstanding bool) (_ []byte, until time.Duration) {
	if !a.pinged.IsZero() {
		return b, max(0, a.pinged.Add(pongWithin).Sub(now))
	}
	quiet := pingIdle
	if outstanding {
		quiet = pingBusy
	}
	if left := a.lastHeard.Add(quiet).Sub(now); left > 0 {
		return b, left
	}
	if len(b)+headerSize > MaxMessage {
		return b, quiet // with the next message
	}
	a.pings++
	a.pinged = now
	return appendFrame(b, frame{kind: typePing, offset: a.pings}), pongWithin
}

package wire

import (
	"crypto/rand"
	"encoding/base32"
	"net/http"
	"os"
	"sync"
	"time"
)

// pollSession is the carrier of a polled link.
type pollSession struct {
	id   string
	link *Link

	receiving sync.Mutex // held while messages are taken up and handled, and while the link finishes
	upLast    uint64     // guarded by receiving

	mu       sync.Mutex
	queue    []byte // messages to take down, as in a body
	downLast uint64
	downSent []byte        // the answer to downLast
	parked   chan struct{} // closes when the waiting request loses its place; nil: none waits
	seen     time.Time     // when the last request came or went
	heardAt  time.Time     // when the last sealed message came
	over     time.Time     // when the link ended, its last words queued; zero: it has not

	wake    chan struct{} // there is something to take down
	drained chan struct{} // there is room in the queue
	leaving chan struct{} // closes when the link begins to end
	dead    chan struct{} // closes when its last words are queued
	leave   sync.Once
	die     sync.Once
}

func newPollSession(l *Link, replica string) *pollSession {
	var random [20]byte
	_, _ = rand.Read(random[:])
	now := time.Now()
	return &pollSession{
		id:   replica + "-" + base32.HexEncoding.EncodeToString(random[:]),
		link: l, seen: now, heardAt: now,
		wake: make(chan struct{}, 1), drained: make(chan struct{}, 1),
		leaving: make(chan struct{}), dead: make(chan struct{}),
	}
}

// up takes messages in.
func (p *pollSession) up(w http.ResponseWriter, sequence uint64, body []byte) {
	p.receiving.Lock()
	defer p.receiving.Unlock()
	p.touch()
	defer p.touch()
	if sequence == p.upLast {
		return // taken already; the answer got lost
	}
	if p.link.ended.Load() != nil {
		http.Error(w, "link_closed", http.StatusGone)
		return
	}
	if sequence != p.upLast+1 || len(body) == 0 {
		p.link.end(ErrTampered)
		return
	}
	p.upLast = sequence
	if err := splitBody(body, p.take); err != nil {
		p.link.end(ErrTampered)
	}
	// What ended the link just now, the other lane tells, sealed.
}

func (p *pollSession) take(message []byte) bool {
	p.link.receive(message)
	if p.link.ended.Load() != nil {
		return false
	}
	p.heard()
	return true
}

func (p *pollSession) heard() {
	p.mu.Lock()
	p.heardAt = time.Now()
	p.mu.Unlock()
}

func (p *pollSession) touch() {
	p.mu.Lock()
	p.seen = time.Now()
	p.mu.Unlock()
}

// down waits for messages and answers with them.
func (p *pollSession) down(w http.ResponseWriter, r *http.Request, sequence uint64) {
	place := make(chan struct{})
	p.mu.Lock()
	p.seen = time.Now()
	if sequence == p.downLast {
		answer := p.downSent
		p.mu.Unlock()
		_, _ = w.Write(answer)
		return
	}
	if sequence != p.downLast+1 {
		p.mu.Unlock()
		p.link.end(ErrTampered)
		http.Error(w, "link_closed", http.StatusGone)
		return
	}
	if p.parked != nil {
		close(p.parked)
	}
	p.parked = place
	p.downSent = nil // the agent has it
	p.mu.Unlock()

	park := p.link.server.ParkTimeout
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(park + p.link.server.WriteTimeout))
	timer := time.NewTimer(park)
	defer timer.Stop()
	expired := false
	for {
		p.mu.Lock()
		if p.parked != place {
			p.mu.Unlock()
			http.Error(w, "superseded", http.StatusConflict)
			return
		}
		ended := !p.over.IsZero()
		if len(p.queue) > 0 || (expired && !ended) {
			answer := p.answer(sequence)
			p.mu.Unlock()
			_, _ = w.Write(answer)
			return
		}
		if ended {
			p.unpark()
			p.mu.Unlock()
			http.Error(w, "link_closed", http.StatusGone)
			return
		}
		p.mu.Unlock()
		select {
		case <-p.wake:
		case <-p.dead:
		case <-place:
		case <-timer.C:
			expired = true
		case <-r.Context().Done():
			p.mu.Lock()
			if p.parked == place {
				p.unpark()
			}
			p.mu.Unlock()
			return
		}
	}
}

// answer takes what fits into one body. The caller holds mu.
func (p *pollSession) answer(sequence uint64) []byte {
	cut := cutBody(p.queue)
	body := p.queue[:cut:cut]
	p.queue = p.queue[cut:]
	if len(p.queue) == 0 {
		p.queue = nil
	}
	p.downLast, p.downSent = sequence, body
	p.unpark()
	notify(p.drained)
	return body
}

func (p *pollSession) unpark() {
	p.parked = nil
	p.seen = time.Now()
}

func notify(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// overdue ends a session that its agent has left, and tells whether one that is over can be forgotten.
func (p *pollSession) overdue(now time.Time) bool {
	p.mu.Lock()
	idle := time.Duration(p.link.idle.Load())
	gone := p.parked == nil && now.Sub(p.seen) > pollGrace
	silent := idle > 0 && now.Sub(p.heardAt) > idle
	over := !p.over.IsZero() && now.Sub(p.over) > pollGrace/3
	p.mu.Unlock()
	switch {
	case over:
		return true
	case silent:
		p.link.end(ErrIdle)
	case gone:
		p.link.end(ErrLost)
	}
	return false
}

// write queues a message. It waits while as much is queued already as one answer can take.
func (p *pollSession) write(message []byte) error {
	timer := time.NewTimer(p.link.server.WriteTimeout)
	defer timer.Stop()
	for {
		p.mu.Lock()
		if len(p.queue) == 0 || len(p.queue)+len(message)+2 <= maxBody || p.isLeaving() {
			p.queue = appendMessage(p.queue, message)
			p.mu.Unlock()
			notify(p.wake)
			return nil
		}
		p.mu.Unlock()
		select {
		case <-p.drained:
		case <-p.leaving:
			return ErrClosed
		case <-timer.C:
			return os.ErrDeadlineExceeded
		}
	}
}

func (p *pollSession) isLeaving() bool {
	select {
	case <-p.leaving:
		return true
	default:
		return false
	}
}

// closing lets go of a writer that waits for room.
func (p *pollSession) closing() { p.leave.Do(func() { close(p.leaving) }) }

// shut ends the session. Its id and its last words stay for the agent to fetch; the Receiver is told as soon as it is
// not at work.
func (p *pollSession) shut(bool) {
	p.die.Do(func() {
		p.mu.Lock()
		p.over = time.Now()
		p.mu.Unlock()
		close(p.dead)
		go func() { // the server waits for it: the link counts as reading until it has finished
			p.receiving.Lock()
			defer p.receiving.Unlock()
			p.link.finished(ErrClosed)
		}()
	})
}

func (*pollSession) transport() string { return Poll }

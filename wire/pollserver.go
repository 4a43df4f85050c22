package wire

import (
	"crypto/rand"
	"encoding/base32"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
)

// pollGrace is how long a poll session outlives its last request: an agent that has a way asks again at once.
const pollGrace = 30 * time.Second

// polls is the polling door of a Server: its sessions, by id.
type polls struct {
	server *Server

	mu       sync.Mutex
	sessions map[string]*pollSession
	stop     chan struct{} // closes when the sweeper shall end; nil until there is one
	stopped  bool
	sweeper  sync.WaitGroup
}

func newPolls(s *Server) *polls {
	return &polls{server: s, sessions: make(map[string]*pollSession)}
}

// ServePoll carries a link in the bodies of POST requests, for networks that let no WebSocket through.
//
// A request without Loopback-Link opens a session: its body is the handshake's first message, the answer's body the
// second, and the answer's Loopback-Link the session's id. After that a session has two lanes, named in Loopback-Lane,
// each with its own Loopback-Sequence, counted from 1; one request of each may be under way:
//
//   - up: the body brings messages, and is answered, empty, when they are handled;
//   - down: the request waits, ParkTimeout at most, for messages to answer with.
//
// An answer that got lost is asked for again with the same sequence number: messages are taken up once only, and an
// answer is kept until the next number shows that it arrived. A newer request of the same number takes a waiting one's
// place. Ids and numbers are outside the seal, and nothing rests on them: whoever alters them can cut the link, which
// whoever holds the connection can always do.
//
// Answers: 200; 409 a newer request took the place; 410 the session is over or unknown; 503 with Retry-After, come back
// later; 400, 405, 413 for what no agent sends.
func (s *Server) ServePoll(w http.ResponseWriter, r *http.Request) {
	s.init()
	w.Header().Set("Cache-Control", "no-store")
	if r.Method != http.MethodPost {
		w.Header().Set("Allow", http.MethodPost)
		http.Error(w, "this is where agents poll", http.StatusMethodNotAllowed)
		return
	}
	id := r.Header.Get(headerLink)
	if replica, _, ok := strings.Cut(id, "-"); ok && replica != s.Replica && s.Forward != nil {
		s.Forward(w, r, replica)
		return
	}
	body, ok := readBody(w, r, s.HandshakeTimeout)
	if !ok {
		return
	}
	if id == "" {
		s.polls.open(w, r, body)
		return
	}
	session := s.polls.find(id)
	if session == nil {
		http.Error(w, "link_unknown", http.StatusGone)
		return
	}
	sequence, err := strconv.ParseUint(r.Header.Get(headerSequence), 10, 63)
	if err != nil || sequence == 0 {
		http.Error(w, headerSequence+" is missing or no number", http.StatusBadRequest)
		return
	}
	switch r.Header.Get(headerLane) {
	case laneUp:
		session.up(w, sequence, body)
	case laneDown:
		session.down(w, r, sequence)
	default:
		http.Error(w, headerLane+" is neither up nor down", http.StatusBadRequest)
	}
}

// readBody reads a request's body within a bound of size and time.
func readBody(w http.ResponseWriter, r *http.Request, timeout time.Duration) ([]byte, bool) {
	if r.ContentLength > maxBody {
		http.Error(w, "a poll's body may hold at most "+strconv.Itoa(maxBody)+" bytes", http.StatusRequestEntityTooLarge)
		return nil, false
	}
	if r.ContentLength == 0 {
		return nil, true
	}
	control := http.NewResponseController(w)
	_ = control.SetReadDeadline(time.Now().Add(timeout))
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	_ = control.SetReadDeadline(time.Time{})
	if err != nil {
		http.Error(w, "the body cannot be read", http.StatusBadRequest)
		return nil, false
	}
	return body, true
}

func (p *polls) find(id string) *pollSession {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.sessions[id]
}

// open answers a handshake and makes its session.
func (p *polls) open(w http.ResponseWriter, r *http.Request, body []byte) {
	var first []byte
	count := 0
	if err := splitBody(body, func(m []byte) bool { first = m; count++; return true }); err != nil || count != 1 {
		http.Error(w, "not a handshake", http.StatusBadRequest)
		return
	}
	p.mu.Lock()
	full := len(p.sessions) >= p.server.MaxPolls
	p.mu.Unlock()
	if full {
		busy(w, 10*time.Second)
		return
	}
	link := p.server.open(w, remoteOf(r, p.server.TrustedProxies))
	if link == nil {
		return
	}
	session := newPollSession(link, p.server.Replica)
	link.carrier = session
	link.receive(first)
	if link.ended.Load() != nil || !p.add(session) {
		link.end(ErrStopping)
		http.Error(w, "not a handshake", http.StatusBadRequest)
		return
	}
	session.mu.Lock()
	answer := session.queue
	session.queue = nil
	session.mu.Unlock()
	w.Header().Set(headerLink, session.id)
	_, _ = w.Write(answer)
}

// add makes a session known, and starts the sweeper with the first.
func (p *polls) add(session *pollSession) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stopped {
		return false
	}
	p.sessions[session.id] = session
	if p.stop == nil {
		p.stop = make(chan struct{})
		p.sweeper.Go(p.sweep)
	}
	return true
}

// sweep ends sessions whose agent is gone, and forgets those that are over.
func (p *polls) sweep() {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-p.stop:
			return
		case now := <-tick.C:
			p.mu.Lock()
			all := make([]*pollSession, 0, len(p.sessions))
			for _, session := range p.sessions {
				all = append(all, session)
			}
			p.mu.Unlock()
			for _, session := range all {
				if session.overdue(now) {
					p.mu.Lock()
					delete(p.sessions, session.id)
					p.mu.Unlock()
				}
			}
		}
	}
}

// close ends the sweeper. Links have been closed before.
func (p *polls) close() {
	p.mu.Lock()
	stop := p.stop
	if !p.stopped && stop != nil {
		close(stop)
	}
	p.stopped = true
	p.mu.Unlock()
	p.sweeper.Wait()
}

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
	heard    time.Time     // when the last sealed message came
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
		link: l, seen: now, heard: now,
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
	p.mu.Lock()
	p.heard = time.Now()
	p.mu.Unlock()
	return true
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
	silent := idle > 0 && now.Sub(p.heard) > idle
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

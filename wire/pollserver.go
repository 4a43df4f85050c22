package wire

import (
	"io"
	"net/http"
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
	if link.ended.Load() != nil || !p.server.stand(link) || !p.add(session) {
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

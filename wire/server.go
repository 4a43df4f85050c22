package wire

import (
	"context"
	"net/http"
	"net/netip"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/loopbackd/loopback/fault"
)

// Server is the control plane's end of all links. Keys and Accept are needed, the rest has defaults; fields are set
// before the first request and left alone. ServeLink and ServePoll are its two doors, of
// control links and of streams (ServeStream) alike.
type Server struct {
	// Keys answers handshakes. It is asked for each, so that rotated keys are taken up; links that stand are kept.
	Keys func() ServerKeys

	// Accept gets every link whose peer has completed the handshake and sent its first sealed message, and says who
	// receives from it. Nil closes the link; to give a reason, Close it before. The peer has proved nothing yet but
	// that it is there.
	Accept func(*Link) Receiver

	// Admit is asked before anything is spent on a stranger. Where not ok, it is answered 503 and told when to return.
	Admit func(remote netip.Addr) (retryAfter time.Duration, ok bool)

	// Failed is told of links that ended before Accept, with the reason.
	Failed func(remote netip.Addr, reason error)

	// TrustedProxies may name the agent's address in X-Forwarded-For.
	TrustedProxies []netip.Prefix

	// Replica names this server in the ids of its poll sessions: letters and digits. Forward gets the polls whose
	// session another replica holds; the name in them is the peer's claim. Without Forward they are answered 410.
	Replica string
	Forward func(w http.ResponseWriter, r *http.Request, replica string)

	HandshakeTimeout time.Duration // from the request to the first sealed message; 10 s
	IdleTimeout      time.Duration // what links start with after Accept; 3 min, negative: none
	WriteTimeout     time.Duration // for a peer to take what is sent; 10 s
	ParkTimeout      time.Duration // for a poll to wait; 25 s
	MaxPending       int           // links that have not been accepted yet, beyond which strangers are sent away; 4096
	MaxPolls         int           // poll sessions; 20,000
	MaxUnfinished    int64         // bytes of unfinished envelopes of all links together; 64 MiB

	every uint64 // rekey interval

	start   sync.Once
	sockets *sockets
	polls   *polls
	hands   hands
	shaking chan struct{}             // bounds how many handshakes are computed at a time; the others wait with shallow stacks
	answers atomic.Pointer[answering] // for the keys of the last handshake
	budget  budget
	pending atomic.Int64

	mu       sync.Mutex
	links    map[*Link]struct{}
	stopping bool
	reading  sync.WaitGroup // links, each until its Closed has returned
}

func (s *Server) init() {
	s.start.Do(func() {
		setDefault(&s.HandshakeTimeout, 10*time.Second)
		setDefault(&s.IdleTimeout, 3*time.Minute)
		setDefault(&s.WriteTimeout, 10*time.Second)
		setDefault(&s.ParkTimeout, 25*time.Second)
		setDefault(&s.MaxPending, 4096)
		setDefault(&s.MaxPolls, 20_000)
		setDefault(&s.MaxUnfinished, 64<<20)
		setDefault(&s.every, rekeyInterval)
		s.budget.limit = s.MaxUnfinished
		s.shaking = make(chan struct{}, 2*runtime.GOMAXPROCS(0))
		s.links = make(map[*Link]struct{})
		s.sockets = newSockets(s)
		s.polls = newPolls(s)
	})
}

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

func (s *Server) idleTimeout() time.Duration { return max(s.IdleTimeout, 0) }

// open makes a stranger's link, or answers it 503. What it makes ends in finished.
func (s *Server) open(w http.ResponseWriter, remote netip.Addr) *Link {
	s.init()
	if s.Admit != nil {
		if retry, ok := s.Admit(remote); !ok {
			busy(w, retry)
			return nil
		}
	}
	if s.pending.Add(1) > int64(s.MaxPending) {
		s.pending.Add(-1)
		busy(w, 5*time.Second)
		return nil
	}
	l := &Link{server: s, remote: remote}
	l.parts.budget = &s.budget
	l.idle.Store(int64(s.HandshakeTimeout))
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopping {
		s.pending.Add(-1)
		busy(w, time.Second)
		return nil
	}
	s.reading.Add(1)
	return l
}

// stand counts a link whose carrier is ready among those that Close ends. It refuses once Close has begun.
func (s *Server) stand(l *Link) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.stopping {
		s.links[l] = struct{}{}
	}
	return !s.stopping
}

// busy sends a stranger away before anything is spent on it.
func busy(w http.ResponseWriter, retry time.Duration) {
	seconds := max(1, int64((retry+time.Second-1)/time.Second))
	w.Header().Set("Retry-After", strconv.FormatInt(seconds, 10))
	http.Error(w, ErrTooBusy.Code, http.StatusServiceUnavailable)
}

func (s *Server) respond(first []byte) ([]byte, *session, error) {
	s.shaking <- struct{}{}
	defer func() { <-s.shaking }()
	keys := s.Keys()
	a := s.answers.Load()
	if a == nil || !a.with(keys) {
		var err error
		if a, err = prepare(keys); err != nil {
			return nil, nil, err
		}
		s.answers.Store(a)
	}
	return a.respond(first, s.every)
}

func (s *Server) established() { s.pending.Add(-1) }

func (s *Server) unestablished(remote netip.Addr, reason error) {
	s.pending.Add(-1)
	if s.Failed != nil {
		s.Failed(remote, reason)
	}
}

func (s *Server) forget(l *Link) {
	s.mu.Lock()
	delete(s.links, l)
	s.mu.Unlock()
	s.reading.Done()
}

// Links counts the links that stand, those in their handshake included.
func (s *Server) Links() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.links)
}

// Close takes no more links, ends those that stand with ErrStopping, and waits until every Receiver has been told. When
// ctx ends first, what is left is cut and ctx's error returned once that is done.
func (s *Server) Close(ctx context.Context) error {
	s.init()
	s.mu.Lock()
	s.stopping = true
	links := make(chan *Link, len(s.links))
	for l := range s.links {
		links <- l
	}
	close(links)
	s.mu.Unlock()

	// A deaf peer takes a moment to leave, so that links are closed many at a time.
	var closing sync.WaitGroup
	for range min(len(links), 64*runtime.GOMAXPROCS(0)) {
		closing.Go(func() {
			for l := range links {
				if ctx.Err() != nil {
					l.carrier.shut(false)
				}
				l.Close(ErrStopping)
			}
		})
	}
	done := make(chan struct{})
	go func() {
		closing.Wait()
		s.polls.close()
		s.reading.Wait()
		s.hands.close()
		close(done)
	}()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		s.mu.Lock()
		for l := range s.links {
			l.carrier.shut(false)
		}
		s.mu.Unlock()
		<-done
		return fault.Of(ctx.Err())
	}
}

// Package stream is where hosts' streams end: the control plane's side of shells, command output and files.
//
// Who needs one makes a stream.End, names the session (id.Stream, by Name) and says here that it is expected; the host is
// told the name and its credential in an order, and dials. The credential is derived from the session's id and a secret
// that all replicas have, so that it is stored nowhere and any of them can check it; it opens that session and nothing else.
//
//	host ──GET /agent/v1/stream/ID.REPLICA──▶ this replica ──is it ours?──▶ sealed: StreamOpen ──▶ Authorise ──▶ End.Attach
//	                                               └─another's──▶ forwarded over mutual TLS, unopened
//
// Each connection is authorised anew: a grant that ended, or a host that was quarantined, ends the session at the next
// resumption at the latest (who holds the session ends it at once). A session has one host's end, the first that opened it:
// a credential that was stolen opens nothing that is in use.
//
// When the replica in a name cannot be reached, the one that the host got to asks whether somebody here takes the session
// over (Adopt). Whoever does goes on from what is durable: package stream keeps what is not acknowledged at the host. From
// then on the host, which knows the name alone, is sent to whoever has it now (Where).
package stream

import (
	"cmp"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"log/slog"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/protobuf/proto"

	pb "github.com/loopbackd/loopback/api/loopback/v1"
	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/stream"
	"github.com/loopbackd/loopback/wire"
)

// Session is a stream that a host is expected to dial.
type Session struct {
	ID     string
	HostID string
	End    *stream.End
	// Authorise is asked at each connection whether the session may go on. Its error ends the session, and is told to the
	// host, unless it is Unavailable or Timeout: then the host comes again.
	Authorise func(ctx context.Context) error
}

// Options of a Service. Keys and Secret are needed.
type Options struct {
	Keys    func() wire.ServerKeys
	Secret  []byte // that credentials are derived from, the same on all replicas
	Replica string // short name of this one: letters and digits
	// Forward sends a request to another replica, unopened, and answers it; false where that one cannot be reached. Nil:
	// this replica is alone.
	Forward func(w http.ResponseWriter, r *http.Request, replica string) bool
	// Where is the replica that has a session now, where that may be another than the one in its name: its short name, or empty for that.
	// Nil: it never is.
	Where func(ctx context.Context, id string) string
	// ForwardPoll is the same for a polled connection that stands.
	ForwardPoll func(w http.ResponseWriter, r *http.Request, replica string)
	// Admit is asked before anything is spent on a stranger; see wire.Server.
	Admit func(remote netip.Addr) (time.Duration, bool)
	// Proven is told of the address of each stream that showed its credential.
	Proven         func(remote netip.Addr)
	TrustedProxies []netip.Prefix
	Logger         *slog.Logger
	Registerer     prometheus.Registerer
}

// How long a stream may take to say which session it is for, and be silent.
const (
	openWithin  = 10 * time.Second
	idleTimeout = 45 * time.Second
)

// Errors that a host is told.
var (
	ErrUnknown    = fault.New(fault.NotFound, "stream_unknown", "no such session is expected")
	ErrCredential = fault.New(fault.Denied, "stream_credential", "the credential is not this session's")
	ErrTaken      = fault.New(fault.Denied, "stream_taken", "the session belongs to another process")
	errStopping   = fault.New(fault.Unavailable, "server_stopping", "the control plane is stopping")
)

// Adopter takes over a session whose replica is gone; it has called Expect when it returns nil, ErrUnknown where the session
// is not one of its own.
type Adopter func(ctx context.Context, id string) error

// Service holds the sessions of this replica.
type Service struct {
	options Options
	wire    *wire.Server
	metrics *metrics

	mu       sync.Mutex
	sessions map[string]*session
	adopters []Adopter
	lifetime context.Context
	stop     context.CancelFunc
	pumps    sync.WaitGroup
}

type session struct {
	Session
	instance string // of the host's end; empty: nobody has dialled. Guarded by Service.mu
}

// New makes a Service.
func New(o Options) *Service {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Proven == nil {
		o.Proven = func(netip.Addr) {}
	}
	s := &Service{options: o, sessions: map[string]*session{}}
	s.metrics = newMetrics(o.Registerer, func() float64 {
		s.mu.Lock()
		defer s.mu.Unlock()
		return float64(len(s.sessions))
	})
	s.lifetime, s.stop = context.WithCancel(context.Background())
	s.wire = &wire.Server{
		Keys: o.Keys, Accept: s.accept, Admit: o.Admit, TrustedProxies: o.TrustedProxies, Replica: o.Replica, Forward: o.ForwardPoll,
		HandshakeTimeout: openWithin, IdleTimeout: openWithin,
	}
	return s
}

// Adopt has one more ask for sessions that nobody here expects.
func (s *Service) Adopt(a Adopter) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.adopters = append(s.adopters, a)
}

// Name is what a host dials for a session of this replica.
func (s *Service) Name(id string) string {
	if s.options.Replica == "" {
		return id
	}
	return id + "." + s.options.Replica
}

// Credential opens the session, and no other.
func (s *Service) Credential(id string) []byte {
	mac := hmac.New(sha256.New, s.options.Secret)
	mac.Write([]byte("loopback stream 1\x00" + id))
	return mac.Sum(nil)
}

// Expect takes the session's streams from now on until forget is called, or its End is over and the host has heard so.
func (s *Service) Expect(e Session) (forget func()) {
	held := &session{Session: e}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sessions[e.ID] = held
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.sessions[e.ID] == held {
			delete(s.sessions, e.ID)
		}
	}
}

// ServeHTTP serves /agent/v1/stream/{name}.
func (s *Service) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	id, replica, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, wire.StreamPath), ".")
	if !wire.Resumes(r) && s.options.Forward != nil && !s.expects(id) {
		if s.options.Where != nil {
			replica = cmp.Or(s.options.Where(r.Context(), id), replica)
		}
		if replica != "" && replica != s.options.Replica && s.options.Forward(w, r, replica) {
			s.metrics.forwarded.Inc()
			return
		}
	}
	s.wire.ServeStream(w, r)
}

// ServePeer serves the same for another replica, which sent it on: it goes no further.
func (s *Service) ServePeer(w http.ResponseWriter, r *http.Request) { s.wire.ServeStream(w, r) }

func (s *Service) expects(id string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sessions[id] != nil
}

// Close ends all connections; sessions go on at another replica, or here after a restart.
func (s *Service) Close(ctx context.Context) error {
	s.stop()
	err := s.wire.Close(ctx)
	s.pumps.Wait()
	return err
}

func (s *Service) accept(l *wire.Link) wire.Receiver { return &opened{service: s, link: l} }

// opened is a stream that was dialled.
type opened struct {
	service    *Service
	link       *wire.Link
	attachment *stream.Attachment // nil before it has said what it is for
}

var _ wire.Receiver = (*opened)(nil)

// Receive takes a message.
func (o *opened) Receive(message []byte) {
	if o.attachment != nil {
		_ = o.attachment.Receive(message) // which has closed the link where it is an error
		return
	}
	if err := o.open(message); err != nil {
		f := fault.Of(err)
		o.service.metrics.refused.WithLabelValues(f.Code).Inc()
		o.service.options.Logger.Info("a stream was refused", "from", o.link.Remote(), "code", f.Code, "error", f)
		o.link.Close(f)
	}
}

// open finds the session and attaches the link to it.
func (o *opened) open(message []byte) error {
	s := o.service
	var m pb.StreamOpen
	if err := proto.Unmarshal(message, &m); err != nil || len(m.GetInstance()) != 16 || m.GetId() == "" || len(m.GetId()) > 100 {
		return wire.ErrMalformed
	}
	if subtle.ConstantTimeCompare(m.GetCredential(), s.Credential(m.GetId())) != 1 {
		return ErrCredential
	}
	s.options.Proven(o.link.Remote())
	ctx, cancel := context.WithTimeout(s.lifetime, openWithin)
	defer cancel()
	held, err := s.find(ctx, m.GetId())
	if err != nil {
		return err
	}
	s.mu.Lock()
	if held.instance == "" {
		held.instance = string(m.GetInstance())
	}
	taken := held.instance != string(m.GetInstance())
	s.mu.Unlock()
	if taken {
		return ErrTaken
	}
	if held.Authorise != nil {
		if err := held.Authorise(ctx); err != nil {
			if k := fault.KindOf(err); k != fault.Unavailable && k != fault.Timeout && k != fault.Canceled {
				held.End.Close(err)
			}
			return err
		}
	}
	answer, err := proto.Marshal(&pb.StreamOpened{})
	if err == nil {
		err = o.link.Send(answer)
	}
	if err != nil {
		return err
	}
	o.link.SetIdleTimeout(idleTimeout)
	s.metrics.opened.WithLabelValues(o.link.Transport()).Inc()
	o.attachment = held.End.Attach(carrier{o.link})
	s.pumps.Go(func() { _ = o.attachment.Run(s.lifetime) })
	return nil
}

// find is the session; one that another replica held is taken over where somebody here does that.
func (s *Service) find(ctx context.Context, id string) (*session, error) {
	s.mu.Lock()
	held, adopters := s.sessions[id], s.adopters
	s.mu.Unlock()
	if held != nil {
		return held, nil
	}
	for _, adopt := range adopters {
		switch err := adopt(ctx, id); {
		case errors.Is(err, ErrUnknown):
		case err != nil:
			return nil, err
		default:
			s.mu.Lock()
			held = s.sessions[id]
			s.mu.Unlock()
			if held != nil {
				return held, nil
			}
		}
	}
	return nil, ErrUnknown
}

// Closed says that the link is gone.
func (o *opened) Closed(reason error) {
	if o.attachment != nil {
		o.attachment.Lost(reason)
	}
}

// carrier is a link as an End uses it.
type carrier struct{ *wire.Link }

func (c carrier) Close(reason error) {
	if errors.Is(reason, context.Canceled) {
		reason = errStopping
	}
	c.Link.Close(reason)
}

type metrics struct {
	opened    *prometheus.CounterVec
	refused   *prometheus.CounterVec
	forwarded prometheus.Counter
}

func newMetrics(r prometheus.Registerer, sessions func() float64) *metrics {
	m := &metrics{
		opened: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "loopback_streams_opened_total", Help: "Connections of hosts' streams that were taken, by transport; those that resume a session among them.",
		}, []string{"transport"}),
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "loopback_streams_refused_total", Help: "Connections of hosts' streams that were refused, by reason.",
		}, []string{"reason"}),
		forwarded: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "loopback_streams_forwarded_total", Help: "Connections of hosts' streams that were sent on to the replica that holds their session.",
		}),
	}
	if r != nil {
		r.MustRegister(m.opened, m.refused, m.forwarded, prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "loopback_stream_sessions", Help: "Sessions whose streams this replica expects or holds.",
		}, sessions))
	}
	return m
}

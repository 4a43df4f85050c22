package link

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/wire"
)

// Conn is a sealed link as the hub uses it; *wire.Link is one.
type Conn interface {
	Send(envelope []byte) error // safe for concurrent use; blocks while the peer is slow, ends the link when it is too slow
	Hash() []byte               // of the handshake
	Remote() netip.Addr
	Transport() string
	Close(reason error) // returns within about a second
}

// Options of a hub. Fleet, Enroller and Observer are needed, the rest has defaults.
type Options struct {
	Fleet     Fleet
	Enroller  Enroller
	Observer  Observer
	Announcer Announcer // nil: this replica is alone

	Replica string // name of this replica, among the others
	Shared  bool   // there are, or may be, others: which replica holds a link is in the database
	// Recheck brings what Fleet knows of a host up to the database, where another replica may have changed it just now. It
	// is asked before a hello is refused. Nil: there is nothing to ask.
	Recheck func(ctx context.Context, hostID string)
	Version string // of the control plane, told to agents

	ReconnectWindow time.Duration // how long a host may be away before it is offline; 90 s
	GoodbyeWindow   time.Duration // the same for a host that said goodbye; 10 s
	HelloTimeout    time.Duration // for a link to say who it is; 10 s
	AliveTimeout    time.Duration // for an agent to prove that it is there, where two links speak for one host; 10 s
	AnswerTimeout   time.Duration // for an agent to answer a section before a newer one is sent regardless; 60 s

	HeartbeatRate  int // heartbeats a second that are wanted at most; 2000
	AdmissionRate  int // new links a second; 1000 for each processor
	EnrolmentRate  int // enrolments a second; 500
	EnrolmentSlots int // enrolments at a time; 512
	AddressBurst   int // links of one address (IPv6: /64) that may be unproven before it has to wait; 1000
	AddressRate    int // how many of those it regains each second; 20
	Batch          int // observations in one call of Observe; 500
	Memory         int // bytes of old section values and deltas kept; 32 MiB

	// Ordered is told of orders that led to no stream; nil: nobody gives any. It must not block.
	Ordered func(OrderReport)

	// Proven is told of the address of every link that proved itself, or was sent away for no fault of its own; nil:
	// nobody wants to know.
	Proven func(remote netip.Addr)

	Clock      func() time.Time
	Logger     *slog.Logger
	Registerer prometheus.Registerer // nil: metrics are kept and not shown
}

func (o *Options) setDefaults() {
	setDefault(&o.ReconnectWindow, 90*time.Second)
	setDefault(&o.GoodbyeWindow, min(10*time.Second, o.ReconnectWindow))
	setDefault(&o.HelloTimeout, 10*time.Second)
	setDefault(&o.AliveTimeout, 10*time.Second)
	setDefault(&o.AnswerTimeout, time.Minute)
	setDefault(&o.HeartbeatRate, 2000)
	setDefault(&o.AdmissionRate, 1000*runtime.GOMAXPROCS(0))
	setDefault(&o.EnrolmentRate, 500)
	setDefault(&o.EnrolmentSlots, 512)
	setDefault(&o.AddressBurst, 1000)
	setDefault(&o.AddressRate, 20)
	setDefault(&o.Batch, 500)
	setDefault(&o.Memory, 32<<20)
	if o.Ordered == nil {
		o.Ordered = func(OrderReport) {}
	}
	if o.Proven == nil {
		o.Proven = func(netip.Addr) {}
	}
	if o.Clock == nil {
		o.Clock = time.Now
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
}

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// Hub is the control plane's end of all links.
type Hub struct {
	Options
	metrics   *metrics
	table     table
	admission admission
	addresses addresses
	enrolling admission
	contests  contests
	slots     chan struct{} // enrolments under way
	proving   chan struct{} // hellos under way
	ledger    *ledger
	recall    *recall
	flushers  flushers
	shells    shells

	replicas sync.Mutex
	leased   map[string]bool // other replicas that have a lease
	left     map[string]bool // those that had one

	mu       sync.Mutex
	nascent  map[*peer]struct{} // accepted, not welcomed
	stopping bool               // no more links
	closed   bool               // no more tasks
	peers    sync.WaitGroup     // each until its Closed has come

	links    atomic.Int64 // welcomed
	beats    atomic.Int64 // answered
	started  time.Time    // set by Start
	lifetime context.Context
	cancel   context.CancelFunc
	tasks    sync.WaitGroup // loops, and what Changed and Expel started
}

// New makes a hub. It accepts links once it was started.
func New(o Options) (*Hub, error) {
	if o.Fleet == nil || o.Enroller == nil || o.Observer == nil {
		return nil, errors.New("a hub needs a fleet, an enroller and an observer")
	}
	o.setDefaults()
	h := &Hub{
		Options: o,
		slots:   make(chan struct{}, o.EnrolmentSlots),
		proving: make(chan struct{}, provers()),
		nascent: make(map[*peer]struct{}),
		leased:  make(map[string]bool), left: make(map[string]bool),
	}
	h.lifetime, h.cancel = context.WithCancel(context.Background())
	h.metrics = newMetrics(o.Registerer, func() float64 { return float64(h.links.Load()) },
		func() float64 { return float64(h.beats.Load()) })
	now := o.Clock()
	h.table.init()
	h.admission.init(now, o.AdmissionRate)
	h.enrolling.init(now, o.EnrolmentRate)
	h.addresses.init(o.AddressBurst, o.AddressRate)
	h.ledger = newLedger(o.Observer, o.Batch, o.Logger, h.metrics)
	h.recall = newRecall(o.Memory)
	return h, nil
}

// Attach makes the hub the owner of a server's links.
func (h *Hub) Attach(s *wire.Server) {
	s.Accept = func(l *wire.Link) wire.Receiver {
		if p := h.Accept(l); p != nil {
			return p
		}
		return nil
	}
	s.Admit = h.Admit
}

// Start opens the reconnect window for the hosts that the database shows online and starts the hub's loops.
func (h *Hub) Start() {
	now := h.Clock()
	h.started = now
	expected := 0
	for id := range h.Fleet.Online() {
		h.expect(id, now)
		expected++
	}
	h.table.crowd.expect(now, h.ReconnectWindow, expected)
	h.spawn(func() { h.ledger.run(h.lifetime) })
	h.spawn(h.sweepLoop)
	h.RollCall()
}

// Receiver gets what a link brings in; see wire.Receiver.
type Receiver interface {
	Receive(envelope []byte)
	Closed(reason error)
}

// Accept takes a link whose peer has completed the handshake. Nil means that it was closed: the hub is stopping.
func (h *Hub) Accept(c Conn) Receiver {
	p := &peer{hub: h, conn: c, accepted: h.Clock()}
	h.mu.Lock()
	if h.stopping {
		h.mu.Unlock()
		c.Close(errStopping.WithRetryAfter(h.spread()))
		return nil
	}
	h.nascent[p] = struct{}{}
	h.peers.Add(1)
	h.mu.Unlock()
	return p
}

// Admit tells whether a stranger's link is taken now, before anything is spent on it, else when it should come back.
func (h *Hub) Admit(remote netip.Addr) (retryAfter time.Duration, ok bool) {
	h.mu.Lock()
	stopping := h.stopping
	h.mu.Unlock()
	if stopping {
		return h.spread(), false
	}
	now := h.Clock()
	if retry, ok := h.addresses.take(now, remote); !ok {
		h.metrics.refused("address_limited")
		return retry, false
	}
	if retry, ok := h.admission.take(now); !ok {
		h.proven(remote)
		h.metrics.refused(errBusy.Code)
		return retry, false
	}
	return 0, true
}

// proven gives back what a link cost its address on credit.
func (h *Hub) proven(remote netip.Addr) {
	h.addresses.refund(remote)
	h.Proven(remote)
}

// Vouch says that a connection beside the links, which Admit let in, has proved itself.
func (h *Hub) Vouch(remote netip.Addr) { h.proven(remote) }

// Links counts the hosts that are linked here.
func (h *Hub) Links() int { return int(h.links.Load()) }

// Heartbeats counts those that were answered.
func (h *Hub) Heartbeats() int64 { return h.beats.Load() }

// Settle waits until everything seen so far is durable, or ctx ends.
func (h *Hub) Settle(ctx context.Context) error {
	h.ledger.drain(ctx)
	return ctx.Err()
}

// Changed says that what is known or desired of these hosts changed. It returns when it is noted; what has to be sent
// goes out behind it. Calling it for hosts that did not change costs little.
func (h *Hub) Changed(hostIDs []string) {
	for _, id := range hostIDs {
		for _, p := range h.table.of(id, nil) {
			p.refresh()
		}
	}
}

// Expel ends the links of hosts that were removed. When it returns, nothing that they send is accepted any more, on these
// links or new ones; the links themselves close behind it, within a second or so.
func (h *Hub) Expel(hostIDs []string) {
	gone := make([]*peer, 0, len(hostIDs))
	for _, id := range hostIDs {
		for i, p := range h.table.expel(id, h.Clock()) {
			if p.end() {
				gone = append(gone, p)
			}
			if i == 0 {
				h.announce(p, false, h.Clock()) // whoever waits for it to close may be another replica
			}
		}
	}
	h.dismiss(gone, func(*peer) refusal { return refusal{errRemoved, true} })
}

// dismissers is how many links are being closed at a time: deaf peers take a second each.
const dismissers = 256

// dismiss closes links that have ended already, in the background.
func (h *Hub) dismiss(peers []*peer, why func(*peer) refusal) {
	if len(peers) == 0 {
		return
	}
	queue := make(chan *peer, len(peers))
	for _, p := range peers {
		queue <- p
	}
	close(queue)
	for range min(len(peers), dismissers) {
		h.spawn(func() {
			for p := range queue {
				p.dismiss(why(p))
			}
		})
	}
}

// spawn runs a task that Close waits for; none once the hub is closed, since every link is gone by then.
func (h *Hub) spawn(task func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.closed {
		h.tasks.Go(task)
	}
}

// spread is a time to return after that scatters everybody who is told one over the time that it takes to admit all.
func (h *Hub) spread() time.Duration {
	span := max(time.Second, time.Duration(float64(h.links.Load())/float64(h.AdmissionRate)*float64(time.Second)))
	return time.Second + rand.N(min(span, maxRetry))
}

// Close tells every agent to come back later, each at another time, and ends the links; then it hands the last
// observations over. No host becomes offline by it. When ctx ends first it returns what could not be done.
func (h *Hub) Close(ctx context.Context) error {
	h.mu.Lock()
	if h.stopping {
		h.mu.Unlock()
		return nil
	}
	h.stopping = true
	leaving := make([]*peer, 0, len(h.nascent)+int(h.links.Load()))
	for p := range h.nascent {
		leaving = append(leaving, p)
	}
	h.mu.Unlock()
	leaving = h.table.links(leaving, false)
	ended := leaving[:0]
	for _, p := range leaving {
		if p.end() {
			ended = append(ended, p)
		}
	}
	h.dismiss(ended, func(*peer) refusal { return refusal{errStopping.WithRetryAfter(h.spread()), false} })

	var failed error
	if !waitFor(ctx, &h.peers) {
		failed = fault.New(fault.Timeout, "links_open", "links were still open when the time to stop was over")
	}
	h.ledger.drain(ctx)
	h.cancel()
	h.flushers.stop()
	h.mu.Lock()
	h.closed = true
	h.mu.Unlock()
	h.tasks.Wait()
	if n := h.ledger.waiting(); n > 0 {
		failed = errors.Join(failed, fault.New(fault.Unavailable, "observations_lost",
			"what was last seen of %d hosts could not be stored; they will say it again", n))
	}
	return failed
}

func waitFor(ctx context.Context, wg *sync.WaitGroup) bool {
	done := make(chan struct{})
	go func() {
		wg.Wait()
		close(done)
	}()
	select {
	case <-done:
		return true
	case <-ctx.Done():
		return false
	}
}

// Package link is the agent's only connection to the control plane.
//
// A Client dials out, proves the host's identity, says what the host holds, and then carries: down, sections and the
// host's standing; up, heartbeats, reports, inventory and health. It knows nothing of what sections mean. What it speaks
// for is a Host.
//
//	          every endpoint failed                 Welcome
//	┌─────────┐ ◀────────────────── ┌────────────┐ ────────▶ ┌────────┐
//	│ waiting │                     │ connecting │           │ linked │
//	└─────────┘ ──────────────────▶ └────────────┘ ◀──────── └────────┘
//	             backoff is over           │        lost, three heartbeats unanswered
//	                                       ▼
//	                                  ┌─────────┐
//	                                  │ refused │ for good: the agent stays up and says so
//	                                  └─────────┘
//
// Endpoints are tried in the order of agent.yaml. When none would have us, the wait before the next round is random
// between zero and a bound that doubles up to MaxBackoff, so that a fleet which lost its control plane does not come back
// at one moment. A control plane that names a time to return is obeyed, endpoint by endpoint. What stood in the way is
// remembered by its code and reported once there is a way again.
//
// # Keys
//
// The identity key is replaced when it is old enough (KeyRotation). The next key is stored, then offered; once accepted,
// the link is made anew and says hello with it; the answer to that hello promotes it. An answer can be lost, or the host
// lose power, at each of these points: while a next key is stored, hello is said with it first, and only when the control
// plane says in so many words that it does not know this key is the current one used, and the next one offered again. A
// connection that merely broke proves nothing, since the control plane may have taken the key already, and a key that
// comes back after it was replaced looks like a restored snapshot.
//
// A control plane that was restored from a backup older than the last rotation knows an earlier key. Each key that was replaced
// has signed for the next one, and where the current key is not known, hello is said once more with those signatures.
//
// # Copies
//
// A machine that was copied, disk and key, is found out by its control plane: where two links speak for one host, each
// agent is asked to sign a fresh nonce on its link. An agent has one link at a time and answers on that one alone, from
// the goroutine that carries it, so one that is there never answers for a link that it has given up. Once an operator has
// decided, the kept machine replaces its key at once by one that no copy can hold; the other makes itself a key of its own,
// stores it, and is enrolled with it as a new host.
//
// # Better links
//
// A link to an endpoint that is not the first tries from time to time whether one before it can be reached, and goes back
// there. A link polls where a WebSocket was refused, cut or swallowed. From time to time a WebSocket is tried beside it, up to the
// control plane's proof of itself and no further; once one gets through, the link is made anew.
//
// What must survive is in package state, and is stored before it is acted on.
package link

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/loopbackd/loopback/agent/config"
	"github.com/loopbackd/loopback/agent/state"
	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/host"
	"github.com/loopbackd/loopback/section"
	"github.com/loopbackd/loopback/wire"
)

// Bounds of the client's patience.
const (
	MinBackoff    = time.Second      // bound of the first wait
	MaxBackoff    = 30 * time.Second // bound of every wait; well under the time after which a host counts as offline
	MaxRetryAfter = time.Hour        // longest that a control plane may send us away for

	dialTimeout    = 40 * time.Second // all of one endpoint: WebSocket, and polling after it
	welcomeTimeout = 30 * time.Second
	sendTimeout    = 20 * time.Second
	goodbyeTimeout = 2 * time.Second
	steady         = 10 * time.Second // a link that stood this long ends a row of failures
	// welcomedFailures is as how many failures in a row links count that stood for less: a wait of at most 4 s.
	welcomedFailures = 2
	missedPulses     = 3 // heartbeats without an answer after which a link is dead
)

// Standing is what the control plane thinks of this host.
type Standing string

// The standings. Only a managed host is configured and rotates its key.
const (
	Managed     Standing = "managed"
	Pending     Standing = "pending"
	Quarantined Standing = "quarantined"
)

// Host is what a Client speaks for. Its methods are called from the client's goroutine and return at once; what takes
// time is done elsewhere and reported by Client.Report.
type Host interface {
	// Linking is called at the start of each link, and returns every section as it is held. Requests made on the link
	// before are void.
	Linking() []section.Status
	// Stand is called once the link stands and whenever the standing changes.
	Stand(standing Standing, reason string)
	// Whole is a section as it was announced: neither its items' order nor its digest has been checked.
	Whole(announced section.Section)
	// Delta brings a section that is held to another value.
	Delta(delta section.Delta)
	// Order is something to do once.
	Order(order Order)
	// Word is what the control plane says of an order that it gave: that what was reported of it is stored, or that it is to end.
	Word(order string, stored, cancel bool)
	// Inventory is what the host is now.
	Inventory() Inventory
	// Health is that of every module.
	Health() []host.Health
	// HeartbeatBounds are those of the settings; zero where they say nothing.
	HeartbeatBounds() (least, most time.Duration)
}

// Inventory is what a host says of itself, with the digest by which both ends name it.
type Inventory struct {
	Inventory host.Inventory
	Ceiling   host.Ceiling
	Digest    []byte
}

// Options of a Client. Host, Store and Config are needed; Config must be complete.
type Options struct {
	Config  config.Config
	Store   *state.Store
	Host    Host
	Version string // of the agent
	BootID  string
	Uptime  func() time.Duration // of the host
	// Parted is called before this machine becomes a host of its own, which it held a copy of another's identity until
	// then: what it holds of that host's sections is to be forgotten. Nil: nobody wants to know.
	Parted func(state.Identity) error
	// Held is a section as it is held; false where it is not. Nil: none is.
	Held func(name string) (section.Section, bool)
	// Shell begins a shell and says why it does not; it may take its time. Nil: there are none here.
	Shell func(ctx context.Context, o ShellOrder) error
	Log   *slog.Logger

	// Dial connects to one endpoint; nil: by package wire, as Config says.
	Dial Dial
	// DialWebSocket is as Dial by a WebSocket alone; nil: by package wire. It tells whether one gets through again.
	DialWebSocket Dial
	// Promise is told, whenever the client begins something, by when it will be back at the latest: what a watchdog
	// needs to know that the client makes progress. Nil: nobody wants to know.
	Promise func(time.Duration)
}

// State of a client.
type State string

// The states. See the package comment.
const (
	Connecting State = "connecting"
	Waiting    State = "waiting"
	Linked     State = "linked"
	Refused    State = "refused"
	Stopped    State = "stopped"
)

// Status is where a client stands.
type Status struct {
	State     State
	Since     time.Time // when State began
	Endpoint  string    // of the link, or of the last attempt
	Transport string    // of the link
	Standing  Standing  // as last heard; empty before the first link
	Reason    string    // of the standing
	Heartbeat time.Duration
	Server    string        // version of the control plane
	Skew      time.Duration // by how much the control plane's clock is ahead of ours
	LastHeard time.Time
	RetryAt   time.Time    // while Waiting
	Attempts  int64        // that failed since the last link
	LastError *fault.Error // of the last attempt or link that failed
	ErrorAt   time.Time
	Keyset    uint64 // highest version seen
	Key       int64  // generation
}

// Client keeps the link. Make it with New, run it with Run.
type Client struct {
	options  Options
	log      *slog.Logger
	outbox   outbox
	troubles troubles
	sessions tls.ClientSessionCache // of streams
	early    float64                // by what part of a tenth the key is rotated before its time

	// The client's goroutine alone uses these.
	identity state.Identity
	trust    state.Trust
	links    uint64               // number of the last one since boot
	returns  int                  // to earlier endpoints, none of which gave a link that stood
	notUntil map[string]time.Time // endpoints that named a time to return

	mu       sync.Mutex
	status   Status      // guarded by mu
	trusting state.Trust // as trust; guarded by mu
	clock    clock       // guarded by mu
}

// New makes a client for an enrolled host: it reads the identity and what is trusted. It fails where the identity is
// missing or damaged.
func New(o Options) (*Client, error) {
	identity, err := o.Store.Identity()
	if err != nil {
		return nil, err
	}
	if !identity.Enrolled() {
		return nil, state.ErrNoIdentity
	}
	known, aside, err := o.Store.Trust(o.Config.Anchor)
	if err != nil {
		return nil, err
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if aside != nil {
		o.Log.Warn("the control plane's keyset has to be learnt again", "error", aside)
	}
	if o.Dial == nil {
		o.Dial = Dialler(o.Config)
	}
	if o.DialWebSocket == nil {
		alone := o.Config
		alone.Transport = wire.WebSocket
		o.DialWebSocket = Dialler(alone)
	}
	if o.Promise == nil {
		o.Promise = func(time.Duration) {}
	}
	if o.Parted == nil {
		o.Parted = func(state.Identity) error { return nil }
	}
	if o.Held == nil {
		o.Held = func(string) (section.Section, bool) { return section.Section{}, false }
	}
	if o.Uptime == nil {
		o.Uptime = func() time.Duration { return 0 }
	}
	return &Client{
		options: o, log: o.Log, outbox: newOutbox(), early: rand.Float64(),
		identity: identity, trust: known, notUntil: map[string]time.Time{},
		trusting: known, sessions: tls.NewLRUClientSessionCache(endpointSessions),
		status: Status{State: Connecting, Since: time.Now(), Keyset: known.Version, Key: identity.Generation},
	}, nil
}

// HostID is the host's id.
func (c *Client) HostID() string { return c.identity.HostID }

// Status is where the client stands.
func (c *Client) Status() Status {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.status
}

func (c *Client) update(change func(*Status)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	before := c.status.State
	change(&c.status)
	if c.status.State != before {
		c.status.Since = time.Now()
	}
}

// Run keeps the link until ctx ends; then it says goodbye and returns.
func (c *Client) Run(ctx context.Context) {
	defer c.update(func(s *Status) { s.State = Stopped })
	failures := 0
	for ctx.Err() == nil {
		stood, err := c.round(ctx)
		switch {
		case errors.Is(err, errAnew):
			continue
		case errors.Is(err, errFinal):
			c.refused(ctx)
			return
		}
		switch {
		case stood >= steady:
			failures = 0
		case stood > 0:
			// It let us in: it is there and paces us itself. A control plane that is restarted several times in a row is
			// not waited for as one that was away for an hour.
			failures = min(failures, welcomedFailures)
		}
		c.wait(ctx, failures)
		failures++
	}
}

// refused stays here until the agent stops: what the control plane has said for good is not asked again.
func (c *Client) refused(ctx context.Context) {
	c.update(func(s *Status) { s.State = Refused })
	c.log.Error("the control plane refuses this host for good; not trying again", "error", c.Status().LastError)
	for ctx.Err() == nil {
		c.pause(ctx, time.Hour)
	}
}

// round tries each endpoint that may be asked now, until one has given a link and that has ended. It tells how long the
// link stood.
func (c *Client) round(ctx context.Context) (stood time.Duration, err error) {
	for i, endpoint := range c.options.Config.Endpoints {
		if time.Now().Before(c.notUntil[endpoint]) {
			continue
		}
		stood, err = c.attempt(ctx, endpoint)
		if stood >= steady && i == 0 {
			c.returns = 0
		}
		if ctx.Err() != nil {
			return stood, ctx.Err()
		}
		if errors.Is(err, errAnew) {
			return stood, err
		}
		f := fault.Of(err)
		if f.RetryAfter > 0 {
			c.notUntil[endpoint] = time.Now().Add(min(f.RetryAfter, MaxRetryAfter))
		}
		c.update(func(s *Status) {
			s.State, s.Transport, s.LastError, s.ErrorAt = Connecting, "", f, time.Now()
			if stood == 0 {
				s.Attempts++
			}
		})
		if stood == 0 {
			c.troubles.note(f, time.Now())
			c.log.Warn("no link to the control plane", "endpoint", endpoint, "code", f.Code, "error", f, "hint", f.Hint)
		} else {
			c.log.Info("the link ended", "endpoint", endpoint, "code", f.Code, "error", f)
		}
		if errors.Is(err, errFinal) || stood > 0 {
			return stood, err
		}
	}
	return stood, err
}

// wait pauses before the next round: at random up to a bound that doubles with each failure, and no less than until the
// first endpoint may be asked again.
func (c *Client) wait(ctx context.Context, failures int) {
	d := backoff(failures, rand.Float64())
	now := time.Now()
	var first time.Time
	for _, e := range c.options.Config.Endpoints {
		if at := c.notUntil[e]; first.IsZero() || at.Before(first) {
			first = at
		}
	}
	d = max(d, first.Sub(now))
	c.update(func(s *Status) { s.State, s.RetryAt = Waiting, now.Add(d) })
	c.pause(ctx, d)
	c.update(func(s *Status) { s.State, s.RetryAt = Connecting, time.Time{} })
}

// backoff is "full jitter": random, from 0 to 1, is the part of the bound that is waited.
func backoff(failures int, random float64) time.Duration {
	bound := MaxBackoff
	if failures < 16 {
		bound = min(MinBackoff<<failures, MaxBackoff)
	}
	return time.Duration(random * float64(bound))
}

func (c *Client) pause(ctx context.Context, d time.Duration) {
	c.options.Promise(d + time.Minute)
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// Errors between the parts of this package.
var (
	errAnew  = errors.New("the link ends so that a better one takes its place at once: by the next key, or by a WebSocket")
	errFinal = errors.New("refused for good")
)

// forgetful notes that something could not be stored. The link goes on: a host whose disk is full is one that its
// operators want to reach, and what was not stored is learnt or tried again.
func (c *Client) forgetful(err error) {
	f := fault.Of(err)
	c.troubles.note(f, time.Now())
	c.update(func(s *Status) { s.LastError, s.ErrorAt = f, time.Now() })
	c.log.Error("the agent's state cannot be stored", "code", f.Code, "error", f, "hint", f.Hint)
}

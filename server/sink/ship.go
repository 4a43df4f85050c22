package sink

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/loopbackd/loopback/access"
	"github.com/loopbackd/loopback/sink"
	"github.com/loopbackd/loopback/tenant"
)

// Sender hands events to a receiver. Send returns once the receiver has them all, as far as its protocol can tell; after
// an error the same events come again. It must give up when ctx ends.
type Sender interface {
	Send(ctx context.Context, batch []Event) error
	Close() error
}

// What an error of a sender is, besides one that passes by itself or that somebody has to mend: both are tried again and
// again, with everything behind it waiting.
var (
	errTooLarge = errors.New("the receiver takes no event of this size") // it gets it in smaller parts
	errRefused  = errors.New("the receiver refuses what it is sent")     // one of the batch may be to blame, alone
)

// Bounds of shipping.
const (
	maxEntries  = 1000    // entries read at once
	maxEvents   = 500     // events in a batch
	maxBytes    = 1 << 20 // of a batch, unless one event alone is larger
	dialTime    = 10 * time.Second
	sendTime    = 30 * time.Second // for a batch
	leaseTime   = time.Minute      // longer than a batch can take, after which at least renewal is left
	renewal     = 35 * time.Second // what is left of a lease when it is renewed: an idle sink costs no commit a look
	longestWait = time.Minute      // between two tries
	smallest    = 1024             // bytes that every receiver has to take
	noteEvery   = 10 * time.Second // progress without deliveries is noted this often
	witnessed   = time.Minute      // between two checkpoints that are sent along
	refusals    = 8                // of an entry alone, after which it is set aside
	setAside    = 10               // entries set aside in a row, after which the sink is to blame rather than they
)

// limits are the bytes of an event that receivers of a kind take.
func limitOf(s sink.Sink) int {
	if s.Limit > 0 {
		return int(s.Limit)
	}
	switch s.Kind {
	case sink.Syslog:
		return 7 << 10 // rsyslog's own limit for a message is 8 KiB
	case sink.File:
		return 0
	}
	return 256 << 10
}

// batchOf is how many bytes go out at once. Who takes no large event is not sent many at a time either.
func batchOf(s sink.Sink) int {
	if s.Limit > 0 {
		return min(maxBytes, int(s.Limit))
	}
	return maxBytes
}

// lessThan is the next smaller limit.
func lessThan(s sink.Sink) int64 {
	l := int64(limitOf(s))
	if l == 0 {
		l = 1 << 20
	}
	return max(l/2, smallest)
}

// Shipper ships what is new to every sink whose lease it holds. Sinks do not wait for each other.
type Shipper struct {
	service *Service
	options ShipOptions

	mu      sync.Mutex
	running map[string]context.CancelFunc
	status  map[string]Status
}

// ShipOptions of a Shipper.
type ShipOptions struct {
	Owner   string // of leases: the replica
	DataDir string // files are written below it
	Now     func() time.Time
	Logger  *slog.Logger
	Every   time.Duration                             // between two looks for something new; 0: a quarter of a second
	Dial    Dial                                      // nil: the network
	Watch   func(sink string, entries int, err error) // of every try; nil: nobody
	Aside   func(sink string)                         // of every dead letter; nil: nobody
}

// Dial connects to a receiver.
type Dial func(ctx context.Context, network, address string) (net.Conn, error)

// Status is how a sink does that this replica ships to.
type Status struct {
	Name        string
	Lag         int64 // entries that were committed and not looked at yet
	DeadLetters int64
	Err         string
}

// NewShipper makes a shipper; Run makes it work.
func NewShipper(s *Service, o ShipOptions) *Shipper {
	if o.Every == 0 {
		o.Every = 250 * time.Millisecond
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	if o.Watch == nil {
		o.Watch = func(string, int, error) {}
	}
	if o.Aside == nil {
		o.Aside = func(string) {}
	}
	if o.Dial == nil {
		o.Dial = (&net.Dialer{Timeout: dialTime}).DialContext
	}
	return &Shipper{service: s, options: o, running: map[string]context.CancelFunc{}, status: map[string]Status{}}
}

// Status of every sink that this replica ships to.
func (p *Shipper) Status() []Status {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := make([]Status, 0, len(p.status))
	for _, s := range p.status {
		out = append(out, s)
	}
	return out
}

// Run ships until ctx ends, and waits for what is under way.
func (p *Shipper) Run(ctx context.Context) error {
	tick := time.NewTicker(p.options.Every)
	defer tick.Stop()
	var couriers sync.WaitGroup
	defer couriers.Wait()
	for {
		if sinks, err := p.all(ctx); err == nil {
			for _, s := range sinks {
				p.start(ctx, &couriers, s)
			}
		} else if ctx.Err() == nil {
			p.options.Logger.Warn("sinks of the audit log cannot be read; trying again", "error", err)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

func (p *Shipper) all(ctx context.Context) ([]sink.Sink, error) {
	var out []sink.Sink
	q := sink.Query{Readable: access.Everywhere(), Page: tenant.Page{Size: tenant.MaxPage}}
	for {
		page, next, err := p.service.store.View().Sinks(ctx, q)
		if err != nil {
			return nil, err
		}
		if out = append(out, page...); next == "" {
			return out, nil
		}
		q.Page.Token = next
	}
}

// start gives a sink a courier of its own, unless it has one or somebody else ships.
func (p *Shipper) start(ctx context.Context, couriers *sync.WaitGroup, s sink.Sink) {
	if s.Paused || s.LeaseOwner != p.options.Owner && p.options.Now().Before(s.LeaseUntil) {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.running[s.ID] != nil {
		return
	}
	ctx, cancel := context.WithCancel(ctx)
	p.running[s.ID] = cancel
	couriers.Go(func() {
		defer cancel()
		c := &courier{shipper: p, id: s.ID, name: s.Name, owner: p.options.Owner}
		if err := c.run(ctx); err != nil && ctx.Err() == nil && !errors.Is(err, errNotOurs) {
			p.options.Logger.Warn("a sink of the audit log is left for now", "sink", s.Name, "error", err)
		}
		c.close()
		if ctx.Err() != nil {
			c.release(ctx)
		}
		p.mu.Lock()
		delete(p.running, s.ID)
		delete(p.status, s.ID)
		p.mu.Unlock()
	})
}

func (p *Shipper) open(s sink.Sink, secret []byte) (Sender, error) {
	switch s.Kind {
	case sink.Webhook:
		return newWebhook(s, secret, p.options.Now, p.options.Dial)
	case sink.Syslog:
		return newSyslog(s, p.service.options.Deployment, p.options.Dial)
	case sink.OTLP:
		return newOTLP(s, secret, p.service.options.Deployment, p.options.Dial)
	case sink.File:
		return newFile(s, p.options.DataDir)
	}
	return nil, fmt.Errorf("sinks of kind %q are not known", s.Kind)
}

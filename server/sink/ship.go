package sink

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	"github.com/loopbackd/loopback/access"
	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/sink"
	"github.com/loopbackd/loopback/tenant"
)

// Sender hands events to a receiver. Send returns once the receiver has them all, as far as its protocol can tell; after
// an error the same events come again. It must give up when ctx ends.
type Sender interface {
	Send(ctx context.Context, batch []Event) error
	Close() error
}

// errTooLarge says that the receiver takes no event of that size: it gets it in smaller parts.
var errTooLarge = errors.New("the receiver takes no event of this size")

// Bounds of shipping.
const (
	maxEntries  = 1000             // entries read at once
	maxEvents   = 500              // events in a batch
	maxBytes    = 1 << 20          // of a batch, unless one event alone is larger
	sendTime    = 30 * time.Second // for a batch
	leaseTime   = 45 * time.Second // longer than a batch can take
	longestWait = time.Minute      // between two tries
	smallest    = 1024             // bytes that every receiver has to take
	noteEvery   = 10 * time.Second // progress without deliveries is noted this often
	witnessed   = time.Minute      // between two checkpoints that are sent along
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
	Every   time.Duration // between two looks for something new; 0: a second
	Open    func(s sink.Sink, secret []byte) (Sender, error)
	Watch   func(sink string, entries int, err error) // of every try; nil: nobody
}

// Status is how a sink does that this replica ships to.
type Status struct {
	Name string
	Lag  int64 // entries that were committed and not looked at yet
	Err  string
}

// NewShipper makes a shipper; Run makes it work.
func NewShipper(s *Service, o ShipOptions) *Shipper {
	if o.Every == 0 {
		o.Every = time.Second
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	if o.Watch == nil {
		o.Watch = func(string, int, error) {}
	}
	out := &Shipper{service: s, options: o, running: map[string]context.CancelFunc{}, status: map[string]Status{}}
	if out.options.Open == nil {
		out.options.Open = out.open
	}
	return out
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
		c := &courier{shipper: p, id: s.ID, name: s.Name, nonce: p.options.Owner}
		if err := c.run(ctx); err != nil && ctx.Err() == nil && !errors.Is(err, errNotOurs) {
			p.options.Logger.Warn("a sink of the audit log is left for now", "sink", s.Name, "error", err)
		}
		c.close()
		p.mu.Lock()
		delete(p.running, s.ID)
		delete(p.status, s.ID)
		p.mu.Unlock()
	})
}

// errNotOurs ends a courier: its sink is gone, paused, or another replica's.
var errNotOurs = errors.New("the sink is not this replica's to serve")

// courier ships to one sink.
type courier struct {
	shipper *Shipper
	id      string
	name    string
	nonce   string

	sender   Sender
	revision int64     // of the sink that the sender was opened for
	reached  int64     // position up to which there is nothing left to send
	noted    time.Time // when that was last written down
	told     time.Time // when a checkpoint was last sent along
	head     int64
}

func (c *courier) close() {
	if c.sender != nil {
		_ = c.sender.Close() // what it had was answered for, or comes again
		c.sender = nil
	}
}

func (c *courier) run(ctx context.Context) error {
	for failures := int64(0); ; {
		more, err := c.once(ctx)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, errNotOurs), fault.KindOf(err) == fault.NotFound && err != nil:
			return errNotOurs
		}
		wait := c.shipper.options.Every
		if err != nil {
			failures++
			wait = min(longestWait, wait<<min(failures-1, 16))
			wait = wait/2 + rand.N(wait/2+1)
			if errors.Is(err, errTooLarge) && failures < 12 {
				wait = 0 // it is asked again at once, for less
			}
		} else {
			failures = 0
			if more {
				continue
			}
		}
		t := time.NewTimer(wait)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return ctx.Err()
		}
	}
}

// once takes the lease, sends the next entries and moves the cursor. more says that there are others behind.
func (c *courier) once(ctx context.Context) (more bool, err error) {
	p := c.shipper
	store := p.service.store
	var s sink.Sink
	err = store.Observe(ctx, func(tx Tx) error {
		var err error
		if s, err = c.held(ctx, tx); err != nil {
			return err
		}
		return tx.MoveSink(ctx, s)
	})
	if err != nil {
		return false, err
	}
	view := store.View()
	if c.head, err = view.AuditPosition(ctx); err != nil {
		return false, err
	}
	from := max(s.Cursor, c.reached)
	if c.reached < s.Cursor || s.Revision != c.revision {
		from = s.Cursor // a replay goes back
	}
	entries, err := view.EntriesOf(ctx, s.Organisation, from, maxEntries)
	if err != nil {
		return false, err
	}
	if s.Revision != c.revision {
		c.close()
	}
	var batch []Event
	upTo, size, taken := from, 0, 0
	for _, e := range entries {
		parts := encode(e, s.Format, limitOf(s))
		bytes := 0
		for _, part := range parts {
			bytes += len(part.Body)
		}
		if len(batch) > 0 && (size+bytes > batchOf(s) || len(batch)+len(parts) > maxEvents) {
			break
		}
		batch, size, upTo, taken = append(batch, parts...), size+bytes, e.Position, taken+1
	}
	more = taken < len(entries) || len(entries) == maxEntries
	if !more {
		upTo = max(upTo, c.head) // what lies between is not this sink's
	}
	var note string
	if !more && p.service.options.Log != nil && p.options.Now().Sub(c.told) >= witnessed {
		if l, err := p.service.options.Log(ctx); err == nil && l.Checkpoint != "" && l.Checkpoint != s.CheckpointLog {
			batch, note = append(batch, witness(l, upTo)), l.Checkpoint
		}
	}
	if len(batch) > 0 {
		err = c.send(ctx, &s, batch)
		p.options.Watch(s.Name, taken, err)
	}
	if err == nil {
		c.revision, c.reached = s.Revision, upTo
		if note != "" {
			c.told = p.options.Now()
		}
	}
	c.report(s, err)
	if ctx.Err() != nil {
		return false, ctx.Err()
	}
	if err == nil && len(batch) == 0 && (upTo == s.Cursor || p.options.Now().Sub(c.noted) < noteEvery) {
		return more, nil
	}
	c.noted = p.options.Now()
	done := err
	return more, errors.Join(done, store.Observe(ctx, func(tx Tx) error {
		now, err := c.held(ctx, tx)
		if err != nil {
			return err
		}
		if now.Revision != s.Revision {
			return nil // it was changed meanwhile, perhaps to be sent again: its cursor stands
		}
		if done != nil {
			now.Failures, now.LastError, now.FailedAt = now.Failures+1, short(done), p.options.Now().UTC()
			if errors.Is(done, errTooLarge) {
				now.Limit = lessThan(now)
			}
			return tx.MoveSink(ctx, now)
		}
		if now.Cursor = upTo; len(batch) > 0 {
			now.Delivered, now.Failures, now.DeliveredAt = now.Delivered+int64(taken), 0, p.options.Now().UTC()
		}
		if note != "" {
			now.CheckpointLog = note
		}
		return tx.MoveSink(ctx, now)
	}))
}

// held is the sink as it is now, with its lease taken or renewed.
func (c *courier) held(ctx context.Context, tx Tx) (sink.Sink, error) {
	s, err := tx.Sink(ctx, c.id)
	if err != nil {
		return s, err
	}
	now := c.shipper.options.Now()
	if s.Paused || s.LeaseOwner != c.nonce && now.Before(s.LeaseUntil) {
		return s, errNotOurs
	}
	s.LeaseOwner, s.LeaseUntil = c.nonce, now.Add(leaseTime).UTC()
	return s, nil
}

func (c *courier) send(ctx context.Context, s *sink.Sink, batch []Event) (err error) {
	ctx, cancel := context.WithTimeout(ctx, sendTime)
	defer cancel()
	if c.sender == nil {
		secret, err := c.shipper.service.open(*s)
		if err != nil {
			return err
		}
		if c.sender, err = c.shipper.options.Open(*s, secret); err != nil {
			return err
		}
	}
	for len(batch) > 0 { // an event in many parts is more than a batch
		n, size := 0, 0
		for n < len(batch) && n < maxEvents && (n == 0 || size+len(batch[n].Body) <= batchOf(*s)) {
			size += len(batch[n].Body)
			n++
		}
		if err := c.sender.Send(ctx, batch[:n]); err != nil {
			c.close()
			return err
		}
		batch = batch[n:]
	}
	return nil
}

func (c *courier) report(s sink.Sink, err error) {
	st := Status{Name: s.Name, Lag: max(0, c.head-max(c.reached, s.Cursor))}
	if err != nil {
		st.Err = short(err)
	}
	p := c.shipper
	p.mu.Lock()
	before := p.status[s.ID]
	p.status[s.ID] = st
	p.mu.Unlock()
	switch {
	case st.Err != "" && st.Err != before.Err:
		p.options.Logger.Warn("a sink of the audit log does not take what is sent; trying again", "sink", s.Name, "error", st.Err)
	case st.Err == "" && before.Err != "":
		p.options.Logger.Info("a sink of the audit log takes what is sent again", "sink", s.Name)
	}
}

// short is an error in one line that fits a table.
func short(err error) string {
	s := strings.Join(strings.Fields(err.Error()), " ")
	if len(s) > 300 {
		s = s[:300] + "…"
	}
	return s
}

func (p *Shipper) open(s sink.Sink, secret []byte) (Sender, error) {
	switch s.Kind {
	case sink.Webhook:
		return newWebhook(s, secret, p.options.Now)
	case sink.Syslog:
		return newSyslog(s, p.service.options.Deployment)
	case sink.OTLP:
		return newOTLP(s, secret, p.service.options.Deployment)
	case sink.File:
		return newFile(s, p.options.DataDir)
	}
	return nil, fmt.Errorf("sinks of kind %q are not known", s.Kind)
}

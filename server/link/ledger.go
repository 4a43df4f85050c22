package link

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/host"
	"github.com/loopbackd/loopback/section"
)

// ledger keeps what was observed until it is durable: merged by host, so that it holds at most one observation for each,
// and handed over in the order in which hosts first came up. While one batch is being stored the next one gathers, which
// makes batches as large as the database is slow.
type ledger struct {
	observer Observer
	batch    int
	logger   *slog.Logger
	metrics  *metrics
	wake     chan struct{}

	mu      sync.Mutex
	facts   map[string]*Observation
	queue   []string // hosts in facts, each once
	storing int
	settled []chan struct{} // closed when nothing is left
}

func newLedger(o Observer, batch int, logger *slog.Logger, m *metrics) *ledger {
	l := &ledger{observer: o, batch: batch, logger: logger, metrics: m, wake: make(chan struct{}, 1), facts: map[string]*Observation{}}
	m.gauge("observations_waiting", "Hosts of which something seen is not stored yet.", func() float64 { return float64(l.waiting()) })
	return l
}

// add notes a fact.
func (l *ledger) add(hostID string, at time.Time, note func(*Observation)) {
	l.mu.Lock()
	o := l.facts[hostID]
	if o == nil {
		o = &Observation{HostID: hostID}
		l.facts[hostID] = o
		l.queue = append(l.queue, hostID)
	}
	if at.After(o.At) {
		o.At = at
	}
	note(o)
	l.mu.Unlock()
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

func (l *ledger) waiting() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.facts) + l.storing
}

// take removes the next batch.
func (l *ledger) take() []Observation {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := min(len(l.queue), l.batch)
	out := make([]Observation, n)
	for i, id := range l.queue[:n] {
		out[i] = *l.facts[id]
		delete(l.facts, id)
	}
	if l.queue = l.queue[n:]; len(l.queue) == 0 {
		l.queue = nil
	}
	l.storing = n
	if n == 0 {
		for _, c := range l.settled {
			close(c)
		}
		l.settled = nil
	}
	return out
}

// putBack returns what could not be stored, behind whatever came in meanwhile: the newest wins.
func (l *ledger) putBack(batch []Observation) {
	l.mu.Lock()
	defer l.mu.Unlock()
	ids := make([]string, 0, len(batch))
	for _, old := range batch {
		if newer := l.facts[old.HostID]; newer != nil {
			newer.mergeOlder(old)
			continue
		}
		l.facts[old.HostID] = &old
		ids = append(ids, old.HostID)
	}
	l.queue = append(ids, l.queue...)
	l.storing = 0
}

// run stores what comes in until ctx ends.
func (l *ledger) run(ctx context.Context) {
	const first, most = 50 * time.Millisecond, 5 * time.Second
	wait := first
	for {
		batch := l.take()
		if len(batch) == 0 {
			select {
			case <-ctx.Done():
				return
			case <-l.wake:
			}
			continue
		}
		if left := l.store(ctx, batch); len(left) > 0 {
			l.putBack(left)
			select {
			case <-ctx.Done():
				return
			case <-time.After(wait + rand.N(wait)):
			}
			wait = min(2*wait, most)
			continue
		}
		wait = first
		if len(batch) >= crowded && !l.full() {
			select {
			case <-ctx.Done():
			case <-time.After(linger):
			}
		}
	}
}

// Where many hosts come at once, each is about to say more: its presence is followed by its inventory and its sections.
// Waiting for a moment makes one write of them. A host that comes alone is not kept waiting.
const (
	crowded = 16 // hosts in a batch
	linger  = 200 * time.Millisecond
)

// full tells whether a whole batch waits.
func (l *ledger) full() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.queue) >= l.batch
}

// store hands a batch over and returns what has to be tried again.
func (l *ledger) store(ctx context.Context, batch []Observation) []Observation {
	bounded, cancel := context.WithTimeout(ctx, durable)
	err := l.observer.Observe(bounded, batch)
	cancel()
	switch fault.KindOf(err) {
	case "":
		l.metrics.observations.WithLabelValues("stored").Add(float64(len(batch)))
		return nil
	case fault.Unavailable, fault.Timeout, fault.Conflict, fault.Canceled, fault.Exhausted:
		l.metrics.observations.WithLabelValues("retried").Add(float64(len(batch)))
		l.logger.Warn("observations wait for the database", "hosts", len(batch), "error", err)
		return batch
	}
	if len(batch) == 1 {
		l.metrics.observations.WithLabelValues("dropped").Inc()
		l.logger.Error("an observation cannot be stored", "host", batch[0].HostID, "error", err)
		return nil
	}
	half := len(batch) / 2
	return append(l.store(ctx, batch[:half]), l.store(ctx, batch[half:])...)
}

// drain waits until everything is stored, or ctx ends.
func (l *ledger) drain(ctx context.Context) {
	settled := make(chan struct{})
	l.mu.Lock()
	l.settled = append(l.settled, settled)
	l.mu.Unlock()
	select {
	case l.wake <- struct{}{}:
	default:
	}
	select {
	case <-settled:
	case <-ctx.Done():
	}
}

// mergeOlder fills what o does not say with what an older observation of the same host said.
func (o *Observation) mergeOlder(old Observation) {
	if o.Presence == nil {
		o.Presence = old.Presence
	}
	if o.AgentVersion == "" {
		o.AgentVersion = old.AgentVersion
	}
	if o.Modules == nil {
		o.Modules = old.Modules
	}
	if o.Inventory == nil {
		o.Inventory = old.Inventory
	}
	if o.Ongoing == nil {
		o.Ongoing = old.Ongoing
	}
	for _, t := range old.Met {
		if !slices.ContainsFunc(o.Met, func(n host.Trouble) bool { return n.Code == t.Code }) {
			o.Met = append(o.Met, t)
		}
	}
	for _, s := range old.Sections {
		if !slices.ContainsFunc(o.Sections, func(n section.Status) bool { return n.Name == s.Name }) {
			o.Sections = append(o.Sections, s)
		}
	}
	if old.At.After(o.At) {
		o.At = old.At
	}
}

// met notes a trouble in the place of an older one. One agent has few.
func (o *Observation) met(t host.Trouble) {
	for i := range o.Met {
		if o.Met[i].Code == t.Code {
			o.Met[i] = t
			return
		}
	}
	if len(o.Met) < host.MaxTroubles {
		o.Met = append(o.Met, t)
	}
}

// setStatus puts a section's status in the place of an older one.
func (o *Observation) setStatus(s section.Status) {
	for i := range o.Sections {
		if o.Sections[i].Name == s.Name {
			o.Sections[i] = s
			return
		}
	}
	o.Sections = append(o.Sections, s)
}

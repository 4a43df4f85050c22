// Package witness has a few hosts of each workspace remember the audit log's checkpoints.
//
// A host's next checkpoint is a row that its section follows from (package fleet). It is written when the host has confirmed the one
// before, with the proof that leads from that one to the next; a host that is away keeps its row, and is led on from there once
// it is back. The replica that signs the log writes the rows.
package witness

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"log/slog"
	"slices"
	"time"

	"github.com/loopbackd/loopback/access"
	"github.com/loopbackd/loopback/audit"
	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/host"
	"github.com/loopbackd/loopback/label"
	"github.com/loopbackd/loopback/ledger"
	"github.com/loopbackd/loopback/section"
	"github.com/loopbackd/loopback/witness"
)

// Reader reads the rows.
type Reader interface {
	Witnesses(ctx context.Context) ([]witness.Stored, error)
}

// Tx changes them.
type Tx interface {
	Reader
	PutWitness(ctx context.Context, w witness.Stored) (witness.Stored, error)
}

// Store is where they are kept.
type Store interface {
	View() Reader
	Observe(ctx context.Context, change func(Tx) error) error
}

// Ledger is the log.
type Ledger interface {
	Current(ctx context.Context) (ledger.Log, error)
	Grown(ctx context.Context, number, from, to int64) ([]ledger.Hash, error)
	Key() ledger.Key
}

// Fleet is the hosts.
type Fleet interface {
	Snapshot(within access.Scope) ([]*host.Host, int64)
	Host(id string) (*host.Host, bool)
}

// Options of the service.
type Options struct {
	Store  Store
	Ledger Ledger
	Fleet  Fleet
	Owner  string // this replica: only the one that signs the log leads witnesses on
	Now    func() time.Time
	Every  time.Duration // between two checkpoints of one host; 0: ten minutes
	Logger *slog.Logger
}

// Service leads witnesses on.
type Service struct {
	options Options
	last    map[string]time.Time // when a host was last led on, by this process
}

// New makes the service. Its Run does the work.
func New(o Options) *Service {
	if o.Every == 0 {
		o.Every = 10 * time.Minute
	}
	return &Service{options: o, last: map[string]time.Time{}}
}

// look is how often it is looked who has to be led on.
const look = time.Minute

// Run leads witnesses on until ctx ends.
func (s *Service) Run(ctx context.Context) error {
	tick := time.NewTicker(min(look, s.options.Every))
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			if err := s.Advance(ctx); err != nil && ctx.Err() == nil {
				s.options.Logger.WarnContext(ctx, "hosts that remember the audit log were not led on", "error", fault.Of(err).Error())
			}
		case <-ctx.Done():
			return nil
		}
	}
}

// Advance leads on whoever has confirmed their last checkpoint.
func (s *Service) Advance(ctx context.Context) error {
	l, err := s.options.Ledger.Current(ctx)
	if err != nil {
		if fault.Of(err).Code == "audit_log_unsigned" {
			return nil
		}
		return err
	}
	if l.LeaseOwner != s.options.Owner || l.Signed == 0 {
		return nil
	}
	stored, err := s.options.Store.View().Witnesses(ctx)
	if err != nil {
		return err
	}
	rows := map[string]witness.Stored{}
	for _, w := range stored {
		rows[w.HostID] = w
	}
	for _, h := range s.chosen() {
		row, ok := rows[h.ID]
		next, err := s.next(ctx, h, row, ok, l)
		if err != nil || next == nil {
			if err != nil {
				return err
			}
			continue
		}
		if err := s.options.Store.Observe(ctx, func(tx Tx) error { _, err := tx.PutWitness(ctx, *next); return err }); err != nil {
			return err
		}
		s.last[h.ID] = s.options.Now()
	}
	return nil
}

// chosen are the hosts that remember.
func (s *Service) chosen() []*host.Host {
	all, _ := s.options.Fleet.Snapshot(access.Scope{})
	by := map[string][]*host.Host{}
	for _, h := range all {
		able := slices.ContainsFunc(h.Modules, func(m host.Health) bool { return m.Module == witness.SectionName })
		if h.Lifecycle == host.LifecycleActive && able {
			by[h.Scope.Workspace] = append(by[h.Scope.Workspace], h)
		}
	}
	var out []*host.Host
	for _, hosts := range by {
		out = append(out, Chosen(hosts)...)
	}
	slices.SortFunc(out, func(a, b *host.Host) int { return cmp.Compare(a.ID, b.ID) })
	return out
}

// Chosen are those of one workspace's hosts that remember.
func Chosen(hosts []*host.Host) []*host.Host {
	hosts = slices.Clone(hosts)
	slices.SortFunc(hosts, func(a, b *host.Host) int {
		x, y := sha256.Sum256([]byte(a.ID)), sha256.Sum256([]byte(b.ID))
		return bytes.Compare(x[:], y[:])
	})
	return hosts[:min(len(hosts), witness.Each)]
}

// next is the step that a host is to take; nil: none yet.
func (s *Service) next(ctx context.Context, h *host.Host, row witness.Stored, known bool, l ledger.Log) (*witness.Stored, error) {
	step := witness.Stored{HostID: h.ID, Scope: h.Scope, Log: l.Number, Size: l.Signed, Step: witness.Step{Key: s.options.Ledger.Key().String(), Checkpoint: l.Checkpoint, Previous: l.Previous, Handovers: l.Handovers}}
	if !known {
		return &step, nil
	}
	confirmed := slices.ContainsFunc(h.Sections, func(st section.Status) bool {
		return st.Name == witness.SectionName && st.Revision.Number == uint64(row.Revision) && (st.State == section.Applied || st.State == section.Degraded)
	})
	switch {
	case row.Log == l.Number && row.Size >= l.Signed: // nothing new
		return nil, nil
	case row.Log != l.Number: // a backup was restored: what the host remembers is of the log before
		end, err := s.options.Ledger.Key().Chain(l.Handovers).Open(l.Previous)
		if err == nil && row.Log == l.Number-1 && end.Size > row.Size {
			step.Base = row.Size
			step.Proof, err = s.options.Ledger.Grown(ctx, row.Log, row.Size, end.Size)
			return &step, err
		}
		return &step, nil
	case !confirmed:
		for _, st := range h.Sections { // an older state of the host was put back: it is led on from what it remembers
			size, ok := witness.Remembers(st.Message)
			if ok && st.Name == witness.SectionName && st.State == section.Failed && st.Revision.Number == uint64(row.Revision) && size <= l.Signed {
				step.Base = size
				var err error
				step.Proof, err = s.options.Ledger.Grown(ctx, l.Number, size, l.Signed)
				return &step, err
			}
		}
		return nil, nil
	case s.options.Now().Sub(s.last[h.ID]) < s.options.Every:
		return nil, nil
	}
	var err error
	step.Base = row.Size
	step.Proof, err = s.options.Ledger.Grown(ctx, l.Number, row.Size, l.Signed)
	return &step, err
}

// Remembering is what is known of a host that remembers.
type Remembering struct {
	witness.Stored
	Name   string         // of the host
	Status section.Status // as the host says itself
	labels label.Set
}

// Count is how many hosts remember, by what they say to the last checkpoint.
func (s *Service) Count(ctx context.Context) (map[section.State]int, error) {
	out := map[section.State]int{section.Pending: 0, section.Applied: 0, section.Degraded: 0, section.Failed: 0}
	all, err := s.all(ctx)
	for _, one := range all {
		out[one.Status.State]++
	}
	return out, err
}

// List is the hosts that remember, in sight of whoever may read them. It needs audit.verify.
func (s *Service) List(ctx context.Context) ([]Remembering, error) {
	actor := access.ActorFrom(ctx)
	if !actor.Touches(audit.Verify) {
		return nil, actor.Refused(audit.Verify)
	}
	all, err := s.all(ctx)
	return slices.DeleteFunc(all, func(r Remembering) bool {
		return !actor.DecideOn(host.Read, r.Scope, r.HostID, r.labels).Allowed
	}), err
}

func (s *Service) all(ctx context.Context) ([]Remembering, error) {
	rows, err := s.options.Store.View().Witnesses(ctx)
	if err != nil {
		return nil, err
	}
	var out []Remembering
	for _, w := range rows {
		h, ok := s.options.Fleet.Host(w.HostID)
		if !ok {
			continue
		}
		one := Remembering{Stored: w, Name: h.Name, labels: h.Labels, Status: section.Status{Name: witness.SectionName, State: section.Pending}}
		one.Scope = h.Scope // it may have moved since
		for _, st := range h.Sections {
			if st.Name == witness.SectionName {
				one.Status = st
			}
		}
		out = append(out, one)
	}
	return out, nil
}

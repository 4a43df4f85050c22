package replica

import (
	"context"
	"time"

	"github.com/loopbackd/loopback/access"
	"github.com/loopbackd/loopback/replica"
)

// Seen is a replica as this one sees it.
type Seen struct {
	replica.Replica
	State    replica.State
	Me       bool
	Leases   []string // filled in by List
	Troubles []replica.Trouble
}

// List is all replicas for whoever may see them over the whole deployment: where they are is nobody else's business. A
// control plane that is alone lists itself.
func (s *Service) List(ctx context.Context) ([]Seen, error) {
	if !access.ActorFrom(ctx).Decide(replica.Read, access.Scope{}).Allowed {
		return nil, access.Denied(replica.Read)
	}
	all := s.All()
	if len(all) == 0 {
		s.mu.Lock()
		me := Seen{Replica: s.me, State: replica.Serving, Me: true}
		s.mu.Unlock()
		me.SeenAt = s.Now().UTC()
		s.report(ctx, &me.Replica)
		me.BusPeers = -1 // it has no others
		all = []Seen{me}
	}
	leases, err := s.Store.View().Leases(ctx, s.Now())
	if err != nil {
		return nil, err
	}
	for i := range all {
		for _, l := range leases {
			if l.Owner == all[i].Name {
				all[i].Leases = append(all[i].Leases, l.What)
			}
		}
	}
	return all, nil
}

// All are the replicas, by name, as they were looked at last; none where this one is alone.
func (s *Service) All() []Seen {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.Now()
	out := make([]Seen, 0, len(s.rows))
	for _, r := range s.rows {
		one := Seen{Replica: r, State: replica.Serving, Me: r.Name == s.me.Name}
		switch {
		case r.Beat == 0:
			one.State = replica.Left
		case !s.leased(r, now) && !one.Me:
			one.State = replica.Gone
		case r.Leaving:
			one.State = replica.Leaving
		}
		out = append(out, one)
	}
	compare(out)
	for i, r := range out {
		if (r.State == replica.Serving || r.State == replica.Leaving) && !r.Me && s.Reached != nil && !s.Reached(r.Name) {
			out[i].Troubles = append(out[i].Troubles, replica.PeerCut)
		}
	}
	return out
}

// compare notes in what each differs from the others.
func compare(all []Seen) {
	buses, newest := int64(0), int64(0)
	lives := func(r Seen) bool { return r.State == replica.Serving || r.State == replica.Leaving }
	for _, r := range all {
		if r.State == replica.Serving && r.Routes != "" {
			buses++
		}
		if lives(r) {
			newest = max(newest, r.Keyset)
		}
	}
	for i, r := range all {
		note := func(t replica.Trouble, is bool) {
			if is {
				all[i].Troubles = append(all[i].Troubles, t)
			}
		}
		note(replica.IsGone, r.State == replica.Gone)
		if !lives(r) {
			continue
		}
		note(replica.ClockApart, r.ClockKnown && r.ClockOffset.Abs() > replica.ClockTolerance)
		others := int64(1) // of a bus outside
		if r.Routes != "" {
			others = max(0, buses-1)
		}
		note(replica.BusCut, r.State == replica.Serving && r.BusPeers >= 0 && r.BusPeers < others)
		note(replica.KeysetOld, r.Keyset > 0 && r.Keyset < newest)
	}
}

// Count is how many replicas are in a state.
func (s *Service) Count(state replica.State) int {
	n := 0
	for _, r := range s.All() {
		if r.State == state {
			n++
		}
	}
	return n
}

// Troubled is how many have a trouble.
func (s *Service) Troubled(t replica.Trouble) int {
	n := 0
	for _, r := range s.All() {
		for _, has := range r.Troubles {
			if has == t {
				n++
			}
		}
	}
	return n
}

// ClockOffset is by how much this replica's clock is ahead of the database's; 0 where it was not measured.
func (s *Service) ClockOffset() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ahead
}

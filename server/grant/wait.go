package grant

import (
	"context"
	"slices"
	"time"

	"github.com/loopbackd/loopback/access"
	"github.com/loopbackd/loopback/audit"
	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/grant"
	"github.com/loopbackd/loopback/server/feed"
)

// Bounds of a wait.
const (
	DefaultWait = time.Minute
	MaxWait     = 10 * time.Minute
)

// lookAgain is how often a waiter looks by itself: the feed is quicker, and does not tell that time passed.
const lookAgain = 5 * time.Second

// Wait answers when a grant is no longer in a state, or when the time is over, with the grant as it is then.
func (s *Service) Wait(ctx context.Context, ref string, known grant.State, atMost time.Duration) (grant.Grant, error) {
	if known == "" {
		known = grant.Pending
	}
	if atMost == 0 {
		atMost = DefaultWait
	}
	var c fault.Check
	c.That(atMost > 0 && atMost <= MaxWait, "timeout", "is %s; allowed are up to %s", atMost, MaxWait)
	c.That(slices.Contains(grant.States, known), "state", "is %q; allowed are %v", string(known), grant.States)
	if err := c.Err("request_invalid", "the request is not valid"); err != nil {
		return grant.Grant{}, err
	}
	changed, stop := s.watch(ref)
	defer stop()
	over := time.NewTimer(atMost)
	defer over.Stop()
	again := time.NewTicker(lookAgain)
	defer again.Stop()
	for {
		g, err := s.Get(ctx, ref)
		if err != nil || g.At(s.now()) != known {
			return g, err
		}
		select {
		case <-changed:
		case <-again.C:
		case <-over.C:
			return g, nil
		case <-ctx.Done():
			return grant.Grant{}, ctx.Err()
		}
	}
}

func (s *Service) watch(id string) (<-chan struct{}, func()) {
	c := make(chan struct{}, 1)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.waiting[id] == nil {
		s.waiting[id] = map[chan struct{}]bool{}
	}
	s.waiting[id][c] = true
	return c, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.waiting[id], c)
		if len(s.waiting[id]) == 0 {
			delete(s.waiting, id)
		}
	}
}

// Follow tells waiters of the grants that changed, until ctx ends.
func (s *Service) Follow(ctx context.Context, from *feed.Subscription) error {
	for {
		changes, _, err := from.Next(ctx)
		if err != nil {
			return nil
		}
		s.mu.Lock()
		for _, change := range changes {
			if change.Kind != feed.Grant {
				continue
			}
			for c := range s.waiting[change.ID] {
				select {
				case c <- struct{}{}:
				default: // it has yet to look at the change before
				}
			}
		}
		s.mu.Unlock()
	}
}

// sweepEvery is how often ends are noted. What a grant gives is over at its time, noted or not.
const sweepEvery = 10 * time.Second

// Run notes the ends of grants, until ctx ends.
func (s *Service) Run(ctx context.Context) error {
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			if err := s.Sweep(ctx); err != nil && ctx.Err() == nil {
				s.log.ErrorContext(ctx, "the ends of grants could not be noted", "error", err)
			}
		case <-ctx.Done():
			return nil
		}
	}
}

// Sweep notes requests that nobody decided in time, and grants that are over. Replicas may do it at once.
func (s *Service) Sweep(ctx context.Context) error {
	due, err := s.store.View().DueGrants(ctx, s.now())
	if err != nil {
		return err
	}
	actor := access.Actor{Kind: access.System, Name: "grants"}
	for _, seen := range due {
		err := s.store.Write(ctx, func(tx Tx) error {
			before, err := tx.Grant(ctx, seen.ID)
			if err != nil || before.Revision != seen.Revision {
				return err // another replica noted it
			}
			action, to := grant.End, before.At(s.now())
			after := before
			switch to {
			case grant.Expired:
				action = grant.Expire
			case grant.Active:
				to, after.Comment = grant.Revoked, "its binding was deleted"
			}
			if after, err = s.end(ctx, tx, after, to, "system"); err != nil {
				return err
			}
			if after, err = tx.PutGrant(ctx, after); err != nil {
				return err
			}
			return tx.Audit(ctx, audit.Of(actor, action, after.Scope, after.ID, after.RoleName).Because(after.Comment).Change(describe(before), describe(after)))
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// Count is how many grants are noted to be of a state.
func (s *Service) Count(ctx context.Context, state grant.State) (int64, error) {
	return s.store.View().CountGrants(ctx, state, "")
}

package guest

import (
	"context"
	"net/netip"
	"time"

	"github.com/loopbackd/loopback/access"
	"github.com/loopbackd/loopback/audit"
	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/guest"
	"github.com/loopbackd/loopback/server/feed"
)

// stay is a guest who watches, over one connection.
type stay struct {
	cancel context.CancelCauseFunc
	stir   chan struct{} // holds one when the guest's row may have changed
	done   chan struct{} // closed once it is written that they left
}

const (
	askAgain   = 10 * time.Second // how often it is asked whether a guest may stay though nothing changed
	askWithin  = 5 * time.Second
	leftWithin = 30 * time.Second // for the database to take that a guest left
)

// errStopping sends guests away who come while the replica stops.
var errStopping = fault.New(fault.Unavailable, "stopping", "the control plane is stopping").WithHint("try again in a moment")

// Join notes that a guest came, whom Open let in. The context is ctx until they may not stay, with why as its cause; leave has them
// go in any case, for a reason or nil, and returns once that is written.
func (s *Service) Join(ctx context.Context, g guest.Guest, from netip.Addr) (staying context.Context, leave func(why error), err error) {
	changed := s.Policy.Changed() // before asking: what changes meanwhile is seen next
	staying, cancel := context.WithCancelCause(ctx)
	st := &stay{cancel, make(chan struct{}, 1), make(chan struct{})}
	s.mu.Lock()
	if s.closing {
		s.mu.Unlock()
		cancel(nil)
		return nil, nil, errStopping
	}
	before := s.here[g.ID]
	s.here[g.ID] = st
	s.work.Add(1)
	s.mu.Unlock()
	gone := func() {
		s.mu.Lock()
		if s.here[g.ID] == st {
			delete(s.here, g.ID)
		}
		s.mu.Unlock()
		close(st.done)
		s.work.Done()
	}
	if before != nil {
		before.cancel(guest.ErrOther)
		select {
		case <-before.done:
		case <-ctx.Done():
		}
	}
	if err := s.store.Write(ctx, func(tx Tx) error {
		now, err := tx.Guest(ctx, g.ID)
		if err != nil {
			return err
		}
		if err := now.Works(s.Now()); err != nil {
			return err
		}
		if now.JoinedAt, now.Address = s.Now(), from.String(); !now.LeftAt.Before(now.JoinedAt) {
			now.JoinedAt = now.LeftAt.Add(time.Microsecond) // clocks of replicas differ a little
		}
		if g, err = tx.PutGuest(ctx, now); err != nil {
			return err
		}
		return tx.Audit(ctx, audit.Of(as(g), guest.Join, g.Scope, g.SessionID, g.HostName).Change(nil, describe(g)))
	}); err != nil {
		cancel(err)
		gone()
		return nil, nil, err
	}
	s.Watching(1)
	go func() {
		defer gone()
		defer s.Watching(-1)
		s.watch(staying, st, g, changed)
		s.left(staying, g)
	}()
	return staying, func(why error) { cancel(why); <-st.done }, nil
}

// as is a guest as the audit log names who acts.
func as(g guest.Guest) access.Actor {
	return access.Actor{Kind: access.Guest, ID: g.ID, Name: g.Name, Address: g.Address}
}

// watch returns when a guest's stay is over, and sees to it that it is once they may not stay.
func (s *Service) watch(ctx context.Context, st *stay, g guest.Guest, changed <-chan struct{}) {
	tick := time.NewTicker(askAgain)
	defer tick.Stop()
	over := time.NewTimer(g.ExpiresAt.Sub(s.Now()))
	defer over.Stop()
	for {
		select {
		case <-changed:
		case <-st.stir:
		case <-tick.C:
		case <-over.C:
		case <-ctx.Done():
			return
		}
		changed = s.Policy.Changed()
		if err := s.may(ctx, &g); err != nil {
			st.cancel(err)
			return
		}
	}
}

// may tells whether a guest may stay. Where the database does not answer, what is known of the guest decides.
func (s *Service) may(ctx context.Context, g *guest.Guest) error {
	ctx, cancel := context.WithTimeout(ctx, askWithin)
	defer cancel()
	if !s.Policy.Closed() {
		now, err := s.store.View().Guest(ctx, g.ID)
		switch {
		case err == nil:
			*g = now
		case fault.KindOf(err) == fault.NotFound:
			return guest.ErrExpired
		}
	}
	if err := g.Works(s.Now()); err != nil {
		return err
	}
	err := s.vouched(ctx, *g)
	if err == nil || fault.Of(err).Code == guest.ErrUnheld.Code || s.Policy.Closed() {
		return err
	}
	return nil
}

// left notes that a guest is gone, and why where somebody else saw to it.
func (s *Service) left(ctx context.Context, g guest.Guest) {
	why := ""
	if cause := context.Cause(ctx); cause != context.Canceled {
		why = fault.Of(cause).Code
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), leftWithin)
	defer cancel()
	at := s.Now()
	for wait := 100 * time.Millisecond; ; wait = min(2*wait, 5*time.Second) {
		err := s.store.Write(ctx, func(tx Tx) error {
			now, err := tx.Guest(ctx, g.ID)
			if err != nil {
				return err
			}
			if now.LeftAt = at; now.LeftAt.Before(now.JoinedAt) {
				now.LeftAt = now.JoinedAt
			}
			if now, err = tx.PutGuest(ctx, now); err != nil {
				return err
			}
			return tx.Audit(ctx, audit.Of(as(now), guest.Leave, now.Scope, now.SessionID, now.HostName).Because(why).Change(nil, describe(now)))
		})
		if err == nil || fault.KindOf(err) == fault.NotFound {
			return
		}
		again := time.NewTimer(wait)
		select {
		case <-again.C:
		case <-ctx.Done():
			again.Stop()
			s.Logger.Error("that a guest left could not be recorded", "guest", g.ID, "session", g.SessionID, "error", err)
			return
		}
	}
}

// Follow has guests asked again whose links changed, on whichever replica, until ctx ends.
func (s *Service) Follow(ctx context.Context, from *feed.Subscription) error {
	for {
		changes, anew, err := from.Next(ctx)
		if err != nil {
			return nil
		}
		s.mu.Lock()
		if anew {
			for _, st := range s.here {
				stirred(st)
			}
		}
		for _, c := range changes {
			if st := s.here[c.ID]; c.Kind == feed.Guest && st != nil {
				stirred(st)
			}
		}
		s.mu.Unlock()
	}
}

func stirred(st *stay) {
	select {
	case st.stir <- struct{}{}:
	default: // it has yet to look at the change before
	}
}

// Run writes merged refusals when their window is over, and what is left when ctx ends. It returns when all guests have left; whoever
// carries them sees to that.
func (s *Service) Run(ctx context.Context) error {
	s.refusals.Run(ctx, s.Now, s.record)
	s.mu.Lock()
	s.closing = true
	for _, st := range s.here {
		st.cancel(errStopping)
	}
	s.mu.Unlock()
	s.work.Wait()
	return nil
}

// refusal is a link that let nobody in.
type refusal struct {
	of     guest.Guest // none where it is not known
	reason string
	from   netip.Addr
}

// Refusals of one network are merged into one entry a minute for each link and reason.
const (
	refusalWindow = time.Minute
	refusalKeys   = 1024
)

// refuse records that somebody was not let in and gives the error back. An error that is of ours is nobody's refusal.
func (s *Service) refuse(ctx context.Context, r refusal, err error) error {
	if k := fault.KindOf(err); k != fault.Unauthenticated && k != fault.Denied {
		return err
	}
	s.Refused(r.reason)
	if s.refusals.Add(r.of.ID+" "+audit.Network(r.from)+" "+r.reason, r, s.Now()) {
		s.record(ctx, r, 1)
	}
	return err
}

func (s *Service) record(ctx context.Context, r refusal, times int64) {
	err := s.store.Write(ctx, func(tx Tx) error {
		actor := access.Actor{Kind: access.Anonymous}
		if r.from.IsValid() {
			actor.Address = r.from.String()
		}
		e := audit.Entry{Actor: actor, Action: guest.Join, Target: "guest", Outcome: audit.Refused, Reason: r.reason}
		if r.of.ID != "" {
			e.Scope, e.Target, e.Name = r.of.Scope, r.of.SessionID, r.of.HostName
		}
		return tx.Audit(ctx, e.Change(nil, struct {
			Guest    string `json:"guest,omitempty"`
			Attempts int64  `json:"attempts"`
		}{r.of.ID, times}))
	})
	if err != nil {
		s.Logger.ErrorContext(ctx, "a refused guest could not be recorded", "guest", r.of.ID, "address", r.from, "attempts", times, "error", err)
	}
}

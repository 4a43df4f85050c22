package exec

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/loopbackd/loopback/access"
	"github.com/loopbackd/loopback/audit"
	"github.com/loopbackd/loopback/exec"
	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/host"
	"github.com/loopbackd/loopback/server/feed"
)

// How long things may take.
const (
	lease       = 15 * time.Second
	startWithin = 10 * time.Second // an order is void after it
	overdue     = 5 * time.Second  // past which nothing is waited for any more
	placeless   = time.Second      // a host that has not answered by then takes nobody's place
	lookEvery   = time.Second
	gather      = 20 * time.Millisecond // so much is waited for more to change before all of it is looked at
)

// Apply looks at runs that changed.
func (s *Service) Apply(changes []feed.Change) {
	for _, c := range changes {
		if c.Kind == feed.Exec {
			s.look(c.ID)
		}
	}
}

// Follow is Apply for what a feed brings, until ctx ends.
func (s *Service) Follow(ctx context.Context, from *feed.Subscription) error {
	for {
		changes, _, err := from.Next(ctx)
		if err != nil {
			return nil
		}
		s.Apply(changes)
	}
}

func (s *Service) look(runID string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.changed[runID] = true
	for c := range s.waiting[runID] {
		notify(c)
	}
	notify(s.wake)
}

func notify(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Run leads and carries until ctx ends. What is under way goes on at another replica, or here after the next start.
func (s *Service) Run(ctx context.Context) error {
	s.mu.Lock()
	s.lifetime = ctx
	s.mu.Unlock()
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	defer s.work.Wait()
	s.work.Go(func() { s.prune(ctx) })
	s.work.Go(func() { s.hear(ctx) })
	for {
		select {
		case <-s.wake:
			s.mu.Lock()
			runs := s.changed
			s.changed = map[string]bool{}
			s.mu.Unlock()
			for id := range runs {
				s.complain("carry a command", s.dispatch(ctx, id))
			}
		case <-tick.C:
			s.complain("look for commands", s.lookAround(ctx))
		case <-ctx.Done():
			return nil
		}
	}
}

// kept is how long a run is kept after its end, with what the commands wrote. That it was, by whom and why stays in the audit
// log.
const kept = 30 * 24 * time.Hour

// prune deletes, from time to time, what nobody is expected to read any more.
func (s *Service) prune(ctx context.Context) {
	tick := time.NewTicker(time.Hour)
	defer tick.Stop()
	for {
		for more := true; more && ctx.Err() == nil; {
			var err error
			before := s.Now().UTC().Add(-kept)
			if wErr := s.store.Observe(ctx, func(tx Tx) error { more, err = tx.PruneExecs(ctx, before); return err }); wErr != nil {
				s.complain("delete old commands", wErr)
				more = false
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

func (s *Service) complain(doing string, err error) {
	if err != nil && !errors.Is(err, context.Canceled) {
		s.Logger.Warn("exec: cannot "+doing, "error", err)
	}
}

// lookAround leads what nobody leads, and looks for what no change has told of.
func (s *Service) lookAround(ctx context.Context) error {
	running, _, err := s.store.View().Execs(ctx, exec.Query{Readable: access.Everywhere(), States: []exec.State{exec.Running}})
	now := s.Now().UTC()
	for _, r := range running {
		if err := s.dispatch(ctx, r.ID); err != nil {
			return err
		}
		if !r.LeaseUntil.After(now) {
			var led exec.Run
			var found bool
			if err := s.store.Observe(ctx, func(tx Tx) (err error) {
				led, found, err = tx.LeaseExec(ctx, s.Replica, now, now.Add(lease))
				return err
			}); err != nil {
				return err
			}
			if found {
				s.lead(led)
			}
		}
	}
	return err
}

// lead leads a run whose lease is ours.
func (s *Service) lead(r exec.Run) {
	s.mu.Lock()
	defer s.mu.Unlock()
	ctx := s.lifetime
	if ctx == nil || ctx.Err() != nil || s.leading[r.ID] {
		return // its lease runs out, and somebody takes it
	}
	s.leading[r.ID] = true
	s.work.Go(func() {
		defer func() {
			s.mu.Lock()
			defer s.mu.Unlock()
			delete(s.leading, r.ID)
		}()
		s.leadOn(ctx, r)
	})
}

func (s *Service) leadOn(ctx context.Context, r exec.Run) {
	changed, stop := s.watch(r.ID)
	defer stop()
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	rules := s.Policy.Changed()
	ask := true
	l := &leading{Service: s, run: r.ID, attempt: r.Attempt}
	for {
		over, err := l.step(ctx, ask)
		if over || ctx.Err() != nil {
			return
		}
		s.complain("lead a command", err)
		ask = err != nil && ask
		select {
		case <-changed:
			pause(ctx, gather)
		case <-tick.C:
		case <-rules:
			rules, ask = s.Policy.Changed(), true
		case <-ctx.Done():
			return
		}
	}
}

func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// leading is a run that is led here, with its hosts as they were last read: each step reads what changed since.
type leading struct {
	*Service
	run     string
	attempt int64
	rows    []exec.Host // by place
	seen    int64       // revision up to which they are
}

// with is the rows as changes make them.
func (l *leading) with(changed []exec.Host) []exec.Host {
	rows := slices.Clone(l.rows)
	for _, h := range changed {
		if h.Place < len(rows) {
			rows[h.Place] = h
		} else {
			rows = append(rows, h) // the first time, all come in order
		}
	}
	return rows
}

// step decides what comes next in a run, and writes it. over tells that there is nothing left to lead, here.
func (l *leading) step(ctx context.Context, ask bool) (over bool, err error) {
	s, attempt := l.Service, l.attempt
	changed, err := s.store.View().ExecHosts(ctx, l.run, l.seen)
	if err != nil {
		return false, err
	}
	l.rows = l.with(changed)
	for _, h := range changed {
		l.seen = max(l.seen, h.Revision)
	}
	rows, now := slices.Clone(l.rows), s.Now().UTC()
	r, err := s.store.View().Exec(ctx, l.run)
	if err != nil {
		return fault.KindOf(err) == fault.NotFound, err
	}
	if r.State != exec.Running || r.Attempt != attempt {
		return true, nil
	}
	revoked := false
	if ask && !r.Cancelled {
		if revoked, err = s.revoked(ctx, r, rows); err != nil {
			return false, err
		}
	}
	plan := s.plan(&r, rows, now, revoked)
	if len(plan) == 0 && !ended(rows) && !revoked && r.LeaseUntil.Sub(now) > lease/2 {
		return false, nil
	}
	err = s.store.Observe(ctx, func(tx Tx) error {
		over = false
		if err := tx.HoldExec(ctx, r.ID, attempt, now.Add(lease)); err != nil {
			over = fault.KindOf(err) == fault.Conflict
			return err
		}
		changed, err := tx.ExecHosts(ctx, r.ID, l.seen)
		if err != nil {
			return err
		}
		all := l.with(changed)
		var still []exec.Host
		for _, h := range plan {
			if at := h.to.Place; all[at].State == h.from { // else its host has said something meanwhile
				still = append(still, h.to)
				all[at] = h.to
			}
		}
		if len(still) > 0 {
			if err := tx.PutExecHosts(ctx, r.ID, r.Scope, still, nil); err != nil {
				return err
			}
		}
		latest, err := tx.Exec(ctx, r.ID)
		if err != nil {
			return err
		}
		latest.Counts, latest.Reason = count(all), first(latest.Reason, r.Reason)
		latest.Cancelled = latest.Cancelled || revoked
		if over = ended(all); !over {
			if revoked {
				_, err = tx.PutExec(ctx, latest)
			}
			return err
		}
		latest.EndedAt, latest.State, latest.LeaseUntil = now, exec.Succeeded, time.Time{}
		for _, h := range all {
			if h.State.Bad() || h.State == exec.Skipped {
				latest.State = exec.Failed
			}
		}
		if latest.Cancelled {
			latest.State = exec.Cancelled
		}
		if latest, err = tx.PutExec(ctx, latest); err != nil {
			return err
		}
		r = latest
		return tx.Audit(ctx, audit.Of(access.Actor{Kind: access.System, ID: "system", Name: "exec"}, exec.End, r.Scope, r.ID, r.Name).
			Because(r.Actor.Reason).Change(nil, record{As: r.Actor.As, Arguments: r.Command.Arguments, Shell: r.Command.Shell, User: r.Command.User, Hosts: len(all), State: r.State, Outcome: r.Counts}))
	})
	if err == nil && over {
		s.metrics.ended.WithLabelValues(string(r.State)).Inc()
	}
	if err == nil && len(plan) > 0 {
		s.look(r.ID)
	}
	return over, err
}

func first(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

func ended(rows []exec.Host) bool {
	for _, h := range rows {
		if !h.State.Over() {
			return false
		}
	}
	return true
}

// step of a host.
type move struct {
	from exec.HostState
	to   exec.Host
}

// plan is what is to become of hosts now. It notes in r why the others are not begun, where they are not.
func (s *Service) plan(r *exec.Run, rows []exec.Host, now time.Time, revoked bool) (moves []move) {
	to := func(i int, state exec.HostState, why *fault.Error) {
		h := rows[i]
		from := h.State
		h.State, h.Since = state, now
		if why != nil {
			h.ErrorCode, h.Error, h.Hint = why.Code, why.Message, why.Hint
		}
		if state.Over() {
			h.EndedAt = now
			s.metrics.hosts.WithLabelValues(string(state)).Inc()
		}
		rows[i] = h
		moves = append(moves, move{from, h})
	}
	open, bad := 0, 0
	for i, h := range rows {
		switch {
		case (h.State == exec.Ready || h.State == exec.Sent) && now.After(h.NotAfter.Add(overdue)):
			to(i, exec.Unreachable, errNoAnswer)
		case h.State == exec.OnHost && now.After(h.Since.Add(r.Command.Timeout+startWithin+overdue)):
			to(i, exec.TimedOut, errSilent)
		case h.State == exec.OnHost, h.State.Open() && now.Sub(h.Since) < placeless:
			open++
		}
		if rows[i].State.Bad() {
			bad++
		}
	}
	stop, canaries := exec.HostState(""), 0
	switch {
	case r.Cancelled || revoked:
		stop = exec.Ended
		r.Reason = first(r.Reason, errNotAllowed.Message)
	case r.MaxFailures > 0 && bad >= r.MaxFailures:
		stop = exec.Skipped
		r.Reason = fmt.Sprintf("stopped: it failed on %d hosts, and %d is what it bears", bad, r.MaxFailures)
	case r.Canary > 0 && r.Canary < len(rows):
		for _, h := range rows[:r.Canary] {
			switch {
			case !h.State.Over():
				canaries = r.Canary
			case h.State != exec.Done:
				stop = exec.Skipped
				r.Reason = "stopped: it did not succeed on " + h.Name + ", which was among the first"
			}
		}
	}
	for i := range rows {
		if stop == exec.Ended && rows[i].State == exec.Ready {
			to(i, stop, nil) // nobody has told its host
		}
		if rows[i].State != exec.Waiting {
			continue
		}
		if stop != "" {
			to(i, stop, nil)
			continue
		}
		if open >= r.Concurrency || canaries > 0 && i >= canaries {
			break
		}
		h, ok := s.fleet.Host(rows[i].HostID)
		switch {
		case !ok || h.Lifecycle != host.LifecycleActive:
			to(i, exec.Refused, errNotManaged)
		case !s.links.Online(h.ID):
			to(i, exec.Unreachable, errOffline)
		default:
			rows[i].NotAfter = now.Add(startWithin)
			to(i, exec.Ready, nil)
			open++
			continue
		}
		if bad++; r.MaxFailures > 0 && bad >= r.MaxFailures {
			break // the next step stops it
		}
	}
	return moves
}

// What is said of hosts that said nothing.
var (
	errNotManaged = fault.New(fault.Precondition, "host_not_managed", "the host is not managed, and takes no orders")
	errOffline    = fault.New(fault.Unavailable, "host_offline", "the host was offline")
	errNoAnswer   = fault.New(fault.Timeout, "host_silent", "the host did not answer in time; it does not begin the command any more, and whether it had begun is not known")
	errSilent     = fault.New(fault.Timeout, "host_lost", "the command began, and nothing was heard of it past its timeout")
)

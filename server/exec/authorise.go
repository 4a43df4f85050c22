package exec

import (
	"context"

	"github.com/loopbackd/loopback/access"
	"github.com/loopbackd/loopback/exec"
	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/host"
)

// errNotAllowed is why a run ends whose right has.
var errNotAllowed = fault.New(fault.Denied, "permission_ended", "whoever started the command may not run it there any more")

// actor is whoever started a run, as far as they may act now. Its error is errNotAllowed where they may nothing at all, and another
// where that cannot be told.
//
// A second factor was asked for when the run was started, and counts as fresh as it was then for as long as the run lasts: a rule
// that wants one from the last five minutes bounds who may start a command, not how long it may take. What ends by itself in time
// (a binding, a grant, a key) ends the run.
func (s *Service) actor(ctx context.Context, r exec.Run) (access.Actor, error) {
	a := r.Actor.Under(s.Policy, r.By())
	if !r.Actor.MFA.IsZero() {
		a.MFA = r.Actor.MFA.Add(max(0, s.Now().Sub(r.CreatedAt)))
	}
	if s.Policy.Closed() {
		return a, access.ErrClosed
	}
	if a.Kind != access.APIKey || s.Keys == nil {
		return a, nil
	}
	key, err := s.Keys.Bound(ctx, a.ID)
	if fault.KindOf(err) == fault.Unauthenticated {
		return a, errNotAllowed.WithCause(err)
	}
	a.Grants = key.Grants
	return a, err
}

// may is nil where an actor may have a run of this permission go on on a host now.
func (s *Service) may(a access.Actor, by access.Permission, hostID string) error {
	h, ok := s.fleet.Host(hostID)
	if !ok || h.Lifecycle != host.LifecycleActive {
		return errNotManaged
	}
	if !a.DecideOn(by, h.Scope, h.ID, h.Labels).Allowed {
		return errNotAllowed
	}
	return nil
}

// authorise is asked whenever the order's stream comes.
func (s *Service) authorise(ctx context.Context, h exec.Host) error {
	r, err := s.store.View().Exec(ctx, h.RunID)
	if err != nil {
		return err
	}
	row, err := s.store.View().ExecHost(ctx, h.ID)
	switch {
	case err != nil:
		return err
	case !row.State.Open():
		return fault.New(fault.Precondition, "order_over", "the order is over: %s", row.State)
	case r.Cancelled:
		return nil // it comes to be told
	}
	actor, err := s.actor(ctx, r)
	if err != nil {
		return err
	}
	return s.may(actor, r.By(), h.HostID)
}

// revoked tells whether whoever started the run may not go on with it somewhere.
func (s *Service) revoked(ctx context.Context, r exec.Run, rows []exec.Host) (bool, error) {
	actor, err := s.actor(ctx, r)
	if err != nil {
		return fault.KindOf(err) == fault.Denied, ignoreEnded(err)
	}
	for _, row := range rows {
		if !row.State.Over() && s.may(actor, r.By(), row.HostID) == errNotAllowed {
			return true, nil
		}
	}
	return false, nil
}

// ignoreEnded is nil for a right that ended.
func ignoreEnded(err error) error {
	if fault.KindOf(err) == fault.Denied {
		return nil
	}
	return err
}

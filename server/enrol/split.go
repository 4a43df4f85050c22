package enrol

import (
	"context"
	"fmt"
	"maps"

	"github.com/loopbackd/loopback/access"
	"github.com/loopbackd/loopback/audit"
	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/host"
	"github.com/loopbackd/loopback/id"
	"github.com/loopbackd/loopback/label"
	"github.com/loopbackd/loopback/token"
)

// Split makes a host of its own of a machine that held a copy of another host's key. What allows it is the decision that
// an operator took on that host: there is no token to show. It stands where the other stands, with the same labels, forced
// ones included, and counts as enrolled by the same token, so that whatever is done to that token's hosts reaches it.
func (s *Service) Split(ctx context.Context, from string, r Request) (host.Host, error) {
	if h, err := known(ctx, s.store.View(), r.Key); err == nil || fault.KindOf(err) != fault.NotFound {
		return h, err
	}
	if err := r.validate(); err != nil {
		return host.Host{}, err
	}
	var out host.Host
	var fresh bool
	now := s.now().UTC()
	newID := id.New("hst", now)
	err := s.store.Write(ctx, func(tx Tx) error {
		fresh = false
		var err error
		if out, err = known(ctx, tx, r.Key); err == nil || fault.KindOf(err) != fault.NotFound {
			return err
		}
		origin, err := tx.Host(ctx, from)
		switch {
		case err != nil:
			return err
		case origin.Lifecycle == host.LifecycleRemoved:
			return host.ErrRemoved
		}
		w, err := tx.Workspace(ctx, origin.Scope.Workspace)
		if err != nil {
			return err
		}
		forced := label.Set{}
		for _, key := range origin.ForcedLabels {
			forced[key] = origin.Labels[key]
		}
		r := r
		r.Labels = label.Set{}
		maps.Copy(r.Labels, origin.Labels)
		stand := token.Token{HostLabels: forced, Channel: origin.Channel, EphemeralTTL: origin.EphemeralTTL}
		stand.ID = origin.TokenID
		_, h, err := s.placeIn(ctx, tx, w, stand, r, newID, now)
		if err != nil {
			return err
		}
		// As the one that was kept: neither let in by being a copy, nor held up by it.
		h.Lifecycle, h.LifecycleReason = origin.Lifecycle, origin.LifecycleReason
		if origin.Clones.Locked() {
			h.Lifecycle, h.LifecycleReason = origin.Clones.Lifecycle, origin.Clones.Reason
		}
		h.Settle(now)
		if out, err = tx.PutHost(ctx, h); err != nil {
			return err
		}
		fresh = true
		actor := access.Actor{Kind: access.Host, ID: out.ID, Name: out.Name}
		if r.From.IsValid() {
			actor.Address = r.From.Unmap().String()
		}
		e := audit.Of(actor, host.Enrol, out.Scope, out.ID, out.Name).Change(nil, describe(out))
		e.Decision, e.Reason = from, fmt.Sprintf("split from host %s (%s), whose identity key it held a copy of", origin.Name, from)
		return tx.Audit(ctx, e)
	})
	if err != nil {
		return host.Host{}, err
	}
	if fresh {
		s.fleet.Learn(ctx, out)
	}
	return out, nil
}

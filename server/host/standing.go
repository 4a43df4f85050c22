package host

import (
	"context"
	"encoding/json"
	"time"

	"github.com/loopbackd/loopback/access"
	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/host"
	"github.com/loopbackd/loopback/id"
	"github.com/loopbackd/loopback/operation"
	"github.com/loopbackd/loopback/tenant"
)

// Approve lets a pending host in.
func (s *Service) Approve(ctx context.Context, ref Ref) (Seen, error) {
	return s.change(ctx, ref, host.Approve, func(_ Tx, h *host.Host) (bool, string, error) {
		if h.Lifecycle != host.LifecyclePending {
			return false, "", fault.New(fault.Precondition, "host_not_pending", "host %s does not await approval: it is %s", h.Name, h.State)
		}
		if h.Clones.Locked() {
			return false, "", errCloned(h)
		}
		h.Lifecycle, h.LifecycleReason, h.Converged = host.LifecycleActive, "", false
		return true, "", nil
	})
}

// Release ends a quarantine.
func (s *Service) Release(ctx context.Context, ref Ref, reason string) (Seen, error) {
	return s.change(ctx, ref, host.Release, func(_ Tx, h *host.Host) (bool, string, error) {
		if h.Lifecycle != host.LifecycleQuarantined {
			return false, "", fault.New(fault.Precondition, "host_not_quarantined", "host %s is not quarantined: it is %s", h.Name, h.State)
		}
		if h.Clones.Locked() {
			return false, "", errCloned(h)
		}
		h.Lifecycle, h.LifecycleReason = host.LifecycleActive, ""
		return true, reason, nil
	})
}

// Quarantine leaves a host its status only. The operation ends when its link was told.
func (s *Service) Quarantine(ctx context.Context, ref Ref, reason, requestID string) (operation.Operation, error) {
	return s.begin(ctx, ref, host.Quarantine, operation.QuarantineHost, reason, requestID)
}

// Remove takes a host out for good. The operation ends when its link is closed.
func (s *Service) Remove(ctx context.Context, ref Ref, reason, requestID string) (operation.Operation, error) {
	return s.begin(ctx, ref, host.Remove, operation.RemoveHost, reason, requestID)
}

// Names of steps.
const (
	stepQuarantine = "tell the host's link"
	stepRemove     = "close the host's link"
)

// maxReason is the longest reason, in bytes.
const maxReason = 1024

func checkRequest(c *fault.Check, reason, requestID string) {
	c.That(len(reason) <= maxReason, "reason", "is %d bytes long; at most %d are allowed", len(reason), maxReason)
	c.That(len(requestID) <= 128, "requestId", "is %d bytes long; at most 128 are allowed", len(requestID))
}

// repeat is the operation that this very request led to before.
func repeat(ctx context.Context, tx Tx, actor access.Actor, kind operation.Kind, target, requestID string) (o operation.Operation, found bool, err error) {
	if requestID == "" {
		return o, false, nil
	}
	o, err = tx.OperationByRequest(ctx, actor.ID, requestID)
	switch {
	case fault.KindOf(err) == fault.NotFound:
		return o, false, nil
	case err == nil && (o.Kind != kind || o.Target != target):
		err = errRequestReused
	}
	return o, err == nil, err
}

// begin changes a host's standing and starts the operation that sees it through, in one transaction.
func (s *Service) begin(ctx context.Context, ref Ref, p access.Permission, kind operation.Kind, reason, requestID string) (operation.Operation, error) {
	var c fault.Check
	checkRequest(&c, reason, requestID)
	if err := c.Err("request_invalid", "the request is not valid"); err != nil {
		return operation.Operation{}, err
	}
	actor := access.ActorFrom(ctx)
	found, err := s.find(ctx, ref, p)
	if fault.KindOf(err) == fault.NotFound && requestID != "" && !id.Valid("hst", ref.Host) {
		// A repeated removal names a host whose name is free by now.
		return s.repeated(ctx, ref, p, kind, requestID, err)
	}
	if err != nil {
		return operation.Operation{}, err
	}
	now := s.now().UTC()
	fresh := operation.Operation{
		Meta: tenant.Meta{ID: id.New("op", now), Name: string(kind), CreatedAt: now},
		Kind: kind, Target: found.ID, State: operation.Pending, Actor: actor.ID, RequestID: requestID,
	}
	fresh.Input, _ = json.Marshal(map[string]string{"reason": reason}) // strings always marshal
	var out operation.Operation
	var changed []host.Host
	err = s.store.Write(ctx, func(tx Tx) error {
		changed = nil
		have, repeated, err := repeat(ctx, tx, actor, kind, found.ID, requestID)
		if err != nil || repeated {
			out = have
			return err
		}
		before, err := s.permitted(ctx, tx, found.ID, ref, p)
		if err != nil {
			return err
		}
		after := before
		o := fresh
		o.Scope = before.Scope
		if err := stand(&after, kind, reason, now); err != nil {
			return err
		}
		o.Steps = steps(kind)
		stored, err := s.put(ctx, tx, after)
		if err != nil {
			return err
		}
		changed = append(changed, stored)
		if out, err = tx.PutOperation(ctx, o); err != nil {
			return err
		}
		return s.entries(ctx, tx, p, before, stored, reason)
	})
	if err != nil {
		return operation.Operation{}, err
	}
	s.fleet.Learn(ctx, changed...)
	return out, nil
}

var errRequestReused = fault.New(fault.Conflict, "request_id_reused", "the request id was used for something else before").
	WithHint("use a new request id for each new request")

func (s *Service) repeated(ctx context.Context, ref Ref, p access.Permission, kind operation.Kind, requestID string, notFound error) (operation.Operation, error) {
	actor := access.ActorFrom(ctx)
	var out operation.Operation
	err := s.store.Write(ctx, func(tx Tx) error { // reads only: nothing is written, nothing is audited
		var err error
		if out, err = tx.OperationByRequest(ctx, actor.ID, requestID); err != nil {
			return notFound
		}
		h, err := s.permitted(ctx, tx, out.Target, ref, p)
		if err != nil || out.Kind != kind || h.Name != ref.Host {
			return notFound
		}
		return nil
	})
	return out, err
}

func steps(kind operation.Kind) []operation.Step {
	name := stepQuarantine
	if kind == operation.RemoveHost {
		name = stepRemove
	}
	return []operation.Step{{Name: name, State: operation.Pending}}
}

// stand gives a host the standing that an operation of this kind sees through.
func stand(h *host.Host, kind operation.Kind, reason string, now time.Time) error {
	if h.Lifecycle == host.LifecycleRemoved {
		return removed(h)
	}
	cloned := h.LifecycleReason
	h.LifecycleReason = reason
	switch kind {
	case operation.RemoveHost:
		h.Lifecycle, h.NextKey = host.LifecycleRemoved, nil
		if h.Online {
			h.Online, h.OfflineSince = false, now
		}
		if reason == "" {
			h.LifecycleReason = "removed by an operator"
		}
	default:
		switch h.Lifecycle {
		case host.LifecycleUnmanaged:
			return fault.New(fault.Precondition, "host_unmanaged", "host %s has no agent: there is nothing to quarantine", h.Name)
		case host.LifecyclePending:
			// Otherwise a release would approve it.
			return fault.New(fault.Precondition, "host_pending", "host %s awaits approval: it receives nothing already", h.Name).
				WithHint("leave it pending, or remove it: loopback host remove %s", h.Name)
		}
		h.Lifecycle = host.LifecycleQuarantined
		if reason == "" {
			h.LifecycleReason = "quarantined by an operator"
		}
		if h.Clones.Locked() { // it stays locked, and is quarantined once that is over
			next := *h.Clones
			next.Lifecycle, next.Reason = h.Lifecycle, h.LifecycleReason
			h.Clones, h.LifecycleReason = &next, cloned
		}
	}
	return nil
}

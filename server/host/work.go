package host

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/loopbackd/loopback/access"
	"github.com/loopbackd/loopback/audit"
	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/host"
	"github.com/loopbackd/loopback/operation"
	"github.com/loopbackd/loopback/tenant"
	"github.com/loopbackd/loopback/token"
)

// Task is one attempt at an operation. Steps that succeeded before are not done again.
type Task interface {
	Operation() operation.Operation
	Step(ctx context.Context, name string, do func(context.Context) (message string, err error)) error
	Progress(ctx context.Context, step string, done, total int, message string) error
}

// Links are what hosts are told through.
type Links interface {
	Changed(hostIDs []string) // tells those that are linked here what became of them
	Expel(hostIDs []string)   // ends their links; nothing that they send is accepted from then on
}

// Work sees quarantines, removals and revocations through, as handlers of operations.
type Work struct {
	service *Service
	links   Links
	pause   time.Duration
}

// NewWork makes the handlers.
func NewWork(s *Service, links Links) *Work {
	return &Work{service: s, links: links, pause: 50 * time.Millisecond}
}

// patience is how long a step waits for links that another replica holds before the operation rests.
const patience = 10 * time.Second

// Quarantine tells the host's link that it is quarantined.
func (w *Work) Quarantine(ctx context.Context, t Task) error {
	id := t.Operation().Target
	return t.Step(ctx, stepQuarantine, func(ctx context.Context) (string, error) {
		h, err := w.current(ctx, id)
		if err != nil || h.Lifecycle != host.LifecycleQuarantined {
			return "the host is not quarantined any more", err
		}
		_, _, linked := w.service.presence.Seen(id)
		w.links.Changed([]string{id})
		if !linked {
			return "it is not linked: it is told when it comes", nil
		}
		return "told", nil
	})
}

// Remove closes the host's link.
func (w *Work) Remove(ctx context.Context, t Task) error {
	id := t.Operation().Target
	return t.Step(ctx, stepRemove, func(ctx context.Context) (string, error) {
		if _, err := w.current(ctx, id); err != nil {
			return "", err
		}
		return w.close(ctx, []string{id})
	})
}

// current is the host as it is stored, which the directory then knows as well: links ask there.
func (w *Work) current(ctx context.Context, id string) (host.Host, error) {
	h, err := w.service.store.View().Host(ctx, id)
	if err == nil {
		w.service.fleet.Learn(ctx, h)
	}
	return h, err
}

// close ends links, and waits until other replicas have ended theirs.
func (w *Work) close(ctx context.Context, ids []string) (string, error) {
	w.links.Expel(ids)
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	ticker := time.NewTicker(w.pause)
	defer ticker.Stop()
	for {
		left := 0
		for _, id := range ids {
			if _, _, is := w.service.presence.Seen(id); is {
				left++
			}
		}
		if left == 0 {
			return "no link is open", nil
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return "", fault.New(fault.Unavailable, "links_open", "%d links are still open on other replicas", left)
		}
	}
}

// Steps of a revocation.
const (
	stepFind  = "find the hosts that it enrolled"
	stepStand = "change their standing"
	stepLinks = "tell or close their links"
)

// changedAtOnce is how many hosts change their standing in one transaction: other writers wait that long.
const changedAtOnce = 100

// RevokeToken quarantines or removes the hosts that a revoked token enrolled.
func (w *Work) RevokeToken(ctx context.Context, t Task) error {
	var r token.Revocation
	if err := json.Unmarshal(t.Operation().Input, &r); err != nil {
		return fault.New(fault.Internal, "operation_input", "the operation's input cannot be read").WithCause(err)
	}
	kind, p := operation.QuarantineHost, host.Quarantine
	if r.Hosts == token.Expel {
		kind, p = operation.RemoveHost, host.Remove
	}
	var ids []string
	// Also those that an earlier attempt dealt with: their links may be open still.
	find := func(ctx context.Context) (string, error) {
		var err error
		ids, err = w.enrolledBy(ctx, r)
		return fmt.Sprintf("%d hosts", len(ids)), err
	}
	if err := t.Step(ctx, stepFind, find); err != nil {
		return err
	}
	if ids == nil { // the step was done by an earlier attempt
		if _, err := find(ctx); err != nil {
			return err
		}
	}
	err := t.Step(ctx, stepStand, func(ctx context.Context) (string, error) {
		if kind == operation.RemoveHost {
			// At once, and not when they are changed one by one: each may be in the wrong hands. There is no way back
			// from here, the operation cannot be cancelled.
			w.links.Expel(ids)
		}
		changed := 0
		for from := 0; from < len(ids); from += changedAtOnce {
			batch := ids[from:min(from+changedAtOnce, len(ids))]
			n, err := w.standAll(ctx, t.Operation(), batch, kind, p, r.Reason)
			if err != nil {
				return "", err
			}
			changed += n
			if err := t.Progress(ctx, stepStand, from+len(batch), len(ids), fmt.Sprintf("%d of %d", from+len(batch), len(ids))); err != nil {
				return "", err
			}
		}
		return fmt.Sprintf("%d of %d changed", changed, len(ids)), nil
	})
	if err != nil {
		return err
	}
	return t.Step(ctx, stepLinks, func(ctx context.Context) (string, error) {
		if kind == operation.RemoveHost {
			return w.close(ctx, ids)
		}
		w.links.Changed(ids)
		return "told those that are linked", nil
	})
}

func (w *Work) enrolledBy(ctx context.Context, r token.Revocation) ([]string, error) {
	q := host.Query{
		Readable: access.Everywhere(), TokenID: r.Token, States: host.States, OrderBy: host.ByCreatedAt, Page: tenant.Page{Size: tenant.MaxPage},
	}
	ids := []string{}
	for {
		page, next, _, err := w.service.store.View().Hosts(ctx, q)
		if err != nil {
			return nil, err
		}
		for _, h := range page {
			if !h.EnrolledAt.Before(r.Since) {
				ids = append(ids, h.ID)
			}
		}
		if next == "" {
			return ids, nil
		}
		q.Page.Token = next
	}
}

// standAll changes the standing of hosts in one transaction, and returns of how many.
func (w *Work) standAll(ctx context.Context, o operation.Operation, ids []string, kind operation.Kind, p access.Permission, why string) (int, error) {
	s := w.service
	ctx = access.WithActor(ctx, access.Actor{Kind: access.System, ID: o.ID, Name: "operation " + o.Name, RequestID: o.RequestID})
	reason := "the token that enrolled it was revoked"
	if why != "" {
		reason += ": " + why
	}
	var stored []host.Host
	err := s.store.Write(ctx, func(tx Tx) error {
		stored = stored[:0]
		now := s.now().UTC()
		for _, id := range ids {
			before, err := tx.Host(ctx, id)
			if err != nil {
				return err
			}
			after := before
			switch {
			case before.Lifecycle == host.LifecycleRemoved, kind == operation.QuarantineHost && before.Lifecycle == host.LifecycleQuarantined:
				continue
			case kind == operation.QuarantineHost && before.Lifecycle == host.LifecyclePending:
				// It receives nothing already; whoever is about to approve it is to know.
				after.LifecycleReason = reason
			default:
				if err := stand(&after, kind, reason, now); err != nil {
					return err
				}
			}
			if after, err = s.put(ctx, tx, after); err != nil {
				return err
			}
			if err := s.entries(ctx, tx, p, before, after, reason); err != nil {
				return err
			}
			stored = append(stored, after)
		}
		return nil
	})
	if err != nil {
		return 0, err
	}
	s.fleet.Learn(ctx, stored...)
	return len(stored), nil
}

// Expiry removes ephemeral hosts that were offline for longer than they may be.
type Expiry struct {
	service *Service
	links   Links
	grace   time.Duration
	every   time.Duration
	failed  func(error)
}

// NewExpiry makes the worker. grace is how long after its own start it removes nobody: hosts could not reach a control
// plane that was down, and get the reconnect window to come back. failed is told what went wrong; it is tried again.
func NewExpiry(s *Service, links Links, grace time.Duration, failed func(error)) *Expiry {
	return &Expiry{service: s, links: links, grace: grace, every: 5 * time.Second, failed: failed}
}

// Run works until ctx ends.
func (e *Expiry) Run(ctx context.Context) error {
	started := e.service.now()
	ticker := time.NewTicker(e.every)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
		if e.service.now().Sub(started) < e.grace {
			continue
		}
		if err := e.Once(ctx); err != nil && ctx.Err() == nil {
			e.failed(err)
		}
	}
}

// Once removes those that are due now.
func (e *Expiry) Once(ctx context.Context) error {
	s := e.service
	now := s.now().UTC()
	var due []string
	hosts, _ := s.fleet.Snapshot(access.Scope{})
	for _, h := range hosts {
		if !expired(*h, now) { // nearly all of them, every time
			continue
		}
		if _, _, linked := s.presence.Seen(h.ID); !linked {
			due = append(due, h.ID)
		}
	}
	ctx = access.WithActor(ctx, access.Actor{Kind: access.System, Name: "ephemeral hosts"})
	for from := 0; from < len(due); from += changedAtOnce {
		batch := due[from:min(from+changedAtOnce, len(due))]
		var stored []host.Host
		err := s.store.Write(ctx, func(tx Tx) error {
			stored = stored[:0]
			for _, id := range batch {
				before, err := tx.Host(ctx, id)
				if err != nil {
					return err
				}
				if !expired(before, now) {
					continue
				}
				after := before
				reason := fmt.Sprintf("ephemeral: it was offline for more than %s", before.EphemeralTTL)
				if err := stand(&after, operation.RemoveHost, reason, now); err != nil {
					return err
				}
				if after, err = s.put(ctx, tx, after); err != nil {
					return err
				}
				e := audit.Of(access.ActorFrom(ctx), host.Remove, before.Scope, before.ID, before.Name).Change(describe(before), describe(after))
				e.Reason = reason
				if err := tx.Audit(ctx, e); err != nil {
					return err
				}
				stored = append(stored, after)
			}
			return nil
		})
		if err != nil {
			return fmt.Errorf("removing ephemeral hosts: %w", err)
		}
		s.fleet.Learn(ctx, stored...)
		e.links.Expel(ids(stored))
	}
	return nil
}

func ids(hosts []host.Host) []string {
	out := make([]string, len(hosts))
	for i := range hosts {
		out[i] = hosts[i].ID
	}
	return out
}

// expired tells whether an ephemeral host has been away for too long. A quarantined one stays: somebody looks at it.
func expired(h host.Host, now time.Time) bool {
	since := h.OfflineSince
	if since.IsZero() {
		since = h.EnrolledAt
	}
	return h.EphemeralTTL > 0 && !h.Online && !since.IsZero() && now.Sub(since) >= h.EphemeralTTL &&
		(h.Lifecycle == host.LifecycleActive || h.Lifecycle == host.LifecyclePending)
}

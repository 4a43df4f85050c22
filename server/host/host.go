// Package host is what operators do with hosts: list and watch them, label, add, move, approve, quarantine, release and
// remove them.
//
// Nobody sets a host's state. What operators decide is its lifecycle and its labels; what the host reports are facts; the
// state follows from both. Every act is one transaction that holds the change and its audit entry. The change reaches
// the hub by way of the feed, so an act here never waits for a host.
//
// Quarantine and removal take effect at once for whoever asks the database, and go on as an operation until the links
// that were open have been told or closed. The operation is written with the change: when the control plane dies in
// between, its next start carries on.
//
// Watchers read from memory. One that does not keep up is not waited for: it is sent everything anew.
package host

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/loopbackd/loopback/access"
	"github.com/loopbackd/loopback/audit"
	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/host"
	"github.com/loopbackd/loopback/id"
	"github.com/loopbackd/loopback/operation"
	"github.com/loopbackd/loopback/section"
	"github.com/loopbackd/loopback/tenant"
)

// Reader reads hosts.
type Reader interface {
	Host(ctx context.Context, id string) (host.Host, error)
	Hosts(ctx context.Context, q host.Query) (items []host.Host, next string, total int64, err error)
	Operation(ctx context.Context, id string) (operation.Operation, error)
	Operations(ctx context.Context, q operation.Query) ([]operation.Operation, string, error)
}

// Tx changes hosts.
type Tx interface {
	Reader
	PutHost(ctx context.Context, h host.Host) (host.Host, error)
	PutOperation(ctx context.Context, o operation.Operation) (operation.Operation, error)
	OperationByRequest(ctx context.Context, actorID, requestID string) (operation.Operation, error)
	Workspace(ctx context.Context, id string) (tenant.Workspace, error)
	Audit(ctx context.Context, e audit.Entry) error
}

// Store is where hosts are kept.
type Store interface {
	View() Reader
	Write(ctx context.Context, change func(Tx) error) error
	Observe(ctx context.Context, change func(Tx) error) error
}

// Tenants finds a workspace by id or name within what the caller may read, and demands a permission there.
type Tenants interface {
	Workspace(ctx context.Context, ref string, p access.Permission) (tenant.Workspace, error)
	// Frame is Workspace for a caller who may hold the permission on some hosts there only.
	Frame(ctx context.Context, ref string, p access.Permission) (tenant.Workspace, error)
}

// Fleet is every host in memory. What it hands out is shared and never changed.
type Fleet interface {
	Host(id string) (*host.Host, bool)
	// Snapshot is the hosts within a scope, and the place in the log of changes that it is true for.
	Snapshot(within access.Scope) ([]*host.Host, int64)
	// Since is the changes from a place on; ok is false when the log no longer reaches back to it.
	Since(from int64) (list []host.Change, next int64, more <-chan struct{}, ok bool)
	// Wanted is the revision of each section that a host should have.
	Wanted(hostID string) map[string]section.Revision
	// Learn takes in what was just written.
	Learn(ctx context.Context, hosts ...host.Host)
}

// Presence is what only the links know.
type Presence interface {
	// Seen is when a linked host was last heard, and how long it had been up then; false while it is not linked.
	Seen(hostID string) (at time.Time, uptime time.Duration, linked bool)
}

// Seen is a host as people see it: what is stored, and what only memory knows.
type Seen struct {
	*host.Host
	LastSeenAt time.Time
	Uptime     time.Duration               // 0 where unknown
	Wanted     map[string]section.Revision // of each section that the host should have
}

// Service answers what people ask of hosts.
type Service struct {
	store    Store
	tenants  Tenants
	fleet    Fleet
	presence Presence
	now      func() time.Time
}

// NewService makes the service.
func NewService(store Store, tenants Tenants, fleet Fleet, presence Presence, now func() time.Time) *Service {
	return &Service{store, tenants, fleet, presence, now}
}

func (s *Service) seen(h *host.Host) Seen {
	out := Seen{Host: h, LastSeenAt: h.OfflineSince, Wanted: s.fleet.Wanted(h.ID)}
	if h.Online && out.LastSeenAt.IsZero() {
		out.LastSeenAt = h.OnlineSince
	}
	if at, uptime, linked := s.presence.Seen(h.ID); linked {
		out.LastSeenAt, out.Uptime = at, uptime
	}
	return out
}

// Ref names a host: by id, or by name. Workspace says where to look for a name; empty: wherever the caller may read.
type Ref struct {
	Host      string
	Workspace string
}

func (r Ref) what() string { return "host " + r.Host }

// Get is one host.
func (s *Service) Get(ctx context.Context, ref Ref) (Seen, error) {
	h, err := s.find(ctx, ref, host.Read)
	if err != nil {
		return Seen{}, err
	}
	return s.seen(&h), nil
}

// Find is a host that the caller holds this permission on: what other slices name hosts by.
func (s *Service) Find(ctx context.Context, name, workspace string, p access.Permission) (host.Host, error) {
	return s.find(ctx, Ref{name, workspace}, p)
}

func (s *Service) find(ctx context.Context, ref Ref, p access.Permission) (host.Host, error) {
	actor := access.ActorFrom(ctx)
	if actor.Kind == access.Anonymous || actor.Kind == "" {
		return host.Host{}, access.ErrUnauthenticated
	}
	if ref.Host == "" {
		var c fault.Check
		c.Add("host", "is empty")
		return host.Host{}, c.Err("host_missing", "the host is not named")
	}
	var within access.Scope
	if ref.Workspace != "" {
		w, err := s.tenants.Frame(ctx, ref.Workspace, host.Read)
		if err != nil {
			return host.Host{}, err
		}
		within = w.Scope()
	}
	if id.Valid("hst", ref.Host) {
		h, err := s.store.View().Host(ctx, ref.Host)
		if err != nil {
			return host.Host{}, err
		}
		if !within.Contains(h.Scope) {
			return host.Host{}, access.NotFound(ref.what())
		}
		return h, actor.RequireHost(p, h.Scope, h.ID, h.Labels, host.Read, ref.what())
	}
	q := host.Query{Readable: actor.Readable(host.Read), Within: within, Name: ref.Host, Page: tenant.Page{Size: 2}}
	if p != host.Read {
		q.Readable = append(q.Readable, actor.Readable(p)...)
	}
	found, _, total, err := s.store.View().Hosts(ctx, q)
	switch {
	case err != nil:
		return host.Host{}, err
	case len(found) == 0:
		return host.Host{}, access.NotFound(ref.what())
	case len(found) > 1:
		return host.Host{}, fault.New(fault.Invalid, "host_ambiguous", "%d hosts are named %s", total, ref.Host).
			WithHint("say which: name its workspace, or use its id (%s, %s …)", found[0].ID, found[1].ID)
	}
	return found[0], actor.RequireHost(p, found[0].Scope, found[0].ID, found[0].Labels, host.Read, ref.what())
}

// ListQuery selects hosts.
type ListQuery struct {
	Workspace string
	host.Query
}

// List is the hosts that the caller may read, a page of them, and how many there are on all pages.
func (s *Service) List(ctx context.Context, q ListQuery) ([]Seen, string, int64, error) {
	actor := access.ActorFrom(ctx)
	if actor.Kind == access.Anonymous || actor.Kind == "" {
		return nil, "", 0, access.ErrUnauthenticated
	}
	var c fault.Check
	for i, state := range q.States {
		c.That(slices.Contains(host.States, state), fmt.Sprintf("states[%d]", i), "is %q; allowed are %s", state, list(host.States))
	}
	c.That(q.OrderBy == "" || slices.Contains(host.Orders, q.OrderBy), "orderBy", "is %q; allowed are %s, each with '-' before it to reverse", q.OrderBy, list(host.Orders))
	if err := c.Err("host_query_invalid", "the query is not valid"); err != nil {
		return nil, "", 0, err
	}
	q.Readable = actor.Readable(host.Read)
	if q.Workspace != "" {
		w, err := s.tenants.Frame(ctx, q.Workspace, host.Read)
		if err != nil {
			return nil, "", 0, err
		}
		q.Within = w.Scope()
	}
	hosts, next, total, err := s.store.View().Hosts(ctx, q.Query)
	if err != nil {
		return nil, "", 0, err
	}
	out := make([]Seen, len(hosts))
	for i := range hosts {
		out[i] = s.seen(&hosts[i])
	}
	return out, next, total, nil
}

func list[T ~string](words []T) string {
	var b strings.Builder
	for i, w := range words {
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(string(w))
	}
	return b.String()
}

// change changes one host in one transaction. do tells whether it changed anything; nothing is written where it did not.
// It also gives the audit entry what it wants to say beyond the difference.
func (s *Service) change(ctx context.Context, ref Ref, p access.Permission, do func(Tx, *host.Host) (change bool, reason string, err error)) (Seen, error) {
	found, err := s.find(ctx, ref, p)
	if err != nil {
		return Seen{}, err
	}
	var out host.Host
	err = s.store.Write(ctx, func(tx Tx) error {
		before, err := s.permitted(ctx, tx, found.ID, ref, p)
		if err != nil {
			return err
		}
		out = before
		changed, reason, err := do(tx, &out)
		if err != nil || !changed {
			return err
		}
		if out, err = s.put(ctx, tx, out); err != nil {
			return err
		}
		return s.entries(ctx, tx, p, before, out, reason)
	})
	if err != nil {
		return Seen{}, err
	}
	s.fleet.Learn(ctx, out)
	return s.seen(&out), nil
}

// permitted reads a host inside a transaction and asks again: it may have moved since.
func (s *Service) permitted(ctx context.Context, tx Tx, hostID string, ref Ref, p access.Permission) (host.Host, error) {
	h, err := tx.Host(ctx, hostID)
	if err != nil {
		return host.Host{}, err
	}
	return h, access.ActorFrom(ctx).RequireHost(p, h.Scope, h.ID, h.Labels, host.Read, ref.what())
}

// put settles and stores a host.
func (s *Service) put(ctx context.Context, tx Tx, h host.Host) (host.Host, error) {
	h.Settle(s.now().UTC())
	return tx.PutHost(ctx, h)
}

func (s *Service) entries(ctx context.Context, tx Tx, p access.Permission, before, after host.Host, reason string) error {
	actor := access.ActorFrom(ctx)
	e := audit.Of(actor, p, before.Scope, before.ID, before.Name).Change(describe(before), describe(after)).
		By(actor.DecideOn(p, before.Scope, before.ID, before.Labels))
	e.Reason = reason
	if err := tx.Audit(ctx, e); err != nil || before.Scope == after.Scope {
		return err
	}
	e.Scope = after.Scope
	return tx.Audit(ctx, e.By(actor.DecideOn(p, after.Scope, after.ID, after.Labels)))
}

// record is what the audit log shows of a host.
type record struct {
	Name      string            `json:"name"`
	Labels    map[string]string `json:"labels,omitempty"`
	Workspace string            `json:"workspace"`
	Lifecycle host.Lifecycle    `json:"lifecycle"`
	Reason    string            `json:"reason,omitempty"`
	State     host.State        `json:"state"`
	Provider  string            `json:"provider,omitempty"`
	Address   string            `json:"address,omitempty"`
	Copies    []host.Copy       `json:"copies,omitempty"`
	Settling  []string          `json:"settling,omitempty"`
}

func describe(h host.Host) record {
	r := record{h.Name, h.Labels, h.Scope.Workspace, h.Lifecycle, h.LifecycleReason, h.State, h.Provider, h.Address, nil, h.Settling}
	if h.Clones != nil {
		r.Copies = h.Clones.Copies
	}
	return r
}

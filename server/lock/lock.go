// Package lock keeps people, roles and hosts out, and lets them in again.
//
// A lock is one row and one audit entry. It is in force on a replica when that has followed the change feed up to it, which takes
// milliseconds: what it keeps out is refused from then on, and what is under way is asked again and ends. A replica that cannot
// follow the feed allows nothing after a while, so a lock cannot be slept through.
//
// The deployment keeps an owner whom no lock keeps out: what would leave none is refused. Nobody lifts a lock that keeps themselves
// out. A lock that ends by itself is over at its time; Run notes that in the audit log a moment later.
package lock

import (
	"cmp"
	"context"
	"log/slog"
	"slices"
	"time"

	"github.com/loopbackd/loopback/access"
	"github.com/loopbackd/loopback/audit"
	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/host"
	"github.com/loopbackd/loopback/id"
	"github.com/loopbackd/loopback/label"
	"github.com/loopbackd/loopback/lock"
	"github.com/loopbackd/loopback/policy"
	"github.com/loopbackd/loopback/principal"
	"github.com/loopbackd/loopback/tenant"
)

// Reader reads locks, and whom they are about.
type Reader interface {
	Lock(ctx context.Context, id string) (lock.Lock, error)
	Locks(ctx context.Context, q lock.Query) ([]lock.Lock, string, error)
	Principal(ctx context.Context, id string) (principal.Principal, error)
	Group(ctx context.Context, id string) (principal.Group, error)
	Owners(ctx context.Context) ([]string, error)
}

// Tx changes locks.
type Tx interface {
	Reader
	PutLock(ctx context.Context, l lock.Lock) (lock.Lock, error)
	Audit(ctx context.Context, e audit.Entry) error
}

// Store is where they are kept.
type Store interface {
	View() Reader
	Write(ctx context.Context, change func(Tx) error) error
}

// Places finds a place where the caller holds a permission. All empty is the whole deployment.
type Places interface {
	Scope(ctx context.Context, organisation, project, workspace string, p access.Permission) (access.Scope, error)
}

// Subjects finds who is locked, where the caller may read them.
type Subjects interface {
	Subject(ctx context.Context, kind access.SubjectKind, ref string) (access.Subject, error)
}

// Roles finds a role that the caller may read.
type Roles interface {
	Role(ctx context.Context, ref string) (policy.Role, error)
}

// Hosts finds a host that the caller holds a permission on, by id or name.
type Hosts interface {
	Find(ctx context.Context, name, workspace string, p access.Permission) (host.Host, error)
}

// Options of the service.
type Options struct {
	Places   Places
	Subjects Subjects
	Roles    Roles
	Hosts    Hosts
	Policy   *access.Policy
	Now      func() time.Time
	Logger   *slog.Logger
}

// Service is locks as people work with them.
type Service struct {
	store Store
	Options
}

// NewService makes the service.
func NewService(store Store, o Options) *Service { return &Service{store, o} }

// Place names where: at most one of the three.
type Place struct{ Organisation, Project, Workspace string }

// New is what a lock is made from. One of the targets is given.
type New struct {
	Place          // none: where the target belongs
	User           string
	Group          string
	ServiceAccount string
	Role           string
	Host           string
	Hosts          string // a selector; "*" is every host of the place
	Reason         string // empty: the call's
	Ticket         string // empty: the call's
	Labels         label.Set
	NotAfter       time.Time
}

// Create locks. When it returns the lock is in force here.
func (s *Service) Create(ctx context.Context, n New) (lock.Lock, error) {
	target, at, err := s.target(ctx, n)
	if err != nil {
		return lock.Lock{}, err
	}
	actor, now := access.ActorFrom(ctx), s.Now()
	out := lock.Lock{
		Meta: tenant.Meta{ID: id.New("lck", now), Labels: n.Labels, CreatedAt: now}, Scope: at, Target: target, Reason: cmp.Or(n.Reason, actor.Reason),
		Ticket: cmp.Or(n.Ticket, actor.Ticket), NotAfter: n.NotAfter.UTC(), State: lock.Active, CreatedBy: actor.ID, Creator: cmp.Or(actor.Name, actor.ID),
	}
	if n.NotAfter.IsZero() {
		out.NotAfter = time.Time{}
	}
	out.Name = cmp.Or(target.Name, target.Hosts, "every host")
	var c fault.Check
	out.Validate(&c, now)
	if err := c.Err("lock_invalid", "the lock is not valid"); err != nil {
		return lock.Lock{}, err
	}
	err = s.store.Write(ctx, func(tx Tx) error {
		if who, err := tx.Principal(ctx, actor.Principal); err == nil {
			out.Creator = who.Name
		}
		before, err := tx.Owners(ctx)
		if err != nil {
			return err
		}
		if out, err = tx.PutLock(ctx, out); err != nil {
			return err
		}
		switch after, err := tx.Owners(ctx); {
		case err != nil:
			return err
		case len(before) > 0 && len(after) == 0:
			return errLastOwner
		}
		e := audit.Of(actor, lock.Create, at, out.ID, out.Name).Because(out.Reason).Change(nil, describe(out))
		e.Ticket = out.Ticket
		return tx.Audit(ctx, e)
	})
	return out, s.settle(ctx, out.Revision, err)
}

var errLastOwner = fault.New(fault.Precondition, "lock_last_owner", "it would keep out the last owner of the deployment, and nobody could be sure to lift it").
	WithHint("make somebody else an owner first: loopback binding create --role owner --user NAME --everywhere; or end the sign-ins and API keys alone: loopback signin revoke")

// patience is how long an answer waits for the lock to be in force here.
const patience = time.Second

func (s *Service) settle(ctx context.Context, revision int64, err error) error {
	if err == nil && !s.Policy.Closed() {
		soon, cancel := context.WithTimeout(ctx, patience)
		defer cancel()
		s.Policy.Reach(soon, uint64(revision))
	}
	return err
}

// target is what is to be locked, and where.
func (s *Service) target(ctx context.Context, n New) (lock.Target, access.Scope, error) {
	given, kind, ref := 0, lock.Kind(""), ""
	for k, v := range map[lock.Kind]string{lock.User: n.User, lock.Group: n.Group, lock.ServiceAccount: n.ServiceAccount, lock.Role: n.Role, lock.Host: n.Host, lock.Hosts: n.Hosts} {
		if v != "" {
			given, kind, ref = given+1, k, v
		}
	}
	var c fault.Check
	c.That(given == 1, "user", "and %d more targets are given; give one of user, group, serviceAccount, role, host and hosts", max(0, given-1))
	if given == 0 {
		c = fault.Check{}
		c.Add("user", "is missing: give one of user, group, serviceAccount, role, host and hosts")
	}
	if err := c.Err("request_invalid", "the request is not valid"); err != nil {
		return lock.Target{}, access.Scope{}, err
	}
	out := lock.Target{Kind: kind}
	var home access.Scope // of the target
	view := s.store.View()
	switch kind {
	case lock.Host:
		h, err := s.Hosts.Find(ctx, ref, n.Workspace, lock.Create)
		out.ID, out.Name = h.ID, h.Name
		return out, h.Scope, err
	case lock.Hosts:
		if ref != "*" {
			out.Hosts = ref
		}
		if selector, err := label.Parse(out.Hosts); err == nil {
			out.Hosts = selector.String()
		}
	case lock.Role:
		r, err := s.Roles.Role(ctx, ref)
		if err != nil {
			return out, home, err
		}
		out.ID, out.Name, home = r.ID, r.Name, r.Scope
	case lock.Group:
		subject, err := s.Subjects.Subject(ctx, access.Group, ref)
		if err != nil {
			return out, home, err
		}
		g, err := view.Group(ctx, subject.ID)
		if err != nil {
			return out, home, err
		}
		out.ID, out.Name, home = g.ID, g.Name, g.Scope
	default:
		subject, err := s.Subjects.Subject(ctx, access.SubjectKind(kind), ref)
		if err != nil {
			return out, home, err
		}
		p, err := view.Principal(ctx, subject.ID)
		if err != nil {
			return out, home, err
		}
		out.ID, out.Name, home = p.ID, p.Name, p.Scope
	}
	if n.Place == (Place{}) {
		n.Organisation, n.Project, n.Workspace = home.Organisation, home.Project, home.Workspace
		if n.Workspace != "" {
			n.Organisation, n.Project = "", ""
		} else if n.Project != "" {
			n.Organisation = ""
		}
	}
	at, err := s.Places.Scope(ctx, n.Organisation, n.Project, n.Workspace, lock.Create)
	return out, at, err
}

// Get is one.
func (s *Service) Get(ctx context.Context, ref string) (lock.Lock, error) {
	return s.permitted(ctx, s.store.View(), ref, lock.Read)
}

func (s *Service) permitted(ctx context.Context, r Reader, ref string, p access.Permission) (lock.Lock, error) {
	if ref == "" {
		var c fault.Check
		c.Add("lock", "is missing: give the id of a lock")
		return lock.Lock{}, c.Err("request_invalid", "the request is not valid")
	}
	l, err := r.Lock(ctx, ref)
	if err != nil {
		return lock.Lock{}, err
	}
	return l, access.ActorFrom(ctx).Require(p, l.Scope, lock.Read, "lock "+ref)
}

// Query is which locks a caller asks for; what is empty does not narrow.
type Query struct {
	Place
	States []lock.State
	Target string // id
	Page   tenant.Page
}

// List is those that the caller may read, newest first.
func (s *Service) List(ctx context.Context, q Query) ([]lock.Lock, string, error) {
	var c fault.Check
	for _, state := range q.States {
		c.That(slices.Contains(lock.States, state), "states", "has %q; allowed are %v", string(state), lock.States)
	}
	if err := c.Err("request_invalid", "the request is not valid"); err != nil {
		return nil, "", err
	}
	in := lock.Query{Readable: access.ActorFrom(ctx).Readable(lock.Read), States: q.States, Target: q.Target, Page: q.Page}
	if q.Place != (Place{}) {
		at, err := s.Places.Scope(ctx, q.Organisation, q.Project, q.Workspace, lock.Read)
		if err != nil {
			return nil, "", err
		}
		in.Within = at
	}
	return s.store.View().Locks(ctx, in)
}

// Lift lets in again what a lock kept out.
func (s *Service) Lift(ctx context.Context, ref, comment string) (lock.Lock, error) {
	var c fault.Check
	c.That(len(comment) <= lock.MaxReason, "comment", "is %d bytes long; at most %d are allowed", len(comment), lock.MaxReason)
	if err := c.Err("request_invalid", "the request is not valid"); err != nil {
		return lock.Lock{}, err
	}
	actor := access.ActorFrom(ctx)
	var out lock.Lock
	err := s.store.Write(ctx, func(tx Tx) error {
		before, err := s.permitted(ctx, tx, ref, lock.Lift)
		if err != nil {
			return err
		}
		if now := before.At(s.Now()); now != lock.Active {
			return fault.New(fault.Precondition, "lock_not_active", "lock %s is %s already", before.ID, now)
		}
		if actor.Kind != access.System && s.Policy.Snapshot().Holds(before.ID, actor.Principal) {
			return fault.New(fault.Denied, "lock_own", "lock %s keeps you out of something yourself; somebody else has to lift it", before.ID)
		}
		out = before
		out.State, out.ClosedAt, out.ClosedBy, out.Comment = lock.Lifted, s.Now(), actor.ID, cmp.Or(comment, actor.Reason)
		if out, err = tx.PutLock(ctx, out); err != nil {
			return err
		}
		return tx.Audit(ctx, audit.Of(actor, lock.Lift, out.Scope, out.ID, out.Name).Because(comment).Change(describe(before), describe(out)))
	})
	return out, s.settle(ctx, out.Revision, err)
}

// sweepEvery is how often ends are noted. A lock whose time is over keeps nobody out, noted or not.
const sweepEvery = 10 * time.Second

// Run notes the ends of locks until ctx ends.
func (s *Service) Run(ctx context.Context) error {
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			if err := s.Sweep(ctx); err != nil && ctx.Err() == nil {
				s.Logger.ErrorContext(ctx, "the ends of locks could not be noted", "error", err)
			}
		case <-ctx.Done():
			return nil
		}
	}
}

// Sweep notes locks whose time is over. Replicas may do it at once.
func (s *Service) Sweep(ctx context.Context) error {
	over := lock.Query{Readable: access.Everywhere(), States: []lock.State{lock.Active}, Over: s.Now(), Page: tenant.Page{Size: tenant.MaxPage}}
	due, _, err := s.store.View().Locks(ctx, over)
	if err != nil {
		return err
	}
	worker := access.Actor{Kind: access.System, Name: "locks"}
	for _, seen := range due {
		if err := s.store.Write(ctx, func(tx Tx) error {
			before, err := tx.Lock(ctx, seen.ID)
			if err != nil || before.State != lock.Active {
				return err // another replica noted it
			}
			after := before
			after.State, after.ClosedAt, after.ClosedBy = lock.Ended, s.Now(), "system"
			if after, err = tx.PutLock(ctx, after); err != nil {
				return err
			}
			return tx.Audit(ctx, audit.Of(worker, lock.End, after.Scope, after.ID, after.Name).Change(describe(before), describe(after)))
		}); err != nil {
			return err
		}
	}
	return nil
}

// Count is how many locks are in force, by what they are of.
func (s *Service) Count(ctx context.Context) (map[lock.Kind]int, error) {
	out := map[lock.Kind]int{}
	for _, k := range lock.Kinds {
		out[k] = 0
	}
	q := lock.Query{Readable: access.Everywhere(), States: []lock.State{lock.Active}, Page: tenant.Page{Size: tenant.MaxPage}}
	for {
		list, next, err := s.store.View().Locks(ctx, q)
		for _, l := range list {
			out[l.Target.Kind]++
		}
		if q.Page.Token = next; err != nil || next == "" {
			return out, err
		}
	}
}

// record is a lock as the audit log has it.
type record struct {
	Target   lock.Kind  `json:"target"`
	ID       string     `json:"id,omitempty"`
	Hosts    string     `json:"hosts,omitempty"`
	State    lock.State `json:"state"`
	Reason   string     `json:"reason"`
	NotAfter time.Time  `json:"notAfter,omitzero"`
	Comment  string     `json:"comment,omitempty"`
}

func describe(l lock.Lock) record {
	return record{l.Target.Kind, l.Target.ID, l.Target.Hosts, l.State, l.Reason, l.NotAfter, l.Comment}
}

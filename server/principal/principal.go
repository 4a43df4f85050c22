// Package principal makes, lists, changes and deletes users, service accounts and groups.
//
// Each belongs to the deployment or to an organisation; its permissions are asked for there. A principal that is disabled
// may do nothing from the next snapshot of the rules on, on every replica, and is signed out for good; enabled again it may
// do what it could. One
// that is deleted takes along its bindings, its memberships, its API keys and its passkeys, in one transaction. Nobody is put into a
// group whose bindings give what the caller does not hold. What would leave the deployment without an owner is refused:
// owners are counted in the transaction, and transactions take turns.
package principal

import (
	"context"
	"time"

	"github.com/loopbackd/loopback/access"
	"github.com/loopbackd/loopback/apikey"
	"github.com/loopbackd/loopback/audit"
	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/id"
	"github.com/loopbackd/loopback/label"
	"github.com/loopbackd/loopback/policy"
	"github.com/loopbackd/loopback/principal"
	"github.com/loopbackd/loopback/signin"
	"github.com/loopbackd/loopback/tenant"
)

// Reader reads who there is, and what was given to them.
type Reader interface {
	Principal(ctx context.Context, id string) (principal.Principal, error)
	Principals(ctx context.Context, q principal.Query) ([]principal.Principal, string, error)
	Group(ctx context.Context, id string) (principal.Group, error)
	Groups(ctx context.Context, q principal.Query) ([]principal.Group, string, error)
	Bindings(ctx context.Context, q policy.Query) ([]policy.Binding, string, error)
	Role(ctx context.Context, id string) (policy.Role, error)
	Owners(ctx context.Context) ([]string, error)
}

// Ends is what goes with a principal that is deleted.
type Ends interface {
	DeleteBinding(ctx context.Context, b policy.Binding) error
	Keys(ctx context.Context, q apikey.Query) ([]apikey.Key, string, error)
	PutKey(ctx context.Context, k apikey.Key) (apikey.Key, error)
	EndSignIns(ctx context.Context, user string, at time.Time, why string) ([]string, error)
	DeletePasskeys(ctx context.Context, user string) ([]string, error)
	RevokeInvitations(ctx context.Context, user string, at time.Time) ([]string, error)
}

// Tx changes them.
type Tx interface {
	Reader
	Ends
	PutPrincipal(ctx context.Context, p principal.Principal) (principal.Principal, error)
	DeletePrincipal(ctx context.Context, p principal.Principal) error
	PutGroup(ctx context.Context, g principal.Group) (principal.Group, error)
	DeleteGroup(ctx context.Context, g principal.Group) error
	Audit(ctx context.Context, e audit.Entry) error
}

// Store is where they are kept.
type Store interface {
	View() Reader
	Write(ctx context.Context, change func(Tx) error) error
}

// Tenants finds an organisation where the caller holds a permission.
type Tenants interface {
	Organisation(ctx context.Context, ref string, p access.Permission) (tenant.Organisation, error)
}

// Service is users, service accounts and groups as people work with them.
type Service struct {
	store   Store
	tenants Tenants
	now     func() time.Time
}

// NewService makes the service.
func NewService(store Store, tenants Tenants, now func() time.Time) *Service {
	return &Service{store, tenants, now}
}

// verbs are the permissions over one kind.
type verbs struct{ create, read, update, remove access.Permission }

var permissions = map[access.SubjectKind]verbs{
	access.User:  {principal.UsersCreate, principal.UsersRead, principal.UsersUpdate, principal.UsersDelete},
	access.Group: {principal.GroupsCreate, principal.GroupsRead, principal.GroupsUpdate, principal.GroupsDelete},
	access.ServiceAccount: {principal.ServiceAccountsCreate, principal.ServiceAccountsRead, principal.ServiceAccountsUpdate,
		principal.ServiceAccountsDelete},
}

// New is what one of any kind is made from.
type New struct {
	Name         string
	Email        string // of a user
	Identity     string // of a user
	Description  string
	Labels       label.Set
	Organisation string // empty: the deployment
}

func (n New) check(kind access.SubjectKind) error {
	var c fault.Check
	tenant.CheckName(&c, "name", n.Name)
	checkText(&c, n.Email, n.Identity, n.Description)
	n.Labels.Validate(&c, "labels")
	return c.Err(string(kind)+"_invalid", "the %s is not valid", principal.Word(kind))
}

func checkText(c *fault.Check, email, identity, description string) {
	principal.CheckEmail(c, "email", email)
	c.That(len(identity) <= principal.MaxIdentity, "identity", "is %d bytes long; at most %d are allowed", len(identity), principal.MaxIdentity)
	c.That(len(description) <= tenant.MaxDescription, "description", "is %d bytes long; at most %d are allowed", len(description), tenant.MaxDescription)
}

// place is the deployment or an organisation, where the caller holds the permission.
func (s *Service) place(ctx context.Context, organisation string, p access.Permission) (access.Scope, error) {
	if organisation != "" {
		o, err := s.tenants.Organisation(ctx, organisation, p)
		return o.Scope(), err
	}
	actor := access.ActorFrom(ctx)
	switch {
	case actor.Decide(p, access.Scope{}).Allowed:
		return access.Scope{}, nil
	case actor.Kind == access.Anonymous || actor.Kind == "":
		return access.Scope{}, access.ErrUnauthenticated
	default:
		return access.Scope{}, fault.New(fault.Denied, "permission_denied", "you may not do this for the whole deployment: it needs %s", p).
			WithHint("say in which organisation: --org NAME")
	}
}

// Create makes a user or a service account.
func (s *Service) Create(ctx context.Context, kind access.SubjectKind, n New) (principal.Principal, error) {
	p := permissions[kind].create
	at, err := s.place(ctx, n.Organisation, p)
	if err == nil {
		err = n.check(kind)
	}
	if err != nil {
		return principal.Principal{}, err
	}
	now := s.now()
	out := principal.Principal{Meta: tenant.Meta{ID: id.New(principal.Prefix(kind), now), Name: n.Name, Labels: n.Labels, CreatedAt: now},
		Scope: at, Kind: kind, Email: n.Email, Identity: n.Identity, Description: n.Description}
	err = s.store.Write(ctx, func(tx Tx) error {
		taken, _, err := tx.Principals(ctx, principal.Query{Readable: access.Over(at), Within: at, Kind: kind, Name: n.Name, Page: tenant.Page{Size: 2}})
		if err == nil {
			err = free(taken, at, func(p principal.Principal) access.Scope { return p.Scope }, kind, n.Name)
		}
		if err != nil {
			return err
		}
		if out, err = tx.PutPrincipal(ctx, out); err != nil {
			return err
		}
		return tx.Audit(ctx, audit.Of(access.ActorFrom(ctx), p, at, out.ID, out.Name).Change(nil, describe(out)))
	})
	return out, err
}

// free demands that nobody of a place has a name.
func free[T any](found []T, at access.Scope, scope func(T) access.Scope, kind access.SubjectKind, name string) error {
	for _, f := range found {
		if scope(f) == at {
			return fault.New(fault.Exists, "name_taken", "there is a %s named %q already", principal.Word(kind), name).WithHint("choose another name")
		}
	}
	return nil
}

// Get is one by id or name.
func (s *Service) Get(ctx context.Context, kind access.SubjectKind, ref string) (principal.Principal, error) {
	return s.find(ctx, kind, ref, permissions[kind].read)
}

func (s *Service) find(ctx context.Context, kind access.SubjectKind, ref string, p access.Permission) (principal.Principal, error) {
	what, actor, read := principal.Word(kind)+" "+ref, access.ActorFrom(ctx), permissions[kind].read
	if err := named(kind, ref); err != nil {
		return principal.Principal{}, err
	}
	if id.Valid(principal.Prefix(kind), ref) {
		v, err := s.store.View().Principal(ctx, ref)
		if err != nil {
			return principal.Principal{}, err
		}
		return v, actor.Require(p, v.Scope, read, what)
	}
	found, _, err := s.store.View().Principals(ctx, principal.Query{
		Readable: append(actor.Readable(p), actor.Readable(read)...), Kind: kind, Name: ref, Page: tenant.Page{Size: 2},
	})
	if err != nil {
		return principal.Principal{}, err
	}
	v, err := only(found, kind, ref, func(p principal.Principal) string { return p.ID })
	if err != nil {
		return principal.Principal{}, err
	}
	return v, actor.Require(p, v.Scope, read, what)
}

func named(kind access.SubjectKind, ref string) error {
	if ref != "" {
		return nil
	}
	var c fault.Check
	c.Add(string(kind), "is missing: give an id or a name")
	return c.Err("request_invalid", "the request is not valid")
}

func only[T any](found []T, kind access.SubjectKind, ref string, id func(T) string) (T, error) {
	var none T
	switch len(found) {
	case 0:
		return none, access.NotFound(principal.Word(kind) + " " + ref)
	case 1:
		return found[0], nil
	default:
		return none, fault.New(fault.Invalid, string(kind)+"_ambiguous", "several are named %q", ref).
			WithHint("say which by its id (%s, %s …)", id(found[0]), id(found[1]))
	}
}

// Subject is who is meant by a reference, where the caller may read them: what bindings are made for.
func (s *Service) Subject(ctx context.Context, kind access.SubjectKind, ref string) (access.Subject, error) {
	if kind == access.Group {
		g, err := s.GetGroup(ctx, ref)
		return g.Subject(), err
	}
	p, err := s.Get(ctx, kind, ref)
	return p.Subject(), err
}

// List is those of a kind that the caller may read, by name. organisation may be empty.
func (s *Service) List(ctx context.Context, kind access.SubjectKind, organisation string, page tenant.Page) ([]principal.Principal, string, error) {
	q, err := s.query(ctx, kind, organisation, page)
	if err != nil {
		return nil, "", err
	}
	return s.store.View().Principals(ctx, q)
}

func (s *Service) query(ctx context.Context, kind access.SubjectKind, organisation string, page tenant.Page) (principal.Query, error) {
	p := permissions[kind].read
	q := principal.Query{Readable: access.ActorFrom(ctx).Readable(p), Kind: kind, Page: page}
	if organisation != "" {
		o, err := s.tenants.Organisation(ctx, organisation, p)
		if err != nil {
			return q, err
		}
		q.Within = o.Scope()
	}
	return q, nil
}

// Update is what to change; nil stays as it is.
type Update struct {
	Email       *string
	Identity    *string
	Description *string
	Disabled    *bool
	Revision    int64 // the one that the caller read; 0: whichever it is
}

// Update changes a user or a service account.
func (s *Service) Update(ctx context.Context, kind access.SubjectKind, ref string, u Update) (principal.Principal, error) {
	p := permissions[kind].update
	found, err := s.find(ctx, kind, ref, p)
	if err != nil {
		return principal.Principal{}, err
	}
	var out principal.Principal
	actor := access.ActorFrom(ctx)
	err = s.store.Write(ctx, func(tx Tx) error {
		before, err := tx.Principal(ctx, found.ID)
		if err != nil {
			return err
		}
		if err := actor.Require(p, before.Scope, permissions[kind].read, principal.Word(kind)+" "+ref); err != nil {
			return err
		}
		if u.Revision != 0 && u.Revision != before.Revision {
			return fault.New(fault.Conflict, string(kind)+"_changed", "%s was changed by somebody else meanwhile", before.Name).WithHint("read it again and repeat")
		}
		out = before
		if u.Email != nil {
			out.Email = *u.Email
		}
		if u.Identity != nil {
			out.Identity = *u.Identity
		}
		if u.Description != nil {
			out.Description = *u.Description
		}
		switch {
		case u.Disabled == nil || *u.Disabled != out.Active():
		case *u.Disabled:
			out.DisabledAt = s.now()
			// Enabled again they sign in anew.
			if _, err := tx.EndSignIns(ctx, out.ID, out.DisabledAt, signin.UserGone); err != nil {
				return err
			}
			if _, err := tx.RevokeInvitations(ctx, out.ID, out.DisabledAt); err != nil {
				return err
			}
		default:
			if err := covers(ctx, tx, out.Subject(), false); err != nil {
				return err
			}
			out.DisabledAt = time.Time{}
		}
		var c fault.Check
		checkText(&c, out.Email, out.Identity, out.Description)
		if err := c.Err(string(kind)+"_invalid", "the %s is not valid", principal.Word(kind)); err != nil {
			return err
		}
		return owned(ctx, tx, func() error {
			if out, err = tx.PutPrincipal(ctx, out); err != nil {
				return err
			}
			return tx.Audit(ctx, audit.Of(actor, p, out.Scope, out.ID, out.Name).Change(describe(before), describe(out)))
		})
	})
	return out, err
}

// owned does something after which the deployment still has an owner, if it had one.
func owned(ctx context.Context, tx Tx, do func() error) error {
	before, err := tx.Owners(ctx)
	if err != nil {
		return err
	}
	if err := do(); err != nil {
		return err
	}
	after, err := tx.Owners(ctx)
	if err == nil && len(before) > 0 && len(after) == 0 {
		return policy.ErrLastOwner
	}
	return err
}

// covers demands that the caller holds what a subject was given, or what it was denied.
func covers(ctx context.Context, tx Tx, subject access.Subject, denied bool) error {
	actor := access.ActorFrom(ctx)
	return eachBinding(ctx, tx, subject.ID, func(b policy.Binding) error {
		role, err := tx.Role(ctx, b.RoleID)
		if err != nil || b.Deny != denied {
			return err
		}
		rule := b.Rule(role)
		rule.Deny = false
		if lacking := actor.Covers(rule); len(lacking) > 0 {
			return fault.New(fault.Denied, "permission_not_held", "you cannot give what you do not hold: binding %s gives %v", b.ID, lacking).
				WithHint("ask somebody who holds that")
		}
		return nil
	})
}

func eachBinding(ctx context.Context, r Reader, subject string, do func(policy.Binding) error) error {
	q := policy.Query{Readable: access.Everywhere(), Subject: subject, Page: tenant.Page{Size: tenant.MaxPage}}
	for {
		list, next, err := r.Bindings(ctx, q)
		if err != nil {
			return err
		}
		for _, b := range list {
			if err := do(b); err != nil {
				return err
			}
		}
		if q.Page.Token = next; next == "" {
			return nil
		}
	}
}

// record is a principal as the audit log shows it.
type record struct {
	Name        string    `json:"name"`
	Email       string    `json:"email,omitempty"`
	Identity    string    `json:"identity,omitempty"`
	Description string    `json:"description,omitempty"`
	Labels      label.Set `json:"labels,omitempty"`
	Disabled    bool      `json:"disabled,omitempty"`
}

func describe(p principal.Principal) record {
	return record{p.Name, p.Email, p.Identity, p.Description, p.Labels, !p.Active()}
}

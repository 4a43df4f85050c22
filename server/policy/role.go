// Package policy writes roles and bindings: what everybody may do follows from them.
//
// Nobody gives what they do not hold: for each permission of a binding the maker holds one that reaches as far, over the
// place, the hosts, the time and the conditions. The same goes for what a role gets added, since those it was given to
// get it too, and for a denial that is taken away. What would leave the deployment without an owner is refused; owners
// are counted in the transaction, and transactions take turns, so two owners cannot remove each other at once.
//
// What is written here is in force on a replica when its engine (package server/access) has followed the change feed up
// to it, which takes milliseconds; on the replica where it was written, before it is answered.
package policy

import (
	"context"
	"slices"
	"time"

	"github.com/loopbackd/loopback/access"
	"github.com/loopbackd/loopback/audit"
	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/id"
	"github.com/loopbackd/loopback/label"
	"github.com/loopbackd/loopback/policy"
	"github.com/loopbackd/loopback/principal"
	"github.com/loopbackd/loopback/tenant"
)

// Reader reads what is written.
type Reader interface {
	Role(ctx context.Context, id string) (policy.Role, error)
	Roles(ctx context.Context, q policy.Query) ([]policy.Role, string, error)
	Binding(ctx context.Context, id string) (policy.Binding, error)
	Bindings(ctx context.Context, q policy.Query) ([]policy.Binding, string, error)
	Principal(ctx context.Context, id string) (principal.Principal, error)
	Group(ctx context.Context, id string) (principal.Group, error)
	Owners(ctx context.Context) ([]string, error)
}

// Tx changes it.
type Tx interface {
	Reader
	PutRole(ctx context.Context, r policy.Role) (policy.Role, error)
	DeleteRole(ctx context.Context, r policy.Role) error
	PutBinding(ctx context.Context, b policy.Binding) (policy.Binding, error)
	DeleteBinding(ctx context.Context, b policy.Binding) error
	Audit(ctx context.Context, e audit.Entry) error
}

// Store is where it is kept.
type Store interface {
	View() Reader
	Write(ctx context.Context, change func(Tx) error) error
}

// Tenants finds a place where the caller holds a permission.
type Tenants interface {
	Organisation(ctx context.Context, ref string, p access.Permission) (tenant.Organisation, error)
	Project(ctx context.Context, ref string, p access.Permission) (tenant.Project, error)
	Workspace(ctx context.Context, ref string, p access.Permission) (tenant.Workspace, error)
}

// Principals finds whom a binding is made for, where the caller may read them.
type Principals interface {
	Subject(ctx context.Context, kind access.SubjectKind, ref string) (access.Subject, error)
}

// Service is roles and bindings as people work with them.
type Service struct {
	store      Store
	tenants    Tenants
	principals Principals
	known      *access.Catalogue
	now        func() time.Time
}

// NewService makes the service. known are the permissions that a role can have.
func NewService(store Store, tenants Tenants, principals Principals, known *access.Catalogue, now func() time.Time) *Service {
	return &Service{store, tenants, principals, known, now}
}

// Place names where something holds: at most one of the three. None is the whole deployment.
type Place struct{ Organisation, Project, Workspace string }

// Scope of a place where the caller holds the permission.
func (s *Service) Scope(ctx context.Context, at Place, p access.Permission) (access.Scope, error) {
	given := 0
	for _, ref := range []string{at.Organisation, at.Project, at.Workspace} {
		if ref != "" {
			given++
		}
	}
	if given > 1 {
		var c fault.Check
		c.Add("organisation", "is given along with another place; give one of organisation, project and workspace")
		return access.Scope{}, c.Err("request_invalid", "the request is not valid")
	}
	switch {
	case at.Organisation != "":
		o, err := s.tenants.Organisation(ctx, at.Organisation, p)
		return o.Scope(), err
	case at.Project != "":
		v, err := s.tenants.Project(ctx, at.Project, p)
		return v.Scope(), err
	case at.Workspace != "":
		w, err := s.tenants.Workspace(ctx, at.Workspace, p)
		return w.Scope(), err
	}
	actor := access.ActorFrom(ctx)
	switch {
	case actor.Decide(p, access.Scope{}).Allowed:
		return access.Scope{}, nil
	case actor.Kind == access.Anonymous || actor.Kind == "":
		return access.Scope{}, access.ErrUnauthenticated
	default:
		return access.Scope{}, fault.New(fault.Denied, "permission_denied", "you may not do this for the whole deployment: it needs %s", p).
			WithHint("say where: an organisation, a project or a workspace")
	}
}

// NewRole is what a role is made from.
type NewRole struct {
	Name         string
	Description  string
	Labels       label.Set
	Organisation string // empty: the deployment
	Permissions  []access.Permission
}

// CreateRole makes a role. It gives nothing to anybody yet.
func (s *Service) CreateRole(ctx context.Context, n NewRole) (policy.Role, error) {
	at, err := s.Scope(ctx, Place{Organisation: n.Organisation}, policy.RolesCreate)
	if err != nil {
		return policy.Role{}, err
	}
	now := s.now()
	out := policy.Role{Meta: tenant.Meta{ID: id.New("rol", now), Name: n.Name, Labels: n.Labels, CreatedAt: now}, Scope: at,
		Description: n.Description, Permissions: sorted(n.Permissions)}
	if err := s.checkRole(out); err != nil {
		return policy.Role{}, err
	}
	err = s.store.Write(ctx, func(tx Tx) error {
		taken, _, err := tx.Roles(ctx, policy.Query{Readable: access.Over(at), Within: at, Name: n.Name, Page: tenant.Page{Size: tenant.MaxPage}})
		if err != nil {
			return err
		}
		if slices.ContainsFunc(taken, func(r policy.Role) bool { return r.Scope == at }) {
			return fault.New(fault.Exists, "name_taken", "there is a role named %q already", n.Name).WithHint("choose another name")
		}
		if out, err = tx.PutRole(ctx, out); err != nil {
			return err
		}
		return tx.Audit(ctx, audit.Of(access.ActorFrom(ctx), policy.RolesCreate, at, out.ID, out.Name).Change(nil, describeRole(out)))
	})
	return out, err
}

func sorted(list []access.Permission) []access.Permission {
	out := slices.Clone(list)
	slices.Sort(out)
	return slices.Compact(out)
}

func (s *Service) checkRole(r policy.Role) error {
	var c fault.Check
	tenant.CheckName(&c, "name", r.Name)
	_, reserved := policy.BuiltInRole(r.Name)
	c.That(!reserved, "name", "is the name of a role that is built in")
	c.That(len(r.Description) <= tenant.MaxDescription, "description", "is %d bytes long; at most %d are allowed", len(r.Description), tenant.MaxDescription)
	r.Labels.Validate(&c, "labels")
	policy.CheckPermissions(&c, s.known, r.Permissions)
	return c.Err("role_invalid", "the role is not valid")
}

// Role is one by id or name. Roles that are built in are read by everybody who may read roles anywhere.
func (s *Service) Role(ctx context.Context, ref string) (policy.Role, error) {
	return s.findRole(ctx, ref, policy.RolesRead)
}

func (s *Service) findRole(ctx context.Context, ref string, p access.Permission) (policy.Role, error) {
	actor, what := access.ActorFrom(ctx), "role "+ref
	if ref == "" {
		var c fault.Check
		c.Add("role", "is missing: give an id or a name")
		return policy.Role{}, c.Err("request_invalid", "the request is not valid")
	}
	if r, ok := policy.BuiltInRole(ref); ok {
		switch {
		case !actor.Touches(p):
			return policy.Role{}, access.NotFound(what)
		case p != policy.RolesRead:
			return policy.Role{}, fault.New(fault.Precondition, "role_built_in", "the role %s is built in and stays as it is", r.Name).
				WithHint("make one of your own: loopback role create NAME --permission …")
		}
		return r, nil
	}
	if id.Valid("rol", ref) {
		r, err := s.store.View().Role(ctx, ref)
		if err != nil {
			return policy.Role{}, err
		}
		return r, actor.Require(p, r.Scope, policy.RolesRead, what)
	}
	found, _, err := s.store.View().Roles(ctx, policy.Query{
		Readable: append(actor.Readable(p), actor.Readable(policy.RolesRead)...), Name: ref, Page: tenant.Page{Size: 2},
	})
	switch {
	case err != nil:
		return policy.Role{}, err
	case len(found) == 0:
		return policy.Role{}, access.NotFound(what)
	case len(found) > 1:
		return policy.Role{}, fault.New(fault.Invalid, "role_ambiguous", "several roles are named %q", ref).
			WithHint("say which by its id (%s, %s …)", found[0].ID, found[1].ID)
	}
	return found[0], actor.Require(p, found[0].Scope, policy.RolesRead, what)
}

// Roles are those that the caller may read: those that are built in before others by name. organisation may be empty.
func (s *Service) Roles(ctx context.Context, organisation string, page tenant.Page) ([]policy.Role, string, error) {
	q := policy.Query{Readable: access.ActorFrom(ctx).Readable(policy.RolesRead), Page: page}
	if organisation != "" {
		o, err := s.tenants.Organisation(ctx, organisation, policy.RolesRead)
		if err != nil {
			return nil, "", err
		}
		q.Within = o.Scope()
	}
	found, next, err := s.store.View().Roles(ctx, q)
	if err == nil && page.Token == "" && organisation == "" {
		found = append(policy.BuiltIn(), found...)
	}
	return found, next, err
}

// UpdateRole is what to change; nil stays as it is.
type UpdateRole struct {
	Description *string
	Permissions []access.Permission // nil: as they are
	Revision    int64
}

// UpdateRole changes a role, and with it what everybody may do who was given it.
func (s *Service) UpdateRole(ctx context.Context, ref string, u UpdateRole) (policy.Role, error) {
	found, err := s.findRole(ctx, ref, policy.RolesUpdate)
	if err != nil {
		return policy.Role{}, err
	}
	actor := access.ActorFrom(ctx)
	var out policy.Role
	err = s.store.Write(ctx, func(tx Tx) error {
		before, err := tx.Role(ctx, found.ID)
		if err != nil {
			return err
		}
		if err := actor.Require(policy.RolesUpdate, before.Scope, policy.RolesRead, "role "+ref); err != nil {
			return err
		}
		if u.Revision != 0 && u.Revision != before.Revision {
			return fault.New(fault.Conflict, "role_changed", "role %s was changed by somebody else meanwhile", before.Name).WithHint("read it again and repeat")
		}
		out = before
		if u.Description != nil {
			out.Description = *u.Description
		}
		if u.Permissions != nil {
			out.Permissions = sorted(u.Permissions)
		}
		if err := s.checkRole(out); err != nil {
			return err
		}
		return s.owned(ctx, tx, slices.Contains(before.Permissions, access.All), func() error {
			if err := s.recheck(ctx, tx, before, out); err != nil {
				return err
			}
			if out, err = tx.PutRole(ctx, out); err != nil {
				return err
			}
			return tx.Audit(ctx, audit.Of(actor, policy.RolesUpdate, out.Scope, out.ID, out.Name).Change(describeRole(before), describeRole(out)))
		})
	})
	return out, err
}

// recheck holds every binding of a role against what changes: what it comes to give, the caller holds; what it ceases to
// deny as well.
func (s *Service) recheck(ctx context.Context, tx Tx, before, after policy.Role) error {
	actor := access.ActorFrom(ctx)
	more, less := difference(s.known, after, before), difference(s.known, before, after)
	now := s.now()
	return each(ctx, tx, policy.Query{Role: before.ID}, func(b policy.Binding) error {
		if !b.NotAfter.IsZero() && !b.NotAfter.After(now) {
			return nil
		}
		changed := policy.Role{Permissions: more}
		if b.Deny {
			changed.Permissions = less
		} else if err := b.Validate(now, after, s.known); err != nil {
			return err
		}
		rule := b.Rule(changed)
		rule.Deny = false
		if lacking := actor.Covers(rule); len(lacking) > 0 {
			return notHeld(lacking)
		}
		return nil
	})
}

// difference is what a role has that another has not.
func difference(known *access.Catalogue, a, b policy.Role) []access.Permission {
	has := known.Expand(b.Permissions)
	return slices.DeleteFunc(known.List(known.Expand(a.Permissions)), func(p access.Permission) bool {
		return slices.Contains(known.List(has), p)
	})
}

func notHeld(lacking []access.Permission) error {
	return fault.New(fault.Denied, "permission_not_held", "you cannot give what you do not hold there: %v", lacking).
		WithHint("leave them out, or ask somebody who holds them")
}

// DeleteRole deletes a role that nobody was given.
func (s *Service) DeleteRole(ctx context.Context, ref string) error {
	found, err := s.findRole(ctx, ref, policy.RolesDelete)
	if err != nil {
		return err
	}
	actor := access.ActorFrom(ctx)
	return s.store.Write(ctx, func(tx Tx) error {
		before, err := tx.Role(ctx, found.ID)
		if err != nil {
			return err
		}
		if err := actor.Require(policy.RolesDelete, before.Scope, policy.RolesRead, "role "+ref); err != nil {
			return err
		}
		used, _, err := tx.Bindings(ctx, policy.Query{Readable: access.Everywhere(), Role: before.ID, Page: tenant.Page{Size: 1}})
		if err != nil {
			return err
		}
		if len(used) > 0 {
			return fault.New(fault.Precondition, "role_in_use", "the role %s is used by bindings", before.Name).
				WithHint("delete them first: loopback binding list --role %s", before.ID)
		}
		if err := tx.DeleteRole(ctx, before); err != nil {
			return err
		}
		return tx.Audit(ctx, audit.Of(actor, policy.RolesDelete, before.Scope, before.ID, before.Name).Change(describeRole(before), nil))
	})
}

type roleRecord struct {
	Name        string              `json:"name"`
	Description string              `json:"description,omitempty"`
	Labels      label.Set           `json:"labels,omitempty"`
	Permissions []access.Permission `json:"permissions"`
}

func describeRole(r policy.Role) roleRecord {
	return roleRecord{r.Name, r.Description, r.Labels, r.Permissions}
}

// Reshape is a role as it would be with other permissions, for a question.
func (s *Service) Reshape(ctx context.Context, ref string, to []access.Permission) (policy.Role, error) {
	r, err := s.Role(ctx, ref)
	if err != nil {
		return policy.Role{}, err
	}
	r.Permissions = sorted(to)
	var c fault.Check
	policy.CheckPermissions(&c, s.known, r.Permissions)
	return r, c.Err("role_invalid", "the role is not valid")
}

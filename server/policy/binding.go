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
	"github.com/loopbackd/loopback/tenant"
)

// NewBinding is what a binding is made from.
type NewBinding struct {
	Place
	Description string
	Labels      label.Set
	SubjectKind access.SubjectKind
	Subject     string // id or name
	Role        string // id or name
	Hosts       string // selector
	Conditions  access.Conditions
	Deny        bool
	NotBefore   time.Time
	NotAfter    time.Time
}

// Draft is a binding as it would be made, with its role, if the caller may make it as far as its place, its subject and
// its role are concerned. What it gives is not held against what the caller holds: for that it has to be created.
func (s *Service) Draft(ctx context.Context, n NewBinding, p access.Permission) (policy.Binding, policy.Role, error) {
	at, err := s.Scope(ctx, n.Place, p)
	if err != nil {
		return policy.Binding{}, policy.Role{}, err
	}
	role, err := s.RoleAt(ctx, n.Role, at)
	if err != nil {
		return policy.Binding{}, policy.Role{}, err
	}
	subject, err := s.principals.Subject(ctx, n.SubjectKind, n.Subject)
	if err != nil {
		return policy.Binding{}, policy.Role{}, err
	}
	now := s.now()
	out := policy.Binding{
		Meta: tenant.Meta{ID: id.New("bnd", now), Labels: n.Labels, CreatedAt: now}, Scope: at, Description: n.Description, Subject: subject,
		RoleID: role.ID, Hosts: n.Hosts, Conditions: n.Conditions, Deny: n.Deny, NotBefore: n.NotBefore, NotAfter: n.NotAfter,
		CreatedBy: access.ActorFrom(ctx).ID,
	}
	var c fault.Check
	n.Labels.Validate(&c, "labels")
	if err := c.Err("binding_invalid", "the binding is not valid"); err != nil {
		return policy.Binding{}, policy.Role{}, err
	}
	if selector, err := label.Parse(n.Hosts); err == nil {
		out.Hosts = selector.String()
	}
	return out, role, out.Validate(now, role, s.known)
}

// RoleAt is a role that can be bound at a scope: one that is built in, of the deployment, or of the same organisation.
func (s *Service) RoleAt(ctx context.Context, ref string, at access.Scope) (policy.Role, error) {
	if r, ok := policy.BuiltInRole(ref); ok {
		return r, nil // to know their names is to know nothing
	}
	r, err := s.Role(ctx, ref)
	if err == nil && r.Scope.Organisation != "" && r.Scope.Organisation != at.Organisation {
		return policy.Role{}, fault.New(fault.Precondition, "role_elsewhere", "the role %s belongs to another organisation", ref).
			WithHint("use a role of this organisation, or one of the deployment")
	}
	return r, err
}

// Create makes a binding.
func (s *Service) Create(ctx context.Context, n NewBinding) (policy.Binding, error) {
	out, _, err := s.Draft(ctx, n, policy.BindingsCreate)
	if err != nil {
		return policy.Binding{}, err
	}
	actor := access.ActorFrom(ctx)
	err = s.store.Write(ctx, func(tx Tx) error {
		role, err := tx.Role(ctx, out.RoleID) // it may have changed since
		if err != nil {
			return err
		}
		if err := s.exists(ctx, tx, out.Subject); err != nil {
			return err
		}
		if lacking := actor.Covers(out.Rule(role)); len(lacking) > 0 {
			return notHeld(lacking)
		}
		denies := out.Deny && out.Scope == (access.Scope{})
		return s.owned(ctx, tx, denies, func() error {
			if out, err = tx.PutBinding(ctx, out); err != nil {
				return err
			}
			return tx.Audit(ctx, audit.Of(actor, policy.BindingsCreate, out.Scope, out.ID, role.Name).Change(nil, describeBinding(out)))
		})
	})
	return out, err
}

func (s *Service) exists(ctx context.Context, tx Tx, subject access.Subject) error {
	if subject.Kind == access.Group {
		_, err := tx.Group(ctx, subject.ID)
		return err
	}
	_, err := tx.Principal(ctx, subject.ID)
	return err
}

// Binding is one by id.
func (s *Service) Binding(ctx context.Context, ref string) (policy.Binding, error) {
	return s.permitted(ctx, s.store.View(), ref, policy.BindingsRead)
}

func (s *Service) permitted(ctx context.Context, r Reader, ref string, p access.Permission) (policy.Binding, error) {
	if ref == "" {
		var c fault.Check
		c.Add("binding", "is missing: give the id of a binding")
		return policy.Binding{}, c.Err("request_invalid", "the request is not valid")
	}
	b, err := r.Binding(ctx, ref)
	if err != nil {
		return policy.Binding{}, err
	}
	return b, access.ActorFrom(ctx).Require(p, b.Scope, policy.BindingsRead, "binding "+ref)
}

// Query is which bindings a caller asks for; what is empty does not narrow.
type Query struct {
	Place
	Subject string // id
	Role    string // id or name
	Page    tenant.Page
}

// Bindings are those that the caller may read, newest first.
func (s *Service) Bindings(ctx context.Context, q Query) ([]policy.Binding, string, error) {
	in := policy.Query{Readable: access.ActorFrom(ctx).Readable(policy.BindingsRead), Subject: q.Subject, Page: q.Page}
	if q.Place != (Place{}) {
		at, err := s.Scope(ctx, q.Place, policy.BindingsRead)
		if err != nil {
			return nil, "", err
		}
		in.Within = at
	}
	if q.Role != "" {
		r, err := s.RoleAt(ctx, q.Role, in.Within)
		if err != nil {
			return nil, "", err
		}
		in.Role = r.ID
	}
	return s.store.View().Bindings(ctx, in)
}

// Delete ends a binding. Who lifts a denial holds what it denied.
func (s *Service) Delete(ctx context.Context, ref string) error {
	actor := access.ActorFrom(ctx)
	return s.store.Write(ctx, func(tx Tx) error {
		before, err := s.permitted(ctx, tx, ref, policy.BindingsDelete)
		if err != nil {
			return err
		}
		role, err := tx.Role(ctx, before.RoleID)
		if err != nil {
			return err
		}
		if before.Deny {
			rule := before.Rule(role)
			rule.Deny = false
			if lacking := actor.Covers(rule); len(lacking) > 0 {
				return notHeld(lacking)
			}
		}
		owns := !before.Deny && before.Scope == (access.Scope{}) && slices.Contains(role.Permissions, access.All)
		return s.owned(ctx, tx, owns, func() error {
			if err := tx.DeleteBinding(ctx, before); err != nil {
				return err
			}
			return tx.Audit(ctx, audit.Of(actor, policy.BindingsDelete, before.Scope, before.ID, role.Name).Change(describeBinding(before), nil))
		})
	})
}

// owned does something after which the deployment still has an owner, if it had one. What cannot take one away is done without
// looking: who owns is read from every binding over the whole deployment, of which there are thousands.
func (s *Service) owned(ctx context.Context, tx Tx, takes bool, do func() error) error {
	if !takes {
		return do()
	}
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

func each(ctx context.Context, r Reader, q policy.Query, do func(policy.Binding) error) error {
	q.Readable, q.Page.Size = access.Everywhere(), tenant.MaxPage
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

type bindingRecord struct {
	Subject     string    `json:"subject"`
	Role        string    `json:"role"`
	Effect      string    `json:"effect"`
	Hosts       string    `json:"hosts,omitempty"`
	MFAWithin   string    `json:"mfaWithin,omitempty"`
	Addresses   []string  `json:"addresses,omitempty"`
	Ticket      string    `json:"ticket,omitempty"`
	NotBefore   time.Time `json:"notBefore,omitzero"`
	NotAfter    time.Time `json:"notAfter,omitzero"`
	Description string    `json:"description,omitempty"`
}

func describeBinding(b policy.Binding) bindingRecord {
	out := bindingRecord{Subject: b.Subject.ID, Role: b.RoleID, Effect: "allow", Hosts: b.Hosts, Ticket: b.Conditions.Ticket,
		NotBefore: b.NotBefore, NotAfter: b.NotAfter, Description: b.Description}
	if b.Deny {
		out.Effect = "deny"
	}
	if b.Conditions.MFAWithin > 0 {
		out.MFAWithin = b.Conditions.MFAWithin.String()
	}
	for _, p := range b.Conditions.Addresses {
		out.Addresses = append(out.Addresses, p.String())
	}
	return out
}

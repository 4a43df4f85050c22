package tenant

import (
	"context"

	"github.com/loopbackd/loopback/access"
	"github.com/loopbackd/loopback/audit"
	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/tenant"
)

// CreateOrganisation makes one. Only who may do so in the whole deployment can.
func (s *Service) CreateOrganisation(ctx context.Context, n New) (tenant.Organisation, error) {
	actor := access.ActorFrom(ctx)
	if !actor.Decide(tenant.OrganisationsCreate, access.Scope{}).Allowed {
		if actor.Kind == access.Anonymous {
			return tenant.Organisation{}, access.ErrUnauthenticated
		}
		return tenant.Organisation{}, access.Denied(tenant.OrganisationsCreate)
	}
	var c fault.Check
	n.check(&c)
	if err := c.Err("organisation_invalid", "the organisation is not valid"); err != nil {
		return tenant.Organisation{}, err
	}
	fresh := tenant.Organisation{Meta: s.meta("org", n), Description: n.Description}
	var out tenant.Organisation
	err := s.store.Write(ctx, func(tx Tx) error {
		if err := free(ctx, tx.Organisations, "organisation", n.Name, access.Scope{}); err != nil {
			return err
		}
		var err error
		if out, err = tx.PutOrganisation(ctx, fresh); err != nil {
			return err
		}
		return tx.Audit(ctx, audit.Of(actor, tenant.OrganisationsCreate, out.Scope(), out.ID, out.Name).Change(nil, describeOrganisation(out)))
	})
	return out, err
}

// Organisations are those that the caller may read, by name.
func (s *Service) Organisations(ctx context.Context, page tenant.Page) ([]tenant.Organisation, string, error) {
	return s.store.View().Organisations(ctx, tenant.Query{Readable: sight(ctx, tenant.OrganisationsRead), Page: page})
}

// DeleteOrganisation deletes one that holds nothing.
func (s *Service) DeleteOrganisation(ctx context.Context, ref string) error {
	o, err := s.Organisation(ctx, ref, tenant.OrganisationsDelete)
	if err != nil {
		return err
	}
	return s.store.Write(ctx, func(tx Tx) error {
		o, err := tx.Organisation(ctx, o.ID)
		if err != nil {
			return err
		}
		if err := empty(ctx, tx, "organisation", o.Name, o.Scope()); err != nil {
			return err
		}
		if err := tx.DeleteOrganisation(ctx, o.ID); err != nil {
			return err
		}
		return tx.Audit(ctx, audit.Of(access.ActorFrom(ctx), tenant.OrganisationsDelete, o.Scope(), o.ID, o.Name).Change(describeOrganisation(o), nil))
	})
}

// empty demands that nothing is left in a place.
func empty(ctx context.Context, tx Tx, kind, name string, at access.Scope) error {
	n, err := tx.CountIn(ctx, at)
	if err != nil {
		return err
	}
	if held := n.String(); held != "" {
		return fault.New(fault.Precondition, kind+"_not_empty", "%s %s still holds %s", kind, name, held).
			WithHint("delete what it holds first: remove hosts, revoke tokens, delete workspaces, then projects")
	}
	return nil
}

func describeOrganisation(o tenant.Organisation) record {
	return record{ID: o.ID, Name: o.Name, Labels: o.Labels, Description: o.Description}
}

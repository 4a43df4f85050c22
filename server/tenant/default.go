package tenant

import (
	"context"

	"github.com/loopbackd/loopback/access"
	"github.com/loopbackd/loopback/audit"
	"github.com/loopbackd/loopback/tenant"
)

// Default is the name of what is there from the first start.
const Default = "default"

// EnsureDefault makes organisation, project and workspace "default" in a deployment that has no organisation at all, so
// that the first token can be minted without a word about tenancy. What an operator deleted stays deleted as long as
// another organisation is left.
func (s *Service) EnsureDefault(ctx context.Context) error {
	some := tenant.Query{Readable: access.Everywhere(), Page: tenant.Page{Size: 1}}
	// Looked at first so that an ordinary start writes nothing; decided inside the transaction.
	if found, _, err := s.store.View().Organisations(ctx, some); err != nil || len(found) > 0 {
		return err
	}
	actor := access.Actor{Kind: access.System, Name: "first start"}
	n := New{Name: Default}
	o := tenant.Organisation{Meta: s.meta("org", n)}
	p := tenant.Project{Meta: s.meta("prj", n), OrganisationID: o.ID}
	w := tenant.Workspace{Meta: s.meta("ws", n), OrganisationID: o.ID, ProjectID: p.ID}
	return s.store.Write(ctx, func(tx Tx) error {
		if found, _, err := tx.Organisations(ctx, some); err != nil || len(found) > 0 {
			return err
		}
		if _, err := tx.PutOrganisation(ctx, o); err != nil {
			return err
		}
		if err := tx.Audit(ctx, audit.Of(actor, tenant.OrganisationsCreate, o.Scope(), o.ID, o.Name).Change(nil, describeOrganisation(o))); err != nil {
			return err
		}
		if _, err := tx.PutProject(ctx, p); err != nil {
			return err
		}
		if err := tx.Audit(ctx, audit.Of(actor, tenant.ProjectsCreate, p.Scope(), p.ID, p.Name).Change(nil, describeProject(p))); err != nil {
			return err
		}
		if _, err := tx.PutWorkspace(ctx, w); err != nil {
			return err
		}
		return tx.Audit(ctx, audit.Of(actor, tenant.WorkspacesCreate, w.Scope(), w.ID, w.Name).Change(nil, describeWorkspace(w)))
	})
}

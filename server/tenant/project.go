package tenant

import (
	"context"

	"github.com/loopbackd/loopback/access"
	"github.com/loopbackd/loopback/audit"
	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/tenant"
)

// CreateProject makes one in an organisation.
func (s *Service) CreateProject(ctx context.Context, organisation string, n New) (tenant.Project, error) {
	o, err := s.Organisation(ctx, organisation, tenant.ProjectsCreate)
	if err != nil {
		return tenant.Project{}, err
	}
	var c fault.Check
	n.check(&c)
	if err := c.Err("project_invalid", "the project is not valid"); err != nil {
		return tenant.Project{}, err
	}
	fresh := tenant.Project{Meta: s.meta("prj", n), OrganisationID: o.ID, Description: n.Description}
	var out tenant.Project
	err = s.store.Write(ctx, func(tx Tx) error {
		if _, err := tx.Organisation(ctx, o.ID); err != nil { // it may have been deleted since
			return err
		}
		if err := free(ctx, tx.Projects, "project", n.Name, o.Scope()); err != nil {
			return err
		}
		if out, err = tx.PutProject(ctx, fresh); err != nil {
			return err
		}
		return tx.Audit(ctx, audit.Of(access.ActorFrom(ctx), tenant.ProjectsCreate, out.Scope(), out.ID, out.Name).Change(nil, describeProject(out)))
	})
	return out, err
}

// Projects are those that the caller may read, by name; within an organisation unless that is empty.
func (s *Service) Projects(ctx context.Context, organisation string, page tenant.Page) ([]tenant.Project, string, error) {
	q := tenant.Query{Readable: sight(ctx, tenant.ProjectsRead), Page: page}
	if organisation != "" {
		o, err := s.findOrganisation(ctx, organisation, above(sight(ctx, tenant.ProjectsRead, tenant.OrganisationsRead), false))
		if err != nil {
			return nil, "", err
		}
		q.Within = o.Scope()
	}
	return s.store.View().Projects(ctx, q)
}

// DeleteProject deletes one that holds nothing.
func (s *Service) DeleteProject(ctx context.Context, ref string) error {
	p, err := s.Project(ctx, ref, tenant.ProjectsDelete)
	if err != nil {
		return err
	}
	return s.store.Write(ctx, func(tx Tx) error {
		p, err := tx.Project(ctx, p.ID)
		if err != nil {
			return err
		}
		if err := empty(ctx, tx, "project", p.Name, p.Scope()); err != nil {
			return err
		}
		if err := tx.DeleteProject(ctx, p.ID); err != nil {
			return err
		}
		return tx.Audit(ctx, audit.Of(access.ActorFrom(ctx), tenant.ProjectsDelete, p.Scope(), p.ID, p.Name).Change(describeProject(p), nil))
	})
}

func describeProject(p tenant.Project) record {
	return record{ID: p.ID, Name: p.Name, Labels: p.Labels, Description: p.Description, Organisation: p.OrganisationID}
}

package tenant

import (
	"context"
	"time"

	"github.com/loopbackd/loopback/access"
	"github.com/loopbackd/loopback/audit"
	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/tenant"
)

// CreateWorkspace makes one in a project.
func (s *Service) CreateWorkspace(ctx context.Context, project string, n New, tokens tenant.TokenPolicy) (tenant.Workspace, error) {
	p, err := s.Project(ctx, project, tenant.WorkspacesCreate)
	if err != nil {
		return tenant.Workspace{}, err
	}
	var c fault.Check
	n.check(&c)
	s.limits.CheckPolicy(&c, "tokenPolicy", tokens)
	if err := c.Err("workspace_invalid", "the workspace is not valid"); err != nil {
		return tenant.Workspace{}, err
	}
	fresh := tenant.Workspace{
		Meta: s.meta("ws", n), OrganisationID: p.OrganisationID, ProjectID: p.ID, Description: n.Description, Tokens: tokens,
	}
	var out tenant.Workspace
	err = s.store.Write(ctx, func(tx Tx) error {
		if _, err := tx.Project(ctx, p.ID); err != nil { // it may have been deleted since
			return err
		}
		if err := free(ctx, tx.Workspaces, "workspace", n.Name, p.Scope()); err != nil {
			return err
		}
		if out, err = tx.PutWorkspace(ctx, fresh); err != nil {
			return err
		}
		return tx.Audit(ctx, audit.Of(access.ActorFrom(ctx), tenant.WorkspacesCreate, out.Scope(), out.ID, out.Name).Change(nil, describeWorkspace(out)))
	})
	return out, err
}

// Workspaces are those that the caller may read, by name; within a project unless that is empty.
func (s *Service) Workspaces(ctx context.Context, project string, page tenant.Page) ([]tenant.Workspace, string, error) {
	q := tenant.Query{Readable: sight(ctx, tenant.WorkspacesRead), Page: page}
	if project != "" {
		p, err := s.findProject(ctx, project, above(sight(ctx, tenant.WorkspacesRead, tenant.ProjectsRead), true))
		if err != nil {
			return nil, "", err
		}
		q.Within = p.Scope()
	}
	return s.store.View().Workspaces(ctx, q)
}

// Update is a change of a workspace. Nil leaves a field as it is.
type Update struct {
	Description *string
	Tokens      *tenant.TokenPolicy
	Revision    int64 // that the caller read; 0 does not check
}

// UpdateWorkspace changes one. Tokens that exist keep what they were minted with.
func (s *Service) UpdateWorkspace(ctx context.Context, ref string, u Update) (tenant.Workspace, error) {
	w, err := s.Workspace(ctx, ref, tenant.WorkspacesUpdate)
	if err != nil {
		return tenant.Workspace{}, err
	}
	var c fault.Check
	if u.Description != nil {
		checkDescription(&c, *u.Description)
	}
	if u.Tokens != nil {
		s.limits.CheckPolicy(&c, "tokenPolicy", *u.Tokens)
	}
	if err := c.Err("workspace_invalid", "the workspace is not valid"); err != nil {
		return tenant.Workspace{}, err
	}
	var out tenant.Workspace
	err = s.store.Write(ctx, func(tx Tx) error {
		before, err := tx.Workspace(ctx, w.ID)
		if err != nil {
			return err
		}
		if u.Revision != 0 && u.Revision != before.Revision {
			return fault.New(fault.Conflict, "workspace_changed", "workspace %s was changed by somebody else (revision %d, you read %d)",
				before.Name, before.Revision, u.Revision).WithHint("read it again, and repeat your change on what it is now")
		}
		after := before
		if u.Description != nil {
			after.Description = *u.Description
		}
		if u.Tokens != nil {
			after.Tokens = *u.Tokens
		}
		if out, err = tx.PutWorkspace(ctx, after); err != nil {
			return err
		}
		return tx.Audit(ctx, audit.Of(access.ActorFrom(ctx), tenant.WorkspacesUpdate, out.Scope(), out.ID, out.Name).
			Change(describeWorkspace(before), describeWorkspace(out)))
	})
	return out, err
}

// DeleteWorkspace deletes one that holds no host that is not removed, and no token that could still enrol one.
func (s *Service) DeleteWorkspace(ctx context.Context, ref string) error {
	w, err := s.Workspace(ctx, ref, tenant.WorkspacesDelete)
	if err != nil {
		return err
	}
	return s.store.Write(ctx, func(tx Tx) error {
		w, err := tx.Workspace(ctx, w.ID)
		if err != nil {
			return err
		}
		if err := empty(ctx, tx, "workspace", w.Name, w.Scope()); err != nil {
			return err
		}
		if err := tx.DeleteWorkspace(ctx, w.ID); err != nil {
			return err
		}
		return tx.Audit(ctx, audit.Of(access.ActorFrom(ctx), tenant.WorkspacesDelete, w.Scope(), w.ID, w.Name).Change(describeWorkspace(w), nil))
	})
}

func describeWorkspace(w tenant.Workspace) record {
	r := record{ID: w.ID, Name: w.Name, Labels: w.Labels, Description: w.Description, Organisation: w.OrganisationID, Project: w.ProjectID}
	if w.Tokens != (tenant.TokenPolicy{}) {
		r.TokenPolicy = &policy{DefaultTTL: text(w.Tokens.DefaultTTL), MaxTTL: text(w.Tokens.MaxTTL),
			DefaultMaxUses: w.Tokens.DefaultMaxUses, MaxUses: w.Tokens.MaxUses, RequireApproval: w.Tokens.RequireApproval}
	}
	return r
}

func text(d time.Duration) string {
	if d == 0 {
		return ""
	}
	return d.String()
}

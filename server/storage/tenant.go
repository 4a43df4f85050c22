package storage

import (
	"context"
	"fmt"
	"time"

	"github.com/loopbackd/loopback/access"
	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/server/feed"
	"github.com/loopbackd/loopback/tenant"
)

var organisationsTable = newTable("organisations", func(o *tenant.Organisation) []column {
	return append(metaColumns(&o.Meta), column{"description", &o.Description})
})

var projectsTable = newTable("projects", func(p *tenant.Project) []column {
	return append(metaColumns(&p.Meta), column{"organisation_id", &p.OrganisationID}, column{"description", &p.Description})
})

var workspacesTable = newTable("workspaces", func(w *tenant.Workspace) []column {
	return append(metaColumns(&w.Meta), column{"organisation_id", &w.OrganisationID}, column{"project_id", &w.ProjectID},
		column{"description", &w.Description}, column{"token_policy", document{(*tokenPolicy)(&w.Tokens)}})
})

// tokenPolicy names the fields of a policy as they are stored.
type tokenPolicy struct {
	DefaultTTL      time.Duration `json:"defaultTtl,omitempty"`
	MaxTTL          time.Duration `json:"maxTtl,omitempty"`
	DefaultMaxUses  int32         `json:"defaultMaxUses,omitempty"`
	MaxUses         int32         `json:"maxUses,omitempty"`
	RequireApproval bool          `json:"requireApproval,omitempty"`
}

// Organisation by id.
func (v *View) Organisation(ctx context.Context, id string) (tenant.Organisation, error) {
	return organisationsTable.one(ctx, v.session, "organisation "+id, "id = $1", id)
}

// Project by id.
func (v *View) Project(ctx context.Context, id string) (tenant.Project, error) {
	return projectsTable.one(ctx, v.session, "project "+id, "id = $1", id)
}

// Workspace by id.
func (v *View) Workspace(ctx context.Context, id string) (tenant.Workspace, error) {
	return workspacesTable.one(ctx, v.session, "workspace "+id, "id = $1", id)
}

// Organisations by name, and the token of the next page.
func (v *View) Organisations(ctx context.Context, q tenant.Query) ([]tenant.Organisation, string, error) {
	return tree(ctx, v, organisationsTable, place{organisation: "id"}, q,
		func(o tenant.Organisation) (any, string) { return o.Name, o.ID })
}

// Projects by name, and the token of the next page.
func (v *View) Projects(ctx context.Context, q tenant.Query) ([]tenant.Project, string, error) {
	return tree(ctx, v, projectsTable, place{organisation: "organisation_id", project: "id"}, q,
		func(p tenant.Project) (any, string) { return p.Name, p.ID })
}

// Workspaces by name, and the token of the next page.
func (v *View) Workspaces(ctx context.Context, q tenant.Query) ([]tenant.Workspace, string, error) {
	return tree(ctx, v, workspacesTable, place{"organisation_id", "project_id", "id"}, q,
		func(w tenant.Workspace) (any, string) { return w.Name, w.ID })
}

func tree[T any](ctx context.Context, v *View, t *table[T], at place, q tenant.Query, key func(T) (any, string)) ([]T, string, error) {
	var f filter
	f.readable(at, q.Readable, nil)
	f.within(at, q.Within)
	f.equal("name", q.Name)
	k := keyset{column: "name", list: fingerprint(t.name, q.Within, q.Name)}
	if err := k.after(&f, q.Page.Token, true); err != nil {
		return nil, "", err
	}
	rest := f.where() + k.order(&f, q.Page)
	list, err := t.list(ctx, v.session, rest, f.args...)
	if err != nil {
		return nil, "", err
	}
	page, next := cut(k, q.Page, list, key)
	return page, next, nil
}

// CountIn counts what lies within a scope and would keep it from being deleted. Tokens count while they are active.
func (v *View) CountIn(ctx context.Context, at access.Scope) (c tenant.Count, err error) {
	var f filter
	count := func(table string, p place, also string) string {
		text := "SELECT count(*) FROM " + table + " WHERE " + f.contains(p, at)
		if also != "" {
			text += " AND " + also
		}
		return "(" + text + ")"
	}
	// What is deleted does not count as lying within itself.
	projects, workspaces := "1 = 1", "1 = 1"
	if at.Project != "" {
		projects = "1 = 0"
	}
	if at.Workspace != "" {
		workspaces = "1 = 0"
	}
	now := f.arg(micros(v.clock()))
	text := "SELECT " + count("projects", place{organisation: "organisation_id", project: "id"}, projects) +
		", " + count("workspaces", place{"organisation_id", "project_id", "id"}, workspaces) +
		", " + count("hosts", anywhere, "lifecycle <> 'removed'") +
		", " + count("tokens", anywhere, activeToken(now))
	if err = v.row(ctx, []any{&c.Projects, &c.Workspaces, &c.Hosts, &c.Tokens}, text, f.args...); err != nil {
		err = fmt.Errorf("counting what is in a place: %w", err)
	}
	return c, err
}

// PutOrganisation inserts or updates.
func (tx *Tx) PutOrganisation(ctx context.Context, o tenant.Organisation) (tenant.Organisation, error) {
	tx.stamp(feed.Organisation, &o.Meta, o.Scope())
	err := named(organisationsTable.put(ctx, tx.session, &o), "an organisation", o.Name)
	return o, err
}

// PutProject inserts or updates.
func (tx *Tx) PutProject(ctx context.Context, p tenant.Project) (tenant.Project, error) {
	tx.stamp(feed.Project, &p.Meta, p.Scope())
	err := named(projectsTable.put(ctx, tx.session, &p), "a project", p.Name)
	return p, err
}

// PutWorkspace inserts or updates.
func (tx *Tx) PutWorkspace(ctx context.Context, w tenant.Workspace) (tenant.Workspace, error) {
	tx.stamp(feed.Workspace, &w.Meta, w.Scope())
	err := named(workspacesTable.put(ctx, tx.session, &w), "a workspace", w.Name)
	return w, err
}

// named says which name is taken.
func named(err error, what, name string) error {
	if err != nil && fault.KindOf(err) == fault.Exists {
		return fault.New(fault.Exists, "name_taken", "there is %s named %q already", what, name).
			WithHint("choose another name").WithCause(err)
	}
	return err
}

// DeleteOrganisation fails with Precondition while it holds anything.
func (tx *Tx) DeleteOrganisation(ctx context.Context, id string) error {
	o, err := tx.Organisation(ctx, id)
	if err == nil {
		err = tx.empty(ctx, o.Name, o.Scope())
	}
	if err != nil {
		return err
	}
	if err := tx.forget(ctx, o.Scope()); err != nil {
		return err
	}
	return tx.remove(ctx, feed.Organisation, "organisations", id, o.Scope())
}

// DeleteProject fails with Precondition while it holds anything.
func (tx *Tx) DeleteProject(ctx context.Context, id string) error {
	p, err := tx.Project(ctx, id)
	if err == nil {
		err = tx.empty(ctx, p.Name, p.Scope())
	}
	if err != nil {
		return err
	}
	if err := tx.forget(ctx, p.Scope()); err != nil {
		return err
	}
	return tx.remove(ctx, feed.Project, "projects", id, p.Scope())
}

// DeleteWorkspace fails with Precondition while it holds hosts that are not removed, or active tokens. Removed hosts
// stay known by their keys.
func (tx *Tx) DeleteWorkspace(ctx context.Context, id string) error {
	w, err := tx.Workspace(ctx, id)
	if err == nil {
		err = tx.empty(ctx, w.Name, w.Scope())
	}
	if err != nil {
		return err
	}
	if err := tx.session.exec(ctx, "DELETE FROM settings WHERE id = $1", id); err != nil {
		return fmt.Errorf("deleting settings: %w", err)
	}
	if err := tx.forget(ctx, w.Scope()); err != nil {
		return err
	}
	return tx.remove(ctx, feed.Workspace, "workspaces", id, w.Scope())
}

func (tx *Tx) empty(ctx context.Context, name string, at access.Scope) error {
	held, err := tx.CountIn(ctx, at)
	if err == nil && held != (tenant.Count{}) {
		err = fault.New(fault.Precondition, "not_empty", "%q still holds %s", name, held).
			WithHint("delete or move those first")
	}
	return err
}

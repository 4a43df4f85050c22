package storage

import (
	"context"
	"fmt"
	"slices"

	"github.com/loopbackd/loopback/access"
	"github.com/loopbackd/loopback/policy"
	"github.com/loopbackd/loopback/principal"
	"github.com/loopbackd/loopback/server/feed"
	"github.com/loopbackd/loopback/tenant"
)

var rolesTable = newTable("roles", func(r *policy.Role) []column {
	return append(append(metaColumns(&r.Meta), scopeColumns(&r.Scope)...),
		column{"description", &r.Description}, column{"permissions", document{&r.Permissions}})
})

var bindingsTable = newTable("bindings", func(b *policy.Binding) []column {
	return append(append(metaColumns(&b.Meta), scopeColumns(&b.Scope)...),
		column{"description", &b.Description}, column{"subject_kind", &b.Subject.Kind}, column{"subject_id", &b.Subject.ID},
		column{"role_id", &b.RoleID}, column{"hosts", &b.Hosts}, column{"mfa_within", span{&b.Conditions.MFAWithin}},
		column{"addresses", document{&b.Conditions.Addresses}}, column{"ticket", &b.Conditions.Ticket}, column{"deny", &b.Deny},
		column{"not_before", moment{&b.NotBefore}}, column{"not_after", moment{&b.NotAfter}}, column{"created_by", &b.CreatedBy}, column{"basis", basis{&b.Basis}})
})

// Role by id, the built-in ones included.
func (v *View) Role(ctx context.Context, id string) (policy.Role, error) {
	if r, ok := policy.BuiltInRole(id); ok && r.ID == id {
		return r, nil
	}
	return rolesTable.one(ctx, v.session, "role "+id, "id = $1", id)
}

// Roles by name, those that are built in apart, and the token of the next page.
func (v *View) Roles(ctx context.Context, q policy.Query) ([]policy.Role, string, error) {
	return byName(ctx, v, rolesTable, q.Readable, q.Within, q.Name, q.Page, func(*filter) {}, func(r policy.Role) tenant.Meta { return r.Meta })
}

// Binding by id.
func (v *View) Binding(ctx context.Context, id string) (policy.Binding, error) {
	return bindingsTable.one(ctx, v.session, "binding "+id, "id = $1", id)
}

// Bindings, newest first, and the token of the next page.
func (v *View) Bindings(ctx context.Context, q policy.Query) ([]policy.Binding, string, error) {
	var f filter
	f.readable(anywhere, q.Readable, nil)
	f.within(anywhere, q.Within)
	f.equal("subject_id", q.Subject)
	f.equal("role_id", q.Role)
	k := keyset{descending: true, list: fingerprint("bindings", q.Within, q.Subject, q.Role)}
	if err := k.after(&f, q.Page.Token, false); err != nil {
		return nil, "", err
	}
	rest := f.where() + k.order(&f, q.Page)
	list, err := bindingsTable.list(ctx, v.session, rest, f.args...)
	if err != nil {
		return nil, "", err
	}
	page, next := cut(k, q.Page, list, func(b policy.Binding) (any, string) { return nil, b.ID })
	return page, next, nil
}

// Owners are the ids of the principals who own the deployment and whom no lock keeps out.
func (v *View) Owners(ctx context.Context) ([]string, error) {
	bindings, err := bindingsTable.list(ctx, v.session, "WHERE organisation_id = '' AND project_id = '' AND workspace_id = ''")
	if err != nil {
		return nil, err
	}
	roles, groups, principals := map[string]policy.Role{}, map[string]principal.Group{}, map[string]principal.Principal{}
	note := func(id string) error {
		found, err := principalsTable.list(ctx, v.session, "WHERE id = $1", id)
		for _, p := range found {
			principals[id] = p
		}
		return err
	}
	for _, b := range bindings {
		if _, ok := roles[b.RoleID]; !ok {
			if r, err := v.Role(ctx, b.RoleID); err == nil {
				roles[b.RoleID] = r
			}
		}
		if b.Subject.Kind != access.Group {
			if err := note(b.Subject.ID); err != nil {
				return nil, err
			}
			continue
		}
		found, err := groupsTable.list(ctx, v.session, "WHERE id = $1", b.Subject.ID)
		if err != nil {
			return nil, err
		}
		for _, g := range found {
			groups[g.ID] = g
			for _, m := range g.Members {
				if err := note(m); err != nil {
					return nil, err
				}
			}
		}
	}
	locked, err := v.keptOut(ctx)
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(policy.Owners(bindings, roles, groups, principals), func(id string) bool { return locked[id] }), nil
}

// PutRole inserts or updates.
func (tx *Tx) PutRole(ctx context.Context, r policy.Role) (policy.Role, error) {
	tx.stamp(feed.Role, &r.Meta, r.Scope)
	err := named(rolesTable.put(ctx, tx.session, &r), "a role", r.Name)
	return r, err
}

// DeleteRole deletes a role alone.
func (tx *Tx) DeleteRole(ctx context.Context, r policy.Role) error {
	return tx.remove(ctx, feed.Role, "roles", r.ID, r.Scope)
}

// PutBinding inserts or updates.
func (tx *Tx) PutBinding(ctx context.Context, b policy.Binding) (policy.Binding, error) {
	tx.stamp(feed.Binding, &b.Meta, b.Scope)
	err := bindingsTable.put(ctx, tx.session, &b)
	return b, err
}

// DeleteBinding deletes a binding.
func (tx *Tx) DeleteBinding(ctx context.Context, b policy.Binding) error {
	return tx.remove(ctx, feed.Binding, "bindings", b.ID, b.Scope)
}

// forget deletes what is written about access in a place that is about to be deleted, and who belongs to it. It fails
// where the deployment would be left without an owner.
func (tx *Tx) forget(ctx context.Context, at access.Scope) error {
	before, err := tx.Owners(ctx)
	if err != nil {
		return err
	}
	var f filter
	f.within(anywhere, at)
	for _, t := range []struct {
		kind feed.Kind
		name string
	}{{feed.Binding, "bindings"}, {feed.Principal, "principals"}, {feed.Group, "groups"}, {feed.Role, "roles"}, {feed.GrantPolicy, "grant_policies"}, {feed.Lock, "locks"}, {feed.SessionReviewPolicy, "session_review_policies"}} {
		rows, err := tx.session.query(ctx, "SELECT id FROM "+t.name+f.where(), f.args...)
		if err != nil {
			return fmt.Errorf("reading %s: %w", t.name, err)
		}
		var ids []string
		for rows.Next() {
			var id string
			if err := rows.Scan(&id); err != nil {
				rows.Close()
				return fmt.Errorf("reading %s: %w", t.name, tx.session.explain(err))
			}
			ids = append(ids, id)
		}
		rows.Close()
		if err := rows.Err(); err != nil {
			return fmt.Errorf("reading %s: %w", t.name, tx.session.explain(err))
		}
		for _, id := range ids {
			if err := tx.remove(ctx, t.kind, t.name, id, at); err != nil {
				return err
			}
		}
	}
	after, err := tx.Owners(ctx)
	if err == nil && len(before) > 0 && len(after) == 0 {
		return policy.ErrLastOwner
	}
	return err
}

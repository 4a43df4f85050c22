package storage

import (
	"context"

	"github.com/loopbackd/loopback/access"
	"github.com/loopbackd/loopback/principal"
	"github.com/loopbackd/loopback/server/feed"
	"github.com/loopbackd/loopback/tenant"
)

var principalsTable = newTable("principals", func(p *principal.Principal) []column {
	return append(append(metaColumns(&p.Meta), scopeColumns(&p.Scope)...),
		column{"kind", &p.Kind}, column{"email", &p.Email}, column{"description", &p.Description}, column{"disabled_at", moment{&p.DisabledAt}}, column{"identity", &p.Identity})
})

var groupsTable = newTable("groups", func(g *principal.Group) []column {
	return append(append(metaColumns(&g.Meta), scopeColumns(&g.Scope)...),
		column{"description", &g.Description}, column{"members", document{&g.Members}})
})

// Principal by id.
func (v *View) Principal(ctx context.Context, id string) (principal.Principal, error) {
	return principalsTable.one(ctx, v.session, principal.Word(principal.Kind(id))+" "+id, "id = $1", id)
}

// Group by id.
func (v *View) Group(ctx context.Context, id string) (principal.Group, error) {
	return groupsTable.one(ctx, v.session, "group "+id, "id = $1", id)
}

// Principals by name, and the token of the next page.
func (v *View) Principals(ctx context.Context, q principal.Query) ([]principal.Principal, string, error) {
	return byName(ctx, v, principalsTable, q.Readable, q.Within, q.Name, q.Page,
		func(f *filter) { f.equal("kind", string(q.Kind)) }, func(p principal.Principal) tenant.Meta { return p.Meta })
}

// Groups by name, and the token of the next page.
func (v *View) Groups(ctx context.Context, q principal.Query) ([]principal.Group, string, error) {
	return byName(ctx, v, groupsTable, q.Readable, q.Within, q.Name, q.Page,
		func(*filter) {}, func(g principal.Group) tenant.Meta { return g.Meta })
}

// byName is a page of what has the whole scope, by name.
func byName[T any](ctx context.Context, v *View, t *table[T], sight access.Sight, within access.Scope, name string, p tenant.Page,
	narrow func(*filter), meta func(T) tenant.Meta) ([]T, string, error) {
	var f filter
	f.readable(anywhere, sight, nil)
	f.within(anywhere, within)
	f.equal("name", name)
	narrow(&f)
	k := keyset{column: "name", list: fingerprint(t.name, within, name, f.conditions)}
	if err := k.after(&f, p.Token, true); err != nil {
		return nil, "", err
	}
	rest := f.where() + k.order(&f, p)
	list, err := t.list(ctx, v.session, rest, f.args...)
	if err != nil {
		return nil, "", err
	}
	page, next := cut(k, p, list, func(v T) (any, string) { m := meta(v); return m.Name, m.ID })
	return page, next, nil
}

// PutPrincipal inserts or updates.
func (tx *Tx) PutPrincipal(ctx context.Context, p principal.Principal) (principal.Principal, error) {
	tx.stamp(feed.Principal, &p.Meta, p.Scope)
	err := named(principalsTable.put(ctx, tx.session, &p), "a "+principal.Word(p.Kind), p.Name)
	return p, err
}

// DeletePrincipal deletes a principal alone: bindings, memberships and keys are others' to end.
func (tx *Tx) DeletePrincipal(ctx context.Context, p principal.Principal) error {
	return tx.remove(ctx, feed.Principal, "principals", p.ID, p.Scope)
}

// PutGroup inserts or updates.
func (tx *Tx) PutGroup(ctx context.Context, g principal.Group) (principal.Group, error) {
	tx.stamp(feed.Group, &g.Meta, g.Scope)
	err := named(groupsTable.put(ctx, tx.session, &g), "a group", g.Name)
	return g, err
}

// DeleteGroup deletes a group alone.
func (tx *Tx) DeleteGroup(ctx context.Context, g principal.Group) error {
	return tx.remove(ctx, feed.Group, "groups", g.ID, g.Scope)
}

package storage

import (
	"context"
	"time"

	"github.com/loopbackd/loopback/access"
	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/grant"
	"github.com/loopbackd/loopback/policy"
	"github.com/loopbackd/loopback/server/feed"
)

var grantPoliciesTable = newTable("grant_policies", func(p *grant.Policy) []column {
	return append(append(metaColumns(&p.Meta), scopeColumns(&p.Scope)...),
		column{"description", &p.Description}, column{"role_id", &p.RoleID}, column{"role_revision", &p.Role}, column{"terms", document{&p.Terms}},
		column{"ca", &p.CA}, column{"sealed", &p.Sealed}, column{"created_by", &p.CreatedBy})
})

var grantsTable = newTable("grants", func(g *grant.Grant) []column {
	return append(append(metaColumns(&g.Meta), scopeColumns(&g.Scope)...),
		column{"subject_kind", &g.Subject.Kind}, column{"subject_id", &g.Subject.ID}, column{"subject_name", &g.Who}, column{"role_id", &g.RoleID},
		column{"role_name", &g.RoleName}, column{"hosts", &g.Hosts}, column{"duration", span{&g.Duration}}, column{"reason", &g.Reason},
		column{"ticket", &g.Ticket}, column{"policy_id", &g.PolicyID}, column{"terms", document{&g.Terms}}, column{"state", &g.State},
		column{"expires_at", moment{&g.ExpiresAt}}, column{"approvals", document{&g.Approvals}}, column{"webhook", document{&g.Webhook}},
		column{"binding_id", &g.BindingID}, column{"began_at", moment{&g.BeganAt}}, column{"not_after", moment{&g.NotAfter}},
		column{"ended_at", moment{&g.EndedAt}}, column{"ended_by", &g.EndedBy}, column{"comment", &g.Comment})
})

// GrantPolicy by id.
func (v *View) GrantPolicy(ctx context.Context, id string) (grant.Policy, error) {
	return grantPoliciesTable.one(ctx, v.session, "grant policy "+id, "id = $1", id)
}

// GrantPolicies, newest first, and the token of the next page.
func (v *View) GrantPolicies(ctx context.Context, q grant.PolicyQuery) ([]grant.Policy, string, error) {
	var f filter
	f.readable(anywhere, q.Readable, nil)
	f.within(anywhere, q.Within)
	k := keyset{descending: true, list: fingerprint("grant policies", q.Within)}
	if err := k.after(&f, q.Page.Token, false); err != nil {
		return nil, "", err
	}
	rest := f.where() + k.order(&f, q.Page)
	list, err := grantPoliciesTable.list(ctx, v.session, rest, f.args...)
	if err != nil {
		return nil, "", err
	}
	page, next := cut(k, q.Page, list, func(p grant.Policy) (any, string) { return nil, p.ID })
	return page, next, nil
}

// GrantPoliciesAbout are those over a scope, or over one that holds it.
func (v *View) GrantPoliciesAbout(ctx context.Context, at access.Scope) ([]grant.Policy, error) {
	return grantPoliciesTable.list(ctx, v.session,
		"WHERE organisation_id IN ('', $1) AND project_id IN ('', $2) AND workspace_id IN ('', $3) ORDER BY id", at.Organisation, at.Project, at.Workspace)
}

// PutGrantPolicy inserts.
func (tx *Tx) PutGrantPolicy(ctx context.Context, p grant.Policy) (grant.Policy, error) {
	tx.stamp(feed.GrantPolicy, &p.Meta, p.Scope)
	err := grantPoliciesTable.put(ctx, tx.session, &p)
	if fault.KindOf(err) == fault.Exists {
		err = fault.New(fault.Exists, "grant_policy_exists", "there is a policy for this role at this place already").
			WithHint("delete it first: loopback grant-policy list").WithCause(err)
	}
	return p, err
}

// DeleteGrantPolicy deletes one.
func (tx *Tx) DeleteGrantPolicy(ctx context.Context, p grant.Policy) error {
	return tx.remove(ctx, feed.GrantPolicy, "grant_policies", p.ID, p.Scope)
}

// Grant by id.
func (v *View) Grant(ctx context.Context, id string) (grant.Grant, error) {
	return grantsTable.one(ctx, v.session, "grant "+id, "id = $1", id)
}

// Grants, newest first, and the token of the next page. States are those at a time, noted or not.
func (v *View) Grants(ctx context.Context, q grant.Query, now time.Time) ([]grant.Grant, string, error) {
	var f filter
	conditions := len(f.conditions)
	f.readable(anywhere, q.Readable, nil)
	if len(f.conditions) > conditions && q.Own != "" {
		f.conditions[conditions] = "(" + f.conditions[conditions] + " OR subject_id = " + f.arg(q.Own) + ")"
	}
	f.within(anywhere, q.Within)
	f.equal("subject_id", q.Subject)
	if len(q.States) > 0 {
		at := f.arg(micros(now))
		f.and(f.in("CASE WHEN state = 'pending' AND expires_at <= "+at+" THEN 'expired' WHEN state = 'active' AND not_after <= "+at+" THEN 'ended' ELSE state END", asStrings(q.States)))
	}
	k := keyset{descending: true, list: fingerprint("grants", q.Within, q.Subject, q.States)}
	if err := k.after(&f, q.Page.Token, false); err != nil {
		return nil, "", err
	}
	rest := f.where() + k.order(&f, q.Page)
	list, err := grantsTable.list(ctx, v.session, rest, f.args...)
	if err != nil {
		return nil, "", err
	}
	page, next := cut(k, q.Page, list, func(g grant.Grant) (any, string) { return nil, g.ID })
	return page, next, nil
}

// DueGrants are those whose state is over by now, or whose binding is gone, and is not noted to be so.
func (v *View) DueGrants(ctx context.Context, now time.Time) ([]grant.Grant, error) {
	return grantsTable.list(ctx, v.session, "WHERE state = 'pending' AND expires_at <= $1 OR state = 'active' AND (not_after <= $1 OR binding_id NOT IN (SELECT id FROM bindings)) ORDER BY id LIMIT 500", micros(now))
}

// CountGrants is how many grants are noted to be of a state; of one principal, where it is named.
func (v *View) CountGrants(ctx context.Context, state grant.State, subject string) (int64, error) {
	return v.number(ctx, "SELECT count(*) FROM grants WHERE state = $1 AND ($2 = '' OR subject_id = $2)", string(state), subject)
}

// RolesNamed are the roles that have a name, those that are built in included, wherever they belong.
func (v *View) RolesNamed(ctx context.Context, name string) ([]policy.Role, error) {
	list, err := rolesTable.list(ctx, v.session, "WHERE name = $1 OR id = $1 ORDER BY id", name)
	if r, ok := policy.BuiltInRole(name); ok {
		list = append(list, r)
	}
	return list, err
}

// PutGrant inserts or updates.
func (tx *Tx) PutGrant(ctx context.Context, g grant.Grant) (grant.Grant, error) {
	tx.stamp(feed.Grant, &g.Meta, g.Scope)
	err := grantsTable.put(ctx, tx.session, &g)
	return g, err
}

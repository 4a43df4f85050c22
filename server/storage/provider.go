package storage

import (
	"context"

	"github.com/loopbackd/loopback/access"
	"github.com/loopbackd/loopback/provider"
	"github.com/loopbackd/loopback/server/feed"
)

var providersTable = newTable("providers", func(p *provider.Provider) []column {
	return append(metaColumns(&p.Meta), column{"issuer", &p.Issuer}, column{"client_id", &p.ClientID}, column{"sealed", &p.Sealed}, column{"ca", &p.CA},
		column{"scopes", document{&p.Scopes}}, column{"disabled", &p.Disabled}, column{"organisation_id", &p.Organisation}, column{"create_users", &p.CreateUsers},
		column{"domains", document{&p.Domains}}, column{"groups_claim", &p.GroupsClaim}, column{"groups_map", document{&p.Groups}},
		column{"trust_mfa", &p.TrustMFA}, column{"mfa_values", document{&p.MFAValues}})
})

var identitiesTable = newTable("identities", func(i *provider.Identity) []column {
	return append(metaColumns(&i.Meta), column{"provider_id", &i.ProviderID}, column{"issuer", &i.Issuer}, column{"subject", &i.Subject},
		column{"user_id", &i.UserID}, column{"email", &i.Email}, column{"last_used_at", moment{&i.LastUsedAt}})
})

// Provider by id.
func (v *View) Provider(ctx context.Context, id string) (provider.Provider, error) {
	return providersTable.one(ctx, v.session, "provider "+id, "id = $1", id)
}

// ProviderNamed is the one of a name.
func (v *View) ProviderNamed(ctx context.Context, name string) (provider.Provider, error) {
	return providersTable.one(ctx, v.session, "provider "+name, "name = $1", name)
}

// Providers are all of them, by name: there are few.
func (v *View) Providers(ctx context.Context) ([]provider.Provider, error) {
	return providersTable.list(ctx, v.session, "ORDER BY name")
}

// Identity by id.
func (v *View) Identity(ctx context.Context, id string) (provider.Identity, error) {
	return identitiesTable.one(ctx, v.session, "identity "+id, "id = $1", id)
}

// Identities of a provider, and the token of the next page.
func (v *View) Identities(ctx context.Context, q provider.Query) ([]provider.Identity, string, error) {
	var f filter
	f.equal("provider_id", q.Provider)
	k := keyset{descending: true, list: fingerprint("identities", q.Provider)}
	if err := k.after(&f, q.Page.Token, false); err != nil {
		return nil, "", err
	}
	rest := f.where() + k.order(&f, q.Page)
	list, err := identitiesTable.list(ctx, v.session, rest, f.args...)
	if err != nil {
		return nil, "", err
	}
	page, next := cut(k, q.Page, list, func(i provider.Identity) (any, string) { return nil, i.ID })
	return page, next, nil
}

// PutProvider inserts or updates.
func (tx *Tx) PutProvider(ctx context.Context, p provider.Provider) (provider.Provider, error) {
	tx.stamp(feed.Provider, &p.Meta, access.Scope{})
	err := named(providersTable.put(ctx, tx.session, &p), "a provider", p.Name)
	return p, err
}

// DeleteProvider removes it, with the identities that it gave.
func (tx *Tx) DeleteProvider(ctx context.Context, p provider.Provider) error {
	if err := tx.session.exec(ctx, "DELETE FROM identities WHERE provider_id = $1", p.ID); err != nil {
		return err
	}
	return tx.remove(ctx, feed.Provider, "providers", p.ID, access.Scope{})
}

// PutIdentity inserts or updates.
func (tx *Tx) PutIdentity(ctx context.Context, i provider.Identity) (provider.Identity, error) {
	tx.stamp(feed.Identity, &i.Meta, access.Scope{})
	err := identitiesTable.put(ctx, tx.session, &i)
	return i, err
}

// DeleteIdentity removes it.
func (tx *Tx) DeleteIdentity(ctx context.Context, i provider.Identity) error {
	return tx.remove(ctx, feed.Identity, "identities", i.ID, access.Scope{})
}

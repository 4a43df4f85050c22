package storage

import (
	"context"
	"fmt"
	"time"

	"github.com/loopbackd/loopback/access"
	"github.com/loopbackd/loopback/passkey"
	"github.com/loopbackd/loopback/server/feed"
	"github.com/loopbackd/loopback/tenant"
)

var passkeysTable = newTable("passkeys", func(p *passkey.Passkey) []column {
	return append(append(metaColumns(&p.Meta), scopeColumns(&p.Scope)...),
		column{"user_id", &p.UserID}, column{"domain", &p.Domain}, column{"credential_id", &p.CredentialID}, column{"public_key", &p.PublicKey},
		column{"sign_count", &p.SignCount}, column{"aaguid", &p.AAGUID}, column{"transports", document{&p.Transports}},
		column{"backup_eligible", &p.BackupEligible}, column{"backed_up", &p.BackedUp}, column{"last_used_at", moment{&p.LastUsedAt}})
})

// Passkey by id.
func (v *View) Passkey(ctx context.Context, id string) (passkey.Passkey, error) {
	return passkeysTable.one(ctx, v.session, "passkey "+id, "id = $1", id)
}

// PasskeyByCredential is the one whose authenticator calls it so.
func (v *View) PasskeyByCredential(ctx context.Context, credential []byte) (passkey.Passkey, error) {
	return passkeysTable.one(ctx, v.session, "passkey", "credential_id = $1", credential)
}

// Passkeys, newest first, and the token of the next page.
func (v *View) Passkeys(ctx context.Context, q passkey.Query) ([]passkey.Passkey, string, error) {
	var f filter
	f.readable(anywhere, q.Readable, nil)
	f.equal("user_id", q.User)
	k := keyset{descending: true, list: fingerprint("passkeys", q.User)}
	if err := k.after(&f, q.Page.Token, false); err != nil {
		return nil, "", err
	}
	rest := f.where() + k.order(&f, q.Page)
	list, err := passkeysTable.list(ctx, v.session, rest, f.args...)
	if err != nil {
		return nil, "", err
	}
	page, next := cut(k, q.Page, list, func(p passkey.Passkey) (any, string) { return nil, p.ID })
	return page, next, nil
}

// OtherWaysIn is how many ways in a user has besides passkeys: subjects of providers that let people in, and API keys.
func (v *View) OtherWaysIn(ctx context.Context, user string, now time.Time) (int64, error) {
	return v.number(ctx, `SELECT (SELECT count(*) FROM identities JOIN providers ON providers.id = identities.provider_id WHERE identities.user_id = $1 AND NOT providers.disabled)
		+ (SELECT count(*) FROM api_keys WHERE owner_id = $1 AND revoked_at = 0 AND expires_at > $2)`, user, micros(now))
}

// PutPasskey inserts or updates.
func (tx *Tx) PutPasskey(ctx context.Context, p passkey.Passkey) (passkey.Passkey, error) {
	tx.stamp(feed.Passkey, &p.Meta, p.Scope)
	err := passkeysTable.put(ctx, tx.session, &p)
	return p, err
}

// DeletePasskey removes it.
func (tx *Tx) DeletePasskey(ctx context.Context, p passkey.Passkey) error {
	return tx.remove(ctx, feed.Passkey, "passkeys", p.ID, p.Scope)
}

// DeletePasskeys removes all of a user.
func (tx *Tx) DeletePasskeys(ctx context.Context, user string) (gone []string, err error) {
	list, _, err := tx.Passkeys(ctx, passkey.Query{Readable: access.Everywhere(), User: user, Page: tenant.Page{Size: tenant.MaxPage}})
	for _, p := range list {
		if err == nil {
			gone, err = append(gone, p.ID), tx.DeletePasskey(ctx, p)
		}
	}
	return gone, err
}

// SpendCeremony notes that a ceremony was used up. first is false where it was before; of those that are over nothing is kept.
func (tx *Tx) SpendCeremony(ctx context.Context, id string, until time.Time) (first bool, err error) {
	tx.touch()
	if err := tx.session.exec(ctx, "DELETE FROM ceremonies WHERE expires_at < $1", micros(tx.now.Add(-passkey.Life))); err != nil {
		return false, fmt.Errorf("forgetting old ceremonies: %w", err)
	}
	// The row is locked by who writes it first; whoever comes second, on whatever replica, writes none.
	n, err := tx.work.count("INSERT INTO ceremonies (id, expires_at) VALUES ($1, $2) ON CONFLICT (id) DO NOTHING", id, micros(until))
	if err != nil {
		return false, fmt.Errorf("noting a ceremony: %w", err)
	}
	return n == 1, nil
}

// EndSignInsVia ends those of a user that began by something, but for one.
func (tx *Tx) EndSignInsVia(ctx context.Context, user, via, except string, at time.Time, why string) (ended []string, err error) {
	list, err := signInsTable.list(ctx, tx.session, "WHERE user_id = $1 AND via = $2 AND ended_at = 0 AND id <> $3 ORDER BY id", user, via, except)
	for _, s := range list {
		if err != nil {
			break
		}
		s.EndedAt, s.EndedFor = at, why
		_, err = tx.PutSignIn(ctx, s)
		ended = append(ended, s.ID)
	}
	return ended, err
}

package storage

import (
	"context"
	"fmt"
	"time"

	"github.com/loopbackd/loopback/apikey"
	"github.com/loopbackd/loopback/server/feed"
)

var keysTable = newTable("api_keys", func(k *apikey.Key) []column {
	return append(append(metaColumns(&k.Meta), scopeColumns(&k.Scope)...),
		column{"description", &k.Description}, column{"permissions", document{&k.Permissions}}, column{"hash", &k.Hash},
		column{"expires_at", moment{&k.ExpiresAt}}, column{"created_by", &k.CreatedBy}, column{"owner_id", &k.OwnerID},
		column{"last_used_at", moment{&k.LastUsedAt}}, column{"revoked_at", moment{&k.RevokedAt}})
})

// Key by id.
func (v *View) Key(ctx context.Context, id string) (apikey.Key, error) {
	return keysTable.one(ctx, v.session, "API key "+id, "id = $1", id)
}

// Keys, newest first, and the token of the next page.
func (v *View) Keys(ctx context.Context, q apikey.Query) ([]apikey.Key, string, error) {
	var f filter
	f.readable(anywhere, q.Readable, nil)
	f.equal("owner_id", q.Owner)
	k := keyset{descending: true, list: fingerprint("api_keys", q.Owner)}
	if err := k.after(&f, q.Page.Token, false); err != nil {
		return nil, "", err
	}
	rest := f.where() + k.order(&f, q.Page)
	list, err := keysTable.list(ctx, v.session, rest, f.args...)
	if err != nil {
		return nil, "", err
	}
	page, next := cut(k, q.Page, list, func(k apikey.Key) (any, string) { return nil, k.ID })
	return page, next, nil
}

// PutKey inserts or updates.
func (tx *Tx) PutKey(ctx context.Context, k apikey.Key) (apikey.Key, error) {
	tx.stamp(feed.APIKey, &k.Meta, k.Scope)
	err := keysTable.put(ctx, tx.session, &k)
	return k, err
}

// TouchKey notes that a key was used. The feed does not speak of it.
func (tx *Tx) TouchKey(ctx context.Context, id string, at time.Time) error {
	tx.touch()
	if err := tx.session.exec(ctx, "UPDATE api_keys SET last_used_at = $1 WHERE id = $2 AND last_used_at < $1",
		micros(at), id); err != nil {
		return fmt.Errorf("noting the use of a key: %w", err)
	}
	return nil
}

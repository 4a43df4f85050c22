package storage

import (
	"context"
	"fmt"
	"time"

	"github.com/loopbackd/loopback/guest"
	"github.com/loopbackd/loopback/server/feed"
)

var guestsTable = newTable("guests", func(g *guest.Guest) []column {
	return append(append(metaColumns(&g.Meta), scopeColumns(&g.Scope)...),
		column{"session_id", &g.SessionID}, column{"host_id", &g.HostID}, column{"host_name", &g.HostName}, column{"hash", &g.Hash},
		column{"inviter", document{&g.Inviter}}, column{"expires_at", moment{&g.ExpiresAt}}, column{"joined_at", moment{&g.JoinedAt}},
		column{"address", &g.Address}, column{"left_at", moment{&g.LeftAt}}, column{"revoked_at", moment{&g.RevokedAt}})
})

// keepGuests is how long those that are over stay in the list; the audit log has them for longer.
const keepGuests = 30 * 24 * time.Hour

// Guest by id.
func (v *View) Guest(ctx context.Context, id string) (guest.Guest, error) {
	return guestsTable.one(ctx, v.session, "guest "+id, "id = $1", id)
}

// Guests of a session, newest first, and the token of the next page.
func (v *View) Guests(ctx context.Context, q guest.Query) ([]guest.Guest, string, error) {
	var f filter
	f.equal("session_id", q.Session)
	k := keyset{descending: true, list: fingerprint("guests", q.Session)}
	if err := k.after(&f, q.Page.Token, false); err != nil {
		return nil, "", err
	}
	rest := f.where() + k.order(&f, q.Page)
	list, err := guestsTable.list(ctx, v.session, rest, f.args...)
	if err != nil {
		return nil, "", err
	}
	page, next := cut(k, q.Page, list, func(g guest.Guest) (any, string) { return nil, g.ID })
	return page, next, nil
}

// CountGuests is how many links of a session work at a time.
func (v *View) CountGuests(ctx context.Context, session string, at time.Time) (int64, error) {
	return v.number(ctx, "SELECT count(*) FROM guests WHERE session_id = $1 AND revoked_at = 0 AND expires_at > $2", session, micros(at))
}

// PutGuest inserts or updates, and forgets those that have long been over.
func (tx *Tx) PutGuest(ctx context.Context, g guest.Guest) (guest.Guest, error) {
	if err := tx.session.exec(ctx, "DELETE FROM guests WHERE expires_at < $1", micros(tx.now.Add(-keepGuests))); err != nil {
		return g, fmt.Errorf("forgetting old guests: %w", err)
	}
	tx.stamp(feed.Guest, &g.Meta, g.Scope)
	err := guestsTable.put(ctx, tx.session, &g)
	return g, err
}

// RevokeGuests takes back all links that work at a time.
func (tx *Tx) RevokeGuests(ctx context.Context, at time.Time) error {
	list, err := guestsTable.list(ctx, tx.session, "WHERE revoked_at = 0 AND expires_at > $1 ORDER BY id", micros(at))
	for _, g := range list {
		g.RevokedAt = at
		if _, err := tx.PutGuest(ctx, g); err != nil {
			return err
		}
	}
	return err
}

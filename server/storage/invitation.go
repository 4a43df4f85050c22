package storage

import (
	"context"
	"fmt"
	"time"

	"github.com/loopbackd/loopback/access"
	"github.com/loopbackd/loopback/invitation"
	"github.com/loopbackd/loopback/server/feed"
	"github.com/loopbackd/loopback/tenant"
)

var invitationsTable = newTable("invitations", func(i *invitation.Invitation) []column {
	return append(append(metaColumns(&i.Meta), scopeColumns(&i.Scope)...),
		column{"user_id", &i.UserID}, column{"hash", &i.Hash}, column{"created_by", &i.CreatedBy}, column{"expires_at", moment{&i.ExpiresAt}},
		column{"used_at", moment{&i.UsedAt}}, column{"used_for", &i.UsedFor}, column{"revoked_at", moment{&i.RevokedAt}})
})

// keepInvitations is how long those that are over stay in the list.
const keepInvitations = 30 * 24 * time.Hour

// Invitation by id.
func (v *View) Invitation(ctx context.Context, id string) (invitation.Invitation, error) {
	return invitationsTable.one(ctx, v.session, "invitation "+id, "id = $1", id)
}

// Invitations, newest first, and the token of the next page.
func (v *View) Invitations(ctx context.Context, q invitation.Query) ([]invitation.Invitation, string, error) {
	var f filter
	f.readable(anywhere, q.Readable, nil)
	f.equal("user_id", q.User)
	k := keyset{descending: true, list: fingerprint("invitations", q.User)}
	if err := k.after(&f, q.Page.Token, false); err != nil {
		return nil, "", err
	}
	rest := f.where() + k.order(&f, q.Page)
	list, err := invitationsTable.list(ctx, v.session, rest, f.args...)
	if err != nil {
		return nil, "", err
	}
	page, next := cut(k, q.Page, list, func(i invitation.Invitation) (any, string) { return nil, i.ID })
	return page, next, nil
}

// PutInvitation inserts or updates, and forgets those that have long been over.
func (tx *Tx) PutInvitation(ctx context.Context, i invitation.Invitation) (invitation.Invitation, error) {
	if err := tx.session.exec(ctx, "DELETE FROM invitations WHERE expires_at < $1", micros(tx.now.Add(-keepInvitations))); err != nil {
		return i, fmt.Errorf("forgetting old invitations: %w", err)
	}
	tx.stamp(feed.Invitation, &i.Meta, i.Scope)
	err := invitationsTable.put(ctx, tx.session, &i)
	return i, err
}

// RevokeInvitations takes back those of a user that wait; everybody's where user is empty.
func (tx *Tx) RevokeInvitations(ctx context.Context, user string, at time.Time) (revoked []string, err error) {
	q := invitation.Query{Readable: access.Everywhere(), User: user, Page: tenant.Page{Size: tenant.MaxPage}}
	for {
		list, next, err := tx.Invitations(ctx, q)
		if err != nil {
			return revoked, err
		}
		for _, i := range list {
			if i.State(at) != "waiting" {
				continue
			}
			i.RevokedAt = at
			if _, err := tx.PutInvitation(ctx, i); err != nil {
				return revoked, err
			}
			revoked = append(revoked, i.ID)
		}
		if q.Page.Token = next; next == "" {
			return revoked, nil
		}
	}
}

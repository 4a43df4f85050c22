package storage

import (
	"context"
	"fmt"
	"time"

	"github.com/loopbackd/loopback/access"
	"github.com/loopbackd/loopback/server/feed"
	"github.com/loopbackd/loopback/signin"
	"github.com/loopbackd/loopback/tenant"
)

var signInsTable = newTable("sign_ins", func(s *signin.SignIn) []column {
	return append(append(metaColumns(&s.Meta), scopeColumns(&s.Scope)...),
		column{"user_id", &s.UserID}, column{"method", &s.Method}, column{"via", &s.Via}, column{"key_id", &s.KeyID}, column{"address", &s.Address},
		column{"agent", &s.Agent}, column{"hash", &s.Hash}, column{"proved_at", moment{&s.ProvedAt}}, column{"expires_at", moment{&s.ExpiresAt}},
		column{"idle", span{&s.Idle}}, column{"last_used_at", moment{&s.LastUsedAt}}, column{"mfa_at", moment{&s.MFAAt}},
		column{"ended_at", moment{&s.EndedAt}}, column{"ended_for", &s.EndedFor})
})

const liveSignIn = "ended_at = 0 AND expires_at > %[1]s AND last_used_at + idle > %[1]s"

// SignIn by id.
func (v *View) SignIn(ctx context.Context, id string) (signin.SignIn, error) {
	return signInsTable.one(ctx, v.session, "sign-in "+id, "id = $1", id)
}

// SignIns, newest first, and the token of the next page.
func (v *View) SignIns(ctx context.Context, q signin.Query) ([]signin.SignIn, string, error) {
	var f filter
	f.readable(anywhere, q.Readable, nil)
	f.equal("user_id", q.User)
	if !q.LiveAt.IsZero() {
		f.and(fmt.Sprintf(liveSignIn, f.arg(micros(q.LiveAt))))
	}
	k := keyset{descending: true, list: fingerprint("sign_ins", q.User, !q.LiveAt.IsZero())}
	if err := k.after(&f, q.Page.Token, false); err != nil {
		return nil, "", err
	}
	rest := f.where() + k.order(&f, q.Page)
	list, err := signInsTable.list(ctx, v.session, rest, f.args...)
	if err != nil {
		return nil, "", err
	}
	page, next := cut(k, q.Page, list, func(s signin.SignIn) (any, string) { return nil, s.ID })
	return page, next, nil
}

// LiveSignIns is how many open something at a time.
func (v *View) LiveSignIns(ctx context.Context, now time.Time) (int64, error) {
	return v.number(ctx, "SELECT count(*) FROM sign_ins WHERE "+fmt.Sprintf(liveSignIn, "$1"), micros(now))
}

// PutSignIn inserts or updates.
func (tx *Tx) PutSignIn(ctx context.Context, s signin.SignIn) (signin.SignIn, error) {
	tx.stamp(feed.SignIn, &s.Meta, s.Scope)
	err := signInsTable.put(ctx, tx.session, &s)
	return s, err
}

// EndSignIns ends what a user has that did not end yet, whether its time is over or not; everybody's where user is empty.
func (tx *Tx) EndSignIns(ctx context.Context, user string, at time.Time, why string) (ended []string, err error) {
	q := signin.Query{Readable: access.Everywhere(), User: user, Page: tenant.Page{Size: tenant.MaxPage}}
	for {
		list, next, err := tx.SignIns(ctx, q)
		if err != nil {
			return ended, err
		}
		for _, s := range list {
			if !s.EndedAt.IsZero() {
				continue
			}
			s.EndedAt, s.EndedFor = at, why
			if _, err := tx.PutSignIn(ctx, s); err != nil {
				return ended, err
			}
			ended = append(ended, s.ID)
		}
		if q.Page.Token = next; next == "" {
			return ended, nil
		}
	}
}

// TouchSignIn notes a use. The feed does not speak of it.
func (tx *Tx) TouchSignIn(ctx context.Context, id string, at time.Time) error {
	tx.touch()
	if err := tx.session.exec(ctx, "UPDATE sign_ins SET last_used_at = $1 WHERE id = $2 AND last_used_at < $1", micros(at), id); err != nil {
		return fmt.Errorf("noting the use of a sign-in: %w", err)
	}
	return nil
}

// PruneSignIns forgets what has been over since a time. The feed does not speak of it: nobody holds it any more.
func (tx *Tx) PruneSignIns(ctx context.Context, before time.Time) error {
	tx.touch()
	if err := tx.session.exec(ctx, "DELETE FROM sign_ins WHERE expires_at < $1", micros(before)); err != nil {
		return fmt.Errorf("forgetting old sign-ins: %w", err)
	}
	return nil
}

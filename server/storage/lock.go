package storage

import (
	"context"

	"github.com/loopbackd/loopback/access"
	"github.com/loopbackd/loopback/lock"
	"github.com/loopbackd/loopback/server/feed"
)

var locksTable = newTable("locks", func(l *lock.Lock) []column {
	return append(append(metaColumns(&l.Meta), scopeColumns(&l.Scope)...),
		column{"target_kind", &l.Target.Kind}, column{"target_id", &l.Target.ID}, column{"target_name", &l.Target.Name}, column{"hosts", &l.Target.Hosts},
		column{"reason", &l.Reason}, column{"ticket", &l.Ticket}, column{"not_after", moment{&l.NotAfter}}, column{"state", &l.State},
		column{"created_by", &l.CreatedBy}, column{"creator", &l.Creator}, column{"closed_at", moment{&l.ClosedAt}}, column{"closed_by", &l.ClosedBy},
		column{"comment", &l.Comment})
})

// Lock by id.
func (v *View) Lock(ctx context.Context, id string) (lock.Lock, error) {
	return locksTable.one(ctx, v.session, "lock "+id, "id = $1", id)
}

// Locks, newest first, and the token of the next page. States are those that are noted.
func (v *View) Locks(ctx context.Context, q lock.Query) ([]lock.Lock, string, error) {
	var f filter
	f.readable(anywhere, q.Readable, nil)
	f.within(anywhere, q.Within)
	f.equal("target_id", q.Target)
	among(&f, "state", q.States)
	if !q.Over.IsZero() {
		f.and("not_after > 0 AND not_after <= " + f.arg(micros(q.Over)))
	}
	k := keyset{descending: true, list: fingerprint("locks", q.Within, q.Target, q.States)}
	if err := k.after(&f, q.Page.Token, false); err != nil {
		return nil, "", err
	}
	rest := f.where() + k.order(&f, q.Page)
	list, err := locksTable.list(ctx, v.session, rest, f.args...)
	if err != nil {
		return nil, "", err
	}
	page, next := cut(k, q.Page, list, func(l lock.Lock) (any, string) { return nil, l.ID })
	return page, next, nil
}

// PutLock inserts or updates.
func (tx *Tx) PutLock(ctx context.Context, l lock.Lock) (lock.Lock, error) {
	tx.stamp(feed.Lock, &l.Meta, l.Scope)
	err := locksTable.put(ctx, tx.session, &l)
	return l, err
}

// keptOut are the principals whom a lock that is noted to be active keeps out of anything.
func (v *View) keptOut(ctx context.Context) (map[string]bool, error) {
	locks, err := locksTable.list(ctx, v.session, "WHERE state = $1 AND target_kind NOT IN ($2, $3)", string(lock.Active), string(lock.Host), string(lock.Hosts))
	if err != nil {
		return nil, err
	}
	out := map[string]bool{}
	note := func(s access.Subject) error {
		if s.Kind != access.Group {
			out[s.ID] = true
			return nil
		}
		groups, err := groupsTable.list(ctx, v.session, "WHERE id = $1", s.ID)
		for _, g := range groups {
			for _, m := range g.Members {
				out[m] = true
			}
		}
		return err
	}
	for _, l := range locks {
		if l.Target.Kind != lock.Role {
			if err := note(l.Rule().Subject); err != nil {
				return nil, err
			}
			continue
		}
		held, err := bindingsTable.list(ctx, v.session, "WHERE role_id = $1", l.Target.ID)
		if err != nil {
			return nil, err
		}
		for _, b := range held {
			if b.Deny {
				continue
			}
			if err := note(b.Subject); err != nil {
				return nil, err
			}
		}
	}
	return out, nil
}

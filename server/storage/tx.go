package storage

import (
	"context"
	"fmt"
	"time"

	"github.com/loopbackd/loopback/access"
	"github.com/loopbackd/loopback/audit"
	"github.com/loopbackd/loopback/id"
	"github.com/loopbackd/loopback/server/feed"
	"github.com/loopbackd/loopback/tenant"
)

// View reads. Methods that look for one thing return access.NotFound where it does not exist.
type View struct {
	session session
	clock   func() time.Time
}

// row reads the single row of a query.
func (v *View) row(ctx context.Context, into []any, text string, args ...any) error {
	rows, err := v.session.query(ctx, text, args...)
	if err != nil {
		return err
	}
	defer rows.Close()
	if rows.Next() {
		err = rows.Scan(into...)
	}
	if err == nil {
		err = rows.Err()
	}
	return v.session.explain(err)
}

// number reads a single integer.
func (v *View) number(ctx context.Context, text string, args ...any) (n int64, err error) {
	err = v.row(ctx, []any{&n}, text, args...)
	return n, err
}

// Tx changes. It belongs to one closure and is over when that returns. Its reads see its writes.
type Tx struct {
	*View
	db   *DB
	work *work
	now  time.Time

	// Positions given so far in the batch, and what was given them. They are written together before COMMIT, so that a
	// batch costs few statements.
	feed, entries int64
	changes       []feed.Change
	log           []audit.Entry
	touched       bool // something was written that has no position

	// What this closure did.
	changed, audited bool
}

// another is the Tx of the next closure in the batch.
func (tx *Tx) another() *Tx {
	w := &work{line: tx.work.line}
	now := tx.db.now()
	return &Tx{View: &View{session: w, clock: func() time.Time { return now }}, db: tx.db, work: w, now: now,
		feed: tx.feed, entries: tx.entries, changes: tx.changes, log: tx.log, touched: tx.touched}
}

// Now is the time of this transaction: what it stamps its changes with.
func (tx *Tx) Now() time.Time { return tx.now }

// Revision is that of the last change: every replica that follows the feed as far knows of all that was changed here.
func (tx *Tx) Revision() int64 { return tx.feed }

// change appends to the feed and returns the position.
func (tx *Tx) change(kind feed.Kind, id string, at access.Scope, deleted bool) int64 {
	tx.feed++
	tx.changed = true
	tx.changes = append(tx.changes, feed.Change{Position: tx.feed, Kind: kind, ID: id, Scope: at, Deleted: deleted, At: tx.now})
	return tx.feed
}

// touch notes a change that the feed does not speak of.
func (tx *Tx) touch() { tx.changed, tx.touched = true, true }

// stamp appends to the feed and notes time and position in what changed.
func (tx *Tx) stamp(kind feed.Kind, m *tenant.Meta, at access.Scope) {
	if m.CreatedAt.IsZero() {
		m.CreatedAt = tx.now
	}
	m.CreatedAt = m.CreatedAt.UTC().Truncate(time.Microsecond)
	m.UpdatedAt, m.Revision = tx.now, tx.change(kind, m.ID, at, false)
}

// remove deletes a row by id and says so in the feed.
func (tx *Tx) remove(ctx context.Context, kind feed.Kind, table, id string, at access.Scope) error {
	if err := tx.session.exec(ctx, "DELETE FROM "+table+" WHERE id = $1", id); err != nil {
		return fmt.Errorf("deleting from %s: %w", table, err)
	}
	tx.change(kind, id, at, true)
	return nil
}

// Audit appends to the audit log: what this closure changed, or that something was refused. ID, At and Position are
// filled in. Entries shows it once it is committed.
func (tx *Tx) Audit(_ context.Context, e audit.Entry) error {
	if err := tx.work.usable(); err != nil {
		return err
	}
	tx.entries++
	e.Position, e.At = tx.entries, tx.now
	if e.ID == "" {
		e.ID = id.New("aud", tx.now)
	}
	if e.RequestID == "" {
		e.RequestID = e.Actor.RequestID
	}
	if e.Outcome == "" {
		e.Outcome = audit.Done
	}
	tx.log = append(tx.log, e)
	tx.audited = true
	return nil
}

// positions are the statements that write down what was given positions in the batch.
func (tx *Tx) positions() ([]statement, error) {
	changes, err := changesTable.inserts(tx.changes)
	if err != nil {
		return nil, err
	}
	entries, err := auditTable.inserts(tx.log)
	if err != nil {
		return nil, err
	}
	return append(append(changes, entries...), statement{"UPDATE positions SET feed = $1, audit = $2", []any{tx.feed, tx.entries}}), nil
}

package storage

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"time"

	"github.com/loopbackd/loopback/access"
	"github.com/loopbackd/loopback/grant"
	"github.com/loopbackd/loopback/server/feed"
	"github.com/loopbackd/loopback/sessionreview"
	"github.com/loopbackd/loopback/shell"
)

var sessionReviewPoliciesTable = newTable("session_review_policies", func(p *sessionreview.Policy) []column {
	return append(append(metaColumns(&p.Meta), scopeColumns(&p.Scope)...),
		column{"roles", document{&p.Roles}}, column{"share", &p.Share}, column{"within_span", span{&p.Within}}, column{"written_by", &p.By})
})

var sessionReviewsTable = newTable("session_reviews", func(r *sessionreview.Review) []column {
	return append(append(metaColumns(&r.Meta), scopeColumns(&r.Scope)...),
		column{"session_id", &r.SessionID}, column{"host_name", &r.HostName}, column{"principal_id", &r.Principal}, column{"principal_name", &r.Who},
		column{"reason", &r.Reason}, column{"ticket", &r.Ticket}, column{"ended_at", moment{&r.EndedAt}}, column{"cause", &r.Cause},
		column{"due_at", moment{&r.DueAt}}, column{"state", &r.State}, column{"verdict", &r.Verdict}, column{"note", &r.Note},
		column{"reviewer", &r.By}, column{"reviewer_name", &r.ByName}, column{"done_at", moment{&r.DoneAt}})
})

// monthRow is a draw; the commitment is a slice to the driver.
type monthRow struct {
	sessionreview.Month
	committed []byte
}

var sessionDrawsTable = newTable("session_draws", func(m *monthRow) []column {
	return []column{{"id", &m.ID}, {"committed", &m.committed}, {"sealed", &m.Sealed}, {"drawn_at", moment{&m.DrawnAt}}}
})

// commandRow is a command of a session under a key of its own.
type commandRow struct {
	id string
	sessionreview.Commanded
}

var shellCommandsTable = newTable("shell_commands", func(c *commandRow) []column {
	return append([]column{{"id", &c.id}, {"session_id", &c.SessionID}, {"principal_id", &c.Principal}, {"host_id", &c.HostID}, {"at", moment{&c.At}},
		{"command", &c.Command}, {"times", &c.Times}}, scopeColumns(&c.Scope)...)
})

// SessionReviewPolicies are all of them.
func (v *View) SessionReviewPolicies(ctx context.Context) ([]sessionreview.Policy, error) {
	return sessionReviewPoliciesTable.list(ctx, v.session, "ORDER BY id")
}

// PutSessionReviewPolicy inserts or updates.
func (tx *Tx) PutSessionReviewPolicy(ctx context.Context, p sessionreview.Policy) (sessionreview.Policy, error) {
	tx.stamp(feed.SessionReviewPolicy, &p.Meta, p.Scope)
	err := sessionReviewPoliciesTable.put(ctx, tx.session, &p)
	return p, err
}

// DeleteSessionReviewPolicy deletes one.
func (tx *Tx) DeleteSessionReviewPolicy(ctx context.Context, p sessionreview.Policy) error {
	return tx.remove(ctx, feed.SessionReviewPolicy, "session_review_policies", p.ID, p.Scope)
}

// SessionReview by id.
func (v *View) SessionReview(ctx context.Context, id string) (sessionreview.Review, error) {
	return sessionReviewsTable.one(ctx, v.session, "session review "+id, "id = $1", id)
}

// SessionReviews, newest first, and the token of the next page.
func (v *View) SessionReviews(ctx context.Context, q sessionreview.Query) ([]sessionreview.Review, string, error) {
	var f filter
	f.readable(anywhere, q.Readable, nil)
	f.within(anywhere, q.Within)
	among(&f, "state", q.States)
	if !q.DueBy.IsZero() {
		f.and("due_at <= " + f.arg(micros(q.DueBy)))
	}
	k := keyset{descending: true, list: fingerprint("session reviews", q.Within, q.States, q.DueBy.IsZero())}
	if err := k.after(&f, q.Page.Token, false); err != nil {
		return nil, "", err
	}
	rest := f.where() + k.order(&f, q.Page)
	list, err := sessionReviewsTable.list(ctx, v.session, rest, f.args...)
	if err != nil {
		return nil, "", err
	}
	page, next := cut(k, q.Page, list, func(r sessionreview.Review) (any, string) { return nil, r.ID })
	return page, next, nil
}

// CountSessionReviews is how many are open, and how many of those were due by a time.
func (v *View) CountSessionReviews(ctx context.Context, overdueAt time.Time) (open, overdue int64, err error) {
	err = v.row(ctx, []any{&open, &overdue}, "SELECT count(*), coalesce(sum(CASE WHEN due_at <= $1 THEN 1 ELSE 0 END), 0) FROM session_reviews WHERE state = 'open'", micros(overdueAt))
	return open, overdue, err
}

// PutSessionReview inserts or updates.
func (tx *Tx) PutSessionReview(ctx context.Context, r sessionreview.Review) (sessionreview.Review, error) {
	tx.stamp(feed.SessionReview, &r.Meta, r.Scope)
	err := sessionReviewsTable.put(ctx, tx.session, &r)
	return r, err
}

// SessionDraw is a month's.
func (v *View) SessionDraw(ctx context.Context, month string) (sessionreview.Month, error) {
	m, err := sessionDrawsTable.one(ctx, v.session, "draw of "+month, "id = $1", month)
	copy(m.Committed[:], m.committed)
	return m.Month, err
}

// UndrawnMonths are those whose draw is to come.
func (v *View) UndrawnMonths(ctx context.Context) ([]sessionreview.Month, error) {
	list, err := sessionDrawsTable.list(ctx, v.session, "WHERE drawn_at = 0 ORDER BY id")
	out := make([]sessionreview.Month, len(list))
	for i, m := range list {
		copy(m.Committed[:], m.committed)
		out[i] = m.Month
	}
	return out, err
}

// PutSessionDraw inserts or updates.
func (tx *Tx) PutSessionDraw(ctx context.Context, m sessionreview.Month) error {
	tx.touch()
	return sessionDrawsTable.put(ctx, tx.session, &monthRow{m, m.Committed[:]})
}

// EndedShellSessions are those that ended in a time and, with unlooked, that are under no review; at most limit, in the order of their ids.
func (v *View) EndedShellSessions(ctx context.Context, from, to time.Time, unlooked bool, after string, limit int) ([]shell.Session, error) {
	rest := "WHERE state = 'ended' AND ended_at >= $1 AND ended_at < $2 AND id > $3"
	if unlooked {
		rest += " AND id NOT IN (SELECT session_id FROM session_reviews)"
	}
	return shellSessionsTable.list(ctx, v.session, rest+" ORDER BY id LIMIT $4", micros(from), micros(to), after, limit)
}

// GrantOfBinding is the grant that a binding came of, gone or not.
func (v *View) GrantOfBinding(ctx context.Context, binding string) (grant.Grant, error) {
	return grantsTable.one(ctx, v.session, "grant of binding "+binding, "binding_id = $1", binding)
}

// PutShellCommands notes the commands of a session, in place of what was noted.
func (tx *Tx) PutShellCommands(ctx context.Context, session string, list []sessionreview.Commanded) error {
	if err := tx.DeleteShellCommands(ctx, session); err != nil {
		return err
	}
	for _, c := range list {
		sum := sha256.Sum256([]byte(c.Command))
		if err := shellCommandsTable.put(ctx, tx.session, &commandRow{session + "/" + hex.EncodeToString(sum[:8]), c}); err != nil {
			return err
		}
	}
	return nil
}

// DeleteShellCommands forgets the commands of a session.
func (tx *Tx) DeleteShellCommands(ctx context.Context, session string) error {
	tx.touch()
	return tx.session.exec(ctx, "DELETE FROM shell_commands WHERE session_id = $1", session)
}

// ShellCommands are those of sessions that ended in a time, of what is in sight and within a scope; at most limit.
func (v *View) ShellCommands(ctx context.Context, readable access.Sight, within access.Scope, from, to time.Time, limit int) ([]sessionreview.Commanded, error) {
	var f filter
	f.readable(anywhere, readable, nil)
	f.within(anywhere, within)
	f.and("at >= " + f.arg(micros(from)))
	f.and("at < " + f.arg(micros(to)))
	rest := f.where() + " ORDER BY at DESC, id LIMIT " + f.arg(limit)
	list, err := shellCommandsTable.list(ctx, v.session, rest, f.args...)
	out := make([]sessionreview.Commanded, len(list))
	for i := range list {
		out[i] = list[i].Commanded
	}
	return out, err
}

// CountShells is how many sessions there are by state that have not ended, and, of those that ended since a time, how many by how
// their recordings compare, and how many ended because they could not be recorded any further.
func (v *View) CountShells(ctx context.Context, since time.Time) (live map[shell.State]int64, compared map[shell.Verdict]int64, unrecorded int64, err error) {
	live, compared = map[shell.State]int64{shell.Opening: 0, shell.Running: 0}, map[shell.Verdict]int64{shell.Agreed: 0, shell.Partial: 0, shell.Alone: 0, shell.Disagreed: 0}
	rows, err := v.session.query(ctx, `SELECT state, verdict, count(*), coalesce(sum(CASE WHEN end_reason LIKE '%could not record it any further%' THEN 1 ELSE 0 END), 0)
		FROM shell_sessions WHERE state <> 'ended' OR ended_at >= $1 GROUP BY state, verdict`, micros(since))
	if err != nil {
		return nil, nil, 0, fmt.Errorf("counting sessions: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		var state shell.State
		var verdict shell.Verdict
		var n, failed int64
		if err := rows.Scan(&state, &verdict, &n, &failed); err != nil {
			return nil, nil, 0, fmt.Errorf("counting sessions: %w", v.session.explain(err))
		}
		if state == shell.Ended {
			compared[verdict] += n
			unrecorded += failed
		} else {
			live[state] += n
		}
	}
	if err := rows.Err(); err != nil {
		return nil, nil, 0, fmt.Errorf("counting sessions: %w", v.session.explain(err))
	}
	return live, compared, unrecorded, nil
}

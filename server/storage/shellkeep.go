package storage

import (
	"context"
	"fmt"
	"time"

	"github.com/loopbackd/loopback/access"
	"github.com/loopbackd/loopback/shell"
)

// retentionRow is a retention under a key of its own.
type retentionRow struct {
	id string
	shell.Retention
}

var recordingRetentionsTable = newTable("recording_retentions", func(r *retentionRow) []column {
	return append([]column{{"id", &r.id}, {"keep_days", &r.KeepDays}, {"reason", &r.Reason}, {"written_by", &r.By}, {"updated_at", moment{&r.UpdatedAt}}}, scopeColumns(&r.Scope)...)
})

func placeKey(s access.Scope) string { return s.Organisation + "/" + s.Project + "/" + s.Workspace }

// wordColumns are who said something of a recording, when and why.
func wordColumns(what string, w *shell.Word) []column {
	return []column{{what + "_at", moment{&w.At}}, {what + "_by", &w.By}, {what + "_by_name", &w.ByName}, {what + "_reason", &w.Reason}}
}

// RecordingRetentions are all that were set, that of the deployment first.
func (v *View) RecordingRetentions(ctx context.Context) ([]shell.Retention, error) {
	list, err := recordingRetentionsTable.list(ctx, v.session, "ORDER BY id")
	out := make([]shell.Retention, len(list))
	for i := range list {
		out[i] = list[i].Retention
	}
	return out, err
}

// PutRecordingRetention inserts or updates.
func (tx *Tx) PutRecordingRetention(ctx context.Context, r shell.Retention) error {
	tx.touch()
	return recordingRetentionsTable.put(ctx, tx.session, &retentionRow{placeKey(r.Scope), r})
}

// DeleteRecordingRetention deletes that of a place, if it has one.
func (tx *Tx) DeleteRecordingRetention(ctx context.Context, at access.Scope) error {
	tx.touch()
	return tx.session.exec(ctx, "DELETE FROM recording_retentions WHERE id = $1", placeKey(at))
}

// ExpirableShellSessions are those within a scope that ended before a time, whose recordings are neither held nor deleted, and which no
// review waits for; at most limit, in the order of their ids.
func (v *View) ExpirableShellSessions(ctx context.Context, within access.Scope, endedBefore time.Time, after string, limit int) ([]shell.Session, error) {
	var f filter
	f.within(anywhere, within)
	f.and("state = 'ended' AND deleted_at = 0 AND held_at = 0")
	f.and("ended_at < " + f.arg(micros(endedBefore)))
	f.and("id > " + f.arg(after))
	f.and("id NOT IN (SELECT session_id FROM session_reviews WHERE state = 'open')")
	return shellSessionsTable.list(ctx, v.session, f.where()+" ORDER BY id LIMIT "+f.arg(limit), f.args...)
}

// DeletedRecordings are those of some sessions whose recordings were deleted.
func (v *View) DeletedRecordings(ctx context.Context, ids []string) ([]string, error) {
	if len(ids) == 0 {
		return nil, nil
	}
	var f filter
	f.and("deleted_at > 0")
	f.and(f.in("id", ids))
	rows, err := v.session.query(ctx, "SELECT id FROM shell_sessions"+f.where()+" ORDER BY id", f.args...)
	if err != nil {
		return nil, fmt.Errorf("looking for recordings that were deleted: %w", err)
	}
	defer rows.Close()
	var out []string
	for rows.Next() {
		var one string
		if err := rows.Scan(&one); err != nil {
			return nil, fmt.Errorf("looking for recordings that were deleted: %w", v.session.explain(err))
		}
		out = append(out, one)
	}
	return out, rows.Err()
}

// UndroppedShellSessions are those whose recordings were deleted, and of which a host that is not removed still has its copy; at most
// limit, in the order of their ids.
func (v *View) UndroppedShellSessions(ctx context.Context, after string, limit int) ([]shell.Session, error) {
	return shellSessionsTable.list(ctx, v.session, `WHERE deleted_at > 0 AND host_deleted_at = 0 AND id > $1
		AND host_id IN (SELECT id FROM hosts WHERE lifecycle <> 'removed') ORDER BY id LIMIT $2`, after, limit)
}

// CountHeldRecordings is how many are on hold.
func (v *View) CountHeldRecordings(ctx context.Context) (int64, error) {
	return v.number(ctx, "SELECT count(*) FROM shell_sessions WHERE held_at > 0")
}

package storage

import (
	"context"
	"fmt"
	"math"

	"github.com/loopbackd/loopback/audit"
)

var retentionTable = newTable("audit_retentions", func(r *audit.Retention) []column {
	return []column{{"organisation_id", &r.Organisation}, {"keep_days", &r.KeepDays}, {"hold", &r.Hold}, {"reason", &r.Reason}, {"updated_at", moment{&r.UpdatedAt}}}
})

// Retentions are all that were set, that of the deployment first.
func (v *View) Retentions(ctx context.Context) ([]audit.Retention, error) {
	return retentionTable.list(ctx, v.session, "ORDER BY organisation_id")
}

// PutRetention inserts or updates.
func (tx *Tx) PutRetention(ctx context.Context, r audit.Retention) error {
	tx.touch()
	return retentionTable.put(ctx, tx.session, &r)
}

// NeededBySinks is the last position that no sink of an organisation needs any more: its own, those of the whole deployment,
// and where the organisation is empty all. What a sink set aside it still needs.
func (v *View) NeededBySinks(ctx context.Context, organisation string) (int64, error) {
	var f filter
	if organisation != "" {
		f.and(f.in("organisation_id", []string{"", organisation}))
	}
	most := f.arg(int64(math.MaxInt64))
	sent, err := v.number(ctx, "SELECT coalesce(min(position), "+most+") FROM sinks"+f.where(), f.args...)
	if err != nil {
		return 0, fmt.Errorf("reading how far sinks are: %w", err)
	}
	aside, err := v.number(ctx, "SELECT coalesce(min(position) - 1, "+most+") FROM dead_letters WHERE sink_id IN (SELECT id FROM sinks"+f.where()+")", f.args...)
	if err != nil {
		return 0, fmt.Errorf("reading what sinks set aside: %w", err)
	}
	return min(sent, aside), nil
}

// DeleteBodies deletes the bodies of the first entries of some, up to a number, but for those that say what was deleted
// before. It returns how many, and the position of the last.
func (tx *Tx) DeleteBodies(ctx context.Context, p audit.Prunable, limit int) (deleted, upTo int64, err error) {
	var f filter
	f.and("position > " + f.arg(p.After))
	f.and("position <= " + f.arg(p.UpTo))
	f.and("action <> " + f.arg(string(audit.Prune)))
	f.equal("organisation_id", p.Organisation)
	if p.Organisation == "" && len(p.But) > 0 {
		f.and("NOT " + f.in("organisation_id", p.But))
	}
	rest := f.where()
	if err := tx.row(ctx, []any{&deleted, &upTo}, "SELECT count(*), coalesce(max(position), 0) FROM (SELECT position FROM audit_entries"+rest+
		" ORDER BY position LIMIT "+f.arg(limit)+") AS first", f.args...); err != nil || deleted == 0 {
		return 0, 0, err
	}
	tx.touch()
	f.args = f.args[:len(f.args)-1]
	if err := tx.session.exec(ctx, "DELETE FROM audit_entries"+rest+" AND position <= "+f.arg(upTo), f.args...); err != nil {
		return 0, 0, fmt.Errorf("deleting old entries of the audit log: %w", err)
	}
	return deleted, upTo, nil
}

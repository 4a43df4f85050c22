package storage

import (
	"context"
	"fmt"
	"math"
	"time"

	"github.com/loopbackd/loopback/audit"
	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/server/feed"
	"github.com/loopbackd/loopback/sink"
)

var sinksTable = newTable("sinks", func(s *sink.Sink) []column {
	return append(metaColumns(&s.Meta), column{"organisation_id", &s.Organisation}, column{"kind", &s.Kind}, column{"target", &s.Target},
		column{"format", &s.Format}, column{"ca", &s.CA}, column{"sealed", &s.Sealed}, column{"paused", &s.Paused}, column{"position", &s.Cursor},
		column{"delivered", &s.Delivered}, column{"failures", &s.Failures}, column{"last_error", &s.LastError}, column{"failed_at", moment{&s.FailedAt}},
		column{"delivered_at", moment{&s.DeliveredAt}}, column{"lease_owner", &s.LeaseOwner}, column{"lease_until", moment{&s.LeaseUntil}},
		column{"event_limit", &s.Limit}, column{"checkpoint", &s.CheckpointLog},
		column{"refused", &s.Refused})
})

var lettersTable = newTable("dead_letters", func(l *sink.DeadLetter) []column {
	return []column{{"id", &l.ID}, {"sink_id", &l.Sink}, {"position", &l.Position}, {"entry_id", &l.Entry}, {"action", &l.Action},
		{"reason", &l.Reason}, {"tries", &l.Tries}, {"at", moment{&l.At}}, {"resend", &l.Resend}}
})

// Sink by id.
func (v *View) Sink(ctx context.Context, id string) (sink.Sink, error) {
	return sinksTable.one(ctx, v.session, "sink "+id, "id = $1", id)
}

// Sinks, newest first, and the token of the next page.
func (v *View) Sinks(ctx context.Context, q sink.Query) ([]sink.Sink, string, error) {
	var f filter
	f.readable(place{organisation: "organisation_id"}, q.Readable, nil)
	k := keyset{descending: true, list: fingerprint("sinks")}
	if err := k.after(&f, q.Page.Token, false); err != nil {
		return nil, "", err
	}
	rest := f.where() + k.order(&f, q.Page)
	list, err := sinksTable.list(ctx, v.session, rest, f.args...)
	if err != nil {
		return nil, "", err
	}
	page, next := cut(k, q.Page, list, func(s sink.Sink) (any, string) { return nil, s.ID })
	return page, next, nil
}

// PutSink inserts or updates.
func (tx *Tx) PutSink(ctx context.Context, s sink.Sink) (sink.Sink, error) {
	tx.stamp(feed.Sink, &s.Meta, s.Scope())
	err := sinksTable.put(ctx, tx.session, &s)
	if fault.KindOf(err) == fault.Exists {
		err = fault.New(fault.Exists, "sink_name_taken", "there is a sink called %s already", s.Name)
	}
	return s, err
}

// DeleteSink removes it, and its dead letters.
func (tx *Tx) DeleteSink(ctx context.Context, s sink.Sink) error {
	if err := tx.DeleteDeadLetters(ctx, s.ID, 0, math.MaxInt64); err != nil {
		return err
	}
	return tx.remove(ctx, feed.Sink, "sinks", s.ID, s.Scope())
}

// MoveSink notes how far a sink came and who ships. The feed speaks of it only where the sink begins or ceases to fail.
func (tx *Tx) MoveSink(ctx context.Context, s sink.Sink) error {
	failed, err := tx.number(ctx, "SELECT failures FROM sinks WHERE id = $1", s.ID)
	if err != nil {
		return err
	}
	if (failed > 0) != (s.Failures > 0) {
		tx.change(feed.Sink, s.ID, s.Scope(), false)
	}
	tx.touch()
	if err := tx.session.exec(ctx, `UPDATE sinks SET position = $1, delivered = $2, failures = $3, last_error = $4, failed_at = $5,
		delivered_at = $6, lease_owner = $7, lease_until = $8, event_limit = $9, checkpoint = $10,
		refused = $11 WHERE id = $12`, s.Cursor, s.Delivered, s.Failures,
		storable(s.LastError), micros(s.FailedAt), micros(s.DeliveredAt), s.LeaseOwner, micros(s.LeaseUntil), s.Limit, s.CheckpointLog, s.Refused, s.ID); err != nil {
		return fmt.Errorf("noting how far a sink came: %w", err)
	}
	return nil
}

// DeadLetters of a sink in the order of their entries, and the token of the next page.
func (v *View) DeadLetters(ctx context.Context, q sink.DeadLetterQuery) ([]sink.DeadLetter, string, error) {
	var f filter
	f.equal("sink_id", q.Sink)
	if q.Resend {
		f.and("resend = " + f.arg(true))
	}
	k := keyset{column: "position", list: fingerprint("dead_letters", q.Sink)}
	if err := k.after(&f, q.Page.Token, false); err != nil {
		return nil, "", err
	}
	rest := f.where() + k.order(&f, q.Page)
	list, err := lettersTable.list(ctx, v.session, rest, f.args...)
	if err != nil {
		return nil, "", err
	}
	page, next := cut(k, q.Page, list, func(l sink.DeadLetter) (any, string) { return l.Position, l.ID })
	return page, next, nil
}

// CountDeadLetters of a sink.
func (v *View) CountDeadLetters(ctx context.Context, sink string) (int64, error) {
	return v.number(ctx, "SELECT count(*) FROM dead_letters WHERE sink_id = $1", sink)
}

// PutDeadLetter inserts or updates. A sink has at most one of an entry.
func (tx *Tx) PutDeadLetter(ctx context.Context, l sink.DeadLetter) error {
	tx.touch()
	return lettersTable.put(ctx, tx.session, &l)
}

// DeleteDeadLetters deletes those of a sink after one position up to another.
func (tx *Tx) DeleteDeadLetters(ctx context.Context, sink string, after, upTo int64) error {
	tx.touch()
	if err := tx.session.exec(ctx, "DELETE FROM dead_letters WHERE sink_id = $1 AND position > $2 AND position <= $3", sink, after, upTo); err != nil {
		return fmt.Errorf("deleting dead letters: %w", err)
	}
	return nil
}

// EntriesOf are an organisation's entries after a position, in order; everybody's where the organisation is empty.
func (v *View) EntriesOf(ctx context.Context, organisation string, after int64, limit int) ([]audit.Entry, error) {
	if organisation == "" {
		return v.EntriesFrom(ctx, after, limit)
	}
	list, err := auditTable.list(ctx, v.session, "WHERE organisation_id = $1 AND position > $2 ORDER BY position LIMIT $3", organisation, after, limit)
	for i := range list {
		list[i].Actor.RequestID = list[i].RequestID
	}
	return list, err
}

// PositionAt is that of the last entry from before a time.
func (v *View) PositionAt(ctx context.Context, at time.Time) (int64, error) {
	return v.number(ctx, "SELECT coalesce(max(position), 0) FROM audit_entries WHERE at < $1", micros(at))
}

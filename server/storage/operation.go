package storage

import (
	"context"
	"time"

	"github.com/loopbackd/loopback/access"
	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/operation"
	"github.com/loopbackd/loopback/server/feed"
)

var operationsTable = newTable("operations", func(o *operation.Operation) []column {
	return append(append(metaColumns(&o.Meta), scopeColumns(&o.Scope)...),
		column{"kind", &o.Kind}, column{"target", &o.Target}, column{"state", &o.State}, column{"progress", &o.Progress},
		column{"steps", document{&o.Steps}}, column{"error_code", &o.ErrorCode}, column{"error", &o.Error},
		column{"input", &o.Input}, column{"actor", &o.Actor}, column{"request_id", &o.RequestID},
		column{"ended_at", moment{&o.EndedAt}}, column{"lease_owner", &o.LeaseOwner},
		column{"lease_until", moment{&o.LeaseUntil}}, column{"attempt", &o.Attempt})
})

// Operation by id.
func (v *View) Operation(ctx context.Context, id string) (operation.Operation, error) {
	return operationsTable.one(ctx, v.session, "operation "+id, "id = $1", id)
}

// OperationByRequest is the operation that an actor's request with this id led to.
func (v *View) OperationByRequest(ctx context.Context, actor, requestID string) (operation.Operation, error) {
	if requestID == "" {
		return operation.Operation{}, access.NotFound("an operation without a request id")
	}
	return operationsTable.one(ctx, v.session, "operation of request "+requestID,
		"actor = $1 AND request_id = $2", actor, requestID)
}

// Operations, newest first, and the token of the next page.
func (v *View) Operations(ctx context.Context, q operation.Query) ([]operation.Operation, string, error) {
	var f filter
	f.readable(anywhere, q.Readable, nil)
	f.within(anywhere, q.Within)
	f.equal("target", q.Target)
	among(&f, "state", q.States)
	k := keyset{descending: true, list: fingerprint("operations", q.Within, q.Target, q.States)}
	if err := k.after(&f, q.Page.Token, false); err != nil {
		return nil, "", err
	}
	rest := f.where() + k.order(&f, q.Page)
	list, err := operationsTable.list(ctx, v.session, rest, f.args...)
	if err != nil {
		return nil, "", err
	}
	page, next := cut(k, q.Page, list, func(o operation.Operation) (any, string) { return nil, o.ID })
	return page, next, nil
}

// Unfinished is how many operations of a state there are, and since when the oldest of them.
type Unfinished struct {
	State  operation.State
	Count  int64
	Oldest time.Time
}

// UnfinishedOperations are those that wait or run, by state.
func (v *View) UnfinishedOperations(ctx context.Context) ([]Unfinished, error) {
	out := []Unfinished{{State: operation.Pending}, {State: operation.Running}}
	for i := range out {
		var oldest int64
		err := v.row(ctx, []any{&out[i].Count, &oldest},
			"SELECT count(*), COALESCE(min(created_at), 0) FROM operations WHERE state = $1", string(out[i].State))
		if err != nil {
			return nil, err
		}
		if out[i].Count > 0 {
			out[i].Oldest = time.UnixMicro(oldest).UTC()
		}
	}
	return out, nil
}

// AuditPosition is that of the last entry in the audit log; 0 before the first.
func (v *View) AuditPosition(ctx context.Context) (int64, error) {
	return v.number(ctx, "SELECT audit FROM positions")
}

// PutOperation inserts or updates, whoever holds the lease. A second operation for the same request of the same actor is
// Exists: look with OperationByRequest first.
func (tx *Tx) PutOperation(ctx context.Context, o operation.Operation) (operation.Operation, error) {
	tx.stamp(feed.Operation, &o.Meta, o.Scope)
	err := operationsTable.put(ctx, tx.session, &o)
	if err != nil && fault.KindOf(err) == fault.Exists {
		err = fault.New(fault.Exists, "request_repeated", "this request was made before").
			WithHint("read the operation that it led to").WithCause(err)
	}
	return o, err
}

// LeaseOperation gives the oldest operation that waits, or whose lease is over, to a worker under a new attempt. found
// is false where there is none.
func (tx *Tx) LeaseOperation(ctx context.Context, owner string, now, until time.Time) (o operation.Operation, found bool, err error) {
	list, err := operationsTable.list(ctx, tx.session,
		"WHERE state IN ('pending', 'running') AND lease_until <= $1 ORDER BY id LIMIT 1", micros(now))
	if err != nil || len(list) == 0 {
		return o, false, err
	}
	o = list[0]
	o.State, o.LeaseOwner, o.LeaseUntil = operation.Running, owner, until.UTC().Truncate(time.Microsecond)
	o.Attempt++
	o, err = tx.PutOperation(ctx, o)
	return o, err == nil, err
}

// ErrAttemptLost is a Conflict: the operation has ended, or another attempt at it has begun.
var ErrAttemptLost = fault.New(fault.Conflict, "operation_attempt_lost", "the operation is no longer this attempt's")

// PutOperationAttempt updates the operation if its attempt is the current one and it has not ended, else fails with
// ErrAttemptLost.
func (tx *Tx) PutOperationAttempt(ctx context.Context, o operation.Operation) (operation.Operation, error) {
	stored, err := tx.Operation(ctx, o.ID)
	if err != nil {
		return o, err
	}
	if stored.Attempt != o.Attempt || stored.State.Ended() {
		return o, ErrAttemptLost
	}
	return tx.PutOperation(ctx, o)
}

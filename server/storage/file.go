package storage

import (
	"context"
	"time"

	"github.com/loopbackd/loopback/access"
	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/file"
	"github.com/loopbackd/loopback/server/feed"
)

var fileTransfersTable = newTable("file_transfers", func(t *file.Transfer) []column {
	return append(append(metaColumns(&t.Meta), scopeColumns(&t.Scope)...),
		column{"host_id", &t.HostID}, column{"host_name", &t.HostName}, column{"state", &t.State}, column{"task", document{&t.Task}},
		column{"actor", document{&t.Actor}}, column{"actor_id", &t.Actor.ID}, column{"request_id", &t.RequestID}, column{"error_code", &t.ErrorCode},
		column{"error", &t.Error}, column{"hint", &t.Hint}, column{"ended_at", moment{&t.EndedAt}}, column{"attempt", &t.Attempt},
		column{"order_id", &t.OrderID}, column{"not_after", moment{&t.NotAfter}}, column{"sent", &t.Sent}, column{"replica", &t.Replica})
})

// FileTransfer is one by id.
func (v *View) FileTransfer(ctx context.Context, id string) (file.Transfer, error) {
	return fileTransfersTable.one(ctx, v.session, "file transfer "+id, "id = $1", id)
}

// FileTransferByOrder is the one whose latest order this is.
func (v *View) FileTransferByOrder(ctx context.Context, order string) (file.Transfer, error) {
	return fileTransfersTable.one(ctx, v.session, "file transfer of order "+order, "order_id = $1", order)
}

// FileTransferByRequest is the one that an actor's request with this id led to.
func (v *View) FileTransferByRequest(ctx context.Context, actor, requestID string) (file.Transfer, error) {
	if requestID == "" {
		return file.Transfer{}, access.NotFound("a file transfer without a request id")
	}
	return fileTransfersTable.one(ctx, v.session, "file transfer of request "+requestID, "actor_id = $1 AND request_id = $2", actor, requestID)
}

// FileTransfers, newest first, and the token of the next page.
func (v *View) FileTransfers(ctx context.Context, q file.Query) ([]file.Transfer, string, error) {
	var f filter
	f.readable(anywhere, q.Readable, nil)
	f.within(anywhere, q.Within)
	among(&f, "state", q.States)
	k := keyset{descending: true, list: fingerprint("file_transfers", q.Within, q.States)}
	if err := k.after(&f, q.Page.Token, false); err != nil {
		return nil, "", err
	}
	rest := f.where() + k.order(&f, q.Page)
	list, err := fileTransfersTable.list(ctx, v.session, rest, f.args...)
	if err != nil {
		return nil, "", err
	}
	page, next := cut(k, q.Page, list, func(t file.Transfer) (any, string) { return nil, t.ID })
	return page, next, nil
}

// PutFileTransfer inserts or updates. A second one for the same request of the same actor is Exists.
func (tx *Tx) PutFileTransfer(ctx context.Context, t file.Transfer) (file.Transfer, error) {
	tx.stamp(feed.File, &t.Meta, t.Scope)
	err := fileTransfersTable.put(ctx, tx.session, &t)
	if err != nil && fault.KindOf(err) == fault.Exists {
		err = fault.New(fault.Exists, "request_repeated", "this request was made before").WithHint("read the transfer that it led to").WithCause(err)
	}
	return t, err
}

// PruneFileTransfers deletes some that ended before a time, and tells whether there may be more.
func (tx *Tx) PruneFileTransfers(ctx context.Context, before time.Time) (more bool, err error) {
	const some = 100
	list, err := fileTransfersTable.list(ctx, tx.session, "WHERE ended_at > 0 AND ended_at < $1 ORDER BY ended_at LIMIT $2", micros(before), some)
	if err != nil {
		return false, err
	}
	for _, t := range list {
		if err := tx.remove(ctx, feed.File, "file_transfers", t.ID, t.Scope); err != nil {
			return false, err
		}
	}
	return len(list) == some, nil
}

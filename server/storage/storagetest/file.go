package storagetest

import (
	"context"
	"testing"
	"time"

	"github.com/loopbackd/loopback/access"
	"github.com/loopbackd/loopback/exec"
	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/file"
	"github.com/loopbackd/loopback/server/storage"
)

func (b *bench) transfer(t *testing.T, requestID string, state file.State) file.Transfer {
	t.Helper()
	b.pass(time.Millisecond)
	f := file.Transfer{Meta: b.meta("file"), State: state, RequestID: requestID, HostID: "hst_1", HostName: "one", Attempt: 2, OrderID: "fto_" + b.meta("x").ID, Sent: true,
		NotAfter: b.now(), Replica: "here", Actor: exec.Actor{ID: "key_1", Reason: "why"},
		Task: file.Task{Kind: file.ToHost, Path: "/a b", Size: 1 << 40, Offset: 7, SHA256: "00", Mode: 0o640, Owner: "x:y", Fresh: true}}
	if state.Over() {
		f.EndedAt = b.now()
	}
	b.write(t, func(ctx context.Context, tx *storage.Tx) (err error) { f, err = tx.PutFileTransfer(ctx, f); return err })
	return f
}

var files = []test{
	{"a transfer is read as it was written, by its order and its request too, and a request leads to one", func(t *testing.T, b *bench) {
		f := b.transfer(t, "req-1", file.Running)
		b.transfer(t, "", file.Waiting)
		b.transfer(t, "", file.Failed)
		for way, read := range map[string]func() (file.Transfer, error){
			"id":      func() (file.Transfer, error) { return b.DB.View().FileTransfer(t.Context(), f.ID) },
			"order":   func() (file.Transfer, error) { return b.DB.View().FileTransferByOrder(t.Context(), f.OrderID) },
			"request": func() (file.Transfer, error) { return b.DB.View().FileTransferByRequest(t.Context(), "key_1", "req-1") },
		} {
			got, err := read()
			if err != nil || got.ID != f.ID || got.Task != f.Task || !got.Sent || !got.NotAfter.Equal(f.NotAfter) || got.Actor.Reason != "why" || got.Attempt != 2 {
				t.Errorf("by %s: got %+v, %v", way, got, err)
			}
		}
		again := f
		again.Meta = b.meta("file")
		err := b.DB.Observe(t.Context(), func(tx *storage.Tx) error { _, err := tx.PutFileTransfer(t.Context(), again); return err })
		if fault.KindOf(err) != fault.Exists {
			t.Errorf("a second transfer of one request: %v; wanted Exists", err)
		}
		page, _, err := b.DB.View().FileTransfers(t.Context(), file.Query{Readable: access.Everywhere()})
		if err != nil || len(page) != 3 || page[2].ID != f.ID {
			t.Errorf("got %d transfers, %v; wanted three, the first last", len(page), err)
		}
		page, _, err = b.DB.View().FileTransfers(t.Context(), file.Query{Readable: access.Everywhere(), States: []file.State{file.Waiting, file.Running}})
		if err != nil || len(page) != 2 {
			t.Errorf("got %d transfers that are not over, %v; wanted two", len(page), err)
		}
		if page, _, _ := b.DB.View().FileTransfers(t.Context(), file.Query{}); len(page) != 0 {
			t.Errorf("who may read nothing sees %d transfers", len(page))
		}
	}},
	{"a transfer that ended long ago is deleted, and no other", func(t *testing.T, b *bench) {
		old := b.transfer(t, "", file.Succeeded)
		b.pass(time.Hour)
		b.transfer(t, "", file.Running)
		b.transfer(t, "", file.Cancelled)
		b.write(t, func(ctx context.Context, tx *storage.Tx) error {
			more, err := tx.PruneFileTransfers(ctx, b.now().Add(-time.Minute))
			if more {
				t.Error("there are more of one")
			}
			return err
		})
		page, _, err := b.DB.View().FileTransfers(t.Context(), file.Query{Readable: access.Everywhere()})
		if err != nil || len(page) != 2 {
			t.Errorf("got %d transfers, %v; wanted two", len(page), err)
		}
		if _, err := b.DB.View().FileTransfer(t.Context(), old.ID); fault.KindOf(err) != fault.NotFound {
			t.Errorf("the old one: %v; wanted it gone", err)
		}
	}},
}

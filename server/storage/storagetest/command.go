package storagetest

import (
	"context"
	"testing"
	"time"

	"github.com/loopbackd/loopback/access"
	"github.com/loopbackd/loopback/command"
	"github.com/loopbackd/loopback/exec"
	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/server/storage"
)

func (b *bench) saved(t *testing.T, at access.Scope, name string, version int) command.Saved {
	t.Helper()
	b.pass(time.Millisecond)
	s := command.Saved{Meta: b.meta("cmd"), Scope: at, Description: "why", Version: version, Command: exec.Command{Arguments: []string{"a", "{b}"}, User: "nobody", Timeout: time.Minute},
		Parameters: []command.Parameter{{Name: "b", Pattern: "x*", Description: "what"}}, State: command.Pending, By: "usr_1", ByName: "one"}
	s.Name = name
	b.write(t, func(ctx context.Context, tx *storage.Tx) (err error) {
		s, err = tx.PutSavedCommand(ctx, s)
		return err
	})
	return s
}

var savedCommands = []test{
	{"a version is read as it was written, and there is one of each number", func(t *testing.T, b *bench) {
		at := access.Scope{Organisation: "org_1", Project: "prj_1", Workspace: "ws_1"}
		first, second := b.saved(t, at, "one", 1), b.saved(t, at, "one", 2)
		b.saved(t, at, "two", 1)
		b.saved(t, access.Scope{Organisation: "org_1", Project: "prj_1", Workspace: "ws_2"}, "one", 1)
		second.State, second.ApprovedBy, second.Approver, second.ApprovedAt = command.Approved, "usr_2", "two", b.now()
		b.write(t, func(ctx context.Context, tx *storage.Tx) error { _, err := tx.PutSavedCommand(ctx, second); return err })
		got, err := b.DB.View().SavedCommand(t.Context(), second.ID)
		if err != nil || got.Command.Arguments[1] != "{b}" || got.Command.User != "nobody" || got.Command.Timeout != time.Minute || len(got.Parameters) != 1 || got.Parameters[0].Pattern != "x*" ||
			got.State != command.Approved || got.Approver != "two" || !got.ApprovedAt.Equal(b.now()) {
			t.Errorf("got %+v, %v", got, err)
		}
		again := first
		again.Meta = b.meta("cmd")
		again.Name = "one"
		err = b.DB.Observe(t.Context(), func(tx *storage.Tx) error { _, err := tx.PutSavedCommand(t.Context(), again); return err })
		if fault.KindOf(err) != fault.Exists {
			t.Errorf("a second version 1: %v; wanted Exists", err)
		}
		versions, err := b.DB.View().SavedVersions(t.Context(), "ws_1", "one")
		if err != nil || len(versions) != 2 || versions[0].ID != second.ID {
			t.Errorf("got %+v, %v; wanted two, the second first", versions, err)
		}
		page, _, err := b.DB.View().SavedCommands(t.Context(), command.Query{Readable: access.Everywhere(), Within: at})
		if err != nil || len(page) != 3 || page[2].ID != first.ID {
			t.Errorf("got %d in the workspace, %v; wanted three, the first last", len(page), err)
		}
		if page, _, _ := b.DB.View().SavedCommands(t.Context(), command.Query{}); len(page) != 0 {
			t.Errorf("who may read nothing sees %d", len(page))
		}
		b.write(t, func(ctx context.Context, tx *storage.Tx) error { return tx.DeleteSavedCommand(ctx, first) })
		if _, err := b.DB.View().SavedCommand(t.Context(), first.ID); fault.KindOf(err) != fault.NotFound {
			t.Errorf("a deleted one: %v", err)
		}
	}},
}

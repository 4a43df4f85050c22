package storagetest

import (
	"context"
	"fmt"
	"slices"
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
		for what, one := range map[string]struct {
			query command.Query
			want  []string
		}{
			"of each name the one that is run, or the newest": {command.Query{Current: true}, []string{"two 1", "one 2"}},
			"those that wait":                {command.Query{States: []command.State{command.Pending}}, []string{"two 1", "one 1"}},
			"of a name":                      {command.Query{Name: "one"}, []string{"one 2", "one 1"}},
			"by a part of the name":          {command.Query{Search: "W"}, []string{"two 1", "one 2", "one 1"}}, // "why" is what all are described by
			"by a part of the name, exact":   {command.Query{Search: "TWO"}, []string{"two 1"}},
			"by what is a pattern in SQL":    {command.Query{Search: "%"}, nil},
			"of a name, the one that is run": {command.Query{Name: "one", Current: true, States: []command.State{command.Approved}}, []string{"one 2"}},
		} {
			one.query.Readable, one.query.Within = access.Everywhere(), at
			page, _, err := b.DB.View().SavedCommands(t.Context(), one.query)
			var got []string
			for _, s := range page {
				got = append(got, fmt.Sprintf("%s %d", s.Name, s.Version))
			}
			if err != nil || !slices.Equal(got, one.want) {
				t.Errorf("%s: got %v, %v; wanted %v", what, got, err, one.want)
			}
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

package storage

import (
	"context"

	"github.com/loopbackd/loopback/command"
	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/query"
	"github.com/loopbackd/loopback/server/feed"
)

var savedCommandsTable = newTable("saved_commands", func(s *command.Saved) []column {
	return append(append(metaColumns(&s.Meta), scopeColumns(&s.Scope)...),
		column{"description", &s.Description}, column{"version", &s.Version}, column{"command", document{&s.Command}}, column{"parameters", document{&s.Parameters}},
		column{"state", &s.State}, column{"saved_by", &s.By}, column{"saved_by_name", &s.ByName}, column{"approved_by", &s.ApprovedBy},
		column{"approved_by_name", &s.Approver}, column{"approved_at", moment{&s.ApprovedAt}})
})

// SavedCommand is a version by id.
func (v *View) SavedCommand(ctx context.Context, id string) (command.Saved, error) {
	return savedCommandsTable.one(ctx, v.session, "command "+id, "id = $1", id)
}

// SavedVersions are those of a name in a workspace, newest first.
func (v *View) SavedVersions(ctx context.Context, workspaceID, name string) ([]command.Saved, error) {
	return savedCommandsTable.list(ctx, v.session, "WHERE workspace_id = $1 AND name = $2 ORDER BY version DESC", workspaceID, name)
}

// SavedCommands, newest first, and the token of the next page.
func (v *View) SavedCommands(ctx context.Context, q command.Query) ([]command.Saved, string, error) {
	var f filter
	f.readable(anywhere, q.Readable, nil)
	f.within(anywhere, q.Within)
	f.equal("name", q.Name)
	among(&f, "state", q.States)
	if q.Current {
		f.and(`(state = 'approved' OR NOT EXISTS (SELECT 1 FROM saved_commands o WHERE o.workspace_id = saved_commands.workspace_id AND o.name = saved_commands.name
			AND (o.state = 'approved' OR o.version > saved_commands.version)))`)
	}
	if q.Search != "" {
		wanted := query.Term{Operator: query.Contains, Values: []string{q.Search}}
		f.and("(" + f.compare("name", wanted) + " OR " + f.compare("description", wanted) + ")")
	}
	k := keyset{descending: true, list: fingerprint("saved commands", q.Within, q.Name, q.States, q.Current, q.Search)}
	if err := k.after(&f, q.Page.Token, false); err != nil {
		return nil, "", err
	}
	rest := f.where() + k.order(&f, q.Page)
	list, err := savedCommandsTable.list(ctx, v.session, rest, f.args...)
	if err != nil {
		return nil, "", err
	}
	page, next := cut(k, q.Page, list, func(s command.Saved) (any, string) { return nil, s.ID })
	return page, next, nil
}

// PutSavedCommand inserts or updates a version. Two of one number are Exists.
func (tx *Tx) PutSavedCommand(ctx context.Context, s command.Saved) (command.Saved, error) {
	tx.stamp(feed.Command, &s.Meta, s.Scope)
	err := savedCommandsTable.put(ctx, tx.session, &s)
	if fault.KindOf(err) == fault.Exists {
		err = fault.New(fault.Exists, "command_exists", "somebody saved this command at the same time").WithHint("look at it, and save yours again").WithCause(err)
	}
	return s, err
}

// DeleteSavedCommand deletes a version.
func (tx *Tx) DeleteSavedCommand(ctx context.Context, s command.Saved) error {
	return tx.remove(ctx, feed.Command, "saved_commands", s.ID, s.Scope)
}

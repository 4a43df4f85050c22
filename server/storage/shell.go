package storage

import (
	"context"

	"github.com/loopbackd/loopback/server/feed"
	"github.com/loopbackd/loopback/shell"
)

// terminal is what a session's terminal was asked to be.
type terminal struct {
	Cols, Rows *int
	Term       *string
}

var shellSessionsTable = newTable("shell_sessions", func(s *shell.Session) []column {
	kept := append(append(wordColumns("held", &s.Held), wordColumns("deleted", &s.Deletion)...), column{"host_deleted_at", moment{&s.HostAt}})
	return append(append(append(metaColumns(&s.Meta), scopeColumns(&s.Scope)...), kept...),
		column{"host_id", &s.HostID}, column{"host_name", &s.HostName}, column{"host_user", &s.User}, column{"terminal", document{&terminal{&s.Cols, &s.Rows, &s.Term}}},
		column{"principal_id", &s.Principal}, column{"principal_name", &s.Who}, column{"actor", &s.Actor}, column{"address", &s.Address},
		column{"reason", &s.Reason}, column{"ticket", &s.Ticket}, column{"rule", &s.Rule}, column{"state", &s.State},
		column{"started_at", moment{&s.StartedAt}}, column{"ended_at", moment{&s.EndedAt}}, column{"end_reason", &s.EndReason}, column{"exit_status", &s.ExitStatus},
		column{"ends_by", moment{&s.EndsBy}}, column{"replica", &s.Replica}, column{"lives", &s.Lives}, column{"sealed", &s.Sealed}, column{"head", document{&s.Head}},
		column{"host_head", document{&s.Host}}, column{"verdict", &s.Verdict}, column{"differs", &s.Differs})
})

// ShellSession by id.
func (v *View) ShellSession(ctx context.Context, id string) (shell.Session, error) {
	return shellSessionsTable.one(ctx, v.session, "session "+id, "id = $1", id)
}

// ShellSessions, newest first, and the token of the next page.
func (v *View) ShellSessions(ctx context.Context, q shell.Query) ([]shell.Session, string, error) {
	var f filter
	f.readable(anywhere, q.Readable, nil)
	f.within(anywhere, q.Within)
	f.equal("host_id", q.Host)
	f.equal("principal_id", q.Who)
	if len(q.States) > 0 {
		f.and(f.in("state", asStrings(q.States)))
	}
	k := keyset{descending: true, list: fingerprint("shell sessions", q.Within, q.Host, q.Who, q.States)}
	if err := k.after(&f, q.Page.Token, false); err != nil {
		return nil, "", err
	}
	rest := f.where() + k.order(&f, q.Page)
	list, err := shellSessionsTable.list(ctx, v.session, rest, f.args...)
	if err != nil {
		return nil, "", err
	}
	page, next := cut(k, q.Page, list, func(s shell.Session) (any, string) { return nil, s.ID })
	return page, next, nil
}

// OpenShellSessions are those that have not ended: of one replica, where it is named.
func (v *View) OpenShellSessions(ctx context.Context, replica string) ([]shell.Session, error) {
	return shellSessionsTable.list(ctx, v.session, "WHERE state <> 'ended' AND ($1 = '' OR replica = $1) ORDER BY id", replica)
}

// CountShellSessions is how many have not ended, on a host or of a principal.
func (v *View) CountShellSessions(ctx context.Context, hostID, principal string) (int64, error) {
	return v.number(ctx, "SELECT count(*) FROM shell_sessions WHERE state <> 'ended' AND ($1 = '' OR host_id = $1) AND ($2 = '' OR principal_id = $2)", hostID, principal)
}

// PutShellSession inserts or updates.
func (tx *Tx) PutShellSession(ctx context.Context, s shell.Session) (shell.Session, error) {
	tx.stamp(feed.Shell, &s.Meta, s.Scope)
	err := shellSessionsTable.put(ctx, tx.session, &s)
	return s, err
}

package storage

import (
	"context"
	"fmt"
	"time"

	"github.com/loopbackd/loopback/access"
	"github.com/loopbackd/loopback/exec"
	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/server/feed"
)

var execRunsTable = newTable("exec_runs", func(r *exec.Run) []column {
	return append(append(metaColumns(&r.Meta), scopeColumns(&r.Scope)...),
		column{"command", document{&r.Command}}, column{"stdin", &r.Stdin}, column{"state", &r.State}, column{"reason", &r.Reason},
		column{"concurrency", &r.Concurrency}, column{"max_failures", &r.MaxFailures}, column{"canary", &r.Canary},
		column{"actor", document{&r.Actor}}, column{"actor_id", &r.Actor.ID}, column{"request_id", &r.RequestID}, column{"cancelled", &r.Cancelled},
		column{"ended_at", moment{&r.EndedAt}}, column{"counts", document{&r.Counts}},
		column{"lease_owner", &r.LeaseOwner}, column{"lease_until", moment{&r.LeaseUntil}}, column{"attempt", &r.Attempt})
})

var execHostsTable = newTable("exec_hosts", func(h *exec.Host) []column {
	return []column{{"id", &h.ID}, {"run_id", &h.RunID}, {"host_id", &h.HostID}, {"host_name", &h.Name}, {"place", &h.Place}, {"state", &h.State},
		{"replica", &h.Replica}, {"since", moment{&h.Since}}, {"not_after", moment{&h.NotAfter}}, {"exit_code", &h.ExitCode}, {"exited", &h.Exited},
		{"signal", &h.Signal}, {"error_code", &h.ErrorCode}, {"error", &h.Error}, {"hint", &h.Hint}, {"started_at", moment{&h.StartedAt}},
		{"ended_at", moment{&h.EndedAt}}, {"stdout_bytes", &h.Stdout}, {"stderr_bytes", &h.Stderr}, {"dropped", &h.Dropped}, {"revision", &h.Revision}}
})

// execOutput is a row of output, under a key of its own: a piece that is stored again replaces itself.
type execOutput struct {
	id string
	exec.Output
	revision int64
}

var execOutputTable = newTable("exec_output", func(o *execOutput) []column {
	return []column{{"id", &o.id}, {"run_id", &o.RunID}, {"order_id", &o.OrderID}, {"host_id", &o.HostID}, {"channel", &o.Channel}, {"position", &o.Offset},
		{"data", &o.Data}, {"revision", &o.revision}}
})

// Exec is a run by id.
func (v *View) Exec(ctx context.Context, id string) (exec.Run, error) {
	return execRunsTable.one(ctx, v.session, "command "+id, "id = $1", id)
}

// ExecByRequest is the run that an actor's request with this id led to.
func (v *View) ExecByRequest(ctx context.Context, actor, requestID string) (exec.Run, error) {
	if requestID == "" {
		return exec.Run{}, access.NotFound("a command without a request id")
	}
	return execRunsTable.one(ctx, v.session, "command of request "+requestID, "actor_id = $1 AND request_id = $2", actor, requestID)
}

// Execs, newest first, and the token of the next page.
func (v *View) Execs(ctx context.Context, q exec.Query) ([]exec.Run, string, error) {
	var f filter
	f.readable(anywhere, q.Readable, nil)
	f.within(anywhere, q.Within)
	among(&f, "state", q.States)
	k := keyset{descending: true, list: fingerprint("execs", q.Within, q.States)}
	if err := k.after(&f, q.Page.Token, false); err != nil {
		return nil, "", err
	}
	rest := f.where() + k.order(&f, q.Page)
	list, err := execRunsTable.list(ctx, v.session, rest, f.args...)
	if err != nil {
		return nil, "", err
	}
	page, next := cut(k, q.Page, list, func(r exec.Run) (any, string) { return nil, r.ID })
	return page, next, nil
}

// ExecTallies are how many hosts of each of these runs are in which state.
func (v *View) ExecTallies(ctx context.Context, runs []string) (map[string]map[exec.HostState]int, error) {
	out := make(map[string]map[exec.HostState]int, len(runs))
	if len(runs) == 0 {
		return out, nil
	}
	var f filter
	f.and(f.in("run_id", runs))
	rows, err := v.session.query(ctx, "SELECT run_id, state, count(*) FROM exec_hosts"+f.where()+" GROUP BY run_id, state", f.args...)
	if err != nil {
		return nil, fmt.Errorf("counting hosts of commands: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		var run string
		var state exec.HostState
		var n int
		if err := rows.Scan(&run, &state, &n); err != nil {
			return nil, fmt.Errorf("counting hosts of commands: %w", v.session.explain(err))
		}
		if out[run] == nil {
			out[run] = map[exec.HostState]int{}
		}
		out[run][state] = n
	}
	return out, v.session.explain(rows.Err())
}

// ExecHosts are those of a run that changed after a revision, in the order of the run.
func (v *View) ExecHosts(ctx context.Context, runID string, after int64) ([]exec.Host, error) {
	return execHostsTable.list(ctx, v.session, "WHERE run_id = $1 AND revision > $2 ORDER BY place", runID, after)
}

// UnansweredExecHosts are those of a run whose turn has come, and those that were told and have said nothing.
func (v *View) UnansweredExecHosts(ctx context.Context, runID string) ([]exec.Host, error) {
	return execHostsTable.list(ctx, v.session, "WHERE run_id = $1 AND state IN ('ready', 'sent') ORDER BY place", runID)
}

// ExecHost is what came of an order.
func (v *View) ExecHost(ctx context.Context, id string) (exec.Host, error) {
	return execHostsTable.one(ctx, v.session, "order "+id, "id = $1", id)
}

// ExecOutput is what was stored of a run's output after a mark, in the order in which it was, and the mark of the last of it.
func (v *View) ExecOutput(ctx context.Context, runID string, after exec.Mark, limit int) ([]exec.Output, exec.Mark, error) {
	rows, err := execOutputTable.list(ctx, v.session, "WHERE run_id = $1 AND revision >= $2 AND (revision > $2 OR id > $3) ORDER BY revision, id LIMIT $4",
		runID, after.Revision, after.ID, limit)
	out := make([]exec.Output, len(rows))
	for i, r := range rows {
		out[i], after = r.Output, exec.Mark{Revision: r.revision, ID: r.id}
	}
	return out, after, err
}

// PutExec inserts or updates. A second run for the same request of the same actor is Exists.
func (tx *Tx) PutExec(ctx context.Context, r exec.Run) (exec.Run, error) {
	tx.stamp(feed.Exec, &r.Meta, r.Scope)
	err := execRunsTable.put(ctx, tx.session, &r)
	if err != nil && fault.KindOf(err) == fault.Exists {
		err = fault.New(fault.Exists, "request_repeated", "this request was made before").WithHint("read the run that it led to").WithCause(err)
	}
	return r, err
}

// LeaseExec gives the leading of a run to a replica, where its lease is over. found is false where there is none.
func (tx *Tx) LeaseExec(ctx context.Context, owner string, now, until time.Time) (r exec.Run, found bool, err error) {
	list, err := execRunsTable.list(ctx, tx.session, "WHERE state = 'running' AND lease_until <= $1 ORDER BY id LIMIT 1", micros(now))
	if err != nil || len(list) == 0 {
		return r, false, err
	}
	r = list[0]
	r.LeaseOwner, r.LeaseUntil = owner, until
	r.Attempt++
	tx.touch()
	return r, true, execRunsTable.put(ctx, tx.session, &r)
}

// HoldExec renews the lease of an attempt; ErrAttemptLost where it is not the current one.
func (tx *Tx) HoldExec(ctx context.Context, id string, attempt int64, until time.Time) error {
	r, err := tx.Exec(ctx, id)
	if err == nil && (r.Attempt != attempt || r.State != exec.Running) {
		err = ErrAttemptLost
	}
	if err != nil {
		return err
	}
	tx.touch()
	return tx.session.exec(ctx, "UPDATE exec_runs SET lease_until = $1 WHERE id = $2", micros(until), id)
}

// PutExecHosts writes what came of a run on some hosts, and the output that came with it. Watchers of the run are told once.
func (tx *Tx) PutExecHosts(ctx context.Context, run string, at access.Scope, hosts []exec.Host, output []exec.Output) error {
	revision := tx.change(feed.Exec, run, at, false)
	for i := range hosts {
		hosts[i].Revision = revision
		if err := execHostsTable.put(ctx, tx.session, &hosts[i]); err != nil {
			return err
		}
	}
	for _, o := range output {
		row := execOutput{fmt.Sprintf("%s/%s/%012d", o.OrderID, o.Channel, o.Offset), o, revision}
		if err := execOutputTable.put(ctx, tx.session, &row); err != nil {
			return err
		}
	}
	return nil
}

// PruneExecs deletes some runs that ended before a time, with what the commands wrote, and tells whether there may be more.
func (tx *Tx) PruneExecs(ctx context.Context, before time.Time) (more bool, err error) {
	const some = 20 // a run may have a thousand hosts' output, and everybody's writes wait
	list, err := execRunsTable.list(ctx, tx.session, "WHERE state <> 'running' AND ended_at > 0 AND ended_at < $1 ORDER BY ended_at LIMIT $2", micros(before), some)
	if err != nil {
		return false, err
	}
	for _, r := range list {
		for _, table := range []string{"exec_output", "exec_hosts"} {
			if err := tx.session.exec(ctx, "DELETE FROM "+table+" WHERE run_id = $1", r.ID); err != nil {
				return false, fmt.Errorf("deleting from %s: %w", table, err)
			}
		}
		if err := tx.remove(ctx, feed.Exec, "exec_runs", r.ID, r.Scope); err != nil {
			return false, err
		}
	}
	return len(list) == some, nil
}

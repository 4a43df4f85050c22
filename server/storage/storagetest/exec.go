package storagetest

import (
	"bytes"
	"context"
	"reflect"
	"testing"
	"time"

	"github.com/loopbackd/loopback/access"
	"github.com/loopbackd/loopback/exec"
	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/server/storage"
)

func (b *bench) run(t *testing.T, requestID string) exec.Run {
	t.Helper()
	b.pass(time.Millisecond)
	r := exec.Run{Meta: b.meta("exec"), State: exec.Running, RequestID: requestID, Actor: exec.Actor{ID: "key_1", Reason: "why"},
		Command: exec.Command{Arguments: []string{"a", "$b"}, Timeout: time.Minute}, Stdin: []byte{0, 255}, Counts: map[exec.HostState]int{exec.Waiting: 2}}
	b.write(t, func(ctx context.Context, tx *storage.Tx) (err error) {
		if r, err = tx.PutExec(ctx, r); err != nil {
			return err
		}
		return tx.PutExecHosts(ctx, r.ID, r.Scope, []exec.Host{
			{ID: r.ID + "1", RunID: r.ID, HostID: "hst_1", Name: "one", Place: 0, State: exec.Waiting},
			{ID: r.ID + "2", RunID: r.ID, HostID: "hst_2", Name: "two", Place: 1, State: exec.Waiting},
		}, nil)
	})
	return r
}

var execs = []test{
	{"a run is read as it was written, by its request too, and a request leads to one", func(t *testing.T, b *bench) {
		r := b.run(t, "req-1")
		b.run(t, "")
		b.run(t, "")
		got, err := b.DB.View().ExecByRequest(t.Context(), "key_1", "req-1")
		if err != nil || got.ID != r.ID || got.Command.Arguments[1] != "$b" || !bytes.Equal(got.Stdin, r.Stdin) || got.Counts[exec.Waiting] != 2 || got.Actor.Reason != "why" {
			t.Errorf("got %+v, %v", got, err)
		}
		again := r
		again.Meta = b.meta("exec")
		err = b.DB.Observe(t.Context(), func(tx *storage.Tx) error { _, err := tx.PutExec(t.Context(), again); return err })
		if fault.KindOf(err) != fault.Exists {
			t.Errorf("a second run of one request: %v; wanted Exists", err)
		}
		page, _, err := b.DB.View().Execs(t.Context(), exec.Query{Readable: access.Everywhere()})
		if err != nil || len(page) != 3 || page[2].ID != r.ID {
			t.Errorf("got %d runs, %v; wanted three, the first last", len(page), err)
		}
		if page, _, _ := b.DB.View().Execs(t.Context(), exec.Query{}); len(page) != 0 {
			t.Errorf("who may read nothing sees %d runs", len(page))
		}
	}},
	{"hosts and output are found by what changed", func(t *testing.T, b *bench) {
		r := b.run(t, "")
		hosts, err := b.DB.View().ExecHosts(t.Context(), r.ID, 0)
		if err != nil || len(hosts) != 2 || hosts[0].Name != "one" {
			t.Fatalf("got %+v, %v", hosts, err)
		}
		before := hosts[0].Revision
		changed := hosts[1]
		changed.State, changed.ExitCode, changed.Exited, changed.EndedAt = exec.Unsuccessful, 7, true, b.now()
		piece := exec.Output{OrderID: changed.ID, RunID: r.ID, HostID: "hst_2", Channel: exec.Stdout, Data: []byte{0, 255, 'x'}}
		for range 2 { // stored again, it is there once
			b.write(t, func(ctx context.Context, tx *storage.Tx) error {
				return tx.PutExecHosts(ctx, r.ID, r.Scope, []exec.Host{changed}, []exec.Output{piece})
			})
		}
		other := b.run(t, "")
		tallies, err := b.DB.View().ExecTallies(t.Context(), []string{r.ID, other.ID, "exec_none"})
		if want := (map[string]map[exec.HostState]int{r.ID: {exec.Waiting: 1, exec.Unsuccessful: 1}, other.ID: {exec.Waiting: 2}}); err != nil || !reflect.DeepEqual(tallies, want) {
			t.Errorf("counted %v, %v; wanted %v", tallies, err, want)
		}
		if none, err := b.DB.View().ExecTallies(t.Context(), nil); err != nil || len(none) != 0 {
			t.Errorf("of no run, counted %v, %v", none, err)
		}
		hosts, err = b.DB.View().ExecHosts(t.Context(), r.ID, before)
		if err != nil || len(hosts) != 1 || hosts[0].ExitCode != 7 || !hosts[0].Exited || !hosts[0].EndedAt.Equal(changed.EndedAt) {
			t.Errorf("got %+v, %v", hosts, err)
		}
		out, to, err := b.DB.View().ExecOutput(t.Context(), r.ID, exec.Mark{}, 10)
		if err != nil || len(out) != 1 || !bytes.Equal(out[0].Data, piece.Data) || to.Revision != hosts[0].Revision {
			t.Errorf("got %+v up to %v, %v", out, to, err)
		}
		if out, _, _ := b.DB.View().ExecOutput(t.Context(), r.ID, to, 10); len(out) != 0 {
			t.Errorf("got %d pieces after the last", len(out))
		}
	}},
	{"output that was stored at a time is read in pages without a gap", func(t *testing.T, b *bench) {
		r := b.run(t, "")
		var pieces []exec.Output
		for i := range 7 {
			pieces = append(pieces, exec.Output{OrderID: r.ID + "1", RunID: r.ID, HostID: "hst_1", Channel: exec.Stdout, Offset: int64(i), Data: []byte{byte(i)}})
		}
		for _, part := range [][]exec.Output{pieces[:5], pieces[5:]} {
			b.write(t, func(ctx context.Context, tx *storage.Tx) error { return tx.PutExecHosts(ctx, r.ID, r.Scope, nil, part) })
		}
		var got []byte
		for at := (exec.Mark{}); ; {
			page, to, err := b.DB.View().ExecOutput(t.Context(), r.ID, at, 2)
			if err != nil {
				t.Fatal(err)
			}
			if len(page) == 0 {
				break
			}
			for _, o := range page {
				got = append(got, o.Data...)
			}
			at = to
		}
		if !bytes.Equal(got, []byte{0, 1, 2, 3, 4, 5, 6}) {
			t.Errorf("got the pieces %v", got)
		}
	}},
	{"hosts whose turn has come, or that were told, are found", func(t *testing.T, b *bench) {
		r := b.run(t, "")
		b.write(t, func(ctx context.Context, tx *storage.Tx) error {
			return tx.PutExecHosts(ctx, r.ID, r.Scope, []exec.Host{
				{ID: r.ID + "1", RunID: r.ID, HostID: "hst_1", Name: "one", Place: 0, State: exec.Sent},
				{ID: r.ID + "2", RunID: r.ID, HostID: "hst_2", Name: "two", Place: 1, State: exec.Ready},
				{ID: r.ID + "3", RunID: r.ID, HostID: "hst_3", Name: "three", Place: 2, State: exec.OnHost},
			}, nil)
		})
		rows, err := b.DB.View().UnansweredExecHosts(t.Context(), r.ID)
		if err != nil || len(rows) != 2 || rows[0].Name != "one" || rows[1].Name != "two" {
			t.Errorf("got %+v, %v; wanted the first two", rows, err)
		}
	}},
	{"a run that ended long ago is deleted with what it wrote, and no other", func(t *testing.T, b *bench) {
		running, old, young := b.run(t, ""), b.run(t, ""), b.run(t, "")
		for r, at := range map[*exec.Run]time.Time{&old: b.now().Add(-time.Hour), &young: b.now()} {
			r.State, r.EndedAt = exec.Failed, at
			b.write(t, func(ctx context.Context, tx *storage.Tx) error { _, err := tx.PutExec(ctx, *r); return err })
		}
		b.write(t, func(ctx context.Context, tx *storage.Tx) error {
			more, err := tx.PruneExecs(ctx, b.now().Add(-time.Minute))
			if more {
				t.Error("there are more of one")
			}
			return err
		})
		if _, err := b.DB.View().Exec(t.Context(), old.ID); fault.KindOf(err) != fault.NotFound {
			t.Errorf("the old run: %v; wanted it gone", err)
		}
		if hosts, err := b.DB.View().ExecHosts(t.Context(), old.ID, 0); err != nil || len(hosts) != 0 {
			t.Errorf("the old run has %d hosts, %v", len(hosts), err)
		}
		for _, r := range []exec.Run{running, young} {
			if hosts, err := b.DB.View().ExecHosts(t.Context(), r.ID, 0); err != nil || len(hosts) != 2 {
				t.Errorf("another run has %d hosts, %v; wanted 2", len(hosts), err)
			}
		}
	}},
	{"a run is led by one replica at a time", func(t *testing.T, b *bench) {
		r := b.run(t, "")
		lease := func(owner string) (got exec.Run, found bool) {
			if err := b.DB.Observe(t.Context(), func(tx *storage.Tx) (err error) {
				got, found, err = tx.LeaseExec(t.Context(), owner, b.now(), b.now().Add(time.Minute))
				return err
			}); err != nil {
				t.Fatal(err)
			}
			return got, found
		}
		first, found := lease("a")
		if !found || first.ID != r.ID || first.Attempt != 1 {
			t.Errorf("got %+v, %t", first, found)
		}
		if _, found := lease("b"); found {
			t.Error("it was leased twice")
		}
		hold := func(attempt int64) error {
			return b.DB.Observe(t.Context(), func(tx *storage.Tx) error { return tx.HoldExec(t.Context(), r.ID, attempt, b.now().Add(time.Minute)) })
		}
		b.pass(50 * time.Second)
		if err := hold(1); err != nil {
			t.Error(err)
		}
		b.pass(50 * time.Second)
		if _, found := lease("b"); found {
			t.Error("a lease that was renewed was taken over")
		}
		b.pass(time.Minute)
		if second, found := lease("b"); !found || second.Attempt != 2 {
			t.Errorf("got %+v, %t", second, found)
		}
		if err := hold(1); fault.KindOf(err) != fault.Conflict {
			t.Errorf("the first attempt goes on: %v", err)
		}
	}},
}

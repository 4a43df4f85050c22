package storagetest

import (
	"context"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/loopbackd/loopback/ledger"
	"github.com/loopbackd/loopback/operation"
	"github.com/loopbackd/loopback/replica"
	"github.com/loopbackd/loopback/server/storage"
	"github.com/loopbackd/loopback/sink"
)

var replicas = []test{
	{"are kept as they wrote themselves", func(t *testing.T, b *bench) {
		var r replica.Replica
		new(filler).fill(reflect.ValueOf(&r).Elem())
		r.Name = "replica-1"
		for range 2 { // inserted, then replaced
			r.Beat++
			b.write(t, func(ctx context.Context, tx *storage.Tx) error { return tx.PutReplica(ctx, r) })
			got, err := b.DB.View().Replicas(t.Context())
			if err != nil || len(got) != 1 {
				t.Fatalf("%d replicas are there, %v; want 1", len(got), err)
			}
			if diff := cmp.Diff(r, got[0]); diff != "" {
				t.Errorf("it is kept otherwise (-wrote +read):\n%s", diff)
			}
		}
	}},
	{"show what they do for all", func(t *testing.T, b *bench) {
		w := b.workspace(t)
		now, soon := b.now(), b.now().Add(time.Minute)
		b.write(t, func(ctx context.Context, tx *storage.Tx) error {
			if err := tx.PutAuditLog(ctx, ledger.Log{Number: 1, LeaseOwner: "replica-1", LeaseUntil: soon}); err != nil {
				return err
			}
			for name, until := range map[string]time.Time{"siem": soon, "old": now} { // a lease that is over shows no more
				s := sink.Sink{LeaseOwner: "replica-2", LeaseUntil: until}
				s.ID, s.Name = "snk_"+name, name
				if _, err := tx.PutSink(ctx, s); err != nil {
					return err
				}
			}
			for _, id := range []string{"op_1", "op_2"} {
				o := operation.Operation{Scope: w.Scope(), State: operation.Running, LeaseOwner: "replica-2", LeaseUntil: soon, RequestID: id}
				o.ID = id
				if _, err := tx.PutOperation(ctx, o); err != nil {
					return err
				}
			}
			return nil
		})
		got, err := b.DB.View().Leases(t.Context(), now)
		want := []replica.Lease{{Owner: "replica-1", What: "audit log"}, {Owner: "replica-2", What: "sink siem"}, {Owner: "replica-2", What: "2 operations"}}
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("got %v, %v; want %v", got, err, want)
		}
	}},
	{"can ask for the time", func(t *testing.T, b *bench) {
		before := time.Now()
		at, err := b.DB.Clock(t.Context())
		if err != nil || at.Before(before.Add(-time.Second)) || at.After(time.Now().Add(time.Second)) { // it runs on this machine
			t.Errorf("the database's clock says %s, %v; it is %s", at, err, before)
		}
	}},
}

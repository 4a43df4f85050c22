package storagetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/loopbackd/loopback/ledger"
	"github.com/loopbackd/loopback/operation"
	"github.com/loopbackd/loopback/release"
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
	{"have each lease one at a time", func(t *testing.T, b *bench) {
		other := b.open(t)
		take := func(db *storage.DB, owner string, wanted bool) {
			t.Helper()
			var held bool
			err := db.Observe(t.Context(), func(tx *storage.Tx) error {
				var err error
				held, err = tx.TakeLease(t.Context(), "work", owner, b.now().Add(time.Minute))
				return err
			})
			if err != nil || held != wanted {
				t.Errorf("%s has it: %t, %v; want %t", owner, held, err, wanted)
			}
		}
		take(b.DB, "replica-1", true)
		take(other, "replica-2", false)
		b.pass(30 * time.Second)
		take(b.DB, "replica-1", true) // renewed
		b.pass(45 * time.Second)
		take(other, "replica-2", false)
		b.pass(30 * time.Second)
		take(other, "replica-2", true) // it ran out
		b.write(t, func(ctx context.Context, tx *storage.Tx) error { return tx.DropLease(ctx, "work", "replica-1") })
		take(b.DB, "replica-1", false) // giving back what is another's does nothing
		b.write(t, func(ctx context.Context, tx *storage.Tx) error { return tx.DropLease(ctx, "work", "replica-2") })
		take(b.DB, "replica-1", true)
		if got, err := other.View().Leases(t.Context(), b.now()); err != nil || !slices.Equal(got, []replica.Lease{{Owner: "replica-1", What: "work"}}) {
			t.Errorf("the leases are %v, %v", got, err)
		}
	}},
	{"share blobs", func(t *testing.T, b *bench) {
		data := bytes.Repeat([]byte{0, 1, 0xff}, 1000)
		put := func(key, version, upon string) error {
			return b.DB.Observe(t.Context(), func(tx *storage.Tx) error {
				if err := tx.ExpectBlob(t.Context(), key, upon); err != nil {
					return err
				}
				if err := tx.PutBlobChunk(t.Context(), version, 0, data); err != nil {
					return err
				}
				return tx.PutBlob(t.Context(), release.Blob{Key: key, Version: version, Size: int64(len(data))})
			})
		}
		for i, key := range []string{"a/1", "a/2", "a0", "b/1"} {
			if err := put(key, fmt.Sprint("v", i), ""); err != nil {
				t.Fatal(err)
			}
		}
		if err := put("a/1", "w", "v9"); !errors.Is(err, release.ErrBlobChanged) {
			t.Errorf("upon a version that it has not: got %v", err)
		}
		if err := put("a/1", "w", "v0"); err != nil {
			t.Error(err)
		}
		view := b.open(t).View()
		want := []release.Blob{{Key: "a/1", Version: "w", Size: 3000, Modified: b.now()}, {Key: "a/2", Version: "v1", Size: 3000, Modified: b.now()}}
		if got, err := view.Blobs(t.Context(), "a/"); err != nil || !slices.Equal(got, want) {
			t.Errorf("below a/ are %v, %v; want %v", got, err, want)
		}
		if got, err := view.BlobChunk(t.Context(), "w", 0); err != nil || !bytes.Equal(got, data) {
			t.Errorf("of %d bytes %d are read, %v", len(data), len(got), err)
		}
		if _, err := view.BlobChunk(t.Context(), "w", 1); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("a chunk that is not there: got %v", err)
		}
		if _, err := view.Blob(t.Context(), "c"); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("a blob that is not there: got %v", err)
		}
		b.write(t, func(ctx context.Context, tx *storage.Tx) error { return tx.DeleteBlob(ctx, "a/2") })
		b.pass(time.Minute)
		b.write(t, func(ctx context.Context, tx *storage.Tx) error { return tx.SweepBlobChunks(ctx, b.now()) })
		for version, kept := range map[string]bool{"w": true, "v0": false, "v1": false, "v2": true} {
			if _, err := view.BlobChunk(t.Context(), version, 0); (err == nil) != kept {
				t.Errorf("after the sweep %s: %v; want it kept: %t", version, err, kept)
			}
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

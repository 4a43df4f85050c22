package storagetest

import (
	"context"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/operation"
	"github.com/loopbackd/loopback/server/storage"
	"github.com/loopbackd/loopback/tenant"
)

func (b *bench) operation(t *testing.T, target string) operation.Operation {
	t.Helper()
	b.pass(time.Millisecond)
	o := operation.Operation{Meta: b.meta("op"), Kind: operation.RemoveHost, State: operation.Pending, Target: target}
	b.write(t, func(ctx context.Context, tx *storage.Tx) (err error) { o, err = tx.PutOperation(ctx, o); return })
	return o
}

func (b *bench) lease(t *testing.T, db *storage.DB, owner string) (o operation.Operation, found bool) {
	t.Helper()
	if err := db.Observe(t.Context(), func(tx *storage.Tx) (err error) {
		o, found, err = tx.LeaseOperation(t.Context(), owner, b.now(), b.now().Add(time.Minute))
		return
	}); err != nil {
		t.Fatal(err)
	}
	return o, found
}

var operations = []test{
	{"each is leased once, oldest first, and again when its lease is over", func(t *testing.T, b *bench) {
		if _, found := b.lease(t, b.DB, "a"); found {
			t.Error("an operation was leased where there is none")
		}
		first, second := b.operation(t, "x"), b.operation(t, "y")
		got, found := b.lease(t, b.DB, "a")
		if !found || got.ID != first.ID || got.State != operation.Running || got.Attempt != 1 || got.LeaseOwner != "a" {
			t.Errorf("got %+v; wanted the first, running, attempt 1 of a", got)
		}
		if next, found := b.lease(t, b.DB, "b"); !found || next.ID != second.ID {
			t.Errorf("got %+v; wanted the second", next)
		}
		if _, found := b.lease(t, b.DB, "c"); found {
			t.Error("an operation was leased twice")
		}
		b.pass(time.Minute)
		again, found := b.lease(t, b.DB, "c")
		if !found || again.ID != first.ID || again.Attempt != 2 || again.LeaseOwner != "c" {
			t.Errorf("got %+v; wanted the first, attempt 2 of c", again)
		}
		// The paused owner of the first attempt wakes up.
		got.State = operation.Succeeded
		err := b.DB.Observe(t.Context(), func(tx *storage.Tx) error { _, err := tx.PutOperationAttempt(t.Context(), got); return err })
		if fault.KindOf(err) != fault.Conflict {
			t.Errorf("a write of a lost attempt: got %v; wanted Conflict", err)
		}
		again.State = operation.Succeeded
		put := func() error {
			return b.DB.Observe(t.Context(), func(tx *storage.Tx) error { _, err := tx.PutOperationAttempt(t.Context(), again); return err })
		}
		if err := put(); err != nil {
			t.Errorf("a write of the current attempt: %v", err)
		}
		if err := put(); fault.KindOf(err) != fault.Conflict {
			t.Errorf("a write after its end: got %v; wanted Conflict", err)
		}
	}},
	{"workers on two handles share the work without overlap", func(t *testing.T, b *bench) {
		const count = 40
		for range count {
			b.operation(t, "x")
		}
		other := b.open(t)
		var mu sync.Mutex
		taken := map[string]int{}
		var all sync.WaitGroup
		for i := range 8 {
			db := []*storage.DB{b.DB, other}[i%2]
			all.Go(func() {
				for {
					var o operation.Operation
					var found bool
					if err := db.Observe(context.Background(), func(tx *storage.Tx) (err error) {
						o, found, err = tx.LeaseOperation(context.Background(), "w", b.now(), b.now().Add(time.Minute))
						return
					}); err != nil {
						t.Error(err)
						return
					}
					if !found {
						return
					}
					mu.Lock()
					taken[o.ID]++
					mu.Unlock()
				}
			})
		}
		all.Wait()
		for id, n := range taken {
			if n != 1 {
				t.Errorf("operation %s was leased %d times", id, n)
			}
		}
		if len(taken) != count {
			t.Errorf("%d operations were leased; wanted %d", len(taken), count)
		}
	}},
	{"a repeated request is found, and cannot be made twice", func(t *testing.T, b *bench) {
		o := operation.Operation{Meta: b.meta("op"), Actor: "key_1", RequestID: "r1"}
		b.write(t, func(ctx context.Context, tx *storage.Tx) error { _, err := tx.PutOperation(ctx, o); return err })
		got, err := b.DB.View().OperationByRequest(t.Context(), "key_1", "r1")
		if err != nil || got.ID != o.ID {
			t.Errorf("got %s, %v; wanted %s", got.ID, err, o.ID)
		}
		for _, other := range [][2]string{{"key_1", "r2"}, {"key_2", "r1"}, {"key_1", ""}} {
			if _, err := b.DB.View().OperationByRequest(t.Context(), other[0], other[1]); fault.KindOf(err) != fault.NotFound {
				t.Errorf("%v: got %v; wanted NotFound", other, err)
			}
		}
		o.Meta = b.meta("op")
		if err := b.DB.Observe(t.Context(), func(tx *storage.Tx) error { _, err := tx.PutOperation(t.Context(), o); return err }); fault.Of(err).Code != "request_repeated" {
			t.Errorf("got %v; wanted request_repeated", err)
		}
		b.operation(t, "x")
		b.operation(t, "x") // two without a request id
	}},
	{"they are listed newest first", func(t *testing.T, b *bench) {
		var want []string
		for i := range 10 {
			o := b.operation(t, []string{"x", "y"}[i%2])
			if i%2 == 0 {
				want = append([]string{o.ID}, want...)
			}
		}
		b.lease(t, b.DB, "a")
		q := operation.Query{Readable: everything, Target: "x", Page: tenant.Page{Size: 2}}
		list := func() (got []string) {
			q.Page.Token = ""
			for {
				page, next, err := b.DB.View().Operations(t.Context(), q)
				if err != nil {
					t.Fatal(err)
				}
				for _, o := range page {
					got = append(got, o.ID)
				}
				if q.Page.Token = next; next == "" {
					return got
				}
			}
		}
		if got := list(); !slices.Equal(got, want) {
			t.Errorf("got %v; wanted %v", got, want)
		}
		q.States = []operation.State{operation.Running}
		if got := list(); !slices.Equal(got, want[len(want)-1:]) {
			t.Errorf("running: got %v; wanted the oldest", got)
		}
	}},
}

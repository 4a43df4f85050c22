package storagetest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/loopbackd/loopback/access"
	"github.com/loopbackd/loopback/audit"
	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/server/storage"
	"github.com/loopbackd/loopback/tenant"
)

var writing = []test{
	{"an unaudited change is refused", func(t *testing.T, b *bench) {
		o := tenant.Organisation{Meta: b.meta("org")}
		err := b.DB.Write(t.Context(), func(tx *storage.Tx) error {
			_, err := tx.PutOrganisation(t.Context(), o)
			return err
		})
		if fault.Of(err).Code != "storage_unaudited" {
			t.Errorf("got %v; wanted storage_unaudited", err)
		}
		wantMissing(t, b, o.ID)
		if err := b.DB.Write(t.Context(), func(tx *storage.Tx) error { return tx.TouchKey(t.Context(), "key_1", b.now()) }); fault.Of(err).Code != "storage_unaudited" {
			t.Errorf("touching a key: got %v; wanted storage_unaudited", err)
		}
	}},
	{"an observation needs no audit entry", func(t *testing.T, b *bench) {
		o := tenant.Organisation{Meta: b.meta("org")}
		if err := b.DB.Observe(t.Context(), func(tx *storage.Tx) error {
			_, err := tx.PutOrganisation(t.Context(), o)
			return err
		}); err != nil {
			t.Fatal(err)
		}
		if _, err := b.DB.View().Organisation(t.Context(), o.ID); err != nil {
			t.Error(err)
		}
	}},
	{"a refusal is audited without a change", func(t *testing.T, b *bench) {
		e := audit.Of(system, "test.refuse", access.Scope{}, "x", "")
		e.Outcome = audit.Refused
		if err := b.DB.Write(t.Context(), func(tx *storage.Tx) error { return tx.Audit(t.Context(), e) }); err != nil {
			t.Fatal(err)
		}
		got, err := b.DB.View().Entries(t.Context(), audit.Query{Readable: everything, Action: "test.refuse"})
		if err != nil || len(got) != 1 || got[0].Outcome != audit.Refused {
			t.Errorf("got %+v, %v; wanted one refusal", got, err)
		}
	}},
	{"a failed closure keeps nothing and says why", func(t *testing.T, b *bench) {
		before, err := b.DB.Position(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		o, own := tenant.Organisation{Meta: b.meta("org")}, errors.New("own error")
		err = b.DB.Write(t.Context(), func(tx *storage.Tx) error {
			if _, err := tx.PutOrganisation(t.Context(), o); err != nil {
				return err
			}
			return own
		})
		if !errors.Is(err, own) {
			t.Errorf("got %v; wanted the closure's error", err)
		}
		wantMissing(t, b, o.ID)
		if after, err := b.DB.Position(t.Context()); err != nil || after != before {
			t.Errorf("the feed went from %d to %d, %v; wanted it to stay", before, after, err)
		}
	}},
	{"a panic is an error and harms nobody else", func(t *testing.T, b *bench) {
		o := tenant.Organisation{Meta: b.meta("org")}
		var others sync.WaitGroup
		for range 20 {
			others.Go(func() { b.organisation(t) })
		}
		err := b.DB.Observe(t.Context(), func(tx *storage.Tx) error {
			if _, err := tx.PutOrganisation(t.Context(), o); err != nil {
				return err
			}
			panic("on purpose")
		})
		others.Wait()
		if f := fault.Of(err); f.Kind != fault.Internal || !strings.Contains(err.Error(), "on purpose") {
			t.Errorf("got %v; wanted an internal error that names the panic", err)
		}
		wantMissing(t, b, o.ID)
	}},
	{"a failed statement dooms its closure and no other", func(t *testing.T, b *bench) {
		taken := b.organisation(t)
		first, second := tenant.Organisation{Meta: b.meta("org")}, tenant.Organisation{Meta: b.meta("org")}
		second.Name = taken.Name
		var others sync.WaitGroup
		for range 20 {
			others.Go(func() { b.organisation(t) })
		}
		var inside error // of the last run: on PostgreSQL the first one may be told of it only afterwards
		err := b.DB.Observe(t.Context(), func(tx *storage.Tx) error {
			if _, err := tx.PutOrganisation(t.Context(), first); err != nil {
				return err
			}
			_, inside = tx.PutOrganisation(t.Context(), second)
			return nil // the error is not passed on
		})
		others.Wait()
		if fault.KindOf(inside) != fault.Exists {
			t.Errorf("inside: got %v; wanted Exists", inside)
		}
		if fault.KindOf(err) != fault.Exists {
			t.Errorf("got %v; wanted Exists", err)
		}
		wantMissing(t, b, first.ID)
	}},
	{"what is not found dooms nothing", func(t *testing.T, b *bench) {
		o := tenant.Organisation{Meta: b.meta("org")}
		b.write(t, func(ctx context.Context, tx *storage.Tx) error {
			if _, err := tx.Organisation(ctx, "org_none"); fault.KindOf(err) != fault.NotFound {
				t.Errorf("got %v; wanted NotFound", err)
			}
			_, err := tx.PutOrganisation(ctx, o)
			return err
		})
		if _, err := b.DB.View().Organisation(t.Context(), o.ID); err != nil {
			t.Error(err)
		}
	}},
	{"a closure sees its own writes, others see them after commit", func(t *testing.T, b *bench) {
		o := tenant.Organisation{Meta: b.meta("org")}
		b.write(t, func(ctx context.Context, tx *storage.Tx) error {
			if _, err := tx.PutOrganisation(ctx, o); err != nil {
				return err
			}
			if _, err := tx.Organisation(ctx, o.ID); err != nil {
				t.Errorf("the closure does not see its write: %v", err)
			}
			if _, err := b.DB.View().Organisation(ctx, o.ID); fault.KindOf(err) != fault.NotFound {
				t.Errorf("outside: got %v; wanted NotFound before the commit", err)
			}
			return nil
		})
		if _, err := b.DB.View().Organisation(t.Context(), o.ID); err != nil {
			t.Errorf("outside, after the commit: %v", err)
		}
	}},
	{"a context that ends before the closure starts takes it back", func(t *testing.T, b *bench) {
		inside, leave := make(chan struct{}), make(chan struct{})
		var blocker sync.WaitGroup
		blocker.Go(func() {
			b.write(t, func(context.Context, *storage.Tx) error { close(inside); <-leave; return nil })
		})
		<-inside
		ctx, cancel := context.WithCancel(t.Context())
		ran, answer := false, make(chan error)
		go func() {
			answer <- b.DB.Observe(ctx, func(*storage.Tx) error { ran = true; return nil })
		}()
		cancel()
		if err := <-answer; !errors.Is(err, context.Canceled) || fault.KindOf(err) != fault.Canceled {
			t.Errorf("got %v; wanted Canceled", err)
		}
		close(leave)
		blocker.Wait()
		b.organisation(t) // the writer has passed the place where the closure waited
		if ran {
			t.Error("the closure ran although its caller was told that it did not")
		}
	}},
	{"a context that ends later does not", func(t *testing.T, b *bench) {
		o := tenant.Organisation{Meta: b.meta("org")}
		ctx, cancel := context.WithCancel(t.Context())
		if err := b.DB.Observe(ctx, func(tx *storage.Tx) error {
			cancel()
			_, err := tx.PutOrganisation(ctx, o)
			return err
		}); err != nil {
			t.Errorf("got %v; wanted the truth, which is that it was written", err)
		}
		if _, err := b.DB.View().Organisation(t.Context(), o.ID); err != nil {
			t.Error(err)
		}
	}},
	{"a transaction is over when its closure returns", func(t *testing.T, b *bench) {
		var kept *storage.Tx
		b.write(t, func(_ context.Context, tx *storage.Tx) error { kept = tx; return nil })
		if _, err := kept.PutOrganisation(t.Context(), tenant.Organisation{Meta: b.meta("org")}); fault.Of(err).Code != "storage_transaction_over" {
			t.Errorf("got %v; wanted storage_transaction_over", err)
		}
	}},
	{"whatever mixture of closures, each keeps all of its work or nothing", func(t *testing.T, b *bench) {
		taken := b.organisation(t)
		own := errors.New("own error")
		var all sync.WaitGroup
		for p := range 12 {
			all.Go(func() {
				r := rand.New(rand.NewPCG(9, uint64(p)))
				ctx := context.Background()
				id, want := fmt.Sprintf("org_p%d", p), ""
				for step := range 40 {
					fail, written := r.IntN(6), ""
					ops := make([]int, 1+r.IntN(4))
					for i := range ops {
						ops[i] = r.IntN(3)
					}
					err := b.DB.Observe(ctx, func(tx *storage.Tx) error {
						written = want
						for i, op := range ops {
							switch op {
							case 0: // read one's own
								o, err := tx.Organisation(ctx, id)
								if err != nil && fault.KindOf(err) != fault.NotFound {
									return err
								}
								if o.Description != written {
									t.Errorf("writer %d, step %d: read %q; wrote %q", p, step, o.Description, written)
								}
							default:
								written = fmt.Sprintf("%d.%d", step, i)
								if _, err := tx.PutOrganisation(ctx, tenant.Organisation{Meta: tenant.Meta{ID: id, Name: id}, Description: written}); err != nil {
									return err
								}
							}
						}
						switch fail {
						case 0:
							return own
						case 1:
							_, err := tx.PutOrganisation(ctx, tenant.Organisation{Meta: tenant.Meta{ID: id + "_2", Name: taken.Name}})
							return err
						}
						return nil
					})
					switch {
					case fail == 0 && !errors.Is(err, own), fail == 1 && fault.KindOf(err) != fault.Exists, fail > 1 && err != nil:
						t.Errorf("writer %d, step %d: got %v with failure %d", p, step, err, fail)
					case err == nil:
						want = written
					}
				}
				o, err := b.DB.View().Organisation(ctx, id)
				if o.Description != want || err != nil && fault.KindOf(err) != fault.NotFound {
					t.Errorf("writer %d: %q is stored, %v; wanted %q", p, o.Description, err, want)
				}
			})
		}
		all.Wait()
		position, err := b.DB.Position(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if list, err := b.DB.Changes(t.Context(), 0, int(position)+1); err != nil || int64(len(list)) != position {
			t.Errorf("the feed has %d changes up to %d, %v", len(list), position, err)
		}
	}},
	{"closing lets accepted writes finish and refuses others", func(t *testing.T, b *bench) {
		db := b.open(t)
		inside, leave := make(chan struct{}), make(chan struct{})
		o := tenant.Organisation{Meta: b.meta("org")}
		answer := make(chan error)
		go func() {
			answer <- db.Observe(context.Background(), func(tx *storage.Tx) error {
				close(inside)
				<-leave
				_, err := tx.PutOrganisation(context.Background(), o)
				return err
			})
		}()
		<-inside
		closed := make(chan error)
		go func() { closed <- db.Close() }()
		for { // until it refuses
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
			err := db.Observe(ctx, func(*storage.Tx) error { return nil })
			cancel()
			if fault.KindOf(err) == fault.Unavailable {
				break
			}
		}
		close(leave)
		if err := <-answer; err != nil {
			t.Errorf("the accepted write: %v", err)
		}
		if err := <-closed; err != nil {
			t.Errorf("closing: %v", err)
		}
		if _, err := b.DB.View().Organisation(t.Context(), o.ID); err != nil {
			t.Error(err)
		}
	}},
}

func wantMissing(t *testing.T, b *bench, organisation string) {
	t.Helper()
	if _, err := b.DB.View().Organisation(t.Context(), organisation); fault.KindOf(err) != fault.NotFound {
		t.Errorf("organisation %s: got %v; wanted NotFound", organisation, err)
	}
}

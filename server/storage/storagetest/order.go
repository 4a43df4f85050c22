package storagetest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/loopbackd/loopback/access"
	"github.com/loopbackd/loopback/audit"
	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/server/feed"
	"github.com/loopbackd/loopback/server/storage"
	"github.com/loopbackd/loopback/tenant"
	"github.com/loopbackd/loopback/token"
)

var order = []test{
	// The promise on which every cache and every reader of the audit log rests.
	{"positions are in commit order under 32 writers on two handles", func(t *testing.T, b *bench) {
		const writers, each = 32, 25
		other := b.open(t)
		done := make(chan struct{})
		var readers, all sync.WaitGroup
		// A reader that remembers the last position must never find an earlier one appear behind it.
		for _, db := range []*storage.DB{b.DB, other} {
			readers.Go(func() {
				position, finished := int64(0), false
				for {
					list, err := db.Changes(context.Background(), position, 7)
					if err != nil {
						t.Errorf("reading changes after %d: %v", position, err)
						return
					}
					for _, c := range list {
						if c.Position != position+1 {
							t.Errorf("change %d follows %d", c.Position, position)
							return
						}
						position = c.Position
					}
					if len(list) == 0 && finished {
						if position != writers*each {
							t.Errorf("the reader ended at %d; wanted %d", position, writers*each)
						}
						return
					}
					select {
					case <-done:
						finished = true
					default:
					}
				}
			})
		}
		seen := make([]map[int64]bool, 2)
		var mu sync.Mutex
		for i := range writers {
			db := []*storage.DB{b.DB, other}[i%2]
			all.Go(func() {
				for n := range each {
					var o tenant.Organisation
					write := func() error {
						return db.Write(context.Background(), func(tx *storage.Tx) (err error) {
							ctx := context.Background()
							if o, err = tx.PutOrganisation(ctx, tenant.Organisation{Meta: tenant.Meta{ID: fmt.Sprintf("org_%d_%d", i, n), Name: fmt.Sprintf("o-%d-%d", i, n)}}); err != nil {
								return err
							}
							if n%5 == 4 && !sawBefore(&mu, &seen[0], int64(i*each+n)) {
								return errRunAgain
							}
							return tx.Audit(ctx, audit.Of(system, "test.order", access.Scope{}, o.ID, o.Name))
						})
					}
					err := write()
					// Rolled back on purpose, now for good; or the other handle had the database for too long, and nothing was written.
					for errors.Is(err, errRunAgain) || fault.KindOf(err) == fault.Unavailable {
						err = write()
					}
					if err != nil {
						t.Errorf("writer %d: %v", i, err)
						return
					}
					if sawBefore(&mu, &seen[1], o.Revision) {
						t.Errorf("revision %d was given twice", o.Revision)
					}
				}
			})
		}
		all.Wait()
		close(done)
		readers.Wait()
		wantGapless(t, b, writers*each)
	}},
	{"a token of N uses is used exactly N times", func(t *testing.T, b *bench) {
		const uses, callers = 7, 40
		k := b.token(t, b.workspace(t), uses)
		other := b.open(t)
		var all sync.WaitGroup
		var taken, refused atomic.Int64
		for i := range callers {
			db := []*storage.DB{b.DB, other}[i%2]
			all.Go(func() {
				ctx := context.Background()
				err := db.Write(ctx, func(tx *storage.Tx) error {
					k, err := tx.Token(ctx, k.ID)
					if err != nil {
						return err
					}
					if k.State(tx.Now()) != token.Active {
						return token.ErrExhausted
					}
					k.Uses++
					if _, err := tx.PutToken(ctx, k); err != nil {
						return err
					}
					return tx.Audit(ctx, audit.Of(system, token.Use, k.Scope, k.ID, k.Name))
				})
				switch {
				case err == nil:
					taken.Add(1)
				case errors.Is(err, token.ErrExhausted):
					refused.Add(1)
				default:
					t.Errorf("caller %d: %v", i, err)
				}
			})
		}
		all.Wait()
		if taken.Load() != uses || refused.Load() != callers-uses {
			t.Errorf("%d uses were taken and %d refused; wanted %d and %d", taken.Load(), refused.Load(), uses, callers-uses)
		}
		got, err := b.DB.View().Token(t.Context(), k.ID)
		if err != nil || got.Uses != uses {
			t.Errorf("the token has %d uses, %v; wanted %d", got.Uses, err, uses)
		}
	}},
	{"nothing changes under a closure", func(t *testing.T, b *bench) {
		o := b.organisation(t)
		other := b.open(t)
		var all sync.WaitGroup
		const callers, each = 8, 20
		for i := range callers {
			db := []*storage.DB{b.DB, other}[i%2]
			all.Go(func() {
				for range each {
					ctx := context.Background()
					if err := db.Observe(ctx, func(tx *storage.Tx) error {
						o, err := tx.Organisation(ctx, o.ID)
						if err != nil {
							return err
						}
						o.Description += "x"
						_, err = tx.PutOrganisation(ctx, o)
						return err
					}); err != nil {
						t.Error(err)
					}
				}
			})
		}
		all.Wait()
		got, err := b.DB.View().Organisation(t.Context(), o.ID)
		if err != nil || len(got.Description) != callers*each {
			t.Errorf("%d of %d increments survived, %v", len(got.Description), callers*each, err)
		}
	}},
	{"two handles follow one feed", func(t *testing.T, b *bench) {
		other := b.open(t)
		b.workspace(t)
		changes, err := other.Changes(t.Context(), 0, 10)
		if err != nil || len(changes) != 3 {
			t.Fatalf("got %+v, %v; wanted three changes", changes, err)
		}
		for i, kind := range []feed.Kind{feed.Organisation, feed.Project, feed.Workspace} {
			if c := changes[i]; c.Kind != kind || c.Position != int64(i+1) || !c.At.Equal(b.now()) || c.Deleted {
				t.Errorf("change %d is %+v; wanted %s", i, c, kind)
			}
		}
	}},
}

var errRunAgain = fault.New(fault.Conflict, "test_again", "on purpose")

// sawBefore notes a number and tells whether it was noted already.
func sawBefore(mu *sync.Mutex, seen *map[int64]bool, n int64) bool {
	mu.Lock()
	defer mu.Unlock()
	if *seen == nil {
		*seen = map[int64]bool{}
	}
	before := (*seen)[n]
	(*seen)[n] = true
	return before
}

// wantGapless reads the audit log in order.
func wantGapless(t *testing.T, b *bench, want int64) {
	t.Helper()
	position := int64(-1) // from the very first on
	last := int64(0)
	for {
		list, err := b.DB.View().Entries(t.Context(), audit.Query{Readable: everything, After: position, Limit: 100})
		if err != nil {
			t.Fatal(err)
		}
		if len(list) == 0 {
			break
		}
		for _, e := range list {
			if e.Position != last+1 {
				t.Fatalf("entry %d follows %d", e.Position, last)
			}
			last = e.Position
		}
		position = last
	}
	if last != want {
		t.Errorf("the log ends at %d; wanted %d", last, want)
	}
}

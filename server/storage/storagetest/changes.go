package storagetest

import (
	"errors"
	"testing"
	"time"

	"github.com/loopbackd/loopback/server/feed"
	"github.com/loopbackd/loopback/server/storage"
	"github.com/loopbackd/loopback/tenant"
)

var changes = []test{
	{"a follower at the end gets nothing, one beyond it is sent back", func(t *testing.T, b *bench) {
		b.workspace(t)
		if list, err := b.DB.Changes(t.Context(), 3, 10); err != nil || len(list) != 0 {
			t.Errorf("at the end: got %v, %v; wanted nothing", list, err)
		}
		if _, err := b.DB.Changes(t.Context(), 4, 10); !errors.Is(err, feed.ErrGone) {
			t.Errorf("beyond: got %v; wanted ErrGone", err)
		}
		if list, err := b.DB.Changes(t.Context(), 1, 1); err != nil || len(list) != 1 || list[0].Position != 2 {
			t.Errorf("got %v, %v; wanted the second change", list, err)
		}
	}},
	{"pruning drops the old ones and sends back who needed them", func(t *testing.T, b *bench) {
		b.workspace(t) // three changes
		b.pass(time.Hour)
		b.organisation(t)
		if n, err := b.DB.PruneChanges(t.Context(), b.now()); err != nil || n != 3 {
			t.Errorf("pruned %d, %v; wanted 3", n, err)
		}
		for _, after := range []int64{0, 2} {
			if _, err := b.DB.Changes(t.Context(), after, 10); !errors.Is(err, feed.ErrGone) {
				t.Errorf("after %d: got %v; wanted ErrGone", after, err)
			}
		}
		if list, err := b.DB.Changes(t.Context(), 3, 10); err != nil || len(list) != 1 {
			t.Errorf("got %v, %v; wanted the one that is left", list, err)
		}
		b.pass(time.Hour)
		if n, err := b.DB.PruneChanges(t.Context(), b.now()); err != nil || n != 1 {
			t.Errorf("pruned %d, %v; wanted 1", n, err)
		}
		if _, err := b.DB.Changes(t.Context(), 3, 10); !errors.Is(err, feed.ErrGone) {
			t.Errorf("got %v; wanted ErrGone", err)
		}
		if list, err := b.DB.Changes(t.Context(), 4, 10); err != nil || len(list) != 0 {
			t.Errorf("at the end of an empty feed: got %v, %v; wanted nothing", list, err)
		}
		if o := b.organisation(t); o.Revision != 5 {
			t.Errorf("the next change has position %d; wanted 5", o.Revision)
		}
	}},
	{"pruning never leaves a hole when the clock went back", func(t *testing.T, b *bench) {
		b.organisation(t)
		b.pass(-time.Hour)
		b.organisation(t)
		b.pass(time.Minute)
		if n, err := b.DB.PruneChanges(t.Context(), b.now()); err != nil || n != 0 {
			t.Errorf("pruned %d, %v; wanted none: the first is younger", n, err)
		}
	}},
	{"many are pruned in steps", func(t *testing.T, b *bench) {
		const count = 4500
		for range 9 {
			if err := b.DB.Observe(t.Context(), func(tx *storage.Tx) error {
				o := tenant.Organisation{Meta: tenant.Meta{ID: "org_1", Name: "one"}}
				for range count / 9 {
					if _, err := tx.PutOrganisation(t.Context(), o); err != nil {
						return err
					}
				}
				return nil
			}); err != nil {
				t.Fatal(err)
			}
		}
		b.pass(time.Hour)
		if n, err := b.DB.PruneChanges(t.Context(), b.now()); err != nil || n != count {
			t.Errorf("pruned %d, %v; wanted %d", n, err, count)
		}
	}},
	{"a commit nudges, a rollback and bookkeeping do not", func(t *testing.T, b *bench) {
		nudges, cancel := b.DB.Nudges()
		defer cancel()
		nudged := func() bool {
			select {
			case <-nudges:
				return true
			default:
				return false
			}
		}
		b.organisation(t)
		if !nudged() {
			t.Error("a change did not nudge")
		}
		_ = b.DB.Observe(t.Context(), func(tx *storage.Tx) error {
			_, err := tx.PutOrganisation(t.Context(), tenant.Organisation{Meta: b.meta("org")})
			return errors.Join(err, errRunAgain)
		})
		if err := b.DB.Observe(t.Context(), func(tx *storage.Tx) error { return tx.TouchKey(t.Context(), "key_1", b.now()) }); err != nil {
			t.Fatal(err)
		}
		if nudged() {
			t.Error("nudged although the feed is as it was")
		}
		cancel()
		b.organisation(t)
		if nudged() {
			t.Error("nudged after it was cancelled")
		}
	}},
}

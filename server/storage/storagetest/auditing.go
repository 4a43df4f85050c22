package storagetest

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/loopbackd/loopback/access"
	"github.com/loopbackd/loopback/audit"
	"github.com/loopbackd/loopback/server/storage"
	"github.com/loopbackd/loopback/sink"
	"github.com/loopbackd/loopback/tenant"
)

var auditing = []test{
	{"entries are selected as the oracle does", func(t *testing.T, b *bench) {
		r := rand.New(rand.NewPCG(5, 5))
		places, _ := fleet(t, b, r, 0)
		for range 80 {
			b.pass(time.Second)
			at := randomScope(r, places)
			b.write(t, func(ctx context.Context, tx *storage.Tx) error {
				e := audit.Of(access.Actor{Kind: access.APIKey, ID: []string{"key_1", "key_2"}[r.IntN(2)], Principal: []string{"", "usr_1"}[r.IntN(2)]},
					[]access.Permission{"a.b", "c.d"}[r.IntN(2)], at, []string{"x", "y"}[r.IntN(2)], "")
				return tx.Audit(ctx, e)
			})
		}
		var all []audit.Entry
		for after := int64(-1); ; {
			page, err := b.DB.View().Entries(t.Context(), audit.Query{Readable: everything, After: after})
			if err != nil {
				t.Fatal(err)
			}
			if len(page) == 0 {
				break
			}
			all = append(all, page...)
			after = page[len(page)-1].Position
		}
		if len(all) < 160 {
			t.Fatalf("read %d entries; wanted all, at least 160", len(all))
		}
		for i := range 200 {
			q := audit.Query{Limit: 1 + r.IntN(50)}
			q.Readable = randomSight(r, places)
			if r.IntN(2) == 0 {
				q.Within = randomScope(r, places)
			}
			if r.IntN(3) == 0 {
				q.Action = "a.b"
			}
			if r.IntN(3) == 0 {
				q.Target = "x"
			}
			if r.IntN(3) == 0 {
				q.Actor = []string{"key_1", "usr_1"}[r.IntN(2)]
			}
			if r.IntN(3) == 0 {
				q.Since, q.Until = epoch.Add(20*time.Second), epoch.Add(60*time.Second)
			}
			forward := r.IntN(2) == 0
			switch {
			case forward:
				q.After = int64(1 + r.IntN(len(all)))
			case r.IntN(2) == 0:
				q.Before = int64(1 + r.IntN(len(all)))
			}
			var want, got []int64
			for _, e := range all {
				if q.Readable.Sees(e.Scope) && q.Within.Contains(e.Scope) && (q.Action == "" || q.Action == e.Action) &&
					(q.Target == "" || q.Target == e.Target) && (q.Actor == "" || q.Actor == e.Actor.ID || q.Actor == e.Actor.Principal) &&
					(q.Since.IsZero() || !e.At.Before(q.Since) && e.At.Before(q.Until)) &&
					(q.After == 0 || e.Position > q.After) && (q.Before == 0 || e.Position < q.Before) {
					want = append(want, e.Position)
				}
			}
			if !forward {
				slices.Reverse(want)
			}
			want = want[:min(len(want), q.Limit)]
			page, err := b.DB.View().Entries(t.Context(), q)
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range page {
				got = append(got, e.Position)
			}
			if !slices.Equal(got, want) {
				t.Fatalf("query %d (%+v):\ngot    %v\nwanted %v", i, q, got, want)
			}
		}
	}},
	{"a sink's dead letters are listed, changed, counted and go with it", func(t *testing.T, b *bench) {
		view := b.DB.View()
		var sinks []sink.Sink
		b.write(t, func(ctx context.Context, tx *storage.Tx) error {
			for _, name := range []string{"one", "two"} {
				k, err := tx.PutSink(ctx, sink.Sink{Meta: tenant.Meta{ID: "snk_" + name, Name: name}, Organisation: "org_1", Kind: sink.Webhook, Target: "https://x"})
				if err != nil {
					return err
				}
				sinks = append(sinks, k)
				for i := range int64(25) {
					at := 25 - i // the order of entries decides, not that of coming
					if err := tx.PutDeadLetter(ctx, sink.DeadLetter{ID: fmt.Sprint("dlt_", name, i), Sink: k.ID, Position: at, Entry: fmt.Sprint("aud_", at), Action: "a.b",
						Reason: "no \x00 thanks", Tries: 8, At: b.now(), Resend: at%5 == 0}); err != nil {
						return err
					}
				}
			}
			return nil
		})
		list := func(q sink.DeadLetterQuery) (at []int64) {
			t.Helper()
			for q.Sink, q.Page.Size = sinks[0].ID, 10; ; {
				page, next, err := view.DeadLetters(t.Context(), q)
				if err != nil {
					t.Fatal(err)
				}
				for _, l := range page {
					if l.Sink != q.Sink || l.Entry != fmt.Sprint("aud_", l.Position) || l.Action != "a.b" || l.Tries != 8 || !l.At.Equal(b.now()) || l.Resend != (l.Position%5 == 0) {
						t.Errorf("got %+v", l)
					}
					at = append(at, l.Position)
				}
				if q.Page.Token = next; next == "" {
					return at
				}
			}
		}
		if got := list(sink.DeadLetterQuery{}); len(got) != 25 || !slices.IsSorted(got) {
			t.Errorf("got %v, want the positions 1 to 25", got)
		}
		if got := list(sink.DeadLetterQuery{Resend: true}); !slices.Equal(got, []int64{5, 10, 15, 20, 25}) {
			t.Errorf("to be sent again are %v, want each fifth", got)
		}
		b.write(t, func(ctx context.Context, tx *storage.Tx) error { return tx.DeleteDeadLetters(ctx, sinks[0].ID, 3, 20) })
		if got := list(sink.DeadLetterQuery{}); !slices.Equal(got, []int64{1, 2, 3, 21, 22, 23, 24, 25}) {
			t.Errorf("left are %v, want those up to 3 and after 20", got)
		}
		moved := sinks[1]
		moved.Cursor, moved.Delivered, moved.Refused, moved.Failures, moved.LastError = 7, 6, 5, 4, "three"
		b.write(t, func(ctx context.Context, tx *storage.Tx) error {
			return errors.Join(tx.MoveSink(ctx, moved), tx.DeleteSink(ctx, sinks[0]))
		})
		got, err := view.Sink(t.Context(), moved.ID)
		if err != nil || got.Cursor != 7 || got.Delivered != 6 || got.Refused != 5 || got.Failures != 4 || got.LastError != "three" || got.Revision != moved.Revision {
			t.Errorf("got %+v, %v", got, err)
		}
		// The feed speaks of a sink that begins or ceases to fail, not of each step of it.
		for _, step := range []struct {
			failures int64
			told     bool
		}{{5, false}, {0, true}, {0, false}, {1, true}} {
			before, err := b.DB.Position(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			moved.Failures = step.failures
			b.write(t, func(ctx context.Context, tx *storage.Tx) error { return tx.MoveSink(ctx, moved) })
			if after, err := b.DB.Position(t.Context()); err != nil || (after > before) != step.told {
				t.Errorf("with %d failures the feed went from %d to %d, %v; told should be %v", step.failures, before, after, err, step.told)
			}
		}
		for k, want := range map[string]int64{sinks[0].ID: 0, sinks[1].ID: 25} {
			if n, err := view.CountDeadLetters(t.Context(), k); n != want || err != nil {
				t.Errorf("sink %s has %d dead letters, %v; want %d", k, n, err, want)
			}
		}
	}},
	{"bodies are deleted by organisation, never what says so, and sinks hold them back", func(t *testing.T, b *bench) {
		for range 30 {
			b.write(t, func(ctx context.Context, tx *storage.Tx) error {
				for _, org := range []string{"org_1", "org_2", ""} {
					if err := tx.Audit(ctx, audit.Entry{Action: "a.b", Scope: access.Scope{Organisation: org}}); err != nil {
						return err
					}
				}
				return tx.Audit(ctx, audit.Entry{Action: audit.Prune, Scope: access.Scope{Organisation: "org_1"}})
			})
		}
		left := func() map[string]int {
			t.Helper()
			out := map[string]int{}
			list, err := b.DB.View().EntriesFrom(t.Context(), 0, 1000)
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range list {
				if e.Action == audit.Prune {
					out["prune"]++
				} else {
					out[e.Scope.Organisation]++
				}
			}
			return out
		}
		gone := func(p audit.Prunable, limit int, want, last int64) {
			t.Helper()
			b.write(t, func(ctx context.Context, tx *storage.Tx) error {
				n, upTo, err := tx.DeleteBodies(ctx, p, limit)
				if n != want || upTo != last {
					t.Errorf("of %+v %d were deleted up to %d, want %d up to %d", p, n, upTo, want, last)
				}
				return err
			})
		}
		gone(audit.Prunable{Organisation: "org_1", UpTo: 80}, 7, 7, 31) // of a round: org_1, org_2, none, what says so, and one of none that writing brings
		gone(audit.Prunable{Organisation: "org_1", After: 31, UpTo: 80}, 100, 9, 76)
		gone(audit.Prunable{Organisation: "org_1", After: 76, UpTo: 80}, 100, 0, 0)
		gone(audit.Prunable{But: []string{"org_1", "org_3"}, UpTo: 40}, 100, 24, 40)
		if got := left(); got["org_1"] != 14 || got["org_2"] != 22 || got[""] != 48 || got["prune"] != 30 {
			t.Errorf("left are %v", got)
		}

		kept := []audit.Retention{{KeepDays: 400, UpdatedAt: b.now()}, {Organisation: "org_1", Hold: true, Reason: "case", UpdatedAt: b.now()}}
		b.write(t, func(ctx context.Context, tx *storage.Tx) error {
			return errors.Join(tx.PutRetention(ctx, audit.Retention{Organisation: "org_1", KeepDays: 7}), tx.PutRetention(ctx, kept[1]), tx.PutRetention(ctx, kept[0]))
		})
		if got, err := b.DB.View().Retentions(t.Context()); err != nil || !slices.Equal(got, kept) {
			t.Errorf("got %+v, %v; want %+v", got, err, kept)
		}

		needed := func(org string, want int64) {
			t.Helper()
			if got, err := b.DB.View().NeededBySinks(t.Context(), org); got != want || err != nil {
				t.Errorf("the sinks of %q need what is after %d, %v; want %d", org, got, err, want)
			}
		}
		needed("org_1", math.MaxInt64)
		b.write(t, func(ctx context.Context, tx *storage.Tx) error {
			for id, at := range map[string]int64{"": 50, "org_1": 40, "org_2": 30} {
				if _, err := tx.PutSink(ctx, sink.Sink{Meta: tenant.Meta{ID: "snk_" + id, Name: "x"}, Organisation: id, Kind: sink.File, Target: "x", Cursor: at}); err != nil {
					return err
				}
			}
			return tx.PutDeadLetter(ctx, sink.DeadLetter{ID: "dlt_1", Sink: "snk_org_1", Position: 21})
		})
		needed("org_1", 20)
		needed("org_2", 30)
		needed("org_3", 50)
		needed("", 20)
	}},
}

package storagetest

import (
	"context"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/loopbackd/loopback/access"
	"github.com/loopbackd/loopback/audit"
	"github.com/loopbackd/loopback/server/storage"
)

var auditing = []test{
	{"entries are selected as the oracle does", func(t *testing.T, b *bench) {
		r := rand.New(rand.NewPCG(5, 5))
		places, _ := fleet(t, b, r, 0)
		for range 80 {
			b.pass(time.Second)
			at := randomScope(r, places)
			b.write(t, func(ctx context.Context, tx *storage.Tx) error {
				e := audit.Of(access.Actor{Kind: access.APIKey, ID: []string{"key_1", "key_2"}[r.IntN(2)]},
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
				q.Actor = "key_1"
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
					(q.Target == "" || q.Target == e.Target) && (q.Actor == "" || q.Actor == e.Actor.ID) &&
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
}

package storagetest

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/loopbackd/loopback/access"
	"github.com/loopbackd/loopback/apikey"
	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/host"
	"github.com/loopbackd/loopback/label"
	"github.com/loopbackd/loopback/query"
	"github.com/loopbackd/loopback/server/storage"
	"github.com/loopbackd/loopback/tenant"
	"github.com/loopbackd/loopback/token"
)

// fleet makes workspaces and hosts at random.
func fleet(t *testing.T, b *bench, r *rand.Rand, count int) (places []tenant.Workspace, all []host.Host) {
	t.Helper()
	for range 2 {
		o := b.organisation(t)
		for range 2 {
			p := b.project(t, o)
			for range 2 {
				places = append(places, b.workspaceIn(t, p))
			}
		}
	}
	pick := func(values ...string) string { return values[r.IntN(len(values))] }
	b.write(t, func(ctx context.Context, tx *storage.Tx) error {
		all = nil
		for i := range count {
			w := places[r.IntN(len(places))]
			h := b.newHost(w)
			h.ID = fmt.Sprintf("hst_%04d", r.IntN(1e9)*1000+i)
			h.Name = fmt.Sprintf("%s-%d", pick("a", "B", "é", "z"), i)
			h.Labels = label.Set{}
			for _, key := range []string{"env", "tier", "gpu"} {
				if r.IntN(2) == 0 {
					h.Labels[key] = pick("", "prod", "dev", "x")
				}
			}
			h.State = host.States[r.IntN(len(host.States))]
			h.StateSince = epoch.Add(time.Duration(r.IntN(5)) * time.Second)
			h.CreatedAt = epoch.Add(time.Duration(r.IntN(5)) * time.Second)
			h.AgentVersion = pick("1.0.0", "1.2.0", "")
			h.Online = r.IntN(2) == 0
			if !h.Online && r.IntN(3) > 0 {
				h.OfflineSince = epoch.Add(time.Duration(r.IntN(5)) * time.Second)
			}
			h.TokenID = pick("tok_1", "tok_2")
			h, err := tx.PutHost(ctx, h)
			if err != nil {
				return err
			}
			all = append(all, h)
		}
		return nil
	})
	return places, all
}

func randomScope(r *rand.Rand, places []tenant.Workspace) access.Scope {
	s := places[r.IntN(len(places))].Scope()
	switch r.IntN(8) {
	case 0:
		return access.Scope{}
	case 1, 2:
		s.Project, s.Workspace = "", ""
	case 3, 4:
		s.Workspace = ""
	case 5:
		s.Organisation, s.Project = "", ""
	case 6:
		s.Organisation = "org_none"
	}
	return s
}

func randomSelector(r *rand.Rand) (s label.Selector) {
	for range r.IntN(3) {
		q := label.Requirement{Key: []string{"env", "tier", "gpu", "none"}[r.IntN(4)],
			Operator: []label.Operator{label.In, label.NotIn, label.Exists, label.NotExists}[r.IntN(4)]}
		if q.Operator == label.In || q.Operator == label.NotIn {
			for range 1 + r.IntN(2) {
				q.Values = append(q.Values, []string{"", "prod", "dev", "none"}[r.IntN(4)])
			}
		}
		s = append(s, q)
	}
	return s
}

// randomSight is whole places, selected hosts of them, and either without some of it.
func randomSight(r *rand.Rand, places []tenant.Workspace) access.Sight {
	var out access.Sight
	for range r.IntN(4) {
		c := access.Clause{Scope: randomScope(r, places)}
		if r.IntN(3) == 0 {
			c.Hosts = randomSelector(r)
		}
		for range r.IntN(3) {
			e := access.Clause{Scope: randomScope(r, places)}
			if r.IntN(2) == 0 {
				e.Hosts = randomSelector(r)
			}
			c.Except = append(c.Except, e)
		}
		out = append(out, c)
	}
	return out
}

// hostKey is what the oracle sorts by.
func hostKey(h host.Host, by host.Order) string {
	at := func(t time.Time) string { // zero first
		if t.IsZero() {
			return "0"
		}
		return fmt.Sprintf("1%020d", t.UnixMicro())
	}
	switch by {
	case host.ByState:
		return string(h.State)
	case host.BySince:
		return at(h.StateSince)
	case host.ByCreatedAt:
		return at(h.CreatedAt)
	case host.ByAgentVersion:
		return h.AgentVersion
	case host.ByLastSeenAt:
		if h.Online {
			return "2"
		}
		return at(h.OfflineSince)
	default:
		return h.Name
	}
}

// randomFilter nests terms over the fields that fleet fills.
func randomFilter(r *rand.Rand, depth int) query.Expression {
	pick := func(values ...string) string { return values[r.IntN(len(values))] }
	if kind := r.IntN(6); depth > 0 && kind < 3 {
		a, b := randomFilter(r, depth-1), randomFilter(r, depth-1)
		return []query.Expression{query.And{a, b}, query.Or{a, b}, query.Not{Expression: a}}[kind]
	}
	t := query.Term{Field: pick("name", "name", "state", "version", "label.env", "label.tier", "label.none"), Operator: query.Contains}
	t.Values = []string{pick("b-1", "A-", "é-", "É", "1.0", "off", "PROD", "_", "%", `\`, "", "x")}
	switch r.IntN(3) {
	case 0:
		t.Operator, t.Values = query.Equals, []string{pick("B-1", "offline", "1.2.0", "prod", "")}
	case 1:
		t.Operator, t.Values = query.In, []string{pick("offline", "1.2.0", "prod"), pick("managed", "dev", "")}
	}
	return t
}

var lists = []test{
	// The oracle filters and sorts in Go with access.Scope and label.Selector.
	{"hosts are selected, ordered, counted and paged as the oracle does", func(t *testing.T, b *bench) {
		r := rand.New(rand.NewPCG(7, 7))
		places, all := fleet(t, b, r, 120)
		for i := range 300 {
			q := host.Query{Selector: randomSelector(r), OrderBy: host.Orders[r.IntN(len(host.Orders))], Reverse: r.IntN(2) == 0,
				Page: tenant.Page{Size: 1 + r.IntN(40)}}
			if r.IntN(2) == 0 {
				q.Filter = randomFilter(r, 3)
			}
			q.Readable = randomSight(r, places)
			if r.IntN(2) == 0 {
				q.Readable = everything
			}
			if r.IntN(3) == 0 {
				q.Within = randomScope(r, places)
			}
			for range r.IntN(3) {
				q.States = append(q.States, host.States[r.IntN(len(host.States))])
			}
			switch r.IntN(6) {
			case 0:
				q.Name = all[r.IntN(len(all))].Name
			case 1:
				q.TokenID = "tok_1"
			case 2:
				q.IDs = []string{all[0].ID, all[1].ID, all[2].ID, "hst_none"}
			}
			var want []host.Host
			for _, h := range all {
				states := q.States
				if len(states) == 0 {
					states = host.States[1:] // all but removed
				}
				if q.Readable.SeesHost(h.Scope, h.Labels) && q.Within.Contains(h.Scope) && q.Selector.Matches(h.Labels) &&
					(q.Filter == nil || q.Filter.Matches(h.Field)) && slices.Contains(states, h.State) && (q.Name == "" || q.Name == h.Name) &&
					(q.TokenID == "" || q.TokenID == h.TokenID) && (q.IDs == nil || slices.Contains(q.IDs, h.ID)) {
					want = append(want, h)
				}
			}
			slices.SortFunc(want, func(a, b host.Host) int {
				ka, kb := hostKey(a, q.OrderBy), hostKey(b, q.OrderBy)
				less := ka < kb || ka == kb && a.ID < b.ID
				if less != q.Reverse {
					return -1
				}
				return 1
			})
			var got []host.Host
			for {
				page, next, total, err := b.DB.View().Hosts(t.Context(), q)
				if err != nil {
					t.Fatalf("query %d (%+v): %v", i, q, err)
				}
				if total != int64(len(want)) {
					t.Errorf("query %d (%+v): total %d; wanted %d", i, q, total, len(want))
				}
				got = append(got, page...)
				if q.Page.Token = next; next == "" {
					break
				}
				if len(page) != q.Page.Size {
					t.Errorf("query %d: a page of %d that is not the last; wanted %d", i, len(page), q.Page.Size)
				}
			}
			if a, b := ids(got), ids(want); !slices.Equal(a, b) {
				t.Fatalf("query %d (%+v):\ngot    %v\nwanted %v", i, q, a, b)
			}
		}
	}},
	{"an order by each field, in one go and in pages", func(t *testing.T, b *bench) {
		if _, _, _, err := b.DB.View().Hosts(t.Context(), host.Query{Readable: everything, OrderBy: "colour"}); fault.KindOf(err) != fault.Invalid {
			t.Errorf("an unknown order: got %v; wanted Invalid", err)
		}
	}},
	{"pages neither repeat nor lose while others insert and delete", func(t *testing.T, b *bench) {
		w := b.workspace(t)
		want := map[string]bool{}
		for range 60 {
			want[b.host(t, w, nil).ID] = true
		}
		stop := make(chan struct{})
		var inserting sync.WaitGroup
		inserting.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				h := b.newHost(w)
				h.Name = fmt.Sprintf("hst-%c%d", 'a'+i%26, i) // before, between and after
				h = b.putHost(t, h)
				h.State, h.Lifecycle = host.Removed, host.LifecycleRemoved
				b.putHost(t, h)
			}
		})
		for range 5 {
			seen := map[string]int{}
			q := host.Query{Readable: everything, Page: tenant.Page{Size: 7}}
			for {
				page, next, _, err := b.DB.View().Hosts(t.Context(), q)
				if err != nil {
					t.Fatal(err)
				}
				for _, h := range page {
					seen[h.ID]++
				}
				if q.Page.Token = next; next == "" {
					break
				}
			}
			for id := range want {
				if seen[id] != 1 {
					t.Errorf("host %s was listed %d times; wanted once", id, seen[id])
				}
			}
		}
		close(stop)
		inserting.Wait()
	}},
	{"the tree is listed by name, only what may be read", func(t *testing.T, b *bench) {
		r := rand.New(rand.NewPCG(3, 3))
		places, _ := fleet(t, b, r, 0)
		projects, _, err := b.DB.View().Projects(t.Context(), tenant.Query{Readable: everything})
		if err != nil || len(projects) != 4 {
			t.Fatalf("got %d projects, %v; wanted 4", len(projects), err)
		}
		organisations, _, err := b.DB.View().Organisations(t.Context(), tenant.Query{Readable: everything})
		if err != nil || len(organisations) != 2 {
			t.Fatalf("got %d organisations, %v; wanted 2", len(organisations), err)
		}
		for range 100 {
			q := tenant.Query{Page: tenant.Page{Size: 1 + r.IntN(3)}}
			q.Readable = randomSight(r, places)
			if r.IntN(2) == 0 {
				q.Within = randomScope(r, places)
			}
			wantTree(t, q, places, b.DB.View().Workspaces)
			wantTree(t, q, projects, b.DB.View().Projects)
			wantTree(t, q, organisations, b.DB.View().Organisations)
			q.Name = places[0].Name
			wantTree(t, q, places, b.DB.View().Workspaces)
		}
	}},
	{"tokens are listed by state as token.State says, newest first", func(t *testing.T, b *bench) {
		w := b.workspace(t)
		var all []token.Token
		for i := range 40 {
			k := token.Token{Meta: b.meta("tok"), Scope: w.Scope(), MaxUses: int32(i % 3), Uses: int32(i % 2),
				ExpiresAt: epoch.Add(time.Duration(i%5-2) * time.Minute)}
			if i%4 == 0 {
				k.RevokedAt = epoch.Add(time.Duration(i%3-1) * time.Minute)
			}
			b.pass(time.Millisecond)
			b.write(t, func(ctx context.Context, tx *storage.Tx) (err error) { k, err = tx.PutToken(ctx, k); return })
			all = append(all, k)
		}
		slices.Reverse(all)
		for mask := range 1 << len(token.States) {
			q := token.Query{Readable: everything, Now: epoch, Page: tenant.Page{Size: 9}}
			for i, s := range token.States {
				if mask&(1<<i) != 0 {
					q.States = append(q.States, s)
				}
			}
			var want, got []string
			for _, k := range all {
				if q.States == nil || slices.Contains(q.States, k.State(epoch)) {
					want = append(want, k.ID)
				}
			}
			for {
				page, next, err := b.DB.View().Tokens(t.Context(), q)
				if err != nil {
					t.Fatal(err)
				}
				for _, k := range page {
					got = append(got, k.ID)
				}
				if q.Page.Token = next; next == "" {
					break
				}
			}
			if !slices.Equal(got, want) {
				t.Errorf("states %v:\ngot    %v\nwanted %v", q.States, got, want)
			}
		}
	}},
	{"a page token works for its own list only", func(t *testing.T, b *bench) {
		w := b.workspace(t)
		for range 3 {
			b.host(t, w, label.Set{"a": "b"})
			b.write(t, func(ctx context.Context, tx *storage.Tx) error {
				_, err := tx.PutKey(ctx, apikey.Key{Meta: b.meta("key")})
				return err
			})
		}
		one := tenant.Page{Size: 1}
		_, next, _, err := b.DB.View().Hosts(t.Context(), host.Query{Readable: everything, Page: one})
		if err != nil || next == "" {
			t.Fatalf("got token %q, %v; wanted one", next, err)
		}
		_, keys, err := b.DB.View().Keys(t.Context(), apikey.Query{Readable: everything, Page: one})
		if err != nil || keys == "" {
			t.Fatalf("got token %q, %v; wanted one", keys, err)
		}
		for _, wrong := range []host.Query{
			{Page: tenant.Page{Token: "nonsense"}}, {Page: tenant.Page{Token: keys}}, {Page: tenant.Page{Token: next}, Reverse: true},
			{Page: tenant.Page{Token: next}, OrderBy: host.ByState}, {Page: tenant.Page{Token: next}, Within: w.Scope()},
		} {
			wrong.Readable = everything
			if _, _, _, err := b.DB.View().Hosts(t.Context(), wrong); fault.Of(err).Code != "page_token_invalid" {
				t.Errorf("%+v: got %v; wanted page_token_invalid", wrong, err)
			}
		}
		if _, _, _, err := b.DB.View().Hosts(t.Context(), host.Query{Readable: everything, OrderBy: host.ByName, Page: tenant.Page{Token: next}}); err != nil {
			t.Errorf("the default order by its name: %v", err)
		}
	}},
}

func ids(list []host.Host) (out []string) {
	for _, h := range list {
		out = append(out, h.ID)
	}
	return out
}

func wantTree[T interface{ Scope() access.Scope }](t *testing.T, q tenant.Query, all []T,
	list func(context.Context, tenant.Query) ([]T, string, error)) {
	t.Helper()
	var want, got []string
	meta := func(v T) tenant.Meta {
		switch v := any(v).(type) {
		case tenant.Organisation:
			return v.Meta
		case tenant.Project:
			return v.Meta
		default:
			return any(v).(tenant.Workspace).Meta
		}
	}
	sorted := slices.SortedFunc(slices.Values(all), func(a, b T) int {
		if meta(a).Name < meta(b).Name {
			return -1
		}
		return 1
	})
	for _, v := range sorted {
		if q.Readable.Sees(v.Scope()) && q.Within.Contains(v.Scope()) && (q.Name == "" || q.Name == meta(v).Name) {
			want = append(want, meta(v).ID)
		}
	}
	for {
		page, next, err := list(t.Context(), q)
		if err != nil {
			t.Fatalf("%+v: %v", q, err)
		}
		for _, v := range page {
			got = append(got, meta(v).ID)
		}
		if q.Page.Token = next; next == "" {
			break
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("%T, %+v:\ngot    %v\nwanted %v", *new(T), q, got, want)
	}
}

package host_test

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/loopbackd/loopback/access"
	"github.com/loopbackd/loopback/audit"
	"github.com/loopbackd/loopback/fault"
	noun "github.com/loopbackd/loopback/host"
	"github.com/loopbackd/loopback/label"
	"github.com/loopbackd/loopback/operation"
	"github.com/loopbackd/loopback/server/host"
	tokens "github.com/loopbackd/loopback/server/token"
	"github.com/loopbackd/loopback/tenant"
	"github.com/loopbackd/loopback/test/plane"
	"github.com/loopbackd/loopback/token"
)

func ref(name string) host.Ref { return host.Ref{Host: name} }

func enrolled(t *testing.T, p *plane.Plane, r tokens.Request, names ...string) (tokens.Minted, []string) {
	t.Helper()
	m := p.Mint(t, r)
	var ids []string
	for _, name := range names {
		h, err := p.Enrolment.Enrol(t.Context(), p.Enrol(t, m, name))
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, h.ID)
	}
	return m, ids
}

func code(err error) string {
	if err == nil {
		return ""
	}
	return fault.Of(err).Code
}

func TestLabels(t *testing.T) {
	p := plane.New(t)
	ctx := plane.AsAdmin(t.Context())
	enrolled(t, p, tokens.Request{HostLabels: label.Set{"env": "prod"}}, "a")
	got, err := p.Hosts.Label(ctx, ref("a"), label.Set{"role": "web", "x": "1"}, nil, 0)
	if err != nil || got.Labels["role"] != "web" || got.Labels["env"] != "prod" {
		t.Fatalf("labels %v, %v", got.Labels, err)
	}
	before, _ := p.DB.Position(ctx)
	if _, err := p.Hosts.Label(ctx, ref("a"), label.Set{"role": "web", "env": "prod"}, []string{"none"}, 0); err != nil {
		t.Fatal(err)
	}
	if now, _ := p.DB.Position(ctx); now != before {
		t.Errorf("setting what is set made %d changes", now-before)
	}
	for _, c := range []struct {
		what     string
		set      label.Set
		remove   []string
		revision int64
		code     string
	}{
		{"changing a forced label", label.Set{"env": "lab"}, nil, 0, "label_forced"},
		{"removing a forced label", nil, []string{"env"}, 0, "label_forced"},
		{"an old revision", label.Set{"y": "1"}, nil, 1, "host_changed"},
		{"no key", label.Set{"": "1"}, nil, 0, "labels_invalid"},
		{"set and removed", label.Set{"y": "1"}, []string{"y"}, 0, "labels_invalid"},
	} {
		if _, err := p.Hosts.Label(ctx, ref("a"), c.set, c.remove, c.revision); code(err) != c.code {
			t.Errorf("%s: got %v, want %s", c.what, err, c.code)
		}
	}
	if got, err = p.Hosts.Label(ctx, ref("a"), nil, []string{"x"}, got.Revision); err != nil || len(got.Labels) != 2 {
		t.Errorf("labels %v, %v, want two", got.Labels, err)
	}
	if n := len(p.Entries(t, noun.Label)); n != 2 {
		t.Errorf("%d audit entries, want 2", n)
	}
}

func TestMovingNeedsThePermissionInBothPlaces(t *testing.T) {
	p := plane.New(t)
	admin := plane.AsAdmin(t.Context())
	_, ids := enrolled(t, p, tokens.Request{HostLabels: label.Set{"env": "prod"}}, "a")
	here := plane.As(t.Context(), "here", p.Workspace.Scope(), noun.Move, noun.Read, tenant.WorkspacesRead)
	if _, err := p.Hosts.Move(here, ref("a"), p.Other.ID, ""); fault.KindOf(err) != fault.NotFound {
		t.Errorf("without any right in the target: %v, want not found", err)
	}
	there := plane.As(t.Context(), "there", p.Other.Scope(), noun.Move, noun.Read, tenant.WorkspacesRead)
	if _, err := p.Hosts.Move(there, ref(ids[0]), p.Other.ID, ""); fault.KindOf(err) != fault.NotFound {
		t.Errorf("without any right in the source: %v, want not found", err)
	}
	if _, err := p.Hosts.Add(admin, host.Addition{Workspace: "lab", Name: "a"}); err != nil {
		t.Fatal(err)
	}
	before := p.Fleet.Wanted(ids[0])
	got, err := p.Hosts.Move(admin, host.Ref{Host: "a", Workspace: "prod"}, "lab", "for tests")
	if err != nil || got.Scope != p.Other.Scope() || got.Name != "a-2" {
		t.Fatalf("got %s in %+v, %v, want a-2 in the other workspace", got.Name, got.Scope, err)
	}
	if after := p.Fleet.Wanted(ids[0]); after["settings"].Compare(before["settings"]) <= 0 {
		t.Errorf("revision %s after the move, %s before", after["settings"], before["settings"])
	}
	if _, err := p.Hosts.Label(admin, ref(ids[0]), label.Set{"env": "lab"}, nil, 0); code(err) != "label_forced" {
		t.Errorf("the forced label after the move: %v, want label_forced", err)
	}
	entries := p.Entries(t, noun.Move)
	if len(entries) != 2 || entries[0].Scope == entries[1].Scope || entries[0].Reason != "for tests" {
		t.Errorf("audit entries %+v, want one in each workspace", entries)
	}
}

func TestForeignHostsAreNotFoundByAnyMethod(t *testing.T) {
	p := plane.New(t)
	_, ids := enrolled(t, p, tokens.Request{}, "a")
	all := []access.Permission{access.All}
	stranger := plane.As(t.Context(), "stranger", p.Other.Scope(), all...)
	unknown := "hst_01j9zzzzzzzzzzzzzzzzzzzzzz"
	for name, call := range map[string]func(host.Ref) error{
		"get":        func(r host.Ref) error { _, err := p.Hosts.Get(stranger, r); return err },
		"label":      func(r host.Ref) error { _, err := p.Hosts.Label(stranger, r, label.Set{"a": "b"}, nil, 0); return err },
		"move":       func(r host.Ref) error { _, err := p.Hosts.Move(stranger, r, p.Other.ID, ""); return err },
		"approve":    func(r host.Ref) error { _, err := p.Hosts.Approve(stranger, r); return err },
		"release":    func(r host.Ref) error { _, err := p.Hosts.Release(stranger, r, ""); return err },
		"quarantine": func(r host.Ref) error { _, err := p.Hosts.Quarantine(stranger, r, "", "x"); return err },
		"settle":     func(r host.Ref) error { _, err := p.Hosts.Settle(stranger, r, "", host.HostWins, ""); return err },
		"split":      func(r host.Ref) error { _, err := p.Hosts.Split(stranger, r, "x", ""); return err },
		"drop":       func(r host.Ref) error { _, err := p.Hosts.Drop(stranger, r, "x", "", ""); return err },
		"remove":     func(r host.Ref) error { _, err := p.Hosts.Remove(stranger, r, "", "y"); return err },
		"watch": func(r host.Ref) error {
			return p.Hosts.Watch(stranger, host.WatchQuery{Hosts: []string{r.Host}}, func(host.Event) error { return errors.New("sent something") })
		},
	} {
		foreign, missing := call(ref(ids[0])), call(ref(unknown))
		if code(foreign) != "not_found" || strings.ReplaceAll(foreign.Error(), ids[0], unknown) != missing.Error() {
			t.Errorf("%s: a foreign host got %v, an unknown one %v, want the same", name, foreign, missing)
		}
		if err := call(ref("a")); code(err) != "not_found" {
			t.Errorf("%s by name: got %v, want not found", name, err)
		}
	}
	if hosts, _, total, err := p.Hosts.List(stranger, host.ListQuery{}); err != nil || len(hosts) != 0 || total != 0 {
		t.Errorf("a stranger lists %d hosts of %d, %v, want none", len(hosts), total, err)
	}
	reader := plane.As(t.Context(), "reader", p.Workspace.Scope(), noun.Read)
	if _, err := p.Hosts.Remove(reader, ref("a"), "", ""); code(err) != "permission_denied" {
		t.Errorf("a reader removing: %v, want permission_denied", err)
	}
	if _, err := p.Hosts.Get(t.Context(), ref("a")); code(err) != "not_signed_in" {
		t.Errorf("nobody asking: %v, want not_signed_in", err)
	}
}

func TestNamesThatSeveralHostsHave(t *testing.T) {
	p := plane.New(t)
	ctx := plane.AsAdmin(t.Context())
	for _, w := range []string{"prod", "lab"} {
		if _, err := p.Hosts.Add(ctx, host.Addition{Workspace: w, Name: "a"}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := p.Hosts.Get(ctx, ref("a")); code(err) != "host_ambiguous" {
		t.Errorf("got %v, want host_ambiguous", err)
	}
	if h, err := p.Hosts.Get(ctx, host.Ref{Host: "a", Workspace: "acme/shop/lab"}); err != nil || h.Scope != p.Other.Scope() {
		t.Errorf("got %+v, %v, want the one in lab", h.Host, err)
	}
	one := plane.As(t.Context(), "one", p.Workspace.Scope(), noun.Read)
	if h, err := p.Hosts.Get(one, ref("a")); err != nil || h.Scope != p.Workspace.Scope() {
		t.Errorf("who sees one of them got %v, want that one", err)
	}
}

func TestAdding(t *testing.T) {
	p := plane.New(t)
	ctx := plane.AsAdmin(t.Context())
	h, err := p.Hosts.Add(ctx, host.Addition{Workspace: "prod", Name: "metal", Address: "2001:db8::1"})
	if err != nil || h.State != noun.Unmanaged || h.Provider != "manual" {
		t.Fatalf("got %+v, %v, want an unmanaged host", h.Host, err)
	}
	for _, c := range []struct {
		a    host.Addition
		code string
	}{
		{host.Addition{Workspace: "prod", Name: "metal"}, "host_exists"},
		{host.Addition{Workspace: "prod", Name: "Not A Name"}, "host_invalid"},
		{host.Addition{Workspace: "prod", Name: "b", Address: "http://x"}, "host_invalid"},
		{host.Addition{Workspace: "prod", Name: "b", Provider: "?"}, "host_invalid"},
		{host.Addition{Workspace: "none", Name: "b"}, "not_found"},
	} {
		if _, err := p.Hosts.Add(ctx, c.a); code(err) != c.code {
			t.Errorf("%+v: got %v, want %s", c.a, err, c.code)
		}
	}
	if _, err := p.Hosts.Quarantine(ctx, ref("metal"), "", ""); code(err) != "host_unmanaged" {
		t.Errorf("quarantining it: %v, want host_unmanaged", err)
	}
	if _, err := p.Hosts.Approve(ctx, ref("metal")); code(err) != "host_not_pending" {
		t.Errorf("approving it: %v, want host_not_pending", err)
	}
}

func wait(t *testing.T, p *plane.Plane, o operation.Operation) operation.Operation {
	t.Helper()
	done, err := p.Operations.Wait(plane.AsAdmin(t.Context()), o.ID, 20*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	return done
}

func TestQuarantineAndRelease(t *testing.T) {
	p := plane.New(t)
	p.Run(t)
	ctx := plane.AsAdmin(t.Context())
	_, ids := enrolled(t, p, tokens.Request{}, "a")
	p.Links.Link(ids[0])
	o, err := p.Hosts.Quarantine(ctx, ref("a"), "odd traffic", "req-1")
	if err != nil || o.State != operation.Pending || o.Target != ids[0] || len(o.Steps) != 1 {
		t.Fatalf("got %+v, %v", o, err)
	}
	if p.Fleet.Desired(ids[0]) != nil {
		t.Error("the host is to receive something already when the call returns")
	}
	again, err := p.Hosts.Quarantine(ctx, ref("a"), "odd traffic", "req-1")
	if err != nil || again.ID != o.ID {
		t.Errorf("the same request again: %s, %v, want %s", again.ID, err, o.ID)
	}
	if _, err := p.Hosts.Remove(ctx, ref("a"), "", "req-1"); code(err) != "request_id_reused" {
		t.Errorf("another request under the same id: %v, want request_id_reused", err)
	}
	done := wait(t, p, o)
	if done.State != operation.Succeeded || done.Progress != 1 || done.Steps[0].State != operation.Succeeded || done.Steps[0].Message != "told" {
		t.Errorf("operation %+v, want succeeded", done)
	}
	if !p.Links.Told()[ids[0]] {
		t.Error("the host's link was not told")
	}
	h, err := p.Hosts.Get(ctx, ref("a"))
	if err != nil || h.State != noun.Quarantined || h.StateReason != "odd traffic" {
		t.Errorf("state %s (%s), %v, want quarantined with its reason", h.State, h.StateReason, err)
	}
	if h, err = p.Hosts.Release(ctx, ref("a"), "fine"); err != nil || h.State == noun.Quarantined || h.Lifecycle != noun.LifecycleActive {
		t.Errorf("released: %s, %v", h.State, err)
	}
	if _, err := p.Hosts.Release(ctx, ref("a"), ""); code(err) != "host_not_quarantined" {
		t.Errorf("released again: %v, want host_not_quarantined", err)
	}
	if q, r := p.Entries(t, noun.Quarantine), p.Entries(t, noun.Release); len(q) != 1 || q[0].Reason != "odd traffic" || len(r) != 1 || r[0].Reason != "fine" {
		t.Errorf("audit entries %+v %+v", q, r)
	}
}

func TestAReleaseDoesNotApprove(t *testing.T) {
	p := plane.New(t)
	ctx := plane.AsAdmin(t.Context())
	enrolled(t, p, tokens.Request{RequiresApproval: true}, "a")
	if _, err := p.Hosts.Quarantine(ctx, ref("a"), "", ""); code(err) != "host_pending" {
		t.Errorf("quarantining a pending host: %v, want host_pending", err)
	}
}

func TestRemoval(t *testing.T) {
	p := plane.New(t)
	p.Run(t)
	ctx := plane.AsAdmin(t.Context())
	_, ids := enrolled(t, p, tokens.Request{}, "a")
	p.Links.Link(ids[0])
	o, err := p.Hosts.Remove(ctx, ref("a"), "sold", "req-1")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"a", ids[0]} { // by its name, which is free by now, and by its id
		if again, err := p.Hosts.Remove(ctx, ref(name), "sold", "req-1"); err != nil || again.ID != o.ID {
			t.Errorf("the same request again for %s: %s, %v, want %s", name, again.ID, err, o.ID)
		}
	}
	if _, err := p.Hosts.Remove(ctx, ref("a"), "sold", "req-2"); code(err) != "not_found" {
		t.Errorf("another request: %v, want not found", err)
	}
	if done := wait(t, p, o); done.State != operation.Succeeded {
		t.Errorf("operation %+v, want succeeded", done)
	}
	if _, _, linked := p.Links.Seen(ids[0]); linked {
		t.Error("the link is still open")
	}
	if h, err := p.Hosts.Get(ctx, ref(ids[0])); err != nil || h.State != noun.Removed || h.StateReason != "sold" {
		t.Errorf("by id: %+v, %v, want removed with its reason", h.Host, err)
	}
	for what, err := range map[string]error{
		"label":   second(p.Hosts.Label(ctx, ref(ids[0]), label.Set{"a": "b"}, nil, 0)),
		"move":    second(p.Hosts.Move(ctx, ref(ids[0]), "lab", "")),
		"approve": second(p.Hosts.Approve(ctx, ref(ids[0]))),
		"release": second(p.Hosts.Release(ctx, ref(ids[0]), "")),
	} {
		if fault.KindOf(err) != fault.Precondition {
			t.Errorf("%s of a removed host: %v, want a precondition", what, err)
		}
	}
	if hosts, _, _, err := p.Hosts.List(ctx, host.ListQuery{}); err != nil || len(hosts) != 0 {
		t.Errorf("%d hosts listed, %v, want none", len(hosts), err)
	}
}

func second[T any](_ T, err error) error { return err }

func TestOperationsSurviveARestart(t *testing.T) {
	p := plane.New(t)
	ctx := plane.AsAdmin(t.Context())
	_, ids := enrolled(t, p, tokens.Request{}, "a")
	o, err := p.Hosts.Remove(ctx, ref("a"), "", "") // no worker runs: we die now
	if err != nil {
		t.Fatal(err)
	}
	next := plane.Open(t, p.Path)
	next.Links.Link(ids[0])
	next.Run(t)
	if done := wait(t, next, o); done.State != operation.Succeeded || next.Links.Expelled(ids[0]) == 0 {
		t.Errorf("after the restart: %+v, expelled %d times, want succeeded", done, next.Links.Expelled(ids[0]))
	}
}

func TestRevokingATokenWithItsHosts(t *testing.T) {
	for fate, want := range map[token.Fate]noun.State{token.Quarantine: noun.Quarantined, token.Expel: noun.Removed} {
		t.Run(string(fate), func(t *testing.T) {
			p := plane.New(t)
			ctx := plane.AsAdmin(t.Context())
			m := p.Mint(t, tokens.Request{})
			p.Enrol(t, m, "early")
			p.Clock.Pass(time.Minute)
			since := p.Clock.Now()
			const hosts = 250
			for range hosts {
				p.Enrol(t, m, "web")
			}
			_, others := enrolled(t, p, tokens.Request{}, "other")
			_, o, err := p.Tokens.Revoke(ctx, m.Token.ID, tokens.Revocation{Hosts: fate, Since: since, Reason: "leaked"})
			if err != nil || o == nil {
				t.Fatalf("revoking: %v, operation %v", err, o)
			}
			p.Run(t)
			began := time.Now()
			done := wait(t, p, *o)
			t.Logf("%d hosts in %s", hosts, time.Since(began))
			if done.State != operation.Succeeded || len(done.Steps) != 3 {
				t.Fatalf("operation %+v, want succeeded in three steps", done)
			}
			list, _, total, err := p.Hosts.List(ctx, host.ListQuery{Query: noun.Query{TokenID: m.Token.ID, States: []noun.State{want}}})
			if err != nil || total != hosts || list[0].StateReason != "the token that enrolled it was revoked: leaked" {
				t.Errorf("%d hosts %s (%v), want %d with the reason", total, want, err, hosts)
			}
			for _, name := range []string{"early", others[0]} {
				if h, err := p.Hosts.Get(ctx, ref(name)); err != nil || h.State != noun.Enrolling {
					t.Errorf("%s is %s, %v, want as it was", name, h.State, err)
				}
			}
			action := noun.Quarantine
			if fate == token.Expel {
				action = noun.Remove
			}
			if n := len(p.Entries(t, action)); n != hosts {
				t.Errorf("%d audit entries, want %d", n, hosts)
			}
		})
	}
}

func TestEphemeralHosts(t *testing.T) {
	p := plane.New(t)
	ctx := plane.AsAdmin(t.Context())
	_, ids := enrolled(t, p, tokens.Request{EphemeralTTL: time.Hour}, "gone", "here", "caught")
	enrolled(t, p, tokens.Request{}, "lasting")
	p.Links.Link(ids[1])
	if _, err := p.Hosts.Quarantine(ctx, ref("caught"), "", ""); err != nil {
		t.Fatal(err)
	}
	expiry := host.NewExpiry(p.Hosts, p.Links, 0, func(err error) { t.Error(err) })
	names := func() (out []string) {
		hosts, _, _, err := p.Hosts.List(ctx, host.ListQuery{})
		if err != nil {
			t.Fatal(err)
		}
		for _, h := range hosts {
			out = append(out, h.Name)
		}
		return out
	}
	p.Clock.Pass(59 * time.Minute)
	if err := expiry.Once(ctx); err != nil {
		t.Fatal(err)
	}
	if got := names(); len(got) != 4 {
		t.Errorf("before the time is over: %v, want all four", got)
	}
	p.Clock.Pass(time.Minute)
	if err := expiry.Once(ctx); err != nil {
		t.Fatal(err)
	}
	if got, want := names(), []string{"caught", "here", "lasting"}; !slices.Equal(got, want) {
		t.Errorf("after it: %v, want %v", got, want)
	}
	entries := p.Entries(t, noun.Remove)
	if len(entries) != 1 || entries[0].Actor.Kind != access.System || entries[0].Outcome != audit.Done {
		t.Errorf("audit entries %+v, want one by the system", entries)
	}
}

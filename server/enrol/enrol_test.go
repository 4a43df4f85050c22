package enrol_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/loopbackd/loopback/audit"
	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/host"
	"github.com/loopbackd/loopback/label"
	"github.com/loopbackd/loopback/server/enrol"
	serverhost "github.com/loopbackd/loopback/server/host"
	"github.com/loopbackd/loopback/server/tenant"
	tokens "github.com/loopbackd/loopback/server/token"
	nouns "github.com/loopbackd/loopback/tenant"
	"github.com/loopbackd/loopback/test/plane"
	"github.com/loopbackd/loopback/token"
)

func TestAMachineBecomesAHost(t *testing.T) {
	p := plane.New(t)
	m := p.Mint(t, tokens.Request{HostLabels: label.Set{"env": "prod"}, Channel: "preview", EphemeralTTL: time.Hour})
	key := plane.Key()
	h, err := p.Enrolment.Enrol(t.Context(), enrol.Request{
		Token: m.Secret.Reveal(), Key: key, HostName: "Web.example.com", AgentVersion: "1.2.3",
		Labels: label.Set{"env": "mine", "rack": "7"}, From: netip.MustParseAddr("::ffff:192.0.2.7"),
		Inventory: host.Inventory{OS: "debian", Digest: []byte{1}}, Ceiling: host.Ceiling{Exec: true},
	})
	if err != nil {
		t.Fatal(err)
	}
	known := p.Fleet.Lookup(h.ID)
	if known == nil || !key.Equal(known.Key) || known.Generation != 1 || string(known.InventoryDigest) != "\x01" {
		t.Fatalf("the directory knows %+v, want the key in generation 1", known)
	}
	stored, err := p.DB.View().Host(t.Context(), h.ID)
	if err != nil {
		t.Fatal(err)
	}
	if stored.Name != "web" || stored.Scope != p.Workspace.Scope() || stored.State != host.Enrolling || stored.Channel != "preview" ||
		stored.EphemeralTTL != time.Hour || stored.EnrolledFrom != "192.0.2.7" || stored.TokenID != m.Token.ID || !stored.Ceiling.Exec {
		t.Errorf("stored %+v", stored)
	}
	if want := (label.Set{"env": "prod", "rack": "7"}); fmt.Sprint(stored.Labels) != fmt.Sprint(want) {
		t.Errorf("labels %v, want %v", stored.Labels, want)
	}
	if !slices.Equal(stored.ForcedLabels, []string{"env"}) {
		t.Errorf("forced labels %v, want [env]", stored.ForcedLabels)
	}
	entries := p.Entries(t, host.Enrol)
	if len(entries) != 1 || entries[0].Target != h.ID || entries[0].Decision != m.Token.ID || entries[0].Actor.Address != "192.0.2.7" {
		t.Errorf("audit entries %+v, want one that names host, token and address", entries)
	}
}

func TestNamesAreUniqueInTheWorkspaceAndFreeAfterRemoval(t *testing.T) {
	p := plane.New(t)
	m := p.Mint(t, tokens.Request{})
	names := func() (out []string) {
		hosts, _, _, err := p.Hosts.List(plane.AsAdmin(t.Context()), serverhost.ListQuery{})
		if err != nil {
			t.Fatal(err)
		}
		for _, h := range hosts {
			out = append(out, h.Name)
		}
		return out
	}
	for range 4 {
		p.Enrol(t, m, "web")
	}
	if got, want := names(), []string{"web", "web-2", "web-3", "web-4"}; !slices.Equal(got, want) {
		t.Fatalf("names %v, want %v", got, want)
	}
	for _, freed := range []string{"web-2", "web"} {
		if _, err := p.Hosts.Remove(plane.AsAdmin(t.Context()), serverhost.Ref{Host: freed}, "", ""); err != nil {
			t.Fatal(err)
		}
		p.Enrol(t, m, freed)
		if got, want := names(), []string{"web", "web-2", "web-3", "web-4"}; !slices.Equal(got, want) {
			t.Fatalf("names after %s was freed %v, want %v", freed, got, want)
		}
	}
}

func TestAskingAgainIsHarmless(t *testing.T) {
	p := plane.New(t)
	ctx := t.Context()
	m := p.Mint(t, tokens.Request{MaxUses: 1})
	r := p.Enrol(t, m, "web")
	first, err := p.Enrolment.Enrol(ctx, r)
	if err != nil {
		t.Fatal(err)
	}
	// Of another workspace, revoked, or no token at all: the key is what counts.
	elsewhere, err := p.Tokens.Mint(plane.AsAdmin(ctx), p.Other.ID, tokens.Request{})
	if err != nil {
		t.Fatal(err)
	}
	for _, presented := range []string{elsewhere.Secret.Reveal(), "lbt_nonsense", ""} {
		again := r
		again.Token, again.HostName = presented, "other"
		h, err := p.Enrolment.Enrol(ctx, again)
		if err != nil || h.ID != first.ID || h.Name != "web" || h.Scope != first.Scope {
			t.Errorf("with token %q: got %s %s in %+v, %v, want host %s as it was", presented, h.ID, h.Name, h.Scope, err, first.ID)
		}
	}
	if got, err := p.DB.View().Token(ctx, elsewhere.Token.ID); err != nil || got.Uses != 0 {
		t.Errorf("the other token has %d uses, %v, want 0", got.Uses, err)
	}
	if _, err := p.Hosts.Remove(plane.AsAdmin(ctx), serverhost.Ref{Host: first.ID}, "gone", ""); err != nil {
		t.Fatal(err)
	}
	r.Token = p.Mint(t, tokens.Request{}).Secret.Reveal()
	if _, err := p.Enrolment.Enrol(ctx, r); !errors.Is(err, host.ErrRemoved) {
		t.Errorf("a removed host's key got %v, want %v", err, host.ErrRemoved)
	}
}

func TestApproval(t *testing.T) {
	p := plane.New(t)
	ctx := plane.AsAdmin(t.Context())
	byToken := p.Mint(t, tokens.Request{RequiresApproval: true})
	r := p.Enrol(t, byToken, "a")
	h, err := p.Enrolment.Enrol(ctx, r)
	if err != nil || h.State != host.Pending || h.StateReason != "its token demands approval" {
		t.Fatalf("got %s (%s), %v, want pending for its token", h.State, h.StateReason, err)
	}
	if d := p.Fleet.Desired(h.ID); d != nil {
		t.Errorf("a pending host is to receive %v", d)
	}
	w, err := p.Tenants.CreateWorkspace(ctx, "acme/shop", tenant.New{Name: "strict"}, nouns.TokenPolicy{RequireApproval: true})
	if err != nil {
		t.Fatal(err)
	}
	m, err := p.Tokens.Mint(ctx, w.ID, tokens.Request{})
	if err != nil {
		t.Fatal(err)
	}
	if h, err = p.Enrolment.Enrol(ctx, enrol.Request{Token: m.Secret.Reveal(), Key: plane.Key(), HostName: "b"}); err != nil || h.StateReason != "its workspace demands approval" {
		t.Errorf("got %s (%s), %v, want pending for its workspace", h.State, h.StateReason, err)
	}
	seen, err := p.Hosts.Approve(ctx, serverhost.Ref{Host: "a"})
	if err != nil || seen.State != host.Enrolling {
		t.Errorf("approved: %s, %v, want enrolling", seen.State, err)
	}
	if d := p.Fleet.Desired(seen.ID); len(d) != 1 {
		t.Errorf("an approved host is to receive %d sections, want 1", len(d))
	}
}

func TestAMachineThatWasAddedBecomesManaged(t *testing.T) {
	p := plane.New(t)
	ctx := plane.AsAdmin(t.Context())
	added, err := p.Hosts.Add(ctx, serverhost.Addition{Workspace: "prod", Name: "db", Address: "192.0.2.1", Labels: label.Set{"role": "db"}})
	if err != nil {
		t.Fatal(err)
	}
	p.Enrol(t, p.Mint(t, tokens.Request{HostLabels: label.Set{"env": "prod"}}), "db")
	got, err := p.Hosts.Get(ctx, serverhost.Ref{Host: "db"})
	if err != nil || got.ID != added.ID || got.State != host.Enrolling || got.Labels["role"] != "db" || got.Labels["env"] != "prod" {
		t.Errorf("got %s %s %v, %v, want %s enrolling with both labels", got.ID, got.State, got.Labels, err, added.ID)
	}
}

func TestRefusalsChangeNothingAndAreRecorded(t *testing.T) {
	p := plane.New(t)
	ctx := t.Context()
	from := netip.MustParseAddr("192.0.2.7")
	spent := p.Mint(t, tokens.Request{MaxUses: 1})
	p.Enrol(t, spent, "first")
	revoked := p.Mint(t, tokens.Request{})
	if _, _, err := p.Tokens.Revoke(plane.AsAdmin(ctx), revoked.Token.ID, tokens.Revocation{}); err != nil {
		t.Fatal(err)
	}
	trap := p.Mint(t, tokens.Request{Honeytoken: true})
	old := p.Mint(t, tokens.Request{TTL: time.Minute})
	p.Clock.Pass(2 * time.Minute)
	for name, c := range map[string]struct {
		token  string
		labels label.Set
		want   error
	}{
		"exhausted": {spent.Secret.Reveal(), nil, token.ErrExhausted},
		"revoked":   {revoked.Secret.Reveal(), nil, token.ErrRevoked},
		"expired":   {old.Secret.Reveal(), nil, token.ErrExpired},
		"network":   {p.Mint(t, tokens.Request{AllowedNetworks: []string{"10.0.0.0/8"}}).Secret.Reveal(), nil, token.ErrNetwork},
		"name":      {p.Mint(t, tokens.Request{HostNamePattern: "db-*"}).Secret.Reveal(), nil, token.ErrHostName},
		"trap":      {trap.Secret.Reveal(), nil, token.ErrUnknown},
		"unknown":   {token.NewSecret("tok_01j9zzzzzzzzzzzzzzzzzzzzzz", [token.AnchorSize]byte{}).Reveal(), nil, token.ErrUnknown},
		"malformed": {"lbt_x", nil, token.ErrMalformed},
		"labels":    {p.Mint(t, tokens.Request{}).Secret.Reveal(), label.Set{"not a key": ""}, fault.New(fault.Invalid, "enrolment_invalid", "")},
	} {
		t.Run(name, func(t *testing.T) {
			key := plane.Key()
			_, err := p.Enrolment.Enrol(ctx, enrol.Request{Token: c.token, Key: key, HostName: "web", From: from, Labels: c.labels})
			if !errors.Is(err, c.want) {
				t.Errorf("got %v, want %v", err, c.want)
			}
			if h, _, err := p.DB.View().HostByKey(ctx, key); fault.KindOf(err) != fault.NotFound {
				t.Errorf("a refused machine is host %s, %v", h.ID, err)
			}
		})
	}
	refused := map[string]bool{}
	for _, e := range p.Entries(t, token.Use) {
		if e.Outcome == audit.Refused {
			refused[e.Reason] = true
		}
	}
	for _, want := range []string{"token_exhausted", "token_revoked", "token_expired", "token_network", "token_host_name"} {
		if !refused[want] {
			t.Errorf("no audit entry says %s; there are %v", want, refused)
		}
	}
}

// TestRacingMachines lets ten times as many machines as a token has uses enrol at once, each asking again and again until
// it is told something that is final, and loses a fifth of the answers.
func TestRacingMachines(t *testing.T) {
	racers, uses := 10_000, 1_000
	if testing.Short() {
		racers, uses = 1_000, 100
	}
	p := plane.New(t)
	m := p.Mint(t, tokens.Request{MaxUses: int32(uses)})
	var mu sync.Mutex
	enrolled := map[string]string{} // host by key
	var exhausted, asked atomic.Int64
	var racing sync.WaitGroup
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	start := make(chan struct{})
	for i := range racers {
		racing.Go(func() {
			dice := rand.New(rand.NewPCG(seed, uint64(i)))
			r := enrol.Request{Token: m.Secret.Reveal(), Key: plane.Key(), HostName: "web", From: netip.MustParseAddr("192.0.2.7")}
			<-start
			for {
				ctx, cancel := context.WithCancel(t.Context())
				if dice.IntN(20) == 0 { // some give up themselves, at any moment
					time.AfterFunc(time.Duration(dice.IntN(20_000))*time.Microsecond, cancel)
				}
				h, err := p.Enrolment.Enrol(ctx, r)
				cancel()
				asked.Add(1)
				switch {
				case dice.IntN(5) == 0: // the answer is lost
					continue
				case err == nil:
					mu.Lock()
					enrolled[string(r.Key)] = h.ID
					mu.Unlock()
					return
				case errors.Is(err, token.ErrExhausted):
					exhausted.Add(1)
					return
				case fault.KindOf(err) == fault.Canceled || fault.KindOf(err) == fault.Unavailable || fault.KindOf(err) == fault.Exhausted:
					continue
				default:
					t.Errorf("got %v", err)
					return
				}
			}
		})
	}
	began := time.Now()
	close(start)
	racing.Wait()
	t.Logf("%d requests in %s", asked.Load(), time.Since(began))

	stored, err := p.DB.View().Token(t.Context(), m.Token.ID)
	if err != nil {
		t.Fatal(err)
	}
	names := map[string]bool{}
	hosts, at := 0, ""
	for {
		page, err := p.DB.View().HostsAfter(t.Context(), at, 1000)
		if err != nil {
			t.Fatal(err)
		}
		if len(page) == 0 {
			break
		}
		for _, h := range page {
			hosts, at = hosts+1, h.ID
			names[h.Name] = true
		}
	}
	distinct := map[string]bool{}
	for _, id := range enrolled {
		distinct[id] = true
	}
	var used int
	for _, e := range p.Entries(t, token.Use) {
		if e.Outcome == audit.Done {
			used++
		}
	}
	got := []int{hosts, len(names), int(stored.Uses), len(p.Entries(t, host.Enrol)), used, len(enrolled), len(distinct), int(exhausted.Load())}
	want := []int{uses, uses, uses, uses, uses, uses, uses, racers - uses}
	if !slices.Equal(got, want) {
		t.Errorf("hosts, names, uses, entries of enrolments, of uses, machines told, different hosts told, machines refused\ngot  %v\nwant %v", got, want)
	}
}

package main

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	cedar "github.com/cedar-policy/cedar-go"

	"github.com/loopbackd/loopback/access"
	"github.com/loopbackd/loopback/label"
)

var (
	noon   = time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC)
	places = []access.Scope{{}, {Organisation: "o1"}, {Organisation: "o2"}, {Organisation: "o1", Project: "p1"}, {Organisation: "o2", Project: "p2"},
		{Organisation: "o1", Project: "p1", Workspace: "w1"}, {Organisation: "o1", Project: "p1", Workspace: "w2"}, {Organisation: "o2", Project: "p2", Workspace: "w3"}}
	selectors = []string{"", "", "", "env=prod", "env!=prod", "env in (prod,dev),gpu", "!gpu", "env notin (dev),gpu=1", "gpu"}
	sets      = []label.Set{nil, {"env": "prod"}, {"env": "dev", "gpu": "1"}, {"gpu": ""}, {"env": "test"}}
	moments   = []time.Time{{}, {}, {}, noon.Add(-time.Hour), noon, noon.Add(time.Millisecond), noon.Add(time.Hour)}
	people    = []string{"u1", "u2", "u3", "s1", "s2", "u9"} // u9 is unknown
	lists     = [][]access.Permission{{"x.read"}, {"x.*"}, {access.All}, {"y.read", "x.set"}, {zero}, {zero, "x.*"}, {"places.read"}, {"root.*", "places.*"}, {}}
)

func pick[T any](r *rand.Rand, list []T) T { return list[r.IntN(len(list))] }

func draw(r *rand.Rand) world {
	w := world{active: map[string]bool{}, groups: map[string][]string{}}
	for _, p := range people[:5] {
		w.active[p] = r.IntN(10) > 0
	}
	for _, g := range []string{"g1", "g2"} {
		for _, u := range people[:3] {
			if r.IntN(2) == 0 {
				w.groups[g] = append(w.groups[g], u)
			}
		}
	}
	subjects := []access.Subject{{Kind: access.User, ID: "u1"}, {Kind: access.User, ID: "u2"}, {Kind: access.Group, ID: "g1"}, {Kind: access.Group, ID: "g2"},
		{Kind: access.ServiceAccount, ID: "s1"}, {Kind: access.ServiceAccount, ID: "s2"}}
	for i := range 3 + r.IntN(12) {
		hosts, err := label.Parse(pick(r, selectors))
		if err != nil {
			panic(err)
		}
		rule := access.Rule{ID: fmt.Sprint("b", i), Subject: pick(r, subjects), Permissions: pick(r, lists), Scope: pick(r, places), Hosts: hosts,
			Deny: r.IntN(4) == 0, NotBefore: pick(r, moments), NotAfter: pick(r, moments)}
		switch r.IntN(10) {
		case 0:
			rule.Conditions.MFAWithin = time.Minute
		case 1:
			rule.Conditions.Addresses = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("2001:db8::/32")}
		case 2:
			rule.Conditions.Ticket = "OPS-.*"
		}
		w.rules = append(w.rules, rule)
	}
	return w
}

// compare asks both engines n questions of a world.
func compare(r *rand.Rand, n int) error {
	w := draw(r)
	rules := access.NewRules(catalogue)
	for id, active := range w.active {
		kind := access.User
		if kindOf(id) != "User" {
			kind = access.ServiceAccount
		}
		rules.PutPrincipal(access.Principal{Kind: kind, ID: id, Active: active})
	}
	for g, members := range w.groups {
		rules.PutGroup(g, members)
	}
	for _, rule := range w.rules {
		rules.PutRule(rule)
	}
	policy := access.NewPolicy(catalogue, func() time.Time { return noon })
	policy.Swap(rules.Snapshot(1))
	set, err := w.policies()
	if err != nil {
		return err
	}
	entities := w.entities(places)
	for range n {
		a := access.Actor{Kind: access.APIKey, Principal: pick(r, people), Policy: policy, Grants: []access.Grant{{ID: "k", Permissions: []access.Permission{access.All, zero}}},
			Address: pick(r, []string{"", "10.1.2.3", "192.0.2.1", "2001:db8::1"}), MFA: pick(r, []time.Time{{}, noon, noon.Add(-time.Minute), noon.Add(-time.Hour)}),
			Ticket: pick(r, []string{"", "OPS-1", "DEV-1", "XOPS-1"})}
		p, at, labels, host := pick(r, names), pick(r, places), pick(r, sets), r.IntN(3) > 0
		var got access.Decision
		if host {
			got = a.DecideHost(p, at, labels)
		} else {
			got = a.Decide(p, at)
		}
		want, _ := cedar.Authorize(set, entities, request(entities, a.Principal, p, at, host, labels, a, noon))
		if got.Allowed != bool(want) {
			return fmt.Errorf("%s wants %s at %+v (host %v %v) from %q, mfa %v, ticket %q: loopback %+v, Cedar %v\nrules %+v\ngroups %v active %v\n%s",
				a.Principal, p, at, host, labels, a.Address, a.MFA, a.Ticket, got, want, w.rules, w.groups, w.active, set.MarshalCedar())
		}
	}
	return nil
}

// TestCedarDecidesTheSame asks a million questions, or as many as LOOPBACK_DECISIONS says; it stops after LOOPBACK_SPAN
// (two minutes unless given) and says how far it got.
func TestCedarDecidesTheSame(t *testing.T) {
	wanted, span := 1_000_000, 2*time.Minute
	if text := os.Getenv("LOOPBACK_DECISIONS"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil {
			t.Fatal(err)
		}
		wanted = n
	}
	if text := os.Getenv("LOOPBACK_SPAN"); text != "" {
		d, err := time.ParseDuration(text)
		if err != nil {
			t.Fatal(err)
		}
		span = d
	}
	seed := uint64(time.Now().UnixNano())
	if text := os.Getenv("LOOPBACK_SEED"); text != "" {
		n, err := strconv.ParseUint(text, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		seed = n
	}
	const each = 1000
	var asked atomic.Int64
	var worlds atomic.Uint64
	deadline := time.Now().Add(span)
	var running sync.WaitGroup
	for range 2 {
		running.Go(func() {
			for asked.Load() < int64(wanted) && time.Now().Before(deadline) && !t.Failed() {
				n := worlds.Add(1)
				if err := compare(rand.New(rand.NewPCG(seed, n)), each); err != nil {
					t.Errorf("seed %d, world %d: %v", seed, n, err)
					return
				}
				asked.Add(each)
			}
		})
	}
	running.Wait()
	t.Logf("%d decisions of %d asked for, in %d worlds, seed %d", asked.Load(), wanted, worlds.Load(), seed)
	if asked.Load() == 0 {
		t.Error("nothing was compared")
	}
}

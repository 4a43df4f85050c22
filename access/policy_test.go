package access

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/loopbackd/loopback/label"
)

var (
	noon = time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC)
	zero = Permission("root.shell")
	all  = []Permission{"x.read", "x.set", "y.read", "places.read", zero}
)

func testCatalogue() *Catalogue {
	return NewCatalogue(all, []Permission{zero}, []Permission{"places.read"})
}

// draws of a small world, so that rules meet.
var (
	drawScope = rapid.SampledFrom([]Scope{{}, {Organisation: "o1"}, {Organisation: "o2"}, {Organisation: "o1", Project: "p1"},
		{"o1", "p1", "w1"}, {"o1", "p1", "w2"}, {"o2", "p2", "w3"}})
	drawSelector = rapid.SampledFrom([]string{"", "", "env=prod", "env!=prod", "env in (prod,dev),gpu", "!gpu", "env=dev"})
	drawLabels   = rapid.SampledFrom([]label.Set{nil, {"env": "prod"}, {"env": "dev", "gpu": ""}, {"gpu": "1"}})
	drawTime     = rapid.SampledFrom([]time.Time{{}, {}, noon.Add(-time.Hour), noon.Add(time.Hour), noon})
	drawWho      = rapid.SampledFrom([]Subject{{User, "u1"}, {User, "u2"}, {Group, "g1"}, {Group, "g2"}, {ServiceAccount, "s1"}})
	drawName     = rapid.SampledFrom([]Permission{"x.read", "x.set", "y.read", "places.read", zero, All, "x.*", "root.*"})
)

func drawRule(t *rapid.T, id string) Rule {
	hosts, err := label.Parse(drawSelector.Draw(t, "hosts"))
	if err != nil {
		t.Fatal(err)
	}
	r := Rule{ID: id, Subject: drawWho.Draw(t, "who"), Permissions: rapid.SliceOfN(drawName, 0, 3).Draw(t, "permissions"), Scope: drawScope.Draw(t, "scope"),
		Hosts: hosts, Deny: rapid.IntRange(0, 3).Draw(t, "deny") == 0, RoleID: rapid.SampledFrom([]string{"r1", "r2"}).Draw(t, "role"), NotBefore: drawTime.Draw(t, "before"), NotAfter: drawTime.Draw(t, "after")}
	switch rapid.IntRange(0, 8).Draw(t, "condition") {
	case 0:
		r.Conditions.MFAWithin = time.Minute
	case 1:
		r.Conditions.Addresses = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}
	case 2:
		r.Conditions.Ticket = "OPS-[0-9]+"
	}
	return r
}

// world is rules in the plainest form.
type world struct {
	active map[string]bool
	groups map[string][]string // members
	rules  map[string]Rule
	locks  map[string]Lock
}

func (w world) about(r Rule, principal string) bool {
	if r.Subject.Kind == Group {
		return strings.HasPrefix(principal, "u") && slices.Contains(w.groups[r.Subject.ID], principal)
	}
	return r.Subject.ID == principal
}

// says tells whether a rule speaks of this, reading it as the documentation does.
func says(r Rule, p Permission, at Scope, host bool, labels label.Set, a Actor) bool {
	named := false
	for _, n := range r.Permissions {
		wildcard := n == All || strings.HasSuffix(string(n), ".*") && strings.HasPrefix(string(p), strings.TrimSuffix(string(n), "*"))
		named = named || n == p || wildcard && p != zero
	}
	if p == zero && !r.Deny && r.NotAfter.IsZero() {
		return false
	}
	selected := len(r.Hosts) == 0 || host && r.Hosts.Matches(labels)
	if p == "places.read" && len(r.Hosts) > 0 {
		selected = !r.Deny
	}
	c := r.Conditions
	met := (c.MFAWithin == 0 || !a.MFA.IsZero() && noon.Sub(a.MFA) <= c.MFAWithin) &&
		(c.Addresses == nil || strings.HasPrefix(a.Address, "10.")) && (c.Ticket == "" || a.Ticket == "OPS-12")
	return named && selected && met && r.Scope.Contains(at) && !noon.Before(r.NotBefore) && (r.NotAfter.IsZero() || noon.Before(r.NotAfter))
}

// kept tells whether a lock of whoever it is, or of a role that they hold, keeps them from this.
func (w world) kept(a Actor, p Permission, at Scope, host bool, labels label.Set) bool {
	for _, l := range w.locks {
		if !l.Scope.Contains(at) || !l.NotAfter.IsZero() && !noon.Before(l.NotAfter) {
			continue
		}
		if l.Role == "" && w.about(Rule{Subject: l.Subject}, a.Principal) {
			return true
		}
		for _, r := range w.rules {
			r.Conditions = Conditions{}
			if l.Role != "" && r.RoleID == l.Role && !r.Deny && w.about(r, a.Principal) {
				r.Deny = true // what the role gives, tier 0 whether it is given or not
				if says(r, p, at, host, labels, a) {
					return true
				}
			}
		}
	}
	return false
}

func (w world) allows(a Actor, p Permission, at Scope, host bool, labels label.Set) (allowed, denied bool) {
	if !w.active[a.Principal] {
		return false, false
	}
	for _, r := range w.rules {
		if w.about(r, a.Principal) && says(r, p, at, host, labels, a) {
			allowed, denied = allowed || !r.Deny, denied || r.Deny
		}
	}
	denied = denied || w.kept(a, p, at, host, labels)
	return allowed && !denied, denied
}

func TestDecisionsAndSightsAgreeWithTheRulesReadOneByOne(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		catalogue := testCatalogue()
		policy := NewPolicy(catalogue, func() time.Time { return noon })
		rules := NewRules(catalogue)
		w := world{active: map[string]bool{}, groups: map[string][]string{}, rules: map[string]Rule{}, locks: map[string]Lock{}}
		for version := range rapid.IntRange(1, 4).Draw(t, "versions") {
			for range rapid.IntRange(1, 8).Draw(t, "changes") {
				switch rapid.IntRange(0, 9).Draw(t, "change") {
				case 0, 1:
					id := rapid.SampledFrom([]string{"u1", "u2", "s1"}).Draw(t, "principal")
					kind := User
					if id == "s1" {
						kind = ServiceAccount
					}
					w.active[id] = rapid.IntRange(0, 5).Draw(t, "active") > 0
					rules.PutPrincipal(Principal{Kind: kind, ID: id, Active: w.active[id]})
				case 2:
					g := rapid.SampledFrom([]string{"g1", "g2"}).Draw(t, "group")
					w.groups[g] = rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"u1", "u2"}), 0, 2, rapid.ID).Draw(t, "members")
					rules.PutGroup(g, w.groups[g])
				case 3:
					id := fmt.Sprint("b", rapid.IntRange(0, 9).Draw(t, "gone"))
					delete(w.rules, id)
					rules.DeleteRule(id)
				case 4:
					l := drawLock(t, fmt.Sprint(LockPrefix, rapid.IntRange(0, 2).Draw(t, "lock")), false)
					w.locks[l.ID] = l
					rules.PutLock(l)
				case 5:
					id := fmt.Sprint(LockPrefix, rapid.IntRange(0, 2).Draw(t, "lifted"))
					delete(w.locks, id)
					rules.DeleteLock(id)
				default:
					r := drawRule(t, fmt.Sprint("b", rapid.IntRange(0, 9).Draw(t, "rule")))
					w.rules[r.ID] = r
					rules.PutRule(r)
				}
			}
			policy.Swap(rules.Snapshot(uint64(version + 1)))
		}
		a := Actor{Kind: APIKey, Principal: rapid.SampledFrom([]string{"u1", "u2", "s1", "nobody"}).Draw(t, "actor"), Policy: policy,
			Grants:  []Grant{{ID: "k", Permissions: []Permission{All, zero}}},
			Address: rapid.SampledFrom([]string{"10.1.1.1", "192.0.2.1", ""}).Draw(t, "address"), MFA: drawTime.Draw(t, "mfa"),
			Ticket: rapid.SampledFrom([]string{"", "OPS-12", "XOPS-12"}).Draw(t, "ticket")}
		if a.MFA.After(noon) {
			a.MFA = time.Time{}
		}
		for _, p := range all {
			sight := a.Readable(p)
			for _, at := range []Scope{{}, {Organisation: "o1"}, {Organisation: "o1", Project: "p1"}, {"o1", "p1", "w1"}, {"o2", "p2", "w3"}, {"o1", "p9", "w9"}} {
				for _, host := range []bool{false, true} {
					labels := drawLabels.Draw(t, "labels")
					want, denied := w.allows(a, p, at, host, labels)
					got := a.decide(p, &at, map[bool]string{true: "h1"}[host], labels)
					if got.Allowed != want || (got.Denial != "") != denied || got.Allowed != (got.Grant != "") {
						t.Fatalf("%s may %s at %v (host %v %v): got %+v, want %v, denied %v; rules %+v, locks %+v", a.Principal, p, at, host, labels, got, want, denied, w.rules, w.locks)
					}
					if got.Grant != "" && !says(w.rules[got.Grant], p, at, host, labels, a) || got.Denial != "" && !w.rules[got.Denial].Deny && w.locks[got.Denial].ID == "" {
						t.Fatalf("the decision names %+v, which does not say so", got)
					}
					if seen := host && sight.SeesHost(at, labels) || !host && sight.Sees(at); seen != want {
						t.Fatalf("%s sees %s at %v (host %v %v): %v, decided %v; sight %+v", a.Principal, p, at, host, labels, seen, want, sight)
					}
				}
			}
		}
	})
}

// Questions are answered as decisions fall: host by host.
func TestAnswersAgreeWithDecisions(t *testing.T) {
	type machine struct {
		id     string
		at     Scope
		labels label.Set
	}
	rapid.Check(t, func(t *rapid.T) {
		catalogue := testCatalogue()
		policy := NewPolicy(catalogue, func() time.Time { return noon })
		rules := NewRules(catalogue)
		rules.PutPrincipal(Principal{Kind: User, ID: "u1", Active: true})
		rules.PutPrincipal(Principal{Kind: User, ID: "u2", Active: rapid.Bool().Draw(t, "active")})
		rules.PutGroup("g1", []string{"u1", "u2"})
		for i := range rapid.IntRange(1, 8).Draw(t, "rules") {
			r := drawRule(t, fmt.Sprint("b", i))
			r.Conditions = Conditions{}
			rules.PutRule(r)
		}
		for i := range rapid.IntRange(0, 3).Draw(t, "locks") {
			rules.PutLock(drawLock(t, fmt.Sprint(LockPrefix, i), true))
		}
		policy.Swap(rules.Snapshot(1))
		var fleet []machine
		hosts := NewHosts()
		at := rapid.SampledFrom([]Scope{{}, {Organisation: "o1"}, {"o1", "p1", "w1"}}).Draw(t, "at")
		for i := range rapid.IntRange(0, 70).Draw(t, "hosts") {
			m := machine{fmt.Sprint("h", i), rapid.SampledFrom([]Scope{{"o1", "p1", "w1"}, {"o1", "p1", "w2"}, {"o2", "p2", "w3"}}).Draw(t, "place"), drawLabels.Draw(t, "labels")}
			if at.Contains(m.at) {
				fleet = append(fleet, m)
				hosts.GroupOf(m.at, m.labels, 1, policy.Snapshot().HostLock(m.at, m.id, m.labels, noon) != "")
			}
		}
		for _, p := range all {
			reached := map[string]Reach{}
			for _, r := range policy.Snapshot().WhoCan(catalogue, p, at, hosts, noon) {
				reached[r.Principal.ID] = r
			}
			for _, who := range []string{"u1", "u2"} {
				a := Actor{Kind: APIKey, Principal: who, Policy: policy, Grants: []Grant{{ID: "k", Permissions: []Permission{All, zero}}}}
				want := 0
				for _, m := range fleet {
					if a.DecideOn(p, m.at, m.id, m.labels).Allowed {
						want++
					}
				}
				if got := reached[who]; got.Hosts != want || got.Everything != a.Decide(p, at).Allowed {
					t.Fatalf("%s %s at %v: got %+v, want %d of %d hosts, everything %v", who, p, at, got, want, len(fleet), a.Decide(p, at).Allowed)
				}
			}
		}
	})
}

// What one may give reaches no further than what one holds: whatever the receiver may do, the giver may do.
func TestNobodyGivesWhatTheyDoNotHold(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		catalogue := testCatalogue()
		policy := NewPolicy(catalogue, func() time.Time { return noon })
		rules := NewRules(catalogue)
		rules.PutPrincipal(Principal{Kind: User, ID: "u1", Active: true})
		rules.PutPrincipal(Principal{Kind: User, ID: "u2", Active: true})
		for i := range rapid.IntRange(1, 5).Draw(t, "rules") {
			r := drawRule(t, fmt.Sprint("own", i))
			r.Subject = Subject{User, "u1"}
			rules.PutRule(r)
		}
		policy.Swap(rules.Snapshot(1))
		giver := Actor{Kind: APIKey, Principal: "u1", Policy: policy, Grants: []Grant{{ID: "k", Permissions: []Permission{All}}}, Address: "10.1.1.1", MFA: noon}
		given := drawRule(t, "given")
		given.Subject, given.Deny = Subject{User, "u2"}, false
		if giver.Covers(given) != nil {
			return
		}
		rules.PutRule(given)
		policy.Swap(rules.Snapshot(2))
		for later := range 3 { // a gift does not outlast what it was made from
			policy.now = func() time.Time { return noon.Add(time.Duration(later) * 45 * time.Minute) }
			for _, p := range all {
				for _, at := range []Scope{{}, {Organisation: "o1"}, {"o1", "p1", "w1"}, {"o2", "p2", "w3"}} {
					labels := drawLabels.Draw(t, "labels")
					taker := giver
					taker.Principal, taker.MFA = "u2", policy.now()
					giver.MFA = policy.now()
					tier0 := p == zero && slices.Contains(given.Permissions, zero) // lent by who holds all the rest
					if taker.DecideOn(p, at, "h1", labels).Allowed && !giver.DecideOn(p, at, "h1", labels).Allowed && !tier0 {
						t.Fatalf("u1 gave %s at %v on %v, %s later, and does not hold it: %+v", p, at, labels, time.Duration(later)*45*time.Minute, given)
					}
				}
			}
		}
	})
}

func TestWildcardsNeverMatchTierZero(t *testing.T) {
	catalogue := testCatalogue()
	policy := NewPolicy(catalogue, func() time.Time { return noon })
	rules := NewRules(catalogue)
	rules.PutPrincipal(Principal{Kind: User, ID: "u1", Active: true})
	a := Actor{Kind: APIKey, Principal: "u1", Policy: policy, Grants: []Grant{{ID: "k", Permissions: []Permission{All, zero}}}}
	for _, c := range []struct {
		permissions []Permission
		end         time.Time
		want        bool
	}{
		{[]Permission{All, "root.*"}, noon.Add(time.Hour), false},
		{[]Permission{zero}, time.Time{}, false}, // never for good
		{[]Permission{zero}, noon.Add(time.Hour), true},
		{[]Permission{zero}, noon, false},
	} {
		rules.PutRule(Rule{ID: "b", Subject: Subject{User, "u1"}, Permissions: c.permissions, NotAfter: c.end})
		policy.Swap(rules.Snapshot(1))
		if got := a.Decide(zero, Scope{}).Allowed; got != c.want {
			t.Errorf("%v until %s: got %v, want %v", c.permissions, c.end, got, c.want)
		}
	}
}

func TestAKeyIsBoundedByItselfAndByItsOwner(t *testing.T) {
	catalogue := testCatalogue()
	policy := NewPolicy(catalogue, func() time.Time { return noon })
	w1, w2 := Scope{"o1", "p1", "w1"}, Scope{"o1", "p1", "w2"}
	rules := NewRules(catalogue)
	rules.PutPrincipal(Principal{Kind: User, ID: "u1", Active: true})
	rules.PutRule(Rule{ID: "b", Subject: Subject{User, "u1"}, Permissions: []Permission{"x.*"}, Scope: w1})
	policy.Swap(rules.Snapshot(1))
	key := Actor{Kind: APIKey, ID: "k", Principal: "u1", Policy: policy, Grants: []Grant{{ID: "k", Permissions: []Permission{"x.read", "y.read"}}}}
	for p, want := range map[Permission]bool{"x.read": true, "x.set": false, "y.read": false} {
		if got := key.Decide(p, w1); got.Allowed != want || want && got.Grant != "b" {
			t.Errorf("%s: got %+v, want %v by b", p, got, want)
		}
	}
	if key.Decide("x.read", w2).Allowed {
		t.Error("the key reaches further than its owner")
	}
	if got := key.Readable("x.read"); !got.Equal(Over(w1)) {
		t.Errorf("reads %+v", got)
	}
	rules.PutPrincipal(Principal{Kind: User, ID: "u1"}) // left
	changed := key.Changed()
	policy.Swap(rules.Snapshot(2))
	<-changed
	if key.Decide("x.read", w1).Allowed || key.Touches("x.read") {
		t.Error("the key outlives its owner")
	}
}

func TestAClosedPolicyAllowsNothing(t *testing.T) {
	catalogue := testCatalogue()
	policy := NewPolicy(catalogue, time.Now)
	rules := NewRules(catalogue)
	rules.PutPrincipal(Principal{Kind: User, ID: "u1", Active: true})
	rules.PutRule(Rule{ID: "b", Subject: Subject{User, "u1"}, Permissions: []Permission{All}})
	a := Actor{Kind: APIKey, Principal: "u1", Policy: policy, Grants: []Grant{{ID: "k", Permissions: []Permission{All}}}}
	if a.Decide("x.read", Scope{}).Allowed || !policy.Closed() {
		t.Error("open before it knows any rules")
	}
	policy.Swap(rules.Snapshot(7))
	if d := a.Decide("x.read", Scope{}); !d.Allowed || d.Snapshot != 7 {
		t.Errorf("got %+v", d)
	}
	changed := policy.Changed()
	policy.Close()
	<-changed
	if a.Decide("x.read", Scope{}).Allowed || a.Touches("x.read") {
		t.Error("open though it is closed")
	}
}

func TestADecisionAllocatesNothing(t *testing.T) {
	catalogue := testCatalogue()
	policy := NewPolicy(catalogue, time.Now)
	rules := NewRules(catalogue)
	rules.PutPrincipal(Principal{Kind: User, ID: "u1", Active: true})
	hosts, _ := label.Parse("env=prod,tier in (a,b)")
	at := Scope{"o1", "p1", "w1"}
	rules.PutRule(Rule{ID: "b", Subject: Subject{User, "u1"}, Permissions: []Permission{"x.*"}, Scope: at, Hosts: hosts, NotAfter: time.Now().Add(time.Hour)})
	policy.Swap(rules.Snapshot(1))
	a := Actor{Kind: APIKey, Principal: "u1", Policy: policy, Grants: []Grant{{ID: "k", Permissions: []Permission{All}}}}
	labels := label.Set{"env": "prod", "tier": "a"}
	if n := testing.AllocsPerRun(1000, func() {
		if !a.DecideOn("x.read", at, "h1", labels).Allowed || a.Decide("x.read", at).Allowed {
			t.Fatal("decided wrong")
		}
	}); n != 0 {
		t.Errorf("got %v allocations, want 0", n)
	}
}

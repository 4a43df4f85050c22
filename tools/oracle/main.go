// Oracle holds the engine of package access against Cedar, and measures it beside Cedar and Casbin.
//
// Its test draws worlds (principals, groups, rules of every kind), writes each as a Cedar policy set of its own, and asks both
// the same random questions: any difference is a defect of one of the two. The translation shares nothing with the engine but
// the rules: wildcards are groups of actions in Cedar, scopes are parents of resources, groups are parents of users.
//
// It is a module of its own, so that neither engine gets into a program that ships. `go run .` measures and writes one JSON
// object a line; `make bench AREA=access` is that with a table. Whatever fails ends it with status 1.
package main

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"time"

	"github.com/casbin/casbin/v2"
	"github.com/casbin/casbin/v2/model"
	cedar "github.com/cedar-policy/cedar-go"

	"github.com/loopbackd/loopback/access"
	"github.com/loopbackd/loopback/label"
)

// figure is one measurement.
type figure struct {
	Name   string  `json:"name"`
	Engine string  `json:"engine"` // "loopback", "cedar-go" or "casbin"
	Unit   string  `json:"unit"`
	Value  float64 `json:"value"`
}

func main() {
	if err := measure(json.NewEncoder(os.Stdout)); err != nil {
		fmt.Fprintln(os.Stderr, "oracle:", err)
		os.Exit(1)
	}
}

func measure(out *json.Encoder) error {
	r := rand.New(rand.NewPCG(1, 1))
	big, small := fleet(r, 10_000, 100_000), fleet(r, 1000, 520)
	ns, allocations := ours(r, big)
	small520, _ := ours(r, small)
	whocan := big.whoCan()
	put := big.change(r)
	c, err := theirs(r, small)
	if err != nil {
		return err
	}
	b, err := casbins(r, small)
	if err != nil {
		return err
	}
	for _, f := range []figure{
		{"decision at 100,000 bindings", "loopback", "ns", ns}, {"allocations of a decision", "loopback", "count", allocations},
		{"decision at 520 bindings", "loopback", "ns", small520}, {"decision at 520 bindings", "cedar-go", "ns", c}, {"decision at 520 bindings", "casbin", "ns", b},
		{"who-can on 10,000 hosts, 100,000 bindings", "loopback", "ms", whocan},
		{"who-can on 10,000 hosts, 520 bindings", "loopback", "ms", small.whoCan()}, {"a binding taken into the snapshot of 100,000", "loopback", "ms", put},
	} {
		if err := out.Encode(f); err != nil {
			return err
		}
	}
	return nil
}

// company is a fleet with its people, as large as asked for.
type company struct {
	world
	rules  *access.Rules
	policy *access.Policy
	users  []string
	places []access.Scope
}

func fleet(r *rand.Rand, users, bindings int) *company {
	c := &company{world: world{groups: map[string][]string{}, active: map[string]bool{}}, rules: access.NewRules(catalogue)}
	for i := range 20 {
		for j := range 10 {
			o, p := fmt.Sprint("org", i/4), fmt.Sprint("prj", i)
			c.places = append(c.places, access.Scope{Organisation: o, Project: p, Workspace: fmt.Sprint("ws", i, "-", j)})
		}
	}
	for i := range users {
		id := fmt.Sprint("u", i)
		c.users, c.active[id] = append(c.users, id), true
		c.rules.PutPrincipal(access.Principal{Kind: access.User, ID: id, Name: id, Active: true})
	}
	for i := range users / 50 {
		g := fmt.Sprint("g", i)
		for range 100 {
			c.groups[g] = append(c.groups[g], c.users[r.IntN(users)])
		}
		c.groups[g] = distinct(c.groups[g])
		c.rules.PutGroup(g, c.groups[g])
	}
	for i := range bindings {
		rule := c.binding(r, fmt.Sprint("b", i), i%20 == 0)
		c.world.rules = append(c.world.rules, rule)
		c.rules.PutRule(rule)
	}
	c.policy = access.NewPolicy(catalogue, time.Now)
	c.policy.Swap(c.rules.Snapshot(1))
	return c
}

// binding is one as companies have them: most over a workspace, some over more, a third on selected hosts, few that deny or end.
func (c *company) binding(r *rand.Rand, id string, group bool) access.Rule {
	rule := access.Rule{ID: id, Subject: access.Subject{Kind: access.User, ID: c.users[r.IntN(len(c.users))]}, Scope: c.places[r.IntN(len(c.places))],
		Permissions: [][]access.Permission{{"x.*"}, {"x.read"}, {"y.read", "x.set"}, {access.All}}[r.IntN(4)]}
	if group {
		rule.Subject = access.Subject{Kind: access.Group, ID: fmt.Sprint("g", r.IntN(max(1, len(c.users)/50)))}
	}
	switch r.IntN(12) {
	case 0:
		rule.Scope.Workspace = ""
	case 1:
		rule.Scope.Workspace, rule.Scope.Project = "", ""
	case 2:
		rule.Deny, rule.Permissions = true, []access.Permission{"x.set"}
	case 3:
		rule.NotAfter = time.Now().Add(time.Hour)
	case 4, 5, 6, 7:
		rule.Hosts, _ = label.Parse([]string{"env=prod", "env!=prod", "env in (prod,dev),!gpu"}[r.IntN(3)])
	}
	return rule
}

// question is one that gets asked.
type question struct {
	who    string
	p      access.Permission
	at     access.Scope
	labels label.Set
}

var labelSets = []label.Set{{"env": "prod"}, {"env": "dev", "gpu": "1"}, {"env": "dev"}, {"env": "prod", "tier": "web"}}

func (c *company) questions(r *rand.Rand, n int) []question {
	out := make([]question, n)
	for i := range out {
		out[i] = question{c.users[r.IntN(len(c.users))], names[r.IntN(3)], c.places[r.IntN(len(c.places))], labelSets[r.IntN(len(labelSets))]}
	}
	return out
}

var sink bool // keeps decisions from being optimised away

// callers is how many people are at work at once: who calls once calls again.
const callers = 256

func ours(r *rand.Rand, c *company) (ns, allocations float64) {
	actors := make([]access.Actor, callers)
	for i := range actors {
		actors[i] = access.Actor{Kind: access.APIKey, Principal: c.users[r.IntN(len(c.users))], Policy: c.policy,
			Grants: []access.Grant{{ID: "k", Permissions: []access.Permission{access.All}}}}
	}
	asked := c.questions(r, 1024)
	const times = 1 << 18
	ask := func(i int) {
		q := &asked[i%len(asked)]
		sink = actors[(i*7919)%callers].DecideHost(q.p, q.at, q.labels).Allowed
	}
	best := spent(7, func() {
		for i := range times {
			ask(i)
		}
	})
	i := 0
	allocations = allocs(10_000, func() { ask(i); i++ })
	return float64(best.Nanoseconds()) / times, allocations
}

func (c *company) whoCan() float64 {
	return spent(5, func() {
		hosts := access.NewHosts()
		for i := range 1000 { // groups of ten hosts with the same labels
			hosts.Group(c.places[i%len(c.places)], labelSets[i%len(labelSets)], 10)
		}
		sink = len(c.policy.Snapshot().WhoCan(catalogue, "x.set", access.Scope{}, hosts, time.Now())) > 0
	}).Seconds() * 1000
}

// change is how long it takes from a changed rule to the snapshot that has it.
func (c *company) change(r *rand.Rand) float64 {
	const times = 100
	i := 0
	return spent(3, func() {
		for range times {
			i++
			c.rules.PutRule(c.binding(r, fmt.Sprint("new", i), false))
			c.policy.Swap(c.rules.Snapshot(uint64(i + 1)))
		}
	}).Seconds() * 1000 / times
}

func theirs(r *rand.Rand, c *company) (float64, error) {
	set, err := c.policies()
	if err != nil {
		return 0, err
	}
	asked := c.questions(r, 2000)
	requests := make([]cedar.Request, len(asked))
	entities := c.entities(c.places)
	for i, q := range asked {
		requests[i] = request(entities, q.who, q.p, q.at, true, q.labels, access.Actor{}, time.Now())
	}
	best := spent(3, func() {
		for i := range requests {
			d, _ := cedar.Authorize(set, entities, requests[i])
			sink = bool(d)
		}
	})
	return float64(best.Nanoseconds()) / float64(len(asked)), nil
}

// casbins is Casbin with the plainest model that knows places and wildcards; selectors, time and conditions are left out, so
// it does less.
func casbins(r *rand.Rand, c *company) (float64, error) {
	m, err := model.NewModelFromString(`
[request_definition]
r = sub, obj, act
[policy_definition]
p = sub, obj, act, eft
[role_definition]
g = _, _
[policy_effect]
e = some(where (p.eft == allow)) && !some(where (p.eft == deny))
[matchers]
m = g(r.sub, p.sub) && keyMatch(r.obj, p.obj) && keyMatch(r.act, p.act)`)
	if err != nil {
		return 0, err
	}
	e, err := casbin.NewEnforcer(m)
	if err != nil {
		return 0, err
	}
	path := func(s access.Scope) string { return "/" + s.Organisation + "/" + s.Project + "/" + s.Workspace }
	var rules, members [][]string
	for _, rule := range c.world.rules {
		at := path(rule.Scope)
		if rule.Scope.Workspace == "" {
			at = "/" + rule.Scope.Organisation + "/*"
		}
		effect := "allow"
		if rule.Deny {
			effect = "deny"
		}
		for _, p := range rule.Permissions {
			rules = append(rules, []string{rule.Subject.ID, at, string(p), effect})
		}
	}
	for g, list := range c.groups {
		for _, u := range list {
			members = append(members, []string{u, g})
		}
	}
	if _, err := e.AddPoliciesEx(rules); err != nil {
		return 0, err
	}
	if _, err := e.AddGroupingPoliciesEx(members); err != nil {
		return 0, err
	}
	asked := c.questions(r, 500)
	best := spent(3, func() {
		for _, q := range asked {
			if sink, err = e.Enforce(q.who, path(q.at), string(q.p)); err != nil {
				return
			}
		}
	})
	if err != nil {
		return 0, err
	}
	return float64(best.Nanoseconds()) / float64(len(asked)), nil
}

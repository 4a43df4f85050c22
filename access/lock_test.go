package access

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/label"
)

func drawLock(t *rapid.T, id string, hosts bool) Lock {
	l := Lock{ID: id, Scope: drawScope.Draw(t, "locked scope"), NotAfter: drawTime.Draw(t, "lock ends")}
	kinds := 1
	if hosts {
		kinds = 3
	}
	switch rapid.IntRange(0, kinds).Draw(t, "lock of") {
	case 0:
		l.Subject = drawWho.Draw(t, "locked")
	case 1:
		l.Role = rapid.SampledFrom([]string{"r1", "r2"}).Draw(t, "locked role")
	case 2:
		l.Host = fmt.Sprint("h", rapid.IntRange(0, 9).Draw(t, "locked host"))
	default:
		var err error
		if l.Hosts, err = label.Parse(drawSelector.Draw(t, "locked hosts")); err != nil {
			t.Fatal(err)
		}
		l.Every = true
	}
	return l
}

// locked is rules of a small place with a lock.
func locked(l Lock, now *time.Time) (*Policy, *Rules) {
	catalogue := testCatalogue()
	policy := NewPolicy(catalogue, func() time.Time { return *now })
	rules := NewRules(catalogue)
	for _, u := range []string{"u1", "u2"} {
		rules.PutPrincipal(Principal{Kind: User, ID: u, Scope: Scope{Organisation: "o1"}, Active: true})
		rules.PutRule(Rule{ID: "own " + u, Subject: Subject{User, u}, RoleID: "own", Permissions: []Permission{All, zero}, Scope: Scope{Organisation: "o1"}, NotAfter: noon.Add(48 * time.Hour)})
	}
	rules.PutGroup("g1", []string{"u1"})
	rules.PutRule(Rule{ID: "crew", Subject: Subject{Group, "g1"}, RoleID: "crew", Permissions: []Permission{"x.set"}, Scope: Scope{Organisation: "o1"}})
	rules.PutLock(l)
	policy.Swap(rules.Snapshot(1))
	return policy, rules
}

func TestALockKeepsOutWhomItNamesAndSaysWhy(t *testing.T) {
	o1, w1 := Scope{Organisation: "o1"}, Scope{"o1", "p1", "w1"}
	prod := label.Set{"env": "prod"}
	selector, err := label.Parse("env=prod")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		lock Lock
		may  map[string][]Permission // on host h1 of prod in w1
	}{
		{"a user", Lock{Subject: Subject{User, "u1"}, Scope: o1}, map[string][]Permission{"u2": all}},
		{"a group", Lock{Subject: Subject{Group, "g1"}, Scope: o1}, map[string][]Permission{"u2": all}},
		{"a user elsewhere", Lock{Subject: Subject{User, "u1"}, Scope: Scope{Organisation: "o2"}}, map[string][]Permission{"u1": all, "u2": all}},
		{"a role that both hold", Lock{Role: "own", Scope: w1}, nil},
		{"a role that one holds, whatever else gives the same", Lock{Role: "crew", Scope: o1}, map[string][]Permission{"u1": {"x.read", "y.read", "places.read", zero}, "u2": all}},
		{"the host", Lock{Host: "h1", Scope: w1}, map[string][]Permission{"u1": all[:4], "u2": all[:4]}},
		{"another host", Lock{Host: "h2", Scope: w1}, map[string][]Permission{"u1": all, "u2": all}},
		{"hosts like it", Lock{Hosts: selector, Scope: o1}, map[string][]Permission{"u1": all[:4], "u2": all[:4]}},
		{"every host", Lock{Every: true, Scope: o1}, map[string][]Permission{"u1": all[:4], "u2": all[:4]}},
	} {
		t.Run(c.name, func(t *testing.T) {
			now := noon
			c.lock.ID, c.lock.Reason, c.lock.NotAfter = LockPrefix+"1", "INC-7", noon.Add(time.Hour)
			policy, rules := locked(c.lock, &now)
			ask := func(who string, p Permission) error {
				a := Actor{Kind: APIKey, ID: "k", Principal: who, Policy: policy, Grants: []Grant{{ID: "k", Permissions: []Permission{All, zero}}}}
				return a.RequireHost(p, w1, "h1", prod, "x.read", "host h1")
			}
			check := func(when string, may map[string][]Permission) {
				for _, who := range []string{"u1", "u2"} {
					for _, p := range all {
						want := false
						for _, m := range may[who] {
							want = want || m == p
						}
						err := ask(who, p)
						if (err == nil) != want {
							t.Errorf("%s: %s and %s: got %v, want allowed %v", when, who, p, err, want)
						}
						if err != nil && (fault.Of(err).Code != "locked" || !strings.Contains(err.Error(), "INC-7")) {
							t.Errorf("%s: %s and %s: got %v, want that it is locked and why", when, who, p, err)
						}
						d, reasons, _ := policy.Snapshot().Explain(policy.Catalogue(), Query{Principal: who, Permission: p, At: w1, Host: "h1", Labels: prod, Now: now})
						if d.Allowed != want || !want && d.Denial != c.lock.ID || len(reasons) == 0 {
							t.Errorf("%s: %s and %s is explained as %+v by %d reasons", when, who, p, d, len(reasons))
						}
					}
				}
			}
			check("locked", c.may)
			if got := rules.Next(now); !got.Equal(c.lock.NotAfter) {
				t.Errorf("the rules change next at %v, want when the lock ends", got)
			}
			everybody := map[string][]Permission{"u1": all, "u2": all}
			now = noon.Add(time.Hour)
			check("when its time is over", everybody)
			now = noon
			before := policy.Snapshot()
			rules.DeleteLock(c.lock.ID)
			policy.Swap(rules.Snapshot(2))
			check("lifted", everybody)
			policy.Swap(before)
			check("as it was before", c.may)
		})
	}
}

func TestWhoIsLockedWhereTheyBelongHasNoCredentials(t *testing.T) {
	now := noon
	for _, c := range []struct {
		lock Lock
		out  map[string]bool
	}{
		{Lock{Subject: Subject{User, "u1"}}, map[string]bool{"u1": true}},
		{Lock{Subject: Subject{User, "u1"}, Scope: Scope{Organisation: "o1"}}, map[string]bool{"u1": true}},
		{Lock{Subject: Subject{User, "u1"}, Scope: Scope{Organisation: "o1", Project: "p1"}}, nil},
		{Lock{Subject: Subject{Group, "g1"}, Scope: Scope{Organisation: "o1"}}, map[string]bool{"u1": true}},
		{Lock{Role: "own"}, nil},
		{Lock{Every: true}, nil},
	} {
		c.lock.ID = LockPrefix + "1"
		policy, _ := locked(c.lock, &now)
		for _, who := range []string{"u1", "u2", "nobody"} {
			if got := policy.Locked(who) != nil; got != c.out[who] {
				t.Errorf("%+v: %s is locked out: %v, want %v", c.lock, who, got, c.out[who])
			}
		}
	}
}

func TestALockOfAHostLeavesLookingAndManaging(t *testing.T) {
	for p, want := range map[Permission]bool{
		"shell_sessions.open": true, "shell_sessions.join": true, "shell_sessions.watch": false, "shell_sessions.kill": false, "exec.run": true, "exec.read": false,
		"exec.cancel": false, "exec.anything_new": true, "file.put": true, "file.get": true, "file.read": false, "hosts.read": false, "hosts.quarantine": false, "hosts.diagnose": true, "commands.run": true, "commands.read": false, "checks.run": true,
	} {
		if got := Reaches(p); got != want {
			t.Errorf("%s reaches into a host: %v, want %v", p, got, want)
		}
	}
}

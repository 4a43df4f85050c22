package access

import (
	"testing"

	"pgregory.net/rapid"

	"github.com/loopbackd/loopback/fault"
)

// An actor who may not read a thing is told what an unknown id is told, word for word.
func TestAStrangerIsToldThatItDoesNotExist(t *testing.T) {
	here, there := Scope{"o", "p", "w1"}, Scope{"o", "p", "w2"}
	a := GrantsAlone(Actor{Kind: APIKey, Grants: []Grant{{ID: "g", Permissions: []Permission{"hosts.read", "hosts.label"}, Scope: here}}})
	if err := a.Require("hosts.label", here, "hosts.read", "host h"); err != nil {
		t.Error(err)
	}
	if err := a.Require("hosts.remove", here, "hosts.read", "host h"); fault.KindOf(err) != fault.Denied {
		t.Errorf("a reader: got %v, want denied", err)
	}
	if err := a.Require("hosts.label", there, "hosts.read", "host h"); err.Error() != NotFound("host h").Error() {
		t.Errorf("a stranger: got %v", err)
	}
	if err := (Actor{}).Require("hosts.read", here, "hosts.read", "host h"); fault.KindOf(err) != fault.Unauthenticated {
		t.Errorf("nobody: got %v", err)
	}
}

// What is allowed is exactly what some grant allows: the oracle tries them all.
func TestDecideAgainstAnOracle(t *testing.T) {
	name := rapid.SampledFrom([]string{"", "a", "b"})
	scope := rapid.Custom(func(t *rapid.T) Scope {
		return Scope{name.Draw(t, "o"), name.Draw(t, "p"), name.Draw(t, "w")}
	})
	permission := rapid.SampledFrom([]Permission{"x.read", "y.read", All})
	rapid.Check(t, func(t *rapid.T) {
		a := GrantsAlone(Actor{Kind: APIKey})
		for range rapid.IntRange(0, 3).Draw(t, "grants") {
			a.Grants = append(a.Grants, Grant{ID: "g", Permissions: rapid.SliceOfN(permission, 0, 2).Draw(t, "permissions"), Scope: scope.Draw(t, "scope")})
		}
		p, at := rapid.SampledFrom([]Permission{"x.read", "y.read"}).Draw(t, "permission"), scope.Draw(t, "at")
		want := false
		for _, g := range a.Grants {
			for _, held := range g.Permissions {
				wide := func(grant, asked string) bool { return grant == "" || grant == asked }
				want = want || (held == p || held == All) && wide(g.Scope.Organisation, at.Organisation) && wide(g.Scope.Project, at.Project) && wide(g.Scope.Workspace, at.Workspace)
			}
		}
		d := a.Decide(p, at)
		if d.Allowed != want || d.Allowed != (d.Grant != "") {
			t.Fatalf("%v at %v by %v: got %+v, want %v", p, at, a.Grants, d, want)
		}
		readable := false
		for _, s := range a.Readable(p) {
			readable = readable || s.Contains(at)
		}
		if readable != want {
			t.Fatalf("Readable says %v, Decide %v", readable, want)
		}
	})
}

func TestAnonymousMayOnlyRedeemTheBootstrapCode(t *testing.T) {
	a := Actor{Kind: Anonymous}
	if !a.Decide(BootstrapRedeem, Scope{}).Allowed || a.Decide(SelfRead, Scope{}).Allowed || a.Decide("hosts.read", Scope{}).Allowed {
		t.Error("anonymous may do something else")
	}
}

// A path that forgot to give its actor the rules allows nothing, whatever the credential says.
func TestAnActorWithoutRulesHoldsNothing(t *testing.T) {
	everything := Grant{ID: "g", Permissions: []Permission{All}}
	forgot := Actor{Kind: APIKey, ID: "k", Principal: "u", Grants: []Grant{everything}}
	if d := forgot.Decide("hosts.read", Scope{}); d.Allowed || d.Grant != "" {
		t.Errorf("decided %+v", d)
	}
	if s := forgot.Readable("hosts.read"); len(s) > 0 {
		t.Errorf("sees %+v", s)
	}
	if forgot.Bears("hosts.read", Scope{}) || forgot.Touches("hosts.read") {
		t.Error("bears what it does not hold")
	}
	if lacking := forgot.Covers(Rule{Permissions: []Permission{"hosts.read"}}); len(lacking) != 1 {
		t.Errorf("lacks %v", lacking)
	}
	if !GrantsAlone(forgot).Decide("hosts.read", Scope{}).Allowed {
		t.Error("grants alone do not decide")
	}
}

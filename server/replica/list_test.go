package replica

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/loopbackd/loopback/access"
	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/replica"
)

func as(t *testing.T, held ...access.Permission) context.Context {
	return access.WithActor(t.Context(), access.GrantsAlone(access.Actor{Kind: access.APIKey, ID: "key_1", Grants: []access.Grant{{Permissions: held}}}))
}

func TestWhoAnswersSaysInWhatReplicasDiffer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &shared{rows: map[string]replica.Replica{}}
		put := func(r replica.Replica) { _ = s.PutReplica(t.Context(), r) }
		me := newService(s, "a", "1", nil)
		me.me.Routes = "a:1"
		defer run(t, me)()
		put(replica.Replica{Name: "b", Routes: "b:1", Beat: 1, BusPeers: 1, Keyset: 7, ClockKnown: true, ClockOffset: -6 * time.Second})
		put(replica.Replica{Name: "c", Routes: "c:1", Beat: 1, BusPeers: 0, Keyset: 6, ClockKnown: true, ClockOffset: time.Second})
		put(replica.Replica{Name: "old", Beat: 0, BusPeers: -1})
		time.Sleep(4 * time.Second)
		want := map[string][]replica.Trouble{
			"a": {replica.BusCut}, "b": {replica.ClockApart, replica.BusCut}, "c": {replica.BusCut, replica.KeysetOld}, "old": nil,
		}
		check := func() {
			t.Helper()
			all, err := me.List(as(t, replica.Read))
			if err != nil || len(all) != len(want) {
				t.Fatalf("%d are listed, %v; want %d", len(all), err, len(want))
			}
			for _, r := range all {
				if !slices.Equal(r.Troubles, want[r.Name]) {
					t.Errorf("%s is %s and has the troubles %v, want %v", r.Name, r.State, r.Troubles, want[r.Name])
				}
				if r.Name == "a" && (!r.Me || !slices.Equal(r.Leases, []string{"audit log"})) {
					t.Errorf("it shows itself as %+v", r)
				}
			}
		}
		check()
		if got := me.Troubled(replica.BusCut); got != 3 {
			t.Errorf("%d buses are cut, want 3", got)
		}
		time.Sleep(30 * time.Second) // b and c do not renew their leases: a is alone, and misses nobody
		want = map[string][]replica.Trouble{"a": nil, "b": {replica.IsGone}, "c": {replica.IsGone}, "old": nil}
		check()
	})
}

func TestReplicasAreForWhoMaySeeTheDeployment(t *testing.T) {
	s := newService(&shared{rows: map[string]replica.Replica{}}, "a", "1", nil)
	all, err := s.List(as(t, access.All))
	if err != nil || len(all) != 1 || !all[0].Me || all[0].State != replica.Serving || len(all[0].Troubles) > 0 {
		t.Errorf("a control plane that is alone lists %+v, %v", all, err)
	}
	if _, err := s.List(as(t, "hosts.read")); fault.KindOf(err) != fault.Denied {
		t.Errorf("who may not is answered %v", err)
	}
}

func TestAClockThatCannotBeReadKeepsNoReplicaFromItsLease(t *testing.T) {
	s := &shared{rows: map[string]replica.Replica{}}
	a := newService(s, "a", "1", nil)
	a.Database = func(context.Context) (time.Time, error) { return time.Time{}, errors.New("away") }
	if err := a.Join(t.Context()); err != nil {
		t.Fatal(err)
	}
	if r := s.rows["a"]; r.Beat != 1 || r.ClockKnown {
		t.Errorf("it wrote %+v", r)
	}
}

// The bus opens right after: its routes go to whom All knows.
func TestWhoJoinsKnowsTheOthersAtOnce(t *testing.T) {
	s := &shared{rows: map[string]replica.Replica{"b": {Name: "b", Routes: "b:1", Beat: 5}}}
	a := newService(s, "a", "1", nil)
	if err := a.Join(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := state(a, "b"); got != replica.Serving {
		t.Errorf("b is %q to who joined just now, want serving", got)
	}
}

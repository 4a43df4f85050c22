package server

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	v1 "github.com/loopbackd/loopback/api/loopback/v1"
	"github.com/loopbackd/loopback/api/loopback/v1/loopbackv1connect"
	"github.com/loopbackd/loopback/server/storage"
)

func (r *running) locking(key string, headers ...string) loopbackv1connect.LockServiceClient {
	return loopbackv1connect.NewLockServiceClient(&http.Client{Transport: bearer{key, headers, r.client.Transport}}, r.url+"/api")
}

func TestALockEndsWhatIsUnderWayAndIsLifted(t *testing.T) {
	r := serve(t)
	_, boss := r.person(t, &v1.CreateUserRequest{Name: "boss"}, "owner")
	_, eveKey := r.person(t, &v1.CreateUserRequest{Name: "eve"}, "member")
	_, _, robot := r.holder(t, "robot", &v1.CreateBindingRequest{Role: "member"})
	admin := r.as(r.key)
	group := do(t, admin.groups.CreateGroup, &v1.CreateGroupRequest{Name: "crew"})
	do(t, admin.groups.AddGroupMembers, &v1.AddGroupMembersRequest{Group: group.Id, Users: []string{"eve"}})
	for _, c := range []struct {
		name, key string
		q         *v1.CreateLockRequest
		kind      string
		after     string // with what the locked are refused
	}{
		{"a user", eveKey, &v1.CreateLockRequest{User: "eve"}, "user", "locked"},
		{"a group", eveKey, &v1.CreateLockRequest{Group: "crew"}, "group", "locked"},
		{"a service account", robot, &v1.CreateLockRequest{ServiceAccount: "robot"}, "service_account", "locked"},
		{"a role", robot, &v1.CreateLockRequest{Role: "member"}, "role", "locked"},
	} {
		t.Run(c.name, func(t *testing.T) {
			stream := r.watching(t, c.key)
			c.q.Reason, c.q.Ticket = "laptop stolen", "INC-7"
			began := time.Now()
			l := do(t, r.locking(boss).CreateLock, c.q)
			if l.TargetKind != c.kind || l.State != "active" || l.CreatedByName != "boss" || l.Scope.OrganisationId != "" {
				t.Errorf("got %v", l)
			}
			end := <-stream
			t.Logf("the stream ended %v after the call began", end.at.Sub(began))
			if end.code != c.after {
				t.Errorf("the stream ended with %q, want %q", end.code, c.after)
			}
			if code := refused(t, r.as(c.key).hosts.ListHosts, &v1.ListHostsRequest{}); code != c.after {
				t.Errorf("a call: got %q, want %q", code, c.after)
			}
			do(t, r.as(boss).hosts.ListHosts, &v1.ListHostsRequest{})
			if got := do(t, r.locking(boss).ListLocks, &v1.ListLocksRequest{States: []string{"active"}}).Items; len(got) != 1 || got[0].Id != l.Id {
				t.Errorf("in force are %v", got)
			}
			lifted := do(t, r.locking(boss).LiftLock, &v1.LiftLockRequest{Lock: l.Id, Comment: "found again"})
			if lifted.State != "lifted" || lifted.Comment != "found again" || !lifted.ClosedAt.IsValid() {
				t.Errorf("lifted: got %v", lifted)
			}
			do(t, r.as(c.key).hosts.ListHosts, &v1.ListHostsRequest{})
			if code := refused(t, r.locking(boss).LiftLock, &v1.LiftLockRequest{Lock: l.Id}); code != "lock_not_active" {
				t.Errorf("lifted twice: got %q", code)
			}
			for action, want := range map[string]string{"locks.create": "laptop stolen", "locks.lift": "found again"} {
				e := do(t, admin.audit.ListEntries, &v1.ListEntriesRequest{Target: l.Id, Action: action}).Items
				if len(e) != 1 || e[0].Reason != want || action == "locks.create" && e[0].Ticket != "INC-7" {
					t.Errorf("the audit log has %v of %s", e, action)
				}
			}
		})
	}
}

func TestWhoMayNotLockOrLiftIsToldWhy(t *testing.T) {
	r := serve(t)
	locks := r.locking(r.key)
	_, alice := r.person(t, &v1.CreateUserRequest{Name: "alice"}, "admin")
	_, bob := r.person(t, &v1.CreateUserRequest{Name: "bob"}, "member")
	for want, c := range map[string]struct {
		key  string
		code string
		q    *v1.CreateLockRequest
	}{
		"no right":         {bob, "permission_denied", &v1.CreateLockRequest{User: "alice", Reason: "x"}},
		"no reason":        {r.key, "lock_invalid", &v1.CreateLockRequest{User: "alice"}},
		"no target":        {r.key, "request_invalid", &v1.CreateLockRequest{Reason: "x"}},
		"two targets":      {r.key, "request_invalid", &v1.CreateLockRequest{User: "alice", Role: "member", Reason: "x"}},
		"nobody":           {r.key, "not_found", &v1.CreateLockRequest{User: "carol", Reason: "x"}},
		"no such host":     {r.key, "not_found", &v1.CreateLockRequest{Host: "db-7", Reason: "x"}},
		"no selector":      {r.key, "lock_invalid", &v1.CreateLockRequest{HostSelector: "a=b=c", Reason: "x"}},
		"over already":     {r.key, "lock_invalid", &v1.CreateLockRequest{User: "alice", Reason: "x", NotAfter: timestamppb.New(time.Now().Add(-time.Minute))}},
		"too long":         {r.key, "lock_invalid", &v1.CreateLockRequest{User: "alice", Reason: "x", NotAfter: timestamppb.New(time.Now().Add(500 * 24 * time.Hour))}},
		"two places":       {r.key, "request_invalid", &v1.CreateLockRequest{User: "alice", Reason: "x", Organisation: "default", Workspace: "default"}},
		"the last owner":   {alice, "lock_last_owner", &v1.CreateLockRequest{User: "administrator", Reason: "x"}},
		"all who are that": {alice, "lock_last_owner", &v1.CreateLockRequest{Role: "owner", Reason: "x"}},
	} {
		if code := refused(t, r.locking(c.key).CreateLock, c.q); code != c.code {
			t.Errorf("%s: got %q, want %q", want, code, c.code)
		}
	}
	l := do(t, locks.CreateLock, &v1.CreateLockRequest{Role: "admin", Reason: "abused", Workspace: "default"})
	if code := refused(t, r.locking(alice).LiftLock, &v1.LiftLockRequest{Lock: l.Id}); code != "locked" {
		t.Errorf("lifted by whom it keeps out of its place: got %q", code)
	}
	do(t, locks.LiftLock, &v1.LiftLockRequest{Lock: l.Id})
	// A second owner is locked; the first cannot go then.
	second, _ := r.person(t, &v1.CreateUserRequest{Name: "second"}, "owner")
	do(t, locks.CreateLock, &v1.CreateLockRequest{User: second.Id, Reason: "x"})
	for _, b := range do(t, r.as(r.key).bindings.ListBindings, &v1.ListBindingsRequest{}).Items {
		if b.RoleId == "rol_owner" && b.SubjectId != second.Id {
			if code := refused(t, r.as(r.key).bindings.DeleteBinding, &v1.DeleteBindingRequest{Binding: b.Id}); code != "last_owner" {
				t.Errorf("the last owner who is not locked goes: got %q", code)
			}
		}
	}
}

func TestALockEndsAtItsTimeAndThatIsNoted(t *testing.T) {
	r := serve(t)
	_, key := r.person(t, &v1.CreateUserRequest{Name: "eve"}, "member")
	l := do(t, r.locking(r.key).CreateLock, &v1.CreateLockRequest{User: "eve", Reason: "x", NotAfter: timestamppb.New(time.Now().Add(time.Hour))})
	if code := refused(t, r.as(key).hosts.ListHosts, &v1.ListHostsRequest{}); code != "locked" {
		t.Errorf("locked: got %q", code)
	}
	if err := r.db.Observe(t.Context(), func(tx *storage.Tx) error { // its time is over
		stored, err := tx.Lock(t.Context(), l.Id)
		if err == nil {
			stored.NotAfter = time.Now().Add(-time.Second)
			stored, err = tx.PutLock(t.Context(), stored)
		}
		l.Revision = stored.Revision
		return err
	}); err != nil {
		t.Fatal(err)
	}
	r.policy.Reach(t.Context(), uint64(l.Revision))
	do(t, r.as(key).hosts.ListHosts, &v1.ListHostsRequest{})
	if err := r.locks.Sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := do(t, r.locking(r.key).GetLock, &v1.GetLockRequest{Lock: l.Id}); got.State != "ended" || !got.ClosedAt.IsValid() {
		t.Errorf("got %v", got)
	}
	if e := do(t, r.as(r.key).audit.ListEntries, &v1.ListEntriesRequest{Target: l.Id, Action: "locks.end"}).Items; len(e) != 1 || !strings.Contains(e[0].String(), "ended") {
		t.Errorf("the audit log has %v", e)
	}
	counts, err := r.locks.Count(t.Context())
	if err != nil || counts["user"] != 0 {
		t.Errorf("in force are %v, %v", counts, err)
	}
}

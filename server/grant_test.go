package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/loopbackd/loopback/access"
	v1 "github.com/loopbackd/loopback/api/loopback/v1"
	"github.com/loopbackd/loopback/api/loopback/v1/loopbackv1connect"
	"github.com/loopbackd/loopback/apikey"
	"github.com/loopbackd/loopback/grant"
	"github.com/loopbackd/loopback/id"
	"github.com/loopbackd/loopback/secret"
	"github.com/loopbackd/loopback/server/storage"
	"github.com/loopbackd/loopback/tenant"
	"github.com/loopbackd/loopback/webhook"
)

// granting is a caller of the methods about grants.
type granting struct {
	loopbackv1connect.GrantServiceClient
	policies loopbackv1connect.GrantPolicyServiceClient
}

func (r *running) granting(key string, headers ...string) granting {
	c, u := &http.Client{Transport: bearer{key, headers, r.client.Transport}}, r.url+"/api"
	return granting{loopbackv1connect.NewGrantServiceClient(c, u), loopbackv1connect.NewGrantPolicyServiceClient(c, u)}
}

// person makes a user who was given a role, and a key of theirs. A user makes keys of their own only, so the key is written as they
// would make it.
func (r *running) person(t *testing.T, q *v1.CreateUserRequest, role string) (user *v1.User, key string) {
	t.Helper()
	admin := r.as(r.key)
	user = do(t, admin.users.CreateUser, q)
	if role != "" {
		do(t, admin.bindings.CreateBinding, &v1.CreateBindingRequest{User: user.Id, Role: role})
	}
	return user, r.keyOf(t, user.Id)
}

func (r *running) keyOf(t *testing.T, user string) string {
	t.Helper()
	k := apikey.Key{Meta: tenant.Meta{ID: id.New("key", time.Now()), Name: "test"}, Permissions: []access.Permission{access.All}, ExpiresAt: time.Now().Add(time.Hour), OwnerID: user}
	text := apikey.NewSecret(k.ID)
	k.Hash = secret.Hash(r.keys.Pepper, text)
	if err := r.db.Observe(t.Context(), func(tx *storage.Tx) error { _, err := tx.PutKey(t.Context(), k); return err }); err != nil {
		t.Fatal(err)
	}
	return text
}

// shorten lets a grant end soon.
func (r *running) shorten(t *testing.T, g *v1.Grant, left time.Duration) {
	t.Helper()
	err := r.db.Observe(t.Context(), func(tx *storage.Tx) error {
		stored, err := tx.Grant(t.Context(), g.Id)
		if err != nil {
			return err
		}
		b, err := tx.Binding(t.Context(), g.BindingId)
		if err != nil {
			return err
		}
		stored.NotAfter = time.Now().Add(left)
		b.NotAfter = stored.NotAfter
		_, e1 := tx.PutGrant(t.Context(), stored)
		_, e2 := tx.PutBinding(t.Context(), b)
		return errors.Join(e1, e2)
	})
	if err != nil {
		t.Fatal(err)
	}
}

// age makes a request older than it is.
func (r *running) age(t *testing.T, g *v1.Grant, by time.Duration) {
	t.Helper()
	err := r.db.Observe(t.Context(), func(tx *storage.Tx) error {
		stored, err := tx.Grant(t.Context(), g.Id)
		if err == nil {
			stored.ExpiresAt = stored.ExpiresAt.Add(-by)
			_, err = tx.PutGrant(t.Context(), stored)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// debugging offers a role that reads the audit log, and gives who may ask and who may approve.
func (r *running) debugging(t *testing.T, p *v1.CreateGrantPolicyRequest) *v1.GrantPolicy {
	t.Helper()
	do(t, r.as(r.key).roles.CreateRole, &v1.CreateRoleRequest{Name: "debugger", Permissions: []string{"audit.read", "api_keys.read"}})
	p.Name, p.Role = "debugging", "debugger"
	return do(t, r.granting(r.key).policies.CreateGrantPolicy, p).Policy
}

func askFor(t *testing.T, g granting) *v1.Grant {
	t.Helper()
	return do(t, g.RequestGrant, &v1.RequestGrantRequest{Role: "debugger", Workspace: "default", Reason: "looking into it"})
}

func TestAGrantIsAskedForApprovedUsedAndRevoked(t *testing.T) {
	r := serve(t)
	r.debugging(t, &v1.CreateGrantPolicyRequest{Approvals: 2, TicketPattern: "OPS-[0-9]+", MaxDuration: durationpb.New(time.Hour)})
	_, dev := r.person(t, &v1.CreateUserRequest{Name: "dev", Identity: "https://id.example|1"}, "member")
	_, twin := r.person(t, &v1.CreateUserRequest{Name: "dev-admin", Identity: "https://id.example|1"}, "admin")
	_, lead := r.person(t, &v1.CreateUserRequest{Name: "lead", Email: "lead@example.com"}, "admin")
	_, other := r.person(t, &v1.CreateUserRequest{Name: "lead-2", Email: "Lead@Example.com"}, "admin")
	_, weak := r.person(t, &v1.CreateUserRequest{Name: "weak"}, "operator")
	_, _, machine := r.holder(t, "robot", &v1.CreateBindingRequest{Role: "admin"})

	me := r.granting(dev)
	request := &v1.RequestGrantRequest{Role: "debugger", Workspace: "default", Reason: "looking into it"}
	if code := refused(t, me.RequestGrant, request); code != "ticket_required" {
		t.Errorf("without a ticket: got %q", code)
	}
	request.Ticket = "nonsense"
	if code := refused(t, me.RequestGrant, request); code != "ticket_mismatch" {
		t.Errorf("with another ticket: got %q", code)
	}
	request.Ticket, request.Reason = "OPS-42", ""
	if code := refused(t, me.RequestGrant, request); code != "grant_invalid" {
		t.Errorf("without a reason: got %q", code)
	}
	request.Reason, request.Duration = "looking into it", durationpb.New(2*time.Hour)
	if code := refused(t, me.RequestGrant, request); code != "grant_invalid" {
		t.Errorf("for too long: got %q", code)
	}
	if code := refused(t, me.RequestGrant, &v1.RequestGrantRequest{Role: "owner", Workspace: "default", Reason: "x"}); code != "grant_not_offered" {
		t.Errorf("what nobody offers: got %q", code)
	}
	g := do(t, r.granting(dev, access.TicketHeader, "OPS-42", access.ReasonHeader, "from a header").RequestGrant,
		&v1.RequestGrantRequest{Role: "debugger", Workspace: "default", Duration: durationpb.New(time.Hour)})
	if g.State != "pending" || g.Reason != "from a header" || g.Ticket != "OPS-42" || g.ApprovalsNeeded != 2 {
		t.Fatalf("got %v", g)
	}
	if code := refused(t, r.as(dev).audit.ListEntries, &v1.ListEntriesRequest{}); code != "permission_denied" {
		t.Errorf("before it is approved: got %q", code)
	}
	approve := &v1.ApproveGrantRequest{Grant: g.Id, Comment: "seen"}
	for _, c := range []struct{ who, key, want string }{
		{"who asked", dev, "permission_denied"}, {"who asked, by another account", twin, "grant_same_person"}, {"a machine", machine, "grant_approver_not_a_person"},
		{"who does not hold it", weak, "permission_not_held"}, {"the first", lead, ""}, {"the first again", lead, "grant_approved_already"},
		{"the first, by another account", other, "grant_approved_already"},
	} {
		_, err := r.granting(c.key).ApproveGrant(t.Context(), connect.NewRequest(approve))
		if c.want == "" && err != nil || c.want != "" && codeOf(err) != c.want {
			t.Errorf("approved by %s: got %v, want %q", c.who, err, c.want)
		}
	}
	waited := make(chan *v1.Grant, 1)
	go func() {
		a, err := me.WaitGrant(context.WithoutCancel(t.Context()), connect.NewRequest(&v1.WaitGrantRequest{Grant: g.Id}))
		if err != nil {
			t.Error(err)
			waited <- nil
			return
		}
		waited <- a.Msg
	}()
	g = do(t, r.granting(r.key).ApproveGrant, approve)
	if g.State != "active" || len(g.Approvals) != 2 || g.BindingId == "" || g.NotAfter.AsTime().Sub(g.BeganAt.AsTime()) != time.Hour {
		t.Fatalf("got %v, want it active for an hour", g)
	}
	select {
	case w := <-waited:
		if w.GetState() != "active" {
			t.Errorf("who waited got %v", w)
		}
	case <-time.After(15 * time.Second):
		t.Error("who waits is not told")
	}
	do(t, r.as(dev).audit.ListEntries, &v1.ListEntriesRequest{})
	do(t, r.granting(lead).RevokeGrant, &v1.RevokeGrantRequest{Grant: g.Id, Comment: "done"})
	if code := refused(t, r.as(dev).audit.ListEntries, &v1.ListEntriesRequest{}); code != "permission_denied" {
		t.Errorf("after it was revoked: got %q", code)
	}
	if code := refused(t, r.granting(lead).RevokeGrant, &v1.RevokeGrantRequest{Grant: g.Id}); code != "grant_not_active" {
		t.Errorf("revoked twice: got %q", code)
	}
	entries := do(t, r.as(r.key).audit.ListEntries, &v1.ListEntriesRequest{Target: g.Id}).Items
	var acts []string
	for _, e := range slices.Backward(entries) {
		acts = append(acts, e.Action)
		if e.Ticket != "OPS-42" {
			t.Errorf("%s has ticket %q", e.Action, e.Ticket)
		}
	}
	if got := strings.Join(acts, " "); got != "grants.request grants.approve grants.approve grants.revoke" {
		t.Errorf("the audit log has %q", got)
	}
	if after := entries[1].After.GetStructValue().GetFields()["approvals"].GetListValue().GetValues(); len(after) != 2 {
		t.Errorf("the approvers are not in the log: %v", entries[1].After)
	}
}

// What is done by a grant says in the log which one, who approved it, and why.
func TestWhatAGrantAllowedNamesIt(t *testing.T) {
	r := serve(t)
	do(t, r.as(r.key).roles.CreateRole, &v1.CreateRoleRequest{Name: "grouper", Permissions: []string{"groups.*"}})
	do(t, r.granting(r.key).policies.CreateGrantPolicy, &v1.CreateGrantPolicyRequest{Name: "grouping", Role: "grouper", Approvals: 2, TicketPattern: "OPS-[0-9]+"})
	user, dev := r.person(t, &v1.CreateUserRequest{Name: "dev"}, "member")
	lead, key := r.person(t, &v1.CreateUserRequest{Name: "lead"}, "admin")
	g := do(t, r.granting(dev).RequestGrant, &v1.RequestGrantRequest{Role: "grouper", Organisation: "default", Reason: "a new team", Ticket: "OPS-7"})
	do(t, r.granting(key).ApproveGrant, &v1.ApproveGrantRequest{Grant: g.Id})
	do(t, r.granting(r.key).ApproveGrant, &v1.ApproveGrantRequest{Grant: g.Id})
	made := do(t, r.as(dev).groups.CreateGroup, &v1.CreateGroupRequest{Name: "team", Organisation: "default"})
	e := do(t, r.as(r.key).audit.ListEntries, &v1.ListEntriesRequest{Target: made.Id}).Items[0]
	if e.Grant.GetId() != g.Id || e.Grant.GetReason() != "a new team" || e.Grant.GetTicket() != "OPS-7" || len(e.Grant.GetApprovers()) != 2 ||
		e.Grant.Approvers[0].Id != lead.Id || e.Grant.Approvers[0].Name != "lead" || !e.Grant.Approvers[0].At.IsValid() {
		t.Errorf("the entry says %v, want the grant, its approvers and why", e.Grant)
	}
	if e.Actor.Principal != user.Id || e.Actor.Method != "api_key" || !strings.HasPrefix(e.Decision, "bnd_") || e.Snapshot == 0 {
		t.Errorf("the entry says %v", e)
	}
	if e := do(t, r.as(r.key).audit.ListEntries, &v1.ListEntriesRequest{Target: g.Id}).Items[0]; e.Grant != nil {
		t.Errorf("an approval by a standing role rests on grant %v", e.Grant)
	}
}

func TestOneApprovesWhatTwoApproveAtOnce(t *testing.T) {
	r := serve(t)
	r.debugging(t, &v1.CreateGrantPolicyRequest{Approvals: 1})
	_, dev := r.person(t, &v1.CreateUserRequest{Name: "dev"}, "member")
	g := askFor(t, r.granting(dev))
	var all sync.WaitGroup
	var codes sync.Map
	for i := range 6 {
		_, key := r.person(t, &v1.CreateUserRequest{Name: fmt.Sprint("lead-", i)}, "admin")
		all.Go(func() {
			_, err := r.granting(key).ApproveGrant(context.Background(), connect.NewRequest(&v1.ApproveGrantRequest{Grant: g.Id}))
			codes.Store(key, codeOf(err))
		})
	}
	all.Wait()
	won := 0
	codes.Range(func(_, code any) bool {
		if code != "grant_not_pending" {
			won++
		}
		return true
	})
	bindings := do(t, r.as(r.key).bindings.ListBindings, &v1.ListBindingsRequest{Role: "debugger"}).Items
	if won != 1 || len(bindings) != 1 {
		t.Errorf("%d approvals were taken, and %d bindings made", won, len(bindings))
	}
}

// A grant's end, its revocation, its return and the deletion of its binding all end what it carried, streams included.
func TestStreamsEndWithTheirGrant(t *testing.T) {
	r := serve(t)
	do(t, r.as(r.key).roles.CreateRole, &v1.CreateRoleRequest{Name: "watcher", Permissions: []string{"hosts.read"}})
	do(t, r.granting(r.key).policies.CreateGrantPolicy, &v1.CreateGrantPolicyRequest{Name: "watching", Role: "watcher"})
	asker := do(t, r.as(r.key).roles.CreateRole, &v1.CreateRoleRequest{Name: "asker", Permissions: []string{"grants.request", "grants.read", "workspaces.read"}})
	_, key := r.person(t, &v1.CreateUserRequest{Name: "dev"}, asker.Id)
	me, admin := r.granting(key), r.granting(r.key)
	begin := func() (*v1.Grant, <-chan ending) {
		g := do(t, me.RequestGrant, &v1.RequestGrantRequest{Role: "watcher", Workspace: "default", Reason: "watching", Duration: durationpb.New(time.Minute)})
		if g.State != "active" {
			t.Fatalf("nobody has to approve, and it is %s", g.State)
		}
		return g, r.watching(t, key)
	}
	for state, end := range map[string]func(*v1.Grant){
		"revoked":  func(g *v1.Grant) { do(t, admin.RevokeGrant, &v1.RevokeGrantRequest{Grant: g.Id}) },
		"returned": func(g *v1.Grant) { do(t, me.CancelGrant, &v1.CancelGrantRequest{Grant: g.Id}) },
		"ended": func(g *v1.Grant) { // its time is over: the clock is the rules' own, so the binding's end is moved, not the clock
			r.shorten(t, g, 700*time.Millisecond)
		},
	} {
		g, ended := begin()
		end(g)
		await(t, ended).want(t, "permission_denied")
		if got := do(t, me.WaitGrant, &v1.WaitGrantRequest{Grant: g.Id, State: "active", Timeout: durationpb.New(10 * time.Second)}); got.State != state {
			t.Errorf("it is %s, want %s", got.State, state)
		}
	}
	if err := r.grants.Sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	if left := do(t, r.as(r.key).bindings.ListBindings, &v1.ListBindingsRequest{Role: "watcher"}).Items; len(left) > 0 {
		t.Errorf("bindings are left: %v", left)
	}
	g, ended := begin()
	do(t, r.as(r.key).bindings.DeleteBinding, &v1.DeleteBindingRequest{Binding: g.BindingId})
	await(t, ended).want(t, "permission_denied")
	if err := r.grants.Sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := do(t, me.GetGrant, &v1.GetGrantRequest{Grant: g.Id}); got.State != "revoked" || got.Comment == "" {
		t.Errorf("its binding was deleted, and it is %v", got)
	}
}

// A webhook decides first. Whatever it does but say yes, signed and in time, is a no.
func TestAWebhookThatDoesNotAllowDenies(t *testing.T) {
	r := serve(t)
	var mu sync.Mutex
	var key []byte
	answer, seen := `{"allow": true, "message": "change is open"}`, []string(nil)
	status := http.StatusOK
	receiver := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		body, _ := io.ReadAll(q.Body)
		want := http.Header{}
		stamp, _ := json.Number(q.Header.Get("Webhook-Timestamp")).Int64()
		webhook.Sign(want, key, q.Header.Get("Webhook-Id"), time.Unix(stamp, 0), body)
		if want.Get("Webhook-Signature") != q.Header.Get("Webhook-Signature") {
			t.Errorf("the signature is %q", q.Header.Get("Webhook-Signature"))
		}
		seen = append(seen, string(body))
		w.WriteHeader(status)
		_, _ = io.WriteString(w, answer)
	}))
	defer receiver.Close()
	do(t, r.as(r.key).roles.CreateRole, &v1.CreateRoleRequest{Name: "debugger", Permissions: []string{"audit.read"}})
	made := do(t, r.granting(r.key).policies.CreateGrantPolicy, &v1.CreateGrantPolicyRequest{Name: "debugging", Role: "debugger", Webhook: receiver.URL})
	mu.Lock()
	key, _ = webhook.Key(made.Secret)
	mu.Unlock()
	_, dev := r.person(t, &v1.CreateUserRequest{Name: "dev"}, "member")
	for _, c := range []struct {
		name, answer string
		status       int
		state, says  string
	}{
		{"yes", `{"allow": true, "message": "change is open"}`, 200, "active", "change is open"},
		{"no", `{"allow": false, "message": "frozen"}`, 200, "denied", "frozen"},
		{"an error", `{"allow": true}`, 500, "denied", "500"},
		{"nothing", ``, 200, "denied", "its answer is not"},
		{"something else", `{"ok": true}`, 200, "denied", "its answer is not"},
		{"a redirection", `{"allow": true}`, 302, "denied", "302"},
	} {
		mu.Lock()
		answer, status = c.answer, c.status
		mu.Unlock()
		g := askFor(t, r.granting(dev))
		if g.State != c.state || !strings.Contains(g.GetWebhook().GetMessage(), c.says) || g.Webhook.Allowed != (c.state == "active") {
			t.Errorf("%s: got %v", c.name, g)
		}
		if c.state == "denied" {
			if code := refused(t, r.granting(r.key).ApproveGrant, &v1.ApproveGrantRequest{Grant: g.Id}); code != "grant_not_pending" {
				t.Errorf("%s: approved all the same: %q", c.name, code)
			}
		}
	}
	receiver.Close()
	if g := askFor(t, r.granting(dev)); g.State != "denied" || g.Webhook.Status != 0 || strings.Contains(g.Webhook.Message, receiver.URL) {
		t.Errorf("nobody there: got %v", g)
	}
	if len(seen) != 6 || !strings.Contains(seen[0], `"reason":"looking into it"`) {
		t.Errorf("it was asked %d times, first %.200s", len(seen), seen[0])
	}
}

func TestNobodyOffersWhatTheyDoNotHold(t *testing.T) {
	r := serve(t)
	do(t, r.as(r.key).roles.CreateRole, &v1.CreateRoleRequest{Name: "little", Permissions: []string{"hosts.read", "grant_policies.create", "roles.read", "roles.update", "workspaces.read", "grants.request", "grants.read"}})
	_, key := r.person(t, &v1.CreateUserRequest{Name: "dev"}, "little")
	me := r.granting(key)
	if code := refused(t, me.policies.CreateGrantPolicy, &v1.CreateGrantPolicyRequest{Name: "mine", Role: "owner"}); code != "permission_not_held" {
		t.Errorf("offering the owner's role: got %q", code)
	}
	// A role that grew after it was offered without approval is not had by that offer.
	role := do(t, r.as(r.key).roles.CreateRole, &v1.CreateRoleRequest{Name: "grows", Permissions: []string{"hosts.read"}})
	do(t, me.policies.CreateGrantPolicy, &v1.CreateGrantPolicyRequest{Name: "mine", Role: "grows"})
	do(t, r.as(r.key).roles.UpdateRole, &v1.UpdateRoleRequest{Role: role.Id, Permissions: []string{"*"}})
	if code := refused(t, me.RequestGrant, &v1.RequestGrantRequest{Role: "grows", Reason: "more"}); code != "grant_policy_stale" && code != "permission_denied" {
		t.Errorf("asking for what grew: got %q", code)
	}
	if code := refused(t, me.RequestGrant, &v1.RequestGrantRequest{Role: "grows", Workspace: "default", Reason: "more"}); code != "grant_policy_stale" {
		t.Errorf("asking for what grew: got %q", code)
	}
}

func TestOnlyTheNamedGroupsApproveAndRequestsExpire(t *testing.T) {
	r := serve(t)
	r.debugging(t, &v1.CreateGrantPolicyRequest{Approvals: 1, Approvers: []string{do(t, r.as(r.key).groups.CreateGroup, &v1.CreateGroupRequest{Name: "on-call"}).Id},
		Wait: durationpb.New(time.Minute)})
	_, dev := r.person(t, &v1.CreateUserRequest{Name: "dev"}, "member")
	lead, leadKey := r.person(t, &v1.CreateUserRequest{Name: "lead"}, "admin")
	g := askFor(t, r.granting(dev))
	if code := refused(t, r.granting(leadKey).ApproveGrant, &v1.ApproveGrantRequest{Grant: g.Id}); code != "grant_not_an_approver" {
		t.Errorf("outside of the group: got %q", code)
	}
	do(t, r.as(r.key).groups.AddGroupMembers, &v1.AddGroupMembersRequest{Group: "on-call", Users: []string{lead.Id}})
	if g := do(t, r.granting(leadKey).ApproveGrant, &v1.ApproveGrantRequest{Grant: g.Id}); g.State != "active" {
		t.Errorf("inside of it: got %v", g)
	}
	late := askFor(t, r.granting(dev))
	r.age(t, late, 2*time.Minute)
	if code := refused(t, r.granting(leadKey).ApproveGrant, &v1.ApproveGrantRequest{Grant: late.Id}); code != "grant_not_pending" {
		t.Errorf("too late: got %q", code)
	}
	if err := r.grants.Sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	if list := do(t, r.granting(dev).ListGrants, &v1.ListGrantsRequest{States: []string{string(grant.Expired)}}).Items; len(list) != 1 || list[0].Id != late.Id {
		t.Errorf("expired are %v", list)
	}
	if n := len(do(t, r.as(r.key).audit.ListEntries, &v1.ListEntriesRequest{Action: "grants.expire"}).Items); n != 1 {
		t.Errorf("%d entries say that it expired", n)
	}
	withdrawn := askFor(t, r.granting(dev))
	if code := refused(t, r.granting(r.key).CancelGrant, &v1.CancelGrantRequest{Grant: withdrawn.Id}); code != "grant_of_another" {
		t.Errorf("withdrawn by another: got %q", code)
	}
	if g := do(t, r.granting(dev).CancelGrant, &v1.CancelGrantRequest{Grant: withdrawn.Id}); g.State != "cancelled" {
		t.Errorf("withdrawn: got %v", g)
	}
	if g := do(t, r.granting(leadKey).DenyGrant, &v1.DenyGrantRequest{Grant: askFor(t, r.granting(dev)).Id, Comment: "no need"}); g.State != "denied" || g.Comment != "no need" {
		t.Errorf("denied: got %v", g)
	}
}

package server

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/loopbackd/loopback/access"
	v1 "github.com/loopbackd/loopback/api/loopback/v1"
	"github.com/loopbackd/loopback/api/loopback/v1/loopbackv1connect"
	policies "github.com/loopbackd/loopback/policy"
	"github.com/loopbackd/loopback/server/rpc"
)

// caller calls the real server with one key.
type caller struct {
	hosts    loopbackv1connect.HostServiceClient
	users    loopbackv1connect.UserServiceClient
	accounts loopbackv1connect.ServiceAccountServiceClient
	groups   loopbackv1connect.GroupServiceClient
	roles    loopbackv1connect.RoleServiceClient
	bindings loopbackv1connect.BindingServiceClient
	access   loopbackv1connect.AccessServiceClient
	keys     loopbackv1connect.ApiKeyServiceClient
	spaces   loopbackv1connect.WorkspaceServiceClient
	session  loopbackv1connect.SessionServiceClient
	audit    loopbackv1connect.AuditServiceClient
}

type bearer struct {
	key     string
	headers []string // name, value, …
	next    http.RoundTripper
}

func (b bearer) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set("Authorization", "Bearer "+b.key)
	for i := 0; i < len(b.headers); i += 2 {
		r.Header.Set(b.headers[i], b.headers[i+1])
	}
	return b.next.RoundTrip(r)
}

func (r *running) as(key string, headers ...string) caller {
	c, u := &http.Client{Transport: bearer{key, headers, r.client.Transport}}, r.url+"/api"
	return caller{loopbackv1connect.NewHostServiceClient(c, u), loopbackv1connect.NewUserServiceClient(c, u), loopbackv1connect.NewServiceAccountServiceClient(c, u),
		loopbackv1connect.NewGroupServiceClient(c, u), loopbackv1connect.NewRoleServiceClient(c, u), loopbackv1connect.NewBindingServiceClient(c, u),
		loopbackv1connect.NewAccessServiceClient(c, u), loopbackv1connect.NewApiKeyServiceClient(c, u), loopbackv1connect.NewWorkspaceServiceClient(c, u),
		loopbackv1connect.NewSessionServiceClient(c, u), loopbackv1connect.NewAuditServiceClient(c, u)}
}

// do calls a method that has to work.
func do[Q, A any](t *testing.T, method func(context.Context, *connect.Request[Q]) (*connect.Response[A], error), q *Q) *A {
	t.Helper()
	a, err := method(t.Context(), connect.NewRequest(q))
	if err != nil {
		t.Fatalf("%T: %v", q, err)
	}
	return a.Msg
}

// refused is the stable code with which a method refuses.
func refused[Q, A any](t *testing.T, method func(context.Context, *connect.Request[Q]) (*connect.Response[A], error), q *Q) string {
	t.Helper()
	_, err := method(t.Context(), connect.NewRequest(q))
	return codeOf(err)
}

func codeOf(err error) string {
	var e *connect.Error
	if !errors.As(err, &e) {
		return fmt.Sprint(err)
	}
	for _, d := range e.Details() {
		if v, err := d.Value(); err == nil {
			if detail, ok := v.(*v1.ErrorDetail); ok {
				return detail.Code
			}
		}
	}
	return e.Code().String()
}

// holder makes a service account that was given what a binding says, and a key of its for everything it holds.
func (r *running) holder(t *testing.T, name string, b *v1.CreateBindingRequest) (account *v1.ServiceAccount, binding *v1.Binding, key string) {
	t.Helper()
	admin := r.as(r.key)
	account = do(t, admin.accounts.CreateServiceAccount, &v1.CreateServiceAccountRequest{Name: name})
	b.ServiceAccount = account.Id
	binding = do(t, admin.bindings.CreateBinding, b)
	key = do(t, admin.keys.CreateApiKey, &v1.CreateApiKeyRequest{Name: name, ServiceAccount: account.Id, Permissions: []string{"*"}}).Secret
	return account, binding, key
}

// watching opens a stream of hosts, and tells with what it ended, and when.
func (r *running) watching(t *testing.T, key string) <-chan ending {
	t.Helper()
	stream, err := r.as(key).hosts.WatchHosts(t.Context(), connect.NewRequest(&v1.WatchHostsRequest{ChangesOnly: true}))
	if err != nil {
		t.Fatal(err)
	}
	if !stream.Receive() || stream.Msg().GetSynced() == nil {
		t.Fatalf("the stream does not begin: %v", stream.Err())
	}
	out := make(chan ending, 1)
	go func() {
		for stream.Receive() {
		}
		out <- ending{codeOf(stream.Err()), time.Now()}
		stream.Close()
	}()
	return out
}

type ending struct {
	code string
	at   time.Time
}

func (e ending) want(t *testing.T, code string) {
	t.Helper()
	if e.code != code {
		t.Errorf("the stream ended with %q, want %q", e.code, code)
	}
}

func await(t *testing.T, c <-chan ending) ending {
	t.Helper()
	select {
	case e := <-c:
		return e
	case <-time.After(20 * time.Second):
		t.Fatal("the stream goes on")
		return ending{}
	}
}

func TestWhatIsRevokedEndsAtOnceOpenStreamsIncluded(t *testing.T) {
	r := serve(t)
	admin := r.as(r.key)
	rounds := 40
	if testing.Short() {
		rounds = 5
	}
	var took []time.Duration
	for i := range rounds {
		_, binding, key := r.holder(t, fmt.Sprint("watcher-", i), &v1.CreateBindingRequest{Role: "member"})
		do(t, r.as(key).hosts.ListHosts, &v1.ListHostsRequest{})
		ended := r.watching(t, key)
		began := time.Now()
		do(t, admin.bindings.DeleteBinding, &v1.DeleteBindingRequest{Binding: binding.Id})
		e := await(t, ended)
		e.want(t, "permission_denied")
		took = append(took, e.at.Sub(began))
		if code := refused(t, r.as(key).hosts.ListHosts, &v1.ListHostsRequest{}); code != "permission_denied" {
			t.Errorf("a call after that: got %q", code)
		}
	}
	slices.Sort(took)
	t.Logf("from the request to the end of the stream: median %s, p99 %s, of %d", took[len(took)/2], took[len(took)*99/100], len(took))
}

// Whoever takes something away may rely on that when they are answered: at once, and by a key that was used a moment before.
func TestWhatIsTakenAwayIsGoneWhenThatIsAnswered(t *testing.T) {
	r := serve(t)
	admin := r.as(r.key)
	group := do(t, admin.groups.CreateGroup, &v1.CreateGroupRequest{Name: "crew"})
	do(t, admin.bindings.CreateBinding, &v1.CreateBindingRequest{Group: group.Id, Role: "member"})
	reader := do(t, admin.roles.CreateRole, &v1.CreateRoleRequest{Name: "reader", Permissions: []string{"hosts.read", "workspaces.read"}})
	yes := true
	for round := range 20 {
		for name, c := range map[string]struct {
			give func(user string) (binding string)
			take func(user, binding string)
			want string
		}{
			"a binding": {
				func(user string) string {
					return do(t, admin.bindings.CreateBinding, &v1.CreateBindingRequest{User: user, Role: "member"}).Id
				},
				func(_, binding string) {
					do(t, admin.bindings.DeleteBinding, &v1.DeleteBindingRequest{Binding: binding})
				}, "permission_denied"},
			"membership": {
				func(user string) string {
					do(t, admin.groups.AddGroupMembers, &v1.AddGroupMembersRequest{Group: group.Id, Users: []string{user}})
					return ""
				},
				func(user, _ string) {
					do(t, admin.groups.RemoveGroupMembers, &v1.RemoveGroupMembersRequest{Group: group.Id, Users: []string{user}})
				}, "permission_denied"},
			"a permission of a role": {
				func(user string) string {
					do(t, admin.roles.UpdateRole, &v1.UpdateRoleRequest{Role: reader.Id, Permissions: []string{"hosts.read", "workspaces.read"}})
					return do(t, admin.bindings.CreateBinding, &v1.CreateBindingRequest{User: user, Role: "reader"}).Id
				},
				func(string, string) {
					do(t, admin.roles.UpdateRole, &v1.UpdateRoleRequest{Role: reader.Id, Permissions: []string{"workspaces.read"}})
				}, "permission_denied"},
			"being enabled": {
				func(user string) string {
					return do(t, admin.bindings.CreateBinding, &v1.CreateBindingRequest{User: user, Role: "member"}).Id
				},
				func(user, _ string) {
					do(t, admin.users.UpdateUser, &v1.UpdateUserRequest{User: user, Disabled: &yes})
				}, "api_key_owner_gone"},
			"the user": {
				func(user string) string {
					return do(t, admin.bindings.CreateBinding, &v1.CreateBindingRequest{User: user, Role: "member"}).Id
				},
				func(user, _ string) { do(t, admin.users.DeleteUser, &v1.DeleteUserRequest{User: user}) }, "api_key_revoked"},
		} {
			user, key := r.person(t, &v1.CreateUserRequest{Name: fmt.Sprint(strings.ReplaceAll(name, " ", "-"), "-", round)}, "")
			binding := c.give(user.Id)
			do(t, r.as(key).hosts.ListHosts, &v1.ListHostsRequest{}) // in force as soon as it was answered, too
			c.take(user.Id, binding)
			if code := refused(t, r.as(key).hosts.ListHosts, &v1.ListHostsRequest{}); code != c.want && code != "api_key_owner_gone" {
				t.Fatalf("%s, round %d: got %q, want %q", name, round, code, c.want)
			}
		}
	}
}

func TestAKeyEndsWithItsOwner(t *testing.T) {
	r := serve(t)
	admin := r.as(r.key)
	account, _, key := r.holder(t, "ci", &v1.CreateBindingRequest{Role: "member"})
	yes, no := true, false
	ended := r.watching(t, key)
	do(t, admin.accounts.UpdateServiceAccount, &v1.UpdateServiceAccountRequest{ServiceAccount: account.Id, Disabled: &yes})
	await(t, ended).want(t, "api_key_owner_gone")
	if code := refused(t, r.as(key).session.WhoAmI, &v1.WhoAmIRequest{}); code != "api_key_owner_gone" {
		t.Errorf("disabled: got %q", code)
	}
	do(t, admin.accounts.UpdateServiceAccount, &v1.UpdateServiceAccountRequest{ServiceAccount: account.Id, Disabled: &no})
	if me := do(t, r.as(key).session.WhoAmI, &v1.WhoAmIRequest{}); me.PrincipalId != account.Id {
		t.Errorf("enabled again: acts for %q, want %s", me.PrincipalId, account.Id)
	}
	ended = r.watching(t, key)
	do(t, admin.accounts.DeleteServiceAccount, &v1.DeleteServiceAccountRequest{ServiceAccount: account.Id})
	if code := await(t, ended).code; code != "api_key_owner_gone" && code != "api_key_revoked" {
		t.Errorf("the stream ended with %q", code)
	}
	if code := refused(t, r.as(key).session.WhoAmI, &v1.WhoAmIRequest{}); code != "api_key_revoked" {
		t.Errorf("deleted: got %q", code)
	}
	left := do(t, admin.bindings.ListBindings, &v1.ListBindingsRequest{Subject: account.Id})
	if len(left.Items) > 0 {
		t.Errorf("its bindings are left: %v", left.Items)
	}
	// A key that is revoked by itself ends its streams as well.
	_, _, other := r.holder(t, "other", &v1.CreateBindingRequest{Role: "member"})
	ended = r.watching(t, other)
	me := do(t, r.as(other).session.WhoAmI, &v1.WhoAmIRequest{})
	do(t, admin.keys.RevokeApiKey, &v1.RevokeApiKeyRequest{ApiKey: me.Id})
	await(t, ended).want(t, "api_key_revoked")
}

func TestABindingEndsWhenItsTimeIsOver(t *testing.T) {
	r := serve(t)
	_, _, key := r.holder(t, "guest", &v1.CreateBindingRequest{Role: "member", NotAfter: timestamppb.New(time.Now().Add(1500 * time.Millisecond))})
	ended := r.watching(t, key)
	await(t, ended).want(t, "permission_denied")
}

func TestOwnersWhoRemoveEachOtherLeaveOne(t *testing.T) {
	r := serve(t)
	admin := r.as(r.key)
	first := do(t, admin.bindings.ListBindings, &v1.ListBindingsRequest{Role: "owner"}).Items[0]
	if code := refused(t, admin.bindings.DeleteBinding, &v1.DeleteBindingRequest{Binding: first.Id}); code != "last_owner" {
		t.Errorf("the last owner's binding: got %q", code)
	}
	yes := true
	if code := refused(t, admin.users.UpdateUser, &v1.UpdateUserRequest{User: first.SubjectId, Disabled: &yes}); code != "last_owner" {
		t.Errorf("disabling the last owner: got %q", code)
	}
	if code := refused(t, admin.users.DeleteUser, &v1.DeleteUserRequest{User: first.SubjectId}); code != "last_owner" {
		t.Errorf("deleting the last owner: got %q", code)
	}
	if code := refused(t, admin.bindings.CreateBinding, &v1.CreateBindingRequest{User: first.SubjectId, Role: "member", Deny: true}); code != "last_owner" {
		t.Errorf("denying the last owner something: got %q", code)
	}
	// A chain: n owners, each removes the next at once. One is left whatever the order.
	const n = 6
	type owner struct {
		binding *v1.Binding
		caller  caller
	}
	all := []owner{{first, admin}}
	for i := range n - 1 {
		_, b, key := r.holder(t, fmt.Sprint("owner-", i), &v1.CreateBindingRequest{Role: "owner"})
		all = append(all, owner{b, r.as(key)})
	}
	var wait sync.WaitGroup
	for i := range all {
		wait.Go(func() {
			_, err := all[i].caller.bindings.DeleteBinding(context.Background(), connect.NewRequest(&v1.DeleteBindingRequest{Binding: all[(i+1)%n].binding.Id}))
			if code := codeOf(err); err != nil && !slices.Contains([]string{"last_owner", "permission_denied", "not_found"}, code) {
				t.Errorf("owner %d: %v", i, err)
			}
		})
	}
	wait.Wait()
	left, err := r.db.View().Owners(t.Context())
	if err != nil || len(left) == 0 {
		t.Errorf("%v owners are left, %v; want at least one", left, err)
	}
}

func TestNobodyGetsMoreThanTheyWereGiven(t *testing.T) {
	r := serve(t)
	admin := r.as(r.key)
	account, _, key := r.holder(t, "lead", &v1.CreateBindingRequest{Role: "admin", Workspace: "default"})
	lead := r.as(key)
	deployment := do(t, admin.groups.CreateGroup, &v1.CreateGroupRequest{Name: "owners"})
	do(t, admin.bindings.CreateBinding, &v1.CreateBindingRequest{Group: deployment.Id, Role: "owner"})
	for what, got := range map[string]string{
		"a role that holds more":          refused(t, lead.bindings.CreateBinding, &v1.CreateBindingRequest{ServiceAccount: account.Id, Role: "owner", Workspace: "default"}),
		"the deployment":                  refused(t, lead.bindings.CreateBinding, &v1.CreateBindingRequest{ServiceAccount: account.Id, Role: "member"}),
		"a group of the deployment":       refused(t, lead.groups.AddGroupMembers, &v1.AddGroupMembersRequest{Group: deployment.Id, Users: []string{"administrator"}}),
		"a role of the deployment":        refused(t, lead.roles.CreateRole, &v1.CreateRoleRequest{Name: "mine", Permissions: []string{"*"}}),
		"a key for another owner's reach": refused(t, lead.keys.CreateApiKey, &v1.CreateApiKeyRequest{Name: "more", Organisation: "default", Permissions: []string{"hosts.read"}}),
	} {
		if !slices.Contains([]string{"not_found", "permission_denied", "permission_not_held"}, got) {
			t.Errorf("%s: got %q", what, got)
		}
	}
	// An admin who is no owner: of the whole deployment, and yet not of everything in it.
	_, _, key = r.holder(t, "chief", &v1.CreateBindingRequest{Role: "admin"})
	chief := r.as(key)
	chiefID := do(t, chief.session.WhoAmI, &v1.WhoAmIRequest{}).PrincipalId
	user := do(t, chief.users.CreateUser, &v1.CreateUserRequest{Name: "friend"})
	role := do(t, chief.roles.CreateRole, &v1.CreateRoleRequest{Name: "everything", Permissions: []string{"hosts.read"}})
	do(t, chief.bindings.CreateBinding, &v1.CreateBindingRequest{ServiceAccount: chiefID, Role: role.Id})
	denial := do(t, admin.bindings.CreateBinding, &v1.CreateBindingRequest{ServiceAccount: chiefID, Role: "auditor", Deny: true, Workspace: "default"})
	for what, got := range map[string]string{
		"the owner's role":                       refused(t, chief.bindings.CreateBinding, &v1.CreateBindingRequest{ServiceAccount: chiefID, Role: "owner"}),
		"the owners' group":                      refused(t, chief.groups.AddGroupMembers, &v1.AddGroupMembersRequest{Group: deployment.Id, Users: []string{user.Id}}),
		"a role it was given, with more":         refused(t, chief.roles.UpdateRole, &v1.UpdateRoleRequest{Role: role.Id, Permissions: []string{"*"}}),
		"a denial of its own lifted":             refused(t, chief.bindings.DeleteBinding, &v1.DeleteBindingRequest{Binding: denial.Id}),
		"what it is denied, given to a friend":   refused(t, chief.bindings.CreateBinding, &v1.CreateBindingRequest{User: user.Id, Role: "auditor", Workspace: "default"}),
		"a key of a service account that is one": refused(t, chief.keys.CreateApiKey, &v1.CreateApiKeyRequest{Name: "x", ServiceAccount: "lead", Permissions: []string{"organisations.delete"}}),
	} {
		if !slices.Contains([]string{"not_found", "permission_denied", "permission_not_held"}, got) {
			t.Errorf("%s: got %q", what, got)
		}
	}
}

func TestSelectedHostsAreAllThatIsSeenAndTouched(t *testing.T) {
	r := serve(t)
	admin := r.as(r.key)
	for name, env := range map[string]string{"dev-1": "dev", "dev-2": "dev", "prod-1": "prod"} {
		do(t, admin.hosts.AddHost, &v1.AddHostRequest{Name: name, Workspace: "default", Labels: map[string]string{"env": env}})
	}
	account, binding, key := r.holder(t, "dev-ops", &v1.CreateBindingRequest{Role: "operator", Workspace: "default", Hosts: "env=dev"})
	ops := r.as(key)
	for _, workspace := range []string{"", "default"} {
		if l := do(t, ops.hosts.ListHosts, &v1.ListHostsRequest{Workspace: workspace}); l.Total != 2 || len(l.Items) != 2 {
			t.Errorf("in %q it sees %v", workspace, l.Items)
		}
	}
	if c := do(t, ops.hosts.CountHosts, &v1.CountHostsRequest{}); c.Total != 2 {
		t.Errorf("it counts %d", c.Total)
	}
	if w := do(t, ops.spaces.ListWorkspaces, &v1.ListWorkspacesRequest{}); len(w.Items) != 1 {
		t.Errorf("it sees the workspaces %v, want the one that its hosts are in", w.Items)
	}
	do(t, ops.hosts.LabelHost, &v1.LabelHostRequest{Host: "dev-1", Set: map[string]string{"tier": "web"}})
	for what, got := range map[string]string{
		"another host":             refused(t, ops.hosts.GetHost, &v1.GetHostRequest{Host: "prod-1"}),
		"labelling another host":   refused(t, ops.hosts.LabelHost, &v1.LabelHostRequest{Host: "prod-1", Set: map[string]string{"env": "dev"}}),
		"giving a host away":       refused(t, ops.hosts.LabelHost, &v1.LabelHostRequest{Host: "dev-1", Set: map[string]string{"env": "prod"}}),
		"adding hosts of any kind": refused(t, ops.hosts.AddHost, &v1.AddHostRequest{Name: "x", Workspace: "default"}),
	} {
		if !slices.Contains([]string{"not_found", "permission_denied", "host_not_found"}, got) {
			t.Errorf("%s: got %q", what, got)
		}
	}
	at := &v1.AccessTarget{Workspace: "default"}
	who := do(t, admin.access.WhoCan, &v1.WhoCanRequest{Permission: "hosts.remove", At: at})
	i := slices.IndexFunc(who.Items, func(x *v1.AccessReach) bool { return x.SubjectId == account.Id })
	if i < 0 || who.Items[i].Hosts != 2 || who.Items[i].Everything || who.Hosts != 3 || !slices.Equal(who.Items[i].BindingIds, []string{binding.Id}) {
		t.Errorf("who can: got %v", who)
	}
	for host, want := range map[string]bool{"dev-1": true, "prod-1": false} {
		e := do(t, admin.access.ExplainAccess, &v1.ExplainAccessRequest{ServiceAccount: account.Id, Permission: "hosts.remove", At: &v1.AccessTarget{Host: host}})
		if e.Allowed != want || e.Allowed != (e.BindingId == binding.Id) || len(e.Reasons) != 1 || e.Reasons[0].Applies != want {
			t.Errorf("explain %s: got %v", host, e)
		}
	}
	d := do(t, admin.access.DiffAccess, &v1.DiffAccessRequest{At: at, RemoveBindings: []string{binding.Id},
		Add: []*v1.CreateBindingRequest{{ServiceAccount: account.Id, Role: "member", Workspace: "default"}}})
	for _, x := range d.Items {
		switch x.Permission {
		case "hosts.read":
			if x.Gained != 1 || x.Lost != 0 || !x.EverythingAfter {
				t.Errorf("diff: got %v", x)
			}
		case "hosts.remove":
			if x.Gained != 0 || x.Lost != 2 {
				t.Errorf("diff: got %v", x)
			}
		}
	}
	what := do(t, admin.access.WhatCan, &v1.WhatCanRequest{ServiceAccount: account.Id, At: at})
	if len(what.Items) == 0 || len(d.Items) == 0 {
		t.Errorf("what can: got %v; diff %v", what, d)
	}
	// Seen while a watch goes on: what leaves the sight is said to be gone.
	stream, err := ops.hosts.WatchHosts(t.Context(), connect.NewRequest(&v1.WatchHostsRequest{}))
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Close()
	seen := 0
	for stream.Receive() && stream.Msg().GetSynced() == nil {
		seen++
	}
	do(t, admin.bindings.CreateBinding, &v1.CreateBindingRequest{ServiceAccount: account.Id, Role: "member", Workspace: "default", Hosts: "tier=web", Deny: true})
	if !stream.Receive() || !stream.Msg().GetChanged().GetGone() || stream.Msg().GetChanged().GetHost().GetName() != "dev-1" || seen != 2 {
		t.Errorf("after a denial: got %v, %v; %d were seen", stream.Msg(), stream.Err(), seen)
	}
}

// Every method of the API, called on the real server as each role that is built in.
func TestEveryMethodAsEveryBuiltInRole(t *testing.T) {
	r := serve(t)
	catalogue := rpc.Catalogue()
	for _, role := range policies.BuiltIn() {
		_, _, key := r.holder(t, role.Name, &v1.CreateBindingRequest{Role: role.Name})
		held := catalogue.List(catalogue.Expand(role.Permissions))
		for _, m := range rpc.Methods() {
			want := slices.Contains(held, m.Permission) || m.Permission == access.SelfRead || access.Everybody(m.Permission)
			var code string
			if m.Descriptor.IsStreamingServer() {
				code = r.opens(t, m.Procedure, key)
			} else {
				_, body := r.post(t, strings.TrimPrefix(m.Procedure, "/loopback.v1."), key, "{}")
				var e struct{ Code string }
				_ = json.Unmarshal([]byte(body), &e)
				code = e.Code
			}
			if got := code != "permission_denied"; got != want || code == "unimplemented" || code == "unauthenticated" && !access.Everybody(m.Permission) {
				t.Errorf("%s calls %s: got %q, want allowed %v", role.Name, m.Procedure, code, want)
			}
		}
	}
}

// opens is the code of the error that a stream begins with; empty where it begins with something else.
func (r *running) opens(t *testing.T, procedure, key string) string {
	t.Helper()
	q, err := http.NewRequestWithContext(t.Context(), http.MethodPost, r.url+"/api"+procedure, strings.NewReader("\x00\x00\x00\x00\x02{}"))
	if err != nil {
		t.Fatal(err)
	}
	q.Header.Set("Content-Type", "application/connect+json")
	q.Header.Set("Authorization", "Bearer "+key)
	res, err := r.client.Do(q)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	var head [5]byte
	if _, err := io.ReadFull(res.Body, head[:]); err != nil {
		t.Fatalf("%s: %v", procedure, err)
	}
	if head[0]&2 == 0 {
		return ""
	}
	message := make([]byte, binary.BigEndian.Uint32(head[1:]))
	if _, err := io.ReadFull(res.Body, message); err != nil {
		t.Fatal(err)
	}
	var end struct{ Error struct{ Code string } }
	if err := json.Unmarshal(message, &end); err != nil {
		t.Fatal(err)
	}
	return end.Error.Code
}

// A binding may ask for a ticket: without a fitting one the refusal says which form, with one it applies, and the audit log has
// ticket and reason.
func TestATicketIsAskedForAndWrittenDown(t *testing.T) {
	r := serve(t)
	ask := &v1.Conditions{Ticket: "OPS-[0-9]+"}
	_, _, key := r.holder(t, "fixer", &v1.CreateBindingRequest{Role: "admin", Workspace: "default", Conditions: ask})
	for given, want := range map[string]string{"": "ticket_required", "DEV-1": "ticket_mismatch"} {
		_, err := r.as(key, access.TicketHeader, given).hosts.ListHosts(t.Context(), connect.NewRequest(&v1.ListHostsRequest{}))
		if codeOf(err) != want || !strings.Contains(fmt.Sprint(err), "OPS-[0-9]+") {
			t.Errorf("ticket %q: got %v, want %s with the pattern", given, err, want)
		}
	}
	with := r.as(key, access.TicketHeader, "OPS-7", access.ReasonHeader, "disk%20is%20full %e2%82%ac")
	do(t, with.hosts.ListHosts, &v1.ListHostsRequest{})
	text := "for OPS-7"
	do(t, with.spaces.UpdateWorkspace, &v1.UpdateWorkspaceRequest{Workspace: "default", Description: &text})
	entries := do(t, r.as(r.key).audit.ListEntries, &v1.ListEntriesRequest{Action: "workspaces.update"}).Items
	if len(entries) != 1 || entries[0].Ticket != "OPS-7" || entries[0].Reason != "disk is full €" {
		t.Errorf("the audit log has %v", entries)
	}
	// Where another rule gives the reading, the refusal of more says that a ticket would do.
	_, _, key = r.holder(t, "reader", &v1.CreateBindingRequest{Role: "member"})
	me := do(t, r.as(key).session.WhoAmI, &v1.WhoAmIRequest{})
	do(t, r.as(r.key).bindings.CreateBinding, &v1.CreateBindingRequest{ServiceAccount: me.PrincipalId, Role: "admin", Workspace: "default", Conditions: ask})
	if code := refused(t, r.as(key).spaces.UpdateWorkspace, &v1.UpdateWorkspaceRequest{Workspace: "default", Description: &text}); code != "ticket_required" {
		t.Errorf("a reader: got %q", code)
	}
	// A denial is not lifted by a ticket, and nothing is said of one.
	do(t, r.as(r.key).bindings.CreateBinding, &v1.CreateBindingRequest{ServiceAccount: me.PrincipalId, Role: "admin", Workspace: "default", Deny: true})
	if code := refused(t, r.as(key).spaces.UpdateWorkspace, &v1.UpdateWorkspaceRequest{Workspace: "default", Description: &text}); code != "permission_denied" {
		t.Errorf("denied: got %q", code)
	}
}

// A stream that a ticket opened goes on when the rules are asked again.
func TestAStreamKeepsItsTicket(t *testing.T) {
	r := serve(t)
	_, binding, key := r.holder(t, "fixer", &v1.CreateBindingRequest{Role: "member", Conditions: &v1.Conditions{Ticket: "OPS-.*"}})
	stream, err := r.as(key, access.TicketHeader, "OPS-7").hosts.WatchHosts(t.Context(), connect.NewRequest(&v1.WatchHostsRequest{ChangesOnly: true}))
	if err != nil || !stream.Receive() {
		t.Fatal(err, stream.Err())
	}
	admin := r.as(r.key)
	do(t, admin.roles.CreateRole, &v1.CreateRoleRequest{Name: "another", Permissions: []string{"hosts.read"}})
	r.holder(t, "somebody", &v1.CreateBindingRequest{Role: "another"}) // the rules change
	do(t, admin.hosts.AddHost, &v1.AddHostRequest{Workspace: "default", Name: "web-1"})
	for stream.Receive() && stream.Msg().GetChanged().GetHost().GetName() != "web-1" {
	}
	do(t, admin.bindings.DeleteBinding, &v1.DeleteBindingRequest{Binding: binding.Id})
	for stream.Receive() {
	}
	if code := codeOf(stream.Err()); code != "permission_denied" {
		t.Errorf("the stream ended with %q", code)
	}
}

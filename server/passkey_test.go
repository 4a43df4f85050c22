package server

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	v1 "github.com/loopbackd/loopback/api/loopback/v1"
	"github.com/loopbackd/loopback/api/loopback/v1/loopbackv1connect"
	"github.com/loopbackd/loopback/test/authenticator"
)

func (r *running) invitations(credential string) loopbackv1connect.InvitationServiceClient {
	return loopbackv1connect.NewInvitationServiceClient(&http.Client{Transport: bearer{credential, nil, r.client.Transport}}, r.url+"/api")
}

func (r *running) passkeys(credential string) loopbackv1connect.PasskeyServiceClient {
	return loopbackv1connect.NewPasskeyServiceClient(&http.Client{Transport: bearer{credential, nil, r.client.Transport}}, r.url+"/api")
}

const named = "https://cp.example.com"

func TestNobodyInvitesWhoHoldsMore(t *testing.T) {
	r := serve(t, "--public-url", named)
	admin := r.as(r.key)
	do(t, admin.roles.CreateRole, &v1.CreateRoleRequest{Name: "inviter", Permissions: []string{"users.read", "invitations.create"}})
	_, _, inviter := r.holder(t, "helpdesk", &v1.CreateBindingRequest{Role: "inviter"})
	for _, name := range []string{"plain", "boss", "member"} {
		do(t, admin.users.CreateUser, &v1.CreateUserRequest{Name: name})
	}
	do(t, admin.bindings.CreateBinding, &v1.CreateBindingRequest{User: "boss", Role: "owner"})
	do(t, admin.groups.CreateGroup, &v1.CreateGroupRequest{Name: "bosses"})
	do(t, admin.bindings.CreateBinding, &v1.CreateBindingRequest{Group: "bosses", Role: "admin"})
	do(t, admin.groups.AddGroupMembers, &v1.AddGroupMembersRequest{Group: "bosses", Users: []string{"member"}})
	for name, want := range map[string]string{"plain": "<nil>", "boss": "permission_not_held", "member": "permission_not_held", "nobody": "not_found"} {
		if got := refused(t, r.invitations(inviter).CreateInvitation, &v1.CreateInvitationRequest{User: name}); got != want {
			t.Errorf("%s: got %q, want %q", name, got, want)
		}
	}
	made := do(t, r.invitations(r.key).CreateInvitation, &v1.CreateInvitationRequest{User: "boss"})
	if !strings.HasPrefix(made.Url, named+"/invite#lbi_") {
		t.Errorf("the link is %s", made.Url)
	}
	// Disabling its user takes it back.
	yes := true
	do(t, admin.users.UpdateUser, &v1.UpdateUserRequest{User: "boss", Disabled: &yes})
	if got := refused(t, r.invitations("").OpenInvitation, &v1.OpenInvitationRequest{InvitationSecret: made.Secret}); got != "invitation_revoked" {
		t.Errorf("after its user was disabled: got %q", got)
	}
}

// The whole way over HTTP: invited, in, out, in again by the passkey, stepped up; and what other sites, and thieves, get.
func TestAPasskeysLife(t *testing.T) {
	r := serve(t, "--public-url", named)
	admin := r.as(r.key)
	ada := do(t, admin.users.CreateUser, &v1.CreateUserRequest{Name: "ada"})
	secret := do(t, r.invitations(r.key).CreateInvitation, &v1.CreateInvitationRequest{User: "ada"}).Secret
	held := authenticator.New(t, named, ada.Id)
	body := func(of map[string]any) string {
		b, err := json.Marshal(of)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	assert := func(c *v1.PasskeyCeremony) string { return held.Assert(t, c.Options) }
	opened := do(t, r.invitations("").OpenInvitation, &v1.OpenInvitationRequest{InvitationSecret: secret})
	if opened.Name != "ada" {
		t.Fatalf("got %v", opened)
	}
	b := &browser{running: r}
	coming := body(map[string]any{"invitation": secret, "passkey": map[string]string{"ceremony": opened.Ceremony.Ceremony, "response": held.Attest(t, opened.Ceremony.Options), "name": "laptop"}})
	if status, _ := b.send(t, "POST", "/session", coming, "cross-site"); status != http.StatusForbidden || b.cookie != nil {
		t.Errorf("another site uses the invitation: %d", status)
	}
	if status, text := b.send(t, "POST", "/session", coming, "same-origin"); status != http.StatusNoContent {
		t.Fatalf("coming in: %d %s", status, text)
	}
	if status, text := b.send(t, "POST", "/session", coming, "same-origin"); status != http.StatusUnauthorized || !strings.Contains(text, "invitation_used") {
		t.Errorf("again: %d %s", status, text)
	}
	stolen := b.cookie.Value
	if status, _ := b.send(t, "DELETE", "/session", "", "same-origin"); status != http.StatusNoContent {
		t.Fatalf("signing out: %d", status)
	}
	if got := refused(t, r.passkeys(stolen).BeginStepUp, &v1.BeginStepUpRequest{}); got != "sign_in_ended" {
		t.Errorf("the stolen sign-in: got %q", got)
	}

	begun := do(t, r.passkeys("").BeginPasskeySignIn, &v1.BeginPasskeySignInRequest{})
	entering := body(map[string]any{"passkey": map[string]string{"ceremony": begun.Ceremony, "response": assert(begun)}})
	if status, _ := b.send(t, "POST", "/session", entering, "cross-site"); status != http.StatusForbidden {
		t.Errorf("another site signs somebody in: %d", status)
	}
	if status, text := b.send(t, "POST", "/session", entering, "same-origin"); status != http.StatusNoContent {
		t.Fatalf("signing in: %d %s", status, text)
	}
	if status, text := b.send(t, "POST", "/session", entering, "same-origin"); status != http.StatusUnauthorized || !strings.Contains(text, "passkey_ceremony_over") {
		t.Errorf("the same answer again: %d %s", status, text)
	}
	in := b.cookie.Value
	if _, text := b.send(t, "POST", whoAmI, "{}", "same-origin"); !strings.Contains(text, `"method":"passkey"`) || !strings.Contains(text, `"mfaAt"`) {
		t.Errorf("who am I: %s", text)
	}
	again := do(t, r.passkeys(in).BeginStepUp, &v1.BeginStepUpRequest{})
	if stepped := do(t, r.passkeys(in).FinishStepUp, &v1.FinishStepUpRequest{Ceremony: again.Ceremony, Response: assert(again)}); stepped.MfaAt == nil {
		t.Error("stepping up noted no time")
	}
	// An API key is nobody who could show one.
	if got := refused(t, r.passkeys(r.key).BeginStepUp, &v1.BeginStepUpRequest{}); got != "permission_denied" {
		t.Errorf("an API key steps up: got %q", got)
	}
	mine := do(t, r.passkeys(in).ListMyPasskeys, &v1.ListMyPasskeysRequest{})
	if len(mine.Items) != 1 || mine.Items[0].Name != "laptop" || mine.Items[0].LastUsedAt == nil {
		t.Errorf("got %v", mine.Items)
	}
	do(t, admin.users.DeleteUser, &v1.DeleteUserRequest{User: "ada"})
	begun = do(t, r.passkeys("").BeginPasskeySignIn, &v1.BeginPasskeySignInRequest{})
	if status, text := b.send(t, "POST", "/session", body(map[string]any{"passkey": map[string]string{"ceremony": begun.Ceremony, "response": assert(begun)}}), "same-origin"); status != http.StatusUnauthorized {
		t.Errorf("after the user was deleted: %d %s", status, text)
	}
}

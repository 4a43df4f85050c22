package server

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/loopbackd/loopback/access"
	v1 "github.com/loopbackd/loopback/api/loopback/v1"
	"github.com/loopbackd/loopback/server/rpc"
	"github.com/loopbackd/loopback/server/storage"
	"github.com/loopbackd/loopback/signin"
	"github.com/loopbackd/loopback/test/authenticator"
)

// invitee is somebody who came in by an invitation, with the passkey that they made.
func (r *running) invitee(t *testing.T, name string) (user *v1.User, b *browser, held *authenticator.Authenticator) {
	t.Helper()
	user = do(t, r.as(r.key).users.CreateUser, &v1.CreateUserRequest{Name: name})
	secret := do(t, r.invitations(r.key).CreateInvitation, &v1.CreateInvitationRequest{User: user.Id}).Secret
	held = authenticator.New(t, named, user.Id)
	opened := do(t, r.invitations("").OpenInvitation, &v1.OpenInvitationRequest{InvitationSecret: secret})
	coming, err := json.Marshal(map[string]any{"invitation": secret, "passkey": map[string]string{
		"ceremony": opened.Ceremony.Ceremony, "response": held.Attest(t, opened.Ceremony.Options), "name": "laptop"}})
	if err != nil {
		t.Fatal(err)
	}
	b = &browser{running: r}
	if status, text := b.send(t, "POST", "/session", string(coming), "same-origin"); status != http.StatusNoContent {
		t.Fatalf("coming in: %d %s", status, text)
	}
	return user, b, held
}

// stepUp shows the passkey anew.
func (b *browser) stepUp(t *testing.T, held *authenticator.Authenticator) {
	t.Helper()
	keys := b.passkeys(b.cookie.Value)
	begun := do(t, keys.BeginStepUp, &v1.BeginStepUpRequest{})
	do(t, keys.FinishStepUp, &v1.FinishStepUpRequest{Ceremony: begun.Ceremony, Response: held.Assert(t, begun.Options)})
}

// shown lets the passkey of a sign-in have been shown so long ago.
func (b *browser) shown(t *testing.T, ago time.Duration) {
	t.Helper()
	id, err := signin.ParseSecret(b.cookie.Value)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.db.Observe(t.Context(), func(tx *storage.Tx) error {
		in, err := tx.SignIn(t.Context(), id)
		if err == nil {
			in.MFAAt = time.Now().Add(-ago)
			_, err = tx.PutSignIn(t.Context(), in)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
}

// Every method whose permission is of tier 0 refuses who holds it and did not show a passkey within the last minute, before it looks at
// anything else. How shells go on after that is tested where shells are.
func TestActsOfTierZeroTakeAFreshPasskey(t *testing.T) {
	r := serve(t, "--public-url", named)
	admin := r.as(r.key)
	var names []string
	for _, p := range access.TierZero() {
		names = append(names, string(p))
	}
	do(t, admin.roles.CreateRole, &v1.CreateRoleRequest{Name: "break-glass", Permissions: names})
	ada, b, held := r.invitee(t, "ada")
	do(t, admin.bindings.CreateBinding, &v1.CreateBindingRequest{User: ada.Id, Role: "break-glass", NotAfter: in(time.Hour)})
	// What each answers. Nothing is asked for well enough that a host would do it.
	answers := func() map[string]string {
		t.Helper()
		out := map[string]string{}
		for _, m := range rpc.Methods() {
			if !strings.Contains(" "+strings.Join(names, " ")+" ", " "+string(m.Permission)+" ") {
				continue
			}
			switch {
			case m.Descriptor.IsStreamingServer():
				out[m.Procedure] = r.opens(t, m.Procedure, b.cookie.Value)
			default:
				res, body := r.post(t, strings.TrimPrefix(m.Procedure, "/loopback.v1."), b.cookie.Value, "{}")
				if strings.Contains(body, "step_up_required") {
					if res.StatusCode != http.StatusForbidden {
						t.Errorf("%s: %d %s", m.Procedure, res.StatusCode, body)
					}
					body = `{"code":"step_up_required"}`
				}
				var e struct{ Code string }
				_ = json.Unmarshal([]byte(body), &e)
				out[m.Procedure] = e.Code
			}
		}
		return out
	}
	all := func(when string, want bool) {
		t.Helper()
		for tick := time.Tick(10 * time.Millisecond); ; <-tick { // what is known of a sign-in is remembered for a moment
			_, body := r.post(t, "ShellService/OpenShell", b.cookie.Value, "{}")
			if t.Context().Err() != nil || strings.Contains(body, "step_up_required") == want {
				break
			}
		}
		got := answers()
		if len(got) < 3 {
			t.Fatalf("only %v are of tier 0", got)
		}
		for method, code := range got {
			if refused := code == "step_up_required" || code == "permission_denied"; refused != want {
				t.Errorf("%s: %s answers %q, want it refused until a passkey is shown: %v", when, method, code, want)
			}
		}
	}
	all("who made a passkey just now and never showed it", true)
	b.stepUp(t, held)
	all("shown just now", false)
	b.shown(t, 50*time.Second)
	all("shown 50 seconds ago", false)
	b.shown(t, 61*time.Second)
	all("shown 61 seconds ago", true)
	b.shown(t, -time.Minute)
	all("shown in a minute's time", true)
	b.stepUp(t, held)
	all("shown again", false)
	// Who holds none of it is not asked for a passkey first: that would tell nothing and cost a ceremony.
	do(t, admin.bindings.CreateBinding, &v1.CreateBindingRequest{User: ada.Id, Role: "break-glass", Deny: true})
	if _, body := r.post(t, "ShellService/OpenShell", b.cookie.Value, "{}"); !strings.Contains(body, `"permission_denied"`) || strings.Contains(body, "step_up_required") {
		t.Errorf("denied: got %s", body)
	}
}

package server

import (
	"io"
	"net/http"
	"strings"
	"testing"

	"connectrpc.com/connect"

	v1 "github.com/loopbackd/loopback/api/loopback/v1"
	"github.com/loopbackd/loopback/api/loopback/v1/loopbackv1connect"
)

// browser is one that keeps its cookie.
type browser struct {
	*running
	cookie *http.Cookie
}

// send is a request as this site's pages make it; site says where it comes from instead.
func (b *browser) send(t *testing.T, method, path, body, site string) (int, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, b.url+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Sec-Fetch-Site", site)
	if b.cookie != nil {
		r.AddCookie(b.cookie)
	}
	res, err := b.client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range res.Cookies() {
		if c.Name == "__Host-loopback" {
			b.cookie = c
		}
	}
	return res.StatusCode, string(text)
}

// signedIn is a browser that somebody signed in to with an API key.
func (r *running) signedIn(t *testing.T, key string) *browser {
	t.Helper()
	b := &browser{running: r}
	if status, text := b.send(t, "POST", "/session", `{"key":"`+key+`"}`, "same-origin"); status != http.StatusNoContent {
		t.Fatalf("signing in: %d %s", status, text)
	}
	return b
}

func (r *running) signIns(credential string) loopbackv1connect.SignInServiceClient {
	return loopbackv1connect.NewSignInServiceClient(&http.Client{Transport: bearer{credential, nil, r.client.Transport}}, r.url+"/api")
}

const whoAmI = "/api/loopback.v1.SessionService/WhoAmI"

func TestABrowserSignsInAndOut(t *testing.T) {
	r := serve(t)
	b := r.signedIn(t, r.key)
	stolen := b.cookie.Value
	if strings.Contains(stolen, "lbk_") {
		t.Errorf("the cookie holds the key: %s", stolen)
	}
	if _, text := b.send(t, "POST", whoAmI, "{}", "same-origin"); !strings.Contains(text, `"kind":"sign_in"`) || !strings.Contains(text, `"method":"api_key"`) {
		t.Errorf("who am I: %s", text)
	}
	if status, _ := b.send(t, "POST", whoAmI, "{}", "cross-site"); status != http.StatusUnauthorized {
		t.Errorf("from another site: %d", status)
	}
	// What was stolen opens nothing once its owner is gone, the stream that it opened included.
	stream := r.watching(t, stolen)
	if status, _ := b.send(t, "DELETE", "/session", "", "cross-site"); status != http.StatusForbidden {
		t.Errorf("another site signs one out: %d", status)
	}
	if status, text := b.send(t, "DELETE", "/session", "", "same-origin"); status != http.StatusNoContent || b.cookie.MaxAge >= 0 {
		t.Errorf("signing out: %d %s, cookie %v", status, text, b.cookie)
	}
	await(t, stream).want(t, "sign_in_ended")
	if got := refused(t, r.as(stolen).session.WhoAmI, &v1.WhoAmIRequest{}); got != "sign_in_ended" {
		t.Errorf("the stolen sign-in: got %q", got)
	}
}

func TestSignInsEndWithWhatTheyRestOn(t *testing.T) {
	r := serve(t)
	admin := r.as(r.key)
	account, _, key := r.holder(t, "deploy", &v1.CreateBindingRequest{Role: "operator"})
	for name, end := range map[string]struct {
		do   func()
		want string
	}{
		"all of a user's revoked": {func() {
			got := do(t, r.signIns(r.key).ListSignIns, &v1.ListSignInsRequest{})
			for _, s := range got.Items {
				if s.UserId == account.Id {
					do(t, r.signIns(r.key).RevokeSignIn, &v1.RevokeSignInRequest{SignIn: s.Id})
				}
			}
		}, "sign_in_ended"},
		"the owner disabled": {func() {
			yes, no := true, false
			do(t, admin.accounts.UpdateServiceAccount, &v1.UpdateServiceAccountRequest{ServiceAccount: account.Id, Disabled: &yes})
			do(t, admin.accounts.UpdateServiceAccount, &v1.UpdateServiceAccountRequest{ServiceAccount: account.Id, Disabled: &no})
		}, "sign_in_ended"},
	} {
		t.Run(name, func(t *testing.T) {
			b := r.signedIn(t, key)
			stream := r.watching(t, b.cookie.Value)
			end.do()
			if got := await(t, stream).code; got != end.want && got != "sign_in_user_gone" {
				t.Errorf("the stream ended with %q", got)
			}
			if got := refused(t, r.as(b.cookie.Value).session.WhoAmI, &v1.WhoAmIRequest{}); got != end.want {
				t.Errorf("got %q, want %q", got, end.want)
			}
		})
	}
	// The key itself was not touched, and may not do what is for people.
	_, err := r.signIns(key).SignOut(t.Context(), connect.NewRequest(&v1.SignOutRequest{Everywhere: true}))
	if codeOf(err) != "permission_denied" {
		t.Errorf("an API key signs out: got %v", err)
	}
}

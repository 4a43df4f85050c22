package server

import (
	"net/http"
	"strings"
	"testing"

	v1 "github.com/loopbackd/loopback/api/loopback/v1"
	"github.com/loopbackd/loopback/api/loopback/v1/loopbackv1connect"
)

// The way to a provider and back over HTTP; what providers say is tested in server/provider.
func TestOtherSitesBeginNoSignIn(t *testing.T) {
	r := serve(t)
	issuer, client := "https://127.0.0.1:1", "loopback"
	admin := loopbackv1connect.NewProviderServiceClient(&http.Client{Transport: bearer{r.key, nil, r.client.Transport}}, r.url+"/api")
	p := do(t, admin.CreateProvider, &v1.CreateProviderRequest{Name: "corp", Fields: &v1.ProviderFields{Issuer: &issuer, ClientId: &client}})
	if !strings.HasSuffix(p.ReturnUrl, "/oidc/callback/"+p.Id) {
		t.Errorf("people are sent back to %s", p.ReturnUrl)
	}
	anybody := loopbackv1connect.NewSignInServiceClient(r.client, r.url+"/api")
	if offered := do(t, anybody.ListSignInMethods, &v1.ListSignInMethodsRequest{}); len(offered.Providers) != 1 || offered.Providers[0].Name != "corp" {
		t.Errorf("a stranger is offered %v", offered)
	}
	follow := *r.client
	follow.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	get := func(path, site string, cookies ...*http.Cookie) *http.Response {
		t.Helper()
		q, err := http.NewRequestWithContext(t.Context(), "GET", r.url+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		q.Header.Set("Sec-Fetch-Site", site)
		for _, c := range cookies {
			q.AddCookie(c)
		}
		res, err := follow.Do(q)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		return res
	}
	for _, site := range []string{"cross-site", "same-site"} {
		if res := get("/oidc/begin?provider="+p.Id, site); res.StatusCode != http.StatusForbidden || len(res.Cookies()) != 0 {
			t.Errorf("a %s begins a sign-in: %s", site, res.Status)
		}
	}
	if res := get("/oidc/begin?provider="+p.Id, "same-origin"); res.StatusCode != http.StatusSeeOther || res.Header.Get("Location") != "/?sign-in=provider_unreachable" {
		t.Errorf("of a provider that is down: %s %s", res.Status, res.Header.Get("Location"))
	}
	for _, path := range []string{"/oidc/callback/" + p.Id + "?code=c&state=s", "/oidc/callback/nobody?code=c", "/oidc/callback/" + p.Id} {
		res := get(path, "cross-site", &http.Cookie{Name: "__Host-loopback-oidc", Value: "noise"})
		if res.Header.Get("Location") != "/?sign-in=sign_in_state" {
			t.Errorf("%s: %s %s", path, res.Status, res.Header.Get("Location"))
		}
		for _, c := range res.Cookies() {
			if c.Name == "__Host-loopback" || c.MaxAge >= 0 {
				t.Errorf("%s: the cookie %v was set", path, c)
			}
		}
	}
}

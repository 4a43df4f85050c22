package provider_test

import (
	"crypto/tls"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/loopbackd/loopback/access"
	"github.com/loopbackd/loopback/id"
	"github.com/loopbackd/loopback/principal"
	"github.com/loopbackd/loopback/provider"
	slice "github.com/loopbackd/loopback/server/provider"
	"github.com/loopbackd/loopback/server/storage"
	"github.com/loopbackd/loopback/tenant"
)

func insecure() http.RoundTripper {
	return &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}} // the test plays a browser that trusts the provider
}

// says lets somebody in of whom the provider says this.
func (b *bench) says(t *testing.T, f *forger, p provider.Provider, claims map[string]any) (slice.Came, error) {
	t.Helper()
	asked, kept := b.journey(t, p)
	return b.back(t, f, p, asked, kept, claims)
}

// back ends a journey with what the provider says.
func (b *bench) back(t *testing.T, f *forger, p provider.Provider, asked url.Values, kept string, claims map[string]any) (slice.Came, error) {
	t.Helper()
	now := b.clock.Now()
	all := map[string]any{"iss": f.URL, "aud": "loopback", "sub": "s", "nonce": asked.Get("nonce"), "iat": now.Unix(), "exp": now.Add(time.Minute).Unix()}
	for k, v := range claims {
		all[k] = v
	}
	f.answer = func() (int, string) { return 200, signed(t, jose.ES256, f.keys["k1"], "k1", all) }
	return b.Finish(t.Context(), p.ID, kept, url.Values{"code": {"c"}, "state": {asked.Get("state")}})
}

type claims = map[string]any

func TestWhoIsLetInTheFirstTime(t *testing.T) {
	f := forge(t)
	b := open(t)
	yes, domains := true, []string{"example.com"}
	none := b.provider(t, f.URL, f.ca(), nil)
	some := b.provider(t, f.URL, f.ca(), func(x *fields) { x.CreateUsers, x.Domains = &yes, &domains })
	any := b.provider(t, f.URL, f.ca(), func(x *fields) { x.CreateUsers = &yes })
	for name, c := range map[string]struct {
		p     provider.Provider
		says  claims
		want  string
		name  string
		email string
	}{
		"the provider makes no users":                 {none, claims{"sub": "a"}, "user_unknown", "", ""},
		"a verified address of the domain":            {some, claims{"sub": "b", "email": "Ada@Example.com", "email_verified": true}, "", "ada", "Ada@Example.com"},
		"verified, as text":                           {some, claims{"sub": "c", "email": "bo@example.com", "email_verified": "true"}, "", "bo", "bo@example.com"},
		"an address that is not verified":             {some, claims{"sub": "d", "email": "eve@example.com"}, "email_unverified", "", ""},
		"a verified address of another domain":        {some, claims{"sub": "e", "email": "eve@evil.com", "email_verified": true}, "email_domain_denied", "", ""},
		"of a domain that ends like it":               {some, claims{"sub": "f", "email": "eve@notexample.com", "email_verified": true}, "email_domain_denied", "", ""},
		"with two @":                                  {some, claims{"sub": "g", "email": "eve@example.com@evil.com", "email_verified": true}, "email_domain_denied", "", ""},
		"an address that is none":                     {some, claims{"sub": "h", "email": "example.com", "email_verified": true}, "email_unverified", "", ""},
		"without an address, where none is asked for": {any, claims{"sub": "i", "preferred_username": "Grace Hopper"}, "", "grace-hopper", ""},
		"an unverified address is not kept":           {any, claims{"sub": "j", "preferred_username": "linus", "email": "root@example.com"}, "", "linus", ""},
		"without any name":                            {any, claims{"sub": "k", "preferred_username": "日本"}, "", "user", ""},
	} {
		t.Run(name, func(t *testing.T) {
			came, err := b.says(t, f, c.p, c.says)
			if code(err) != c.want {
				t.Fatalf("got %v, want %q", err, c.want)
			}
			if c.want != "" {
				return
			}
			u, err := b.db.View().Principal(t.Context(), came.User)
			if err != nil || u.Name != c.name || u.Email != c.email {
				t.Errorf("the user is %+v, %v; want %s %s", u, err, c.name, c.email)
			}
		})
	}
}

// An address or a name that somebody has here is no proof of being them.
func TestNobodyIsKnownByAddressOrName(t *testing.T) {
	f := forge(t)
	b := open(t)
	yes := true
	p := b.provider(t, f.URL, f.ca(), func(x *fields) { x.CreateUsers = &yes })
	admin := principal.Principal{Meta: tenant.Meta{ID: id.New("usr", noon), Name: "ada"}, Kind: access.User, Email: "ada@example.com"}
	put(t, b, func(tx *storage.Tx) error { _, err := tx.PutPrincipal(t.Context(), admin); return err })
	came, err := b.says(t, f, p, claims{"sub": "mallory", "email": "ada@example.com", "email_verified": true, "preferred_username": "ada"})
	if err != nil || came.User == admin.ID {
		t.Fatalf("came %+v, %v", came, err)
	}
	if u, err := b.db.View().Principal(t.Context(), came.User); err != nil || u.Name != "ada-2" {
		t.Errorf("the newcomer is %+v, %v", u, err)
	}
	// Linked by an owner, the subject is who it was linked to; and no longer once it was unlinked.
	if _, err := b.Link(owner(t.Context()), p.ID, "ada-at-work", admin.ID); err != nil {
		t.Fatal(err)
	}
	if came, err := b.says(t, f, p, claims{"sub": "ada-at-work"}); err != nil || came.User != admin.ID {
		t.Errorf("linked: %+v, %v", came, err)
	}
	if err := b.Unlink(owner(t.Context()), p.ID, "ada-at-work"); err != nil {
		t.Fatal(err)
	}
	if came, err := b.says(t, f, p, claims{"sub": "ada-at-work"}); err != nil || came.User == admin.ID {
		t.Errorf("unlinked: %+v, %v", came, err)
	}
}

func TestTheSecondFactorCountsWhereItIsTrusted(t *testing.T) {
	f := forge(t)
	b := open(t)
	yes, values := true, []string{"https://refeds.org/profile/mfa"}
	plain := b.provider(t, f.URL, f.ca(), func(x *fields) { x.CreateUsers = &yes })
	trusted := b.provider(t, f.URL, f.ca(), func(x *fields) { x.CreateUsers, x.TrustMFA = &yes, &yes })
	named := b.provider(t, f.URL, f.ca(), func(x *fields) { x.CreateUsers, x.TrustMFA, x.MFAValues = &yes, &yes, &values })
	at := noon.Add(-time.Minute)
	for name, c := range map[string]struct {
		p    provider.Provider
		says claims
		want time.Time
	}{
		"not trusted":                {plain, claims{"amr": []string{"mfa"}, "auth_time": at.Unix()}, time.Time{}},
		"trusted":                    {trusted, claims{"amr": []string{"pwd", "mfa"}, "auth_time": at.Unix()}, at},
		"without a second factor":    {trusted, claims{"amr": []string{"pwd"}, "auth_time": at.Unix()}, time.Time{}},
		"without a time":             {trusted, claims{"amr": []string{"mfa"}}, time.Time{}},
		"by acr":                     {named, claims{"acr": values[0], "auth_time": at.Unix()}, at},
		"by a value that is another": {named, claims{"amr": []string{"mfa"}, "auth_time": at.Unix()}, time.Time{}},
		"amr is no list":             {trusted, claims{"amr": "mfa", "auth_time": at.Unix()}, time.Time{}},
		"its clock is ahead":         {trusted, claims{"amr": []string{"mfa"}, "auth_time": noon.Add(30 * time.Second).Unix()}, noon},
	} {
		if came, err := b.says(t, f, c.p, c.says); err != nil || !came.MFAAt.Equal(c.want) {
			t.Errorf("%s: got %s, %v; want %s", name, came.MFAAt, err, c.want)
		}
	}
}

func TestGroupsThatDoNotFitATokenLetNobodyIn(t *testing.T) {
	f := forge(t)
	b := open(t)
	yes, claim := true, "groups"
	p := b.provider(t, f.URL, f.ca(), func(x *fields) { x.CreateUsers, x.GroupsClaim = &yes, &claim })
	for name, c := range map[string]claims{
		"named elsewhere":   {"_claim_names": claims{"groups": "src1"}},
		"only that it has":  {"hasgroups": "true"},
		"not a list at all": {"groups": 7},
	} {
		if _, err := b.says(t, f, p, c); code(err) != "provider_groups_incomplete" && code(err) != "provider_token_invalid" {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

func TestProvidersTakeEverything(t *testing.T) {
	b := open(t)
	issuer, client := "https://idp.example.com", "loopback"
	f := fields{Issuer: &issuer, ClientID: &client}
	p, err := b.Create(owner(t.Context()), "corp", f)
	if err != nil {
		t.Fatal(err)
	}
	as := func(list ...access.Permission) error {
		ctx := access.WithActor(t.Context(), access.GrantsAlone(access.Actor{Kind: access.APIKey, ID: "key_2", Grants: []access.Grant{{Permissions: list}}}))
		_, e1 := b.Create(ctx, "evil", f)
		_, e2 := b.Update(ctx, p.ID, f)
		_, e3 := b.Link(ctx, p.ID, "s", "usr_1")
		for _, e := range []error{e1, e2, e3, b.Delete(ctx, p.ID)} {
			if e == nil {
				t.Errorf("%v may set up providers", list)
			}
		}
		return e1
	}
	if err := as(provider.Create, provider.Read, provider.Update, provider.Delete); code(err) != "permission_denied" {
		t.Errorf("got %v", err)
	}
	for name, change := range map[string]func(*fields){
		"plain HTTP":     func(x *fields) { s := "http://idp.example.com"; x.Issuer = &s },
		"no client":      func(x *fields) { s := ""; x.ClientID = &s },
		"a bad CA":       func(x *fields) { s := "x"; x.CA = &s },
		"a bad domain":   func(x *fields) { x.Domains = &[]string{"@example.com"} },
		"groups nowhere": func(x *fields) { x.Groups = &map[string]string{"a": "grp_1"} },
	} {
		g := f
		change(&g)
		if _, err := b.Create(owner(t.Context()), "other", g); err == nil {
			t.Errorf("%s: was taken", name)
		}
	}
	other := "https://other.example.com"
	if _, err := b.Update(owner(t.Context()), p.ID, fields{Issuer: &other}); code(err) != "provider_issuer_fixed" {
		t.Errorf("another issuer: got %v", err)
	}
	off := true
	if _, err := b.Update(owner(t.Context()), "corp", fields{Disabled: &off}); err != nil {
		t.Error(err)
	}
	if _, _, err := b.Begin(t.Context(), p.ID, "/", ""); code(err) != "provider_disabled" {
		t.Errorf("disabled: got %v", err)
	}
	if shown, err := b.Offered(t.Context()); err != nil || len(shown) != 0 {
		t.Errorf("offered: %v, %v", shown, err)
	}
}

func TestTheWayBackStaysWithinTheConsole(t *testing.T) {
	for back, want := range map[string]string{
		"/hosts?q=a#b": "/hosts?q=a#b", "": "/", "hosts": "/", "//evil.example": "/", "/\\evil.example": "/", "https://evil.example/": "/", "/\t/evil.example": "/",
		"/%0d%0aSet-Cookie:x": "/%0d%0aSet-Cookie:x", "javascript:alert(1)": "/", "/" + strings.Repeat("x", 600): "/", "///evil.example": "/", "/a/..//evil.example": "/a/..//evil.example",
	} {
		if got := slice.Within(back); got != want {
			t.Errorf("%q: got %q, want %q", back, got, want)
		}
	}
}

package console

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/loopbackd/loopback/access"
	"github.com/loopbackd/loopback/fault"
)

// desk knows one key, and keeps which sign-ins are live.
type desk struct {
	live     []string
	from     string
	everyone bool
	down     error
}

func (d *desk) WithKey(ctx context.Context, key, _ string) (Begun, error) {
	d.from = access.ActorFrom(ctx).Address
	if d.down != nil {
		return Begun{}, d.down
	}
	if key != "lbk_good" {
		return Begun{}, fault.New(fault.Unauthenticated, "api_key_invalid", "no such key")
	}
	d.live = append(d.live, "lbs_"+strings.Repeat("x", len(d.live)+1))
	return Begun{Secret: d.live[len(d.live)-1], ExpiresAt: noon.Add(time.Hour)}, nil
}

func (d *desk) WithPasskey(ctx context.Context, ceremony, response, agent string) (Begun, error) {
	if ceremony != "begun" || response != "{}" {
		return Begun{}, fault.New(fault.Unauthenticated, "passkey_invalid", "no such passkey")
	}
	return d.WithKey(ctx, "lbk_good", agent)
}

func (d *desk) WithInvitation(ctx context.Context, invitation, ceremony, response, name, agent string) (Begun, error) {
	if invitation != "lbi_good" || name != "laptop" {
		return Begun{}, fault.New(fault.Unauthenticated, "invitation_invalid", "no such invitation")
	}
	return d.WithPasskey(ctx, ceremony, response, agent)
}

func (d *desk) End(_ context.Context, secret string, everywhere bool) error {
	if d.down != nil {
		return d.down
	}
	d.everyone = everywhere
	d.live = slices.DeleteFunc(d.live, func(s string) bool { return s == secret || everywhere })
	return nil
}

func (d *desk) Replace(ctx context.Context, secret string) error { return d.End(ctx, secret, false) }

var noon = time.Unix(1_800_000_000, 0)

func sessions(d *desk) *Sessions {
	return NewSessions(d, func(*http.Request) netip.Addr { return netip.MustParseAddr("192.0.2.7") }, func() time.Time { return noon })
}

func request(method, path, body string, cookies ...*http.Cookie) *http.Request {
	r := httptest.NewRequest(method, "https://cp.example.com"+path, strings.NewReader(body))
	r.Header.Set("Sec-Fetch-Site", "same-origin")
	for _, c := range cookies {
		r.AddCookie(c)
	}
	return r
}

func signedIn(t *testing.T, s *Sessions, held ...*http.Cookie) *http.Cookie {
	t.Helper()
	w := httptest.NewRecorder()
	s.ServeHTTP(w, request("POST", "/session", `{"key":" lbk_good\n"}`, held...))
	if w.Code != http.StatusNoContent || len(w.Result().Cookies()) != 1 {
		t.Fatalf("signing in: %d %s", w.Code, w.Body)
	}
	return w.Result().Cookies()[0]
}

// presented is the credential that the API is shown.
func presented(s *Sessions, r *http.Request) (credential string) {
	s.Wrap(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { credential = r.Header.Get("Authorization") })).ServeHTTP(httptest.NewRecorder(), r)
	return credential
}

func TestACookieHoldsTheSignInAndNoScriptReadsIt(t *testing.T) {
	d := &desk{}
	s := sessions(d)
	cookie := signedIn(t, s)
	if !cookie.HttpOnly || !cookie.Secure || cookie.SameSite != http.SameSiteStrictMode || cookie.Path != "/" || cookie.Domain != "" ||
		!strings.HasPrefix(cookie.Name, "__Host-") || cookie.Value != "lbs_x" || cookie.MaxAge != 3600 {
		t.Errorf("cookie %v", cookie)
	}
	if d.from != "192.0.2.7" {
		t.Errorf("it began from %q", d.from)
	}
	if got := presented(s, request("POST", "/api/x", "", cookie)); got != "Bearer lbs_x" {
		t.Errorf("the API was shown %q", got)
	}
	own := request("POST", "/api/x", "", cookie)
	own.Header.Set("Authorization", "Bearer lbk_other")
	if got := presented(s, own); got != "Bearer lbk_other" {
		t.Errorf("a request with a credential of its own: the API was shown %q", got)
	}
}

// Session fixation: what a browser held before, whoever put it there, is not what it holds afterwards, and opens nothing.
func TestSigningInGivesANewCookieAndEndsTheOld(t *testing.T) {
	d := &desk{}
	s := sessions(d)
	first := signedIn(t, s)
	second := signedIn(t, s, first)
	if second.Value == first.Value || slices.Contains(d.live, first.Value) || !slices.Contains(d.live, second.Value) {
		t.Errorf("the cookies are %q and %q; live are %v", first.Value, second.Value, d.live)
	}
	planted := &http.Cookie{Name: cookieName, Value: "lbs_planted"}
	if third := signedIn(t, s, planted); third.Value == planted.Value {
		t.Error("a cookie that somebody planted was taken over")
	}
}

func TestSigningOutEndsTheSignInAndTakesTheCookieBack(t *testing.T) {
	d := &desk{}
	s := sessions(d)
	for _, path := range []string{"/session", "/session?everywhere=true"} {
		cookie := signedIn(t, s)
		w := httptest.NewRecorder()
		s.ServeHTTP(w, request("DELETE", path, "", cookie))
		if got := w.Result().Cookies(); w.Code != http.StatusNoContent || len(d.live) != 0 || len(got) != 1 || got[0].MaxAge >= 0 || d.everyone != strings.Contains(path, "everywhere") {
			t.Errorf("%s: %d, cookies %v, live %v, everywhere %v", path, w.Code, got, d.live, d.everyone)
		}
	}
	cookie := signedIn(t, s)
	d.down = fault.New(fault.Unavailable, "database_unreachable", "the database is away")
	w := httptest.NewRecorder()
	if s.ServeHTTP(w, request("DELETE", "/session", "", cookie)); w.Code != http.StatusServiceUnavailable || len(w.Result().Cookies()) != 0 {
		t.Errorf("while the database is away: %d, cookies %v; want it said, and the cookie kept", w.Code, w.Result().Cookies())
	}
}

func TestOtherSitesCanDoNothing(t *testing.T) {
	d := &desk{}
	s := sessions(d)
	cookie := signedIn(t, s)
	for _, from := range []string{"cross-site", "same-site"} {
		for _, method := range []string{"POST", "DELETE"} {
			r := request(method, "/session", `{"key":"lbk_good"}`, cookie)
			r.Header.Set("Sec-Fetch-Site", from)
			w := httptest.NewRecorder()
			if s.ServeHTTP(w, r); w.Code != http.StatusForbidden || len(w.Result().Cookies()) != 0 || len(d.live) != 1 {
				t.Errorf("%s %s: %d %v", from, method, w.Code, w.Result().Cookies())
			}
		}
		r := request("POST", "/api/x", "", cookie)
		r.Header.Set("Sec-Fetch-Site", from)
		if got := presented(s, r); got != "" {
			t.Errorf("a %s call: the API was shown %q", from, got)
		}
	}
	old := request("POST", "/session", `{"key":"lbk_good"}`, cookie) // a browser that does not say where a request comes from
	old.Header.Del("Sec-Fetch-Site")
	old.Header.Set("Origin", "https://evil.example")
	w := httptest.NewRecorder()
	if s.ServeHTTP(w, old); w.Code != http.StatusForbidden {
		t.Errorf("an old browser on another site: %d", w.Code)
	}
}

func TestWhatIsNoKeyIsRefusedInTheApisWords(t *testing.T) {
	s := sessions(&desk{})
	for body, want := range map[string]int{`{"key":"lbk_bad"}`: 401, `{"key":""}`: 401, `{`: 400, strings.Repeat("x", 50000): 400, `{"passkey":{"ceremony":"other"}}`: 401, `{"invitation":"lbi_bad","passkey":{"ceremony":"begun"}}`: 401, `{"invitation":"lbi_good"}`: 401,
		`{"invitation":"lbi_good","passkey":{"ceremony":"begun","response":"{}","name":"laptop"}}`: 204, `{"passkey":{"ceremony":"begun","response":"{}"}}`: 204} {
		w := httptest.NewRecorder()
		if s.ServeHTTP(w, request("POST", "/session", body)); w.Code != want || want != 204 && (!strings.Contains(w.Body.String(), `"code":"`) || len(w.Result().Cookies()) != 0) {
			t.Errorf("%.20q: got %d %s, want %d", body, w.Code, w.Body, want)
		}
	}
	w := httptest.NewRecorder()
	if s.ServeHTTP(w, request("GET", "/session", "")); w.Code != http.StatusMethodNotAllowed {
		t.Errorf("GET: got %d", w.Code)
	}
	s = sessions(&desk{down: io.ErrUnexpectedEOF})
	w = httptest.NewRecorder()
	if s.ServeHTTP(w, request("POST", "/session", `{"key":"lbk_good"}`)); w.Code != 500 || strings.Contains(w.Body.String(), "EOF") {
		t.Errorf("a failure of ours: %d %s", w.Code, w.Body)
	}
}

package console

import (
	"compress/gzip"
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/loopbackd/loopback/access"
	"github.com/loopbackd/loopback/fault"
)

// keyring knows one key.
type keyring struct{}

func (keyring) Authenticate(_ context.Context, credential string, _ netip.Addr) (access.Actor, error) {
	if credential != "lbk_good" {
		return access.Actor{}, fault.New(fault.Unauthenticated, "api_key_invalid", "no such key")
	}
	return access.Actor{Kind: access.APIKey}, nil
}

type clock struct{ at time.Time }

func (c *clock) now() time.Time { return c.at }

func sessions(t *testing.T, secret string, c *clock) *Sessions {
	t.Helper()
	s, err := NewSessions([]byte(secret), keyring{}, func(*http.Request) netip.Addr { return netip.Addr{} }, c.now)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func request(method, path, body string, cookies ...*http.Cookie) *http.Request {
	r := httptest.NewRequest(method, "https://cp.example.com"+path, strings.NewReader(body))
	r.Header.Set("Sec-Fetch-Site", "same-origin")
	for _, c := range cookies {
		r.AddCookie(c)
	}
	return r
}

func signedIn(t *testing.T, s *Sessions) *http.Cookie {
	t.Helper()
	w := httptest.NewRecorder()
	s.ServeHTTP(w, request("POST", "/session", `{"key":" lbk_good\n"}`))
	if w.Code != http.StatusNoContent || len(w.Result().Cookies()) != 1 {
		t.Fatalf("signing in: %d %s", w.Code, w.Body)
	}
	return w.Result().Cookies()[0]
}

// presented is the credential that the API is shown.
func presented(s *Sessions, r *http.Request) (credential string, answer *http.Response) {
	w := httptest.NewRecorder()
	s.Wrap(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { credential = r.Header.Get("Authorization") })).ServeHTTP(w, r)
	return credential, w.Result()
}

func TestACookieStandsForTheKeyItWasMadeFrom(t *testing.T) {
	c := &clock{time.Unix(1_800_000_000, 0)}
	s := sessions(t, "pepper", c)
	cookie := signedIn(t, s)
	if !cookie.HttpOnly || !cookie.Secure || cookie.SameSite != http.SameSiteStrictMode || cookie.Path != "/" || strings.Contains(cookie.Value, "lbk_") {
		t.Errorf("cookie %v", cookie)
	}
	if got, _ := presented(s, request("POST", "/api/x", "", cookie)); got != "Bearer lbk_good" {
		t.Errorf("the API was shown %q", got)
	}
	if got, _ := presented(sessions(t, "pepper", c), request("POST", "/api/x", "", cookie)); got != "Bearer lbk_good" {
		t.Errorf("another replica: the API was shown %q", got)
	}
	own := request("POST", "/api/x", "", cookie)
	own.Header.Set("Authorization", "Bearer lbk_other")
	if got, _ := presented(s, own); got != "Bearer lbk_other" {
		t.Errorf("a request with a credential of its own: the API was shown %q", got)
	}
}

func TestCookiesOfOthersAreWorthNothing(t *testing.T) {
	c := &clock{time.Unix(1_800_000_000, 0)}
	s := sessions(t, "pepper", c)
	cookie := signedIn(t, s)
	altered := *cookie
	altered.Value = cookie.Value[:len(cookie.Value)-2] + "AA"
	for name, value := range map[string]*http.Cookie{
		"altered": &altered, "empty": {Name: cookieName, Value: ""}, "noise": {Name: cookieName, Value: "%%%"},
		"of another deployment": signedIn(t, sessions(t, "other", c)),
	} {
		got, answer := presented(s, request("POST", "/api/x", "", value))
		if got != "" {
			t.Errorf("%s: the API was shown %q", name, got)
		}
		if left := answer.Cookies(); len(left) != 1 || left[0].MaxAge >= 0 {
			t.Errorf("%s: the cookie was not taken back: %v", name, left)
		}
	}
}

func TestSessionsEnd(t *testing.T) {
	c := &clock{time.Unix(1_800_000_000, 0)}
	s := sessions(t, "pepper", c)
	cookie := signedIn(t, s)
	began := c.at
	// In use it lasts, renewed now and then.
	for c.at.Sub(began) < Absolute-time.Hour {
		c.at = c.at.Add(11 * time.Hour)
		if c.at.Sub(began) >= Absolute {
			break
		}
		got, answer := presented(s, request("POST", "/api/x", "", cookie))
		if got == "" {
			t.Fatalf("it ended after %s of use", c.at.Sub(began))
		}
		if renewed := answer.Cookies(); len(renewed) == 1 {
			cookie = renewed[0]
		}
	}
	c.at = began.Add(Absolute)
	if got, _ := presented(s, request("POST", "/api/x", "", cookie)); got != "" {
		t.Error("it outlived its longest time")
	}
	idle := signedIn(t, s)
	c.at = c.at.Add(Idle)
	if got, _ := presented(s, request("POST", "/api/x", "", idle)); got != "" {
		t.Error("it outlived its idle time")
	}
}

func TestOtherSitesCanDoNothing(t *testing.T) {
	s := sessions(t, "pepper", &clock{time.Unix(1_800_000_000, 0)})
	cookie := signedIn(t, s)
	for _, method := range []string{"POST", "DELETE"} {
		r := request(method, "/session", `{"key":"lbk_good"}`, cookie)
		r.Header.Set("Sec-Fetch-Site", "cross-site")
		w := httptest.NewRecorder()
		if s.ServeHTTP(w, r); w.Code != http.StatusForbidden || len(w.Result().Cookies()) != 0 {
			t.Errorf("%s from another site: %d %v", method, w.Code, w.Result().Cookies())
		}
	}
	r := request("POST", "/api/x", "", cookie)
	r.Header.Set("Sec-Fetch-Site", "cross-site")
	if got, _ := presented(s, r); got != "" {
		t.Errorf("a call from another site: the API was shown %q", got)
	}
}

func TestWhatIsNoKeyIsRefusedInTheApisWords(t *testing.T) {
	s := sessions(t, "pepper", &clock{time.Unix(1_800_000_000, 0)})
	for body, want := range map[string]int{`{"key":"lbk_bad"}`: 401, `{"key":""}`: 401, `{`: 400, strings.Repeat("x", 5000): 400} {
		w := httptest.NewRecorder()
		if s.ServeHTTP(w, request("POST", "/session", body)); w.Code != want || !strings.Contains(w.Body.String(), `"code":"`) {
			t.Errorf("%.20q: got %d %s, want %d", body, w.Code, w.Body, want)
		}
	}
	w := httptest.NewRecorder()
	if s.ServeHTTP(w, request("GET", "/session", "")); w.Code != http.StatusMethodNotAllowed {
		t.Errorf("GET: got %d", w.Code)
	}
}

func TestFilesAreServedByNameAndThePageElsewhere(t *testing.T) {
	files := fstest.MapFS{"index.html": {Data: []byte("<!doctype html>page")}, "assets/a-1.js": {Data: []byte("code")}, "icon.svg": {Data: []byte("<svg/>")}}
	h := Handler(files)
	get := func(path, accept string) *http.Response {
		r := httptest.NewRequest("GET", path, nil)
		r.Header.Set("Accept", accept)
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		return w.Result()
	}
	for _, path := range []string{"/", "/hosts", "/hosts/hst_1", "/index.html"} {
		a := get(path, "text/html,*/*")
		body, _ := io.ReadAll(a.Body)
		if a.StatusCode != 200 || !strings.Contains(string(body), "page") || !strings.Contains(a.Header.Get("Content-Security-Policy"), "script-src 'self'") || a.Header.Get("Cache-Control") != "no-cache" {
			t.Errorf("%s: %d %s %v", path, a.StatusCode, body, a.Header)
		}
	}
	if a := get("/assets/a-1.js", "*/*"); a.StatusCode != 200 || !strings.Contains(a.Header.Get("Content-Type"), "javascript") || !strings.Contains(a.Header.Get("Cache-Control"), "immutable") {
		t.Errorf("a script: %d %v", a.StatusCode, a.Header)
	}
	large := strings.Repeat("function f() { return 1 }\n", 200)
	packed := Handler(fstest.MapFS{"index.html": {Data: []byte("page")}, "assets/b-2.js": {Data: []byte(large)}})
	for header, want := range map[string]string{"br, gzip": "gzip", "gzip;q=0": "", "": "", "identity": ""} {
		r := httptest.NewRequest("GET", "/assets/b-2.js", nil)
		r.Header.Set("Accept-Encoding", header)
		w := httptest.NewRecorder()
		packed.ServeHTTP(w, r)
		body := io.Reader(w.Body)
		if want == "gzip" {
			z, err := gzip.NewReader(w.Body)
			if err != nil {
				t.Fatalf("%q: %v", header, err)
			}
			body = z
		}
		text, err := io.ReadAll(body)
		if err != nil || string(text) != large || w.Header().Get("Content-Encoding") != want || w.Header().Get("Vary") != "Accept-Encoding" {
			t.Errorf("%q: got %d bytes as %q, %v; want the script as %q", header, len(text), w.Header().Get("Content-Encoding"), err, want)
		}
	}
	for _, path := range []string{"/assets/gone.js", "/assets/", "/nothing.json"} {
		if a := get(path, "*/*"); a.StatusCode != 404 {
			t.Errorf("%s: got %d, want 404", path, a.StatusCode)
		}
	}
	unbuilt := httptest.NewRecorder()
	Handler(fstest.MapFS{}).ServeHTTP(unbuilt, httptest.NewRequest("GET", "/", nil))
	if !strings.Contains(unbuilt.Body.String(), "loopback token mint") {
		t.Error("without a built console there is no page that names the command line")
	}
}

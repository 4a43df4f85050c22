package wire

import (
	"crypto/md5"
	"crypto/sha256"
	"hash"
	"net/http"
	"net/http/httptest"
	"net/url"
	"reflect"
	"strings"
	"sync/atomic"
	"testing"
)

func TestChallengesAreReadFromAnyLine(t *testing.T) {
	got := challenges([]string{
		`Negotiate, Digest realm="a \"b\", c", nonce=xyz , qop="auth,auth-int",stale=TRUE, Basic realm="corp"`,
		`NTLM TlRMTVNTUAAC==, basic`,
		`Digest realm="never closed`,
	})
	want := []challenge{
		{"negotiate", map[string]string{}},
		{"digest", map[string]string{"realm": `a "b", c`, "nonce": "xyz", "qop": "auth,auth-int", "stale": "TRUE"}},
		{"basic", map[string]string{"realm": "corp"}},
		{"ntlm", nil}, // its token is nothing to us
		{"basic", map[string]string{}},
	}
	for i, w := range want {
		if i >= len(got) || got[i].scheme != w.scheme || w.params != nil && !reflect.DeepEqual(got[i].params, w.params) {
			t.Fatalf("challenge %d: got %v, want %v", i, got, w)
		}
	}
}

func FuzzChallenges(f *testing.F) {
	f.Add(`Digest realm="a", nonce=b, qop="auth", Basic realm="c"`)
	f.Add(`Negotiate abc==, Digest realm="\"`)
	f.Fuzz(func(t *testing.T, line string) {
		for _, c := range challenges([]string{line, line}) {
			if c.scheme == "" || c.scheme != strings.ToLower(c.scheme) {
				t.Fatalf("%q: scheme %q", line, c.scheme)
			}
		}
		if a := authorization(challenges([]string{line}), url.UserPassword("u\"ser", "p"), "CONNECT", "h:1"); strings.ContainsAny(a, "\r\n") {
			t.Fatalf("%q: the answer breaks the line: %q", line, a)
		}
	})
}

// The examples of RFC 7616, 3.9.1, and RFC 2617, 3.5.
func TestDigestsAreThoseOfTheStandard(t *testing.T) {
	p := map[string]string{"realm": "http-auth@example.org", "nonce": "7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v", "qop": "auth, auth-int", "opaque": "FQhe/qaU925kfnzjCev0ciny7QMkPqMAFRtzCUYo5tdS"}
	for algorithm, want := range map[string]string{
		"MD5":     "8ca523f5e9506fed4657c9700eebdbec",
		"SHA-256": "753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1",
	} {
		hashing := map[string]func() hash.Hash{"MD5": md5.New, "SHA-256": sha256.New}[algorithm]
		got := digest(p, algorithm, hashing, false, "Mufasa", "Circle of Life", "GET", "/dir/index.html", "f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ")
		for _, part := range []string{`response="` + want + `"`, `username="Mufasa"`, "qop=auth,", "nc=00000001", "algorithm=" + algorithm, `opaque="FQhe/qaU925kfnzjCev0ciny7QMkPqMAFRtzCUYo5tdS"`} {
			if !strings.Contains(got, part) {
				t.Errorf("%s: got %s, want %s in it", algorithm, got, part)
			}
		}
	}
	old := map[string]string{"realm": "testrealm@host.com", "nonce": "dcd98b7102dd2f0e8b11d0f600bfb0c093", "qop": "auth"}
	if got := digest(old, "MD5", md5.New, false, "Mufasa", "Circle Of Life", "GET", "/dir/index.html", "0a4f113b"); !strings.Contains(got, `response="6629fae49393a05397450978507c4ef1"`) {
		t.Errorf("RFC 2617: got %s", got)
	}
}

func TestTheStrongestChallengeIsAnswered(t *testing.T) {
	user := url.UserPassword("u", "secret")
	for line, want := range map[string]string{
		`Basic realm="x"`: "Basic dTpzZWNyZXQ=",
		`Basic realm="x", Digest realm="x", nonce="n", qop="auth"`:                                               "Digest ",
		`Digest realm="x", nonce="n", algorithm=MD5, Digest realm="x", nonce="n", algorithm=SHA-256, qop="auth"`: "algorithm=SHA-256",
		`Digest realm="x", nonce="n", algorithm=SHA-512-256, qop="auth", Basic realm="x"`:                        "Basic ",
		`Digest realm="x", nonce="n", qop="auth-int"`:                                                            "",
		`Digest realm="x", nonce="n", algorithm=MD5-sess, qop="auth"`:                                            "algorithm=MD5-sess",
		`Negotiate`: "",
	} {
		got := authorization(challenges([]string{line}), user, "CONNECT", "cp:443")
		if !strings.Contains(got, want) || want == "" && got != "" {
			t.Errorf("%s: answered %q, want %q", line, got, want)
		}
		if strings.HasPrefix(got, "Digest") && strings.Contains(got, "secret") {
			t.Errorf("%s: the password is in the answer", line)
		}
	}
}

// A nonce that has grown old is asked for again; a wrong password is not tried for ever.
func TestAProxyIsAnsweredOnceAndOnceMoreWhereItsQuestionWasStale(t *testing.T) {
	for name, test := range map[string]struct {
		answers []string // challenge by request; "" lets through
		code    string
		asked   int32
	}{
		"let through":      {[]string{`Basic realm="x"`, ""}, "", 2},
		"stale":            {[]string{`Digest realm="x", nonce="a", qop="auth"`, `Digest realm="x", nonce="b", qop="auth", stale=true`, ""}, "", 3},
		"stale for ever":   {[]string{`Digest realm="x", nonce="a", stale=true`, `Digest realm="x", nonce="a", stale=true`, `Digest realm="x", nonce="a", stale=true`, ""}, "proxy_auth_required", 3},
		"a wrong password": {[]string{`Basic realm="x"`, `Basic realm="x"`, ""}, "proxy_auth_required", 2},
	} {
		t.Run(name, func(t *testing.T) {
			server := newControl(t, echo)
			var asked atomic.Int32
			through := tunnel(t, "", "", new(atomic.Int64))
			proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				n := asked.Add(1)
				if r.Method != http.MethodConnect {
					t.Errorf("got %s, want CONNECT", r.Method)
				}
				if n == 1 && r.Header.Get("Proxy-Authorization") != "" {
					t.Error("the password was told before the proxy asked")
				}
				if want := test.answers[n-1]; want != "" {
					w.Header().Set("Proxy-Authenticate", want)
					w.WriteHeader(http.StatusProxyAuthRequired)
					return
				}
				through(w, r)
			}))
			t.Cleanup(proxy.Close)
			u, err := url.Parse(proxy.URL)
			if err != nil {
				t.Fatal(err)
			}
			u.User = url.UserPassword("user", "secret")
			d := server.dialer(WebSocket)
			d.Proxy = http.ProxyURL(u)
			c, err := d.Dial(t.Context())
			if test.code == "" {
				if err != nil {
					t.Fatal(err)
				}
				_ = c.Close()
			} else {
				wantCode(t, "dialling", err, test.code)
			}
			if got := asked.Load(); got != test.asked {
				t.Errorf("the proxy was asked %d times, want %d", got, test.asked)
			}
		})
	}
}

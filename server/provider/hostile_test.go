package provider_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/loopbackd/loopback/provider"
)

// forger is a provider that says whatever it is told to say: the real ones do not lie well enough.
type forger struct {
	*httptest.Server
	mu     sync.Mutex
	keys   map[string]*ecdsa.PrivateKey // published, by kid
	issuer string                       // in its description; empty: its own
	answer func() (status int, idToken string)
	asked  url.Values // of the last token request
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func forge(t *testing.T) *forger {
	t.Helper()
	f := &forger{keys: map[string]*ecdsa.PrivateKey{"k1": newKey(t)}}
	write := func(w http.ResponseWriter, v any) {
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(v)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/.well-known/openid-configuration", func(w http.ResponseWriter, _ *http.Request) {
		f.mu.Lock()
		issuer := f.issuer
		f.mu.Unlock()
		if issuer == "" {
			issuer = f.URL
		}
		write(w, map[string]any{"issuer": issuer, "authorization_endpoint": f.URL + "/auth", "token_endpoint": f.URL + "/token", "jwks_uri": f.URL + "/keys",
			"id_token_signing_alg_values_supported": []string{"ES256", "HS256", "none"}})
	})
	mux.HandleFunc("/keys", func(w http.ResponseWriter, _ *http.Request) {
		f.mu.Lock()
		defer f.mu.Unlock()
		var set jose.JSONWebKeySet
		for kid, k := range f.keys {
			set.Keys = append(set.Keys, jose.JSONWebKey{Key: k.Public(), KeyID: kid, Algorithm: "ES256", Use: "sig"})
		}
		write(w, set)
	})
	mux.HandleFunc("/token", func(w http.ResponseWriter, r *http.Request) {
		_ = r.ParseForm()
		f.mu.Lock()
		f.asked = r.PostForm
		answer := f.answer
		f.mu.Unlock()
		status, token := answer()
		if status != http.StatusOK {
			w.WriteHeader(status)
			return
		}
		write(w, map[string]any{"access_token": "a", "token_type": "Bearer", "expires_in": 60, "id_token": token})
	})
	f.Server = httptest.NewTLSServer(mux)
	t.Cleanup(f.Close)
	return f
}

func (f *forger) ca() string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: f.Certificate().Raw}))
}

func signed(t *testing.T, alg jose.SignatureAlgorithm, key any, kid string, claims map[string]any) string {
	t.Helper()
	s, err := jose.NewSigner(jose.SigningKey{Algorithm: alg, Key: jose.JSONWebKey{Key: key, KeyID: kid}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	plain, err := json.Marshal(claims)
	if err != nil {
		t.Fatal(err)
	}
	o, err := s.Sign(plain)
	if err != nil {
		t.Fatal(err)
	}
	text, err := o.CompactSerialize()
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// journey begins a sign-in and says what the provider was told.
func (b *bench) journey(t *testing.T, p provider.Provider) (asked url.Values, kept string) {
	t.Helper()
	to, kept, err := b.Begin(t.Context(), p.ID, "/hosts", "")
	if err != nil {
		t.Fatal(err)
	}
	u, err := url.Parse(to)
	if err != nil {
		t.Fatal(err)
	}
	return u.Query(), kept
}

// What a provider says is believed only where every part of it is right. Each case spoils one part of a token that is.
func TestWhatIsNotBelieved(t *testing.T) {
	f := forge(t)
	b := open(t)
	yes := true
	p := b.provider(t, f.URL, f.ca(), func(x *fields) { x.CreateUsers = &yes })
	stranger := newKey(t)
	for name, c := range map[string]struct {
		spoil func(claims map[string]any)
		sign  func(claims map[string]any) string // nil: as it should be
		want  string
	}{
		"nothing spoilt":          {want: ""},
		"a minute late":           {spoil: func(c map[string]any) { c["exp"] = noon.Add(-50 * time.Second).Unix() }, want: ""},
		"a minute early":          {spoil: func(c map[string]any) { c["iat"] = noon.Add(50 * time.Second).Unix() }, want: ""},
		"expired":                 {spoil: func(c map[string]any) { c["exp"] = noon.Add(-2 * time.Minute).Unix() }, want: "provider_token_invalid"},
		"issued in the future":    {spoil: func(c map[string]any) { c["iat"] = noon.Add(2 * time.Minute).Unix() }, want: "provider_token_invalid"},
		"not valid yet":           {spoil: func(c map[string]any) { c["nbf"] = noon.Add(10 * time.Minute).Unix() }, want: "provider_token_invalid"},
		"signed in in the future": {spoil: func(c map[string]any) { c["auth_time"] = noon.Add(2 * time.Minute).Unix() }, want: "provider_token_invalid"},
		"another nonce":           {spoil: func(c map[string]any) { c["nonce"] = "other" }, want: "provider_token_invalid"},
		"no nonce":                {spoil: func(c map[string]any) { delete(c, "nonce") }, want: "provider_token_invalid"},
		"another audience":        {spoil: func(c map[string]any) { c["aud"] = "other" }, want: "provider_token_invalid"},
		"among audiences, for another": {spoil: func(c map[string]any) {
			c["aud"] = []string{"loopback", "other"}
			c["azp"] = "other"
		}, want: "provider_token_invalid"},
		"among audiences, for nobody": {spoil: func(c map[string]any) { c["aud"] = []string{"loopback", "other"} }, want: "provider_token_invalid"},
		"another issuer":              {spoil: func(c map[string]any) { c["iss"] = "https://evil.example" }, want: "provider_token_invalid"},
		"no subject":                  {spoil: func(c map[string]any) { delete(c, "sub") }, want: "provider_token_invalid"},
		"another's signature":         {sign: func(c map[string]any) string { return signed(t, jose.ES256, stranger, "k1", c) }, want: "provider_token_invalid"},
		"signed with the client's secret": {sign: func(c map[string]any) string {
			return signed(t, jose.HS256, []byte("client-secret-of-enough-bytes-for-hs256!"), "k1", c)
		}, want: "provider_token_invalid"},
		"not signed at all": {sign: func(c map[string]any) string {
			plain, _ := json.Marshal(c)
			return base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none"}`)) + "." + base64.RawURLEncoding.EncodeToString(plain) + "."
		}, want: "provider_token_invalid"},
		"altered after it was signed": {sign: func(c map[string]any) string {
			parts := strings.Split(signed(t, jose.ES256, f.keys["k1"], "k1", c), ".")
			c["sub"] = "admin"
			plain, _ := json.Marshal(c)
			return parts[0] + "." + base64.RawURLEncoding.EncodeToString(plain) + "." + parts[2]
		}, want: "provider_token_invalid"},
		"no token": {sign: func(map[string]any) string { return "" }, want: "provider_token_invalid"},
		"noise":    {sign: func(map[string]any) string { return "a.b.c" }, want: "provider_token_invalid"},
	} {
		t.Run(name, func(t *testing.T) {
			asked, kept := b.journey(t, p)
			claims := map[string]any{"iss": f.URL, "aud": "loopback", "sub": "s-1", "nonce": asked.Get("nonce"), "iat": noon.Unix(), "exp": noon.Add(time.Minute).Unix()}
			if c.spoil != nil {
				c.spoil(claims)
			}
			f.answer = func() (int, string) {
				if c.sign != nil {
					return http.StatusOK, c.sign(claims)
				}
				return http.StatusOK, signed(t, jose.ES256, f.keys["k1"], "k1", claims)
			}
			_, err := b.Finish(t.Context(), p.ID, kept, url.Values{"code": {"c"}, "state": {asked.Get("state")}})
			if got := code(err); got != c.want {
				t.Errorf("got %q (%v), want %q", got, err, c.want)
			}
		})
	}
	if f.asked.Get("code_verifier") == "" || f.asked.Get("redirect_uri") != "https://cp.example.com/oidc/callback/"+p.ID {
		t.Errorf("the provider was asked %v", f.asked)
	}
}

// A browser finishes only what it began, where it began it, in time.
func TestTheWayBackIsTheOneThatWasTaken(t *testing.T) {
	f, g := forge(t), forge(t)
	b := open(t)
	yes := true
	p := b.provider(t, f.URL, f.ca(), func(x *fields) { x.CreateUsers = &yes })
	other := b.provider(t, g.URL, g.ca(), func(x *fields) { x.CreateUsers = &yes })
	asked, kept := b.journey(t, p)
	_, another := b.journey(t, p)
	f.answer = func() (int, string) {
		return 200, signed(t, jose.ES256, f.keys["k1"], "k1", map[string]any{"iss": f.URL, "aud": "loopback", "sub": "s", "nonce": asked.Get("nonce"), "iat": noon.Unix(), "exp": noon.Add(time.Minute).Unix()})
	}
	g.answer = f.answer
	good := url.Values{"code": {"c"}, "state": {asked.Get("state")}}
	for name, c := range map[string]struct {
		at, kept string
		q        url.Values
		want     string
	}{
		"nothing was begun here (login CSRF)": {p.ID, "", good, "sign_in_state"},
		"something else was begun here":       {p.ID, another, good, "sign_in_state"},
		"the cookie was altered":              {p.ID, kept[:len(kept)-4] + "AAAA", good, "sign_in_state"},
		"no state":                            {p.ID, kept, url.Values{"code": {"c"}}, "sign_in_state"},
		"another provider answers (mix-up)":   {other.ID, kept, good, "sign_in_state"},
		"the answer names another issuer":     {p.ID, kept, url.Values{"code": {"c"}, "state": good["state"], "iss": {g.URL}}, "provider_token_invalid"},
		"the provider refuses":                {p.ID, kept, url.Values{"error": {"access_denied"}, "state": good["state"]}, "provider_refused"},
	} {
		if _, err := b.Finish(t.Context(), c.at, c.kept, c.q); code(err) != c.want {
			t.Errorf("%s: got %v, want %s", name, err, c.want)
		}
	}
	if came, err := b.Finish(t.Context(), p.ID, kept, good); err != nil || came.Back != "/hosts" {
		t.Errorf("the right way: got %+v, %v", came, err)
	}
	b.clock.Advance(11 * time.Minute)
	if _, err := b.Finish(t.Context(), p.ID, kept, good); code(err) != "sign_in_state" {
		t.Errorf("too late: got %v", err)
	}
}

func TestAProviderThatIsDownOrLies(t *testing.T) {
	f := forge(t)
	b := open(t)
	yes := true
	p := b.provider(t, f.URL, f.ca(), func(x *fields) { x.CreateUsers = &yes })
	f.mu.Lock()
	f.issuer = "https://evil.example"
	f.mu.Unlock()
	if _, _, err := b.Begin(t.Context(), p.ID, "/", ""); code(err) != "provider_unreachable" {
		t.Errorf("its description is of another issuer: got %v", err)
	}
	f.mu.Lock()
	f.issuer = ""
	f.mu.Unlock()
	asked, kept := b.journey(t, p)
	good := url.Values{"code": {"c"}, "state": {asked.Get("state")}}
	f.answer = func() (int, string) { return http.StatusBadGateway, "" }
	if _, err := b.Finish(t.Context(), p.ID, kept, good); code(err) != "provider_unreachable" {
		t.Errorf("it fails: got %v", err)
	}
	f.answer = func() (int, string) { return http.StatusBadRequest, "" }
	if _, err := b.Finish(t.Context(), p.ID, kept, good); code(err) != "provider_token_invalid" {
		t.Errorf("it does not know the code: got %v", err)
	}
	f.Close()
	if _, err := b.Finish(t.Context(), p.ID, kept, good); code(err) != "provider_unreachable" {
		t.Errorf("it is down: got %v", err)
	}
	b.clock.Advance(2 * time.Hour) // what it said of itself is forgotten
	if _, _, err := b.Begin(t.Context(), p.ID, "/", ""); code(err) != "provider_unreachable" {
		t.Errorf("it is down before anybody leaves: got %v", err)
	}
}

func TestNewKeysOfAProviderAreFetched(t *testing.T) {
	f := forge(t)
	b := open(t)
	yes := true
	p := b.provider(t, f.URL, f.ca(), func(x *fields) { x.CreateUsers = &yes })
	in := func(kid string) error {
		asked, kept := b.journey(t, p)
		f.answer = func() (int, string) {
			return 200, signed(t, jose.ES256, f.keys[kid], kid, map[string]any{"iss": f.URL, "aud": "loopback", "sub": "s", "nonce": asked.Get("nonce"), "iat": noon.Unix(), "exp": noon.Add(time.Minute).Unix()})
		}
		_, err := b.Finish(t.Context(), p.ID, kept, url.Values{"code": {"c"}, "state": {asked.Get("state")}})
		return err
	}
	if err := in("k1"); err != nil {
		t.Fatal(err)
	}
	f.mu.Lock()
	old := f.keys["k1"]
	f.keys = map[string]*ecdsa.PrivateKey{"k2": newKey(t)}
	f.mu.Unlock()
	if err := in("k2"); err != nil {
		t.Errorf("with the new key: got %v", err)
	}
	asked, kept := b.journey(t, p)
	f.answer = func() (int, string) {
		return 200, signed(t, jose.ES256, old, "k1", map[string]any{"iss": f.URL, "aud": "loopback", "sub": "s", "nonce": asked.Get("nonce"), "iat": noon.Unix(), "exp": noon.Add(time.Minute).Unix()})
	}
	if _, err := b.Finish(t.Context(), p.ID, kept, url.Values{"code": {"c"}, "state": {asked.Get("state")}}); code(err) != "provider_token_invalid" {
		t.Errorf("with the key that was withdrawn: got %v", err)
	}
}

package provider

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/oauth2"

	"github.com/loopbackd/loopback/access"
	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/provider"
)

// Bounds of a sign-in on its way.
const (
	Patience   = 10 * time.Minute // for the way to the provider and back
	callTime   = 10 * time.Second // for each call to the provider
	maxAnswer  = 1 << 20          // bytes of each answer of it
	knownFor   = time.Hour        // then its description is read again
	maxBack    = 512
	stateName  = "state"
	randomSize = 32
)

// algorithms are the signatures that count: never none, and none with a secret that both sides know.
var algorithms = []string{oidc.RS256, oidc.RS384, oidc.RS512, oidc.PS256, oidc.PS384, oidc.PS512, oidc.ES256, oidc.ES384, oidc.ES512, oidc.EdDSA}

// state is what the browser keeps of a sign-in on its way, sealed.
type state struct {
	Provider string `json:"p"`
	State    string `json:"s"`
	Nonce    string `json:"n"`
	Verifier string `json:"v"`
	Back     string `json:"b"`
	Held     string `json:"h,omitempty"` // the sign-in that the browser had
	Invited  string `json:"i,omitempty"` // the string of the invitation that they come by
	Until    int64  `json:"u"`
}

// known is what a provider says of itself.
type known struct {
	revision int64
	read     time.Time
	provider *oidc.Provider
	client   *http.Client
}

// limited reads no more of an answer than there can be in one.
type limited struct{ next http.RoundTripper }

func (l limited) RoundTrip(r *http.Request) (*http.Response, error) {
	res, err := l.next.RoundTrip(r)
	if err == nil {
		res.Body = struct {
			io.Reader
			io.Closer
		}{io.LimitReader(res.Body, maxAnswer), res.Body}
	}
	return res, err
}

func client(p provider.Provider) *http.Client {
	t := &tls.Config{MinVersion: tls.VersionTLS12}
	if p.CA != "" {
		t.RootCAs = x509.NewCertPool()
		t.RootCAs.AppendCertsFromPEM([]byte(p.CA)) // was checked when it was set
	}
	return &http.Client{Timeout: callTime, Transport: limited{&http.Transport{Proxy: http.ProxyFromEnvironment, TLSClientConfig: t, ForceAttemptHTTP2: true,
		TLSHandshakeTimeout: callTime, IdleConnTimeout: time.Minute}}}
}

// discover is what a provider says of itself; read again now and then, and when it was changed here.
func (s *Service) discover(ctx context.Context, p provider.Provider) (known, error) {
	now := s.options.Now()
	s.mu.Lock()
	k, ok := s.known[p.ID]
	s.mu.Unlock()
	if ok && k.revision == p.Revision && now.Sub(k.read) < knownFor && !now.Before(k.read) {
		return k, nil
	}
	k = known{revision: p.Revision, read: now, client: client(p)}
	// The keys that are fetched later live as long as this does, not as the call.
	long := oidc.ClientContext(context.WithoutCancel(ctx), k.client)
	var err error
	if k.provider, err = oidc.NewProvider(long, p.Issuer); err != nil {
		s.options.Logger.WarnContext(ctx, "an identity provider cannot be used", "provider", p.Name, "error", err)
		return known{}, provider.ErrUnreachable.WithCause(err)
	}
	s.mu.Lock()
	s.known[p.ID] = k
	s.mu.Unlock()
	return k, nil
}

func (s *Service) config(p provider.Provider, k known) (*oauth2.Config, error) {
	secret := []byte(nil)
	if len(p.Sealed) > 0 {
		var ok bool
		if secret, ok = s.open(p.ID, p.Sealed); !ok {
			return nil, fault.New(fault.Precondition, "provider_secret_lost", "the provider's client secret cannot be opened: it was sealed with another key").
				WithHint("an administrator sets it again: loopback provider update --secret-file")
		}
	}
	return &oauth2.Config{ClientID: p.ClientID, ClientSecret: string(secret), Endpoint: k.provider.Endpoint(),
		RedirectURL: s.ReturnURL(p.ID), Scopes: append([]string{oidc.ScopeOpenID}, p.Scopes...)}, nil
}

// ReturnURL is where a provider sends people back to; it has to know this address.
func (s *Service) ReturnURL(providerID string) string {
	return s.options.PublicURL + "/oidc/callback/" + providerID
}

func random() string {
	b := make([]byte, randomSize)
	rand.Read(b)
	return base64.RawURLEncoding.EncodeToString(b)
}

// Begin is where the browser goes to, and what it keeps until it comes back. back is where in the console it goes then; held is
// the sign-in that it has.
func (s *Service) Begin(ctx context.Context, providerID, back, held string) (to, kept string, err error) {
	return s.begin(ctx, state{Provider: providerID, Back: Within(back), Held: held})
}

// BeginInvited is Begin for who comes by an invitation, which the caller found to work: its string goes along, sealed, and is used
// when they are back as whom it is for.
func (s *Service) BeginInvited(ctx context.Context, providerID, invitation string) (to, kept string, err error) {
	return s.begin(ctx, state{Provider: providerID, Back: "/", Invited: invitation})
}

func (s *Service) begin(ctx context.Context, st state) (to, kept string, err error) {
	providerID := st.Provider
	p, err := s.store.View().Provider(ctx, providerID)
	if fault.KindOf(err) == fault.NotFound {
		return "", "", access.NotFound("provider " + providerID)
	}
	if err != nil {
		return "", "", err
	}
	if p.Disabled {
		return "", "", provider.ErrDisabled
	}
	k, err := s.discover(ctx, p)
	if err != nil {
		return "", "", err
	}
	config, err := s.config(p, k)
	if err != nil {
		return "", "", err
	}
	st.Provider, st.State, st.Nonce, st.Verifier, st.Until = p.ID, random(), random(), oauth2.GenerateVerifier(), s.options.Now().Add(Patience).Unix()
	plain, err := json.Marshal(st)
	if err != nil {
		return "", "", err
	}
	return config.AuthCodeURL(st.State, oidc.Nonce(st.Nonce), oauth2.S256ChallengeOption(st.Verifier)),
		base64.RawURLEncoding.EncodeToString(s.sealed(stateName, plain)), nil
}

// Within is a place in the console, whatever was asked for: "/" instead of what leads elsewhere.
func Within(back string) string {
	u, err := url.Parse(back)
	if err != nil || len(back) > maxBack || !strings.HasPrefix(back, "/") || u.Scheme != "" || u.Host != "" || u.User != nil ||
		strings.HasPrefix(back, "//") || strings.ContainsAny(back, "\\\r\n\t") || strings.HasPrefix(path.Clean(u.Path), "//") {
		return "/"
	}
	return back
}

// Came is who came back from a provider.
type Came struct {
	User     string // id
	Provider string
	ProvedAt time.Time // when they showed the provider who they are
	MFAAt    time.Time // zero: no second factor that counts
	Back     string
	Held     string
}

// Finish finds out who came back. The provider's id is from the address that they came back to, kept is what the browser
// kept, and q what the provider sent along. Back and Held are there whenever the browser kept them.
func (s *Service) Finish(ctx context.Context, providerID, kept string, q url.Values) (came Came, err error) {
	came = Came{Provider: providerID, Back: "/"}
	st, ok := s.kept(kept)
	if !ok || st.Provider != providerID || !hmac.Equal([]byte(st.State), []byte(q.Get("state"))) {
		return came, provider.ErrState
	}
	came.Back, came.Held = st.Back, st.Held
	p, err := s.store.View().Provider(ctx, providerID)
	if fault.KindOf(err) == fault.NotFound {
		return came, provider.ErrState
	}
	if err != nil {
		return came, err
	}
	if p.Disabled {
		return came, provider.ErrDisabled
	}
	// Which provider answers, where it says so (RFC 9207).
	if iss := q.Get("iss"); iss != "" && iss != p.Issuer {
		return came, s.disbelieved(ctx, p, errors.New("the answer is from issuer "+iss))
	}
	if q.Get("error") != "" || q.Get("code") == "" {
		s.options.Logger.InfoContext(ctx, "an identity provider let somebody not in", "provider", p.Name, "error", q.Get("error"), "description", q.Get("error_description"))
		return came, provider.ErrRefused
	}
	k, err := s.discover(ctx, p)
	if err != nil {
		return came, err
	}
	config, err := s.config(p, k)
	if err != nil {
		return came, err
	}
	calling := oidc.ClientContext(ctx, k.client)
	token, err := config.Exchange(calling, q.Get("code"), oauth2.VerifierOption(st.Verifier))
	if err != nil {
		var answered *oauth2.RetrieveError
		if errors.As(err, &answered) && answered.Response != nil && answered.Response.StatusCode < 500 {
			return came, s.disbelieved(ctx, p, err)
		}
		s.options.Logger.WarnContext(ctx, "an identity provider does not answer", "provider", p.Name, "error", err)
		return came, provider.ErrUnreachable.WithCause(err)
	}
	text, _ := token.Extra("id_token").(string)
	said, err := s.believe(calling, p, k, text, st.Nonce)
	if err != nil {
		return came, err
	}
	if err := s.ask(calling, p, k, token, &said); err != nil {
		return came, err
	}
	if st.Invited != "" {
		came.User, err = s.invited(ctx, p, said, st.Invited)
	} else {
		came.User, err = s.admit(ctx, p, said)
	}
	if err != nil {
		return came, err
	}
	came.ProvedAt, came.MFAAt = said.provedAt(s.options.Now()), said.mfaAt(p, s.options.Now())
	return came, nil
}

// kept opens what the browser kept.
func (s *Service) kept(text string) (st state, ok bool) {
	sealed, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil {
		return st, false
	}
	plain, ok := s.open(stateName, sealed)
	if !ok || json.Unmarshal(plain, &st) != nil || st.State == "" {
		return st, false
	}
	return st, s.options.Now().Unix() < st.Until
}

func (s *Service) disbelieved(ctx context.Context, p provider.Provider, why error) error {
	s.options.Logger.WarnContext(ctx, "an identity provider's word cannot be believed", "provider", p.Name, "error", why)
	return provider.ErrToken.WithCause(why)
}

// said is what an ID token says.
type said struct {
	Subject   string          `json:"sub"`
	Email     string          `json:"email"`
	Verified  truth           `json:"email_verified"`
	Name      string          `json:"preferred_username"`
	AMR       json.RawMessage `json:"amr"`
	ACR       string          `json:"acr"`
	AuthTime  int64           `json:"auth_time"`
	AZP       string          `json:"azp"`
	Elsewhere json.RawMessage `json:"_claim_names"` // claims that are too many for the token (OpenID Connect Core, 5.6.2)
	HasGroups truth           `json:"hasgroups"`

	groups  []string
	grouped bool // the claim was there
}

// truth is a boolean; some providers write it as text.
type truth bool

func (t *truth) UnmarshalJSON(b []byte) error {
	*t = truth(string(b) == "true" || string(b) == `"true"`)
	return nil
}

func (s *Service) believe(ctx context.Context, p provider.Provider, k known, text, nonce string) (said, error) {
	now := s.options.Now()
	verifier := k.provider.VerifierContext(context.WithoutCancel(ctx), &oidc.Config{ClientID: p.ClientID, SupportedSigningAlgs: algorithms,
		Now: func() time.Time { return now.Add(-provider.Skew) }})
	if text == "" {
		return said{}, s.disbelieved(ctx, p, errors.New("there is no ID token in the answer"))
	}
	token, err := verifier.Verify(ctx, text)
	if err != nil {
		var expired *oidc.TokenExpiredError
		if !errors.As(err, &expired) && strings.Contains(err.Error(), "fetching keys") {
			return said{}, provider.ErrUnreachable.WithCause(err)
		}
		return said{}, s.disbelieved(ctx, p, err)
	}
	var out said
	all := map[string]json.RawMessage{}
	if err := errors.Join(token.Claims(&out), token.Claims(&all)); err != nil {
		return said{}, s.disbelieved(ctx, p, err)
	}
	switch {
	case !hmac.Equal([]byte(token.Nonce), []byte(nonce)):
		err = errors.New("the nonce is another")
	case token.Subject == "" || len(token.Subject) > 255:
		err = errors.New("there is no subject of 1 to 255 bytes")
	case len(token.Audience) > 1 && out.AZP != p.ClientID, out.AZP != "" && out.AZP != p.ClientID:
		err = errors.New("it was made for another client: " + out.AZP)
	case token.IssuedAt.After(now.Add(provider.Skew)):
		err = errors.New("it was issued later than now: " + token.IssuedAt.String())
	case out.AuthTime > now.Add(provider.Skew).Unix():
		err = errors.New("its user signed in later than now")
	}
	if err != nil {
		return said{}, s.disbelieved(ctx, p, err)
	}
	if err := out.regroup(p, all); err != nil {
		return said{}, s.disbelieved(ctx, p, err)
	}
	return out, nil
}

// regroup reads the groups among claims, if they are there.
func (c *said) regroup(p provider.Provider, all map[string]json.RawMessage) error {
	raw, ok := all[p.GroupsClaim]
	if p.GroupsClaim == "" || !ok {
		return nil
	}
	c.grouped = true
	if json.Unmarshal(raw, &c.groups) == nil {
		return nil
	}
	var one string
	if err := json.Unmarshal(raw, &one); err != nil {
		return errors.New("the claim " + p.GroupsClaim + " is no list of names")
	}
	c.groups = []string{one}
	return nil
}

// ask fetches from the userinfo endpoint what a thin ID token leaves out (OpenID Connect Core, 5.3).
func (s *Service) ask(ctx context.Context, p provider.Provider, k known, token *oauth2.Token, c *said) error {
	lacking := p.GroupsClaim != "" && !c.grouped
	if k.provider.UserInfoEndpoint() != "" && (lacking || c.Email == "") {
		info, err := k.provider.UserInfo(ctx, oauth2.StaticTokenSource(token))
		if err != nil {
			s.options.Logger.WarnContext(ctx, "an identity provider does not say who somebody is", "provider", p.Name, "error", err)
			return provider.ErrUnreachable.WithCause(err)
		}
		var more said
		all := map[string]json.RawMessage{}
		if err := errors.Join(info.Claims(&more), info.Claims(&all)); err != nil {
			return s.disbelieved(ctx, p, err)
		}
		if info.Subject != c.Subject {
			return s.disbelieved(ctx, p, errors.New("the userinfo endpoint speaks of somebody else"))
		}
		if c.Email == "" { // an address and whether it is verified go together
			c.Email, c.Verified = more.Email, more.Verified
		}
		if c.Name == "" {
			c.Name = more.Name
		}
		if lacking {
			if err := c.regroup(p, all); err != nil {
				return s.disbelieved(ctx, p, err)
			}
		}
	}
	if p.GroupsClaim != "" && !c.grouped && (strings.Contains(string(c.Elsewhere), `"`+p.GroupsClaim+`"`) || bool(c.HasGroups)) {
		return provider.ErrGroups
	}
	return nil
}

// provedAt is when somebody showed the provider who they are: what the longest time of a sign-in counts from, where it is
// known and sensible.
func (c said) provedAt(now time.Time) time.Time {
	if at := time.Unix(c.AuthTime, 0); c.AuthTime > 0 && at.Before(now) && now.Sub(at) < 12*time.Hour {
		return at.UTC()
	}
	return now
}

// mfaAt is when the second factor was given, as far as the provider is trusted with that and says so.
func (c said) mfaAt(p provider.Provider, now time.Time) time.Time {
	if !p.TrustMFA || c.AuthTime == 0 {
		return time.Time{}
	}
	values := p.MFAValues
	if len(values) == 0 {
		values = provider.DefaultMFAValues
	}
	var amr []string
	_ = json.Unmarshal(c.AMR, &amr) // a provider that writes something else said nothing
	if !slices.Contains(values, c.ACR) && !slices.ContainsFunc(amr, func(v string) bool { return slices.Contains(values, v) }) {
		return time.Time{}
	}
	if at := time.Unix(c.AuthTime, 0).UTC(); at.Before(now) {
		return at
	}
	return now // by its clock it is a moment later
}

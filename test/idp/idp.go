// Package idp is a real identity provider in a test: zitadel/oidc on a port of its own, over TLS, with two users who sign in on its
// page, and the groups that a test puts them in.
//
// One that lies is not to be had from it: server/provider's own tests forge what it says.
package idp

import (
	"context"
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/zitadel/oidc/v3/example/server/exampleop"
	"github.com/zitadel/oidc/v3/example/server/storage"
	"github.com/zitadel/oidc/v3/pkg/oidc"
	"github.com/zitadel/oidc/v3/pkg/op"
)

// What the control plane is to the provider.
const (
	Client = "loopback"
	Secret = "client-secret-of-enough-bytes-for-hs256!"
)

// Its users, by subject. Each is called by the name, and signs in with the password.
const (
	First      = "id1"
	FirstName  = "test-user@127.0.0.1"
	FirstMail  = "test-user@zitadel.ch" // verified, as the second's
	Second     = "id2"
	SecondName = "test-user2"
	SecondMail = "test-user2@zitadel.ch"
	Password   = "verysecure"
)

// Provider is one that runs until the test ends.
type Provider struct {
	Issuer string
	CA     string // PEM

	handler atomic.Pointer[http.Handler]

	mu     sync.Mutex
	groups map[string][]string // by subject
	thin   bool
}

// Start starts one. Nobody can sign in before it knows a Return.
func Start(t testing.TB) *Provider {
	t.Helper()
	p := &Provider{groups: map[string][]string{}}
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := p.handler.Load()
		if h == nil {
			http.Error(w, "it knows no client yet", http.StatusServiceUnavailable)
			return
		}
		(*h).ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	p.Issuer = server.URL
	p.CA = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}))
	return p
}

// Return sets where the client has people sent back to. Whoever was on the way is forgotten, and so are its keys.
func (p *Provider) Return(url string) {
	clients := map[string]*storage.Client{Client: storage.WebClient(Client, Secret, url)}
	h := http.Handler(exampleop.SetupServer(p.Issuer, &company{storage.NewStorageWithClients(storage.NewUserStore(p.Issuer), clients), p}, nil, false))
	p.handler.Store(&h)
}

// Group sets which groups a user is in.
func (p *Provider) Group(subject string, groups ...string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.groups[subject] = groups
}

// Thin has all but the subject left out of ID tokens: it is to be had from the userinfo endpoint only.
func (p *Provider) Thin(yes bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.thin = yes
}

// company is the provider's storage, which also knows of groups.
type company struct {
	*storage.Storage
	of *Provider
}

// told is a client that gets claims in its ID token.
type told struct{ op.Client }

func (told) IDTokenUserinfoClaimsAssertion() bool { return true }

func (c *company) GetClientByClientID(ctx context.Context, id string) (op.Client, error) {
	found, err := c.Storage.GetClientByClientID(ctx, id)
	c.of.mu.Lock()
	defer c.of.mu.Unlock()
	if err != nil || c.of.thin {
		return found, err
	}
	return told{found}, nil
}

func (c *company) SetUserinfoFromRequest(ctx context.Context, info *oidc.UserInfo, token op.IDTokenRequest, scopes []string) error {
	if err := c.Storage.SetUserinfoFromRequest(ctx, info, token, scopes); err != nil {
		return err
	}
	info.AppendClaims("groups", c.groups(token.GetSubject()))
	return nil
}

func (c *company) SetUserinfoFromToken(ctx context.Context, info *oidc.UserInfo, tokenID, subject, origin string) error {
	if err := c.Storage.SetUserinfoFromToken(ctx, info, tokenID, subject, origin); err != nil {
		return err
	}
	info.AppendClaims("groups", c.groups(subject))
	return nil
}

func (c *company) groups(subject string) []string {
	c.of.mu.Lock()
	defer c.of.mu.Unlock()
	return slices.Clone(c.of.groups[subject])
}

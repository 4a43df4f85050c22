package apikey_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/loopbackd/loopback/access"
	"github.com/loopbackd/loopback/apikey"
	"github.com/loopbackd/loopback/audit"
	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/id"
	slice "github.com/loopbackd/loopback/server/apikey"
	"github.com/loopbackd/loopback/server/feed"
	"github.com/loopbackd/loopback/server/storage"
	"github.com/loopbackd/loopback/server/tenant"
	noun "github.com/loopbackd/loopback/tenant"
	"github.com/loopbackd/loopback/token"
)

type clock struct{ at atomic.Int64 }

func (c *clock) Now() time.Time          { return time.UnixMicro(c.at.Load()).UTC() }
func (c *clock) Advance(d time.Duration) { c.at.Add(d.Microseconds()) }

var (
	noon   = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	here   = netip.MustParseAddr("10.1.2.3")
	pepper = []byte("pepper")
	known  = []access.Permission{apikey.Create, apikey.Read, apikey.Revoke, token.Mint, token.List}
)

type bench struct {
	*slice.Service
	db    *storage.DB
	clock *clock
	prod  noun.Workspace
	other noun.Workspace
}

func open(t *testing.T) *bench {
	t.Helper()
	b := &bench{clock: &clock{}}
	b.clock.at.Store(noon.UnixMicro())
	var err error
	b.db, err = storage.Open(t.Context(), storage.Options{URL: filepath.Join(t.TempDir(), "loopback.db"), Clock: b.clock.Now})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.db.Close(); err != nil {
			t.Error(err)
		}
	})
	err = b.db.Observe(t.Context(), func(tx *storage.Tx) error {
		return tx.PutDeployment(t.Context(), noun.Deployment{ID: id.New("dep", noon), Epoch: 1})
	})
	if err != nil {
		t.Fatal(err)
	}
	tenants := tenant.NewService(storage.Bind[tenant.Reader, tenant.Tx](b.db), token.DefaultLimits, b.clock.Now)
	b.Service = b.service(tenants)
	ctx := acting(t.Context(), access.Scope{}, access.All)
	for organisation, into := range map[string]*noun.Workspace{"acme": &b.prod, "other": &b.other} {
		_, e1 := tenants.CreateOrganisation(ctx, tenant.New{Name: organisation})
		_, e2 := tenants.CreateProject(ctx, organisation, tenant.New{Name: "shop"})
		w, e3 := tenants.CreateWorkspace(ctx, organisation+"/shop", tenant.New{Name: "prod"}, noun.TokenPolicy{})
		if err := errors.Join(e1, e2, e3); err != nil {
			t.Fatal(err)
		}
		*into = w
	}
	return b
}

// service is one replica's.
func (b *bench) service(tenants slice.Tenants) *slice.Service {
	return slice.NewService(storage.Bind[slice.Reader, slice.Tx](b.db), tenants, slice.Options{Pepper: pepper, Known: known, Now: b.clock.Now})
}

func acting(ctx context.Context, at access.Scope, p ...access.Permission) context.Context {
	return access.WithActor(ctx, access.GrantsAlone(access.Actor{Kind: access.System, ID: "sys", Grants: []access.Grant{{ID: "sys", Permissions: p, Scope: at}}}))
}

// key makes a key through the system, and a context in which its holder acts.
func (b *bench) key(t *testing.T, n slice.New) (context.Context, apikey.Key, string) {
	t.Helper()
	if n.Name == "" {
		n.Name = "test"
	}
	k, secret, err := b.Create(acting(t.Context(), access.Scope{}, access.All), n)
	if err != nil {
		t.Fatal(err)
	}
	return access.WithActor(t.Context(), access.GrantsAlone(k.Actor())), k, secret
}

func code(err error) string {
	if err == nil {
		return ""
	}
	return fault.Of(err).Code
}

func TestAKeyNeverHoldsMoreThanItsMaker(t *testing.T) {
	b := open(t)
	inProd, _, _ := b.key(t, slice.New{Workspace: b.prod.ID, Permissions: []access.Permission{apikey.Create, token.Mint}})
	inAcme, _, _ := b.key(t, slice.New{Organisation: "acme", Permissions: []access.Permission{access.All}})
	everywhere, _, _ := b.key(t, slice.New{Permissions: []access.Permission{access.All}})
	mint := []access.Permission{token.Mint}
	for name, c := range map[string]struct {
		ctx  context.Context
		new  slice.New
		want string
	}{
		"what it holds, where it holds it":       {inProd, slice.New{Workspace: b.prod.ID, Permissions: mint}, ""},
		"a permission that it lacks":             {inProd, slice.New{Workspace: b.prod.ID, Permissions: []access.Permission{token.Mint, token.List}}, "permission_not_held"},
		"everything":                             {inProd, slice.New{Workspace: b.prod.ID, Permissions: []access.Permission{access.All}}, "permission_not_held"},
		"another workspace":                      {inProd, slice.New{Workspace: b.other.ID, Permissions: mint}, "not_found"},
		"the project around it":                  {inProd, slice.New{Project: b.prod.ProjectID, Permissions: mint}, "not_found"},
		"the whole deployment":                   {inProd, slice.New{Permissions: mint}, "permission_denied"},
		"everything, within an organisation":     {inAcme, slice.New{Workspace: b.prod.ID, Permissions: []access.Permission{access.All}}, ""},
		"an organisation's, in another":          {inAcme, slice.New{Organisation: "other", Permissions: mint}, "not_found"},
		"an organisation's, everywhere":          {inAcme, slice.New{Permissions: mint}, "permission_denied"},
		"everything, everywhere":                 {everywhere, slice.New{Permissions: []access.Permission{access.All}}, ""},
		"two places":                             {everywhere, slice.New{Organisation: "acme", Workspace: b.prod.ID, Permissions: mint}, "api_key_invalid"},
		"no permission":                          {everywhere, slice.New{}, "api_key_invalid"},
		"a permission that does not exist":       {everywhere, slice.New{Permissions: []access.Permission{"agent_tokens.mnit"}}, "api_key_invalid"},
		"a permission that only everybody holds": {everywhere, slice.New{Permissions: []access.Permission{access.BootstrapRedeem}}, "api_key_invalid"},
		"too long a life":                        {everywhere, slice.New{Permissions: mint, TTL: apikey.MaxTTL + 1}, "api_key_invalid"},
		"too short a life":                       {everywhere, slice.New{Permissions: mint, TTL: time.Second}, "api_key_invalid"},
		"a name that is none":                    {everywhere, slice.New{Name: "A B", Permissions: mint}, "api_key_invalid"},
	} {
		if c.new.Name == "" {
			c.new.Name = "child"
		}
		k, secret, err := b.Create(c.ctx, c.new)
		if code(err) != c.want {
			t.Errorf("%s: got %v, want %q", name, err, c.want)
		}
		if (err != nil) != (secret == "") || err == nil && !k.ExpiresAt.Equal(noon.Add(apikey.DefaultTTL)) {
			t.Errorf("%s: got secret %q until %s with error %v, want a secret only without an error, for the default life", name, secret, k.ExpiresAt, err)
		}
	}
}

func TestARevokedKeyLeavesNoHeirs(t *testing.T) {
	b := open(t)
	ctx, k, _ := b.key(t, slice.New{Permissions: []access.Permission{access.All}})
	if _, err := b.Revoke(ctx, k.ID); err != nil {
		t.Fatal(err)
	}
	if _, _, err := b.Create(ctx, slice.New{Name: "heir", Permissions: []access.Permission{token.Mint}}); code(err) != "api_key_revoked" {
		t.Errorf("got %v from a request that began before the revocation, want api_key_revoked", err)
	}
}

func TestAuthenticateTellsWhyOnlyToWhoHoldsTheKey(t *testing.T) {
	b := open(t)
	_, good, secret := b.key(t, slice.New{Workspace: b.prod.ID, Permissions: []access.Permission{token.Mint}})
	_, revoked, revokedSecret := b.key(t, slice.New{Permissions: []access.Permission{token.Mint}})
	if _, err := b.Revoke(acting(t.Context(), access.Scope{}), revoked.ID); err != nil {
		t.Fatal(err)
	}
	_, _, brief := b.key(t, slice.New{Permissions: []access.Permission{token.Mint}, TTL: time.Minute})
	b.clock.Advance(2 * time.Minute)
	for name, c := range map[string]struct{ secret, want string }{
		"good":                   {secret, ""},
		"revoked":                {revokedSecret, "api_key_revoked"},
		"expired":                {brief, "api_key_expired"},
		"guess at a revoked one": {apikey.NewSecret(revoked.ID), "api_key_invalid"},
		"guess at a good one":    {apikey.NewSecret(good.ID), "api_key_invalid"},
		"unknown":                {apikey.NewSecret(id.New("key", noon)), "api_key_invalid"},
		"cut":                    {secret[:len(secret)-1], "api_key_invalid"},
		"an enrolment token's":   {token.NewSecret(id.New("tok", noon), [16]byte{}).Reveal(), "api_key_invalid"},
		"nothing":                {"", "api_key_invalid"},
		"a million bytes":        {strings.Repeat("x", 1_000_000), "api_key_invalid"},
	} {
		actor, err := b.Authenticate(t.Context(), c.secret, here)
		if code(err) != c.want || fault.KindOf(err) != "" && fault.KindOf(err) != fault.Unauthenticated {
			t.Errorf("%s: got %v, want %q", name, err, c.want)
		}
		if err != nil && len(c.secret) > 60 && len(c.secret) < 1000 && strings.Contains(err.Error(), c.secret[40:]) {
			t.Errorf("%s: the error holds the credential: %v", name, err)
		}
		if err == nil && (actor.ID != good.ID || len(actor.Grants) != 1 || actor.Grants[0].Scope != b.prod.Scope()) {
			t.Errorf("%s: got %+v, want the key over its workspace", name, actor)
		}
	}
	entries, err := b.db.View().Entries(t.Context(), audit.Query{Readable: access.Everywhere(), Action: slice.SignIn, Limit: 100})
	if err != nil {
		t.Fatal(err)
	}
	var reasons []string
	for _, e := range entries {
		reasons = append(reasons, e.Reason)
		if e.Outcome != audit.Refused || e.Actor.Address != here.String() {
			t.Errorf("got %+v, want it refused, from %s", e, here)
		}
	}
	slices.Sort(reasons)
	if want := "api_key_expired api_key_invalid api_key_invalid api_key_invalid api_key_revoked"; strings.Join(reasons, " ") != want {
		t.Errorf("got %v in the audit log, want %s: what has the form of a key and opens nothing", reasons, want)
	}
}

func TestRefusedKeysThatRepeatAreMerged(t *testing.T) {
	b := open(t)
	bad := apikey.NewSecret(id.New("key", noon))
	for range 300 {
		if _, err := b.Authenticate(t.Context(), bad, here); code(err) != "api_key_invalid" {
			t.Fatalf("got %v, want api_key_invalid", err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	b.Run(ctx)
	entries, err := b.db.View().Entries(t.Context(), audit.Query{Readable: access.Everywhere(), Action: slice.SignIn, Limit: 100})
	if err != nil || len(entries) != 2 || !strings.Contains(string(entries[0].After), `"attempts":299`) {
		t.Errorf("got %+v and %v, want two entries, the second for 299 attempts", entries, err)
	}
}

func TestARevocationReachesOtherReplicas(t *testing.T) {
	b := open(t)
	_, k, secret := b.key(t, slice.New{Permissions: []access.Permission{token.Mint}})
	withFeed, without := b.service(nil), b.service(nil)
	replicas := []*slice.Service{b.Service, withFeed, without}
	for _, r := range replicas {
		if _, err := r.Authenticate(t.Context(), secret, here); err != nil {
			t.Fatal(err)
		}
	}
	position, err := b.db.Position(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.Revoke(acting(t.Context(), access.Scope{}), k.ID); err != nil {
		t.Fatal(err)
	}
	changes, err := b.db.Changes(t.Context(), position, 100)
	if err != nil {
		t.Fatal(err)
	}
	withFeed.Changed(changes, false)
	for i, want := range []string{"api_key_revoked", "api_key_revoked", ""} {
		if _, err := replicas[i].Authenticate(t.Context(), secret, here); code(err) != want {
			t.Errorf("replica %d: got %v, want %q", i, err, want)
		}
	}
	b.clock.Advance(5 * time.Second)
	if _, err := without.Authenticate(t.Context(), secret, here); code(err) != "api_key_revoked" {
		t.Errorf("a replica without its feed: got %v after five seconds, want api_key_revoked", err)
	}
}

func TestLastUseIsNotedOnceAMinute(t *testing.T) {
	b := open(t)
	_, k, secret := b.key(t, slice.New{Permissions: []access.Permission{token.Mint}})
	used := func() time.Time {
		got, err := b.Get(acting(t.Context(), access.Scope{}), k.ID)
		if err != nil {
			t.Fatal(err)
		}
		return got.LastUsedAt
	}
	for i, want := range []time.Duration{0, 0, 0, time.Minute, time.Minute} {
		if _, err := b.Authenticate(t.Context(), secret, here); err != nil {
			t.Fatal(err)
		}
		if got := used(); !got.Equal(noon.Add(want)) {
			t.Errorf("use %d: got last use %s, want %s", i, got, noon.Add(want))
		}
		b.clock.Advance(20 * time.Second)
	}
}

// Everybody's writes can wait for a long time: for another replica, for a slow disk. Who reads does not wait with them.
func TestACallIsNotHeldUpByWrites(t *testing.T) {
	b := open(t)
	_, _, secret := b.key(t, slice.New{Permissions: []access.Permission{token.Mint}})
	begun, over, done := make(chan struct{}), make(chan struct{}), make(chan error)
	go func() {
		done <- b.db.Observe(context.WithoutCancel(t.Context()), func(*storage.Tx) error {
			close(begun)
			<-over
			return nil
		})
	}()
	<-begun
	_, err := b.Authenticate(t.Context(), secret, here) // the first use of this minute
	close(over)
	if err := errors.Join(err, <-done); err != nil {
		t.Error(err)
	}
}

func TestTheBootstrapCodeWorksOnce(t *testing.T) {
	b := open(t)
	first, needed, err := b.EnsureBootstrap(t.Context())
	if err != nil || !needed || first == "" {
		t.Fatalf("got %q, %t, %v; want a code", first, needed, err)
	}
	lostCode := first
	code2, needed, err := b.EnsureBootstrap(t.Context())
	if err != nil || !needed || code2 == first {
		t.Fatalf("got %q, %t, %v; want another code at the next start", code2, needed, err)
	}
	anonymous := access.WithActor(t.Context(), access.Actor{Kind: access.Anonymous, Address: "10.1.2.3"})
	for name, c := range map[string]struct{ code, name, want string }{
		"the one that was replaced": {lostCode, "", "bootstrap_code_invalid"},
		"a wrong one":               {"0000-0000", "", "bootstrap_code_invalid"},
		"none":                      {"", "", "request_invalid"},
		"punctuation only":          {"----", "", "bootstrap_code_invalid"},
		"a wrong name":              {code2, "No Name", "request_invalid"},
	} {
		if _, _, err := b.Redeem(anonymous, c.code, c.name); code(err) != c.want {
			t.Errorf("%s: got %v, want %s", name, err, c.want)
		}
	}
	var all sync.WaitGroup
	var won atomic.Int64
	var secret atomic.Value
	for range 10 {
		all.Go(func() {
			typed := " " + strings.ToUpper(strings.ReplaceAll(code2, "-", " ")) + "\n"
			k, s, err := b.Redeem(anonymous, typed, "")
			switch {
			case err == nil:
				won.Add(1)
				secret.Store(s)
				if k.Scope != (access.Scope{}) || !slices.Equal(k.Permissions, []access.Permission{access.All}) || k.Name != slice.Administrator {
					t.Errorf("got %+v, want everything over the whole deployment", k)
				}
			case code(err) != "bootstrap_code_invalid":
				t.Error(err)
			}
		})
	}
	all.Wait()
	if won.Load() != 1 {
		t.Fatalf("got %d keys from ten who redeem at once, want 1", won.Load())
	}
	actor, err := b.Authenticate(t.Context(), secret.Load().(string), here)
	if err != nil || !access.GrantsAlone(actor).Decide(token.Mint, b.prod.Scope()).Allowed {
		t.Errorf("got %+v and %v, want an administrator", actor, err)
	}
	if c, needed, err := b.EnsureBootstrap(t.Context()); err != nil || needed || c != "" {
		t.Errorf("got %q, %t, %v with an administrator, want no code", c, needed, err)
	}
	if _, err := b.Revoke(access.WithActor(t.Context(), access.GrantsAlone(actor)), actor.ID); err != nil {
		t.Fatal(err)
	}
	if _, needed, err := b.EnsureBootstrap(t.Context()); err != nil || !needed {
		t.Errorf("got %t, %v once the last administrator's key was revoked, want a new code", needed, err)
	}
}

func TestTheCodeDiesWhenThereIsAnAdministrator(t *testing.T) {
	b := open(t)
	c, _, err := b.EnsureBootstrap(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	b.key(t, slice.New{Permissions: []access.Permission{access.All}})
	anonymous := access.WithActor(t.Context(), access.Actor{Kind: access.Anonymous})
	if _, _, err := b.Redeem(anonymous, c, ""); code(err) != "bootstrap_code_invalid" {
		t.Errorf("got %v, want bootstrap_code_invalid", err)
	}
	if _, needed, err := b.EnsureBootstrap(t.Context()); err != nil || needed {
		t.Errorf("got %t and %v, want no code", needed, err)
	}
	d, err := b.db.View().Deployment(t.Context())
	if err != nil || len(d.BootstrapHash) != 0 {
		t.Errorf("got hash %x and %v, want it gone", d.BootstrapHash, err)
	}
}

func TestSecretsAreNowhereInTheDatabase(t *testing.T) {
	b := open(t)
	c, _, err := b.EnsureBootstrap(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	_, k, secret := b.key(t, slice.New{Workspace: b.prod.ID, Permissions: []access.Permission{token.Mint}})
	entries, err := b.db.View().Entries(t.Context(), audit.Query{Readable: access.Everywhere(), Limit: 100})
	if err != nil {
		t.Fatal(err)
	}
	d, err := b.db.View().Deployment(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	text := fmt.Sprintf("%+v %+v", d, k)
	for _, e := range entries {
		described := strings.ToLower(string(e.Before) + string(e.After))
		if strings.Contains(described, "hash") {
			t.Errorf("the hash is in the audit log: %s", described)
		}
		text += described
	}
	for _, s := range []string{secret[40:], c, strings.ReplaceAll(c, "-", "")} {
		if strings.Contains(text, s) {
			t.Errorf("%q is in what is stored", s)
		}
	}
}

func TestKeysAreSeenWhereTheyHold(t *testing.T) {
	b := open(t)
	_, foreign, _ := b.key(t, slice.New{Workspace: b.other.ID, Permissions: []access.Permission{token.Mint}})
	_, whole, _ := b.key(t, slice.New{Permissions: []access.Permission{token.Mint}})
	ctx, own, _ := b.key(t, slice.New{Workspace: b.prod.ID, Permissions: []access.Permission{access.All}})
	list, _, err := b.List(ctx, noun.Page{})
	if err != nil || len(list) != 1 || list[0].ID != own.ID {
		t.Errorf("got %+v and %v, want just its own", list, err)
	}
	for _, k := range []apikey.Key{foreign, whole} {
		if _, err := b.Get(ctx, k.ID); fault.KindOf(err) != fault.NotFound {
			t.Errorf("get: got %v, want not found", err)
		}
		if _, err := b.Revoke(ctx, k.ID); fault.KindOf(err) != fault.NotFound {
			t.Errorf("revoke: got %v, want not found", err)
		}
	}
	if again, err := b.Revoke(ctx, own.ID); err != nil || again.RevokedAt.IsZero() {
		t.Errorf("got %+v and %v, want it revoked", again, err)
	}
	if again, err := b.Revoke(ctx, own.ID); err != nil || !again.RevokedAt.Equal(noon) {
		t.Errorf("revoked twice: got %+v and %v, want it as it was", again, err)
	}
}

func TestAFollowedRevocationIsSeenAtOnce(t *testing.T) {
	b := open(t)
	_, k, secret := b.key(t, slice.New{Permissions: []access.Permission{token.Mint}})
	replica := b.service(nil)
	follower := feed.NewFollower(feed.Options{Source: b.db})
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel()
	place := follower.Subscribe(0)
	running.Go(func() { follower.Run(ctx) })
	running.Go(func() {
		defer place.Close()
		for {
			changes, anew, err := place.Next(ctx)
			if err != nil {
				return
			}
			replica.Changed(changes, anew)
		}
	})
	if _, err := replica.Authenticate(ctx, secret, here); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Revoke(acting(ctx, access.Scope{}), k.ID); err != nil {
		t.Fatal(err)
	}
	revoked := time.Now()
	look := time.NewTicker(time.Millisecond)
	defer look.Stop()
	for { // the service's clock stands still: its cache forgets nothing by itself
		_, err := replica.Authenticate(ctx, secret, here)
		if code(err) == "api_key_revoked" {
			break
		}
		if time.Since(revoked) > 5*time.Second {
			t.Fatalf("got %v five seconds after the revocation, want api_key_revoked", err)
		}
		<-look.C
	}
	t.Logf("another replica refused the key %s after the revocation was acknowledged", time.Since(revoked))
}

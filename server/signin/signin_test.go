package signin_test

import (
	"context"
	"errors"
	"net/netip"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/loopbackd/loopback/access"
	"github.com/loopbackd/loopback/apikey"
	"github.com/loopbackd/loopback/audit"
	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/id"
	"github.com/loopbackd/loopback/principal"
	"github.com/loopbackd/loopback/server/feed"
	slice "github.com/loopbackd/loopback/server/signin"
	"github.com/loopbackd/loopback/server/storage"
	"github.com/loopbackd/loopback/signin"
	"github.com/loopbackd/loopback/tenant"
)

type clock struct{ at atomic.Int64 }

func (c *clock) Now() time.Time          { return time.UnixMicro(c.at.Load()).UTC() }
func (c *clock) Advance(d time.Duration) { c.at.Add(d.Microseconds()) }

var (
	noon = time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC)
	here = netip.MustParseAddr("10.1.2.3")
)

const (
	idle = 10 * time.Minute
	most = time.Hour
)

// keys is one API key.
type keys struct{ gone bool }

func (k *keys) Bound(context.Context, string) (access.Actor, error) {
	if k.gone {
		return access.Actor{}, apikey.ErrRevoked
	}
	return access.Actor{Kind: access.APIKey, ID: "key_1", Grants: []access.Grant{{ID: "key_1", Permissions: []access.Permission{"hosts.read"}}}}, nil
}

// people finds users in the database.
type people struct{ db *storage.DB }

func (p people) Get(ctx context.Context, _ access.SubjectKind, ref string) (principal.Principal, error) {
	u, err := p.db.View().Principal(ctx, ref)
	if err != nil {
		return u, err
	}
	return u, access.ActorFrom(ctx).Require(principal.UsersRead, u.Scope, principal.UsersRead, "user "+ref)
}

type bench struct {
	*slice.Service
	db       *storage.DB
	clock    *clock
	keys     *keys
	ada, bob principal.Principal
	attempts map[string]int
}

func open(t *testing.T) *bench {
	t.Helper()
	b := &bench{clock: &clock{}, keys: &keys{}, attempts: map[string]int{}}
	b.clock.at.Store(noon.UnixMicro())
	var err error
	if b.db, err = storage.Open(t.Context(), storage.Options{URL: filepath.Join(t.TempDir(), "test.db"), Clock: b.clock.Now}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.db.Close(); err != nil {
			t.Error(err)
		}
	})
	user := func(name string) principal.Principal {
		return principal.Principal{Meta: tenant.Meta{ID: id.New("usr", noon), Name: name}, Kind: access.User}
	}
	b.ada, b.bob = user("ada"), user("bob")
	err = b.db.Observe(t.Context(), func(tx *storage.Tx) error {
		_, e1 := tx.PutPrincipal(t.Context(), b.ada)
		_, e2 := tx.PutPrincipal(t.Context(), b.bob)
		return errors.Join(e1, e2)
	})
	if err != nil {
		t.Fatal(err)
	}
	b.Service = b.replica()
	return b
}

func (b *bench) replica() *slice.Service {
	return slice.NewService(storage.Bind[slice.Reader, slice.Tx](b.db), slice.Options{
		Keys: b.keys, Users: people{b.db}, Pepper: []byte("pepper"), Idle: idle, Max: most, Now: b.clock.Now,
		Watch: func(m signin.Method, outcome string) { b.attempts[string(m)+" "+outcome]++ },
	})
}

func (b *bench) begin(t *testing.T, s slice.Start) (context.Context, signin.SignIn, string) {
	t.Helper()
	in, secret, err := b.Begin(from(t.Context()), s)
	if err != nil {
		t.Fatal(err)
	}
	actor, err := b.Authenticate(t.Context(), secret, here)
	if err != nil {
		t.Fatal(err)
	}
	return access.WithActor(t.Context(), access.GrantsAlone(actor)), in, secret
}

func from(ctx context.Context) context.Context {
	return access.WithActor(ctx, access.Actor{Kind: access.Anonymous, Address: here.String()})
}

func (b *bench) code(t *testing.T, secret string) string {
	t.Helper()
	_, err := b.Authenticate(t.Context(), secret, here)
	return code(err)
}

func code(err error) string {
	if err == nil {
		return ""
	}
	return fault.Of(err).Code
}

func (b *bench) log(t *testing.T, q audit.Query) []audit.Entry {
	t.Helper()
	q.Readable, q.Limit = access.Everywhere(), 100
	list, err := b.db.View().Entries(t.Context(), q)
	if err != nil {
		t.Fatal(err)
	}
	return list
}

func TestASignInActsForItsUser(t *testing.T) {
	b := open(t)
	second := noon.Add(-time.Minute)
	ctx, in, secret := b.begin(t, slice.Start{User: b.ada.ID, Method: signin.Passkey, Via: "pky_1", Agent: "Fire\nfox\x00" + string(make([]byte, 300)), MFAAt: second})
	a := access.ActorFrom(ctx)
	if a.Kind != access.SignIn || a.ID != in.ID || a.Principal != b.ada.ID || a.Name != "ada" || !a.MFA.Equal(second) {
		t.Errorf("it acts as %+v", a)
	}
	if !a.Decide("shell_sessions.open", access.Scope{}).Allowed || !a.Decide(access.SelfManage, access.Scope{}).Allowed {
		t.Error("it holds less than its user")
	}
	if in.Address != here.String() || in.Agent != "Firefox" || !in.ExpiresAt.Equal(noon.Add(most)) {
		t.Errorf("it is written down as %+v", in)
	}
	stored, err := b.db.View().SignIn(t.Context(), in.ID)
	if err != nil || len(stored.Hash) != 32 || string(stored.Hash) == secret {
		t.Errorf("stored: %+v, %v", stored, err)
	}
	if l := b.log(t, audit.Query{Action: access.SignInBegin}); len(l) != 1 || l[0].Target != in.ID || l[0].Actor.Name != "ada" || l[0].Actor.Address != here.String() {
		t.Errorf("the audit log has %+v", l)
	}
	if b.attempts["passkey ok"] != 1 {
		t.Errorf("counted: %v", b.attempts)
	}
}

func TestSignInsEndByThemselves(t *testing.T) {
	b := open(t)
	_, _, used := b.begin(t, slice.Start{User: b.ada.ID, Method: signin.OIDC})
	_, _, left := b.begin(t, slice.Start{User: b.ada.ID, Method: signin.OIDC})
	_, _, earlier := b.begin(t, slice.Start{User: b.ada.ID, Method: signin.ByDevice, ProvedAt: noon.Add(-most + 5*time.Minute)})
	for b.clock.Now().Before(noon.Add(most - 5*time.Minute)) {
		b.clock.Advance(5 * time.Minute)
		want := ""
		if got := b.code(t, used); got != want {
			t.Fatalf("in use, after %s: got %q", b.clock.Now().Sub(noon), got)
		}
		if b.clock.Now().Sub(noon) == 5*time.Minute {
			if got := b.code(t, earlier); got != "sign_in_expired" {
				t.Errorf("one whose user showed who they are an hour ago: got %q", got)
			}
		}
	}
	if got := b.code(t, left); got != "sign_in_idle" {
		t.Errorf("left alone: got %q", got)
	}
	b.clock.Advance(5 * time.Minute)
	if got := b.code(t, used); got != "sign_in_expired" {
		t.Errorf("at its longest: got %q", got)
	}
}

// A use on one replica is a use everywhere; being asked again for an open stream is none.
func TestUsesAreShared(t *testing.T) {
	b := open(t)
	_, _, secret := b.begin(t, slice.Start{User: b.ada.ID, Method: signin.OIDC})
	other := b.replica()
	b.clock.Advance(idle - time.Minute)
	if _, err := other.Authenticate(t.Context(), secret, here); err != nil {
		t.Fatal(err)
	}
	b.clock.Advance(idle - time.Minute)
	if got := b.code(t, secret); got != "" {
		t.Errorf("used on another replica: got %q", got)
	}
	b.clock.Advance(idle - time.Minute)
	if _, err := b.Authenticate(access.AskedAgain(t.Context()), secret, here); err != nil {
		t.Errorf("asked again: got %v", err)
	}
	b.clock.Advance(2 * time.Minute)
	if got := b.code(t, secret); got != "sign_in_idle" {
		t.Errorf("asked again and not used: got %q", got)
	}
}

func TestWhatEndsASignIn(t *testing.T) {
	admin := access.GrantsAlone(access.Actor{Kind: access.APIKey, ID: "key_admin", Grants: []access.Grant{{ID: "key_admin", Permissions: []access.Permission{access.All}}}})
	for name, c := range map[string]struct {
		end  func(t *testing.T, b *bench, own context.Context, in signin.SignIn) error
		want string
		n    int // entries of the audit log by this permission
		by   access.Permission
	}{
		"signing out": {func(_ *testing.T, b *bench, own context.Context, _ signin.SignIn) error { return b.End(own, "") }, "sign_in_ended", 1, access.SelfManage},
		"signing out everywhere": {func(t *testing.T, b *bench, own context.Context, _ signin.SignIn) error {
			n, err := b.EndMine(own)
			if n != 2 {
				t.Errorf("%d ended, want both", n)
			}
			return err
		}, "sign_in_ended", 1, access.SelfManage},
		"being sent away": {func(t *testing.T, b *bench, _ context.Context, in signin.SignIn) error {
			_, err := b.Revoke(access.WithActor(t.Context(), admin), in.ID)
			return err
		}, "sign_in_ended", 1, signin.Revoke},
		"being sent away everywhere": {func(t *testing.T, b *bench, _ context.Context, in signin.SignIn) error {
			n, err := b.RevokeAll(access.WithActor(t.Context(), admin), in.UserID)
			if n != 2 {
				t.Errorf("%d ended, want both", n)
			}
			return err
		}, "sign_in_ended", 1, signin.Revoke},
		"the end of the key that it began with": {func(_ *testing.T, b *bench, _ context.Context, _ signin.SignIn) error {
			b.keys.gone = true
			return nil
		}, "sign_in_key_gone", 0, signin.Revoke},
	} {
		t.Run(name, func(t *testing.T) {
			b := open(t)
			own, in, secret := b.begin(t, slice.Start{User: b.ada.ID, Method: signin.APIKey, KeyID: "key_1"})
			b.begin(t, slice.Start{User: b.ada.ID, Method: signin.OIDC})
			_, _, others := b.begin(t, slice.Start{User: b.bob.ID, Method: signin.OIDC})
			if err := c.end(t, b, own, in); err != nil {
				t.Fatal(err)
			}
			if got := b.code(t, secret); got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
			if got := b.code(t, others); got != "" {
				t.Errorf("somebody else's: got %q", got)
			}
			if l := b.log(t, audit.Query{Action: c.by}); len(l) != c.n {
				t.Errorf("the audit log has %d entries of %s, want %d", len(l), c.by, c.n)
			}
			if l := b.log(t, audit.Query{Action: signin.Use}); len(l) != 1 || l[0].Outcome != audit.Refused || l[0].Reason != c.want {
				t.Errorf("the refusal is in the audit log as %+v", l)
			}
		})
	}
}

func TestNobodyEndsWhatIsNotTheirs(t *testing.T) {
	b := open(t)
	ada, _, _ := b.begin(t, slice.Start{User: b.ada.ID, Method: signin.OIDC})
	_, bobs, secret := b.begin(t, slice.Start{User: b.bob.ID, Method: signin.OIDC})
	key := access.WithActor(t.Context(), access.Actor{Kind: access.APIKey, ID: "key_1", Principal: b.bob.ID, Grants: []access.Grant{{Permissions: []access.Permission{access.All}}}})
	nobody := access.WithActor(t.Context(), access.Actor{Kind: access.APIKey, ID: "key_2"})
	_, _, mine := b.Mine(key, tenant.Page{})
	_, revoke := b.Revoke(nobody, bobs.ID)
	for what, got := range map[string]string{
		"another's, as one's own":                  code(b.End(ada, bobs.ID)),
		"one's own, with an API key":               code(b.End(key, bobs.ID)),
		"one's own listed, with an API key":        code(mine),
		"another's, without the permission for it": code(revoke),
	} {
		if got != "not_found" && got != "permission_denied" {
			t.Errorf("%s: got %q", what, got)
		}
	}
	if got := b.code(t, secret); got != "" {
		t.Errorf("it ended: %q", got)
	}
	list, _, err := b.Mine(ada, tenant.Page{})
	if err != nil || len(list) != 1 || list[0].UserID != b.ada.ID {
		t.Errorf("mine are %+v, %v", list, err)
	}
	if list, _, err := b.List(nobody, "", tenant.Page{}); err != nil || len(list) != 0 {
		t.Errorf("who may read none sees %+v, %v", list, err)
	}
}

func TestASignInWithAKeyHoldsNoMoreThanTheKey(t *testing.T) {
	b := open(t)
	ctx, _, _ := b.begin(t, slice.Start{User: b.ada.ID, Method: signin.APIKey, KeyID: "key_1"})
	a := access.ActorFrom(ctx)
	if !a.Decide("hosts.read", access.Scope{}).Allowed || a.Decide("hosts.remove", access.Scope{}).Allowed || a.Decide("shell_sessions.open", access.Scope{}).Allowed {
		t.Errorf("it holds %+v", a.Grants)
	}
}

func TestWhoIsDisabledDoesNotSignIn(t *testing.T) {
	b := open(t)
	b.ada.DisabledAt = noon
	if err := b.db.Observe(t.Context(), func(tx *storage.Tx) error { _, err := tx.PutPrincipal(t.Context(), b.ada); return err }); err != nil {
		t.Fatal(err)
	}
	for _, user := range []string{b.ada.ID, id.New("usr", noon)} {
		if _, _, err := b.Begin(from(t.Context()), slice.Start{User: user, Method: signin.OIDC}); code(err) != "sign_in_user_gone" {
			t.Errorf("got %v", err)
		}
	}
	if l := b.log(t, audit.Query{Action: signin.Use}); len(l) != 2 || b.attempts["oidc sign_in_user_gone"] != 2 {
		t.Errorf("the audit log has %+v; counted %v", l, b.attempts)
	}
}

func TestStringsThatAreNone(t *testing.T) {
	b := open(t)
	_, in, secret := b.begin(t, slice.Start{User: b.ada.ID, Method: signin.OIDC})
	for name, c := range map[string]string{
		"cut short":                         secret[:len(secret)-1],
		"an API key":                        "lbk_" + secret[4:],
		"another string for the same id":    signin.NewSecret(in.ID),
		"of a sign-in that there never was": signin.NewSecret(id.New("sgn", noon)),
	} {
		if got := b.code(t, c); got != "sign_in_invalid" {
			t.Errorf("%s: got %q", name, got)
		}
	}
	// Repeats are one entry, until their window is over.
	if l := b.log(t, audit.Query{Action: signin.Use}); len(l) != 2 {
		t.Errorf("the audit log has %d entries, want one for each id: %+v", len(l), l)
	}
}

func TestOldSignInsAreForgotten(t *testing.T) {
	b := open(t)
	_, in, _ := b.begin(t, slice.Start{User: b.ada.ID, Method: signin.OIDC})
	forget := func() bool {
		err := b.db.Observe(t.Context(), func(tx *storage.Tx) error { return tx.PruneSignIns(t.Context(), b.clock.Now().Add(-30*24*time.Hour)) })
		if err != nil {
			t.Fatal(err)
		}
		_, err = b.db.View().SignIn(t.Context(), in.ID)
		return fault.KindOf(err) == fault.NotFound
	}
	b.clock.Advance(29 * 24 * time.Hour)
	if forget() {
		t.Error("it was forgotten a day early")
	}
	if b.clock.Advance(2 * 24 * time.Hour); !forget() {
		t.Error("it is still there")
	}
}

func TestAnEndIsSeenByOtherReplicas(t *testing.T) {
	b := open(t)
	own, _, secret := b.begin(t, slice.Start{User: b.ada.ID, Method: signin.OIDC})
	replica := b.replica()
	follower := feed.NewFollower(feed.Options{Source: b.db})
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel()
	from := follower.Subscribe(0)
	heard := make(chan struct{}, 16)
	running.Go(func() { follower.Run(ctx) })
	running.Go(func() {
		defer from.Close()
		for {
			changes, anew, err := from.Next(ctx)
			if err != nil {
				return
			}
			replica.Changed(changes, anew)
			heard <- struct{}{}
		}
	})
	<-heard // what was there already
	if _, err := replica.Authenticate(ctx, secret, here); err != nil {
		t.Fatal(err)
	}
	if err := b.End(own, ""); err != nil {
		t.Fatal(err)
	}
	<-heard // the clock stands still: the cache forgets nothing by itself
	if _, err := replica.Authenticate(ctx, secret, here); code(err) != "sign_in_ended" {
		t.Errorf("got %v, want sign_in_ended", err)
	}
}

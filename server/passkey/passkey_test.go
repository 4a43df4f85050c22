package passkey_test

import (
	"context"
	"encoding/json"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	virtual "github.com/descope/virtualwebauthn"

	"github.com/loopbackd/loopback/access"
	"github.com/loopbackd/loopback/audit"
	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/id"
	"github.com/loopbackd/loopback/passkey"
	"github.com/loopbackd/loopback/principal"
	slice "github.com/loopbackd/loopback/server/passkey"
	"github.com/loopbackd/loopback/server/storage"
	"github.com/loopbackd/loopback/signin"
	"github.com/loopbackd/loopback/tenant"
	"github.com/loopbackd/loopback/test/authenticator"
)

type clock struct{ at atomic.Int64 }

func (c *clock) Now() time.Time          { return time.UnixMicro(c.at.Load()).UTC() }
func (c *clock) Advance(d time.Duration) { c.at.Add(d.Microseconds()) }

const address = "https://cp.example.com:8443"

// bench is two replicas on one database.
type bench struct {
	*slice.Service
	second *slice.Service
	db     *storage.DB
	clock  *clock
	policy *access.Policy
}

func open(t *testing.T) *bench {
	t.Helper()
	b := &bench{clock: &clock{}}
	b.clock.at.Store(time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC).UnixMicro())
	var err error
	if b.db, err = storage.Open(t.Context(), storage.Options{URL: filepath.Join(t.TempDir(), "test.db"), Clock: b.clock.Now}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.db.Close(); err != nil {
			t.Error(err)
		}
	})
	b.policy = access.NewPolicy(access.NewCatalogue(nil, nil, nil), b.clock.Now)
	b.Service, b.second = b.replica(t, address), b.replica(t, address)
	return b
}

func (b *bench) replica(t *testing.T, url string) *slice.Service {
	t.Helper()
	s, err := slice.NewService(storage.Bind[slice.Reader, slice.Tx](b.db), slice.Options{PublicURL: url, Users: users{b.db}, Seal: make([]byte, 32),
		Now: b.clock.Now, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

type users struct{ db *storage.DB }

func (u users) Get(ctx context.Context, _ access.SubjectKind, ref string) (principal.Principal, error) {
	return u.db.View().Principal(ctx, ref)
}

// person is a user who has just signed in by a provider, with an authenticator.
type person struct {
	*bench
	user principal.Principal
	in   signin.SignIn
	authenticator.Authenticator
}

func (b *bench) write(t *testing.T, do func(tx *storage.Tx) error) {
	t.Helper()
	if err := b.db.Observe(t.Context(), do); err != nil {
		t.Fatal(err)
	}
}

func (b *bench) person(t *testing.T, name string) *person {
	t.Helper()
	now := b.clock.Now()
	p := &person{bench: b, user: principal.Principal{Meta: tenant.Meta{ID: id.New("usr", now), Name: name}, Kind: access.User}}
	p.in = signin.SignIn{Meta: tenant.Meta{ID: id.New("sgn", now), Name: name}, UserID: p.user.ID, Method: signin.OIDC, ProvedAt: now, ExpiresAt: now.Add(24 * time.Hour),
		Idle: time.Hour, LastUsedAt: now}
	b.write(t, func(tx *storage.Tx) error {
		if _, err := tx.PutPrincipal(t.Context(), p.user); err != nil {
			return err
		}
		_, err := tx.PutSignIn(t.Context(), p.in)
		return err
	})
	p.Authenticator = *authenticator.New(t, address, p.user.ID)
	return p
}

// ctx is one in which they act, with the second factor that their sign-in knows of.
func (p *person) ctx(t *testing.T) context.Context {
	t.Helper()
	in, err := p.db.View().SignIn(t.Context(), p.in.ID)
	if err != nil {
		t.Fatal(err)
	}
	return access.WithActor(t.Context(), access.Actor{Kind: access.SignIn, ID: in.ID, Name: in.Name, Principal: in.UserID, MFA: in.MFAAt, Policy: p.policy})
}

func (p *person) attest(t *testing.T, c slice.Ceremony) string {
	t.Helper()
	return p.Attest(t, string(c.Options))
}

func (p *person) assert(t *testing.T, c slice.Ceremony) string {
	t.Helper()
	return p.Assert(t, string(c.Options))
}

// registered is a person with a passkey.
func (b *bench) registered(t *testing.T, name string) (*person, passkey.Passkey) {
	t.Helper()
	p := b.person(t, name)
	return p, p.register(t)
}

func (p *person) register(t *testing.T) passkey.Passkey {
	t.Helper()
	c := do(t)(p.BeginRegistration(p.ctx(t)))
	made, err := p.FinishRegistration(p.ctx(t), c.Text, p.attest(t, c), "laptop")
	if err != nil {
		t.Fatal(err)
	}
	return made
}

func do(t *testing.T) func(slice.Ceremony, error) slice.Ceremony {
	return func(c slice.Ceremony, err error) slice.Ceremony {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
}

func (p *person) stepUp(t *testing.T) {
	t.Helper()
	c := do(t)(p.BeginStepUp(p.ctx(t)))
	if _, err := p.FinishStepUp(p.ctx(t), c.Text, p.assert(t, c)); err != nil {
		t.Fatal(err)
	}
}

func stranger(ctx context.Context) context.Context {
	return access.WithActor(ctx, access.Actor{Kind: access.Anonymous, Address: "192.0.2.7"})
}

func want(t *testing.T, err error, code string) {
	t.Helper()
	got := ""
	if err != nil {
		got = fault.Of(err).Code
	}
	if got != code {
		t.Errorf("got %q (%v), want %q", got, err, code)
	}
}

func TestAPasskeyIsMadeOnOneReplicaAndShownOnAnother(t *testing.T) {
	b := open(t)
	p := b.person(t, "ada")
	p.Device.Options.BackupEligible, p.Device.Options.BackupState = true, true
	c := do(t)(b.BeginRegistration(p.ctx(t)))
	for _, demand := range []string{`"residentKey":"required"`, `"userVerification":"required"`, `"id":"cp.example.com"`, `"attestation":"none"`} {
		if !strings.Contains(string(c.Options), demand) {
			t.Errorf("the options lack %s: %s", demand, c.Options)
		}
	}
	made, err := b.second.FinishRegistration(p.ctx(t), c.Text, p.attest(t, c), "laptop")
	if err != nil || made.UserID != p.user.ID || made.Name != "laptop" || !made.BackedUp || made.Domain != "cp.example.com" {
		t.Fatalf("got %+v, %v", made, err)
	}
	c = do(t)(b.second.BeginSignIn(stranger(t.Context())))
	b.clock.Advance(time.Minute)
	got, err := b.FinishSignIn(stranger(t.Context()), c.Text, p.assert(t, c))
	if err != nil || got.User != p.user.ID || got.Passkey != made.ID || !got.At.Equal(b.clock.Now()) {
		t.Fatalf("got %+v, %v", got, err)
	}
	mine, _, err := b.Mine(p.ctx(t), tenant.Page{})
	if err != nil || len(mine) != 1 || !mine[0].LastUsedAt.Equal(b.clock.Now()) {
		t.Errorf("got %+v, %v", mine, err)
	}
	entries, err := b.db.View().Entries(t.Context(), audit.Query{Readable: access.Everywhere(), Limit: 10})
	if err != nil || len(entries) != 2 || entries[0].Action != passkey.Use || entries[1].Action != access.SelfManage || strings.Contains(string(entries[1].After), "Key") {
		t.Errorf("the audit log has %+v, %v", entries, err)
	}
}

// Each answer is wrong in one way, and opens nothing.
func TestWhatIsNoAnswerToTheCeremonyIsRefused(t *testing.T) {
	b := open(t)
	p, made := b.registered(t, "ada")
	other, _ := b.registered(t, "bob")
	anybody := stranger(t.Context())
	begin := func() slice.Ceremony { return do(t)(b.BeginSignIn(anybody)) }
	change := func(how func(*person)) *person { q := *p; how(&q); return &q }
	for name, try := range map[string]struct {
		do   func() error
		want string
	}{
		"again":               {func() error { c := begin(); a := p.assert(t, c); return second(b, anybody, c, a) }, "passkey_ceremony_over"},
		"again, another side": {func() error { c := begin(); a := p.assert(t, c); return elsewhere(b, anybody, c, a) }, "passkey_ceremony_over"},
		"too late": {func() error {
			c := begin()
			b.clock.Advance(passkey.Life)
			return finish(b, anybody, c, p.assert(t, c))
		}, "passkey_ceremony_over"},
		"another origin": {func() error {
			c := begin()
			return finish(b, anybody, c, change(func(q *person) { q.Party.Origin = "https://cp.example.com.evil.example" }).assert(t, c))
		}, "passkey_invalid"},
		"another port": {func() error {
			c := begin()
			return finish(b, anybody, c, change(func(q *person) { q.Party.Origin = "https://cp.example.com:9443" }).assert(t, c))
		}, "passkey_invalid"},
		"another domain": {func() error {
			c := begin()
			return finish(b, anybody, c, change(func(q *person) { q.Party.ID = "example.com" }).assert(t, c))
		}, "passkey_invalid"},
		"the user not verified": {func() error {
			c := begin()
			return finish(b, anybody, c, change(func(q *person) { q.Device.Options.UserNotVerified = true }).assert(t, c))
		}, "passkey_invalid"},
		"the user not there": {func() error {
			c := begin()
			return finish(b, anybody, c, change(func(q *person) { q.Device.Options.UserNotPresent = true }).assert(t, c))
		}, "passkey_invalid"},
		"another user's handle": {func() error {
			c := begin()
			return finish(b, anybody, c, change(func(q *person) { q.Device.Options.UserHandle = []byte(other.user.ID) }).assert(t, c))
		}, "passkey_invalid"},
		"no handle": {func() error {
			c := begin()
			return finish(b, anybody, c, change(func(q *person) { q.Device.Options.UserHandle = nil }).assert(t, c))
		}, "passkey_invalid"},
		"another key": {func() error {
			c := begin()
			return finish(b, anybody, c, change(func(q *person) { q.Key.Key = authenticator.Key(t).Key }).assert(t, c))
		}, "passkey_invalid"},
		"an unknown passkey": {func() error {
			c := begin()
			return finish(b, anybody, c, change(func(q *person) { q.Key = authenticator.Key(t) }).assert(t, c))
		}, "passkey_unknown"},
		"another challenge": {func() error { return finish(b, anybody, begin(), p.assert(t, begin())) }, "passkey_invalid"},
		"begun to step up":  {func() error { c := do(t)(b.BeginStepUp(p.ctx(t))); return finish(b, anybody, c, p.assert(t, c)) }, "passkey_ceremony_over"},
		"no ceremony":       {func() error { c := begin(); return finish(b, anybody, slice.Ceremony{Text: "AAAA"}, p.assert(t, c)) }, "passkey_ceremony_over"},
		"no JSON":           {func() error { return finish(b, anybody, begin(), "{") }, "passkey_invalid"},
		"nothing":           {func() error { return finish(b, anybody, begin(), "") }, "passkey_invalid"},
		"a registration instead": {func() error {
			c := begin()
			return finish(b, anybody, c, `{"id":"AAAA","rawId":"AAAA","type":"public-key","response":{"attestationObject":"AAAA"}}`)
		}, "passkey_invalid"},
	} {
		t.Run(name, func(t *testing.T) { want(t, try.do(), try.want) })
	}
	if c := begin(); finish(b, anybody, c, p.assert(t, c)) != nil {
		t.Errorf("after all this %s does not let in any more", made.ID)
	}
}

func finish(b *bench, ctx context.Context, c slice.Ceremony, answer string) error {
	_, err := b.FinishSignIn(ctx, c.Text, answer)
	return err
}

func second(b *bench, ctx context.Context, c slice.Ceremony, answer string) error {
	if err := finish(b, ctx, c, answer); err != nil {
		return err
	}
	return finish(b, ctx, c, answer)
}

func elsewhere(b *bench, ctx context.Context, c slice.Ceremony, answer string) error {
	if err := finish(b, ctx, c, answer); err != nil {
		return err
	}
	_, err := b.second.FinishSignIn(ctx, c.Text, answer)
	return err
}

func TestACountThatGoesBackIsRefusedAndOnRecord(t *testing.T) {
	b := open(t)
	p := b.person(t, "ada")
	p.Key.Counter = 7
	made := p.register(t)
	try := func(count uint32) error {
		c := do(t)(b.BeginSignIn(stranger(t.Context())))
		p.Key.Counter = count
		return finish(b, stranger(t.Context()), c, p.assert(t, c))
	}
	want(t, try(9), "")
	want(t, try(9), "passkey_cloned")
	want(t, try(8), "passkey_cloned")
	want(t, try(0), "passkey_cloned")
	want(t, try(10), "")
	entries, err := b.db.View().Entries(t.Context(), audit.Query{Readable: access.Everywhere(), Target: made.ID, Limit: 10})
	refused := slices.DeleteFunc(entries, func(e audit.Entry) bool { return e.Outcome != audit.Refused })
	if err != nil || len(refused) != 3 || refused[0].Reason != "passkey_cloned" || refused[0].Actor.Address != "192.0.2.7" {
		t.Errorf("the audit log has %+v, %v", refused, err)
	}
	// One that never counts is as good at its tenth use as at its first.
	q, _ := b.registered(t, "bob")
	for range 3 {
		c := do(t)(b.BeginSignIn(stranger(t.Context())))
		want(t, finish(b, stranger(t.Context()), c, q.assert(t, c)), "")
	}
}

func TestAuthenticatorsThatBeginToSyncAreNotLockedOut(t *testing.T) {
	b := open(t)
	p, _ := b.registered(t, "ada")
	p.Device.Options.BackupEligible, p.Device.Options.BackupState = true, true
	c := do(t)(b.BeginSignIn(stranger(t.Context())))
	want(t, finish(b, stranger(t.Context()), c, p.assert(t, c)), "")
	mine, _, err := b.Mine(p.ctx(t), tenant.Page{})
	if err != nil || !mine[0].BackedUp {
		t.Errorf("got %+v, %v", mine, err)
	}
}

func TestUsersWhoAreGoneAreNotLetIn(t *testing.T) {
	b := open(t)
	p, made := b.registered(t, "ada")
	c := do(t)(b.BeginSignIn(stranger(t.Context())))
	answer := p.assert(t, c)
	p.user.DisabledAt = b.clock.Now()
	b.write(t, func(tx *storage.Tx) error { _, err := tx.PutPrincipal(t.Context(), p.user); return err })
	want(t, finish(b, stranger(t.Context()), c, answer), "sign_in_user_gone")
	b.write(t, func(tx *storage.Tx) error {
		gone, err := tx.DeletePasskeys(t.Context(), p.user.ID)
		if len(gone) != 1 || gone[0] != made.ID {
			t.Errorf("deleted %v", gone)
		}
		if err == nil {
			err = tx.DeletePrincipal(t.Context(), p.user)
		}
		return err
	})
	want(t, finish(b, stranger(t.Context()), c, answer), "passkey_unknown")
}

func TestAStepUpIsOfThisSignInByItsUsersPasskey(t *testing.T) {
	b := open(t)
	p, _ := b.registered(t, "ada")
	other, _ := b.registered(t, "bob")
	if access.ActorFrom(p.ctx(t)).StepUp("shell_sessions.open") == nil {
		t.Fatal("no passkey was shown, and a shell may be opened")
	}
	c := do(t)(b.BeginStepUp(p.ctx(t)))
	if _, err := b.FinishStepUp(p.ctx(t), c.Text, other.assert(t, c)); fault.Of(err).Code != "passkey_other_user" {
		t.Errorf("by another user's passkey: got %v", err)
	}
	if _, err := b.FinishStepUp(other.ctx(t), c.Text, p.assert(t, c)); fault.Of(err).Code != "passkey_ceremony_over" {
		t.Errorf("another user finishes it: got %v", err)
	}
	in := do(t)(b.BeginSignIn(stranger(t.Context())))
	if _, err := b.FinishStepUp(p.ctx(t), in.Text, p.assert(t, in)); fault.Of(err).Code != "passkey_ceremony_over" {
		t.Errorf("with what was begun to sign in: got %v", err)
	}
	answer := p.assert(t, c)
	if _, err := b.second.FinishStepUp(p.ctx(t), c.Text, answer); err != nil {
		t.Fatal(err)
	}
	if err := access.ActorFrom(p.ctx(t)).StepUp("shell_sessions.open"); err != nil {
		t.Errorf("just now: got %v", err)
	}
	if err := access.ActorFrom(other.ctx(t)).StepUp("shell_sessions.open"); err == nil {
		t.Error("somebody else may too")
	}
	b.clock.Advance(access.StepUpWithin + time.Second)
	if err := access.ActorFrom(p.ctx(t)).StepUp("shell_sessions.open"); err == nil {
		t.Error("a minute later it still counts")
	}
	if _, err := b.FinishStepUp(p.ctx(t), c.Text, answer); fault.Of(err).Code != "passkey_ceremony_over" {
		t.Errorf("the same answer again: got %v", err)
	}
	if err := access.ActorFrom(p.ctx(t)).StepUp("hosts.read"); err != nil {
		t.Errorf("what is not tier 0: got %v", err)
	}
	// A sign-in that ended meanwhile gets nothing.
	c = do(t)(b.BeginStepUp(p.ctx(t)))
	answer = p.assert(t, c)
	ctx := p.ctx(t)
	b.write(t, func(tx *storage.Tx) error {
		_, err := tx.EndSignIns(t.Context(), p.user.ID, b.clock.Now(), signin.Revoked)
		return err
	})
	if _, err := b.FinishStepUp(ctx, c.Text, answer); fault.Of(err).Code != "sign_in_ended" {
		t.Errorf("after the sign-in ended: got %v", err)
	}
}

func TestMakingOneTakesThatOneIsThere(t *testing.T) {
	b := open(t)
	p, first := b.registered(t, "ada")
	// A stolen sign-in cannot make itself at home.
	_, err := b.BeginRegistration(p.ctx(t))
	want(t, err, "step_up_required")
	p.stepUp(t)
	c := do(t)(b.BeginRegistration(p.ctx(t)))
	if !strings.Contains(string(c.Options), "excludeCredentials") {
		t.Errorf("the authenticator is not told of %s: %s", first.ID, c.Options)
	}
	if _, err := b.FinishRegistration(p.ctx(t), c.Text, p.attest(t, c), "again"); fault.Of(err).Code != "passkey_exists" {
		t.Errorf("the same authenticator again: got %v", err)
	}
	old := p.Key
	p.Key = virtual.NewCredential(virtual.KeyTypeRSA)
	c = do(t)(b.BeginRegistration(p.ctx(t)))
	answer := p.attest(t, c)
	for _, name := range []string{"", strings.Repeat("x", 101), "a\nb"} {
		_, err = b.FinishRegistration(p.ctx(t), c.Text, answer, name)
		want(t, err, "passkey_name_invalid")
	}
	if _, err = b.FinishRegistration(p.ctx(t), c.Text, answer, "YubiKey 🔑"); err != nil {
		t.Fatal(err)
	}
	_, err = b.FinishRegistration(p.ctx(t), c.Text, answer, "again")
	want(t, err, "passkey_ceremony_over")
	p.Key = old

	// Who has none shows who they are within a quarter of an hour.
	q := b.person(t, "bob")
	b.clock.Advance(16 * time.Minute)
	_, err = b.BeginRegistration(q.ctx(t))
	want(t, err, "sign_in_again")
	// A sign-in that a key bounds would be more than the key.
	r := b.person(t, "cyd")
	r.in.KeyID = "key_1"
	b.write(t, func(tx *storage.Tx) error { _, err := tx.PutSignIn(t.Context(), r.in); return err })
	_, err = b.BeginRegistration(r.ctx(t))
	want(t, err, "passkey_by_api_key")
	_, err = b.BeginStepUp(r.ctx(t))
	want(t, err, "passkey_none")
	_, err = b.BeginRegistration(access.WithActor(t.Context(), access.Actor{Kind: access.APIKey, ID: "key_1", Principal: r.user.ID}))
	want(t, err, "permission_denied")
}

func TestTheLastWayInIsNotRemovedWithoutAWord(t *testing.T) {
	b := open(t)
	p, made := b.registered(t, "ada")
	other, theirs := b.registered(t, "bob")
	want(t, b.Remove(p.ctx(t), theirs.ID, true), "not_found")
	want(t, b.Remove(p.ctx(t), made.ID, true), "step_up_required")
	p.stepUp(t)
	want(t, b.Remove(p.ctx(t), made.ID, false), "passkey_last")
	renamed, err := b.Rename(p.ctx(t), made.ID, "old laptop")
	if err != nil || renamed.Name != "old laptop" {
		t.Errorf("got %+v, %v", renamed, err)
	}
	_, err = b.Rename(p.ctx(t), theirs.ID, "mine")
	want(t, err, "not_found")
	// What began with it ends with it, but for the sign-in that removes it.
	began := signin.SignIn{Meta: tenant.Meta{ID: id.New("sgn", b.clock.Now())}, UserID: p.user.ID, Method: signin.Passkey, Via: made.ID, ExpiresAt: b.clock.Now().Add(time.Hour), Idle: time.Hour, LastUsedAt: b.clock.Now()}
	b.write(t, func(tx *storage.Tx) error { _, err := tx.PutSignIn(t.Context(), began); return err })
	want(t, b.Remove(p.ctx(t), made.ID, true), "")
	in, err := b.db.View().SignIn(t.Context(), began.ID)
	if err != nil || in.EndedFor != signin.Revoked {
		t.Errorf("the sign-in that began with it: got %+v, %v", in, err)
	}
	if in, err = b.db.View().SignIn(t.Context(), p.in.ID); err != nil || !in.EndedAt.IsZero() {
		t.Errorf("the sign-in that removed it: got %+v, %v", in, err)
	}
	c := do(t)(b.BeginSignIn(stranger(t.Context())))
	want(t, finish(b, stranger(t.Context()), c, p.assert(t, c)), "passkey_unknown")

	// An administrator removes somebody's, where they may.
	want(t, b.Revoke(p.ctx(t), theirs.ID), "not_found")
	admin := access.WithActor(t.Context(), access.GrantsAlone(access.Actor{Kind: access.APIKey, ID: "key_1", Grants: []access.Grant{{ID: "key_1", Permissions: []access.Permission{access.All}}}}))
	if list, _, err := b.List(admin, other.user.ID, tenant.Page{}); err != nil || len(list) != 1 {
		t.Errorf("got %+v, %v", list, err)
	}
	want(t, b.Revoke(admin, theirs.ID), "")
	want(t, b.Revoke(admin, theirs.ID), "not_found")
	want(t, b.Revoke(admin, ""), "request_invalid")
}

func TestAnAddressWithoutANameHasNoPasskeys(t *testing.T) {
	b := open(t)
	for _, url := range []string{"https://192.0.2.7:8443", "https://[2001:db8::1]"} {
		s := b.replica(t, url)
		_, err := s.BeginSignIn(t.Context())
		want(t, err, "passkeys_unavailable")
		if f := fault.Of(err); s.Domain() != "" || !strings.Contains(f.Message, url) || !strings.Contains(f.Hint, "public-url") {
			t.Errorf("%s: got %v, %q", url, err, f.Hint)
		}
		p := b.person(t, strings.ReplaceAll(id.New("x", b.clock.Now()), "_", ""))
		_, err = s.BeginRegistration(p.ctx(t))
		want(t, err, "passkeys_unavailable")
	}
	if s := b.replica(t, "https://localhost:8443"); s.Domain() != "localhost" {
		t.Errorf("got %q", s.Domain())
	}
}

func TestWhatTheBrowserIsToldIsJSON(t *testing.T) {
	b := open(t)
	c := do(t)(b.BeginSignIn(stranger(t.Context())))
	var options struct {
		Challenge, RPID, UserVerification string
		Timeout                           int
	}
	if err := json.Unmarshal(c.Options, &options); err != nil || len(options.Challenge) < 22 || options.RPID != "cp.example.com" || options.UserVerification != "required" || options.Timeout != 300_000 {
		t.Errorf("got %s, %v", c.Options, err)
	}
	if strings.Contains(c.Text, options.Challenge) || !c.ExpiresAt.Equal(b.clock.Now().Add(passkey.Life)) {
		t.Errorf("the ceremony is %+v", c)
	}
}

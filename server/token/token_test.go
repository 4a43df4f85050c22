package token_test

import (
	"context"
	"encoding/json"
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
	"github.com/loopbackd/loopback/audit"
	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/id"
	"github.com/loopbackd/loopback/operation"
	"github.com/loopbackd/loopback/server/storage"
	"github.com/loopbackd/loopback/server/tenant"
	slice "github.com/loopbackd/loopback/server/token"
	noun "github.com/loopbackd/loopback/tenant"
	"github.com/loopbackd/loopback/token"
)

// clock is a time that tests set.
type clock struct{ at atomic.Int64 }

func (c *clock) Now() time.Time          { return time.UnixMicro(c.at.Load()).UTC() }
func (c *clock) Advance(d time.Duration) { c.at.Add(d.Microseconds()) }

var (
	noon   = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	anchor = [token.AnchorSize]byte{1, 2, 3}
	here   = netip.MustParseAddr("10.1.2.3")
)

type bench struct {
	*slice.Service
	db      *storage.DB
	tenants *tenant.Service
	clock   *clock
	prod    noun.Workspace
	other   noun.Workspace
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
	limits := token.Limits{DefaultTTL: time.Hour, LongTTL: 30 * 24 * time.Hour, MaxTTL: 90 * 24 * time.Hour, DefaultMaxUses: 1, MaxUses: 1000}
	b.tenants = tenant.NewService(storage.Bind[tenant.Reader, tenant.Tx](b.db), limits, b.clock.Now)
	b.Service = slice.NewService(storage.Bind[slice.Reader, slice.Tx](b.db), b.tenants, slice.Options{
		Limits: limits, Pepper: []byte("pepper"), Anchor: func() [token.AnchorSize]byte { return anchor },
		InstallCommand: func(channel string) string { return "install from " + channel }, Now: b.clock.Now,
	})
	ctx := administrator(t)
	b.prod, b.other = b.workspace(t, ctx, "acme"), b.workspace(t, ctx, "other")
	return b
}

func (b *bench) workspace(t *testing.T, ctx context.Context, organisation string) noun.Workspace {
	t.Helper()
	_, e1 := b.tenants.CreateOrganisation(ctx, tenant.New{Name: organisation})
	_, e2 := b.tenants.CreateProject(ctx, organisation, tenant.New{Name: "shop"})
	w, e3 := b.tenants.CreateWorkspace(ctx, organisation+"/shop", tenant.New{Name: "prod"}, noun.TokenPolicy{})
	if err := errors.Join(e1, e2, e3); err != nil {
		t.Fatal(err)
	}
	return w
}

func acting(ctx context.Context, at access.Scope, p ...access.Permission) context.Context {
	return access.WithActor(ctx, access.GrantsAlone(access.Actor{Kind: access.APIKey, ID: "key_test", Name: "test",
		Grants: []access.Grant{{ID: "key_test", Permissions: p, Scope: at}}}))
}

func administrator(t *testing.T) context.Context {
	return acting(t.Context(), access.Scope{}, access.All)
}

func (b *bench) mint(t *testing.T, r slice.Request) slice.Minted {
	t.Helper()
	m, err := b.Mint(administrator(t), b.prod.ID, r)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// use consumes a token as an enrolment does: in a transaction, and with the refusal recorded when that is rolled back.
func (b *bench) use(ctx context.Context, s token.Secret, from netip.Addr, name string) (token.Token, error) {
	var out token.Token
	err := b.db.Write(ctx, func(tx *storage.Tx) error {
		var err error
		out, err = b.Consume(ctx, tx, s, from, name, b.clock.Now())
		return err
	})
	if err != nil {
		b.Refused(ctx, s, from, name, err)
	}
	return out, err
}

func (b *bench) read(t *testing.T, tokenID string) token.Token {
	t.Helper()
	found, err := b.Get(administrator(t), tokenID)
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func (b *bench) entries(t *testing.T, action access.Permission) []audit.Entry {
	t.Helper()
	found, err := b.db.View().Entries(t.Context(), audit.Query{Readable: access.Everywhere(), Action: action, Limit: 10_000})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func code(err error) string {
	if err == nil {
		return ""
	}
	return fault.Of(err).Code
}

func TestMintTakesTheDefaults(t *testing.T) {
	b := open(t)
	m := b.mint(t, slice.Request{})
	if m.Token.MaxUses != 1 || !m.Token.ExpiresAt.Equal(noon.Add(time.Hour)) || m.Token.Channel != "stable" || m.InstallCommand != "install from stable" {
		t.Errorf("got %+v, want one use, an hour, stable", m)
	}
	if m.Secret.Anchor != anchor || m.Secret.ID != m.Token.ID {
		t.Errorf("got anchor %x for %s, want the deployment's for %s", m.Secret.Anchor, m.Secret.ID, m.Token.ID)
	}
	if m.Token.CreatedBy != "key_test" || !strings.HasPrefix(m.Token.Name, "tok-") {
		t.Errorf("got %+v, want its maker and a name made from its id", m.Token)
	}
	long := b.mint(t, slice.Request{LongLived: true})
	if got := long.Token.ExpiresAt.Sub(noon); got != 30*24*time.Hour {
		t.Errorf("a long-lived one lives %s, want 30 days", got)
	}
}

func TestTheSecretIsNowhereButInTheAnswer(t *testing.T) {
	b := open(t)
	m := b.mint(t, slice.Request{})
	rotated, err := b.Rotate(administrator(t), m.Token.ID, slice.Rotation{})
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []token.Secret{m.Secret, rotated.Secret} {
		stored := fmt.Sprintf("%+v %+v", b.read(t, s.ID), b.entries(t, ""))
		body := s.Reveal()[len("lbt_")+27:]
		if strings.Contains(stored, body) || strings.Contains(stored, body[len(body)-20:]) {
			t.Errorf("the secret of %s is in what is stored", s.ID)
		}
		for _, e := range b.entries(t, "") {
			if strings.Contains(strings.ToLower(string(e.After)), "hash") {
				t.Errorf("the hash is in the audit log: %s", e.After)
			}
		}
	}
}

func TestMintStaysWithinTheLimits(t *testing.T) {
	b := open(t)
	policy := noun.TokenPolicy{MaxTTL: 2 * time.Hour, DefaultTTL: 30 * time.Minute, MaxUses: 5, DefaultMaxUses: 2}
	if _, err := b.tenants.UpdateWorkspace(administrator(t), b.prod.ID, tenant.Update{Tokens: &policy}); err != nil {
		t.Fatal(err)
	}
	if m := b.mint(t, slice.Request{}); m.Token.MaxUses != 2 || m.Token.ExpiresAt.Sub(noon) != 30*time.Minute {
		t.Errorf("got %d uses for %s, want the workspace's defaults", m.Token.MaxUses, m.Token.ExpiresAt.Sub(noon))
	}
	if m := b.mint(t, slice.Request{LongLived: true}); m.Token.ExpiresAt.Sub(noon) != 2*time.Hour {
		t.Errorf("a long-lived one lives %s, want the workspace's maximum", m.Token.ExpiresAt.Sub(noon))
	}
	for field, r := range map[string]slice.Request{
		"ttl":                {TTL: 2*time.Hour + 1},
		"maxUses":            {MaxUses: 6},
		"name":               {Name: "A B"},
		"description":        {Description: strings.Repeat("x", 2000)},
		"labels[ ]":          {Labels: map[string]string{" ": ""}},
		"hostLabels[ ]":      {HostLabels: map[string]string{" ": ""}},
		"allowedNetworks[1]": {AllowedNetworks: []string{"10.0.0.0/8", "10.0.0.0/33"}},
		"hostNamePattern":    {HostNamePattern: "["},
		"channel":            {Channel: "nightly"},
		"ephemeralTtl":       {EphemeralTTL: time.Second},
	} {
		_, err := b.Mint(administrator(t), b.prod.ID, r)
		if code(err) != "token_invalid" || len(fault.Of(err).Violations) != 1 || fault.Of(err).Violations[0].Field != field {
			t.Errorf("%s: got %v, want a violation of just that field", field, err)
		}
	}
	for field, r := range map[string]slice.Request{"ttl": {TTL: time.Second}, "maxUses": {MaxUses: -1}} {
		if _, err := b.Mint(administrator(t), b.prod.ID, r); code(err) != "token_invalid" {
			t.Errorf("%s below its minimum: got %v, want it refused", field, err)
		}
	}
}

func TestAMinterReachesNoFurtherThanTheirScope(t *testing.T) {
	b := open(t)
	for name, c := range map[string]struct {
		ctx       context.Context
		workspace string
		want      fault.Kind
	}{
		"their own workspace":     {acting(t.Context(), b.prod.Scope(), token.Mint), b.prod.ID, ""},
		"another workspace":       {acting(t.Context(), b.prod.Scope(), token.Mint), b.other.ID, fault.NotFound},
		"reader":                  {acting(t.Context(), b.prod.Scope(), token.List, noun.WorkspacesRead), b.prod.ID, fault.Denied},
		"another's by its path":   {acting(t.Context(), b.prod.Scope(), access.All), "other/shop/prod", fault.NotFound},
		"nobody":                  {access.WithActor(t.Context(), access.Actor{Kind: access.Anonymous}), b.prod.ID, fault.NotFound},
		"three permissions apart": {acting(t.Context(), b.prod.Scope(), token.Revoke, token.List, noun.WorkspacesRead), b.prod.ID, fault.Denied},
	} {
		if _, err := b.Mint(c.ctx, c.workspace, slice.Request{}); fault.KindOf(err) != c.want {
			t.Errorf("%s: got %v, want %q", name, err, c.want)
		}
	}
	m := b.mint(t, slice.Request{})
	outside := acting(t.Context(), b.other.Scope(), access.All)
	if _, err := b.Get(outside, m.Token.ID); fault.KindOf(err) != fault.NotFound {
		t.Errorf("get from outside: got %v, want not found", err)
	}
	if _, err := b.Rotate(outside, m.Token.ID, slice.Rotation{}); fault.KindOf(err) != fault.NotFound {
		t.Errorf("rotate from outside: got %v, want not found", err)
	}
	if _, _, err := b.Revoke(outside, m.Token.ID, slice.Revocation{}); fault.KindOf(err) != fault.NotFound {
		t.Errorf("revoke from outside: got %v, want not found", err)
	}
	if list, _, err := b.List(outside, "", nil, noun.Page{}); err != nil || len(list) != 0 {
		t.Errorf("list from outside: got %d and %v, want none", len(list), err)
	}
}

func TestExactReasonOnlyForWhoHoldsTheWholeString(t *testing.T) {
	b := open(t)
	ctx := administrator(t)
	fresh := b.mint(t, slice.Request{})
	revoked := b.mint(t, slice.Request{})
	if _, _, err := b.Revoke(ctx, revoked.Token.ID, slice.Revocation{Reason: "leaked"}); err != nil {
		t.Fatal(err)
	}
	spent := b.mint(t, slice.Request{})
	if _, err := b.use(ctx, spent.Secret, here, "web-1"); err != nil {
		t.Fatal(err)
	}
	fenced := b.mint(t, slice.Request{AllowedNetworks: []string{"192.0.2.0/24"}})
	named := b.mint(t, slice.Request{HostNamePattern: "db-*"})
	trap := b.mint(t, slice.Request{Honeytoken: true})
	for name, c := range map[string]struct {
		secret token.Secret
		want   string
		signal token.Warning
		reason string
	}{
		"revoked":              {revoked.Secret, "token_revoked", token.UsedAfterRevocation, "token_revoked"},
		"exhausted":            {spent.Secret, "token_exhausted", token.UsedAfterExhaustion, "token_exhausted"},
		"wrong network":        {fenced.Secret, "token_network", token.ForeignNetwork, "token_network"},
		"wrong name":           {named.Secret, "token_host_name", "", "token_host_name"},
		"honeytoken":           {trap.Secret, "token_unknown", token.HoneytokenUsed, "honeytoken_used"},
		"guess at a fresh one": {token.NewSecret(fresh.Token.ID, anchor), "token_unknown", token.WrongSecret, "wrong_secret"},
		"unknown id":           {token.NewSecret(id.New("tok", noon), anchor), "token_unknown", "", "token_unknown"},
	} {
		_, err := b.use(ctx, c.secret, here, "web-1")
		if code(err) != c.want {
			t.Errorf("%s: got %v, want %s", name, err, c.want)
		}
		entry := slices.IndexFunc(b.entries(t, token.Use), func(e audit.Entry) bool { return e.Target == c.secret.ID && e.Outcome == audit.Refused })
		if entry < 0 || b.entries(t, token.Use)[entry].Reason != c.reason || b.entries(t, token.Use)[entry].Actor.Address != here.String() {
			t.Errorf("%s: got %+v in the audit log, want it refused for %s from %s", name, b.entries(t, token.Use), c.reason, here)
		}
		if c.signal == "" {
			continue
		}
		if _, warnings := b.Standing(b.read(t, c.secret.ID)); !slices.Contains(warnings, c.signal) {
			t.Errorf("%s: got warnings %v, want %s among them", name, warnings, c.signal)
		}
	}
	if got := b.read(t, fresh.Token.ID); got.Uses != 0 {
		t.Errorf("a guess took %d uses, want none", got.Uses)
	}
	b.clock.Advance(2 * time.Hour)
	if _, err := b.use(ctx, fresh.Secret, here, "web-1"); code(err) != "token_expired" {
		t.Errorf("got %v, want token_expired", err)
	}
	if _, warnings := b.Standing(b.read(t, fresh.Token.ID)); !slices.Contains(warnings, token.UsedAfterExpiry) {
		t.Errorf("got warnings %v, want %s among them", warnings, token.UsedAfterExpiry)
	}
}

func TestAUseIsCountedAndAudited(t *testing.T) {
	b := open(t)
	m := b.mint(t, slice.Request{MaxUses: 10})
	for _, from := range []string{"10.1.2.3", "10.1.2.4", "192.0.2.1"} {
		if _, err := b.use(t.Context(), m.Secret, netip.MustParseAddr(from), "web-1"); err != nil {
			t.Fatal(err)
		}
	}
	got := b.read(t, m.Token.ID)
	if got.Uses != 3 || got.LastAddress != "192.0.2.1" || !got.LastUsedAt.Equal(noon) || len(got.Networks) != 2 {
		t.Errorf("got %+v, want three uses, the last from 192.0.2.1, from two networks", got)
	}
	if _, warnings := b.Standing(got); !slices.Equal(warnings, []token.Warning{token.NewNetwork}) {
		t.Errorf("got warnings %v, want new_network", warnings)
	}
	uses := b.entries(t, token.Use)
	if len(uses) != 3 || uses[0].Outcome != audit.Done || uses[0].Reason != "new_network" || uses[0].Actor.Kind != access.Host ||
		!strings.Contains(string(uses[0].After), `"web-1"`) {
		t.Errorf("got %+v, want three entries, the newest with its reason, by a host", uses)
	}
}

func TestAUseThatIsRolledBackIsNotTaken(t *testing.T) {
	b := open(t)
	m := b.mint(t, slice.Request{})
	failure := errors.New("the host could not be registered")
	err := b.db.Write(t.Context(), func(tx *storage.Tx) error {
		if _, err := b.Consume(t.Context(), tx, m.Secret, here, "web-1", b.clock.Now()); err != nil {
			return err
		}
		return failure
	})
	if !errors.Is(err, failure) {
		t.Fatalf("got %v, want what the closure returned", err)
	}
	if got := b.read(t, m.Token.ID); got.Uses != 0 || len(b.entries(t, token.Use)) != 0 {
		t.Errorf("got %d uses and %d entries, want neither", got.Uses, len(b.entries(t, token.Use)))
	}
}

func TestRacersTakeExactlyTheUsesThereAre(t *testing.T) {
	b := open(t)
	m := b.mint(t, slice.Request{MaxUses: 50})
	var taken, exhausted atomic.Int64
	var all sync.WaitGroup
	for i := range 200 {
		all.Go(func() {
			_, err := b.use(t.Context(), m.Secret, here, fmt.Sprintf("web-%d", i))
			switch {
			case err == nil:
				taken.Add(1)
			case errors.Is(err, token.ErrExhausted):
				exhausted.Add(1)
			default:
				t.Error(err)
			}
		})
	}
	all.Wait()
	done := 0
	for _, e := range b.entries(t, token.Use) {
		if e.Outcome == audit.Done {
			done++
		}
	}
	if taken.Load() != 50 || exhausted.Load() != 150 || done != 50 || b.read(t, m.Token.ID).Uses != 50 {
		t.Errorf("got %d taken, %d exhausted, %d entries, %d uses; want 50, 150, 50, 50", taken.Load(), exhausted.Load(), done, b.read(t, m.Token.ID).Uses)
	}
}

func TestRefusalsThatRepeatAreMerged(t *testing.T) {
	b := open(t)
	m := b.mint(t, slice.Request{})
	if _, _, err := b.Revoke(administrator(t), m.Token.ID, slice.Revocation{}); err != nil {
		t.Fatal(err)
	}
	for range 500 {
		if _, err := b.use(t.Context(), m.Secret, here, "web-1"); code(err) != "token_revoked" {
			t.Fatalf("got %v, want token_revoked", err)
		}
	}
	if n := len(b.entries(t, token.Use)); n != 1 {
		t.Errorf("got %d entries for 500 refusals within a minute, want one so far", n)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	b.Run(ctx) // what is left is written when it ends
	entries := b.entries(t, token.Use)
	if len(entries) != 2 || !strings.Contains(string(entries[0].After), `"attempts":499`) {
		t.Errorf("got %d entries, the newest %s; want a second one for the other 499", len(entries), entries[0].After)
	}
	if got := b.read(t, m.Token.ID); len(got.Signals) != 1 || got.Signals[0].Count != 500 {
		t.Errorf("got signals %+v, want one that counts 500", got.Signals)
	}
}

func TestRotationOverlaps(t *testing.T) {
	b := open(t)
	ctx := administrator(t)
	old := b.mint(t, slice.Request{Name: "ci", TTL: 24 * time.Hour, MaxUses: 9, AllowedNetworks: []string{"10.0.0.0/8"},
		HostLabels: map[string]string{"env": "prod"}, Channel: "preview", RequiresApproval: true, EphemeralTTL: time.Hour, HostNamePattern: "web-*"})
	half := 30 * time.Minute
	next, err := b.Rotate(ctx, "ci", slice.Rotation{Overlap: &half})
	if err != nil {
		t.Fatal(err)
	}
	before := b.read(t, old.Token.ID)
	if before.SuccessorID != next.Token.ID || !before.ExpiresAt.Equal(noon.Add(half)) {
		t.Errorf("got successor %s and expiry %s, want %s and the overlap's end", before.SuccessorID, before.ExpiresAt, next.Token.ID)
	}
	n := next.Token
	if !n.ExpiresAt.Equal(noon.Add(24*time.Hour)) || n.MaxUses != 9 || n.Uses != 0 || len(n.AllowedNetworks) != 1 || n.HostLabels["env"] != "prod" ||
		n.Channel != "preview" || !n.RequiresApproval || n.EphemeralTTL != time.Hour || n.HostNamePattern != "web-*" || n.Scope != old.Token.Scope {
		t.Errorf("got %+v, want the bounds of %+v", n, old.Token)
	}
	for _, s := range []token.Secret{old.Secret, next.Secret} {
		if _, err := b.use(ctx, s, here, "web-1"); err != nil {
			t.Errorf("during the overlap: %s is refused: %v", s, err)
		}
	}
	b.clock.Advance(half)
	if _, err := b.use(ctx, old.Secret, here, "web-1"); code(err) != "token_expired" {
		t.Errorf("after the overlap: got %v, want token_expired", err)
	}
	if _, err := b.use(ctx, next.Secret, here, "web-1"); err != nil {
		t.Errorf("after the overlap: the successor is refused: %v", err)
	}
	if found := b.read(t, "ci"); found.ID != next.Token.ID {
		t.Errorf("the name leads to %s, want the successor %s", found.ID, next.Token.ID)
	}
	if _, err := b.Rotate(ctx, old.Token.ID, slice.Rotation{}); code(err) != "token_rotated" || !strings.Contains(fault.Of(err).Hint, next.Token.ID) {
		t.Errorf("rotating again: got %v, want token_rotated with the successor in its hint", err)
	}
}

func TestRotationNeverLengthensTheOldOneNorPassesTheLimits(t *testing.T) {
	b := open(t)
	ctx := administrator(t)
	short := b.mint(t, slice.Request{TTL: 10 * time.Minute})
	if _, err := b.Rotate(ctx, short.Token.ID, slice.Rotation{}); err != nil {
		t.Fatal(err)
	}
	if got := b.read(t, short.Token.ID); !got.ExpiresAt.Equal(noon.Add(10 * time.Minute)) {
		t.Errorf("got expiry %s, want it where it was", got.ExpiresAt)
	}
	long := b.mint(t, slice.Request{TTL: 90 * 24 * time.Hour, MaxUses: 1000})
	policy := noun.TokenPolicy{MaxTTL: time.Hour, MaxUses: 10}
	if _, err := b.tenants.UpdateWorkspace(ctx, b.prod.ID, tenant.Update{Tokens: &policy}); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Rotate(ctx, long.Token.ID, slice.Rotation{TTL: 2 * time.Hour}); code(err) != "rotation_invalid" {
		t.Errorf("got %v for more than today's maximum, want rotation_invalid", err)
	}
	next, err := b.Rotate(ctx, long.Token.ID, slice.Rotation{})
	if err != nil || !next.Token.ExpiresAt.Equal(noon.Add(time.Hour)) || next.Token.MaxUses != 10 {
		t.Errorf("got %+v and %v, want today's maxima", next.Token, err)
	}
	revoked := b.mint(t, slice.Request{})
	if _, _, err := b.Revoke(ctx, revoked.Token.ID, slice.Revocation{}); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Rotate(ctx, revoked.Token.ID, slice.Rotation{}); code(err) != "token_ended" {
		t.Errorf("got %v for a revoked one, want token_ended", err)
	}
	endless := 366 * 24 * time.Hour
	if _, err := b.Rotate(ctx, next.Token.ID, slice.Rotation{Overlap: &endless}); code(err) != "rotation_invalid" {
		t.Errorf("got %v for an endless overlap, want rotation_invalid", err)
	}
}

func TestRevocationPromisesItsWorkInTheSameTransaction(t *testing.T) {
	b := open(t)
	ctx := administrator(t)
	m := b.mint(t, slice.Request{})
	got, op, err := b.Revoke(ctx, m.Token.ID, slice.Revocation{Reason: "leaked", RequestID: "once"})
	if err != nil || op != nil || got.RevokedBy != "key_test" || got.Reason != "leaked" {
		t.Fatalf("got %+v, %+v, %v; want it revoked, hosts kept, no operation", got, op, err)
	}
	since := noon.Add(-time.Hour)
	again := slice.Revocation{Hosts: token.Expel, Since: since, Reason: "leaked indeed", RequestID: "expel-1"}
	got, op, err = b.Revoke(ctx, m.Token.ID, again)
	if err != nil || op == nil || op.Kind != operation.RevokeToken || op.State != operation.Pending || op.Target != m.Token.ID || op.Scope != b.prod.Scope() {
		t.Fatalf("got %+v, %+v, %v; want an operation over its hosts", got, op, err)
	}
	if got.Reason != "leaked" {
		t.Errorf("got reason %q, want the first revocation's", got.Reason)
	}
	var in token.Revocation
	if err := json.Unmarshal(op.Input, &in); err != nil || in.Hosts != token.Expel || !in.Since.Equal(since) || in.Token != m.Token.ID || in.Reason != "leaked indeed" {
		t.Errorf("got input %s (%v), want what was asked for", op.Input, err)
	}
	_, repeated, err := b.Revoke(ctx, m.Token.ID, again)
	if err != nil || repeated == nil || repeated.ID != op.ID {
		t.Errorf("got %+v and %v for the same request, want operation %s again", repeated, err, op.ID)
	}
	other := b.mint(t, slice.Request{})
	if _, _, err := b.Revoke(ctx, other.Token.ID, again); code(err) != "request_id_reused" {
		t.Errorf("got %v for the request id with another token, want request_id_reused", err)
	}
	if state, _ := b.Standing(b.read(t, other.Token.ID)); state != token.Active {
		t.Errorf("the refused request left the other token %s, want it active", state)
	}
	for field, r := range map[string]slice.Revocation{"hosts": {Hosts: "burn"}, "since": {Since: since}, "reason": {Reason: strings.Repeat("x", 2000)}} {
		_, _, err := b.Revoke(ctx, other.Token.ID, r)
		if code(err) != "revocation_invalid" || fault.Of(err).Violations[0].Field != field {
			t.Errorf("%s: got %v, want a violation of it", field, err)
		}
	}
	if n := len(b.entries(t, token.Revoke)); n != 2 {
		t.Errorf("got %d entries, want one for each of the two revocations that changed something", n)
	}
}

func TestListsByState(t *testing.T) {
	b := open(t)
	ctx := administrator(t)
	b.mint(t, slice.Request{})
	spent := b.mint(t, slice.Request{TTL: 24 * time.Hour})
	if _, err := b.use(ctx, spent.Secret, here, "web-1"); err != nil {
		t.Fatal(err)
	}
	revoked := b.mint(t, slice.Request{TTL: 24 * time.Hour})
	if _, _, err := b.Revoke(ctx, revoked.Token.ID, slice.Revocation{}); err != nil {
		t.Fatal(err)
	}
	b.mint(t, slice.Request{TTL: 24 * time.Hour})
	b.clock.Advance(2 * time.Hour)
	for _, state := range token.States {
		list, _, err := b.List(ctx, "acme/shop/prod", []token.State{state}, noun.Page{})
		if err != nil || len(list) != 1 || list[0].State(b.clock.Now()) != state {
			t.Errorf("%s: got %+v and %v, want the one that is", state, list, err)
		}
	}
	if _, _, err := b.List(ctx, "", []token.State{"lost"}, noun.Page{}); code(err) != "token_query_invalid" {
		t.Errorf("got %v for a state that does not exist, want token_query_invalid", err)
	}
}

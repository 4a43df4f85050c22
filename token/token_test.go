package token_test

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/id"
	"github.com/loopbackd/loopback/tenant"
	"github.com/loopbackd/loopback/token"
)

var noon = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

func live() token.Token {
	return token.Token{Meta: tenant.Meta{CreatedAt: noon.Add(-time.Minute)}, ExpiresAt: noon.Add(time.Hour), MaxUses: 2}
}

func TestCheckSaysWhyATokenMayNotBeUsed(t *testing.T) {
	here := netip.MustParseAddr("10.1.2.3")
	for name, c := range map[string]struct {
		change func(*token.Token)
		from   netip.Addr
		want   error
	}{
		"live":                    {func(*token.Token) {}, here, nil},
		"revoked":                 {func(t *token.Token) { t.RevokedAt = noon }, here, token.ErrRevoked},
		"revoked and expired":     {func(t *token.Token) { t.RevokedAt, t.ExpiresAt = noon, noon }, here, token.ErrRevoked},
		"expired at this instant": {func(t *token.Token) { t.ExpiresAt = noon }, here, token.ErrExpired},
		"all uses taken":          {func(t *token.Token) { t.Uses = 2 }, here, token.ErrExhausted},
		"inside its network":      {func(t *token.Token) { t.AllowedNetworks = networks("10.0.0.0/8") }, here, nil},
		"mapped into its network": {func(t *token.Token) { t.AllowedNetworks = networks("10.0.0.0/8") }, netip.MustParseAddr("::ffff:10.1.2.3"), nil},
		"outside its networks":    {func(t *token.Token) { t.AllowedNetworks = networks("10.2.0.0/16", "fd00::/8") }, here, token.ErrNetwork},
		"address unknown":         {func(t *token.Token) { t.AllowedNetworks = networks("0.0.0.0/0") }, netip.Addr{}, token.ErrNetwork},
		"name matches":            {func(t *token.Token) { t.HostNamePattern = "web-*" }, here, nil},
		"name does not match":     {func(t *token.Token) { t.HostNamePattern = "db-*" }, here, token.ErrHostName},
		"pattern damaged":         {func(t *token.Token) { t.HostNamePattern = "[" }, here, token.ErrHostName},
	} {
		tok := live()
		c.change(&tok)
		if got := tok.Check(noon, c.from, "web-1"); !errors.Is(got, c.want) {
			t.Errorf("%s: got %v, want %v", name, got, c.want)
		}
	}
}

func networks(s ...string) []netip.Prefix {
	var c fault.Check
	out := token.ParseNetworks(&c, "", s)
	if err := c.Err("", ""); err != nil {
		panic(err)
	}
	return out
}

func TestEveryRefusalSaysWhatToDoNext(t *testing.T) {
	for _, err := range []*fault.Error{token.ErrMalformed, token.ErrUnknown, token.ErrExpired, token.ErrExhausted, token.ErrRevoked, token.ErrNetwork, token.ErrHostName} {
		if err.Hint == "" || err.Code == "" || err.Kind.ExitCode() == 1 {
			t.Errorf("got code %q, kind %q and hint %q, want all three of use", err.Code, err.Kind, err.Hint)
		}
	}
}

func TestUseFromANewNetworkIsASignalAfterTheFirst(t *testing.T) {
	tok := live()
	tok.MaxUses = 10
	for i, from := range []string{"10.1.2.3", "10.1.2.200", "10.9.9.9", "10.1.2.4", "2001:db8:1:2::3", "2001:db8:1:ffff::1"} {
		tok = tok.Used(netip.MustParseAddr(from), noon.Add(time.Duration(i)*time.Second))
	}
	want := []token.Signal{{Kind: token.NewNetwork, First: noon.Add(2 * time.Second), Last: noon.Add(4 * time.Second), Count: 2, Address: "2001:db8:1:2::3"}}
	if d := cmp.Diff(want, tok.Signals); d != "" {
		t.Errorf("signals differ from what was wanted (-) :\n%s", d)
	}
	if tok.Uses != 6 || len(tok.Networks) != 3 || tok.LastAddress != "2001:db8:1:ffff::1" {
		t.Errorf("got %d uses from %v, last %s; want 6 from three networks, last 2001:db8:1:ffff::1", tok.Uses, tok.Networks, tok.LastAddress)
	}
}

func TestWhatIsRememberedOfATokenIsBounded(t *testing.T) {
	tok := live()
	tok.MaxUses = 1000
	for i := range 1000 {
		tok = tok.Used(netip.AddrFrom4([4]byte{10, byte(i / 256), byte(i), 1}), noon)
		tok = tok.Noted(token.WrongSecret, netip.Addr{}, noon, 1)
	}
	if len(tok.Networks) > 64 || len(tok.Signals) != 2 {
		t.Errorf("got %d networks and %d signals, want at most 64 and 2", len(tok.Networks), len(tok.Signals))
	}
}

func TestNotedLeavesTheOriginalAlone(t *testing.T) {
	before := live().Noted(token.WrongSecret, netip.Addr{}, noon, 1)
	before.Noted(token.WrongSecret, netip.Addr{}, noon, 5)
	if before.Signals[0].Count != 1 {
		t.Errorf("got %d, want the first token's count to stay 1", before.Signals[0].Count)
	}
}

func TestWarnings(t *testing.T) {
	long := live()
	long.CreatedAt, long.ExpiresAt = noon.Add(-25*time.Hour), noon.Add(24*time.Hour)
	for name, c := range map[string]struct {
		tok  token.Token
		want []token.Warning
	}{
		"short-lived and fresh": {live(), nil},
		"long-lived and unused": {long, []token.Warning{token.LongLived, token.Unused}},
		"leaked":                {live().Noted(token.UsedAfterExpiry, netip.Addr{}, noon, 1), []token.Warning{token.UsedAfterExpiry}},
	} {
		if d := cmp.Diff(c.want, c.tok.Warnings(noon)); d != "" {
			t.Errorf("%s: warnings differ from what was wanted (-):\n%s", name, d)
		}
	}
}

func TestSecretSurvivesBeingReadBack(t *testing.T) {
	anchor := [token.AnchorSize]byte{1, 2, 3}
	made := token.NewSecret(id.New("tok", noon), anchor)
	got, err := token.ParseSecret(made.Reveal())
	if err != nil || got != made {
		t.Fatalf("got %v, %v; want the secret that was made", got, err)
	}
	if shown := fmt.Sprintf("%s %v %+v", made, made, made); strings.Contains(shown, made.Reveal()) {
		t.Errorf("printing it gives %q, which is the secret", shown)
	}
	for i := range len(made.Reveal()) {
		b := []byte(made.Reveal())
		b[i] ^= 1
		if _, err := token.ParseSecret(string(b)); !errors.Is(err, token.ErrMalformed) {
			t.Fatalf("with character %d changed: got %v, want %v", i, err, token.ErrMalformed)
		}
		if _, err := token.ParseSecret(made.Reveal()[:i]); !errors.Is(err, token.ErrMalformed) {
			t.Fatalf("cut at %d: got %v, want %v", i, err, token.ErrMalformed)
		}
	}
}

// A policy only ever narrows, and what comes out can be minted with its own defaults.
func TestLimitsUnderAPolicyNeverWiden(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := rapid.Int64Range(int64(time.Minute), int64(400*24*time.Hour))
		n := rapid.Int32Range(1, 1_000_000)
		l := token.Limits{MaxTTL: time.Duration(d.Draw(t, "max")), LongTTL: time.Duration(d.Draw(t, "long")), MaxUses: n.Draw(t, "uses")}
		l.DefaultTTL = min(time.Duration(d.Draw(t, "default")), l.MaxTTL)
		l.DefaultMaxUses = min(n.Draw(t, "default uses"), l.MaxUses)
		zero := rapid.Bool()
		var p tenant.TokenPolicy
		if zero.Draw(t, "has max") {
			p.MaxTTL = time.Duration(d.Draw(t, "policy max"))
		}
		if zero.Draw(t, "has default") {
			p.DefaultTTL = time.Duration(d.Draw(t, "policy default"))
		}
		if zero.Draw(t, "has uses") {
			p.MaxUses = n.Draw(t, "policy uses")
		}
		got := l.Under(p)
		if got.MaxTTL > l.MaxTTL || got.MaxUses > l.MaxUses {
			t.Fatalf("got %+v under %+v, wider than %+v", got, p, l)
		}
		if got.DefaultTTL > got.MaxTTL || got.LongTTL > got.MaxTTL || got.DefaultMaxUses > got.MaxUses {
			t.Fatalf("got %+v, whose defaults pass its own maxima", got)
		}
	})
}

func FuzzParseSecret(f *testing.F) {
	f.Add(token.NewSecret(id.New("tok", noon), [token.AnchorSize]byte{7}).Reveal())
	f.Add("lbt_")
	f.Fuzz(func(t *testing.T, s string) {
		got, err := token.ParseSecret(s)
		if err != nil {
			if s != "" && len(s) > 12 && strings.Contains(err.Error(), s) {
				t.Fatal("the error holds the credential")
			}
			return
		}
		if got.Reveal() != s || !id.Valid("tok", got.ID) {
			t.Fatalf("got %q with id %s, want what was read and a valid id", got.Reveal(), got.ID)
		}
	})
}

func FuzzParseNetworks(f *testing.F) {
	for _, s := range []string{"10.0.0.0/8", "::1", "::ffff:10.0.0.0/104", "fe80::1%eth0", "10.0.0.1/33", "::ffff:0:0/0"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		var c fault.Check
		got := token.ParseNetworks(&c, "n", []string{s})
		if (c.Err("", "") == nil) != (len(got) == 1) {
			t.Fatalf("%q: got %v and error %v, want one of the two", s, got, c.Err("", ""))
		}
		for _, n := range got {
			again := token.ParseNetworks(&c, "n", []string{n.String()})
			if len(again) != 1 || again[0] != n || n.Masked() != n || n.Addr().Is4In6() {
				t.Fatalf("%q: got %v, and %v when that is read again; want a canonical network", s, n, again)
			}
		}
	})
}

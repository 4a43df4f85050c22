package provider_test

import (
	"net/url"
	"testing"

	"github.com/loopbackd/loopback/access"
	"github.com/loopbackd/loopback/audit"
	"github.com/loopbackd/loopback/id"
	"github.com/loopbackd/loopback/invitation"
	"github.com/loopbackd/loopback/principal"
	"github.com/loopbackd/loopback/provider"
	slice "github.com/loopbackd/loopback/server/provider"
	"github.com/loopbackd/loopback/server/storage"
	"github.com/loopbackd/loopback/tenant"
)

// invite makes a user and an invitation of theirs.
func (b *bench) invite(t *testing.T, u principal.Principal) (user, text string, i invitation.Invitation) {
	t.Helper()
	u.ID, u.Kind = id.New("usr", b.clock.Now()), access.User
	put(t, b, func(tx *storage.Tx) error { _, err := tx.PutPrincipal(t.Context(), u); return err })
	i, text, err := b.invitations.Create(owner(t.Context()), u.ID, 0)
	if err != nil {
		t.Fatal(err)
	}
	return u.ID, text, i
}

// comes goes to the provider and back with an invitation.
func (b *bench) comes(t *testing.T, f *forger, p provider.Provider, text string, says claims) (slice.Came, error) {
	t.Helper()
	to, kept, err := b.BeginInvited(t.Context(), p.ID, text)
	if err != nil {
		return slice.Came{}, err
	}
	u, err := url.Parse(to)
	if err != nil {
		t.Fatal(err)
	}
	return b.back(t, f, p, u.Query(), kept, says)
}

// An invitation and a sign-in at a provider let in only where both speak of the same person.
func TestWhoIsInvitedComesInAsWhomTheProviderSaysTheyAre(t *testing.T) {
	f := forge(t)
	b := open(t)
	domains := []string{"example.com"}
	p := b.provider(t, f.URL, f.ca(), nil) // makes no users: who is invited is one already
	narrow := b.provider(t, f.URL, f.ca(), func(x *fields) { x.Domains = &domains })
	ada := principal.Principal{Email: "ada@example.com"}
	for name, c := range map[string]struct {
		p    provider.Provider
		user principal.Principal
		says claims
		want string
	}{
		"their address, vouched for":         {p, ada, claims{"email": "Ada@Example.com", "email_verified": true}, ""},
		"their address, not vouched for":     {p, ada, claims{"email": "ada@example.com"}, "email_unverified"},
		"somebody else's address":            {p, ada, claims{"email": "eve@example.com", "email_verified": true}, "invitation_other_person"},
		"their address within another":       {p, ada, claims{"email": "ada@example.com.evil.org", "email_verified": true}, "invitation_other_person"},
		"no address":                         {p, ada, claims{}, "email_unverified"},
		"nobody's address is known here":     {p, principal.Principal{}, claims{"email": "ada@example.com", "email_verified": true}, "invitation_other_person"},
		"no address on either side":          {p, principal.Principal{}, claims{"email": "", "email_verified": true}, "email_unverified"},
		"their identity, as was noted":       {p, principal.Principal{Identity: f.URL + "|noted"}, claims{"sub": "noted"}, ""},
		"another subject than was noted":     {p, principal.Principal{Identity: f.URL + "|noted"}, claims{"sub": "eve"}, "email_unverified"},
		"an address of a domain that may":    {narrow, ada, claims{"email": "ada@example.com", "email_verified": true}, ""},
		"an address of a domain that mayn't": {narrow, principal.Principal{Email: "ada@other.org"}, claims{"email": "ada@other.org", "email_verified": true}, "email_domain_denied"},
	} {
		t.Run(name, func(t *testing.T) {
			if c.says["sub"] == nil {
				c.says["sub"] = "sub of " + name
			}
			c.user.Name = "user-" + id.New("x", b.clock.Now())[2:]
			user, text, i := b.invite(t, c.user)
			came, err := b.comes(t, f, c.p, text, c.says)
			if code(err) != c.want {
				t.Fatalf("got %v, want %q", err, c.want)
			}
			now, err := b.db.View().Invitation(t.Context(), i.ID)
			if err != nil {
				t.Fatal(err)
			}
			if c.want != "" {
				if now.State(b.clock.Now()) != "waiting" || came.User != "" {
					t.Errorf("the invitation is %s after it let nobody in; came %+v", now.State(b.clock.Now()), came)
				}
				return
			}
			if came.User != user || now.State(b.clock.Now()) != "used" || now.UsedFor == "" {
				t.Errorf("came %+v by %+v, want %s", came, now, user)
			}
			// It works once; from then on the provider is a way in of theirs.
			if _, err := b.comes(t, f, c.p, text, c.says); code(err) != "invitation_used" {
				t.Errorf("again: got %v", err)
			}
			if came, err := b.says(t, f, c.p, c.says); err != nil || came.User != user {
				t.Errorf("later: %+v, %v", came, err)
			}
		})
	}
}

// Somebody whom the provider let in here before does not become somebody else by an invitation.
func TestAKnownSubjectTakesNobodyElsesInvitation(t *testing.T) {
	f := forge(t)
	b := open(t)
	yes := true
	p := b.provider(t, f.URL, f.ca(), func(x *fields) { x.CreateUsers = &yes })
	if _, err := b.says(t, f, p, claims{"sub": "eve", "preferred_username": "eve"}); err != nil {
		t.Fatal(err)
	}
	_, text, _ := b.invite(t, principal.Principal{Meta: tenant.Meta{Name: "ada"}, Email: "ada@example.com"})
	says := claims{"sub": "eve", "email": "ada@example.com", "email_verified": true} // the address is reused there, or was taken over
	if _, err := b.comes(t, f, p, text, says); code(err) != "invitation_other_person" {
		t.Errorf("got %v", err)
	}
	// The string of another kind, or of nowhere, begins nothing that ends well.
	if _, err := b.comes(t, f, p, "lbi_x", claims{"sub": "s"}); code(err) != "invitation_invalid" {
		t.Errorf("a made-up invitation: got %v", err)
	}
}

// What happens to an invitation while its user is at the provider counts when they come back; of two who come back one is let in.
func TestAnInvitationIsLookedAtAgainWhenItsUserIsBack(t *testing.T) {
	f := forge(t)
	b := open(t)
	p := b.provider(t, f.URL, f.ca(), nil)
	says := claims{"sub": "ada", "email": "ada@example.com", "email_verified": true}
	leave := func(text string) (url.Values, string) {
		t.Helper()
		to, kept, err := b.BeginInvited(t.Context(), p.ID, text)
		if err != nil {
			t.Fatal(err)
		}
		u, err := url.Parse(to)
		if err != nil {
			t.Fatal(err)
		}
		return u.Query(), kept
	}
	_, text, i := b.invite(t, principal.Principal{Meta: tenant.Meta{Name: "ada"}, Email: "ada@example.com"})
	asked, kept := leave(text)
	if _, err := b.invitations.Revoke(owner(t.Context()), i.ID); err != nil {
		t.Fatal(err)
	}
	if _, err := b.back(t, f, p, asked, kept, says); code(err) != "invitation_revoked" {
		t.Errorf("revoked meanwhile: got %v", err)
	}
	user, text, i := b.invite(t, principal.Principal{Meta: tenant.Meta{Name: "ada-2"}, Email: "ada@example.com"})
	asked, kept = leave(text)
	for n, want := range []string{"", "invitation_used"} {
		if _, err := b.back(t, f, p, asked, kept, says); code(err) != want {
			t.Errorf("journey %d: got %v, want %q", n, err, want)
		}
	}
	log, err := b.db.View().Entries(t.Context(), audit.Query{Readable: access.Everywhere(), Target: i.ID, Action: invitation.Use, Limit: 10})
	if err != nil || len(log) != 1 || log[0].Actor.ID != p.ID {
		t.Errorf("the audit log has %+v, %v; want that %s used it as %s", log, err, p.ID, user)
	}
}

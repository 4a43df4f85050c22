package passkey_test

import (
	"context"
	"testing"
	"time"

	"github.com/loopbackd/loopback/access"
	"github.com/loopbackd/loopback/audit"
	"github.com/loopbackd/loopback/invitation"
	invitations "github.com/loopbackd/loopback/server/invitation"
	slice "github.com/loopbackd/loopback/server/passkey"
	"github.com/loopbackd/loopback/server/storage"
)

// desk makes invitations on the bench's database.
func (b *bench) desk() *invitations.Service {
	return invitations.NewService(storage.Bind[invitations.Reader, invitations.Tx](b.db), users{b.db}, []byte("pepper"), b.clock.Now)
}

func admin(ctx context.Context) context.Context {
	return access.WithActor(ctx, access.GrantsAlone(access.Actor{Kind: access.APIKey, ID: "key_1", Grants: []access.Grant{{ID: "key_1", Permissions: []access.Permission{access.All}}}}))
}

// come is what somebody does who opens a link: it is opened on one replica and used on the other.
func (p *person) come(t *testing.T, text string) (slice.Proved, error) {
	t.Helper()
	ctx := stranger(t.Context())
	i, err := p.desk().Open(ctx, text)
	if err != nil {
		return slice.Proved{}, err
	}
	c, err := p.BeginInvited(ctx, i)
	if err != nil {
		return slice.Proved{}, err
	}
	return p.second.FinishInvited(ctx, i, c.Text, p.attest(t, c), "laptop")
}

func TestAnInvitationLetsItsUserInOnce(t *testing.T) {
	b := open(t)
	p, other := b.person(t, "ada"), b.person(t, "bob")
	made, text, err := b.desk().Create(admin(t.Context()), p.user.ID, 0)
	if err != nil || made.Name != "ada" || !made.ExpiresAt.Equal(b.clock.Now().Add(invitation.DefaultTTL)) {
		t.Fatalf("got %+v, %v", made, err)
	}
	got, err := p.come(t, text)
	if err != nil || got.User != p.user.ID {
		t.Fatalf("got %+v, %v", got, err)
	}
	_, err = other.come(t, text)
	want(t, err, "invitation_used")
	c := do(t)(b.BeginSignIn(stranger(t.Context())))
	want(t, finish(b, stranger(t.Context()), c, p.assert(t, c)), "")
	entries, err := b.db.View().Entries(t.Context(), audit.Query{Readable: access.Everywhere(), Target: made.ID, Limit: 10})
	if err != nil || len(entries) != 2 || entries[0].Action != invitation.Use || entries[0].Actor.Address != "192.0.2.7" || entries[1].Action != invitation.Create {
		t.Errorf("the audit log has %+v, %v", entries, err)
	}
}

func TestAnInvitationThatIsOverLetsNobodyIn(t *testing.T) {
	b := open(t)
	desk, ctx := b.desk(), stranger(t.Context())
	invite := func(p *person) (invitation.Invitation, string) {
		t.Helper()
		i, text, err := desk.Create(admin(t.Context()), p.user.ID, time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		return i, text
	}
	p := b.person(t, "ada")
	for name, text := range map[string]string{"noise": "lbi_x", "nothing": "", "another's": func() string { return invitation.NewSecret("inv_06h241pa03tt30j47j8f2dyq7m") }()} {
		if _, err := desk.Open(ctx, text); err == nil {
			t.Errorf("%s opens", name)
		} else {
			want(t, err, "invitation_invalid")
		}
	}
	revoked, text := invite(p)
	// Revoked between the two halves.
	i, err := desk.Open(ctx, text)
	if err != nil {
		t.Fatal(err)
	}
	c := do(t)(b.BeginInvited(ctx, i))
	if _, err := desk.Revoke(admin(t.Context()), revoked.ID); err != nil {
		t.Fatal(err)
	}
	_, err = b.FinishInvited(ctx, i, c.Text, p.attest(t, c), "laptop")
	want(t, err, "invitation_revoked")
	_, err = p.come(t, text)
	want(t, err, "invitation_revoked")

	// With the ceremony of another invitation, and of a sign-in.
	first, _ := invite(p)
	q := b.person(t, "bob")
	second, _ := invite(q)
	c = do(t)(b.BeginInvited(ctx, first))
	_, err = b.FinishInvited(ctx, second, c.Text, q.attest(t, c), "laptop")
	want(t, err, "passkey_ceremony_over")
	c = do(t)(b.BeginRegistration(q.ctx(t)))
	_, err = b.FinishInvited(ctx, second, c.Text, q.attest(t, c), "laptop")
	want(t, err, "passkey_ceremony_over")

	// Its user is disabled: nothing opens.
	_, text = invite(q)
	q.user.DisabledAt = b.clock.Now()
	b.write(t, func(tx *storage.Tx) error { _, err := tx.PutPrincipal(t.Context(), q.user); return err })
	_, err = q.come(t, text)
	want(t, err, "sign_in_user_gone")
	_, _, err = desk.Create(admin(t.Context()), q.user.ID, 0)
	want(t, err, "user_disabled")

	_, text = invite(p)
	b.clock.Advance(time.Hour)
	_, err = p.come(t, text)
	want(t, err, "invitation_expired")

	for _, ttl := range []time.Duration{time.Minute, 8 * 24 * time.Hour, -time.Hour} {
		_, _, err = desk.Create(admin(t.Context()), p.user.ID, ttl)
		want(t, err, "invitation_invalid")
	}
	weak := access.WithActor(t.Context(), access.GrantsAlone(access.Actor{Kind: access.APIKey, ID: "key_2", Grants: []access.Grant{{ID: "key_2", Permissions: []access.Permission{"users.read"}}}}))
	_, _, err = desk.Create(weak, p.user.ID, 0)
	want(t, err, "permission_denied")
}

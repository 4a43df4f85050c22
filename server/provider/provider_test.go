package provider_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/loopbackd/loopback/access"
	"github.com/loopbackd/loopback/audit"
	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/id"
	"github.com/loopbackd/loopback/principal"
	"github.com/loopbackd/loopback/provider"
	invitations "github.com/loopbackd/loopback/server/invitation"
	slice "github.com/loopbackd/loopback/server/provider"
	"github.com/loopbackd/loopback/server/storage"
	"github.com/loopbackd/loopback/tenant"
	"github.com/loopbackd/loopback/test/idp"
)

type clock struct{ at atomic.Int64 }

func (c *clock) Now() time.Time          { return time.UnixMicro(c.at.Load()).UTC() }
func (c *clock) Advance(d time.Duration) { c.at.Add(d.Microseconds()) }

var noon = time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC)

type fields = slice.Fields

type bench struct {
	*slice.Service
	invitations *invitations.Service

	db    *storage.DB
	clock *clock
}

// tree finds what tests refer to by id.
type tree struct{ db *storage.DB }

func (x tree) GetGroup(ctx context.Context, ref string) (principal.Group, error) {
	return x.db.View().Group(ctx, ref)
}

func (x tree) Get(ctx context.Context, _ access.SubjectKind, ref string) (principal.Principal, error) {
	return x.db.View().Principal(ctx, ref)
}

func (x tree) Organisation(context.Context, string, access.Permission) (tenant.Organisation, error) {
	return tenant.Organisation{}, access.NotFound("organisation")
}

func open(t *testing.T) *bench {
	t.Helper()
	b := &bench{clock: &clock{}}
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
	b.invitations = invitations.NewService(storage.Bind[invitations.Reader, invitations.Tx](b.db), tree{b.db}, []byte("pepper"), b.clock.Now)
	b.Service, err = slice.NewService(storage.Bind[slice.Reader, slice.Tx](b.db), tree{b.db}, tree{b.db}, slice.Options{
		PublicURL: "https://cp.example.com", Seal: make([]byte, 32), Invitations: b.invitations, Now: b.clock.Now, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func owner(ctx context.Context) context.Context {
	return access.WithActor(ctx, access.GrantsAlone(access.Actor{Kind: access.APIKey, ID: "key_1", Grants: []access.Grant{{ID: "key_1", Permissions: []access.Permission{access.All}}}}))
}

// provider makes one whose client is "loopback" with a secret.
func (b *bench) provider(t *testing.T, issuer, ca string, change func(*fields)) provider.Provider {
	t.Helper()
	client, secret := idp.Client, idp.Secret
	f := fields{Issuer: &issuer, ClientID: &client, Secret: &secret, CA: &ca}
	if change != nil {
		change(&f)
	}
	p, err := b.Create(owner(t.Context()), "idp-"+strings.ToLower(id.New("x", b.clock.Now())[2:20]), f)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func code(err error) string {
	if err == nil {
		return ""
	}
	return fault.Of(err).Code
}

// logIn goes the way of a browser, from the provider's address to the one that it is sent back to.
func logIn(t *testing.T, to, user string) url.Values {
	t.Helper()
	jar, _ := cookiejar.New(nil)
	back := errors.New("back")
	var landed url.Values
	client := &http.Client{Jar: jar, Transport: insecure(), CheckRedirect: func(r *http.Request, _ []*http.Request) error {
		if r.URL.Host == "cp.example.com" {
			landed = r.URL.Query()
			return back
		}
		return nil
	}}
	res, err := client.Get(to)
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	form := url.Values{"username": {user}, "password": {idp.Password}, "id": {res.Request.URL.Query().Get("authRequestID")}}
	res, err = client.PostForm(res.Request.URL.String(), form)
	if err == nil {
		text, _ := io.ReadAll(res.Body)
		res.Body.Close()
		t.Fatalf("the provider did not send back: %s %s", res.Status, text)
	}
	if !errors.Is(err, back) {
		t.Fatal(err)
	}
	return landed
}

func TestPeopleComeInByARealProvider(t *testing.T) {
	b := open(t)
	g := principal.Group{Meta: tenant.Meta{ID: id.New("grp", noon), Name: "operators"}}
	other := principal.Group{Meta: tenant.Meta{ID: id.New("grp", noon), Name: "by-hand"}}
	put(t, b, func(tx *storage.Tx) error {
		_, e1 := tx.PutGroup(t.Context(), g)
		_, e2 := tx.PutGroup(t.Context(), other)
		return errors.Join(e1, e2)
	})
	b.clock.at.Store(time.Now().UnixMicro()) // the real one goes by the real time
	yes, claim, domains, mapped := true, "groups", []string{"zitadel.ch"}, map[string]string{"platform": g.ID}
	values := []string{"pwd"}
	c := idp.Start(t)
	p := b.provider(t, c.Issuer, c.CA, func(f *fields) {
		f.CreateUsers, f.GroupsClaim, f.Domains, f.Groups, f.TrustMFA, f.MFAValues = &yes, &claim, &domains, &mapped, &yes, &values
	})
	c.Return(b.ReturnURL(p.ID))
	c.Group(idp.Second, "platform", "sales")

	to, kept, err := b.Begin(t.Context(), p.ID, "/hosts?state=offline", "")
	if err != nil {
		t.Fatal(err)
	}
	q := logIn(t, to, idp.SecondName)
	came, err := b.Finish(t.Context(), p.ID, kept, q)
	if err != nil {
		t.Fatal(err)
	}
	u, err := b.db.View().Principal(t.Context(), came.User)
	if err != nil || u.Name != idp.SecondName || u.Email != "test-user2@zitadel.ch" || u.Kind != access.User {
		t.Errorf("the user is %+v, %v", u, err)
	}
	if came.Back != "/hosts?state=offline" || came.MFAAt.IsZero() || came.ProvedAt.IsZero() {
		t.Errorf("came %+v", came)
	}
	if got, _ := b.db.View().Group(t.Context(), g.ID); !slices.Contains(got.Members, u.ID) {
		t.Errorf("the group has %v", got.Members)
	}
	// The code is good once, here and at the provider.
	if _, err := b.Finish(t.Context(), p.ID, kept, q); code(err) != "provider_token_invalid" {
		t.Errorf("the code replayed: got %v", err)
	}
	// A provider with a thin ID token is asked for the rest.
	c.Thin(true)
	if to, kept, err = b.Begin(t.Context(), p.ID, "/", ""); err != nil {
		t.Fatal(err)
	}
	if thin, err := b.Finish(t.Context(), p.ID, kept, logIn(t, to, idp.FirstName)); err != nil || thin.User == u.ID {
		t.Errorf("with a thin token: %+v, %v", thin, err)
	} else if v, err := b.db.View().Principal(t.Context(), thin.User); err != nil || v.Email != "test-user@zitadel.ch" {
		t.Errorf("with a thin token: %+v, %v", v, err)
	}
	c.Thin(false)
	// Later they are the same user, and in the groups that they are in then; those that were given here stay.
	put(t, b, func(tx *storage.Tx) error {
		other.Members = []string{u.ID}
		_, err := tx.PutGroup(t.Context(), other)
		return err
	})
	c.Group(idp.Second, "sales")
	to, kept, err = b.Begin(t.Context(), p.ID, "/", "")
	if err != nil {
		t.Fatal(err)
	}
	again, err := b.Finish(t.Context(), p.ID, kept, logIn(t, to, idp.SecondName))
	if err != nil || again.User != u.ID {
		t.Errorf("later: %+v, %v", again, err)
	}
	if got, _ := b.db.View().Group(t.Context(), g.ID); slices.Contains(got.Members, u.ID) {
		t.Errorf("still in the group: %v", got.Members)
	}
	if got, _ := b.db.View().Group(t.Context(), other.ID); !slices.Contains(got.Members, u.ID) {
		t.Errorf("the other group has %v", got.Members)
	}
	log, err := b.db.View().Entries(t.Context(), audit.Query{Readable: access.Everywhere(), Limit: 50})
	if err != nil {
		t.Fatal(err)
	}
	seen := map[access.Permission]int{}
	for _, e := range log {
		seen[e.Action]++
	}
	if seen[principal.UsersCreate] != 2 || seen[principal.GroupsUpdate] != 2 || seen[provider.Use] != 3 || seen[provider.Create] != 1 {
		t.Errorf("the audit log has %v", seen)
	}
}

func put(t *testing.T, b *bench, change func(*storage.Tx) error) {
	t.Helper()
	if err := b.db.Observe(t.Context(), change); err != nil {
		t.Fatal(err)
	}
}

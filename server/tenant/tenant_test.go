package tenant_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/loopbackd/loopback/access"
	"github.com/loopbackd/loopback/audit"
	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/host"
	"github.com/loopbackd/loopback/id"
	"github.com/loopbackd/loopback/server/storage"
	slice "github.com/loopbackd/loopback/server/tenant"
	"github.com/loopbackd/loopback/tenant"
	"github.com/loopbackd/loopback/token"
)

type bench struct {
	*slice.Service
	db *storage.DB
}

func open(t *testing.T) bench {
	t.Helper()
	db, err := storage.Open(t.Context(), storage.Options{URL: filepath.Join(t.TempDir(), "loopback.db")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	return bench{slice.NewService(storage.Bind[slice.Reader, slice.Tx](db), token.DefaultLimits, time.Now), db}
}

func acting(ctx context.Context, at access.Scope, p ...access.Permission) context.Context {
	return access.WithActor(ctx, access.GrantsAlone(access.Actor{Kind: access.APIKey, ID: "key_test", Name: "test",
		Grants: []access.Grant{{ID: "key_test", Permissions: p, Scope: at}}}))
}

func administrator(t *testing.T) context.Context {
	return acting(t.Context(), access.Scope{}, access.All)
}

// tree makes an organisation, a project in it and a workspace in that.
func (b bench) tree(t *testing.T, path string) tenant.Workspace {
	t.Helper()
	ctx := administrator(t)
	names := strings.Split(path, "/")
	if _, err := b.CreateOrganisation(ctx, slice.New{Name: names[0]}); err != nil && fault.KindOf(err) != fault.Exists {
		t.Fatal(err)
	}
	if _, err := b.CreateProject(ctx, names[0], slice.New{Name: names[1]}); err != nil && fault.KindOf(err) != fault.Exists {
		t.Fatal(err)
	}
	w, err := b.CreateWorkspace(ctx, names[0]+"/"+names[1], slice.New{Name: names[2]}, tenant.TokenPolicy{})
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func code(err error) string {
	if err == nil {
		return ""
	}
	return fault.Of(err).Code
}

func TestFirstStartMakesOnePlaceToBegin(t *testing.T) {
	b := open(t)
	for range 2 {
		if err := b.EnsureDefault(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	w, err := b.Workspace(administrator(t), "default/default/default", tenant.WorkspacesRead)
	if err != nil || w.Name != "default" {
		t.Fatalf("got %+v and %v, want the default workspace", w, err)
	}
	entries, err := b.db.View().Entries(t.Context(), audit.Query{Readable: access.Everywhere(), Limit: 10})
	if err != nil || len(entries) != 3 || entries[0].Actor.Kind != access.System {
		t.Errorf("got %d entries (%+v) and %v, want one for each of the three places, by the system", len(entries), entries, err)
	}
}

func TestFirstStartOfManyReplicasMakesOnePlace(t *testing.T) {
	b := open(t)
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			if err := b.EnsureDefault(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	found, _, err := b.Organisations(administrator(t), tenant.Page{})
	if err != nil || len(found) != 1 {
		t.Fatalf("got %d organisations and %v, want one", len(found), err)
	}
}

func TestAPlaceIsFoundByWhateverItIsCalled(t *testing.T) {
	b := open(t)
	prod := b.tree(t, "acme/shop/prod")
	other := b.tree(t, "other/web/prod")
	test := b.tree(t, "acme/shop/test")
	everywhere := administrator(t)
	acme := acting(t.Context(), access.Scope{Organisation: prod.OrganisationID}, tenant.WorkspacesRead)
	inProd := acting(t.Context(), prod.Scope(), access.All)
	nobody := acting(t.Context(), access.Scope{})
	for _, c := range []struct {
		name string
		ctx  context.Context
		ref  string
		want string // id, or code of the error
	}{
		{"id", everywhere, prod.ID, prod.ID},
		{"path", everywhere, "acme/shop/prod", prod.ID},
		{"end of a path", everywhere, "web/prod", other.ID},
		{"name that only one has", everywhere, "test", test.ID},
		{"name that two have", everywhere, "prod", "workspace_ambiguous"},
		{"name that one in sight has", acme, "prod", prod.ID},
		{"name in one's own workspace", inProd, "prod", prod.ID},
		{"path to one's own workspace", inProd, "acme/shop/prod", prod.ID},
		{"foreign id", acme, other.ID, "not_found"},
		{"foreign path", acme, "other/web/prod", "not_found"},
		{"foreign name", inProd, "test", "not_found"},
		{"unknown id", everywhere, id.New("ws", time.Now()), "not_found"},
		{"unknown name", everywhere, "nothing", "not_found"},
		{"another kind's id", everywhere, prod.ProjectID, "not_found"},
		{"path that is too long", everywhere, "a/acme/shop/prod", "not_found"},
		{"path with a hole", everywhere, "acme//prod", "not_found"},
		{"nothing", everywhere, "", "request_invalid"},
		{"who may read nothing", nobody, prod.ID, "not_found"},
	} {
		w, err := b.Workspace(c.ctx, c.ref, tenant.WorkspacesRead)
		if got := w.ID + code(err); got != c.want && (err == nil || code(err) != c.want) {
			t.Errorf("%s: got %s (%v), want %s", c.name, got, err, c.want)
		}
	}
}

func TestForeignAndUnknownAreToldApartByNothing(t *testing.T) {
	b := open(t)
	foreign := b.tree(t, "acme/shop/prod")
	own := b.tree(t, "other/web/prod")
	ctx := acting(t.Context(), own.Scope(), access.All)
	unknown := id.New("ws", time.Now())
	_, of := b.Workspace(ctx, foreign.ID, tenant.WorkspacesRead)
	_, ou := b.Workspace(ctx, unknown, tenant.WorkspacesRead)
	f, u := strings.ReplaceAll(of.Error(), foreign.ID, "ID"), strings.ReplaceAll(ou.Error(), unknown, "ID")
	if f != u || code(of) != code(ou) {
		t.Errorf("foreign: %q, unknown: %q; want the same words", f, u)
	}
}

func TestWhoMayReadIsToldWhatIsMissing(t *testing.T) {
	b := open(t)
	w := b.tree(t, "acme/shop/prod")
	reader := acting(t.Context(), w.Scope(), tenant.WorkspacesRead)
	err := b.DeleteWorkspace(reader, w.ID)
	if fault.KindOf(err) != fault.Denied || !strings.Contains(err.Error(), string(tenant.WorkspacesDelete)) {
		t.Errorf("got %v, want it denied with the permission's name", err)
	}
	if err := b.DeleteWorkspace(acting(t.Context(), w.Scope(), tenant.WorkspacesUpdate), w.ID); fault.KindOf(err) != fault.NotFound {
		t.Errorf("got %v for who may not read it, want not found", err)
	}
}

func TestListsShowWhatMayBeRead(t *testing.T) {
	b := open(t)
	prod := b.tree(t, "acme/shop/prod")
	b.tree(t, "acme/shop/test")
	b.tree(t, "other/web/prod")
	inProd := acting(t.Context(), prod.Scope(), access.All)
	count := func(ctx context.Context, project string) string {
		list, _, err := b.Workspaces(ctx, project, tenant.Page{})
		return fmt.Sprint(len(list), " ", code(err))
	}
	for name, c := range map[string]struct{ got, want string }{
		"everything":                 {count(administrator(t), ""), "3 "},
		"one project":                {count(administrator(t), "acme/shop"), "2 "},
		"own":                        {count(inProd, ""), "1 "},
		"own, within its project":    {count(inProd, "acme/shop"), "1 "},
		"own, within another":        {count(inProd, "other/web"), "0 not_found"},
		"nothing may be read":        {count(acting(t.Context(), access.Scope{}, tenant.ProjectsRead), ""), "0 "},
		"a whole organisation's own": {count(acting(t.Context(), access.Scope{Organisation: prod.OrganisationID}, access.All), ""), "2 "},
	} {
		if c.got != c.want {
			t.Errorf("%s: got %s, want %s", name, c.got, c.want)
		}
	}
	page, next, err := b.Workspaces(administrator(t), "", tenant.Page{Size: 2})
	if err != nil || len(page) != 2 || next == "" {
		t.Fatalf("got %d, next %q, %v; want a page of two and a next one", len(page), next, err)
	}
	if rest, next, err := b.Workspaces(administrator(t), "", tenant.Page{Size: 2, Token: next}); err != nil || len(rest) != 1 || next != "" {
		t.Errorf("got %d, next %q, %v; want the last one", len(rest), next, err)
	}
}

func TestNamesAreUniqueAmongSiblings(t *testing.T) {
	b := open(t)
	b.tree(t, "acme/shop/prod")
	ctx := administrator(t)
	if _, err := b.CreateOrganisation(ctx, slice.New{Name: "acme"}); code(err) != "organisation_exists" {
		t.Errorf("got %v, want organisation_exists", err)
	}
	if _, err := b.CreateProject(ctx, "acme", slice.New{Name: "shop"}); code(err) != "project_exists" {
		t.Errorf("got %v, want project_exists", err)
	}
	if _, err := b.CreateWorkspace(ctx, "shop", slice.New{Name: "prod"}, tenant.TokenPolicy{}); code(err) != "workspace_exists" {
		t.Errorf("got %v, want workspace_exists", err)
	}
	if _, err := b.CreateProject(ctx, "acme", slice.New{Name: "prod"}); err != nil {
		t.Errorf("got %v for a name that only a workspace has, want it taken", err)
	}
	var all sync.WaitGroup
	results := make([]error, 10)
	for i := range results {
		all.Go(func() { _, results[i] = b.CreateOrganisation(ctx, slice.New{Name: "race"}) })
	}
	all.Wait()
	made := 0
	for _, err := range results {
		if err == nil {
			made++
		} else if fault.KindOf(err) != fault.Exists {
			t.Errorf("got %v, want organisation_exists", err)
		}
	}
	if made != 1 {
		t.Errorf("got %d organisations of one name from ten at once, want 1", made)
	}
}

func TestWhatHoldsSomethingIsNotDeleted(t *testing.T) {
	b := open(t)
	w := b.tree(t, "acme/shop/prod")
	ctx := administrator(t)
	h := host.Host{Meta: tenant.Meta{ID: id.New("hst", time.Now()), Name: "web-1"}, Scope: w.Scope(), Facts: host.Facts{Lifecycle: host.LifecycleUnmanaged}, State: host.Unmanaged}
	put := func(h host.Host) {
		if err := b.db.Observe(t.Context(), func(tx *storage.Tx) error { _, err := tx.PutHost(t.Context(), h); return err }); err != nil {
			t.Fatal(err)
		}
	}
	put(h)
	for name, c := range map[string]struct {
		delete func() error
		want   string
	}{
		"organisation": {func() error { return b.DeleteOrganisation(ctx, "acme") }, "1 project, 1 workspace and 1 host"},
		"project":      {func() error { return b.DeleteProject(ctx, "acme/shop") }, "1 workspace and 1 host"},
		"workspace":    {func() error { return b.DeleteWorkspace(ctx, w.ID) }, "1 host"},
	} {
		if err := c.delete(); code(err) != name+"_not_empty" || !strings.Contains(err.Error(), "holds "+c.want) {
			t.Errorf("%s: got %v, want %s_not_empty that counts %s", name, err, name, c.want)
		}
	}
	h.Lifecycle, h.State = host.LifecycleRemoved, host.Removed
	put(h)
	for _, err := range []error{b.DeleteWorkspace(ctx, w.ID), b.DeleteProject(ctx, "acme/shop"), b.DeleteOrganisation(ctx, "acme")} {
		if err != nil {
			t.Errorf("got %v once the host was removed, want it deleted", err)
		}
	}
	if _, err := b.Workspace(ctx, w.ID, tenant.WorkspacesRead); fault.KindOf(err) != fault.NotFound {
		t.Errorf("got %v after deletion, want not found", err)
	}
}

func TestWrongFieldsAreAllNamedAtOnce(t *testing.T) {
	b := open(t)
	b.tree(t, "acme/shop/prod")
	policy := tenant.TokenPolicy{MaxTTL: time.Hour, DefaultTTL: 2 * time.Hour, MaxUses: -1, DefaultMaxUses: 1 << 30}
	_, err := b.CreateWorkspace(administrator(t), "acme/shop",
		slice.New{Name: "Not A Name", Description: strings.Repeat("x", 2000), Labels: map[string]string{"a b": "c"}}, policy)
	var e *fault.Error
	if !errors.As(err, &e) {
		t.Fatalf("got %v, want a fault", err)
	}
	for _, field := range []string{"name", "description", "labels[a b]", "tokenPolicy.defaultTtl", "tokenPolicy.maxUses", "tokenPolicy.defaultMaxUses"} {
		found := false
		for _, v := range e.Violations {
			found = found || v.Field == field
		}
		if !found {
			t.Errorf("got %v, want a violation of %s", e.Violations, field)
		}
	}
}

func TestUpdateOfWhatSomebodyElseChanged(t *testing.T) {
	b := open(t)
	w := b.tree(t, "acme/shop/prod")
	ctx := administrator(t)
	first, second := "first", "second"
	after, err := b.UpdateWorkspace(ctx, w.ID, slice.Update{Description: &first, Tokens: &tenant.TokenPolicy{MaxTTL: time.Hour}, Revision: w.Revision})
	if err != nil || after.Description != first || after.Revision <= w.Revision {
		t.Fatalf("got %+v and %v, want the new description at a later revision", after, err)
	}
	if _, err := b.UpdateWorkspace(ctx, w.ID, slice.Update{Description: &second, Revision: w.Revision}); code(err) != "workspace_changed" {
		t.Errorf("got %v, want workspace_changed", err)
	}
	after, err = b.UpdateWorkspace(ctx, w.ID, slice.Update{Description: &second})
	if err != nil || after.Tokens.MaxTTL != time.Hour {
		t.Errorf("got %+v and %v, want the policy left as it was", after, err)
	}
	entries, err := b.db.View().Entries(t.Context(), audit.Query{Readable: access.Everywhere(), Action: tenant.WorkspacesUpdate, Limit: 10})
	if err != nil || len(entries) != 2 || !strings.Contains(string(entries[0].Before), first) || !strings.Contains(string(entries[0].After), second) {
		t.Errorf("got %+v and %v, want two entries with before and after", entries, err)
	}
}

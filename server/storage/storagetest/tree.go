package storagetest

import (
	"context"
	"strings"
	"testing"

	"github.com/loopbackd/loopback/access"
	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/host"
	"github.com/loopbackd/loopback/server/storage"
	"github.com/loopbackd/loopback/settings"
	"github.com/loopbackd/loopback/tenant"
)

// tree: what holds something cannot be deleted, and names are unique among siblings.
var tree = []test{
	{"names are unique among siblings only", func(t *testing.T, b *bench) {
		p := b.project(t, b.organisation(t))
		w, other := b.workspaceIn(t, p), b.workspace(t)
		h := b.host(t, w, nil)
		try := func(what string, taken bool, change func(ctx context.Context, tx *storage.Tx) error) {
			t.Helper()
			err := b.DB.Observe(t.Context(), func(tx *storage.Tx) error { return change(t.Context(), tx) })
			if taken && (fault.KindOf(err) != fault.Exists || fault.Of(err).Code != "name_taken") || !taken && err != nil {
				t.Errorf("%s: got %v; wanted taken: %t", what, err, taken)
			}
		}
		try("a workspace beside", true, func(ctx context.Context, tx *storage.Tx) error {
			_, err := tx.PutWorkspace(ctx, tenant.Workspace{Meta: tenant.Meta{ID: "ws_1", Name: w.Name}, OrganisationID: p.OrganisationID, ProjectID: p.ID})
			return err
		})
		try("a workspace elsewhere", false, func(ctx context.Context, tx *storage.Tx) error {
			_, err := tx.PutWorkspace(ctx, tenant.Workspace{Meta: tenant.Meta{ID: "ws_2", Name: w.Name}, OrganisationID: other.OrganisationID, ProjectID: other.ProjectID})
			return err
		})
		again := b.newHost(w)
		again.Name = h.Name
		put := func(ctx context.Context, tx *storage.Tx) error { _, err := tx.PutHost(ctx, again); return err }
		try("a host beside", true, put)
		h.Lifecycle, h.State = host.LifecycleRemoved, host.Removed
		b.putHost(t, h)
		try("a host after one that was removed", false, put)
	}},
	{"what holds something is not deleted and says what", func(t *testing.T, b *bench) {
		o := b.organisation(t)
		p := b.project(t, o)
		w := b.workspaceIn(t, p)
		h := b.host(t, w, nil)
		k := b.token(t, w, 1)
		b.write(t, func(ctx context.Context, tx *storage.Tx) error {
			_, err := tx.PutWorkspaceSettings(ctx, w.ID, settings.Settings{LogLevel: "debug"})
			return err
		})
		remove := map[string]func(tx *storage.Tx) error{
			"organisation": func(tx *storage.Tx) error { return tx.DeleteOrganisation(t.Context(), o.ID) },
			"project":      func(tx *storage.Tx) error { return tx.DeleteProject(t.Context(), p.ID) },
			"workspace":    func(tx *storage.Tx) error { return tx.DeleteWorkspace(t.Context(), w.ID) },
		}
		want := func(what string, words ...string) {
			t.Helper()
			err := b.DB.Observe(t.Context(), remove[what])
			if fault.KindOf(err) != fault.Precondition {
				t.Errorf("%s: got %v; wanted Precondition", what, err)
				return
			}
			for _, word := range words {
				if !strings.Contains(err.Error(), word) {
					t.Errorf("%s: %q does not name the %s", what, err, word)
				}
			}
		}
		want("organisation", "1 project", "1 workspace", "1 host", "1 active token")
		want("project", "1 workspace", "1 host", "1 active token")
		want("workspace", "1 host", "1 active token")
		if n, err := b.DB.View().CountIn(t.Context(), w.Scope()); err != nil || n != (tenant.Count{Hosts: 1, Tokens: 1}) {
			t.Errorf("the workspace holds %+v, %v; wanted a host and a token", n, err)
		}
		h.Lifecycle, h.State = host.LifecycleRemoved, host.Removed
		b.putHost(t, h)
		k.RevokedAt = b.now()
		b.write(t, func(ctx context.Context, tx *storage.Tx) error { _, err := tx.PutToken(ctx, k); return err })
		for _, what := range []string{"workspace", "project", "organisation"} {
			if err := b.DB.Observe(t.Context(), remove[what]); err != nil {
				t.Errorf("%s: %v; wanted it deleted", what, err)
			}
		}
		if _, err := b.DB.View().Host(t.Context(), h.ID); err != nil {
			t.Errorf("the removed host is forgotten: %v", err)
		}
		if s, err := b.DB.View().WorkspaceSettings(t.Context(), w.ID); err != nil || s.Revision != 0 {
			t.Errorf("the workspace's settings outlive it: %+v, %v", s, err)
		}
		position, _ := b.DB.Position(t.Context())
		list, err := b.DB.Changes(t.Context(), position-3, 3)
		if err != nil || len(list) != 3 || !list[0].Deleted || list[0].ID != w.ID || list[0].Scope != w.Scope() {
			t.Errorf("got changes %+v, %v; wanted three deletions", list, err)
		}
		if err := b.DB.Observe(t.Context(), remove["workspace"]); fault.KindOf(err) != fault.NotFound {
			t.Errorf("deleting it again: got %v; wanted NotFound", err)
		}
	}},
	{"nothing is put where nothing is", func(t *testing.T, b *bench) {
		h := b.newHost(b.workspace(t))
		h.Scope.Workspace = "ws_none"
		if err := b.DB.Observe(t.Context(), func(tx *storage.Tx) error { _, err := tx.PutHost(t.Context(), h); return err }); fault.KindOf(err) != fault.NotFound {
			t.Errorf("a host: got %v; wanted NotFound", err)
		}
		if err := b.DB.Observe(t.Context(), func(tx *storage.Tx) error {
			_, err := tx.PutProject(t.Context(), tenant.Project{Meta: b.meta("prj"), OrganisationID: "org_none"})
			return err
		}); fault.KindOf(err) != fault.Precondition {
			t.Errorf("a project: got %v; wanted Precondition", err)
		}
		if n, err := b.DB.View().CountIn(t.Context(), access.Scope{Organisation: "org_none"}); err != nil || n != (tenant.Count{}) {
			t.Errorf("nowhere holds %+v, %v; wanted nothing", n, err)
		}
	}},
}

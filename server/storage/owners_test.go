package storage_test

import (
	"database/sql"
	"encoding/json"
	"path/filepath"
	"testing"
	"time"

	"github.com/loopbackd/loopback/access"
	"github.com/loopbackd/loopback/apikey"
	"github.com/loopbackd/loopback/policy"
	"github.com/loopbackd/loopback/server/storage"
)

// A database from before there were owners: its keys go on working, each with a service account that holds what it held.
func TestKeysFromBeforeOwnersKeepWhatTheyHeld(t *testing.T) {
	path := filepath.Join(t.TempDir(), "old.db")
	if err := storage.OpenAt(t.Context(), path, 2); err != nil {
		t.Fatal(err)
	}
	raw, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	here := access.Scope{Organisation: "org_1", Project: "prj_1", Workspace: "ws_1"}
	keys := map[string]apikey.Key{
		"key_06ey6t7p01bq85nx44fbgmhk18": {Permissions: []access.Permission{access.All}},
		"key_06ey6t7p01bq85nx44fbgmhk19": {Permissions: []access.Permission{"hosts.read", "hosts.label"}, Scope: here},
		"key_06ey6t7p01bq85nx44fbgmhk1a": {Permissions: []access.Permission{access.All}, Scope: here, RevokedAt: time.Now()},
	}
	for id, k := range keys {
		permissions, err := json.Marshal(k.Permissions)
		if err != nil {
			t.Fatal(err)
		}
		var revoked int64
		if !k.RevokedAt.IsZero() {
			revoked = k.RevokedAt.UnixMicro()
		}
		if _, err := raw.Exec(`INSERT INTO api_keys (id, name, labels, created_at, updated_at, revision, description, organisation_id, project_id, workspace_id,
			permissions, hash, expires_at, created_by, last_used_at, revoked_at) VALUES (?, 'old', 'null', 1, 1, 1, '', ?, ?, ?, ?, NULL, 0, '', 0, ?)`,
			id, k.Scope.Organisation, k.Scope.Project, k.Scope.Workspace, string(permissions), revoked); err != nil {
			t.Fatal(err)
		}
	}
	if err := raw.Close(); err != nil {
		t.Fatal(err)
	}
	db, err := storage.Open(t.Context(), storage.Options{URL: path})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	view := db.View()
	for id, was := range keys {
		k, err := view.Key(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		p, err := view.Principal(t.Context(), k.OwnerID)
		if err != nil || !p.Active() || p.Kind != access.ServiceAccount {
			t.Errorf("the owner of %s: got %+v, %v", id, p, err)
		}
		given, _, err := view.Bindings(t.Context(), policy.Query{Readable: access.Everywhere(), Subject: k.OwnerID})
		if err != nil || len(given) != 1 || given[0].Scope != was.Scope || given[0].Deny {
			t.Fatalf("the bindings of %s: got %+v, %v", k.OwnerID, given, err)
		}
		role, err := view.Role(t.Context(), given[0].RoleID)
		if err != nil || len(role.Permissions) != len(was.Permissions) || role.Permissions[0] != was.Permissions[0] {
			t.Errorf("the role of %s: got %+v, %v; want %v", k.OwnerID, role, err, was.Permissions)
		}
	}
	owners, err := view.Owners(t.Context())
	if err != nil || len(owners) != 1 || owners[0] != "sa_06ey6t7p01bq85nx44fbgmhk18" {
		t.Errorf("the owners are %v, %v; want the one whose key held everything", owners, err)
	}
}

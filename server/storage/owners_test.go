package storage_test

import (
	"database/sql"
	"path/filepath"
	"testing"
	"time"

	"github.com/loopbackd/loopback/access"
	"github.com/loopbackd/loopback/apikey"
	"github.com/loopbackd/loopback/policy"
	"github.com/loopbackd/loopback/server/storage"
	"github.com/loopbackd/loopback/tenant"
)

// A database from before there were owners: its keys go on working, each with a service account that holds what it held.
func TestKeysFromBeforeOwnersKeepWhatTheyHeld(t *testing.T) {
	path := filepath.Join(t.TempDir(), "old.db")
	db, err := storage.Open(t.Context(), storage.Options{URL: path})
	if err != nil {
		t.Fatal(err)
	}
	here := access.Scope{Organisation: "org_1", Project: "prj_1", Workspace: "ws_1"}
	keys := map[string]apikey.Key{
		"key_06ey6t7p01bq85nx44fbgmhk18": {Permissions: []access.Permission{access.All}},
		"key_06ey6t7p01bq85nx44fbgmhk19": {Permissions: []access.Permission{"hosts.read", "hosts.label"}, Scope: here},
		"key_06ey6t7p01bq85nx44fbgmhk1a": {Permissions: []access.Permission{access.All}, Scope: here, RevokedAt: time.Now()},
	}
	err = db.Observe(t.Context(), func(tx *storage.Tx) error {
		for id, k := range keys {
			k.Meta = tenant.Meta{ID: id, Name: "old"}
			if _, err := tx.PutKey(t.Context(), k); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	// Back to the schema that knew no owners, and nothing of what came after it.
	raw, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{"DROP TABLE principals", "DROP TABLE groups", "DROP TABLE roles", "DROP TABLE bindings", "DROP INDEX api_keys_owner",
		"ALTER TABLE api_keys DROP COLUMN owner_id",
		"DROP TABLE replicas", "DROP TABLE keysets", "ALTER TABLE hosts DROP COLUMN link", "ALTER TABLE hosts DROP COLUMN settling", "ALTER TABLE hosts DROP COLUMN troubles",
		"DROP TABLE audit_logs", "DROP TABLE audit_tiles", "DROP INDEX audit_entries_id", "DROP TABLE sinks", "DROP TABLE dead_letters", "DROP INDEX audit_entries_organisation", "DROP TABLE blobs", "DROP TABLE blob_chunks", "DROP TABLE leases", "DROP TABLE sign_ins", "DROP TABLE grants", "DROP TABLE grant_policies", "DROP TABLE audit_retentions", "DROP TABLE providers", "DROP TABLE identities", "DROP TABLE devices",
		"DROP INDEX audit_entries_principal", "ALTER TABLE audit_entries DROP COLUMN principal", "ALTER TABLE audit_entries DROP COLUMN mfa_at", "ALTER TABLE audit_entries DROP COLUMN snapshot", // of those after it
		"DELETE FROM schema_versions WHERE version_id >= 3"} {
		if _, err := raw.Exec(text); err != nil {
			t.Fatalf("%s: %v", text, err)
		}
	}
	if err := raw.Close(); err != nil {
		t.Fatal(err)
	}
	if db, err = storage.Open(t.Context(), storage.Options{URL: path}); err != nil {
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

package storage_test

import (
	"database/sql"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/loopbackd/loopback/access"
	"github.com/loopbackd/loopback/operation"
	"github.com/loopbackd/loopback/server/storage"
	"github.com/loopbackd/loopback/tenant"
)

// A list of many is read page by page in the memory of a page, and the last page costs what the first does.
func TestALargeListIsPagedInBoundedMemory(t *testing.T) {
	if testing.Short() {
		t.Skip("writes tens of thousands of rows")
	}
	rows := 60_000
	if os.Getenv("LOOPBACK_SOAK") != "" {
		rows = 1_000_000
	}
	path := filepath.Join(t.TempDir(), "loopback.db")
	db := open(t, path)
	raw, err := sql.Open("sqlite", "file:"+path)
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	o := operation.Operation{Meta: tenant.Meta{ID: "op_seed", Name: "seed"}, Kind: operation.RemoveHost, State: operation.Succeeded,
		Scope: access.Scope{Organisation: "org_1", Project: "prj_1", Workspace: "ws_1"}, Target: "hst_1", Input: []byte("{}"), Actor: "somebody"}
	if err := db.Observe(t.Context(), func(tx *storage.Tx) error { _, err := tx.PutOperation(t.Context(), o); return err }); err != nil {
		t.Fatal(err)
	}
	// One real row, copied under ids of its own: whatever columns there are.
	columns := ""
	list, err := raw.Query("SELECT name FROM pragma_table_info('operations') WHERE name NOT IN ('id', 'request_id')")
	if err != nil {
		t.Fatal(err)
	}
	for list.Next() {
		var c string
		if err := list.Scan(&c); err != nil {
			t.Fatal(err)
		}
		columns += ", " + c
	}
	list.Close()
	if _, err := raw.Exec(`WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < $1)
		INSERT INTO operations (id, request_id`+columns+`) SELECT printf('op_%026d', i), printf('req-%d', i)`+columns+` FROM n, operations WHERE id = 'op_seed'`, rows); err != nil {
		t.Fatal(err)
	}
	var before, now runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	most, seen, previous := uint64(0), 0, ""
	q := operation.Query{Readable: access.Everywhere(), Page: tenant.Page{Size: 1 << 30}}
	for page := 0; ; page++ {
		items, next, err := db.View().Operations(t.Context(), q)
		if err != nil {
			t.Fatal(err)
		}
		if len(items) > tenant.MaxPage {
			t.Fatalf("a page of %d", len(items))
		}
		for _, o := range items {
			if previous != "" && o.ID >= previous {
				t.Fatalf("%s after %s", o.ID, previous)
			}
			previous = o.ID
		}
		if seen += len(items); page%50 == 0 {
			runtime.GC()
			runtime.ReadMemStats(&now)
			most = max(most, now.HeapAlloc)
		}
		if q.Page.Token = next; next == "" {
			break
		}
	}
	if seen != rows+1 {
		t.Errorf("read %d, want %d", seen, rows+1)
	}
	if grown := int64(most) - int64(before.HeapAlloc); grown > 32<<20 {
		t.Errorf("the heap grew by %d MB over %d rows", grown>>20, rows)
	} else {
		t.Logf("%d rows, the heap grew by %d KB", rows, grown>>10)
	}
}

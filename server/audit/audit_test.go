package audit_test

import (
	"context"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/loopbackd/loopback/access"
	"github.com/loopbackd/loopback/audit"
	"github.com/loopbackd/loopback/fault"
	slice "github.com/loopbackd/loopback/server/audit"
	"github.com/loopbackd/loopback/server/storage"
	"github.com/loopbackd/loopback/server/tenant"
	noun "github.com/loopbackd/loopback/tenant"
	"github.com/loopbackd/loopback/token"
)

func acting(ctx context.Context, at access.Scope, p ...access.Permission) context.Context {
	return access.WithActor(ctx, access.GrantsAlone(access.Actor{Kind: access.APIKey, ID: "key_test", Grants: []access.Grant{{ID: "key_test", Permissions: p, Scope: at}}}))
}

// open is a log of so many entries, every other one of workspace acme/shop/prod.
func open(t *testing.T, entries int) (*slice.Service, noun.Workspace) {
	t.Helper()
	s, _, w := openDB(t, entries)
	return s, w
}

func openDB(t *testing.T, entries int) (*slice.Service, *storage.DB, noun.Workspace) {
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
	tenants := tenant.NewService(storage.Bind[tenant.Reader, tenant.Tx](db), token.DefaultLimits, time.Now)
	if err := tenants.EnsureDefault(t.Context()); err != nil {
		t.Fatal(err)
	}
	w, err := tenants.Workspace(acting(t.Context(), access.Scope{}, access.All), "default", audit.Read)
	if err != nil {
		t.Fatal(err)
	}
	for i := range entries {
		at := access.Scope{}
		if i%2 == 0 {
			at = w.Scope()
		}
		err := db.Write(t.Context(), func(tx *storage.Tx) error {
			return tx.Audit(t.Context(), audit.Entry{Actor: access.Actor{ID: "key_test"}, Action: "test.act", Scope: at, Target: fmt.Sprint("target-", i)})
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return slice.NewService(storage.Bind[slice.Reader, any](db), tenants), db, w
}

// A page of the largest size is followed by another like any other.
func TestTheLargestPageIsNotTheLast(t *testing.T) {
	s, db, _ := openDB(t, 0)
	const entries = noun.MaxPage + 10
	if err := db.Write(t.Context(), func(tx *storage.Tx) error {
		for range entries {
			if err := tx.Audit(t.Context(), audit.Entry{Actor: access.Actor{ID: "key_test"}, Action: "test.many", Target: "target"}); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	ctx := acting(t.Context(), access.Scope{}, access.All)
	for _, after := range []int64{0, 1} {
		q := slice.Query{Action: "test.many", After: after, Page: noun.Page{Size: noun.MaxPage}}
		seen := 0
		for {
			items, next, err := s.List(ctx, q)
			if err != nil {
				t.Fatal(err)
			}
			if seen += len(items); next == "" {
				break
			}
			q.Page.Token = next
		}
		if seen != entries {
			t.Errorf("after %d, in pages of %d: got %d entries, want %d", after, noun.MaxPage, seen, entries)
		}
	}
}

func TestPagesGoThroughTheWholeLogBothWays(t *testing.T) {
	s, _ := open(t, 50)
	ctx := acting(t.Context(), access.Scope{}, audit.Read)
	for name, q := range map[string]slice.Query{
		"newest first": {Action: "test.act"},
		"in order":     {Action: "test.act", After: 1},
	} {
		q.Page.Size = 7
		var seen []int64
		for {
			entries, next, err := s.List(ctx, q)
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			for _, e := range entries {
				seen = append(seen, e.Position)
			}
			if next == "" {
				break
			}
			q.Page.Token = next
		}
		if len(seen) != 50 {
			t.Fatalf("%s: got %d entries, want 50", name, len(seen))
		}
		for i := 1; i < len(seen); i++ {
			if seen[i] == seen[i-1] || (seen[i] > seen[i-1]) != (q.After > 0) {
				t.Fatalf("%s: got positions %v, want them in order", name, seen)
			}
		}
	}
}

func TestEntriesAreSeenWhereTheyHappened(t *testing.T) {
	s, w := open(t, 10)
	for name, c := range map[string]struct {
		ctx  context.Context
		q    slice.Query
		want int
	}{
		"everything":           {acting(t.Context(), access.Scope{}, audit.Read), slice.Query{}, 10},
		"one workspace":        {acting(t.Context(), access.Scope{}, audit.Read, noun.WorkspacesRead), slice.Query{Workspace: "default"}, 5},
		"own workspace":        {acting(t.Context(), w.Scope(), audit.Read), slice.Query{}, 5},
		"without permission":   {acting(t.Context(), access.Scope{}, noun.WorkspacesRead), slice.Query{}, 0},
		"one target":           {acting(t.Context(), access.Scope{}, audit.Read), slice.Query{Target: "target-3"}, 1},
		"one target elsewhere": {acting(t.Context(), w.Scope(), audit.Read), slice.Query{Target: "target-3"}, 0},
		"one actor":            {acting(t.Context(), access.Scope{}, audit.Read), slice.Query{Actor: "key_test"}, 10},
		"until long ago":       {acting(t.Context(), access.Scope{}, audit.Read), slice.Query{Until: time.Unix(1, 0)}, 0},
		"since just now":       {acting(t.Context(), access.Scope{}, audit.Read), slice.Query{Since: time.Now().Add(-time.Hour)}, 10},
	} {
		c.q.Action = "test.act"
		entries, next, err := s.List(c.ctx, c.q)
		if err != nil || len(entries) != c.want || next != "" {
			t.Errorf("%s: got %d, next %q, %v; want %d", name, len(entries), next, err, c.want)
		}
	}
	if _, _, err := s.List(acting(t.Context(), access.Scope{Workspace: "ws_x"}, audit.Read), slice.Query{Workspace: w.ID}); fault.KindOf(err) != fault.NotFound {
		t.Errorf("foreign workspace: got %v, want not found", err)
	}
	for field, q := range map[string]slice.Query{
		"page.token": {Page: noun.Page{Token: "x"}}, "afterPosition": {After: -1}, "since": {Since: time.Unix(2, 0), Until: time.Unix(1, 0)},
	} {
		_, _, err := s.List(acting(t.Context(), access.Scope{}, audit.Read), q)
		if fault.KindOf(err) != fault.Invalid || fault.Of(err).Violations[0].Field != field {
			t.Errorf("got %v, want a violation of %s", err, field)
		}
	}
}

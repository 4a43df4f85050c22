package audit_test

import (
	"context"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/loopbackd/loopback/access"
	"github.com/loopbackd/loopback/audit"
	slice "github.com/loopbackd/loopback/server/audit"
	"github.com/loopbackd/loopback/server/storage"
)

// Whoever follows the log does not fill it: what is read over and over leaves one entry at once and one later.
func TestReadingTheLogIsInTheLogAndDoesNotFloodIt(t *testing.T) {
	s, db, w := openDB(t, 3)
	now := time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC)
	reads := slice.NewReads(storage.Bind[any, slice.Appender](db), func() time.Time { return now }, slog.New(slog.DiscardHandler))
	s.Record(reads)
	ctx := acting(t.Context(), access.Scope{}, audit.Read)
	before, err := db.View().AuditPosition(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for range 500 {
		if _, _, err := s.List(ctx, slice.Query{After: before}); err != nil {
			t.Fatal(err)
		}
	}
	if _, _, err := s.List(ctx, slice.Query{Workspace: w.ID}); err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.List(ctx, slice.Query{Action: "hosts.remove"}); err != nil {
		t.Fatal(err)
	}
	found, err := db.View().EntriesFrom(ctx, before, 100)
	if err != nil || len(found) != 3 {
		t.Fatalf("got %d entries, %v; want one for following, one for the workspace, one for the search", len(found), err)
	}
	if e := found[1]; e.Action != audit.Read || e.Actor.ID != "key_test" || e.Scope != w.Scope() {
		t.Errorf("got %+v, want who read, and where", e)
	}
	if !strings.Contains(string(found[2].After), "hosts.remove") {
		t.Errorf("got %s, want what was looked for", found[2].After)
	}
	end, cancel := context.WithCancel(t.Context())
	cancel()
	if err := reads.Run(end); err != nil {
		t.Fatal(err)
	}
	if found, err = db.View().EntriesFrom(ctx, before, 100); err != nil || len(found) != 4 || !strings.Contains(string(found[3].After), `"times":499`) {
		t.Errorf("got %d entries, %v; want those that were merged to be counted", len(found), err)
	}
}

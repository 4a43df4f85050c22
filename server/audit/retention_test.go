package audit_test

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"log/slog"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/loopbackd/loopback/access"
	"github.com/loopbackd/loopback/audit"
	"github.com/loopbackd/loopback/fault"
	evidence "github.com/loopbackd/loopback/ledger"
	slice "github.com/loopbackd/loopback/server/audit"
	"github.com/loopbackd/loopback/server/ledger"
	"github.com/loopbackd/loopback/server/storage"
	"github.com/loopbackd/loopback/server/tenant"
	"github.com/loopbackd/loopback/sink"
	noun "github.com/loopbackd/loopback/tenant"
	"github.com/loopbackd/loopback/token"
)

// archive is a log with a signer and a retention, on the clock of a bubble.
type archive struct {
	db        *storage.DB
	tree      *ledger.Service
	retention *slice.Retention
	org       noun.Organisation
}

type forgetful struct{}

func (forgetful) Load() (string, error) { return "", nil }
func (forgetful) Store(string) error    { return nil }

func newArchive(t *testing.T) *archive {
	t.Helper()
	db, err := storage.Open(t.Context(), storage.Options{URL: filepath.Join(t.TempDir(), "loopback.db"), Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	tenants := tenant.NewService(storage.Bind[tenant.Reader, tenant.Tx](db), token.DefaultLimits, time.Now)
	if err := tenants.EnsureDefault(t.Context()); err != nil {
		t.Fatal(err)
	}
	a := &archive{db: db}
	if a.org, err = tenants.Organisation(a.ctx(t), "default", audit.Read); err != nil {
		t.Fatal(err)
	}
	a.tree = ledger.NewService(storage.Bind[ledger.Reader, ledger.Tx](db), ledger.Options{
		Deployment: "dep_x", Epoch: 1, Key: ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize)), Memory: forgetful{}, Owner: "one", Now: time.Now, Logger: slog.New(slog.DiscardHandler)})
	a.retention = slice.NewRetention(storage.Bind[slice.KeepReader, slice.KeepTx](db), tenants, time.Now, slog.New(slog.DiscardHandler))
	return a
}

func (a *archive) ctx(t *testing.T) context.Context {
	return acting(t.Context(), access.Scope{}, access.All)
}

// write writes n entries of the organisation and as many of another, and has them signed.
func (a *archive) write(t *testing.T, n int) {
	t.Helper()
	if err := a.db.Observe(t.Context(), func(tx *storage.Tx) error {
		for range n {
			for _, org := range []string{a.org.ID, "org_other"} {
				if err := tx.Audit(t.Context(), audit.Entry{Actor: access.Actor{ID: "key_test"}, Action: "test.act", Scope: access.Scope{Organisation: org}}); err != nil {
					return err
				}
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if err := a.tree.Advance(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func (a *archive) prune(t *testing.T) {
	t.Helper()
	if err := a.retention.Prune(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := a.tree.Advance(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// left is how many entries of each organisation have their bodies.
func (a *archive) left(t *testing.T) (ours, others int) {
	t.Helper()
	for _, org := range []string{a.org.ID, "org_other"} {
		list, err := a.db.View().EntriesOf(t.Context(), org, 0, 100_000)
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		for _, e := range list {
			if e.Action == "test.act" {
				n++
			}
		}
		ours, others = others, n
	}
	return ours, others
}

// verifies checks every leaf of the log, and that none is missing that retention did not delete.
func (a *archive) verifies(t *testing.T) {
	t.Helper()
	ctx := a.ctx(t)
	l, err := a.tree.Current(ctx)
	if err != nil {
		t.Fatal(err)
	}
	var tree evidence.Range
	for start := int64(0); start < l.Signed; {
		leaves, err := a.tree.Leaves(ctx, l.Number, start, 1000)
		if err != nil || len(leaves) == 0 {
			t.Fatal(len(leaves), err)
		}
		for i, leaf := range leaves {
			if leaf.Body != nil {
				tree.Add(leaf.Body)
				continue
			}
			if at := l.Began + start + int64(i) + 1; at > l.Pruned {
				t.Errorf("the body of position %d is gone; the log says that only those up to %d may be", at, l.Pruned)
			}
			tree.AddHash(leaf.Hash)
		}
		start += int64(len(leaves))
	}
	if tree.Root() != l.Root {
		t.Error("the log does not verify any more")
	}
}

func TestOldBodiesGoAndTheLogVerifies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newArchive(t)
		a.write(t, 3000)
		time.Sleep(60 * 24 * time.Hour)
		a.write(t, 50)
		a.prune(t)
		if ours, others := a.left(t); ours != 3050 || others != 3050 {
			t.Fatalf("without a retention %d and %d bodies are left, want all", ours, others)
		}
		if _, err := a.retention.Set(a.ctx(t), "default", audit.Retention{KeepDays: 45, Reason: "policy 7"}); err != nil {
			t.Fatal(err)
		}
		a.prune(t)
		if ours, others := a.left(t); ours != 50 || others != 3050 {
			t.Errorf("%d and %d bodies are left, want those of 45 days, and all of who has no retention", ours, others)
		}
		a.verifies(t)

		// What is gone, and why, is in the log, and stays there.
		var deleted float64
		said, err := a.db.View().Entries(t.Context(), audit.Query{Readable: access.Everywhere(), Action: audit.Prune})
		if err != nil || len(said) == 0 {
			t.Fatal(said, err)
		}
		for _, e := range said {
			var did struct{ Entries, UpToPosition, KeepDays float64 }
			if err := json.Unmarshal(e.After, &did); err != nil || e.Scope.Organisation != a.org.ID || e.Reason != "policy 7" || did.KeepDays != 45 {
				t.Errorf("got %+v, %v", e, err)
			}
			deleted += did.Entries
		}
		if deleted < 3000 {
			t.Errorf("the log says that %v bodies were deleted", deleted)
		}
		time.Sleep(400 * 24 * time.Hour)
		if _, err := a.retention.Set(a.ctx(t), "", audit.Retention{KeepDays: 30}); err != nil {
			t.Fatal(err)
		}
		a.prune(t)
		if ours, others := a.left(t); ours != 0 || others != 0 {
			t.Errorf("a year later %d and %d are left", ours, others)
		}
		if again, err := a.db.View().Entries(t.Context(), audit.Query{Readable: access.Everywhere(), Action: audit.Prune}); err != nil || len(again) <= len(said) {
			t.Errorf("%d entries say what was deleted, %v", len(again), err)
		}
		a.verifies(t)
	})
}

func TestWhatIsOnHoldOrNotShippedIsKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newArchive(t)
		a.write(t, 100)
		head, err := a.db.View().AuditPosition(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(60 * 24 * time.Hour)
		set := func(r audit.Retention) {
			t.Helper()
			if _, err := a.retention.Set(a.ctx(t), "default", r); err != nil {
				t.Fatal(err)
			}
		}
		kept := func(why string, want int) {
			t.Helper()
			a.prune(t)
			if ours, _ := a.left(t); ours != want {
				t.Errorf("%s: %d bodies are left, want %d", why, ours, want)
			}
		}
		set(audit.Retention{KeepDays: 30, Hold: true, Reason: "case 1"})
		kept("on hold", 100)

		behind := sink.Sink{Meta: noun.Meta{ID: "snk_1", Name: "siem"}, Kind: sink.Webhook, Cursor: head / 2}
		letter := sink.DeadLetter{ID: "dlt_1", Sink: behind.ID, Position: head/2 - 10}
		change := func(do func(tx *storage.Tx) error) {
			t.Helper()
			if err := a.db.Observe(t.Context(), do); err != nil {
				t.Fatal(err)
			}
		}
		change(func(tx *storage.Tx) error {
			if _, err := tx.PutSink(t.Context(), behind); err != nil {
				return err
			}
			return tx.PutDeadLetter(t.Context(), letter)
		})
		count := func(from int64) int { // entries of ours after a position, before the pause
			list, err := a.db.View().EntriesOf(t.Context(), a.org.ID, from, 100_000)
			if err != nil {
				t.Fatal(err)
			}
			n := 0
			for _, e := range list {
				if e.Action == "test.act" {
					n++
				}
			}
			return n
		}
		set(audit.Retention{KeepDays: 30})
		kept("set aside by a sink", count(letter.Position-1))
		change(func(tx *storage.Tx) error { return tx.DeleteDeadLetters(t.Context(), behind.ID, 0, head) })
		kept("not shipped yet", count(behind.Cursor))
		behind.Cursor = head + 10
		change(func(tx *storage.Tx) error { return tx.MoveSink(t.Context(), behind) })
		kept("shipped", 0)
		a.verifies(t)
	})
}

func TestARetentionThatIsTooShortIsRefused(t *testing.T) {
	a := newArchive(t)
	for field, r := range map[string]audit.Retention{"keepDays": {KeepDays: 29}, "reason": {Hold: true}} {
		_, err := a.retention.Set(a.ctx(t), "", r)
		if f := fault.Of(err); f.Kind != fault.Invalid || len(f.Violations) != 1 || f.Violations[0].Field != field {
			t.Errorf("got %v, want a violation of %s", err, field)
		}
	}
	if _, err := a.retention.Set(acting(t.Context(), access.Scope{Organisation: a.org.ID}, access.All), "", audit.Retention{KeepDays: 90}); fault.KindOf(err) != fault.Denied {
		t.Errorf("who holds an organisation sets the deployment's: %v", err)
	}
}

package ledger_test

import (
	"context"
	"crypto/ed25519"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/loopbackd/loopback/access"
	"github.com/loopbackd/loopback/audit"
	"github.com/loopbackd/loopback/fault"
	noun "github.com/loopbackd/loopback/ledger"
	"github.com/loopbackd/loopback/server/ledger"
	"github.com/loopbackd/loopback/server/storage"
	"github.com/loopbackd/loopback/server/storage/storagetest"
)

// memory is the file beside the keys.
type memory struct {
	note string
	fail error
}

func (m *memory) Load() (string, error)   { return m.note, nil }
func (m *memory) Store(note string) error { m.note = note; return m.fail }

type bench struct {
	db     *storage.DB
	url    string
	key    ed25519.PrivateKey
	memory *memory
	now    time.Time
}

// databases runs the tests on a kind of database.
func databases(t *testing.T, database func(t testing.TB) string) {
	for name, test := range map[string]func(t *testing.T, fresh func(t *testing.T) *bench){
		"entries come under a checkpoint and can be proved":                            entriesAreProved,
		"two replicas sign one history":                                                oneHistory,
		"a replica of an earlier version leaves the log to the later one":              laterVersion,
		"a database that was changed is not signed":                                    changedIsNotSigned,
		"the log's key gives way to another, whatever is interrupted":                  keyRotated,
		"a restored backup begins a log that names the last checkpoint of the old one": restored,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, func(t *testing.T) *bench {
				_, key, err := ed25519.GenerateKey(nil)
				if err != nil {
					t.Fatal(err)
				}
				b := &bench{url: database(t), key: key, memory: &memory{}, now: time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC)}
				b.db = b.open(t)
				return b
			})
		})
	}
}

func TestSQLite(t *testing.T) {
	databases(t, func(t testing.TB) string { return filepath.Join(t.TempDir(), "loopback.db") })
}

func TestPostgres(t *testing.T) {
	server := storagetest.StartPostgres(t, "fsync=off")
	databases(t, server.NewDatabase)
}

func (b *bench) open(t *testing.T) *storage.DB {
	t.Helper()
	db, err := storage.Open(t.Context(), storage.Options{URL: b.url, Clock: func() time.Time { return b.now }, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return db
}

func (b *bench) service(epoch int64, owner string) *ledger.Service {
	return ledger.NewService(storage.Bind[ledger.Reader, ledger.Tx](b.db), ledger.Options{
		Deployment: "dep_test", Epoch: epoch, Key: b.key, Memory: b.memory, Owner: owner, Now: func() time.Time { return b.now },
		Logger: slog.New(slog.DiscardHandler),
	})
}

var (
	mine   = access.Scope{Organisation: "org_1", Project: "prj_1", Workspace: "ws_1"}
	theirs = access.Scope{Organisation: "org_2", Project: "prj_2", Workspace: "ws_2"}
)

func (b *bench) write(t *testing.T, n int, at access.Scope) {
	t.Helper()
	for n > 0 {
		step := min(n, 100)
		if err := b.db.Observe(t.Context(), func(tx *storage.Tx) error {
			for i := range step {
				if err := tx.Audit(t.Context(), audit.Of(access.Actor{Kind: access.APIKey, ID: "key_1"}, "hosts.label", at, fmt.Sprint("hst_", i), "web").
					Change(nil, map[string]int{"n": i})); err != nil {
					return err
				}
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		n -= step
	}
}

func (b *bench) tamper(t *testing.T, text string, args ...any) {
	t.Helper()
	driver := "sqlite"
	if strings.Contains(b.url, "://") {
		driver = "pgx"
	}
	db, err := sql.Open(driver, b.url)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.ExecContext(t.Context(), text, args...); err != nil {
		t.Fatal(err)
	}
}

func as(scopes ...access.Scope) context.Context {
	a := access.Actor{Kind: access.APIKey, ID: "key_reader"}
	for _, s := range scopes {
		a.Grants = append(a.Grants, access.Grant{ID: "key_reader", Scope: s, Permissions: []access.Permission{audit.Read, audit.Verify}})
	}
	return access.WithActor(context.Background(), access.GrantsAlone(a))
}

var all = access.Scope{}

// root is that of everything that a caller is given.
func root(t *testing.T, s *ledger.Service, ctx context.Context, size int64) (noun.Hash, int) {
	t.Helper()
	var tree noun.Range
	bodies := 0
	for tree.Size() < size {
		leaves, err := s.Leaves(ctx, 0, tree.Size(), 700)
		if err != nil || len(leaves) == 0 {
			t.Fatalf("got %d leaves at %d, %v", len(leaves), tree.Size(), err)
		}
		for _, l := range leaves {
			if l.Body != nil {
				bodies++
				tree.Add(l.Body)
			} else {
				tree.AddHash(l.Hash)
			}
		}
	}
	return tree.Root(), bodies
}

func entriesAreProved(t *testing.T, fresh func(t *testing.T) *bench) {
	b := fresh(t)
	s := b.service(1, "one")
	if _, err := s.Log(as(all), 0); fault.Of(err).Code != "audit_log_unsigned" {
		t.Fatalf("got %v before anything was signed", err)
	}
	var before noun.Checkpoint
	for _, n := range []int{1, 300, 2500, 0} {
		b.write(t, n, mine)
		b.write(t, n/2, theirs)
		if err := s.Advance(t.Context()); err != nil {
			t.Fatal(err)
		}
		l, err := s.Log(as(all), 0)
		if err != nil {
			t.Fatal(err)
		}
		c, err := s.Key().Open(l.Checkpoint)
		if err != nil {
			t.Fatal(err)
		}
		position, err := b.db.View().AuditPosition(t.Context())
		if err != nil || c.Size != position || s.Status().Waiting != 0 || b.memory.note != l.Checkpoint {
			t.Fatalf("the checkpoint covers %d of %d entries, %v; status %+v", c.Size, position, err, s.Status())
		}
		proof, err := s.Consistency(as(all), 0, before.Size, c.Size)
		if err != nil || before.Size > 0 && !noun.Extends(before.Size, before.Root, c.Size, c.Root, proof) {
			t.Fatalf("no proof from %d to %d: %v", before.Size, c.Size, err)
		}
		before = c
	}
	whole, bodies := root(t, s, as(all), before.Size)
	part, some := root(t, s, as(mine), before.Size)
	if whole != before.Root || part != before.Root || int64(bodies) != before.Size || some != 2801 {
		t.Errorf("all: %t with %d bodies; one workspace: %t with %d of them", whole == before.Root, bodies, part == before.Root, some)
	}
	entries, err := b.db.View().EntriesFrom(t.Context(), 500, 300)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		p, err := s.Inclusion(as(all), e.ID)
		if err != nil || !noun.Includes(noun.LeafHash(p.Leaf), p.Index, before.Size, before.Root, p.Hashes) || len(p.Hashes) > 13 {
			t.Fatalf("entry %d is not proved: %v, %d hashes", e.Position, err, len(p.Hashes))
		}
		_, err = s.Inclusion(as(theirs), e.ID)
		if want := e.Scope != theirs; want != (fault.KindOf(err) == fault.NotFound) {
			t.Fatalf("somebody of another workspace got %v", err)
		}
	}
	if _, err := s.Leaves(as(), 0, 0, 10); fault.KindOf(err) != fault.Denied {
		t.Errorf("somebody without a grant got %v", err)
	}
}

func oneHistory(t *testing.T, fresh func(t *testing.T) *bench) {
	b := fresh(t)
	one, two := b.service(1, "one"), b.service(1, "two")
	b.write(t, 10, mine)
	if err := one.Advance(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.write(t, 10, mine)
	if err := two.Advance(t.Context()); err != nil || two.Status().Waiting != 10 {
		t.Fatalf("the second replica numbered although the first holds the lease: %v, %+v", err, two.Status())
	}
	b.now = b.now.Add(time.Minute) // the first is gone
	if err := two.Advance(t.Context()); err != nil || two.Status().Size != 20 {
		t.Fatalf("the second replica did not take over: %v, %+v", err, two.Status())
	}
	// Both at once, time after time, with a lease that is always over: whoever swaps first signs.
	for range 20 {
		b.now = b.now.Add(time.Minute)
		b.write(t, 5, mine)
		errs := make(chan error, 2)
		for _, s := range []*ledger.Service{one, two} {
			go func() { errs <- s.Advance(context.Background()) }()
		}
		if err := errors.Join(<-errs, <-errs); err != nil {
			t.Fatal(err)
		}
	}
	b.now = b.now.Add(time.Minute)
	if err := one.Advance(t.Context()); err != nil {
		t.Fatal(err)
	}
	l, err := one.Log(as(all), 0)
	if err != nil || l.Signed != 120 {
		t.Fatalf("got %+v, %v", l, err)
	}
	if got, _ := root(t, one, as(all), 120); got != l.Root {
		t.Error("the signed root is not that of the entries")
	}
}

func changedIsNotSigned(t *testing.T, fresh func(t *testing.T) *bench) {
	for name, one := range map[string]struct {
		code   string
		tamper func(t *testing.T, b *bench)
	}{
		"an entry vanished before it was hashed": {"audit_log_broken", func(t *testing.T, b *bench) {
			b.write(t, 3, mine)
			b.tamper(t, "DELETE FROM audit_entries WHERE position = 402")
		}},
		"hashes were changed": {"audit_log_rolled_back", func(t *testing.T, b *bench) {
			b.write(t, 1, mine)
			b.tamper(t, "UPDATE audit_tiles SET hashes = (SELECT hashes FROM audit_tiles WHERE level = 0 AND number = 0) WHERE level = 1")
		}},
		"an older tree was put back": {"audit_log_rolled_back", func(t *testing.T, b *bench) {
			b.tamper(t, "DELETE FROM audit_tiles")
			b.tamper(t, "DELETE FROM audit_logs")
		}},
	} {
		t.Run(name, func(t *testing.T) {
			b := fresh(t)
			b.write(t, 400, mine)
			if err := b.service(1, "one").Advance(t.Context()); err != nil {
				t.Fatal(err)
			}
			signed := b.memory.note
			one.tamper(t, b)
			s := b.service(1, "one") // after a restart
			err := s.Advance(t.Context())
			if fault.Of(err).Code != one.code || s.Status().Halted == nil {
				t.Fatalf("got %v, want %s", err, one.code)
			}
			if b.memory.note != signed {
				t.Error("something was signed")
			}
		})
	}
}

func restored(t *testing.T, fresh func(t *testing.T) *bench) {
	b := fresh(t)
	b.write(t, 10, mine)
	if err := b.service(1, "one").Advance(t.Context()); err != nil {
		t.Fatal(err)
	}
	old := b.memory.note
	b.write(t, 5, mine) // in the backup, under no checkpoint
	b.now = b.now.Add(time.Minute)
	s := b.service(2, "one")
	if err := s.Advance(t.Context()); err != nil {
		t.Fatal(err)
	}
	l, err := s.Log(as(all), 0)
	if err != nil || l.Number != 2 || l.Began != 10 || l.Signed != 5 || l.Previous != old || !noun.Follows(l.Origin, old) {
		t.Fatalf("got %+v, %v", l, err)
	}
	before, err := s.Log(as(all), 1)
	if err != nil || before.Checkpoint != old {
		t.Fatalf("the old log is %+v, %v", before, err)
	}
	entries, err := b.db.View().EntriesFrom(t.Context(), 0, 100)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		p, err := s.Inclusion(as(all), e.ID)
		if err != nil {
			t.Fatal(err)
		}
		c, err := s.Key().Open(p.Log.Checkpoint)
		if err != nil || !noun.Includes(noun.LeafHash(p.Leaf), p.Index, c.Size, c.Root, p.Hashes) {
			t.Errorf("entry %d is not proved by log %d", e.Position, p.Log.Number)
		}
	}
	// A replica that did not hear of the restore signs nothing.
	if err := b.service(1, "late").Advance(t.Context()); err != nil {
		t.Fatal(err)
	}
	if again, _ := s.Log(as(all), 1); again.Signed != 10 {
		t.Errorf("the old log grew to %d", again.Signed)
	}
}

// staged is the key that lies ready.
type staged struct {
	next ed25519.PrivateKey
	fail error
	done int
}

func (s *staged) Next() (ed25519.PrivateKey, error) { return s.next, nil }

func (s *staged) Done() error {
	if s.fail == nil {
		s.next, s.done = nil, s.done+1
	}
	return s.fail
}

func keyRotated(t *testing.T, fresh func(t *testing.T) *bench) {
	b := fresh(t)
	ready := &staged{}
	service := func(key ed25519.PrivateKey, owner string, r ledger.Rotation) *ledger.Service {
		return ledger.NewService(storage.Bind[ledger.Reader, ledger.Tx](b.db), ledger.Options{
			Deployment: "dep_test", Epoch: 1, Key: key, Memory: b.memory, Rotation: r, Owner: owner, Now: func() time.Time { return b.now },
			Logger: slog.New(slog.DiscardHandler),
		})
	}
	one, other := service(b.key, "one", ready), service(b.key, "other", nil)
	advance := func(s *ledger.Service) {
		t.Helper()
		b.write(t, 3, mine)
		if err := s.Advance(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	advance(one)
	old := one.Key()
	l, err := one.Current(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	outside := l.Checkpoint
	_, next, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	// The next key cannot be put in its place: the handover is signed, and that is taken up at the next try, by a new start too.
	ready.next, ready.fail = next, errors.New("disk full")
	b.write(t, 3, mine)
	if err := one.Advance(t.Context()); err == nil {
		t.Fatal("it was rotated though the key could not be put in its place")
	}
	ready.fail = nil
	one = service(b.key, "one", ready)
	advance(one)
	if ready.done != 1 || one.Key().String() == old.String() {
		t.Fatalf("the key is %s, put in its place %d times", one.Key(), ready.done)
	}
	advance(one)
	l, err = one.Current(t.Context())
	if err != nil || len(l.Handovers) != 1 {
		t.Fatalf("got %v, %v: want one handover", l, err)
	}
	if old.Chain(l.Handovers).Last().String() != one.Key().String() {
		t.Error("the old key does not lead to the new one")
	}
	if _, err := old.Open(l.Checkpoint); err == nil {
		t.Error("the old key signs on")
	}
	c, err := old.Chain(l.Handovers).Open(l.Checkpoint)
	if err != nil {
		t.Fatal(err)
	}
	was, err := old.Open(outside)
	if err != nil {
		t.Fatal(err)
	}
	proof, err := one.Consistency(as(all), 0, was.Size, c.Size)
	if err == nil {
		err = noun.Compare(old.Chain(l.Handovers), outside, l.Checkpoint, proof)
	}
	if err != nil {
		t.Errorf("who holds the old key and an old checkpoint: %v", err)
	}
	entries, err := b.db.View().Entries(t.Context(), audit.Query{Readable: access.Everywhere(), Action: ledger.RotateKey})
	if err != nil || len(entries) != 1 || !strings.Contains(string(entries[0].After), one.Key().String()) {
		t.Errorf("the log says %v, %v of it", entries, err)
	}
	// A replica that does not have the new key signs nothing, and says why; with it, it goes on.
	b.now = b.now.Add(time.Hour)
	if err := other.Advance(t.Context()); fault.Of(err).Code != "audit_key_superseded" {
		t.Errorf("a replica with the old key: got %v", err)
	}
	advance(service(next, "other", nil))
	// A restored backup's log is followed across rotations as well.
	b.now = b.now.Add(time.Hour)
	later := ledger.NewService(storage.Bind[ledger.Reader, ledger.Tx](b.db), ledger.Options{
		Deployment: "dep_test", Epoch: 2, Key: next, Memory: b.memory, Owner: "one", Now: func() time.Time { return b.now }, Logger: slog.New(slog.DiscardHandler),
	})
	advance(later)
	l, err = later.Current(t.Context())
	if err != nil || l.Number != 2 || len(l.Handovers) != 1 {
		t.Errorf("the log after a restore: %v, %v", l, err)
	}
}

// While replicas are upgraded one by one, one that does not know all that entries say must not hash them.
func laterVersion(t *testing.T, fresh func(t *testing.T) *bench) {
	b := fresh(t)
	s := b.service(1, "one")
	b.write(t, 3, mine)
	if err := s.Advance(t.Context()); err != nil {
		t.Fatal(err)
	}
	before, err := s.Current(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	applied := "1"
	if strings.Contains(b.url, "://") {
		applied = "TRUE"
	}
	b.tamper(t, "INSERT INTO schema_versions (version_id, is_applied) VALUES (4711, "+applied+")")
	b.write(t, 3, mine)
	if err := s.Advance(t.Context()); err != nil {
		t.Errorf("got %v; want the log left to others, which is no failure", err)
	}
	if l, err := s.Current(t.Context()); err != nil || l.Size != before.Size || l.Signed != before.Signed {
		t.Errorf("%d entries were hashed and %d signed for, %v; want the %d from before", l.Size, l.Signed, err, before.Size)
	}
	b.tamper(t, "DELETE FROM schema_versions WHERE version_id = 4711")
	if err := s.Advance(t.Context()); err != nil {
		t.Fatal(err)
	}
	if l, err := s.Current(t.Context()); err != nil || l.Signed != before.Signed+3 {
		t.Errorf("of a version that is known: %d are signed for, %v", l.Signed, err)
	}
}

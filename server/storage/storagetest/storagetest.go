// Package storagetest is what every database behind package storage has to do, as tests, and a throw-away PostgreSQL to
// do it on.
//
// Run is the conformance suite: the same tests for SQLite and PostgreSQL. Each gets an empty database of its own, and
// some open it twice, since two replicas of the control plane do so as well. What only one of the databases can suffer
// (a full disk, a connection cut during COMMIT) is tested beside the code in package storage.
package storagetest

import (
	"context"
	"fmt"
	"log/slog"
	"sync/atomic"
	"testing"
	"time"

	"github.com/loopbackd/loopback/access"
	"github.com/loopbackd/loopback/audit"
	"github.com/loopbackd/loopback/host"
	"github.com/loopbackd/loopback/id"
	"github.com/loopbackd/loopback/label"
	"github.com/loopbackd/loopback/server/storage"
	"github.com/loopbackd/loopback/tenant"
	"github.com/loopbackd/loopback/token"
)

// Run tests a kind of database. newDatabase makes an empty one and returns its URL.
func Run(t *testing.T, newDatabase func(t testing.TB) string) {
	for _, group := range []struct {
		name  string
		tests []test
	}{
		{"writing", writing}, {"order", order}, {"nouns", nouns}, {"tree", tree}, {"hosts", hosts},
		{"lists", lists}, {"operations", operations}, {"execs", execs}, {"files", files}, {"saved commands", savedCommands}, {"replicas", replicas}, {"feed", changes}, {"audit", auditing}, {"keeping", keeping},
	} {
		t.Run(group.name, func(t *testing.T) {
			for _, test := range group.tests {
				t.Run(test.name, func(t *testing.T) {
					t.Parallel()
					test.run(t, newBench(t, newDatabase(t)))
				})
			}
		})
	}
}

type test struct {
	name string
	run  func(t *testing.T, b *bench)
}

// bench is a fresh database with a clock that only moves forward when it is told to.
type bench struct {
	URL string
	DB  *storage.DB

	clock atomic.Int64 // microseconds
	names atomic.Int64
}

var epoch = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func newBench(t *testing.T, url string) *bench {
	b := &bench{URL: url}
	b.clock.Store(epoch.UnixMicro())
	b.DB = b.open(t)
	return b
}

// open opens the database once more, as another replica would.
func (b *bench) open(t *testing.T) *storage.DB {
	t.Helper()
	db, err := storage.Open(t.Context(), storage.Options{URL: b.URL, Clock: b.now, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatalf("opening the database: %v", err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Errorf("closing the database: %v", err)
		}
	})
	return db
}

func (b *bench) now() time.Time { return time.UnixMicro(b.clock.Load()).UTC() }

func (b *bench) pass(d time.Duration) { b.clock.Add(d.Microseconds()) }

// everything is what may be read by who may read all.
var everything = access.Everywhere()

var system = access.Actor{Kind: access.System, ID: "test", Name: "test"}

// write runs a change with an audit entry, and fails the test with it.
func (b *bench) write(t testing.TB, change func(ctx context.Context, tx *storage.Tx) error) {
	t.Helper()
	ctx := context.Background()
	if err := b.DB.Write(ctx, func(tx *storage.Tx) error {
		if err := change(ctx, tx); err != nil {
			return err
		}
		return tx.Audit(ctx, audit.Of(system, "test.write", access.Scope{}, "", ""))
	}); err != nil {
		t.Fatalf("writing: %v", err)
	}
}

// label of a name that no other call returned.
func (b *bench) unique(prefix string) string { return fmt.Sprintf("%s-%d", prefix, b.names.Add(1)) }

func (b *bench) meta(kind string) tenant.Meta {
	return tenant.Meta{ID: id.New(kind, b.now()), Name: b.unique(kind)}
}

func (b *bench) organisation(t testing.TB) tenant.Organisation {
	t.Helper()
	o := tenant.Organisation{Meta: b.meta("org")}
	b.write(t, func(ctx context.Context, tx *storage.Tx) (err error) { o, err = tx.PutOrganisation(ctx, o); return })
	return o
}

func (b *bench) project(t testing.TB, o tenant.Organisation) tenant.Project {
	t.Helper()
	p := tenant.Project{Meta: b.meta("prj"), OrganisationID: o.ID}
	b.write(t, func(ctx context.Context, tx *storage.Tx) (err error) { p, err = tx.PutProject(ctx, p); return })
	return p
}

func (b *bench) workspaceIn(t testing.TB, p tenant.Project) tenant.Workspace {
	t.Helper()
	w := tenant.Workspace{Meta: b.meta("ws"), OrganisationID: p.OrganisationID, ProjectID: p.ID}
	b.write(t, func(ctx context.Context, tx *storage.Tx) (err error) { w, err = tx.PutWorkspace(ctx, w); return })
	return w
}

// workspace with all that is above it.
func (b *bench) workspace(t testing.TB) tenant.Workspace {
	t.Helper()
	return b.workspaceIn(t, b.project(t, b.organisation(t)))
}

func (b *bench) newHost(w tenant.Workspace) host.Host {
	return host.Host{Meta: b.meta("hst"), Scope: w.Scope(), Facts: host.Facts{Lifecycle: host.LifecycleActive},
		State: host.Managed, StateSince: b.now(), Key: []byte(b.unique("key"))}
}

func (b *bench) putHost(t testing.TB, h host.Host) host.Host {
	t.Helper()
	b.write(t, func(ctx context.Context, tx *storage.Tx) (err error) { h, err = tx.PutHost(ctx, h); return })
	return h
}

func (b *bench) host(t testing.TB, w tenant.Workspace, labels label.Set) host.Host {
	t.Helper()
	h := b.newHost(w)
	h.Labels = labels
	return b.putHost(t, h)
}

func (b *bench) token(t testing.TB, w tenant.Workspace, uses int32) token.Token {
	t.Helper()
	k := token.Token{Meta: b.meta("tok"), Scope: w.Scope(), MaxUses: uses, ExpiresAt: b.now().Add(time.Hour)}
	b.write(t, func(ctx context.Context, tx *storage.Tx) (err error) { k, err = tx.PutToken(ctx, k); return })
	return k
}

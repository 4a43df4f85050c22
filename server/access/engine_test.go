package access_test

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/loopbackd/loopback/access"
	"github.com/loopbackd/loopback/policy"
	"github.com/loopbackd/loopback/principal"
	engine "github.com/loopbackd/loopback/server/access"
	"github.com/loopbackd/loopback/server/feed"
	"github.com/loopbackd/loopback/server/storage"
	"github.com/loopbackd/loopback/tenant"
)

// replica is one engine on a database, with a clock, and a feed whose age is set.
type replica struct {
	db     *storage.DB
	policy *access.Policy
	engine *engine.Engine
	now    atomic.Int64 // seconds
	fresh  atomic.Pointer[time.Time]
}

func newReplica(t *testing.T) *replica {
	t.Helper()
	db, err := storage.Open(t.Context(), storage.Options{URL: filepath.Join(t.TempDir(), "loopback.db")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	r := &replica{db: db}
	r.now.Store(1_000_000)
	now := func() time.Time { return time.Unix(r.now.Load(), 0) }
	at := time.Now()
	r.fresh.Store(&at)
	r.policy = access.NewPolicy(access.NewCatalogue([]access.Permission{"hosts.read", "hosts.label"}, nil, nil), now)
	r.engine = engine.NewEngine(engine.Options{Store: storage.Bind[engine.Reader, any](db), Policy: r.policy, Now: now,
		Position: func() int64 { p, _ := db.Position(context.Background()); return p }, Fresh: func() time.Time { return *r.fresh.Load() },
		Logger: slog.New(slog.DiscardHandler)})
	return r
}

func (r *replica) write(t *testing.T, change func(ctx context.Context, tx *storage.Tx) error) []feed.Change {
	t.Helper()
	before, err := r.db.Position(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := r.db.Observe(t.Context(), func(tx *storage.Tx) error { return change(t.Context(), tx) }); err != nil {
		t.Fatal(err)
	}
	changes, err := r.db.Changes(t.Context(), before, 1000)
	if err != nil {
		t.Fatal(err)
	}
	return changes
}

func (r *replica) may(p access.Permission) bool {
	a := access.Actor{Kind: access.APIKey, Principal: "usr_a", Policy: r.policy, Grants: []access.Grant{{ID: "k", Permissions: []access.Permission{access.All}}}}
	return a.Decide(p, access.Scope{}).Allowed
}

// give makes a user who was given hosts.read by a role of its own.
func (r *replica) give(t *testing.T, b policy.Binding) []feed.Change {
	t.Helper()
	return r.write(t, func(ctx context.Context, tx *storage.Tx) error {
		_, e1 := tx.PutPrincipal(ctx, principal.Principal{Meta: tenant.Meta{ID: "usr_a", Name: "a"}, Kind: access.User})
		_, e2 := tx.PutRole(ctx, policy.Role{Meta: tenant.Meta{ID: "rol_r", Name: "r"}, Permissions: []access.Permission{"hosts.read"}})
		b.ID, b.Subject, b.RoleID = "bnd_b", access.Subject{Kind: access.User, ID: "usr_a"}, "rol_r"
		_, e3 := tx.PutBinding(ctx, b)
		return errors.Join(e1, e2, e3)
	})
}

func TestTheEngineFollowsWhatIsWritten(t *testing.T) {
	r := newReplica(t)
	if err := r.engine.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	apply := func(changes []feed.Change) {
		t.Helper()
		if err := r.engine.Apply(t.Context(), changes); err != nil {
			t.Fatal(err)
		}
		if got := r.policy.Version(); got != uint64(changes[len(changes)-1].Position) {
			t.Errorf("version %d, want %d", got, changes[len(changes)-1].Position)
		}
	}
	apply(r.give(t, policy.Binding{}))
	if !r.may("hosts.read") || r.may("hosts.label") {
		t.Error("a binding is not in force as it was written")
	}
	apply(r.write(t, func(ctx context.Context, tx *storage.Tx) error {
		_, err := tx.PutRole(ctx, policy.Role{Meta: tenant.Meta{ID: "rol_r", Name: "r"}, Permissions: []access.Permission{"hosts.label"}})
		return err
	}))
	if r.may("hosts.read") || !r.may("hosts.label") {
		t.Error("a role's change does not reach its bindings")
	}
	// By way of a group.
	apply(r.write(t, func(ctx context.Context, tx *storage.Tx) error {
		_, e1 := tx.PutGroup(ctx, principal.Group{Meta: tenant.Meta{ID: "grp_g", Name: "g"}, Members: []string{"usr_a"}})
		_, e2 := tx.PutBinding(ctx, policy.Binding{Meta: tenant.Meta{ID: "bnd_g"}, Subject: access.Subject{Kind: access.Group, ID: "grp_g"}, RoleID: policy.Owner})
		return errors.Join(e1, e2)
	}))
	if !r.may("hosts.read") {
		t.Error("a group's binding does not reach its members")
	}
	other := newReplica(t) // what is loaded anew is the same
	other.db.Close()
	again := engine.NewEngine(engine.Options{Store: storage.Bind[engine.Reader, any](r.db), Policy: other.policy, Now: time.Now, Position: func() int64 { return 9 }, Fresh: time.Now})
	if err := again.Load(t.Context()); err != nil || !other.may("hosts.read") {
		t.Errorf("loaded anew it differs: %v", err)
	}
	apply(r.write(t, func(ctx context.Context, tx *storage.Tx) error {
		return tx.DeleteGroup(ctx, principal.Group{Meta: tenant.Meta{ID: "grp_g"}})
	}))
	if r.may("hosts.read") {
		t.Error("a group that is gone still gives")
	}
	apply(r.write(t, func(ctx context.Context, tx *storage.Tx) error {
		return tx.DeleteBinding(ctx, policy.Binding{Meta: tenant.Meta{ID: "bnd_b"}})
	}))
	if r.may("hosts.label") {
		t.Error("a binding that is gone still gives")
	}
}

func TestABindingHoldsForItsTime(t *testing.T) {
	r := newReplica(t)
	start := time.Unix(r.now.Load(), 0)
	r.give(t, policy.Binding{NotBefore: start.Add(10 * time.Second), NotAfter: start.Add(20 * time.Second)})
	if err := r.engine.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		second int64
		want   bool
	}{{9, false}, {10, true}, {19, true}, {20, false}} {
		r.now.Store(start.Unix() + c.second)
		if got := r.may("hosts.read"); got != c.want {
			t.Errorf("after %d s: got %v, want %v", c.second, got, c.want)
		}
	}
}

// A replica that cannot hear of revocations allows nothing after the bound that is documented.
func TestAReplicaThatIsCutOffFailsClosed(t *testing.T) {
	r := newReplica(t)
	r.give(t, policy.Binding{})
	if err := r.engine.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	age := func(d time.Duration) {
		at := time.Now().Add(-d)
		r.fresh.Store(&at)
		r.engine.Check()
	}
	if age(engine.StaleAfter / 2); !r.may("hosts.read") {
		t.Error("closed too soon")
	}
	changed := r.policy.Changed()
	if age(engine.StaleAfter + time.Second); r.may("hosts.read") || !r.policy.Closed() {
		t.Error("it goes on by rules that nobody vouches for")
	}
	<-changed // streams are asked again
	if age(0); !r.may("hosts.read") {
		t.Error("it does not open again")
	}
}

func TestARevocationArrivesByTheFeed(t *testing.T) {
	r := newReplica(t)
	r.give(t, policy.Binding{})
	ctx, stop := context.WithCancel(t.Context())
	follower := feed.NewFollower(feed.Options{Source: r.db, Logger: slog.New(slog.DiscardHandler)})
	from, ready := follower.Subscribe(0), make(chan struct{})
	var running sync.WaitGroup
	running.Go(func() { follower.Run(ctx) })
	running.Go(func() { _ = r.engine.Follow(ctx, from, ready) }) // it ends with ctx, and says nothing else
	defer func() { stop(); running.Wait() }()
	<-ready
	changed := r.policy.Changed()
	r.write(t, func(ctx context.Context, tx *storage.Tx) error {
		return tx.DeleteBinding(ctx, policy.Binding{Meta: tenant.Meta{ID: "bnd_b"}})
	})
	<-changed // the whole way: commit, feed, snapshot
	if r.may("hosts.read") {
		t.Error("a revocation did not arrive")
	}
	r.give(t, policy.Binding{})
	r.policy.Reach(t.Context(), uint64(r.position(t)))
	if !r.may("hosts.read") {
		t.Error("a binding did not arrive")
	}
}

func (r *replica) position(t *testing.T) int64 {
	t.Helper()
	p, err := r.db.Position(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return p
}

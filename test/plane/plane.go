// Package plane is a control plane without a network, for tests of its slices: a real database, and the slices wired as
// the server wires them. In place of the hub stands a record of what the hub would have been told.
package plane

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"log/slog"
	"net/netip"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/loopbackd/loopback/access"
	"github.com/loopbackd/loopback/audit"
	"github.com/loopbackd/loopback/operation"
	"github.com/loopbackd/loopback/server/enrol"
	"github.com/loopbackd/loopback/server/feed"
	"github.com/loopbackd/loopback/server/fleet"
	"github.com/loopbackd/loopback/server/host"
	"github.com/loopbackd/loopback/server/link"
	operations "github.com/loopbackd/loopback/server/operation"
	"github.com/loopbackd/loopback/server/settings"
	"github.com/loopbackd/loopback/server/storage"
	"github.com/loopbackd/loopback/server/tenant"
	tokens "github.com/loopbackd/loopback/server/token"
	nouns "github.com/loopbackd/loopback/tenant"
	"github.com/loopbackd/loopback/token"
)

// Plane is a control plane.
type Plane struct {
	DB         *storage.DB
	Path       string
	Clock      *Clock
	Tenants    *tenant.Service
	Tokens     *tokens.Service
	Fleet      *fleet.Directory
	Hosts      *host.Service
	Work       *host.Work
	Restarts   *host.Restarts // set by whoever has modules restarted
	Enrolment  *enrol.Service
	Settings   *settings.Service
	Operations *operations.Service
	Worker     *operations.Worker
	Links      *Links

	Workspace, Other nouns.Workspace // acme/shop/prod and acme/shop/lab

	position int64
}

// Clock is a time that tests move.
type Clock struct {
	mu sync.Mutex
	at time.Time
}

// Now is the time.
func (c *Clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at
}

// Pass lets time go by.
func (c *Clock) Pass(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = c.at.Add(d)
}

// Links records what the hub would be told, and plays who is linked.
type Links struct {
	mu       sync.Mutex
	linked   map[string]bool
	changed  []string
	expelled map[string]int
}

// Changed implements fleet.Listener.
func (l *Links) Changed(ids []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.changed = append(l.changed, ids...)
}

// Expel implements fleet.Listener.
func (l *Links) Expel(ids []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, id := range ids {
		delete(l.linked, id)
		l.expelled[id]++
	}
}

// Seen implements host.Presence.
func (l *Links) Seen(id string) (time.Time, time.Duration, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return time.Time{}, 0, l.linked[id]
}

// Link makes a host linked.
func (l *Links) Link(id string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.linked[id] = true
}

// Told are the hosts that were to be looked at again since the last call, each once.
func (l *Links) Told() map[string]bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := map[string]bool{}
	for _, id := range l.changed {
		out[id] = true
	}
	l.changed = nil
	return out
}

// Expelled counts how often a host was expelled.
func (l *Links) Expelled(id string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.expelled[id]
}

// Admin holds every permission everywhere.
var Admin = access.GrantsAlone(access.Actor{Kind: access.APIKey, ID: "key_admin", Name: "admin", Grants: []access.Grant{{ID: "key_admin", Permissions: []access.Permission{access.All}}}})

// New makes a plane on an empty SQLite database, with organisation, project and two workspaces.
func New(t testing.TB) *Plane {
	t.Helper()
	return Open(t, filepath.Join(t.TempDir(), "loopback.db"))
}

// Open makes a plane on a database, as a start of the control plane does.
func Open(t testing.TB, path string) *Plane {
	t.Helper()
	ctx := t.Context()
	clock := &Clock{at: time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)}
	logger := slog.New(slog.DiscardHandler)
	db, err := storage.Open(ctx, storage.Options{URL: path, Clock: clock.Now, Logger: logger})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	p := &Plane{DB: db, Path: path, Clock: clock, Links: &Links{linked: map[string]bool{}, expelled: map[string]int{}}}
	p.Tenants = tenant.NewService(storage.Bind[tenant.Reader, tenant.Tx](db), token.DefaultLimits, clock.Now)
	p.Tokens = tokens.NewService(storage.Bind[tokens.Reader, tokens.Tx](db), p.Tenants, tokens.Options{
		Limits: token.DefaultLimits, Pepper: []byte("pepper"), Logger: logger, Now: clock.Now,
		Anchor:         func() [token.AnchorSize]byte { return [token.AnchorSize]byte{1} },
		InstallCommand: func(string) string { return "sh" },
	})
	p.Fleet = fleet.New(fleet.Options{Store: storage.Bind[fleet.Reader, fleet.Tx](db), Epoch: link.Epoch{Number: 1}, Now: clock.Now, Logger: logger})
	p.Fleet.Tell(p.Links)
	p.Hosts = host.NewService(storage.Bind[host.Reader, host.Tx](db), p.Tenants, p.Fleet, p.Links, clock.Now)
	p.Work = host.NewWork(p.Hosts, p.Links)
	p.Enrolment = enrol.NewService(storage.Bind[enrol.Reader, enrol.Tx](db), uses{p.Tokens}, p.Fleet, clock.Now)
	p.Settings = settings.NewService(storage.Bind[settings.Reader, settings.Tx](db), p.Tenants, p.Hosts, clock.Now)
	store := storage.Bind[operations.Reader, operations.Tx](db)
	p.Operations = operations.NewService(store, p.Tenants, clock.Now)
	p.Worker = operations.NewWorker(operations.Options{
		Store: store, Owner: "replica", Now: clock.Now, Logger: logger, Every: 20 * time.Millisecond,
		Handlers: map[operation.Kind]operations.Handler{
			operation.QuarantineHost: func(ctx context.Context, t *operations.Task) error { return p.Work.Quarantine(ctx, t) },
			operation.RemoveHost:     func(ctx context.Context, t *operations.Task) error { return p.Work.Remove(ctx, t) },
			operation.RestartModule:  func(ctx context.Context, t *operations.Task) error { return p.Restarts.Late(ctx, t) },
			operation.RevokeToken:    func(ctx context.Context, t *operations.Task) error { return p.Work.RevokeToken(ctx, t) },
		},
	})
	p.plant(t)
	p.position, err = db.Position(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Fleet.Load(ctx); err != nil {
		t.Fatal(err)
	}
	p.Links.Told()
	return p
}

func (p *Plane) plant(t testing.TB) {
	t.Helper()
	ctx := AsAdmin(t.Context())
	var err error
	if p.Workspace, err = p.Tenants.Workspace(ctx, "acme/shop/prod", nouns.WorkspacesRead); err == nil {
		p.Other, err = p.Tenants.Workspace(ctx, "acme/shop/lab", nouns.WorkspacesRead)
		if err != nil {
			t.Fatal(err)
		}
		return
	}
	if _, err := p.Tenants.CreateOrganisation(ctx, tenant.New{Name: "acme"}); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Tenants.CreateProject(ctx, "acme", tenant.New{Name: "shop"}); err != nil {
		t.Fatal(err)
	}
	for name, into := range map[string]*nouns.Workspace{"prod": &p.Workspace, "lab": &p.Other} {
		if *into, err = p.Tenants.CreateWorkspace(ctx, "acme/shop", tenant.New{Name: name}, nouns.TokenPolicy{}); err != nil {
			t.Fatal(err)
		}
	}
}

// AsAdmin lets the administrator act.
func AsAdmin(ctx context.Context) context.Context { return access.WithActor(ctx, Admin) }

// As lets somebody act who holds permissions at a scope.
func As(ctx context.Context, id string, at access.Scope, permissions ...access.Permission) context.Context {
	return access.WithActor(ctx, access.GrantsAlone(access.Actor{Kind: access.APIKey, ID: id, Name: id, Grants: []access.Grant{{ID: id, Permissions: permissions, Scope: at}}}))
}

// Follow applies what the feed holds.
func (p *Plane) Follow(t testing.TB) {
	t.Helper()
	for {
		list, err := p.DB.Changes(t.Context(), p.position, 500)
		if err != nil {
			t.Fatal(err)
		}
		if len(list) == 0 {
			return
		}
		if err := p.Fleet.Apply(t.Context(), list); err != nil {
			t.Fatal(err)
		}
		p.position = list[len(list)-1].Position
	}
}

// Run follows the feed and carries operations out until the test ends.
func (p *Plane) Run(t testing.TB) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	t.Cleanup(func() { cancel(); running.Wait() })
	follower := feed.NewFollower(feed.Options{Source: p.DB, Logger: slog.New(slog.DiscardHandler)})
	ready := make(chan struct{})
	hosts, waits, work := follower.Subscribe(0), follower.Subscribe(0), follower.Subscribe(0)
	running.Go(func() { follower.Run(ctx) })
	// They end with ctx, and say nothing else.
	running.Go(func() { _ = p.Fleet.Follow(ctx, hosts, ready) })
	running.Go(func() { _ = p.Fleet.Settle(ctx) })
	running.Go(func() { _ = p.Operations.Follow(ctx, waits) })
	running.Go(func() { _ = p.Worker.Follow(ctx, work) })
	running.Go(func() { _ = p.Worker.Run(ctx) })
	<-ready
}

// Key makes an identity key.
func Key() ed25519.PublicKey {
	k, _, _ := ed25519.GenerateKey(rand.Reader) // never fails: crypto/rand ends the process rather than return weak bytes
	return k
}

// Mint makes a token in the first workspace.
func (p *Plane) Mint(t testing.TB, r tokens.Request) tokens.Minted {
	t.Helper()
	if r.MaxUses == 0 {
		r.MaxUses = 10_000
	}
	m, err := p.Tokens.Mint(AsAdmin(t.Context()), p.Workspace.ID, r)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// Enrol makes a host of this name.
func (p *Plane) Enrol(t testing.TB, m tokens.Minted, name string) enrol.Request {
	t.Helper()
	r := enrol.Request{Token: m.Secret.Reveal(), Key: Key(), HostName: name, AgentVersion: "1.0.0", From: netip.MustParseAddr("192.0.2.7")}
	if _, err := p.Enrolment.Enrol(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	return r
}

// Entries are the audit entries of an action, newest first.
func (p *Plane) Entries(t testing.TB, action access.Permission) []audit.Entry {
	t.Helper()
	var out []audit.Entry
	q := audit.Query{Readable: access.Everywhere(), Action: action, Limit: 1000}
	for {
		page, err := p.DB.View().Entries(t.Context(), q)
		if err != nil {
			t.Fatal(err)
		}
		if out = append(out, page...); len(page) < q.Limit {
			return out
		}
		q.Before = page[len(page)-1].Position
	}
}

type uses struct{ service *tokens.Service }

func (u uses) Consume(ctx context.Context, tx enrol.Uses, presented token.Secret, from netip.Addr, hostName string, now time.Time) (token.Token, error) {
	return u.service.Consume(ctx, tx, presented, from, hostName, now)
}

func (u uses) Refused(ctx context.Context, presented token.Secret, from netip.Addr, hostName string, cause error) {
	u.service.Refused(ctx, presented, from, hostName, cause)
}

package rpc_test

import (
	"crypto/ed25519"
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/loopbackd/loopback/access"
	noun "github.com/loopbackd/loopback/apikey"
	"github.com/loopbackd/loopback/host"
	"github.com/loopbackd/loopback/id"
	"github.com/loopbackd/loopback/operation"
	"github.com/loopbackd/loopback/server/apikey"
	"github.com/loopbackd/loopback/server/audit"
	"github.com/loopbackd/loopback/server/feed"
	"github.com/loopbackd/loopback/server/install"
	"github.com/loopbackd/loopback/server/release"
	"github.com/loopbackd/loopback/server/rpc"
	"github.com/loopbackd/loopback/server/storage"
	"github.com/loopbackd/loopback/server/tenant"
	"github.com/loopbackd/loopback/server/token"
	place "github.com/loopbackd/loopback/tenant"
	"github.com/loopbackd/loopback/test/plane"
	"github.com/loopbackd/loopback/trust"
)

// marker is in every name and description of the foreign organisation, and nowhere else.
const marker = "zanzibar"

// world is a control plane on a real database, with two organisations that hold one of everything: a, which the insider
// must never learn of, and b, whose workspace they own.
type world struct {
	bench
	plane    *plane.Plane
	db       *storage.DB
	services rpc.Services
	doors    doors
	a, b     access.Scope
	foreign  map[string]map[string]string // by kind, then by form: id, name, path
	own      map[string]map[string]string
	unknown  map[string]map[string]string // of the same forms, and nothing has them
}

func newWorld(t *testing.T) *world {
	t.Helper()
	p := plane.New(t)
	now := p.Clock.Now
	w := &world{db: p.DB, doors: doors{}, plane: p}
	err := p.DB.Observe(t.Context(), func(tx *storage.Tx) error {
		return tx.PutDeployment(t.Context(), place.Deployment{ID: id.New("dep", now()), Epoch: 1})
	})
	if err != nil {
		t.Fatal(err)
	}
	keys := apikey.NewService(storage.Bind[apikey.Reader, apikey.Tx](p.DB), p.Tenants, apikey.Options{Pepper: []byte("pepper"), Known: rpc.Grantable(), Now: now})
	w.services = rpc.Services{
		Organisations: rpc.Organisations{Service: p.Tenants}, Projects: rpc.Projects{Service: p.Tenants}, Workspaces: rpc.Workspaces{Service: p.Tenants},
		Tokens: rpc.Tokens{Service: p.Tokens}, ApiKeys: rpc.ApiKeys{Service: keys},
		Sessions: rpc.Sessions{Service: keys, Deployment: "dep_test", Version: "0.0.0"},
		Audit:    rpc.Audit{Service: audit.NewService(storage.Bind[audit.Reader, any](p.DB), p.Tenants)},
		Hosts:    rpc.Hosts{Service: p.Hosts}, Settings: rpc.Settings{Service: p.Settings}, Operations: rpc.Operations{Service: p.Operations},
		Releases: catalogue(t, p),
	}
	w.holder(t, "administrator", access.Scope{})
	w.a, w.foreign = w.populate(t, marker)
	w.b, w.own = w.populate(t, "harbour")
	w.holder(t, "insider", w.b)
	w.unknown = map[string]map[string]string{}
	for kind, forms := range w.foreign {
		w.unknown[kind] = map[string]string{}
		for form, ref := range forms {
			if form == "id" {
				prefix, _, _ := strings.Cut(ref, "_")
				w.unknown[kind][form] = id.New(prefix, w.plane.Clock.Now())
			} else {
				w.unknown[kind][form] = strings.ReplaceAll(ref, marker, "atlantis")
			}
		}
	}
	p.Follow(t)
	w.bench = serve(t, w.services, w.doors, 0)
	return w
}

// holder makes a key that holds everything over a scope, and lets its holder in.
func (w *world) holder(t *testing.T, name string, at access.Scope) {
	t.Helper()
	k := noun.Key{Meta: place.Meta{ID: id.New("key", w.plane.Clock.Now()), Name: name}, Scope: at, Permissions: []access.Permission{access.All}, ExpiresAt: w.plane.Clock.Now().Add(time.Hour)}
	err := w.db.Observe(t.Context(), func(tx *storage.Tx) error { _, err := tx.PutKey(t.Context(), k); return err })
	if err != nil {
		t.Fatal(err)
	}
	w.doors[name] = k.Actor()
}

// populate makes an organisation with one of everything, and says how each is called.
func (w *world) populate(t *testing.T, name string) (access.Scope, map[string]map[string]string) {
	t.Helper()
	ctx := access.WithActor(t.Context(), w.doors["administrator"])
	try := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	n := tenant.New{Name: name, Description: name}
	o, err := w.plane.Tenants.CreateOrganisation(ctx, n)
	try(err)
	p, err := w.plane.Tenants.CreateProject(ctx, o.ID, n)
	try(err)
	ws, err := w.plane.Tenants.CreateWorkspace(ctx, p.ID, n, place.TokenPolicy{})
	try(err)
	minted, err := w.plane.Tokens.Mint(ctx, ws.ID, token.Request{Name: name, Description: name})
	try(err)
	at := ws.Scope()
	key := noun.Key{Meta: place.Meta{ID: id.New("key", w.plane.Clock.Now()), Name: name}, Description: name, Scope: at, ExpiresAt: w.plane.Clock.Now().Add(time.Hour),
		Permissions: []access.Permission{access.All}}
	machine := host.Host{Meta: place.Meta{ID: id.New("hst", w.plane.Clock.Now()), Name: name}, Scope: at, Facts: host.Facts{Lifecycle: host.LifecyclePending},
		State: host.Pending, StateReason: name}
	op := operation.Operation{Meta: place.Meta{ID: id.New("op", w.plane.Clock.Now()), Name: string(operation.RemoveHost)}, Kind: operation.RemoveHost, Scope: at,
		Target: machine.ID, State: operation.Pending, Input: []byte(`{}`), Actor: name, RequestID: name}
	try(w.db.Observe(t.Context(), func(tx *storage.Tx) error {
		if _, err := tx.PutKey(t.Context(), key); err != nil {
			return err
		}
		if _, err := tx.PutHost(t.Context(), machine); err != nil {
			return err
		}
		_, err := tx.PutOperation(t.Context(), op)
		return err
	}))
	return at, map[string]map[string]string{
		"organisation": {"id": o.ID, "name": name},
		"project":      {"id": p.ID, "name": name, "path": name + "/" + name},
		"workspace":    {"id": ws.ID, "name": name, "path": name + "/" + name + "/" + name},
		"token":        {"id": minted.Token.ID, "name": name},
		"host":         {"id": machine.ID, "name": name},
		"operation":    {"id": op.ID},
		"key":          {"id": key.ID},
	}
}

// catalogue is an empty one.
func catalogue(t *testing.T, p *plane.Plane) rpc.Releases {
	t.Helper()
	blobs, err := release.NewFolder(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	_, snapshot, e1 := ed25519.GenerateKey(nil)
	_, timestamp, e2 := ed25519.GenerateKey(nil)
	releases, e3 := release.New(t.Context(), release.Options{
		Blobs: blobs, Store: storage.Bind[release.Reader, release.Tx](p.DB), SnapshotKey: snapshot, TimestampKey: timestamp, Clock: p.Clock.Now,
	})
	installer, e4 := install.New(install.Options{
		URL: "https://loopback.example:8443", Anchor: func() (a trust.AnchorHash) { return a }, Releases: releases,
	})
	if err := errors.Join(e1, e2, e3, e4); err != nil {
		t.Fatal(err)
	}
	return rpc.Releases{Service: releases, Install: installer}
}

// mustServe ends the test of a method that has no service behind it here.
func (w *world) mustServe(t *testing.T, m rpc.Method) {
	t.Helper()
	name := string(m.Descriptor.Parent().Name())
	switch f := reflect.ValueOf(w.services).FieldByName(strings.TrimSuffix(name, "Service") + "s"); {
	case f.IsValid() && !f.IsNil(), name == "AuditService" && w.services.Audit != nil, name == "SettingsService" && w.services.Settings != nil:
	default:
		t.Fatalf("%s is not served by this test's control plane: give it a service in newWorld", name)
	}
}

// changes are all that ever happened.
func (w *world) changes(t *testing.T) []feed.Change {
	t.Helper()
	all, err := w.db.Changes(t.Context(), 0, 100_000)
	if err != nil {
		t.Fatal(err)
	}
	return all
}

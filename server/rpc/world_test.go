package rpc_test

import (
	"path/filepath"
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
	"github.com/loopbackd/loopback/server/rpc"
	"github.com/loopbackd/loopback/server/storage"
	"github.com/loopbackd/loopback/server/tenant"
	"github.com/loopbackd/loopback/server/token"
	place "github.com/loopbackd/loopback/tenant"
	limits "github.com/loopbackd/loopback/token"
)

// marker is in every name and description of the foreign organisation, and nowhere else.
const marker = "zanzibar"

// world is a control plane on a real database, with two organisations that hold one of everything: a, which the insider
// must never learn of, and b, whose workspace they own.
type world struct {
	bench
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
	db, err := storage.Open(t.Context(), storage.Options{URL: filepath.Join(t.TempDir(), "loopback.db")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	w := &world{db: db, doors: doors{}}
	err = db.Observe(t.Context(), func(tx *storage.Tx) error {
		_, err := tx.PutDeployment(t.Context(), place.Deployment{ID: id.New("dep", time.Now()), Epoch: 1})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	tenants := tenant.NewService(storage.Bind[tenant.Reader, tenant.Tx](db), limits.DefaultLimits, time.Now)
	tokens := token.NewService(storage.Bind[token.Reader, token.Tx](db), tenants, token.Options{
		Limits: limits.DefaultLimits, Pepper: []byte("pepper"), Anchor: func() (a [limits.AnchorSize]byte) { return a },
		InstallCommand: func(string) string { return "install" }, Now: time.Now,
	})
	keys := apikey.NewService(storage.Bind[apikey.Reader, apikey.Tx](db), tenants, apikey.Options{Pepper: []byte("pepper"), Known: rpc.Grantable(), Now: time.Now})
	w.services = rpc.Services{
		Organisations: rpc.Organisations{Service: tenants}, Projects: rpc.Projects{Service: tenants}, Workspaces: rpc.Workspaces{Service: tenants},
		Tokens: rpc.Tokens{Service: tokens}, ApiKeys: rpc.ApiKeys{Service: keys},
		Sessions: rpc.Sessions{Service: keys, Deployment: "dep_test", Version: "0.0.0"},
		Audit:    rpc.Audit{Service: audit.NewService(storage.Bind[audit.Reader, any](db), tenants)},
	}
	w.holder(t, "administrator", access.Scope{})
	w.a, w.foreign = w.populate(t, marker, tenants, tokens, keys)
	w.b, w.own = w.populate(t, "harbour", tenants, tokens, keys)
	w.holder(t, "insider", w.b)
	w.unknown = map[string]map[string]string{}
	for kind, forms := range w.foreign {
		w.unknown[kind] = map[string]string{}
		for form, ref := range forms {
			if form == "id" {
				prefix, _, _ := strings.Cut(ref, "_")
				w.unknown[kind][form] = id.New(prefix, time.Now())
			} else {
				w.unknown[kind][form] = strings.ReplaceAll(ref, marker, "atlantis")
			}
		}
	}
	w.bench = serve(t, w.services, w.doors, 0)
	return w
}

// holder makes a key that holds everything over a scope, and lets its holder in.
func (w *world) holder(t *testing.T, name string, at access.Scope) {
	t.Helper()
	k := noun.Key{Meta: place.Meta{ID: id.New("key", time.Now()), Name: name}, Scope: at, Permissions: []access.Permission{access.All}, ExpiresAt: time.Now().Add(time.Hour)}
	err := w.db.Observe(t.Context(), func(tx *storage.Tx) error { _, err := tx.PutKey(t.Context(), k); return err })
	if err != nil {
		t.Fatal(err)
	}
	w.doors[name] = k.Actor()
}

// populate makes an organisation with one of everything, and says how each is called.
func (w *world) populate(t *testing.T, name string, tenants *tenant.Service, tokens *token.Service, keys *apikey.Service) (access.Scope, map[string]map[string]string) {
	t.Helper()
	ctx := access.WithActor(t.Context(), w.doors["administrator"])
	try := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	n := tenant.New{Name: name, Description: name}
	o, err := tenants.CreateOrganisation(ctx, n)
	try(err)
	p, err := tenants.CreateProject(ctx, o.ID, n)
	try(err)
	ws, err := tenants.CreateWorkspace(ctx, p.ID, n, place.TokenPolicy{})
	try(err)
	minted, err := tokens.Mint(ctx, ws.ID, token.Request{Name: name, Description: name})
	try(err)
	at := ws.Scope()
	key := noun.Key{Meta: place.Meta{ID: id.New("key", time.Now()), Name: name}, Description: name, Scope: at, ExpiresAt: time.Now().Add(time.Hour),
		Permissions: []access.Permission{access.All}}
	machine := host.Host{Meta: place.Meta{ID: id.New("hst", time.Now()), Name: name}, Scope: at, Facts: host.Facts{Lifecycle: host.LifecyclePending},
		State: host.Pending, StateReason: name}
	op := operation.Operation{Meta: place.Meta{ID: id.New("op", time.Now()), Name: string(operation.RemoveHost)}, Kind: operation.RemoveHost, Scope: at,
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

// serves tells whether a method has a service behind it here.
func (w *world) serves(m rpc.Method) bool {
	s := w.services
	return map[string]bool{
		"ApiKeyService": s.ApiKeys != nil, "AuditService": s.Audit != nil, "HostService": s.Hosts != nil, "OperationService": s.Operations != nil,
		"OrganisationService": s.Organisations != nil, "ProjectService": s.Projects != nil, "ReleaseService": s.Releases != nil,
		"SessionService": s.Sessions != nil, "SettingsService": s.Settings != nil, "TokenService": s.Tokens != nil, "WorkspaceService": s.Workspaces != nil,
	}[string(m.Descriptor.Parent().Name())]
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

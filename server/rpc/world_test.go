package rpc_test

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"log/slog"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/loopbackd/loopback/access"
	noun "github.com/loopbackd/loopback/apikey"
	act "github.com/loopbackd/loopback/audit"
	saved "github.com/loopbackd/loopback/command"
	ran "github.com/loopbackd/loopback/exec"
	"github.com/loopbackd/loopback/fault"
	carried "github.com/loopbackd/loopback/file"
	lent "github.com/loopbackd/loopback/grant"
	visitor "github.com/loopbackd/loopback/guest"
	"github.com/loopbackd/loopback/host"
	"github.com/loopbackd/loopback/id"
	invited "github.com/loopbackd/loopback/invitation"
	barred "github.com/loopbackd/loopback/lock"
	"github.com/loopbackd/loopback/operation"
	keypair "github.com/loopbackd/loopback/passkey"
	written "github.com/loopbackd/loopback/policy"
	person "github.com/loopbackd/loopback/principal"
	issuer "github.com/loopbackd/loopback/provider"
	process "github.com/loopbackd/loopback/replica"
	looked "github.com/loopbackd/loopback/review"
	questions "github.com/loopbackd/loopback/server/access"
	"github.com/loopbackd/loopback/server/apikey"
	"github.com/loopbackd/loopback/server/audit"
	"github.com/loopbackd/loopback/server/change"
	"github.com/loopbackd/loopback/server/command"
	"github.com/loopbackd/loopback/server/exec"
	"github.com/loopbackd/loopback/server/feed"
	files "github.com/loopbackd/loopback/server/file"
	"github.com/loopbackd/loopback/server/fleet"
	"github.com/loopbackd/loopback/server/grant"
	"github.com/loopbackd/loopback/server/guest"
	machines "github.com/loopbackd/loopback/server/host"
	"github.com/loopbackd/loopback/server/install"
	"github.com/loopbackd/loopback/server/invitation"
	"github.com/loopbackd/loopback/server/ledger"
	"github.com/loopbackd/loopback/server/lock"
	"github.com/loopbackd/loopback/server/passkey"
	"github.com/loopbackd/loopback/server/policy"
	"github.com/loopbackd/loopback/server/principal"
	"github.com/loopbackd/loopback/server/provider"
	"github.com/loopbackd/loopback/server/release"
	"github.com/loopbackd/loopback/server/replica"
	"github.com/loopbackd/loopback/server/review"
	"github.com/loopbackd/loopback/server/rpc"
	"github.com/loopbackd/loopback/server/sessionreview"
	"github.com/loopbackd/loopback/server/shell"
	"github.com/loopbackd/loopback/server/signin"
	"github.com/loopbackd/loopback/server/sink"
	"github.com/loopbackd/loopback/server/storage"
	"github.com/loopbackd/loopback/server/tenant"
	"github.com/loopbackd/loopback/server/token"
	"github.com/loopbackd/loopback/server/witness"
	looks "github.com/loopbackd/loopback/sessionreview"
	held "github.com/loopbackd/loopback/shell"
	visit "github.com/loopbackd/loopback/signin"
	drain "github.com/loopbackd/loopback/sink"
	"github.com/loopbackd/loopback/stream"
	place "github.com/loopbackd/loopback/tenant"
	"github.com/loopbackd/loopback/test/plane"
	"github.com/loopbackd/loopback/trust"
	remembered "github.com/loopbackd/loopback/witness"
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
	rules := access.NewPolicy(rpc.Catalogue(), now)
	people := principal.NewService(storage.Bind[principal.Reader, principal.Tx](p.DB), p.Tenants, now)
	policies := policy.NewService(storage.Bind[policy.Reader, policy.Tx](p.DB), p.Tenants, people, rules.Catalogue(), now)
	engine := questions.NewEngine(questions.Options{Store: storage.Bind[questions.Reader, any](p.DB), Policy: rules, Now: now, Logger: slog.New(slog.DiscardHandler),
		Position: func() int64 { return 0 }, Fresh: time.Now})
	keys := apikey.NewService(storage.Bind[apikey.Reader, apikey.Tx](p.DB), p.Tenants, apikey.Options{Principals: people, Pepper: []byte("pepper"), Known: rpc.Grantable(), Now: now})
	entries := signin.NewService(storage.Bind[signin.Reader, signin.Tx](p.DB), signin.Options{Keys: keys, Users: people, Pepper: []byte("pepper"),
		Idle: time.Hour, Max: time.Hour, Now: now})
	loans := grants(t, p, policies, people, rules)
	idps, err := provider.NewService(storage.Bind[provider.Reader, provider.Tx](p.DB), p.Tenants, people, provider.Options{PublicURL: "https://loopback.example", Seal: make([]byte, 32), Now: now})
	if err != nil {
		t.Fatal(err)
	}
	pairs, err := passkey.NewService(storage.Bind[passkey.Reader, passkey.Tx](p.DB), passkey.Options{PublicURL: "https://loopback.example", Users: people, Seal: make([]byte, 32), Now: now})
	if err != nil {
		t.Fatal(err)
	}
	runs := exec.NewService(storage.Bind[exec.Reader, exec.Tx](p.DB), p.Tenants, p.Hosts, p.Fleet, unlinked{}, unlinked{}, exec.Options{Policy: rules, Replica: "here", Now: now, Logger: slog.New(slog.DiscardHandler)})
	w.services = rpc.Services{
		Passkeys: rpc.Passkeys{Service: pairs},
		Invitations: rpc.Invitations{Service: invitation.NewService(storage.Bind[invitation.Reader, invitation.Tx](p.DB), people, []byte("pepper"), now), Passkeys: pairs, Now: now,
			Refused: func(_ context.Context, _ string, err error) error { return err }},
		Organisations: rpc.Organisations{Service: p.Tenants}, Projects: rpc.Projects{Service: p.Tenants}, Workspaces: rpc.Workspaces{Service: p.Tenants},
		Tokens: rpc.Tokens{Service: p.Tokens}, ApiKeys: rpc.ApiKeys{Service: keys},
		SignIns: rpc.SignIns{Service: entries, Providers: idps}, Providers: rpc.Providers{Service: idps},
		Sessions: rpc.Sessions{Service: keys, SignIns: entries, Deployment: "dep_test", Version: "0.0.0"},
		Audit: rpc.Audit{Service: audit.NewService(storage.Bind[audit.Reader, any](p.DB), p.Tenants), Ledger: signed(t, p),
			Retention: audit.NewRetention(storage.Bind[audit.KeepReader, audit.KeepTx](p.DB), p.Tenants, p.Clock.Now, slog.New(slog.DiscardHandler)), Witnesses: remembering(p)},
		Hosts: rpc.Hosts{Service: p.Hosts}, Settings: rpc.Settings{Service: p.Settings}, Operations: rpc.Operations{Service: p.Operations},
		Releases: catalogue(t, p), Replicas: rpc.Replicas{Service: members(t, p)}, Sinks: rpc.Sinks{Service: sinks(t, p)},
		AccessReviews: rpc.AccessReviews{Service: review.NewService(storage.Bind[review.Reader, review.Tx](p.DB), places{policies}, now, slog.New(slog.DiscardHandler))},
		Locks: rpc.Locks{Service: lock.NewService(storage.Bind[lock.Reader, lock.Tx](p.DB), lock.Options{Places: places{policies}, Subjects: people, Roles: policies, Hosts: p.Hosts,
			Policy: rules, Now: now, Logger: slog.New(slog.DiscardHandler)})},
		SessionReviews: rpc.SessionReviews{Service: sessionReviews(t, p, policies)},
		Changes:        rpc.Changes{Service: change.NewService(rpc.Grantable())},
		Grants:         rpc.Grants{Service: loans}, GrantPolicies: rpc.GrantPolicies{Service: loans},
		Users: rpc.Users{Service: people}, ServiceAccounts: rpc.ServiceAccounts{Service: people}, Groups: rpc.Groups{Service: people},
		Execs: rpc.Execs{Service: runs}, Commands: rpc.Commands{Service: command.NewService(storage.Bind[command.Reader, command.Tx](p.DB), p.Tenants, startAs{runs}, now)},
		Files:  rpc.Files{Service: files.NewService(storage.Bind[files.Reader, files.Tx](p.DB), p.Tenants, p.Hosts, p.Fleet, unlinkedFiles{}, unlinkedFiles{}, files.Options{Policy: rules, Replica: "here", Now: now, Logger: slog.New(slog.DiscardHandler)})},
		Shells: rpc.Shells{Service: shells(t, p, policies, rules)},
		Guests: rpc.Guests{Service: guest.NewService(storage.Bind[guest.Reader, guest.Tx](p.DB), p.Fleet, guest.Options{Policy: rules, Keys: keys, Pepper: []byte("pepper"), Now: now, Logger: slog.New(slog.DiscardHandler)})},
		Roles:  rpc.Roles{Service: policies}, Bindings: rpc.Bindings{Service: policies},
		Access: rpc.Access{Policies: policies, Service: questions.NewService(engine, places{policies}, people, hosts{p.Hosts, p.Fleet})},
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
	if err := w.services.Audit.(rpc.Audit).Ledger.Advance(t.Context()); err != nil {
		t.Fatal(err)
	}
	p.Follow(t)
	if err := engine.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.bench = serve(t, w.services, w.doors, 0)
	return w
}

// holder makes a key that holds everything over a scope, and lets its holder in.
func (w *world) holder(t *testing.T, name string, at access.Scope) {
	t.Helper()
	k := noun.Key{Meta: place.Meta{ID: id.New("key", w.plane.Clock.Now()), Name: name}, Scope: at, Permissions: append([]access.Permission{access.All}, access.TierZero()...), ExpiresAt: w.plane.Clock.Now().Add(time.Hour)}
	err := w.db.Observe(t.Context(), func(tx *storage.Tx) error { _, err := tx.PutKey(t.Context(), k); return err })
	if err != nil {
		t.Fatal(err)
	}
	w.doors[name] = access.GrantsAlone(k.Actor())
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
	o1 := access.Scope{Organisation: o.ID}
	user := person.Principal{Meta: place.Meta{ID: id.New("usr", w.plane.Clock.Now()), Name: name}, Kind: access.User, Scope: o1, Description: name}
	account := person.Principal{Meta: place.Meta{ID: id.New("sa", w.plane.Clock.Now()), Name: name}, Kind: access.ServiceAccount, Scope: o1, Description: name}
	group := person.Group{Meta: place.Meta{ID: id.New("grp", w.plane.Clock.Now()), Name: name}, Scope: o1, Description: name, Members: []string{user.ID}}
	role := written.Role{Meta: place.Meta{ID: id.New("rol", w.plane.Clock.Now()), Name: name}, Scope: o1, Description: name, Permissions: []access.Permission{"hosts.read"}}
	binding := written.Binding{Meta: place.Meta{ID: id.New("bnd", w.plane.Clock.Now())}, Scope: at, Description: name, Subject: user.Subject(), RoleID: role.ID}
	receiver := drain.Sink{Meta: place.Meta{ID: id.New("snk", w.plane.Clock.Now()), Name: name}, Organisation: at.Organisation, Kind: drain.Webhook, Target: "https://siem.example", Format: drain.JSON}
	letter := invited.Invitation{Meta: place.Meta{ID: id.New("inv", w.plane.Clock.Now()), Name: name}, Scope: o1, UserID: user.ID, ExpiresAt: w.plane.Clock.Now().Add(time.Hour)}
	pair := keypair.Passkey{Meta: place.Meta{ID: id.New("psk", w.plane.Clock.Now()), Name: name}, Scope: o1, UserID: user.ID, CredentialID: []byte(name), PublicKey: []byte{}}
	stay := visit.SignIn{Meta: place.Meta{ID: id.New("sgn", w.plane.Clock.Now()), Name: name}, Scope: o1, UserID: user.ID, Method: visit.OIDC, Agent: name,
		ExpiresAt: w.plane.Clock.Now().Add(time.Hour), Idle: time.Hour, LastUsedAt: w.plane.Clock.Now()}
	offer := lent.Policy{Meta: place.Meta{ID: id.New("gpo", w.plane.Clock.Now()), Name: name}, Scope: at, Description: name, RoleID: role.ID, Terms: lent.Terms{Approvals: 1, MaxDuration: time.Hour, Wait: time.Hour}}
	loan := lent.Grant{Meta: place.Meta{ID: id.New("gnt", w.plane.Clock.Now())}, Scope: at, Subject: user.Subject(), Who: name, RoleID: role.ID, RoleName: name, Duration: time.Hour,
		Reason: name, PolicyID: offer.ID, Terms: offer.Terms, State: lent.Pending, ExpiresAt: w.plane.Clock.Now().Add(time.Hour)}
	login := issuer.Provider{Meta: place.Meta{ID: id.New("idp", w.plane.Clock.Now()), Name: name}, Issuer: "https://" + name + ".example", ClientID: name, Disabled: true} // those that are not are shown to anybody
	look := looked.Review{Meta: place.Meta{ID: id.New("rvw", w.plane.Clock.Now()), Name: name}, Scope: at, Description: name, State: looked.Open, DueAt: w.plane.Clock.Now().Add(time.Hour),
		Counts: map[looked.Verdict]int{looked.Unasked: 1}}
	seen := looked.Item{ReviewID: look.ID, BindingID: binding.ID, Scope: at, Subject: user.Subject(), Who: name, RoleID: role.ID, RoleName: name, Verdict: looked.Unasked}
	bar := barred.Lock{Meta: place.Meta{ID: id.New("lck", w.plane.Clock.Now()), Name: name}, Scope: at, Target: barred.Target{Kind: barred.Host, ID: machine.ID, Name: name}, Reason: name, State: barred.Active}
	watched := looks.Policy{Meta: place.Meta{ID: id.New("srp", w.plane.Clock.Now())}, Scope: at, By: name, Within: time.Hour}
	session := held.Session{Meta: place.Meta{ID: id.New("ses", w.plane.Clock.Now()), Name: name}, Scope: at, HostID: machine.ID, HostName: name, Principal: user.ID, Who: name,
		Reason: name, State: held.Ended, EndReason: name, Replica: "here"}
	looker := visitor.Guest{Meta: place.Meta{ID: id.New("gst", w.plane.Clock.Now()), Name: name}, Scope: at, SessionID: session.ID, HostID: machine.ID, HostName: name,
		Inviter: visitor.Inviter{Principal: user.ID, Name: name, Reason: name}, ExpiresAt: w.plane.Clock.Now().Add(time.Hour)}
	run := ran.Run{Meta: place.Meta{ID: id.New("exe", w.plane.Clock.Now()), Name: name}, Scope: at, Command: ran.Command{Arguments: []string{name}}, State: ran.Succeeded}
	moved := carried.Transfer{Meta: place.Meta{ID: id.New("file", w.plane.Clock.Now()), Name: "/" + name}, Scope: at, HostID: machine.ID, HostName: name,
		Task: carried.Task{Kind: carried.ToHost, Path: "/" + name}, State: carried.Succeeded}
	script := saved.Saved{Meta: place.Meta{ID: id.New("cmd", w.plane.Clock.Now()), Name: name}, Scope: at, Version: 1, Command: ran.Command{Arguments: []string{name}}, State: saved.Pending, By: user.ID}
	entry := act.Entry{ID: id.New("aud", w.plane.Clock.Now()), Scope: at, Action: host.Label, Target: machine.ID, Name: name}
	try(w.db.Observe(t.Context(), func(tx *storage.Tx) error {
		_, e1 := tx.PutPrincipal(t.Context(), user)
		_, e2 := tx.PutPrincipal(t.Context(), account)
		_, e3 := tx.PutGroup(t.Context(), group)
		_, e4 := tx.PutRole(t.Context(), role)
		_, e5 := tx.PutBinding(t.Context(), binding)
		if err := errors.Join(e1, e2, e3, e4, e5); err != nil {
			return err
		}
		if _, err := tx.PutKey(t.Context(), key); err != nil {
			return err
		}
		if _, err := tx.PutHost(t.Context(), machine); err != nil {
			return err
		}
		if err := tx.Audit(t.Context(), entry); err != nil {
			return err
		}
		if _, err := tx.PutSink(t.Context(), receiver); err != nil {
			return err
		}
		if _, err := tx.PutProvider(t.Context(), login); err != nil {
			return err
		}
		sum := sha256.Sum256([]byte(login.Issuer + "\x00s-1"))
		if _, err := tx.PutIdentity(t.Context(), issuer.Identity{Meta: place.Meta{ID: "idn_" + hex.EncodeToString(sum[:16])}, ProviderID: login.ID, Issuer: login.Issuer, Subject: "s-1", UserID: user.ID}); err != nil {
			return err
		}
		if _, err := tx.PutSignIn(t.Context(), stay); err != nil {
			return err
		}
		if _, err := tx.PutInvitation(t.Context(), letter); err != nil {
			return err
		}
		if _, err := tx.PutPasskey(t.Context(), pair); err != nil {
			return err
		}
		if _, err := tx.PutGrantPolicy(t.Context(), offer); err != nil {
			return err
		}
		if _, err := tx.PutGrant(t.Context(), loan); err != nil {
			return err
		}
		if _, err := tx.PutReview(t.Context(), look); err != nil {
			return err
		}
		if err := tx.PutReviewItem(t.Context(), seen); err != nil {
			return err
		}
		if _, err := tx.PutLock(t.Context(), bar); err != nil {
			return err
		}
		if _, err := tx.PutSessionReviewPolicy(t.Context(), watched); err != nil {
			return err
		}
		if _, err := tx.PutSessionReview(t.Context(), looks.Review{Meta: place.Meta{ID: looks.ID(session.ID)}, Scope: at, SessionID: session.ID, HostName: name, Principal: user.ID, Who: name, Reason: name, State: looks.Open}); err != nil {
			return err
		}
		if _, err := tx.PutShellSession(t.Context(), session); err != nil {
			return err
		}
		if err := tx.PutRecordingRetention(t.Context(), held.Retention{Scope: at, KeepDays: 400, Reason: name, By: name}); err != nil {
			return err
		}
		if _, err := tx.PutGuest(t.Context(), looker); err != nil {
			return err
		}
		if _, err := tx.PutSavedCommand(t.Context(), script); err != nil {
			return err
		}
		if _, err := tx.PutExec(t.Context(), run); err != nil {
			return err
		}
		if _, err := tx.PutFileTransfer(t.Context(), moved); err != nil {
			return err
		}
		if _, err := tx.PutWitness(t.Context(), remembered.Stored{HostID: machine.ID, Scope: at, Log: 1, Size: 1, Step: remembered.Step{Key: "k", Checkpoint: "c"}}); err != nil {
			return err
		}
		_, err := tx.PutOperation(t.Context(), op)
		return err
	}))
	return at, map[string]map[string]string{
		"organisation":   {"id": o.ID, "name": name},
		"project":        {"id": p.ID, "name": name, "path": name + "/" + name},
		"workspace":      {"id": ws.ID, "name": name, "path": name + "/" + name + "/" + name},
		"token":          {"id": minted.Token.ID, "name": name},
		"host":           {"id": machine.ID, "name": name},
		"operation":      {"id": op.ID},
		"key":            {"id": key.ID},
		"user":           {"id": user.ID, "name": name},
		"account":        {"id": account.ID, "name": name},
		"group":          {"id": group.ID, "name": name},
		"role":           {"id": role.ID, "name": name},
		"binding":        {"id": binding.ID},
		"entry":          {"id": entry.ID},
		"sink":           {"id": receiver.ID},
		"sign-in":        {"id": stay.ID},
		"passkey":        {"id": pair.ID},
		"invitation":     {"id": letter.ID},
		"grant":          {"id": loan.ID},
		"grant policy":   {"id": offer.ID},
		"review":         {"id": look.ID},
		"lock":           {"id": bar.ID},
		"session review": {"id": looks.ID(session.ID), "session": session.ID},
		"session":        {"id": session.ID},
		"guest":          {"id": looker.ID},
		"run":            {"id": run.ID},
		"transfer":       {"id": moved.ID},
		"command":        {"id": script.ID},
		"idp":            {"id": login.ID, "name": name},
	}
}

// startAs has saved commands run, as the server does.
type startAs struct{ *exec.Service }

func (s startAs) StartAs(ctx context.Context, c ran.Command, by ran.Actor, t command.Target) (ran.Run, error) {
	return s.Start(ctx, exec.Request{Workspace: t.Workspace, Hosts: t.Hosts, Selector: t.Selector, All: t.All, Run: ran.Run{Command: c, RequestID: t.RequestID, Actor: by}})
}

// places and hosts are what questions about access go by, as the server gives it to them.
type places struct{ *policy.Service }

func (p places) Scope(ctx context.Context, organisation, project, workspace string, need access.Permission) (access.Scope, error) {
	return p.Service.Scope(ctx, policy.Place{Organisation: organisation, Project: project, Workspace: workspace}, need)
}

type hosts struct {
	*machines.Service
	directory *fleet.Directory
}

func (h hosts) Snapshot(within access.Scope) ([]*host.Host, int64) {
	return h.directory.Snapshot(within)
}

func sessionReviews(t *testing.T, p *plane.Plane, s *policy.Service) *sessionreview.Service {
	t.Helper()
	out, err := sessionreview.NewService(storage.Bind[sessionreview.Reader, sessionreview.Tx](p.DB), sessionreview.Options{Places: places{s}, Roles: s, Replica: "here", Seal: make([]byte, 32),
		Now: p.Clock.Now, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func grants(t *testing.T, p *plane.Plane, s *policy.Service, people *principal.Service, rules *access.Policy) *grant.Service {
	t.Helper()
	out, err := grant.NewService(storage.Bind[grant.Reader, grant.Tx](p.DB), places{s}, people, s, grant.Options{Known: rules.Catalogue(), Seal: make([]byte, 32), Now: p.Clock.Now,
		Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func shells(t *testing.T, p *plane.Plane, s *policy.Service, rules *access.Policy) *shell.Service {
	t.Helper()
	out, err := shell.NewService(storage.Bind[shell.Reader, shell.Tx](p.DB), p.Hosts, p.Fleet, places{s}, nobody{}, shell.Options{
		Dir: t.TempDir(), Reserve: 1, Replica: "here", Policy: rules, Seal: make([]byte, 32), Now: p.Clock.Now, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// unlinked reaches no host.
type unlinked struct{}

func (unlinked) Online(string) bool { return false }
func (unlinked) Holds(string) bool  { return false }

type unlinkedFiles struct{ unlinked }

func (unlinkedFiles) Order(string, files.Order) bool       { return false }
func (unlinkedFiles) Expect(files.Session) (forget func()) { return func() {} }

func (unlinked) Order(string, exec.Order) bool       { return false }
func (unlinked) Word(string, string, bool, bool)     {}
func (unlinked) Name(id string) string               { return id }
func (unlinked) Credential(string) []byte            { return nil }
func (unlinked) Expect(exec.Session) (forget func()) { return func() {} }

// nobody has hosts.
type nobody struct{}

func (nobody) Start(context.Context, string, string, []byte, *stream.End) (func(), error) {
	return func() {}, fault.New(fault.Unavailable, "host_not_linked", "no host is linked")
}

func (nobody) Tell(context.Context, string, string, []byte) error {
	return fault.New(fault.Unavailable, "host_not_linked", "no host is linked")
}

func (nobody) Expect(string, string, *stream.End) func() { return func() {} }

func sinks(t *testing.T, p *plane.Plane) *sink.Service {
	t.Helper()
	s, err := sink.NewService(storage.Bind[sink.Reader, sink.Tx](p.DB), p.Tenants, sink.Options{Deployment: "dep_test", Seal: make([]byte, 32), Now: p.Clock.Now})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func remembering(p *plane.Plane) *witness.Service {
	return witness.New(witness.Options{Store: storage.Bind[witness.Reader, witness.Tx](p.DB), Fleet: p.Fleet, Now: p.Clock.Now, Logger: slog.New(slog.DiscardHandler)})
}

// members is a control plane whose only replica is named so that whoever may not see it can be told from who may.
func members(t *testing.T, p *plane.Plane) *replica.Service {
	t.Helper()
	none := func() int64 { return 0 }
	s := replica.New(replica.Options{
		Store: storage.Bind[replica.Reader, replica.Tx](p.DB), Keys: keyless{}, Me: process.Replica{Name: marker}, Links: func() int { return 0 },
		Position: none, BusPeers: none, Database: p.DB.Clock, Now: p.Clock.Now, Logger: slog.New(slog.DiscardHandler),
	})
	return s
}

type keyless struct{}

func (keyless) Current() (set trust.Keyset, signed trust.Signed) { return set, signed }
func (keyless) Adopt(trust.Signed) (changed bool, err error)     { return false, nil }

// signed is a ledger whose memory is nobody's.
func signed(t *testing.T, p *plane.Plane) *ledger.Service {
	t.Helper()
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	return ledger.NewService(storage.Bind[ledger.Reader, ledger.Tx](p.DB), ledger.Options{
		Deployment: "dep_test", Epoch: 1, Key: key, Memory: forgetful{}, Owner: "test", Now: p.Clock.Now,
	})
}

type forgetful struct{}

func (forgetful) Load() (string, error) { return "", nil }
func (forgetful) Store(string) error    { return nil }

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
	switch f := reflect.ValueOf(w.services).FieldByName(strings.Replace(strings.TrimSuffix(name, "Service")+"s", "Policys", "Policies", 1)); {
	case f.IsValid() && !f.IsNil(), name == "AccessService" && w.services.Access != nil, name == "AuditService" && w.services.Audit != nil, name == "SettingsService" && w.services.Settings != nil:
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

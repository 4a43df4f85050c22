package settings_test

import (
	"testing"
	"time"

	"github.com/loopbackd/loopback/access"
	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/server/host"
	"github.com/loopbackd/loopback/server/settings"
	tokens "github.com/loopbackd/loopback/server/token"
	noun "github.com/loopbackd/loopback/settings"
	"github.com/loopbackd/loopback/test/plane"
)

func TestAHostsSettingsLieOnThoseOfItsWorkspace(t *testing.T) {
	p := plane.New(t)
	ctx := plane.AsAdmin(t.Context())
	p.Enrol(t, p.Mint(t, tokens.Request{}), "a")
	got, err := p.Settings.Get(ctx, settings.Place{Workspace: "prod"})
	if err != nil || got.Revision != 0 || got.Effective.LogLevel != "info" || got.Effective.HeartbeatMax != noun.DefaultHeartbeat {
		t.Fatalf("unset: %+v, %v, want the defaults", got, err)
	}
	set, err := p.Settings.Set(ctx, settings.Place{Workspace: "prod"}, noun.Settings{LogLevel: "warn", Modules: []string{"lbfw"}}, 0)
	if err != nil || set.Revision == 0 || set.Own.LogLevel != "warn" || set.Effective.HeartbeatMax != noun.DefaultHeartbeat {
		t.Fatalf("set: %+v, %v", set, err)
	}
	if _, err := p.Settings.Set(ctx, settings.Place{Host: "a"}, noun.Settings{HeartbeatMin: time.Second, Modules: []string{}}, 0); err != nil {
		t.Fatal(err)
	}
	got, err = p.Settings.Get(ctx, settings.Place{Host: "a"})
	if err != nil || got.Own.LogLevel != "" || got.Effective.LogLevel != "warn" || got.Effective.HeartbeatMin != time.Second || len(got.Effective.Modules) != 0 {
		t.Errorf("of the host: %+v, %v, want its own over the workspace's, no modules", got, err)
	}
	if _, err := p.Settings.Set(ctx, settings.Place{Workspace: "prod"}, noun.Settings{}, set.Revision-1); fault.KindOf(err) != fault.Conflict {
		t.Errorf("on an old revision: %v, want a conflict", err)
	}
	entries := p.Entries(t, noun.Set)
	if len(entries) != 2 || string(entries[1].After) != `{"logLevel":"warn","modules":["lbfw"]}` || string(entries[1].Before) != `{}` {
		t.Errorf("audit entries %+v, want two with before and after", entries)
	}
}

func TestWhatCannotBeSet(t *testing.T) {
	p := plane.New(t)
	ctx := plane.AsAdmin(t.Context())
	p.Enrol(t, p.Mint(t, tokens.Request{}), "a")
	if _, err := p.Settings.Set(ctx, settings.Place{Workspace: "prod"}, noun.Settings{HeartbeatMin: time.Second, HeartbeatMax: 2 * time.Second}, 0); err != nil {
		t.Fatal(err)
	}
	stranger := plane.As(t.Context(), "stranger", p.Other.Scope(), access.All)
	reader := plane.As(t.Context(), "reader", p.Workspace.Scope(), noun.Read, "hosts.read", "workspaces.read")
	for name, c := range map[string]struct {
		at   settings.Place
		to   noun.Settings
		kind fault.Kind
	}{
		"too rare a heartbeat":     {settings.Place{Workspace: "prod"}, noun.Settings{HeartbeatMax: time.Hour}, fault.Invalid},
		"an unknown level":         {settings.Place{Workspace: "prod"}, noun.Settings{LogLevel: "loud"}, fault.Invalid},
		"a name that is none":      {settings.Place{Workspace: "prod"}, noun.Settings{Modules: []string{"A B"}}, fault.Invalid},
		"bounds across two places": {settings.Place{Host: "a"}, noun.Settings{HeartbeatMin: 8 * time.Second}, fault.Invalid},
		"nowhere":                  {settings.Place{}, noun.Settings{}, fault.Invalid},
		"a workspace that is not":  {settings.Place{Workspace: "none"}, noun.Settings{}, fault.NotFound},
		"a host that is not":       {settings.Place{Host: "none"}, noun.Settings{}, fault.NotFound},
	} {
		if _, err := p.Settings.Set(ctx, c.at, c.to, 0); fault.KindOf(err) != c.kind {
			t.Errorf("%s: got %v, want %s", name, err, c.kind)
		}
	}
	for _, at := range []settings.Place{{Workspace: p.Workspace.ID}, {Host: "a"}} {
		if _, err := p.Settings.Set(stranger, at, noun.Settings{}, 0); fault.KindOf(err) != fault.NotFound {
			t.Errorf("a stranger setting %+v: %v, want not found", at, err)
		}
		if _, err := p.Settings.Get(stranger, at); fault.KindOf(err) != fault.NotFound {
			t.Errorf("a stranger getting %+v: %v, want not found", at, err)
		}
		if _, err := p.Settings.Set(reader, at, noun.Settings{}, 0); fault.KindOf(err) != fault.Denied {
			t.Errorf("a reader setting %+v: %v, want denied", at, err)
		}
	}
	if _, err := p.Hosts.Remove(ctx, host.Ref{Host: "a"}, "", ""); err != nil {
		t.Fatal(err)
	}
}

// Bounds that were valid when they were set may cross later, when the workspace's change: the upper one wins.
func TestBoundsThatCrossLater(t *testing.T) {
	p := plane.New(t)
	ctx := plane.AsAdmin(t.Context())
	p.Enrol(t, p.Mint(t, tokens.Request{}), "a")
	if _, err := p.Settings.Set(ctx, settings.Place{Host: "a"}, noun.Settings{HeartbeatMin: 8 * time.Second}, 0); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Settings.Set(ctx, settings.Place{Workspace: "prod"}, noun.Settings{HeartbeatMin: time.Second, HeartbeatMax: 2 * time.Second}, 0); err != nil {
		t.Fatal(err)
	}
	p.Follow(t)
	got, err := p.Settings.Get(ctx, settings.Place{Host: "a"})
	if err != nil || got.Effective.HeartbeatMin != 2*time.Second || got.Effective.HeartbeatMax != 2*time.Second {
		t.Errorf("effective %+v, %v, want two seconds both", got.Effective, err)
	}
	if least, most := p.Fleet.Pace(got.HostID); least != 2*time.Second || most != 2*time.Second {
		t.Errorf("the hub paces between %s and %s, want two seconds both", least, most)
	}
	if n := testing.AllocsPerRun(100, func() { p.Fleet.Pace(got.HostID) }); n > 0 {
		t.Errorf("each heartbeat allocates %v times to be paced", n)
	}
	if compiled, err := noun.FromSection(p.Fleet.Desired(got.HostID)[0].Section); err != nil || compiled.HeartbeatMin != 2*time.Second {
		t.Errorf("the agent is sent %+v, %v, want two seconds", compiled, err)
	}
}

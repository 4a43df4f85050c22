package settings

import (
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/loopbackd/loopback/host"
	"github.com/loopbackd/loopback/section"
	"github.com/loopbackd/loopback/settings"
)

func compile(t *testing.T, s settings.Settings) section.Section {
	t.Helper()
	v, err := s.Section(section.Revision{Epoch: 1, Number: 1})
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func TestSettingsAreTakenOver(t *testing.T) {
	var level slog.LevelVar
	m := New(Options{Level: &level})
	if level.Level() != slog.LevelInfo {
		t.Errorf("at first: got level %s; want info", level.Level())
	}
	st := m.Apply(t.Context(), compile(t, settings.Settings{LogLevel: "error", HeartbeatMin: 2 * time.Second, HeartbeatMax: 3 * time.Second, Labels: map[string]string{"env": "prod"}}))
	if st.State != section.Applied || level.Level() != slog.LevelError || m.Labels()["env"] != "prod" {
		t.Errorf("got %+v, level %s, labels %v; want applied, error, env=prod", st, level.Level(), m.Labels())
	}
	if a, b := m.HeartbeatBounds(); a != 2*time.Second || b != 3*time.Second {
		t.Errorf("got bounds %s, %s; want 2s, 3s", a, b)
	}
}

func TestWhatAgentYAMLSaysWins(t *testing.T) {
	var level slog.LevelVar
	m := New(Options{Level: &level, LogLevel: "warn"})
	m.Apply(t.Context(), compile(t, settings.Settings{LogLevel: "debug"}))
	if level.Level() != slog.LevelWarn {
		t.Errorf("got level %s; want warn", level.Level())
	}
	m = New(Options{Level: &level, LogLevel: "warn", Verbose: true})
	if m.Apply(t.Context(), compile(t, settings.Settings{LogLevel: "error"})); level.Level() != slog.LevelDebug {
		t.Errorf("verbose: got level %s; want debug", level.Level())
	}
}

func TestTheCeilingIsObeyed(t *testing.T) {
	for _, c := range []struct {
		allowed, installed, wanted, run []string
		state                           section.State
		message                         string
	}{
		{nil, nil, nil, nil, section.Applied, ""},
		{nil, nil, []string{"lbfw"}, nil, section.Degraded, "agent.yaml does not allow the module lbfw (allow.modules: [])"},
		{[]string{"lbfw"}, []string{"lbfw"}, []string{"lbfw", "probe"}, []string{"lbfw"}, section.Degraded, "does not allow the module probe (allow.modules: [lbfw])"},
		{[]string{"lbfw"}, []string{"lbfw"}, []string{"lbfw"}, []string{"lbfw"}, section.Applied, ""},
		{[]string{"*"}, []string{"lbfw"}, []string{"lbfw", "x", "y"}, []string{"lbfw", "x", "y"}, section.Degraded, "the modules x, y not installed"},
	} {
		m := New(Options{Ceiling: host.Ceiling{Modules: c.allowed}, Modules: c.installed})
		st := m.Apply(t.Context(), compile(t, settings.Settings{Modules: c.wanted}))
		if st.State != c.state || !strings.Contains(st.Message, c.message) || (c.message == "") != (st.Message == "") {
			t.Errorf("%v of %v: got %+v; want %s, %q", c.wanted, c.allowed, st, c.state, c.message)
		}
		if got := m.Modules(); !slices.Equal(got, c.run) {
			t.Errorf("%v of %v: runs %v; want %v", c.wanted, c.allowed, got, c.run)
		}
	}
}

func TestBadSettingsChangeNothing(t *testing.T) {
	m := New(Options{})
	m.Apply(t.Context(), compile(t, settings.Settings{HeartbeatMin: 2 * time.Second}))
	bad, err := section.New("settings", section.Revision{Epoch: 1, Number: 2}, []section.Item{{Key: "heartbeat", Value: []byte("soon")}})
	if err != nil {
		t.Fatal(err)
	}
	if st := m.Apply(t.Context(), bad); st.State != section.Failed || st.Message == "" {
		t.Errorf("got %+v; want failed with a reason", st)
	}
	if a, _ := m.HeartbeatBounds(); a != 2*time.Second {
		t.Errorf("got %s; want the bound before", a)
	}
}

// Package settings makes the agent behave as its first section says: log level, heartbeat bounds, labels, module list.
//
// Nothing here touches the machine, so applying cannot half-succeed: the settings are read as a whole and taken over at
// once, or refused with the reason and the ones before stay. What the host's own agent.yaml says wins: a log level there
// is kept, and a module beyond the ceiling is not run, which leaves the section degraded with a message that names what
// the ceiling forbids.
package settings

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/loopbackd/loopback/host"
	"github.com/loopbackd/loopback/label"
	"github.com/loopbackd/loopback/section"
	"github.com/loopbackd/loopback/settings"
)

// Options of the module.
type Options struct {
	Ceiling  host.Ceiling
	Level    *slog.LevelVar // what the log level is set on
	LogLevel string         // of agent.yaml; empty: as the section says
	Verbose  bool           // of agent.yaml: everything is logged
	Modules  []string       // optional modules that are installed here
}

// Module applies the section. Make it with New.
type Module struct {
	options Options

	mu      sync.Mutex
	current settings.Settings // guarded by mu
}

// New makes the module and sets the log level that agent.yaml asks for.
func New(o Options) *Module {
	m := &Module{options: o}
	m.take(settings.Settings{}.Defaults())
	return m
}

// Name of the section.
func (m *Module) Name() string { return settings.SectionName }

// Apply takes the settings over.
func (m *Module) Apply(_ context.Context, s section.Section) section.Status {
	wanted, err := settings.FromSection(s)
	if err != nil {
		return section.Status{State: section.Failed, Message: err.Error()}
	}
	m.take(wanted.Defaults())
	var missing []string
	if forbidden := m.forbidden(wanted.Modules); len(forbidden) > 0 {
		missing = append(missing, fmt.Sprintf("this host's agent.yaml does not allow %s (allow.modules: [%s])",
			modules(forbidden), strings.Join(m.options.Ceiling.Modules, ", ")))
	}
	if absent := m.absent(wanted.Modules); len(absent) > 0 {
		missing = append(missing, modules(absent)+" not installed on this host")
	}
	if len(missing) > 0 {
		return section.Status{State: section.Degraded, Message: strings.Join(missing, "; ")}
	}
	return section.Status{State: section.Applied}
}

func modules(names []string) string {
	if len(names) == 1 {
		return "the module " + names[0]
	}
	return "the modules " + strings.Join(names, ", ")
}

func (m *Module) allows(name string) bool {
	return slices.Contains(m.options.Ceiling.Modules, name) || slices.Contains(m.options.Ceiling.Modules, "*")
}

func (m *Module) forbidden(names []string) (out []string) {
	for _, n := range names {
		if !m.allows(n) {
			out = append(out, n)
		}
	}
	return out
}

func (m *Module) absent(names []string) (out []string) {
	for _, n := range names {
		if m.allows(n) && !slices.Contains(m.options.Modules, n) {
			out = append(out, n)
		}
	}
	return out
}

func (m *Module) take(s settings.Settings) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.current = s
	if m.options.Level == nil {
		return
	}
	name := m.options.LogLevel
	if name == "" {
		name = s.LogLevel
	}
	var level slog.Level
	if err := level.UnmarshalText([]byte(name)); err == nil { // one of the four, checked by whoever read it
		m.options.Level.Set(level)
	}
	if m.options.Verbose {
		m.options.Level.Set(slog.LevelDebug)
	}
}

// Restart goes back to what holds without a section.
func (m *Module) Restart(context.Context) error {
	m.take(settings.Settings{}.Defaults())
	return nil
}

// Health is always good: there is nothing that could break.
func (m *Module) Health() host.Health { return host.Health{Module: m.Name(), Healthy: true} }

// HeartbeatBounds are those in force.
func (m *Module) HeartbeatBounds() (least, most time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.current.HeartbeatMin, m.current.HeartbeatMax
}

// Labels of the host.
func (m *Module) Labels() label.Set {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.current.Labels
}

// Modules that the control plane wants and this host allows.
func (m *Module) Modules() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(m.current.Modules), func(n string) bool { return !m.allows(n) })
}

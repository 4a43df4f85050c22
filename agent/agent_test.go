package agent_test

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/loopbackd/loopback/agent"
	"github.com/loopbackd/loopback/agent/config"
	"github.com/loopbackd/loopback/agent/link"
	"github.com/loopbackd/loopback/agent/state"
	"github.com/loopbackd/loopback/agent/status"
	pb "github.com/loopbackd/loopback/api/loopback/v1"
	"github.com/loopbackd/loopback/host"
	"github.com/loopbackd/loopback/section"
	"github.com/loopbackd/loopback/settings"
	"github.com/loopbackd/loopback/test/controltest"
)

// mesh is a module that remembers what it applied.
type mesh struct {
	mu      sync.Mutex
	applied []section.Revision
	result  func(section.Section) section.Status // nil: applied
	healthy bool
}

func (*mesh) Name() string { return "mesh" }

func (m *mesh) Apply(_ context.Context, s section.Section) section.Status {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.applied = append(m.applied, s.Revision)
	if m.result != nil {
		return m.result(s)
	}
	return section.Status{State: section.Applied}
}

func (m *mesh) Health() host.Health {
	m.mu.Lock()
	defer m.mu.Unlock()
	return host.Health{Module: "mesh", Healthy: m.healthy, Message: "so it is"}
}

func (m *mesh) did() []section.Revision {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.applied)
}

func (m *mesh) will(result func(section.Section) section.Status) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.result = result
}

// machine is a host in a bubble, enrolled with a control plane.
type machine struct {
	*controltest.Server
	pipes  *controltest.Pipes
	config config.Config
	dir    string
	id     string
	mesh   *mesh
	module agent.Module // beside the agent's own; nil: mesh
	agent  *agent.Agent
	level  slog.LevelVar
	stop   func()
}

func inBubble(t *testing.T, test func(*testing.T, *machine)) {
	synctest.Test(t, func(t *testing.T) {
		pipes := controltest.NewPipes()
		m := &machine{Server: &controltest.Server{Listener: pipes, Heartbeat: 20 * time.Second}, pipes: pipes, dir: t.TempDir(), mesh: &mesh{healthy: true}}
		m.Start(t)
		m.config = m.Config()
		store, err := state.Open(m.dir)
		if err != nil {
			t.Fatal(err)
		}
		i, err := link.Enrol(t.Context(), link.EnrolOptions{Config: m.config, Store: store, Token: m.Token(), HostName: "web-1", Dial: pipes.Dial(m.config)})
		if err != nil {
			t.Fatal(err)
		}
		m.id = i.HostID
		store.Close()
		test(t, m)
	})
}

// start starts the agent; it ends with the test, or by stop.
func (m *machine) start(t *testing.T) {
	t.Helper()
	if m.module == nil {
		m.module = m.mesh
	}
	a, err := agent.New(agent.Options{
		Config: m.config, StateDir: m.dir, Version: "1.0.0", Modules: []agent.Module{m.module}, Level: &m.level, Dial: m.pipes.Dial(m.config),
	})
	if err != nil {
		t.Fatal(err)
	}
	m.agent = a
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() {
		if err := a.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	m.stop = func() { cancel(); running.Wait() }
	t.Cleanup(m.stop)
}

func value(t testing.TB, name string, number uint64, contents string) section.Section {
	t.Helper()
	v, err := section.New(name, section.Revision{Epoch: 1, Number: number}, []section.Item{{Key: "a", Value: []byte(contents)}, {Key: "same", Value: []byte("x")}})
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func compiled(t testing.TB, s settings.Settings, number uint64) section.Section {
	t.Helper()
	v, err := s.Section(section.Revision{Epoch: 1, Number: number})
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// reported tells whether the section was reported in this state.
func reported(name, state string, number uint64) func(*controltest.Host) bool {
	return func(h *controltest.Host) bool {
		s := h.Held[name]
		return s != nil && s.State == state && s.Revision.GetNumber() == number
	}
}

func (m *machine) section(t *testing.T, name string) status.Section {
	t.Helper()
	for _, s := range m.agent.Status().Sections {
		if s.Name == name {
			return s
		}
	}
	return status.Section{}
}

func TestWhatIsDesiredIsAppliedStoredAndReported(t *testing.T) {
	inBubble(t, func(t *testing.T, m *machine) {
		m.start(t)
		m.Wait(t, "link", m.id, func(h *controltest.Host) bool { return h.Link != nil && h.Inventory != nil && h.Health != nil })
		synctest.Wait()
		if st := m.agent.Status(); st.OK || st.Reason != "waiting for the first configuration" {
			t.Errorf("got %+v; want it to wait for its first configuration", st)
		}
		m.Push(compiled(t, settings.Settings{LogLevel: "warn", HeartbeatMax: 7 * time.Second}, 1))
		m.Wait(t, "settings", m.id, reported("settings", "applied", 1))
		synctest.Wait()
		if m.level.Level() != slog.LevelWarn {
			t.Errorf("got log level %s; want warn", m.level.Level())
		}
		one, two := value(t, "mesh", 2, "one"), value(t, "mesh", 3, "two")
		m.Push(one)
		m.Wait(t, "mesh", m.id, reported("mesh", "applied", 2))
		m.Desire(two)
		m.Send(controltest.Delta(one, two))
		m.Wait(t, "delta", m.id, reported("mesh", "applied", 3))
		if h := m.Host(m.id); string(h.Held["mesh"].Digest) != string(two.Digest[:]) || len(h.Requests) != 0 {
			t.Errorf("got held %v, requests %v; want the new digest, no request", h.Held["mesh"], h.Requests)
		}
		synctest.Wait()
		if st := m.agent.Status(); !st.OK || st.Reason != "" || len(st.Sections) != 2 || st.HostID != m.id || st.Transport != "websocket" || st.Keyset != 1 {
			t.Errorf("got %+v; want all well", st)
		}
		m.stop()

		// Without a control plane it starts from the last good values.
		m.pipes.Break(errors.New("no network"))
		m.start(t)
		time.Sleep(time.Hour)
		synctest.Wait()
		if got, want := m.mesh.did(), []uint64{2, 3, 3}; len(got) != 3 || got[2].Number != want[2] {
			t.Errorf("applied %v; want 1.3 again after the restart", got)
		}
		if st := m.agent.Status(); st.OK || st.LastError == nil || m.section(t, "mesh").Status != "applied" || m.level.Level() != slog.LevelWarn {
			t.Errorf("got %+v; want not linked, sections applied", st)
		}
		m.pipes.Break(nil)
		m.Wait(t, "hello with what is held", m.id, func(h *controltest.Host) bool { return len(h.Hellos) == 2 && len(h.Hellos[1].Held) == 2 })
		if at, before := m.Host(m.id).Hellos[1].Held[0].AppliedAt.AsTime(), m.Host(m.id).Reports[2].AppliedAt.AsTime(); !at.Equal(before) {
			t.Errorf("applied at %s after the restart; want %s: the machine matched all the while", at, before)
		}
	})
}

func TestADeltaThatDoesNotFitIsAskedForWholeOnce(t *testing.T) {
	inBubble(t, func(t *testing.T, m *machine) {
		one, two, three := value(t, "mesh", 1, "one"), value(t, "mesh", 2, "two"), value(t, "mesh", 3, "three")
		m.Desire(one)
		m.start(t)
		m.Wait(t, "mesh", m.id, reported("mesh", "applied", 1))
		m.Desire(three)
		m.Send(controltest.Delta(two, three)) // the host does not hold two
		m.Wait(t, "the whole, asked for", m.id, reported("mesh", "applied", 3))
		if h := m.Host(m.id); len(h.Requests) != 1 || h.Requests[0].Name != "mesh" || h.Requests[0].Held.Number != 1 {
			t.Errorf("got requests %v; want one for mesh, held 1.1", h.Requests)
		}
	})
}

func TestASecondMismatchIsFailedNotAsked(t *testing.T) {
	inBubble(t, func(t *testing.T, m *machine) {
		m.Desire(value(t, "mesh", 1, "one"))
		m.start(t)
		m.Wait(t, "mesh", m.id, reported("mesh", "applied", 1))
		wrong := value(t, "mesh", 2, "two")
		wrong.Digest[0]++
		m.Push(wrong) // asked for again, it is as wrong as before
		m.Wait(t, "failed", m.id, reported("mesh", "failed", 2))
		time.Sleep(time.Hour)
		synctest.Wait()
		h := m.Host(m.id)
		if len(h.Requests) != 1 || !strings.Contains(h.Held["mesh"].Message, "digest") {
			t.Errorf("got %d requests, %q; want one, and the digest named", len(h.Requests), h.Held["mesh"].Message)
		}
		good := value(t, "mesh", 1, "one")
		if string(h.Held["mesh"].Digest) != string(good.Digest[:]) || len(m.mesh.did()) != 1 {
			t.Errorf("holds %x, applied %v; want the last good value, untouched", h.Held["mesh"].Digest, m.mesh.did())
		}
		m.Push(value(t, "mesh", 3, "three")) // a good one gets through
		m.Wait(t, "recovery", m.id, reported("mesh", "applied", 3))
	})
}

func TestAFailedValueLeavesTheLastGoodOneAndIsTriedAgain(t *testing.T) {
	inBubble(t, func(t *testing.T, m *machine) {
		m.Desire(value(t, "mesh", 1, "one"))
		m.start(t)
		m.Wait(t, "mesh", m.id, reported("mesh", "applied", 1))
		m.mesh.will(func(section.Section) section.Status {
			return section.Status{State: section.Failed, Message: "no such device"}
		})
		m.Push(value(t, "mesh", 2, "two"))
		m.Wait(t, "failure", m.id, reported("mesh", "failed", 2))
		if st := m.section(t, "mesh"); st.Message != "no such device" || m.agent.Status().OK {
			t.Errorf("got %+v; want failed with the reason", st)
		}
		m.mesh.will(func(section.Section) section.Status { panic("boom") })
		time.Sleep(6 * time.Minute)
		synctest.Wait()
		if st := m.section(t, "mesh"); st.Status != "failed" || !strings.Contains(st.Message, "boom") {
			t.Errorf("got %+v; want the panic reported", st)
		}
		m.mesh.will(nil)
		time.Sleep(6 * time.Minute)
		m.Wait(t, "success by itself", m.id, reported("mesh", "applied", 2))
		m.mesh.will(func(section.Section) section.Status { return section.Status{State: section.Failed} })
		m.Push(value(t, "mesh", 3, "three"))
		m.Wait(t, "failure", m.id, reported("mesh", "failed", 3))
		m.stop()
		m.mesh.will(nil)
		m.pipes.Break(errors.New("no network"))
		m.start(t)
		synctest.Wait()
		if st := m.section(t, "mesh"); st.Revision != "1.2" || st.Status != "applied" {
			t.Errorf("after a restart: got %+v; want the last good value", st)
		}
	})
}

func TestAHostThatIsAheadIsFrozen(t *testing.T) {
	for name, sent := range map[string]section.Section{
		"older revision":              value(t, "mesh", 4, "four"),
		"same revision, other digest": value(t, "mesh", 5, "another five"),
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, m *machine) {
				m.Desire(value(t, "mesh", 5, "five"))
				m.start(t)
				m.Wait(t, "mesh", m.id, reported("mesh", "applied", 5))
				m.Push(sent)
				m.Wait(t, "frozen", m.id, func(h *controltest.Host) bool { return h.Held["mesh"].Frozen })
				if st := m.section(t, "mesh"); !st.Frozen || m.agent.Status().OK || len(m.mesh.did()) != 1 {
					t.Errorf("got %+v, applied %v; want it frozen and nothing applied", st, m.mesh.did())
				}
				m.Push(value(t, "mesh", 6, "six")) // the operator let the control plane win
				m.Wait(t, "thaw", m.id, reported("mesh", "applied", 6))
				if m.Host(m.id).Held["mesh"].Frozen {
					t.Error("still frozen")
				}
			})
		})
	}
}

func TestTheCeilingDegradesWhatItForbids(t *testing.T) {
	inBubble(t, func(t *testing.T, m *machine) {
		m.start(t)
		m.Wait(t, "link", m.id, func(h *controltest.Host) bool { return h.Link != nil })
		m.Push(compiled(t, settings.Settings{Modules: []string{"lbfw"}}, 1))
		m.Wait(t, "degraded", m.id, reported("settings", "degraded", 1))
		if msg := m.Host(m.id).Held["settings"].Message; !strings.Contains(msg, "agent.yaml does not allow the module lbfw") {
			t.Errorf("got %q; want it to name what the ceiling forbids", msg)
		}
		if c := m.Host(m.id).Inventory.Ceiling; c.Exec || len(c.Modules) != 0 {
			t.Errorf("got ceiling %v; want nothing allowed", c)
		}
	})
}

func TestAQuarantinedHostAppliesNothing(t *testing.T) {
	inBubble(t, func(t *testing.T, m *machine) {
		m.Desire(value(t, "mesh", 1, "one"))
		m.start(t)
		m.Wait(t, "mesh", m.id, reported("mesh", "applied", 1))
		m.Stand("quarantined", "suspicious")
		m.Push(value(t, "mesh", 2, "two"))
		time.Sleep(time.Hour)
		synctest.Wait()
		st := m.agent.Status()
		if got := m.mesh.did(); len(got) != 1 || st.Standing != "quarantined" || st.OK || !strings.Contains(st.Reason, "suspicious") {
			t.Errorf("applied %v, %+v; want nothing more applied, quarantined", got, st)
		}
		m.Stand("managed", "")
		m.Wait(t, "what was withheld", m.id, reported("mesh", "applied", 2))
	})
}

func TestASectionWithoutAModuleIsFailed(t *testing.T) {
	inBubble(t, func(t *testing.T, m *machine) {
		m.start(t)
		m.Wait(t, "link", m.id, func(h *controltest.Host) bool { return h.Link != nil })
		m.Push(value(t, "teleport", 1, "one"))
		m.Wait(t, "failed", m.id, reported("teleport", "failed", 1))
		if msg := m.Host(m.id).Held["teleport"].Message; !strings.Contains(msg, "update the agent") {
			t.Errorf("got %q", msg)
		}
	})
}

func TestADamagedSectionIsAskedFor(t *testing.T) {
	inBubble(t, func(t *testing.T, m *machine) {
		m.Desire(value(t, "mesh", 1, "one"))
		m.Desire(compiled(t, settings.Settings{}, 1))
		m.start(t)
		m.Wait(t, "mesh", m.id, reported("mesh", "applied", 1))
		m.Wait(t, "settings", m.id, reported("settings", "applied", 1))
		m.stop()
		path := filepath.Join(m.dir, "sections", "mesh")
		if err := os.WriteFile(path, []byte("rubbish"), 0o600); err != nil {
			t.Fatal(err)
		}
		m.start(t)
		m.Wait(t, "mesh again", m.id, func(h *controltest.Host) bool {
			return len(h.Hellos) == 2 && len(h.Requests) == 1 && reported("mesh", "applied", 1)(h)
		})
		if held := m.Host(m.id).Hellos[1].Held; len(held) != 1 || held[0].Name != "settings" {
			t.Errorf("got hello with %v; want settings alone", held)
		}
	})
}

func TestModuleHealthIsToldWhenItChanges(t *testing.T) {
	inBubble(t, func(t *testing.T, m *machine) {
		m.Desire(compiled(t, settings.Settings{}, 1))
		m.start(t)
		healthy := func(want bool) func(*controltest.Host) bool {
			return func(h *controltest.Host) bool {
				return h.Health != nil && slices.ContainsFunc(h.Health.Modules, func(x *pb.ModuleHealth) bool { return x.Module == "mesh" && x.Healthy == want })
			}
		}
		m.Wait(t, "health", m.id, healthy(true))
		m.mesh.mu.Lock()
		m.mesh.healthy = false
		m.mesh.mu.Unlock()
		time.Sleep(2 * time.Minute)
		m.Wait(t, "ill health", m.id, healthy(false))
		if st := m.agent.Status(); st.OK || !strings.Contains(st.Reason, "the module mesh is unhealthy") {
			t.Errorf("got %+v", st)
		}
	})
}

func TestItDoesNotStartAsSomebodyElse(t *testing.T) {
	dir := t.TempDir()
	c := config.Default()
	try := func() error {
		a, err := agent.New(agent.Options{Config: c, StateDir: dir})
		if err == nil {
			t.Errorf("got %v; want an error", a)
		}
		return err
	}
	if err := try(); !errors.Is(err, state.ErrNoIdentity) {
		t.Errorf("got %v; want ErrNoIdentity", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "identity"), []byte("loopback identity 1 00\n{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := try(); !errors.Is(err, state.ErrIdentityDamaged) {
			t.Errorf("got %v; want ErrIdentityDamaged", err)
		}
	}
	store, err := state.Open(dir)
	if err != nil {
		t.Fatalf("the folder was not given free: %v", err)
	}
	defer store.Close()
	if err := try(); !errors.Is(err, state.ErrLocked) {
		t.Errorf("got %v; want ErrLocked", err)
	}
}

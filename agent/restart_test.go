package agent_test

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/loopbackd/loopback/api/loopback/v1"
	"github.com/loopbackd/loopback/host"
	"github.com/loopbackd/loopback/id"
	"github.com/loopbackd/loopback/section"
	"github.com/loopbackd/loopback/settings"
	"github.com/loopbackd/loopback/test/controltest"
)

// restarter is a mesh that has something to stop.
type restarter struct {
	*mesh
	restart func(context.Context) error
}

func (r restarter) Restart(ctx context.Context) error { return r.restart(ctx) }

// answers are what the agent says of orders.
type answers struct {
	mu  sync.Mutex
	all []*pb.OrderReport
}

func (a *answers) hear(_ *controltest.Link, f *pb.AgentFrame) {
	if r := f.GetOrderReport(); r != nil {
		a.mu.Lock()
		a.all = append(a.all, r)
		a.mu.Unlock()
	}
}

// take waits for what is going on to settle, and is what was said since the last call.
func (a *answers) take() (states []string, last *pb.OrderReport, how host.Restart) {
	synctest.Wait()
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, r := range a.all {
		states, last = append(states, r.State), r
	}
	a.all = nil
	_ = json.Unmarshal(last.GetResult(), &how) // of one that ended
	return states, last, how
}

func (m *machine) order(order, module string) {
	m.Send(&pb.ServerFrame{Body: &pb.ServerFrame_Order{Order: &pb.Order{
		Id: order, NotAfter: timestamppb.New(time.Now().Add(10 * time.Second)), Task: &pb.Order_Module{Module: &pb.ModuleTask{Module: module}},
	}}})
}

func (m *machine) linked(t *testing.T) *answers {
	t.Helper()
	a := &answers{}
	m.Hear = a.hear
	m.Desire(value(t, "mesh", 1, "one"))
	m.start(t)
	m.Wait(t, "mesh", m.id, reported("mesh", "applied", 1))
	synctest.Wait()
	return a
}

func TestAModuleIsRestartedOnceForAnOrder(t *testing.T) {
	inBubble(t, func(t *testing.T, m *machine) {
		said := m.linked(t)
		order := id.New("op", time.Now())
		m.order(order, "mesh")
		if states, _, how := said.take(); !slices.Equal(states, []string{"begun", "ended"}) || how.State != section.Applied || how.Revision != "1.1" || !how.Healthy {
			t.Errorf("it said %v, %+v", states, how)
		}
		m.Cut()
		m.Wait(t, "another link", m.id, func(h *controltest.Host) bool { return len(h.Hellos) == 2 })
		m.order(order, "mesh") // whoever sent it did not hear the answer
		if states, _, how := said.take(); !slices.Equal(states, []string{"ended"}) || how.Revision != "1.1" {
			t.Errorf("to the repeat it said %v, %+v", states, how)
		}
		m.stop()
		m.start(t)
		m.Wait(t, "a link of another agent", m.id, func(h *controltest.Host) bool { return len(h.Hellos) == 3 })
		m.order(order, "mesh")
		if states, _, _ := said.take(); !slices.Equal(states, []string{"ended"}) || len(m.mesh.did()) != 3 {
			t.Errorf("after its own restart it said %v, and applied %v; want the answer, and one apply for each start and the order", states, m.mesh.did())
		}
		if at := m.Host(m.id).Held["mesh"].AppliedAt.AsTime(); !at.Before(time.Now()) {
			t.Errorf("it is applied at %s, as if it were news", at)
		}
	})
}

func TestRestartsThatAreRefusedOrGoWrong(t *testing.T) {
	inBubble(t, func(t *testing.T, m *machine) {
		said := m.linked(t)
		fresh := func(module string) { m.order(id.New("op", time.Now()), module) }
		fresh("none")
		if _, _, how := said.take(); how.ErrorCode != "module_unknown" || !strings.Contains(how.Hint, "mesh") {
			t.Errorf("of a module that is not there: %+v", how)
		}
		m.order("op_../../x", "mesh")
		if states, last, _ := said.take(); !slices.Equal(states, []string{"refused"}) || last.GetDetail().GetCode() != "order_malformed" {
			t.Errorf("of an id that is none: %v, %v", states, last)
		}
		m.Send(&pb.ServerFrame{Body: &pb.ServerFrame_Order{Order: &pb.Order{
			Id: id.New("op", time.Now()), NotAfter: timestamppb.New(time.Now().Add(-time.Second)), Task: &pb.Order_Module{Module: &pb.ModuleTask{Module: "mesh"}},
		}}})
		if _, last, _ := said.take(); last.GetDetail().GetCode() != "order_late" || len(m.mesh.did()) != 1 {
			t.Errorf("of one that came late: %v, applied %v", last, m.mesh.did())
		}
		m.mesh.will(func(section.Section) section.Status { panic("boom") })
		fresh("mesh")
		if _, _, how := said.take(); how.State != section.Failed || !strings.Contains(how.Message, "boom") {
			t.Errorf("of one that panics: %+v", how)
		}
		if h := m.Host(m.id).Held["mesh"]; h.State != "failed" {
			t.Errorf("its section is %s", h.State)
		}
		m.mesh.will(nil)
		m.mesh.mu.Lock()
		m.mesh.healthy = false
		m.mesh.mu.Unlock()
		fresh("mesh")
		if _, _, how := said.take(); how.State != section.Applied || how.Healthy || how.Health != "so it is" {
			t.Errorf("of one that is unhealthy: %+v", how)
		}
		m.Stand("quarantined", "a test")
		fresh("mesh")
		if _, last, _ := said.take(); last.GetDetail().GetCode() != "host_not_managed" {
			t.Errorf("in quarantine: %v", last)
		}
	})
}

// What failed is tried again once what holds is in force.
func TestARestartTriesANewerValueAgain(t *testing.T) {
	inBubble(t, func(t *testing.T, m *machine) {
		said := m.linked(t)
		m.mesh.will(func(v section.Section) section.Status {
			if v.Revision.Number == 2 {
				return section.Status{State: section.Failed, Message: "no such device"}
			}
			return section.Status{State: section.Applied}
		})
		m.Push(value(t, "mesh", 2, "two"))
		m.Wait(t, "failure", m.id, reported("mesh", "failed", 2))
		m.mesh.will(nil)
		m.order(id.New("op", time.Now()), "mesh")
		if _, _, how := said.take(); how.Revision != "1.1" || !how.Newer {
			t.Errorf("it went %+v", how)
		}
		m.Wait(t, "the newer value", m.id, reported("mesh", "applied", 2))
	})
}

func TestAModuleThatHangsIsLeftAloneUntilItComesBack(t *testing.T) {
	inBubble(t, func(t *testing.T, m *machine) {
		back := make(chan struct{})
		m.module = restarter{m.mesh, func(context.Context) error { <-back; return errors.New("it was told to") }}
		said := m.linked(t)
		order := id.New("op", time.Now())
		m.order(order, "mesh")
		said.take()
		m.order(order, "mesh")
		if states, _, _ := said.take(); !slices.Equal(states, []string{"begun"}) {
			t.Errorf("to a repeat while it hangs: %v", states)
		}
		time.Sleep(host.RestartWithin + 6*time.Second)
		if _, _, how := said.take(); how.ErrorCode != "module_hung" {
			t.Errorf("it went %+v", how)
		}
		m.Push(value(t, "mesh", 2, "two"))
		m.Push(compiled(t, settings.Settings{HeartbeatMax: 7 * time.Second}, 1))
		m.Wait(t, "another module's section", m.id, reported("settings", "applied", 1))
		m.order(id.New("op", time.Now()), "mesh")
		time.Sleep(host.RestartWithin + 6*time.Second)
		if _, _, how := said.take(); how.ErrorCode != "module_busy" || len(m.mesh.did()) != 1 {
			t.Errorf("of a second restart: %+v, applied %v", how, m.mesh.did())
		}
		close(back)
		m.Wait(t, "what waited for it", m.id, reported("mesh", "applied", 2))
	})
}

// The module of the audit log reads what it remembers anew: root may have put a damaged file right.
func TestTheModulesOfEveryAgentRestart(t *testing.T) {
	inBubble(t, func(t *testing.T, m *machine) {
		file := filepath.Join(m.dir, "witness", "checkpoint.json")
		if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o700), os.WriteFile(file, []byte("{"), 0o600)); err != nil {
			t.Fatal(err)
		}
		said := m.linked(t)
		m.order(id.New("op", time.Now()), "witness")
		if _, _, how := said.take(); how.Healthy || how.State != "" {
			t.Errorf("with a damaged file it went %+v", how)
		}
		if err := os.Remove(file); err != nil {
			t.Fatal(err)
		}
		m.order(id.New("op", time.Now()), "witness")
		if _, _, how := said.take(); !how.Healthy {
			t.Errorf("once the file was gone it went %+v", how)
		}
		m.Push(compiled(t, settings.Settings{LogLevel: "warn"}, 1))
		m.Wait(t, "settings", m.id, reported("settings", "applied", 1))
		m.level.Set(-4)
		m.order(id.New("op", time.Now()), "settings")
		if _, _, how := said.take(); how.State != section.Applied || m.level.Level() != 4 {
			t.Errorf("the settings went %+v, level %s", how, m.level.Level())
		}
	})
}

func TestARestartThawsNoSection(t *testing.T) {
	inBubble(t, func(t *testing.T, m *machine) {
		said := m.linked(t)
		m.Push(value(t, "mesh", 1, "another"))
		m.Wait(t, "frozen", m.id, func(h *controltest.Host) bool { return h.Held["mesh"].GetFrozen() })
		m.order(id.New("op", time.Now()), "mesh")
		if _, _, how := said.take(); how.State != section.Applied || len(m.mesh.did()) != 2 {
			t.Errorf("it went %+v, applied %v", how, m.mesh.did())
		}
		if st := m.section(t, "mesh"); !st.Frozen || !strings.Contains(st.Message, "an operator decides") {
			t.Errorf("after it the section is %+v", st)
		}
	})
}

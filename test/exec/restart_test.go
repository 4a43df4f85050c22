package exec

import (
	"context"
	"encoding/json"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/durationpb"

	pb "github.com/loopbackd/loopback/api/loopback/v1"
	"github.com/loopbackd/loopback/host"
	"github.com/loopbackd/loopback/section"
	"github.com/loopbackd/loopback/test/fleet"
)

// modules restart as those of an agent do: each order once, and a repeat is answered from what is known.
type modules struct {
	begun, ends chan struct{} // closes when the first has begun; is closed to have it end

	mu    sync.Mutex
	known map[string]bool // ended
	times int
}

func (m *modules) order(ctx context.Context, o fleet.Order) {
	m.mu.Lock()
	ended, known := m.known[o.GetId()]
	if !known {
		m.known[o.GetId()] = false
		if m.times++; m.times == 1 {
			close(m.begun)
		}
	}
	m.mu.Unlock()
	if !ended {
		_ = o.Report(ctx, &pb.OrderReport{State: "begun"}) // a link that ended has no use for it
	}
	if !known {
		<-m.ends
		m.mu.Lock()
		m.known[o.GetId()] = true
		m.mu.Unlock()
	} else if !ended {
		return
	}
	result, _ := json.Marshal(host.Restart{State: section.Applied, Revision: "1.1", Healthy: true}) // plain fields
	_ = o.Report(ctx, &pb.OrderReport{State: "ended", Result: result})
}

// TestAModuleIsRestartedOnceThoughTheControlPlaneIsKilled restarts one while the control plane is killed, one on an agent that does not know
// the order, and none on a host that is locked.
func TestAModuleIsRestartedOnceThoughTheControlPlaneIsKilled(t *testing.T) {
	d := start(t)
	m := &modules{begun: make(chan struct{}), ends: make(chan struct{}), known: map[string]bool{}}
	hosts(t, d, 2, func(i int, a *fleet.Agent) {
		a.Exec = m.order
		if i == 1 {
			a.Exec = func(ctx context.Context, o fleet.Order) { // in the words of agents from before
				_ = o.Report(ctx, &pb.OrderReport{State: "refused", Message: "the host's agent does not know this kind of order", Detail: &pb.ErrorDetail{Code: "order_unknown", Hint: "update the agent"}})
			}
		}
	})
	restart := func(on string) *pb.Operation {
		return must(d.Hosts.RestartModule(t.Context(), connect.NewRequest(&pb.RestartModuleRequest{Host: on, Module: "mesh", Reason: "a test", RequestId: "request-" + on})))
	}
	wait := func(o *pb.Operation) *pb.Operation {
		return must(d.Operations.WaitOperation(t.Context(), connect.NewRequest(&pb.WaitOperationRequest{Operation: o.Id, Timeout: durationpb.New(time.Minute)})))
	}
	old := wait(restart("host-00001"))
	if old.State != "failed" || old.GetError().GetCode() != "order_unknown" || !strings.Contains(old.GetError().GetMessage(), "update the agent") {
		t.Errorf("with an old agent it is %s: %v", old.State, old.Error)
	}
	o := restart("host-00000")
	<-m.begun
	if err := d.Kill(); err != nil {
		t.Fatal(err)
	}
	close(m.ends) // its answer is lost
	if err := d.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	if o = wait(o); o.State != "succeeded" || o.Steps[1].Message != "applied 1.1; healthy" || m.times != 1 {
		t.Errorf("it is %s after %d restarts: %v", o.State, m.times, o)
	}
	if again := restart("host-00000"); again.Id != o.Id {
		t.Errorf("the same request led to %s and %s", o.Id, again.Id)
	}
	must(d.Locks.CreateLock(t.Context(), connect.NewRequest(&pb.CreateLockRequest{Host: o.Target, Reason: "looked at"})))
	_, err := d.Hosts.RestartModule(t.Context(), connect.NewRequest(&pb.RestartModuleRequest{Host: o.Target, Module: "mesh"}))
	if err == nil || !strings.Contains(err.Error(), "the host is locked: looked at") {
		t.Errorf("on a host that is locked: %v", err)
	}
	entries := must(d.Audit.ListEntries(t.Context(), connect.NewRequest(&pb.ListEntriesRequest{Target: o.Target, Action: "hosts.restart_module"}))).Items
	if len(entries) != 2 || entries[0].Reason != "a test" {
		t.Errorf("the audit log has %v", entries)
	}
}

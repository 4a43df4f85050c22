package exec

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"connectrpc.com/connect"

	agentexec "github.com/loopbackd/loopback/agent/exec"
	pb "github.com/loopbackd/loopback/api/loopback/v1"
	"github.com/loopbackd/loopback/exec"
	"github.com/loopbackd/loopback/host"
	"github.com/loopbackd/loopback/test/fleet"
)

// TestARevokedKeyEndsWhatItRuns has a key run a command that does not end, and takes the key away.
func TestARevokedKeyEndsWhatItRuns(t *testing.T) {
	n := 3
	if os.Getenv("LOOPBACK_SOAK") != "" {
		n = 200
	}
	d := start(t)
	operator(t, d)
	hosts(t, d, 1, func(_ int, a *fleet.Agent) { machine(t, a, host.Ceiling{Exec: true}) })
	var took []time.Duration
	for i := range n {
		key := must(d.APIKeys.CreateApiKey(t.Context(), connect.NewRequest(&pb.CreateApiKeyRequest{
			Name: fmt.Sprintf("brief-%d", i), ServiceAccount: "runner", Permissions: []string{"*", "exec.run"}})))
		c := d.As(key.Secret)
		run := must(c.Execs.StartExec(t.Context(), because(&pb.StartExecRequest{Workspace: "default", Hosts: []string{"host-00000"}, Command: sh("sleep 0.3; echo go; sleep 1000")})))
		var revoked time.Time
		o := watch(t, d.Client, run.Id, func(e *pb.ExecEvent) {
			if e.GetOutput() != nil && revoked.IsZero() {
				revoked = time.Now()
				must(d.APIKeys.RevokeApiKey(t.Context(), connect.NewRequest(&pb.RevokeApiKeyRequest{ApiKey: key.ApiKey.Id})))
			}
		})
		if h := o.hosts["host-00000"]; o.run.State != "cancelled" || h.State != "cancelled" || !strings.Contains(o.run.Reason, "may not run it") {
			t.Fatalf("the run is %s (%s), its host %s: %s", o.run.State, o.run.Reason, h.State, h.Error)
		}
		took = append(took, o.at["host-00000"].Sub(revoked))
	}
	slices.Sort(took)
	t.Logf("the command was seen to have ended after %v in the middle, %v at the 99th percentile of %d", took[n/2], took[n*99/100], n)
}

// stuck is a runner whose commands never end, as far as an agent that is killed is concerned.
type stuck struct{ starts *atomic.Int64 }

func (s stuck) Start(agentexec.Spec) (agentexec.Process, error) {
	s.starts.Add(1)
	return stuckProcess{}, nil
}

type stuckProcess struct{}

func (stuckProcess) Wait() exec.Result { select {} }
func (stuckProcess) Kill()             {}

// TestAKilledAgentLeavesNoDoubt kills an agent while a command runs: the next one says that its end is not known, at once, and
// does not begin it again though the order comes once more.
func TestAKilledAgentLeavesNoDoubt(t *testing.T) {
	d := start(t)
	c, _ := operator(t, d)
	dir := filepath.Join(t.TempDir(), "orders")
	options := func(r agentexec.Runner) agentexec.Options {
		return agentexec.Options{Dir: dir, Allow: host.Ceiling{Exec: true}, Now: time.Now, Runner: r}
	}
	var starts atomic.Int64
	given := make(chan fleet.Order, 1)
	hosts(t, d, 1, func(_ int, a *fleet.Agent) {
		a.Carry(agentexec.New(options(stuck{&starts}))) // never closed: a process that is killed tidies nothing
		first := a.Exec
		a.Exec = func(ctx context.Context, o fleet.Order) {
			first(ctx, o)
			given <- o
		}
	})
	run := must(c.Execs.StartExec(t.Context(), because(&pb.StartExecRequest{Workspace: "default", Hosts: []string{"host-00000"}, Command: sh("sleep 15")})))
	o := watch(t, c, run.Id, func(e *pb.ExecEvent) {
		if e.GetHost().GetState() != "running" {
			return
		}
		again := agentexec.New(options(stuck{&starts}))
		order := <-given
		if lost := again.Lost(); !slices.Equal(lost, []string{order.GetId()}) {
			t.Errorf("the next agent knows of %v; wanted %s", lost, order.GetId())
		}
		repeated := &fleet.Agent{}
		repeated.Carry(again)
		repeated.Exec(t.Context(), order) // it reports what its journal says
	})
	if h := o.hosts["host-00000"]; h.State != "indeterminate" || h.ErrorCode != "order_indeterminate" {
		t.Errorf("the host is %s: %s", h.State, h.Error)
	}
	if n := starts.Load(); n != 1 {
		t.Errorf("it was begun %d times", n)
	}
}

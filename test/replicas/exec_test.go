package replicas

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	agentexec "github.com/loopbackd/loopback/agent/exec"
	pb "github.com/loopbackd/loopback/api/loopback/v1"
	"github.com/loopbackd/loopback/host"
	"github.com/loopbackd/loopback/test/daemon"
	"github.com/loopbackd/loopback/test/fleet"
	"github.com/loopbackd/loopback/wire"
)

// counted is a runner that counts what it begins.
type counted struct{ begun *atomic.Int64 }

func (c counted) Start(s agentexec.Spec) (agentexec.Process, error) {
	c.begun.Add(1)
	return agentexec.Plain{}.Start(s)
}

// TestCommandsOnceOnEachHostWhateverReplicasDo runs commands through replicas of which one is killed, or stopped, in the middle.
func TestCommandsOnceOnEachHostWhateverReplicasDo(t *testing.T) {
	c := start(t, 3, "")
	const n = 9
	begun := make([]atomic.Int64, n)
	f := fleet.Run(t.Context(), n, n, func(i int) *fleet.Agent {
		d := c.replicas[0].Dialer([]string{wire.WebSocket, wire.WebSocket, wire.Poll}[i%3], i)
		d.Endpoint, d.Connect, d.Timeout = c.balancer.url(), nil, 10*time.Second
		a := &fleet.Agent{Dialer: d, Token: c.secret, Patience: 200 * time.Millisecond}
		x := agentexec.New(agentexec.Options{Dir: filepath.Join(t.TempDir(), "orders"), Allow: host.Ceiling{Exec: true}, Now: time.Now, Runner: counted{&begun[i]}})
		t.Cleanup(x.Close)
		a.Carry(x)
		carry := a.Exec
		a.Exec = func(ctx context.Context, o fleet.Order) {
			if o.GetModule() == nil {
				carry(ctx, o)
				return
			}
			_ = o.Report(ctx, &pb.OrderReport{State: "ended", Result: []byte(`{"healthy":true}`)}) // the operation says where it is lost
		}
		return a
	})
	t.Cleanup(f.Stop)
	c.await(f, time.Minute, func(now fleet.Counts) bool { return now.Linked == n })
	key := c.runner()
	linked := func() { // by all replicas' word
		for i, d := range c.replicas {
			select {
			case <-d.Ended():
				continue
			default:
			}
			c.until(30*time.Second, func() error { return c.managed(c.replicas[i], n) })
		}
	}
	run := func(d *daemon.Daemon, line string, middle func()) map[string]*pb.ExecHost {
		t.Helper()
		for i := range begun {
			begun[i].Store(0)
		}
		q := connect.NewRequest(&pb.StartExecRequest{Workspace: "default", All: true, Command: &pb.ExecCommand{Arguments: []string{line}, Shell: true, Timeout: durationpb.New(time.Minute)}})
		q.Header().Set("Loopback-Reason", "a test")
		r, err := d.As(key).Execs.StartExec(c.within(20*time.Second), q)
		if err != nil {
			t.Fatal(err)
		}
		return c.outcome(c.replicas[2].As(key), r.Msg.Id, middle)
	}
	once := func(t *testing.T, hosts map[string]*pb.ExecHost, states string) {
		t.Helper()
		for name, h := range hosts {
			if !strings.Contains(states, h.State) {
				t.Errorf("%s is %s: %s", name, h.State, h.Error)
			}
		}
		if len(hosts) != n {
			t.Errorf("%d hosts were told of", len(hosts))
		}
		for i := range begun {
			if k := begun[i].Load(); k > 1 || k == 0 && states == "succeeded" {
				t.Errorf("it was begun %d times on host %d", k, i)
			}
		}
	}
	linked()
	t.Run("any replica", func(t *testing.T) {
		for _, d := range c.replicas {
			once(t, run(d, "echo up", nil), "succeeded")
		}
	})
	t.Run("a module of each host, by any replica", func(t *testing.T) {
		for i := range n {
			d := c.replicas[i%3]
			o, err := d.Hosts.RestartModule(c.within(20*time.Second), connect.NewRequest(&pb.RestartModuleRequest{Host: fmt.Sprintf("host-%05d", i), Module: "mesh"}))
			if err == nil {
				o, err = d.Operations.WaitOperation(c.within(20*time.Second), connect.NewRequest(&pb.WaitOperationRequest{Operation: o.Msg.Id}))
			}
			if err != nil || o.Msg.State != "succeeded" {
				t.Errorf("host %d, asked of replica %d: %v, %v", i, i%3, o.Msg, err)
			}
		}
	})
	t.Run("stopped in the middle of telling hosts, past its lease", func(t *testing.T) {
		hosts := run(c.replicas[0], "echo up", func() {
			if err := c.replicas[0].Signal(syscall.SIGSTOP); err != nil {
				t.Fatal(err)
			}
			c.pause(20 * time.Second)
			if err := c.replicas[0].Signal(syscall.SIGCONT); err != nil {
				t.Fatal(err)
			}
		})
		once(t, hosts, "succeeded unreachable indeterminate")
	})
	t.Run("killed while commands run", func(t *testing.T) {
		c.await(f, time.Minute, func(now fleet.Counts) bool { return now.Linked == n })
		linked()
		hosts := run(c.replicas[0], "for i in $(seq 1 30); do echo line $i; sleep 0.1; done", func() {
			c.pause(time.Second)
			if err := c.replicas[0].Kill(); err != nil {
				t.Fatal(err)
			}
		})
		once(t, hosts, "succeeded")
		for name, h := range hosts {
			if h.StdoutBytes != 9*7+21*8 {
				t.Errorf("%s wrote %d bytes", name, h.StdoutBytes)
			}
		}
	})
}

// runner is a key that may run commands.
func (c *cluster) runner() string {
	c.t.Helper()
	d, ctx := c.replicas[0], c.within(time.Minute)
	account, err := d.Accounts.CreateServiceAccount(ctx, connect.NewRequest(&pb.CreateServiceAccountRequest{Name: "runner"}))
	if err != nil {
		c.t.Fatal(err)
	}
	role, err := d.Roles.CreateRole(ctx, connect.NewRequest(&pb.CreateRoleRequest{Name: "commands", Permissions: []string{"exec.run", "exec.read", "hosts.read", "workspaces.read"}}))
	if err != nil {
		c.t.Fatal(err)
	}
	if _, err := d.Bindings.CreateBinding(ctx, connect.NewRequest(&pb.CreateBindingRequest{
		ServiceAccount: account.Msg.Id, Role: role.Msg.Id, NotAfter: timestamppb.New(time.Now().Add(time.Hour)),
	})); err != nil {
		c.t.Fatal(err)
	}
	key, err := d.APIKeys.CreateApiKey(ctx, connect.NewRequest(&pb.CreateApiKeyRequest{Name: "runner", ServiceAccount: account.Msg.Id, Permissions: []string{"*", "exec.run"}}))
	if err != nil {
		c.t.Fatal(err)
	}
	return key.Msg.Secret
}

// outcome watches a run to its end, at whatever replica answers, and calls middle once some host was told of it.
func (c *cluster) outcome(at *daemon.Client, run string, middle func()) map[string]*pb.ExecHost {
	c.t.Helper()
	hosts := map[string]*pb.ExecHost{}
	ctx := c.within(2 * time.Minute)
	done := make(chan struct{})
	close(done)
	for {
		ended, err := watch(ctx, at, run, func(h *pb.ExecHost) {
			hosts[h.Host] = h
			if middle != nil && h.State != "waiting" {
				done = make(chan struct{})
				go func(act func(), done chan struct{}) { defer close(done); act() }(middle, done)
				middle = nil
			}
		})
		if ended {
			<-done
			return hosts
		}
		if ctx.Err() != nil {
			c.t.Fatalf("the run does not end: %v; hosts %v", err, hosts)
		}
		c.pause(200 * time.Millisecond)
	}
}

func watch(ctx context.Context, at *daemon.Client, run string, see func(*pb.ExecHost)) (ended bool, err error) {
	s, err := at.Execs.WatchExec(ctx, connect.NewRequest(&pb.WatchExecRequest{Exec: run, Follow: true}))
	if err != nil {
		return false, err
	}
	defer s.Close()
	for s.Receive() {
		if h := s.Msg().GetHost(); h != nil {
			see(h)
		}
		if r := s.Msg().GetExec(); r != nil && r.State != "running" {
			return true, nil
		}
	}
	if s.Err() == nil {
		err = fmt.Errorf("the stream of %s ended before it did", run)
	}
	return false, err
}

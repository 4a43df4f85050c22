package exec

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	agentexec "github.com/loopbackd/loopback/agent/exec"
	pb "github.com/loopbackd/loopback/api/loopback/v1"
	"github.com/loopbackd/loopback/exec"
	"github.com/loopbackd/loopback/host"
	"github.com/loopbackd/loopback/test/daemon"
	"github.com/loopbackd/loopback/test/fleet"
	"github.com/loopbackd/loopback/wire"
)

var program string // loopbackd, built once

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "loopback-exec-*")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	if program, err = daemon.Build(context.Background(), dir); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

func start(t *testing.T) *daemon.Daemon {
	t.Helper()
	if testing.Short() {
		t.Skip("loopbackd is started as a process of its own: not in the quick part")
	}
	d, err := daemon.Start(t.Context(), daemon.Options{Program: program, Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Kill(); err != nil {
			t.Error(err)
		}
		if log, err := d.Log(); t.Failed() && err == nil {
			t.Logf("end of the control plane's log: %s", log[max(0, len(log)-4000):])
		}
	})
	return d
}

func must[T any](r *connect.Response[T], err error) *T {
	if err != nil {
		panic(err)
	}
	return r.Msg
}

// operator is a client that may run commands for an hour, and what its right rests on.
func operator(t *testing.T, d *daemon.Daemon) (c *daemon.Client, binding string) {
	t.Helper()
	ctx := t.Context()
	account := must(d.Accounts.CreateServiceAccount(ctx, connect.NewRequest(&pb.CreateServiceAccountRequest{Name: "runner"})))
	must(d.Bindings.CreateBinding(ctx, connect.NewRequest(&pb.CreateBindingRequest{ServiceAccount: account.Id, Role: "member"})))
	role := must(d.Roles.CreateRole(ctx, connect.NewRequest(&pb.CreateRoleRequest{Name: "commands", Permissions: []string{"exec.run", "exec.read", "exec.cancel", "hosts.read"}})))
	b := must(d.Bindings.CreateBinding(ctx, connect.NewRequest(&pb.CreateBindingRequest{ServiceAccount: account.Id, Role: role.Id, NotAfter: timestamppb.New(time.Now().Add(time.Hour))})))
	key := must(d.APIKeys.CreateApiKey(ctx, connect.NewRequest(&pb.CreateApiKeyRequest{Name: "runner", ServiceAccount: account.Id, Permissions: []string{"*", "exec.run"}})))
	return d.As(key.Secret), b.Id
}

func because(q *pb.StartExecRequest) *connect.Request[pb.StartExecRequest] {
	r := connect.NewRequest(q)
	r.Header().Set("Loopback-Reason", "a test")
	return r
}

// outcome is what a watcher has seen of a run.
type outcome struct {
	run    *pb.Exec
	hosts  map[string]*pb.ExecHost // by name
	output map[string]*[2]bytes.Buffer
	at     map[string]time.Time // when a host was first seen over
}

func (o *outcome) stdout(name string) string {
	h := o.hosts[name]
	if b := o.output[h.GetHostId()]; b != nil {
		return b[0].String()
	}
	return ""
}

func watch(t *testing.T, c *daemon.Client, id string, seen func(*pb.ExecEvent)) *outcome {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	o := &outcome{hosts: map[string]*pb.ExecHost{}, output: map[string]*[2]bytes.Buffer{}, at: map[string]time.Time{}}
	s, err := c.Execs.WatchExec(ctx, connect.NewRequest(&pb.WatchExecRequest{Exec: id, Follow: true}))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for s.Receive() {
		e := s.Msg()
		switch {
		case e.GetExec() != nil:
			o.run = e.GetExec()
		case e.GetHost() != nil:
			h := e.GetHost()
			o.hosts[h.Host] = h
			if _, known := o.at[h.Host]; !known && exec.HostState(h.State).Over() {
				o.at[h.Host] = time.Now()
			}
		case e.GetOutput() != nil:
			out := e.GetOutput()
			if o.output[out.HostId] == nil {
				o.output[out.HostId] = &[2]bytes.Buffer{}
			}
			i := 0
			if out.Channel == "stderr" {
				i = 1
			}
			o.output[out.HostId][i].Write(out.Data)
		}
		if seen != nil {
			seen(e)
		}
	}
	if err := s.Err(); err != nil {
		t.Fatal(err)
	}
	return o
}

func hosts(t *testing.T, d *daemon.Daemon, n int, change func(i int, a *fleet.Agent)) *fleet.Fleet {
	t.Helper()
	m, err := d.Mint(t.Context(), n)
	if err != nil {
		t.Fatal(err)
	}
	f := fleet.Run(t.Context(), n, 64, func(i int) *fleet.Agent {
		a := &fleet.Agent{Dialer: d.Dialer(wire.WebSocket, i), Token: m.GetSecret(), Patience: 200 * time.Millisecond}
		change(i, a)
		return a
	})
	t.Cleanup(f.Stop)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	if err := f.Wait(ctx, func(c fleet.Counts) bool { return c.Linked == n }); err != nil {
		t.Fatalf("only %d of %d agents are linked", f.Counts().Linked, n)
	}
	return f
}

// TestDeadHostsHoldNobodyUp runs a command on many hosts of which some never answer and some never end: all others have answered
// soon, and those are named.
func TestDeadHostsHoldNobodyUp(t *testing.T) {
	n := 200
	if os.Getenv("LOOPBACK_SOAK") != "" {
		n = 1000
	}
	d := start(t)
	c, _ := operator(t, d)
	hosts(t, d, n, func(i int, a *fleet.Agent) {
		switch {
		case i < 20: // dead: linked, and deaf to orders
		case i < 40:
			a.Exec = fleet.Hang
		default:
			a.Exec = fleet.Say("up\n", 0)
		}
	})
	began := time.Now()
	run := must(c.Execs.StartExec(t.Context(), because(&pb.StartExecRequest{Workspace: "default", All: true, Concurrency: 1000, Command: &pb.ExecCommand{
		Arguments: []string{"uptime"}, Timeout: durationpb.New(5 * time.Second)}})))
	o := watch(t, c, run.Id, nil)
	var last time.Duration
	for i := range n {
		name := fmt.Sprintf("host-%05d", i)
		h := o.hosts[name]
		switch {
		case i < 20 && h.GetState() != "unreachable", i >= 20 && i < 40 && h.GetState() != "timed_out":
			t.Errorf("%s is %s: %s", name, h.GetState(), h.GetError())
		case i >= 40 && (h.GetState() != "succeeded" || o.stdout(name) != "up\n"):
			t.Errorf("%s is %s and wrote %q: %s", name, h.GetState(), o.stdout(name), h.GetError())
		case i >= 40:
			last = max(last, o.at[name].Sub(began))
		}
	}
	if o.run.GetState() != "failed" || o.run.GetHosts()["unreachable"] != 20 || o.run.GetHosts()["timed_out"] != 20 {
		t.Errorf("the run is %s: %v", o.run.GetState(), o.run.GetHosts())
	}
	t.Logf("the last of %d hosts that live was seen to have answered after %v", n-40, last)
}

// TestATallyIsOfNow asks how many hosts are how far while a command goes on, and once it has ended: one run, the list, and a watcher
// are told the same.
func TestATallyIsOfNow(t *testing.T) {
	d := start(t)
	c, _ := operator(t, d)
	hosts(t, d, 3, func(i int, a *fleet.Agent) {
		a.Exec = fleet.Hang
		if i == 0 {
			a.Exec = fleet.Say("up\n", 0)
		}
	})
	tally := func() [2]map[string]int32 {
		t.Helper()
		list := must(c.Execs.ListExecs(t.Context(), connect.NewRequest(&pb.ListExecsRequest{})))
		one := must(c.Execs.GetExec(t.Context(), connect.NewRequest(&pb.GetExecRequest{Exec: list.Items[0].Id})))
		return [2]map[string]int32{list.Items[0].Hosts, one.Hosts}
	}
	total := func(of map[string]int32) (n int32) {
		for _, v := range of {
			n += v
		}
		return n
	}
	run := must(c.Execs.StartExec(t.Context(), because(&pb.StartExecRequest{Workspace: "default", All: true, Command: &pb.ExecCommand{Arguments: []string{"uptime"}, Timeout: durationpb.New(time.Second)}})))
	var once sync.Once
	var heard map[string]int32
	o := watch(t, c, run.Id, func(e *pb.ExecEvent) {
		if r := e.GetExec(); r.GetState() == "running" && r.Hosts["succeeded"] == 1 {
			heard = r.Hosts
			once.Do(func() {
				for i, of := range tally() {
					if of["succeeded"] != 1 || of["waiting"] != 0 || total(of) != 3 {
						t.Errorf("with one of three done, %s says %v", []string{"the list", "the run"}[i], of)
					}
				}
			})
		}
	})
	if heard == nil || total(heard) != 3 {
		t.Errorf("a watcher was told %v while it went on", heard)
	}
	ended := tally()
	for i, of := range append(ended[:], o.run.Hosts) {
		if want := map[string]int32{"succeeded": 1, "timed_out": 2}; !maps.Equal(of, want) {
			t.Errorf("once it has ended, %s says %v; wanted %v", []string{"the list", "the run", "a watcher"}[i], of, want)
		}
	}
}

// machine gives an agent the executor of real agents.
func machine(t *testing.T, a *fleet.Agent, allow host.Ceiling) {
	t.Helper()
	x := agentexec.New(agentexec.Options{Dir: filepath.Join(t.TempDir(), "orders"), Allow: allow, Now: time.Now, Runner: agentexec.Plain{}})
	t.Cleanup(x.Close)
	a.Carry(x)
}

func sh(line string) *pb.ExecCommand {
	return &pb.ExecCommand{Arguments: []string{line}, Shell: true, Timeout: durationpb.New(20 * time.Second)}
}

func TestRealCommands(t *testing.T) {
	d := start(t)
	c, binding := operator(t, d)
	hosts(t, d, 2, func(i int, a *fleet.Agent) { machine(t, a, host.Ceiling{Exec: i == 0}) })
	exec1 := func(t *testing.T, command *pb.ExecCommand) (*pb.ExecHost, string, string) {
		t.Helper()
		run := must(c.Execs.StartExec(t.Context(), because(&pb.StartExecRequest{Workspace: "default", Hosts: []string{"host-00000"}, Command: command})))
		o := watch(t, c, run.Id, nil)
		h := o.hosts["host-00000"]
		if b := o.output[h.HostId]; b != nil {
			return h, b[0].String(), b[1].String()
		}
		return h, "", ""
	}
	t.Run("both outputs and the code", func(t *testing.T) {
		h, out, err := exec1(t, sh("echo out; echo err >&2; exit 7"))
		if h.State != "failed" || h.ExitCode == nil || *h.ExitCode != 7 || out != "out\n" || err != "err\n" {
			t.Errorf("%s, code %v, %q, %q: %s", h.State, h.ExitCode, out, err, h.Error)
		}
	})
	t.Run("arguments are not looked at by a shell", func(t *testing.T) {
		_, out, _ := exec1(t, &pb.ExecCommand{Arguments: []string{"printf", "%s|", "a b", "$HOME", "*", "'"}})
		if out != "a b|$HOME|*|'|" {
			t.Errorf("got %q", out)
		}
	})
	t.Run("standard input and bytes of all kinds", func(t *testing.T) {
		in := []byte{0, 255, 254, '\n', 0xc3, 0x28, 'x'}
		_, out, _ := exec1(t, &pb.ExecCommand{Arguments: []string{"cat"}, Stdin: in})
		if out != string(in) {
			t.Errorf("got %q, want %q", out, in)
		}
	})
	t.Run("a flood is bounded, and says by how much", func(t *testing.T) {
		h, out, _ := exec1(t, sh("head -c 30000000 /dev/zero"))
		if h.State != "succeeded" || len(out) != exec.MaxKept || h.StdoutBytes != 30_000_000 || h.DroppedBytes != 30_000_000-exec.MaxKept {
			t.Errorf("%s: %d bytes kept of %d, %d dropped", h.State, len(out), h.StdoutBytes, h.DroppedBytes)
		}
	})
	t.Run("a program that is not there", func(t *testing.T) {
		h, _, _ := exec1(t, &pb.ExecCommand{Arguments: []string{"no-such-program"}})
		if h.State != "failed" || h.ErrorCode != "program_not_found" || h.ExitCode != nil {
			t.Errorf("%s, %s, code %v", h.State, h.ErrorCode, h.ExitCode)
		}
	})
	t.Run("what it leaves in the background ends with it", func(t *testing.T) {
		mark := filepath.Join(t.TempDir(), "pid")
		h, _, _ := exec1(t, sh("setsid sleep 1000 & echo $! > "+mark+"; sleep 0.2"))
		if h.State != "succeeded" {
			t.Errorf("%s: %s", h.State, h.Error)
		}
		gone(t, mark)
	})
	t.Run("its time is over", func(t *testing.T) {
		command := sh("sleep 1000")
		command.Timeout = durationpb.New(time.Second)
		if h, _, _ := exec1(t, command); h.State != "timed_out" {
			t.Errorf("%s: %s", h.State, h.Error)
		}
	})
	t.Run("cancelled, a fork bomb with it", func(t *testing.T) {
		mark := filepath.Join(t.TempDir(), "pid")
		run := must(c.Execs.StartExec(t.Context(), because(&pb.StartExecRequest{Workspace: "default", Hosts: []string{"host-00000"},
			Command: sh("for i in 1 2 3 4 5 6 7 8; do (while :; do setsid sleep 0.05 & wait; done) & done; echo $$ > " + mark + "; echo go; wait")})))
		var once sync.Once
		o := watch(t, c, run.Id, func(e *pb.ExecEvent) {
			if e.GetOutput() != nil {
				once.Do(func() { must(c.Execs.CancelExec(t.Context(), connect.NewRequest(&pb.CancelExecRequest{Exec: run.Id}))) })
			}
		})
		if h := o.hosts["host-00000"]; o.run.State != "cancelled" || h.State != "cancelled" {
			t.Errorf("the run is %s, its host %s: %s", o.run.State, h.State, h.Error)
		}
		gone(t, mark)
	})
	t.Run("the host's own ceiling", func(t *testing.T) {
		run := must(c.Execs.StartExec(t.Context(), because(&pb.StartExecRequest{Workspace: "default", Hosts: []string{"host-00001"}, Command: sh("true")})))
		h := watch(t, c, run.Id, nil).hosts["host-00001"]
		if h.State != "refused" || h.ErrorCode != "exec_not_allowed" || !strings.Contains(h.Hint, "exec: true") {
			t.Errorf("%s, %s: %s", h.State, h.ErrorCode, h.Hint)
		}
	})
	t.Run("who may not, and who says no why", func(t *testing.T) {
		q := &pb.StartExecRequest{Workspace: "default", Hosts: []string{"host-00000"}, Command: sh("true")}
		if _, err := d.Execs.StartExec(t.Context(), because(q)); connect.CodeOf(err) != connect.CodePermissionDenied {
			t.Errorf("the administrator's key without a grant: %v", err)
		}
		if _, err := c.Execs.StartExec(t.Context(), connect.NewRequest(q)); connect.CodeOf(err) != connect.CodeInvalidArgument {
			t.Errorf("without a reason: %v", err)
		}
	})
	t.Run("a run goes on where the control plane was killed", func(t *testing.T) {
		run := must(c.Execs.StartExec(t.Context(), because(&pb.StartExecRequest{Workspace: "default", Hosts: []string{"host-00000"},
			Command: sh("for i in $(seq 1 40); do echo line $i; sleep 0.1; done")})))
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		s, err := c.Execs.WatchExec(ctx, connect.NewRequest(&pb.WatchExecRequest{Exec: run.Id, Follow: true}))
		if err != nil {
			t.Fatal(err)
		}
		for s.Receive() && s.Msg().GetOutput() == nil {
		}
		_ = s.Close()
		if err := d.Kill(); err != nil {
			t.Fatal(err)
		}
		if err := d.Restart(t.Context()); err != nil {
			t.Fatal(err)
		}
		o := watch(t, c, run.Id, nil)
		var want strings.Builder
		for i := range 40 {
			want.WriteString("line " + strconv.Itoa(i+1) + "\n")
		}
		if h := o.hosts["host-00000"]; h.State != "succeeded" || o.stdout("host-00000") != want.String() {
			t.Errorf("%s: %s; it wrote %q", h.State, h.Error, o.stdout("host-00000"))
		}
	})
	t.Run("the right ends while it runs", func(t *testing.T) {
		run := must(c.Execs.StartExec(t.Context(), because(&pb.StartExecRequest{Workspace: "default", Hosts: []string{"host-00000"}, Command: sh("echo go; sleep 1000")})))
		admin := d.Client
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		s, err := admin.Execs.WatchExec(ctx, connect.NewRequest(&pb.WatchExecRequest{Exec: run.Id, Follow: true}))
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		var last *pb.ExecHost
		ended := false
		for s.Receive() {
			if s.Msg().GetOutput() != nil && !ended {
				ended = true
				must(d.Bindings.DeleteBinding(ctx, connect.NewRequest(&pb.DeleteBindingRequest{Binding: binding})))
			}
			if h := s.Msg().GetHost(); h != nil {
				last = h
			}
		}
		if err := s.Err(); err != nil || last.GetState() != "cancelled" {
			t.Errorf("%v; the host is %s", err, last.GetState())
		}
	})
}

// gone waits until a process that wrote its id to a file is not there any more.
func gone(t *testing.T, mark string) {
	t.Helper()
	b, err := os.ReadFile(mark)
	if err != nil {
		t.Fatal(err)
	}
	pid := strings.TrimSpace(string(b))
	for range 200 {
		stat, err := os.ReadFile("/proc/" + pid + "/stat")
		if err != nil || strings.Contains(string(stat), ") Z ") {
			return
		}
		time.Sleep(10 * time.Millisecond) // nothing tells of the end of somebody else's child
	}
	t.Errorf("process %s is still there", pid)
}

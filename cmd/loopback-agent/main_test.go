package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/loopbackd/loopback/agent/link"
	"github.com/loopbackd/loopback/agent/state"
	"github.com/loopbackd/loopback/agent/status"
	pb "github.com/loopbackd/loopback/api/loopback/v1"
	"github.com/loopbackd/loopback/section"
	"github.com/loopbackd/loopback/settings"
	"github.com/loopbackd/loopback/test/controltest"
)

var build = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "loopback-agent-")
	if err != nil {
		return "", err
	}
	program := filepath.Join(dir, "loopback-agent")
	out, err := exec.Command("go", "build", "-ldflags", "-X main.version=1.2.3", "-o", program, ".").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%w: %s", err, out)
	}
	return program, nil
})

func TestMain(m *testing.M) {
	code := m.Run()
	if program, err := build(); err == nil {
		_ = os.RemoveAll(filepath.Dir(program))
	}
	os.Exit(code)
}

// host is an enrolled host whose agent is a process of its own.
type host struct {
	program, config, state, socket, id string
}

func enrol(t *testing.T, control *controltest.Server, rotate time.Duration) host {
	t.Helper()
	program, err := build()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	h := host{program: program, config: filepath.Join(dir, "agent.yaml"), state: filepath.Join(dir, "state"), socket: filepath.Join(dir, "agent.sock")}
	c := control.Config()
	c.KeyRotation = rotate
	if _, err := c.Save(h.config); err != nil {
		t.Fatal(err)
	}
	store, err := state.Open(h.state)
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	i, err := link.Enrol(ctx, link.EnrolOptions{Config: c, Store: store, Token: control.Token(), HostName: "web-1"})
	if err != nil {
		t.Fatal(err)
	}
	h.id = i.HostID
	return h
}

func (h host) command(name string, args ...string) *exec.Cmd {
	return exec.Command(h.program, append([]string{name}, args...)...)
}

func (h host) run() *exec.Cmd {
	c := h.command("run", "--config", h.config, "--state-dir", h.state, "--socket", h.socket)
	c.Stderr = os.Stderr
	if !testing.Verbose() {
		c.Stderr = nil
	}
	return c
}

// status runs `status --wait` and returns what it printed and its exit code.
func (h host) status(t *testing.T, wait string) (status.Report, int) {
	t.Helper()
	c := h.command("status", "-o", "json", "--socket", h.socket, "--wait", wait)
	out, err := c.Output()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	var r status.Report
	if len(out) > 0 {
		if err := json.Unmarshal(out, &r); err != nil {
			t.Fatalf("status printed %q: %v", out, err)
		}
	}
	return r, c.ProcessState.ExitCode()
}

func compiled(t *testing.T, number uint64) section.Section {
	t.Helper()
	v, err := settings.Settings{Labels: map[string]string{"n": strconv.FormatUint(number, 10)}}.Section(section.Revision{Epoch: 1, Number: number})
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func TestTheServiceFromStartToStop(t *testing.T) {
	var control controltest.Server // its zero value is usable
	control.Start(t)
	h := enrol(t, &control, time.Hour)
	if _, code := h.status(t, "0s"); code != 7 {
		t.Errorf("status without an agent: got exit code %d; want 7", code)
	}
	control.Desire(compiled(t, 1))
	agent := h.run()
	if err := agent.Start(); err != nil {
		t.Fatal(err)
	}
	r, code := h.status(t, "20s")
	if code != 0 || !r.OK || r.HostID != h.id || r.Version != "1.2.3" || r.Endpoint != control.URL() || len(r.Sections) != 1 || r.Sections[0].Revision != "1.1" {
		t.Errorf("got %+v, exit code %d; want all well, 0", r, code)
	}
	out, err := h.command("doctor", "--config", h.config, "--state-dir", h.state, "--socket", h.socket).CombinedOutput()
	if err != nil {
		t.Errorf("doctor: %v\n%s", err, out)
	}
	t.Logf("doctor says:\n%s", out)
	out, _ = h.command("status", "--socket", h.socket).CombinedOutput()
	t.Logf("status says:\n%s", out)
	t.Logf("resident memory: %s", resident(t, agent.Process.Pid))

	second := h.run()
	second.Stderr = nil
	if out, err := second.CombinedOutput(); second.ProcessState.ExitCode() != 6 || !strings.Contains(string(out), "hint: there is one agent on a host") {
		t.Errorf("a second agent: got %v, %q; want exit code 6 and a hint", err, out)
	}
	if err := agent.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := agent.Wait(); err != nil {
		t.Errorf("after SIGTERM: %v; want exit code 0", err)
	}
	control.Wait(t, "goodbye", h.id, func(x *controltest.Host) bool { return x.Goodbyes == 1 })
}

func resident(t *testing.T, pid int) string {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for line := range strings.Lines(string(b)) {
		if strings.HasPrefix(line, "VmRSS") || strings.HasPrefix(line, "RssAnon") {
			out = append(out, strings.Join(strings.Fields(line), " "))
		}
	}
	return strings.Join(out, ", ")
}

// The agent is killed at random moments, while sections change, keys rotate and answers are lost. Whatever the moment,
// the next one starts from what is on disk; the control plane of the test fails should a replaced key ever come back.
func TestSIGKILLAtAnyMomentLosesNothing(t *testing.T) {
	kills := 25
	if testing.Short() {
		kills = 5
	}
	if n, err := strconv.Atoi(os.Getenv("LOOPBACK_KILLS")); err == nil {
		kills = n
	}
	seed := uint64(time.Now().UnixNano())
	if s, err := strconv.ParseUint(os.Getenv("LOOPBACK_SEED"), 10, 64); err == nil {
		seed = s
	}
	t.Logf("LOOPBACK_SEED=%d LOOPBACK_KILLS=%d", seed, kills)
	random := rand.New(rand.NewPCG(seed, 1))
	var mu sync.Mutex
	lossy := false
	control := controltest.Server{Lose: func(f *pb.ServerFrame) bool {
		mu.Lock()
		defer mu.Unlock()
		return lossy && (f.GetWelcome() != nil || f.GetKeyAccepted() != nil) && random.IntN(4) == 0
	}}
	control.Start(t)
	h := enrol(t, &control, time.Second)
	set := func(on bool) { mu.Lock(); lossy = on; mu.Unlock() }
	set(true)
	number := uint64(1)
	control.Desire(compiled(t, number))
	for range kills {
		agent := h.run()
		if err := agent.Start(); err != nil {
			t.Fatal(err)
		}
		mu.Lock()
		life := time.Duration(random.IntN(1500)) * time.Millisecond
		mu.Unlock()
		death := time.NewTimer(life)
		changes := time.NewTicker(50 * time.Millisecond)
		for alive := true; alive; {
			select {
			case <-changes.C:
				number++
				control.Push(compiled(t, number))
			case <-death.C:
				alive = false
			}
		}
		changes.Stop()
		if err := agent.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = agent.Wait()
		if i, err := state.ReadIdentity(h.state); err != nil || i.HostID != h.id {
			t.Fatalf("after a kill: got %+v, %v; want the identity", i, err)
		}
	}
	set(false)
	before := len(control.Host(h.id).Hellos)
	agent := h.run()
	if err := agent.Start(); err != nil {
		t.Fatal(err)
	}
	control.Wait(t, "everything applied", h.id, func(x *controltest.Host) bool {
		s := x.Held["settings"]
		return len(x.Hellos) > before && x.Link != nil && s != nil && s.State == "applied" && s.Revision.Number == number
	})
	if err := agent.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := agent.Wait(); err != nil {
		t.Error(err)
	}
	known := control.Host(h.id)
	if aside, err := os.ReadDir(filepath.Join(h.state, "aside")); err != nil || len(aside) != 0 {
		t.Errorf("got %v, %v set aside; want nothing damaged", aside, err)
	}
	for i := 1; i < len(known.Hellos); i++ {
		if known.Hellos[i].Connection <= known.Hellos[i-1].Connection {
			t.Errorf("link %d has the number %d after %d", i, known.Hellos[i].Connection, known.Hellos[i-1].Connection)
		}
	}
	if known.Generation < 2 {
		t.Errorf("got generation %d; want keys rotated meanwhile", known.Generation)
	}
	t.Logf("%d kills, %d links, %d values, key generation %d", kills, len(known.Hellos), number, known.Generation)
}

func TestTheCommandLineSaysWhatIsWrong(t *testing.T) {
	program, err := build()
	if err != nil {
		t.Fatal(err)
	}
	missing := filepath.Join(t.TempDir(), "agent.yaml")
	wrong := filepath.Join(t.TempDir(), "agent.yaml")
	if err := os.WriteFile(wrong, []byte("endpoint: [x]\nverbose: 7\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		args []string
		code int
		want string
	}{
		{nil, 2, "usage: loopback-agent COMMAND"},
		{[]string{"help"}, 0, "status"},
		{[]string{"version"}, 0, "1.2.3\n"},
		{[]string{"version", "-o", "json"}, 0, `"version": "1.2.3"`},
		{[]string{"version", "-o", "xml"}, 2, "allowed are table and json"},
		{[]string{"fly"}, 2, `there is no command "fly"`},
		{[]string{"run", "--help"}, 0, "--state-dir"},
		{[]string{"run", "--speed", "9"}, 2, "hint: loopback-agent run --help"},
		{[]string{"run", "now"}, 2, `takes no argument "now"`},
		{[]string{"run", "--config", missing}, 6, "hint: install the agent"},
		{[]string{"run", "--config", wrong}, 2, "line 1: endpoint is not a setting; did you mean endpoints?; line 2: verbose is a number"},
	} {
		cmd := exec.Command(program, c.args...)
		out, _ := cmd.CombinedOutput()
		if cmd.ProcessState.ExitCode() != c.code || !strings.Contains(string(out), c.want) {
			t.Errorf("%v: got %d, %q; want %d, %q", c.args, cmd.ProcessState.ExitCode(), out, c.code, c.want)
		}
	}
}

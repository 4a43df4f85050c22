package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/loopbackd/loopback/test/e2e/controlplane"
	"github.com/loopbackd/loopback/test/lab"
)

// world is a network of real machines and a control plane that they can reach.
type world struct {
	*controlplane.ControlPlane
	network  *lab.Network
	machines map[string]*lab.Machine
}

// newNetwork makes a network for one test, or skips it with the name of what is missing.
func newNetwork(t *testing.T, name string) *lab.Network {
	t.Helper()
	if testing.Short() || os.Getenv("LOOPBACK_TEST_SHORT") != "" {
		t.Skip("real machines are left out of the short tests")
	}
	lab.Require(t)
	n, err := lab.New(t.Context(), name, lab.Options{})
	lab.SkipUnsupported(t, err)
	t.Cleanup(func() {
		if err := n.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return n
}

// newWorld boots machines together while the control plane starts.
func newWorld(t *testing.T, name string, args []string, machines ...string) *world {
	t.Helper()
	n := newNetwork(t, name)
	w := &world{network: n, machines: map[string]*lab.Machine{}}
	booted := make(chan error, 1)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go func() { booted <- w.boot(ctx, machines...) }()
	w.ControlPlane = controlplane.Start(t, controlplane.Options{Address: n.HostAddress(), Args: args})
	if err := <-booted; err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if !t.Failed() {
			return
		}
		for name, m := range w.machines {
			ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
			r, err := m.Exec(ctx, "journalctl", "--no-pager", "--unit=loopback*", "--lines=60")
			cancel()
			t.Logf("%s tells: %s%v", name, r.Stdout, err)
		}
	})
	return w
}

func (w *world) boot(ctx context.Context, names ...string) error {
	var options []lab.MachineOptions
	for _, name := range names {
		options = append(options, lab.MachineOptions{Name: name})
	}
	machines, err := w.network.BootAll(ctx, options...)
	for _, m := range machines {
		w.machines[m.Name()] = m
	}
	return err
}

// run runs a shell script inside a machine.
func run(t testing.TB, m *lab.Machine, script string) lab.Result {
	t.Helper()
	return runInput(t, m, "", script)
}

func runInput(t testing.TB, m *lab.Machine, stdin, script string) lab.Result {
	t.Helper()
	var out, errs bytes.Buffer
	code, err := m.Run(t.Context(), lab.Command{Args: []string{"sh", "-c", script}, Stdin: strings.NewReader(stdin), Stdout: &out, Stderr: &errs})
	if err != nil {
		t.Fatal(err)
	}
	return lab.Result{Stdout: out.String(), Stderr: errs.String(), ExitCode: code}
}

// must runs a shell script inside a machine, which has to succeed, and returns what it printed.
func must(t testing.TB, m *lab.Machine, script string) string {
	t.Helper()
	r := run(t, m, script)
	if r.ExitCode != 0 {
		t.Fatalf("%s on %s: exit code %d, wanted 0\n%s%s", script, m.Name(), r.ExitCode, r.Stdout, r.Stderr)
	}
	return strings.TrimSpace(r.Stdout)
}

// install runs the install command as it is shown, with further words for the script. The token goes in by standard
// input and from there into the environment, as the contract says; it is in nobody's arguments.
func install(t testing.TB, m *lab.Machine, command, secret string, words ...string) lab.Result {
	t.Helper()
	if len(words) > 0 {
		command += " -s -- " + strings.Join(words, " ")
	}
	return runInput(t, m, secret, "LOOPBACK_TOKEN=$(cat) && export LOOPBACK_TOKEN && "+command)
}

// enrol installs, which has to succeed, and returns how long it took.
func (w *world) enrol(t testing.TB, name string, mint ...string) time.Duration {
	t.Helper()
	token := w.Mint(t, mint...)
	start := time.Now()
	r := install(t, w.machines[name], token.InstallCommand, token.Secret)
	if r.ExitCode != 0 {
		t.Fatalf("installing on %s: exit code %d, wanted 0\n%s%s", name, r.ExitCode, r.Stdout, r.Stderr)
	}
	return time.Since(start)
}

// enrolAll installs on machines together.
func (w *world) enrolAll(t testing.TB, names ...string) {
	t.Helper()
	token := w.Mint(t, "--max-uses", "100")
	type outcome struct {
		name string
		text string
		code int
		err  error
	}
	results := make(chan outcome, len(names))
	for _, name := range names {
		go func() {
			var out bytes.Buffer
			code, err := w.machines[name].Run(t.Context(), lab.Command{
				Args:  []string{"sh", "-c", "LOOPBACK_TOKEN=$(cat) && export LOOPBACK_TOKEN && " + token.InstallCommand},
				Stdin: strings.NewReader(token.Secret), Stdout: &out, Stderr: &out,
			})
			results <- outcome{name, out.String(), code, err}
		}()
	}
	for range names {
		if r := <-results; r.err != nil || r.code != 0 {
			t.Errorf("installing on %s: exit code %d, %v\n%s", r.name, r.code, r.err, r.text)
		}
	}
	if t.Failed() {
		t.FailNow()
	}
}

// agentStatus is what `loopback-agent status -o json` says.
type agentStatus struct {
	State, Standing, Transport, Reason, HostID, HostName, Version string
	Since                                                         time.Time
	OK                                                            bool
	Sections                                                      []struct{ Name, Status, Revision, Message string }
	LastError                                                     *struct{ Code, Message, Hint string }
}

func status(t testing.TB, m *lab.Machine) agentStatus {
	t.Helper()
	r := run(t, m, "loopback-agent status -o json")
	var out agentStatus
	if err := json.Unmarshal([]byte(r.Stdout), &out); err != nil {
		t.Fatalf("loopback-agent status on %s: %v\n%s%s", m.Name(), err, r.Stdout, r.Stderr)
	}
	return out
}

func mainPID(t testing.TB, m *lab.Machine) string {
	t.Helper()
	return must(t, m, "systemctl show -p MainPID --value loopback-agent")
}

// files lists every file of a machine that outlives a reboot or lies in /run, but for what systemd and the logs do by
// themselves.
func files(t testing.TB, m *lab.Machine) []string {
	t.Helper()
	list := must(t, m, `find / /run -xdev \( -path /proc -o -path /sys -o -path /tmp -o -path /var/tmp -o -path /var/log -o -path /var/lib/systemd \
		-o -path /run/systemd -o -path /run/log -o -path /run/user -o -path /run/credentials -o -path /run/dbus -o -path /run/host \) -prune -o -print | LC_ALL=C sort -u`)
	return strings.Split(list, "\n")
}

// difference is what is in a and not in b.
func difference(a, b []string) (out []string) {
	in := map[string]bool{}
	for _, each := range b {
		in[each] = true
	}
	for _, each := range a {
		if !in[each] {
			out = append(out, each)
		}
	}
	return out
}

type controlHost = controlplane.Host

// await asks until it is so.
func await(t testing.TB, within time.Duration, what string, so func() bool) {
	t.Helper()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for start := time.Now(); !so(); <-tick.C {
		if time.Since(start) > within {
			t.Fatalf("after %s: not yet %s", within, what)
		}
	}
}

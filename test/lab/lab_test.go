package lab_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/loopbackd/loopback/test/lab"
)

// network makes a network for one test; its end removes it.
func network(t *testing.T, name string) *lab.Network {
	t.Helper()
	lab.Require(t)
	n, err := lab.New(t.Context(), name, lab.Options{})
	lab.SkipUnsupported(t, err)
	t.Cleanup(func() {
		if err := n.Close(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
	})
	return n
}

func boot(t *testing.T, n *lab.Network, names ...string) []*lab.Machine {
	t.Helper()
	var options []lab.MachineOptions
	for _, name := range names {
		options = append(options, lab.MachineOptions{Name: name})
	}
	start := time.Now()
	machines, err := n.BootAll(t.Context(), options...)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d machines booted together in %v", len(names), time.Since(start).Round(time.Millisecond))
	return machines
}

// must runs a command that has to succeed and returns what it printed.
func must(t *testing.T, m *lab.Machine, args ...string) string {
	t.Helper()
	result, err := m.Exec(t.Context(), args...)
	if err != nil {
		t.Fatal(err)
	}
	if result.ExitCode != 0 {
		t.Fatalf("%s on %s: exit code %d: %s%s", args, m.Name(), result.ExitCode, result.Stdout, result.Stderr)
	}
	return strings.TrimSpace(result.Stdout)
}

func reaches(t *testing.T, m *lab.Machine, address fmt.Stringer) bool {
	t.Helper()
	result, err := m.Exec(t.Context(), "ping", "-n", "-c1", "-W1", address.String())
	if err != nil {
		t.Fatal(err)
	}
	return result.ExitCode == 0
}

func TestMachinesAreRealAndDistinct(t *testing.T) {
	n := network(t, "test-machines")
	machines := boot(t, n, "a", "b", "c")
	seen := map[string]string{}
	for i, m := range machines {
		if got := must(t, m, "cat", "/proc/1/comm"); got != "systemd" {
			t.Errorf("process 1 of %s: got %q, want systemd", m.Name(), got)
		}
		if got := must(t, m, "hostname"); got != m.Name() {
			t.Errorf("host name: got %q, want %q", got, m.Name())
		}
		if got := must(t, m, "systemctl", "is-system-running"); got != "running" {
			t.Errorf("state of %s: got %q, want running; failed units: %s", m.Name(), got, must(t, m, "systemctl", "--failed", "--no-legend"))
		}
		for _, what := range []string{"/etc/machine-id", "/proc/sys/kernel/random/boot_id", "/sys/class/net/eth0/address"} {
			value := must(t, m, "cat", what)
			if other, taken := seen[value]; taken {
				t.Errorf("%s of %s is also that of %s: %s", what, m.Name(), other, value)
			}
			seen[value] = m.Name()
		}
		if !reaches(t, m, n.HostAddress()) {
			t.Errorf("%s does not reach this computer at %s", m.Name(), n.HostAddress())
		}
		if !reaches(t, m, n.HostAddress6()) {
			t.Errorf("%s does not reach this computer at %s", m.Name(), n.HostAddress6())
		}
		peer := machines[(i+1)%len(machines)]
		if !reaches(t, m, peer.Address()) {
			t.Errorf("%s does not reach %s at %s", m.Name(), peer.Name(), peer.Address())
		}
	}
	if _, err := n.Boot(t.Context(), lab.MachineOptions{Name: "a"}); !errors.Is(err, lab.ErrExists) {
		t.Errorf("booting a second machine a: got %v, want %v", err, lab.ErrExists)
	}
	if _, err := n.Machine("z"); !errors.Is(err, lab.ErrNotFound) {
		t.Errorf("looking for machine z: got %v, want %v", err, lab.ErrNotFound)
	}
}

func TestMachinesDoNotReachThisComputersOtherAddresses(t *testing.T) {
	n, other := network(t, "test-outside"), network(t, "test-other")
	m := boot(t, n, "a")[0]
	if reaches(t, m, other.HostAddress()) {
		t.Errorf("a machine of one network reaches %s, the address of another", other.HostAddress())
	}
	if result, err := m.Exec(t.Context(), "ping", "-n", "-c1", "-W1", "198.51.100.1"); err != nil || result.ExitCode == 0 ||
		!strings.Contains(result.Stdout, "filtered") {
		t.Errorf("ping to the outside: got %+v, %v, want it refused at once", result, err)
	}
}

func TestExec(t *testing.T) {
	m := boot(t, network(t, "test-exec"), "a")[0]

	result, err := m.Exec(t.Context(), "sh", "-c", "echo out; echo err >&2; exit 7")
	if want := (lab.Result{Stdout: "out\n", Stderr: "err\n", ExitCode: 7}); err != nil || result != want {
		t.Errorf("got %+v, %v, want %+v", result, err, want)
	}
	result, err = m.Exec(t.Context(), "no-such-program")
	if err != nil || result.ExitCode != 127 {
		t.Errorf("unknown program: got %+v, %v, want exit code 127", result, err)
	}
	result, err = m.Exec(t.Context(), "sh", "-c", "kill -TERM $$")
	if err != nil || result.ExitCode != 128+15 {
		t.Errorf("ended by SIGTERM: got %+v, %v, want exit code 143", result, err)
	}

	var out bytes.Buffer
	code, err := m.Run(t.Context(), lab.Command{
		Args:  []string{"sh", "-c", `cat; echo "$PWD $COLOUR $HOME"; id -u`},
		Stdin: strings.NewReader("from outside\n"), Stdout: &out,
		Env: []string{"COLOUR=green"}, Dir: "/var/tmp",
	})
	if want := "from outside\n/var/tmp green /root\n0\n"; err != nil || code != 0 || out.String() != want {
		t.Errorf("got %q, code %d, %v, want %q", out.String(), code, err, want)
	}

	t.Run("cancelled kills everything it started", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		reader, writer, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		defer reader.Close()
		ended := make(chan error, 1)
		go func() {
			_, err := m.Run(ctx, lab.Command{Args: []string{"sh", "-c", "setsid sleep 4321 & echo started; wait"}, Stdout: writer})
			writer.Close()
			ended <- err
		}()
		if _, err := reader.Read(make([]byte, 100)); err != nil {
			t.Fatal(err)
		}
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("got %v, want %v", err, context.Canceled)
		}
		if result, _ := m.Exec(t.Context(), "pgrep", "-f", "sleep 4321"); result.ExitCode != 1 {
			t.Errorf("still running: %s", result.Stdout)
		}
	})

	t.Run("a background process does not hold up its starter", func(t *testing.T) {
		must(t, m, "sh", "-c", "setsid sleep 8765 & true")
		if got := must(t, m, "pgrep", "-fc", "sleep 8765"); got != "1" {
			t.Errorf("got %s left running, want 1", got)
		}
	})
}

func TestFilesOnAndOff(t *testing.T) {
	m := boot(t, network(t, "test-files"), "a")[0]
	// Every byte value, and more than a pipe holds.
	content := bytes.Repeat([]byte(func() string {
		var all []byte
		for b := range 256 {
			all = append(all, byte(b))
		}
		return string(all)
	}()), 2000)
	check := func(state string) {
		t.Helper()
		name := "/opt/new folder/" + state
		if err := m.PutFile(t.Context(), name, bytes.NewReader(content), 0o640); err != nil {
			t.Fatalf("%s: %v", state, err)
		}
		got, err := m.GetFile(t.Context(), name)
		if err != nil || !bytes.Equal(got, content) {
			t.Errorf("%s: got %d bytes, %v, want the %d that were put", state, len(got), err, len(content))
		}
		if _, err := m.GetFile(t.Context(), "/no/such/file"); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: a missing file: got %v, want %v", state, err, fs.ErrNotExist)
		}
		if err := m.PutFile(t.Context(), "relative", bytes.NewReader(nil), 0o600); err == nil {
			t.Errorf("%s: a relative path was taken", state)
		}
	}
	check("on")
	if got := must(t, m, "stat", "-c", "%a %U", "/opt/new folder/on"); got != "640 root" {
		t.Errorf("mode and owner: got %s, want 640 root", got)
	}
	// A link that is absolute means the machine's root, on and off.
	must(t, m, "ln", "-s", "/etc/hostname", "/root/link")
	if err := m.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	check("off")
	if got, err := m.GetFile(t.Context(), "/root/link"); err != nil || string(got) != "a\n" {
		t.Errorf("through a link, off: got %q, %v, want the machine's own host name", got, err)
	}
	if err := m.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"on", "off"} {
		if got, err := m.GetFile(t.Context(), "/opt/new folder/"+name); err != nil || !bytes.Equal(got, content) {
			t.Errorf("file put while %s, after the restart: got %d bytes, %v", name, len(got), err)
		}
	}
}

func TestPower(t *testing.T) {
	n := network(t, "test-power")
	m := boot(t, n, "a")[0]
	bootID := func() string {
		t.Helper()
		id, err := m.BootID(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return id
	}
	ids, machineID := []string{bootID()}, must(t, m, "cat", "/etc/machine-id")
	again := func(how string, power func() error) {
		t.Helper()
		// On disk, and in the network namespace: the one stays, the other goes.
		must(t, m, "sh", "-c", "echo "+how+" >>/var/lib/history; ip link add wg9 type dummy; nft add table inet agent")
		start := time.Now()
		if err := power(); err != nil {
			t.Fatalf("%s: %v", how, err)
		}
		id := bootID()
		t.Logf("%s and up again in %v", how, time.Since(start).Round(time.Millisecond))
		if slices.Contains(ids, id) {
			t.Errorf("%s: boot id %s was seen before", how, id)
		}
		ids = append(ids, id)
		if got := must(t, m, "cat", "/etc/machine-id"); got != machineID {
			t.Errorf("%s: machine id: got %s, want %s as before", how, got, machineID)
		}
		if got := must(t, m, "tail", "-n1", "/var/lib/history"); got != how {
			t.Errorf("%s: last line written before: got %q, want %q", how, got, how)
		}
		if got := must(t, m, "sh", "-c", "ip -br link show wg9 2>/dev/null; nft list tables"); got != "" {
			t.Errorf("%s: left from before in the kernel: got %q, want nothing", how, got)
		}
		if !reaches(t, m, n.HostAddress()) {
			t.Errorf("%s: the network is not back", how)
		}
	}
	off := func() {
		t.Helper()
		if m.On() {
			t.Error("the machine is on, want off")
		}
		if _, err := m.Exec(t.Context(), "true"); err == nil {
			t.Error("a command ran on a machine that is off")
		}
		if err := exec.CommandContext(t.Context(), "ping", "-n", "-c1", "-W1", m.Address().String()).Run(); err == nil {
			t.Errorf("%s answers while the machine is off", m.Address())
		}
	}
	again("reboot", func() error { return m.Reboot(t.Context()) })
	again("shutdown", func() error {
		must(t, m, "systemd-run", "--unit=witness", "-p", "ExecStop=touch /var/lib/stopped-in-order", "sleep", "inf")
		if err := m.Shutdown(t.Context()); err != nil {
			return err
		}
		off()
		return m.Start(t.Context())
	})
	if _, err := m.GetFile(t.Context(), "/var/lib/stopped-in-order"); err != nil {
		t.Errorf("a unit was not stopped in order: %v", err)
	}
	again("kill", func() error {
		if err := m.Kill(t.Context()); err != nil {
			return err
		}
		off()
		return m.Start(t.Context())
	})
	if got := must(t, m, "sh", "-c", "journalctl --list-boots --no-pager | grep -cE '^ *-?[0-9]+ '"); got != "4" {
		t.Errorf("boots in the journal: got %s, want 4", got)
	}
	if err := m.Start(t.Context()); err != nil {
		t.Errorf("starting a machine that is on: %v", err)
	}
}

// A command that somebody runs while the machine goes down is not a child of
// its process 1, which would wait ten seconds for it; see hastenShutdown.
func TestCommandsDoNotHoldUpAShutdown(t *testing.T) {
	m := boot(t, network(t, "test-hasten"), "a")[0]
	for range 5 {
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			// Killed by the shutdown; how that shows is not the question.
			m.Exec(t.Context(), "sleep", "1000")
		}()
		for {
			if result, err := m.Exec(t.Context(), "pgrep", "-x", "sleep"); err != nil {
				t.Fatal(err)
			} else if result.ExitCode == 0 {
				break
			}
		}
		start := time.Now()
		if err := m.Shutdown(t.Context()); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(start); took > 5*time.Second {
			t.Errorf("shutdown with a command running took %v, want it well below 10 s", took)
		}
		<-ended
		if err := m.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}

func TestOpenFindsTheSameMachines(t *testing.T) {
	n := network(t, "test-open")
	m := boot(t, n, "a")[0]
	dir, err := lab.DefaultDir()
	if err != nil {
		t.Fatal(err)
	}
	opened, err := lab.Open(dir, "test-open")
	if err != nil {
		t.Fatal(err)
	}
	same, err := opened.Machine("a")
	if err != nil {
		t.Fatal(err)
	}
	if same.Address() != m.Address() || !same.On() {
		t.Errorf("got %s, on %v, want %s, on", same.Address(), same.On(), m.Address())
	}
	if got := must(t, same, "hostname"); got != "a" {
		t.Errorf("host name: got %q, want a", got)
	}
	if err := opened.Close(t.Context()); err == nil {
		t.Error("a network with a living owner was closed by another")
	}
	if _, err := lab.New(t.Context(), "test-open", lab.Options{}); !errors.Is(err, lab.ErrExists) {
		t.Errorf("a second network of the name: got %v, want %v", err, lab.ErrExists)
	}
	if swept, err := lab.Sweep(t.Context(), dir); err != nil || slices.Contains(swept, "test-open") {
		t.Errorf("sweep with the owner alive: got %v, %v, want it left alone", swept, err)
	}
	if !m.On() {
		t.Error("the machine did not survive that")
	}
	if _, err := lab.Open(filepath.Join(dir, "nowhere"), "test-open"); !errors.Is(err, lab.ErrNotFound) {
		t.Errorf("open in another folder: got %v, want %v", err, lab.ErrNotFound)
	}
}

func TestNamesAreChecked(t *testing.T) {
	for _, name := range []string{"", "A", "-a", "a-", "a_b", "../a", "a/b", "a.b", strings.Repeat("a", 41)} {
		if _, err := lab.New(t.Context(), name, lab.Options{Dir: t.TempDir()}); err == nil || !strings.Contains(err.Error(), "lower-case letters") {
			t.Errorf("name %q: got %v, want it refused", name, err)
		}
	}
}

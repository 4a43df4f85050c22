package lab_test

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/loopbackd/loopback/test/lab"
)

// traces lists all that a lab could leave on this computer, apart from its folder.
func traces(t *testing.T) []string {
	t.Helper()
	var all []string
	add := func(kind, text string) {
		for line := range strings.Lines(text) {
			if line = strings.TrimSpace(line); line != "" {
				all = append(all, kind+": "+line)
			}
		}
	}
	command := func(kind string, args ...string) {
		// A tool that has nothing to list may say so by its exit code.
		output, _ := exec.Command(args[0], args[1:]...).Output()
		add(kind, string(output))
	}
	command("link", "sh", "-c", "ip -o link | cut -d: -f2")
	command("netns", "ip", "netns")
	command("table", "nft", "list", "tables")
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	add("mount", string(mounts))
	// Kernel threads and other people's processes come and go; those of a lab
	// say so in their arguments or live in a cgroup of the lab's.
	processes, _ := filepath.Glob("/proc/[0-9]*")
	for _, each := range processes {
		arguments, _ := os.ReadFile(each + "/cmdline")
		if len(arguments) == 0 {
			continue // a kernel thread, or a zombie that init is about to reap
		}
		cgroup, _ := os.ReadFile(each + "/cgroup")
		if strings.Contains(string(cgroup), "/loopback-lab/") || regexp.MustCompile(`systemd-nspawn|power\.sh`).Match(arguments) {
			add("process", each+" "+strings.ReplaceAll(string(arguments), "\x00", " "))
		}
	}
	for _, pattern := range []string{"/run/systemd/nspawn/*/*", "/sys/fs/cgroup/loopback-lab/*", "/sys/fs/cgroup/*/loopback-lab/*"} {
		found, _ := filepath.Glob(pattern)
		add("file", strings.Join(found, "\n"))
	}
	slices.Sort(all)
	return all
}

func difference(from, to []string) []string {
	return slices.DeleteFunc(slices.Clone(to), func(each string) bool { return slices.Contains(from, each) })
}

func TestCloseLeavesNothing(t *testing.T) {
	lab.Require(t)
	dir, err := lab.DefaultDir()
	if err != nil {
		t.Fatal(err)
	}
	before := traces(t)
	n, err := lab.New(t.Context(), "test-close", lab.Options{})
	lab.SkipUnsupported(t, err)
	machines := boot(t, n, "a", "b", "c")
	if err := machines[0].SetFaults(t.Context(), lab.Faults{Loss: 0.1, Reject: []uint16{443}, Rate: 1_000_000}); err != nil {
		t.Fatal(err)
	}
	if err := machines[1].Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := machines[2].Remove(t.Context()); err != nil {
		t.Fatal(err)
	}
	if found := difference(before, traces(t)); len(found) == 0 {
		t.Error("no trace of a running network: this test does not see what it must see")
	}
	if err := n.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if left := difference(before, traces(t)); len(left) > 0 {
		t.Errorf("left behind:\n%s", strings.Join(left, "\n"))
	}
	if _, err := os.Stat(filepath.Join(dir, "networks", "test-close")); !os.IsNotExist(err) {
		t.Errorf("the network's folder: got %v, want it gone", err)
	}
	if err := n.Close(t.Context()); err != nil {
		t.Errorf("closing again: got %v, want nothing to do", err)
	}
}

// crashing is set in the process that TestSweepRemovesWhatAKilledOwnerLeft starts to be killed.
const crashing = "LAB_TEST_CRASH"

func TestSweepRemovesWhatAKilledOwnerLeft(t *testing.T) {
	lab.Require(t)
	dir, err := lab.DefaultDir()
	if err != nil {
		t.Fatal(err)
	}
	if stage := os.Getenv(crashing); stage != "" {
		crash(t, stage)
	}
	_, err = lab.Image(t.Context(), dir)
	lab.SkipUnsupported(t, err)
	before := traces(t)
	for _, stage := range []string{"made", "booting", "running"} {
		t.Run(stage, func(t *testing.T) {
			owner := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestSweepRemovesWhatAKilledOwnerLeft$", "-test.v")
			owner.Env = append(os.Environ(), crashing+"="+stage)
			output, err := owner.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := owner.Start(); err != nil {
				t.Fatal(err)
			}
			lines := bufio.NewScanner(output)
			for lines.Scan() && lines.Text() != "crash me" {
			}
			if err := owner.Process.Kill(); err != nil {
				t.Fatal(err)
			}
			if err := owner.Wait(); err == nil {
				t.Fatal("the owner ended by itself")
			}
			orphan, err := lab.Open(dir, "test-crash")
			if err != nil {
				t.Fatalf("what a killed owner left: %v", err)
			}
			if machine, err := orphan.Machine("b"); stage == "running" && (err != nil || !machine.On()) {
				t.Errorf("machine b of a killed owner: %v, want it on", err)
			}
			swept, err := lab.Sweep(t.Context(), dir)
			if err != nil {
				t.Fatal(err)
			}
			if !slices.Contains(swept, "test-crash") {
				t.Errorf("swept: got %v, want test-crash among them", swept)
			}
			if left := difference(before, traces(t)); len(left) > 0 {
				t.Errorf("left behind:\n%s", strings.Join(left, "\n"))
			}
			if names, err := lab.List(dir); err != nil || slices.Contains(names, "test-crash") {
				t.Errorf("networks left: %v, %v", names, err)
			}
		})
	}
}

// crash runs in the process to be killed. It never returns.
func crash(t *testing.T, stage string) {
	n, err := lab.New(t.Context(), "test-crash", lab.Options{})
	if err != nil {
		t.Fatal(err)
	}
	switch stage {
	case "booting":
		go n.BootAll(t.Context(), lab.MachineOptions{Name: "a"}, lab.MachineOptions{Name: "b"}, lab.MachineOptions{Name: "c"})
		for on := false; !on; {
			machines, err := n.Machines()
			if err != nil {
				t.Fatal(err)
			}
			on = slices.ContainsFunc(machines, (*lab.Machine).On)
		}
	case "running":
		machines := boot(t, n, "a", "b")
		if err := machines[0].Reject(t.Context(), 443); err != nil {
			t.Fatal(err)
		}
	}
	fmt.Println("\ncrash me")
	select {}
}

func TestKeptNetworksOutliveTheirMakerAndAreClosedByAnother(t *testing.T) {
	lab.Require(t)
	dir, err := lab.DefaultDir()
	if err != nil {
		t.Fatal(err)
	}
	_, err = lab.Image(t.Context(), dir)
	lab.SkipUnsupported(t, err)
	labctl := filepath.Join(t.TempDir(), "labctl")
	if output, err := exec.CommandContext(t.Context(), "go", "build", "-o", labctl, "./labctl").CombinedOutput(); err != nil {
		t.Fatalf("build labctl: %v: %s", err, output)
	}
	before := traces(t)
	t.Cleanup(func() { exec.Command(labctl, "down", "test-kept").Run() })
	run := func(wantCode int, args ...string) string {
		t.Helper()
		command := exec.CommandContext(t.Context(), labctl, args...)
		var stderr strings.Builder
		command.Stderr = &stderr
		output, _ := command.Output()
		if got := command.ProcessState.ExitCode(); got != wantCode {
			t.Fatalf("labctl %s: exit code %d, want %d: %s%s", strings.Join(args, " "), got, wantCode, output, stderr.String())
		}
		return string(output)
	}
	first := run(0, "up", "test-kept", "--names", "red,blue")
	bootID := run(0, "exec", "test-kept", "blue", "--", "cat", "/proc/sys/kernel/random/boot_id")
	if again := run(0, "up", "--names=red,blue", "test-kept"); again != first {
		t.Errorf("up again: got %s, want it unchanged: %s", again, first)
	}
	if got := run(0, "exec", "test-kept", "blue", "--", "cat", "/proc/sys/kernel/random/boot_id"); got != bootID {
		t.Errorf("up again: boot id %s, want %s: it must not restart machines", got, bootID)
	}
	run(7, "exec", "test-kept", "red", "--", "sh", "-c", "exit 7")
	run(2, "exec", "test-kept", "red")
	run(2, "up")
	run(1, "exec", "test-kept", "green", "--", "true")
	if swept := run(0, "sweep"); strings.Contains(swept, "test-kept") {
		t.Errorf("sweep took a kept network: %s", swept)
	}
	if list := run(0, "list", "test-kept"); list != first {
		t.Errorf("list: got %s, want %s", list, first)
	}

	t.Run("a machine reboots with nobody watching", func(t *testing.T) {
		run(0, "exec", "test-kept", "red", "--", "systemctl", "--no-block", "reboot")
		network, err := lab.Open(dir, "test-kept")
		if err != nil {
			t.Fatal(err)
		}
		red, err := network.Machine("red")
		if err != nil {
			t.Fatal(err)
		}
		for {
			if t.Context().Err() != nil || !red.On() {
				t.Fatal("the machine did not come back")
			}
			// Errors are those of a machine on its way down or up.
			result, err := red.Exec(t.Context(), "sh", "-c", `journalctl --list-boots --no-pager | grep -cE '^ *-?[0-9]+ '`)
			if err == nil && strings.TrimSpace(result.Stdout) == "2" {
				break
			}
		}
	})

	run(0, "down", "test-kept")
	run(0, "down", "test-kept")
	if left := difference(before, traces(t)); len(left) > 0 {
		t.Errorf("left behind:\n%s", strings.Join(left, "\n"))
	}
}

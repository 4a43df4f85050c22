package e2e

import (
	"strings"
	"testing"
	"time"
)

// A machine's identity is copied to another, as when somebody clones a disk. Both are locked, and say so to whoever asks
// on them; once an operator has split them, both are managed, each as a host of its own, restarts included.
func TestACopiedMachineIsLockedAndSplit(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "e2e-clone", quick, "first", "second")
	w.enrolAll(t, "first", "second")
	original, _ := w.AwaitState(t, "first", "managed", 20*time.Second)
	w.AwaitState(t, "second", "managed", 20*time.Second)
	first, second := w.machines["first"], w.machines["second"]

	must(t, second, "systemctl stop loopback-agent && rm -rf /var/lib/loopback")
	w.Must(t, "host", "remove", "second", "--yes")
	disk := must(t, first, "tar -C /var/lib -cf - loopback | base64 -w0")
	if r := runInput(t, second, disk, "base64 -d | tar -C /var/lib -xf - && systemctl start loopback-agent"); r.ExitCode != 0 {
		t.Fatalf("copying the identity: %s%s", r.Stdout, r.Stderr)
	}
	started := time.Now()
	locked, _ := w.Await(t, "first", 20*time.Second, "locked as cloned", func(h controlHost) bool {
		return h.State == "quarantined" && strings.HasPrefix(h.Reason, "cloned")
	})
	t.Logf("locked %v after the copy was switched on: %s", time.Since(started).Round(time.Millisecond), locked.Reason)
	copies := map[string]string{} // boot id by host name
	for _, c := range locked.Copies {
		copies[c.HostName] = c.BootID
	}
	if len(copies) != 2 || copies["first"] != original.Inventory.BootID || copies["second"] == "" {
		t.Fatalf("got the copies %v, wanted both machines by their boots", locked.Copies)
	}
	for name, m := range w.machines {
		await(t, 10*time.Second, name+" knows that it is locked", func() bool {
			s := status(t, m)
			return s.Standing == "quarantined" && strings.Contains(s.Reason, "cloned")
		})
	}
	if r := w.Run(t, "host", "release", "first"); r.ExitCode != 6 || !strings.Contains(r.Stderr, "host split") {
		t.Errorf("releasing a cloned host: exit code %d, %s; wanted 6 and what to do", r.ExitCode, r.Stderr)
	}

	w.Must(t, "host", "split", "first", "--keep", copies["first"], "--reason", "a cloned disk")
	mine, _ := w.Await(t, "first", 20*time.Second, "managed with a new key", func(h controlHost) bool {
		return h.State == "managed" && h.KeyGeneration == "2"
	})
	other, _ := w.Await(t, "second", 20*time.Second, "managed as a host of its own", func(h controlHost) bool { return h.State == "managed" })
	t.Logf("both are managed %v after the copy was switched on", time.Since(started).Round(time.Millisecond))
	if mine.ID != original.ID || other.ID == original.ID {
		t.Errorf("got the ids %s and %s, wanted %s kept and a new one", mine.ID, other.ID, original.ID)
	}
	check := func(when string) {
		t.Helper()
		for name, id := range map[string]string{"first": mine.ID, "second": other.ID} {
			await(t, 20*time.Second, name+" is well "+when, func() bool {
				s := status(t, w.machines[name])
				return s.OK && s.HostID == id && s.HostName == name
			})
		}
	}
	check("after the split")
	for _, m := range w.machines {
		must(t, m, "systemctl restart loopback-agent")
	}
	check("after a restart")
}

package replicas

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/loopbackd/loopback/test/fleet"
)

// The anchor key has left the control plane's machines: what it has to sign is carried to it and back.
func TestTheAnchorKeyIsKeptElsewhere(t *testing.T) {
	c := start(t, 2, "")
	const n = 6
	f := c.agents(n)
	dir := t.TempDir()
	away := filepath.Join(dir, "anchor.key")
	if err := os.Rename(filepath.Join(c.replicas[0].DataDir, "keys", "anchor.key"), away); err != nil {
		t.Fatal(err)
	}
	run := func(stdin string, args ...string) string {
		t.Helper()
		cmd := exec.CommandContext(c.within(time.Minute), program, args...)
		cmd.Stdin = strings.NewReader(stdin)
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("loopbackd %s: %v: %s", strings.Join(args, " "), err, out)
		}
		return string(out)
	}
	file := func(name string) string { return filepath.Join(dir, name) }
	here := []string{"--data-dir", c.replicas[1].DataDir, "--database", c.database} // any of them: none has the key
	with := func(args ...string) []string { return append(args, here...) }

	said := run("", with("invite", "--to", file("invitation"), "--request", file("request"))...)
	_, code, ok := strings.Cut(said, "code: ")
	if !ok {
		t.Fatalf("it says %q", said)
	}
	code, _, _ = strings.Cut(code, "\n")
	if out := run("", "keyset", "sign", "--request", file("request"), "--anchor", away, "--to", file("signed")); !strings.Contains(out, "lists replica-3") {
		t.Errorf("whoever signs is told %q", out)
	}
	if out := run("", with("keyset", "import", "--from", file("signed"))...); !strings.Contains(out, "replica-3 is listed") {
		t.Errorf("import says %q", out)
	}
	if out := run(code+"\n", "join", "--from", file("invitation"), "--keyset", file("signed"), "--data-dir", file("third")); !strings.Contains(out, "replica-3") {
		t.Errorf("join says %q", out)
	}

	gone := c.replicas[1]
	here[1] = c.replicas[0].DataDir
	run("", with("evict", "replica-2", "--request", file("request-2"))...)
	select {
	case <-gone.Ended():
		t.Fatal("it stopped before anything was signed")
	case <-time.After(5 * time.Second):
	}
	if out := run("", "keyset", "sign", "--request", file("request-2"), "--anchor", away, "--to", file("signed-2")); !strings.Contains(out, "drops replica-2") {
		t.Errorf("whoever signs is told %q", out)
	}
	run("", with("keyset", "import", "--from", file("signed-2"))...)
	select {
	case <-gone.Ended():
	case <-time.After(30 * time.Second):
		t.Fatal("the evicted replica runs on")
	}
	c.await(f, 20*time.Second, func(now fleet.Counts) bool { return now.Linked == n })
	for action, want := range map[string]string{"replicas.invite": "replica-3", "replicas.evict": "replica-2"} {
		entries, err := c.replicas[0].Entries(c.within(time.Minute), action, want)
		if err != nil || len(entries) != 1 {
			t.Errorf("the audit log has %d entries of %s %s, %v; want 1", len(entries), action, want, err)
		}
	}
	if out, err := exec.CommandContext(c.within(time.Minute), program, with("keyset", "import", "--from", file("signed"))...).CombinedOutput(); err == nil || !strings.Contains(string(out), "is here already") {
		t.Errorf("an old keyset was answered %q, %v", out, err)
	}
}

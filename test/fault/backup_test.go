package fault

import (
	"context"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"connectrpc.com/connect"

	pb "github.com/loopbackd/loopback/api/loopback/v1"
	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/test/daemon"
	"github.com/loopbackd/loopback/test/fleet"
	"github.com/loopbackd/loopback/wire"
)

// A backup taken under writes is restored elsewhere: a new epoch begins, what opened something is dead, hosts come back
// by themselves with their keys, the audit log goes on.
func TestRestoredBackupTakesTheFleetBack(t *testing.T) {
	d := start(t)
	_, secret := mint(t, d, 100_000)
	n := size(20, 500)
	f := agents(t, d, n, secret, nil)
	await(t, f, 2*time.Minute, func(c fleet.Counts) bool { return c.Linked == n })
	var linked []string
	for _, a := range f.Agents {
		linked = append(linked, a.HostID())
	}
	ctx, cancel := context.WithCancel(t.Context())
	l := &ledger{stir: make(chan struct{}), labels: map[string]int{}}
	writers := l.write(ctx, d, secret, linked)
	defer func() { cancel(); writers.Wait() }()
	if err := l.await(within(t, time.Minute), 200); err != nil {
		t.Fatal(err)
	}
	tokens, workspaces, hosts, labels := l.owed(0, 0, 0) // all of this was acknowledged before the backup began
	file := filepath.Join(t.TempDir(), "backup")
	command(t, d, "backup", "--to", file, "--data-dir", d.DataDir)
	if err := l.await(within(t, time.Minute), l.count.Load()+100); err != nil { // what the backup does not know
		t.Fatal(err)
	}
	cancel()
	writers.Wait()
	before, err := d.Entries(t.Context(), "", "")
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Kill(); err != nil {
		t.Fatal(err)
	}

	restored := d.Moved(filepath.Join(t.TempDir(), "restored"))
	command(t, d, "restore", "--from", file, "--data-dir", restored.DataDir)
	if err := restored.Restart(t.Context()); err != nil { // signs in with the new code
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := restored.Kill(); err != nil {
			t.Error(err)
		}
	})
	await(t, f, 2*time.Minute, func(c fleet.Counts) bool { return c.Linked == n && c.Links >= 2*n })

	if restored.Anchor != d.Anchor {
		t.Error("agents would have to trust another anchor")
	}
	if _, err := d.Sessions.WhoAmI(t.Context(), connect.NewRequest(&pb.WhoAmIRequest{})); connect.CodeOf(err) != connect.CodeUnauthenticated {
		t.Errorf("the old administrator's key: got %v, want unauthenticated", err)
	}
	a := &fleet.Agent{Dialer: d.Dialer(wire.WebSocket, 5000), Token: secret, Name: "late", Version: "1", BootID: "b"}
	if err := a.Enrol(t.Context()); fault.Of(err).Code != "token_revoked" {
		t.Errorf("the old token: got %v, want token_revoked", err)
	}
	there(t, restored, tokens, workspaces, hosts, labels)
	after, err := restored.Entries(t.Context(), "", "")
	if err != nil {
		t.Fatal(err)
	}
	known := map[int64]string{}
	for _, e := range before {
		known[e.GetPosition()] = e.GetId()
	}
	kept, restore := 0, false
	for i, e := range after {
		if i > 0 && after[i-1].GetPosition() != e.GetPosition()+1 {
			t.Errorf("the audit log goes from %d to %d", e.GetPosition(), after[i-1].GetPosition())
		}
		restore = restore || e.GetAction() == "deployment.restore"
		if known[e.GetPosition()] == e.GetId() {
			kept++
		}
	}
	if !restore || kept < len(tokens)+len(workspaces)+len(hosts) {
		t.Errorf("the audit log: restore noted %v, %d entries kept", restore, kept)
	}
	audited(t, restored, tokens, workspaces, hosts, labels)
	t.Logf("%d agents back; %d entries kept of %d", n, kept, len(before))
}

func command(t *testing.T, d *daemon.Daemon, args ...string) {
	t.Helper()
	if out, err := exec.CommandContext(t.Context(), d.Program(), args...).CombinedOutput(); err != nil {
		t.Fatalf("loopbackd %s: %v: %s", args[0], err, out)
	}
}

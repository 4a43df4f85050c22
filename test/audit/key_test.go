package audit

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"

	pb "github.com/loopbackd/loopback/api/loopback/v1"
)

// Who remembers, or wrote down, a key and a checkpoint from before follows the log across its key's rotation.
func TestTheLogsKeyIsRotatedAndFollowed(t *testing.T) {
	b := start(t)
	b.act(t, 3)
	b.must(t, "verified", "audit", "verify") // remembers
	before, err := b.Audit.GetCheckpoint(t.Context(), connect.NewRequest(&pb.GetCheckpointRequest{}))
	if err != nil {
		t.Fatal(err)
	}
	witness := filepath.Join(t.TempDir(), "checkpoint")
	if err := os.WriteFile(witness, []byte(before.Msg.Checkpoint), 0o600); err != nil {
		t.Fatal(err)
	}
	for i := range 2 { // and once more
		out, err := b.Run(t.Context(), "rotate-log-key")
		if err != nil {
			t.Fatal(err)
		}
		next := strings.TrimSpace(out)
		for end := time.Now().Add(time.Minute); ; {
			c, err := b.Audit.GetCheckpoint(t.Context(), connect.NewRequest(&pb.GetCheckpointRequest{}))
			if err != nil {
				t.Fatal(err)
			}
			if c.Msg.Key == next && len(c.Msg.Handovers) == i+1 {
				break
			}
			if time.Now().After(end) {
				t.Fatalf("the log is signed by %s, want %s", c.Msg.Key, next)
			}
			time.Sleep(50 * time.Millisecond) // the control plane is another process: nothing tells us
		}
		if _, err := os.Stat(filepath.Join(b.DataDir, "keys", "audit.next.key")); !os.IsNotExist(err) {
			t.Errorf("the next key still lies ready: %v", err)
		}
		b.act(t, 2)
		if code, out, complaint := b.cli(t, "audit", "verify"); code != 0 || !strings.Contains(out, "it adds to what was remembered") || !strings.Contains(complaint, "rotated") {
			t.Errorf("exit code %d, %s%s", code, out, complaint)
		}
	}
	b.must(t, "agent_tokens.mint", "audit", "list", "--limit", "1")
	b.must(t, "audit.rotate_key", "audit", "list", "--action", "audit.rotate_key")
	b.must(t, "it adds to what was remembered", "audit", "verify", "--quick", "--key", before.Msg.Key, "--checkpoint", witness)
	log := filepath.Join(t.TempDir(), "log.txt")
	b.must(t, "exported", "audit", "export", log)
	if err := b.Kill(); err != nil {
		t.Fatal(err)
	}
	b.must(t, "as a checkpoint from elsewhere saw them", "audit", "verify", log, "--key", before.Msg.Key, "--checkpoint", witness)
	b.again(t) // what was put in place is what a start finds
	b.act(t, 1)
	b.must(t, "it adds to what was remembered", "audit", "verify")

	// A key that is lost is not followed: the log goes on only once what this machine remembers is moved aside, and verifiers are told.
	if err := b.Kill(); err != nil {
		t.Fatal(err)
	}
	keys := filepath.Join(b.DataDir, "keys")
	if err := os.Remove(filepath.Join(keys, "audit.key")); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(filepath.Join(keys, "audit.checkpoint"), filepath.Join(keys, "audit.checkpoint.old")); err != nil {
		t.Fatal(err)
	}
	b.again(t)
	b.act(t, 1)
	if code, out, complaint := b.cli(t, "audit", "verify", "--quick"); code != 1 || !strings.Contains(complaint, "(other-key)") {
		t.Errorf("after the key was lost: exit code %d, %s%s", code, out, complaint)
	}
	b.home = t.TempDir() // somebody who trusts the new key
	b.must(t, "verified", "audit", "verify")
}

// Package audit proves that the audit log shows what became of it: a real control plane is driven, its database is changed
// behind its back or wholly rewritten, and the command line that verifies it has to find out.
package audit

import (
	"bytes"
	"context"
	"database/sql"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	_ "modernc.org/sqlite" // to change the database as its owner could

	pb "github.com/loopbackd/loopback/api/loopback/v1"
	"github.com/loopbackd/loopback/cli"
	"github.com/loopbackd/loopback/test/daemon"
)

var program string // loopbackd, built once

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "loopback-audit-*")
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

// bench is a control plane and somebody who verifies its log.
type bench struct {
	*daemon.Daemon
	home string // the verifier's
}

func start(t *testing.T, args ...string) *bench {
	t.Helper()
	if testing.Short() {
		t.Skip("loopbackd is started as a process of its own: not in the quick part")
	}
	d, err := daemon.Start(t.Context(), daemon.Options{Program: program, Dir: t.TempDir(), Args: args})
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
	return &bench{Daemon: d, home: t.TempDir()}
}

// act does something that is in the log, so many times.
func (b *bench) act(t *testing.T, n int) {
	t.Helper()
	for range n {
		if _, err := b.Mint(t.Context(), 1); err != nil {
			t.Fatal(err)
		}
	}
	b.signed(t)
}

// signed waits until a checkpoint covers everything that is in the log by now.
func (b *bench) signed(t *testing.T) {
	t.Helper()
	newest, err := b.Audit.ListEntries(t.Context(), connect.NewRequest(&pb.ListEntriesRequest{Page: &pb.Page{Size: 1}}))
	if err != nil {
		t.Fatal(err)
	}
	end := time.Now().Add(30 * time.Second)
	for {
		c, err := b.Audit.GetCheckpoint(t.Context(), connect.NewRequest(&pb.GetCheckpointRequest{}))
		if err == nil && c.Msg.Began+c.Msg.Size >= newest.Msg.Items[0].Position {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("no checkpoint covers entry %d: %v, %v", newest.Msg.Items[0].Position, c, err)
		}
		select {
		case <-t.Context().Done():
			t.Fatal(t.Context().Err())
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// cli runs a command as the verifier.
func (b *bench) cli(t *testing.T, args ...string) (code int, out, complaint string) {
	t.Helper()
	return b.as(t, b.Key, args...)
}

// as runs a command with a key.
func (b *bench) as(t *testing.T, key string, args ...string) (code int, out, complaint string) {
	t.Helper()
	var stdout, stderr bytes.Buffer
	env := map[string]string{"HOME": b.home, "LOOPBACK_URL": b.URL, "LOOPBACK_API_KEY": key, "LOOPBACK_CA_FILE": filepath.Join(b.DataDir, "keys", "ca.crt")}
	code = cli.Run(t.Context(), args, cli.Environment{In: strings.NewReader(""), Out: &stdout, Err: &stderr, Version: "test",
		Getenv: func(name string) string { return env[name] }})
	return code, stdout.String(), stderr.String()
}

// must runs a command that has to succeed and say something.
func (b *bench) must(t *testing.T, says string, args ...string) string {
	t.Helper()
	code, out, complaint := b.cli(t, args...)
	if code != 0 || !strings.Contains(out, says) {
		t.Fatalf("loopback %s: exit code %d, %s%s; want %q", strings.Join(args, " "), code, out, complaint, says)
	}
	return out
}

// finds runs a command that has to fail with a finding of this kind.
func (b *bench) finds(t *testing.T, kind string, args ...string) string {
	t.Helper()
	code, out, complaint := b.cli(t, args...)
	if code != 1 || !strings.Contains(complaint, "("+kind+")") {
		t.Fatalf("loopback %s: exit code %d, %s%s; want it to find %q", strings.Join(args, " "), code, out, complaint, kind)
	}
	return complaint
}

// owner changes the database while nothing runs, as whoever owns the machine can.
func (b *bench) owner(t *testing.T, statements ...string) {
	t.Helper()
	if err := b.Kill(); err != nil {
		t.Fatal(err)
	}
	db, err := sql.Open("sqlite", filepath.Join(b.DataDir, "loopback.db"))
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range statements {
		if _, err := db.ExecContext(t.Context(), s); err != nil {
			t.Fatalf("%s: %v", s, err)
		}
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
}

// again starts the control plane once more.
func (b *bench) again(t *testing.T) {
	t.Helper()
	if err := b.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func TestALogThatOnlyGrewIsVerifiedAndRemembered(t *testing.T) {
	b := start(t)
	b.act(t, 5)
	b.must(t, "verified", "audit", "verify")
	b.act(t, 5)
	b.must(t, "it adds to what was remembered", "audit", "verify", "--quick")
	b.must(t, "it adds to what was remembered", "audit", "verify")
	if err := b.Kill(); err != nil {
		t.Fatal(err)
	}
	b.again(t)
	b.act(t, 1)
	b.must(t, "it adds to what was remembered", "audit", "verify")
	entries, err := b.Entries(t.Context(), "agent_tokens.mint", "")
	if err != nil || len(entries) == 0 {
		t.Fatal(len(entries), err)
	}
	b.must(t, "it is leaf", "audit", "verify", entries[0].Id)
	if e := entries[0]; !strings.HasPrefix(e.Actor.Principal, "usr_") || !strings.HasPrefix(e.Actor.Id, "key_") || !strings.HasPrefix(e.Decision, "bnd_") || e.Snapshot == 0 {
		t.Errorf("got %v, want on whose behalf, by which key, by which binding of which rules", e)
	}
}

func TestAnExportIsVerifiedWithNothingButKeyAndCheckpoint(t *testing.T) {
	b := start(t)
	b.act(t, 3)
	witness := filepath.Join(t.TempDir(), "checkpoint")
	code, note, complaint := b.cli(t, "audit", "checkpoint")
	if code != 0 {
		t.Fatal(complaint)
	}
	if err := os.WriteFile(witness, []byte(note), 0o600); err != nil {
		t.Fatal(err)
	}
	_, key, _ := strings.Cut(strings.TrimSpace(complaint), "key: ")
	b.act(t, 20)
	file := filepath.Join(t.TempDir(), "log")
	b.must(t, "exported", "audit", "export", file)
	if err := b.Kill(); err != nil {
		t.Fatal(err)
	}
	offline := &bench{Daemon: &daemon.Daemon{Client: &daemon.Client{}}, home: t.TempDir()}
	offline.must(t, "as a checkpoint from elsewhere saw them", "audit", "verify", file, "--key", key, "--checkpoint", witness)
	whole, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, bytes.Replace(whole, []byte(`"outcome":"done"`), []byte(`"outcome":"DONE"`), 1), 0o600); err != nil {
		t.Fatal(err)
	}
	offline.finds(t, "altered", "audit", "verify", file, "--key", key)
}

func TestWhatTheOwnerOfTheDatabaseChangesIsFound(t *testing.T) {
	t.Run("one entry", func(t *testing.T) {
		b := start(t)
		b.act(t, 5)
		b.must(t, "verified", "audit", "verify")
		b.owner(t, "UPDATE audit_entries SET reason = 'nothing to see' WHERE position = 4")
		b.again(t)
		b.signed(t)
		b.finds(t, "altered", "audit", "verify")
	})
	t.Run("one entry is gone", func(t *testing.T) {
		b := start(t)
		b.act(t, 5)
		b.must(t, "verified", "audit", "verify")
		b.owner(t, "DELETE FROM audit_entries WHERE position = 4")
		b.again(t)
		b.signed(t)
		b.finds(t, "dropped", "audit", "verify")
	})
	t.Run("everything is signed anew", func(t *testing.T) {
		b := start(t)
		b.act(t, 5)
		b.must(t, "verified", "audit", "verify")
		// The owner has the key, forgets what was signed, and lets the control plane sign another past.
		b.owner(t, "UPDATE audit_entries SET target = 'tok_other' WHERE position = 4", "DELETE FROM audit_tiles", "DELETE FROM audit_logs")
		if err := os.Remove(filepath.Join(b.DataDir, "keys", "audit.checkpoint")); err != nil {
			t.Fatal(err)
		}
		b.again(t)
		b.act(t, 3)
		complaint := b.finds(t, "rewritten", "audit", "verify")
		if strings.Count(complaint, "— loopback/dep_") != 2 {
			t.Errorf("got %s; want both checkpoints as evidence", complaint)
		}
		kept, err := filepath.Glob(filepath.Join(b.home, ".config", "loopback", "audit", "evidence-*"))
		if err != nil || len(kept) != 1 {
			t.Errorf("kept %v, %v", kept, err)
		}
	})
	t.Run("an older database is put back", func(t *testing.T) {
		b := start(t)
		b.act(t, 3)
		file := filepath.Join(t.TempDir(), "old.db")
		b.owner(t, "VACUUM INTO '"+file+"'")
		b.again(t)
		b.act(t, 5)
		b.must(t, "verified", "audit", "verify")
		b.owner(t)
		for _, suffix := range []string{"-wal", "-shm"} {
			os.Remove(filepath.Join(b.DataDir, "loopback.db"+suffix))
		}
		if err := os.Rename(file, filepath.Join(b.DataDir, "loopback.db")); err != nil {
			t.Fatal(err)
		}
		b.again(t)
		b.finds(t, "truncated", "audit", "verify") // and nothing is signed that contradicts what was
		if log, err := b.Log(); err != nil || !strings.Contains(log, "not the one that was signed") {
			t.Errorf("the control plane says nothing: %v", err)
		}
	})
}

func TestARestoredBackupIsSaidAndGoesOnOnlyWhenAccepted(t *testing.T) {
	b := start(t)
	b.act(t, 3)
	b.signed(t) // and that the log was read, which looking at it has added
	backup := filepath.Join(t.TempDir(), "backup")
	if out, err := exec.CommandContext(t.Context(), program, "backup", "--data-dir", b.DataDir, "--to", backup).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	b.act(t, 4)
	b.must(t, "verified", "audit", "verify")
	if err := b.Kill(); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "restored")
	if out, err := exec.CommandContext(t.Context(), program, "restore", "--data-dir", dir, "--from", backup).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	r := &bench{Daemon: b.Moved(dir), home: b.home}
	if err := r.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.Kill() })
	r.act(t, 2)
	code, _, complaint := r.cli(t, "audit", "verify")
	if code != 6 || !strings.Contains(complaint, "4 entries") {
		t.Fatalf("got %d, %s; want the lost entries counted", code, complaint)
	}
	r.must(t, "verified", "audit", "verify", "--accept-restore")
	r.act(t, 1)
	r.must(t, "it adds to what was remembered", "audit", "verify")
}

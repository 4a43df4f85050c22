package audit

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"connectrpc.com/connect"

	"github.com/loopbackd/loopback/test/daemon"
)

// On a full disk an act is refused, not half recorded: what was acknowledged is in the log, and the log goes on as the same once
// there is space again.
func TestAFullDiskRefusesActsAndLeavesTheLogWhole(t *testing.T) {
	if testing.Short() {
		t.Skip("loopbackd is started as a process of its own: not in the quick part")
	}
	data := filepath.Join(t.TempDir(), "data")
	if err := os.Mkdir(data, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("tmpfs", data, "tmpfs", 0, "size=48m"); err != nil {
		t.Skip("a disk of its own needs the right to mount a tmpfs (CAP_SYS_ADMIN)")
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(data, 0); err != nil {
			t.Error(err)
		}
	})
	d, err := daemon.Start(t.Context(), daemon.Options{Program: program, Dir: t.TempDir(), DataDir: data})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Kill(); err != nil {
			t.Error(err)
		}
	})
	b := &bench{Daemon: d, home: t.TempDir()}
	b.act(t, 3)
	b.must(t, "verified", "audit", "verify")

	filler := filepath.Join(data, "filler")
	fill(t, filler)
	acknowledged := map[string]bool{}
	mint := func() error {
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		m, err := b.Mint(ctx, 1)
		if err == nil {
			acknowledged[m.GetToken().GetId()] = true
		}
		return err
	}
	for n := 0; ; n++ { // what the log of the database has room for
		if err = mint(); err != nil {
			break
		}
		if n > 100_000 {
			t.Fatal("the disk is never full")
		}
	}
	t.Logf("after %d acts: %v", len(acknowledged), err)
	if connect.CodeOf(err) != connect.CodeUnavailable || !strings.Contains(err.Error(), "the disk of the database is full") {
		t.Errorf("got %v, want that the disk is full", err)
	}
	refused := 0
	for range 20 {
		if mint() != nil {
			refused++
		}
	}
	if refused == 0 {
		t.Error("on a full disk everything goes on")
	}
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	end := time.Now().Add(time.Minute)
	for mint() != nil {
		if time.Now().After(end) {
			t.Fatal("with space again, nothing is written still")
		}
	}
	b.act(t, 1)
	b.must(t, "it adds to what was remembered", "audit", "verify")
	entries, err := b.Entries(t.Context(), "agent_tokens.mint", "")
	if err != nil {
		t.Fatal(err)
	}
	times := map[string]int{}
	for _, e := range entries {
		times[e.Target]++
	}
	for id := range acknowledged {
		if times[id] != 1 {
			t.Errorf("the token %s was acknowledged, the log speaks of it %d times", id, times[id])
		}
	}
}

// fill leaves room for a few acts.
func fill(t *testing.T, name string) {
	t.Helper()
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for size := 1 << 20; size > 0; size /= 2 {
		for {
			if _, err := f.Write(make([]byte, size)); err != nil {
				break
			}
		}
	}
	end, err := f.Seek(0, io.SeekCurrent)
	if err == nil {
		err = f.Truncate(end - 256<<10)
	}
	if err != nil {
		t.Fatal(err)
	}
}

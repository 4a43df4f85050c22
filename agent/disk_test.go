package agent_test

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"github.com/loopbackd/loopback/test/controltest"
)

// A host whose disk is full is one that its operators want to reach: it stays linked, applies, and says what is wrong.
func TestAFullDiskLeavesTheHostLinked(t *testing.T) {
	inBubble(t, func(t *testing.T, m *machine) {
		small := t.TempDir()
		if err := unix.Mount("tmpfs", small, "tmpfs", 0, "size=256k"); err != nil {
			t.Skipf("missing feature: mounting a tmpfs: %v", err)
		}
		t.Cleanup(func() {
			if err := unix.Unmount(small, 0); err != nil {
				t.Error(err)
			}
		})
		identity, err := os.ReadFile(filepath.Join(m.dir, "identity"))
		if err != nil {
			t.Fatal(err)
		}
		m.dir = filepath.Join(small, "state")
		if err := os.Mkdir(m.dir, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(m.dir, "identity"), identity, 0o600); err != nil {
			t.Fatal(err)
		}
		m.config.KeyRotation = time.Hour
		m.Desire(value(t, "mesh", 1, "one"))
		m.start(t)
		m.Wait(t, "mesh", m.id, reported("mesh", "applied", 1))
		filler := filepath.Join(small, "filler")
		if err := os.WriteFile(filler, bytes.Repeat([]byte{1}, 1<<20), 0o600); err == nil {
			t.Fatal("the disk is not full")
		}
		m.Push(value(t, "mesh", 2, "two"))
		m.Wait(t, "degraded", m.id, reported("mesh", "degraded", 2))
		if msg := m.Host(m.id).Held["mesh"].Message; !strings.Contains(msg, "the disk is full") {
			t.Errorf("got %q; want the full disk named", msg)
		}
		m.Cut()
		time.Sleep(5 * time.Hour)
		synctest.Wait()
		h := m.Host(m.id)
		if h.Link == nil || h.Offers != 0 {
			t.Errorf("got link %v, %d offers; want it linked, and no key offered that is not stored", h.Link, h.Offers)
		}
		if got := m.agent.Status().LastError; got == nil || got.Code != "disk_full" || got.Hint == "" {
			t.Errorf("got %+v; want disk_full with a hint", got)
		}
		if err := os.Remove(filler); err != nil {
			t.Fatal(err)
		}
		time.Sleep(3 * time.Hour)
		m.Wait(t, "a rotation once there is space", m.id, func(h *controltest.Host) bool { return h.Generation >= 2 && h.Link != nil })
	})
}

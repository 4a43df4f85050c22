package server

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	v1 "github.com/loopbackd/loopback/api/loopback/v1"
	"github.com/loopbackd/loopback/recording"
	noun "github.com/loopbackd/loopback/shell"
	"github.com/loopbackd/loopback/stream"
	"github.com/loopbackd/loopback/test/fleet"
	"github.com/loopbackd/loopback/test/terminal"
)

// Whoever watches and never reads holds nobody back, and nothing in memory.
func TestAWatcherWhoNeverReadsHoldsNobodyBack(t *testing.T) {
	s := serve(t).withShells(t)
	session := s.open(t, s.key)
	y := s.types(t, s.key, session)
	deaf := terminal.New(s.way(s.running.key), session, "watch")
	deaf.Deaf = true
	if err := deaf.Connect(t.Context()); err != nil {
		t.Fatal(err)
	}
	// Many times what a caller is sent beyond what they have shown.
	y.Type("stty -echo; head -c 5000000 /dev/zero | tr '\\0' x; echo; echo done-$((40+2)); exit\n")
	awaits(t, y, "done-42")
	if end := s.ends(t, session); end.Verdict != "agreed" {
		t.Errorf("got %v", end)
	}
	deaf.Cut()
}

// A session ends with the right that it was opened by.
func TestASessionEndsWhenItsGrantDoes(t *testing.T) {
	s := serve(t).withShells(t)
	admin := s.as(s.running.key)
	account := do(t, admin.accounts.CreateServiceAccount, &v1.CreateServiceAccountRequest{Name: "grace"})
	do(t, admin.bindings.CreateBinding, &v1.CreateBindingRequest{ServiceAccount: account.Id, Role: "sheller", NotAfter: in(4 * time.Second)})
	key := do(t, admin.keys.CreateApiKey, &v1.CreateApiKeyRequest{Name: "grace", ServiceAccount: account.Id, Permissions: []string{"*", "shell_sessions.open"}}).Secret
	session := s.open(t, key)
	s.types(t, key, session)
	if end := s.ends(t, session); !strings.Contains(end.EndReason, "may not have it any more") || end.Verdict != "agreed" {
		t.Errorf("got %v", end)
	}
}

// A control plane whose disk has no room for the record ends the session rather than let it go on unseen; the reserve lets somebody in to
// make room.
func TestAFullDiskOfTheControlPlaneEndsTheSession(t *testing.T) {
	data := filepath.Join(t.TempDir(), "data")
	small := filepath.Join(data, "recordings")
	if err := os.MkdirAll(small, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(data, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", small, "tmpfs", 0, "size=40m"); err != nil {
		t.Skipf("missing feature: mounting a tmpfs: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(small, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	s := serve(t, "--data-dir", data).withShells(t)
	session := s.open(t, s.key)
	y := s.types(t, s.key, session)
	y.Type("stty -echo; head -c 60000000 /dev/zero | tr '\\0' x\n")
	if end := s.ends(t, session); !strings.Contains(end.EndReason, "could not record it any further") {
		t.Errorf("got %v", end)
	}
	next := s.open(t, s.key)
	s.types(t, s.key, next).Type("exit\n")
	if end := s.ends(t, next); end.Verdict != "agreed" {
		t.Errorf("the next: %v", end)
	}
}

// liar is a host that shows one thing and says that it recorded another.
func liar(t *testing.T, change func(*recording.Head)) func(fleet.ShellOrder) {
	return func(o fleet.ShellOrder) {
		order, err := noun.ParseOrder(o.GetOrder())
		if err != nil || o.Answer(t.Context(), nil) != nil {
			return
		}
		end := stream.New(stream.Options{})
		kept := make(chan struct{})
		ctx, stop := context.WithTimeout(context.Background(), 20*time.Second)
		defer func() { stop(); <-kept }()
		go func() { defer close(kept); _ = end.Keep(ctx, time.Minute, o.Dial) }()
		w, err := recording.Create(filepath.Join(t.TempDir(), order.Session), order.Session, recording.NewKeyring(order.Secret))
		if err != nil {
			t.Error(err)
			return
		}
		defer w.Close()
		header, _ := json.Marshal(recording.Header{Session: order.Session, Host: order.Host})
		bye, _ := json.Marshal(recording.Ending{})
		out := end.Writer(noun.Events(0))
		for i, e := range []recording.Event{{Kind: recording.Begin, Data: header}, {Kind: recording.Output, Data: []byte("rm -rf is recorded\r\n")}, {Kind: recording.Exit, Data: bye}} {
			e.At = time.Duration(i) * time.Second
			if err := w.Add(e); err != nil {
				t.Error(err)
			}
			_, _ = out.Write(e.AppendFrame(nil))
		}
		head, err := w.End()
		if err != nil {
			t.Error(err)
		}
		change(&head)
		said, _ := json.Marshal(head)
		closing := end.Writer(noun.Closing)
		_, _ = closing.Write(said)
		_, _ = closing.Close(), out.Close()
		_ = end.Flush(ctx)
	}
}

// What the two recorders have is compared at the end, whatever the host claims.
func TestRecordersThatDisagreeAreFound(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*recording.Head)
		want   string
	}{
		"the same":       {func(*recording.Head) {}, "agreed"},
		"another root":   {func(h *recording.Head) { h.Root = sha256.Sum256([]byte("another")) }, "disagreed"},
		"fewer events":   {func(h *recording.Head) { h.Events-- }, "disagreed"},
		"another length": {func(h *recording.Head) { h.Length++ }, "disagreed"},
	} {
		t.Run(name, func(t *testing.T) {
			s := serve(t).withHost(t, liar(t, c.change))
			session := s.open(t, s.key)
			end := s.ends(t, session)
			if end.Verdict != c.want {
				t.Errorf("got %v, want %s", end, c.want)
			}
			entries := do(t, s.as(s.running.key).audit.ListEntries, &v1.ListEntriesRequest{Target: session, Action: "shell_sessions.end"}).Items
			if len(entries) != 1 || !strings.Contains(fmt.Sprint(entries[0].GetAfter()), c.want) {
				t.Errorf("the audit log has %v", entries)
			}
		})
	}
}

package systemd

import (
	"context"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// manager is a service manager's socket.
func manager(t *testing.T) (*net.UnixConn, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "notify")
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c, path
}

func next(t *testing.T, c *net.UnixConn, within time.Duration) string {
	t.Helper()
	if err := c.SetReadDeadline(time.Now().Add(within)); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 4096)
	n, err := c.Read(b)
	if err != nil {
		return ""
	}
	return string(b[:n])
}

func environment(pairs ...string) func(string) string {
	return func(name string) string {
		for _, p := range pairs {
			if v, ok := strings.CutPrefix(p, name+"="); ok {
				return v
			}
		}
		return ""
	}
}

func TestTheManagerIsTold(t *testing.T) {
	c, path := manager(t)
	n := FromEnvironment(environment("NOTIFY_SOCKET=" + path))
	for _, step := range []struct {
		do   func() error
		want string
	}{
		{n.Ready, "READY=1"},
		{func() error { return n.Status("a\nb") }, "STATUS=a b"},
		{n.Stopping, "STOPPING=1"},
	} {
		if err := step.do(); err != nil {
			t.Fatal(err)
		}
		if got := next(t, c, 5*time.Second); got != step.want {
			t.Errorf("got %q; want %q", got, step.want)
		}
	}
}

func TestWithoutAManagerNothingHappens(t *testing.T) {
	n := FromEnvironment(environment())
	if err := n.Ready(); err != nil {
		t.Error(err)
	}
	n.Feed(t.Context(), func(string) { t.Error("hungry") }) // returns at once
}

func TestAnotherProcessesWatchdogIsNotOurs(t *testing.T) {
	if n := FromEnvironment(environment("WATCHDOG_USEC=1000000", "WATCHDOG_PID=1")); n.watchdog != 0 {
		t.Errorf("got %s; want none", n.watchdog)
	}
}

func TestTheWatchdogGoesHungryWhenALoopHangs(t *testing.T) {
	c, path := manager(t)
	n := FromEnvironment(environment("NOTIFY_SOCKET="+path, "WATCHDOG_USEC=150000"))
	ctx, cancel := context.WithCancel(t.Context())
	var feeding sync.WaitGroup
	defer feeding.Wait()
	defer cancel()
	hungry := make(chan string, 1)
	n.Promise("link", time.Hour)
	feeding.Go(func() { n.Feed(ctx, func(loop string) { hungry <- loop }) })
	for range 3 {
		if got := next(t, c, 5*time.Second); got != "WATCHDOG=1" {
			t.Fatalf("got %q; want WATCHDOG=1", got)
		}
	}
	n.Promise("apply", -time.Second) // should have been back a second ago
	if got := <-hungry; got != "apply" {
		t.Errorf("got %q hungry; want apply", got)
	}
	for next(t, c, 100*time.Millisecond) != "" {
		// what was sent before the promise broke
	}
	if got := next(t, c, 300*time.Millisecond); got != "" {
		t.Errorf("got %q while a loop hangs; want nothing", got)
	}
	n.Rest("apply")
	if got := next(t, c, 5*time.Second); got != "WATCHDOG=1" {
		t.Errorf("got %q after the loop came back; want WATCHDOG=1", got)
	}
}

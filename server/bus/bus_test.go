package bus

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

func open(t testing.TB, o Options) *Bus {
	t.Helper()
	b, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := b.Close(ctx); err != nil {
			t.Errorf("closing the bus: %v", err)
		}
	})
	return b
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestMessagesArriveInOrder(t *testing.T) {
	b := open(t, Options{})
	const n = 10_000
	got := make(chan int64, n)
	_, err := b.OnNudge(func(m Nudge) { got <- m.Position })
	must(t, err)
	for i := range int64(n) {
		must(t, b.Nudge(Nudge{i}))
	}
	for i := range int64(n) {
		select {
		case p := <-got:
			if p != i {
				t.Fatalf("got position %d, wanted %d", p, i)
			}
		case <-time.After(10 * time.Second):
			t.Fatalf("position %d never came", i)
		}
	}
}

func TestALongAnnouncementArrivesWhole(t *testing.T) {
	b := open(t, Options{})
	var want []Presence
	for i := range 20_000 {
		want = append(want, Presence{Replica: "one", HostID: fmt.Sprintf("hst_%026d", i), Online: i%2 == 0, BootID: "boot", Connection: uint64(i), At: time.Unix(int64(i), 0).UTC()})
	}
	var got []Presence
	done := make(chan struct{})
	_, err := b.OnPresence(func(batch []Presence) {
		if got = append(got, batch...); len(got) == len(want) {
			close(done)
		}
	})
	must(t, err)
	must(t, b.Announce(want))
	select {
	case <-done:
	case <-time.After(10 * time.Second):
		t.Fatal("the announcement did not arrive")
	}
	if !slices.Equal(got, want) {
		t.Error("what arrived is not what was announced")
	}
}

func TestEverybodyHearsARollCallUntilTheyStop(t *testing.T) {
	b := open(t, Options{})
	heard := make(chan string, 10)
	stop, err := b.OnRoll(func(r Roll) { heard <- "first " + r.Replica })
	must(t, err)
	_, err = b.OnRoll(func(r Roll) { heard <- "second " + r.Replica })
	must(t, err)
	must(t, b.CallRoll(Roll{"two"}))
	got := []string{<-heard, <-heard}
	slices.Sort(got)
	if !slices.Equal(got, []string{"first two", "second two"}) {
		t.Errorf("got %v", got)
	}
	stop()
	must(t, b.CallRoll(Roll{"three"}))
	if got := <-heard; got != "second three" {
		t.Errorf("got %q after the first stopped", got)
	}
}

func TestCloseDeliversWhatWasPublished(t *testing.T) {
	b, err := Open(Options{})
	must(t, err)
	var mu sync.Mutex
	n := 0
	_, err = b.OnNudge(func(Nudge) { mu.Lock(); n++; mu.Unlock() })
	must(t, err)
	for i := range int64(1000) {
		must(t, b.Nudge(Nudge{i}))
	}
	must(t, b.Close(t.Context()))
	must(t, b.Close(t.Context())) // once more is nothing
	if n != 1000 {
		t.Errorf("%d of 1,000 messages were delivered", n)
	}
	if err := b.Nudge(Nudge{1}); err == nil {
		t.Error("a closed bus took a message")
	}
}

func TestAMessageThatCannotBeReadIsPassedOver(t *testing.T) {
	b := open(t, Options{})
	got := make(chan Nudge, 1)
	_, err := b.OnNudge(func(m Nudge) { got <- m })
	must(t, err)
	must(t, b.conn.Publish(subjectNudge, []byte(`{"position":`)))
	must(t, b.Nudge(Nudge{5}))
	if m := <-got; m.Position != 5 {
		t.Errorf("got %+v, wanted position 5", m)
	}
}

func TestASlowReaderIsTold(t *testing.T) {
	lost := make(chan struct{}, 1)
	b := open(t, Options{Lost: func() {
		select {
		case lost <- struct{}{}:
		default:
		}
	}})
	sub, err := b.conn.SubscribeSync("loopback.v1.test")
	must(t, err)
	must(t, sub.SetPendingLimits(1, 1024))
	defer func() { _ = sub.Unsubscribe() }() // Close waits for what was published to be read
	for range 100 {
		must(t, publish(b, "loopback.v1.test", Nudge{1}))
	}
	select {
	case <-lost:
	case <-time.After(10 * time.Second):
		t.Error("nobody was told that messages were lost")
	}
}

// An embedded bus alone opens no port.
func TestNoPortIsOpened(t *testing.T) {
	before := listening(t)
	open(t, Options{})
	for inode, line := range listening(t) {
		if _, ok := before[inode]; !ok {
			t.Errorf("a port was opened: %s", line)
		}
	}
}

// listening are the TCP sockets of this process that listen, by inode.
func listening(t *testing.T) map[string]string {
	t.Helper()
	ours := map[string]bool{}
	fds, err := filepath.Glob("/proc/self/fd/*")
	must(t, err)
	for _, fd := range fds {
		if to, err := os.Readlink(fd); err == nil && strings.HasPrefix(to, "socket:[") {
			ours[strings.TrimSuffix(strings.TrimPrefix(to, "socket:["), "]")] = true
		}
	}
	found := map[string]string{}
	for _, table := range []string{"/proc/self/net/tcp", "/proc/self/net/tcp6"} {
		b, err := os.ReadFile(table)
		must(t, err)
		for _, line := range strings.Split(string(b), "\n") {
			const state, inode, listen = 3, 9, "0A"
			if f := strings.Fields(line); len(f) > inode && f[state] == listen && ours[f[inode]] {
				found[f[inode]] = line
			}
		}
	}
	return found
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte(`[{"replica":"one","host":"hst_1","online":true,"boot":"b","connection":7,"at":"2026-01-01T00:00:00Z"}]`))
	f.Add([]byte(`{"position":9}`))
	f.Fuzz(func(t *testing.T, payload []byte) {
		batch, err := decode[[]Presence](payload)
		if err != nil {
			return
		}
		for _, p := range batch {
			if p.HostID == "" && p.Replica == "" && p.Online && !strings.Contains(strings.ToLower(string(payload)), "online") {
				t.Fatalf("%q was read as %+v", payload, p)
			}
		}
	})
}

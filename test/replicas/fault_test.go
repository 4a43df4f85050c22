package replicas

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"connectrpc.com/connect"

	pb "github.com/loopbackd/loopback/api/loopback/v1"
	"github.com/loopbackd/loopback/test/daemon"
	"github.com/loopbackd/loopback/test/fleet"
)

// writing keeps writing through every replica until stop, and notes what was acknowledged.
type writing struct {
	mu     sync.Mutex
	tokens []string
	labels map[string]int
	failed atomic.Int64
	calls  atomic.Int64
	stop   context.CancelFunc
	done   sync.WaitGroup
}

func (c *cluster) write(hosts []string) *writing {
	ctx, stop := context.WithCancel(c.t.Context())
	w := &writing{labels: map[string]int{}, stop: stop}
	c.t.Cleanup(func() { stop(); w.done.Wait() })
	for i, d := range c.replicas {
		w.keep(ctx, func(ctx context.Context, _ int) error {
			m, err := d.Mint(ctx, 1)
			if err == nil {
				w.mu.Lock()
				w.tokens = append(w.tokens, m.GetToken().GetId())
				w.mu.Unlock()
			}
			return err
		})
		if i >= len(hosts) {
			continue
		}
		id := hosts[i]
		w.keep(ctx, func(ctx context.Context, n int) error {
			_, err := d.Hosts.LabelHost(ctx, connect.NewRequest(&pb.LabelHostRequest{Host: id, Set: map[string]string{"count": strconv.Itoa(n)}}))
			if err == nil {
				w.mu.Lock()
				w.labels[id] = n
				w.mu.Unlock()
			}
			return err
		})
	}
	return w
}

func (w *writing) keep(ctx context.Context, do func(context.Context, int) error) {
	w.done.Go(func() {
		for n := 1; ctx.Err() == nil; n++ {
			call, cancel := context.WithTimeout(ctx, 20*time.Second)
			err := do(call, n)
			cancel()
			w.calls.Add(1)
			if err != nil {
				w.failed.Add(1)
			}
			select {
			case <-time.After(20 * time.Millisecond):
			case <-ctx.Done():
			}
		}
	})
}

// kept looks through a replica for everything that was acknowledged.
func (w *writing) kept(t *testing.T, c *cluster, d *daemon.Daemon) {
	t.Helper()
	w.stop()
	w.done.Wait()
	ctx := c.within(2 * time.Minute)
	for _, id := range w.tokens {
		if _, err := d.Tokens.GetToken(ctx, connect.NewRequest(&pb.GetTokenRequest{Token: id})); err != nil {
			t.Errorf("acknowledged token %s is lost: %v", id, err)
		}
	}
	for id, want := range w.labels {
		c.until(5*time.Second, func() error {
			h, err := d.Hosts.GetHost(ctx, connect.NewRequest(&pb.GetHostRequest{Host: id}))
			if err != nil {
				return err
			}
			if got, _ := strconv.Atoi(h.Msg.GetLabels()["count"]); got < want {
				return fmt.Errorf("label of %s is %d, want at least %d, which was acknowledged", id, got, want)
			}
			return nil
		})
	}
	entries, err := d.Entries(ctx, "", "")
	if err != nil {
		t.Fatal(err)
	}
	minted := map[string]int{}
	for i, e := range entries {
		if i > 0 && entries[i-1].GetPosition() != e.GetPosition()+1 {
			t.Errorf("the audit log goes from %d to %d", e.GetPosition(), entries[i-1].GetPosition())
		}
		if e.GetAction() == "agent_tokens.mint" {
			minted[e.GetTarget()]++
		}
	}
	for _, id := range w.tokens {
		if minted[id] != 1 {
			t.Errorf("token %s has %d entries in the audit log, want 1", id, minted[id])
		}
	}
	t.Logf("%d tokens and labels %v acknowledged, none lost; %d of %d calls failed", len(w.tokens), w.labels, w.failed.Load(), w.calls.Load())
}

// offline watches one replica's view for hosts that show as offline.
func (c *cluster) offline(d *daemon.Daemon) *atomic.Int64 {
	ctx, stop := context.WithCancel(c.t.Context())
	var n atomic.Int64
	var watching sync.WaitGroup
	c.t.Cleanup(func() { stop(); watching.Wait() })
	watching.Go(func() {
		for ctx.Err() == nil {
			s, err := d.Hosts.WatchHosts(ctx, connect.NewRequest(&pb.WatchHostsRequest{}))
			if err == nil {
				for s.Receive() {
					if h := s.Msg().GetChanged().GetHost(); h.GetState() == "offline" {
						n.Add(1)
					}
				}
				_ = s.Close() // it ended
			}
			select {
			case <-time.After(50 * time.Millisecond):
			case <-ctx.Done():
			}
		}
	})
	return &n
}

// ids are the hosts of the first agents.
func ids(f *fleet.Fleet, n int) []string {
	var out []string
	for _, a := range f.Agents[:n] {
		out = append(out, a.HostID())
	}
	return out
}

// A replica that is killed costs its hosts seconds and nobody anything that was acknowledged; nobody shows as offline.
func TestAKilledReplicasHostsAreBackWithinSeconds(t *testing.T) {
	c := start(t, 3, "", "--reconnect-window", "20s")
	const n = 45
	f := c.agents(n)
	for _, d := range c.replicas {
		c.until(30*time.Second, func() error { return c.managed(d, n) })
	}
	shown := c.offline(c.replicas[2])
	w := c.write(ids(f, 3))
	dead := c.replicas[1]
	before := f.Counts().Links
	if err := dead.Kill(); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	c.await(f, 20*time.Second, func(now fleet.Counts) bool { return now.Links > before && now.Linked == n })
	t.Logf("all %d hosts were linked %s after the kill", n, time.Since(began).Round(10*time.Millisecond))
	// The lease of the dead ends, and the windows after it: nobody may be declared offline by then either.
	select {
	case <-time.After(45 * time.Second):
	case <-t.Context().Done():
	}
	if shown.Load() > 0 {
		t.Errorf("%d times a host was shown as offline", shown.Load())
	}
	for _, d := range []*daemon.Daemon{c.replicas[0], c.replicas[2]} {
		c.until(5*time.Second, func() error { return c.managed(d, n) })
	}
	w.kept(t, c, c.replicas[2])
	began = time.Now()
	if err := dead.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	c.until(10*time.Second, func() error { return c.managed(dead, n) })
	t.Logf("it was back and knew all hosts after %s", time.Since(began).Round(10*time.Millisecond))
}

// A replica that is stopped in the middle of operations and woken when others have finished them does nothing twice.
func TestAFrozenReplicaThatWakesDoesNothingTwice(t *testing.T) {
	c := start(t, 3, "", "--reconnect-window", "20s")
	const n = 30
	f := c.agents(n)
	c.until(30*time.Second, func() error { return c.managed(c.replicas[0], n) })
	frozen := c.replicas[1]
	// The operations are asked for while the one that is about to freeze carries some of them out.
	var asked sync.WaitGroup
	operations := make([]string, 12)
	for i := range operations {
		asked.Go(func() {
			d := c.replicas[[]int{0, 2}[i%2]]
			o, err := d.Hosts.RemoveHost(c.within(time.Minute), connect.NewRequest(&pb.RemoveHostRequest{Host: f.Agents[i].HostID(), Reason: "test", RequestId: fmt.Sprint("r", i)}))
			if err != nil {
				t.Errorf("remove %d: %v", i, err)
				return
			}
			operations[i] = o.Msg.GetId()
		})
		if i == 4 {
			if err := frozen.Signal(syscall.SIGSTOP); err != nil {
				t.Fatal(err)
			}
		}
	}
	asked.Wait()
	ended := map[string]*pb.Operation{}
	c.until(time.Minute, func() error {
		for _, id := range operations {
			o, err := c.replicas[0].Operations.GetOperation(c.within(10*time.Second), connect.NewRequest(&pb.GetOperationRequest{Operation: id}))
			if err != nil {
				return err
			}
			if o.Msg.GetState() != "succeeded" {
				return fmt.Errorf("operation %s is %s: %s", id, o.Msg.GetState(), o.Msg.GetError())
			}
			ended[id] = o.Msg
		}
		return nil
	})
	if err := frozen.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	c.await(f, 40*time.Second, func(now fleet.Counts) bool { return now.Linked == n-len(operations) })
	select { // what it would do, it does at once: its loops look each second
	case <-time.After(5 * time.Second):
	case <-t.Context().Done():
	}
	c.until(20*time.Second, func() error { return c.managed(frozen, n-len(operations)) })
	for _, id := range operations {
		o, err := frozen.Operations.GetOperation(c.within(10*time.Second), connect.NewRequest(&pb.GetOperationRequest{Operation: id}))
		if err != nil {
			t.Fatal(err)
		}
		if was := ended[id]; o.Msg.GetRevision() != was.GetRevision() {
			t.Errorf("operation %s was written again after it had ended: revision %d, then %d", id, was.GetRevision(), o.Msg.GetRevision())
		}
	}
	entries, err := c.replicas[0].Entries(c.within(time.Minute), "hosts.remove", "")
	if err != nil {
		t.Fatal(err)
	}
	if len(entries) != len(operations) {
		t.Errorf("the audit log has %d removals, want %d", len(entries), len(operations))
	}
}

// The database goes away and comes back under three replicas: nobody is declared gone or offline, and what was
// acknowledged is there.
func TestTheDatabaseStopsAndStarts(t *testing.T) {
	c := start(t, 3, "", "--reconnect-window", "10s")
	const n = 30
	f := c.agents(n)
	for _, d := range c.replicas {
		c.until(30*time.Second, func() error { return c.managed(d, n) })
	}
	shown := c.offline(c.replicas[1])
	w := c.write(ids(f, 3))
	for range 2 {
		c.postgres.Crash()
		select {
		case <-time.After(8 * time.Second):
		case <-t.Context().Done():
		}
		if now := f.Counts().Linked; now != n {
			t.Errorf("%d hosts are linked while the database is away, want %d", now, n)
		}
		if err := c.postgres.Start(); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		for i, d := range c.replicas {
			c.until(30*time.Second, func() error {
				_, err := d.Mint(c.within(5*time.Second), 1)
				return err
			})
			t.Logf("replica %d wrote %s after the database was back", i+1, time.Since(began).Round(10*time.Millisecond))
		}
	}
	select {
	case <-time.After(15 * time.Second):
	case <-t.Context().Done():
	}
	if shown.Load() > 0 {
		t.Errorf("%d times a host was shown as offline", shown.Load())
	}
	w.kept(t, c, c.replicas[0])
}

// An upgrade one replica at a time, callers going through the balancer: no call fails for good.
func TestReplicasAreRestartedOneByOne(t *testing.T) {
	c := start(t, 3, "")
	const n = 30
	f := c.agents(n)
	c.until(30*time.Second, func() error { return c.managed(c.replicas[0], n) })
	client := c.replicas[0].At(c.balancer.url())
	ctx, stop := context.WithCancel(t.Context())
	var calls, retries, failed atomic.Int64
	var callers sync.WaitGroup
	defer callers.Wait()
	defer stop()
	for range 4 {
		callers.Go(func() {
			for ctx.Err() == nil {
				err := error(nil)
				for try := range 5 {
					if _, err = client.Mint(ctx, 1); err == nil || ctx.Err() != nil {
						break
					}
					if code := connect.CodeOf(err); code != connect.CodeUnavailable && code != connect.CodeUnknown {
						break
					}
					retries.Add(1)
					select {
					case <-time.After(time.Duration(50<<try) * time.Millisecond):
					case <-ctx.Done():
					}
				}
				if calls.Add(1); err != nil && ctx.Err() == nil {
					failed.Add(1)
					t.Errorf("a call failed for good: %v", err)
				}
			}
		})
	}
	for i, d := range c.replicas {
		began := time.Now()
		if code, err := d.Stop(c.within(30 * time.Second)); err != nil || code != 0 {
			t.Fatalf("stop replica %d: code %d, %v", i+1, code, err)
		}
		log, err := d.Log()
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(log, "calls that did not end are cut") { // polls that another replica holds are among them
			t.Errorf("replica %d was kept from stopping by calls", i+1)
		}
		if err := d.Restart(t.Context()); err != nil {
			t.Fatal(err)
		}
		c.await(f, 20*time.Second, func(now fleet.Counts) bool { return now.Linked == n })
		t.Logf("replica %d was stopped, back, and all %d hosts linked after %s", i+1, n, time.Since(began).Round(10*time.Millisecond))
	}
	stop()
	callers.Wait()
	t.Logf("%d calls, %d retries, %d failed", calls.Load(), retries.Load(), failed.Load())
}

// An evicted replica stops by itself, and its hosts are at the others.
func TestAnEvictedReplicaStops(t *testing.T) {
	c := start(t, 3, "")
	const n = 15
	f := c.agents(n)
	gone := c.replicas[2]
	if _, err := c.replicas[0].Run(c.within(30*time.Second), "evict", "replica-3", "--database", c.database); err != nil {
		t.Fatal(err)
	}
	select {
	case <-gone.Ended():
	case <-time.After(30 * time.Second):
		t.Fatal("the evicted replica runs on")
	}
	if gone.ExitCode() == 0 {
		t.Error("it ended with code 0; it should say that it was evicted")
	}
	c.await(f, 20*time.Second, func(now fleet.Counts) bool { return now.Linked == n })
	if err := gone.Restart(t.Context()); err == nil {
		t.Error("an evicted replica started again")
	}
}

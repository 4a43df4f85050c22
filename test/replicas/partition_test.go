package replicas

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"connectrpc.com/connect"

	pb "github.com/loopbackd/loopback/api/loopback/v1"
	"github.com/loopbackd/loopback/test/fleet"
)

// peers tells what keeps every replica from having routes to n others, and from showing so.
func (c *cluster) peers(n int) error {
	for i, d := range c.replicas {
		if got, err := d.Metric(c.within(5*time.Second), "loopback_bus_peers"); err != nil || int(got) != n {
			return fmt.Errorf("replica %d has routes to %v others, want %d: %v", i+1, got, n, err)
		}
		r, err := d.Replicas.ListReplicas(c.within(5*time.Second), connect.NewRequest(&pb.ListReplicasRequest{}))
		if err != nil {
			return err
		}
		for _, one := range r.Msg.Items {
			if cut := slices.Contains(one.Troubles, "bus_cut"); cut != (n < len(c.replicas)-1) {
				return fmt.Errorf("replica %d shows %s with the troubles %v while it has %d routes", i+1, one.Name, one.Troubles, n)
			}
		}
	}
	return nil
}

// Nothing passes between the replicas for a minute, while all of them reach the database and their agents: every one
// answers for every host, what it is told arrives, nobody shows as offline, and it heals by itself. The balancer is one that
// keeps an agent at one replica: an agent that polls has two connections, which nobody can bring together meanwhile.
func TestReplicasAreCutOffFromEachOther(t *testing.T) {
	c, ways := startApart(t, 3, "--reconnect-window", "10s")
	const n = 30
	c.sticky = true
	f := c.agents(n)
	for _, d := range c.replicas {
		c.until(30*time.Second, func() error { return c.managed(d, n) })
	}
	c.until(20*time.Second, func() error { return c.peers(2) })
	shown := c.offline(c.replicas[1])
	w := c.write(ids(f, 3))
	t.Logf("with routes, settings were at all hosts after %s", c.set(f, 0, "debug", 20*time.Second).Round(time.Millisecond))
	before := f.Counts().Links

	for _, w := range ways {
		w.bus.cut()
		w.peer.cut()
	}
	began := time.Now()
	noticed := false
	for round := 0; time.Since(began) < time.Minute; round++ {
		through := round % 3
		took := c.set(f, through, []string{"warn", "error", "info"}[through], 20*time.Second)
		if round < 3 {
			t.Logf("cut off, settings through replica %d were at all hosts after %s", through+1, took.Round(time.Millisecond))
		}
		for _, d := range c.replicas {
			if err := c.managed(d, n); err != nil { // at once: nothing here may wait for a replica that does not answer
				t.Errorf("after %s: %v", time.Since(began).Round(time.Second), err)
			}
		}
		noticed = noticed || c.peers(0) == nil
		select {
		case <-time.After(2 * time.Second):
		case <-t.Context().Done():
		}
	}
	if !noticed {
		t.Errorf("a minute long nobody showed that the buses are cut off: %v", c.peers(0))
	}
	for _, w := range ways {
		w.bus.mend()
		w.peer.mend()
	}
	took := c.until(time.Minute, func() error { return c.peers(2) })
	t.Logf("the routes were back %s after the network", took.Round(100*time.Millisecond))
	t.Logf("with routes again, settings were at all hosts after %s", c.set(f, 1, "debug", 20*time.Second).Round(time.Millisecond))
	c.await(f, 20*time.Second, func(now fleet.Counts) bool { return now.Linked == n })
	t.Logf("%d links were made anew, polls that had come to another replica than their own; they ended by %v", f.Counts().Links-before, f.Counts().Endings)
	if shown.Load() > 0 {
		t.Errorf("%d times a host was shown as offline", shown.Load())
	}
	w.kept(t, c, c.replicas[2])
}

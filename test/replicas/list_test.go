package replicas

import (
	"fmt"
	"testing"
	"time"

	"connectrpc.com/connect"

	pb "github.com/loopbackd/loopback/api/loopback/v1"
	"github.com/loopbackd/loopback/test/daemon"
)

// shows tells what keeps a replica from showing each of the others in these states, without a trouble but of those that
// are gone.
func (c *cluster) shows(d *daemon.Daemon, states ...string) error {
	if _, err := d.Mint(c.within(10*time.Second), 1); err != nil { // an entry that somebody signs
		return err
	}
	r, err := d.Replicas.ListReplicas(c.within(10*time.Second), connect.NewRequest(&pb.ListReplicasRequest{}))
	if err != nil {
		return err
	}
	if len(r.Msg.Items) != len(states) {
		return fmt.Errorf("%d replicas are shown, want %d", len(r.Msg.Items), len(states))
	}
	links, leases := int64(0), 0
	for i, one := range r.Msg.Items {
		want := ""
		if states[i] == "gone" {
			want = "[replica_gone]"
		}
		if got := fmt.Sprint(one.Troubles); one.State != states[i] || got != want && got != "[]" {
			return fmt.Errorf("%s is shown as %s with the troubles %v, want %s %s", one.Name, one.State, one.Troubles, states[i], want)
		}
		if one.Answering != (c.replicas[i] == d) {
			return fmt.Errorf("%s is shown as answering: %t", one.Name, one.Answering)
		}
		if one.State == "serving" {
			links, leases = links+one.Links, leases+len(one.Leases)
		}
	}
	if links != 9 || leases == 0 {
		return fmt.Errorf("the replicas hold %d links and %d leases, want 9 and some", links, leases)
	}
	return nil
}

func TestEveryReplicaShowsAllOfThem(t *testing.T) {
	c := start(t, 3, "")
	c.agents(9)
	for _, d := range c.replicas {
		c.until(20*time.Second, func() error { return c.shows(d, "serving", "serving", "serving") })
	}
	if code, err := c.replicas[2].Stop(c.within(30 * time.Second)); err != nil || code != 0 {
		t.Fatalf("stop: code %d, %v", code, err)
	}
	if err := c.replicas[1].Kill(); err != nil {
		t.Fatal(err)
	}
	took := c.until(45*time.Second, func() error { return c.shows(c.replicas[0], "serving", "gone", "left") })
	t.Logf("the one that was killed was shown as gone after %s", took.Round(100*time.Millisecond))
}

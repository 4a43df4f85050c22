package replicas

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"

	pb "github.com/loopbackd/loopback/api/loopback/v1"
	"github.com/loopbackd/loopback/test/daemon"
	"github.com/loopbackd/loopback/test/fleet"
)

// managed tells what keeps a replica from showing n managed hosts.
func (c *cluster) managed(d *daemon.Daemon, n int) error {
	hosts, err := d.AllHosts(c.within(10 * time.Second))
	if err != nil {
		return err
	}
	if len(hosts) != n {
		return fmt.Errorf("%s shows %d hosts, want %d", d.Address, len(hosts), n)
	}
	for _, h := range hosts {
		if h.GetState() != "managed" {
			return fmt.Errorf("%s shows %s as %s: %s", d.Address, h.GetName(), h.GetState(), h.GetReason())
		}
	}
	return nil
}

// holds tells whether an agent's settings speak of something.
func holds(a *fleet.Agent, text string) bool {
	for _, v := range a.Holds("settings").Items {
		if strings.Contains(string(v.Value), text) {
			return true
		}
	}
	return false
}

// Whichever replica is asked answers for every host, and what it is told reaches the host, whoever holds its link.
func TestEveryReplicaAnswersForEveryHost(t *testing.T) {
	c := start(t, 3, "")
	const n = 30
	f := c.agents(n)
	for _, d := range c.replicas {
		c.until(30*time.Second, func() error { return c.managed(d, n) })
	}
	held := map[string]int{}
	for i, d := range c.replicas {
		links, err := d.Metric(c.within(10*time.Second), "loopback_link_links")
		if err != nil {
			t.Fatal(err)
		}
		held[d.Address] = int(links)
		if links == 0 {
			t.Errorf("replica %d holds no link; the balancer should have given it some", i+1)
		}
	}
	t.Logf("links by replica: %v", held)

	for i, d := range c.replicas {
		want := []string{"debug", "warn", "error"}[i]
		_, err := d.Settings.SetSettings(c.within(10*time.Second), connect.NewRequest(&pb.SetSettingsRequest{
			Workspace: d.Workspace, Settings: &pb.AgentSettings{LogLevel: want}}))
		if err != nil {
			t.Fatalf("settings through replica %d: %v", i+1, err)
		}
		began := time.Now()
		c.await(f, 20*time.Second, func(fleet.Counts) bool {
			for _, a := range f.Agents {
				if !holds(a, want) {
					return false
				}
			}
			return true
		})
		t.Logf("settings through replica %d were at all %d hosts after %s", i+1, n, time.Since(began).Round(time.Millisecond))
	}

	// A host is removed by each replica; at least two of them do not hold its link.
	for i, d := range c.replicas {
		target := f.Agents[i].HostID()
		o, err := d.Hosts.RemoveHost(c.within(10*time.Second), connect.NewRequest(&pb.RemoveHostRequest{Host: target, Reason: "test"}))
		if err != nil {
			t.Fatalf("remove through replica %d: %v", i+1, err)
		}
		for j, other := range c.replicas {
			c.until(20*time.Second, func() error {
				got, err := other.Operations.GetOperation(c.within(10*time.Second), connect.NewRequest(&pb.GetOperationRequest{Operation: o.Msg.GetId()}))
				if err != nil {
					return err
				}
				if got.Msg.GetState() != "succeeded" {
					return fmt.Errorf("replica %d shows the operation as %s: %s", j+1, got.Msg.GetState(), got.Msg.GetError())
				}
				return nil
			})
		}
	}
	c.await(f, 10*time.Second, func(n2 fleet.Counts) bool { return n2.Ended == 3 && n2.Linked == n-3 })
	if n := f.Counts().Endings["host_removed"]; n != 3 {
		t.Errorf("%d agents were told that they were removed, want 3: %v", n, f.Counts().Endings)
	}
}

package replicas

import (
	"context"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"connectrpc.com/connect"

	pb "github.com/loopbackd/loopback/api/loopback/v1"
	"github.com/loopbackd/loopback/test/daemon"
	"github.com/loopbackd/loopback/test/fleet"
	"github.com/loopbackd/loopback/wire"
)

// sizes of the large fleet: hosts, and replicas for them.
//
// A process may have 20,000 descriptors here: with one replica dead, the others must hold all.
func sizes(t *testing.T) (hosts, replicas int) {
	hosts, replicas = 300, 3
	if os.Getenv("LOOPBACK_SOAK") != "" {
		hosts, replicas = 60_000, 5
	}
	if text := os.Getenv("LOOPBACK_FLEET"); text != "" {
		var err error
		if hosts, err = strconv.Atoi(text); err != nil {
			t.Fatal(err)
		}
	}
	return hosts, replicas
}

// A fleet that is too large for one process is held by several, knows one change, and loses one of them: its hosts are
// back on the others, and none was shown offline. What it takes is printed.
func TestALargeFleetOverReplicas(t *testing.T) {
	n, replicas := sizes(t)
	// At its usual rate, a machine that holds all replicas and all hosts would do little but beat.
	c := start(t, replicas, "", "--enrolment-rate", "1000000", "--admission-rate", "1000000",
		"--heartbeat-rate", "400", "--log-level", "error")
	ca, err := os.ReadFile(filepath.Join(c.replicas[0].DataDir, "keys", "ca.crt"))
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(ca)
	m := fleet.Mission{Endpoint: c.replicas[0].URL, Certificate: block.Bytes, Anchor: c.replicas[0].Anchor, Transport: wire.WebSocket,
		Token: c.secret, Agents: n / replicas, Dials: 32, Timeout: time.Minute}
	n = m.Agents * replicas
	for _, d := range c.replicas {
		m.Addresses = append(m.Addresses, d.Address)
	}
	patience := 30*time.Second + time.Duration(n)*20*time.Millisecond
	took := c.watchOperator(c.replicas[0])
	c.report("before anybody came")

	began := time.Now()
	for i := range replicas {
		m.Prefix = fmt.Sprintf("p%d-", i)
		h, err := fleet.StartHelper(context.WithoutCancel(t.Context()), m) // it ends by its input
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := h.Stop(); err != nil {
				t.Error(err)
			}
		})
	}
	c.until(patience, func() error { return c.linked(n) })
	t.Logf("%d hosts enrolled and linked in %s, %.0f a second", n, time.Since(began).Round(time.Millisecond), float64(n)/time.Since(began).Seconds())
	c.until(patience, func() error { return c.counted(n) })
	c.report("all linked")

	stored := c.sum(`loopback_link_observations_total{result="stored"}`)
	began = time.Now()
	if _, err := c.replicas[0].Settings.SetSettings(t.Context(), connect.NewRequest(&pb.SetSettingsRequest{Workspace: "default", Settings: &pb.AgentSettings{LogLevel: "debug"}})); err != nil {
		t.Fatal(err)
	}
	c.until(patience, func() error {
		if now := c.sum(`loopback_link_observations_total{result="stored"}`); now-stored < float64(n) {
			return fmt.Errorf("%.0f of %d hosts have reported the change", now-stored, n)
		}
		return nil
	})
	t.Logf("one change: applied by all, reported and on disk after %s", time.Since(began).Round(time.Millisecond))
	c.report("changed")

	dead := c.replicas[replicas-1]
	on, err := dead.Metric(t.Context(), "loopback_link_links")
	if err != nil {
		t.Fatal(err)
	}
	began = time.Now()
	if err := dead.Kill(); err != nil {
		t.Fatal(err)
	}
	c.replicas = c.replicas[:replicas-1]
	c.until(patience, func() error { return c.linked(n) })
	t.Logf("one of %d replicas killed: its %.0f hosts were back after %s", replicas, on, time.Since(began).Round(time.Millisecond))
	c.until(patience, func() error { return c.counted(n) })
	if offline := c.sum(`loopback_link_transitions_total{to="offline"}`); offline != 0 {
		t.Errorf("%.0f hosts were shown offline because of it", offline)
	}
	c.report("one replica less")
	calls := slices.Sorted(slices.Values(took()))
	t.Logf("an operator's %d calls meanwhile: p50 %s, p99 %s", len(calls), calls[len(calls)/2].Round(time.Millisecond), calls[len(calls)*99/100].Round(time.Millisecond))
}

// linked is nil when the replicas hold n links.
func (c *cluster) linked(n int) error {
	if now := c.sum("loopback_link_links"); now != float64(n) {
		return fmt.Errorf("%.0f of %d hosts are linked", now, n)
	}
	return nil
}

// counted is nil when each replica says of n hosts that they are managed.
func (c *cluster) counted(n int) error {
	for i, d := range c.replicas {
		r, err := d.Hosts.CountHosts(c.t.Context(), connect.NewRequest(&pb.CountHostsRequest{}))
		if err != nil {
			return err
		}
		if got := int(r.Msg.GetByState()["managed"]); got != n {
			return fmt.Errorf("replica %d says that %d of %d hosts are managed", i+1, got, n)
		}
	}
	return nil
}

// sum is a metric over all replicas.
func (c *cluster) sum(metric string) float64 {
	c.t.Helper()
	sum := 0.0
	for _, d := range c.replicas {
		v, err := d.Metric(c.t.Context(), metric)
		if err != nil {
			c.t.Fatal(err)
		}
		sum += v
	}
	return sum
}

// report prints what every replica takes.
func (c *cluster) report(when string) {
	c.t.Helper()
	for i, d := range c.replicas {
		cpu, err := daemon.CPU(d.PID())
		if err != nil {
			c.t.Fatal(err)
		}
		memory, err := daemon.Resident(d.PID())
		if err != nil {
			c.t.Fatal(err)
		}
		links, err := d.Metric(c.t.Context(), "loopback_link_links")
		if err != nil {
			c.t.Fatal(err)
		}
		c.t.Logf("%s: replica %d holds %.0f links, %d MiB, and has taken %s of a processor", when, i+1, links, memory>>20, cpu.Round(time.Millisecond))
	}
}

// watchOperator has somebody ask for the first hosts, over and over, and gives what each call took once it is told to.
func (c *cluster) watchOperator(d *daemon.Daemon) func() []time.Duration {
	ctx, stop := context.WithCancel(c.t.Context())
	ended := make(chan []time.Duration, 1)
	var failed atomic.Pointer[error]
	go func() {
		var took []time.Duration
		for ctx.Err() == nil {
			began := time.Now()
			if _, err := d.Hosts.ListHosts(ctx, connect.NewRequest(&pb.ListHostsRequest{Page: &pb.Page{Size: 100}})); err != nil {
				if ctx.Err() == nil {
					failed.Store(&err)
				}
				break
			}
			took = append(took, time.Since(began))
			select {
			case <-time.After(100 * time.Millisecond):
			case <-ctx.Done():
			}
		}
		ended <- took
	}()
	var all []time.Duration
	end := func() []time.Duration {
		if ctx.Err() == nil {
			stop()
			all = <-ended
		}
		return all
	}
	c.t.Cleanup(func() {
		end()
		if err := failed.Load(); err != nil {
			c.t.Errorf("an operator's call failed: %v", *err)
		}
	})
	return end
}

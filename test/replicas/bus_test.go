package replicas

import (
	"fmt"
	"net"
	"strconv"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	pb "github.com/loopbackd/loopback/api/loopback/v1"
	"github.com/loopbackd/loopback/test/fleet"
)

// outside is somebody's NATS.
func outside(t *testing.T, address string) *server.Server {
	t.Helper()
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.Atoi(port)
	if err != nil {
		t.Fatal(err)
	}
	s, err := server.NewServer(&server.Options{Host: host, Port: n, NoSigs: true, NoLog: true})
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	if !s.ReadyForConnections(10 * time.Second) {
		t.Fatal("the bus outside is not ready")
	}
	return s
}

// set gives the workspace a log level through a replica and waits until all hosts hold it.
func (c *cluster) set(f *fleet.Fleet, through int, level string, most time.Duration) time.Duration {
	c.t.Helper()
	d := c.replicas[through]
	if _, err := d.Settings.SetSettings(c.within(10*time.Second), connect.NewRequest(&pb.SetSettingsRequest{
		Workspace: d.Workspace, Settings: &pb.AgentSettings{LogLevel: level}})); err != nil {
		c.t.Fatal(err)
	}
	began := time.Now()
	c.await(f, most, func(fleet.Counts) bool {
		for _, a := range f.Agents {
			if !holds(a, level) {
				return false
			}
		}
		return true
	})
	return time.Since(began)
}

// On a bus that others use, somebody says that all hosts are elsewhere, or gone: no link ends by it, and nobody shows as
// offline. Then the bus goes away altogether: changes arrive all the same, only later.
func TestAnOutsideBusIsForgedAndThenAway(t *testing.T) {
	address := free(t)
	s := outside(t, address)
	defer func() { s.Shutdown(); s.WaitForShutdown() }()
	c := start(t, 3, "nats://"+address, "--reconnect-window", "10s")
	const n = 30
	f := c.agents(n)
	for _, d := range c.replicas {
		c.until(30*time.Second, func() error { return c.managed(d, n) })
	}
	shown := c.offline(c.replicas[0])
	t.Logf("with the bus, settings were at all hosts after %s", c.set(f, 0, "debug", 20*time.Second))
	links := f.Counts().Links

	stranger, err := nats.Connect("nats://" + address)
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range f.Agents {
		for _, online := range []bool{true, false} {
			m := fmt.Sprintf(`[{"replica":"replica-2","host":%q,"online":%t,"boot":"boot","connection":99999,"at":%q}]`, a.HostID(), online, time.Now().Add(time.Minute).Format(time.RFC3339))
			if err := stranger.Publish("loopback.v1.presence", []byte(m)); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := stranger.Flush(); err != nil {
		t.Fatal(err)
	}
	stranger.Close()
	c.until(5*time.Second, func() error {
		forged, err := c.replicas[0].Metric(c.within(5*time.Second), "loopback_bus_forged_total")
		if err == nil && forged < 2*n {
			err = fmt.Errorf("%v forged messages were counted, want %d", forged, 2*n)
		}
		return err
	})

	s.Shutdown()
	s.WaitForShutdown()
	t.Logf("without the bus, settings were at all hosts after %s", c.set(f, 1, "warn", 20*time.Second))
	select { // past the window: silence of the bus is no evidence
	case <-time.After(25 * time.Second):
	case <-t.Context().Done():
	}
	if now := f.Counts().Links; now != links {
		t.Errorf("%d links were made anew because of forged messages or a missing bus", now-links)
	}
	if shown.Load() > 0 {
		t.Errorf("%d times a host was shown as offline", shown.Load())
	}
	s = outside(t, address)
	c.until(20*time.Second, func() error {
		for i, d := range c.replicas {
			if up, err := d.Metric(c.within(5*time.Second), "loopback_bus_peers"); err != nil || up != 1 {
				return fmt.Errorf("replica %d has %v connections to the bus, %v", i+1, up, err)
			}
		}
		return nil
	})
	t.Logf("with the bus again, settings were at all hosts after %s", c.set(f, 2, "error", 20*time.Second))
}

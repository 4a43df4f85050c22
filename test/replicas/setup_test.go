package replicas

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/loopbackd/loopback/server/storage/storagetest"
	"github.com/loopbackd/loopback/test/daemon"
	"github.com/loopbackd/loopback/test/fleet"
	"github.com/loopbackd/loopback/test/port"
	"github.com/loopbackd/loopback/wire"
)

var program string // loopbackd, built once

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	if os.Getenv(fleet.HelperEnvironment) != "" {
		if err := fleet.HelperMain(os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		return 0
	}
	dir, err := os.MkdirTemp("", "loopback-replicas-*")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	if program, err = daemon.Build(context.Background(), dir); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

// cluster is several replicas behind one address.
type cluster struct {
	t        *testing.T
	postgres *storagetest.Postgres
	database string
	args     []string // of every replica
	replicas []*daemon.Daemon
	balancer *balancer
	sticky   bool   // a balancer that has every connection of an agent end at one replica, as by a hash of its address
	secret   string // of a token that enrols everybody
}

// start starts n replicas. bus, where it is set, is outside; else their buses are clustered by routes.
func start(t *testing.T, n int, bus string, args ...string) *cluster {
	t.Helper()
	return startWith(t, program, n, bus, args...)
}

// startWith is start with another program.
func startWith(t *testing.T, program string, n int, bus string, args ...string) *cluster {
	t.Helper()
	if testing.Short() {
		t.Skip("replicas are processes of their own, on a PostgreSQL of its own: not in the quick part")
	}
	c := &cluster{t: t, postgres: storagetest.StartPostgres(t, "fsync=off"), balancer: newBalancer(t)}
	c.database = c.postgres.NewDatabase(t)
	c.startOn(program, n, bus, args...)
	return c
}

// startOn starts the replicas on the cluster's database.
func (c *cluster) startOn(program string, n int, bus string, args ...string) {
	c.t.Helper()
	c.args = append([]string{"--database", c.database, "--log-level", "debug"}, args...)
	first, err := daemon.Start(c.t.Context(), daemon.Options{Program: program, Dir: c.t.TempDir(), URL: c.balancer.url(), Args: c.own(bus)})
	if err != nil {
		c.t.Fatal(err)
	}
	c.add(first)
	for range n - 1 {
		c.join(bus)
	}
	m, err := first.Mint(c.t.Context(), 100_000)
	if err != nil {
		c.t.Fatal(err)
	}
	c.secret = m.GetSecret()
}

// pause waits, or until the test ends.
func (c *cluster) pause(d time.Duration) {
	select {
	case <-time.After(d):
	case <-c.t.Context().Done():
	}
}

// own are the flags of one replica.
func (c *cluster) own(bus string) []string {
	c.t.Helper()
	peer := free(c.t)
	if bus != "" {
		return append([]string{"--replica-listen", peer, "--bus", bus}, c.args...)
	}
	return append([]string{"--replica-listen", peer, "--cluster-listen", free(c.t)}, c.args...)
}

func (c *cluster) join(bus string) *daemon.Daemon {
	c.t.Helper()
	d, err := c.replicas[0].Join(c.t.Context(), daemon.Options{Dir: c.t.TempDir(), URL: c.balancer.url(), Args: c.own(bus)}, "--database", c.database)
	if err != nil {
		c.t.Fatal(err)
	}
	c.add(d)
	return d
}

func (c *cluster) add(d *daemon.Daemon) {
	c.replicas = append(c.replicas, d)
	c.balancer.add(d.Address)
	n := len(c.replicas)
	c.t.Cleanup(func() {
		if err := d.Kill(); err != nil {
			c.t.Error(err)
		}
		if log, err := d.Log(); c.t.Failed() && err == nil {
			c.t.Logf("end of the log of replica %d: %s", n, log[max(0, len(log)-4000):])
		}
	})
}

func free(t *testing.T) string {
	t.Helper()
	a, err := port.FreeAddress("127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// agents runs n agents that reach the control plane through the balancer, every third by polling.
func (c *cluster) agents(n int) *fleet.Fleet {
	c.t.Helper()
	f := fleet.Run(c.t.Context(), n, 64, func(i int) *fleet.Agent {
		transport := wire.WebSocket
		if i%3 == 2 {
			transport = wire.Poll
		}
		d := c.replicas[0].Dialer(transport, i)
		d.Endpoint, d.Connect, d.Timeout = c.balancer.url(), nil, 10*time.Second
		if c.sticky {
			at := c.replicas[i%len(c.replicas)].Address
			d.Connect = func(ctx context.Context, network, _ string) (net.Conn, error) {
				return (&net.Dialer{}).DialContext(ctx, network, at)
			}
		}
		return &fleet.Agent{Dialer: d, Token: c.secret, Patience: 200 * time.Millisecond}
	})
	c.t.Cleanup(f.Stop)
	c.await(f, time.Minute, func(n2 fleet.Counts) bool { return n2.Linked == n })
	return f
}

func (c *cluster) within(most time.Duration) context.Context {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), most)
	c.t.Cleanup(cancel)
	return ctx
}

func (c *cluster) await(f *fleet.Fleet, most time.Duration, done func(fleet.Counts) bool) {
	c.t.Helper()
	if err := f.Wait(c.within(most), done); err != nil {
		c.t.Fatal(err)
	}
}

// until looks again and again until look is content, and fails the test with what it last said.
func (c *cluster) until(most time.Duration, look func() error) time.Duration {
	c.t.Helper()
	began := time.Now()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		err := look()
		if err == nil {
			return time.Since(began)
		}
		select {
		case <-tick.C:
		case <-c.t.Context().Done():
			c.t.Fatal(err)
		}
		if time.Since(began) > most {
			c.t.Fatalf("after %s: %v", most, err)
		}
	}
}

// balancer hands each connection to the next address that takes it.
type balancer struct {
	listener net.Listener
	next     atomic.Int64
	open     sync.WaitGroup

	mu        sync.Mutex
	addresses []string
}

func newBalancer(t *testing.T) *balancer {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	b := &balancer{listener: l}
	b.open.Go(func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			b.open.Go(func() { b.serve(client) })
		}
	})
	t.Cleanup(func() { l.Close(); b.open.Wait() })
	return b
}

func (b *balancer) url() string { return "https://" + b.listener.Addr().String() }

func (b *balancer) add(address string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.addresses = append(b.addresses, address)
}

func (b *balancer) serve(client net.Conn) {
	defer client.Close()
	b.mu.Lock()
	all := append([]string(nil), b.addresses...)
	b.mu.Unlock()
	from := int(b.next.Add(1))
	for i := range all {
		server, err := net.DialTimeout("tcp", all[(from+i)%len(all)], 2*time.Second)
		if err != nil {
			continue
		}
		var both sync.WaitGroup
		pipe := func(to, from net.Conn) {
			_, _ = io.Copy(to, from)
			to.Close()
			from.Close()
		}
		both.Go(func() { pipe(server, client) })
		both.Go(func() { pipe(client, server) })
		both.Wait()
		return
	}
}

package replicas

import (
	"fmt"
	"net"
	"net/url"
	"sync"
	"testing"

	"github.com/loopbackd/loopback/server/storage/storagetest"
	"github.com/loopbackd/loopback/test/daemon"
	"github.com/loopbackd/loopback/test/port"
)

// way is what lies between two programs: a port that leads to another, and can be cut as a network is: connections that
// stand say nothing any more, and new ones get no answer. Nobody is told.
type way struct {
	address string // that it is reached by
	to      string

	listener net.Listener
	serving  sync.WaitGroup
	mu       sync.Mutex
	open     chan struct{} // closed while bytes pass
	conns    map[net.Conn]bool
}

func newWay(t *testing.T, at, to string) *way {
	t.Helper()
	l, err := net.Listen("tcp", at)
	if err != nil {
		t.Fatal(err)
	}
	w := &way{address: l.Addr().String(), to: to, listener: l, open: make(chan struct{}), conns: map[net.Conn]bool{}}
	close(w.open)
	w.serving.Go(func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			w.serving.Go(func() { w.carry(client) })
		}
	})
	t.Cleanup(func() {
		l.Close()
		w.mend()
		w.drop()
		w.serving.Wait()
	})
	return w
}

// cut lets nothing pass until mend.
func (w *way) cut() {
	w.mu.Lock()
	defer w.mu.Unlock()
	select {
	case <-w.open:
		w.open = make(chan struct{})
	default:
	}
}

// mend lets pass what waits, as a network does that repeats what was lost.
func (w *way) mend() {
	w.mu.Lock()
	defer w.mu.Unlock()
	select {
	case <-w.open:
	default:
		close(w.open)
	}
}

// drop ends every connection.
func (w *way) drop() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for c := range w.conns {
		c.Close()
	}
}

func (w *way) passing() <-chan struct{} {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.open
}

func (w *way) hold(c net.Conn) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.conns[c] = true
}

func (w *way) carry(client net.Conn) {
	defer client.Close()
	w.hold(client)
	<-w.passing()
	server, err := net.Dial("tcp", w.to)
	if err != nil {
		return
	}
	defer server.Close()
	w.hold(server)
	var both sync.WaitGroup
	pipe := func(to, from net.Conn) {
		defer to.Close()
		defer from.Close()
		buffer := make([]byte, 64<<10)
		for {
			n, err := from.Read(buffer)
			<-w.passing()
			if n > 0 {
				if _, err := to.Write(buffer[:n]); err != nil {
					return
				}
			}
			if err != nil {
				return
			}
		}
	}
	both.Go(func() { pipe(server, client) })
	both.Go(func() { pipe(client, server) })
	both.Wait()
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.conns, client)
	delete(w.conns, server)
}

// ways are those of one replica.
type ways struct {
	bus, peer, database *way
}

// startApart starts n replicas every one of which reaches its database, and is reached by the others, by ways that can be
// cut. Each listens on an address of its own and tells the others of another, where the ways are.
func startApart(t *testing.T, n int, args ...string) (*cluster, []ways) {
	t.Helper()
	if testing.Short() {
		t.Skip("replicas are processes of their own, on a PostgreSQL of its own: not in the quick part")
	}
	c := &cluster{t: t, postgres: storagetest.StartPostgres(t, "fsync=off"), balancer: newBalancer(t)}
	c.database = c.postgres.NewDatabase(t)
	u, err := url.Parse(c.database)
	if err != nil {
		t.Fatal(err)
	}
	server := u.Host
	var all []ways
	for i := range n {
		inside, outside := fmt.Sprintf("127.0.1.%d", i+1), fmt.Sprintf("127.0.2.%d", i+1)
		address := func() string {
			a, err := port.FreeAddress(inside)
			if err != nil {
				t.Fatal(err)
			}
			return a
		}
		lead := func(to string) *way {
			_, port, _ := net.SplitHostPort(to)
			return newWay(t, net.JoinHostPort(outside, port), to)
		}
		w := ways{bus: lead(address()), peer: lead(address()), database: newWay(t, "127.0.0.1:0", server)}
		all = append(all, w)
		u.Host = w.database.address
		o := daemon.Options{Program: program, Dir: t.TempDir(), URL: c.balancer.url(), Args: append([]string{
			"--database", u.String(), "--log-level", "debug", "--cluster-listen", w.bus.to, "--replica-listen", w.peer.to, "--advertise", outside}, args...)}
		var d *daemon.Daemon
		if i == 0 {
			d, err = daemon.Start(t.Context(), o)
		} else {
			d, err = c.replicas[0].Join(t.Context(), o, "--database", c.database)
		}
		if err != nil {
			t.Fatal(err)
		}
		c.add(d)
	}
	m, err := c.replicas[0].Mint(t.Context(), 100_000)
	if err != nil {
		t.Fatal(err)
	}
	c.secret = m.GetSecret()
	return c, all
}

package controltest

import (
	"context"
	"net"
	"sync"

	"github.com/loopbackd/loopback/agent/config"
	"github.com/loopbackd/loopback/agent/link"
	"github.com/loopbackd/loopback/trust"
	"github.com/loopbackd/loopback/wire"
)

// Pipes is a listener whose connections are made in memory, so that a control plane and its agents can live in a
// synctest bubble, where time costs nothing.
type Pipes struct {
	conns chan net.Conn
	once  sync.Once
	done  chan struct{}

	mu   sync.Mutex
	down error // what connecting fails with; nil: it works
}

// NewPipes makes a listener.
func NewPipes() *Pipes { return &Pipes{conns: make(chan net.Conn), done: make(chan struct{})} }

// Accept is the server's end of the next connection.
func (p *Pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.done:
		return nil, net.ErrClosed
	}
}

// Close ends Accept.
func (p *Pipes) Close() error {
	p.once.Do(func() { close(p.done) })
	return nil
}

// Addr is a name that the control plane's certificate holds.
func (p *Pipes) Addr() net.Addr { return address("control.test:443") }

type address string

func (address) Network() string  { return "tcp" }
func (a address) String() string { return string(a) }

// Break makes connecting fail with err from now on, until it is nil again.
func (p *Pipes) Break(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.down = err
}

// Connect is the agent's end of a new connection.
func (p *Pipes) Connect(ctx context.Context, _, _ string) (net.Conn, error) {
	p.mu.Lock()
	down := p.down
	p.mu.Unlock()
	if down != nil {
		return nil, &net.OpError{Op: "dial", Net: "tcp", Addr: p.Addr(), Err: down}
	}
	near, far := net.Pipe()
	select {
	case p.conns <- far:
		return near, nil
	case <-p.done:
		return nil, net.ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// Dial dials over the pipes as an agent with this configuration would.
func (p *Pipes) Dial(c config.Config) link.Dial {
	return func(ctx context.Context, endpoint string, anchors []trust.AnchorHash, seen uint64) (link.Conn, error) {
		outer, err := link.TLS(c)
		if err != nil {
			return nil, err
		}
		conn, err := wire.Dialer{
			Endpoint: endpoint, TLS: outer, Anchor: anchors[0], AlsoTrusted: anchors[1:], SeenKeyset: seen,
			Transport: c.Transport, Connect: p.Connect,
		}.Dial(ctx)
		if err != nil {
			return nil, err
		}
		return conn, nil
	}
}

package wire

import (
	"context"
	"crypto/ecdh"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/trust"
)

// deployment is a control plane of a test's own: an anchor, and link keys that it vouches for.
type deployment struct {
	anchor ed25519.PrivateKey
	keys   ServerKeys
}

func newDeployment(t testing.TB, version uint64) *deployment {
	t.Helper()
	_, anchor, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	d := &deployment{anchor: anchor}
	d.keys = d.newKeys(t, version)
	return d
}

func (d *deployment) newKeys(t testing.TB, version uint64) ServerKeys {
	t.Helper()
	key, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	private, public := key.Bytes(), key.PublicKey().Bytes()
	signed, err := trust.Keyset{Deployment: "dep_test", Version: version, LinkKeys: [][]byte{public}}.Sign(d.anchor)
	if err != nil {
		t.Fatal(err)
	}
	return ServerKeys{Private: private, Public: public, Keyset: signed}
}

// respond answers a handshake as a server does that was never asked before.
func respond(keys ServerKeys, first []byte, every uint64) ([]byte, *session, error) {
	a, err := prepare(keys)
	if err != nil {
		return nil, nil, err
	}
	return a.respond(first, every)
}

func (d *deployment) hash() trust.AnchorHash {
	return trust.HashAnchor(d.anchor.Public().(ed25519.PublicKey))
}

// peer is the owner of a server's link in tests: it answers what it gets by reply, and keeps why the link ended.
type peer struct {
	link   *Link
	reply  func(l *Link, envelope []byte)
	closed chan error
}

func (p *peer) Receive(envelope []byte) { p.reply(p.link, envelope) }
func (p *peer) Closed(reason error)     { p.closed <- reason }

func echo(l *Link, envelope []byte) { _ = l.Send(envelope) }

// control is a Server behind a real HTTPS listener.
type control struct {
	*Server
	*deployment
	http  *httptest.Server
	peers chan *peer

	mu     sync.Mutex
	failed []error
}

// newControl starts a server that answers by reply. adjust may change it first.
func newControl(t testing.TB, reply func(*Link, []byte), adjust ...func(*Server)) *control {
	t.Helper()
	c := &control{deployment: newDeployment(t, 1), peers: make(chan *peer, 1024)}
	c.Server = &Server{
		Keys: func() ServerKeys { return c.keys },
		Accept: func(l *Link) Receiver {
			p := &peer{link: l, reply: reply, closed: make(chan error, 1)}
			c.peers <- p
			return p
		},
		Failed: func(_ netip.Addr, reason error) {
			c.mu.Lock()
			c.failed = append(c.failed, reason)
			c.mu.Unlock()
		},
	}
	for _, a := range adjust {
		a(c.Server)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/agent/v1/link", c.ServeLink)
	mux.HandleFunc("/agent/v1/poll", c.ServePoll)
	c.http = httptest.NewUnstartedServer(mux)
	c.http.EnableHTTP2 = true
	c.http.Config.ErrorLog = discardLog
	c.http.StartTLS()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := c.Server.Close(ctx); err != nil {
			t.Errorf("closing the server: %v", err)
		}
		c.http.CloseClientConnections()
		c.http.Close()
	})
	return c
}

func (c *control) roots() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(c.http.Certificate())
	return pool
}

func (c *control) dialer(transport string) Dialer {
	return Dialer{
		Endpoint: c.http.URL, Transport: transport, Anchor: c.hash(),
		TLS: &tls.Config{RootCAs: c.roots()}, Timeout: 5 * time.Second,
	}
}

func (c *control) address() string { return c.http.Listener.Addr().String() }

func dial(t testing.TB, d Dialer) *Conn {
	t.Helper()
	c, err := d.Dial(t.Context())
	if err != nil {
		t.Fatalf("dial: %v", err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func within(t testing.TB, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}

func send(t testing.TB, c *Conn, envelope string) {
	t.Helper()
	if err := c.Send(within(t, 10*time.Second), []byte(envelope)); err != nil {
		t.Fatalf("send: %v", err)
	}
}

func receive(t testing.TB, c *Conn) string {
	t.Helper()
	envelope, err := c.Receive(within(t, 10*time.Second))
	if err != nil {
		t.Fatalf("receive: %v", err)
	}
	return string(envelope)
}

// ended waits for the reason that a server's link ended for.
func (p *peer) ended(t testing.TB) error {
	t.Helper()
	select {
	case reason := <-p.closed:
		return reason
	case <-time.After(10 * time.Second):
		t.Fatal("the server's link does not end")
		return nil
	}
}

// endOf waits for the reason that an agent's link ended for.
func endOf(t testing.TB, c *Conn) error {
	t.Helper()
	for {
		_, err := c.Receive(within(t, 10*time.Second))
		if err != nil {
			return err
		}
	}
}

func wantCode(t testing.TB, what string, err error, code ...string) {
	t.Helper()
	got := "no error"
	if err != nil {
		got = fault.Of(err).Code
	}
	for _, c := range code {
		if got == c {
			return
		}
	}
	t.Fatalf("%s: got %s (%v), want %v", what, got, err, code)
}

func eachTransport(t *testing.T, test func(t *testing.T, transport string)) {
	for _, transport := range []string{WebSocket, Poll} {
		t.Run(transport, func(t *testing.T) { t.Parallel(); test(t, transport) })
	}
}

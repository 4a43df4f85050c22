package stream_test

import (
	"bytes"
	"context"
	"crypto/ecdh"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/pem"
	"errors"
	"io"
	"log"
	mathrand "math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/loopbackd/loopback/agent/config"
	"github.com/loopbackd/loopback/agent/link"
	"github.com/loopbackd/loopback/agent/state"
	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/server/stream"
	nouns "github.com/loopbackd/loopback/stream"
	"github.com/loopbackd/loopback/trust"
	"github.com/loopbackd/loopback/wire"
)

// plane is a control plane that does nothing but streams, behind a real HTTPS listener.
type plane struct {
	*stream.Service
	http *httptest.Server
	ca   string // file
}

// deployment is what all replicas of a test share.
type deployment struct {
	anchor ed25519.PrivateKey
	keys   wire.ServerKeys
	secret []byte
}

func newDeployment(t testing.TB) *deployment {
	t.Helper()
	_, anchor, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	key, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	public := key.PublicKey().Bytes()
	signed, err := trust.Keyset{Deployment: "dep_test", Version: 1, LinkKeys: [][]byte{public}}.Sign(anchor)
	if err != nil {
		t.Fatal(err)
	}
	return &deployment{anchor, wire.ServerKeys{Private: key.Bytes(), Public: public, Keyset: signed}, []byte("a secret of the deployment")}
}

func (d *deployment) start(t testing.TB, adjust func(*stream.Options)) *plane {
	t.Helper()
	o := stream.Options{Keys: func() wire.ServerKeys { return d.keys }, Secret: d.secret}
	if adjust != nil {
		adjust(&o)
	}
	p := &plane{Service: stream.New(o)}
	mux := http.NewServeMux()
	mux.Handle(wire.StreamPath, p.Service)
	mux.HandleFunc("/peer"+wire.StreamPath, func(w http.ResponseWriter, r *http.Request) {
		r.URL.Path = strings.TrimPrefix(r.URL.Path, "/peer")
		p.ServePeer(w, r)
	})
	p.http = httptest.NewUnstartedServer(mux)
	p.http.Config.ErrorLog = log.New(io.Discard, "", 0)
	p.http.StartTLS()
	p.ca = filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(p.ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: p.http.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.stop(t) })
	return p
}

func (p *plane) stop(t testing.TB) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if err := p.Service.Close(ctx); err != nil {
		t.Errorf("closing: %v", err)
	}
	p.http.Close()
}

func (d *deployment) dialer(p *plane, endpoint, transport, id string) *link.StreamDialer {
	if endpoint == "" {
		endpoint = p.http.URL
	}
	c := config.Default()
	c.Endpoints, c.CAFile, c.Transport = []string{endpoint}, p.ca, transport
	return link.NewStreamDialer(c, state.NewTrust(trust.HashAnchor(d.anchor.Public().(ed25519.PublicKey))), endpoint, p.Name(id), id, p.Credential(id))
}

// cutter is a TCP proxy whose connections can be reset.
type cutter struct {
	net.Listener
	to    string
	mu    sync.Mutex
	conns []net.Conn
	work  sync.WaitGroup
}

func newCutter(t testing.TB, to string) *cutter {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	u, _ := url.Parse(to)
	c := &cutter{Listener: l, to: u.Host}
	c.work.Go(func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("tcp", c.target())
			if err != nil {
				_ = in.Close()
				continue
			}
			c.mu.Lock()
			c.conns = append(c.conns, in, out)
			c.mu.Unlock()
			for _, way := range [][2]net.Conn{{in, out}, {out, in}} {
				c.work.Go(func() {
					_, _ = io.Copy(way[0], way[1])
					_ = way[0].Close()
					_ = way[1].Close()
				})
			}
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		c.cut()
		c.work.Wait()
	})
	return c
}

func (c *cutter) target() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.to
}

func (c *cutter) url() string { return "https://" + c.Addr().String() }

// cut resets all connections.
func (c *cutter) cut() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, conn := range c.conns {
		_ = conn.(*net.TCPConn).SetLinger(0)
		_ = conn.Close()
	}
	c.conns = nil
}

// carry sends the same random bytes both ways through a session and compares sums; meanwhile runs while they travel.
func carry(t *testing.T, host, far *nouns.End, size int, meanwhile func(done <-chan struct{})) {
	t.Helper()
	data := make([]byte, size)
	source := mathrand.NewChaCha8([32]byte{1})
	_, _ = source.Read(data)
	want := sha256.Sum256(data)
	var all sync.WaitGroup
	for _, way := range [][2]*nouns.End{{host, far}, {far, host}} {
		all.Go(func() {
			w := way[0].Writer(1)
			if _, err := w.Write(data); err != nil {
				t.Errorf("Write: %v", err)
			}
			_ = w.Close()
		})
		all.Go(func() {
			sum := sha256.New()
			n, err := io.Copy(sum, way[1].Reader(1))
			if err != nil || !bytes.Equal(sum.Sum(nil), want[:]) {
				t.Errorf("read %d bytes, %v; want the %d that were written", n, err, size)
			}
		})
	}
	done := make(chan struct{})
	go func() { all.Wait(); close(done) }()
	if meanwhile != nil {
		meanwhile(done)
	}
	<-done
}

// keep runs the host's side until the test ends.
func keep(t *testing.T, e *nouns.End, d *link.StreamDialer) (ended <-chan error) {
	t.Helper()
	done := make(chan error, 1)
	go func() { done <- e.Keep(context.Background(), time.Minute, d.Dial) }()
	t.Cleanup(func() {
		e.Close(nil)
		<-e.Done()
	})
	return done
}

func TestBytesCrossByEveryTransport(t *testing.T) {
	for _, transport := range []string{wire.WebSocket, wire.Poll} {
		t.Run(transport, func(t *testing.T) {
			d := newDeployment(t)
			p := d.start(t, nil)
			far, host := nouns.New(nouns.Options{}), nouns.New(nouns.Options{})
			defer p.Expect(stream.Session{ID: "ses_1", End: far})()
			keep(t, host, d.dialer(p, "", transport, "ses_1"))
			carry(t, host, far, 3<<20, nil)
		})
	}
}

func TestASessionOutlivesItsConnections(t *testing.T) {
	d := newDeployment(t)
	p := d.start(t, nil)
	c := newCutter(t, p.http.URL)
	far, host := nouns.New(nouns.Options{}), nouns.New(nouns.Options{})
	var authorised int
	defer p.Expect(stream.Session{ID: "ses_1", End: far, Authorise: func(context.Context) error { authorised++; return nil }})()
	keep(t, host, d.dialer(p, c.url(), wire.WebSocket, "ses_1"))
	cuts := 0
	carry(t, host, far, 64<<20, func(done <-chan struct{}) {
		tick := time.NewTicker(30 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-done:
				return
			case <-tick.C:
				c.cut()
				cuts++
			}
		}
	})
	if n := host.Counts().Attachments; n < 2 || authorised < int(n) {
		t.Errorf("%d connections after %d cuts, authorised %d times", n, cuts, authorised)
	}
}

func TestWhoMayNotOpenIsTold(t *testing.T) {
	d := newDeployment(t)
	p := d.start(t, nil)
	far := nouns.New(nouns.Options{})
	var verdict error
	defer p.Expect(stream.Session{ID: "ses_1", End: far, Authorise: func(context.Context) error { return verdict }})()
	refused := func(d *link.StreamDialer) string {
		e := nouns.New(nouns.Options{})
		return fault.Of(e.Keep(context.Background(), time.Minute, d.Dial)).Code
	}
	if got := refused(d.dialer(p, "", wire.WebSocket, "ses_2")); got != "stream_unknown" {
		t.Errorf("a session that is not expected: %s", got)
	}
	forged := d.dialer(p, "", wire.WebSocket, "ses_1")
	forged.Credential = p.Credential("ses_2")
	if got := refused(forged); got != "stream_credential" {
		t.Errorf("another session's credential: %s", got)
	}
	own, host := d.dialer(p, "", wire.WebSocket, "ses_1"), nouns.New(nouns.Options{})
	ended := keep(t, host, own)
	_, _ = host.Writer(1).Write([]byte("x"))
	if _, err := far.Reader(1).Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	if got := refused(d.dialer(p, "", wire.WebSocket, "ses_1")); got != "stream_taken" {
		t.Errorf("a second host's end: %s", got)
	}
	verdict = fault.New(fault.Denied, "grant_ended", "the grant is over")
	conn, err := own.Dial(context.Background()) // as after a cut
	if err == nil {
		_ = conn.Close()
	}
	if fault.Of(err).Code != "grant_ended" {
		t.Errorf("resuming without authority: %v", err)
	}
	if err := <-ended; fault.Of(err).Code != "grant_ended" {
		t.Errorf("the host's end is over for %v", err)
	}
	if !errors.Is(far.Err(), verdict) {
		t.Errorf("the session is over for %v", far.Err())
	}
}

func TestAStreamFindsTheReplicaOfItsSession(t *testing.T) {
	for _, transport := range []string{wire.WebSocket, wire.Poll} {
		t.Run(transport, func(t *testing.T) {
			d := newDeployment(t)
			a := d.start(t, func(o *stream.Options) { o.Replica = "a" })
			to, _ := url.Parse(a.http.URL)
			proxy := &httputil.ReverseProxy{
				Rewrite: func(r *httputil.ProxyRequest) {
					r.Out.URL.Scheme, r.Out.URL.Host = "https", to.Host
					r.Out.URL.Path = "/peer" + r.Out.URL.Path
				},
				Transport: a.http.Client().Transport, ErrorLog: log.New(io.Discard, "", 0),
			}
			forward := func(w http.ResponseWriter, r *http.Request, replica string) bool {
				if replica != "a" {
					t.Errorf("forwarded to %q", replica)
				}
				proxy.ServeHTTP(w, r)
				return true
			}
			b := d.start(t, func(o *stream.Options) {
				o.Replica, o.Forward = "b", forward
				o.ForwardPoll = func(w http.ResponseWriter, r *http.Request, to string) { forward(w, r, to) }
			})
			far, host := nouns.New(nouns.Options{}), nouns.New(nouns.Options{})
			defer a.Expect(stream.Session{ID: "ses_1", End: far})()
			dialer := d.dialer(b, "", transport, "ses_1")
			dialer.Name = a.Name("ses_1")
			keep(t, host, dialer)
			carry(t, host, far, 1<<20, nil)
		})
	}
}

// TestAnotherReplicaTakesOver loses the replica of a session with bytes under way: one that adopts it, and knows no more than
// what was acknowledged, goes on at the byte.
func TestAnotherReplicaTakesOver(t *testing.T) {
	d := newDeployment(t)
	a := d.start(t, func(o *stream.Options) { o.Replica = "a" })
	c := newCutter(t, a.http.URL)
	far, host := nouns.New(nouns.Options{}), nouns.New(nouns.Options{})
	a.Expect(stream.Session{ID: "ses_1", End: far})
	dialer := d.dialer(a, c.url(), wire.WebSocket, "ses_1")
	keep(t, host, dialer)

	data := make([]byte, 8<<20)
	_, _ = mathrand.NewChaCha8([32]byte{2}).Read(data)
	go func() {
		w := host.Writer(1)
		_, _ = w.Write(data)
		_ = w.Close()
	}()
	stored := make([]byte, 3<<20)
	if _, err := io.ReadFull(far.Reader(1), stored); err != nil {
		t.Fatal(err)
	}

	b := d.start(t, func(o *stream.Options) {
		o.Replica, o.Forward = "b", func(http.ResponseWriter, *http.Request, string) bool { return false } // a is gone
	})
	adopted := nouns.New(nouns.Options{})
	reader := adopted.ReaderAt(1, uint64(len(stored)))
	b.Adopt(func(_ context.Context, id string) error {
		if id != "ses_1" {
			return stream.ErrUnknown
		}
		b.Expect(stream.Session{ID: id, End: adopted})
		return nil
	})
	there, _ := url.Parse(b.http.URL)
	c.mu.Lock()
	c.to = there.Host
	c.mu.Unlock()
	if err := os.WriteFile(a.ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: b.http.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	c.cut()
	rest, err := io.ReadAll(reader)
	if err != nil {
		t.Fatal(err)
	}
	if got := append(stored, rest...); !bytes.Equal(got, data) {
		t.Errorf("%d bytes have come, want the %d that were written", len(got), len(data))
	}
}

package fleet

import (
	"context"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/loopbackd/loopback/server/link"
	"github.com/loopbackd/loopback/server/link/linktest"
	"github.com/loopbackd/loopback/trust"
	"github.com/loopbackd/loopback/wire"
)

// Control is the link side of a control plane: a hub behind an HTTPS port, and a fleet in memory that outlives restarts.
type Control struct {
	Fleet  *linktest.Fleet
	Hub    *link.Hub
	Server *wire.Server

	options     func(*link.Options)
	anchor      trust.AnchorHash
	keys        wire.ServerKeys
	certificate tls.Certificate
	address     string
	http        *http.Server
	serving     sync.WaitGroup
	conns       *connections
}

// NewControl makes a deployment's keys and starts it on a loopback port. adjust may change the hub's options.
func NewControl(f *linktest.Fleet, adjust func(*link.Options)) (*Control, error) {
	c := &Control{Fleet: f, options: adjust, address: "127.0.0.1:0"}
	_, anchor, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	c.anchor = trust.HashAnchor(anchor.Public().(ed25519.PublicKey))
	key, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	signed, err := trust.Keyset{Deployment: "dep_simulated", Version: 1, LinkKeys: [][]byte{key.PublicKey().Bytes()}}.Sign(anchor)
	if err != nil {
		return nil, err
	}
	c.keys = wire.ServerKeys{Private: key.Bytes(), Public: key.PublicKey().Bytes(), Keyset: signed}
	if c.certificate, err = selfSigned(); err != nil {
		return nil, err
	}
	return c, c.Start()
}

// Start serves, after Stop or Kill on the same port as before.
func (c *Control) Start() error {
	o := link.Options{Fleet: c.Fleet, Enroller: c.Fleet, Observer: c.Fleet, Version: "0.0.0-simulated", Replica: "one"}
	if c.options != nil {
		c.options(&o)
	}
	hub, err := link.New(o)
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", c.address)
	if err != nil {
		return err
	}
	c.address = listener.Addr().String()
	c.conns = &connections{Listener: listener, open: map[net.Conn]struct{}{}}
	c.Hub, c.Server = hub, &wire.Server{Keys: func() wire.ServerKeys { return c.keys }}
	c.Fleet.Tell(hub.Changed)
	hub.Attach(c.Server)
	hub.Start()
	mux := http.NewServeMux()
	mux.HandleFunc("/agent/v1/link", c.Server.ServeLink)
	mux.HandleFunc("/agent/v1/poll", c.Server.ServePoll)
	c.http = &http.Server{
		Handler: mux, ReadHeaderTimeout: 10 * time.Second, ErrorLog: log.New(io.Discard, "", 0),
		TLSConfig: &tls.Config{Certificates: []tls.Certificate{c.certificate}, MinVersion: tls.VersionTLS13},
	}
	server, conns := c.http, c.conns
	c.serving.Go(func() { _ = server.ServeTLS(conns, "", "") }) // until Shutdown or Close
	return nil
}

// Stop shuts down in order: agents are told to come back, then the port closes.
func (c *Control) Stop(ctx context.Context) error {
	err := errors.Join(c.Hub.Close(ctx), c.Server.Close(ctx), c.http.Shutdown(ctx))
	c.serving.Wait()
	return err
}

// Kill cuts every connection without a word. What the hub has not handed over is lost with it.
func (c *Control) Kill() {
	c.Fleet.Tell(nil)
	_ = c.http.Close() // the port; the connections are cut here
	c.conns.cut()
	c.serving.Wait()
	dead, cancel := context.WithCancel(context.Background())
	cancel()
	_ = c.Hub.Close(dead)
	_ = c.Server.Close(dead)
}

// Dialer is how agents get here.
func (c *Control) Dialer(transport string) wire.Dialer {
	pool := x509.NewCertPool()
	pool.AddCert(c.certificate.Leaf)
	return wire.Dialer{Endpoint: "https://" + c.address, Transport: transport, Anchor: c.anchor,
		TLS: &tls.Config{RootCAs: pool, ServerName: "localhost", MinVersion: tls.VersionTLS13}, Timeout: 30 * time.Second}
}

// Certificate is the one of the port, in DER.
func (c *Control) Certificate() []byte { return c.certificate.Certificate[0] }

// Anchor is what agents are to trust.
func (c *Control) Anchor() trust.AnchorHash { return c.anchor }

// Address of the port.
func (c *Control) Address() string { return c.address }

func selfSigned() (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "simulated control plane"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour), DNSNames: []string{"localhost"},
		IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return tls.Certificate{}, err
	}
	leaf, err := x509.ParseCertificate(der)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}, err
}

// connections is a listener that can cut what it accepted.
type connections struct {
	net.Listener
	mu   sync.Mutex
	open map[net.Conn]struct{}
}

func (l *connections) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	tracked := &connection{c.(*net.TCPConn), l}
	l.mu.Lock()
	l.open[tracked] = struct{}{}
	l.mu.Unlock()
	return tracked, nil
}

func (l *connections) cut() {
	l.mu.Lock()
	open := l.open
	l.open = map[net.Conn]struct{}{}
	l.mu.Unlock()
	for c := range open {
		_ = c.(*connection).SetLinger(0)
		_ = c.(*connection).TCPConn.Close()
	}
}

type connection struct {
	*net.TCPConn
	listener *connections
}

func (c *connection) Close() error {
	c.listener.mu.Lock()
	delete(c.listener.open, c)
	c.listener.mu.Unlock()
	return c.TCPConn.Close()
}

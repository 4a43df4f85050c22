// Package controltest is a genuine control plane in miniature, for tests of what talks to one.
//
// It speaks the real link over real TLS with real keys: it enrols whoever shows it a token of its deployment, checks
// proofs, counts key generations, sends sections and answers heartbeats. It keeps everything in memory, authorises
// nobody, and remembers what it was told. The zero value is usable: Start it, give its Config to an agent.
//
// Faults are made by Lose, which says of each answer whether it is lost on the way (the answer is not sent and its
// connection is cut, while the control plane has done what it was asked), by Refuse, and by Cut.
package controltest

import (
	"context"
	"crypto/ecdh"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/loopbackd/loopback/agent/config"
	pb "github.com/loopbackd/loopback/api/loopback/v1"
	"github.com/loopbackd/loopback/section"
	"github.com/loopbackd/loopback/token"
	"github.com/loopbackd/loopback/trust"
	"github.com/loopbackd/loopback/wire"
)

// Server is a control plane. Set its exported fields before Start.
type Server struct {
	Listener  net.Listener                       // nil: a port of 127.0.0.1
	Heartbeat time.Duration                      // 0: one second
	Standing  string                             // of hosts that enrol; empty: managed
	Lose      func(*pb.ServerFrame) bool         // which answers are lost on the way
	Mute      func(*pb.ServerFrame) bool         // which answers are never given, while the connection stands
	Refuse    func(*pb.AgentFrame) *pb.Refusal   // which hellos and enrolments are refused
	Hear      func(link *Link, f *pb.AgentFrame) // is told of every frame, before it is acted on
	Keyset    uint64                             // version of the keyset; 0: 1

	t      testing.TB
	wire   *wire.Server
	http   *http.Server
	serve  sync.WaitGroup
	dir    string
	anchor ed25519.PrivateKey
	keys   wire.ServerKeys

	mu      sync.Mutex
	changed chan struct{} // closes at every change
	hosts   map[string]*Host
	desired map[string]section.Section
	conns   map[net.Conn]bool
	uses    int // of tokens
}

// Host is what the control plane knows of a host. Read it in Wait, or as the copy that Host returns.
type Host struct {
	ID         string
	Key        ed25519.PublicKey
	Next       ed25519.PublicKey
	Past       []ed25519.PublicKey
	Generation int64
	Enrol      *pb.Enrol
	Standing   string
	Hellos     []*pb.Hello
	Held       map[string]*pb.SectionHeld // as last reported
	Reports    []*pb.SectionHeld          // all of them, in order
	Requests   []*pb.SectionRequest
	Inventory  *pb.InventoryReport
	Health     *pb.HealthReport
	Troubles   []*pb.LinkTrouble
	Beats      int
	Goodbyes   int
	Offers     int
	Link       *Link // nil: away
}

// Link is one link of a host.
type Link struct {
	*wire.Link
	server *Server
	host   string // id; empty until hello
	mu     sync.Mutex
}

// Start makes keys and serves until the test ends.
func (s *Server) Start(t testing.TB) {
	t.Helper()
	s.t, s.dir, s.changed = t, t.TempDir(), make(chan struct{})
	s.hosts, s.desired, s.conns = map[string]*Host{}, map[string]section.Section{}, map[net.Conn]bool{}
	_, s.anchor, _ = ed25519.GenerateKey(rand.Reader)
	if s.Keyset == 0 {
		s.Keyset = 1
	}
	s.Rekey(s.Keyset, nil)
	if s.Heartbeat == 0 {
		s.Heartbeat = time.Second
	}
	if s.Listener == nil {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		s.Listener = l
	}
	s.wire = &wire.Server{Keys: func() wire.ServerKeys {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.keys
	}, Accept: func(l *wire.Link) wire.Receiver { return &Link{Link: l, server: s} }}
	mux := http.NewServeMux()
	mux.HandleFunc("/agent/v1/link", s.wire.ServeLink)
	mux.HandleFunc("/agent/v1/poll", s.wire.ServePoll)
	s.http = &http.Server{Handler: mux, ConnState: s.track, ReadHeaderTimeout: time.Minute}
	certificate := s.certificate()
	s.serve.Go(func() {
		_ = s.http.Serve(tls.NewListener(s.Listener, &tls.Config{Certificates: []tls.Certificate{certificate}}))
	})
	t.Cleanup(s.Stop)
}

// Stop ends everything. It may be called before the test ends.
func (s *Server) Stop() {
	_ = s.http.Close()
	s.Cut()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	_ = s.wire.Close(ctx)
	s.serve.Wait()
}

func (s *Server) track(c net.Conn, state http.ConnState) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch state {
	case http.StateNew:
		s.conns[c] = true
	case http.StateClosed:
		delete(s.conns, c)
	}
}

// Cut breaks every connection without a word.
func (s *Server) Cut() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		if t, ok := c.(*tls.Conn); ok {
			_ = t.NetConn().Close() // (*tls.Conn).Close would say goodbye
		}
		delete(s.conns, c)
	}
}

// Rekey makes a new link key and a keyset of this version that lists it. With next, that anchor is named as the next,
// and signs from the keyset after this on.
func (s *Server) Rekey(version uint64, next ed25519.PrivateKey) {
	link, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		s.t.Fatal(err)
	}
	k := trust.Keyset{Deployment: "dep_test", Version: version, IssuedAt: time.Now(), LinkKeys: [][]byte{link.PublicKey().Bytes()}}
	if next != nil {
		k.NextAnchor = next.Public().(ed25519.PublicKey)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	signed, err := k.Sign(s.anchor)
	if err != nil {
		s.t.Fatal(err)
	}
	s.keys = wire.ServerKeys{Private: link.Bytes(), Public: link.PublicKey().Bytes(), Keyset: signed}
	if next != nil {
		s.anchor = next
	}
}

func (s *Server) certificate() tls.Certificate {
	public, private, _ := ed25519.GenerateKey(rand.Reader)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "control plane of a test"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().AddDate(10, 0, 0),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, DNSNames: []string{"control.test"},
		IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, public, private)
	if err != nil {
		s.t.Fatal(err)
	}
	if err := os.WriteFile(s.CAFile(), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
		s.t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: private}
}

// CAFile is the certificate by which the port is trusted.
func (s *Server) CAFile() string { return filepath.Join(s.dir, "ca.pem") }

// URL of the port.
func (s *Server) URL() string { return "https://" + s.Listener.Addr().String() }

// Anchor is the hash of the anchor that signs now.
func (s *Server) Anchor() trust.AnchorHash {
	s.mu.Lock()
	defer s.mu.Unlock()
	return trust.HashAnchor(s.anchor.Public().(ed25519.PublicKey))
}

// Config is an agent's configuration for this control plane.
func (s *Server) Config() config.Config {
	c := config.Default()
	c.Endpoints, c.CAFile, c.Anchor = []string{s.URL()}, s.CAFile(), s.Anchor()
	return c
}

// Token is a new one of this deployment.
func (s *Server) Token() token.Secret {
	return token.NewSecret("tok_01jd0000000000000000000000", s.Anchor())
}

// Uses counts enrolments that made a host: the same key again is none.
func (s *Server) Uses() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.uses
}

// Wait returns once cond holds of the host, which may be read in it; it fails the test where that takes too long.
func (s *Server) Wait(t testing.TB, what, hostID string, cond func(*Host) bool) {
	t.Helper()
	timeout := time.NewTimer(30 * time.Second)
	defer timeout.Stop()
	for {
		s.mu.Lock()
		h, changed := s.hosts[hostID], s.changed
		ok := h != nil && cond(h)
		s.mu.Unlock()
		if ok {
			return
		}
		select {
		case <-changed:
		case <-timeout.C:
			t.Fatalf("waited in vain for: %s\nhost: %+v", what, s.Host(hostID))
		}
	}
}

// Host is a copy of what is known.
func (s *Server) Host(id string) Host {
	s.mu.Lock()
	defer s.mu.Unlock()
	if h := s.hosts[id]; h != nil {
		return *h
	}
	return Host{}
}

// tell wakes who waits; mu is held.
func (s *Server) tell() {
	close(s.changed)
	s.changed = make(chan struct{})
}

// Adopt makes a key the host's next one, as if it had been offered; with use, as if a hello had been said with it.
func (s *Server) Adopt(hostID string, key ed25519.PublicKey, use bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	h := s.hosts[hostID]
	h.Next = key
	if use {
		h.Past = append(h.Past, h.Key)
		h.Key, h.Next, h.Generation = key, nil, h.Generation+1
	}
}

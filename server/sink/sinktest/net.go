package sinktest

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"net"
	"net/http/httptest"
	"sync"
	"syscall"
)

// Certificate is the receivers' own, for 127.0.0.1 and example.com.
func Certificate() (cert tls.Certificate, ca string) {
	s := httptest.NewUnstartedServer(nil)
	s.StartTLS()
	defer s.Close()
	return s.TLS.Certificates[0], string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}))
}

// PEM is a certificate and its key as files have them.
func PEM(cert tls.Certificate) (certificate, key []byte, err error) {
	secret, err := x509.MarshalPKCS8PrivateKey(cert.PrivateKey)
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Certificate[0]}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret}), err
}

// Net connects in memory whoever listens and whoever dials.
type Net struct {
	mu        sync.Mutex
	listeners map[string]*listener
}

// NewNet is one on which nobody listens.
func NewNet() *Net { return &Net{listeners: map[string]*listener{}} }

type listener struct {
	net     *Net
	address string
	conns   chan net.Conn
	once    sync.Once
	done    chan struct{}
}

// Listen at HOST:PORT. It panics where somebody does already.
func (n *Net) Listen(address string) net.Listener {
	l := &listener{net: n, address: address, conns: make(chan net.Conn), done: make(chan struct{})}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.listeners[address] != nil {
		panic("sinktest: somebody listens at " + address)
	}
	n.listeners[address] = l
	return l
}

// Dial connects as net.Dialer does: where nobody listens, it is refused.
func (n *Net) Dial(ctx context.Context, _, address string) (net.Conn, error) {
	n.mu.Lock()
	l := n.listeners[address]
	n.mu.Unlock()
	refused := &net.OpError{Op: "dial", Net: "tcp", Err: syscall.ECONNREFUSED}
	if l == nil {
		return nil, refused
	}
	near, far := net.Pipe()
	select {
	case l.conns <- far:
		return near, nil
	case <-l.done:
		return nil, refused
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (l *listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

func (l *listener) Close() error {
	l.once.Do(func() {
		close(l.done)
		l.net.mu.Lock()
		defer l.net.mu.Unlock()
		delete(l.net.listeners, l.address)
	})
	return nil
}

func (l *listener) Addr() net.Addr { return name(l.address) }

type name string

func (name) Network() string  { return "tcp" }
func (n name) String() string { return string(n) }

package e2e

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"
)

// middle is a proxy of the test's own that ends TLS, as one in a company's network does, with a certificate that hosts
// trust. It passes on what it is not told to meddle with.
type middle struct {
	url              string
	authority        []byte // PEM of the CA that hosts have to trust
	certificate, key string // PEM files for the control plane behind it

	mu      sync.Mutex
	backend *httputil.ReverseProxy                            // guarded by mu
	meddle  func(w http.ResponseWriter, r *http.Request) bool // true: it has answered; guarded by mu
	alter   func(*http.Response) error                        // guarded by mu
}

func newMiddle(t *testing.T, address netip.Addr) *middle {
	t.Helper()
	m := &middle{}
	m.issue(t, address)
	pair, err := tls.LoadX509KeyPair(m.certificate, m.key)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", netip.AddrPortFrom(address, 0).String())
	if err != nil {
		t.Fatal(err)
	}
	m.url = "https://" + l.Addr().String()
	server := &http.Server{Handler: m, ErrorLog: log.New(io.Discard, "", 0)}
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = server.Serve(tls.NewListener(l, &tls.Config{Certificates: []tls.Certificate{pair}})) // until it is closed
	}()
	t.Cleanup(func() {
		_ = server.Close()
		<-served
	})
	return m
}

// lead says where to pass things on.
func (m *middle) lead(t *testing.T, to string) {
	t.Helper()
	u, err := url.Parse(to)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(m.authority)
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}
	t.Cleanup(transport.CloseIdleConnections)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.backend = &httputil.ReverseProxy{
		Transport: transport, ErrorLog: log.New(io.Discard, "", 0), FlushInterval: -1,
		Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(u); r.SetXForwarded() },
		ModifyResponse: func(r *http.Response) error {
			m.mu.Lock()
			alter := m.alter
			m.mu.Unlock()
			if alter == nil {
				return nil
			}
			return alter(r)
		},
	}
}

// set says what to do from now on; nil: nothing.
func (m *middle) set(meddle func(http.ResponseWriter, *http.Request) bool, alter func(*http.Response) error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.meddle, m.alter = meddle, alter
}

func (m *middle) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	m.mu.Lock()
	meddle, backend := m.meddle, m.backend
	m.mu.Unlock()
	if meddle != nil && meddle(w, r) {
		return
	}
	backend.ServeHTTP(w, r)
}

// rewrite alters a body as a whole.
func rewrite(r *http.Response, change func([]byte) []byte) error {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return err
	}
	body = change(body)
	r.Body = io.NopCloser(bytes.NewReader(body))
	r.ContentLength = int64(len(body))
	r.Header.Set("Content-Length", strconv.Itoa(len(body)))
	return r.Body.Close()
}

// issue makes a CA, and a certificate of it for the address.
func (m *middle) issue(t *testing.T, address netip.Addr) {
	t.Helper()
	caKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	ca := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "A company's proxy"}, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	caRaw, err := x509.CreateCertificate(rand.Reader, ca, ca, caKey.Public(), caKey)
	if err != nil {
		t.Fatal(err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: address.String()}, NotBefore: ca.NotBefore, NotAfter: ca.NotAfter,
		IPAddresses: []net.IP{address.AsSlice()}, KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	raw, err := x509.CreateCertificate(rand.Reader, leaf, ca, key.Public(), caKey)
	if err != nil {
		t.Fatal(err)
	}
	keyRaw, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	write := func(name, kind string, raw []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: raw}), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	m.authority = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: caRaw})
	m.certificate, m.key = write("tls.crt", "CERTIFICATE", raw), write("tls.key", "PRIVATE KEY", keyRaw)
	write("ca.crt", "CERTIFICATE", caRaw)
}

func (m *middle) caFile() string { return filepath.Join(filepath.Dir(m.certificate), "ca.crt") }

package keys

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"io/fs"
	"math/big"
	"net"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/loopbackd/loopback/fault"
)

// Lives of what the local CA issues. A server's certificate is made anew, with the same key, when a third of its life
// is left.
const (
	caLife     = 10 * 365 * 24 * time.Hour
	serverLife = 397 * 24 * time.Hour
	backdate   = time.Hour // clocks of hosts that are a little behind
)

// Certificates serves TLS: from files that it reads again when they change, or from the local CA.
type Certificates struct {
	clock     func() time.Time
	certFile  string
	keyFile   string
	names     []string
	ca        *x509.Certificate
	caKey     crypto.Signer
	serverKey crypto.Signer

	mu      sync.Mutex
	current *tls.Certificate
	renewAt time.Time
}

// FromFiles serves the certificate in these PEM files and follows their renewal.
func FromFiles(certFile, keyFile string, clock func() time.Time) (*Certificates, error) {
	c := &Certificates{clock: clock, certFile: certFile, keyFile: keyFile}
	_, err := c.get()
	return c, err
}

// LocalCA serves a certificate for these host names and addresses, issued by the CA in the keys' folder, which is made
// where there is none.
func (k *Keys) LocalCA(names []string, clock func() time.Time) (*Certificates, error) {
	c := &Certificates{clock: clock, names: names}
	var err error
	if c.caKey, err = k.signer("ca.key"); err != nil {
		return nil, err
	}
	if c.serverKey, err = k.signer("tls.key"); err != nil {
		return nil, err
	}
	b, err := os.ReadFile(k.path("ca.crt"))
	if errors.Is(err, fs.ErrNotExist) {
		b, err = makeCA(c.caKey, clock())
		if err == nil {
			err = write(k.path("ca.crt"), b)
		}
	}
	if err != nil {
		return nil, unusable(k.Dir, err)
	}
	block, _ := pem.Decode(b)
	if block == nil {
		return nil, corrupt("ca.crt", errors.New("it is not PEM"))
	}
	if c.ca, err = x509.ParseCertificate(block.Bytes); err != nil {
		return nil, corrupt("ca.crt", err)
	}
	if pub, ok := c.caKey.Public().(*ecdsa.PublicKey); !ok || !pub.Equal(c.ca.PublicKey) {
		return nil, corrupt("ca.key", errors.New("it does not belong to ca.crt"))
	}
	_, err = c.get()
	return c, err
}

// TLS is a configuration for a server.
func (c *Certificates) TLS() *tls.Config {
	return &tls.Config{
		MinVersion:     tls.VersionTLS12,
		Time:           c.clock,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return c.get() },
	}
}

// CA is the local CA's certificate; nil when the certificate was given.
func (c *Certificates) CA() *x509.Certificate { return c.ca }

// CAPEM is the local CA's certificate as PEM; empty when the certificate was given.
func (c *Certificates) CAPEM() []byte {
	if c.ca == nil {
		return nil
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.ca.Raw})
}

// Fingerprint of the local CA's certificate: SHA-256 in hexadecimal, by bytes. Empty when the certificate was given.
func (c *Certificates) Fingerprint() string {
	if c.ca == nil {
		return ""
	}
	sum := sha256.Sum256(c.ca.Raw)
	var b strings.Builder
	for i, x := range sum {
		if i > 0 {
			b.WriteByte(':')
		}
		b.WriteString(strings.ToUpper(hex.EncodeToString([]byte{x})))
	}
	return b.String()
}

// Pin is what `curl --pinnedpubkey` checks: "sha256//" and the base 64 of the SHA-256 of the server key's
// SubjectPublicKeyInfo (RFC 7469). Empty when the certificate was given, since its key may change at each renewal.
func (c *Certificates) Pin() string {
	if c.ca == nil {
		return ""
	}
	der, err := x509.MarshalPKIXPublicKey(c.serverKey.Public())
	if err != nil {
		return ""
	}
	sum := sha256.Sum256(der)
	return "sha256//" + base64.StdEncoding.EncodeToString(sum[:])
}

// Expiry is when the certificate that is served, and the local CA's, cease to be valid. Zero: there is no local CA.
func (c *Certificates) Expiry() (server, ca time.Time, err error) {
	pair, err := c.get()
	if err != nil {
		return server, ca, err
	}
	leaf := pair.Leaf
	if leaf == nil {
		if leaf, err = x509.ParseCertificate(pair.Certificate[0]); err != nil {
			return server, ca, err
		}
	}
	if c.ca != nil {
		ca = c.ca.NotAfter
	}
	return leaf.NotAfter, ca, nil
}

func (c *Certificates) get() (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.clock()
	// A clock that was set back since would leave hosts with a certificate of the future.
	if c.current != nil && now.Before(c.renewAt) && (c.ca == nil || !now.Before(c.current.Leaf.NotBefore)) {
		return c.current, nil
	}
	var next *tls.Certificate
	var err error
	if c.ca != nil {
		next, err = c.issue(now)
		c.renewAt = now.Add(serverLife / 3)
	} else {
		next, err = loadPair(c.certFile, c.keyFile)
		c.renewAt = now.Add(time.Minute)
	}
	switch {
	case err == nil:
		c.current = next
	case c.current == nil:
		return nil, err
	}
	// A renewal that cannot be read yet (half written, say) must not take down what still serves.
	return c.current, nil
}

func loadPair(certFile, keyFile string) (*tls.Certificate, error) {
	pair, err := tls.LoadX509KeyPair(certFile, keyFile)
	if err != nil {
		return nil, fault.New(fault.Invalid, "tls_certificate_invalid", "the TLS certificate cannot be used").WithCause(err).
			WithHint("--tls-certificate is the PEM chain, leaf first; --tls-key is the key of its leaf")
	}
	return &pair, nil
}

func (c *Certificates) issue(now time.Time) (*tls.Certificate, error) {
	template := &x509.Certificate{
		SerialNumber: serial(),
		Subject:      pkix.Name{CommonName: "loopbackd"},
		NotBefore:    now.Add(-backdate),
		NotAfter:     now.Add(serverLife),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	for _, n := range c.names {
		if ip := net.ParseIP(n); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, n)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, c.ca, c.serverKey.Public(), c.caKey)
	if err != nil {
		return nil, err
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	return &tls.Certificate{Certificate: [][]byte{der, c.ca.Raw}, PrivateKey: c.serverKey, Leaf: leaf}, nil
}

func makeCA(key crypto.Signer, now time.Time) ([]byte, error) {
	template := &x509.Certificate{
		SerialNumber:          serial(),
		Subject:               pkix.Name{CommonName: "Loopback local CA"},
		NotBefore:             now.Add(-backdate),
		NotAfter:              now.Add(caLife),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
		MaxPathLenZero:        true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), nil
}

// signer reads an ECDSA key, or makes it.
func (k *Keys) signer(name string) (crypto.Signer, error) {
	key, err := readPKCS8(k.path(name))
	if errors.Is(err, fs.ErrNotExist) {
		made, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return nil, err
		}
		return made, writePKCS8(k.path(name), made)
	}
	if err != nil {
		return nil, err
	}
	s, ok := key.(crypto.Signer)
	if !ok {
		return nil, corrupt(name, errors.New("it cannot sign"))
	}
	return s, nil
}

func serial() *big.Int {
	var b [16]byte
	rand.Read(b[:])
	b[0] &= 0x7f // positive, RFC 5280 4.1.2.2
	return new(big.Int).SetBytes(b[:])
}

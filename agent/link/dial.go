package link

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"strings"

	"github.com/loopbackd/loopback/agent/config"
	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/trust"
	"github.com/loopbackd/loopback/wire"
)

// Conn is a link that was dialled; *wire.Conn is one.
type Conn interface {
	Send(ctx context.Context, frame []byte) error
	Receive(ctx context.Context) ([]byte, error)
	Hash() []byte         // of the handshake: what proofs are bound to
	Signed() trust.Signed // the keyset that the control plane was verified by
	Transport() string
	Fallback() error // why it polls although a WebSocket was wanted
	Close() error
}

// Dial connects to an endpoint and verifies the control plane by the anchors, and a keyset no older than seen.
type Dial func(ctx context.Context, endpoint string, anchors []trust.AnchorHash, seen uint64) (Conn, error)

// ErrCAFile says that the file of trusted certificates is of no use.
var ErrCAFile = fault.New(fault.Precondition, "ca_file_unusable", "the file named by ca_file cannot be used")

// endpointSessions is of how many endpoints the TLS session is remembered, to be taken up again after a cut.
const endpointSessions = 4

// Dialler dials as the configuration says. The CA file is read for each connection: one that was replaced needs no
// restart.
func Dialler(c config.Config) Dial {
	sessions := tls.NewLRUClientSessionCache(endpointSessions)
	return func(ctx context.Context, endpoint string, anchors []trust.AnchorHash, seen uint64) (Conn, error) {
		d, err := dialler(c, endpoint, anchors, seen)
		if err != nil {
			return nil, err
		}
		d.TLS.ClientSessionCache = sessions
		conn, err := d.Dial(ctx)
		if err != nil {
			return nil, err
		}
		return conn, nil
	}
}

func dialler(c config.Config, endpoint string, anchors []trust.AnchorHash, seen uint64) (wire.Dialer, error) {
	outer, err := TLS(c)
	return wire.Dialer{
		Endpoint: endpoint, TLS: outer, Proxy: Proxy(c), Anchor: anchors[0], AlsoTrusted: anchors[1:],
		SeenKeyset: seen, Transport: c.Transport, AnyTime: true,
	}, err
}

// Open makes a TLS connection to an endpoint by the way that a link would take, for what is fetched beside it.
func Open(c config.Config, outer *tls.Config, endpoint string) func(context.Context) (*tls.Conn, error) {
	return wire.Dialer{Endpoint: endpoint, TLS: outer, Proxy: Proxy(c)}.Open
}

// TLS is how the outer TLS checks the endpoints' certificates. It only opens the port: whom the agent trusts is decided
// inside.
func TLS(c config.Config) (*tls.Config, error) {
	if c.CAFile == "" {
		return &tls.Config{}, nil
	}
	text, err := os.ReadFile(c.CAFile)
	if err != nil {
		return nil, ErrCAFile.WithHint("put the control plane's CA certificate there, or remove ca_file where the certificate is publicly trusted").WithCause(err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(text) {
		return nil, ErrCAFile.WithHint("%s has no PEM certificate in it; copy the control plane's CA certificate there again", c.CAFile)
	}
	return &tls.Config{RootCAs: pool}, nil
}

// Proxy tells by which proxy a request goes; nil where all go directly.
func Proxy(c config.Config) func(*http.Request) (*url.URL, error) {
	if c.Proxy == "" {
		return nil
	}
	return func(r *http.Request) (*url.URL, error) {
		if direct(c.NoProxy, r.URL.Hostname()) {
			return nil, nil
		}
		return url.Parse(c.Proxy)
	}
}

// direct tells whether a host is reached without the proxy: its name or a domain above it is listed, or a network that
// holds its address.
func direct(list []string, name string) bool {
	address, _ := netip.ParseAddr(name)
	for _, entry := range list {
		entry = strings.ToLower(entry)
		if host, _, err := net.SplitHostPort(entry); err == nil {
			entry = host
		}
		if entry == "*" || strings.EqualFold(entry, name) {
			return true
		}
		if network, err := netip.ParsePrefix(entry); err == nil && network.Contains(address.Unmap()) {
			return true
		}
		if domain := strings.TrimPrefix(strings.TrimPrefix(entry, "*"), "."); !address.IsValid() && strings.HasSuffix(strings.ToLower(name), "."+domain) {
			return true
		}
	}
	return false
}

package wire

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/trust"
)

// StreamPath is where streams are dialled, each at its name.
const StreamPath = "/agent/v1/stream/"

// Auto tries a WebSocket and polls where something on the way does not let one through.
const Auto = "auto"

// Dialer says where a control plane is, how to get there, and by what to know it.
type Dialer struct {
	Endpoint string // "https://HOST[:PORT][/PREFIX]"

	// TLS opens the port: roots, or a pin by VerifyPeerCertificate. Nothing that the link says rests on it.
	TLS *tls.Config

	// AnyTime opens the port also where a certificate is good in all but its time: a host whose clock is wrong, or a
	// control plane whose certificate was not renewed, still has its link.
	AnyTime bool

	// Proxy is as in http.Transport: http.ProxyFromEnvironment, http.ProxyURL, or nil for none. HTTP and HTTPS proxies
	// are spoken to by CONNECT, with the address's user and password in Digest or Basic form where they ask for them.
	Proxy func(*http.Request) (*url.URL, error)

	Anchor      trust.AnchorHash   // whom to trust
	AlsoTrusted []trust.AnchorHash // anchors that keysets seen before named as next
	SeenKeyset  uint64             // version of the keyset held; older ones are refused

	// Stream is the name of the session for which a connection of its own is made, at /agent/v1/stream/NAME; empty: this is
	// the control link.
	Stream string

	Transport string // Auto (also when empty), WebSocket or Poll
	UserAgent string

	Timeout time.Duration // for each of connecting, TLS, upgrade and handshake; 10 s

	// Connect opens a TCP connection; nil for an ordinary one.
	Connect func(ctx context.Context, network, address string) (net.Conn, error)

	every uint64 // rekey interval
}

// Errors of Dial beside those of package trust (anchor_mismatch, keyset_invalid, keyset_stale, link_key_unknown),
// ErrHandshake and ErrTooBusy. Each comes with what was seen in its message.
var (
	ErrEndpoint    = fault.New(fault.Invalid, "endpoint_invalid", "the endpoint is not an https address")
	ErrDNS         = fault.New(fault.Unavailable, "dns_failed", "the control plane's name cannot be resolved")
	ErrRefused     = fault.New(fault.Unavailable, "connect_refused", "the connection is refused")
	ErrConnect     = fault.New(fault.Unavailable, "connect_failed", "the control plane cannot be reached")
	ErrNoRoute     = fault.New(fault.Unavailable, "no_route", "there is no route to the control plane")
	ErrBlocked     = fault.New(fault.Unavailable, "connect_blocked", "this host forbids the connection")
	ErrTimeout     = fault.New(fault.Timeout, "connect_timeout", "nothing answers")
	ErrProxyAuth   = fault.New(fault.Unauthenticated, "proxy_auth_required", "the proxy wants a user and password")
	ErrProxy       = fault.New(fault.Unavailable, "proxy_failed", "the proxy does not connect to the control plane")
	ErrUntrusted   = fault.New(fault.Unauthenticated, "tls_untrusted", "the certificate that was shown is not trusted")
	ErrClock       = fault.New(fault.Unauthenticated, "tls_clock", "by this host's clock the certificate is not valid")
	ErrTLS         = fault.New(fault.Unavailable, "tls_failed", "no TLS connection can be made")
	ErrStatus      = fault.New(fault.Unavailable, "http_status", "what answers is not the control plane")
	ErrNoWebSocket = fault.New(fault.Unavailable, "websocket_blocked", "no WebSocket gets through to the control plane")
)

// Dial makes a link: it connects, shakes hands, verifies the control plane, and returns without having sent anything
// else. Its errors are *fault.Error with a code that says which step failed. With Auto it polls where a WebSocket was
// refused, cut or swallowed, but not where the control plane could not be reached, is too busy, or is not the one to
// trust: those verdicts hold for either way.
func (d Dialer) Dial(ctx context.Context) (*Conn, error) {
	endpoint, err := url.Parse(d.Endpoint)
	if err != nil || endpoint.Scheme != "https" || endpoint.Host == "" || endpoint.User != nil || endpoint.RawQuery != "" || endpoint.Fragment != "" {
		return nil, ErrEndpoint.WithHint("write it as https://HOST:PORT, not %q", d.Endpoint)
	}
	setDefault(&d.Timeout, 10*time.Second)
	setDefault(&d.every, rekeyInterval)
	setDefault(&d.UserAgent, "loopback-agent")
	w := way{Dialer: d, endpoint: endpoint}
	switch d.Transport {
	case WebSocket:
		return orFault(w.dialWebSocket(ctx))
	case Poll:
		return orFault(w.dialPoll(ctx))
	case Auto, "":
	default:
		return nil, fault.New(fault.Invalid, "transport_unknown", "no transport is called %q", d.Transport).
			WithHint("use auto, websocket or poll")
	}
	c, blocked := orFault(w.dialWebSocket(ctx))
	if !isFault(blocked, ErrNoWebSocket) || ctx.Err() != nil {
		return c, blocked
	}
	if c, err = orFault(w.dialPoll(ctx)); err != nil {
		return nil, err
	}
	c.fallback = blocked
	return c, nil
}

// Open makes a TLS connection to the endpoint by the same way that a link would take, and says by the same errors what
// stands in it: for what is fetched beside the link.
func (d Dialer) Open(ctx context.Context) (*tls.Conn, error) {
	endpoint, err := url.Parse(d.Endpoint)
	if err != nil || endpoint.Scheme != "https" || endpoint.Host == "" {
		return nil, ErrEndpoint.WithHint("write it as https://HOST:PORT, not %q", d.Endpoint)
	}
	setDefault(&d.Timeout, 10*time.Second)
	setDefault(&d.UserAgent, "loopback-agent")
	return way{Dialer: d, endpoint: endpoint}.connect(ctx)
}

func orFault(c *Conn, err error) (*Conn, error) {
	if err != nil {
		return nil, fault.Of(err)
	}
	return c, nil
}

// way is a Dialer at work.
type way struct {
	Dialer
	endpoint *url.URL
}

func (w way) anchors() []trust.AnchorHash {
	return append([]trust.AnchorHash{w.Anchor}, w.AlsoTrusted...)
}

// url is where a transport's door is; all of a stream's are at one path.
func (w way) url(path string) *url.URL {
	if w.Stream != "" {
		path = StreamPath + w.Stream
	}
	u := *w.endpoint
	u.Path = strings.TrimSuffix(u.Path, "/") + path
	return &u
}

// fragment is how large the pieces are in which the agent sends. A stream's are as large as they get: what its server
// spends on a buffer for them is spent on bytes that are to be moved.
func (w way) fragment() int {
	if w.Stream != "" {
		return maxFragment
	}
	return uplinkFragment
}

func hostPort(u *url.URL) string {
	port := u.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[u.Scheme]
	}
	return net.JoinHostPort(u.Hostname(), port)
}

// connect opens a TLS connection to the control plane, through the proxy where there is one.
func (w way) connect(ctx context.Context) (*tls.Conn, error) {
	var proxy *url.URL
	if w.Proxy != nil {
		var err error
		if proxy, err = w.Proxy(&http.Request{Method: http.MethodGet, URL: w.endpoint, Header: http.Header{}}); err != nil {
			return nil, ErrProxy.WithHint("the proxy's address cannot be read").WithCause(err)
		}
	}
	var conn net.Conn
	var err error
	if proxy != nil {
		conn, err = w.connectThrough(ctx, proxy)
	} else {
		conn, err = w.reach(ctx, hostPort(w.endpoint))
	}
	if err != nil {
		return nil, err
	}
	sealed, err := w.secure(ctx, conn, w.endpoint.Hostname())
	if err != nil {
		_ = conn.Close()
		return nil, err
	}
	return sealed, nil
}

// reach opens a TCP connection.
func (w way) reach(ctx context.Context, address string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, w.Timeout)
	defer cancel()
	dial := w.Connect
	if dial == nil {
		dial = (&net.Dialer{}).DialContext
	}
	conn, err := dial(ctx, "tcp", address)
	if err != nil {
		return nil, connectFault(err, address)
	}
	return conn, nil
}

// secure makes TLS of a connection. It asks for HTTP/1.1 only: HTTP/2 knows no upgrade.
func (w way) secure(ctx context.Context, conn net.Conn, name string) (*tls.Conn, error) {
	config := &tls.Config{}
	if w.TLS != nil {
		config = w.TLS.Clone()
	}
	config.NextProtos = []string{"http/1.1"}
	config.MinVersion = max(config.MinVersion, tls.VersionTLS12)
	if config.ServerName == "" {
		config.ServerName = name
	}
	if w.AnyTime && !config.InsecureSkipVerify {
		atAnyTime(config)
	}
	ctx, cancel := context.WithTimeout(ctx, w.Timeout)
	defer cancel()
	sealed := tls.Client(conn, config)
	if err := sealed.HandshakeContext(ctx); err != nil {
		return nil, tlsFault(err, config.ServerName, config.Time)
	}
	return sealed, nil
}

// atAnyTime makes a configuration with a server name verify everything but the time. Where the time is wrong, the chain
// is looked at as of the nearest moment at which the server's own certificate was valid.
func atAnyTime(config *tls.Config) {
	pinned := config.VerifyConnection
	config.InsecureSkipVerify = true // crypto/tls would not let the time aside; VerifyConnection does the rest of its work
	config.VerifyConnection = func(state tls.ConnectionState) error {
		leaf := state.PeerCertificates[0] // a server shows one, or the handshake has failed
		o := x509.VerifyOptions{Roots: config.RootCAs, DNSName: config.ServerName, Intermediates: x509.NewCertPool(), CurrentTime: time.Now()}
		if config.Time != nil {
			o.CurrentTime = config.Time()
		}
		for _, c := range state.PeerCertificates[1:] {
			o.Intermediates.AddCert(c)
		}
		_, err := leaf.Verify(o)
		var invalid x509.CertificateInvalidError
		if errors.As(err, &invalid) && invalid.Reason == x509.Expired {
			switch {
			case o.CurrentTime.Before(leaf.NotBefore):
				o.CurrentTime = leaf.NotBefore
			case o.CurrentTime.After(leaf.NotAfter):
				o.CurrentTime = leaf.NotAfter
			}
			_, err = leaf.Verify(o)
		}
		if err != nil {
			return &tls.CertificateVerificationError{UnverifiedCertificates: state.PeerCertificates, Err: err}
		}
		if pinned != nil {
			return pinned(state)
		}
		return nil
	}
}

package wire

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/loopbackd/loopback/fault"
)

// withDetail is e with what was seen added to its message.
func withDetail(e *fault.Error, format string, args ...any) *fault.Error {
	c := *e
	c.Message += ": " + printable(fmt.Sprintf(format, args...))
	return &c
}

// connectFault says in which step a TCP connection failed.
func connectFault(err error, address string) *fault.Error {
	var resolve *net.DNSError
	var network net.Error
	var known *fault.Error
	switch {
	case errors.As(err, &known):
		return known
	case errors.Is(err, context.Canceled):
		return fault.Of(err)
	case errors.As(err, &resolve):
		e := withDetail(ErrDNS, "%s", resolve.Name)
		if resolve.IsTimeout {
			e = withDetail(e, "the resolver %s did not answer", resolve.Server)
		}
		return e.WithHint("check the endpoint's spelling and this host's resolver (/etc/resolv.conf)").WithCause(err)
	case errors.Is(err, syscall.ECONNREFUSED):
		return withDetail(ErrRefused, "%s", address).
			WithHint("the machine is there, the port is not: check the port, and that the control plane runs").WithCause(err)
	case errors.Is(err, syscall.ENETUNREACH), errors.Is(err, syscall.EHOSTUNREACH):
		return withDetail(ErrNoRoute, "%s", address).
			WithHint("see ip route get %s; a default route may be missing, or a router on the way answers for it; networks that only have a proxy want one", hostOf(address)).WithCause(err)
	case errors.Is(err, syscall.EPERM), errors.Is(err, syscall.EACCES):
		return withDetail(ErrBlocked, "%s", address).
			WithHint("this host's own firewall forbids it: see nft list ruleset, or iptables-save, for rules on output").WithCause(err)
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &network) && network.Timeout():
		return withDetail(ErrTimeout, "%s", address).
			WithHint("a firewall may drop outgoing connections to this port, or the address may be wrong").WithCause(err)
	default:
		return withDetail(ErrConnect, "%s", address).WithHint("check this host's routes and firewall").WithCause(err)
	}
}

func hostOf(address string) string {
	if host, _, err := net.SplitHostPort(address); err == nil {
		return host
	}
	return address
}

// tlsFault says what was wrong with the TLS handshake, and with what certificate.
func tlsFault(err error, name string, clock func() time.Time) *fault.Error {
	var unverified *tls.CertificateVerificationError
	var invalid x509.CertificateInvalidError
	var hostname x509.HostnameError
	var plain tls.RecordHeaderError
	var network net.Error
	shown := func(e *fault.Error) *fault.Error {
		if errors.As(err, &unverified) && len(unverified.UnverifiedCertificates) > 0 {
			leaf := unverified.UnverifiedCertificates[0]
			return withDetail(e, "it is for %q, issued by %q, valid from %s to %s", leaf.Subject, leaf.Issuer,
				leaf.NotBefore.UTC().Format(time.RFC3339), leaf.NotAfter.UTC().Format(time.RFC3339))
		}
		return e
	}
	switch {
	case errors.Is(err, context.Canceled):
		return fault.Of(err)
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		if clock == nil {
			clock = time.Now
		}
		return withDetail(shown(ErrClock), "the clock says %s", clock().UTC().Format(time.RFC3339)).
			WithHint("set this host's clock; if it is right, the control plane's certificate has to be renewed").WithCause(err)
	case errors.As(err, &hostname):
		return shown(ErrUntrusted).WithHint("the certificate is not for %q: check the endpoint's name", name).WithCause(err)
	case errors.As(err, &unverified):
		return shown(ErrUntrusted).
			WithHint("if this is the control plane's own CA, give it to the agent; if you do not know the issuer, something on the way terminates TLS").WithCause(err)
	case errors.As(err, &plain):
		return withDetail(ErrTLS, "what answers does not speak TLS").WithHint("check the endpoint's port").WithCause(err)
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &network) && network.Timeout():
		return withDetail(ErrTimeout, "the connection stands but TLS got no answer").
			WithHint("a firewall may let the connection through and drop what follows").WithCause(err)
	case errors.Is(err, io.EOF), errors.As(err, &network):
		return withDetail(ErrTLS, "the connection was cut during the TLS handshake").
			WithHint("a firewall may cut TLS to unknown names, or the port may not be the control plane's").WithCause(err)
	default:
		// A pin of the owner's, by VerifyPeerCertificate or VerifyConnection, ends here.
		return withDetail(ErrUntrusted, "%v", err).WithCause(err)
	}
}

// statusFault says what answered instead of the control plane. Its words are a stranger's: little of them is shown.
func statusFault(e *fault.Error, r *http.Response) *fault.Error {
	if r.StatusCode == http.StatusServiceUnavailable || r.StatusCode == http.StatusTooManyRequests {
		if seconds, err := strconv.ParseUint(r.Header.Get("Retry-After"), 10, 20); err == nil {
			return ErrTooBusy.WithRetryAfter(time.Duration(seconds) * time.Second)
		}
	}
	seen := "HTTP " + r.Status
	for _, header := range []string{"Server", "Via", "Location", "Content-Type"} {
		if value := r.Header.Get(header); value != "" {
			seen += ", " + strings.ToLower(header) + " " + strconv.Quote(clip(value, 80))
		}
	}
	if text, _ := io.ReadAll(io.LimitReader(r.Body, 120)); len(text) > 0 {
		seen += ", " + strconv.Quote(strings.TrimSpace(string(text)))
	}
	return withDetail(e, "%s", seen)
}

func clip(s string, n int) string {
	if len(s) > n {
		return s[:n] + "…"
	}
	return s
}

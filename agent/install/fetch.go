package install

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"syscall"
	"time"

	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/release"
	"github.com/theupdateframework/go-tuf/v2/metadata"
)

const (
	fetchAttempts = 4
	fetchTimeout  = 30 * time.Second // of one attempt
)

// fetcher is how the TUF client gets its files: bounded in size and time, tried again where that may help, and checked
// for what its parser would stumble over.
type fetcher struct {
	ctx    context.Context // of the installation: the client's interface has none
	client *http.Client
	clock  func() time.Time
	detail func(string, ...any)
	date   time.Time // of the control plane, with the last answer
	at     time.Time // here, when it came
}

// DownloadFile fetches a file of at most this many bytes.
func (f *fetcher) DownloadFile(url string, limit int64, _ time.Duration) ([]byte, error) {
	wait := 500 * time.Millisecond
	for attempt := 1; ; attempt++ {
		file, err := f.once(url, limit)
		if err == nil {
			if err := release.CheckMetadata(file); err != nil {
				return nil, errUnverified.WithCause(fmt.Errorf("%s: %w", url, err))
			}
			return file, nil
		}
		if kind := fault.KindOf(err); attempt == fetchAttempts || kind != fault.Unavailable && kind != fault.Timeout || f.ctx.Err() != nil {
			return nil, err
		}
		f.detail("%v; trying again", err)
		timer := time.NewTimer(wait)
		select {
		case <-f.ctx.Done():
			timer.Stop()
			return nil, err
		case <-timer.C:
		}
		wait *= 2
	}
}

func (f *fetcher) once(url string, limit int64) ([]byte, error) {
	ctx, cancel := context.WithTimeout(f.ctx, fetchTimeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, errNoEndpoint.WithCause(err)
	}
	f.detail("GET %s", url)
	answer, err := f.client.Do(request)
	if err != nil {
		return nil, unreachable(err, request.URL.Host)
	}
	defer answer.Body.Close()
	if date, err := http.ParseTime(answer.Header.Get("Date")); err == nil {
		f.date, f.at = date, f.clock()
	}
	switch {
	case answer.StatusCode == http.StatusNotFound:
		return nil, &metadata.ErrDownloadHTTP{StatusCode: answer.StatusCode, URL: url}
	case answer.StatusCode >= 500 || answer.StatusCode == http.StatusTooManyRequests:
		return nil, fault.New(fault.Unavailable, "http_status", "the control plane answers %s", answer.Status).WithHint("see its log, or what stands before it")
	case answer.StatusCode != http.StatusOK:
		return nil, fault.New(fault.Precondition, "http_status", "what answers is not the control plane: %s", answer.Status).
			WithHint("check the endpoint; a proxy or a login page may answer in its place")
	}
	file, err := io.ReadAll(io.LimitReader(answer.Body, limit+1))
	if err != nil {
		return nil, unreachable(err, request.URL.Host)
	}
	if int64(len(file)) > limit {
		return nil, &metadata.ErrDownloadLengthMismatch{Msg: fmt.Sprintf("%s is longer than %d bytes", url, limit)}
	}
	return file, nil
}

// unreachable says at which step the way to the control plane ends. The codes are those of the link.
func unreachable(err error, address string) error {
	var resolve *net.DNSError
	var unverified *tls.CertificateVerificationError
	var invalid x509.CertificateInvalidError
	var record tls.RecordHeaderError
	var operation *net.OpError
	var network net.Error
	proxied := errors.As(err, &operation) && operation.Op == "proxyconnect" || strings.Contains(err.Error(), "Proxy Authentication Required")
	switch {
	case errors.Is(err, context.Canceled):
		return fault.Of(err)
	case strings.Contains(err.Error(), "Proxy Authentication Required"):
		return fault.New(fault.Unauthenticated, "proxy_auth_required", "the proxy wants a user and password").
			WithHint("give them: --proxy http://USER:PASSWORD@HOST:PORT").WithCause(err)
	case proxied:
		return fault.New(fault.Unavailable, "proxy_failed", "the proxy does not connect to %s", address).
			WithHint("check https_proxy, or give another one with --proxy; --proxy none goes directly").WithCause(err)
	case errors.As(err, &resolve):
		return fault.New(fault.Unavailable, "dns_failed", "the name %s cannot be resolved", resolve.Name).
			WithHint("check the endpoint's spelling and /etc/resolv.conf; networks that only have a proxy want --proxy").WithCause(err)
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return fault.New(fault.Unauthenticated, "tls_clock", "by this host's clock (%s) the certificate of %s is not valid", time.Now().UTC().Format(time.RFC3339), address).
			WithHint("set this host's clock; if it is right, the control plane's certificate has to be renewed").WithCause(err)
	case errors.As(err, &unverified):
		return fault.New(fault.Unauthenticated, "tls_untrusted", "the certificate of %s is not trusted%s", address, issuer(unverified)).
			WithHint("if you do not know the issuer, something on the way intercepts TLS; if it is the control plane's own CA, give it with --ca-file").WithCause(err)
	case errors.As(err, &record):
		return fault.New(fault.Unavailable, "tls_failed", "what answers at %s does not speak TLS", address).WithHint("check the endpoint's port").WithCause(err)
	case errors.Is(err, syscall.ECONNREFUSED):
		return fault.New(fault.Unavailable, "connect_refused", "the connection to %s is refused", address).
			WithHint("check the port, that the control plane runs, and firewalls between").WithCause(err)
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &network) && network.Timeout():
		return fault.New(fault.Timeout, "connect_timeout", "nothing answers at %s", address).
			WithHint("a firewall may drop outgoing connections to this port, or the address is wrong; networks that only have a proxy want --proxy").WithCause(err)
	default:
		return fault.New(fault.Unavailable, "connect_failed", "%s cannot be reached", address).WithHint("check this host's routes and firewall").WithCause(err)
	}
}

func issuer(e *tls.CertificateVerificationError) string {
	if len(e.UnverifiedCertificates) == 0 {
		return ""
	}
	return fmt.Sprintf(": it is issued by %q", e.UnverifiedCertificates[0].Issuer.String())
}

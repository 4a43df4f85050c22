package wire

import (
	"bufio"
	"context"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/loopbackd/loopback/fault"
)

// connectThrough opens a TCP connection to the control plane by an HTTP proxy's CONNECT. A proxy that asks who we are is
// answered once, and once more where it says that only its question was stale.
func (w way) connectThrough(ctx context.Context, proxy *url.URL) (net.Conn, error) {
	if proxy.Scheme != "http" && proxy.Scheme != "https" {
		return nil, withDetail(ErrProxy, "%q is not a kind of proxy that is supported", proxy.Scheme).WithHint("use an http:// or https:// proxy")
	}
	target := hostPort(w.endpoint)
	header := http.Header{"User-Agent": {w.UserAgent}}
	for try := 0; ; try++ {
		conn, err := w.reachProxy(ctx, proxy)
		if err != nil {
			return nil, err
		}
		asked, err := w.askProxy(ctx, conn, proxy, target, header)
		if err == nil && asked == nil {
			return conn, nil
		}
		_ = conn.Close() // many proxies close it anyway after a 407
		if err != nil {
			return nil, err
		}
		if header, err = answerProxy(asked, header, proxy, target, try); err != nil {
			return nil, err
		}
	}
}

// reachProxy connects to the proxy itself.
func (w way) reachProxy(ctx context.Context, proxy *url.URL) (net.Conn, error) {
	conn, err := w.reach(ctx, hostPort(proxy))
	if err == nil && proxy.Scheme == "https" {
		var sealed net.Conn
		if sealed, err = w.secure(ctx, conn, proxy.Hostname()); err != nil {
			_ = conn.Close()
		}
		conn = sealed
	}
	if err != nil {
		cause := fault.Of(err)
		if cause.Kind == fault.Canceled {
			return nil, cause
		}
		return nil, withDetail(ErrProxy, "%s: %s", proxy.Host, cause.Message).WithHint("%s", cause.Hint).WithCause(err)
	}
	return conn, nil
}

// answerProxy is the headers to ask again with.
func answerProxy(asked []challenge, header http.Header, proxy *url.URL, target string, try int) (http.Header, error) {
	hint := "write them into the proxy's address: http://USER:PASSWORD@HOST:PORT"
	stale := false
	for _, c := range asked {
		stale = stale || strings.EqualFold(c.params["stale"], "true")
	}
	switch {
	case proxy.User == nil:
		return nil, withDetail(ErrProxyAuth, "%s asks for %s", proxy.Host, clip(offers(asked), 80)).WithHint("%s", hint)
	case header.Get(proxyAuthorization) != "" && (!stale || try > 1):
		return nil, withDetail(ErrProxyAuth, "%s does not accept user %q with that password", proxy.Host, clip(proxy.User.Username(), 40)).
			WithHint("check user and password in the proxy's address, and that the user may connect to %s", target)
	}
	answer := authorization(asked, proxy.User, http.MethodConnect, target)
	if answer == "" {
		return nil, withDetail(ErrProxyAuth, "%s asks for %s, which is not supported", proxy.Host, clip(offers(asked), 80)).
			WithHint("have it accept Digest or Basic for this host, or let this host through without")
	}
	return withAuthorization(header, answer), nil
}

// askProxy asks for a tunnel. It returns the proxy's challenges where it first wants to know who asks.
func (w way) askProxy(ctx context.Context, conn net.Conn, proxy *url.URL, target string, header http.Header) (asked []challenge, err error) {
	ctx, cancel := context.WithTimeout(ctx, w.Timeout)
	defer cancel()
	defer context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })()
	request := &http.Request{Method: http.MethodConnect, URL: &url.URL{Opaque: target}, Host: target, Header: header}
	reader := bufio.NewReader(conn)
	err = request.Write(conn)
	var answer *http.Response
	if err == nil {
		answer, err = http.ReadResponse(reader, request)
	}
	switch {
	case ctx.Err() != nil:
		if e := fault.Of(ctx.Err()); e.Kind == fault.Canceled {
			return nil, e
		}
		return nil, withDetail(ErrProxy, "%s does not answer", proxy.Host)
	case err != nil:
		return nil, withDetail(ErrProxy, "%s does not answer as a proxy", proxy.Host).WithCause(err)
	}
	defer answer.Body.Close()
	switch {
	case answer.StatusCode == http.StatusProxyAuthRequired:
		asked = challenges(answer.Header.Values("Proxy-Authenticate"))
		if len(asked) == 0 {
			return nil, withDetail(ErrProxyAuth, "%s does not say how", proxy.Host).WithHint("ask the proxy's owner")
		}
		return asked, nil
	case answer.StatusCode != http.StatusOK:
		return nil, withDetail(ErrProxy, "%s answered %s", proxy.Host, answer.Status).
			WithHint("ask the proxy's owner to allow CONNECT to %s", target)
	case reader.Buffered() > 0:
		return nil, withDetail(ErrProxy, "%s spoke out of turn", proxy.Host)
	}
	return nil, nil
}

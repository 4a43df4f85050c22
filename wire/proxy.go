package wire

import (
	"bufio"
	"context"
	"encoding/base64"
	"net"
	"net/http"
	"net/url"
	"time"

	"github.com/loopbackd/loopback/fault"
)

// connectThrough opens a TCP connection to the control plane by an HTTP proxy's CONNECT.
func (w way) connectThrough(ctx context.Context, proxy *url.URL) (net.Conn, error) {
	if proxy.Scheme != "http" && proxy.Scheme != "https" {
		return nil, withDetail(ErrProxy, "%q is not a kind of proxy that is supported", proxy.Scheme).WithHint("use an http:// or https:// proxy")
	}
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
	tunnel, err := w.askProxy(ctx, conn, proxy)
	if err != nil {
		_ = conn.Close()
		return nil, err
	}
	return tunnel, nil
}

func (w way) askProxy(ctx context.Context, conn net.Conn, proxy *url.URL) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, w.Timeout)
	defer cancel()
	defer context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })()
	target := hostPort(w.endpoint)
	request := &http.Request{Method: http.MethodConnect, URL: &url.URL{Opaque: target}, Host: target, Header: http.Header{}}
	request.Header.Set("User-Agent", w.UserAgent)
	if user := proxy.User; user != nil {
		password, _ := user.Password()
		request.Header.Set("Proxy-Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte(user.Username()+":"+password)))
	}
	reader := bufio.NewReader(conn)
	err := request.Write(conn)
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
		return nil, withDetail(ErrProxyAuth, "%s asks for %s", proxy.Host, clip(answer.Header.Get("Proxy-Authenticate"), 80)).
			WithHint("write them into the proxy's address: http://USER:PASSWORD@HOST:PORT")
	case answer.StatusCode != http.StatusOK:
		return nil, withDetail(ErrProxy, "%s answered %s", proxy.Host, answer.Status).
			WithHint("ask the proxy's owner to allow CONNECT to %s", target)
	case reader.Buffered() > 0:
		return nil, withDetail(ErrProxy, "%s spoke out of turn", proxy.Host)
	}
	return conn, nil
}

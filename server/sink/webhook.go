package sink

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/loopbackd/loopback/sink"
	signing "github.com/loopbackd/loopback/webhook"
)

// webhook posts batches as Standard Webhooks has it (standardwebhooks.com): the signature is HMAC-SHA256 over
// id.timestamp.body. The body is {"type": "audit.entries", "timestamp": …, "data": [event, …]}; a receiver that has seen an
// event's id drops it.
type webhook struct {
	url    string
	secret []byte
	now    func() time.Time
	client *http.Client
}

func newWebhook(s sink.Sink, secret []byte, now func() time.Time, dial Dial) (Sender, error) {
	c, err := client(s, dial)
	return &webhook{url: s.Target, secret: secret, now: now, client: c}, err
}

// client is one of its own for each receiver: it follows no redirection, which would take what it sends elsewhere.
func client(s sink.Sink, dial Dial) (*http.Client, error) {
	t, err := trust(s)
	if err != nil {
		return nil, err
	}
	return &http.Client{
		Transport:     &http.Transport{TLSClientConfig: t, ForceAttemptHTTP2: true, Proxy: http.ProxyFromEnvironment, DialContext: dial, IdleConnTimeout: 90 * time.Second, ResponseHeaderTimeout: sendTime},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}, nil
}

func trust(s sink.Sink) (*tls.Config, error) {
	t := &tls.Config{MinVersion: tls.VersionTLS12}
	if s.CA != "" {
		t.RootCAs = x509.NewCertPool()
		if !t.RootCAs.AppendCertsFromPEM([]byte(s.CA)) {
			return nil, errors.New("the sink's CA holds no PEM certificate")
		}
	}
	return t, nil
}

func (w *webhook) Send(ctx context.Context, batch []Event) error {
	at := w.now().UTC()
	body := fmt.Appendf(make([]byte, 0, maxBytes), `{"type":"audit.entries","timestamp":%q,"data":[`, at.Format(time.RFC3339Nano))
	for i, e := range batch {
		if i > 0 {
			body = append(body, ',')
		}
		body = append(body, e.Body...)
	}
	body = append(body, "]}"...)
	id := batch[0].ID
	if n := len(batch); n > 1 {
		id += "-" + batch[n-1].ID
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, w.url, bytes.NewReader(body))
	if err != nil {
		return err
	}
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("User-Agent", "loopbackd")
	signing.Sign(r.Header, w.secret, id, at, body)
	_, err = post(w.client, r)
	return err
}

// post is the answer's beginning, where the receiver took what was sent.
func post(c *http.Client, r *http.Request) ([]byte, error) {
	res, err := c.Do(r)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(res.Body, 64<<10))
	if res.StatusCode >= 200 && res.StatusCode <= 299 {
		if err != nil {
			return nil, fmt.Errorf("the receiver's answer was cut off: %w", err)
		}
		return answer, nil
	}
	return nil, answered(res, strings.TrimSpace(string(answer)))
}

// answer is one that is no success. Whoever gave it is there: the connection is good.
type answer struct{ status, text string }

func (a *answer) Error() string {
	return fmt.Sprintf("the receiver answered %s: %.100s", a.status, a.text)
}

// answered is what an answer means that is no success (RFC 9110, 15). Most are about the receiver or about us and hold for
// whatever is sent; a few blame what was sent.
func answered(res *http.Response, text string) error {
	said := error(&answer{res.Status, text})
	switch code := res.StatusCode; {
	case code == http.StatusRequestEntityTooLarge:
		return fmt.Errorf("%w: it answered %s", errTooLarge, res.Status)
	case code >= 300 && code <= 399:
		return fmt.Errorf("%w; give the sink the address that it redirects to (%.200s)", said, res.Header.Get("Location"))
	case code == http.StatusUnauthorized, code == http.StatusForbidden, code == http.StatusProxyAuthRequired:
		return fmt.Errorf("%w; it does not let us in: mend the sink's secret, or our permission there", said)
	case code == http.StatusNotFound, code == http.StatusMethodNotAllowed, code == http.StatusGone:
		return fmt.Errorf("%w; it takes nothing at this address: mend the sink's target", said)
	case code == http.StatusRequestTimeout, code == http.StatusTooEarly, code == http.StatusTooManyRequests, code >= 500:
		return said
	}
	return fmt.Errorf("%w: %w", errRefused, said)
}

func (w *webhook) Close() error {
	w.client.CloseIdleConnections()
	return nil
}

package server

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/pflag"

	"github.com/loopbackd/loopback/server/config"
)

// running is a control plane that serves on a real port until the test ends.
type running struct {
	*Server
	url, address, key string
	client            *http.Client
}

func serve(t *testing.T, flags ...string) *running {
	t.Helper()
	var set config.Settings
	f := pflag.NewFlagSet("", pflag.ContinueOnError)
	set.Register(f)
	if err := f.Parse(append([]string{"--data-dir", filepath.Join(t.TempDir(), "data"), "--listen", "127.0.0.1:0", "--metrics-listen", "off"}, flags...)); err != nil {
		t.Fatal(err)
	}
	if err := set.Load(f, func(string) string { return "" }); err != nil {
		t.Fatal(err)
	}
	s, err := New(t.Context(), Options{Settings: set, Logger: slog.New(slog.DiscardHandler), Registry: prometheus.NewRegistry()})
	if err != nil {
		t.Fatal(err)
	}
	addr, err := s.Listen()
	if err != nil {
		t.Fatal(err)
	}
	code, _, err := s.Bootstrap(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Errorf("it ended with %v", err)
		}
	})
	r := &running{Server: s, address: addr.String(), url: "https://" + addr.String()}
	r.client = &http.Client{Timeout: time.Minute, Transport: &http.Transport{ForceAttemptHTTP2: true, TLSClientConfig: trustless()}}
	t.Cleanup(r.client.CloseIdleConnections)
	_, body := r.post(t, "SessionService/RedeemBootstrapCode", "", fmt.Sprintf(`{"code":%q}`, code))
	var made struct{ Secret string }
	if err := json.Unmarshal([]byte(body), &made); err != nil || made.Secret == "" {
		t.Fatalf("got %s, want the administrator's key", body)
	}
	r.key = made.Secret
	return r
}

// trustless is for tests that look at limits, not at certificates.
func trustless() *tls.Config { return &tls.Config{InsecureSkipVerify: true} }

func (r *running) post(t *testing.T, method, key, body string) (*http.Response, string) {
	t.Helper()
	q, err := http.NewRequest(http.MethodPost, r.url+"/api/loopback.v1."+method, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	q.Header.Set("Content-Type", "application/json")
	if key != "" {
		q.Header.Set("Authorization", "Bearer "+key)
	}
	res, err := r.client.Do(q)
	if err != nil {
		t.Error(err)
		return &http.Response{}, ""
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Error(err)
	}
	return res, string(b)
}

// counted is a counter's value for a label's value.
func (r *running) counted(t *testing.T, name, label string) float64 {
	t.Helper()
	families, err := r.options.Registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if f.GetName() == name && m.GetLabel()[0].GetValue() == label {
				return m.GetCounter().GetValue()
			}
		}
	}
	return 0
}

// Strangers use the credit of an address up, with no key, wrong keys and downloads; from the same address, whoever was known
// to have a good key is answered all the while.
func TestAFloodOfStrangersDoesNotKeepGoodCallersOut(t *testing.T) {
	r := serve(t, "--source-rate", "1")
	if res, body := r.post(t, "HostService/ListHosts", r.key, `{}`); res.StatusCode != http.StatusOK {
		t.Fatalf("got %d %s", res.StatusCode, body)
	}
	stop := make(chan struct{})
	var flood sync.WaitGroup
	var mu sync.Mutex
	refused := map[int]int{}
	for i := range 8 {
		flood.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				key := ""
				if n%2 == 0 {
					key = fmt.Sprintf("lbk_%026d_%d", n, i)
				}
				res, _ := r.post(t, "HostService/ListHosts", key, `{}`)
				mu.Lock()
				refused[res.StatusCode]++
				mu.Unlock()
			}
		})
	}
	for range 100 {
		if res, body := r.post(t, "HostService/ListHosts", r.key, `{}`); res.StatusCode != http.StatusOK {
			t.Errorf("a good caller got %d %s", res.StatusCode, body)
		}
	}
	close(stop)
	flood.Wait()
	mu.Lock()
	defer mu.Unlock()
	if refused[http.StatusTooManyRequests] == 0 || refused[http.StatusUnauthorized] > 100 || refused[http.StatusOK] > 0 {
		t.Errorf("strangers got %v; want few 401 and many 429", refused)
	}
	// On a slow machine credit has come back by now: it is used up first.
	res, body := r.post(t, "HostService/ListHosts", "", `{}`)
	for n := 0; n < 50 && res.StatusCode != http.StatusTooManyRequests; n++ {
		res, body = r.post(t, "HostService/ListHosts", "", `{}`)
	}
	if res.StatusCode != http.StatusTooManyRequests || res.Header.Get("Retry-After") == "" || !strings.Contains(body, "rate_limited") {
		t.Errorf("got %d %s, Retry-After %q; want 429 that says when to come back", res.StatusCode, body, res.Header.Get("Retry-After"))
	}
	var got *http.Response
	for n := 0; n < 50 && (got == nil || got.StatusCode != http.StatusTooManyRequests); n++ {
		var err error
		if got, err = r.client.Get(r.url + "/install.sh"); err != nil {
			t.Fatal(err)
		}
		got.Body.Close()
	}
	if got.StatusCode != http.StatusTooManyRequests || got.Header.Get("Retry-After") == "" {
		t.Errorf("/install.sh: got %d, want 429 with Retry-After", got.StatusCode)
	}
	for _, path := range []string{"/healthz", "/readyz"} {
		got, err := r.client.Get(r.url + path)
		if err != nil {
			t.Fatal(err)
		}
		got.Body.Close()
		if got.StatusCode != http.StatusOK {
			t.Errorf("%s: got %d in a flood, want 200", path, got.StatusCode)
		}
	}
	if n := r.counted(t, "loopback_api_refused_total", "source_rate"); n < float64(refused[http.StatusTooManyRequests]) {
		t.Errorf("%v refusals are counted, %d were seen", n, refused[http.StatusTooManyRequests])
	}
}

// Headers that trickle, bodies that never end, connections that say nothing: all are cut, while others are answered.
func TestSlowSendersAreCutOff(t *testing.T) {
	r := serve(t, "--read-timeout", "1s", "--source-connections", "40")
	dial := func(say string) net.Conn {
		c, err := tls.Dial("tcp", r.address, trustless())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		if _, err := io.WriteString(c, say); err != nil {
			t.Fatal(err)
		}
		return c
	}
	const head = "POST /api/loopback.v1.HostService/ListHosts HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
	var slow []net.Conn
	for range 10 {
		slow = append(slow,
			dial(head), // no end of headers
			dial(head+"Content-Length: 1000\r\n\r\n{"), // nobody, and no body
			dial(head+"Authorization: Bearer "+r.key+"\r\nContent-Length: 1000\r\n\r\n{"))
	}
	if res, body := r.post(t, "HostService/ListHosts", r.key, `{}`); res.StatusCode != http.StatusOK {
		t.Errorf("a good caller meanwhile got %d %s", res.StatusCode, body)
	}
	began := time.Now()
	for i, c := range slow {
		_ = c.SetReadDeadline(time.Now().Add(30 * time.Second))
		if _, err := io.Copy(io.Discard, c); err != nil && strings.Contains(err.Error(), "timeout") {
			t.Fatalf("connection %d is still open after %s", i, time.Since(began))
		}
	}
	if n := r.counted(t, "loopback_http_cut_total", slowSender); n < 10 {
		t.Errorf("%v slow senders are counted, want the 10 with a key at least", n)
	}
	if calls, waiting, _ := r.limits.Load(); calls+waiting != 0 {
		t.Errorf("%d calls and %d waiting are left of them", calls, waiting)
	}
	// More connections than an address may have are closed, those below it live.
	var open []net.Conn
	for range 60 {
		if c, err := net.Dial("tcp", r.address); err == nil {
			t.Cleanup(func() { c.Close() })
			open = append(open, c)
		}
	}
	closed := 0
	for _, c := range open {
		_ = c.SetReadDeadline(time.Now().Add(2 * time.Second))
		if _, err := c.Read(make([]byte, 1)); err != nil && !strings.Contains(err.Error(), "timeout") {
			if closed++; closed == 20 {
				break
			}
		}
	}
	if closed < 20 {
		t.Errorf("%d of 60 connections were closed, want 20 and more", closed)
	}
	for _, c := range open {
		c.Close()
	}
	// The address is let in again once they are gone.
	if res, _ := r.post(t, "HostService/ListHosts", r.key, `{}`); res.StatusCode != http.StatusOK {
		t.Errorf("afterwards got %d", res.StatusCode)
	}
}

// A reader that takes nothing is cut off on either protocol; one that is slow but reads, and one that waits for a silent
// stream, are not.
func TestReadersThatNeverReadAreCutOff(t *testing.T) {
	for _, proto := range []int{1, 2} {
		t.Run(fmt.Sprint("HTTP/", proto), func(t *testing.T) {
			cut, over := make(chan string, 4), make(chan error, 4)
			p := patient{time.Minute, 700 * time.Millisecond, func(why string) { cut <- why }}
			server := httptest.NewUnstartedServer(p.handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.ProtoMajor != proto {
					t.Errorf("speaks %s", r.Proto)
				}
				switch r.URL.Path {
				case "/endless":
					for {
						if _, err := w.Write(make([]byte, 32<<10)); err != nil {
							over <- err
							return
						}
					}
				case "/silent":
					_ = http.NewResponseController(w).Flush()
					select {
					case <-time.After(2 * time.Second):
					case <-r.Context().Done():
						t.Error("a silent stream was ended")
					}
					_, _ = io.WriteString(w, "word")
				case "/slow":
					_, _ = w.Write(make([]byte, 4<<20))
				}
			})))
			server.EnableHTTP2 = proto == 2
			server.StartTLS()
			defer server.Close()
			get := func(path string) *http.Response {
				res, err := server.Client().Post(server.URL+path, "text/plain", strings.NewReader("a body"))
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { res.Body.Close() })
				return res
			}
			get("/endless")
			select {
			case <-over:
			case <-time.After(20 * time.Second):
				t.Fatal("the writer hangs")
			}
			select {
			case why := <-cut:
				if why != slowReader {
					t.Errorf("cut for %s", why)
				}
			case <-time.After(time.Second):
				t.Error("the cut was not counted")
			}
			if b, err := io.ReadAll(get("/silent").Body); err != nil || string(b) != "word" {
				t.Errorf("a silent stream: got %q, %v", b, err)
			}
			slow, got := get("/slow"), 0
			for buf := make([]byte, 512<<10); ; {
				n, err := io.ReadFull(slow.Body, buf)
				got += n
				if err != nil {
					break
				}
				time.Sleep(200 * time.Millisecond) // a slow reader is one that takes its time
			}
			if got != 4<<20 {
				t.Errorf("a slow reader got %d bytes, want all", got)
			}
			if len(cut) > 0 {
				t.Errorf("cut for %s", <-cut)
			}
		})
	}
}

// What is too large is refused by name, and a page is never longer than a page.
func TestRequestsOutOfBoundsAreRefusedByName(t *testing.T) {
	r := serve(t)
	many := strings.Repeat(`"x",`, 1001)
	for field, body := range map[string]string{
		"selector":   `{"selector":"` + strings.Repeat("a", 9000) + `"}`,
		"states":     `{"states":[` + many[:len(many)-1] + `]}`,
		"page.token": `{"page":{"token":"` + strings.Repeat("b", 9000) + `"}}`,
	} {
		if res, text := r.post(t, "HostService/ListHosts", r.key, body); res.StatusCode != http.StatusBadRequest ||
			!strings.Contains(text, "request_too_large") || !strings.Contains(text, field) {
			t.Errorf("%s: got %d %s", field, res.StatusCode, text)
		}
	}
	if res, text := r.post(t, "HostService/ListHosts", r.key, `{"page":{"size":2147483647}}`); res.StatusCode != http.StatusOK {
		t.Errorf("a page of two thousand million: got %d %s", res.StatusCode, text)
	}
	res, _ := r.post(t, "HostService/ListHosts", r.key, string(bytes.Repeat([]byte(" "), 5<<20)))
	if res.StatusCode != http.StatusTooManyRequests {
		t.Errorf("5 MiB: got %d", res.StatusCode)
	}
	if calls, _, _ := r.limits.Load(); calls != 0 {
		t.Errorf("%d calls are left of it", calls)
	}
}

package wire

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/loopbackd/loopback/fault"
)

// stub is an HTTPS server that is no control plane.
func stub(t *testing.T, handler http.HandlerFunc) *httptest.Server {
	t.Helper()
	s := httptest.NewUnstartedServer(handler)
	s.Config.ErrorLog = discardLog
	s.StartTLS()
	t.Cleanup(func() { s.CloseClientConnections(); s.Close() })
	return s
}

func trusting(s *httptest.Server) *tls.Config {
	pool := x509.NewCertPool()
	pool.AddCert(s.Certificate())
	return &tls.Config{RootCAs: pool}
}

func listen(t *testing.T, serve func(net.Conn)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			t.Cleanup(func() { _ = c.Close() })
			go serve(c)
		}
	}()
	return l.Addr().String()
}

// A wrong clock opens the port where it may, and nothing else does: not another issuer, name or pin.
func TestAnyTimeForgivesTheTimeAlone(t *testing.T) {
	server := newControl(t, echo)
	for _, now := range []time.Time{time.Unix(-1e9, 0), time.Now(), time.Unix(1<<33, 0)} {
		for _, test := range []struct {
			name   string
			adjust func(*Dialer)
			code   string
		}{
			{"the right one", func(*Dialer) {}, ""},
			{"an unknown issuer", func(d *Dialer) { d.TLS.RootCAs = x509.NewCertPool() }, "tls_untrusted"},
			{"another name", func(d *Dialer) { d.TLS.ServerName = "other.example" }, "tls_untrusted"},
			{"a pin that does not fit", func(d *Dialer) {
				d.TLS.VerifyConnection = func(tls.ConnectionState) error { return errors.New("not the pinned key") }
			}, "tls_untrusted"},
			{"another pin that does not fit", func(d *Dialer) {
				d.TLS.VerifyPeerCertificate = func([][]byte, [][]*x509.Certificate) error { return errors.New("not the pinned key") }
			}, "tls_untrusted"},
		} {
			for _, transport := range []string{WebSocket, Poll} {
				d := server.dialer(transport)
				d.AnyTime = true
				d.TLS.Time = func() time.Time { return now }
				test.adjust(&d)
				c, err := d.Dial(t.Context())
				if test.code == "" {
					if err != nil {
						t.Errorf("%s at %s: %v", test.name, now, err)
						continue
					}
					_ = c.Close()
					continue
				}
				if err == nil {
					_ = c.Close()
				}
				wantCode(t, test.name, err, test.code)
			}
		}
	}
}

func TestDialSaysWhichStepFailed(t *testing.T) {
	server := newControl(t, echo)
	l, _ := net.Listen("tcp", "127.0.0.1:0")
	refused := l.Addr().String()
	_ = l.Close()
	mute := listen(t, func(c net.Conn) { _, _ = io.Copy(io.Discard, c) })
	plain := listen(t, func(c net.Conn) { _, _ = io.WriteString(c, "SSH-2.0-OpenSSH_9.9\r\n") })
	cutting := listen(t, func(c net.Conn) { _ = c.Close() })
	portal := stub(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Server", "CorporatePortal")
		http.Redirect(w, r, "https://login.example/", http.StatusFound)
	})
	busyServer := newControl(t, echo, func(s *Server) {
		s.Admit = func(netip.Addr) (time.Duration, bool) { return 42 * time.Second, false }
	})
	lying := stub(t, func(w http.ResponseWriter, r *http.Request) {
		c, _, _ := http.NewResponseController(w).Hijack()
		_, _ = io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: nonsense\r\n\r\n")
		_ = c.Close()
	})
	expired := func(now time.Time) func() time.Time { return func() time.Time { return now } }

	for _, test := range []struct {
		name   string
		adjust func(*Dialer)
		code   string
		says   string // in the message or hint
	}{
		{"no https", func(d *Dialer) { d.Endpoint = "http://" + server.address() }, "endpoint_invalid", "https://HOST"},
		{"no address", func(d *Dialer) { d.Endpoint = "https://" }, "endpoint_invalid", ""},
		{"a name that is not there", func(d *Dialer) {
			d.Connect = func(context.Context, string, string) (net.Conn, error) {
				return nil, &net.OpError{Op: "dial", Err: &net.DNSError{Name: "no.example", Err: "no such host", IsNotFound: true}}
			}
		}, "dns_failed", "no.example"},
		{"nobody listens", func(d *Dialer) { d.Endpoint = "https://" + refused }, "connect_refused", refused},
		{"nobody answers", func(d *Dialer) {
			d.Connect = func(ctx context.Context, _, _ string) (net.Conn, error) { <-ctx.Done(); return nil, ctx.Err() }
		}, "connect_timeout", "firewall"},
		{"TLS gets no answer", func(d *Dialer) { d.Endpoint = "https://" + mute }, "connect_timeout", "TLS"},
		{"another protocol", func(d *Dialer) { d.Endpoint = "https://" + plain }, "tls_failed", "does not speak TLS"},
		{"cut in TLS", func(d *Dialer) { d.Endpoint = "https://" + cutting }, "tls_failed", "cut"},
		{"an unknown issuer", func(d *Dialer) { d.TLS = &tls.Config{RootCAs: x509.NewCertPool()} }, "tls_untrusted", "Acme Co"},
		{"another name", func(d *Dialer) { d.TLS.ServerName = "other.example" }, "tls_untrusted", "other.example"},
		{"a pin that does not fit", func(d *Dialer) {
			d.TLS.VerifyPeerCertificate = func([][]byte, [][]*x509.Certificate) error { return errors.New("not the pinned key") }
		}, "tls_untrusted", "not the pinned key"},
		{"a clock in the past", func(d *Dialer) { d.TLS.Time = expired(time.Unix(-1e9, 0)) }, "tls_clock", "1938-04-24"},
		{"a clock in the future", func(d *Dialer) { d.TLS.Time = expired(time.Unix(1<<33, 0)) }, "tls_clock", "valid from"},
		{"a portal", func(d *Dialer) { d.Endpoint, d.TLS = portal.URL, trusting(portal) }, "http_status", "CorporatePortal"},
		{"a portal, by WebSocket alone", func(d *Dialer) { d.Endpoint, d.TLS, d.Transport = portal.URL, trusting(portal), WebSocket }, "websocket_blocked", "302"},
		{"no WebSocket after all", func(d *Dialer) { d.Endpoint, d.TLS, d.Transport = lying.URL, trusting(lying), WebSocket }, "websocket_blocked", "does not speak WebSocket"},
		{"too busy", func(d *Dialer) { d.Endpoint, d.TLS.RootCAs = busyServer.http.URL, busyServer.roots() }, "too_busy", ""},
		{"too busy, polled", func(d *Dialer) {
			d.Endpoint, d.TLS.RootCAs, d.Transport = busyServer.http.URL, busyServer.roots(), Poll
		}, "too_busy", ""},
		{"an unknown transport", func(d *Dialer) { d.Transport = "pigeon" }, "transport_unknown", "pigeon"},
	} {
		t.Run(test.name, func(t *testing.T) {
			d := server.dialer(Auto)
			d.Timeout = 300 * time.Millisecond
			if strings.Contains(test.name, "portal") || strings.Contains(test.name, "busy") {
				d.Timeout = 5 * time.Second
			}
			test.adjust(&d)
			_, err := d.Dial(t.Context())
			wantCode(t, "dial", err, test.code)
			f := fault.Of(err)
			if !strings.Contains(f.Message+" "+f.Hint, test.says) {
				t.Fatalf("it says %q, hint %q: nothing of %q", f.Message, f.Hint, test.says)
			}
			if strings.ContainsAny(f.Message+f.Hint, "\n\r") {
				t.Fatalf("it says more than a line: %q", f.Message+f.Hint)
			}
			if test.code == "too_busy" && f.RetryAfter != 42*time.Second {
				t.Fatalf("retry after %v, want 42s", f.RetryAfter)
			}
		})
	}
}

func TestDialGivesUpWithItsContext(t *testing.T) {
	mute := listen(t, func(c net.Conn) { _, _ = io.Copy(io.Discard, c) })
	server := newControl(t, echo)
	for _, transport := range []string{WebSocket, Poll, Auto} {
		d := server.dialer(transport)
		d.Endpoint = "https://" + mute
		ctx, cancel := context.WithCancel(t.Context())
		d.Connect = func(ctx context.Context, network, address string) (net.Conn, error) {
			time.AfterFunc(20*time.Millisecond, cancel)
			return (&net.Dialer{}).DialContext(ctx, network, address)
		}
		_, err := d.Dial(ctx)
		wantCode(t, transport, err, "canceled")
	}
}

func TestAutoPollsWhereNoWebSocketGetsThrough(t *testing.T) {
	server := newControl(t, echo)
	inner := server.http.Config.Handler
	for name, block := range map[string]http.HandlerFunc{
		"refused": func(w http.ResponseWriter, _ *http.Request) {
			http.Error(w, "no upgrades here", http.StatusForbidden)
		},
		"upgrade stripped": func(w http.ResponseWriter, r *http.Request) {
			r.Header.Del("Upgrade")
			r.Header.Del("Connection")
			inner.ServeHTTP(w, r)
		},
		"cut": func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
		"opened and swallowed": func(w http.ResponseWriter, r *http.Request) {
			c, buffered, _ := http.NewResponseController(w).Hijack()
			defer c.Close()
			_, _ = io.WriteString(c, upgradeAnswer(r))
			_, _ = io.Copy(io.Discard, buffered)
		},
		"opened and closed": func(w http.ResponseWriter, r *http.Request) {
			c, _, _ := http.NewResponseController(w).Hijack()
			_, _ = io.WriteString(c, upgradeAnswer(r))
			_, _ = c.Write(anyFrame(false, 0x88, nil))
			_ = c.Close()
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			proxy := stub(t, func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/agent/v1/link" {
					block(w, r)
					return
				}
				inner.ServeHTTP(w, r)
			})
			d := server.dialer("")
			d.Endpoint, d.TLS, d.Timeout = proxy.URL, trusting(proxy), time.Second
			c := dial(t, d)
			if c.Transport() != Poll {
				t.Fatalf("the transport is %s, want poll", c.Transport())
			}
			wantCode(t, "the reason of falling back", c.Fallback(), "websocket_blocked")
			send(t, c, "through")
			if got := receive(t, c); got != "through" {
				t.Fatalf("got %q", got)
			}
			_ = c.Close()
		})
	}
}

// upgradeAnswer accepts a WebSocket.
func upgradeAnswer(r *http.Request) string {
	return "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: " +
		acceptKey(r.Header.Get("Sec-WebSocket-Key")) + "\r\n\r\n"
}

// tunnel is a CONNECT proxy.
func tunnel(t *testing.T, user, password string, used *atomic.Int64) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		used.Add(1)
		want := "Basic " + base64.StdEncoding.EncodeToString([]byte(user+":"+password))
		if user != "" && r.Header.Get("Proxy-Authorization") != want {
			w.Header().Set("Proxy-Authenticate", `Basic realm="corp"`)
			w.WriteHeader(http.StatusProxyAuthRequired)
			return
		}
		if r.Method != http.MethodConnect {
			w.WriteHeader(http.StatusMethodNotAllowed)
			return
		}
		if strings.HasPrefix(r.Host, "forbidden.") {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		to, err := net.Dial("tcp", r.Host)
		if err != nil {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		t.Cleanup(func() { _ = to.Close() })
		c, buffered, _ := http.NewResponseController(w).Hijack()
		t.Cleanup(func() { _ = c.Close() })
		_, _ = fmt.Fprint(c, "HTTP/1.1 200 OK\r\n\r\n")
		go func() {
			_, _ = io.Copy(to, io.MultiReader(io.LimitReader(buffered, int64(buffered.Reader.Buffered())), c))
			_ = to.Close()
		}()
		go func() { _, _ = io.Copy(c, to); _ = c.Close() }()
	}
}

func TestProxies(t *testing.T) {
	server := newControl(t, echo)
	var used atomic.Int64
	plain := httptest.NewServer(tunnel(t, "", "", &used))
	t.Cleanup(plain.Close)
	guarded := httptest.NewServer(tunnel(t, "agent", "p@ss", &used))
	t.Cleanup(guarded.Close)
	sealed := stub(t, tunnel(t, "", "", &used))
	silent := listen(t, func(c net.Conn) { _, _ = bufio.NewReader(c).ReadString(0) })
	l, _ := net.Listen("tcp", "127.0.0.1:0")
	refused := l.Addr().String()
	_ = l.Close()

	by := func(address string) func(*Dialer) {
		return func(d *Dialer) {
			u, err := url.Parse(address)
			if err != nil {
				t.Fatal(err)
			}
			d.Proxy = http.ProxyURL(u)
		}
	}
	for _, test := range []struct {
		name   string
		adjust func(*Dialer)
		code   string // empty: the link is made
	}{
		{"plain", by(plain.URL), ""},
		{"with a password", by(strings.Replace(guarded.URL, "//", "//agent:p%40ss@", 1)), ""},
		{"over TLS", func(d *Dialer) { by(sealed.URL)(d); d.TLS.RootCAs.AddCert(sealed.Certificate()) }, ""},
		{"without the password", by(guarded.URL), "proxy_auth_required"},
		{"with another password", by(strings.Replace(guarded.URL, "//", "//agent:no@", 1)), "proxy_auth_required"},
		{"forbidding", func(d *Dialer) { by(plain.URL)(d); d.Endpoint = "https://forbidden.example" }, "proxy_failed"},
		{"not there", by("http://" + refused), "proxy_failed"},
		{"silent", by("http://" + silent), "proxy_failed"},
		{"of another kind", by("socks4://127.0.0.1:1"), "proxy_failed"},
	} {
		for _, transport := range []string{WebSocket, Poll} {
			t.Run(test.name+" "+transport, func(t *testing.T) {
				d := server.dialer(transport)
				if test.name == "silent" {
					d.Timeout = 200 * time.Millisecond
				}
				test.adjust(&d)
				before := used.Load()
				c, err := d.Dial(t.Context())
				if test.code != "" {
					wantCode(t, "dial", err, test.code)
					if strings.Contains(err.Error()+fault.Of(err).Hint, "p@ss") {
						t.Fatalf("the password is in %v", err)
					}
					return
				}
				if err != nil {
					t.Fatalf("dial: %v", err)
				}
				defer c.Close()
				send(t, c, "through")
				if got := receive(t, c); got != "through" || used.Load() == before {
					t.Fatalf("got %q by %d tunnels", got, used.Load()-before)
				}
			})
		}
	}
}

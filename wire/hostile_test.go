package wire

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

func newWay(t testing.TB, d Dialer) way {
	t.Helper()
	endpoint, err := url.Parse(d.Endpoint)
	if err != nil {
		t.Fatal(err)
	}
	return way{Dialer: d, endpoint: endpoint}
}

// stranger is an upgraded connection on which nothing has been said yet.
func stranger(t *testing.T, server *control) *agentSocket {
	t.Helper()
	w := newWay(t, server.dialer(WebSocket))
	conn, err := w.connect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	s := &agentSocket{conn: conn, reader: bufio.NewReader(conn)}
	if err := w.upgrade(s); err != nil {
		t.Fatal(err)
	}
	return s
}

// failure waits for the first link that ended before it was accepted.
func (c *control) failure(t *testing.T) error {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		c.mu.Lock()
		if len(c.failed) > 0 {
			defer c.mu.Unlock()
			return c.failed[0]
		}
		c.mu.Unlock()
	}
	t.Fatal("no link failed")
	return nil
}

func TestStrangersBytesEndTheirConnectionAndNothingElse(t *testing.T) {
	first := func() []byte { _, m, _ := initiate(); return m }
	for name, b := range map[string][]byte{
		"text":                         anyFrame(true, 0x81, first()),
		"an unmasked frame":            anyFrame(false, 0x82, first()),
		"a negative length":            {0x82, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1, 2, 3, 4},
		"a length of 4 GiB":            {0x82, 0xff, 0, 0, 0, 1, 0, 0, 0, 0, 1, 2, 3, 4},
		"a byte more than a message":   anyFrame(true, 0x82, make([]byte, maxMessage+1)),
		"reserved bits":                anyFrame(true, 0xf2, first()),
		"an unknown opcode":            anyFrame(true, 0x83, first()),
		"a continuation of nothing":    anyFrame(true, 0x80, first()),
		"a ping too long":              anyFrame(true, 0x89, make([]byte, 200)),
		"a ping in parts":              anyFrame(true, 0x09, []byte("x")),
		"an empty message":             anyFrame(true, 0x82, nil),
		"a short message":              anyFrame(true, 0x82, first()[:31]),
		"a first message without end":  append(anyFrame(true, 0x02, first()), anyFrame(true, 0x00, make([]byte, maxMessage))...),
		"a handshake, then junk":       append(anyFrame(true, 0x82, first()), anyFrame(true, 0x82, make([]byte, 100))...),
		"a handshake, then another":    append(anyFrame(true, 0x82, first()), anyFrame(true, 0x82, first())...),
		"a handshake, then a tag less": append(anyFrame(true, 0x82, first()), anyFrame(true, 0x82, make([]byte, 16))...),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := newControl(t, echo)
			s := stranger(t, server)
			_, _ = s.conn.Write(b) // the server may be off before all of it is written
			wantCode(t, "the server's report", server.failure(t), "link_tampered")
			_ = s.conn.SetReadDeadline(time.Now().Add(10 * time.Second))
			if _, err := io.Copy(io.Discard, s.conn); err != nil && !strings.Contains(err.Error(), "reset") {
				t.Fatalf("the connection did not end: %v", err)
			}
			c := dial(t, server.dialer(WebSocket))
			send(t, c, "well")
			if got := receive(t, c); got != "well" {
				t.Fatalf("got %q", got)
			}
		})
	}
}

func TestOneMessageInManyFramesAndPingsBetween(t *testing.T) {
	server := newControl(t, echo)
	s := stranger(t, server)
	handshake, first, _ := initiate()
	for _, b := range [][]byte{
		anyFrame(true, 0x02, first[:10]), anyFrame(true, 0x89, []byte("are you there")),
		anyFrame(true, 0x00, first[10:20]), anyFrame(true, 0x80, first[20:]),
	} {
		if _, err := s.conn.Write(b); err != nil {
			t.Fatal(err)
		}
	}
	var pong string
	second, err := readSocketMessage(s.reader, nil, func(opcode byte, payload []byte) error {
		pong = fmt.Sprintf("%x %s", opcode, payload)
		return nil
	})
	if err != nil || pong != "a are you there" {
		t.Fatalf("got %q, %v", pong, err)
	}
	if _, _, _, err := handshake.finish(second, newWay(t, server.dialer("")).anchors(), 0, rekeyInterval); err != nil {
		t.Fatal(err)
	}
}

func TestSilentStrangersAreCutOff(t *testing.T) {
	t.Run("websocket", func(t *testing.T) {
		server := newControl(t, echo, func(s *Server) { s.HandshakeTimeout = 100 * time.Millisecond })
		stranger(t, server)
		wantCode(t, "the server's report", server.failure(t), "link_idle")
	})
	t.Run("after the handshake", func(t *testing.T) {
		eachTransport(t, func(t *testing.T, transport string) {
			server := newControl(t, echo, func(s *Server) { s.HandshakeTimeout = 100 * time.Millisecond })
			dial(t, server.dialer(transport))
			wantCode(t, "the server's report", server.failure(t), "link_idle")
			if len(server.peers) > 0 || server.pending.Load() != 0 {
				t.Fatalf("accepted %d, pending %d, want none", len(server.peers), server.pending.Load())
			}
		})
	})
}

// A half-open peer neither sends nor closes: its machine lost power, or a middlebox forgot the connection.
func TestHalfOpenPeersAreFoundByTheirSilence(t *testing.T) {
	eachTransport(t, func(t *testing.T, transport string) {
		server := newControl(t, func(l *Link, envelope []byte) {
			l.SetIdleTimeout(150 * time.Millisecond)
			_ = l.Send(envelope)
		})
		c := dial(t, server.dialer(transport))
		send(t, c, "x")
		receive(t, c)
		wantCode(t, "the server's end", (<-server.peers).ended(t), "link_idle")
		wantCode(t, "the agent's end", endOf(t, c), "link_idle")
	})
}

func TestAPeerThatTakesNothingIsCutOff(t *testing.T) {
	eachTransport(t, func(t *testing.T, transport string) {
		server := newControl(t, func(*Link, []byte) {}, func(s *Server) { s.WriteTimeout = 300 * time.Millisecond })
		d := server.dialer(transport)
		d.Connect = func(ctx context.Context, network, address string) (net.Conn, error) {
			c, err := (&net.Dialer{}).DialContext(ctx, network, address)
			if err == nil {
				_ = c.(*net.TCPConn).SetReadBuffer(4096)
			}
			return c, err
		}
		c := dial(t, d)
		send(t, c, "x")
		p := <-server.peers
		var err error
		begin := time.Now()
		for i := 0; err == nil && i < 200; i++ { // the agent's owner never calls Receive
			err = p.link.Send(make([]byte, 512<<10))
		}
		wantCode(t, "send", err, "link_slow")
		if elapsed := time.Since(begin); elapsed > 8*time.Second {
			t.Fatalf("it took %v to find out", elapsed)
		}
		wantCode(t, "the server's end", p.ended(t), "link_slow")
	})
}

func TestClosingDoesNotWaitForADeafPeer(t *testing.T) {
	server := newControl(t, func(*Link, []byte) {}, func(s *Server) { s.WriteTimeout = time.Minute })
	c := dial(t, server.dialer(WebSocket))
	send(t, c, "x")
	p := <-server.peers
	stuck := make(chan error, 1)
	go func() {
		for {
			if err := p.link.Send(make([]byte, MaxEnvelope)); err != nil {
				stuck <- err
				return
			}
		}
	}()
	time.Sleep(300 * time.Millisecond) // until the kernel's buffers are full; sooner does no harm
	begin := time.Now()
	p.link.Close(nil)
	if elapsed := time.Since(begin); elapsed > 2*time.Second {
		t.Fatalf("close took %v", elapsed)
	}
	wantCode(t, "the stuck send", <-stuck, "link_closed")
	wantCode(t, "the server's end", p.ended(t), "link_closed")
}

func TestTooLargeAnEnvelopeIsRefusedOnBothEnds(t *testing.T) {
	eachTransport(t, func(t *testing.T, transport string) {
		server := newControl(t, echo)
		c := dial(t, server.dialer(transport))
		envelope := make([]byte, MaxEnvelope+1)
		send(t, c, string(envelope[1:]))
		if got := receive(t, c); len(got) != MaxEnvelope {
			t.Fatalf("got %d bytes, want %d", len(got), MaxEnvelope)
		}
		wantCode(t, "the agent's send", c.Send(t.Context(), envelope), "envelope_too_large")
		p := <-server.peers
		wantCode(t, "the server's send", p.link.Send(envelope), "envelope_too_large")
		send(t, c, "the link stands") // a refused envelope costs nothing but itself
		receive(t, c)

		// An agent that does not refuse it itself.
		for sent := 0; sent <= MaxEnvelope; sent += maxFragment {
			err := c.out.sealFragment(flagMore, make([]byte, maxFragment), func(m []byte) error {
				return c.uplink.send(t.Context(), [][]byte{m})
			})
			if err != nil {
				break
			}
		}
		wantCode(t, "the server's end", p.ended(t), "envelope_too_large")
		wantCode(t, "the agent's end", endOf(t, c), "envelope_too_large")
	})
}

func TestAdmissionIsAskedBeforeAnythingIsSpent(t *testing.T) {
	eachTransport(t, func(t *testing.T, transport string) {
		var asked netip.Addr
		var open atomic.Bool
		server := newControl(t, echo, func(s *Server) {
			s.Admit = func(remote netip.Addr) (time.Duration, bool) {
				asked = remote
				return 1500 * time.Millisecond, open.Load()
			}
			s.TrustedProxies = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
		})
		keys := server.Keys
		var answered atomic.Int64
		server.Keys = func() ServerKeys { answered.Add(1); return keys() }
		_, err := server.dialer(transport).Dial(t.Context())
		wantCode(t, "dial", err, "too_busy")
		if !asked.IsLoopback() || answered.Load() != 0 || server.Links() != 0 {
			t.Fatalf("asked for %v, %d handshakes, %d links", asked, answered.Load(), server.Links())
		}
		open.Store(true)
		dial(t, server.dialer(transport))
	})
}

func TestPendingHandshakesAreBounded(t *testing.T) {
	server := newControl(t, echo, func(s *Server) { s.MaxPending = 3 })
	for range 3 {
		stranger(t, server)
	}
	_, err := server.dialer(WebSocket).Dial(t.Context())
	wantCode(t, "one too many", err, "too_busy")
	_, err = server.dialer(Poll).Dial(t.Context())
	wantCode(t, "one too many, polled", err, "too_busy")
}

func TestRotatedKeysLeaveLinksAlone(t *testing.T) {
	eachTransport(t, func(t *testing.T, transport string) {
		var current atomic.Pointer[ServerKeys]
		server := newControl(t, echo, func(s *Server) { s.Keys = func() ServerKeys { return *current.Load() } })
		current.Store(&server.keys)
		old := dial(t, server.dialer(transport))
		send(t, old, "x")
		receive(t, old)
		rotated := server.newKeys(t, 2)
		current.Store(&rotated)
		fresh := dial(t, server.dialer(transport))
		if fresh.Keyset().Version != 2 {
			t.Fatalf("keyset version is %d, want 2", fresh.Keyset().Version)
		}
		for _, c := range []*Conn{old, fresh} {
			send(t, c, "y")
			if got := receive(t, c); got != "y" {
				t.Fatalf("got %q", got)
			}
		}
	})
}

func TestAnHTTP2ServerStillTakesLinks(t *testing.T) {
	server := newControl(t, echo)
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: server.roots()}, ForceAttemptHTTP2: true}}
	defer client.CloseIdleConnections()
	answer, err := client.Get(server.http.URL + "/agent/v1/link")
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	if answer.ProtoMajor != 2 || answer.StatusCode != http.StatusUpgradeRequired {
		t.Fatalf("got %s %s, want HTTP/2.0 426", answer.Proto, answer.Status)
	}
	dial(t, server.dialer(WebSocket))
}

func TestClosingTheServerEndsEveryLink(t *testing.T) {
	eachTransport(t, func(t *testing.T, transport string) {
		server := newControl(t, echo)
		var conns []*Conn
		for range 20 {
			c := dial(t, server.dialer(transport))
			send(t, c, "x")
			receive(t, c)
			conns = append(conns, c)
		}
		dial(t, server.dialer(transport)) // one that has not been accepted
		if err := server.Close(within(t, 10*time.Second)); err != nil {
			t.Fatal(err)
		}
		if n := server.Links(); n != 0 {
			t.Fatalf("%d links stand", n)
		}
		for range conns {
			wantCode(t, "the server's end", (<-server.peers).ended(t), "server_stopping")
		}
		for _, c := range conns {
			wantCode(t, "the agent's end", endOf(t, c), "server_stopping")
		}
		_, err := server.dialer(transport).Dial(t.Context())
		wantCode(t, "dial", err, "too_busy")
	})
}

func TestTheAgentsAddressIsToldByTrustedProxiesOnly(t *testing.T) {
	trusted := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("::1/128")}
	for _, test := range []struct{ peer, forwarded, want string }{
		{"192.0.2.1:5", "", "192.0.2.1"},
		{"192.0.2.1:5", "203.0.113.9", "192.0.2.1"},
		{"10.1.1.1:5", "203.0.113.9", "203.0.113.9"},
		{"10.1.1.1:5", "1.1.1.1, 203.0.113.9, 10.2.2.2", "203.0.113.9"},
		{"10.1.1.1:5", "203.0.113.9:4711", "203.0.113.9"},
		{"10.1.1.1:5", "junk, 10.2.2.2", "10.2.2.2"},
		{"10.1.1.1:5", "", "10.1.1.1"},
		{"[::1]:5", "[2001:db8::9]:80", "2001:db8::9"},
		{"[::ffff:10.1.1.1]:5", "::ffff:203.0.113.9", "203.0.113.9"},
	} {
		r := &http.Request{RemoteAddr: test.peer, Header: http.Header{}}
		if test.forwarded != "" {
			r.Header.Set("X-Forwarded-For", test.forwarded)
		}
		if got := remoteOf(r, trusted).String(); got != test.want {
			t.Errorf("from %s, forwarded for %q: got %s, want %s", test.peer, test.forwarded, got, test.want)
		}
	}
}

func TestAHandlersDefectCostsItsLinkAlone(t *testing.T) {
	eachTransport(t, func(t *testing.T, transport string) {
		server := newControl(t, func(l *Link, envelope []byte) {
			if string(envelope) == "panic" {
				panic("a defect with a secret")
			}
			_ = l.Send(envelope)
		})
		other, c := dial(t, server.dialer(transport)), dial(t, server.dialer(transport))
		send(t, c, "panic")
		err := endOf(t, c)
		wantCode(t, "the agent's end", err, "internal")
		if strings.Contains(err.Error(), "secret") {
			t.Fatalf("the agent is told %v", err)
		}
		if reason := (<-server.peers).ended(t); !strings.Contains(reason.Error(), "a defect with a secret") {
			t.Fatalf("the owner is told %v, want the defect", reason)
		}
		send(t, other, "well")
		receive(t, other)
	})
}

func TestAnOwnerMayDeclineALink(t *testing.T) {
	eachTransport(t, func(t *testing.T, transport string) {
		server := newControl(t, echo, func(s *Server) {
			s.Accept = func(l *Link) Receiver { l.Close(ErrTooBusy.WithRetryAfter(time.Minute)); return nil }
		})
		c := dial(t, server.dialer(transport))
		send(t, c, "x")
		err := endOf(t, c)
		wantCode(t, "the agent's end", err, "too_busy")
		_ = c.Close()
		if err := server.Close(within(t, 10*time.Second)); err != nil {
			t.Fatal(err)
		}
		if n := server.pending.Load(); n != 0 {
			t.Fatalf("%d links are pending, want none", n)
		}
	})
}

func TestKeysMoveOnAlongALink(t *testing.T) {
	eachTransport(t, func(t *testing.T, transport string) {
		server := newControl(t, echo, func(s *Server) { s.every = 4 })
		d := server.dialer(transport)
		d.every = 4
		c := dial(t, d)
		for i := range 30 {
			envelope := strings.Repeat("r", i*700)
			send(t, c, envelope)
			if got := receive(t, c); got != envelope {
				t.Fatalf("envelope %d came back as %d bytes", i, len(got))
			}
		}
	})
}

func TestPingsAreAnsweredLongAfterTheLastMessage(t *testing.T) {
	server := newControl(t, echo, func(s *Server) { s.WriteTimeout = 20 * time.Millisecond })
	c := dial(t, server.dialer(WebSocket))
	send(t, c, "x")
	receive(t, c)
	time.Sleep(60 * time.Millisecond) // the deadline of the last write is over
	if err := c.uplink.(*agentSocket).frame(opPing, []byte("p")); err != nil {
		t.Fatal(err)
	}
	send(t, c, "y")
	if got := receive(t, c); got != "y" {
		t.Fatalf("got %q", got)
	}
}

// Somebody who does not terminate TLS can still flip bits of it.
func TestRecordsAlteredBelowTLSAreReported(t *testing.T) {
	server := newControl(t, echo)
	var alter atomic.Bool
	address := listen(t, func(agent net.Conn) {
		to, err := net.Dial("tcp", server.address())
		if err != nil {
			return
		}
		go func() { _, _ = io.Copy(agent, to); _ = agent.Close() }()
		buffer := make([]byte, 32<<10)
		for {
			n, err := agent.Read(buffer)
			if err != nil {
				_ = to.Close()
				return
			}
			if alter.Load() {
				buffer[n-1] ^= 1
			}
			_, _ = to.Write(buffer[:n])
		}
	})
	d := server.dialer(WebSocket)
	d.Endpoint = "https://" + address
	c := dial(t, d)
	send(t, c, "x")
	receive(t, c)
	alter.Store(true)
	send(t, c, "y")
	wantCode(t, "the server's end", (<-server.peers).ended(t), "link_tampered")
	wantCode(t, "the agent's end", endOf(t, c), "link_lost")
}

func TestAFirstMessageMayTakeLongerThanAHandshake(t *testing.T) {
	eachTransport(t, func(t *testing.T, transport string) {
		server := newControl(t, func(l *Link, envelope []byte) {
			time.Sleep(1500 * time.Millisecond) // an enrolment that waits for its database
			_ = l.Send(envelope)
		}, func(s *Server) { s.HandshakeTimeout = 400 * time.Millisecond })
		c := dial(t, server.dialer(transport))
		send(t, c, "enrol")
		if got := receive(t, c); got != "enrol" {
			t.Fatalf("got %q", got)
		}
	})
}

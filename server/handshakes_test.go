package server

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// dialFrom connects from another address of this host.
func (r *running) dialFrom(t *testing.T, from string) net.Conn {
	t.Helper()
	d := net.Dialer{Timeout: 10 * time.Second, LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
	c, err := d.DialContext(t.Context(), "tcp", r.address)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// A source that shakes hands and goes away, again and again, is cut off before anything is computed for it. Whoever
// comes from elsewhere does not notice, and an agent's proof gives its address the credit back.
func TestAFloodOfHandshakesIsCutOffBySource(t *testing.T) {
	const rate, burst, flood = 3, 30, 300
	r := serve(t, "--source-handshakes", "3")
	const bad = "127.0.0.66"
	shake := func() bool {
		c := r.dialFrom(t, bad)
		defer c.Close()
		return tls.Client(c, trustless()).HandshakeContext(t.Context()) == nil
	}
	began := time.Now()
	var served atomic.Int64
	var all sync.WaitGroup
	turns := make(chan struct{}, 16)
	for range flood {
		turns <- struct{}{}
		all.Go(func() {
			defer func() { <-turns }()
			if shake() {
				served.Add(1)
			}
		})
		if res, _ := r.post(t, "SessionService/WhoAmI", r.key, "{}"); res.StatusCode != 200 {
			t.Fatalf("a caller from elsewhere got %s", res.Status)
		}
	}
	all.Wait()
	most := burst + int64(time.Since(began).Seconds()*rate) + 1
	if n := served.Load(); n < burst || n > most {
		t.Errorf("%d of %d handshakes were served, want %d to %d", n, flood, burst, most)
	}
	if cuts := r.counted(t, "loopback_http_cut_total", handshakes); int64(cuts) != flood-served.Load() {
		t.Errorf("%v cuts were counted, want %d", cuts, flood-served.Load())
	}
	for range 5 {
		r.limits.Shaken(netip.MustParseAddr(bad))
	}
	for i := range 5 {
		if !shake() {
			t.Errorf("handshake %d of 5 that were given back was cut off", i+1)
		}
	}
}

// Who connects and says nothing, or stops in the middle of a hello, is cut off after a while and keeps nobody out.
func TestHalfOpenConnectionsAreCutOff(t *testing.T) {
	if testing.Short() {
		t.Skip("takes the time that a handshake may take")
	}
	r := serve(t, "--source-connections", "40")
	var open []net.Conn
	for i := range 30 {
		c := r.dialFrom(t, "127.0.0.67")
		defer c.Close()
		if i%2 == 0 {
			if _, err := c.Write([]byte{22, 3, 1, 1, 0, 1, 0}); err != nil { // a ClientHello's beginning
				t.Fatal(err)
			}
		}
		open = append(open, c)
	}
	if res, _ := r.post(t, "SessionService/WhoAmI", r.key, "{}"); res.StatusCode != 200 {
		t.Errorf("a caller got %s", res.Status)
	}
	deadline := time.Now().Add(20 * time.Second)
	for i, c := range open {
		_ = c.SetReadDeadline(deadline)
		for {
			_, err := c.Read(make([]byte, 64)) // an alert may come first
			if errors.Is(err, os.ErrDeadlineExceeded) {
				t.Fatalf("connection %d is still open after 20 s", i)
			}
			if err != nil {
				if !errors.Is(err, io.EOF) {
					t.Logf("connection %d ended with %v", i, err)
				}
				break
			}
		}
	}
}

package server

import (
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"sync"
	"time"

	"github.com/loopbackd/loopback/server/limit"
)

// patient bounds how long a stranger may take to send a request and to take each part of its answer. A watch may be
// silent for hours: the clock runs only while something is on its way. What is cut off is counted by why.
type patient struct {
	read, write time.Duration
	cut         func(why string)
}

// Reasons for cutting a connection.
const (
	slowSender  = "slow_sender"
	slowReader  = "slow_reader"
	connections = "connections"
	handshakes  = "handshakes"
)

func (p patient) handler(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		control := http.NewResponseController(w)
		if r.Body != nil && r.Body != http.NoBody {
			// An unread rest is waited for by net/http, under the same deadline.
			_ = control.SetReadDeadline(time.Now().Add(p.read))
			// In a copy: net/http looks at its own body when it decides whether the connection can be used again.
			r = r.WithContext(r.Context())
			r.Body = &timelyBody{ReadCloser: r.Body, control: control, cut: p.cut}
		}
		out := &timelyWriter{ResponseWriter: w, control: control, patience: p.write, cut: p.cut}
		// That of the connection's last answer may be over. Until there is a part, its reader cannot be late with it: an
		// answer that takes us long to find is our doing.
		_ = control.SetWriteDeadline(time.Time{})
		next.ServeHTTP(out, r)
		out.extend() // for what net/http has still in its buffers
	})
}

// timelyBody lifts the deadline once all is read: on HTTP/1 it would end the request's context in the middle of a long
// answer.
type timelyBody struct {
	io.ReadCloser
	control *http.ResponseController
	cut     func(string)
	over    bool
}

func (b *timelyBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil && !b.over {
		b.over = true
		if errors.Is(err, os.ErrDeadlineExceeded) {
			b.cut(slowSender)
		} else {
			_ = b.control.SetReadDeadline(time.Time{})
		}
	}
	return n, err
}

type timelyWriter struct {
	http.ResponseWriter
	control  *http.ResponseController
	patience time.Duration
	cut      func(string)
	once     sync.Once
}

// partSize is what a reader has to take within its patience: one that takes less is not slow, it is stuck.
const partSize = 32 << 10

func (w *timelyWriter) extend() (now time.Time) {
	now = time.Now()
	_ = w.control.SetWriteDeadline(now.Add(w.patience))
	return now
}

func (w *timelyWriter) Write(p []byte) (int, error) {
	written := 0
	for {
		part := p[written:min(len(p), written+partSize)]
		began := w.extend()
		n, err := w.ResponseWriter.Write(part)
		written += n
		w.note(began, err)
		if err != nil || written == len(p) {
			return written, err
		}
	}
}

// Flush implements http.Flusher for those who do not look for errors.
func (w *timelyWriter) Flush() { _ = w.FlushError() }

// FlushError is what http.ResponseController calls.
func (w *timelyWriter) FlushError() error {
	began := w.extend()
	err := w.control.Flush()
	w.note(began, err)
	// Until the next part there is nothing to be late with.
	if err == nil {
		_ = w.control.SetWriteDeadline(time.Time{})
	}
	return err
}

// note counts a reader that was cut off. HTTP/2 says only that the stream is closed: the time tells why.
func (w *timelyWriter) note(began time.Time, err error) {
	if err != nil && (errors.Is(err, os.ErrDeadlineExceeded) || time.Since(began) >= w.patience) {
		w.once.Do(func() { w.cut(slowReader) })
	}
}

// Unwrap is for http.ResponseController.
func (w *timelyWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// doors counts connections by source, and has each pay for the handshake that follows. An agent's link leaves the count
// when it is taken over; the hub knows it then.
type doors struct {
	most    int
	shake   func(from netip.Addr) bool // is there credit for a handshake?
	trusted []netip.Prefix
	cut     func(why string)

	mu   sync.Mutex
	open map[netip.Prefix]int
	from map[net.Conn]netip.Prefix
}

func newDoors(most int, shake func(netip.Addr) bool, trusted []netip.Prefix, cut func(string)) *doors {
	return &doors{most: most, shake: shake, trusted: trusted, cut: cut, open: map[netip.Prefix]int{}, from: map[net.Conn]netip.Prefix{}}
}

// state is http.Server.ConnState.
func (d *doors) state(c net.Conn, s http.ConnState) {
	switch s {
	case http.StateNew:
		remote, err := netip.ParseAddrPort(c.RemoteAddr().String())
		if err != nil {
			return
		}
		for _, p := range d.trusted {
			if p.Contains(remote.Addr().Unmap()) {
				return
			}
		}
		source := limit.Source(remote.Addr())
		d.mu.Lock()
		d.open[source]++
		d.from[c] = source
		over := d.open[source] > d.most
		d.mu.Unlock()
		// What serves a connection that is closed ends by this, and says so (StateClosed).
		if over {
			d.cut(connections)
			_ = c.Close()
		} else if !d.shake(remote.Addr()) {
			d.cut(handshakes)
			_ = c.Close()
		}
	case http.StateHijacked, http.StateClosed:
		d.mu.Lock()
		if source, ok := d.from[c]; ok {
			delete(d.from, c)
			if d.open[source]--; d.open[source] == 0 {
				delete(d.open, source)
			}
		}
		d.mu.Unlock()
	}
}

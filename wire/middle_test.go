package wire

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"
)

// meddle decides what becomes of the n-th message (from 0, the handshake's) in a direction: what it returns goes on.
type meddle func(up bool, n int, message []byte) [][]byte

func pass(_ bool, _ int, m []byte) [][]byte { return [][]byte{m} }

// middle is an interceptor: it terminates TLS with a certificate that the agent trusts, reads what passes, and meddles
// with it, on both transports.
type middle struct {
	http *httptest.Server
	to   string // address of the server that it relays to
	dial func() (net.Conn, error)

	mu         sync.Mutex
	meddle     meddle
	count      map[bool]int
	transcript bytes.Buffer
	conns      map[net.Conn]bool
	headers    func(http.Header) // meddles with a poll's request headers
}

func newMiddle(t testing.TB, to *control, m meddle) *middle {
	t.Helper()
	x := &middle{to: to.address(), meddle: m, count: map[bool]int{}, conns: map[net.Conn]bool{}}
	x.dial = func() (net.Conn, error) {
		return tls.Dial("tcp", x.to, &tls.Config{RootCAs: to.roots(), ServerName: "example.com", NextProtos: []string{"http/1.1"}})
	}
	x.http = httptest.NewUnstartedServer(http.HandlerFunc(x.serve))
	x.http.Config.ErrorLog = discardLog
	x.http.StartTLS()
	t.Cleanup(func() {
		x.cut()
		x.http.CloseClientConnections()
		x.http.Close()
	})
	return x
}

// dialer is the server's dialer led astray: it connects to the interceptor and trusts its certificate.
func (x *middle) dialer(server *control, transport string) Dialer {
	d := server.dialer(transport)
	d.Endpoint = x.http.URL
	d.TLS.RootCAs.AddCert(x.http.Certificate())
	return d
}

func (x *middle) serve(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Upgrade") != "" {
		x.socket(w, r)
		return
	}
	x.poll(w, r)
}

func (x *middle) record(b []byte) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.transcript.Write(b)
}

func (x *middle) saw(secret string) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	return bytes.Contains(x.transcript.Bytes(), []byte(secret))
}

// touch asks meddle about the next message in a direction.
func (x *middle) touch(up bool, message []byte) [][]byte {
	x.record(message)
	x.mu.Lock()
	defer x.mu.Unlock()
	n := x.count[up]
	x.count[up]++
	return x.meddle(up, n, bytes.Clone(message))
}

func (x *middle) keep(c net.Conn) {
	x.mu.Lock()
	x.conns[c] = true
	x.mu.Unlock()
}

// cut ends every connection.
func (x *middle) cut() {
	x.mu.Lock()
	defer x.mu.Unlock()
	for c := range x.conns {
		_ = c.Close()
	}
}

func (x *middle) socket(w http.ResponseWriter, r *http.Request) {
	server, err := x.dial()
	if err != nil {
		w.WriteHeader(http.StatusBadGateway)
		return
	}
	x.keep(server)
	defer server.Close()
	agent, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	x.keep(agent)
	defer agent.Close()
	r.URL.Scheme, r.URL.Host, r.RequestURI = "https", x.to, ""
	_ = r.Write(server)
	fromServer, fromAgent := bufio.NewReader(server), bufio.NewReader(agent)
	answer, err := http.ReadResponse(fromServer, r)
	if err != nil {
		return
	}
	_ = answer.Write(agent)
	done := make(chan struct{}, 2)
	go func() { x.frames(true, fromAgent, server); done <- struct{}{} }()
	go func() { x.frames(false, fromServer, agent); done <- struct{}{} }()
	<-done
	_ = server.SetReadDeadline(time.Now().Add(time.Second))
	_ = agent.SetReadDeadline(time.Now().Add(time.Second))
	<-done
}

// frames relays WebSocket frames in one direction, messages by way of meddle.
func (x *middle) frames(up bool, from *bufio.Reader, to net.Conn) {
	for {
		opcode, payload, err := readAnyFrame(from)
		if err != nil {
			if half, ok := to.(*tls.Conn); ok {
				_ = half.CloseWrite()
			}
			return
		}
		out := [][]byte{payload}
		if opcode == opBinary {
			out = x.touch(up, payload)
		}
		for _, m := range out {
			if _, err := to.Write(anyFrame(up, 0x80|opcode, m)); err != nil {
				return
			}
		}
	}
}

func readAnyFrame(r *bufio.Reader) (byte, []byte, error) {
	var b [8]byte
	if _, err := io.ReadFull(r, b[:2]); err != nil {
		return 0, nil, err
	}
	opcode, masked, n := b[0]&0x0f, b[1]&0x80 != 0, uint64(b[1]&0x7f)
	switch n {
	case 126:
		_, _ = io.ReadFull(r, b[:2])
		n = uint64(binary.BigEndian.Uint16(b[:]))
	case 127:
		_, _ = io.ReadFull(r, b[:8])
		n = binary.BigEndian.Uint64(b[:])
	}
	var key [4]byte
	if masked {
		_, _ = io.ReadFull(r, key[:])
	}
	payload := make([]byte, n)
	if _, err := io.ReadFull(r, payload); err != nil {
		return 0, nil, err
	}
	for i := range payload {
		payload[i] ^= key[i%4]
	}
	return opcode, payload, nil
}

// anyFrame writes a frame with the given first byte.
func anyFrame(masked bool, first byte, payload []byte) []byte {
	if masked {
		b := appendFrame(nil, 0, payload)
		b[0] = first
		return b
	}
	b := []byte{first}
	switch n := len(payload); {
	case n < 126:
		b = append(b, byte(n))
	case n <= 0xffff:
		b = binary.BigEndian.AppendUint16(append(b, 126), uint16(n))
	default:
		b = binary.BigEndian.AppendUint64(append(b, 127), uint64(n))
	}
	return append(b, payload...)
}

func (x *middle) poll(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	server, err := x.dial()
	if err != nil {
		w.WriteHeader(http.StatusBadGateway)
		return
	}
	x.keep(server)
	defer server.Close()
	stop := make(chan struct{})
	defer close(stop)
	go func() {
		select {
		case <-r.Context().Done():
			_ = server.Close()
		case <-stop:
		}
	}()
	request, _ := http.NewRequest(r.Method, "https://"+x.to+r.URL.Path, bytes.NewReader(x.body(true, body)))
	request.Header = r.Header.Clone()
	x.mu.Lock()
	headers := x.headers
	x.mu.Unlock()
	if headers != nil {
		headers(request.Header)
	}
	if err := request.Write(server); err != nil {
		return
	}
	answer, err := http.ReadResponse(bufio.NewReader(server), request)
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	for key, values := range answer.Header {
		w.Header()[key] = values
	}
	if answer.StatusCode == http.StatusOK {
		text = x.body(false, text)
		w.Header().Del("Content-Length")
	}
	w.WriteHeader(answer.StatusCode)
	_, _ = w.Write(text)
}

// body passes a poll's messages through meddle.
func (x *middle) body(up bool, body []byte) []byte {
	var out []byte
	_ = splitBody(body, func(m []byte) bool {
		for _, m := range x.touch(up, m) {
			out = appendMessage(out, m)
		}
		return true
	})
	return out
}

package wire

import (
	"bufio"
	"context"
	"crypto/rand"
	"crypto/sha1"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/loopbackd/loopback/fault"
)

// sendTimeout is how long a control plane may take to take what an agent sends, where the caller's context allows more.
const sendTimeout = 30 * time.Second

// dialWebSocket makes a link over a WebSocket. ErrNoWebSocket means that polling may do better.
func (w way) dialWebSocket(ctx context.Context) (*Conn, error) {
	conn, err := w.connect(ctx)
	if err != nil {
		return nil, err
	}
	socket := &agentSocket{conn: conn, reader: bufio.NewReader(conn)}
	c, err := w.openSocket(ctx, socket)
	if err != nil {
		socket.cut()
		if errors.Is(ctx.Err(), context.Canceled) {
			err = ctx.Err() // a deadline that passed says less than where it did
		}
		return nil, err
	}
	return c, nil
}

func (w way) openSocket(ctx context.Context, socket *agentSocket) (*Conn, error) {
	stop := context.AfterFunc(ctx, socket.cut)
	defer stop()
	_ = socket.conn.SetDeadline(time.Now().Add(w.Timeout))
	if err := w.upgrade(socket); err != nil {
		return nil, err
	}
	_ = socket.conn.SetDeadline(time.Now().Add(w.Timeout))
	handshake, first, err := initiate()
	if err != nil {
		return nil, err
	}
	if err := socket.frame(opBinary, first); err != nil {
		return nil, withDetail(ErrNoWebSocket, "it was cut during the handshake").WithCause(err)
	}
	second, err := readSocketMessage(socket.reader, nil, socket.control)
	if errors.Is(err, errFrame) {
		return nil, ErrHandshake.WithCause(err)
	}
	if err != nil {
		return nil, withDetail(ErrNoWebSocket, "it was opened, but the handshake got no answer").WithCause(err)
	}
	s, signed, keyset, err := handshake.finish(second, w.anchors(), w.SeenKeyset, w.every)
	if err != nil {
		return nil, err
	}
	_ = socket.conn.SetDeadline(time.Time{})
	return newConn(socket, s, signed, keyset, w.fragment()), nil
}

// upgrade asks for a WebSocket.
func (w way) upgrade(socket *agentSocket) error {
	var random [16]byte
	_, _ = rand.Read(random[:])
	key := base64.StdEncoding.EncodeToString(random[:])
	request := &http.Request{Method: http.MethodGet, URL: w.url("/agent/v1/link"), Host: w.endpoint.Host, Header: http.Header{
		"User-Agent": {w.UserAgent}, "Connection": {"Upgrade"}, "Upgrade": {"websocket"},
		"Sec-Websocket-Version": {"13"}, "Sec-Websocket-Key": {key},
	}}
	if err := request.Write(socket.conn); err != nil {
		return withDetail(ErrNoWebSocket, "the connection was cut").WithCause(err)
	}
	answer, err := http.ReadResponse(socket.reader, request)
	if err != nil {
		return withDetail(ErrNoWebSocket, "the upgrade got no answer").WithCause(err)
	}
	if answer.StatusCode != http.StatusSwitchingProtocols {
		defer answer.Body.Close()
		return statusFault(ErrNoWebSocket, answer)
	}
	if answer.Header.Get("Sec-Websocket-Accept") != acceptKey(key) ||
		!strings.EqualFold(answer.Header.Get("Upgrade"), "websocket") || answer.Header.Get("Sec-Websocket-Extensions") != "" {
		return withDetail(ErrNoWebSocket, "the upgrade was answered by something that does not speak WebSocket")
	}
	return nil
}

// acceptKey is a server's answer to a client's key (RFC 6455, 4.2.2).
func acceptKey(key string) string {
	sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	return base64.StdEncoding.EncodeToString(sum[:])
}

// agentSocket is an agent's WebSocket.
type agentSocket struct {
	conn   *tls.Conn
	reader *bufio.Reader // the receiving goroutine's

	mu     sync.Mutex // guards writing
	buffer []byte
}

func (a *agentSocket) send(ctx context.Context, messages [][]byte) error {
	deadline := time.Now().Add(sendTimeout)
	if d, ok := ctx.Deadline(); ok && d.Before(deadline) {
		deadline = d
	}
	_ = a.conn.SetWriteDeadline(deadline)
	stop := context.AfterFunc(ctx, func() { _ = a.conn.SetWriteDeadline(time.Unix(1, 0)) })
	for _, m := range messages {
		if err := a.frame(opBinary, m); err != nil {
			stop()
			return err
		}
	}
	if !stop() {
		return ctx.Err() // the deadline in the past may yet be set: no later write can be relied on
	}
	return nil
}

func (a *agentSocket) frame(opcode byte, payload []byte) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.buffer = appendFrame(a.buffer[:0], opcode, payload)
	_, err := a.conn.Write(a.buffer)
	return err
}

func (a *agentSocket) receive(c *Conn) *fault.Error {
	var buffer []byte
	for {
		message, err := readSocketMessage(a.reader, buffer, a.control)
		if err != nil {
			return ending(err)
		}
		if e := c.take(message); e != nil {
			return e
		}
		buffer = message
	}
}

// control answers pings, and takes a close for the end of the connection: the peer's own word would be sealed.
func (a *agentSocket) control(opcode byte, payload []byte) error {
	switch opcode {
	case opPing:
		return a.frame(opPong, payload)
	case opClose:
		return fmt.Errorf("closed by a WebSocket frame: %w", io.EOF)
	}
	return nil
}

func (a *agentSocket) leave() {
	_ = a.conn.CloseWrite()
	_ = a.conn.SetReadDeadline(time.Now().Add(lastWords))
}

func (a *agentSocket) drain() {
	_ = a.conn.SetReadDeadline(time.Now().Add(lastWords))
	_, _ = io.Copy(io.Discard, a.conn)
}

func (a *agentSocket) cut() { _ = a.conn.NetConn().Close() }

func (*agentSocket) transport() string { return WebSocket }

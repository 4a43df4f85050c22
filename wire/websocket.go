package wire

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/lxzan/gws"

	"github.com/loopbackd/loopback/fault"
)

// lastWords is how long a link that ends may take to say so.
const lastWords = 500 * time.Millisecond

// sockets is the WebSocket door of a Server.
type sockets struct {
	server   *Server
	upgrader *gws.Upgrader
}

func newSockets(s *Server) *sockets {
	k := &sockets{server: s}
	k.upgrader = gws.NewUpgrader(k, &gws.ServerOption{
		// The TLS connection buffers already: the smallest buffer that there is only saves a read for each header.
		ReadBufferSize:      16,
		ReadMaxPayloadSize:  maxMessage,
		WriteMaxPayloadSize: maxMessage,
		ParallelGolimit:     1,
		HandshakeTimeout:    s.HandshakeTimeout,
		Logger:              quiet{},
		NewSession:          func() gws.SessionStorage { return &held{} },
		Authorize: func(r *http.Request, session gws.SessionStorage) bool {
			session.(*held).socket = r.Context().Value(held{}).(*socket)
			return true
		},
	})
	return k
}

// held is how gws gives a connection's socket back. It is no storage: nothing is asked of it but to be there.
type held struct{ socket *socket }

func (*held) Len() int                     { return 0 }
func (*held) Load(string) (any, bool)      { return nil, false }
func (*held) Delete(string)                {}
func (*held) Store(string, any)            {}
func (*held) Range(func(string, any) bool) {}

// quiet keeps the library from logging: what happens to a link is told to its Receiver.
type quiet struct{}

func (quiet) Error(...any) {}

// ServeLink upgrades a request to a WebSocket and serves the link on a goroutine of its own; it returns at once. It
// needs HTTP/1.1, which agents ask for by ALPN, also from a server that speaks HTTP/2.
func (s *Server) ServeLink(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet || r.ProtoMajor != 1 || !strings.EqualFold(r.Header.Get("Upgrade"), "websocket") {
		w.Header().Set("Upgrade", "websocket")
		w.Header().Set("Connection", "Upgrade")
		http.Error(w, "this is where agents link: a WebSocket over HTTP/1.1", http.StatusUpgradeRequired)
		return
	}
	if r.Header.Get("Sec-WebSocket-Version") != "13" || r.Header.Get("Sec-WebSocket-Key") == "" {
		w.Header().Set("Sec-WebSocket-Version", "13")
		http.Error(w, "not a WebSocket handshake of version 13", http.StatusBadRequest)
		return
	}
	link := s.open(w, remoteOf(r, s.TrustedProxies))
	if link == nil {
		return
	}
	k := &socket{link: link}
	link.carrier = k
	if err := s.sockets.upgrade(k, w, r); err != nil {
		link.finished(ErrLost.WithCause(err))
		return
	}
	if !s.stand(link) {
		link.finished(ErrStopping)
		return
	}
	go k.serve()
}

// upgrade takes the connection from net/http and answers the WebSocket handshake on it.
func (ks *sockets) upgrade(k *socket, w http.ResponseWriter, r *http.Request) error {
	connection, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		http.Error(w, "this connection cannot become a WebSocket", http.StatusInternalServerError)
		return err
	}
	k.Conn = connection
	if buffered.Reader.Buffered() > 0 {
		_ = connection.Close()
		return errors.New("the agent spoke before the upgrade")
	}
	reader := bufio.NewReaderSize(k, 16)
	request := r.WithContext(context.WithValue(r.Context(), held{}, k))
	if k.conn, err = ks.upgrader.UpgradeFromConn(k, reader, request); err != nil {
		return err
	}
	k.armRead()
	return nil
}

// socket is a link's WebSocket, the server's end. It stands between gws and the connection, to have a word before gws
// ends a connection for a deadline that passed.
type socket struct {
	net.Conn
	link  *Link
	conn  *gws.Conn
	cause *fault.Error // why reading ended
	turn  sync.Mutex   // held while a message is handled; taken by the reader, released by the hand

	armed      time.Duration // idle timeout that the read deadline was set by
	armedAt    time.Time
	writableAt time.Time // when the write deadline was set
	leaving    atomic.Bool
}

// serve reads until the connection ends. It is the one goroutine of a link and stays shallow.
func (k *socket) serve() {
	k.read()
	k.turn.Lock() // the last message may still be handled
	defer k.turn.Unlock()
	k.shut(false)
	k.link.finished(k.cause)
}

func (k *socket) read() {
	// The library slices by a frame's length before it has checked that it is not negative; a stranger can send that.
	defer func() {
		if p := recover(); p != nil {
			k.cause = ErrTampered.WithCause(fmt.Errorf("reading a WebSocket frame: %v", p))
		}
	}()
	k.conn.ReadLoop()
}

// OnOpen is part of gws.Event.
func (*sockets) OnOpen(*gws.Conn) {}

// OnClose notes why reading ended.
func (*sockets) OnClose(c *gws.Conn, err error) {
	k := c.Session().(*held).socket
	var closed *gws.CloseError
	if errors.As(err, &closed) {
		k.cause = ErrLost.WithCause(err)
		return
	}
	k.cause = ending(err)
}

// OnPing answers, as the WebSocket protocol wants it. Agents do not ping: their heartbeats are sealed.
func (*sockets) OnPing(c *gws.Conn, payload []byte) {
	k := c.Session().(*held).socket
	k.link.sending.Lock()
	defer k.link.sending.Unlock()
	k.armWrite()
	_ = c.WritePong(payload)
}

// OnPong is part of gws.Event.
func (*sockets) OnPong(*gws.Conn, []byte) {}

// OnMessage has a message handled, off the reading goroutine. It waits for its turn: messages are handled one by one, and
// a slow handler slows its sender.
func (ks *sockets) OnMessage(c *gws.Conn, message *gws.Message) {
	k := c.Session().(*held).socket
	k.turn.Lock()
	ks.server.hands.handle(task{k, message})
}

// handle is a hand's part: it has the turn.
func (k *socket) handle(message *gws.Message) {
	defer k.turn.Unlock()
	k.heard()
	if message.Opcode == gws.OpcodeBinary {
		k.link.receive(message.Bytes())
	} else {
		k.link.end(ErrTampered)
	}
	_ = message.Close()
	k.heard() // the idle timeout may be another now
}

func (k *socket) heard() {
	if !k.leaving.Load() {
		k.armRead()
	}
}

// armRead moves the read deadline on; the caller has the turn. It leaves one alone that is still good for most of the idle timeout.
func (k *socket) armRead() {
	idle, now := time.Duration(k.link.idle.Load()), time.Now()
	if idle == k.armed && (idle <= 0 || now.Sub(k.armedAt) < idle/16) {
		return
	}
	k.armed, k.armedAt = idle, now
	deadline := time.Time{}
	if idle > 0 {
		deadline = now.Add(idle)
	}
	_ = k.Conn.SetReadDeadline(deadline)
	if k.leaving.Load() {
		_ = k.Conn.SetReadDeadline(now.Add(lastWords))
	}
}

func (k *socket) write(message []byte) error {
	k.armWrite()
	return k.conn.WriteMessage(gws.OpcodeBinary, message)
}

// armWrite moves the write deadline on. The caller holds link.sending.
func (k *socket) armWrite() {
	timeout, now := k.link.server.WriteTimeout, time.Now()
	if now.Sub(k.writableAt) > timeout/8 && !k.leaving.Load() {
		k.writableAt = now
		_ = k.Conn.SetWriteDeadline(now.Add(timeout))
		if k.leaving.Load() {
			_ = k.Conn.SetWriteDeadline(now.Add(lastWords))
		}
	}
}

func (k *socket) closing() {
	if k.Conn != nil {
		k.leaving.Store(true)
		_ = k.Conn.SetWriteDeadline(time.Now().Add(lastWords))
	}
}

// shut ends the connection. In order, it says so and leaves the reader to wait for the peer's end, because closing on
// unread bytes would make the kernel throw the last words away.
func (k *socket) shut(orderly bool) {
	if k.Conn == nil {
		return
	}
	if orderly {
		_ = k.conn.WriteMessage(gws.OpcodeCloseConnection, []byte{1000 >> 8, 1000 & 0xff})
		if half, ok := k.Conn.(interface{ CloseWrite() error }); ok && half.CloseWrite() == nil {
			_ = k.Conn.SetReadDeadline(time.Now().Add(lastWords))
			return
		}
	}
	_ = k.Close()
}

// Read is the connection's, and tells a silent peer why it is left.
func (k *socket) Read(b []byte) (int, error) {
	n, err := k.Conn.Read(b)
	if err != nil && errors.Is(err, os.ErrDeadlineExceeded) {
		k.link.end(ErrIdle)
	}
	return n, err
}

// Write is the connection's, and notes a peer that takes nothing.
func (k *socket) Write(b []byte) (int, error) {
	n, err := k.Conn.Write(b)
	if err != nil && errors.Is(err, os.ErrDeadlineExceeded) {
		k.link.ended.CompareAndSwap(nil, ErrSlow)
	}
	return n, err
}

// Close does without TLS's goodbye, which waits for a deaf peer; ours is sealed and was said.
func (k *socket) Close() error {
	if sealed, ok := k.Conn.(*tls.Conn); ok {
		return sealed.NetConn().Close()
	}
	return k.Conn.Close()
}

func (*socket) transport() string { return WebSocket }

package cli

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"time"

	"github.com/lxzan/gws"

	"github.com/loopbackd/loopback/access"
	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/recording"
	"github.com/loopbackd/loopback/shell"
	"github.com/loopbackd/loopback/wire"
)

// sessionConn is one connection to a session.
type sessionConn struct {
	gws.BuiltinEventHandler
	conn *gws.Conn
	came chan []byte
	over chan struct{}
	once sync.Once
	err  error // why it is over; set before over is closed
}

// session connects to a session.
func (c *api) session(ctx context.Context, session, mode string, pos int64, origin uint64, again string) (*sessionConn, error) {
	u, err := url.Parse(c.URL)
	if err != nil {
		return nil, err
	}
	u.Scheme = "wss"
	u = u.JoinPath("shell/v1", session)
	q := url.Values{"mode": {mode}, "pos": {strconv.FormatInt(pos, 10)}, "origin": {strconv.FormatUint(origin, 10)}}
	if again != "" {
		q.Set("again", again)
	}
	u.RawQuery = q.Encode()
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	lost := fault.New(fault.Unavailable, "connect_failed", "the control plane cannot be reached at %s", c.URL)
	// As calls go: by the proxy where there is one, which gws does not know of.
	way := c.http.Transport.(*http.Transport)
	secured, err := wire.Dialer{Endpoint: c.URL, TLS: way.TLSClientConfig, Proxy: way.Proxy, UserAgent: c.caller.agent, Connect: (&net.Dialer{KeepAlive: 10 * time.Second}).DialContext}.Open(ctx)
	if err != nil {
		f := fault.Of(err)
		return nil, fault.New(fault.Unavailable, f.Code, "%s: %s", lost.Message, f.Message).WithHint("%s", f.Hint).WithCause(err)
	}
	header := http.Header{"Authorization": {"Bearer " + c.APIKey}, "User-Agent": {c.caller.agent}}
	for name, text := range map[string]string{access.ReasonHeader: c.caller.reason, access.TicketHeader: c.caller.ticket} {
		if text != "" {
			header.Set(name, url.PathEscape(text))
		}
	}
	k := &sessionConn{came: make(chan []byte, 16), over: make(chan struct{})}
	conn, answer, err := gws.NewClientFromConn(k, &gws.ClientOption{
		Addr: u.String(), RequestHeader: header, HandshakeTimeout: 10 * time.Second, ReadMaxPayloadSize: 256 << 10, Logger: unsaid{},
	}, secured)
	if err != nil {
		if answer == nil || answer.StatusCode == http.StatusSwitchingProtocols {
			return nil, lost.WithCause(err)
		}
		body, _ := io.ReadAll(io.LimitReader(answer.Body, 4<<10)) // as much as came
		if f := shell.DecodeOver(body); f.Code != "session_lost" {
			return nil, f
		}
		return nil, fault.New(fault.Unavailable, "http_status", "what answers at %s does not know of sessions (status %d)", c.URL, answer.StatusCode)
	}
	k.conn = conn
	_ = conn.SetReadDeadline(time.Now().Add(silence))
	go conn.ReadLoop()
	go k.ping()
	return k, nil
}

type unsaid struct{}

func (unsaid) Error(...any) {}

func (k *sessionConn) end(err error) {
	k.once.Do(func() {
		k.err = err
		close(k.over)
	})
}

func (k *sessionConn) close() {
	k.end(errors.New("closed"))
	_ = k.conn.NetConn().Close()
}

func (k *sessionConn) ping() {
	ticks := time.NewTicker(pingEvery)
	defer ticks.Stop()
	for {
		select {
		case <-ticks.C:
			if k.conn.WritePing(nil) != nil {
				return
			}
		case <-k.over:
			return
		}
	}
}

// OnClose implements gws.Event.
func (k *sessionConn) OnClose(_ *gws.Conn, err error) { k.end(err) }

// OnPong implements gws.Event.
func (k *sessionConn) OnPong(conn *gws.Conn, _ []byte) {
	_ = conn.SetReadDeadline(time.Now().Add(silence))
}

// OnMessage implements gws.Event.
func (k *sessionConn) OnMessage(conn *gws.Conn, m *gws.Message) {
	defer m.Close()
	_ = conn.SetReadDeadline(time.Now().Add(silence))
	select {
	case k.came <- append([]byte(nil), m.Bytes()...):
	case <-k.over:
	}
}

// next is the next message.
func (k *sessionConn) next() (shell.Shown, uint64, []byte, error) {
	var b []byte
	select {
	case b = <-k.came:
	case <-k.over:
		select {
		case b = <-k.came: // what came before the end
		default:
			return 0, 0, nil, fault.New(fault.Unavailable, "session_lost", "the connection to the session ended").WithCause(k.err)
		}
	}
	if len(b) < 9 {
		return 0, 0, nil, fault.New(fault.Unavailable, "session_malformed", "what the control plane sends cannot be read")
	}
	return shell.Shown(b[0]), binary.BigEndian.Uint64(b[1:]), b[9:], nil
}

// tell sends a message.
func (k *sessionConn) tell(kind shell.Told, number uint64, body []byte) error {
	b := append(binary.BigEndian.AppendUint64([]byte{byte(kind)}, number), body...)
	_ = k.conn.SetWriteDeadline(time.Now().Add(silence))
	if err := k.conn.WriteMessage(gws.OpcodeBinary, b); err != nil {
		k.end(err)
		return fault.New(fault.Unavailable, "session_lost", "the connection to the session ended").WithCause(err)
	}
	return nil
}

func ending(b []byte) *recording.Ending {
	out := &recording.Ending{}
	_ = json.Unmarshal(b, out) // what cannot be read says nothing
	return out
}

// exitStatus ends the command as the shell ended.
type exitStatus int

func (e exitStatus) Error() string { return fmt.Sprintf("the shell ended with status %d", int(e)) }

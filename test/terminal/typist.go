package terminal

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/lxzan/gws"

	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/recording"
	"github.com/loopbackd/loopback/shell"
)

// Way is how a typist gets to a control plane.
type Way struct {
	URL    string
	TLS    *tls.Config
	Key    string // an API key, or a sign-in's credential
	Header http.Header
	Dial   func(ctx context.Context, network, address string) (net.Conn, error) // nil: as it is
}

// Typist takes part in a session, over as many connections as it takes.
type Typist struct {
	gws.BuiltinEventHandler
	way     Way
	session string
	mode    string
	origin  uint64

	mu      sync.Mutex
	conn    *gws.Conn
	pos     int64
	base    uint64 // bytes that were confirmed
	typed   []byte // and those that were not
	seen    []byte
	marks   []string
	exit    *recording.Ending
	over    *fault.Error
	lost    bool
	started int // connections that were welcomed
	stir    chan struct{}
	proof   string // what the typist goes on with after a cut, in place of a passkey
	hello   shell.Hello
	size    string // of the terminal, as it was shown last

	// Shown, where it is set, is called with what the terminal shows, instead of keeping it.
	Shown func(b []byte)
	// Deaf typists read nothing.
	Deaf bool
}

// Guest is the mode of one who watches by a guest's link; Way.Key is its string, shown as a browser shows it.
const Guest = "guest"

// New makes a typist who has not connected yet. mode is own, join, watch or Guest.
func New(way Way, session, mode string) *Typist {
	var random [8]byte
	_, _ = rand.Read(random[:]) // never fails
	return &Typist{way: way, session: session, mode: mode, origin: binary.BigEndian.Uint64(random[:]) | 1, stir: make(chan struct{})}
}

// Connect connects, once. A refusal is a *fault.Error with the control plane's code.
func (t *Typist) Connect(ctx context.Context) error {
	u, err := url.Parse(t.way.URL)
	if err != nil {
		return err
	}
	t.mu.Lock()
	q := url.Values{"mode": {t.mode}, "pos": {strconv.FormatInt(t.pos, 10)}, "origin": {strconv.FormatUint(t.origin, 10)}}
	if t.proof != "" {
		q.Set("again", t.proof)
	}
	t.mu.Unlock()
	dial := t.way.Dial
	if dial == nil {
		dial = (&net.Dialer{}).DialContext
	}
	raw, err := dial(ctx, "tcp", u.Host)
	if err != nil {
		return fault.New(fault.Unavailable, "connect_failed", "it cannot be reached").WithCause(err)
	}
	config := t.way.TLS.Clone()
	config.ServerName, config.NextProtos = u.Hostname(), []string{"http/1.1"}
	sealed := tls.Client(raw, config)
	if err := sealed.HandshakeContext(ctx); err != nil {
		_ = raw.Close()
		return fault.New(fault.Unavailable, "connect_failed", "it cannot be reached").WithCause(err)
	}
	header, path := http.Header{"Authorization": {"Bearer " + t.way.Key}}, "/shell/v1/"
	if t.mode == Guest {
		header, path = http.Header{"Sec-WebSocket-Protocol": {shell.GuestProtocol + ", " + t.way.Key}}, "/guest/v1/"
	}
	for name, values := range t.way.Header {
		header[name] = values
	}
	conn, answer, err := gws.NewClientFromConn(t, &gws.ClientOption{Addr: "wss://" + u.Host + path + t.session + "?" + q.Encode(), RequestHeader: header,
		ReadMaxPayloadSize: 256 << 10, Logger: silent{}}, sealed)
	if err != nil {
		if answer == nil {
			return fault.New(fault.Unavailable, "connect_failed", "it ended").WithCause(err)
		}
		b, _ := io.ReadAll(io.LimitReader(answer.Body, 4<<10))
		return shell.DecodeOver(b)
	}
	t.mu.Lock()
	t.conn, t.lost = conn, false
	again, base := append([]byte(nil), t.typed...), t.base
	t.mu.Unlock()
	for len(again) > 0 {
		n := min(len(again), shell.MaxInput)
		t.tell(conn, shell.TellTyped, base, again[:n])
		again, base = again[n:], base+uint64(n)
	}
	if !t.Deaf {
		go conn.ReadLoop()
	}
	return nil
}

type silent struct{}

func (silent) Error(...any) {}

// Keep connects, and does so again whenever the connection is lost, until the session is over or ctx ends.
func (t *Typist) Keep(ctx context.Context) error {
	for {
		err := t.Connect(ctx)
		if err == nil {
			err = t.Wait(ctx, func() bool { return t.lost })
		}
		t.mu.Lock()
		over := t.over
		t.mu.Unlock()
		f := fault.Of(err)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case over != nil && over.Kind != fault.Unavailable && over.Kind != fault.Timeout:
			return over
		case err != nil && f.Kind != fault.Unavailable && f.Kind != fault.Timeout && f.Kind != fault.Exhausted:
			return err
		}
		again := time.NewTimer(20 * time.Millisecond)
		select {
		case <-again.C:
		case <-ctx.Done():
		}
		again.Stop()
	}
}

func (t *Typist) tell(conn *gws.Conn, kind shell.Told, number uint64, body []byte) {
	if conn != nil {
		_ = conn.WriteMessage(gws.OpcodeBinary, append(binary.BigEndian.AppendUint64([]byte{byte(kind)}, number), body...)) // who is gone is told again
	}
}

// Type types, and keeps it until it is confirmed.
func (t *Typist) Type(text string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for len(text) > 0 {
		n := min(len(text), shell.MaxInput)
		at := t.base + uint64(len(t.typed))
		t.typed = append(t.typed, text[:n]...)
		t.tell(t.conn, shell.TellTyped, at, []byte(text[:n]))
		text = text[n:]
	}
}

// From says where what is shown is to begin, for who has not connected yet; -1: near the end.
func (t *Typist) From(pos int64) { t.pos = pos }

// Resize says how large the terminal is.
func (t *Typist) Resize(cols, rows int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.tell(t.conn, shell.TellSize, 0, recording.Size(cols, rows))
}

// Ping says that the typist is there.
func (t *Typist) Ping() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.conn != nil {
		_ = t.conn.WritePing(nil)
	}
}

// Kill ends the session, for who opened it.
func (t *Typist) Kill() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.tell(t.conn, shell.TellKill, 0, nil)
}

// Proof is what the typist goes on with after a cut, in place of a passkey.
func (t *Typist) Proof() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.proof
}

// Steal has the typist show somebody else's proof.
func (t *Typist) Steal(proof string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.proof = proof
}

// Cut ends the connection without a word.
func (t *Typist) Cut() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.conn != nil {
		_ = t.conn.NetConn().Close()
	}
}

// OnMessage implements gws.Event.
func (t *Typist) OnMessage(conn *gws.Conn, m *gws.Message) {
	defer m.Close()
	b := m.Bytes()
	if len(b) < 9 {
		return
	}
	number, body := binary.BigEndian.Uint64(b[1:]), b[9:]
	t.mu.Lock()
	if conn != t.conn {
		t.mu.Unlock()
		return
	}
	switch shell.Shown(b[0]) {
	case shell.ShowHello:
		t.started++
		_ = json.Unmarshal(body, &t.hello) // what cannot be read is found missing
	case shell.ShowEvents:
		t.show(body)
		t.pos = int64(number)
		t.tell(conn, shell.TellShown, number, nil)
	case shell.ShowApplied:
		if number > t.base {
			t.typed = t.typed[min(uint64(len(t.typed)), number-t.base):]
			t.base = number
		}
	case shell.ShowAgain:
		t.proof = string(body)
	case shell.ShowOver:
		t.over = shell.DecodeOver(body)
	}
	t.stirred()
	t.mu.Unlock()
}

func (t *Typist) show(frames []byte) {
	for len(frames) > 0 {
		e, n, err := recording.ParseFrame(frames)
		if err != nil || n == 0 {
			t.over = fault.New(fault.Internal, "malformed", "what came cannot be read")
			return
		}
		frames = frames[n:]
		switch e.Kind {
		case recording.Output:
			if t.Shown != nil {
				t.Shown(e.Data)
			} else {
				t.seen = append(t.seen, e.Data...)
			}
		case recording.Resize:
			t.size = string(e.Data)
		case recording.Marker:
			t.marks = append(t.marks, string(e.Data))
		case recording.Exit:
			t.exit = new(recording.Ending)
			_ = json.Unmarshal(e.Data, t.exit)
		}
	}
}

// stirred wakes who waits. mu is held.
func (t *Typist) stirred() {
	close(t.stir)
	t.stir = make(chan struct{})
}

// OnClose implements gws.Event.
func (t *Typist) OnClose(conn *gws.Conn, _ error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if conn == t.conn {
		t.conn, t.lost = nil, true
		t.stirred()
	}
}

// Wait waits until something is so; it is asked with the typist locked.
func (t *Typist) Wait(ctx context.Context, so func() bool) error {
	for {
		t.mu.Lock()
		ok, stir := so(), t.stir
		t.mu.Unlock()
		if ok {
			return nil
		}
		select {
		case <-stir:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// AwaitLost waits until there is no connection.
func (t *Typist) AwaitLost(ctx context.Context) error {
	return t.Wait(ctx, func() bool { return t.lost })
}

// Await waits until something was shown.
func (t *Typist) Await(ctx context.Context, what string) error {
	from := 0 // before it there is none
	err := t.Wait(ctx, func() bool {
		found := bytes.Contains(t.seen[from:], []byte(what))
		if !found {
			from = max(0, len(t.seen)-len(what))
		}
		return found || t.over != nil && t.over.Kind != fault.Unavailable
	})
	seen := t.Seen()
	if err == nil && !strings.Contains(seen, what) {
		err = errors.New("the session is over")
	}
	if err != nil {
		return fmt.Errorf("%q was not shown: %w; shown was %q", what, err, seen[max(0, len(seen)-1000):])
	}
	return nil
}

// Seen is what the terminal has shown.
func (t *Typist) Seen() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(t.seen)
}

// Marks are the lines about the session that were shown.
func (t *Typist) Marks() []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return append([]string(nil), t.marks...)
}

// AwaitMark waits until a line about the session was shown.
func (t *Typist) AwaitMark(ctx context.Context, what string) error {
	if err := t.Wait(ctx, func() bool { return slices.Contains(t.marks, what) }); err != nil {
		return fmt.Errorf("%q was not said: %w; said was %q", what, err, t.Marks())
	}
	return nil
}

// Over is why it is over, and how the shell ended; nil while it is not known.
func (t *Typist) Over() (*fault.Error, *recording.Ending) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.over, t.exit
}

// Hello is what the control plane said first.
func (t *Typist) Hello() shell.Hello {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.hello
}

// Size is the terminal's, "COLSxROWS", as it was shown last.
func (t *Typist) Size() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.size
}

// Connections is how many were welcomed.
func (t *Typist) Connections() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.started
}

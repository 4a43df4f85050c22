package rpc

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"connectrpc.com/connect"
	"github.com/lxzan/gws"

	"github.com/loopbackd/loopback/access"
	"github.com/loopbackd/loopback/api/loopback/v1/loopbackv1connect"
	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/guest"
	"github.com/loopbackd/loopback/recording"
	"github.com/loopbackd/loopback/server/limit"
	"github.com/loopbackd/loopback/server/shell"
	noun "github.com/loopbackd/loopback/shell"
)

// Peers reach the shells that another replica has. Nil: there is none, or it was another that asked.
type Peers interface {
	// Terminal hands a request to the Terminal of a replica, in the name of who asks; false where that cannot be reached.
	Terminal(w http.ResponseWriter, r *http.Request, replica string) bool
	// Shells is its service; nil where it cannot be reached. from is who asks.
	Shells(replica string, from netip.Addr) loopbackv1connect.ShellServiceClient
}

// Terminal is the WebSocket at /shell/v1/{session}. See package shell for what travels there (shell.Shown and its kin).
func Terminal(shells Shells, o Options) http.Handler {
	if o.Observe == nil {
		o.Observe = func(Call) {}
	}
	if o.Limits == nil {
		o.Limits = limit.New(limit.Options{})
	}
	e := &edge{authenticate: shells.Authenticate, options: o, permissions: permissionsByProcedure()}
	t := &terminals{edge: e, shells: shells}
	return e.identify(http.HandlerFunc(t.serve))
}

type terminals struct {
	edge   *edge
	shells Shells
}

// modes are what the ways to take part need: the procedure by whose permission callers are let in.
var modes = map[shell.Mode]string{
	shell.Owning:   loopbackv1connect.ShellServiceOpenShellProcedure,
	shell.Joining:  loopbackv1connect.ShellServiceJoinShellSessionProcedure,
	shell.Watching: loopbackv1connect.ShellServiceWatchShellSessionProcedure,
}

// errUpgrade answers who asks why not, where nothing is in the way.
var errUpgrade = fault.New(fault.Precondition, "upgrade_required", "a session is taken part in by a WebSocket")

func (t *terminals) serve(w http.ResponseWriter, r *http.Request) {
	if err := t.take(w, r); err != nil {
		whyNot(w, err)
	}
}

// whyNot is the answer to who does not get a WebSocket.
func whyNot(w http.ResponseWriter, err error) {
	f := fault.Of(err)
	status := map[fault.Kind]int{fault.Invalid: 400, fault.Unauthenticated: 401, fault.Denied: 403, fault.NotFound: 404, fault.Precondition: 409,
		fault.Conflict: 409, fault.Exhausted: 429, fault.Unavailable: 503}[f.Kind]
	switch {
	case errors.Is(err, errUpgrade):
		status = http.StatusUpgradeRequired
		w.Header().Set("Upgrade", "websocket")
	case status == 0:
		status = http.StatusInternalServerError
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(noun.EncodeOver(f))
}

// take lets a caller in who may take part, and carries them until they leave. An error is one from before the WebSocket.
func (t *terminals) take(w http.ResponseWriter, r *http.Request) error {
	q := r.URL.Query()
	mode := shell.Mode(q.Get("mode"))
	procedure, ok := modes[mode]
	if !ok {
		return fault.New(fault.Invalid, "mode_unknown", "nobody takes part in a session as %q", string(mode)).WithHint("use own, join or watch")
	}
	if !sameOrigin(r) {
		return fault.New(fault.Denied, "cross_site", "this request comes from another site")
	}
	upgrade := upgrades(r)
	spec := connect.Spec{Procedure: procedure, StreamType: connect.StreamTypeBidi}
	actor, err := t.edge.who(r.Context(), spec, r.Header)
	// Who was here a moment ago has shown a passkey then, and is not asked again when the network comes back.
	stale := errors.Is(err, access.ErrStepUp) && mode != shell.Watching
	if err != nil && !stale {
		return err
	}
	ctx := access.WithActor(r.Context(), actor)
	done, err := t.edge.options.Limits.Begin(ctx, string(actor.Kind)+" "+actor.ID, upgrade)
	if err != nil {
		return err
	}
	defer done()
	pos, err := strconv.ParseInt(q.Get("pos"), 10, 64)
	if err != nil {
		pos = 0
		if mode != shell.Owning {
			pos = -1
		}
	}
	origin, _ := strconv.ParseUint(q.Get("origin"), 10, 64) // one that is not there is 0
	taking := shell.Taking{Session: r.PathValue("session"), Mode: mode, Pos: pos, Origin: origin, Again: t.shells.again(ctx, r.Header), Stale: stale, Proof: q.Get("again")}
	if err := t.shells.Service.MayTake(ctx, taking); err != nil {
		return t.pass(ctx, w, r, err)
	}
	if !upgrade {
		return errUpgrade
	}
	v, err := t.shells.Service.Take(ctx, taking)
	if err != nil {
		return err
	}
	defer v.Close()
	ctx, end := t.edge.untilStopping(ctx)
	defer end()
	ctx, end = t.edge.untilRefused(ctx, spec, r.Header)
	defer end()
	until := ctx
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	session := v.Session()
	h := &terminal{viewer: v, until: until, ctx: ctx, cancel: cancel, acked: make(chan struct{}, 1), hello: noun.Hello{Session: session.ID, Host: session.HostName, User: session.User, Who: session.Who}}
	h.carry(w, r, gws.ServerOption{ReadMaxPayloadSize: noun.MaxInput + 64})
	return nil
}

// carry makes the WebSocket and returns when it is over.
func (t *terminal) carry(w http.ResponseWriter, r *http.Request, o gws.ServerOption) {
	o.ParallelGolimit, o.Logger, o.ReadBufferSize, o.WriteBufferSize = 1, silent{}, 1024, 1024
	conn, err := gws.NewUpgrader(t, &o).Upgrade(w, r)
	if err != nil {
		return // the library has answered
	}
	t.gone = make(chan struct{})
	go func() {
		defer close(t.gone)
		defer t.cancel(nil)
		conn.ReadLoop()
	}()
	if t.guest { // one who takes nothing is not waited for either
		defer context.AfterFunc(t.ctx, func() { _ = conn.SetWriteDeadline(time.Now().Add(terminalBye)) })()
	}
	t.show(conn)
}

// pass hands the request to the replica that has the session, where that is why it cannot be served here.
func (t *terminals) pass(ctx context.Context, w http.ResponseWriter, r *http.Request, err error) error {
	var there *shell.Elsewhere
	if t.shells.Peers == nil || !errors.As(err, &there) {
		return err
	}
	ctx, end := t.edge.untilStopping(ctx)
	defer end()
	if t.shells.Peers.Terminal(w, r.WithContext(ctx), there.Replica) {
		return nil
	}
	return err
}

// upgrades tells whether a request asks for a WebSocket (RFC 6455, 4.2.1), as it must before anybody takes part by it.
func upgrades(r *http.Request) bool {
	return r.Method == http.MethodGet && headerHas(r.Header, "Connection", "upgrade") && headerHas(r.Header, "Upgrade", "websocket") &&
		r.Header.Get("Sec-WebSocket-Version") == "13" && r.Header.Get("Sec-WebSocket-Key") != ""
}

func headerHas(h http.Header, name, token string) bool {
	for _, value := range h.Values(name) {
		for one := range strings.SplitSeq(value, ",") {
			if strings.EqualFold(strings.TrimSpace(one), token) {
				return true
			}
		}
	}
	return false
}

// sameOrigin keeps pages of others from opening a WebSocket with a browser's cookie. Programs send no Origin.
func sameOrigin(r *http.Request) bool {
	origin := r.Header.Get("Origin")
	return origin == "" || origin == "https://"+r.Host
}

type silent struct{}

func (silent) Error(...any) {}

// terminal is one WebSocket.
type terminal struct {
	gws.BuiltinEventHandler
	viewer *shell.Viewer
	hello  noun.Hello
	guest  bool // may say what was shown, and nothing else
	ctx    context.Context
	cancel context.CancelCauseFunc
	until  context.Context // of which ctx is part: over when the control plane or somebody's right is
	gone   chan struct{}   // closed when the connection is
	acked  chan struct{}   // holds one when the caller has shown more
}

// Patience with a caller.
const (
	terminalSilence = 30 * time.Second // a caller says something (a ping) at least this often
	terminalWrite   = 20 * time.Second // for a caller to take what is sent
	terminalBye     = 2 * time.Second  // for who may see no more to take why
	terminalCredit  = 256 << 10        // bytes that a caller is sent beyond what they have shown
)

// show sends what is shown, until the session is over or the caller gone.
func (t *terminal) show(conn *gws.Conn) {
	defer func() { _ = conn.NetConn().Close() }()
	first, err := json.Marshal(t.hello)
	if err != nil {
		return
	}
	var message []byte
	send := func(kind noun.Shown, number uint64, body []byte) bool {
		patience := terminalWrite
		if kind == noun.ShowOver && t.guest {
			patience = terminalBye
		}
		_ = conn.SetWriteDeadline(time.Now().Add(patience))
		message = append(message[:0], byte(kind))
		message = binary.BigEndian.AppendUint64(message, number)
		return conn.WriteMessage(gws.OpcodeBinary, append(message, body...)) == nil
	}
	// Whoever is told why it is over closes, or has had their time. Closing first, upon what they say meanwhile, would have the kernel
	// throw away what is on its way to them: the end of what was shown.
	bye := func(why error) {
		patience, over := terminalWrite, t.until.Done()
		if t.guest || t.until.Err() != nil {
			patience, over = terminalBye, nil
		}
		t.cancel(why) // the cause, whoever closes first
		if !send(noun.ShowOver, 0, noun.EncodeOver(fault.Of(why))) || conn.WriteMessage(gws.OpcodeCloseConnection, []byte{1000 >> 8, 1000 & 0xff}) != nil {
			return
		}
		enough := time.NewTimer(patience)
		defer enough.Stop()
		select {
		case <-t.gone:
		case <-enough.C:
		case <-over:
		}
	}
	_ = conn.SetReadDeadline(time.Now().Add(terminalSilence))
	if !send(noun.ShowHello, 0, first) {
		return
	}
	var told uint64
	t.renew(conn)
	for {
		frames, pos, applied, err := t.viewer.Next(t.ctx)
		if err != nil {
			if cause := context.Cause(t.ctx); cause != nil {
				err = stopped(t.ctx, cause)
			}
			bye(err)
			return
		}
		if len(frames) > 0 && !send(noun.ShowEvents, uint64(pos), frames) {
			return
		}
		if applied != told {
			if told = applied; !send(noun.ShowApplied, applied, nil) {
				return
			}
		}
		for t.viewer.Behind(pos) > terminalCredit {
			select {
			case <-t.acked:
			case <-t.ctx.Done():
				bye(stopped(t.ctx, context.Cause(t.ctx)))
				return
			}
		}
	}
}

// renew gives the caller what they go on with after a cut, where it is time to.
func (t *terminal) renew(conn *gws.Conn) {
	if again := t.viewer.Again(); again != "" {
		_ = conn.SetWriteDeadline(time.Now().Add(terminalWrite))
		_ = conn.WriteMessage(gws.OpcodeBinary, append(binary.BigEndian.AppendUint64([]byte{byte(noun.ShowAgain)}, 0), again...)) // show sees that the connection is gone
	}
}

// OnPing implements gws.Event.
func (t *terminal) OnPing(conn *gws.Conn, payload []byte) {
	_ = conn.SetReadDeadline(time.Now().Add(terminalSilence))
	_ = conn.WritePong(payload)
	t.renew(conn)
}

// OnMessage implements gws.Event.
func (t *terminal) OnMessage(conn *gws.Conn, m *gws.Message) {
	defer m.Close()
	_ = conn.SetReadDeadline(time.Now().Add(terminalSilence))
	t.renew(conn)
	b := m.Bytes()
	if len(b) < 9 {
		t.cancel(nil)
		return
	}
	number, body := binary.BigEndian.Uint64(b[1:]), b[9:]
	if t.guest && noun.Told(b[0]) != noun.TellShown {
		t.cancel(guest.ErrActs)
		return
	}
	switch noun.Told(b[0]) {
	case noun.TellTyped:
		if err := t.viewer.Type(t.ctx, number, body); err != nil {
			t.cancel(nil)
		}
	case noun.TellSize:
		if cols, rows, ok := recording.ParseSize(body); ok {
			t.viewer.Resize(cols, rows)
		}
	case noun.TellShown:
		t.viewer.Took(int64(number))
		select {
		case t.acked <- struct{}{}:
		default:
		}
	case noun.TellKill:
		t.viewer.Kill()
	}
}

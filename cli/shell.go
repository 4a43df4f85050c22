package cli

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	pb "github.com/loopbackd/loopback/api/loopback/v1"
	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/recording"
	"github.com/loopbackd/loopback/shell"
)

const shellHelp = `Open a shell on a host, as a user of it (root unless --user says otherwise). It takes the permission shell_sessions.open, which is given for a
time only, and a reason. The session is recorded on the host and in the control plane, and others may watch it.

The session outlives the connection: where the network is lost, the command connects again by itself and goes on at the very byte. At the
beginning of a line these are not typed but done:
  ~.  end the session    ~d  leave it running    ~~  type ~    ~?  show these`

func (a *app) shellCommand() *cobra.Command {
	q := &pb.OpenShellRequest{}
	c := &cobra.Command{Use: "shell HOST", Short: "Open a shell on a host", Long: shellHelp, Args: args("HOST"),
		Example: "  loopback shell db-7 --reason 'replication is stuck' --ticket OPS-42",
		RunE: a.with(func(ctx context.Context, s *api, w []string) error {
			t := a.terminal()
			cols, rows := t.size()
			q.Host, q.Reason, q.Ticket = w[0], s.caller.reason, s.caller.ticket
			q.Cols, q.Rows, q.Term = int32(cols), int32(rows), first(q.Term, a.Getenv("TERM"))
			if q.Term == "dumb" || !a.Interactive {
				q.Term = first(q.Term, "dumb")
			}
			opening, cancel := s.deadline(ctx, false)
			session, err := call(opening, s, s.shells.OpenShell, q)
			cancel()
			if err != nil {
				return err
			}
			a.hint("session %s", session.Id)
			return t.take(ctx, s, session.Id, "own", 0)
		})}
	c.Flags().StringVar(&q.User, "user", "", "the `USER` of the host (default root)")
	c.Flags().StringVar(&q.Workspace, "workspace", "", "the `WORKSPACE` to look for the host in")
	c.Flags().StringVar(&q.Term, "term", "", "kind of terminal (default: TERM)")
	return c
}

// terminal is ours, in a session.
type terminal struct {
	*app
	in *os.File // nil: no terminal is typed into
}

func (a *app) terminal() *terminal {
	t := &terminal{app: a}
	if f, ok := a.In.(*os.File); ok && isTerminal(f) {
		t.in = f
	}
	return t
}

func (t *terminal) size() (cols, rows int) {
	if t.in != nil {
		if cols, rows, err := term.GetSize(int(t.in.Fd())); err == nil && cols > 0 && rows > 0 {
			return min(cols, shell.MaxCols), min(rows, shell.MaxRows)
		}
	}
	return shell.DefaultCols, shell.DefaultRows
}

// Times of a connection to a session.
const (
	pingEvery    = 4 * time.Second
	silence      = 10 * time.Second // after which a connection is taken for dead
	redialFirst  = 50 * time.Millisecond
	redialMost   = 2 * time.Second
	redialWithin = 15 * time.Minute
	maxUntyped   = 256 << 10 // bytes that were read and not yet confirmed to be typed
)

// taking is somebody in a session, over all its connections.
type taking struct {
	*terminal
	s       *api
	session string
	mode    string
	origin  uint64

	mu     sync.Mutex
	conn   *sessionConn // nil: none
	pos    int64        // everything up to here was shown
	typed  []byte       // and not confirmed
	base   uint64       // how many bytes come before typed
	room   chan struct{}
	again  string // what to go on with after a cut, in place of a passkey
	status *recording.Ending
}

// take takes part in a session until it is over, or left. The error is what a command ends with.
func (t *terminal) take(ctx context.Context, s *api, session, mode string, pos int64) error {
	var random [8]byte
	_, _ = rand.Read(random[:]) // never fails
	k := &taking{terminal: t, s: s, session: session, mode: mode, origin: binary.BigEndian.Uint64(random[:]), pos: pos, room: make(chan struct{}, 1)}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	if t.in != nil && mode != "watch" {
		before, err := term.MakeRaw(int(t.in.Fd()))
		if err != nil {
			return fmt.Errorf("make the terminal raw: %w", err)
		}
		defer func() { _ = term.Restore(int(t.in.Fd()), before) }()
		defer onResize(func() { k.resize() })()
	}
	if mode != "watch" {
		go k.read(ctx, cancel) // ends with the process: nothing wakes a reader of a terminal
	}
	err := k.stay(ctx)
	var left leaving
	if errors.As(context.Cause(ctx), &left) {
		return left.err
	}
	return err
}

// leaving ends the command on somebody's word.
type leaving struct{ err error }

func (l leaving) Error() string { return "left" }

// stay keeps connected until the session is over.
func (k *taking) stay(ctx context.Context) error {
	wait, since, told := redialFirst, time.Now(), false
	for first := true; ; first = false {
		conn, err := steppingUp(ctx, k.s, func() (*sessionConn, error) { return k.s.session(ctx, k.session, k.mode, k.at(), k.origin, k.again) })
		if err == nil {
			if told {
				k.say("connected again")
			}
			wait, told = redialFirst, false
			err = k.on(ctx, conn)
			since = time.Now()
		}
		switch f := fault.Of(err); {
		case ctx.Err() != nil:
			return fault.Of(ctx.Err())
		case f.Code == "session_ended":
			return k.over(f)
		case f.Kind != fault.Unavailable && f.Kind != fault.Timeout && f.Kind != fault.Exhausted, first && conn == nil:
			return err
		case time.Since(since) > redialWithin:
			return err
		}
		if !told && (time.Since(since) > time.Second || conn != nil) {
			told = true
			k.say("the connection is lost; the session goes on, and so do you once it is back (~d leaves)")
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return fault.Of(ctx.Err())
		}
		wait = min(2*wait, redialMost)
	}
}

func (k *taking) at() int64 {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.pos
}

func (k *taking) say(what string) {
	if k.Interactive {
		fmt.Fprintf(k.Err, "\r\n[%s]\r\n", clean(what))
	}
}

// over is what a session's end comes to.
func (k *taking) over(f *fault.Error) error {
	if k.mode != "own" || k.status == nil {
		return f
	}
	if k.status.Reason != "" {
		return fault.New(fault.Canceled, "session_ended", "the session ended: %s", clean(k.status.Reason))
	}
	if k.status.Status != 0 {
		return exitStatus(k.status.Status)
	}
	return nil
}

// on takes part over one connection until it ends.
func (k *taking) on(ctx context.Context, conn *sessionConn) error {
	defer conn.close()
	defer context.AfterFunc(ctx, conn.close)()
	k.mu.Lock()
	k.conn = conn
	again, base := append([]byte(nil), k.typed...), k.base
	var err error
	for len(again) > 0 && err == nil { // the host types once what comes twice
		n := min(len(again), shell.MaxInput)
		err = conn.tell(shell.TellTyped, base, again[:n])
		again, base = again[n:], base+uint64(n)
	}
	k.mu.Unlock()
	defer func() {
		k.mu.Lock()
		k.conn = nil
		k.mu.Unlock()
	}()
	if err != nil {
		return err
	}
	if k.mode != "watch" && k.in != nil {
		k.resize()
	}
	for {
		kind, number, body, err := conn.next()
		if err != nil {
			return err
		}
		switch kind {
		case shell.ShowEvents:
			if err := k.show(body); err != nil {
				return leaving{err}
			}
			k.mu.Lock()
			k.pos = int64(number)
			k.mu.Unlock()
			if err := conn.tell(shell.TellShown, number, nil); err != nil {
				return err
			}
		case shell.ShowAgain:
			k.again = string(body)
		case shell.ShowApplied:
			k.confirmed(number)
		case shell.ShowOver:
			return shell.DecodeOver(body)
		}
	}
}

// show writes what the terminal shows.
func (k *taking) show(frames []byte) error {
	for len(frames) > 0 {
		e, n, err := recording.ParseFrame(frames)
		if err != nil || n == 0 {
			return fault.New(fault.Unavailable, "session_malformed", "what the control plane shows cannot be read")
		}
		frames = frames[n:]
		switch e.Kind {
		case recording.Output:
			if _, err := k.Out.Write(e.Data); err != nil {
				return err
			}
		case recording.Marker:
			k.say(string(e.Data))
		case recording.Exit:
			k.status = ending(e.Data)
		}
	}
	return nil
}

func (k *taking) confirmed(upTo uint64) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if upTo > k.base && upTo-k.base <= uint64(len(k.typed)) {
		k.typed = k.typed[upTo-k.base:]
		k.base = upTo
	}
	select {
	case k.room <- struct{}{}:
	default:
	}
}

func (k *taking) resize() {
	cols, rows := k.size()
	k.mu.Lock()
	conn := k.conn
	k.mu.Unlock()
	if conn != nil {
		_ = conn.tell(shell.TellSize, 0, recording.Size(cols, rows)) // a connection that is gone is told again when it is back
	}
}

// read reads what is typed.
func (k *taking) read(ctx context.Context, cancel context.CancelCauseFunc) {
	buffer := make([]byte, 4<<10)
	escapes := escaper{on: k.in != nil}
	for ctx.Err() == nil {
		n, err := k.In.Read(buffer)
		text, do := escapes.pass(buffer[:n])
		k.typing(ctx, text)
		switch do {
		case '.':
			k.mu.Lock()
			conn := k.conn
			k.mu.Unlock()
			if conn == nil || k.mode != "own" {
				cancel(leaving{})
				return
			}
			_ = conn.tell(shell.TellKill, 0, nil)
		case 'd':
			k.say("left; it goes on: loopback session join " + k.session)
			cancel(leaving{})
			return
		case '?':
			k.say("~. ends the session, ~d leaves it running, ~~ types ~")
		}
		if err != nil {
			if k.in == nil && errors.Is(err, io.EOF) {
				k.typing(ctx, []byte{4}) // what a program is fed has an end: Ctrl-D
				return
			}
			cancel(leaving{fault.Of(err)})
			return
		}
	}
}

// typing keeps what is typed until it is confirmed, and sends it.
func (k *taking) typing(ctx context.Context, text []byte) {
	for len(text) > 0 {
		k.mu.Lock()
		n := min(len(text), maxUntyped-len(k.typed), shell.MaxInput)
		if n > 0 {
			at := k.base + uint64(len(k.typed))
			k.typed = append(k.typed, text[:n]...)
			if k.conn != nil {
				_ = k.conn.tell(shell.TellTyped, at, text[:n]) // one that is gone: the next sends it again
			}
			text = text[n:]
		}
		k.mu.Unlock()
		if n > 0 {
			continue
		}
		select {
		case <-k.room:
		case <-ctx.Done():
			return
		}
	}
}

// escaper finds what is to be done instead of typed.
type escaper struct {
	on     bool
	middle bool // of a line
	tilde  bool // a ~ at a line's beginning is held back
}

// pass is what is to be typed, and what is to be done after it: 0, '.', 'd' or '?'. Nothing that follows the latter is typed.
func (e *escaper) pass(b []byte) (text []byte, do byte) {
	if !e.on {
		return b, 0
	}
	for _, c := range b {
		if e.tilde {
			e.tilde, e.middle = false, true
			switch c {
			case '.', 'd', '?':
				e.middle = false
				return text, c
			case '~':
				text = append(text, c)
				continue
			}
			text = append(text, '~')
		} else if c == '~' && !e.middle {
			e.tilde = true
			continue
		}
		text = append(text, c)
		e.middle = c != '\r' && c != '\n'
	}
	return text, 0
}

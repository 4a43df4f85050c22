// Package shell is the host's end of an interactive shell.
//
// A session is a process of its own, the shell host, in a unit of its own (loopback-shell-SESSION.service), which owns the
// terminal and the recording and dials its stream itself. The agent only starts it: it may stop, be updated or be killed, and
// the session goes on.
//
//	agent ──starts──▶ shell host ══ sealed stream ══▶ control plane
//	                     │  ▲
//	                     ▼  └──── spool: what was seen, recorded before it is sent
//	                 terminal ──▶ shell, in loopback-terminal-SESSION.service
//
// What comes from the terminal is recorded and then sent, from the recording: whoever is behind holds nothing in memory. While
// the control plane takes output, the terminal is read no faster than that; while it is away the terminal is read on, so that
// what runs there does not stand still, up to shell.MaxUnsent.
//
// The session ends when the shell does, when the control plane says so, when nobody has typed for long, when nobody was there
// for long, at its longest time, when it cannot be recorded any further, or when the host goes down. The end kills everything
// that was started from it, background jobs included: nothing of a session goes on unseen. A shell host that is killed takes the
// shell with it, by systemd.
package shell

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/recording"
	"github.com/loopbackd/loopback/shell"
	"github.com/loopbackd/loopback/stream"
)

// Program is a shell that was started.
type Program interface {
	// Wait returns its exit status, once, when nothing of it is left.
	Wait() (status int, err error)
	// Kill ends it and everything that was started from it. It may be called more than once.
	Kill()
}

// Start starts a shell on the terminal of this path, for a user of this host.
type Start func(ctx context.Context, o shell.Order, tty string) (Program, error)

// Options of a shell host.
type Options struct {
	Order shell.Order
	Spool *recording.Spool
	End   *stream.End // of the session's stream; somebody else keeps it attached
	Start Start
	Log   *slog.Logger
}

// window is how many bytes may be recorded and not yet handed to the stream before the terminal is read no further.
const window = 512 << 10

// goodbye is how long a session that has ended waits for the control plane to take the rest.
const goodbye = 10 * time.Minute

// Host is a session at work.
type Host struct {
	Options
	order    shell.Order
	writer   *recording.Writer
	terminal *terminal
	program  Program
	began    time.Time // monotonic

	adding   sync.Mutex    // orders events by their times
	taken    chan struct{} // holds one when the stream took something
	most     atomic.Int64  // bytes of events that a stream has taken, at most
	typed    atomic.Int64  // when somebody typed last, since began
	recorded chan struct{} // closes when the recording has its end

	sending sync.Mutex
	sender  *sender // of the newest life of the control plane's end; guarded by sending
	sent    sync.WaitGroup

	typists sync.Mutex
	applied map[uint64]uint64 // by origin: how far it was typed; guarded by typists

	ending sync.Mutex
	reason string // why it ends; empty: the shell ended by itself
	killed chan struct{}
	ended  bool
	away   time.Duration // since began: since when nobody types; -1: somebody does. Guarded by ending
}

// New makes the host's end of a session.
func New(o Options) *Host {
	return &Host{Options: o, order: o.Order, taken: make(chan struct{}, 1), recorded: make(chan struct{}), killed: make(chan struct{}), away: -1, applied: map[uint64]uint64{}}
}

// Run carries the session out and returns when it is over and the control plane has taken its record, or goodbye has passed. When
// ctx ends, so does the session. The error says why there was no session.
func (h *Host) Run(ctx context.Context) error {
	err := h.run(ctx)
	h.End.Close(err)
	return err
}

func (h *Host) run(ctx context.Context) error {
	h.began = time.Now()
	keys := recording.NewKeyring(h.order.Secret)
	w, err := h.Spool.Create(h.order.Session, keys)
	if err != nil {
		return fault.New(fault.Exhausted, "shell_unrecorded", "the host cannot record a session, so there is none: %s", fault.Of(err).Message).WithCause(err)
	}
	h.writer = w
	defer w.Close()
	if err := h.comes(ctx); err != nil {
		return errors.Join(err, recording.Remove(h.Spool.Path(h.order.Session))) // there is nothing in it
	}
	header, err := json.Marshal(recording.Header{
		Session: h.order.Session, Host: h.order.Host, User: h.user(), Who: h.order.Who, Start: h.order.Start, Cols: h.order.Cols, Rows: h.order.Rows, Term: h.order.Term,
	})
	if err != nil {
		return err
	}
	h.add(recording.Begin, header)
	h.add(recording.Output, []byte(h.banner()))

	over, stop := context.WithCancel(context.WithoutCancel(ctx))
	var work sync.WaitGroup
	defer h.sent.Wait()
	defer work.Wait()
	defer stop()
	if err := h.sendFrom(over, 0, 0); err != nil {
		return err
	}
	for life := range shell.MaxLives + 1 { // until the whole record is taken: an end that begins anew may ask for it again
		work.Go(func() { h.control(over, life) })
	}
	status := h.session(ctx)
	end, err := json.Marshal(recording.Ending{Status: status, Reason: h.why()})
	if err != nil {
		return err
	}
	h.add(recording.Exit, end)
	head, err := w.End()
	if err != nil {
		h.Log.Error("the end of the recording cannot be written", "error", err)
	}
	close(h.recorded)
	if err := h.Spool.Fill(); err != nil {
		h.Log.Warn("the reserve of the spool cannot be filled", "error", err)
	}
	return h.farewell(ctx, head)
}

// comes waits until the control plane is there: nothing is shown to nobody.
func (h *Host) comes(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, shell.Comes)
	defer cancel()
	ticks := time.NewTicker(5 * time.Millisecond)
	defer ticks.Stop()
	for !h.End.Attached() {
		select {
		case <-h.End.Done():
			return h.End.Err()
		case <-ctx.Done():
			return fault.New(fault.Timeout, "shell_nobody", "the control plane did not come for the session")
		case <-ticks.C:
		}
	}
	return nil
}

func (h *Host) user() string {
	if h.order.User == "" {
		return "root"
	}
	return h.order.User
}

func (h *Host) banner() string {
	return fmt.Sprintf("\x1b[1mThis session on %s is recorded.\x1b[0m %s as %s: %s\r\n", clean(h.order.Host), clean(h.order.Who), clean(h.user()), clean(h.order.Reason))
}

// clean keeps what people wrote from steering the terminal.
func clean(s string) string {
	out := []rune(s)
	for i, r := range out {
		if r < ' ' || r >= 0x7f && r < 0xa0 {
			out[i] = ' '
		}
	}
	return string(out)
}

// session runs the shell and returns its status.
func (h *Host) session(ctx context.Context) int {
	t, err := openTerminal(h.order.Cols, h.order.Rows)
	if err != nil {
		h.tell("there is no terminal for the session: " + err.Error())
		return 126
	}
	h.ending.Lock()
	h.terminal = t
	h.ending.Unlock()
	program, err := h.Start(ctx, h.order, t.path)
	if err != nil {
		_ = t.Close()
		h.tell("the shell cannot be started: " + err.Error())
		return 126
	}
	h.ending.Lock()
	h.program = program
	over := h.ended
	h.ending.Unlock()
	if over { // while it was started
		program.Kill()
	}
	t.started() // from here on the terminal's end is that of all who have it open

	var work sync.WaitGroup
	inner, stop := context.WithCancel(context.WithoutCancel(ctx))
	drained := make(chan struct{})
	work.Go(func() { defer close(drained); h.output(inner) })
	for life := range shell.MaxLives + 1 {
		work.Go(func() { h.input(inner, life) })
	}
	work.Go(func() { h.watch(ctx, inner) })
	status, err := program.Wait()
	if err != nil {
		h.Log.Error("how the shell ended is not known", "error", err)
		status = 255
	}
	last := time.NewTimer(2 * time.Second) // what it wrote last; somebody outside may hold the terminal open for ever
	select {
	case <-drained:
	case <-last.C:
	}
	last.Stop()
	stop()
	_ = t.Close()
	work.Wait()
	return status
}

// tell shows a reason why there is no shell, and makes it the session's.
func (h *Host) tell(reason string) {
	h.end(reason)
	h.add(recording.Output, []byte("\r\n"+clean(reason)+"\r\n"))
}

// add records an event now. A recorder that fails ends the session.
func (h *Host) add(kind recording.Kind, data []byte) {
	h.adding.Lock()
	err := h.writer.Add(recording.Event{At: time.Since(h.began), Kind: kind, Data: data})
	h.adding.Unlock()
	if err != nil {
		if h.end("it cannot be recorded any further: " + fault.Of(err).Message) {
			h.Log.Error("the session cannot be recorded and ends", "error", err)
			h.add(recording.Marker, []byte("the recording ends here: "+fault.Of(err).Message))
		}
		return
	}
	h.sending.Lock()
	defer h.sending.Unlock()
	if h.sender != nil {
		notify(h.sender.more)
	}
}

func notify(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// end ends the session for a reason, unless it ends already, and tells whether it did.
func (h *Host) end(reason string) bool {
	h.ending.Lock()
	defer h.ending.Unlock()
	if h.ended {
		return false
	}
	h.ended, h.reason = true, reason
	close(h.killed)
	if h.program != nil {
		go h.program.Kill() // which may take a while, and Wait sees its end
	}
	return true
}

func (h *Host) why() string {
	h.ending.Lock()
	defer h.ending.Unlock()
	h.ended = true
	return h.reason
}

// watch ends the session when one of its times is over, and syncs the recording.
func (h *Host) watch(ctx, inner context.Context) {
	ticks := time.NewTicker(time.Second)
	defer ticks.Stop()
	lost := time.Duration(-1) // since when there is no connection
	for {
		select {
		case <-ticks.C:
		case <-ctx.Done():
			h.end("the host stops")
			return
		case <-inner.Done():
			return
		}
		if _, err := h.writer.Sync(); err != nil {
			h.Log.Error("the recording cannot be made durable", "error", err)
			h.end("its recording cannot be made durable: " + fault.Of(err).Message)
		}
		now := time.Since(h.began)
		switch {
		case h.End.Attached():
			lost = -1
		case lost < 0:
			lost = now
		}
		h.ending.Lock()
		away := h.away
		h.ending.Unlock()
		if lost >= 0 && (away < 0 || lost < away) {
			away = lost
		}
		switch o := h.order; {
		case o.Longest > 0 && now >= o.Longest:
			h.end("its longest time of " + fault.Span(o.Longest) + " is over")
		case o.Idle > 0 && now-time.Duration(h.typed.Load()) >= o.Idle:
			h.end("nobody typed for " + fault.Span(o.Idle))
		case o.Detached > 0 && away >= 0 && now-away >= o.Detached:
			h.end("nobody was there for " + fault.Span(o.Detached))
		case h.writer.Extent().Bytes-h.most.Load() > shell.MaxUnsent:
			h.end("it showed more than anybody took")
		}
	}
}

// farewell waits until the control plane has the whole record, and has written the session's end.
func (h *Host) farewell(ctx context.Context, head recording.Head) error {
	ctx, cancel := context.WithTimeout(ctx, goodbye)
	defer cancel()
	said, err := json.Marshal(head)
	if err != nil {
		return err
	}
	last := h.End.Writer(shell.Closing)
	if _, err := last.WriteContext(ctx, said); err != nil {
		return nil // the session is over: what is left is in the spool
	}
	if err := last.Close(); err != nil {
		return err
	}
	h.sending.Lock()
	s := h.sender
	h.sending.Unlock()
	select {
	case <-s.done:
	case <-h.End.Done():
		return nil
	case <-ctx.Done():
		return nil
	}
	// The head is acknowledged last of all, when the session's end is written; an end of the control plane that begins anew before that
	// asks for the record, and has it from a sender of its own.
	if err := h.End.Flush(ctx); err != nil && !errors.Is(err, stream.ErrDone) {
		h.Log.Warn("the control plane did not take all of the record; it stays here", "error", err)
	}
	return nil
}

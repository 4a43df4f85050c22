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

	adding sync.Mutex // orders events by their times
	more   chan struct{}
	taken  chan struct{} // holds one when the stream took something
	sent   atomic.Int64  // bytes of events that the stream has taken
	typed  atomic.Int64  // when somebody typed last, since began

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
	return &Host{Options: o, order: o.Order, more: make(chan struct{}, 1), taken: make(chan struct{}, 1), killed: make(chan struct{}), away: -1, applied: map[uint64]uint64{}}
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

	var sending sync.WaitGroup
	over, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	sending.Go(func() { h.send(over) })
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
	if err := h.Spool.Fill(); err != nil {
		h.Log.Warn("the reserve of the spool cannot be filled", "error", err)
	}
	return h.farewell(ctx, head, stop, &sending)
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
	h.terminal = t
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
		work.Go(func() { h.control(inner, shell.Life(life)+shell.Control) })
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
	notify(h.more)
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

// output records what the terminal shows.
func (h *Host) output(ctx context.Context) {
	buffer := make([]byte, recording.MaxData)
	for {
		n, err := h.terminal.readAll(buffer)
		if n > 0 {
			h.add(recording.Output, buffer[:n])
			h.wait(ctx)
		}
		if err != nil || ctx.Err() != nil {
			return
		}
	}
}

// wait holds the terminal back while the control plane is there and has much to take yet.
func (h *Host) wait(ctx context.Context) {
	for h.behind() > window && h.End.Attached() {
		again := time.NewTimer(100 * time.Millisecond) // the connection may break meanwhile
		select {
		case <-h.taken:
		case <-again.C:
		case <-h.killed:
			again.Stop()
			return
		case <-ctx.Done():
			again.Stop()
			return
		}
		again.Stop()
	}
}

func (h *Host) behind() int64 { return h.writer.Extent().Bytes - h.sent.Load() }

// send hands what is recorded to the stream, in order.
func (h *Host) send(ctx context.Context) {
	out := h.End.Writer(shell.Events)
	tail, _, err := h.writer.Tail(0)
	if err != nil {
		h.end("its record cannot be read: " + err.Error())
		return
	}
	var batch []byte
	for {
		e, ok, err := tail.Next()
		if err != nil {
			h.Log.Error("the record cannot be read", "error", err)
			h.end("its record cannot be read")
			return
		}
		if ok {
			batch = e.AppendFrame(batch)
		}
		if len(batch) > 0 && (!ok || len(batch) >= stream.MaxPayload) {
			n, err := out.WriteContext(ctx, batch)
			h.sent.Add(int64(n))
			notify(h.taken)
			if err != nil {
				if ctx.Err() == nil {
					h.end("the control plane ended it: " + fault.Of(err).Message)
				}
				return
			}
			batch = batch[:0]
			continue
		}
		if ok {
			continue
		}
		if cap(batch) > 4<<10 {
			batch = nil // one who waits holds no memory
		}
		select {
		case <-h.more:
		case <-ctx.Done():
			return
		}
	}
}

// input types what comes, each byte once.
func (h *Host) input(ctx context.Context, life int) {
	in, applied := h.End.Reader(shell.Life(life)+shell.Typed), h.End.Writer(shell.Applied(life))
	var buffer []byte
	chunk := make([]byte, 4<<10)
	for {
		n, err := in.Next(ctx, chunk)
		buffer = append(buffer, chunk[:n]...)
		for err == nil {
			i, size, bad := shell.ParseInput(buffer)
			if bad != nil {
				h.end("what was typed came damaged")
				return
			}
			if size == 0 {
				break
			}
			if err := h.typing(ctx, i, applied); err != nil {
				return
			}
			buffer = buffer[size:]
		}
		if err != nil {
			return
		}
		in.Ack(in.Offset() - uint64(len(buffer)))
		buffer = append([]byte(nil), buffer...)
	}
}

// maxTypists of one session, whose input is known apart.
const maxTypists = 1000

// typing types what was not typed before, and tells how far it has come.
func (h *Host) typing(ctx context.Context, i shell.Input, applied *stream.Writer) error {
	h.typists.Lock()
	defer h.typists.Unlock()
	at, known := h.applied[i.Origin]
	if end := i.Offset + uint64(len(i.Data)); i.Offset <= at && end > at && (known || len(h.applied) < maxTypists) {
		fresh := i.Data[at-i.Offset:]
		if h.order.Input {
			h.add(recording.Input, fresh)
		}
		if _, err := h.terminal.Write(fresh); err != nil {
			return err
		}
		h.typed.Store(int64(time.Since(h.began)))
		at = end
		h.applied[i.Origin] = at
	}
	// Where nobody wants to know it, or the session is over, the next read says the rest.
	_, _ = applied.WriteContext(ctx, (shell.Input{Origin: i.Origin, Offset: at}).Append(nil))
	return nil
}

// control does what it is told.
func (h *Host) control(ctx context.Context, channel byte) {
	in := h.End.Reader(channel)
	var buffer []byte
	chunk := make([]byte, 512)
	for {
		n, err := in.Next(ctx, chunk)
		if err != nil {
			if ctx.Err() == nil { // the stream is over: the control plane wants no more of it
				h.end("the control plane ended it: " + fault.Of(err).Message)
			}
			return
		}
		buffer = append(buffer, chunk[:n]...)
		for {
			d, size, bad := shell.ParseDo(buffer)
			if bad != nil {
				h.end("what it was told came damaged")
				return
			}
			if size == 0 {
				break
			}
			h.do(d)
			buffer = buffer[size:]
		}
		in.Ack(in.Offset() - uint64(len(buffer)))
	}
}

func (h *Host) do(d shell.Do) {
	switch d.Act {
	case shell.DoResize:
		cols, rows, ok := recording.ParseSize([]byte(d.Text))
		if !ok || cols > shell.MaxCols || rows > shell.MaxRows {
			return
		}
		if err := h.terminal.resize(cols, rows); err == nil {
			h.add(recording.Resize, recording.Size(cols, rows))
		}
	case shell.DoMark:
		h.add(recording.Marker, []byte(clean(d.Text)))
	case shell.DoEnd:
		h.end(clean(d.Text))
	case shell.DoHold, shell.DoResume:
		h.ending.Lock()
		defer h.ending.Unlock()
		if d.Act == shell.DoHold {
			h.away = time.Since(h.began)
		} else {
			h.away = -1
		}
	}
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
		case h.behind() > shell.MaxUnsent:
			h.end("it showed more than anybody took")
		}
	}
}

// farewell waits until the control plane has the whole record.
func (h *Host) farewell(ctx context.Context, head recording.Head, stop func(), sending *sync.WaitGroup) error {
	ctx, cancel := context.WithTimeout(ctx, goodbye)
	defer cancel()
	defer sending.Wait()
	defer stop()
	for h.behind() > 0 {
		select {
		case <-h.taken:
		case <-h.End.Done():
			return nil
		case <-ctx.Done():
			return nil
		}
	}
	said, err := json.Marshal(head)
	if err != nil {
		return err
	}
	last := h.End.Writer(shell.Closing)
	if _, err := last.WriteContext(ctx, said); err != nil {
		return nil // the session is over: what is left is in the spool
	}
	if err := errors.Join(last.Close(), h.End.Writer(shell.Events).Close()); err != nil {
		return err
	}
	if err := h.End.Flush(ctx); err != nil && !errors.Is(err, stream.ErrDone) {
		h.Log.Warn("the control plane did not take all of the record; it stays here", "error", err)
	}
	return nil
}

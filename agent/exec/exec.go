// Package exec does what the host is ordered to do once: commands.
//
//	order ──▶ ceiling? ──▶ known? ──▶ in time? ──▶ journal, durably ──▶ stream ──▶ "go" ──▶ command ──▶ journal, result
//
// A prompt order needs no "go", and no stream where its command ends soon and writes little (see way).
//
// An order's id is in the journal before anything is begun, so that a repeat, by a replica that slept or a message that was
// kept, is answered from there: done, with how it ended, or indeterminate, where the agent ended in between; never twice.
// An order that cannot be noted, because the disk is full, is not begun. "In time" is judged by the control plane's clock,
// which the link carries on: setting this host's clock makes no old order good.
//
// The ceiling of agent.yaml decides before everything else.
//
// On a host with systemd a command runs in a unit of its own, with none of the agent's bounds, and all that it started ends
// with it: what it left in the background, and a fork bomb. Elsewhere it has a process group, and a control group where
// there are any. Its output goes to the control plane as fast as that takes it, and waits otherwise.
package exec

import (
	"bufio"
	"context"
	"encoding/json"
	"log/slog"
	osexec "os/exec"
	"strings"
	"sync"
	"time"

	"github.com/loopbackd/loopback/agent/state"
	"github.com/loopbackd/loopback/exec"
	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/host"
	"github.com/loopbackd/loopback/id"
	"github.com/loopbackd/loopback/stream"
)

// Order is one.
type Order struct {
	ID       string
	NotAfter time.Time // by the control plane's clock
	Grant    string    // that it rests on, for the log
	Command  exec.Command
	Stdin    bool
	Prompt   bool // begin at once, and answer by a report where the command ends soon and wrote little
	Dial     func(context.Context) (stream.Conn, error)
}

// Report is what becomes of an order, as far as no stream says it.
type Report struct {
	ID       string
	State    State
	Fault    *fault.Error // of a refused one
	ExitCode int          // of one that is done

	Stdout, Stderr []byte // of one that ended
	Result         exec.Result
}

// State of an order as it is reported.
type State string

// The states.
const (
	Refused       State = "refused"
	Done          State = "done"
	Indeterminate State = "indeterminate"
	Begun         State = "begun" // a prompt one, whose stream comes
	Ended         State = "ended" // a prompt one, with all that its command wrote
)

// Refusals.
var (
	ErrCeiling = fault.New(fault.Denied, "exec_not_allowed", "this host allows no commands from the control plane").
			WithHint("on the host, set exec: true under allow in /etc/loopback/agent.yaml, and run: systemctl restart loopback-agent")
	ErrStopped = fault.New(fault.Unavailable, "agent_stopping", "the agent is stopping, so nothing was begun")
	errProgram = fault.New(fault.NotFound, "program_not_found", "there is no such program on the host")
)

// patience is how long a command goes on whose control plane cannot be reached.
const patience = 15 * time.Minute

// settle is how long the result of a command may take to be taken.
const settle = time.Hour

// Options of an Executor.
type Options struct {
	Dir    string           // of the journal
	Allow  host.Ceiling     // of agent.yaml
	Now    func() time.Time // the control plane's clock
	Log    *slog.Logger
	Runner Runner // nil: systemd's where it runs, else a plain one
}

// Executor carries orders out.
type Executor struct {
	options Options
	journal state.Journal[exec.Result]
	lost    []string // orders that an agent before this one began, and did not live to see the end of

	mu      sync.Mutex
	running map[string]*order
	closed  bool
	work    sync.WaitGroup
	ctx     context.Context
	stop    context.CancelFunc
}

// New makes an Executor, and ends what an agent before this one left running.
func New(o Options) *Executor {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Runner == nil {
		o.Runner = runnerHere()
	}
	x := &Executor{options: o, journal: state.Journal[exec.Result]{Dir: o.Dir}, running: map[string]*order{}}
	x.ctx, x.stop = context.WithCancel(context.Background())
	x.journal.Prune(time.Now())
	x.lost = x.journal.Open(time.Now().Add(-exec.MaxTimeout - time.Hour)) // nobody waits for others any more
	return x
}

// Close ends all commands and waits for them.
func (x *Executor) Close() {
	x.mu.Lock()
	x.closed = true
	x.mu.Unlock()
	x.stop()
	x.work.Wait()
}

// Lost are the orders that an agent before this one began and did not live to see the end of: nobody knows it, and they are not
// begun again.
func (x *Executor) Lost() []string { return x.lost }

// Order takes an order. It does not wait; report is called where something is to be said of it outside its stream.
func (x *Executor) Order(o Order, report func(Report)) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.running[o.ID] != nil {
		return // a repeat of one whose stream stands
	}
	if x.closed {
		report(Report{ID: o.ID, State: Refused, Fault: ErrStopped})
		return
	}
	w := &order{Order: o, report: report, stored: make(chan struct{}), cancelled: make(chan struct{})}
	x.running[o.ID] = w
	x.work.Go(func() {
		if r, answered := x.begin(o); answered {
			x.forget(o.ID) // first: a repeat that comes upon the answer is answered, too
			report(r)
			return
		}
		defer x.forget(o.ID)
		x.carry(w)
	})
}

func (x *Executor) forget(id string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	delete(x.running, id)
}

// Word is what the control plane says of an order: that the report of it is stored, or that the command is to end.
func (x *Executor) Word(id string, stored, cancel bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	w := x.running[id]
	if w == nil {
		return
	}
	if stored && !w.isStored {
		w.isStored = true
		close(w.stored)
	}
	if cancel && !w.isCancelled {
		w.isCancelled = true
		close(w.cancelled)
	}
}

// begin decides whether the order is to be done now; else it says what to answer.
func (x *Executor) begin(o Order) (r Report, answered bool) {
	refuse := func(err error) (Report, bool) {
		x.options.Log.Warn("an order is refused", "order", o.ID, "grant", o.Grant, "error", err)
		return Report{ID: o.ID, State: Refused, Fault: fault.Of(err)}, true
	}
	if !x.options.Allow.Exec {
		return refuse(ErrCeiling)
	}
	if !id.Valid("ord", o.ID) {
		return refuse(state.ErrOrder)
	}
	e, known, err := x.journal.Begin(o.ID, o.NotAfter, x.options.Now())
	switch {
	case known && e.Result != nil:
		return Report{ID: o.ID, State: Done, ExitCode: e.Result.ExitCode}, true
	case known:
		return Report{ID: o.ID, State: Indeterminate}, true
	case err != nil:
		return refuse(err)
	}
	return Report{}, false
}

// carry does the order.
func (x *Executor) carry(o *order) {
	began := x.options.Now()
	x.options.Log.Info("a command is ordered", "order", o.ID, "grant", o.Grant, "command", o.Command.String(), "user", o.Command.User)
	ctx, cancel := context.WithCancelCause(x.ctx)
	defer cancel(nil)
	end := stream.New(stream.Options{})
	var keeping sync.WaitGroup
	defer keeping.Wait()
	defer end.Close(nil)
	defer context.AfterFunc(ctx, func() { end.Close(fault.Of(context.Cause(ctx))) })()
	keep := func() {
		keeping.Go(func() { cancel(orDone(end.Keep(context.WithoutCancel(ctx), patience, o.Dial))) })
	}
	way := newWay(o, keep)
	defer way.close()

	control := bufio.NewReader(end.Reader(exec.ControlNumber))
	var first exec.Control
	var err error
	if !o.Prompt {
		// The control plane says go, once it has authorised the stream and recorded it.
		waiting := time.AfterFunc(time.Until(time.Now().Add(o.NotAfter.Sub(began))), func() { end.Close(state.ErrLate) })
		first, err = word(control)
		waiting.Stop()
	}
	var result exec.Result
	if first.Cancel {
		result = exec.Result{ExitCode: -1, Cancelled: true}
	} else if err != nil {
		result = exec.Result{ExitCode: -1, ErrorCode: state.ErrLate.Code, Error: "the control plane did not say go in time: nothing was begun"}
	} else {
		result = x.run(ctx, o, end, control, way)
	}
	for _, channel := range []byte{exec.StdoutNumber, exec.StderrNumber} {
		_ = end.Writer(channel).Close() // also where nothing was begun
	}
	if err := x.journal.End(o.ID, began, result); err != nil {
		x.options.Log.Error("how an order ended cannot be noted", "order", o.ID, "error", err)
	}
	defer func() {
		x.options.Log.Info("a command ended", "order", o.ID, "code", result.ExitCode, "signal", result.Signal, "error", result.Error)
	}()
	if way.answer(ctx, result) {
		return
	}
	line, _ := json.Marshal(result) // plain fields
	w := end.Writer(exec.ControlNumber)
	if _, err := w.Write(append(line, '\n')); err == nil {
		_ = w.Close()
		flushing, done := context.WithTimeout(ctx, settle)
		defer done()
		if err := end.Flush(flushing); err != nil {
			x.options.Log.Warn("the result of a command was not taken", "order", o.ID, "error", err)
		}
	}
}

func orDone(err error) error {
	if err == nil {
		return stream.ErrDone
	}
	return err
}

// word is the next that the control plane says by the stream.
func word(r *bufio.Reader) (exec.Control, error) {
	line, err := r.ReadBytes('\n')
	var c exec.Control
	if err == nil {
		err = json.Unmarshal(line, &c)
	}
	return c, err
}

// run is the life of the command itself.
func (x *Executor) run(ctx context.Context, o *order, end *stream.End, control *bufio.Reader, way *way) exec.Result {
	failed := func(err error) exec.Result {
		f := fault.Of(err)
		return exec.Result{ExitCode: -1, ErrorCode: f.Code, Error: f.Message, Hint: f.Hint}
	}
	arguments, err := program(o.Command)
	if err != nil {
		return failed(err)
	}
	in, err := stdin(o.Order, end)
	if err != nil {
		return failed(err)
	}
	outputs, err := newOutputs(end, way)
	if err != nil {
		_ = in.Close()
		return failed(err)
	}
	began := x.options.Now()
	p, err := x.options.Runner.Start(Spec{
		Name: "loopback-exec-" + strings.TrimPrefix(o.ID, "ord_"), Arguments: arguments, User: o.Command.User, Timeout: o.Command.Timeout,
		Stdin: in, Stdout: outputs.ends[0], Stderr: outputs.ends[1],
	})
	_ = in.Close() // the command's copy is what counts
	outputs.release()
	if err != nil {
		outputs.wait()
		return failed(err)
	}
	ended := make(chan struct{})
	why := make(chan string, 2)
	var watching sync.WaitGroup
	watching.Go(func() {
		timer := time.NewTimer(o.Command.Timeout)
		defer timer.Stop()
		select {
		case <-timer.C:
			why <- "timeout"
		case <-ctx.Done():
			why <- "cancel"
		case <-o.cancelled:
			why <- "cancel"
		case <-ended:
			return
		}
		p.Kill()
	})
	go func() { // ends with the session
		for {
			c, err := word(control)
			if err != nil {
				return
			}
			if c.Cancel {
				select {
				case why <- "cancel":
				default:
				}
				p.Kill()
			}
		}
	}()
	result := p.Wait()
	close(ended)
	outputs.wait()
	watching.Wait()
	result.StartedAt, result.EndedAt = began.UTC(), x.options.Now().UTC()
	select {
	case w := <-why:
		result.TimedOut, result.Cancelled = w == "timeout", w == "cancel"
	default:
	}
	return result
}

// program is what is to be started.
func program(c exec.Command) ([]string, error) {
	if c.Shell {
		return []string{"/bin/sh", "-c", strings.Join(c.Arguments, " ")}, nil
	}
	if strings.Contains(c.Arguments[0], "/") {
		return c.Arguments, nil
	}
	for dir := range strings.SplitSeq(searchPath, ":") {
		if found, err := osexec.LookPath(dir + "/" + c.Arguments[0]); err == nil {
			return append([]string{found}, c.Arguments[1:]...), nil
		}
	}
	return nil, errProgram.WithHint("it is looked for in %s; --shell has /bin/sh run a line, builtins among it", searchPath)
}

// searchPath is where programs are looked for, and a command's PATH.
const searchPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

package exec

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/loopbackd/loopback/agent/state"
	"github.com/loopbackd/loopback/exec"
	"github.com/loopbackd/loopback/host"
	"github.com/loopbackd/loopback/id"
	"github.com/loopbackd/loopback/stream"
)

// never is a Runner that must not be asked.
type never struct{ t *testing.T }

func (n never) Start(Spec) (Process, error) {
	n.t.Error("something was begun")
	return nil, errProgram
}

func executor(t *testing.T, dir string, o Options) *Executor {
	t.Helper()
	if o.Now == nil {
		o.Now = time.Now
	}
	o.Dir, o.Allow = dir, host.Ceiling{Exec: true}
	x := New(o)
	t.Cleanup(x.Close)
	return x
}

func unreachable(context.Context) (stream.Conn, error) { return nil, stream.ErrGone }

func order1(notAfter time.Time) Order {
	return Order{ID: id.New("ord", time.Now()), NotAfter: notAfter, Command: exec.Command{Arguments: []string{"true"}, Timeout: time.Minute}, Dial: unreachable}
}

func answer(t *testing.T, x *Executor, o Order) Report {
	t.Helper()
	got := make(chan Report, 1)
	x.Order(o, func(r Report) { got <- r })
	select {
	case r := <-got:
		return r
	case <-time.After(10 * time.Second):
		t.Fatal("the order was not answered")
		return Report{}
	}
}

func TestAnOrderThatWasBegunIsNotBegunAgain(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "orders")
	o := order1(time.Now().Add(time.Minute))
	noted := state.Journal[exec.Result]{Dir: dir}
	if _, _, err := noted.Begin(o.ID, o.NotAfter, time.Now()); err != nil {
		t.Fatal(err)
	}
	// The agent was killed here.
	x := executor(t, dir, Options{Runner: never{t}})
	if r := answer(t, x, o); r.State != Indeterminate {
		t.Errorf("an order without an end in the journal is %s", r.State)
	}
	if err := noted.End(o.ID, time.Now(), exec.Result{ExitCode: 3}); err != nil {
		t.Fatal(err)
	}
	if r := answer(t, x, o); r.State != Done || r.ExitCode != 3 {
		t.Errorf("an order with an end in the journal is %s, code %d", r.State, r.ExitCode)
	}
	if err := os.WriteFile(filepath.Join(dir, o.ID+".json"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if r := answer(t, x, o); r.State != Indeterminate {
		t.Errorf("an order whose entry is damaged is %s", r.State)
	}
}

func TestALateOrderIsRefusedByTheControlPlanesClock(t *testing.T) {
	now := time.Now().Add(-24 * time.Hour) // this host's own clock is a day ahead of it
	x := executor(t, filepath.Join(t.TempDir(), "orders"), Options{Runner: never{t}, Now: func() time.Time { return now }})
	o := order1(now.Add(-time.Second))
	if r := answer(t, x, o); r.State != Refused || !errors.Is(r.Fault, state.ErrLate) {
		t.Errorf("got %s, %v", r.State, r.Fault)
	}
	if _, err := x.journal.Read(o.ID); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("it is in the journal: %v", err)
	}
}

func TestWhatCannotBeNotedIsNotBegun(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "orders")
	if err := os.WriteFile(dir, nil, 0o600); err != nil { // a file where the folder is to be
		t.Fatal(err)
	}
	x := executor(t, dir, Options{Runner: never{t}})
	if r := answer(t, x, order1(time.Now().Add(time.Minute))); r.State == Done {
		t.Errorf("got %s, %v", r.State, r.Fault)
	}
	forged := order1(time.Now().Add(time.Minute))
	forged.ID = "../../etc/passwd"
	x = executor(t, filepath.Join(t.TempDir(), "orders"), Options{Runner: never{t}})
	if r := answer(t, x, forged); r.State != Refused || r.Fault.Code != "order_malformed" {
		t.Errorf("an id that is a path: %s, %v", r.State, r.Fault)
	}
}

func TestTheCeilingComesFirst(t *testing.T) {
	x := New(Options{Dir: filepath.Join(t.TempDir(), "orders"), Now: time.Now, Runner: never{t}})
	defer x.Close()
	if r := answer(t, x, order1(time.Now().Add(time.Minute))); r.State != Refused || !errors.Is(r.Fault, ErrCeiling) || r.Fault.Hint == "" {
		t.Errorf("got %s, %v", r.State, r.Fault)
	}
}

// says is a Runner whose commands write this and end, after so long.
type says struct {
	text string
	wait time.Duration
}

func (s says) Start(c Spec) (Process, error) {
	_, _ = c.Stdout.WriteString(s.text)
	return ended{s.wait}, nil
}

type ended struct{ after time.Duration }

func (e ended) Wait() exec.Result { time.Sleep(e.after); return exec.Result{ExitCode: 4} }
func (ended) Kill()               {}

func TestAPromptOrderIsAnsweredByAReport(t *testing.T) {
	for _, c := range []struct {
		name   string
		runner says
		stored bool // the control plane says so
		states []State
		dialed bool
	}{
		{"soon and little", says{"up\n", 0}, true, []State{Ended}, false},
		{"soon and little, and nobody says that it is stored", says{"up\n", 0}, false, []State{Ended}, true},
		{"soon and much", says{strings.Repeat("x", promptBytes+1), 0}, true, []State{Begun}, true},
		{"late", says{"up\n", 2 * promptWithin}, true, []State{Begun}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			x := executor(t, filepath.Join(t.TempDir(), "orders"), Options{Runner: c.runner})
			o := order1(time.Now().Add(time.Minute))
			o.Prompt = true
			dialed := make(chan struct{}, 100)
			over := make(chan struct{})
			o.Dial = func(context.Context) (stream.Conn, error) {
				select {
				case dialed <- struct{}{}:
				default:
				}
				return nil, stream.ErrGone // the control plane's word that there is no such session
			}
			var reports sync.Mutex
			var states []State
			x.Order(o, func(r Report) {
				reports.Lock()
				states = append(states, r.State)
				reports.Unlock()
				if r.State == Ended {
					if string(r.Stdout) != c.runner.text || r.Result.ExitCode != 4 {
						t.Errorf("it reports %q and code %d", r.Stdout, r.Result.ExitCode)
					}
					if c.stored {
						go x.Word(o.ID, true, false)
					}
				}
			})
			go func() { x.work.Wait(); close(over) }()
			select {
			case <-over:
			case <-time.After(20 * time.Second):
				t.Fatal("it does not end")
			}
			reports.Lock()
			defer reports.Unlock()
			if !slices.Equal(states, c.states) || len(dialed) > 0 != c.dialed {
				t.Errorf("it reported %v and dialled %d times", states, len(dialed))
			}
			if e, err := x.journal.Read(o.ID); err != nil || e.Result == nil || e.Result.ExitCode != 4 {
				t.Errorf("the journal has %+v, %v", e, err)
			}
		})
	}
}

func TestWhatAKilledAgentLeftIsNamed(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "orders")
	j := state.Journal[exec.Result]{Dir: dir}
	now := time.Now()
	var ids []string
	for i, begun := range []time.Time{now.Add(-time.Hour), now.Add(-time.Hour), now.Add(-48 * time.Hour)} {
		o := order1(now)
		ids = append(ids, o.ID)
		if _, _, err := j.Begin(o.ID, now, begun); err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			if err := j.End(o.ID, begun, exec.Result{}); err != nil {
				t.Fatal(err)
			}
		}
	}
	if lost := executor(t, dir, Options{Runner: never{t}}).Lost(); !slices.Equal(lost, ids[1:2]) {
		t.Errorf("got %v of %v; wanted the second alone", lost, ids)
	}
}

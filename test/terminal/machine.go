// Package terminal is both ends of shells for tests and benchmarks: machines whose shell hosts are the agent's own code, and typists who
// take part by the WebSocket that browsers and the command line use.
//
// A machine's shells are children of this process, and run as its user: what systemd does for a real one is tested in test/e2e.
package terminal

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	agent "github.com/loopbackd/loopback/agent/shell"
	"github.com/loopbackd/loopback/recording"
	"github.com/loopbackd/loopback/shell"
	"github.com/loopbackd/loopback/stream"
	"github.com/loopbackd/loopback/test/fleet"
)

// Machine is where shells of simulated agents run. Fields are set before it is used.
type Machine struct {
	Dir   string // of the spool
	Start agent.Start
	Log   *slog.Logger

	once   sync.Once
	ctx    context.Context
	stop   context.CancelFunc
	spool  *recording.Spool
	failed error
	work   sync.WaitGroup
}

// Begin begins a shell: for fleet.Agent.Shell.
func (m *Machine) Begin(o fleet.ShellOrder) {
	m.once.Do(func() {
		m.ctx, m.stop = context.WithCancel(context.Background())
		if m.Start == nil {
			m.Start = agent.Direct
		}
		if m.Log == nil {
			m.Log = slog.New(slog.DiscardHandler)
		}
		m.spool, m.failed = recording.OpenSpool(m.Dir, 1<<20)
	})
	order, err := shell.ParseOrder(o.GetOrder())
	if err == nil {
		err = m.failed
	}
	if err == nil && order.Forget != "" {
		_ = o.Answer(m.ctx, recording.Forget(m.spool.Path(order.Forget))) // whoever waits for it sees
		return
	}
	if said := o.Answer(m.ctx, err); err != nil || said != nil {
		return
	}
	m.work.Add(2)
	end := stream.New(stream.Options{})
	go func() {
		defer m.work.Done()
		if err := end.Keep(m.ctx, 10*time.Minute, o.Dial); err != nil {
			m.Log.Warn("the stream ended", "session", order.Session, "error", err)
		}
	}()
	go func() {
		defer m.work.Done()
		if err := agent.New(agent.Options{Order: order, Spool: m.spool, End: end, Start: m.Start, Log: m.Log}).Run(m.ctx); err != nil {
			m.Log.Warn("the session ended", "session", order.Session, "error", err)
		}
	}()
}

// Recording is the machine's own of a session.
func (m *Machine) Recording(session string) string { return m.spool.Path(session) }

// Close ends all shells.
func (m *Machine) Close() {
	m.once.Do(func() { m.failed = fmt.Errorf("the machine is off") })
	if m.stop != nil {
		m.stop()
	}
	m.work.Wait()
}

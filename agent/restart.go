package agent

import (
	"context"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/loopbackd/loopback/agent/exec"
	"github.com/loopbackd/loopback/agent/link"
	"github.com/loopbackd/loopback/agent/state"
	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/host"
	"github.com/loopbackd/loopback/id"
)

// restarts carries orders to restart a module out, each once: an order is in the journal before anything is done, and a repeat is
// answered from there. They need no more of agent.yaml than that it let the module run: nothing is applied that was not applied before.
type restarts struct {
	sections *sections
	journal  state.Journal[host.Restart]
	link     *link.Client
	log      *slog.Logger
	ctx      context.Context
	stop     context.CancelFunc

	mu      sync.Mutex
	running map[string]bool // by order
	work    sync.WaitGroup
}

func newRestarts(dir string, s *sections, l *link.Client, log *slog.Logger) *restarts {
	r := &restarts{sections: s, journal: state.Journal[host.Restart]{Dir: dir}, link: l, log: log, running: map[string]bool{}}
	r.ctx, r.stop = context.WithCancel(context.Background())
	r.journal.Prune(time.Now())
	return r
}

// close waits for what is under way, or gives it up.
func (r *restarts) close() {
	r.mu.Lock()
	r.stop()
	r.mu.Unlock()
	r.work.Wait()
}

// order takes an order. It does not wait.
func (r *restarts) order(order, module, grant string, notAfter time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.running[order]:
		r.link.OrderBegun(order) // who asks may not have heard
		return
	case r.ctx.Err() != nil:
		r.link.OrderRefused(order, exec.ErrStopped)
		return
	}
	r.running[order] = true
	r.work.Go(func() {
		answer := r.carry(order, module, grant, notAfter)
		r.mu.Lock()
		delete(r.running, order) // first: a repeat that comes upon the answer is answered, too
		r.mu.Unlock()
		answer()
	})
}

// carry carries an order out, and returns how to answer it.
func (r *restarts) carry(order, module, grant string, notAfter time.Time) (answer func()) {
	began := r.link.Now()
	var known bool
	var e state.Begun[host.Restart]
	var err error = state.ErrOrder
	if id.Valid("op", order) {
		e, known, err = r.journal.Begin(order, notAfter, began)
	}
	switch {
	case err != nil:
		r.log.Warn("the restart of a module is refused", "order", order, "grant", grant, "module", module, "error", err)
		return func() { r.link.OrderRefused(order, fault.Of(err)) }
	case known && e.Result == nil:
		return func() { r.link.OrderKnown(order, string(exec.Indeterminate), 0) }
	case known:
		return func() { r.link.OrderEnded(order, nil, nil, *e.Result) }
	}
	r.log.Info("a module is restarted", "order", order, "grant", grant, "module", module)
	r.link.OrderBegun(order)
	result := r.sections.restart(r.ctx, module)
	if r.ctx.Err() != nil {
		return func() {} // the agent stops, and its next start applies everything anew
	}
	if err := r.journal.End(order, began, result); err != nil {
		r.log.Error("how a restart went cannot be noted", "order", order, "error", err)
	}
	r.log.Info("a module was restarted", "order", order, "module", module, "how", result.String())
	return func() { r.link.OrderEnded(order, nil, nil, result) }
}

// comesBack is how long past its time a module may take to notice that it is over.
const comesBack = 5 * time.Second

// restart has a module stopped and started: what it applied last is applied anew, and its health is looked at. A module that does not
// come back in time is left alone: nothing more is asked of it until it does, and the others go on.
func (s *sections) restart(ctx context.Context, name string) host.Restart {
	m := s.modules[name]
	if m == nil {
		return notRestarted(fault.New(fault.NotFound, "module_unknown", "the host's agent has no module %q", name).
			WithHint("it has %s", strings.Join(slices.Sorted(maps.Keys(s.modules)), ", ")))
	}
	bounded, cancel := context.WithTimeout(ctx, host.RestartWithin)
	defer cancel()
	select {
	case s.turns[name] <- struct{}{}:
	case <-bounded.Done():
		return notRestarted(fault.New(fault.Timeout, "module_busy", "the module %s was busy for all of %s", name, host.RestartWithin).
			WithHint("look at what it does in the agent's journal; restarting the agent on the host ends it: systemctl restart loopback-agent"))
	}
	done := make(chan host.Restart, 1)
	go func() { // ends when the module does
		defer s.stir()
		defer func() { <-s.turns[name] }()
		done <- s.anew(ctx, bounded, m)
	}()
	select {
	case r := <-done:
		return r
	case <-bounded.Done():
	}
	late := time.NewTimer(comesBack)
	defer late.Stop()
	select {
	case r := <-done:
		return r
	case <-late.C:
		return notRestarted(fault.New(fault.Timeout, "module_hung", "the module %s did not come back within %s", name, host.RestartWithin).
			WithHint("restarting the agent on the host ends it: systemctl restart loopback-agent"))
	}
}

func notRestarted(err error) host.Restart {
	f := fault.Of(err)
	return host.Restart{ErrorCode: f.Code, Error: f.Message, Hint: f.Hint}
}

// anew is the restart itself, within bounded, which is of ctx, the agent's life. The module's turn is taken.
func (s *sections) anew(ctx, bounded context.Context, m Module) (r host.Restart) {
	defer func() {
		if p := recover(); p != nil {
			r = notRestarted(fault.New(fault.Internal, "module_panicked", "the module %s panicked: %v", m.Name(), p))
		}
	}()
	if stops, ok := m.(Restarter); ok {
		if err := stops.Restart(bounded); err != nil {
			return notRestarted(fault.New(fault.Precondition, "module_not_restarted", "the module %s did not start: %s", m.Name(), fault.Of(err).Message))
		}
	}
	if good, ok := s.good(m.Name()); ok {
		until, _ := bounded.Deadline()
		st := s.apply(ctx, m.Name(), good, time.Until(until))
		r.State, r.Revision, r.Message = st.State, good.Revision.String(), st.Message
	} else {
		s.applied()
	}
	s.mu.Lock()
	if h := s.held[m.Name()]; h != nil && h.latest.Revision.Compare(h.good.Revision) > 0 {
		h.todo, r.Newer = true, true
	}
	s.mu.Unlock()
	health := m.Health()
	r.Healthy, r.Health = health.Healthy, health.Message
	return r
}

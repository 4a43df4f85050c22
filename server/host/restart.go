package host

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/loopbackd/loopback/access"
	"github.com/loopbackd/loopback/audit"
	"github.com/loopbackd/loopback/exec"
	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/host"
	"github.com/loopbackd/loopback/id"
	"github.com/loopbackd/loopback/operation"
	"github.com/loopbackd/loopback/server/feed"
	"github.com/loopbackd/loopback/tenant"
)

// The restart of a module is an operation that no worker carries out. Whichever replica holds the host's link finds it in the database
// and tells the host, again for as long as that says nothing; the host does it once. What the host says ends it, by whichever replica
// hears that. Its lease runs until the host has to have answered: who leases it then says that it has not.

// How long things may take.
const (
	restartBegins = 15 * time.Second // an order is void after it
	restartLate   = 10 * time.Second // past which a host is waited for no more
	restartAgain  = 2 * time.Second  // a host that says nothing is told again
	restartLook   = time.Second
)

// Names of steps.
const (
	stepTell    = "tell the host"
	stepRestart = "restart the module"
)

// restart is the input of the operation.
type restart struct {
	Module   string     `json:"module"`
	NotAfter time.Time  `json:"notAfter"`
	By       exec.Actor `json:"by"` // who asked, as far as it takes to ask again whether they may
}

// restartRecord is what the audit log shows of one.
type restartRecord struct {
	Module  string          `json:"module"`
	State   operation.State `json:"state,omitempty"`
	Message string          `json:"message,omitempty"`
	Error   string          `json:"error,omitempty"` // its code
}

// RestartModule has a host restart a module of its agent.
func (s *Service) RestartModule(ctx context.Context, ref Ref, module, reason, requestID string) (operation.Operation, error) {
	var c fault.Check
	c.That(module != "" && len(module) <= 64, "module", "is empty, or longer than 64 bytes")
	checkRequest(&c, reason, requestID)
	if err := c.Err("request_invalid", "the request is not valid"); err != nil {
		return operation.Operation{}, err
	}
	actor, now := access.ActorFrom(ctx), s.now().UTC()
	found, err := s.find(ctx, ref, host.RestartModule)
	if err != nil {
		return operation.Operation{}, err
	}
	var out operation.Operation
	err = s.store.Write(ctx, func(tx Tx) error {
		have, repeated, err := repeat(ctx, tx, actor, operation.RestartModule, found.ID, requestID)
		if err != nil || repeated {
			out = have
			return err
		}
		h, err := s.permitted(ctx, tx, found.ID, ref, host.RestartModule)
		if err != nil {
			return err
		}
		if err := s.restartable(h, module); err != nil {
			return err
		}
		decision := actor.DecideOn(host.RestartModule, h.Scope, h.ID, h.Labels)
		in := restart{module, now.Add(restartBegins), exec.ActorOf(actor, decision)}
		in.By.Reason = cmp.Or(reason, actor.Reason)
		out = operation.Operation{
			Meta: tenant.Meta{ID: id.New("op", now), Name: string(operation.RestartModule), CreatedAt: now}, Kind: operation.RestartModule,
			Scope: h.Scope, Target: h.ID, State: operation.Pending, Actor: actor.ID, RequestID: requestID, LeaseUntil: in.NotAfter.Add(restartLate),
			Steps: []operation.Step{{Name: stepTell, State: operation.Running, StartedAt: now}, {Name: stepRestart + " " + module, State: operation.Pending}},
		}
		out.Input, _ = json.Marshal(in) // plain fields
		if out, err = tx.PutOperation(ctx, out); err != nil {
			return err
		}
		return tx.Audit(ctx, audit.Of(actor, host.RestartModule, h.Scope, h.ID, h.Name).By(decision).Because(reason).Change(nil, restartRecord{Module: module}))
	})
	return out, err
}

// restartable demands that a host can restart a module now.
func (s *Service) restartable(h host.Host, module string) error {
	if now, ok := s.fleet.Host(h.ID); ok {
		h.Facts = now.Facts
	}
	var names []string
	for _, m := range h.Modules {
		names = append(names, m.Module)
	}
	_, _, linked := s.presence.Seen(h.ID)
	switch {
	case h.Lifecycle == host.LifecycleRemoved:
		return removed(&h)
	case h.Lifecycle == host.LifecycleUnmanaged:
		return fault.New(fault.Precondition, "host_unmanaged", "host %s has no agent, and so no modules", h.Name)
	case h.Lifecycle != host.LifecycleActive:
		return fault.New(fault.Precondition, "host_not_managed", "host %s is %s, and takes no orders", h.Name, h.Lifecycle)
	case !linked && !h.Online:
		return fault.New(fault.Unavailable, "host_offline", "host %s is offline", h.Name).WithHint("see since when: loopback host show %s", h.Name)
	case len(names) > 0 && !slices.Contains(names, module): // one that never said which it has is asked
		return fault.New(fault.NotFound, "module_unknown", "the agent of host %s has no module %q", h.Name, module).WithHint("it has %s", strings.Join(names, ", "))
	}
	return nil
}

// RestartLinks reach the hosts.
type RestartLinks interface {
	// RestartModule tells a host of an order; false where its link is not here.
	RestartModule(hostID, order, grant, module string, notAfter time.Time) bool
}

// RestartReport is a host's word on an order to restart a module.
type RestartReport struct {
	HostID, OrderID string
	State           string // refused, begun, ended, indeterminate
	Why             *fault.Error
	Result          []byte // host.Restart as JSON, of one that ended
}

// Restarts have hosts told of restarts, and take in what they say.
type Restarts struct {
	service *Service
	links   RestartLinks
	policy  *access.Policy
	log     *slog.Logger
	ended   *prometheus.CounterVec
	wake    chan struct{}
	told    map[string]time.Time // by operation: when its host was told here; Run's

	mu      sync.Mutex
	reports []RestartReport
}

// NewRestarts makes the worker.
func NewRestarts(s *Service, links RestartLinks, policy *access.Policy, log *slog.Logger, r prometheus.Registerer) *Restarts {
	w := &Restarts{service: s, links: links, policy: policy, log: log, wake: make(chan struct{}, 1), told: map[string]time.Time{}, ended: prometheus.NewCounterVec(
		prometheus.CounterOpts{Name: "loopback_module_restarts_total", Help: "Restarts of agents' modules that have ended, by how."}, []string{"state"})}
	if r != nil {
		r.MustRegister(w.ended)
	}
	return w
}

func (w *Restarts) look() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// Apply looks for restarts where operations changed.
func (w *Restarts) Apply(changes []feed.Change) {
	if slices.ContainsFunc(changes, func(c feed.Change) bool { return c.Kind == feed.Operation }) {
		w.look()
	}
}

// Follow is Apply for what a feed brings, until ctx ends.
func (w *Restarts) Follow(ctx context.Context, from *feed.Subscription) error {
	for {
		changes, anew, err := from.Next(ctx)
		if err != nil {
			return nil
		}
		if anew {
			w.look()
		}
		w.Apply(changes)
	}
}

// Reported takes a host's word. It does not wait.
func (w *Restarts) Reported(r RestartReport) {
	w.mu.Lock()
	w.reports = append(w.reports, r)
	w.mu.Unlock()
	w.look()
}

// Run works until ctx ends. Where no restart is under way it looks at nothing until an operation changes or a host says something.
func (w *Restarts) Run(ctx context.Context) error {
	for {
		open, err := w.Once(ctx)
		if err != nil && ctx.Err() == nil {
			w.log.Warn("cannot see restarts of modules through", "error", err)
		}
		var again <-chan time.Time
		if open || err != nil {
			again = time.After(restartLook)
		}
		select {
		case <-w.wake:
		case <-again:
		case <-ctx.Done():
			return nil
		}
	}
}

// Once takes in what hosts said, and tells those that are to be told now. It tells whether a restart is under way.
func (w *Restarts) Once(ctx context.Context) (bool, error) {
	w.mu.Lock()
	reports := w.reports
	w.reports = nil
	w.mu.Unlock()
	var failed error
	for _, r := range reports { // one that cannot be stored now is said again when its host is told again
		failed = errors.Join(failed, w.note(ctx, r))
	}
	q := operation.Query{Readable: access.Everywhere(), States: []operation.State{operation.Pending, operation.Running}, Page: tenant.Page{Size: tenant.MaxPage}}
	open := map[string]bool{}
	for {
		page, next, err := w.service.store.View().Operations(ctx, q)
		if err != nil {
			return false, errors.Join(failed, err)
		}
		for _, o := range page {
			if o.Kind == operation.RestartModule {
				open[o.ID] = true
				failed = errors.Join(failed, w.tell(ctx, o))
			}
		}
		if q.Page.Token = next; next == "" {
			break
		}
	}
	for id := range w.told {
		if !open[id] {
			delete(w.told, id)
		}
	}
	return len(open) > 0, failed
}

// tell tells a host, where its link is here and it has said nothing for a while.
func (w *Restarts) tell(ctx context.Context, o operation.Operation) error {
	now := w.service.now()
	if told, ok := w.told[o.ID]; ok && now.Sub(told) < restartAgain {
		return nil
	}
	var in restart
	if err := json.Unmarshal(o.Input, &in); err != nil {
		return w.end(ctx, o.ID, "", fault.New(fault.Internal, "operation_input", "the operation's input cannot be read").WithCause(err))
	}
	h, ok := w.service.fleet.Host(o.Target)
	if !ok {
		return nil // its lease runs out
	}
	if w.policy.Closed() {
		return nil
	}
	if o.State == operation.Pending && !in.By.Under(w.policy, host.RestartModule).DecideOn(host.RestartModule, h.Scope, h.ID, h.Labels).Allowed {
		return w.end(ctx, o.ID, "", fault.New(fault.Denied, "permission_ended", "whoever asked for it may not restart modules there any more"))
	}
	if w.links.RestartModule(h.ID, o.ID, in.By.Rule, in.Module, in.NotAfter) {
		w.told[o.ID] = now
	}
	return nil
}

// note takes in what a host said.
func (w *Restarts) note(ctx context.Context, r RestartReport) error {
	o, err := w.service.store.View().Operation(ctx, r.OrderID)
	switch {
	case fault.KindOf(err) == fault.NotFound:
		return nil // of an operation that was deleted, or a stranger's invention
	case err != nil:
		return err
	case o.Kind != operation.RestartModule || o.Target != r.HostID:
		return nil
	}
	switch r.State {
	case "begun":
		return w.begun(ctx, r.OrderID)
	case "refused":
		return w.end(ctx, o.ID, "", r.Why)
	case "ended":
		var in restart
		var how host.Restart
		if json.Unmarshal(o.Input, &in) != nil || json.Unmarshal(r.Result, &how) != nil {
			return w.end(ctx, o.ID, "", fault.New(fault.Internal, "restart_answer", "the host's answer cannot be read"))
		}
		return w.end(ctx, o.ID, how.String(), asError(how.Fault(in.Module)))
	case "indeterminate":
		return w.end(ctx, o.ID, "", fault.New(fault.Unavailable, "order_indeterminate", "the host's agent ended before it told how the restart went; at its start it applied everything anew"))
	}
	return nil // of a newer host
}

func asError(f *fault.Error) error {
	if f == nil {
		return nil
	}
	return f
}

// begun notes that the host has begun, and gives it the time that it may take.
func (w *Restarts) begun(ctx context.Context, operationID string) error {
	return w.service.store.Observe(ctx, func(tx Tx) error {
		o, err := tx.Operation(ctx, operationID)
		if err != nil || o.State != operation.Pending {
			return err
		}
		now := w.service.now().UTC()
		o.State, o.Progress, o.LeaseUntil = operation.Running, 0.5, now.Add(host.RestartWithin+restartLate)
		o.Steps = slices.Clone(o.Steps)
		o.Steps[0].State, o.Steps[0].EndedAt = operation.Succeeded, now
		o.Steps[1].State, o.Steps[1].StartedAt = operation.Running, now
		_, err = tx.PutOperation(ctx, o)
		return err
	})
}

// end writes how a restart ended, once, in the audit log, too.
func (w *Restarts) end(ctx context.Context, operationID, message string, failure error) error {
	var o operation.Operation
	err := w.service.store.Write(ctx, func(tx Tx) error {
		var err error
		if o, err = tx.Operation(ctx, operationID); err != nil || o.State.Ended() {
			o.State = ""
			return err
		}
		h, err := tx.Host(ctx, o.Target)
		if err != nil {
			return err
		}
		now := w.service.now().UTC()
		o.LeaseOwner, o.LeaseUntil, o.EndedAt = "", time.Time{}, now
		o.Attempt++ // whoever leased it finds its attempt over
		o.Steps = slices.Clone(o.Steps)
		if failure == nil {
			o.State, o.Progress = operation.Succeeded, 1
		} else {
			f := fault.Of(failure)
			o.State, o.ErrorCode, o.Error = operation.Failed, f.Code, f.Message
			if f.Hint != "" {
				o.Error += "; " + f.Hint
			}
			message = o.Error
		}
		at := slices.IndexFunc(o.Steps, func(s operation.Step) bool { return !s.State.Ended() })
		if failure == nil {
			o.Steps[0].State, at = operation.Succeeded, 1 // also where the word that it had begun was lost
		}
		if at >= 0 {
			o.Steps[at].State, o.Steps[at].Message, o.Steps[at].EndedAt = o.State, message, now
		}
		if o, err = tx.PutOperation(ctx, o); err != nil {
			return err
		}
		var in restart
		_ = json.Unmarshal(o.Input, &in) // one that cannot be read has failed for that
		return tx.Audit(ctx, audit.Of(access.Actor{Kind: access.System, ID: o.ID, Name: "operation " + o.Name}, host.RestartModule, h.Scope, h.ID, h.Name).
			Because(in.By.Reason).Change(restartRecord{Module: in.Module}, restartRecord{in.Module, o.State, message, o.ErrorCode}))
	})
	if err == nil && o.State != "" {
		w.ended.WithLabelValues(string(o.State)).Inc()
	}
	return err
}

// Late ends a restart whose host has not answered in time, as the handler of its operation.
func (w *Restarts) Late(ctx context.Context, t Task) error {
	o := t.Operation()
	why := fault.New(fault.Timeout, "host_silent", "the host did not answer in time; it does not begin any more").
		WithHint("see whether it is linked: loopback host show %s; an agent of an old version may not know this order: update it", o.Target)
	if len(o.Steps) > 0 && o.Steps[0].State == operation.Succeeded {
		why = fault.New(fault.Timeout, "host_lost", "the host began to restart the module, and nothing was heard of it since")
	}
	return w.end(ctx, o.ID, "", why)
}

// Package exec has commands run on hosts, each once on each host.
//
// A run and a row for each of its hosts are written in one transaction, with the audit entry that says who runs what where and
// why, before any host hears of it. From then on two kinds of work go on, and both survive the replica that does them:
//
//	leading   one replica, by lease: whose turn is it (canaries, places, failures borne), who was not heard of in time, is it over
//	carrying  the replica that holds a host's link: take the row (compare and swap), tell the host, store what its stream brings
//
// The database is what they meet in. The bus brings no more than "run exec_… changed"; what is to be done is read from the rows.
//
// A host is told an order that is void after a short while. Where nothing was heard of it by then, the host is unreachable, and
// the command does not begin there later either. A command that runs is waited for until its timeout, and a little longer; a
// host that says nothing by then has timed out. Neither holds up the others for longer than it takes a place.
//
// A command that ends at once and writes little is answered on the host's link (Reported), many hosts' answers in one transaction; all
// others come by a stream each.
//
// Output is stored as it comes, up to a bound for each channel; what is past it is counted and dropped. A byte is acknowledged
// to the host when it is stored, so that a control plane that is killed goes on where it was, on another replica too.
//
// Whether the caller may still run it is asked before hosts are told, whenever a stream comes, and whenever rules or credentials
// change: a run whose grant, or whose API key, ended is cancelled.
package exec

import (
	"context"
	"log/slog"
	"maps"
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
	"github.com/loopbackd/loopback/label"
	"github.com/loopbackd/loopback/stream"
	"github.com/loopbackd/loopback/tenant"
)

// Reader reads runs.
type Reader interface {
	Exec(ctx context.Context, id string) (exec.Run, error)
	ExecByRequest(ctx context.Context, actorID, requestID string) (exec.Run, error)
	Execs(ctx context.Context, q exec.Query) ([]exec.Run, string, error)
	// ExecTallies are how many hosts of each of these runs are in which state.
	ExecTallies(ctx context.Context, runs []string) (map[string]map[exec.HostState]int, error)
	ExecHosts(ctx context.Context, runID string, after int64) ([]exec.Host, error)
	// UnansweredExecHosts are those whose turn has come, and those that were told and have said nothing.
	UnansweredExecHosts(ctx context.Context, runID string) ([]exec.Host, error)
	ExecHost(ctx context.Context, id string) (exec.Host, error)
	ExecOutput(ctx context.Context, runID string, after exec.Mark, limit int) ([]exec.Output, exec.Mark, error)
}

// Tx changes them.
type Tx interface {
	Reader
	PutExec(ctx context.Context, r exec.Run) (exec.Run, error)
	LeaseExec(ctx context.Context, owner string, now, until time.Time) (exec.Run, bool, error)
	HoldExec(ctx context.Context, id string, attempt int64, until time.Time) error
	PutExecHosts(ctx context.Context, runID string, at access.Scope, hosts []exec.Host, output []exec.Output) error
	PruneExecs(ctx context.Context, before time.Time) (more bool, err error)
	Audit(ctx context.Context, e audit.Entry) error
}

// Store is where they are kept.
type Store interface {
	View() Reader
	Write(ctx context.Context, change func(Tx) error) error
	Observe(ctx context.Context, change func(Tx) error) error
}

// Tenants finds a workspace by id or name.
type Tenants interface {
	Frame(ctx context.Context, ref string, p access.Permission) (tenant.Workspace, error)
}

// Hosts finds hosts that the caller holds a permission on.
type Hosts interface {
	Find(ctx context.Context, name, workspace string, p access.Permission) (host.Host, error)
}

// Fleet is every host in memory.
type Fleet interface {
	Snapshot(within access.Scope) ([]*host.Host, int64)
	Host(id string) (*host.Host, bool)
}

// Order is what a host is told.
type Order struct {
	ID         string
	NotAfter   time.Time
	Grant      string
	Stream     string
	Credential []byte
	Command    exec.Command
	Prompt     bool // the host begins at once, and may answer on its link
}

// Links reach the hosts.
type Links interface {
	// Online tells whether a host is linked to any replica, or was a moment ago.
	Online(hostID string) bool
	// Holds tells whether its link is here.
	Holds(hostID string) bool
	// Order tells a host of an order; false where its link is not here.
	Order(hostID string, o Order) bool
	// Word tells a host of an order that it has: that its report is stored, or that the command is to end.
	Word(hostID, orderID string, stored, cancel bool)
}

// Session is a stream that a host is to dial.
type Session struct {
	ID        string
	HostID    string
	End       *stream.End
	Authorise func(context.Context) error
}

// Streams are where hosts' streams come in.
type Streams interface {
	Name(id string) string
	Credential(id string) []byte
	Expect(Session) (forget func())
}

// Keys tell whether an API key still opens anything, and what: an error of kind Unauthenticated where it does not.
type Keys interface {
	Bound(ctx context.Context, keyID string) (access.Actor, error)
}

// Options of a Service.
type Options struct {
	Policy     *access.Policy
	Keys       Keys // nil: none is asked about
	Replica    string
	Now        func() time.Time
	Logger     *slog.Logger
	Registerer prometheus.Registerer
}

// Service has commands run.
type Service struct {
	Options
	store   Store
	tenants Tenants
	hosts   Hosts
	fleet   Fleet
	links   Links
	streams Streams
	metrics *metrics

	mu       sync.Mutex
	waiting  map[string]map[chan struct{}]bool // by run: who waits for a change of it
	carried  map[string]*carried               // by order
	leading  map[string]bool                   // by run
	changed  map[string]bool                   // runs that may have something for this replica
	wake     chan struct{}
	reports  []Report
	reported chan struct{}
	work     sync.WaitGroup
	lifetime context.Context
}

// NewService makes the service.
func NewService(store Store, tenants Tenants, hosts Hosts, fleet Fleet, links Links, streams Streams, o Options) *Service {
	return &Service{
		Options: o, store: store, tenants: tenants, hosts: hosts, fleet: fleet, links: links, streams: streams, metrics: newMetrics(o.Registerer),
		waiting: map[string]map[chan struct{}]bool{}, carried: map[string]*carried{}, leading: map[string]bool{}, changed: map[string]bool{},
		wake: make(chan struct{}, 1), reported: make(chan struct{}, 1),
	}
}

// Request is what somebody wants run, and where: on hosts by name or id, or on those of a workspace that a selector matches, or
// on all of it.
type Request struct {
	Workspace string
	Hosts     []string
	Selector  string
	All       bool
	exec.Run
}

// Start records a run. It is begun behind it. Where the run names a permission and what it is (exec.Actor), whoever has the caller
// start it has made sure that the command is what that permission is for.
func (s *Service) Start(ctx context.Context, q Request) (exec.Run, error) {
	actor := access.ActorFrom(ctx)
	r := q.Run
	if r.Command.Timeout == 0 {
		r.Command.Timeout = exec.DefaultTimeout
	}
	if r.Concurrency == 0 {
		r.Concurrency = exec.DefaultConcurrency
	}
	if err := r.Validate(); err != nil {
		return exec.Run{}, err
	}
	if r.By() == exec.Start && strings.TrimSpace(actor.Reason) == "" {
		return exec.Run{}, fault.New(fault.Invalid, "reason_required", "running a command needs a reason").
			WithHint("say why: loopback --reason 'what for' exec …, or the header %s", access.ReasonHeader)
	}
	if done, err := s.store.View().ExecByRequest(ctx, actor.ID, r.RequestID); err == nil {
		return done, nil
	}
	targets, decision, err := s.targets(ctx, actor, q)
	if err != nil {
		return exec.Run{}, err
	}
	now := s.Now().UTC()
	r.ID, r.Name, r.Scope, r.State, r.Stdin = id.New("exec", now), r.Command.String(), targets[0].Scope, exec.Running, r.Command.Stdin
	for _, t := range targets {
		r.Scope = common(r.Scope, t.Scope)
	}
	by := exec.ActorOf(actor, decision)
	by.Permission, by.As, by.Of = r.Actor.Permission, r.Actor.As, r.Actor.Of
	r.Actor = by
	r.LeaseOwner, r.LeaseUntil, r.Attempt = s.Replica, now.Add(lease), 1
	rows := make([]exec.Host, len(targets))
	names := make([]string, 0, min(len(targets), 100))
	for i, t := range targets {
		rows[i] = exec.Host{ID: id.New("ord", now), RunID: r.ID, HostID: t.ID, Name: t.Name, Place: i, State: exec.Waiting, Since: now}
		if len(names) < cap(names) {
			names = append(names, t.Name)
		}
	}
	r.Counts = count(rows)
	err = s.store.Write(ctx, func(tx Tx) error {
		if r, err = tx.PutExec(ctx, r); err != nil {
			return err
		}
		if err := tx.PutExecHosts(ctx, r.ID, r.Scope, rows, nil); err != nil {
			return err
		}
		return tx.Audit(ctx, audit.Of(actor, r.By(), r.Scope, r.ID, r.Name).By(decision).Change(nil, record{
			As:        r.Actor.As,
			Arguments: r.Command.Arguments, Shell: r.Command.Shell, User: r.Command.User, Hosts: len(rows), Names: names, Stdin: len(r.Stdin),
		}))
	})
	if err != nil {
		return exec.Run{}, err
	}
	s.metrics.started.Inc()
	s.lead(r)
	return r, nil
}

// record is what the audit log shows of a run.
type record struct {
	As        string                 `json:"as,omitempty"`
	Arguments []string               `json:"arguments"`
	Shell     bool                   `json:"shell,omitempty"`
	User      string                 `json:"user,omitempty"`
	Stdin     int                    `json:"stdinBytes,omitempty"`
	Hosts     int                    `json:"hosts"`
	Names     []string               `json:"names,omitempty"` // of the first hundred
	State     exec.State             `json:"state,omitempty"`
	Outcome   map[exec.HostState]int `json:"outcome,omitempty"`
}

func common(a, b access.Scope) access.Scope {
	switch {
	case a.Organisation != b.Organisation:
		return access.Scope{}
	case a.Project != b.Project:
		return access.Scope{Organisation: a.Organisation}
	case a.Workspace != b.Workspace:
		return access.Scope{Organisation: a.Organisation, Project: a.Project}
	}
	return a
}

// targets are the hosts of a request, all of which the caller may run commands on.
func (s *Service) targets(ctx context.Context, actor access.Actor, q Request) ([]host.Host, access.Decision, error) {
	var decision access.Decision
	ways := 0
	for _, one := range []bool{len(q.Hosts) > 0, q.Selector != "", q.All} {
		if one {
			ways++
		}
	}
	if ways != 1 {
		var c fault.Check
		c.Add("hosts", "or a selector, or all: exactly one of them says where the command runs")
		return nil, decision, c.Err("exec_targets_invalid", "it is not clear where the command is to run")
	}
	var out []host.Host
	if len(q.Hosts) > 0 {
		seen := map[string]bool{}
		for _, name := range q.Hosts {
			h, err := s.hosts.Find(ctx, name, q.Workspace, q.By())
			if err != nil {
				return nil, decision, err
			}
			if !seen[h.ID] {
				out = append(out, h)
			}
			seen[h.ID] = true
		}
	} else {
		selector, err := label.Parse(q.Selector)
		if err != nil {
			return nil, decision, err
		}
		var within access.Scope
		if q.Workspace != "" {
			w, err := s.tenants.Frame(ctx, q.Workspace, host.Read)
			if err != nil {
				return nil, decision, err
			}
			within = w.Scope()
		}
		all, _ := s.fleet.Snapshot(within)
		for _, h := range all {
			if h.Lifecycle == host.LifecycleActive && selector.Matches(h.Labels) && actor.DecideOn(host.Read, h.Scope, h.ID, h.Labels).Allowed {
				if err := actor.RequireHost(q.By(), h.Scope, h.ID, h.Labels, host.Read, "host "+h.Name); err != nil {
					return nil, decision, err // a part of what was asked for is not what was asked for
				}
				out = append(out, *h)
			}
		}
		slices.SortFunc(out, func(a, b host.Host) int { return strings.Compare(a.Name, b.Name) })
	}
	switch {
	case len(out) == 0:
		return nil, decision, fault.New(fault.NotFound, "exec_no_hosts", "no host matches").WithHint("see which there are: loopback host list")
	case len(out) > exec.MaxHosts:
		return nil, decision, fault.New(fault.Invalid, "exec_too_many_hosts", "%d hosts match; at most %d are allowed in one run", len(out), exec.MaxHosts)
	}
	return out, actor.DecideOn(q.By(), out[0].Scope, out[0].ID, out[0].Labels), nil
}

// Get is one run.
func (s *Service) Get(ctx context.Context, id string) (exec.Run, error) {
	r, err := s.permitted(ctx, s.store.View(), id, exec.Read)
	if err != nil {
		return exec.Run{}, err
	}
	return r, s.tally(ctx, []*exec.Run{&r})
}

// tally counts the hosts of runs that go on. What is kept with a run is how they were at its start, until it is how they are at its
// end: to keep it true in between would be a write of the run for each host that says something.
func (s *Service) tally(ctx context.Context, runs []*exec.Run) error {
	var running []string
	for _, r := range runs {
		if r.State == exec.Running {
			running = append(running, r.ID)
		}
	}
	now, err := s.store.View().ExecTallies(ctx, running)
	if err != nil {
		return err
	}
	for _, r := range runs {
		if counts, ok := now[r.ID]; ok {
			r.Counts = counts
		}
	}
	return nil
}

func (s *Service) permitted(ctx context.Context, r Reader, id string, p access.Permission) (exec.Run, error) {
	run, err := r.Exec(ctx, id)
	if err != nil {
		return exec.Run{}, err
	}
	actor := access.ActorFrom(ctx)
	if run.Actor.ID == actor.ID && actor.Touches(p) {
		return run, nil
	}
	return run, actor.Require(p, run.Scope, exec.Read, "command "+id)
}

// List is the runs that the caller may see, newest first.
func (s *Service) List(ctx context.Context, workspace string, q exec.Query) ([]exec.Run, string, error) {
	actor := access.ActorFrom(ctx)
	if actor.Kind == access.Anonymous || actor.Kind == "" {
		return nil, "", access.ErrUnauthenticated
	}
	if workspace != "" {
		w, err := s.tenants.Frame(ctx, workspace, exec.Read)
		if err != nil {
			return nil, "", err
		}
		q.Within = w.Scope()
	}
	q.Readable = actor.Readable(exec.Read)
	list, next, err := s.store.View().Execs(ctx, q)
	if err != nil {
		return nil, "", err
	}
	runs := make([]*exec.Run, len(list))
	for i := range list {
		runs[i] = &list[i]
	}
	return list, next, s.tally(ctx, runs)
}

// Cancel has a run end: it is begun on no further host, and ended where it runs.
func (s *Service) Cancel(ctx context.Context, id string) (exec.Run, error) {
	var r exec.Run
	err := s.store.Write(ctx, func(tx Tx) (err error) {
		if r, err = s.permitted(ctx, tx, id, exec.Cancel); err != nil || r.State != exec.Running || r.Cancelled {
			return err
		}
		actor := access.ActorFrom(ctx)
		r.Cancelled, r.Reason = true, "cancelled by "+actor.Name
		if r, err = tx.PutExec(ctx, r); err != nil {
			return err
		}
		return tx.Audit(ctx, audit.Of(actor, exec.Cancel, r.Scope, r.ID, r.Name))
	})
	s.look(id)
	if err != nil {
		return exec.Run{}, err
	}
	return r, s.tally(ctx, []*exec.Run{&r})
}

// Event is something that watchers of a run see.
type Event struct {
	Run    *exec.Run
	Host   *exec.Host
	Output *exec.Output
}

// tallyEvery is how often, at most, watchers are told of a run because of its hosts alone: each of them is told of by itself.
const tallyEvery = time.Second

// outputAtOnce is how many pieces of output are read at a time.
const outputAtOnce = 64

// Watch tells what has come of a run, and, where follow, what comes of it until it has ended: hosts as they change, and their
// output before their end.
func (s *Service) Watch(ctx context.Context, runID string, follow, output bool, tell func(Event) error) error {
	changed, stop := s.watch(runID)
	defer stop()
	again := time.NewTicker(5 * time.Second) // what is told by the feed is a hint
	defer again.Stop()
	var hosts, told int64
	var outputs exec.Mark
	states, counts := map[string]exec.HostState{}, map[exec.HostState]int{} // by order; as they were told
	var tallied map[exec.HostState]int
	var talliedAt time.Time
	for {
		r, err := s.permitted(ctx, s.store.View(), runID, exec.Read)
		if err != nil {
			return err
		}
		rows, err := s.store.View().ExecHosts(ctx, runID, hosts)
		if err != nil {
			return err
		}
		for output {
			pieces, to, err := s.store.View().ExecOutput(ctx, runID, outputs, outputAtOnce)
			if err != nil {
				return err
			}
			for i := range pieces {
				if err := tell(Event{Output: &pieces[i]}); err != nil {
					return err
				}
			}
			if outputs = to; len(pieces) < outputAtOnce {
				break
			}
		}
		for i := range rows {
			h := rows[i]
			hosts = max(hosts, h.Revision)
			if before, ok := states[h.ID]; ok {
				if counts[before]--; counts[before] == 0 {
					delete(counts, before)
				}
			}
			states[h.ID] = h.State
			counts[h.State]++
			if err := tell(Event{Host: &rows[i]}); err != nil {
				return err
			}
		}
		over := r.State != exec.Running
		if !over {
			r.Counts = counts
		}
		if now := s.Now(); r.Revision != told || over || now.Sub(talliedAt) >= tallyEvery && !maps.Equal(counts, tallied) {
			told, tallied, talliedAt = r.Revision, maps.Clone(counts), now
			if err := tell(Event{Run: &r}); err != nil {
				return err
			}
		}
		if over || !follow {
			return nil
		}
		select {
		case <-changed:
		case <-again.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (s *Service) watch(id string) (<-chan struct{}, func()) {
	c := make(chan struct{}, 1)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.waiting[id] == nil {
		s.waiting[id] = map[chan struct{}]bool{}
	}
	s.waiting[id][c] = true
	return c, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.waiting[id], c)
		if len(s.waiting[id]) == 0 {
			delete(s.waiting, id)
		}
	}
}

func count(rows []exec.Host) map[exec.HostState]int {
	out := map[exec.HostState]int{}
	for _, h := range rows {
		out[h.State]++
	}
	return out
}

type metrics struct {
	started prometheus.Counter
	ended   *prometheus.CounterVec
	hosts   *prometheus.CounterVec
	dropped prometheus.Counter
}

func newMetrics(r prometheus.Registerer) *metrics {
	m := &metrics{
		started: prometheus.NewCounter(prometheus.CounterOpts{Name: "loopback_exec_runs_started_total", Help: "Commands that were started, each on any number of hosts."}),
		ended:   prometheus.NewCounterVec(prometheus.CounterOpts{Name: "loopback_exec_runs_ended_total", Help: "Commands that have ended, by how."}, []string{"state"}),
		hosts:   prometheus.NewCounterVec(prometheus.CounterOpts{Name: "loopback_exec_hosts_total", Help: "Hosts on which a command has ended, by what came of it."}, []string{"state"}),
		dropped: prometheus.NewCounter(prometheus.CounterOpts{Name: "loopback_exec_output_dropped_bytes_total", Help: "Bytes of commands' output past what is kept of a host."}),
	}
	if r != nil {
		r.MustRegister(m.started, m.ended, m.hosts, m.dropped)
	}
	return m
}

// Package shell opens shells on hosts, lets people take part in them, and keeps what was seen.
//
// A session is a row, and, on the replica that it was opened on, a live end:
//
//	typist ──▶ live ══ stream ══▶ host        what is typed
//	typist ◀── recording ◀── live ◀══ host    what is shown
//	watcher ◀──────┘
//
// What comes from the host is recorded first, and shown from the recording, to each who takes part at their own pace: whoever is
// slow or gone holds nothing in memory. It is acknowledged to the host once it is on the disk, so a control plane that dies takes
// nothing with it. Typists hold the host back when they are far behind, as a slow terminal holds back a program; watchers do not.
//
// The start of a session is in the audit log before the host hears of it, and so before the first byte; the end always comes, from
// Run where nobody else is left to write it. Whoever opened it is asked again whenever rules or credentials change: once they may
// not open a shell there any more, the session ends.
//
// Recordings are kept for as long as the retention of their place says, and longer while they are held: see Keep. One can be deleted on
// purpose. Its key goes first, so that nobody reads what is left of it anywhere; what the session was, and what its recording came to,
// stays.
//
// When a recording cannot be written, its session ends. When the control plane restarts, sessions go on as soon as their hosts are
// back, and may do so shell.MaxLives times.
package shell

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/loopbackd/loopback/access"
	"github.com/loopbackd/loopback/audit"
	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/host"
	"github.com/loopbackd/loopback/id"
	"github.com/loopbackd/loopback/principal"
	"github.com/loopbackd/loopback/recording"
	"github.com/loopbackd/loopback/secret"
	"github.com/loopbackd/loopback/shell"
	"github.com/loopbackd/loopback/stream"
	"github.com/loopbackd/loopback/tenant"
)

// Reader reads sessions.
type Reader interface {
	ShellSession(ctx context.Context, id string) (shell.Session, error)
	ShellSessions(ctx context.Context, q shell.Query) ([]shell.Session, string, error)
	OpenShellSessions(ctx context.Context, replica string) ([]shell.Session, error)
	CountShellSessions(ctx context.Context, hostID, principal string) (int64, error)
	Principal(ctx context.Context, id string) (principal.Principal, error)
	Keeping
	Reviewing
}

// Tx changes them.
type Tx interface {
	Reader
	KeepTx
	PutShellSession(ctx context.Context, s shell.Session) (shell.Session, error)
	Audit(ctx context.Context, e audit.Entry) error
}

// Store is where they are kept.
type Store interface {
	View() Reader
	Write(ctx context.Context, change func(Tx) error) error
	Observe(ctx context.Context, change func(Tx) error) error
}

// Hosts finds a host that the caller holds a permission on, by id or name.
type Hosts interface {
	Find(ctx context.Context, name, workspace string, p access.Permission) (host.Host, error)
}

// Fleet is every host in memory.
type Fleet interface {
	Host(id string) (*host.Host, bool)
}

// Places finds a place where the caller holds a permission. All empty is the whole deployment.
type Places interface {
	Scope(ctx context.Context, organisation, project, workspace string, p access.Permission) (access.Scope, error)
}

// Streams brings hosts and sessions together.
type Streams interface {
	// Start gives a host an order to begin a session, whose stream leads to end until forget is called. An error means that the
	// host did not take it.
	Start(ctx context.Context, hostID, session string, order []byte, end *stream.End) (forget func(), err error)
	// Expect has the host of a session that goes on find its end here.
	Expect(hostID, session string, end *stream.End) (forget func())
	// Tell gives a host an order that begins nothing. An error means that the host did not carry it out.
	Tell(ctx context.Context, hostID, session string, order []byte) error
}

// Options of the service.
type Options struct {
	Dir     string // of recordings
	Reserve int64  // of disk for them, in bytes; 0: DefaultReserve
	Replica string
	// Reached tells whether another replica can be reached from here. Nil: there is no other.
	Reached func(replica string) bool
	Policy  *access.Policy
	Seal    []byte // 32 bytes: what the keys of recordings are sealed with
	Now     func() time.Time
	Logger  *slog.Logger
	// Registerer of metrics; nil: none.
	Registerer prometheus.Registerer
}

// DefaultReserve of disk for recordings: of 16 sessions that are opened when it is full.
const DefaultReserve = 32 << 20

// Service is shells as people work with them.
type Service struct {
	Options
	store   Store
	hosts   Hosts
	fleet   Fleet
	places  Places
	streams Streams
	box     secret.Box
	spool   *recording.Spool
	again   []byte // what ShowAgain is made with

	stopping chan struct{} // closes when Run is about to return
	adopting sync.Mutex    // one session is taken up at a time

	metrics  *metrics
	due      chan struct{} // holds one when a recording was deleted that Keep has work with
	dropping sync.Mutex    // a host is asked once at a time
	dropped  string        // the last session whose host was asked in a pass that ran out of time; guarded by dropping

	mu      sync.Mutex
	live    map[string]*live
	reading map[string]*reading // by session: recordings that somebody sees played; guarded by mu
	closing bool
	orphans map[string]time.Time // sessions whose replica is gone, and since when that was seen here; guarded by mu
	work    sync.WaitGroup
}

// NewService makes the service; Run makes it work.
func NewService(store Store, hosts Hosts, fleet Fleet, places Places, streams Streams, o Options) (*Service, error) {
	if o.Reserve == 0 {
		o.Reserve = DefaultReserve
	}
	box, err := secret.NewBox(o.Seal)
	if err != nil {
		return nil, err
	}
	spool, err := recording.OpenSpool(filepath.Join(o.Dir), o.Reserve)
	if err != nil {
		return nil, err
	}
	return &Service{Options: o, store: store, hosts: hosts, fleet: fleet, places: places, streams: streams, box: box, spool: spool,
		again: again(o.Seal), stopping: make(chan struct{}), metrics: newMetrics(o.Registerer), due: make(chan struct{}, 1), live: map[string]*live{}, reading: map[string]*reading{}, orphans: map[string]time.Time{}}, nil
}

// New is what is asked for.
type New struct {
	Host      string // id or name
	Workspace string
	User      string
	Cols      int
	Rows      int
	Term      string
	Reason    string // empty: the call's
	Ticket    string // empty: the call's
	// Again tells who asks now: it is asked whenever that may have changed. An error means that they may not act any more.
	Again Again
}

// Again is an actor whose credential is looked at once more.
type Again func(ctx context.Context) (access.Actor, error)

// Open opens a session: it is in the audit log, and the host has taken it, when this returns.
func (s *Service) Open(ctx context.Context, n New) (shell.Session, error) {
	h, err := s.hosts.Find(ctx, n.Host, n.Workspace, shell.Open)
	if err != nil {
		return shell.Session{}, err
	}
	actor := access.ActorFrom(ctx)
	if actor.Principal == "" {
		return shell.Session{}, fault.New(fault.Precondition, "shell_without_principal", "a shell is opened by a user or a service account, and you act as neither")
	}
	who, err := s.store.View().Principal(ctx, actor.Principal)
	if err != nil {
		return shell.Session{}, err
	}
	now := s.Now()
	out := shell.Session{
		Meta: tenant.Meta{ID: id.New("ses", now), CreatedAt: now}, Scope: h.Scope, HostID: h.ID, HostName: h.Name, User: cmp.Or(n.User, "root"),
		Cols: cmp.Or(n.Cols, shell.DefaultCols), Rows: cmp.Or(n.Rows, shell.DefaultRows), Term: cmp.Or(n.Term, "xterm-256color"),
		Principal: who.ID, Who: who.Name, Actor: actor.ID, Address: actor.Address, Reason: cmp.Or(n.Reason, actor.Reason), Ticket: cmp.Or(n.Ticket, actor.Ticket),
		State: shell.Opening, EndsBy: now.Add(shell.Longest), Replica: s.Replica, Differs: -1,
	}
	out.Name = out.ID
	actor.Reason, actor.Ticket = out.Reason, out.Ticket
	d := actor.DecideOn(shell.Open, h.Scope, h.ID, h.Labels)
	if !d.Allowed { // the ticket that the request names is another than the call's
		return shell.Session{}, actor.RequireHost(shell.Open, h.Scope, h.ID, h.Labels, host.Read, "host "+h.ID)
	}
	out.Rule = d.Grant
	var c fault.Check
	out.Validate(&c)
	if err := c.Err("shell_invalid", "the session is not valid"); err != nil {
		return shell.Session{}, err
	}
	if err := s.able(h); err != nil {
		return shell.Session{}, err
	}
	key := recording.NewSecret()
	out.Sealed = s.box.Seal(out.ID, string(recording.NewKeyring(key).Marshal()))
	writer, err := s.spool.Create(out.ID, recording.NewKeyring(key))
	if err != nil {
		return shell.Session{}, fault.New(fault.Exhausted, "shell_unrecorded", "no session can be recorded here, so none is opened: %s", fault.Of(err).Message).
			WithHint("make room on the control plane's disk").WithCause(err)
	}
	l := s.newLive(out, actor, n.Again, writer)
	err = s.store.Write(ctx, func(tx Tx) error {
		if err := s.room(ctx, tx, out); err != nil {
			return err
		}
		var err error
		if l.session, err = tx.PutShellSession(ctx, out); err != nil {
			return err
		}
		e := audit.Of(actor, shell.Open, out.Scope, out.ID, out.HostName).By(d).Because(out.Reason).Change(nil, describe(out))
		e.Ticket = out.Ticket
		return tx.Audit(ctx, e)
	})
	if err != nil {
		return shell.Session{}, errors.Join(err, writer.Close(), recording.Remove(s.spool.Path(out.ID)))
	}
	out = l.session
	if err := s.begin(l); err != nil {
		return shell.Session{}, err
	}
	order, err := shell.Order{
		Session: out.ID, Secret: key, Host: out.HostName, User: out.User, Who: out.Who, Reason: out.Reason, Cols: out.Cols, Rows: out.Rows, Term: out.Term,
		Start: now, Idle: shell.Idle, Longest: shell.Longest, Detached: shell.Detached,
	}.Encode()
	if err == nil {
		var forget func()
		forget, err = s.streams.Start(ctx, out.HostID, out.ID, order, l.end)
		l.forgetBy(forget)
	}
	if err != nil {
		l.finish(fault.Of(err).Message)
		return shell.Session{}, err
	}
	return out, nil
}

// able demands that a host can have a shell now.
func (s *Service) able(h host.Host) error {
	if now, ok := s.fleet.Host(h.ID); ok {
		h = *now
	}
	switch {
	case h.Lifecycle != host.LifecycleActive:
		return fault.New(fault.Precondition, "shell_host_state", "there are no shells on host %s while it is %s", h.Name, h.State)
	case !h.Online:
		return fault.New(fault.Unavailable, "shell_host_offline", "host %s is offline", h.Name).WithHint("see since when: loopback host show %s", h.Name)
	case !h.Ceiling.Shell:
		return fault.New(fault.Precondition, "shell_not_allowed", "host %s does not allow shells", h.Name).
			WithHint("its administrator decides that: allow: {shell: true} in /etc/loopback/agent.yaml there, then restart the agent")
	}
	return nil
}

// room demands that there are not too many sessions.
func (s *Service) room(ctx context.Context, r Reader, of shell.Session) error {
	onHost, err := r.CountShellSessions(ctx, of.HostID, "")
	if err != nil {
		return err
	}
	own, err := r.CountShellSessions(ctx, "", of.Principal)
	switch {
	case err != nil:
		return err
	case onHost >= shell.MaxPerHost:
		return fault.New(fault.Exhausted, "shell_sessions_host", "there are %d sessions on host %s already", onHost, of.HostName).WithHint("see them: loopback session list --state running")
	case own >= shell.MaxPerUser:
		return fault.New(fault.Exhausted, "shell_sessions_user", "you have %d sessions open already", own).WithHint("see them: loopback session list --state running")
	}
	return nil
}

// Get is one session.
func (s *Service) Get(ctx context.Context, ref string) (shell.Session, error) {
	return s.permitted(ctx, s.store.View(), ref, shell.Read)
}

// Permitted is a session that runs, on which the caller holds a permission.
func (s *Service) Permitted(ctx context.Context, ref string, p access.Permission) (shell.Session, error) {
	out, err := s.permitted(ctx, s.store.View(), ref, p)
	if err == nil && out.State == shell.Ended {
		err = ended(out)
	}
	return out, err
}

// permitted is a session on which the caller holds a permission; its own opener may see and end it in any case.
func (s *Service) permitted(ctx context.Context, r Reader, ref string, p access.Permission) (shell.Session, error) {
	if ref == "" {
		var c fault.Check
		c.Add("session", "is missing: give the id of a session")
		return shell.Session{}, c.Err("request_invalid", "the request is not valid")
	}
	out, err := r.ShellSession(ctx, ref)
	if err != nil {
		return shell.Session{}, err
	}
	actor := access.ActorFrom(ctx)
	if actor.Principal != "" && actor.Principal == out.Principal && (p == shell.Read || p == shell.Kill) && actor.Touches(p) {
		return out, nil
	}
	labels := s.labels(out)
	return out, actor.RequireHost(p, out.Scope, out.HostID, labels, shell.Read, "session "+ref)
}

// List is those that the caller may read, newest first.
func (s *Service) List(ctx context.Context, organisation, project, workspace string, q shell.Query) ([]shell.Session, string, error) {
	var c fault.Check
	for _, state := range q.States {
		c.That(state == shell.Opening || state == shell.Running || state == shell.Ended, "states", "has %q; allowed are %v", string(state), shell.States)
	}
	if err := c.Err("request_invalid", "the request is not valid"); err != nil {
		return nil, "", err
	}
	q.Readable = access.ActorFrom(ctx).Readable(shell.Read)
	if organisation+project+workspace != "" {
		at, err := s.places.Scope(ctx, organisation, project, workspace, shell.Read)
		if err != nil {
			return nil, "", err
		}
		q.Within = at
	}
	return s.store.View().ShellSessions(ctx, q)
}

// maxComment in bytes.
const maxComment = 256

// Kill ends a session.
func (s *Service) Kill(ctx context.Context, ref, comment string) (shell.Session, error) {
	var c fault.Check
	c.That(len(comment) <= maxComment, "comment", "is %d bytes long; at most %d are allowed", len(comment), maxComment)
	if err := c.Err("request_invalid", "the request is not valid"); err != nil {
		return shell.Session{}, err
	}
	out, err := s.permitted(ctx, s.store.View(), ref, shell.Kill)
	if err != nil {
		return shell.Session{}, err
	}
	if out.State == shell.Ended {
		return out, fault.New(fault.Precondition, "session_ended", "session %s has ended already", out.ID)
	}
	l, ok := s.find(out.ID)
	if !ok {
		return out, elsewhere(out)
	}
	actor := access.ActorFrom(ctx)
	if err := s.store.Write(ctx, func(tx Tx) error {
		return tx.Audit(ctx, audit.Of(actor, shell.Kill, out.Scope, out.ID, out.HostName).Because(comment))
	}); err != nil {
		return out, err
	}
	by := cmp.Or(actor.Name, actor.ID)
	if who, err := s.store.View().Principal(ctx, actor.Principal); err == nil {
		by = who.Name
	}
	l.kill("ended by " + by + ": " + cmp.Or(comment, cmp.Or(actor.Reason, "no reason given")))
	l.await(ctx, shell.Ended)
	return s.store.View().ShellSession(ctx, out.ID)
}

// Elsewhere is the answer for a session whose live end, or whose recording, is not on this replica.
type Elsewhere struct {
	Replica string
	fault   *fault.Error
}

func (e *Elsewhere) Error() string { return e.fault.Error() }

// Unwrap is the answer to who cannot ask that replica.
func (e *Elsewhere) Unwrap() error { return e.fault }

func elsewhere(out shell.Session) error {
	return &Elsewhere{out.Replica, fault.New(fault.Unavailable, "session_elsewhere", "session %s is with replica %s, which cannot be reached now", out.ID, out.Replica).
		WithHint("try again in a moment; see the replicas: loopback replica list")}
}

func (s *Service) find(session string) (*live, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	l, ok := s.live[session]
	return l, ok
}

// record is a session as the audit log has it.
type record struct {
	Host    string         `json:"host"`
	User    string         `json:"user"`
	State   shell.State    `json:"state"`
	By      string         `json:"by"`
	EndsBy  time.Time      `json:"endsBy,omitzero"`
	Reason  string         `json:"endReason,omitempty"`
	Status  *int           `json:"exitStatus,omitempty"`
	Head    recording.Head `json:"recording,omitzero"`
	Hosts   recording.Head `json:"hostRecording,omitzero"`
	Verdict shell.Verdict  `json:"verdict,omitempty"`
	Differs *int64         `json:"firstChunkThatDiffers,omitempty"`
}

func describe(s shell.Session) record {
	out := record{Host: s.HostID, User: s.User, State: s.State, By: s.Principal, EndsBy: s.EndsBy, Reason: s.EndReason, Head: s.Head, Hosts: s.Host, Verdict: s.Verdict}
	if s.State == shell.Ended {
		out.Status = &s.ExitStatus
	}
	if s.Differs >= 0 {
		out.Differs = &s.Differs
	}
	return out
}

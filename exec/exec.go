// Package exec is a command on hosts: what was asked for (a Run), and what came of it on each host.
//
//	waiting ──▶ ready ──▶ sent ──▶ running ──▶ succeeded, failed, timed_out, cancelled
//	   │          │         ├──▶ refused        by the host: its ceiling, its journal, too late
//	   │          │         ├──▶ unreachable    it did not answer in time; what was sent is void by then
//	   │          │         └──▶ indeterminate  it began, and nobody knows how it went on: its agent was killed
//	   │          └──▶ unreachable
//	   └──▶ skipped, cancelled, unreachable (offline when it was its turn)
//
// A run begins on its canaries first, then on as many hosts at a time as it may, and on no further one once as many have
// failed as it bears. Hosts that are dead take nobody's place.
package exec

import (
	"cmp"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/loopbackd/loopback/access"
	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/tenant"
)

// Permissions over commands.
const (
	Start  access.Permission = "exec.run" // tier 0
	Read   access.Permission = "exec.read"
	Cancel access.Permission = "exec.cancel"
)

// End is what the audit log calls the end of a run.
const End access.Permission = "exec.end"

// Bounds.
const (
	MaxHosts           = 10_000
	MaxArguments       = 1_000
	MaxCommand         = 64 << 10 // bytes of all arguments
	MaxStdin           = 1 << 20
	MaxKept            = 1 << 20 // bytes of each channel that are kept of a host
	MinTimeout         = time.Second
	MaxTimeout         = 24 * time.Hour
	DefaultTimeout     = time.Minute
	MaxConcurrency     = 1_000
	DefaultConcurrency = 100
)

// Command is what a host is to do.
type Command struct {
	Arguments []string      `json:"arguments"`
	Shell     bool          `json:"shell,omitempty"` // the arguments are one line for /bin/sh
	User      string        `json:"user,omitempty"`  // empty: root
	Stdin     []byte        `json:"-"`
	Timeout   time.Duration `json:"timeout"`
}

// String is the command as people see it, cut where it is long.
func (c Command) String() string {
	words := make([]string, len(c.Arguments))
	for i, a := range c.Arguments {
		words[i] = a
		if !c.Shell && (a == "" || strings.ContainsAny(a, " \t\n'\"\\$&|;<>*?()`")) {
			words[i] = "'" + strings.ReplaceAll(a, "'", `'\''`) + "'"
		}
	}
	s := strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, strings.Join(words, " "))
	if len(s) > 200 {
		s = strings.ToValidUTF8(s[:200], "") + "…"
	}
	return s
}

// Check collects what is wrong with a command.
func (c Command) Check(v *fault.Check) {
	size := 0
	for i, a := range c.Arguments {
		size += len(a)
		v.That(!strings.ContainsRune(a, 0) && utf8.ValidString(a), fmt.Sprintf("command.arguments[%d]", i), "holds a NUL, or is not UTF-8")
	}
	v.That(len(c.Arguments) > 0 && c.Arguments[0] != "", "command.arguments", "is empty; name a program")
	v.That(len(c.Arguments) <= MaxArguments && size <= MaxCommand, "command.arguments", "are %d with %d bytes; at most %d with %d are allowed", len(c.Arguments), size, MaxArguments, MaxCommand)
	v.That(len(c.Stdin) <= MaxStdin, "command.stdin", "has %d bytes; at most %d are allowed", len(c.Stdin), MaxStdin)
	v.That(c.Timeout >= MinTimeout && c.Timeout <= MaxTimeout, "command.timeout", "is %s; allowed are %s to %s", c.Timeout, MinTimeout, MaxTimeout)
	v.That(len(c.User) <= 64 && !strings.ContainsAny(c.User, ":/\n\x00 "), "command.user", "is %q, not a user's name", c.User)
}

// State of a run.
type State string

// The states of a run.
const (
	Running   State = "running"
	Succeeded State = "succeeded" // on every host
	Failed    State = "failed"    // on one at least, or it was not begun on all
	Cancelled State = "cancelled"
)

// Run is one command on some hosts. Its Meta.Name is the command.
type Run struct {
	tenant.Meta
	Scope       access.Scope
	Command     Command
	Stdin       []byte
	State       State
	Reason      string // why it ended before it was begun on all hosts
	Concurrency int
	MaxFailures int
	Canary      int
	Actor       Actor
	RequestID   string
	Cancelled   bool // somebody wants it to end
	EndedAt     time.Time
	Counts      map[HostState]int

	LeaseOwner string // the replica that leads it
	LeaseUntil time.Time
	Attempt    int64
}

// Actor is who started a run, as far as it takes to ask again whether they may.
type Actor struct {
	Kind      access.Kind `json:"kind"`
	ID        string      `json:"id"`
	Name      string      `json:"name"`
	Principal string      `json:"principal"`
	Address   string      `json:"address,omitempty"`
	MFA       time.Time   `json:"mfa,omitzero"`
	Reason    string      `json:"reason"`
	Ticket    string      `json:"ticket,omitempty"`
	Rule      string      `json:"rule"` // that allowed it
	// Permission that they start it by; empty: Start. As is the saved command, or the check, that it is then.
	Permission access.Permission `json:"permission,omitempty"`
	As         string            `json:"as,omitempty"`
	Of         Origin            `json:"of,omitzero"`
}

// ActorOf is whoever acts now, by what allows them to.
func ActorOf(a access.Actor, by access.Decision) Actor {
	return Actor{Kind: a.Kind, ID: a.ID, Name: a.Name, Principal: a.Principal, Address: a.Address, MFA: a.MFA, Reason: a.Reason, Ticket: a.Ticket, Rule: by.Grant}
}

// Under is the actor as a policy has them now, with this permission at most.
func (a Actor) Under(p *access.Policy, need access.Permission) access.Actor {
	return access.Actor{
		Kind: a.Kind, ID: a.ID, Name: a.Name, Principal: a.Principal, Address: a.Address, MFA: a.MFA, Reason: a.Reason, Ticket: a.Ticket,
		Policy: p, Grants: []access.Grant{{ID: a.ID, Permissions: []access.Permission{need}}},
	}
}

// Origin is what a run is of, where it is nobody's own command: a check, or a version of a saved command with these values. By it
// the same can be asked for again.
type Origin struct {
	Check  string            `json:"check,omitempty"`
	Saved  string            `json:"saved,omitempty"` // id of the version
	Values map[string]string `json:"values,omitempty"`
}

// By is the permission that a run rests on.
func (r Run) By() access.Permission { return cmp.Or(r.Actor.Permission, Start) }

// Validate collects what is wrong with what was asked for.
func (r Run) Validate() error {
	var v fault.Check
	r.Command.Check(&v)
	v.That(r.Concurrency >= 1 && r.Concurrency <= MaxConcurrency, "concurrency", "is %d; allowed are 1 to %d", r.Concurrency, MaxConcurrency)
	v.That(r.MaxFailures >= 0, "maxFailures", "is %d; 0 never stops", r.MaxFailures)
	v.That(r.Canary >= 0 && r.Canary <= MaxHosts, "canary", "is %d; allowed are 0 to %d", r.Canary, MaxHosts)
	v.That(len(r.RequestID) <= 128, "requestId", "is %d bytes long; at most 128 are allowed", len(r.RequestID))
	return v.Err("exec_invalid", "the command is not valid")
}

// HostState is how far a command has come on one host.
type HostState string

// The states of a host in a run.
const (
	Waiting       HostState = "waiting"
	Ready         HostState = "ready" // its turn has come
	Sent          HostState = "sent"  // by the replica that holds its link
	OnHost        HostState = "running"
	Done          HostState = "succeeded"
	Unsuccessful  HostState = "failed"
	Refused       HostState = "refused"
	Unreachable   HostState = "unreachable"
	TimedOut      HostState = "timed_out"
	Ended         HostState = "cancelled"
	Skipped       HostState = "skipped"
	Indeterminate HostState = "indeterminate"
)

// Over tells whether nothing more comes of it.
func (s HostState) Over() bool { return s != Waiting && !s.Open() }

// Open tells whether it takes one of the places of a run.
func (s HostState) Open() bool { return s == Ready || s == Sent || s == OnHost }

// Bad tells whether it counts as a failure.
func (s HostState) Bad() bool { return s.Over() && s != Done && s != Skipped && s != Ended }

// Host is what came of a run on one host.
type Host struct {
	ID       string // of the order: "ord_…"
	RunID    string
	HostID   string
	Name     string // of the host
	Place    int    // in the run
	State    HostState
	Replica  string    // that has it
	Since    time.Time // of the state
	NotAfter time.Time // the order is void after it

	ExitCode  int
	Exited    bool // ExitCode says something
	Signal    string
	ErrorCode string
	Error     string
	Hint      string
	StartedAt time.Time
	EndedAt   time.Time
	Stdout    int64 // bytes that have come
	Stderr    int64
	Dropped   int64 // of those, not kept
	Revision  int64
}

// Output is a piece of what a command wrote.
type Output struct {
	OrderID string
	RunID   string
	HostID  string
	Channel Channel
	Offset  int64
	Data    []byte
}

// Mark is how far the output of a run was read.
type Mark struct {
	Revision int64
	ID       string // of the piece, among those of the revision
}

// Channel of a command.
type Channel string

// The channels, and their numbers in a stream.
const (
	Stdout Channel = "stdout"
	Stderr Channel = "stderr"

	StdinNumber   = 0
	StdoutNumber  = 1
	StderrNumber  = 2
	ControlNumber = 3 // to the host: Control; from it: Result. Each is one JSON value on a line
)

// Control is what a host is told while a command runs.
type Control struct {
	Cancel bool `json:"cancel,omitempty"`
}

// Result is how a command ended, as the host says.
type Result struct {
	ExitCode  int       `json:"exitCode"`
	Signal    string    `json:"signal,omitempty"`
	TimedOut  bool      `json:"timedOut,omitempty"`
	Cancelled bool      `json:"cancelled,omitempty"`
	ErrorCode string    `json:"errorCode,omitempty"` // it could not be begun
	Error     string    `json:"error,omitempty"`
	Hint      string    `json:"hint,omitempty"`
	StartedAt time.Time `json:"startedAt,omitzero"`
	EndedAt   time.Time `json:"endedAt,omitzero"`
}

// Query selects runs, newest first.
type Query struct {
	Readable access.Sight
	Within   access.Scope
	States   []State
	Page     tenant.Page
}

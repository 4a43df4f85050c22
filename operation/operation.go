// Package operation is long work: asked for once, carried out by whichever replica leases it, seen by everybody.
//
//	pending ──▶ running ──▶ succeeded
//	   │           ├──────▶ failed
//	   └───────────┴──────▶ cancelled
//
// Operations are the queue. A worker takes a lease and a new attempt number in one conditional write, and every later
// write names that attempt: a replica that was paused and wakes up after its lease ran out can therefore change nothing.
// A repeated request with the same request id, by the same actor, is answered with the same operation.
package operation

import (
	"time"

	"github.com/loopbackd/loopback/access"
	"github.com/loopbackd/loopback/tenant"
)

// Permissions over operations.
const (
	Read   access.Permission = "operations.read"
	Cancel access.Permission = "operations.cancel"
)

// Kind of work.
type Kind string

// The kinds.
const (
	QuarantineHost Kind = "host.quarantine"     // done when every link of the host is told and every peer dropped it
	RemoveHost     Kind = "host.remove"         // done when the link is closed and every peer dropped it
	RestartModule  Kind = "host.restart_module" // done when the host has said how it went
	RevokeToken    Kind = "token.revoke"        // done when the hosts it enrolled are quarantined or removed
)

// Cancellable tells whether the work may be ended half-way. A revocation may not: agents that are expelled are told so
// before their hosts are changed one by one, and take it as final. Nor may what an agent does by itself once it is told.
func (k Kind) Cancellable() bool { return k != RevokeToken && k != RestartModule }

// State of an operation.
type State string

// The states.
const (
	Pending   State = "pending"
	Running   State = "running"
	Succeeded State = "succeeded"
	Failed    State = "failed"
	Cancelled State = "cancelled"
)

// Ended tells whether nothing more will happen.
func (s State) Ended() bool { return s == Succeeded || s == Failed || s == Cancelled }

// Step is a part of the work as people see it.
type Step struct {
	Name      string    `json:"name"`
	State     State     `json:"state"`
	Message   string    `json:"message,omitempty"`
	StartedAt time.Time `json:"startedAt,omitzero"`
	EndedAt   time.Time `json:"endedAt,omitzero"`
}

// Operation is one piece of long work. Its Meta.Name is its kind.
type Operation struct {
	tenant.Meta
	Kind      Kind
	Scope     access.Scope
	Target    string // id of what it acts on
	State     State
	Progress  float64 // 0 to 1
	Steps     []Step
	ErrorCode string
	Error     string
	Input     []byte // JSON, by kind
	Actor     string // id of who asked
	RequestID string // chosen by the caller; unique for an actor
	EndedAt   time.Time

	LeaseOwner string
	LeaseUntil time.Time
	Attempt    int64
}

// Query selects operations, newest first.
type Query struct {
	Readable access.Sight // only what is in this sight; the empty one sees nothing
	Within   access.Scope
	Target   string
	States   []State
	Page     tenant.Page
}

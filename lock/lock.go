// Package lock is keeping somebody, or a host, out at once.
//
//	active ──┬──lifted (by somebody who may, and whom it does not keep out)
//	         └──ended (its time was over)
//
// A lock is of one target: a user, a group or a service account, who may do nothing within the lock's place, and where they belong
// to it have no use of their credentials; a role, of which whoever holds it may not do there what it gives, not even by another
// role; a host, or hosts that a selector matches, into which nobody reaches with shells, commands or files.
//
// It wins over whatever is allowed and ends what is under way: shells, commands, streams. Nothing else is changed, so all is as
// before once it is lifted.
package lock

import (
	"strings"
	"time"

	"github.com/loopbackd/loopback/access"
	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/label"
	"github.com/loopbackd/loopback/tenant"
)

// Permissions over locks. To take away is quick on purpose: neither is of tier 0.
const (
	Create access.Permission = "locks.create"
	Read   access.Permission = "locks.read"
	Lift   access.Permission = "locks.lift"
	End    access.Permission = "locks.end" // what the audit log says of one whose time was over
)

// Bounds.
const (
	MaxReason   = 512
	MaxDuration = 366 * 24 * time.Hour
)

// Kind of target.
type Kind string

// The kinds.
const (
	User                = Kind(access.User)
	Group               = Kind(access.Group)
	ServiceAccount      = Kind(access.ServiceAccount)
	Role           Kind = "role"
	Host           Kind = "host"
	Hosts          Kind = "hosts" // that a selector matches
)

// Kinds are all of them.
var Kinds = []Kind{User, Group, ServiceAccount, Role, Host, Hosts}

// Target is what is locked.
type Target struct {
	Kind  Kind
	ID    string // empty: Hosts
	Name  string // then
	Hosts string // a selector; empty with Hosts: every host of the place
}

// State of a lock.
type State string

// The states.
const (
	Active State = "active"
	Lifted State = "lifted"
	Ended  State = "ended"
)

// States are all of them.
var States = []State{Active, Lifted, Ended}

// Lock keeps out.
type Lock struct {
	tenant.Meta
	Scope     access.Scope
	Target    Target
	Reason    string // whoever it keeps out is told
	Ticket    string
	NotAfter  time.Time // zero: until it is lifted
	State     State
	CreatedBy string // id of the credential
	Creator   string // name of whose it was, then
	ClosedAt  time.Time
	ClosedBy  string
	Comment   string // of whoever lifted it
}

// At is a lock's state at a time, noted or not.
func (l Lock) At(now time.Time) State {
	if l.State == Active && !l.NotAfter.IsZero() && !now.Before(l.NotAfter) {
		return Ended
	}
	return l.State
}

// Validate collects what is wrong with a new lock.
func (l Lock) Validate(c *fault.Check, now time.Time) {
	l.Labels.Validate(c, "labels")
	c.That(strings.TrimSpace(l.Reason) != "", "reason", "is missing: say why; whoever is kept out reads it")
	c.That(len(l.Reason) <= MaxReason, "reason", "is %d bytes long; at most %d are allowed", len(l.Reason), MaxReason)
	c.That(len(l.Ticket) <= access.MaxTicket, "ticket", "is %d bytes long; at most %d are allowed", len(l.Ticket), access.MaxTicket)
	c.That(l.NotAfter.IsZero() || l.NotAfter.After(now), "notAfter", "is over already")
	c.That(l.NotAfter.IsZero() || l.NotAfter.Sub(now) <= MaxDuration, "notAfter", "is more than %s away; leave it out for a lock that stays until it is lifted", fault.Span(MaxDuration))
	if _, err := label.Parse(l.Target.Hosts); err != nil {
		c.Add("hosts", "is no selector: %v", err)
	}
}

// Rule is the lock as decisions go by it.
func (l Lock) Rule() access.Lock {
	out := access.Lock{ID: l.ID, Scope: l.Scope, NotAfter: l.NotAfter, Reason: l.Reason}
	switch l.Target.Kind {
	case Role:
		out.Role = l.Target.ID
	case Host:
		out.Host = l.Target.ID
	case Hosts:
		out.Hosts, _ = label.Parse(l.Target.Hosts) // checked when it was written
		out.Every = true
	default:
		out.Subject = access.Subject{Kind: access.SubjectKind(l.Target.Kind), ID: l.Target.ID}
	}
	return out
}

// Query selects locks, newest first.
type Query struct {
	Readable access.Sight
	Within   access.Scope
	States   []State
	Target   string    // id; empty: any
	Over     time.Time // only those whose time is over by then; zero: all
	Page     tenant.Page
}

package host

import (
	"github.com/loopbackd/loopback/access"
	"github.com/loopbackd/loopback/label"
	"github.com/loopbackd/loopback/tenant"
)

// Query selects hosts.
type Query struct {
	Readable []access.Scope // only within one of these; none: nothing
	Within   access.Scope
	Name     string // exactly; empty: any
	IDs      []string
	Selector label.Selector
	States   []State // empty: all but removed
	TokenID  string  // enrolled by this token; empty: any
	OrderBy  Order
	Reverse  bool
	Page     tenant.Page
}

// Order is a field that a list is sorted by; the id breaks ties.
type Order string

// The orders.
const (
	ByName         Order = "name"
	ByState        Order = "state"
	BySince        Order = "since"
	ByCreatedAt    Order = "created_at"
	ByAgentVersion Order = "agent_version"
	ByLastSeenAt   Order = "last_seen_at" // online hosts count as seen now
)

// Orders are all of them.
var Orders = []Order{ByName, ByState, BySince, ByCreatedAt, ByAgentVersion, ByLastSeenAt}

package host

import (
	"strings"

	"github.com/loopbackd/loopback/access"
	"github.com/loopbackd/loopback/label"
	"github.com/loopbackd/loopback/query"
	"github.com/loopbackd/loopback/tenant"
)

// Query selects hosts.
type Query struct {
	Readable access.Sight // only what is in this sight; the empty one sees nothing
	Within   access.Scope
	Name     string // exactly; empty: any
	IDs      []string
	Selector label.Selector
	Filter   query.Expression // over Fields; nil: any
	States   []State          // empty: all but removed
	TokenID  string           // enrolled by this token; empty: any
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

// Fields are what a filter may name, besides labels. The first is meant where none is named.
var Fields = []string{"name", "id", "state", "reason", "version", "channel", "provider", "address"}

// Field is the value of one of Fields or of a label ("label.env").
func (h *Host) Field(name string) (value string, ok bool) {
	switch name {
	case "name":
		return h.Name, true
	case "id":
		return h.ID, true
	case "state":
		return string(h.State), true
	case "reason":
		return h.StateReason, true
	case "version":
		return h.AgentVersion, true
	case "channel":
		return h.Channel, true
	case "provider":
		return h.Provider, true
	case "address":
		return h.Address, true
	}
	key, isLabel := strings.CutPrefix(name, query.Label)
	if !isLabel {
		return "", false
	}
	value, ok = h.Labels[key]
	return value, ok
}

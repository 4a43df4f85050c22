// Package replica is one of the processes that are the control plane together.
//
// Each has a row in the database and raises its beat there every few seconds. Every other one judges by its own clock
// whether that goes on: a row that did not change for a lease, while the database could be read, is of a replica that is
// gone. Nothing depends on clocks that agree.
package replica

import (
	"time"

	"github.com/loopbackd/loopback/access"
)

// Permissions over replicas. Evict is the action in the audit log: it is done on the machine that has the anchor key.
const (
	Invite access.Permission = "replicas.invite"
	Evict  access.Permission = "replicas.evict"
)

// State of a replica.
type State string

// The states.
const (
	Serving State = "serving"
	Leaving State = "leaving" // it was told to stop, and sends its agents to the others
	Left    State = "left"    // it stopped in order
	Gone    State = "gone"    // its lease ended without a word
)

// Replica is a replica as the database shows it.
type Replica struct {
	Name      string
	Instance  string // tells its lives apart
	Version   string
	Address   string // HOST:PORT that other replicas reach it by
	Routes    string // HOST:PORT of its bus; empty: the bus is outside
	StartedAt time.Time
	SeenAt    time.Time // when it last wrote, by its own clock
	Beat      int64     // rises with each time it writes; 0: it has left
	Links     int64     // agents linked to it
	Position  int64     // of the change feed, that it has come to
	Leaving   bool
}

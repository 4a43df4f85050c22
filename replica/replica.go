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

// Permissions over replicas. Invite and Evict are actions in the audit log only: they are done on the machine that has
// the anchor key.
const (
	Read   access.Permission = "replicas.read"
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

	Keyset      int64         // version of the keyset that it goes by; 0: it did not say
	BusPeers    int64         // buses that its own is connected to; negative: it did not say
	ClockOffset time.Duration // by how much its clock is ahead of the database's
	ClockKnown  bool
}

// Lease is something that one replica at a time does for all.
type Lease struct {
	Owner string // name of the replica
	What  string // "audit log", "sink siem", "3 operations"
}

// Trouble is in what a replica differs from the others. The codes are stable.
type Trouble string

// The troubles.
const (
	IsGone     Trouble = "replica_gone" // its lease ended without a word
	ClockApart Trouble = "clock_apart"  // its clock and the database's differ by more than ClockTolerance
	BusCut     Trouble = "bus_cut"      // its bus does not reach the buses of all others that live
	KeysetOld  Trouble = "keyset_old"   // others go by a newer keyset
	PeerCut    Trouble = "peer_cut"     // the one that looks gets no answer from it
)

// Troubles are all of them.
var Troubles = []Trouble{IsGone, ClockApart, BusCut, KeysetOld, PeerCut}

// ClockTolerance is by how much a replica's clock may differ from the database's. Leases of what is done once, and the ages of
// tokens and keys, are read off these clocks.
const ClockTolerance = 5 * time.Second

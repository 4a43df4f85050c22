// Package host is a server of the fleet as the control plane knows it.
//
// A host is in one State at a time, the first of these that holds:
//
//	removed      it was taken out; its key is dead for good
//	unmanaged    a provider or an operator knows it, no agent enrolled yet
//	quarantined  linked, but receives nothing and may do nothing
//	pending      enrolled, awaits an operator's approval
//	enrolling    approved, has not yet applied its first configuration
//	offline      the link is gone, and stayed away past the reconnect window
//	updating     its agent is replacing itself; a lease, so this always ends
//	degraded     linked, but a section failed, a module is unhealthy, or something stands in the agent's way (Trouble)
//	managed      linked, everything applied, everything healthy
//
// The state follows from Facts by Derive: the facts are what is stored and reported, the state is never set. It is
// kept beside them with its reason and the time since when, so that lists can be filtered by it.
package host

import (
	"fmt"
	"time"

	"github.com/loopbackd/loopback/access"
	"github.com/loopbackd/loopback/section"
	"github.com/loopbackd/loopback/tenant"
)

// Permissions over hosts.
const (
	Read       access.Permission = "hosts.read"
	Label      access.Permission = "hosts.label"
	Add        access.Permission = "hosts.add"
	Move       access.Permission = "hosts.move"
	Approve    access.Permission = "hosts.approve"
	Quarantine access.Permission = "hosts.quarantine"
	Release    access.Permission = "hosts.release"
	Remove     access.Permission = "hosts.remove"
	Split      access.Permission = "hosts.split"
	Drop       access.Permission = "hosts.drop"
	Settle     access.Permission = "hosts.settle"

	RestartModule access.Permission = "hosts.restart_module"

	// What hosts do themselves, in the audit log.
	Enrol     access.Permission = "hosts.enrol"
	RotateKey access.Permission = "hosts.rotate_key"
)

// State of a host.
type State string

// The states.
const (
	Unmanaged   State = "unmanaged"
	Pending     State = "pending"
	Enrolling   State = "enrolling"
	Managed     State = "managed"
	Degraded    State = "degraded"
	Offline     State = "offline"
	Updating    State = "updating"
	Quarantined State = "quarantined"
	Removed     State = "removed"
)

// States in the order of precedence.
var States = []State{Removed, Unmanaged, Quarantined, Pending, Enrolling, Offline, Updating, Degraded, Managed}

// Lifecycle is what operators decided about a host.
type Lifecycle string

// The lifecycles.
const (
	LifecycleUnmanaged   Lifecycle = "unmanaged"
	LifecyclePending     Lifecycle = "pending"
	LifecycleActive      Lifecycle = "active"
	LifecycleQuarantined Lifecycle = "quarantined"
	LifecycleRemoved     Lifecycle = "removed"
)

// Health of one module of an agent.
type Health struct {
	Module  string
	Healthy bool
	Message string // why not
}

// Facts are what a host's state follows from.
type Facts struct {
	Lifecycle       Lifecycle
	LifecycleReason string // of the quarantine or removal, or why approval is awaited
	Converged       bool   // it has applied its whole configuration at least once since it was approved
	Online          bool   // linked, or away for less than the reconnect window
	Updating        string // version it moves to; empty when not updating
	UpdatingUntil   time.Time
	Sections        []section.Status
	Modules         []Health
	Troubles        []Trouble // what stands or stood in its way, as OngoingTroubles and MetTrouble keep them
}

// Derive is the state that follows from the facts at a time, and why.
func (f Facts) Derive(now time.Time) (State, string) {
	switch {
	case f.Lifecycle == LifecycleRemoved:
		return Removed, f.LifecycleReason
	case f.Lifecycle == LifecycleUnmanaged:
		return Unmanaged, "no agent is enrolled"
	case f.Lifecycle == LifecycleQuarantined:
		return Quarantined, f.LifecycleReason
	case f.Lifecycle == LifecyclePending:
		return Pending, f.LifecycleReason
	case !f.Converged && f.Online:
		return Enrolling, f.waitingFor()
	case !f.Converged:
		return Enrolling, "the agent has not connected yet, or went away before it applied its first configuration"
	case !f.Online:
		return Offline, "the agent's link is gone"
	case f.Updating != "" && now.Before(f.UpdatingUntil):
		return Updating, "moving to " + f.Updating
	}
	for _, s := range f.Sections {
		switch {
		case s.Frozen:
			return Degraded, fmt.Sprintf("section %s is frozen: the host is ahead of the control plane (%s)", s.Name, s.Revision)
		case s.State == section.Failed:
			return Degraded, fmt.Sprintf("section %s failed: %s", s.Name, s.Message)
		case s.State == section.Degraded:
			return Degraded, fmt.Sprintf("section %s is degraded: %s", s.Name, s.Message)
		}
	}
	for _, m := range f.Modules {
		if !m.Healthy {
			return Degraded, fmt.Sprintf("module %s is unhealthy: %s", m.Module, m.Message)
		}
	}
	for _, t := range f.Troubles {
		if t.Degrades() {
			return Degraded, fmt.Sprintf("%s: %s", t.Code, t.Message)
		}
	}
	return Managed, ""
}

func (f Facts) waitingFor() string {
	for _, s := range f.Sections {
		if s.State == section.Failed {
			return fmt.Sprintf("section %s failed: %s", s.Name, s.Message)
		}
	}
	return "waiting for the first configuration to be applied"
}

// Host is a server of the fleet.
type Host struct {
	tenant.Meta              // Name is the host name at enrolment, made unique in the workspace; Labels are the operator's and the token's
	Scope       access.Scope // of its workspace
	Facts

	State       State // derived from Facts, kept for lists
	StateReason string
	StateSince  time.Time

	ForcedLabels     []string // keys of labels that came from the token: `host label` refuses to change them
	Key              []byte   // Ed25519 public key; nil while unmanaged
	NextKey          []byte   // offered by the host for its next generation; not used yet
	KeyHistory       [][]byte // SHA-256 of keys once used; one that comes back is `rolled back`, not a new host
	Generation       int64    // of Key: grows by one at each rotation
	Clones           *Clones  // nil: no other machine was ever found to hold its key
	TokenID          string   // that enrolled it
	EnrolledAt       time.Time
	EnrolledFrom     string
	Channel          string
	EphemeralTTL     time.Duration
	Settling         []string // frozen sections of which the host's value wins, until it was taken over
	SettingsRevision int64    // feed position of the last change to what its settings section is compiled from, on the host itself

	AgentVersion string
	OnlineSince  time.Time // of the current link
	Link         Link      // where it is linked; empty in a control plane of one replica
	OfflineSince time.Time // zero while online
	Inventory    Inventory
	Ceiling      Ceiling
	Provider     string // who knows it, while unmanaged: "manual" …
	Address      string // given by `host add`
}

// Inventory is what a host says of itself. It is sent when it changes.
type Inventory struct {
	HostName       string    `json:"hostName"`
	OS             string    `json:"os"`        // ID of os-release: "debian"
	OSVersion      string    `json:"osVersion"` // VERSION_ID
	OSName         string    `json:"osName"`    // PRETTY_NAME
	Kernel         string    `json:"kernel"`    // uname release
	Architecture   string    `json:"architecture"`
	CPUModel       string    `json:"cpuModel"`
	CPUs           int       `json:"cpus"`        // logical
	MemoryBytes    int64     `json:"memoryBytes"` // total
	Disks          []Disk    `json:"disks"`
	Addresses      []Address `json:"addresses"`
	Virtualisation string    `json:"virtualisation"` // "kvm", "systemd-nspawn", "none" …
	BootID         string    `json:"bootId"`
	MachineID      string    `json:"machineId"` // hashed, a signal only
	AgentVersion   string    `json:"agentVersion"`
	Digest         []byte    `json:"digest,omitempty"` // SHA-256 of inventory and ceiling as the agent computed it: what it names to say that nothing changed
}

// Link is which replica of the control plane took a host's link up last, and which of its links that was. It is written
// when the link moves to another replica, not at each reconnection.
type Link struct {
	Replica    string    `json:"replica,omitempty"`
	BootID     string    `json:"boot,omitempty"`
	Connection uint64    `json:"connection,omitempty"` // counts the host's links since boot
	At         time.Time `json:"at,omitzero"`          // when it was welcomed
}

// Newer tells whether l came after o. Within a boot the host's own count decides; between boots the time does, since a
// link cannot be proved ahead of time.
func (l Link) Newer(o Link) bool {
	if l.BootID == o.BootID && l.Connection != o.Connection {
		return l.Connection > o.Connection
	}
	return l.At.After(o.At)
}

// Disk is a mounted file system on a device.
type Disk struct {
	Mount      string `json:"mount"`
	Device     string `json:"device"`
	FileSystem string `json:"fileSystem"`
	SizeBytes  int64  `json:"sizeBytes"`
}

// Address is an address of an interface.
type Address struct {
	Interface string `json:"interface"`
	MAC       string `json:"mac,omitempty"`
	Prefix    string `json:"prefix"` // "10.0.0.5/24"
}

// Ceiling is what the host's own agent.yaml allows the control plane to do. It can be shown, never raised from here.
type Ceiling struct {
	Exec    bool     `json:"exec"`
	Shell   bool     `json:"shell"`
	Files   bool     `json:"files"`
	Power   bool     `json:"power"`
	Modules []string `json:"modules"` // optional modules it may run; "*" is any
}

// Settle brings State, StateReason and StateSince in line with the facts at a time. It tells whether any of them is
// another than before; the state's time changes only with the state itself.
func (h *Host) Settle(now time.Time) bool {
	state, reason := h.Derive(now)
	if state == h.State && reason == h.StateReason {
		return false
	}
	if state != h.State {
		h.StateSince = now.UTC()
	}
	h.State, h.StateReason = state, reason
	return true
}

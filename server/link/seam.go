package link

import (
	"context"
	"crypto/ed25519"
	"iter"
	"net/netip"
	"time"

	"github.com/loopbackd/loopback/host"
	"github.com/loopbackd/loopback/label"
	"github.com/loopbackd/loopback/section"
)

// This file is the seam between the hub and the rest of the control plane: what the hub needs to know, and whom it tells
// what it saw. The hub itself never touches a database.

// Known is what the control plane holds about a host. It is a snapshot: whoever makes one never changes it again, a
// changed host has a new one.
type Known struct {
	HostID          string
	WorkspaceID     string
	Lifecycle       host.Lifecycle
	LifecycleReason string

	Key        ed25519.PublicKey
	NextKey    ed25519.PublicKey // nil: none offered
	PastKeys   [][32]byte        // SHA-256 of keys once used
	Generation int64             // of Key
	Clones     *host.Clones      // nil: no other machine was ever found to hold a key of its own

	Settling []string // frozen sections of which the host's value is to be taken over

	Online          bool // as the database shows it
	Link            host.Link
	AgentVersion    string
	InventoryDigest []byte           // that came with the inventory held; empty: none is held
	Sections        []section.Status // as last observed, by name
	Modules         []host.Health    // as last observed
	Troubles        []host.Trouble   // likewise
}

// Epoch is the current history of revisions. See package section.
type Epoch struct {
	Number uint32
	// Began is the number that the restored backup had reached. A host that holds an older epoch's revision past it was
	// ahead of the backup; its section is frozen until a value with a number past Began is desired, which is how an
	// operator says that the control plane wins. 0 in a deployment that was never restored.
	Began uint64
}

// Fleet is what the hub knows without asking the database. All methods are called from many goroutines, often, and must
// not block.
type Fleet interface {
	// Lookup is what is known of a host; nil where the id is not known. Removed hosts stay known (key and lifecycle are
	// enough), so that they are told that they were removed.
	Lookup(hostID string) *Known
	// Pace is the bounds of the interval between a host's heartbeats, by its settings; of a host that is not known, the
	// settings' defaults. Every heartbeat asks: it takes no memory.
	Pace(hostID string) (least, most time.Duration)
	// Desired are the sections that the host should have, by name; none while it is not active (quarantined, pending,
	// removed). The same value must be the same pointer for every host that sees it and for every call, as far as memory
	// allows: the hub encodes deltas once for a pair of pointers. Make them with Compile.
	Desired(hostID string) []*Compiled
	// Online are the ids of the hosts that the database shows online. Called once, at Start.
	Online() iter.Seq[string]
	// Epoch is the deployment's current one.
	Epoch() Epoch
}

// Enrolment is a machine's wish to become a host. Possession of Key has been proved, all else is what it claims.
type Enrolment struct {
	Token        string // as it came; not checked in any way
	Key          ed25519.PublicKey
	HostName     string
	AgentVersion string
	Inventory    host.Inventory
	Ceiling      host.Ceiling
	Labels       label.Set
	From         netip.Addr
	Transport    string // "websocket" or "poll"
}

// Enrolled is the answer to an enrolment that was taken.
type Enrolled struct {
	HostID      string
	HostName    string
	WorkspaceID string
	State       host.State // pending when an operator must approve it first
	Reason      string
	Channel     string
}

// Enroller takes machines into the fleet.
type Enroller interface {
	// Enrol registers the key as a host, the token's use and the audit entry in one transaction, and returns when they
	// are durable. When it returns, Lookup finds the host. A key already known gets the answer it got before, whatever
	// the token; a removed host's key fails with Denied.
	//
	// Errors are *fault.Error and are told to the machine. Invalid, Unauthenticated, Denied and Precondition are final:
	// trying again as it is cannot help. Others may be tried again, after RetryAfter where it is set. token.ErrUnknown and
	// token.ErrMalformed count as guesses against the machine's address.
	Enrol(ctx context.Context, e Enrolment) (Enrolled, error)
	// Split makes a host of its own of a machine that holds a copy of another host's key, with Key as its own, in that
	// host's workspace and with its labels; its token is that host's, and there is none in e. As Enrol in all else.
	Split(ctx context.Context, from string, e Enrolment) (Enrolled, error)
}

// Observation is what was seen of one host since the last one: nil and empty fields are unchanged.
type Observation struct {
	HostID       string
	At           time.Time // when the newest of it was seen
	Presence     *Presence
	AgentVersion string
	Sections     []section.Status // those that changed, by name, each once
	Modules      *[]host.Health   // all of them
	Inventory    *Inventory
	Met          []host.Trouble  // troubles of earlier attempts, each code once
	Ongoing      *[]host.Trouble // all that are there now
}

// Presence is a durable transition between here and away.
type Presence struct {
	Online bool
	Since  time.Time // online: when the link was welcomed; offline: when the host was last heard
	Link   Order     // of which link this is said
	From   netip.Addr
	// Replica that holds, or held, that link; empty while there is only one. Where the database shows a link at another
	// replica, word of an older one's end is void.
	Replica string
	At      time.Time // when that link was welcomed, where Replica is set
}

// Order places a link among all links of its host.
type Order struct {
	BootID     string
	Connection uint64 // counts links since boot
}

// Inventory is a host's description of itself, with the digest by which the agent names it.
type Inventory struct {
	Inventory host.Inventory
	Ceiling   host.Ceiling
	Digest    []byte
}

// Observer makes durable what hosts reported.
type Observer interface {
	// Observe stores a batch, each host at most once in it, in one transaction; nil means durable. Hosts that are unknown,
	// unmanaged or removed by now are passed over without an error. Storing what is stored already is harmless and makes
	// no change: the hub may repeat itself after an error or when Lookup lags. Called by one goroutine at a time.
	//
	// On Unavailable, Timeout, Conflict or Canceled the same facts come again, merged with newer ones, until they are
	// taken. On any other error the hub halves the batch to find the host that it is about, logs it and drops that
	// observation alone: the host's next reports differ from Known again.
	Observe(ctx context.Context, batch []Observation) error
	// OfferKey stores the host's next key, with its audit entry, and returns when it is durable; the signature by the
	// offered key and the generation (Generation+1) have been checked against Lookup, and must be checked again inside
	// the transaction. Offering the same key again succeeds and changes nothing; another key replaces one that was
	// offered and not used yet. NotFound or Precondition when the host was removed meanwhile.
	OfferKey(ctx context.Context, hostID string, next ed25519.PublicKey, generation int64) error
	// UseNextKey makes the offered key the current one (the old one is past for good) and returns the new Known once it
	// is durable; Lookup answers the same from then on. When next is the current key already the answer is the same.
	// Precondition when next is neither.
	UseNextKey(ctx context.Context, hostID string, next ed25519.PublicKey) (*Known, error)
	// Succeeded makes the last of these keys the current one, and all others past: each followed the one before it, the first of
	// them the current one, by that key's own signature. Precondition where from is not the current key any more.
	Succeeded(ctx context.Context, hostID string, from ed25519.PublicKey, keys []ed25519.PublicKey, generation int64) (*Known, error)
	// RolledBack says that a past key proved itself while nobody holds the newer one: most likely a snapshot was
	// restored. The host becomes pending ("rolled back"), durable and audited, with this key as its next one: once an
	// operator approves, the hub uses it. Returns the new Known, as UseNextKey does; may be repeated.
	RolledBack(ctx context.Context, hostID string, past ed25519.PublicKey) (*Known, error)
	// Adopt takes a section over from the host that holds it, where an operator decided that it wins: what is desired has the
	// same contents from then on. Durable and audited; nothing where that was not decided, or was done already.
	Adopt(ctx context.Context, hostID string, held section.Section) error
	// Cloned says that these machines hold the host's key at the same time. The host is locked, durable and audited, until
	// an operator decides on each of them. Returns the new Known, as UseNextKey does; what is known already changes nothing.
	Cloned(ctx context.Context, hostID string, found []host.Copy) (*Known, error)
}

// Announcement is one replica's word on one host, carried by the bus.
type Announcement struct {
	Replica string
	HostID  string
	Online  bool
	Link    Order
	At      time.Time // online: when the link was welcomed; else when it ended
}

// Question goes from one replica to another, and comes back answered: whether the agent of a link that the other holds is
// there. The bus is not trusted with the answer, which is the agent's own signature.
type Question struct {
	From, To  string // replicas
	ID        string // chosen by who asks
	HostID    string
	Link      Order
	Nonce     []byte
	Answer    Answer // empty: it is asked
	Key       []byte // that said hello on the link; with Present
	Hash      []byte // of its handshake
	Signature []byte
	Copy      host.Copy // what the link's machine claims to be
}

// Announcer tells the other replicas. It must not block; announcements that are lost are repeated at the next roll call,
// a question or answer that is lost counts as a silent agent.
type Announcer interface {
	Announce(batch []Announcement)
	Ask(q Question) // the question, or the answer, to replica q.To
}

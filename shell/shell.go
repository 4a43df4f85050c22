// Package shell says what an interactive shell on a host is: a Session, and what travels between those who take part in it.
//
// A session is asked for by somebody with a reason, is written to the audit log before its first byte and after its last, and
// is recorded on the host and in the control plane, each for itself (package recording):
//
//	opening ──the host took the order──▶ running ──▶ ended
//	   └────── refused, or nobody came ──────────────▲
//
// A host's end of a session owns the terminal and outlives the agent and the link. The control plane's end may come and go,
// and be another replica's: whoever takes it up asks the host for as much of the record as it does not have. What ends a session
// is named (EndReason), whoever ended it.
package shell

import (
	"encoding/json"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/loopbackd/loopback/access"
	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/recording"
	"github.com/loopbackd/loopback/tenant"
)

// Permissions over sessions.
const (
	Open   access.Permission = "shell_sessions.open" // tier 0
	Join   access.Permission = "shell_sessions.join" // tier 0: to type into somebody's session
	Watch  access.Permission = "shell_sessions.watch"
	Kill   access.Permission = "shell_sessions.kill"
	Read   access.Permission = "shell_sessions.read"
	Replay access.Permission = "shell_sessions.replay"

	End access.Permission = "shell_sessions.end" // how the audit log names a session's end; nobody holds it
)

// State of a session.
type State string

// The states.
const (
	Opening State = "opening"
	Running State = "running"
	Ended   State = "ended"
)

// States are all of them.
var States = []State{Opening, Running, Ended}

// Verdict says how the two recordings compare.
type Verdict string

// The verdicts.
const (
	Unknown   Verdict = ""          // the session has not ended
	Agreed    Verdict = "agreed"    // the heads are the same
	Partial   Verdict = "partial"   // one ends earlier; until then they are the same
	Alone     Verdict = "alone"     // the host has not told its head
	Disagreed Verdict = "disagreed" // they differ
)

// Session is one shell.
type Session struct {
	tenant.Meta
	Scope    access.Scope
	HostID   string
	HostName string // its name then
	User     string // of the host
	Cols     int
	Rows     int
	Term     string

	Principal string // who opened it
	Who       string // their name then
	Actor     string // the credential
	Address   string // where from
	Reason    string
	Ticket    string
	Rule      string // the binding that allowed it

	State      State
	StartedAt  time.Time // when the host took it
	EndedAt    time.Time
	EndReason  string
	ExitStatus int
	EndsBy     time.Time // at the latest
	Replica    string    // that records it
	Lives      int       // how often the control plane's end began anew

	Sealed  []byte         // the keyring of the recording, encrypted; empty once the recording is deleted
	Head    recording.Head // of the control plane's recording
	Host    recording.Head // of the host's
	Verdict Verdict
	Differs int64 // the first chunk that does; -1: none is known

	Held     Word      // nobody and nothing deletes the recording while it is
	Deletion Word      // of the recording; what it came to (Head) stays
	HostAt   time.Time // when the host dropped its copy of a recording that is deleted
}

// Query selects sessions, newest first.
type Query struct {
	Readable access.Sight
	Within   access.Scope
	Host     string // id
	Who      string // id of a principal
	States   []State
	Page     tenant.Page
}

// Bounds of what is asked for.
const (
	MaxCols, MaxRows = 1000, 1000
	MaxUser          = 32
	MaxTerm          = 64
	DefaultCols      = 80
	DefaultRows      = 24
)

// Times that bound a session where no policy says otherwise.
const (
	Idle     = 15 * time.Minute // without a key
	Longest  = time.Hour
	Detached = 15 * time.Minute // without anybody who types
	Comes    = 30 * time.Second // for a host to come
)

// Limits of how many run at a time.
const (
	MaxPerHost = 20
	MaxPerUser = 10
)

// MaxLives is how often the control plane's end of one session can begin anew: after a crash, a restart, or on another replica.
const MaxLives = 6

// TakenUpAgain is how long after their last connection somebody who types may go on without showing a passkey once more.
const TakenUpAgain = 5 * time.Minute

// MaxUnsent is how many bytes of output a host keeps that nobody has taken; a session that has more ends.
const MaxUnsent = 256 << 20

var (
	userName = regexp.MustCompile(`^[a-z_][a-z0-9_.-]*\$?$`)
	termName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9.+_-]*$`)
)

// CheckUser demands the name of a user of a host; empty is root.
func CheckUser(c *fault.Check, field, user string) {
	c.That(user == "" || len(user) <= MaxUser && userName.MatchString(user), field, "is %q, which is no name of a user", user)
}

// Validate collects what is wrong with a session that is asked for.
func (s Session) Validate(c *fault.Check) {
	CheckUser(c, "user", s.User)
	c.That(strings.TrimSpace(s.Reason) != "", "reason", "is missing: say what it is needed for")
	c.That(len(s.Reason) <= access.MaxReason, "reason", "is %d bytes long; at most %d are allowed", len(s.Reason), access.MaxReason)
	c.That(len(s.Ticket) <= access.MaxTicket, "ticket", "is %d bytes long; at most %d are allowed", len(s.Ticket), access.MaxTicket)
	c.That(s.Cols > 0 && s.Cols <= MaxCols, "cols", "is %d; allowed are 1 to %d", s.Cols, MaxCols)
	c.That(s.Rows > 0 && s.Rows <= MaxRows, "rows", "is %d; allowed are 1 to %d", s.Rows, MaxRows)
	c.That(len(s.Term) <= MaxTerm && termName.MatchString(s.Term), "term", "is %q, which is no kind of terminal", s.Term)
}

// Wanted tells whether a state is one that a query asks for.
func (q Query) Wanted(s State) bool { return len(q.States) == 0 || slices.Contains(q.States, s) }

// Order is what a host needs to begin a session; or, where Forget names a session that has ended, has it drop what it recorded of that.
// An agent that is too old to know of Forget finds no session in such an order, and refuses it.
type Order struct {
	Forget   string                     `json:"forget,omitempty"`
	Session  string                     `json:"session"`
	Secret   [recording.SecretSize]byte `json:"secret"` // of the recording
	Host     string                     `json:"host"`
	User     string                     `json:"user"`
	Who      string                     `json:"who"`
	Reason   string                     `json:"reason"`
	Cols     int                        `json:"cols"`
	Rows     int                        `json:"rows"`
	Term     string                     `json:"term"`
	Start    time.Time                  `json:"start"`
	Idle     time.Duration              `json:"idle"`
	Longest  time.Duration              `json:"longest"`
	Detached time.Duration              `json:"detached"`
	Input    bool                       `json:"input"` // what is typed is recorded too
}

// Encode is an order as it travels.
func (o Order) Encode() ([]byte, error) { return json.Marshal(o) }

// ParseOrder reads one.
func ParseOrder(b []byte) (Order, error) {
	var o Order
	if err := json.Unmarshal(b, &o); err != nil {
		return Order{}, fault.New(fault.Invalid, "shell_order_invalid", "the order of a shell cannot be read").WithCause(err)
	}
	return o, nil
}

// Package guest is somebody without an account who watches one live shell: vendor support, on a link, for a time.
//
// The link holds a random string ("lbg_…") of which only the keyed hash is kept. It opens the terminal of its one session, to look at,
// and nothing else; it may be opened again after a cut, and where it is opened twice the later one goes on and the earlier ends.
//
//	waiting ──opened──▶ watching ──gone──▶ left
//	   │                 ▲  │               │
//	   │                 └──┼────again──────┤
//	   └────────────────────┴───────────────┴──▶ revoked, expired
//
// Whoever invites a guest answers for them: the guest sees no longer than the Inviter may watch the session and invite to it. A
// session's end is the end of its guests.
package guest

import (
	"crypto/hmac"
	"crypto/rand"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/loopbackd/loopback/access"
	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/secret"
	"github.com/loopbackd/loopback/tenant"
)

// Permissions over guests.
const (
	Invite access.Permission = "shell_guests.invite"
	Read   access.Permission = "shell_guests.read"
	Revoke access.Permission = "shell_guests.revoke"
)

// How the audit log names what guests do; nobody holds these.
const (
	Join  access.Permission = "shell_guests.join"
	Leave access.Permission = "shell_guests.leave"
)

// Prefix of the string of a link.
const Prefix = "lbg"

const bodySize = 32

// How long a link works.
const (
	MinTTL     = time.Minute
	DefaultTTL = 30 * time.Minute
	MaxTTL     = 8 * time.Hour
)

// MaxPerSession is how many links of one session work at a time.
const MaxPerSession = 5

// MaxName of a guest, in bytes.
const MaxName = 64

// Guest is one. Its name is what whoever invited them calls them.
type Guest struct {
	tenant.Meta
	Scope     access.Scope // of the session
	SessionID string
	HostID    string
	HostName  string // its name then
	Hash      []byte
	Inviter   Inviter
	ExpiresAt time.Time
	JoinedAt  time.Time // the last time
	Address   string    // from where, then
	LeftAt    time.Time // the last time
	RevokedAt time.Time
}

// Inviter is who invited a guest, as far as it takes to ask again whether they may.
type Inviter struct {
	Kind      access.Kind `json:"kind"`
	ID        string      `json:"id"` // the credential's
	Principal string      `json:"principal"`
	Name      string      `json:"name"` // the principal's, then
	Address   string      `json:"address,omitempty"`
	MFA       time.Time   `json:"mfa,omitzero"`
	Reason    string      `json:"reason,omitempty"`
	Ticket    string      `json:"ticket,omitempty"`
}

// State of a guest.
type State string

// The states.
const (
	Waiting  State = "waiting" // nobody has opened the link
	Watching State = "watching"
	Left     State = "left"
	Revoked  State = "revoked"
	Expired  State = "expired"
)

// State at a time.
func (g Guest) State(now time.Time) State {
	switch {
	case !g.RevokedAt.IsZero():
		return Revoked
	case !now.Before(g.ExpiresAt):
		return Expired
	case g.JoinedAt.IsZero():
		return Waiting
	case g.LeftAt.Before(g.JoinedAt):
		return Watching
	}
	return Left
}

// CheckName demands a name that can stand in a line of a terminal.
func CheckName(c *fault.Check, name string) {
	c.That(strings.TrimSpace(name) != "", "name", "is missing: say who the guest is")
	c.That(len(name) <= MaxName, "name", "is %d bytes long; at most %d are allowed", len(name), MaxName)
	c.That(utf8.ValidString(name) && !strings.ContainsFunc(name, func(r rune) bool { return !unicode.IsPrint(r) }), "name", "is not printable text in one line")
}

// Opens is nil where this string is the link's, of this session, and the link works at a time. Why it does not is told only to who
// holds the whole string.
func (g Guest) Opens(pepper []byte, text, session string, now time.Time) error {
	if !hmac.Equal(g.Hash, secret.Hash(pepper, text)) || g.SessionID != session {
		return ErrInvalid
	}
	return g.Works(now)
}

// Works is nil where the link can be used at a time.
func (g Guest) Works(now time.Time) error {
	switch g.State(now) {
	case Revoked:
		return ErrRevoked
	case Expired:
		return ErrExpired
	}
	return nil
}

// NewSecret makes the string of a link.
func NewSecret(id string) string {
	body := make([]byte, bodySize)
	rand.Read(body)
	return secret.Format(Prefix, id, body)
}

// ParseSecret is the id of the guest whose string this is.
func ParseSecret(s string) (id string, err error) {
	public, _, err := secret.Parse(Prefix, s, bodySize)
	if err != nil {
		return "", ErrInvalid.WithCause(err)
	}
	return "gst_" + public, nil
}

const ask = "ask who sent it for another" // how is not for a guest to know

// Why a guest sees nothing, or no longer.
var (
	ErrInvalid = fault.New(fault.Unauthenticated, "guest_invalid", "the link is not valid").WithHint("open the whole link as you got it")
	ErrRevoked = fault.New(fault.Unauthenticated, "guest_revoked", "the link was taken back").WithHint(ask)
	ErrExpired = fault.New(fault.Unauthenticated, "guest_expired", "the link has expired").WithHint(ask)
	ErrUnheld  = fault.New(fault.Denied, "guest_unheld", "whoever sent the link may not show the session any more").WithHint("ask them")
	ErrOther   = fault.New(fault.Conflict, "guest_elsewhere", "the link was opened somewhere else, and goes on there").WithHint("if that was not you, tell who sent it at once")
	ErrActs    = fault.New(fault.Denied, "guest_read_only", "a guest looks on, and does nothing else")
)

// Query selects guests of a session, newest first.
type Query struct {
	Session string
	Page    tenant.Page
}

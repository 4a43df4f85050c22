// Package invitation is a link by which a user comes in for the first time, or after all their ways in were lost.
//
// It holds a random string ("lbi_…") that works once, for the user it was made for, until it expires; only its keyed hash is
// kept. Who holds the link makes a passkey and is let in as that user, so whoever makes one has to hold all that the user holds. Who
// signs in at an identity provider instead has to be, as the provider says, whom the invitation is for.
package invitation

import (
	"crypto/hmac"
	"crypto/rand"
	"time"

	"github.com/loopbackd/loopback/access"
	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/secret"
	"github.com/loopbackd/loopback/tenant"
)

// Permissions over invitations.
const (
	Create access.Permission = "invitations.create"
	Read   access.Permission = "invitations.read"
	Revoke access.Permission = "invitations.revoke"
)

// Use is in the audit log where an invitation was used.
const Use access.Permission = "invitations.use"

// Prefix of the string of an invitation.
const Prefix = "lbi"

const bodySize = 32

// How long an invitation works.
const (
	MinTTL       = 5 * time.Minute
	DefaultTTL   = 72 * time.Hour
	MaxTTL       = 7 * 24 * time.Hour
	BootstrapTTL = time.Hour // of the one that the bootstrap code is traded for
)

// Invitation is one. Its name is its user's when it was made.
type Invitation struct {
	tenant.Meta
	Scope     access.Scope // where the user belongs
	UserID    string
	Hash      []byte
	CreatedBy string // id of who made it
	ExpiresAt time.Time
	UsedAt    time.Time
	UsedFor   string // id of the passkey, or of the identity at a provider, that came of it
	RevokedAt time.Time
}

// State at a time: "waiting", "used", "revoked" or "expired".
func (i Invitation) State(now time.Time) string {
	switch {
	case !i.UsedAt.IsZero():
		return "used"
	case !i.RevokedAt.IsZero():
		return "revoked"
	case !now.Before(i.ExpiresAt):
		return "expired"
	}
	return "waiting"
}

// Opens is nil where this string is the invitation's, and it works at a time. Why it does not is told only to who holds the
// whole string.
func (i Invitation) Opens(pepper []byte, text string, now time.Time) error {
	if !hmac.Equal(i.Hash, secret.Hash(pepper, text)) {
		return ErrInvalid
	}
	return i.Works(now)
}

// Works is nil where it can be used at a time.
func (i Invitation) Works(now time.Time) error {
	switch i.State(now) {
	case "used":
		return ErrUsed
	case "revoked":
		return ErrRevoked
	case "expired":
		return ErrExpired
	}
	return nil
}

// NewSecret makes the string of an invitation.
func NewSecret(id string) string {
	body := make([]byte, bodySize)
	rand.Read(body)
	return secret.Format(Prefix, id, body)
}

// ParseSecret is the id of the invitation whose string this is.
func ParseSecret(s string) (id string, err error) {
	public, _, err := secret.Parse(Prefix, s, bodySize)
	if err != nil {
		return "", ErrInvalid.WithCause(err)
	}
	return "inv_" + public, nil
}

const ask = "ask who sent it for another: loopback user invite"

// Errors of using invitations.
var (
	ErrInvalid = fault.New(fault.Unauthenticated, "invitation_invalid", "the invitation is not valid").WithHint("open the whole link as you got it")
	ErrUsed    = fault.New(fault.Unauthenticated, "invitation_used", "the invitation was used already").WithHint("if that was not you, tell an administrator at once; else sign in")
	ErrRevoked = fault.New(fault.Unauthenticated, "invitation_revoked", "the invitation was taken back").WithHint(ask)
	ErrExpired = fault.New(fault.Unauthenticated, "invitation_expired", "the invitation has expired").WithHint(ask)
	ErrOther   = fault.New(fault.Denied, "invitation_other_person", "the invitation is for somebody else than the provider says you are").
			WithHint("open the link again and sign in at the provider as whom it is for, or make a passkey; an administrator can set the user's e-mail address: loopback user update --email")
)

// Query selects invitations, newest first.
type Query struct {
	Readable access.Sight // only those in this sight; the empty one sees nothing
	User     string       // id; empty: anybody's
	Page     tenant.Page
}

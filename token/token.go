// Package token is the enrolment token: a workspace's credential for installing agents, never a person's password.
//
// A token's string is shown once, when it is minted; what is kept is a keyed hash. The string carries the first 16
// bytes of the SHA-256 of the deployment's anchor key, so that an agent knows whom to trust before it sends the secret.
//
//	minted ──▶ active ──▶ exhausted   all uses taken
//	             │
//	             ├──────▶ expired     its time is over
//	             └──────▶ revoked     by hand; alone, with its hosts quarantined, or with its hosts expelled
//
// Rotation mints a successor with the same bounds and lets both live until the overlap ends.
package token

import (
	"crypto/rand"
	"net/netip"
	"path"
	"time"

	"github.com/loopbackd/loopback/access"
	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/id"
	"github.com/loopbackd/loopback/label"
	"github.com/loopbackd/loopback/secret"
	"github.com/loopbackd/loopback/tenant"
)

// Permissions over tokens: three that are held separately. Rotating needs both minting and revoking, and is its own.
const (
	Mint   access.Permission = "agent_tokens.mint"
	List   access.Permission = "agent_tokens.list"
	Revoke access.Permission = "agent_tokens.revoke"
	Rotate access.Permission = "agent_tokens.rotate"
	Use    access.Permission = "agent_tokens.use" // in the audit log: a host presented it
)

// Prefix of a token string.
const Prefix = "lbt"

// Sizes in a token's body.
const (
	AnchorSize = 16
	secretSize = 20
	bodySize   = AnchorSize + secretSize
)

// Secret is a token's string taken apart.
type Secret struct {
	ID     string           // "tok_…"
	Anchor [AnchorSize]byte // whom to trust
	text   string
}

// NewSecret makes the string for a token. anchor is the hash of the deployment's anchor key.
func NewSecret(tokenID string, anchor [AnchorSize]byte) Secret {
	body := make([]byte, bodySize)
	copy(body, anchor[:])
	rand.Read(body[AnchorSize:])
	return Secret{ID: tokenID, Anchor: anchor, text: secret.Format(Prefix, tokenID, body)}
}

// ParseSecret reads a token string.
func ParseSecret(s string) (Secret, error) {
	public, body, err := secret.Parse(Prefix, s, bodySize)
	if err != nil {
		return Secret{}, ErrMalformed.WithCause(err)
	}
	return Secret{ID: "tok_" + public, Anchor: [AnchorSize]byte(body[:AnchorSize]), text: s}, nil
}

// Reveal is the whole string: for the wire and for showing it once.
func (s Secret) Reveal() string { return s.text }

// String hides the secret, so that logging one by mistake tells nothing.
func (s Secret) String() string { return s.ID }

// Hash is what is kept of the string.
func (s Secret) Hash(pepper []byte) []byte { return secret.Hash(pepper, s.text) }

// State of a token.
type State string

// The states.
const (
	Active    State = "active"
	Exhausted State = "exhausted"
	Expired   State = "expired"
	Revoked   State = "revoked"
)

// States are all of them.
var States = []State{Active, Exhausted, Expired, Revoked}

// Token is a workspace's credential for installing agents.
type Token struct {
	tenant.Meta
	Scope       access.Scope // of its workspace
	Description string       // ticket, environment, owner …
	Hash        []byte       // HMAC-SHA-256 of the string under the pepper

	ExpiresAt        time.Time
	MaxUses          int32
	Uses             int32
	AllowedNetworks  []netip.Prefix // empty: from anywhere
	HostNamePattern  string         // shell glob over the host's name; empty: any
	RequiresApproval bool           // hosts it enrols await approval
	HostLabels       label.Set      // forced on the hosts it enrols; a host cannot change them
	Channel          string         // "stable" or "preview"
	EphemeralTTL     time.Duration  // hosts it enrols are removed after being offline this long; 0: never
	Honeytoken       bool           // a trap: enrols nobody, every use is a leak signal

	CreatedBy   string // id of the actor
	LastUsedAt  time.Time
	LastAddress string
	Networks    []netip.Prefix // /24 or /48 that uses came from so far; a new one after the first is a leak signal
	Signals     []Signal       // signs that it leaked, one of a kind
	SuccessorID string         // the token that replaces this one
	RevokedAt   time.Time
	RevokedBy   string
	Reason      string // of the revocation
}

// State of the token at a time.
func (t Token) State(now time.Time) State {
	switch {
	case !t.RevokedAt.IsZero() && !now.Before(t.RevokedAt):
		return Revoked
	case !now.Before(t.ExpiresAt):
		return Expired
	case t.Uses >= t.MaxUses:
		return Exhausted
	default:
		return Active
	}
}

// Errors of a use. Each says what to do next. They are told only to whoever holds the whole string; anyone else gets
// ErrUnknown.
var (
	ErrMalformed = fault.New(fault.Unauthenticated, "token_malformed", "the enrolment token is malformed").
			WithHint("copy the token again as a whole: it starts with lbt_ and is %d characters long", 4+id.Length+1+58+6)
	ErrUnknown = fault.New(fault.Unauthenticated, "token_unknown", "the enrolment token is not known here").
			WithHint("check that the token was minted on this control plane, or mint a new one: loopback token mint")
	ErrExpired = fault.New(fault.Unauthenticated, "token_expired", "the enrolment token has expired").
			WithHint("mint a new one (loopback token mint) and run the installer again with it")
	ErrExhausted = fault.New(fault.Unauthenticated, "token_exhausted", "the enrolment token has no uses left").
			WithHint("mint a new one (loopback token mint --max-uses N) and run the installer again with it")
	ErrRevoked = fault.New(fault.Unauthenticated, "token_revoked", "the enrolment token was revoked").
			WithHint("ask who revoked it (loopback audit list), mint a new one and run the installer again with it")
	ErrNetwork = fault.New(fault.Denied, "token_network", "the enrolment token may not be used from this address").
			WithHint("run the installer from an allowed network, or mint a token whose --allow-network covers this one")
	ErrHostName = fault.New(fault.Denied, "token_host_name", "the enrolment token may not be used by a host of this name").
			WithHint("rename the host, pass --name, or mint a token whose --host-name pattern matches")
)

// Check tells whether a host of this name may use the token now from this address. It does not look at the hash.
func (t Token) Check(now time.Time, from netip.Addr, hostName string) error {
	switch t.State(now) {
	case Revoked:
		return ErrRevoked
	case Expired:
		return ErrExpired
	case Exhausted:
		return ErrExhausted
	}
	if len(t.AllowedNetworks) > 0 {
		allowed := false
		for _, n := range t.AllowedNetworks {
			allowed = allowed || n.Contains(from.Unmap())
		}
		if !allowed {
			return ErrNetwork
		}
	}
	if t.HostNamePattern != "" {
		if ok, err := path.Match(t.HostNamePattern, hostName); err != nil || !ok {
			return ErrHostName
		}
	}
	return nil
}

// Query selects tokens, newest first.
type Query struct {
	Readable access.Sight // only what is in this sight; the empty one sees nothing
	Within   access.Scope
	Name     string  // exactly; empty: any
	States   []State // at Now; empty: all
	Now      time.Time
	Page     tenant.Page
}

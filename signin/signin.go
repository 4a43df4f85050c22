// Package signin is a person's stay: from when they showed who they are until they leave, are sent away, stay away too
// long, or a time that no use prolongs is over.
//
// A sign-in is shown by a random string ("lbs_…"), in a browser's cookie or a command line's file; only its keyed hash is
// kept. It acts for a user (or a service account, whose API key was pasted into the console) and holds what they hold. One
// that began with an API key holds no more than that key, and ends with it. It knows when a second factor was last given:
// permissions of tier 0 and rules that ask for one go by that.
package signin

import (
	"crypto/rand"
	"time"

	"github.com/loopbackd/loopback/access"
	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/secret"
	"github.com/loopbackd/loopback/tenant"
)

// Permissions over other people's sign-ins. One's own need access.SelfManage.
const (
	Read   access.Permission = "sign_ins.read"
	Revoke access.Permission = "sign_ins.revoke"
)

// Use is in the audit log where a sign-in was shown that opens nothing.
const Use access.Permission = "sign_ins.use"

// Prefix of the string of a sign-in.
const Prefix = "lbs"

const bodySize = 32

// Method is how somebody showed who they are.
type Method string

// The methods.
const (
	APIKey    Method = "api_key"
	OIDC      Method = "oidc"
	Passkey   Method = "passkey"
	Bootstrap Method = "bootstrap" // with the code that loopbackd printed
	ByDevice  Method = "device"    // approved for another device by who had signed in
)

// Methods are all of them.
var Methods = []Method{APIKey, OIDC, Passkey, Bootstrap, ByDevice}

// Why sign-ins end, besides the times that are over.
const (
	SignedOut = "signed_out"
	Revoked   = "revoked"
	Replaced  = "replaced" // the same browser signed in anew
	UserGone  = "user_gone"
	Restored  = "restored" // a backup was restored
)

// SignIn is one stay. Its name is its user's at the time.
type SignIn struct {
	tenant.Meta
	Scope      access.Scope // where the user belongs
	UserID     string       // a user, or a service account
	Method     Method
	Via        string // id of the API key, provider, passkey or sign-in that it began with
	KeyID      string // the API key that bounds it; empty: all that the user holds
	Address    string // where it began
	Agent      string // program that it began in, as that calls itself
	Hash       []byte
	ProvedAt   time.Time // when they last showed who they are: the absolute limit counts from here
	ExpiresAt  time.Time // the absolute limit
	Idle       time.Duration
	LastUsedAt time.Time
	MFAAt      time.Time // when the second factor was last given; zero: never
	EndedAt    time.Time
	EndedFor   string // why
}

// Live tells whether it opens anything at a time.
func (s SignIn) Live(now time.Time) bool { return s.Refusal(now, time.Time{}) == nil }

// Refusal is why it opens nothing; nil while it does. used is a use that is not written down yet.
func (s SignIn) Refusal(now, used time.Time) *fault.Error {
	if used.Before(s.LastUsedAt) {
		used = s.LastUsedAt
	}
	switch {
	case !s.EndedAt.IsZero():
		return ErrEnded
	case !now.Before(s.ExpiresAt):
		return ErrExpired
	case now.Sub(used) >= s.Idle:
		return ErrIdle
	}
	return nil
}

// NewSecret makes the string of a sign-in.
func NewSecret(id string) string {
	body := make([]byte, bodySize)
	rand.Read(body)
	return secret.Format(Prefix, id, body)
}

// ParseSecret is the id of the sign-in whose string this is.
func ParseSecret(s string) (id string, err error) {
	public, _, err := secret.Parse(Prefix, s, bodySize)
	if err != nil {
		return "", ErrInvalid.WithCause(err)
	}
	return "sgn_" + public, nil
}

const again = "sign in again: loopback login"

// Errors of showing a sign-in.
var (
	ErrInvalid = fault.New(fault.Unauthenticated, "sign_in_invalid", "the sign-in is not valid").WithHint(again)
	ErrEnded   = fault.New(fault.Unauthenticated, "sign_in_ended", "you were signed out").WithHint(again)
	ErrExpired = fault.New(fault.Unauthenticated, "sign_in_expired", "you have been signed in for as long as this deployment allows").WithHint(again)
	ErrIdle    = fault.New(fault.Unauthenticated, "sign_in_idle", "you were signed out: nothing was done for too long").WithHint(again)
	ErrUser    = fault.New(fault.Unauthenticated, "sign_in_user_gone", "the user is disabled or was deleted").
			WithHint("ask an administrator")
	ErrKey = fault.New(fault.Unauthenticated, "sign_in_key_gone", "the API key that you signed in with was revoked or has expired").WithHint(again)
)

// Query selects sign-ins, newest first.
type Query struct {
	Readable access.Sight // only those in this sight; the empty one sees nothing
	User     string       // id; empty: anybody's
	LiveAt   time.Time    // only those that opened something then, as far as the database knows; zero: all
	Page     tenant.Page
}

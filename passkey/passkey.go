// Package passkey is a key pair that a person's authenticator keeps, and with which it shows that they are there (WebAuthn
// Level 3, W3C).
//
// The private half never leaves the authenticator, or the account that keeps copies of it; here is only the public half. It is
// good for one domain, so a page of any other address cannot ask for it. Every use takes the person's finger, face or PIN
// (user verification), which makes a passkey two factors in one. An authenticator that counts its uses and comes with a lower
// count than before has been copied, or its answer has: it is refused.
package passkey

import (
	"net/netip"
	"net/url"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/loopbackd/loopback/access"
	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/tenant"
)

// Permissions over other people's passkeys. One's own need access.SelfManage.
const (
	Read   access.Permission = "passkeys.read"
	Revoke access.Permission = "passkeys.revoke"
)

// Use is in the audit log where a passkey was shown to do something, or was refused.
const Use access.Permission = "passkeys.use"

// Life is how long a ceremony may take, from the options to the answer.
const Life = 5 * time.Minute

// MaxOfUser is how many a user can have; MaxName how long a name can be, in characters.
const (
	MaxOfUser = 50
	MaxName   = 100
)

// Passkey is one. Its name is what its user calls it.
type Passkey struct {
	tenant.Meta
	Scope          access.Scope // where its user belongs
	UserID         string
	Domain         string // that it is good for: the RP ID
	CredentialID   []byte // up to 1023 bytes
	PublicKey      []byte // COSE_Key (RFC 9052)
	SignCount      uint32 // at its last use; 0: it does not count
	AAGUID         []byte // the model of its authenticator, 16 bytes
	Transports     []string
	BackupEligible bool
	BackedUp       bool
	LastUsedAt     time.Time
}

// Domain is what passkeys of a control plane with this address are good for; empty where the address has no name, for browsers
// give no passkeys to IP addresses.
func Domain(address string) string {
	u, err := url.Parse(address)
	if err != nil {
		return ""
	}
	if _, err := netip.ParseAddr(u.Hostname()); err == nil {
		return ""
	}
	return strings.ToLower(strings.TrimSuffix(u.Hostname(), "."))
}

// Counted tells whether a count is possible after the one before it (WebAuthn Level 3, 6.1.1): it grows, or both are 0.
func Counted(before, now uint32) bool { return before == 0 && now == 0 || now > before }

// CheckName demands that a name can be shown.
func CheckName(c *fault.Check, field, name string) {
	n := utf8.RuneCountInString(name)
	printable := utf8.ValidString(name)
	for _, r := range name {
		printable = printable && unicode.IsPrint(r)
	}
	c.That(n >= 1 && n <= MaxName, field, "is %d characters long; 1 to %d are allowed", n, MaxName)
	c.That(printable, field, "has characters that cannot be shown")
}

// Query selects passkeys, newest first.
type Query struct {
	Readable access.Sight // only those in this sight; the empty one sees nothing
	User     string       // id; empty: anybody's
	Page     tenant.Page
}

const anew = "begin again"

// Errors of making and showing passkeys.
var (
	ErrInvalid = fault.New(fault.Unauthenticated, "passkey_invalid", "the passkey's answer is not valid").WithHint(anew)
	ErrOver    = fault.New(fault.Unauthenticated, "passkey_ceremony_over", "that took longer than five minutes, was used already, or was begun for something else").
			WithHint(anew)
	ErrUnknown = fault.New(fault.Unauthenticated, "passkey_unknown", "this passkey is not known here: it was removed, or is of another deployment").
			WithHint("sign in by another way, and delete the passkey where you keep it")
	ErrOther  = fault.New(fault.Denied, "passkey_other_user", "this is the passkey of another user").WithHint("use one of your own")
	ErrCloned = fault.New(fault.Unauthenticated, "passkey_cloned", "the passkey counts fewer uses than before: there may be a copy of it").
			WithHint("sign in by another way, remove this passkey, and make a new one")
	ErrUser = fault.New(fault.Unauthenticated, "sign_in_user_gone", "the user is disabled or was deleted").WithHint("ask an administrator")
	ErrKey  = fault.New(fault.Denied, "passkey_by_api_key", "who signed in with an API key cannot make a passkey: it would hold more than the key, and outlive it").
		WithHint("have somebody who may invite you (loopback user invite NAME), or sign in by a provider")
	ErrLast = fault.New(fault.Precondition, "passkey_last", "it is your last way in: without it you could not sign in any more").
		WithHint("make another passkey first, or say that you want to be without")
	ErrNone = fault.New(fault.Precondition, "passkey_none", "you have no passkey that is good here").
		WithHint("make one in the console, on the page of your account")
	ErrMany = fault.New(fault.Exhausted, "passkeys_many", "a user can have %d passkeys", MaxOfUser).WithHint("remove those that you do not use")
)

// Unavailable is the answer where passkeys cannot be had, because of the address of the control plane.
func Unavailable(address string) error {
	return fault.New(fault.Precondition, "passkeys_unavailable", "passkeys need a domain name, and the control plane's address is %s", address).
		WithHint("give the control plane a name that people reach it by: loopbackd --public-url https://NAME, with a certificate that browsers trust")
}

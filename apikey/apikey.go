// Package apikey is the credential of scripts and, until people sign in, of operators.
//
// A key is shown once; a keyed hash is kept. It belongs to a user or a service account and always ends at a time. It is
// good for a set of permissions over one scope, as far as its owner holds them: a key never exceeds its owner, and ends
// with them.
package apikey

import (
	"crypto/rand"
	"time"

	"github.com/loopbackd/loopback/access"
	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/secret"
	"github.com/loopbackd/loopback/tenant"
)

// Permissions over API keys.
const (
	Create access.Permission = "api_keys.create"
	Read   access.Permission = "api_keys.read"
	Revoke access.Permission = "api_keys.revoke"
)

// Prefix of a key's string.
const Prefix = "lbk"

const bodySize = 20

// Bounds of a key's life.
const (
	DefaultTTL = 90 * 24 * time.Hour
	MaxTTL     = 366 * 24 * time.Hour
)

// Key is an API key.
type Key struct {
	tenant.Meta
	Description string
	Scope       access.Scope
	Permissions []access.Permission
	Hash        []byte
	ExpiresAt   time.Time
	CreatedBy   string
	OwnerID     string // the user or service account on whose behalf it acts
	LastUsedAt  time.Time
	RevokedAt   time.Time
}

// Live tells whether the key opens anything at a time.
func (k Key) Live(now time.Time) bool { return k.RevokedAt.IsZero() && now.Before(k.ExpiresAt) }

// Actor is who acts with this key. Without a policy it is decided on by the key alone.
func (k Key) Actor() access.Actor {
	return access.Actor{Kind: access.APIKey, ID: k.ID, Name: k.Name, Principal: k.OwnerID, Method: string(access.APIKey),
		Grants: []access.Grant{{ID: k.ID, Permissions: k.Permissions, Scope: k.Scope}}}
}

// NewSecret makes the string of a key.
func NewSecret(keyID string) string {
	body := make([]byte, bodySize)
	rand.Read(body)
	return secret.Format(Prefix, keyID, body)
}

// ParseSecret is the id of the key whose string this is.
func ParseSecret(s string) (keyID string, err error) {
	public, _, err := secret.Parse(Prefix, s, bodySize)
	if err != nil {
		return "", ErrInvalid.WithCause(err)
	}
	return "key_" + public, nil
}

// Errors of signing in with a key or the bootstrap code.
var (
	ErrInvalid = fault.New(fault.Unauthenticated, "api_key_invalid", "the API key is not valid").
			WithHint("copy it again as a whole, or sign in anew: loopback login")
	ErrExpired = fault.New(fault.Unauthenticated, "api_key_expired", "the API key has expired").
			WithHint("have another one made: loopback apikey create")
	ErrOwner = fault.New(fault.Unauthenticated, "api_key_owner_gone", "the owner of the API key is disabled or was deleted").
			WithHint("have a key made for somebody else: loopback apikey create")
	ErrRevoked = fault.New(fault.Unauthenticated, "api_key_revoked", "the API key was revoked")
	ErrCode    = fault.New(fault.Unauthenticated, "bootstrap_code_invalid", "the bootstrap code is not valid, or was used already").
			WithHint("loopbackd prints it at first start, while there is no administrator")
)

// Query selects keys, newest first.
type Query struct {
	Readable access.Sight // only what is in this sight; the empty one sees nothing
	Owner    string       // id; empty: anybody's
	Page     tenant.Page
}

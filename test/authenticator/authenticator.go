// Package authenticator is a passkey in a test: a virtual authenticator (descope/virtualwebauthn) that answers ceremonies as a real
// one does, or wrongly where a test changes its fields.
//
// Coordinates of its keys are 32 bytes long, as RFC 9053 (7.1.1) demands of keys on P-256: the library itself leaves leading zero
// bytes out, one time in 128, and such a key is rightly refused.
package authenticator

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"net/url"
	"testing"

	virtual "github.com/descope/virtualwebauthn"
)

// Authenticator holds one passkey of a user at a control plane.
type Authenticator struct {
	Party  virtual.RelyingParty
	Device virtual.Authenticator
	Key    virtual.Credential
}

// New makes one for the control plane at an address (a URL), with a key of its own. The user is an id.
func New(t testing.TB, address, user string) *Authenticator {
	t.Helper()
	at, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	return &Authenticator{
		Party:  virtual.RelyingParty{Name: "Loopback", ID: at.Hostname(), Origin: address},
		Device: virtual.NewAuthenticatorWithOptions(virtual.AuthenticatorOptions{UserHandle: []byte(user)}),
		Key:    Key(t),
	}
}

// Key makes a key on P-256.
func Key(t testing.TB) virtual.Credential {
	t.Helper()
	for {
		pair, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		point, err := pair.PublicKey.Bytes() // 4, x, y (SEC 1, 2.3.3)
		if err != nil {
			t.Fatal(err)
		}
		if point[1] == 0 || point[33] == 0 {
			continue
		}
		private, err := x509.MarshalPKCS8PrivateKey(pair)
		if err != nil {
			t.Fatal(err)
		}
		return virtual.NewCredentialWithImportedKey(virtual.KeyTypeEC2, private)
	}
}

// Attest answers a ceremony that makes a passkey.
func (a *Authenticator) Attest(t testing.TB, options string) string {
	t.Helper()
	asked, err := virtual.ParseAttestationOptions(options)
	if err != nil {
		t.Fatal(err)
	}
	return virtual.CreateAttestationResponse(a.Party, a.Device, a.Key, *asked)
}

// Assert answers a ceremony in which it is shown.
func (a *Authenticator) Assert(t testing.TB, options string) string {
	t.Helper()
	asked, err := virtual.ParseAssertionOptions(options)
	if err != nil {
		t.Fatal(err)
	}
	return virtual.CreateAssertionResponse(a.Party, a.Device, a.Key, *asked)
}

// Package secret is the common form of credentials that people carry about: enrolment tokens and API keys.
//
//	lbt_01j9…26 characters…_body…body1A2b3C
//	└┬┘ └─────────┬────────┘ └───┬───┘└─┬──┘
//	kind       public id        body   CRC-32 of all before it, base 62
//
// The public id may be logged and shown; it is the id of the resource without its prefix. The body is opaque here. The
// checksum lets a scanner of source code tell a real credential from a lookalike without asking anybody, and lets us
// tell a truncated paste from a wrong one. At rest only Hash of the whole string under the deployment's pepper is kept.
package secret

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base32"
	"hash/crc32"
	"strings"

	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/id"
)

const (
	checksumLength = 6
	digits62       = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
)

var encoding *base32.Encoding = id.Encoding

// Format writes a credential. The resource id ("tok_01j9…") lends its characters after the prefix.
func Format(kind, resourceID string, body []byte) string {
	_, public, _ := strings.Cut(resourceID, "_")
	s := kind + "_" + public + "_" + encoding.EncodeToString(body)
	return s + checksum(s)
}

// Parse takes a credential of this kind apart: the public part of its id and its body. size is the body's length in
// bytes. An error says what is wrong with its form and holds nothing of it.
func Parse(kind, s string, size int) (public string, body []byte, err error) {
	malformed := func(what string) error {
		return fault.New(fault.Invalid, "credential_malformed", "the credential is malformed: %s", what).
			WithHint("copy it again as a whole; it starts with %s_", kind)
	}
	rest, ok := strings.CutPrefix(s, kind+"_")
	if !ok {
		return "", nil, malformed("it does not start with " + kind + "_")
	}
	public, tail, ok := strings.Cut(rest, "_")
	if !ok || len(public) != id.Length {
		return "", nil, malformed("its public id is not whole")
	}
	want := encoding.EncodedLen(size) + checksumLength
	if len(tail) != want {
		return "", nil, malformed("it is not whole")
	}
	if checksum(s[:len(s)-checksumLength]) != s[len(s)-checksumLength:] {
		return "", nil, malformed("its checksum does not match")
	}
	body, err = encoding.DecodeString(tail[:len(tail)-checksumLength])
	if err != nil {
		return "", nil, malformed("it holds a character that cannot occur")
	}
	if encoding.EncodeToString(body) != tail[:len(tail)-checksumLength] {
		return "", nil, malformed("its last character is not canonical")
	}
	return public, body, nil
}

// Hash is what a deployment keeps of a credential: HMAC-SHA-256 under a pepper that lives outside the database, so that
// a stolen database does not even allow guesses to be checked.
func Hash(pepper []byte, s string) []byte {
	m := hmac.New(sha256.New, pepper)
	m.Write([]byte(s))
	return m.Sum(nil)
}

func checksum(s string) string {
	n := crc32.ChecksumIEEE([]byte(s))
	var out [checksumLength]byte
	for i := checksumLength - 1; i >= 0; i-- {
		out[i] = digits62[n%62]
		n /= 62
	}
	return string(out[:])
}

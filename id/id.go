// Package id makes and checks the identifiers of resources.
//
// An id is a prefix that names the kind of resource, an underscore, and 26 characters: 48 bits of milliseconds since
// 1970 and 80 random bits in Crockford's base 32, lower case. Ids of one kind therefore sort by the time at which they
// were made, hold no character that a shell or a URL would touch, and can be made anywhere without asking anybody.
package id

import (
	"crypto/rand"
	"encoding/base32"
	"encoding/binary"
	"strings"
	"time"
)

// Length is the number of characters after the prefix and its underscore.
const Length = 26

// Encoding is Crockford's base 32 in lower case, without padding: it lacks i, l, o and u.
var Encoding = base32.NewEncoding("0123456789abcdefghjkmnpqrstvwxyz").WithPadding(base32.NoPadding)

// New makes an id with the given prefix ("hst", "tok" …) at the given time.
func New(prefix string, at time.Time) string {
	var raw [16]byte
	binary.BigEndian.PutUint64(raw[:8], uint64(at.UnixMilli())<<16)
	rand.Read(raw[6:]) // never fails: crypto/rand ends the process rather than return weak bytes
	return prefix + "_" + Encoding.EncodeToString(raw[:])
}

// Valid tells whether s is an id with this prefix.
func Valid(prefix, s string) bool {
	body, ok := strings.CutPrefix(s, prefix+"_")
	if !ok || len(body) != Length {
		return false
	}
	_, err := Encoding.DecodeString(body)
	return err == nil
}

// Time is when the id was made, to the millisecond; the zero time where s is no id.
func Time(s string) time.Time {
	_, body, ok := strings.Cut(s, "_")
	if !ok || len(body) != Length {
		return time.Time{}
	}
	raw, err := Encoding.DecodeString(body)
	if err != nil {
		return time.Time{}
	}
	return time.UnixMilli(int64(binary.BigEndian.Uint64(raw[:8]) >> 16)).UTC()
}

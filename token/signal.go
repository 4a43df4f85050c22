package token

import (
	"errors"
	"net/netip"
	"slices"
	"time"
)

// Signal is a sign that a token may be in the wrong hands: the first and the last time it was seen, and how often.
type Signal struct {
	Kind    Warning   `json:"kind"`
	First   time.Time `json:"first"`
	Last    time.Time `json:"last"`
	Count   int64     `json:"count"`
	Address string    `json:"address,omitempty"` // where the last one came from
}

// Warning is something about a token that somebody should look at.
type Warning string

// The warnings. The first seven are leak signals, kept on the token; the others follow from what it is.
const (
	UsedAfterRevocation Warning = "used_after_revocation"
	UsedAfterExpiry     Warning = "used_after_expiry"
	UsedAfterExhaustion Warning = "used_after_exhaustion"
	NewNetwork          Warning = "new_network"   // used from a network that no earlier use came from
	ForeignNetwork      Warning = "wrong_network" // tried from outside its allowed networks
	WrongSecret         Warning = "wrong_secret"  // tried with its public id, a valid checksum and another secret
	HoneytokenUsed      Warning = "honeytoken_used"
	LongLived           Warning = "long_lived"
	Unused              Warning = "unused"
)

// When a token counts as long-lived, and as unused.
const (
	LongLivedAfter = 24 * time.Hour
	UnusedAfter    = 24 * time.Hour
)

// Unknown is in the audit log where a token of the right form was presented that this deployment does not have.
const Unknown = "token_unknown"

// Noted is the token with a signal on it. There is at most one signal of a kind.
func (t Token) Noted(kind Warning, from netip.Addr, now time.Time, count int64) Token {
	t.Signals = slices.Clone(t.Signals)
	i := slices.IndexFunc(t.Signals, func(s Signal) bool { return s.Kind == kind })
	if i < 0 {
		i = len(t.Signals)
		t.Signals = append(t.Signals, Signal{Kind: kind, First: now})
	}
	s := &t.Signals[i]
	s.Last, s.Count = now, s.Count+count
	if from.IsValid() {
		s.Address = from.Unmap().String()
	}
	return t
}

// Warnings are what to look at, leak signals first.
func (t Token) Warnings(now time.Time) []Warning {
	var out []Warning
	for _, s := range t.Signals {
		out = append(out, s.Kind)
	}
	if t.State(now) != Active || t.Honeytoken {
		return out
	}
	if t.ExpiresAt.Sub(t.CreatedAt) > LongLivedAfter {
		out = append(out, LongLived)
	}
	if t.Uses == 0 && now.Sub(t.CreatedAt) >= UnusedAfter {
		out = append(out, Unused)
	}
	return out
}

// SignalOf is the leak signal that a refusal by Check is; empty where it is none.
func SignalOf(err error) Warning {
	switch {
	case errors.Is(err, ErrRevoked):
		return UsedAfterRevocation
	case errors.Is(err, ErrExpired):
		return UsedAfterExpiry
	case errors.Is(err, ErrExhausted):
		return UsedAfterExhaustion
	case errors.Is(err, ErrNetwork):
		return ForeignNetwork
	default:
		return ""
	}
}

// maxNetworks bounds what is remembered of where a token was used from.
const maxNetworks = 64

// Used is the token after one more use. A use from a network that none of the earlier ones came from is a signal.
func (t Token) Used(from netip.Addr, now time.Time) Token {
	first := t.Uses == 0
	t.Uses++
	t.LastUsedAt = now
	if !from.IsValid() {
		return t
	}
	from = from.Unmap()
	t.LastAddress = from.String()
	n := Network(from)
	if slices.Contains(t.Networks, n) {
		return t
	}
	if !first {
		t = t.Noted(NewNetwork, from, now, 1)
	}
	t.Networks = append(slices.Clone(t.Networks), n)
	if len(t.Networks) > maxNetworks {
		t.Networks = t.Networks[len(t.Networks)-maxNetworks:]
	}
	return t
}

// Network is the /24 or the /48 that an address is in: what counts as one place.
func Network(a netip.Addr) netip.Prefix {
	a = a.Unmap().WithZone("")
	bits := 48
	if a.Is4() {
		bits = 24
	}
	n, err := a.Prefix(bits)
	if err != nil {
		return netip.Prefix{}
	}
	return n
}

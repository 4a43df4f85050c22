package token

import (
	"net/netip"
	"strconv"
	"time"

	"github.com/loopbackd/loopback/fault"
)

// Fate is what becomes of the hosts that a revoked token enrolled.
type Fate string

// The fates.
const (
	Keep       Fate = "keep"
	Quarantine Fate = "quarantine"
	Expel      Fate = "expel"
)

// Revocation is the input of an operation that deals with the hosts of a revoked token, as JSON.
type Revocation struct {
	Token  string    `json:"token"`
	Hosts  Fate      `json:"hosts"`          // Quarantine or Expel
	Since  time.Time `json:"since,omitzero"` // only hosts enrolled at or after this; zero: all
	Reason string    `json:"reason"`
}

// MaxNetworks is how many networks a token may be allowed from.
const MaxNetworks = 64

// ParseNetworks reads networks in CIDR notation; a bare address is a network of one. Bits beyond a network's length are
// dropped.
func ParseNetworks(c *fault.Check, field string, texts []string) []netip.Prefix {
	c.That(len(texts) <= MaxNetworks, field, "has %d entries; at most %d are allowed", len(texts), MaxNetworks)
	var out []netip.Prefix
	for i, s := range texts {
		n, err := parseNetwork(s)
		if err != nil {
			c.Add(field+"["+strconv.Itoa(i)+"]", "is %q, not a network: write it as 10.0.0.0/8, 2001:db8::/32, or one address", s)
			continue
		}
		out = append(out, n)
	}
	return out
}

func parseNetwork(s string) (netip.Prefix, error) {
	if a, err := netip.ParseAddr(s); err == nil && a.Zone() == "" {
		a = a.Unmap()
		return netip.PrefixFrom(a, a.BitLen()), nil
	}
	n, err := netip.ParsePrefix(s)
	if err != nil {
		return netip.Prefix{}, err
	}
	if n.Addr().Is4In6() {
		// A use is checked as plain IPv4, so the network has to be that too.
		if n.Bits() < 96 {
			return netip.Prefix{}, fault.New(fault.Invalid, "network_invalid", "mapped network shorter than 96 bits")
		}
		n = netip.PrefixFrom(n.Addr().Unmap(), n.Bits()-96)
	}
	return n.Masked(), nil
}

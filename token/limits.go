package token

import (
	"time"

	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/tenant"
)

// Limits bound what may be minted: the deployment's, narrowed by a workspace's policy.
type Limits struct {
	DefaultTTL     time.Duration // of a short-lived token, which is what a token is unless asked otherwise
	LongTTL        time.Duration // of a token that is asked to be long-lived, without saying how long
	MaxTTL         time.Duration
	DefaultMaxUses int32
	MaxUses        int32
}

// Bounds that no limits pass.
const (
	MinTTL     = time.Minute
	MaxOverlap = 30 * 24 * time.Hour // of a rotation
)

// DefaultLimits are those of a deployment that sets none.
var DefaultLimits = Limits{
	DefaultTTL: time.Hour, LongTTL: 30 * 24 * time.Hour, MaxTTL: 90 * 24 * time.Hour, DefaultMaxUses: 1, MaxUses: 100_000,
}

// Under is the limits of a workspace with this policy. A policy only ever narrows: one that was set when the
// deployment allowed more does not get more back.
func (l Limits) Under(p tenant.TokenPolicy) Limits {
	if p.MaxTTL > 0 {
		l.MaxTTL = min(l.MaxTTL, p.MaxTTL)
	}
	if p.MaxUses > 0 {
		l.MaxUses = min(l.MaxUses, p.MaxUses)
	}
	if p.DefaultTTL > 0 {
		l.DefaultTTL = p.DefaultTTL
	}
	if p.DefaultMaxUses > 0 {
		l.DefaultMaxUses = p.DefaultMaxUses
	}
	l.DefaultTTL = min(l.DefaultTTL, l.MaxTTL)
	l.LongTTL = min(max(l.LongTTL, l.DefaultTTL), l.MaxTTL)
	l.DefaultMaxUses = min(l.DefaultMaxUses, l.MaxUses)
	return l
}

// CheckPolicy demands that a policy narrows these limits and agrees with itself. field names it in the violations.
func (l Limits) CheckPolicy(c *fault.Check, field string, p tenant.TokenPolicy) {
	bound := func(name string, d, most time.Duration, whose string) {
		c.That(d == 0 || d >= MinTTL, field+"."+name, "is %s; at least %s is needed", d, MinTTL)
		c.That(d <= most, field+"."+name, "is %s; %s is %s", d, whose, most)
	}
	bound("maxTtl", p.MaxTTL, l.MaxTTL, "the deployment's maximum")
	c.That(p.MaxUses >= 0 && p.MaxUses <= l.MaxUses, field+".maxUses", "is %d; the deployment allows 1 to %d", p.MaxUses, l.MaxUses)
	if p.MaxTTL == 0 {
		bound("defaultTtl", p.DefaultTTL, l.MaxTTL, "the deployment's maximum")
	} else {
		bound("defaultTtl", p.DefaultTTL, p.MaxTTL, "the policy's own maximum")
	}
	most := l.MaxUses
	if p.MaxUses > 0 {
		most = min(most, p.MaxUses)
	}
	c.That(p.DefaultMaxUses >= 0 && p.DefaultMaxUses <= most, field+".defaultMaxUses", "is %d; allowed are 1 to %d", p.DefaultMaxUses, most)
}

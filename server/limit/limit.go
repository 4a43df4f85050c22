// Package limit keeps one caller from taking what the others need.
//
// A request passes three doors before anybody looks into it, and each refusal says when to come back:
//
//	source ─▶ is its credit gone, and the credential unknown?       rate_limited
//	caller ─▶ does it call faster than it may?                      rate_limited
//	places ─▶ is there one for this caller within a few seconds?    overloaded
//
// A source is an IPv4 address or an IPv6 /64. Whoever presents nothing, or what opens nothing, pays with the credit of
// its source; whoever proved itself lately passes even where strangers at the same address have used the credit up. A
// caller is an API key. Places are shared: when all are taken, callers wait in a line each, and lines are served in
// turn, so that a caller with a thousand calls waiting delays one with a single call by one call. Lines are short; what
// does not fit is refused at once rather than kept in memory. What lasts (a watch, waiting for an operation) has places
// of its own.
//
// Before all of that, and before anything is computed for it, a connection pays with its source's credit for handshakes.
// An agent that proves itself gets it back, so that a fleet behind one address is not slowed by it.
//
// Nothing that was refused here was carried out: it may be sent again.
package limit

import (
	"context"
	"crypto/sha256"
	"math/rand/v2"
	"net/netip"
	"sync"
	"time"

	"github.com/loopbackd/loopback/fault"
)

// Options of a Limiter. A bound that is 0 does not bind.
type Options struct {
	SourceRate    int                 // requests a second from one source that prove nothing
	HandshakeRate int                 // TLS handshakes a second with one source that proves nothing by them
	CallerRate    int                 // calls a second of one caller
	Calls         int                 // calls at once, of all callers
	CallerCalls   int                 // of them, those of one caller
	Streams       int                 // what lasts, at once, of all callers
	CallerStreams int                 // of it, that of one caller
	Patience      time.Duration       // how long a call waits for its place; 0: 5s
	Clock         func() time.Time    // nil: time.Now
	Refused       func(reason string) // told of every refusal; nil: nobody is
}

// Reasons of refusals, as Options.Refused gets them.
const (
	SourceRate = "source_rate"
	CallerRate = "caller_rate"
	Calls      = "calls"
	Streams    = "streams"
)

// Credit is gathered for so many seconds: a burst after quiet is no flood.
const (
	sourceBurst = 10
	callerBurst = 2
)

// Limiter is one for a replica. Its methods are safe for concurrent use.
type Limiter struct {
	options Options
	sources buckets[netip.Prefix]
	shaking buckets[netip.Prefix]
	callers buckets[string]
	proven  proofs
	calls   *turns
	streams *turns
}

// New makes a limiter.
func New(o Options) *Limiter {
	if o.Clock == nil {
		o.Clock = time.Now
	}
	if o.Refused == nil {
		o.Refused = func(string) {}
	}
	if o.Patience == 0 {
		o.Patience = 5 * time.Second
	}
	return &Limiter{
		options: o,
		sources: newBuckets[netip.Prefix](o.SourceRate, sourceBurst),
		shaking: newBuckets[netip.Prefix](o.HandshakeRate, sourceBurst),
		callers: newBuckets[string](o.CallerRate, callerBurst),
		proven:  proofs{until: map[[32]byte]time.Time{}},
		calls:   newTurns(o.Calls, o.CallerCalls, waitingOfOne, waitingOfAll),
		streams: newTurns(o.Streams, o.CallerStreams, 0, 0),
	}
}

// Source is what counts as one place on the network: an IPv4 address or an IPv6 /64.
func Source(a netip.Addr) netip.Prefix {
	a = a.Unmap().WithZone("")
	bits := a.BitLen()
	if a.Is6() {
		bits = 64
	}
	p, _ := a.Prefix(bits) // the zero prefix for no address
	return p
}

// Admit tells whether a credential from an address is worth looking at. It takes nothing: see Charge.
func (l *Limiter) Admit(from netip.Addr, credential string) error {
	now := l.options.Clock()
	wait, ok := l.sources.has(now, Source(from))
	if ok || credential != "" && l.proven.has(credential, now) {
		return nil
	}
	return l.refuseSource(from, wait)
}

// Take is Admit and Charge for a request that presents nothing.
func (l *Limiter) Take(from netip.Addr) error {
	if wait, ok := l.sources.take(l.options.Clock(), Source(from)); !ok {
		return l.refuseSource(from, wait)
	}
	return nil
}

func (l *Limiter) refuseSource(from netip.Addr, wait time.Duration) error {
	l.options.Refused(SourceRate)
	return fault.New(fault.Exhausted, "rate_limited", "too many requests without a valid key from %s", from).
		WithHint("wait %s; who presents a valid API key is not held to this", ceil(wait)).WithRetryAfter(ceil(wait))
}

// Shake takes the credit for one TLS handshake; false where there is none.
func (l *Limiter) Shake(from netip.Addr) bool {
	_, ok := l.shaking.take(l.options.Clock(), Source(from))
	return ok
}

// Shaken gives the credit of a handshake back: an agent proved itself behind it.
func (l *Limiter) Shaken(from netip.Addr) { l.shaking.give(l.options.Clock(), Source(from)) }

// Charge takes from the credit of a source that proved nothing.
func (l *Limiter) Charge(from netip.Addr) { l.sources.charge(l.options.Clock(), Source(from)) }

// Proven notes that a credential was found to be good.
func (l *Limiter) Proven(credential string) { l.proven.note(credential, l.options.Clock()) }

// Begin takes a place for a caller, waiting for it where it must; end gives it back. lasting is for what goes on for as
// long as its caller likes.
func (l *Limiter) Begin(ctx context.Context, caller string, lasting bool) (end func(), err error) {
	if wait, ok := l.callers.take(l.options.Clock(), caller); !ok {
		l.options.Refused(CallerRate)
		return nil, fault.New(fault.Exhausted, "rate_limited", "more than %d calls a second", l.options.CallerRate).
			WithHint("wait %s, and call less often", ceil(wait)).WithRetryAfter(ceil(wait))
	}
	if lasting {
		if !l.streams.take(ctx, caller, 0) {
			l.options.Refused(Streams)
			return nil, fault.New(fault.Exhausted, "streams_exhausted", "too many watches and waits are open").
				WithHint("close some of them; one key may have %d open", l.options.CallerStreams).WithRetryAfter(back())
		}
		return func() { l.streams.give(caller) }, nil
	}
	if !l.calls.take(ctx, caller, l.options.Patience) {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		l.options.Refused(Calls)
		return nil, fault.New(fault.Unavailable, "overloaded", "the control plane has more calls than it can take; this one was not begun").
			WithHint("try again in a moment").WithRetryAfter(back())
	}
	return func() { l.calls.give(caller) }, nil
}

// Load is how much is going on.
func (l *Limiter) Load() (calls, waiting, streams int) {
	calls, waiting = l.calls.load()
	streams, _ = l.streams.load()
	return calls, waiting, streams
}

// back spreads those who are sent away together.
func back() time.Duration { return time.Second + rand.N(2*time.Second).Round(time.Millisecond) }

// ceil is in whole seconds: Retry-After knows no others.
func ceil(d time.Duration) time.Duration {
	return max(time.Second, (d + time.Second - 1).Truncate(time.Second))
}

// proofs remembers, by hash, which credentials were good lately. It opens no door but the first.
type proofs struct {
	mu    sync.Mutex
	until map[[32]byte]time.Time
}

const (
	proofAge  = 10 * time.Minute
	proofsMax = 8192
)

func (p *proofs) has(credential string, now time.Time) bool {
	key := sha256.Sum256([]byte(credential))
	p.mu.Lock()
	defer p.mu.Unlock()
	return now.Before(p.until[key])
}

func (p *proofs) note(credential string, now time.Time) {
	key := sha256.Sum256([]byte(credential))
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.until) >= proofsMax {
		clear(p.until) // rare, and it refills with those in use
	}
	p.until[key] = now.Add(proofAge)
}

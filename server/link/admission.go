package link

import (
	"math/rand/v2"
	"net/netip"
	"sync"
	"time"
)

// maxRetry bounds the time that anybody is told to stay away.
const maxRetry = time.Minute

// admission takes so many a second and gives each of the others a place in the time to come: places are handed out at the
// rate that can be served, so that those who return find room. The rate gives way when serving gets slow (down to a
// tenth) and recovers by itself.
type admission struct {
	mu     sync.Mutex
	most   float64 // a second, as configured
	rate   float64 // a second, now
	tokens float64
	last   time.Time
	place  time.Time     // the last one handed out
	worst  time.Duration // it took to serve somebody since the last adapt
	served int
}

// slowService is how long serving one may take before fewer are taken.
const slowService = 500 * time.Millisecond

func (a *admission) init(now time.Time, rate int) {
	a.most, a.rate, a.last = float64(rate), float64(rate), now
	a.tokens = a.burst()
}

// burst is a second's worth: times to return are told in whole seconds, so that those who were sent away together come
// back together.
func (a *admission) burst() float64 { return max(1, a.rate) }

func (a *admission) take(now time.Time) (retryAfter time.Duration, ok bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if now.After(a.last) {
		a.tokens = min(a.burst(), a.tokens+now.Sub(a.last).Seconds()*a.rate)
		a.last = now
	}
	if a.tokens >= 1 {
		a.tokens--
		return 0, true
	}
	if a.place.Before(now) {
		a.place = now
	}
	step := time.Duration(float64(time.Second) / a.rate)
	a.place = a.place.Add(step)
	wait := a.place.Sub(now)
	if wait > maxRetry {
		a.place = now.Add(maxRetry) // whoever comes now has to ask again anyway
		return maxRetry/2 + rand.N(maxRetry/2), false
	}
	return wait + rand.N(wait/8+10*time.Millisecond), false
}

// tookUp notes how long it took to serve somebody.
func (a *admission) tookUp(d time.Duration) {
	a.mu.Lock()
	a.worst = max(a.worst, d)
	a.served++
	a.mu.Unlock()
}

// adapt is called about once a second.
func (a *admission) adapt() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.worst > slowService {
		a.rate = max(a.rate*0.7, a.most/10, 1)
	} else {
		a.rate = min(a.rate+a.most/20, a.most)
	}
	a.worst, a.served = 0, 0
}

// addresses bounds what unproven sources may cost: each address has so many links that it may open on credit. A link that
// proves itself gives its credit back, so that a fleet behind one address is not slowed by it.
type addresses struct {
	burst, rate float64
	mu          sync.Mutex
	credits     map[netip.Prefix]*credit // an address that is not in it has all its credit
}

type credit struct {
	left float64
	last time.Time
}

// maxAddresses bounds the memory that addresses can take; beyond it, all new ones share one credit.
const maxAddresses = 1 << 16

func (a *addresses) init(burst, rate int) {
	a.burst, a.rate = float64(burst), float64(rate)
	a.credits = make(map[netip.Prefix]*credit)
}

func source(remote netip.Addr) netip.Prefix {
	remote = remote.Unmap().WithZone("")
	bits := remote.BitLen()
	if remote.Is6() {
		bits = 64
	}
	p, _ := remote.Prefix(bits) // the zero prefix for no address
	return p
}

func (a *addresses) credit(now time.Time, remote netip.Addr) *credit {
	key := source(remote)
	c := a.credits[key]
	if c == nil {
		if len(a.credits) >= maxAddresses {
			key = netip.Prefix{}
			if c = a.credits[key]; c != nil {
				return c
			}
		}
		c = &credit{a.burst, now}
		a.credits[key] = c
	}
	if now.After(c.last) {
		c.left = min(a.burst, c.left+now.Sub(c.last).Seconds()*a.rate)
		c.last = now
	}
	return c
}

func (a *addresses) take(now time.Time, remote netip.Addr) (retryAfter time.Duration, ok bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	c := a.credit(now, remote)
	if c.left >= 1 {
		c.left--
		return 0, true
	}
	wait := min(time.Duration((1-c.left)/a.rate*float64(time.Second)), maxRetry)
	return wait + rand.N(time.Second), false
}

// charge takes more for a guess, into debt if need be.
func (a *addresses) charge(now time.Time, remote netip.Addr, n float64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	c := a.credit(now, remote)
	c.left = max(c.left-n, -a.burst)
}

func (a *addresses) refund(remote netip.Addr) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if c := a.credits[source(remote)]; c != nil {
		c.left = min(a.burst, c.left+1)
	}
}

// sweep forgets addresses whose credit is whole again.
func (a *addresses) sweep(now time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for key, c := range a.credits {
		if c.left+now.Sub(c.last).Seconds()*a.rate >= a.burst {
			delete(a.credits, key)
		}
	}
}

package limit

import (
	"sync"
	"time"
)

// buckets gives each key so many a second, and keeps what was not used for so many seconds.
type buckets[K comparable] struct {
	rate, burst float64 // 0: no limit

	mu    sync.Mutex
	held  map[K]*bucket // a key that is not in it has a full bucket
	swept time.Time
}

type bucket struct {
	left float64
	last time.Time
}

// bucketsMax bounds the memory that keys can take; beyond it, all new ones share a bucket.
const bucketsMax = 1 << 16

func newBuckets[K comparable](rate, seconds int) buckets[K] {
	return buckets[K]{rate: float64(rate), burst: float64(rate * seconds), held: map[K]*bucket{}}
}

// of is a key's bucket as it is now. The lock is held.
func (b *buckets[K]) of(now time.Time, key K) *bucket {
	if now.Sub(b.swept) > time.Minute || now.Before(b.swept) {
		b.swept = now
		for k, one := range b.held {
			if one.left+now.Sub(one.last).Seconds()*b.rate >= b.burst {
				delete(b.held, k)
			}
		}
	}
	one := b.held[key]
	if one == nil && len(b.held) >= bucketsMax {
		var shared K
		key = shared
		one = b.held[key]
	}
	if one == nil {
		one = &bucket{b.burst, now}
		b.held[key] = one
	}
	if now.After(one.last) {
		one.left = min(b.burst, one.left+now.Sub(one.last).Seconds()*b.rate)
	}
	one.last = now // a clock that was set back must not stop the bucket from filling
	return one
}

func (b *buckets[K]) has(now time.Time, key K) (wait time.Duration, ok bool) {
	if b.rate == 0 {
		return 0, true
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.wait(b.of(now, key))
}

func (b *buckets[K]) take(now time.Time, key K) (wait time.Duration, ok bool) {
	if b.rate == 0 {
		return 0, true
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	one := b.of(now, key)
	if wait, ok = b.wait(one); ok {
		one.left--
	}
	return wait, ok
}

// give gives one back to a key that paid for what it need not have.
func (b *buckets[K]) give(now time.Time, key K) {
	if b.rate == 0 {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.held[key] != nil {
		one := b.of(now, key)
		one.left = min(b.burst, one.left+1)
	}
}

// charge takes one, which several that came at once may all do: into debt of a second at most.
func (b *buckets[K]) charge(now time.Time, key K) {
	if b.rate == 0 {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	one := b.of(now, key)
	one.left = max(one.left-1, -b.rate)
}

func (b *buckets[K]) wait(one *bucket) (time.Duration, bool) {
	if one.left >= 1 {
		return 0, true
	}
	return time.Duration((1 - one.left) / b.rate * float64(time.Second)), false
}

// Package recent remembers for seconds what was read from the database, so that credentials which come with every call are
// not read with every call.
//
// The change feed drops what changed. That an entry is forgotten after a while all the same bounds how long a revocation
// can go unseen by a replica that lost its feed. A full cache is emptied: that is cheaper than an order, and rare.
package recent

import (
	"sync"
	"time"
)

// Cache holds values by id.
type Cache[T any] struct {
	age  time.Duration
	size int

	mu         sync.Mutex
	held       map[string]entry[T]
	used       map[string]time.Time
	generation int64 // grows with every drop: what was read before one must not be put in after it
}

type entry[T any] struct {
	value T
	read  time.Time
}

// New makes a cache of so many values, each held for so long.
func New[T any](age time.Duration, size int) *Cache[T] {
	return &Cache[T]{age: age, size: size, held: map[string]entry[T]{}, used: map[string]time.Time{}}
}

// Get is a value; generation goes to Put where it has to be read.
func (c *Cache[T]) Get(id string, now time.Time) (v T, ok bool, generation int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e, ok := c.held[id]; ok && now.Sub(e.read) < c.age && !now.Before(e.read) {
		return e.value, true, c.generation
	}
	return v, false, c.generation
}

// Put remembers what was read, unless something was dropped since Get.
func (c *Cache[T]) Put(id string, v T, now time.Time, generation int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if generation != c.generation {
		return
	}
	if len(c.held) >= c.size {
		clear(c.held)
	}
	c.held[id] = entry[T]{v, now}
}

// Drop forgets a value.
func (c *Cache[T]) Drop(id string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.generation++
	delete(c.held, id)
}

// Clear forgets all values.
func (c *Cache[T]) Clear() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.generation++
	clear(c.held)
}

// Used notes a use and tells whether the last one that it said so of is longer ago than every: then it is worth writing down.
func (c *Cache[T]) Used(id string, now time.Time, every time.Duration) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if last, ok := c.used[id]; ok && now.Sub(last) < every {
		return false
	}
	if len(c.used) >= c.size {
		clear(c.used)
	}
	c.used[id] = now
	return true
}

// LastUsed is the last use that Used told to write down; zero where it is not remembered.
func (c *Cache[T]) LastUsed(id string) time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.used[id]
}

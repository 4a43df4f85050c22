package audit

import (
	"context"
	"net/netip"
	"sync"
	"time"
)

// Repeats keeps refusals that anybody can cause from filling the log: the first of a kind is written at once, those
// that follow within the window are counted and written as one when it is over. Nothing is dropped, only merged.
// It is safe for concurrent use.
type Repeats[T any] struct {
	window time.Duration
	most   int // keys at once; beyond them all share one

	mu   sync.Mutex
	open map[string]*Repeated[T]
}

// Repeated is what happened in one window beyond its first.
type Repeated[T any] struct {
	Last  T
	Count int64
	until time.Time
}

// NewRepeats merges what repeats within the window, for at most so many keys at once.
func NewRepeats[T any](window time.Duration, most int) *Repeats[T] {
	return &Repeats[T]{window: window, most: most, open: map[string]*Repeated[T]{}}
}

// Add tells whether this is to be written now. If not, it is in a later answer of Due.
func (r *Repeats[T]) Add(key string, v T, now time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.open[key] == nil && len(r.open) >= r.most {
		key = ""
	}
	w := r.open[key]
	if w == nil {
		r.open[key] = &Repeated[T]{until: now.Add(r.window)}
		return true
	}
	// A window that is over and still here belongs to Due, which may come late; it takes this one along.
	w.Last, w.Count = v, w.Count+1
	return false
}

// Due are the windows that are over, with something in them that was not written. A key that repeats goes on being
// merged; one that was quiet for a window is forgotten, so that its next is written at once again.
func (r *Repeats[T]) Due(now time.Time) []Repeated[T] {
	return r.take(func(w *Repeated[T]) bool { return !now.Before(w.until) }, now)
}

// Run writes what is due until ctx ends, then what is left, and returns.
func (r *Repeats[T]) Run(ctx context.Context, now func() time.Time, write func(ctx context.Context, last T, times int64)) {
	tick := time.NewTicker(r.window / 6)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			for _, w := range r.Due(now()) {
				write(ctx, w.Last, w.Count)
			}
		case <-ctx.Done():
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
			defer cancel()
			for _, w := range r.Rest(now()) {
				write(last, w.Last, w.Count)
			}
			return
		}
	}
}

// Network is what counts as one place when refusals are merged: an IPv4 /24 or an IPv6 /48.
func Network(a netip.Addr) string {
	bits := 48
	if a.Unmap().Is4() {
		bits = 24
	}
	n, _ := a.Unmap().WithZone("").Prefix(bits)
	return n.String()
}

// Rest is everything that was not written yet, whether or not its window is over.
func (r *Repeats[T]) Rest(now time.Time) []Repeated[T] {
	return r.take(func(*Repeated[T]) bool { return true }, now)
}

func (r *Repeats[T]) take(over func(*Repeated[T]) bool, now time.Time) []Repeated[T] {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []Repeated[T]
	for key, w := range r.open {
		if !over(w) {
			continue
		}
		if w.Count == 0 {
			delete(r.open, key)
			continue
		}
		out = append(out, *w)
		r.open[key] = &Repeated[T]{until: now.Add(r.window)}
	}
	return out
}

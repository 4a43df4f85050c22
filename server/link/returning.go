package link

import (
	"sync"
	"sync/atomic"
	"time"
)

// returning follows the hosts that were online before our start. While they come back in numbers it is we who are slow to
// take them, and none of those that are still to come is offline because of that. A crowd that has stopped coming is not
// waited for, nor is one longer than patienceWindows.
type returning struct {
	back     atomic.Int64 // hosts that came back
	expected atomic.Int64 // hosts
	waits    atomic.Bool  // somebody may still be on their way

	mu      sync.Mutex
	window  time.Duration // a host may be away for
	counted int64         // back at the last look
	look    time.Time     // the next one
	until   time.Time     // nobody expected is declared offline before
	most    time.Time
}

const (
	patienceWindows = 10 // reconnect windows after our start, at most
	looksAWindow    = 3
	fewReturns      = 10 // between two looks: that is no crowd
)

func (r *returning) expect(now time.Time, window time.Duration, expected int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.window = window
	r.expected.Store(int64(expected))
	r.waits.Store(expected > 0)
	r.look, r.until, r.most = now.Add(window/looksAWindow), now.Add(window), now.Add(patienceWindows*window)
}

// coming tells whether many are still on their way. Every host's first welcome and each heartbeat asks.
func (r *returning) coming() bool {
	expected := r.expected.Load()
	return r.waits.Load() && expected-r.back.Load() > max(fewReturns, expected/20)
}

// hold is the time before which nobody who is expected is offline. It is asked about once a second.
func (r *returning) hold(now time.Time) time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	expected := r.expected.Load()
	r.waits.Store(expected > 0 && now.Before(r.until))
	if expected == 0 || now.Before(r.look) || now.After(r.most) {
		return r.until
	}
	back := r.back.Load()
	if back-r.counted >= max(fewReturns, expected/100) {
		r.until = now.Add(r.window)
		if r.until.After(r.most) {
			r.until = r.most
		}
	}
	r.counted, r.look = back, now.Add(r.window/looksAWindow)
	return r.until
}

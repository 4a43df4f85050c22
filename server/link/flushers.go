package link

import (
	"sync"
	"time"
)

// flushers empty outboxes. A change that touches ten thousand hosts must not start ten thousand goroutines, and a host
// that does not read must not hold up the others: so there are few places, and whoever blocks in one loses it.
type flushers struct {
	mu      sync.Mutex
	queue   []*peer
	head    int
	taken   int // places
	stopped bool
	all     sync.WaitGroup
}

const (
	flushPlaces   = 64
	flushPatience = 20 * time.Millisecond // after which a flusher counts as blocked
)

// add queues a peer, each at most once: its outbox says that it is being flushed.
func (f *flushers) add(p *peer) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.queue = append(f.queue, p)
	f.start()
}

// start takes a place if there is one and work for it. The lock is held.
func (f *flushers) start() {
	if f.head < len(f.queue) && f.taken < flushPlaces && !f.stopped {
		f.taken++
		f.all.Go(f.work)
	}
}

func (f *flushers) work() {
	for {
		f.mu.Lock()
		if f.head == len(f.queue) || f.stopped {
			f.queue, f.head = nil, 0
			f.taken--
			f.mu.Unlock()
			return
		}
		p := f.queue[f.head]
		f.queue[f.head] = nil
		f.head++
		f.mu.Unlock()

		blocked := time.AfterFunc(flushPatience, func() {
			f.mu.Lock()
			defer f.mu.Unlock()
			f.taken--
			f.start()
		})
		p.flush()
		if !blocked.Stop() {
			return // the place was given to another
		}
	}
}

func (f *flushers) stop() {
	f.mu.Lock()
	f.stopped = true
	f.mu.Unlock()
	f.all.Wait()
}

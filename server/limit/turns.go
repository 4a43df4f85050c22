package limit

import (
	"context"
	"slices"
	"sync"
	"time"
)

// Calls that wait for a place.
const (
	waitingOfOne = 64
	waitingOfAll = 1024
)

// turns hands out places. Who finds none waits in its caller's line; lines are served in turn.
type turns struct {
	places, share int // of all, of one caller; 0: no limit
	long, total   int // how many may wait: of one caller, of all

	mu      sync.Mutex
	taken   int
	waiting int
	lines   map[string]*line // of callers that have a place or wait for one
	order   []*line          // those that wait, the next one first
}

type line struct {
	taken int
	wait  []chan struct{} // closed when the place is theirs
}

func newTurns(places, share, long, total int) *turns {
	return &turns{places: places, share: share, long: long, total: total, lines: map[string]*line{}}
}

// take waits for a place for as long as patience and ctx last.
func (t *turns) take(ctx context.Context, caller string, patience time.Duration) bool {
	t.mu.Lock()
	l := t.lines[caller]
	if l == nil {
		l = &line{}
		t.lines[caller] = l
	}
	if len(l.wait) == 0 && t.room(l) {
		t.taken++
		l.taken++
		t.mu.Unlock()
		return true
	}
	if patience <= 0 || len(l.wait) >= t.long || t.waiting >= t.total {
		t.forget(caller, l)
		t.mu.Unlock()
		return false
	}
	mine := make(chan struct{})
	if len(l.wait) == 0 {
		t.order = append(t.order, l)
	}
	l.wait = append(l.wait, mine)
	t.waiting++
	t.mu.Unlock()

	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-mine:
		return true
	case <-timer.C:
	case <-ctx.Done():
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	i := slices.Index(l.wait, mine)
	if i < 0 {
		return true // it became theirs just now
	}
	l.wait = slices.Delete(l.wait, i, i+1)
	t.waiting--
	if len(l.wait) == 0 {
		t.order = slices.DeleteFunc(t.order, func(o *line) bool { return o == l })
	}
	t.forget(caller, l)
	return false
}

// give returns a caller's place, to whoever's turn it is.
func (t *turns) give(caller string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	l := t.lines[caller]
	l.taken--
	t.taken--
	for t.places == 0 || t.taken < t.places {
		i := slices.IndexFunc(t.order, t.room)
		if i < 0 {
			break
		}
		next := t.order[i]
		t.order = slices.Delete(t.order, i, i+1)
		close(next.wait[0])
		next.wait = next.wait[1:]
		next.taken++
		t.taken++
		t.waiting--
		if len(next.wait) > 0 {
			t.order = append(t.order, next)
		}
	}
	t.forget(caller, l)
}

func (t *turns) room(l *line) bool {
	return (t.places == 0 || t.taken < t.places) && (t.share == 0 || l.taken < t.share)
}

func (t *turns) forget(caller string, l *line) {
	if l.taken == 0 && len(l.wait) == 0 {
		delete(t.lines, caller)
	}
}

func (t *turns) load() (taken, waiting int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.taken, t.waiting
}

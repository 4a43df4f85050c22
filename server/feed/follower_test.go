package feed

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// log is a feed in memory.
type log struct {
	mu     sync.Mutex
	list   []Change
	last   int64
	err    error
	nudges chan struct{}
}

func newLog() *log { return &log{nudges: make(chan struct{}, 1)} }

func (l *log) add(n int, nudge bool) {
	l.mu.Lock()
	for range n {
		l.last++
		l.list = append(l.list, Change{Position: l.last, Kind: Host})
	}
	l.mu.Unlock()
	if nudge {
		select {
		case l.nudges <- struct{}{}:
		default:
		}
	}
}

func (l *log) prune() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.list = nil
}

func (l *log) fail(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.err = err
}

func (l *log) Nudges() (<-chan struct{}, func()) { return l.nudges, func() {} }

func (l *log) Position(context.Context) (int64, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.last, l.err
}

func (l *log) Changes(_ context.Context, after int64, limit int) ([]Change, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err != nil {
		return nil, l.err
	}
	first := l.last - int64(len(l.list)) + 1
	if after == l.last {
		return nil, nil
	}
	if after > l.last || after+1 < first {
		return nil, ErrGone
	}
	from := after + 1 - first
	return l.list[from:min(from+int64(limit), int64(len(l.list)))], nil
}

func start(t *testing.T, l *log) *Follower {
	f := NewFollower(Options{Source: l, Logger: slog.New(slog.DiscardHandler)})
	var running sync.WaitGroup
	ctx, cancel := context.WithCancel(t.Context())
	running.Go(func() { f.Run(ctx) })
	t.Cleanup(func() { cancel(); running.Wait() })
	return f
}

// next fails the test unless what comes is as wanted.
func next(t *testing.T, s *Subscription, wantAnew bool, wantFirst, wantLast int64) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	changes, anew, err := s.Next(ctx)
	if err != nil || anew != wantAnew {
		t.Fatalf("got %d changes, anew %t, error %v; wanted anew %t", len(changes), anew, err, wantAnew)
	}
	first, last := int64(0), int64(0)
	if len(changes) > 0 {
		first, last = changes[0].Position, changes[len(changes)-1].Position
	}
	if first != wantFirst || last != wantLast {
		t.Fatalf("got changes %d to %d; wanted %d to %d", first, last, wantFirst, wantLast)
	}
}

func TestFirstEverythingIsLoadedThenChangesComeInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLog()
		l.add(5, false)
		f := start(t, l)
		s := f.Subscribe(0)
		next(t, s, true, 0, 0)
		l.add(3, true)
		next(t, s, false, 6, 8)
		l.add(1, false) // without a nudge the follower looks by itself
		before := time.Now()
		next(t, s, false, 9, 9)
		if waited := time.Since(before); waited > time.Second {
			t.Errorf("a change without a nudge took %s; wanted at most a second", waited)
		}
	})
}

func TestASlowReaderLosesItsPlaceAndNobodyWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLog()
		f := start(t, l)
		slow, quick := f.Subscribe(10), f.Subscribe(100)
		next(t, slow, true, 0, 0)
		next(t, quick, true, 0, 0)
		l.add(11, true)
		next(t, quick, false, 1, 11)
		l.add(2, true)
		next(t, quick, false, 12, 13)
		next(t, slow, true, 0, 0) // what came before this call is in what it loads
		l.add(1, true)
		next(t, slow, false, 14, 14)
	})
}

func TestAPrunedFeedIsLoadedAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLog()
		f := start(t, l)
		s := f.Subscribe(0)
		next(t, s, true, 0, 0)
		l.add(3, false)
		l.prune()
		next(t, s, true, 0, 0)
		l.add(1, true)
		next(t, s, false, 4, 4)
	})
}

func TestTheDatabaseGoesAwayAndComesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLog()
		l.fail(errors.New("away"))
		f := start(t, l)
		s := f.Subscribe(0)
		time.Sleep(10 * time.Second)
		l.fail(nil)
		next(t, s, true, 0, 0)
		l.fail(errors.New("away"))
		l.add(2, true)
		time.Sleep(10 * time.Second)
		l.fail(nil)
		next(t, s, false, 1, 2)
		if f.Position() != 2 {
			t.Errorf("the follower is at %d; wanted 2", f.Position())
		}
	})
}

func TestAClosedSubscriptionIsForgotten(t *testing.T) {
	f := NewFollower(Options{Source: newLog()})
	f.Subscribe(0).Close()
	if len(f.readers) != 0 {
		t.Errorf("%d readers are left; wanted none", len(f.readers))
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := f.Subscribe(0).Next(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v; wanted the context's error", err)
	}
}

// Whatever happens, a reader that loads when it is told to ends up with every change.
func TestNothingIsEverMissed(t *testing.T) {
	for seed := range uint64(200) {
		synctest.Test(t, func(t *testing.T) {
			r := rand.New(rand.NewPCG(seed, 1))
			l := newLog()
			f := start(t, l)
			s := f.Subscribe(1 + r.IntN(20))
			known := int64(0)
			read := func() {
				ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
				defer cancel()
				changes, anew, err := s.Next(ctx)
				if err != nil {
					return
				}
				if anew {
					known, _ = l.Position(ctx)
				}
				for _, c := range changes {
					if c.Position > known+1 {
						t.Fatalf("seed %d: change %d follows %d", seed, c.Position, known)
					}
					known = max(known, c.Position)
				}
			}
			for range 40 {
				switch r.IntN(5) {
				case 0, 1:
					l.add(1+r.IntN(15), r.IntN(2) == 0)
				case 2, 3:
					read()
				case 4:
					if r.IntN(4) == 0 {
						l.prune()
					}
				}
			}
			for known != l.last {
				read()
				time.Sleep(time.Second)
			}
		})
	}
}

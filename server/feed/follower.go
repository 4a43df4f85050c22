package feed

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"
)

// Source is where changes are read from.
type Source interface {
	Position(ctx context.Context) (int64, error)
	// Changes are those after a position, in order, without gaps; ErrGone where it cannot be followed from there.
	Changes(ctx context.Context, after int64, limit int) ([]Change, error)
	// Nudges is a hint that there is something new.
	Nudges() (nudges <-chan struct{}, cancel func())
}

// Options of a Follower.
type Options struct {
	Source Source
	Every  time.Duration // how often it looks without being nudged; 0: a second
	Logger *slog.Logger  // nil: slog.Default
}

const (
	atOnce        = 1000 // changes read in one go
	defaultBuffer = 10_000
)

// Follower reads the feed once for a whole process and hands every change, in order, to all who subscribed. Nobody
// waits for anybody: who reads too slowly loses its place and is told to load everything anew, as is everybody when the
// feed itself can no longer be followed. While the database is away the follower keeps its place and tries again.
type Follower struct {
	options  Options
	position atomic.Int64
	read     atomic.Pointer[time.Time] // when the feed was last read to its end; nil: never

	mu      sync.Mutex
	started bool // position is known
	readers map[*Subscription]struct{}
}

// NewFollower makes a follower. Nothing happens before its Run.
func NewFollower(o Options) *Follower {
	if o.Every == 0 {
		o.Every = time.Second
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	return &Follower{options: o, readers: map[*Subscription]struct{}{}}
}

// Position is that of the last change handed out.
func (f *Follower) Position() int64 { return f.position.Load() }

// Fresh is when the feed was last read to its end: until then nothing was missed. The zero time before the first.
func (f *Follower) Fresh() time.Time {
	if at := f.read.Load(); at != nil {
		return *at
	}
	return time.Time{}
}

// Run follows until ctx ends.
func (f *Follower) Run(ctx context.Context) {
	nudges, cancel := f.options.Source.Nudges()
	defer cancel()
	ticker := time.NewTicker(f.options.Every)
	defer ticker.Stop()
	var said string
	for {
		began := time.Now()
		err := f.follow(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case err == nil:
			f.read.Store(&began)
			said = ""
		case err.Error() != said: // once, not every second
			said = err.Error()
			f.options.Logger.Error("the feed of changes cannot be read; caches stay as they are", "error", err)
		}
		select {
		case <-nudges:
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
	}
}

// follow hands out all that is new.
func (f *Follower) follow(ctx context.Context) error {
	for {
		if !f.started {
			return f.begin(ctx)
		}
		changes, err := f.changes(ctx)
		switch {
		case errors.Is(err, ErrGone):
			f.options.Logger.Warn("the feed of changes cannot be followed from here; everything is loaded anew", "position", f.Position())
			return f.begin(ctx)
		case err != nil:
			return err
		case len(changes) == 0:
			return nil
		}
		f.mu.Lock()
		f.position.Store(changes[len(changes)-1].Position)
		for s := range f.readers {
			s.add(changes)
		}
		f.mu.Unlock()
	}
}

// readTimeout is how long one read may take. A machine that died without a word leaves connections that never answer:
// the next read then makes another, which may lead to a standby that took over.
const readTimeout = 10 * time.Second

func (f *Follower) changes(ctx context.Context) ([]Change, error) {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	return f.options.Source.Changes(ctx, f.position.Load(), atOnce)
}

// begin takes up the feed where it ends now: who loads everything after this misses nothing.
func (f *Follower) begin(ctx context.Context) error {
	asking, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	position, err := f.options.Source.Position(asking)
	if err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.started = true
	f.position.Store(position)
	for s := range f.readers {
		s.reset()
	}
	return nil
}

// Subscription is one reader's place in the feed.
type Subscription struct {
	follower *Follower
	buffer   int
	ready    chan struct{} // has something in it when there may be something to read

	mu      sync.Mutex
	anew    bool
	pending []Change
}

// Subscribe makes a place for a reader, who may fall behind by so many changes (0: 10,000).
func (f *Follower) Subscribe(buffer int) *Subscription {
	if buffer <= 0 {
		buffer = defaultBuffer
	}
	s := &Subscription{follower: f, buffer: buffer, ready: make(chan struct{}, 1)}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.readers[s] = struct{}{}
	if f.started {
		s.reset()
	}
	return s
}

// Close gives the place up.
func (s *Subscription) Close() {
	s.follower.mu.Lock()
	defer s.follower.mu.Unlock()
	delete(s.follower.readers, s)
}

// Next waits for changes, and returns all there are. anew, which is set the first time as well, says that the reader
// has to load everything: changes that come after this call are handed out by later ones. A change that was loaded
// already may come once more.
func (s *Subscription) Next(ctx context.Context) (changes []Change, anew bool, err error) {
	for {
		s.mu.Lock()
		changes, anew = s.pending, s.anew
		s.pending, s.anew = nil, false
		s.mu.Unlock()
		if anew || len(changes) > 0 {
			return changes, anew, nil
		}
		select {
		case <-s.ready:
		case <-ctx.Done():
			return nil, false, ctx.Err()
		}
	}
}

// Anew makes the next call of Next say so again: for a reader that could not load everything.
func (s *Subscription) Anew() { s.reset() }

func (s *Subscription) add(changes []Change) {
	s.mu.Lock()
	switch {
	case s.anew: // what is loaded later holds these too
	case len(s.pending)+len(changes) > s.buffer:
		s.pending, s.anew = nil, true
	default:
		s.pending = append(s.pending, changes...)
	}
	s.mu.Unlock()
	s.wake()
}

func (s *Subscription) reset() {
	s.mu.Lock()
	s.pending, s.anew = nil, true
	s.mu.Unlock()
	s.wake()
}

func (s *Subscription) wake() {
	select {
	case s.ready <- struct{}{}:
	default:
	}
}

package shell

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/loopbackd/loopback/access"
	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/recording"
	"github.com/loopbackd/loopback/shell"
	"github.com/loopbackd/loopback/stream"
)

// live is a session's end on this replica.
type live struct {
	s      *Service
	life   int // of the session: the first end has 0, the next 1, …
	end    *stream.End
	writer *recording.Writer
	base   int64         // of the recording, from which on this end has it from the host
	dirty  chan struct{} // holds one when there is something to sync
	over   context.Context
	stop   context.CancelFunc
	left   atomic.Bool // let go, to be taken up again here or elsewhere

	control sync.Mutex // one writer of acts at a time
	typing  sync.Mutex // one writer of input at a time

	mu      sync.Mutex
	session shell.Session
	actor   access.Actor // who opened it, as they were asked last
	again   Again        // nil: after a restart, until they are back
	viewers map[*Viewer]struct{}
	applied map[uint64]uint64
	ending  *recording.Ending // told by the recording's last event
	head    *recording.Head   // the host's
	why     string            // why the control plane ends it
	size    []byte            // of the terminal, as a Resize says it
	moved   chan struct{}     // closed and made anew when something changed that somebody may wait for
	away    bool              // no typist is there
	forget  func()            // has no stream lead here any more
}

func (s *Service) newLive(session shell.Session, actor access.Actor, again Again, w *recording.Writer) *live {
	l := &live{s: s, life: session.Lives, end: stream.New(stream.Options{}), writer: w, base: w.Extent().Bytes, dirty: make(chan struct{}, 1), session: session, actor: actor, again: again, size: recording.Size(session.Cols, session.Rows),
		viewers: map[*Viewer]struct{}{}, applied: map[uint64]uint64{}, moved: make(chan struct{}), away: true}
	l.over, l.stop = context.WithCancel(context.Background())
	return l
}

// begin sets a live end to work.
func (s *Service) begin(l *live) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing {
		return fault.New(fault.Unavailable, "stopping", "the control plane is stopping")
	}
	s.live[l.session.ID] = l
	s.work.Go(l.run)
	return nil
}

// Times of a live end.
const (
	syncEvery  = 50 * time.Millisecond // at the latest, of what was recorded
	syncBytes  = 256 << 10             // or as soon as so much was
	lingers    = 30 * time.Second      // after its end, for those who have yet to see the last of it
	comesBack  = shell.Detached + time.Minute
	headWithin = 10 * time.Second
)

func (l *live) forgetBy(forget func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.forget = forget
}

func (l *live) id() string { return l.session.ID }

// run works until the session is over, and writes its end.
func (l *live) run() {
	defer l.stop()
	var work sync.WaitGroup
	work.Go(l.sync)
	work.Go(l.confirm)
	work.Go(l.guard)
	reason := l.record()
	if !l.left.Load() {
		l.conclude(reason)
	}
	l.stop()
	work.Wait()
	if !l.left.Load() {
		l.drain()
	}
	l.s.mu.Lock()
	delete(l.s.live, l.id())
	l.s.mu.Unlock()
	l.mu.Lock()
	forget := l.forget
	l.mu.Unlock()
	if forget != nil {
		forget()
	}
	_ = l.writer.Close() // what it held is synced
}

// store writes the session as it is. The next change writes what this one could not.
func (l *live) store() {
	ctx, cancel := context.WithTimeout(context.Background(), headWithin)
	defer cancel()
	l.mu.Lock()
	session := l.session
	l.mu.Unlock()
	err := l.s.store.Observe(ctx, func(tx Tx) error { return ours(ctx, tx, session) })
	if errors.Is(err, errTaken) {
		l.leave()
		return
	}
	if err != nil {
		l.s.Logger.Warn("a session's state cannot be written yet", "session", session.ID, "error", err)
	}
	l.move()
}

// move wakes whoever waits for a change.
func (l *live) move() {
	l.mu.Lock()
	defer l.mu.Unlock()
	close(l.moved)
	l.moved = make(chan struct{})
}

// await waits until the session is in a state.
func (l *live) await(ctx context.Context, state shell.State) {
	ctx, cancel := context.WithTimeout(ctx, headWithin)
	defer cancel()
	for {
		l.mu.Lock()
		now, moved := l.session.State, l.moved
		l.mu.Unlock()
		if now == state {
			return
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return
		}
	}
}

func (l *live) now() access.Actor {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.actor
}

func (l *live) state() shell.State {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.session.State
}

// ours writes a session as its end here knows it, and fails with errTaken where another end has it, or it has ended.
func ours(ctx context.Context, tx Tx, session shell.Session) error {
	before, err := tx.ShellSession(ctx, session.ID)
	switch {
	case err != nil:
		return err
	case before.Replica != session.Replica || before.Lives != session.Lives || before.State == shell.Ended:
		return errTaken
	}
	session.Held = before.Held // which others say
	_, err = tx.PutShellSession(ctx, session)
	return err
}

// errTaken says that a session has another end, on another replica, or has ended.
var errTaken = fault.New(fault.Unavailable, "session_moved", "the session goes on with another replica of the control plane")

// do sends an act.
func (l *live) do(d shell.Do) {
	l.control.Lock()
	defer l.control.Unlock()
	ctx, cancel := context.WithTimeout(l.over, headWithin)
	defer cancel()
	// Where the host is gone there is nothing to act on.
	_, _ = l.end.Writer(shell.Life(l.life)+shell.Control).WriteContext(ctx, d.Append(nil))
}

func (l *live) tellViewers() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for v := range l.viewers {
		notify(v.more)
	}
}

func notify(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

package shell

import (
	"cmp"
	"context"
	"encoding/json"
	"sync/atomic"

	"github.com/loopbackd/loopback/access"
	"github.com/loopbackd/loopback/audit"
	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/recording"
	"github.com/loopbackd/loopback/shell"
)

// Mode is how somebody takes part.
type Mode string

// The modes.
const (
	Owning   Mode = "own"   // who opened it
	Joining  Mode = "join"  // types too
	Watching Mode = "watch" // sees
)

// Taking is how somebody wants to take part.
type Taking struct {
	Session string
	Mode    Mode
	// Pos is where they go on: what they have seen, counted as recording.Head.Bytes is. -1: near the end, as a watcher begins.
	Pos int64
	// Origin is a number of their own, by which what they type is known again after a cut.
	Origin uint64
	Again  Again
	// Stale says that they would have to show a passkey, and Proof is what they have instead: see Viewer.Again.
	Stale bool
	Proof string
}

// Viewer takes part in a session. Next is for one goroutine, the rest for one other; Again for any.
type Viewer struct {
	l      *live
	mode   Mode
	origin uint64
	actor  string // the credential's id
	who    string
	given  atomic.Int64 // Again, the last, in Unix nanoseconds; 0: none was
	tail   *recording.Tail
	more   chan struct{} // holds one when there may be something new
	took   atomic.Int64
	told   uint64 // applied, as they were told last
	batch  []byte
	guest  bool   // sees the terminal, and nothing about the session
	size   []byte // of the terminal, for who watches and has yet to be told it: it may have been set before what they see
}

// fromEnd is how much of what was seen a watcher begins with.
const fromEnd = 64 << 10

// maxViewers of one session.
const maxViewers = 50

// MayTake tells whether somebody may take part, and leaves no trace: they do not by asking.
func (s *Service) MayTake(ctx context.Context, t Taking) error {
	_, _, _, err := s.mayTake(ctx, t)
	return err
}

func (s *Service) mayTake(ctx context.Context, t Taking) (session shell.Session, l *live, actor access.Actor, err error) {
	need := map[Mode]access.Permission{Owning: shell.Open, Joining: shell.Join, Watching: shell.Watch}[t.Mode]
	if need == "" {
		return session, nil, actor, fault.New(fault.Invalid, "mode_unknown", "nobody takes part in a session as %q", string(t.Mode)).WithHint("use own, join or watch")
	}
	if session, err = s.store.View().ShellSession(ctx, t.Session); err != nil {
		return session, nil, actor, err
	}
	actor = access.ActorFrom(ctx)
	if t.Mode == Owning { // with the reason and ticket that it was opened with
		actor.Reason, actor.Ticket = session.Reason, session.Ticket
	}
	if err := actor.RequireHost(need, session.Scope, session.HostID, s.labels(session), shell.Read, "session "+t.Session); err != nil {
		return session, nil, actor, err
	}
	if t.Mode == Owning && session.Principal != actor.Principal {
		return session, nil, actor, fault.New(fault.Denied, "session_not_yours", "session %s was opened by %s", session.ID, session.Who).
			WithHint("watch it, or join it: loopback session join %s", session.ID)
	}
	l, ok := s.find(session.ID)
	switch {
	case session.State == shell.Ended && !ok:
		return session, nil, actor, ended(session)
	case t.Stale && !s.knows(t, actor.ID):
		return session, nil, actor, access.ErrStepUp
	case !ok:
		return session, nil, actor, elsewhere(session)
	}
	return session, l, actor, nil
}

// Take lets somebody take part. That is in the audit log before they see anything. Close it in any case.
func (s *Service) Take(ctx context.Context, t Taking) (*Viewer, error) {
	session, l, actor, err := s.mayTake(ctx, t)
	if err != nil {
		return nil, err
	}
	v := &Viewer{l: l, mode: t.Mode, origin: t.Origin, actor: actor.ID, more: make(chan struct{}, 1), who: cmp.Or(actor.Name, actor.ID)}
	if p, err := s.store.View().Principal(ctx, actor.Principal); err == nil {
		v.who = p.Name
	}
	if t.Mode != Owning {
		need := map[Mode]access.Permission{Joining: shell.Join, Watching: shell.Watch}[t.Mode]
		if err := s.store.Write(ctx, func(tx Tx) error {
			return tx.Audit(ctx, audit.Of(actor, need, session.Scope, session.ID, session.HostName))
		}); err != nil {
			return nil, err
		}
	}
	if t.Pos < 0 {
		t.Pos = max(0, l.writer.Extent().Bytes-fromEnd)
	}
	if err := l.enter(ctx, v, t.Pos); err != nil {
		return nil, err
	}
	l.mu.Lock()
	switch t.Mode {
	case Owning:
		l.actor, l.again = actor, t.Again
	case Watching:
		v.size = l.size
	}
	back := t.Mode != Watching && l.away
	if back {
		l.away = false
	}
	l.mu.Unlock()
	if back {
		l.do(shell.Do{Act: shell.DoResume})
	}
	if t.Mode != Owning {
		l.do(shell.Do{Act: shell.DoMark, Text: v.who + map[Mode]string{Joining: " joined", Watching: " watches"}[t.Mode]})
	}
	return v, nil
}

// guestFromEnd is how much of what was seen before a guest begins with: about a screen. They may not go back further, a cut included.
const guestFromEnd = 16 << 10

// MayShow tells whether a session can be shown to a guest here. Whether the guest may see it is for whoever let them in.
func (s *Service) MayShow(ctx context.Context, session string) error {
	_, err := s.showing(ctx, session)
	return err
}

func (s *Service) showing(ctx context.Context, session string) (*live, error) {
	of, err := s.store.View().ShellSession(ctx, session)
	if err != nil {
		return nil, err
	}
	l, ok := s.find(of.ID)
	switch {
	case of.State == shell.Ended && !ok:
		return nil, errShown
	case !ok:
		return nil, elsewhere(of)
	}
	return l, nil
}

// errShown is what a guest is told when a session ends: why is not theirs to know.
var errShown = fault.New(fault.Precondition, "session_ended", "the session has ended")

// Show lets a guest see a session from a place on, or from about a screen before its end; who is what those in it are told of them.
// Close the viewer in any case.
func (s *Service) Show(ctx context.Context, session, who string, pos int64) (*Viewer, error) {
	l, err := s.showing(ctx, session)
	if err != nil {
		return nil, err
	}
	v := &Viewer{l: l, mode: Watching, guest: true, more: make(chan struct{}, 1), who: who}
	if err := l.enter(ctx, v, max(pos, l.writer.Extent().Bytes-guestFromEnd, 0)); err != nil {
		return nil, err
	}
	l.mu.Lock()
	v.size = l.size
	l.mu.Unlock()
	l.do(shell.Do{Act: shell.DoMark, Text: v.who + " watches"})
	return v, nil
}

// forGuest is an event as a guest sees it: what the terminal shows and how large it is. Who else is there, what is said of the session
// and how it ended are not shown.
func forGuest(e recording.Event) (recording.Event, bool) {
	switch e.Kind {
	case recording.Output, recording.Resize:
		return e, true
	case recording.Begin:
		var h recording.Header
		if json.Unmarshal(e.Data, &h) != nil {
			return e, false
		}
		e.Kind, e.Data = recording.Resize, recording.Size(h.Cols, h.Rows)
		return e, true
	}
	return e, false
}

// enter has a viewer follow from a place, for which it waits where the host has yet to send it again.
func (l *live) enter(ctx context.Context, v *Viewer, pos int64) error {
	ctx, cancel := context.WithTimeout(ctx, headWithin)
	defer cancel()
	v.took.Store(pos) // they are not behind before they have begun
	l.mu.Lock()
	if len(l.viewers) >= maxViewers {
		l.mu.Unlock()
		return fault.New(fault.Exhausted, "session_viewers", "%d people take part in session %s already", maxViewers, l.id())
	}
	l.viewers[v] = struct{}{}
	l.mu.Unlock()
	for {
		t, ok, err := l.writer.Tail(pos)
		if err == nil && ok {
			v.tail = t
			v.took.Store(t.Pos())
			return nil
		}
		if err == nil {
			select {
			case <-v.more:
				continue
			case <-l.over.Done():
				if err = errTaken; !l.left.Load() && v.guest {
					err = errShown
				} else if !l.left.Load() {
					err = ended(v.Session())
				}
			case <-ctx.Done():
				err = fault.New(fault.Precondition, "session_position", "the session has not come that far")
			}
		}
		l.mu.Lock()
		delete(l.viewers, v)
		l.mu.Unlock()
		l.move()
		return err
	}
}

func ended(s shell.Session) error {
	why := s.EndReason
	if why == "" {
		why = "the shell ended"
	}
	return fault.New(fault.Precondition, "session_ended", "session %s has ended: %s", s.ID, why)
}

// maxBatch of events that Next returns, in bytes; one event more may be in it.
const maxBatch = 32 << 10

// Session is the session as it is.
func (v *Viewer) Session() shell.Session {
	v.l.mu.Lock()
	defer v.l.mu.Unlock()
	return v.l.session
}

// Next is what comes next: frames of events up to pos, or how far the viewer's input was typed where that is news. The frames are
// valid until the next call. When all was seen of a session that has ended it returns an error of code session_ended.
func (v *Viewer) Next(ctx context.Context) (frames []byte, pos int64, applied uint64, err error) {
	for {
		v.l.mu.Lock()
		over, session, moved := v.l.session.State == shell.Ended, v.l.session, v.l.moved
		typed := v.l.applied[v.origin]
		v.l.mu.Unlock()
		v.batch = v.batch[:0]
		if v.size != nil {
			v.batch, v.size = recording.Event{Kind: recording.Resize, Data: v.size}.AppendFrame(v.batch), nil
		}
		for len(v.batch) < maxBatch {
			e, ok, err := v.tail.Next()
			if err != nil {
				return nil, 0, 0, err
			}
			if !ok {
				break
			}
			if v.guest {
				if e, ok = forGuest(e); !ok {
					continue
				}
			}
			v.batch = e.AppendFrame(v.batch)
		}
		if len(v.batch) > 0 || typed != v.told {
			v.told = typed
			return v.batch, v.tail.Pos(), typed, nil
		}
		switch {
		case over && v.guest:
			return nil, 0, 0, errShown
		case over:
			return nil, 0, 0, ended(session)
		case v.l.left.Load():
			return nil, 0, 0, errTaken
		}
		if cap(v.batch) > 4<<10 {
			v.batch = nil
		}
		select {
		case <-v.more:
		case <-moved:
		case <-v.l.over.Done():
		case <-ctx.Done():
			return nil, 0, 0, ctx.Err()
		}
	}
}

// Took says that the viewer has shown everything up to a place.
func (v *Viewer) Took(pos int64) {
	v.took.Store(pos)
	if v.mode != Watching {
		v.l.move()
	}
}

// Behind is how many bytes were handed to the viewer and not yet shown.
func (v *Viewer) Behind(pos int64) int64 { return pos - v.took.Load() }

// Type types. Offset counts the viewer's own bytes before it.
func (v *Viewer) Type(ctx context.Context, offset uint64, data []byte) error {
	if v.mode == Watching {
		return fault.New(fault.Denied, "session_watched", "who watches does not type")
	}
	if len(data) > shell.MaxInput {
		return fault.New(fault.Invalid, "input_too_large", "at most %d bytes are typed at once", shell.MaxInput)
	}
	v.l.typing.Lock()
	defer v.l.typing.Unlock()
	_, err := v.l.end.Writer(shell.Life(v.l.life)+shell.Typed).WriteContext(ctx, shell.Input{Origin: v.origin, Offset: offset, Data: data}.Append(nil))
	return err
}

// Resize sets the terminal's size: that of whoever set it last.
func (v *Viewer) Resize(cols, rows int) {
	if v.mode != Watching && cols > 0 && rows > 0 && cols <= shell.MaxCols && rows <= shell.MaxRows {
		v.l.do(shell.Do{Act: shell.DoResize, Text: string(recording.Size(cols, rows))})
	}
}

// Kill ends the session; for those who type in it.
func (v *Viewer) Kill() {
	if v.mode == Owning {
		v.l.kill("ended by " + v.who)
	}
}

// Close leaves.
func (v *Viewer) Close() {
	l := v.l
	l.mu.Lock()
	delete(l.viewers, v)
	typists := 0
	for other := range l.viewers {
		if other.mode != Watching {
			typists++
		}
	}
	left := typists == 0 && !l.away && v.mode != Watching
	if left {
		l.away = true
	}
	ended := l.session.State == shell.Ended
	l.mu.Unlock()
	l.move()
	if ended {
		return
	}
	if left {
		l.do(shell.Do{Act: shell.DoHold})
	}
	if v.mode != Owning {
		l.do(shell.Do{Act: shell.DoMark, Text: v.who + " left"})
	}
}

package shell

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/loopbackd/loopback/access"
	"github.com/loopbackd/loopback/audit"
	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/host"
	"github.com/loopbackd/loopback/label"
	"github.com/loopbackd/loopback/recording"
	"github.com/loopbackd/loopback/shell"
	"github.com/loopbackd/loopback/stream"
)

// live is a session's end on this replica.
type live struct {
	s      *Service
	end    *stream.End
	writer *recording.Writer
	dirty  chan struct{} // holds one when there is something to sync
	over   context.Context
	stop   context.CancelFunc
	left   atomic.Bool // let go, to be taken up again

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
	moved   chan struct{}     // closed and made anew when something changed that somebody may wait for
	away    bool              // no typist is there
	forget  func()            // has no stream lead here any more
}

func (s *Service) newLive(session shell.Session, actor access.Actor, again Again, w *recording.Writer) *live {
	l := &live{s: s, end: stream.New(stream.Options{}), writer: w, dirty: make(chan struct{}, 1), session: session, actor: actor, again: again,
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
	work.Go(l.closing)
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

// record takes in what the host sends, and returns when nothing more comes, with why where the host did not say.
func (l *live) record() (reason string) {
	in := l.end.ReaderAt(shell.Events, uint64(l.writer.Extent().Bytes))
	var buffer []byte
	chunk := make([]byte, 32<<10)
	for {
		n, err := in.Next(l.over, chunk)
		buffer = append(buffer, chunk[:n]...)
		used := 0
		for {
			e, size, bad := recording.ParseFrame(buffer[used:])
			if bad != nil {
				l.end.Close(fault.Of(bad))
				return "the host sent what is no event"
			}
			if size == 0 {
				break
			}
			if err := l.add(e); err != nil {
				l.s.Logger.Error("a session cannot be recorded and ends", "session", l.id(), "error", err)
				l.end.Close(fault.New(fault.Exhausted, "shell_unrecorded", "the control plane cannot record it any further"))
				return "the control plane could not record it any further: " + fault.Of(err).Message
			}
			used += size
		}
		if used > 0 {
			notify(l.dirty)
			l.tellViewers()
			l.hold()
		}
		if buffer = buffer[used:]; len(buffer) == 0 {
			buffer = nil // an idle session holds no memory
		}
		switch {
		case err == nil:
		case errors.Is(err, io.EOF):
			return ""
		default:
			l.mu.Lock()
			defer l.mu.Unlock()
			if l.ending != nil {
				return "" // only the goodbye is missing
			}
			return cmp.Or(l.why, "the host was lost: "+fault.Of(err).Message)
		}
	}
}

// add records an event and notes what it says.
func (l *live) add(e recording.Event) error {
	if err := l.writer.Add(e); err != nil {
		return err
	}
	switch e.Kind {
	case recording.Begin:
		l.mu.Lock()
		l.session.State, l.session.StartedAt = shell.Running, l.s.Now()
		l.mu.Unlock()
		l.store()
	case recording.Exit:
		var end recording.Ending
		_ = json.Unmarshal(e.Data, &end) // what cannot be read says nothing
		l.mu.Lock()
		l.ending = &end
		l.mu.Unlock()
	}
	return nil
}

// store writes the session as it is. The next change writes what this one could not.
func (l *live) store() {
	ctx, cancel := context.WithTimeout(context.Background(), headWithin)
	defer cancel()
	l.mu.Lock()
	session := l.session
	l.mu.Unlock()
	err := l.s.store.Observe(ctx, func(tx Tx) error {
		_, err := tx.PutShellSession(ctx, session)
		return err
	})
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

// hold waits while a typist is far behind: the host is held back by what is not acknowledged.
func (l *live) hold() {
	for {
		l.mu.Lock()
		behind := false
		for v := range l.viewers {
			behind = behind || v.mode != Watching && l.writer.Extent().Bytes-v.took.Load() > maxBehind
		}
		moved := l.moved
		l.mu.Unlock()
		if !behind {
			return
		}
		select {
		case <-moved:
		case <-l.over.Done():
			return
		}
	}
}

// maxBehind is how many bytes a typist may have yet to see.
const maxBehind = 512 << 10

// sync makes what was recorded durable, and tells the host that it may forget it.
func (l *live) sync() {
	in := l.end.Reader(shell.Events)
	for {
		select {
		case <-l.dirty:
		case <-l.over.Done():
			return
		}
		wait := time.NewTimer(syncEvery)
		from := l.writer.Extent().Bytes
		for more := true; more; {
			select {
			case <-wait.C:
				more = false
			case <-l.dirty:
				more = l.writer.Extent().Bytes-from < syncBytes
			case <-l.over.Done():
				more = false
			}
		}
		wait.Stop()
		h, err := l.writer.Sync()
		if err != nil {
			l.end.Close(fault.New(fault.Exhausted, "shell_unrecorded", "the control plane cannot record it any further"))
			return
		}
		in.Ack(uint64(h.Bytes))
	}
}

// confirm notes how far typists' input was typed.
func (l *live) confirm() {
	in := l.end.Reader(shell.Applied(l.session.Lives))
	var buffer []byte
	chunk := make([]byte, 512)
	for {
		n, err := in.Next(l.over, chunk)
		buffer = append(buffer, chunk[:n]...)
		for {
			i, size, bad := shell.ParseInput(buffer)
			if bad != nil || size == 0 {
				break
			}
			l.mu.Lock()
			l.applied[i.Origin] = max(l.applied[i.Origin], i.Offset)
			l.mu.Unlock()
			buffer = buffer[size:]
		}
		if err == nil || errors.Is(err, io.EOF) {
			in.Ack(in.Offset() - uint64(len(buffer)))
		}
		if err != nil {
			return
		}
		buffer = append([]byte(nil), buffer...)
		l.tellViewers()
	}
}

// closing takes the head of the host's recording.
func (l *live) closing() {
	in := l.end.Reader(shell.Closing)
	b, err := io.ReadAll(io.LimitReader(readerContext{l.over, in}, 4<<10))
	var h recording.Head
	if err != nil || json.Unmarshal(b, &h) != nil || h.Session != l.id() {
		return
	}
	l.mu.Lock()
	l.head = &h
	l.mu.Unlock()
	l.move()
}

// readerContext reads until a context ends.
type readerContext struct {
	ctx context.Context
	*stream.Reader
}

func (r readerContext) Read(p []byte) (int, error) {
	n, err := r.Next(r.ctx, p)
	if n > 0 || err == io.EOF {
		r.Ack(r.Offset())
	}
	return n, err
}

// guard ends the session once whoever opened it may not any more, nobody came, or its time is long over.
func (l *live) guard() {
	tick := time.NewTicker(askAgain)
	defer tick.Stop()
	opened := time.NewTimer(2 * shell.Comes)
	defer opened.Stop()
	lost := time.Time{}
	for {
		changed := l.now().Changed()
		if err := l.ask(); err != nil {
			l.kill("it ends because " + l.session.Who + " may not have it any more: " + fault.Of(err).Message)
			return
		}
		select {
		case <-changed:
			continue
		case <-tick.C:
		case <-opened.C:
			if l.state() == shell.Opening {
				l.finish("the host did not begin it")
				return
			}
		case <-l.over.Done():
			return
		}
		switch {
		case l.end.Attached():
			lost = time.Time{}
		case lost.IsZero():
			lost = time.Now()
		case time.Since(lost) > comesBack:
			l.finish("the host did not come back")
			return
		}
	}
}

// askAgain is how often whoever opened a session is asked again though no rule changed.
const askAgain = 10 * time.Second

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

// ask tells whether whoever opened the session may still have it.
func (l *live) ask() error {
	l.mu.Lock()
	actor, again, session := l.actor, l.again, l.session
	l.mu.Unlock()
	if again != nil {
		ctx, cancel := context.WithTimeout(l.over, 5*time.Second)
		now, err := again(access.AskedAgain(ctx))
		cancel()
		if l.over.Err() != nil {
			return nil
		}
		switch {
		case fault.KindOf(err) == fault.Unauthenticated || fault.KindOf(err) == fault.Denied:
			return err
		case err != nil: // the database does not answer: what is known decides
		default:
			now.Address, now.Reason, now.Ticket, now.RequestID = actor.Address, actor.Reason, actor.Ticket, actor.RequestID
			actor = now
			l.mu.Lock()
			l.actor = actor
			l.mu.Unlock()
		}
	}
	if actor.Policy != nil && actor.Policy.Closed() {
		return access.ErrClosed
	}
	return actor.RequireHost(shell.Open, session.Scope, l.s.labels(session), host.Read, "host "+session.HostID)
}

// labels are those of a session's host now.
func (s *Service) labels(of shell.Session) label.Set {
	if h, ok := s.fleet.Host(of.HostID); ok {
		return h.Labels
	}
	return nil
}

// kill has the host end the session.
func (l *live) kill(reason string) {
	l.mu.Lock()
	if l.why == "" {
		l.why = reason
	}
	l.mu.Unlock()
	l.do(shell.Do{Act: shell.DoEnd, Text: cutTo(reason, shell.MaxText)})
	// A host that is away is told when it is back; the session is not waited for.
	go func() {
		grace := time.NewTimer(headWithin)
		defer grace.Stop()
		select {
		case <-grace.C:
			if !l.end.Attached() {
				l.finish(reason)
			}
		case <-l.over.Done():
		}
	}()
}

// finish ends the session whatever the host does.
func (l *live) finish(reason string) {
	l.mu.Lock()
	if l.why == "" {
		l.why = reason
	}
	l.mu.Unlock()
	l.end.Close(fault.New(fault.Canceled, "session_ended", "%s", cutTo(reason, 200)))
}

func cutTo(s string, n int) string {
	if len(s) > n {
		return s[:n]
	}
	return s
}

// do sends an act.
func (l *live) do(d shell.Do) {
	l.control.Lock()
	defer l.control.Unlock()
	ctx, cancel := context.WithTimeout(l.over, headWithin)
	defer cancel()
	// Where the host is gone there is nothing to act on.
	_, _ = l.end.Writer(shell.Life(l.session.Lives)+shell.Control).WriteContext(ctx, d.Append(nil))
}

// conclude compares the recordings and writes the session's end.
func (l *live) conclude(reason string) {
	deadline := time.NewTimer(headWithin)
	defer deadline.Stop()
	if reason != "" {
		deadline.Reset(0) // the host is gone: it tells nothing any more
	}
	for waiting := true; waiting; {
		l.mu.Lock()
		moved, told := l.moved, l.head != nil
		l.mu.Unlock()
		if told {
			break
		}
		select {
		case <-moved:
		case <-deadline.C:
			waiting = false
		}
	}
	if reason != "" {
		at := l.writer.Extent().Length
		end, _ := json.Marshal(recording.Ending{Status: 255, Reason: reason})
		_ = l.writer.Add(recording.Event{At: at, Kind: recording.Exit, Data: end}) // a recorder that failed has no end
	}
	head, err := l.writer.End()
	if err != nil {
		l.s.Logger.Error("the end of a recording cannot be written", "session", l.id(), "error", err)
	}
	l.mu.Lock()
	defer l.tellViewers()
	l.session.State, l.session.EndedAt, l.session.Head = shell.Ended, l.s.Now(), head
	l.session.EndReason, l.session.ExitStatus = reason, 255
	if l.ending != nil && reason == "" {
		l.session.EndReason, l.session.ExitStatus = l.ending.Reason, l.ending.Status
	}
	l.session.Verdict, l.session.Differs = l.s.compare(l.id(), head, l.head)
	if l.head != nil {
		l.session.Host = *l.head
	}
	session := l.session
	l.mu.Unlock()
	l.s.writeEnd(session)
	events := l.end.Reader(shell.Events)
	events.Ack(events.Offset())
	l.end.Close(nil)
	l.move()
}

// compare holds the two recordings against each other.
func (s *Service) compare(session string, own recording.Head, hosts *recording.Head) (shell.Verdict, int64) {
	switch {
	case hosts == nil:
		return shell.Alone, -1
	case *hosts == own:
		return shell.Agreed, -1
	}
	r, err := recording.Open(s.spool.Path(session), nil)
	if err != nil {
		return shell.Disagreed, -1
	}
	defer r.Close()
	if at, err := r.HeadAt(hosts.Events); err == nil && at.Root == hosts.Root {
		return shell.Partial, -1
	}
	return shell.Disagreed, -1
}

// writeEnd writes a session's end, as long as it takes: a session without one would be open for ever.
func (s *Service) writeEnd(session shell.Session) {
	worker := access.Actor{Kind: access.System, ID: "shell", Name: "shell sessions"}
	for wait := 100 * time.Millisecond; ; wait = min(2*wait, 5*time.Second) {
		ctx, cancel := context.WithTimeout(context.Background(), headWithin)
		err := s.store.Write(ctx, func(tx Tx) error {
			if before, err := tx.ShellSession(ctx, session.ID); err != nil || before.State == shell.Ended {
				return err
			}
			if _, err := tx.PutShellSession(ctx, session); err != nil {
				return err
			}
			e := audit.Of(worker, shell.End, session.Scope, session.ID, session.HostName).Because(session.EndReason).Change(nil, describe(session))
			e.Ticket = session.Ticket
			return tx.Audit(ctx, e)
		})
		cancel()
		if err == nil {
			return
		}
		s.Logger.Error("the end of a session cannot be written yet", "session", session.ID, "error", err)
		s.mu.Lock()
		closing := s.closing
		s.mu.Unlock()
		if closing {
			return // the next start finds it
		}
		time.Sleep(wait) // owned by the session, which has nothing else to do
	}
}

// drain waits until those who are there have seen the last of it.
func (l *live) drain() {
	deadline := time.NewTimer(lingers)
	defer deadline.Stop()
	for {
		l.mu.Lock()
		left, moved := len(l.viewers), l.moved
		l.mu.Unlock()
		if left == 0 {
			return
		}
		select {
		case <-moved:
		case <-deadline.C:
			return
		}
	}
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

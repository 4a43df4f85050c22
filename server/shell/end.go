package shell

import (
	"context"
	"encoding/json"
	"errors"
	"sync"
	"time"

	"github.com/loopbackd/loopback/access"
	"github.com/loopbackd/loopback/audit"
	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/recording"
	"github.com/loopbackd/loopback/shell"
)

// conclude compares the recordings and writes the session's end.
func (l *live) conclude(reason string) {
	asking, stop := context.WithCancel(l.over)
	var closing sync.WaitGroup
	closing.Go(func() { l.closing(asking) }) // only now: a session that runs keeps nobody waiting for its end
	defer closing.Wait()
	defer stop()
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
	session, ending, hosts := l.session, l.ending, l.head
	l.mu.Unlock()
	session.State, session.EndedAt, session.Head = shell.Ended, l.s.Now(), head
	session.EndReason, session.ExitStatus = reason, 255
	if ending != nil && reason == "" {
		session.EndReason, session.ExitStatus = ending.Reason, ending.Status
	}
	session.Verdict, session.Differs = l.s.compare(l.id(), head, hosts)
	if hosts != nil {
		session.Host = *hosts
	}
	if !l.s.writeEnd(session) {
		l.left.Store(true)
		return
	}
	l.mu.Lock()
	l.session = session
	l.mu.Unlock()
	l.tellViewers()
	for _, channel := range []byte{shell.Events(l.life), shell.Closing} {
		in := l.end.Reader(channel)
		in.Ack(in.Offset())
	}
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
	if at, err := r.HeadAt(hosts.Events); err == nil && hosts.Events < own.Events && at.Root == hosts.Root { // a host that has as many and differs in anything else differs
		return shell.Partial, -1
	}
	return shell.Disagreed, -1
}

// writeEnd writes a session's end, as long as it takes: a session without one would be open for ever. One that another end has taken
// up is that end's to write: then it is false, and so it is where this replica stops first and finds it when it is back.
func (s *Service) writeEnd(session shell.Session) bool {
	worker := access.Actor{Kind: access.System, ID: "shell", Name: "shell sessions"}
	for wait := 100 * time.Millisecond; ; wait = min(2*wait, 5*time.Second) {
		ctx, cancel := context.WithTimeout(context.Background(), headWithin)
		err := s.store.Write(ctx, func(tx Tx) error {
			if err := ours(ctx, tx, session); err != nil {
				return err
			}
			e := audit.Of(worker, shell.End, session.Scope, session.ID, session.HostName).Because(session.EndReason).Change(nil, describe(session))
			e.Ticket = session.Ticket
			return tx.Audit(ctx, e)
		})
		cancel()
		if err == nil || errors.Is(err, errTaken) || fault.KindOf(err) == fault.NotFound {
			return err == nil
		}
		s.Logger.Error("the end of a session cannot be written yet", "session", session.ID, "error", err)
		again := time.NewTimer(wait)
		select {
		case <-again.C:
		case <-s.stopping: // the next start finds it
			again.Stop()
			return false
		}
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

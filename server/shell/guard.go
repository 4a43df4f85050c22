package shell

import (
	"context"
	"time"

	"github.com/loopbackd/loopback/access"
	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/host"
	"github.com/loopbackd/loopback/label"
	"github.com/loopbackd/loopback/shell"
)

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
		if !l.end.Attached() && l.isElsewhere() {
			l.leave()
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

// isElsewhere tells whether another end has taken the session up: the host found its way there, and not here.
func (l *live) isElsewhere() bool {
	ctx, cancel := context.WithTimeout(l.over, 5*time.Second)
	defer cancel()
	now, err := l.s.store.View().ShellSession(ctx, l.id())
	return err == nil && (now.Replica != l.s.Replica || now.Lives != l.life)
}

// askAgain is how often whoever opened a session is asked again though no rule changed.
const askAgain = 10 * time.Second

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
	return actor.RequireHost(shell.Open, session.Scope, session.HostID, l.s.labels(session), host.Read, "host "+session.HostID)
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

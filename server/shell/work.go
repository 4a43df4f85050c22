package shell

import (
	"context"
	"errors"
	"iter"
	"strconv"
	"time"

	"github.com/loopbackd/loopback/access"
	"github.com/loopbackd/loopback/audit"
	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/recording"
	"github.com/loopbackd/loopback/shell"
)

// Run takes up the sessions that this replica left when it stopped or died, ends those that nobody has any more, and returns when ctx
// has ended and every live end has been left, to be taken up again.
func (s *Service) Run(ctx context.Context) error {
	for {
		err := s.takeUp(ctx)
		if err == nil || ctx.Err() != nil {
			break
		}
		s.Logger.Warn("the sessions of before cannot be taken up yet", "error", err)
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
		}
	}
	ticks := time.NewTicker(lookEvery)
	defer ticks.Stop()
	for ctx.Err() == nil {
		select {
		case <-ticks.C:
			if err := s.reap(ctx); err != nil && ctx.Err() == nil {
				s.Logger.Warn("sessions whose replica is gone cannot be looked for", "error", err)
			}
		case <-ctx.Done():
		}
	}
	s.mu.Lock()
	s.closing = true
	left := make([]*live, 0, len(s.live))
	for _, l := range s.live {
		left = append(left, l)
	}
	s.mu.Unlock()
	close(s.stopping)
	for _, l := range left {
		l.leave()
	}
	s.work.Wait()
	return nil
}

// lookEvery is how often sessions whose replica is gone are looked for.
const lookEvery = 30 * time.Second

// reap ends the sessions of replicas that have been gone for as long as a host may be: neither has come back, and no other replica was
// found by the host.
func (s *Service) reap(ctx context.Context) error {
	if s.Reached == nil {
		return nil
	}
	open, err := s.store.View().OpenShellSessions(ctx, "")
	if err != nil {
		return err
	}
	orphans := map[string]time.Time{}
	for _, session := range open {
		if session.Replica == s.Replica || s.Reached(session.Replica) {
			continue
		}
		s.mu.Lock()
		since, known := s.orphans[session.ID]
		s.mu.Unlock()
		if !known {
			since = s.Now()
		}
		if s.Now().Sub(since) < comesBack {
			orphans[session.ID] = since
			continue
		}
		s.lost(session, "the replica that recorded it is gone, and its host did not come to another")
	}
	s.mu.Lock()
	s.orphans = orphans
	s.mu.Unlock()
	return nil
}

// leave lets a session go without ending it.
func (l *live) leave() {
	if _, err := l.writer.Sync(); err != nil {
		l.s.Logger.Error("a recording cannot be made durable", "session", l.id(), "error", err)
	}
	l.left.Store(true)
	l.stop()
}

// Where is the replica that has a session which has not ended; empty: there is none.
func (s *Service) Where(ctx context.Context, id string) string {
	session, err := s.store.View().ShellSession(ctx, id)
	if err != nil || session.State == shell.Ended {
		return ""
	}
	return session.Replica
}

// Adopt takes up a session whose host asks for it; not ok where there is none. One of a replica that can be reached is that one's.
func (s *Service) Adopt(ctx context.Context, id string) (ok bool, err error) {
	session, err := s.store.View().ShellSession(ctx, id)
	switch {
	case fault.KindOf(err) == fault.NotFound:
		return false, nil
	case err != nil:
		return false, fault.New(fault.Unavailable, "session_unread", "the session cannot be looked up now").WithCause(err)
	case session.State == shell.Ended:
		return false, nil
	case session.Replica != s.Replica && (s.Reached == nil || s.Reached(session.Replica)):
		return false, elsewhere(session)
	}
	s.adopting.Lock()
	defer s.adopting.Unlock()
	if _, there := s.find(id); !there {
		err = s.resume(ctx, session)
	}
	return err == nil, err
}

func (s *Service) takeUp(ctx context.Context) error {
	open, err := s.store.View().OpenShellSessions(ctx, s.Replica)
	if err != nil {
		return err
	}
	for _, session := range open {
		if _, ok := s.find(session.ID); ok {
			continue
		}
		if err := s.resume(ctx, session); err != nil {
			s.Logger.Warn("a session cannot be taken up and ends", "session", session.ID, "error", err)
			s.lost(session, fault.Of(err).Message)
		}
	}
	return nil
}

// resume makes a live end of a session that one before it had, here or on another replica. What that one recorded elsewhere is not
// here: the host sends its record again.
func (s *Service) resume(ctx context.Context, session shell.Session) error {
	if session.State == shell.Opening {
		return fault.New(fault.Unavailable, "session_lost", "the control plane stopped before the host had begun it")
	}
	if session.Lives >= shell.MaxLives {
		return fault.New(fault.Exhausted, "session_lives", "the control plane began anew %d times in it", session.Lives)
	}
	keys, err := s.keys(session)
	if err != nil {
		return err
	}
	w, err := recording.Continue(s.spool.Path(session.ID), session.ID, keys)
	if fault.KindOf(err) == fault.NotFound {
		w, err = s.spool.Create(session.ID, keys)
	}
	if err != nil {
		return err
	}
	before := session
	session.Lives++
	session.Replica = s.Replica
	if err := s.store.Observe(ctx, func(tx Tx) error {
		now, err := tx.ShellSession(ctx, session.ID)
		if err != nil {
			return err
		}
		if now.Replica != before.Replica || now.Lives != before.Lives || now.State == shell.Ended {
			return errTaken
		}
		session.Held = now.Held
		session, err = tx.PutShellSession(ctx, session)
		return err
	}); err != nil {
		_ = w.Close()
		return err
	}
	// Until whoever opened it is back, what their principal holds decides.
	actor := access.Actor{
		Kind: access.SignIn, ID: session.Actor, Principal: session.Principal, Policy: s.Policy, Address: session.Address, Reason: session.Reason, Ticket: session.Ticket,
		Grants: []access.Grant{{ID: session.Actor, Permissions: []access.Permission{shell.Open}, Scope: session.Scope}},
	}
	l := s.newLive(session, actor, nil, w)
	for life := range session.Lives { // nothing that was for a life before is wanted, however far that came
		for _, channel := range []byte{shell.Applied(life), shell.Events(life)} {
			l.end.ReaderAt(channel, 1<<40).Stop()
		}
	}
	if err := s.begin(l); err != nil {
		return err
	}
	l.do(shell.Do{Act: shell.DoAgain, Text: strconv.FormatInt(l.base, 10)})
	l.forgetBy(s.streams.Expect(session.HostID, session.ID, l.end))
	return nil
}

// lost writes the end of a session that nobody has any more.
func (s *Service) lost(session shell.Session, why string) {
	if keys, err := s.keys(session); err == nil {
		w, err := recording.Continue(s.spool.Path(session.ID), session.ID, keys)
		if err == nil {
			session.Head, _ = w.End() // a head that cannot be written is found by reading
			_ = w.Close()
		} else if r, opened := recording.Open(s.spool.Path(session.ID), keys); errors.Is(err, recording.ErrEnded) && opened == nil {
			session.Head = r.Head()
			_ = r.Close()
		}
	}
	session.State, session.EndedAt, session.EndReason, session.ExitStatus, session.Verdict = shell.Ended, s.Now(), why, 255, shell.Alone
	s.writeEnd(session)
}

func (s *Service) keys(session shell.Session) (*recording.Keyring, error) {
	text, ok := s.box.Open(session.ID, session.Sealed)
	if !ok {
		return nil, fault.New(fault.Precondition, "recording_keys", "the keys of the recording of session %s cannot be opened", session.ID).
			WithHint("they were sealed with another key: restore the data folder and the database from one backup")
	}
	return recording.ParseKeyring([]byte(text))
}

// Replay is a session's recording, checked as it is read, with secrets that are known by how they look taken out. That it is read is
// in the audit log first.
func (s *Service) Replay(ctx context.Context, ref string, read func(iter.Seq2[recording.Event, error]) error) error {
	reading, done := s.reads(ref) // before it is looked whether it was deleted: afterwards we are told
	defer done()
	session, err := s.permitted(ctx, s.store.View(), ref, shell.Replay)
	if err != nil {
		return err
	}
	if !session.Deletion.At.IsZero() {
		return deleted(session)
	}
	if session.Replica != s.Replica {
		return elsewhere(session)
	}
	keys, err := s.keys(session)
	if err != nil {
		return err
	}
	r, err := recording.Open(s.spool.Path(session.ID), keys)
	if err != nil {
		return err
	}
	defer r.Close()
	if session.State == shell.Ended && session.Head.Root != r.Head().Root {
		return recording.ErrTampered
	}
	if err := s.store.Write(ctx, func(tx Tx) error {
		return tx.Audit(ctx, audit.Of(access.ActorFrom(ctx), shell.Replay, session.Scope, session.ID, session.HostName))
	}); err != nil {
		return err
	}
	return read(reading.whileKept(session.ID, recording.Redact(r.Events(0))))
}

package shell

import (
	"context"
	"iter"
	"time"

	"github.com/loopbackd/loopback/access"
	"github.com/loopbackd/loopback/audit"
	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/recording"
	"github.com/loopbackd/loopback/shell"
)

// Run takes up the sessions that this replica left when it stopped or died, and returns when ctx has ended and every live end has
// been left, to be taken up again.
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
	<-ctx.Done()
	s.mu.Lock()
	s.closing = true
	left := make([]*live, 0, len(s.live))
	for _, l := range s.live {
		left = append(left, l)
	}
	s.mu.Unlock()
	for _, l := range left {
		l.leave()
	}
	s.work.Wait()
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

// Adopt takes up a session whose host asks for it; not ok where it is none of this replica's.
func (s *Service) Adopt(ctx context.Context, id string) (ok bool, err error) {
	session, err := s.store.View().ShellSession(ctx, id)
	switch {
	case fault.KindOf(err) == fault.NotFound:
		return false, nil
	case err != nil:
		return false, fault.New(fault.Unavailable, "session_unread", "the session cannot be looked up now").WithCause(err)
	case session.State == shell.Ended:
		return false, nil
	case session.Replica != s.Replica:
		return false, elsewhere(session)
	}
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

// resume makes a live end of a session that one before it had.
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
	if err != nil {
		return err
	}
	session.Lives++
	if err := s.store.Observe(ctx, func(tx Tx) error {
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
	// Read from where the recording is, and nothing that was for a life before, however far that came.
	l.end.ReaderAt(shell.Events, uint64(w.Extent().Bytes))
	for life := range session.Lives {
		l.end.ReaderAt(shell.Applied(life), 1<<40)
	}
	if err := s.begin(l); err != nil {
		return err
	}
	l.forgetBy(s.streams.Expect(session.HostID, session.ID, l.end))
	return nil
}

// lost writes the end of a session that nobody has any more.
func (s *Service) lost(session shell.Session, why string) {
	if keys, err := s.keys(session); err == nil {
		if w, err := recording.Continue(s.spool.Path(session.ID), session.ID, keys); err == nil {
			session.Head, _ = w.End() // a head that cannot be written is found by reading
			_ = w.Close()
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
	session, err := s.permitted(ctx, s.store.View(), ref, shell.Replay)
	if err != nil {
		return err
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
	return read(recording.Redact(r.Events(0)))
}

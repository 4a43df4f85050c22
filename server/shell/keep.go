package shell

import (
	"cmp"
	"context"
	"iter"
	"slices"
	"sync/atomic"
	"time"

	"github.com/loopbackd/loopback/access"
	"github.com/loopbackd/loopback/audit"
	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/principal"
	"github.com/loopbackd/loopback/recording"
	"github.com/loopbackd/loopback/sessionreview"
	"github.com/loopbackd/loopback/shell"
)

// Keeping reads how long recordings are kept, and which are due.
type Keeping interface {
	RecordingRetentions(ctx context.Context) ([]shell.Retention, error)
	ExpirableShellSessions(ctx context.Context, within access.Scope, endedBefore time.Time, after string, limit int) ([]shell.Session, error)
	DeletedRecordings(ctx context.Context, ids []string) ([]string, error)
	UndroppedShellSessions(ctx context.Context, after string, limit int) ([]shell.Session, error)
}

// Reviewing reads which sessions somebody else has yet to look at.
type Reviewing interface {
	SessionReview(ctx context.Context, id string) (sessionreview.Review, error)
	SessionReviewPolicies(ctx context.Context) ([]sessionreview.Policy, error)
	UndrawnMonths(ctx context.Context) ([]sessionreview.Month, error)
}

// KeepTx changes what is kept.
type KeepTx interface {
	PutRecordingRetention(ctx context.Context, r shell.Retention) error
	DeleteRecordingRetention(ctx context.Context, at access.Scope) error
	DeleteShellCommands(ctx context.Context, session string) error
}

// Retentions are those that the caller may read.
func (s *Service) Retentions(ctx context.Context) ([]shell.Retention, error) {
	sight := access.ActorFrom(ctx).Readable(shell.Read)
	all, err := s.store.View().RecordingRetentions(ctx)
	return slices.DeleteFunc(all, func(r shell.Retention) bool { return !sight.Sees(r.Scope) }), err
}

// AllRetentions are all of them: what says until when a session's recording is kept, to whoever may read the session.
func (s *Service) AllRetentions(ctx context.Context) ([]shell.Retention, error) {
	return s.store.View().RecordingRetentions(ctx)
}

// SetRetention says how long the recordings of a place are kept. With inherit it takes what was said of the place away: that of the place
// above it holds there.
func (s *Service) SetRetention(ctx context.Context, organisation, project, workspace string, r shell.Retention, inherit bool) (shell.Retention, error) {
	at, err := s.places.Scope(ctx, organisation, project, workspace, shell.Retain)
	if err != nil {
		return r, err
	}
	actor := access.ActorFrom(ctx)
	who, err := s.word(ctx, cmp.Or(r.Reason, actor.Reason))
	if err != nil {
		return r, err
	}
	r.Scope, r.Reason, r.By, r.UpdatedAt = at, who.Reason, who.ByName, who.At
	var c fault.Check
	r.Validate(&c)
	c.That(!inherit || r.KeepDays == 0, "keepDays", "is %d; a place that keeps what the one above it does has no days of its own", r.KeepDays)
	if err := c.Err("recording_retention_invalid", "the retention is not valid"); err != nil {
		return r, err
	}
	err = s.store.Write(ctx, func(tx Tx) error {
		all, err := tx.RecordingRetentions(ctx)
		if err != nil {
			return err
		}
		var before, after any
		if i := slices.IndexFunc(all, func(o shell.Retention) bool { return o.Scope == at }); i >= 0 {
			before = describeRetention(all[i])
		}
		if inherit {
			err = tx.DeleteRecordingRetention(ctx, at)
		} else {
			after = describeRetention(r)
			err = tx.PutRecordingRetention(ctx, r)
		}
		if err != nil {
			return err
		}
		return tx.Audit(ctx, audit.Of(actor, shell.Retain, at, "", "").Because(r.Reason).Change(before, after))
	})
	return r, err
}

func describeRetention(r shell.Retention) map[string]any {
	return map[string]any{"keepDays": r.KeepDays, "reason": r.Reason}
}

// word is the caller's, now.
func (s *Service) word(ctx context.Context, reason string) (shell.Word, error) {
	actor := access.ActorFrom(ctx)
	w := shell.Word{At: s.Now().UTC().Truncate(time.Microsecond), By: actor.Principal, ByName: cmp.Or(actor.Name, actor.ID), Reason: reason}
	if actor.Principal == "" {
		return w, nil
	}
	who, err := s.store.View().Principal(ctx, actor.Principal)
	w.ByName = who.Name
	return w, err
}

// Hold keeps a session's recording, whatever its retention, until it is released. The session may run.
func (s *Service) Hold(ctx context.Context, ref, reason string) (shell.Session, error) {
	return s.say(ctx, ref, reason, true, shell.Hold, shell.Hold, func(_ Tx, out *shell.Session, w shell.Word) error {
		switch {
		case !out.Deletion.At.IsZero():
			return deleted(*out)
		case !out.Held.At.IsZero():
			return held(*out)
		}
		out.Held = w
		return nil
	})
}

// Release ends a hold: the recording's retention decides again.
func (s *Service) Release(ctx context.Context, ref, reason string) (shell.Session, error) {
	return s.say(ctx, ref, reason, false, shell.Hold, shell.Release, func(_ Tx, out *shell.Session, _ shell.Word) error {
		if out.Held.At.IsZero() {
			return fault.New(fault.Precondition, "recording_not_held", "the recording of session %s is not on hold", out.ID)
		}
		out.Held = shell.Word{}
		return nil
	})
}

// Forget deletes a session's recording on purpose: its key is gone once this returns, and what was recorded here, if the disk allows; Keep
// does what is left, on the host too. What the session was and what its recording came to stays.
func (s *Service) Forget(ctx context.Context, ref, reason string) (shell.Session, error) {
	out, err := s.permitted(ctx, s.store.View(), ref, shell.Forget)
	if err != nil {
		return out, err
	}
	// The replica that has the recording cuts off whoever sees it played; where it is gone, the key goes from here.
	if out.Replica != s.Replica && s.Reached != nil && s.Reached(out.Replica) {
		return out, elsewhere(out)
	}
	actor := access.ActorFrom(ctx)
	out, err = s.say(ctx, ref, reason, true, shell.Forget, shell.Forget, func(tx Tx, out *shell.Session, w shell.Word) error {
		switch {
		case out.State != shell.Ended:
			return fault.New(fault.Precondition, "session_running", "session %s has not ended", out.ID).WithHint("end it first: loopback session kill %s", out.ID)
		case !out.Deletion.At.IsZero():
			return deleted(*out)
		case !out.Held.At.IsZero():
			return held(*out)
		}
		review, err := tx.SessionReview(ctx, sessionreview.ID(out.ID))
		if err != nil && fault.KindOf(err) != fault.NotFound {
			return err
		}
		awaited := err == nil && review.State == sessionreview.Open
		own, err := samePerson(ctx, tx, actor.Principal, out.Principal)
		if err != nil {
			return err
		}
		if awaited && own {
			return fault.New(fault.Denied, "session_forget_own", "session %s is yours, and somebody has yet to look at it", out.ID).WithHint("have somebody else delete its recording")
		}
		out.Deletion, out.Sealed = w, nil
		return tx.DeleteShellCommands(ctx, out.ID) // a secret may have been typed where a command goes
	})
	if err != nil {
		return out, err
	}
	s.metrics.deleted.WithLabelValues("forgotten").Inc()
	if out.Replica == s.Replica {
		if err := s.erase(out.ID); err != nil {
			s.Logger.ErrorContext(ctx, "a recording whose key is gone cannot be deleted yet", "session", out.ID, "error", err)
		}
	}
	notify(s.due)
	return out, nil
}

// samePerson tells whether two principals are one person's, by another account too. One that is gone is only itself.
func samePerson(ctx context.Context, tx Tx, a, b string) (bool, error) {
	if a == b {
		return true, nil
	}
	one, err := tx.Principal(ctx, a)
	if err == nil {
		var other principal.Principal
		if other, err = tx.Principal(ctx, b); err == nil {
			return principal.SamePerson(one, other), nil
		}
	}
	if fault.KindOf(err) == fault.NotFound {
		return false, nil
	}
	return false, err
}

// say changes what is said of a recording, with its entry of the audit log.
func (s *Service) say(ctx context.Context, ref, reason string, why bool, p, act access.Permission, change func(tx Tx, out *shell.Session, w shell.Word) error) (shell.Session, error) {
	if _, err := s.permitted(ctx, s.store.View(), ref, p); err != nil {
		return shell.Session{}, err
	}
	actor := access.ActorFrom(ctx)
	reason = cmp.Or(reason, actor.Reason)
	var c fault.Check
	if why || reason != "" {
		shell.CheckReason(&c, reason)
	}
	if err := c.Err("request_invalid", "the request is not valid"); err != nil {
		return shell.Session{}, err
	}
	w, err := s.word(ctx, reason)
	if err != nil {
		return shell.Session{}, err
	}
	var out shell.Session
	err = s.store.Write(ctx, func(tx Tx) error {
		var err error
		if out, err = s.permitted(ctx, tx, ref, p); err != nil {
			return err
		}
		before := describeKept(out)
		if err := change(tx, &out, w); err != nil {
			return err
		}
		if out, err = tx.PutShellSession(ctx, out); err != nil {
			return err
		}
		return tx.Audit(ctx, audit.Of(actor, act, out.Scope, out.ID, out.HostName).Because(reason).Change(before, describeKept(out)))
	})
	return out, err
}

// kept is a recording as the audit log has it where it is held, released or deleted: what it came to is said once more.
type kept struct {
	HeldBy      string          `json:"heldBy,omitempty"`
	HeldBecause string          `json:"heldBecause,omitempty"`
	Deleted     bool            `json:"deleted"`
	Head        recording.Head  `json:"recording"`
	Hosts       *recording.Head `json:"hostRecording,omitempty"`
	Verdict     shell.Verdict   `json:"verdict,omitempty"`
}

func describeKept(s shell.Session) kept {
	out := kept{s.Held.ByName, s.Held.Reason, !s.Deletion.At.IsZero(), s.Head, nil, s.Verdict}
	if s.Host != (recording.Head{}) {
		out.Hosts = &s.Host
	}
	return out
}

func deleted(s shell.Session) error {
	by := cmp.Or(s.Deletion.ByName, "the control plane")
	return fault.New(fault.Precondition, "recording_deleted", "the recording of session %s was deleted by %s: %s", s.ID, by, s.Deletion.Reason).
		WithHint("what it came to is still proved: loopback session show %s", s.ID)
}

func held(s shell.Session) error {
	return fault.New(fault.Precondition, "recording_held", "the recording of session %s is on hold by %s: %s", s.ID, s.Held.ByName, s.Held.Reason).
		WithHint("whoever may ends the hold: loopback session release %s", s.ID)
}

// reading are those who see one recording played.
type reading struct {
	readers int
	gone    atomic.Bool // it is deleted: nothing more is shown
}

// reads notes that somebody sees a recording played; done is called when they do no longer.
func (s *Service) reads(session string) (r *reading, done func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r = s.reading[session]
	if r == nil {
		r = &reading{}
		s.reading[session] = r
	}
	r.readers++
	return r, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if r.readers--; r.readers == 0 {
			delete(s.reading, session)
		}
	}
}

// whileKept are events until the recording is deleted.
func (r *reading) whileKept(session string, events iter.Seq2[recording.Event, error]) iter.Seq2[recording.Event, error] {
	return func(yield func(recording.Event, error) bool) {
		for e, err := range events {
			if r.gone.Load() {
				yield(recording.Event{}, fault.New(fault.Precondition, "recording_deleted", "the recording of session %s was deleted just now", session))
				return
			}
			if !yield(e, err) {
				return
			}
		}
	}
}

// erase deletes what was recorded here of a session whose key is gone.
func (s *Service) erase(session string) error {
	s.mu.Lock()
	if r := s.reading[session]; r != nil {
		r.gone.Store(true)
	}
	s.mu.Unlock()
	return recording.Forget(s.spool.Path(session))
}

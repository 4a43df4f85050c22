package shell

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/loopbackd/loopback/access"
	"github.com/loopbackd/loopback/audit"
	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/recording"
	"github.com/loopbackd/loopback/sessionreview"
	"github.com/loopbackd/loopback/shell"
)

// A recording is deleted in three steps, each of which can be done again, by whoever finds it undone:
//
//	its key, with the entry of the audit log: one transaction, by any replica ──▶ nobody can read either copy any more
//	what was recorded, on the disk of each replica that has some of it
//	what the host recorded, once the host is linked
//
// So a crash after the first leaves bytes that nobody can read, and the next pass deletes them.
const (
	keepEvery  = 10 * time.Minute
	keepBatch  = 100             // sessions in a transaction: others wait no longer than for any other
	dropWithin = 2 * time.Minute // of one pass, for hosts to answer
)

// metrics are what a replica deleted, and what its disk has as of the last pass.
type metrics struct {
	deleted                      *prometheus.CounterVec
	recordings, bytes, undeleted prometheus.Gauge
}

func newMetrics(r prometheus.Registerer) *metrics {
	gauge := func(name, help string) prometheus.Gauge {
		return prometheus.NewGauge(prometheus.GaugeOpts{Name: "loopback_" + name, Help: help})
	}
	m := &metrics{
		deleted:    prometheus.NewCounterVec(prometheus.CounterOpts{Name: "loopback_recordings_deleted_total", Help: "Recordings of shells that were deleted, by why: expired (their time was over) or forgotten (on purpose)."}, []string{"why"}),
		recordings: gauge("recordings", "Recordings of shells on this replica's disk."),
		bytes:      gauge("recording_bytes", "Bytes of recordings of shells on this replica's disk."),
		undeleted:  gauge("recordings_undeleted", "Recordings of shells whose key is gone and whose bytes this replica's disk did not let go of; they are tried again."),
	}
	for _, why := range []string{"expired", "forgotten"} {
		m.deleted.WithLabelValues(why)
	}
	if r != nil {
		r.MustRegister(m.deleted, m.recordings, m.bytes, m.undeleted)
	}
	return m
}

// Keep deletes the recordings whose time is over until ctx ends. Several replicas may do so at once.
func (s *Service) Keep(ctx context.Context) error {
	tick := time.NewTicker(keepEvery)
	defer tick.Stop()
	if err := s.eraseAll(ctx); err != nil && ctx.Err() == nil { // what a crash left
		s.Logger.ErrorContext(ctx, "recordings whose keys are gone cannot be deleted yet", "error", err)
	}
	for {
		select {
		case <-tick.C: // not at once: sessions that ended while nobody looked come under review first
		case <-s.due:
		case <-ctx.Done():
			return nil
		}
		if err := s.Tidy(ctx); err != nil && ctx.Err() == nil {
			s.Logger.ErrorContext(ctx, "not every recording that is to be deleted is yet", "error", err)
		}
	}
}

// Tidy is one pass of Keep.
func (s *Service) Tidy(ctx context.Context) error {
	return errors.Join(s.expire(ctx), s.eraseAll(ctx), s.dropAll(ctx))
}

func (s *Service) expire(ctx context.Context) error {
	all, err := s.store.View().RecordingRetentions(ctx)
	if err != nil {
		return err
	}
	for _, r := range all {
		for after, more := "", r.KeepDays > 0; more && ctx.Err() == nil; {
			if after, more, err = s.expireSome(ctx, r.Scope, after); err != nil {
				return err
			}
		}
	}
	return ctx.Err()
}

// expireSome shreds the keys of a batch of recordings that a place's retention is over for. What is held, reviewed or kept for longer since
// it was looked for is not in the batch: all is read in the transaction that deletes.
func (s *Service) expireSome(ctx context.Context, at access.Scope, after string) (last string, more bool, err error) {
	worker := access.Actor{Kind: access.System, ID: "recordings", Name: "retention of recordings"}
	now, gone := s.Now().UTC(), 0
	err = s.store.Observe(ctx, func(tx Tx) error {
		gone = 0
		all, err := tx.RecordingRetentions(ctx)
		if err != nil {
			return err
		}
		i := slices.IndexFunc(all, func(r shell.Retention) bool { return r.Scope == at && r.KeepDays > 0 })
		if i < 0 {
			more = false
			return nil
		}
		lots, err := undrawn(ctx, tx, now)
		if err != nil {
			return err
		}
		list, err := tx.ExpirableShellSessions(ctx, at, now.AddDate(0, 0, -int(all[i].KeepDays)), after, keepBatch)
		if err != nil {
			return err
		}
		more = len(list) == keepBatch
		for _, one := range list {
			last = one.ID
			if shell.NearestRetention(all, one.Scope).Scope != at || one.KeptUntil(all).IsZero() || lots.have(one) {
				continue
			}
			before := describeKept(one)
			one.Sealed = nil
			one.Deletion = shell.Word{At: now.Truncate(time.Microsecond), Reason: fmt.Sprintf("kept for %d days after the session ended", all[i].KeepDays)}
			if one, err = tx.PutShellSession(ctx, one); err != nil {
				return err
			}
			if err := tx.Audit(ctx, audit.Of(worker, shell.Expire, one.Scope, one.ID, one.HostName).Because(one.Deletion.Reason).Change(before, describeKept(one))); err != nil {
				return err
			}
			gone++
		}
		return nil
	})
	if err == nil {
		s.metrics.deleted.WithLabelValues("expired").Add(float64(gone))
	}
	return last, more, err
}

// lots are the draws of session reviews that are to come.
type lots struct {
	policies []sessionreview.Policy
	months   []string
}

func undrawn(ctx context.Context, r Reviewing, now time.Time) (lots, error) {
	policies, err := r.SessionReviewPolicies(ctx)
	if err != nil {
		return lots{}, err
	}
	months, err := r.UndrawnMonths(ctx)
	out := lots{policies, []string{sessionreview.MonthOf(now)}}
	for _, m := range months {
		out.months = append(out.months, m.ID)
	}
	return out, err
}

// have tells whether a session may yet be drawn: nobody gets around the lot by a short retention.
func (l lots) have(s shell.Session) bool {
	p, ok := sessionreview.Nearest(l.policies, s.Scope)
	return ok && p.Share > 0 && slices.Contains(l.months, sessionreview.MonthOf(s.EndedAt))
}

// eraseAll deletes what this replica's disk has of recordings whose key is gone: also what a session left here that went on elsewhere.
func (s *Service) eraseAll(ctx context.Context) error {
	sessions, err := s.spool.Sessions()
	if err != nil {
		return err
	}
	var errs []error
	var recordings, bytes, undeleted int64
	for some := range slices.Chunk(sessions, keepBatch) {
		sizes := map[string]int64{}
		var there []string
		for _, one := range some {
			n, err := recording.Held(s.spool.Path(one))
			if err != nil {
				errs = append(errs, err)
			}
			if n > 0 {
				sizes[one], there = n, append(there, one)
			}
		}
		gone, err := s.store.View().DeletedRecordings(ctx, there)
		if err != nil {
			return errors.Join(append(errs, err)...)
		}
		for _, one := range gone {
			if err := s.erase(one); err != nil {
				errs = append(errs, fmt.Errorf("session %s: %w", one, err))
				undeleted++
				continue
			}
			delete(sizes, one)
		}
		for _, n := range sizes {
			recordings, bytes = recordings+1, bytes+n
		}
	}
	s.metrics.recordings.Set(float64(recordings))
	s.metrics.bytes.Set(float64(bytes))
	s.metrics.undeleted.Set(float64(undeleted))
	return errors.Join(errs...)
}

// dropAll has the hosts that can be reached drop their copies. One that does not answer is asked once in a pass, and a pass goes on where
// the one before it ran out of time: nobody who is silent keeps the others from being asked.
func (s *Service) dropAll(ctx context.Context) error {
	s.dropping.Lock()
	defer s.dropping.Unlock()
	within, cancel := context.WithTimeout(ctx, dropWithin)
	defer cancel()
	silent := map[string]bool{}
	for {
		list, err := s.store.View().UndroppedShellSessions(ctx, s.dropped, keepBatch)
		if err != nil {
			return err
		}
		if len(list) == 0 {
			s.dropped = ""
			return nil
		}
		for _, one := range list {
			if within.Err() != nil {
				return ctx.Err()
			}
			s.dropped = one.ID
			ours := one.Replica == s.Replica || s.Reached != nil && !s.Reached(one.Replica)
			h, known := s.fleet.Host(one.HostID)
			if !ours || !known || !h.Online || silent[one.HostID] {
				continue
			}
			if err := s.drop(within, one); err != nil {
				silent[one.HostID] = true
				s.Logger.InfoContext(ctx, "a host still has its copy of a recording that is deleted", "session", one.ID, "host", one.HostName, "error", err)
			}
		}
	}
}

func (s *Service) drop(ctx context.Context, one shell.Session) error {
	asking, cancel := context.WithTimeout(ctx, headWithin)
	defer cancel()
	order, err := shell.Order{Forget: one.ID}.Encode()
	if err != nil {
		return err
	}
	if err := s.streams.Tell(asking, one.HostID, one.ID, order); err != nil {
		return err
	}
	return s.store.Observe(ctx, func(tx Tx) error {
		now, err := tx.ShellSession(ctx, one.ID)
		if fault.KindOf(err) == fault.NotFound || err == nil && !now.HostAt.IsZero() {
			return nil
		}
		if err != nil {
			return err
		}
		now.HostAt = s.Now().UTC().Truncate(time.Microsecond)
		_, err = tx.PutShellSession(ctx, now)
		return err
	})
}

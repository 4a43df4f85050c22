package server

import (
	"context"
	"time"

	"golang.org/x/sys/unix"

	"github.com/loopbackd/loopback/grant"
	"github.com/loopbackd/loopback/server/backup"
)

// vitalsEvery is how often what costs a look is looked at. A scrape itself asks nobody: it must not hang with the
// database that it is to report on.
const vitalsEvery = 10 * time.Second

// keepVitals looks until ctx ends.
func (s *Server) keepVitals(ctx context.Context) error {
	tick := time.NewTicker(vitalsEvery)
	defer tick.Stop()
	for {
		s.lookAtDatabase(ctx)
		s.lookAtFiles()
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

func (s *Server) lookAtDatabase(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, vitalsEvery/2)
	defer cancel()
	m, began := s.meters, time.Now()
	behind := s.follower.Position() // before the head: what is committed in between is no lag
	head, err := s.db.Position(ctx)
	m.databaseProbe.Set(time.Since(began).Seconds())
	if err != nil {
		m.databaseUp.Set(0)
		return
	}
	m.databaseUp.Set(1)
	m.feedLag.Set(float64(max(0, head-behind)))
	view := s.db.View()
	if n, err := view.AuditPosition(ctx); err == nil {
		m.auditEntries.Set(float64(n))
	}
	if n, err := view.LiveSignIns(ctx, s.options.Clock()); err == nil {
		m.signInsLive.Set(float64(n))
	}
	s.lookAtLedger()
	if counts, err := s.witnesses.Count(ctx); err == nil {
		for state, n := range counts {
			m.witnesses.WithLabelValues(string(state)).Set(float64(n))
		}
	}
	s.lookAtSinks()
	if unfinished, err := view.UnfinishedOperations(ctx); err == nil {
		for _, u := range unfinished {
			m.operations.WithLabelValues(string(u.State)).Set(float64(u.Count))
			m.operationsOldest.WithLabelValues(string(u.State)).Set(seconds(u.Oldest))
		}
	}
	if open, overdue, items, err := s.reviews.Count(ctx); err == nil {
		m.reviews.WithLabelValues("open").Set(float64(open - overdue))
		m.reviews.WithLabelValues("overdue").Set(float64(overdue))
		m.reviews.WithLabelValues("unanswered").Set(float64(items))
	}
	if counts, err := s.locks.Count(ctx); err == nil {
		for kind, n := range counts {
			m.locks.WithLabelValues(string(kind)).Set(float64(n))
		}
	}
	if live, compared, unrecorded, err := view.CountShells(ctx, s.options.Clock().Add(-24*time.Hour)); err == nil {
		for state, n := range live {
			m.shells.WithLabelValues(string(state)).Set(float64(n))
		}
		for verdict, n := range compared {
			m.recordings.WithLabelValues(string(verdict)).Set(float64(n))
		}
		m.unrecorded.Set(float64(unrecorded))
	}
	if n, err := view.CountHeldRecordings(ctx); err == nil {
		m.recordingsHeld.Set(float64(n))
	}
	if open, overdue, err := s.sessionReviews.Count(ctx); err == nil {
		m.sessionReviews.WithLabelValues("open").Set(float64(open - overdue))
		m.sessionReviews.WithLabelValues("overdue").Set(float64(overdue))
	}
	for _, state := range []grant.State{grant.Pending, grant.Active} {
		if n, err := s.grants.Count(ctx, state); err == nil {
			m.grants.WithLabelValues(string(state)).Set(float64(n))
		}
	}
}

func (s *Server) lookAtLedger() {
	m, log := s.meters, s.ledger.Status()
	m.auditUnsigned.Set(float64(log.Waiting))
	m.auditSigned.Set(seconds(log.SignedAt))
	m.auditHalted.Set(0)
	if log.Halted != nil {
		m.auditHalted.Set(1)
	}
}

// lookAtSinks shows those that this replica serves; the others are another's to show.
func (s *Server) lookAtSinks() {
	m := s.meters
	m.sinkLag.Reset()
	m.sinkFailing.Reset()
	m.sinkLetters.Reset()
	for _, k := range s.shipper.Status() {
		failing := 0.0
		if k.Err != "" {
			failing = 1
		}
		m.sinkLag.WithLabelValues(k.Name).Set(float64(k.Lag))
		m.sinkFailing.WithLabelValues(k.Name).Set(failing)
		m.sinkLetters.WithLabelValues(k.Name).Set(float64(k.DeadLetters))
	}
}

func (s *Server) lookAtFiles() {
	m, dir := s.meters, s.options.Settings.DataDir
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err == nil {
		m.dataFree.Set(float64(fs.Bavail) * float64(fs.Bsize))
		m.dataSize.Set(float64(fs.Blocks) * float64(fs.Bsize))
		m.dataInodes.Set(float64(fs.Ffree))
	}
	if server, ca, err := s.certs.Expiry(); err == nil {
		m.certificates.WithLabelValues("server").Set(seconds(server))
		if !ca.IsZero() {
			m.certificates.WithLabelValues("ca").Set(seconds(ca))
		}
	}
	for role, at := range s.releases.Expiry() {
		m.releases.WithLabelValues(role).Set(seconds(at))
	}
	if at, err := backup.Last(dir); err == nil {
		m.backup.Set(seconds(at))
	}
}

func seconds(t time.Time) float64 {
	if t.IsZero() {
		return 0
	}
	return float64(t.UnixMilli()) / 1000
}

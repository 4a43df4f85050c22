package sessionreview

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"iter"
	"maps"
	"slices"
	"time"

	"github.com/loopbackd/loopback/access"
	"github.com/loopbackd/loopback/audit"
	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/recording"
	"github.com/loopbackd/loopback/sessionreview"
	"github.com/loopbackd/loopback/shell"
	"github.com/loopbackd/loopback/tenant"
)

const (
	sweepEvery = 30 * time.Second
	lookBack   = 7 * 24 * time.Hour // for sessions that ended while nobody looked
	batch      = 200
)

// worker is who fills the queue.
func worker() access.Actor {
	return access.Actor{Kind: access.System, ID: "session_reviews", Name: "session reviews"}
}

// Run fills the queue until ctx ends. Replicas may do it at once.
func (s *Service) Run(ctx context.Context) error {
	from := s.Now().Add(-lookBack)
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	for {
		began := s.Now()
		if err := s.Sweep(ctx, from); err == nil {
			from = began.Add(-10 * time.Minute) // what was committed meanwhile may have ended before
		} else if ctx.Err() == nil {
			s.Logger.ErrorContext(ctx, "the queue of session reviews could not be filled", "error", err)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// Sweep looks at the sessions that ended since a time, and draws the months that are over.
func (s *Service) Sweep(ctx context.Context, from time.Time) error {
	ctx = access.WithActor(ctx, worker())
	policies, err := s.store.View().SessionReviewPolicies(ctx)
	if err != nil {
		return err
	}
	if err := s.each(ctx, from, s.Now().Add(time.Minute), false, func(session shell.Session) error {
		return s.look(ctx, policies, session)
	}); err != nil {
		return err
	}
	return s.draw(ctx, policies)
}

func (s *Service) each(ctx context.Context, from, to time.Time, unlooked bool, do func(shell.Session) error) error {
	for after := ""; ; {
		list, err := s.store.View().EndedShellSessions(ctx, from, to, unlooked, after, batch)
		if err != nil {
			return err
		}
		for _, one := range list {
			if err := do(one); err != nil {
				return err
			}
			after = one.ID
		}
		if len(list) < batch {
			return nil
		}
	}
}

// look notes the commands of a session, once, and queues it where its policy says so.
func (s *Service) look(ctx context.Context, policies []sessionreview.Policy, session shell.Session) error {
	if session.Replica == s.Replica && session.Deletion.At.IsZero() {
		if err := s.note(ctx, session); err != nil {
			return err
		}
	}
	p, ok := sessionreview.Nearest(policies, session.Scope)
	if !ok || len(p.Roles) == 0 || session.EndedAt.Before(p.CreatedAt) {
		return nil
	}
	role, name, err := s.role(ctx, session.Rule)
	if err != nil || !p.Wants(role) {
		return err
	}
	cause := "role " + name
	if name == "" {
		cause = "the role is not known any more"
	}
	return s.queue(ctx, p, session, cause)
}

// role is by which one a session was opened; empty where that cannot be told any more.
func (s *Service) role(ctx context.Context, rule string) (roleID, name string, err error) {
	view := s.store.View()
	b, err := view.Binding(ctx, rule)
	if err == nil {
		roleID = b.RoleID
	} else if fault.KindOf(err) == fault.NotFound {
		g, err := view.GrantOfBinding(ctx, rule)
		if fault.KindOf(err) == fault.NotFound {
			return "", "", nil
		}
		if err != nil {
			return "", "", err
		}
		return g.RoleID, g.RoleName, nil
	} else {
		return "", "", err
	}
	r, err := view.Role(ctx, roleID)
	if err != nil && fault.KindOf(err) != fault.NotFound {
		return "", "", err
	}
	return roleID, r.Name, nil
}

// queue has a session looked at, if it is not yet.
func (s *Service) queue(ctx context.Context, p sessionreview.Policy, session shell.Session, cause string) error {
	return s.store.Write(ctx, func(tx Tx) error {
		ref := sessionreview.ID(session.ID)
		if _, err := tx.SessionReview(ctx, ref); fault.KindOf(err) != fault.NotFound {
			return err
		}
		now := s.Now()
		r, err := tx.PutSessionReview(ctx, sessionreview.Review{
			Meta: tenant.Meta{ID: ref, Name: session.ID, CreatedAt: now}, Scope: session.Scope, SessionID: session.ID, HostName: session.HostName,
			Principal: session.Principal, Who: session.Who, Reason: session.Reason, Ticket: session.Ticket, EndedAt: session.EndedAt, Cause: cause,
			DueAt: now.Add(p.Within), State: sessionreview.Open,
		})
		if err != nil {
			return err
		}
		return tx.Audit(ctx, audit.Of(worker(), sessionreview.Queue, r.Scope, r.ID, r.SessionID).Because(cause).Change(nil, describe(r)))
	})
}

// noted stands for a session whose commands were looked for.
const noted = ""

// note keeps which commands a session had, in the form that says nothing secret. Done once: the empty command marks it.
func (s *Service) note(ctx context.Context, session shell.Session) error {
	known, err := s.store.View().ShellCommands(ctx, access.Everywhere(), session.Scope, session.EndedAt, session.EndedAt.Add(time.Microsecond), batch*sessionreview.MaxCommands)
	if err != nil || slices.ContainsFunc(known, func(c sessionreview.Commanded) bool { return c.SessionID == session.ID }) {
		return err
	}
	found := map[string]int64{}
	if err := s.Recordings.Replay(ctx, session.ID, func(events iter.Seq2[recording.Event, error]) error {
		var err error
		found, err = sessionreview.Commands(events)
		return err
	}); err != nil {
		// A recording that was shredded, or is damaged, has told what it could; that it is damaged shows where it is looked at.
		s.Logger.WarnContext(ctx, "the commands of a session cannot be told", "session", session.ID, "error", err)
	}
	row := func(command string, times int64) sessionreview.Commanded {
		return sessionreview.Commanded{SessionID: session.ID, Scope: session.Scope, Principal: session.Principal, HostID: session.HostID, At: session.EndedAt, Command: command, Times: times}
	}
	list := []sessionreview.Commanded{row(noted, 0)}
	for _, c := range slices.Sorted(maps.Keys(found)) {
		list = append(list, row(c, found[c]))
	}
	return s.store.Observe(ctx, func(tx Tx) error {
		if now, err := tx.ShellSession(ctx, session.ID); err != nil || !now.Deletion.At.IsZero() {
			return err // what was deleted meanwhile is not kept here either
		}
		return tx.PutShellCommands(ctx, session.ID, list)
	})
}

// draw commits to this month's secret, and draws the months that are over.
func (s *Service) draw(ctx context.Context, policies []sessionreview.Policy) error {
	now := s.Now()
	if err := s.commit(ctx, sessionreview.MonthOf(now)); err != nil {
		return err
	}
	due, err := s.store.View().UndrawnMonths(ctx)
	if err != nil {
		return err
	}
	for _, m := range due {
		_, end, err := sessionreview.Bounds(m.ID)
		if err != nil || now.Before(end) {
			continue
		}
		log, err := s.Ledger.Current(ctx)
		if err != nil {
			return err
		}
		if !log.SignedAt.After(end) || log.Signed != log.Size {
			continue // there is no checkpoint yet that nobody knew in that month
		}
		if err := s.drawn(ctx, policies, m, log.Signed, log.Root); err != nil {
			return err
		}
	}
	return nil
}

// commitment is what the audit log has of a month's draw before and after.
type commitment struct {
	Month     string `json:"month"`
	Committed string `json:"secretSha256"`
	Secret    string `json:"secret,omitempty"`
	Size      int64  `json:"treeSize,omitempty"`
	Root      string `json:"rootHash,omitempty"`
	Places    []lot  `json:"places,omitempty"`
}

// lot is what was drawn of the sessions that one policy decides on.
type lot struct {
	Policy     string   `json:"policy"`
	Share      int      `json:"sharePercent"`
	Population int      `json:"sessions"`
	Drawn      []string `json:"drawn"`
}

// commit makes a month's secret, if it has none.
func (s *Service) commit(ctx context.Context, month string) error {
	if _, err := s.store.View().SessionDraw(ctx, month); fault.KindOf(err) != fault.NotFound {
		return err
	}
	var key [32]byte
	_, _ = rand.Read(key[:]) // crypto/rand does not fail
	m := sessionreview.Month{ID: month, Committed: sessionreview.Commitment(key), Sealed: s.box.Seal("draw "+month, string(key[:]))}
	return s.store.Write(ctx, func(tx Tx) error {
		if _, err := tx.SessionDraw(ctx, month); fault.KindOf(err) != fault.NotFound {
			return err // another replica did
		}
		if err := tx.PutSessionDraw(ctx, m); err != nil {
			return err
		}
		return tx.Audit(ctx, audit.Of(worker(), sessionreview.Commit, access.Scope{}, month, "").Change(nil, commitment{Month: month, Committed: hex.EncodeToString(m.Committed[:])}))
	})
}

// drawn draws a month's sessions and reveals its secret.
func (s *Service) drawn(ctx context.Context, policies []sessionreview.Policy, m sessionreview.Month, size int64, root [32]byte) error {
	text, ok := s.box.Open("draw "+m.ID, m.Sealed)
	if !ok || len(text) != 32 {
		return fault.New(fault.Precondition, "session_draw_secret", "the secret of the draw of %s cannot be opened", m.ID).
			WithHint("it was sealed with another key: restore the data folder and the database from one backup")
	}
	key := [32]byte([]byte(text))
	seed := sessionreview.Seed(m.ID, key, root)
	from, end, err := sessionreview.Bounds(m.ID)
	if err != nil {
		return err
	}
	population, sessions := map[string][]string{}, map[string]shell.Session{}
	if err := s.each(ctx, from, end, true, func(session shell.Session) error {
		if p, ok := sessionreview.Nearest(policies, session.Scope); ok && p.Share > 0 {
			population[p.ID] = append(population[p.ID], session.ID)
			sessions[session.ID] = session
		}
		return nil
	}); err != nil {
		return err
	}
	said := commitment{Month: m.ID, Committed: hex.EncodeToString(m.Committed[:]), Secret: hex.EncodeToString(key[:]), Size: size, Root: hex.EncodeToString(root[:])}
	for _, p := range policies {
		if len(population[p.ID]) == 0 {
			continue
		}
		l := lot{p.ID, p.Share, len(population[p.ID]), sessionreview.Drawn(seed, population[p.ID], p.Share)}
		said.Places = append(said.Places, l)
		for _, one := range l.Drawn {
			if err := s.queue(ctx, p, sessions[one], "drawn for "+m.ID); err != nil {
				return err
			}
		}
	}
	// Last: a control plane that died before draws the same again under a later root, and what came in by the first draw stays.
	return s.store.Write(ctx, func(tx Tx) error {
		now, err := tx.SessionDraw(ctx, m.ID)
		if err != nil || !now.DrawnAt.IsZero() {
			return err // another replica did
		}
		now.DrawnAt, now.Sealed = s.Now(), []byte{}
		if err := tx.PutSessionDraw(ctx, now); err != nil {
			return err
		}
		return tx.Audit(ctx, audit.Of(worker(), sessionreview.Draw, access.Scope{}, m.ID, "").Because(fmt.Sprintf("%d places", len(said.Places))).
			Change(commitment{Month: m.ID, Committed: said.Committed}, said))
	})
}

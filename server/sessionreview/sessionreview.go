// Package sessionreview has recorded shells looked at by somebody else, and reports who has shells where, and for what.
//
// A session comes into the queue when it ends, where a policy says so of the role that gave it, or by lot once its month is over (see
// package sessionreview for the draw). Which one did is in the audit log, and so is every verdict. Nobody gives a verdict on a session
// that they opened, or joined, by another account neither.
//
// What came in is found from what the database says, not from what this process saw: after a restart, and beside other replicas, every
// session that ended comes in, and once. Commands are noted by the replica that has the recording; of a session whose recording
// cannot be read none are known, which a report says nothing of.
package sessionreview

import (
	"cmp"
	"context"
	"iter"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/loopbackd/loopback/access"
	"github.com/loopbackd/loopback/audit"
	"github.com/loopbackd/loopback/exec"
	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/grant"
	"github.com/loopbackd/loopback/id"
	"github.com/loopbackd/loopback/ledger"
	"github.com/loopbackd/loopback/policy"
	"github.com/loopbackd/loopback/principal"
	"github.com/loopbackd/loopback/recording"
	"github.com/loopbackd/loopback/secret"
	"github.com/loopbackd/loopback/sessionreview"
	"github.com/loopbackd/loopback/shell"
	"github.com/loopbackd/loopback/tenant"
)

// Reader reads reviews, and what they are about.
type Reader interface {
	Reviews
	Sessions
	Givers
}

// Reviews reads reviews and their policies.
type Reviews interface {
	SessionReview(ctx context.Context, id string) (sessionreview.Review, error)
	SessionReviews(ctx context.Context, q sessionreview.Query) ([]sessionreview.Review, string, error)
	CountSessionReviews(ctx context.Context, overdueAt time.Time) (open, overdue int64, err error)
	SessionReviewPolicies(ctx context.Context) ([]sessionreview.Policy, error)
	SessionDraw(ctx context.Context, month string) (sessionreview.Month, error)
	UndrawnMonths(ctx context.Context) ([]sessionreview.Month, error)
}

// Sessions reads what was done in shells.
type Sessions interface {
	ShellSession(ctx context.Context, id string) (shell.Session, error)
	EndedShellSessions(ctx context.Context, from, to time.Time, unlooked bool, after string, limit int) ([]shell.Session, error)
	ShellCommands(ctx context.Context, readable access.Sight, within access.Scope, from, to time.Time, limit int) ([]sessionreview.Commanded, error)
	Execs(ctx context.Context, q exec.Query) ([]exec.Run, string, error)
	Entries(ctx context.Context, q audit.Query) ([]audit.Entry, error)
}

// Givers reads by what somebody had a shell, and who they are.
type Givers interface {
	Binding(ctx context.Context, id string) (policy.Binding, error)
	GrantOfBinding(ctx context.Context, binding string) (grant.Grant, error)
	Role(ctx context.Context, id string) (policy.Role, error)
	Principal(ctx context.Context, id string) (principal.Principal, error)
}

// Tx changes them.
type Tx interface {
	Reader
	PutSessionReview(ctx context.Context, r sessionreview.Review) (sessionreview.Review, error)
	PutSessionReviewPolicy(ctx context.Context, p sessionreview.Policy) (sessionreview.Policy, error)
	DeleteSessionReviewPolicy(ctx context.Context, p sessionreview.Policy) error
	PutSessionDraw(ctx context.Context, m sessionreview.Month) error
	PutShellCommands(ctx context.Context, session string, list []sessionreview.Commanded) error
	Audit(ctx context.Context, e audit.Entry) error
}

// Store is where they are kept.
type Store interface {
	View() Reader
	Write(ctx context.Context, change func(Tx) error) error
	Observe(ctx context.Context, change func(Tx) error) error
}

// Places finds a place where the caller holds a permission. All empty is the whole deployment.
type Places interface {
	Scope(ctx context.Context, organisation, project, workspace string, p access.Permission) (access.Scope, error)
}

// Roles finds a role that the caller may read.
type Roles interface {
	Role(ctx context.Context, ref string) (policy.Role, error)
}

// Recordings are those of shells. Reading one is in the audit log.
type Recordings interface {
	Replay(ctx context.Context, session string, read func(iter.Seq2[recording.Event, error]) error) error
}

// Ledger is the audit log's tree.
type Ledger interface {
	Current(ctx context.Context) (ledger.Log, error)
}

// Options of the service.
type Options struct {
	Places     Places
	Roles      Roles
	Recordings Recordings
	Ledger     Ledger
	Replica    string
	Seal       []byte // 32 bytes: what a month's secret is sealed with
	Now        func() time.Time
	Logger     *slog.Logger
}

// Service is reviews as people work with them. Its Run fills the queue.
type Service struct {
	store Store
	Options
	box secret.Box
}

// NewService makes the service.
func NewService(store Store, o Options) (*Service, error) {
	box, err := secret.NewBox(o.Seal)
	return &Service{store, o, box}, err
}

// Place names where: at most one of the three. None is the whole deployment.
type Place struct{ Organisation, Project, Workspace string }

// NewPolicy is what a policy is made from.
type NewPolicy struct {
	Place
	Roles  []string // ids or names; sessionreview.AnyRole: all
	Share  int
	Within time.Duration // 0: sessionreview.DefaultWithin
}

// SetPolicy says which sessions of a place have to be looked at, in place of what was said before.
func (s *Service) SetPolicy(ctx context.Context, n NewPolicy) (sessionreview.Policy, error) {
	at, err := s.Places.Scope(ctx, n.Organisation, n.Project, n.Workspace, sessionreview.Set)
	if err != nil {
		return sessionreview.Policy{}, err
	}
	actor, now := access.ActorFrom(ctx), s.Now()
	out := sessionreview.Policy{Meta: tenant.Meta{ID: id.New("srp", now), CreatedAt: now}, Scope: at, Share: n.Share, Within: cmp.Or(n.Within, sessionreview.DefaultWithin), By: actor.ID}
	for _, ref := range n.Roles {
		if ref == sessionreview.AnyRole {
			out.Roles = append(out.Roles, ref)
			continue
		}
		r, err := s.Roles.Role(ctx, ref)
		if err != nil {
			return out, err
		}
		out.Roles = append(out.Roles, r.ID)
	}
	slices.Sort(out.Roles)
	out.Roles = slices.Compact(out.Roles)
	var c fault.Check
	out.Validate(&c)
	if err := c.Err("session_review_policy_invalid", "the policy is not valid"); err != nil {
		return out, err
	}
	err = s.store.Write(ctx, func(tx Tx) error {
		all, err := tx.SessionReviewPolicies(ctx)
		if err != nil {
			return err
		}
		var before any
		if i := slices.IndexFunc(all, func(p sessionreview.Policy) bool { return p.Scope == at }); i >= 0 {
			out.Meta, before = all[i].Meta, describePolicy(all[i])
		}
		if out, err = tx.PutSessionReviewPolicy(ctx, out); err != nil {
			return err
		}
		return tx.Audit(ctx, audit.Of(actor, sessionreview.Set, at, out.ID, "").Change(before, describePolicy(out)))
	})
	return out, err
}

// UnsetPolicy takes a place's policy away: that of the place above it holds there, if there is one.
func (s *Service) UnsetPolicy(ctx context.Context, at Place) error {
	scope, err := s.Places.Scope(ctx, at.Organisation, at.Project, at.Workspace, sessionreview.Set)
	if err != nil {
		return err
	}
	return s.store.Write(ctx, func(tx Tx) error {
		all, err := tx.SessionReviewPolicies(ctx)
		if err != nil {
			return err
		}
		i := slices.IndexFunc(all, func(p sessionreview.Policy) bool { return p.Scope == scope })
		if i < 0 {
			return fault.New(fault.Precondition, "session_review_policy_none", "this place has no policy of its own").WithHint("see which there are: loopback session review policies")
		}
		if err := tx.DeleteSessionReviewPolicy(ctx, all[i]); err != nil {
			return err
		}
		return tx.Audit(ctx, audit.Of(access.ActorFrom(ctx), sessionreview.Set, scope, all[i].ID, "").Change(describePolicy(all[i]), nil))
	})
}

// Policies are those that the caller may read.
func (s *Service) Policies(ctx context.Context) ([]sessionreview.Policy, error) {
	sight := access.ActorFrom(ctx).Readable(sessionreview.Read)
	all, err := s.store.View().SessionReviewPolicies(ctx)
	return slices.DeleteFunc(all, func(p sessionreview.Policy) bool { return !sight.Sees(p.Scope) }), err
}

// Get is one.
func (s *Service) Get(ctx context.Context, ref string) (sessionreview.Review, error) {
	return s.permitted(ctx, s.store.View(), ref, sessionreview.Read)
}

func (s *Service) permitted(ctx context.Context, r Reviews, ref string, p access.Permission) (sessionreview.Review, error) {
	if ref == "" {
		var c fault.Check
		c.Add("sessionReview", "is missing: give the id of a review, or of a session")
		return sessionreview.Review{}, c.Err("request_invalid", "the request is not valid")
	}
	key := ref
	if id.Valid("ses", ref) {
		key = sessionreview.ID(ref)
	}
	found, err := r.SessionReview(ctx, key)
	switch {
	case fault.KindOf(err) == fault.NotFound:
		return sessionreview.Review{}, access.NotFound("session review " + ref) // as it was asked for
	case err != nil:
		return sessionreview.Review{}, err
	}
	return found, access.ActorFrom(ctx).Require(p, found.Scope, sessionreview.Read, "session review "+ref)
}

// Query is which reviews a caller asks for; what is empty does not narrow.
type Query struct {
	Place
	States  []sessionreview.State
	Overdue bool
	Page    tenant.Page
}

// List is those that the caller may read, newest first.
func (s *Service) List(ctx context.Context, q Query) ([]sessionreview.Review, string, error) {
	var c fault.Check
	for _, state := range q.States {
		c.That(slices.Contains(sessionreview.States, state), "states", "has %q; allowed are %v", string(state), sessionreview.States)
	}
	if err := c.Err("request_invalid", "the request is not valid"); err != nil {
		return nil, "", err
	}
	in := sessionreview.Query{Readable: access.ActorFrom(ctx).Readable(sessionreview.Read), States: q.States, Page: q.Page}
	if q.Overdue {
		in.DueBy, in.States = s.Now(), []sessionreview.State{sessionreview.Open}
	}
	if q.Place != (Place{}) {
		at, err := s.Places.Scope(ctx, q.Organisation, q.Project, q.Workspace, sessionreview.Read)
		if err != nil {
			return nil, "", err
		}
		in.Within = at
	}
	return s.store.View().SessionReviews(ctx, in)
}

// Count is how many wait for a verdict, and how many of those for too long.
func (s *Service) Count(ctx context.Context) (open, overdue int64, err error) {
	return s.store.View().CountSessionReviews(ctx, s.Now())
}

// Answer is the caller's verdict.
func (s *Service) Answer(ctx context.Context, ref string, verdict sessionreview.Verdict, note string) (sessionreview.Review, error) {
	var c fault.Check
	c.That(slices.Contains(sessionreview.Verdicts, verdict), "verdict", "is %q; allowed are %v", string(verdict), sessionreview.Verdicts)
	c.That(len(note) <= sessionreview.MaxNote, "note", "is %d bytes long; at most %d are allowed", len(note), sessionreview.MaxNote)
	c.That(strings.TrimSpace(note) != "" || verdict == sessionreview.Fine, "note", "is missing: say what is to be done, or what was wrong")
	if err := c.Err("request_invalid", "the request is not valid"); err != nil {
		return sessionreview.Review{}, err
	}
	actor := access.ActorFrom(ctx)
	var out sessionreview.Review
	err := s.store.Write(ctx, func(tx Tx) error {
		before, err := s.permitted(ctx, tx, ref, sessionreview.Answer)
		if err != nil {
			return err
		}
		if before.State == sessionreview.Done {
			return fault.New(fault.Precondition, "session_review_done", "%s gave a verdict on session %s already", before.ByName, before.SessionID)
		}
		who, err := s.reviewer(ctx, tx, actor, before)
		if err != nil {
			return err
		}
		out = before
		out.State, out.Verdict, out.Note, out.By, out.ByName, out.DoneAt = sessionreview.Done, verdict, note, who.ID, who.Name, s.Now()
		if out, err = tx.PutSessionReview(ctx, out); err != nil {
			return err
		}
		return tx.Audit(ctx, audit.Of(actor, sessionreview.Answer, out.Scope, out.ID, out.SessionID).Because(note).Change(describe(before), describe(out)))
	})
	return out, err
}

// reviewer is who gives a verdict, if they took no part in the session.
func (s *Service) reviewer(ctx context.Context, tx Tx, actor access.Actor, r sessionreview.Review) (principal.Principal, error) {
	if principal.Kind(actor.Principal) != access.User {
		return principal.Principal{}, fault.New(fault.Precondition, "session_reviewer_not_a_person", "only people review sessions, and you act as none").
			WithHint("review with a key, or a sign-in, of a user")
	}
	who, err := tx.Principal(ctx, actor.Principal)
	if err != nil {
		return who, err
	}
	typed := []string{r.Principal}
	joined, err := tx.Entries(ctx, audit.Query{Readable: access.Everywhere(), Action: shell.Join, Target: r.SessionID, Limit: tenant.MaxPage})
	if err != nil {
		return who, err
	}
	for _, e := range joined {
		typed = append(typed, e.Actor.Principal)
	}
	for _, other := range typed {
		p, err := tx.Principal(ctx, other)
		switch {
		case other == who.ID || err == nil && principal.SamePerson(who, p):
			return who, fault.New(fault.Denied, "session_review_own", "you took part in session %s, or another account of yours did; somebody else has to review it", r.SessionID)
		case err != nil && fault.KindOf(err) != fault.NotFound:
			return who, err
		}
	}
	return who, nil
}

type record struct {
	Session string                `json:"session"`
	By      string                `json:"openedBy"`
	Cause   string                `json:"cause"`
	DueAt   time.Time             `json:"dueAt"`
	State   sessionreview.State   `json:"state"`
	Verdict sessionreview.Verdict `json:"verdict,omitempty"`
	Note    string                `json:"note,omitempty"`
}

func describe(r sessionreview.Review) record {
	return record{r.SessionID, r.Principal, r.Cause, r.DueAt, r.State, r.Verdict, r.Note}
}

type policyRecord struct {
	Roles  []string `json:"roles,omitempty"`
	Share  int      `json:"sharePercent"`
	Within string   `json:"within"`
}

func describePolicy(p sessionreview.Policy) policyRecord {
	return policyRecord{p.Roles, p.Share, fault.Span(p.Within)}
}

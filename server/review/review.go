// Package review has standing access reviewed: it notes what is held, takes answers, and ends what nobody answered for where that
// is asked for.
//
// What is under review is noted when the review begins, in one transaction, with what is known of its use. An answer looks at the
// binding as it is then: one that is gone is noted as gone. Who answers is held, in the transaction that writes the answer, against who
// holds the binding, members of a group included. Answers and ends are entries of the audit log each, so that the log alone tells
// what was reviewed, by whom, why, and what was not.
package review

import (
	"context"
	"log/slog"
	"slices"
	"time"

	"github.com/loopbackd/loopback/access"
	"github.com/loopbackd/loopback/audit"
	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/id"
	"github.com/loopbackd/loopback/label"
	"github.com/loopbackd/loopback/policy"
	"github.com/loopbackd/loopback/principal"
	"github.com/loopbackd/loopback/review"
	"github.com/loopbackd/loopback/tenant"
)

// Reader reads reviews, and what they are about.
type Reader interface {
	Reviews
	Held
	People
}

// Reviews reads reviews.
type Reviews interface {
	Review(ctx context.Context, id string) (review.Review, error)
	Reviews(ctx context.Context, q review.Query) ([]review.Review, string, error)
	ReviewItem(ctx context.Context, reviewID, bindingID string) (review.Item, error)
	ReviewItems(ctx context.Context, q review.ItemQuery) ([]review.Item, string, error)
	CountReviews(ctx context.Context, overdueAt time.Time) (open, overdue, items int64, err error)
}

// Held reads what is held, and how it is used.
type Held interface {
	Bindings(ctx context.Context, q policy.Query) ([]policy.Binding, string, error)
	Binding(ctx context.Context, id string) (policy.Binding, error)
	Role(ctx context.Context, id string) (policy.Role, error)
	LastUse(ctx context.Context, principal string) (review.Use, error)
	Owners(ctx context.Context) ([]string, error)
}

// People reads who holds it.
type People interface {
	Principal(ctx context.Context, id string) (principal.Principal, error)
	Group(ctx context.Context, id string) (principal.Group, error)
}

// Tx changes reviews, and ends bindings.
type Tx interface {
	Reader
	PutReview(ctx context.Context, r review.Review) (review.Review, error)
	PutReviewItem(ctx context.Context, i review.Item) error
	DeleteBinding(ctx context.Context, b policy.Binding) error
	Audit(ctx context.Context, e audit.Entry) error
}

// Store is where they are kept.
type Store interface {
	View() Reader
	Write(ctx context.Context, change func(Tx) error) error
}

// Places finds a place where the caller holds a permission. All empty is the whole deployment.
type Places interface {
	Scope(ctx context.Context, organisation, project, workspace string, p access.Permission) (access.Scope, error)
}

// Service is reviews as people work with them. Its Run ends those whose time is over.
type Service struct {
	store  Store
	places Places
	now    func() time.Time
	log    *slog.Logger
}

// NewService makes the service.
func NewService(store Store, places Places, now func() time.Time, log *slog.Logger) *Service {
	return &Service{store, places, now, log}
}

// Place names where: at most one of the three. None is the whole deployment.
type Place struct{ Organisation, Project, Workspace string }

// New is what a review is made from.
type New struct {
	Place
	Name        string
	Description string
	Labels      label.Set
	DueAt       time.Time
	Revoke      bool
}

// Create begins a review of what is held at a place and below it.
func (s *Service) Create(ctx context.Context, n New) (review.Review, error) {
	at, err := s.places.Scope(ctx, n.Organisation, n.Project, n.Workspace, review.Create)
	if err != nil {
		return review.Review{}, err
	}
	actor, now := access.ActorFrom(ctx), s.now()
	out := review.Review{
		Meta: tenant.Meta{ID: id.New("rvw", now), Name: n.Name, Labels: n.Labels, CreatedAt: now}, Scope: at, Description: n.Description,
		State: review.Open, DueAt: n.DueAt.UTC(), Revoke: n.Revoke, CreatedBy: actor.ID,
	}
	var c fault.Check
	out.Validate(&c, now)
	if err := c.Err("access_review_invalid", "the review is not valid"); err != nil {
		return review.Review{}, err
	}
	uses, err := s.uses(ctx, at) // looks through the audit log: not in the transaction, for which everybody waits
	if err != nil {
		return review.Review{}, err
	}
	err = s.store.Write(ctx, func(tx Tx) error {
		items, err := s.standing(ctx, tx, out, uses)
		if err != nil {
			return err
		}
		out.Counts = map[review.Verdict]int{review.Unasked: len(items)}
		if out, err = tx.PutReview(ctx, out); err != nil {
			return err
		}
		for _, i := range items {
			if err := tx.PutReviewItem(ctx, i); err != nil {
				return err
			}
		}
		return tx.Audit(ctx, audit.Of(actor, review.Create, at, out.ID, out.Name).Change(nil, describe(out, items)))
	})
	return out, err
}

// uses is when those who hold something at a place were last seen.
func (s *Service) uses(ctx context.Context, at access.Scope) (map[string]review.Use, error) {
	out := map[string]review.Use{}
	view := s.store.View()
	err := s.held(ctx, view, at, func(b policy.Binding) error {
		people, err := holders(ctx, view, b.Subject)
		for _, p := range people {
			if _, ok := out[p]; ok || err != nil {
				continue
			}
			out[p], err = view.LastUse(ctx, p)
		}
		return err
	})
	return out, err
}

// holders are the principals behind a subject.
func holders(ctx context.Context, r People, s access.Subject) ([]string, error) {
	if s.Kind != access.Group {
		return []string{s.ID}, nil
	}
	g, err := r.Group(ctx, s.ID)
	if fault.KindOf(err) == fault.NotFound {
		return nil, nil
	}
	return g.Members, err
}

// held are the bindings that a review is about.
func (s *Service) held(ctx context.Context, r Held, at access.Scope, do func(policy.Binding) error) error {
	q := policy.Query{Readable: access.Everywhere(), Within: at, Page: tenant.Page{Size: tenant.MaxPage}}
	for {
		list, next, err := r.Bindings(ctx, q)
		if err != nil {
			return err
		}
		for _, b := range list {
			if b.Deny || b.Basis != nil || !b.NotAfter.IsZero() && !b.NotAfter.After(s.now()) {
				continue
			}
			if err := do(b); err != nil {
				return err
			}
		}
		if q.Page.Token = next; next == "" {
			return nil
		}
	}
}

// standing are the items of a review that begins.
func (s *Service) standing(ctx context.Context, tx Tx, of review.Review, uses map[string]review.Use) ([]review.Item, error) {
	var out []review.Item
	roles := map[string]string{}
	err := s.held(ctx, tx, of.Scope, func(b policy.Binding) error {
		if len(out) == review.MaxItems {
			return fault.New(fault.Precondition, "access_review_large", "more than %d bindings are held there", review.MaxItems).
				WithHint("review one organisation, project or workspace after the other")
		}
		i := review.Item{
			ReviewID: of.ID, BindingID: b.ID, Scope: b.Scope, Subject: b.Subject, RoleID: b.RoleID, Hosts: b.Hosts, NotAfter: b.NotAfter,
			About: b.Description, GrantedAt: b.CreatedAt, GrantedBy: b.CreatedBy, Verdict: review.Unasked,
		}
		if _, ok := roles[b.RoleID]; !ok {
			role, err := tx.Role(ctx, b.RoleID)
			if err != nil && fault.KindOf(err) != fault.NotFound {
				return err
			}
			roles[b.RoleID] = role.Name
		}
		i.RoleName = roles[b.RoleID]
		var err error
		if i.Who, err = name(ctx, tx, b.Subject); err != nil {
			return err
		}
		people, err := holders(ctx, tx, b.Subject)
		if err != nil {
			return err
		}
		for _, p := range people {
			use := uses[p]
			i.LastSeen, i.LastAct = later(i.LastSeen, use.Seen), later(i.LastAct, use.Acts[b.ID])
		}
		out = append(out, i)
		return nil
	})
	slices.Reverse(out) // oldest first
	return out, err
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

func name(ctx context.Context, r People, s access.Subject) (string, error) {
	if s.Kind == access.Group {
		g, err := r.Group(ctx, s.ID)
		if fault.KindOf(err) == fault.NotFound {
			return "", nil
		}
		return g.Name, err
	}
	p, err := r.Principal(ctx, s.ID)
	if fault.KindOf(err) == fault.NotFound {
		return "", nil
	}
	return p.Name, err
}

// Get is one.
func (s *Service) Get(ctx context.Context, ref string) (review.Review, error) {
	return s.permitted(ctx, s.store.View(), ref, review.Read)
}

func (s *Service) permitted(ctx context.Context, r Reviews, ref string, p access.Permission) (review.Review, error) {
	if ref == "" {
		var c fault.Check
		c.Add("accessReview", "is missing: give the id of a review")
		return review.Review{}, c.Err("request_invalid", "the request is not valid")
	}
	found, err := r.Review(ctx, ref)
	if err != nil {
		return review.Review{}, err
	}
	return found, access.ActorFrom(ctx).Require(p, found.Scope, review.Read, "access review "+ref)
}

// Query is which reviews a caller asks for; what is empty does not narrow.
type Query struct {
	Place
	States []review.State
	Page   tenant.Page
}

// List is those that the caller may read, newest first.
func (s *Service) List(ctx context.Context, q Query) ([]review.Review, string, error) {
	var c fault.Check
	for _, state := range q.States {
		c.That(slices.Contains(review.States, state), "states", "has %q; allowed are %v", string(state), review.States)
	}
	if err := c.Err("request_invalid", "the request is not valid"); err != nil {
		return nil, "", err
	}
	in := review.Query{Readable: access.ActorFrom(ctx).Readable(review.Read), States: q.States, Page: q.Page}
	if q.Place != (Place{}) {
		at, err := s.places.Scope(ctx, q.Organisation, q.Project, q.Workspace, review.Read)
		if err != nil {
			return nil, "", err
		}
		in.Within = at
	}
	return s.store.View().Reviews(ctx, in)
}

// Items are those of a review.
func (s *Service) Items(ctx context.Context, ref string, verdicts []review.Verdict, page tenant.Page) ([]review.Item, string, error) {
	var c fault.Check
	for _, v := range verdicts {
		c.That(slices.Contains(review.Verdicts, v), "answers", "has %q; allowed are %v", string(v), review.Verdicts)
	}
	if err := c.Err("request_invalid", "the request is not valid"); err != nil {
		return nil, "", err
	}
	view := s.store.View()
	r, err := s.permitted(ctx, view, ref, review.Read)
	if err != nil {
		return nil, "", err
	}
	return view.ReviewItems(ctx, review.ItemQuery{Review: r.ID, Verdicts: verdicts, Page: page})
}

// Count is how many reviews are open, how many of them are overdue, and how much in them waits for an answer.
func (s *Service) Count(ctx context.Context) (open, overdue, items int64, err error) {
	return s.store.View().CountReviews(ctx, s.now())
}

// record is a review as the audit log has it, with what is under review when it begins, and what was left when it is over.
type record struct {
	State     review.State           `json:"state"`
	DueAt     time.Time              `json:"dueAt"`
	Revoke    bool                   `json:"revokeUnanswered"`
	Counts    map[review.Verdict]int `json:"items"`
	Items     []itemRecord           `json:"bindings,omitempty"`
	Unhandled []string               `json:"unanswered,omitempty"`
}

// itemRecord is a binding under review as the audit log has it.
type itemRecord struct {
	Review    string         `json:"review,omitempty"`
	Binding   string         `json:"binding"`
	Subject   string         `json:"subject"`
	Name      string         `json:"subjectName,omitempty"`
	Role      string         `json:"role"`
	RoleName  string         `json:"roleName,omitempty"`
	Hosts     string         `json:"hosts,omitempty"`
	GrantedAt time.Time      `json:"grantedAt"`
	GrantedBy string         `json:"grantedBy,omitempty"`
	LastAct   time.Time      `json:"lastActAt,omitzero"`
	LastSeen  time.Time      `json:"lastSeenAt,omitzero"`
	Verdict   review.Verdict `json:"answer"`
	Rationale string         `json:"rationale,omitempty"`
}

func describe(r review.Review, items []review.Item) record {
	out := record{State: r.State, DueAt: r.DueAt, Revoke: r.Revoke, Counts: r.Counts}
	for _, i := range items {
		out.Items = append(out.Items, describeItem("", i))
	}
	return out
}

func describeItem(of string, i review.Item) itemRecord {
	return itemRecord{of, i.BindingID, i.Subject.ID, i.Who, i.RoleID, i.RoleName, i.Hosts, i.GrantedAt, i.GrantedBy, i.LastAct, i.LastSeen, i.Verdict, i.Rationale}
}

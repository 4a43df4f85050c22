// Package grant gives roles for a while: it takes requests, has them checked and approved, and ends what their time is over for.
//
// An active grant is a binding that ends by itself (package policy): the engine compiles it like any other, so that it is in
// force, and over, on every replica and every live connection as any binding is, by the rules' own clock, whether this package
// runs or not. What Run does is to note the ends and delete the bindings that are left.
//
// The terms are written into the request. The webhook is asked once, outside any transaction, before the request is written; an
// answer that does not come, or cannot be read, denies. Who approves is read in the transaction that writes the approval, and
// transactions take turns: two approvals at once are counted one after the other, and a grant becomes active once.
package grant

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/loopbackd/loopback/access"
	"github.com/loopbackd/loopback/audit"
	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/grant"
	"github.com/loopbackd/loopback/id"
	"github.com/loopbackd/loopback/label"
	"github.com/loopbackd/loopback/policy"
	"github.com/loopbackd/loopback/principal"
	"github.com/loopbackd/loopback/secret"
	"github.com/loopbackd/loopback/tenant"
)

// Reader reads grants, and what they rest on.
type Reader interface {
	Grants
	Policies
	People
}

// Grants reads grants.
type Grants interface {
	Grant(ctx context.Context, id string) (grant.Grant, error)
	Grants(ctx context.Context, q grant.Query, now time.Time) ([]grant.Grant, string, error)
	DueGrants(ctx context.Context, now time.Time) ([]grant.Grant, error)
	CountGrants(ctx context.Context, state grant.State, subject string) (int64, error)
}

// Policies reads policies of grants, and roles.
type Policies interface {
	GrantPolicy(ctx context.Context, id string) (grant.Policy, error)
	GrantPolicies(ctx context.Context, q grant.PolicyQuery) ([]grant.Policy, string, error)
	GrantPoliciesAbout(ctx context.Context, at access.Scope) ([]grant.Policy, error)
	Role(ctx context.Context, id string) (policy.Role, error)
	RolesNamed(ctx context.Context, name string) ([]policy.Role, error)
}

// People reads who asks and approves.
type People interface {
	Principal(ctx context.Context, id string) (principal.Principal, error)
	Group(ctx context.Context, id string) (principal.Group, error)
}

// Tx changes grants and their policies, and the bindings that grants are in force by.
type Tx interface {
	Reader
	PutGrant(ctx context.Context, g grant.Grant) (grant.Grant, error)
	PutGrantPolicy(ctx context.Context, p grant.Policy) (grant.Policy, error)
	DeleteGrantPolicy(ctx context.Context, p grant.Policy) error
	Binding(ctx context.Context, id string) (policy.Binding, error)
	PutBinding(ctx context.Context, b policy.Binding) (policy.Binding, error)
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

// Subjects finds a group that the caller may read.
type Subjects interface {
	Subject(ctx context.Context, kind access.SubjectKind, ref string) (access.Subject, error)
}

// Roles finds a role that the caller may bind at a place.
type Roles interface {
	RoleAt(ctx context.Context, ref string, at access.Scope) (policy.Role, error)
}

// Options of the service.
type Options struct {
	Known  *access.Catalogue // permissions that a role can have
	Seal   []byte            // 32 bytes: what secrets are sealed with
	Now    func() time.Time
	Logger *slog.Logger
}

// Service is grants as people work with them.
type Service struct {
	store    Store
	places   Places
	subjects Subjects
	roles    Roles
	known    *access.Catalogue
	seal     secret.Box
	now      func() time.Time
	log      *slog.Logger

	mu      sync.Mutex
	waiting map[string]map[chan struct{}]bool // by grant: who waits for a change of it
}

// NewService makes the service.
func NewService(store Store, places Places, subjects Subjects, roles Roles, o Options) (*Service, error) {
	box, err := secret.NewBox(o.Seal)
	return &Service{store: store, places: places, subjects: subjects, roles: roles, known: o.Known, seal: box, now: o.Now,
		log: o.Logger, waiting: map[string]map[chan struct{}]bool{}}, err
}

// Place names where something holds: at most one of the three. None is the whole deployment.
type Place struct{ Organisation, Project, Workspace string }

// New is what is asked for.
type New struct {
	Place
	Role     string // id or name
	Hosts    string // selector
	Duration time.Duration
	Reason   string // empty: the call's
	Ticket   string // empty: the call's
}

// Request asks for a role.
func (s *Service) Request(ctx context.Context, n New) (grant.Grant, error) {
	at, err := s.places.Scope(ctx, n.Organisation, n.Project, n.Workspace, grant.Request)
	if err != nil {
		return grant.Grant{}, err
	}
	actor := access.ActorFrom(ctx)
	if actor.Principal == "" {
		return grant.Grant{}, fault.New(fault.Precondition, "grant_without_principal", "a grant is given to a user or a service account, and you act as neither")
	}
	who, err := s.store.View().Principal(ctx, actor.Principal)
	if err != nil {
		return grant.Grant{}, err
	}
	role, offer, err := s.offer(ctx, s.store.View(), n.Role, at)
	if err != nil {
		return grant.Grant{}, err
	}
	now := s.now()
	g := grant.Grant{
		Meta: tenant.Meta{ID: id.New("gnt", now), CreatedAt: now}, Scope: at, Subject: who.Subject(), Who: who.Name, RoleID: role.ID, RoleName: role.Name,
		Hosts: n.Hosts, Duration: n.Duration, Reason: n.Reason, Ticket: n.Ticket, PolicyID: offer.ID, Terms: offer.Terms, State: grant.Pending,
	}
	if g.Duration == 0 {
		g.Duration = offer.Terms.MaxDuration
	}
	if g.Reason == "" {
		g.Reason = actor.Reason
	}
	if g.Ticket == "" {
		g.Ticket = actor.Ticket
	}
	var c fault.Check
	g.Validate(&c)
	if err := c.Err("grant_invalid", "the request is not valid"); err != nil {
		return grant.Grant{}, err
	}
	if selector, err := label.Parse(n.Hosts); err == nil {
		g.Hosts = selector.String()
	}
	if !g.Terms.Fits(g.Ticket) {
		return grant.Grant{}, access.TicketRequired(g.Terms.Ticket, g.Ticket)
	}
	if err := s.roomFor(ctx, s.store.View(), who); err != nil { // before anybody is bothered with it
		return grant.Grant{}, err
	}
	if g.Terms.Webhook != "" {
		answer := s.ask(ctx, offer, g)
		if g.Webhook = &answer; !answer.Allowed {
			g.State, g.EndedAt, g.EndedBy, g.Comment = grant.Denied, s.now(), "webhook", answer.Message
		}
	}
	var out grant.Grant
	err = s.store.Write(ctx, func(tx Tx) error {
		now := s.now()
		g.CreatedAt, g.ExpiresAt = now, now.Add(g.Terms.Wait)
		if err := s.roomFor(ctx, tx, who); err != nil {
			return err
		}
		out = g
		if out.State == grant.Pending && out.Terms.Approvals == 0 {
			// The role gives what it gave when somebody who held that offered it.
			if role, err := tx.Role(ctx, out.RoleID); err != nil {
				return err
			} else if role.Revision != offer.Role {
				return fault.New(fault.Precondition, "grant_policy_stale", "the role %s was changed since it was offered without approval", role.Name).
					WithHint("an administrator has to look at it and write the policy anew: loopback grant-policy list")
			}
			var err error
			if out, err = s.activate(ctx, tx, out); err != nil {
				return err
			}
		}
		var err error
		if out, err = tx.PutGrant(ctx, out); err != nil {
			return err
		}
		e := audit.Of(actor, grant.Request, out.Scope, out.ID, out.RoleName).Because(out.Reason).Change(nil, describe(out))
		e.Ticket = out.Ticket
		if out.State == grant.Denied {
			e.Outcome = audit.Refused
		}
		return tx.Audit(ctx, e)
	})
	return out, err
}

// roomFor demands that a principal does not have too many requests open already.
func (s *Service) roomFor(ctx context.Context, r Grants, who principal.Principal) error {
	open, err := r.CountGrants(ctx, grant.Pending, who.ID)
	if err == nil && open >= grant.MaxOpen {
		err = fault.New(fault.Exhausted, "grants_pending", "%s has %d requests open already", who.Name, open).WithHint("withdraw some: loopback grant cancel GRANT")
	}
	return err
}

// offer is the role that is meant at a place, with the policy that it can be had by. That there is a role is told only where it is
// offered.
func (s *Service) offer(ctx context.Context, r Policies, ref string, at access.Scope) (policy.Role, grant.Policy, error) {
	var c fault.Check
	c.That(ref != "", "role", "is missing: give an id or a name")
	if err := c.Err("grant_invalid", "the request is not valid"); err != nil {
		return policy.Role{}, grant.Policy{}, err
	}
	policies, err := r.GrantPoliciesAbout(ctx, at)
	if err != nil {
		return policy.Role{}, grant.Policy{}, err
	}
	roles, err := r.RolesNamed(ctx, ref)
	if err != nil {
		return policy.Role{}, grant.Policy{}, err
	}
	// A role of the organisation before one of the deployment that has the same name.
	slices.SortStableFunc(roles, func(a, b policy.Role) int { return len(b.Scope.Organisation) - len(a.Scope.Organisation) })
	for _, role := range roles {
		if role.Scope.Organisation != "" && role.Scope.Organisation != at.Organisation {
			continue
		}
		if p, ok := grant.Offer(policies, role.ID, at); ok {
			return role, p, nil
		}
	}
	return policy.Role{}, grant.Policy{}, fault.New(fault.Precondition, "grant_not_offered", "the role %s cannot be asked for at this place", ref).
		WithHint("see what can be: loopback grant-policy list")
}

// activate puts a grant in force from now on.
func (s *Service) activate(ctx context.Context, tx Tx, g grant.Grant) (grant.Grant, error) {
	role, err := tx.Role(ctx, g.RoleID)
	if err != nil {
		return g, err
	}
	now := s.now()
	g.State, g.BeganAt, g.NotAfter = grant.Active, now, now.Add(g.Duration)
	b := s.binding(g, now)
	if err := b.Validate(now, role, s.known); err != nil {
		return g, err
	}
	if b, err = tx.PutBinding(ctx, b); err != nil {
		return g, err
	}
	g.BindingID = b.ID
	return g, nil
}

// binding is what a grant is in force by if it begins now.
func (s *Service) binding(g grant.Grant, now time.Time) policy.Binding {
	return policy.Binding{
		Meta: tenant.Meta{ID: id.New("bnd", now), CreatedAt: now}, Scope: g.Scope, Description: "of grant " + g.ID, Subject: g.Subject, RoleID: g.RoleID,
		Hosts: g.Hosts, NotAfter: now.Add(g.Duration), CreatedBy: g.ID, Basis: g.Basis(),
	}
}

// Get is one grant: that the caller may read, or asked for.
func (s *Service) Get(ctx context.Context, ref string) (grant.Grant, error) {
	return s.permitted(ctx, s.store.View(), ref, grant.Read)
}

func (s *Service) permitted(ctx context.Context, r Grants, ref string, p access.Permission) (grant.Grant, error) {
	if ref == "" {
		var c fault.Check
		c.Add("grant", "is missing: give the id of a grant")
		return grant.Grant{}, c.Err("request_invalid", "the request is not valid")
	}
	g, err := r.Grant(ctx, ref)
	if err != nil {
		return grant.Grant{}, err
	}
	actor := access.ActorFrom(ctx)
	if own(actor, g) && (p == grant.Read || p == grant.Request) && actor.Touches(p) {
		return g, nil
	}
	return g, actor.Require(p, g.Scope, grant.Read, "grant "+ref)
}

func own(a access.Actor, g grant.Grant) bool { return a.Principal != "" && a.Principal == g.Subject.ID }

// Query is which grants a caller asks for; what is empty does not narrow.
type Query struct {
	Place
	States  []grant.State
	Subject string // id
	Page    tenant.Page
}

// List is those that the caller may read, and the caller's own, newest first.
func (s *Service) List(ctx context.Context, q Query) ([]grant.Grant, string, error) {
	actor := access.ActorFrom(ctx)
	var c fault.Check
	for _, state := range q.States {
		c.That(slices.Contains(grant.States, state), "states", "has %q; allowed are %v", string(state), grant.States)
	}
	if err := c.Err("request_invalid", "the request is not valid"); err != nil {
		return nil, "", err
	}
	in := grant.Query{Readable: actor.Readable(grant.Read), Own: actor.Principal, Subject: q.Subject, States: q.States, Page: q.Page}
	if q.Place != (Place{}) {
		at, err := s.places.Scope(ctx, q.Organisation, q.Project, q.Workspace, grant.Read)
		if err != nil {
			return nil, "", err
		}
		in.Within = at
	}
	return s.store.View().Grants(ctx, in, s.now())
}

// record is a grant as the audit log has it.
type record struct {
	Subject   string        `json:"subject"`
	Role      string        `json:"role"`
	Hosts     string        `json:"hosts,omitempty"`
	Duration  string        `json:"duration"`
	State     grant.State   `json:"state"`
	Policy    string        `json:"policy"`
	Needed    int           `json:"approvalsNeeded"`
	Approvals []approver    `json:"approvals,omitempty"`
	Webhook   *grant.Answer `json:"webhook,omitempty"`
	Binding   string        `json:"binding,omitempty"`
	NotAfter  time.Time     `json:"notAfter,omitzero"`
	Comment   string        `json:"comment,omitempty"`
}

type approver struct {
	User    string    `json:"user"`
	Name    string    `json:"name"`
	At      time.Time `json:"at"`
	Comment string    `json:"comment,omitempty"`
}

func describe(g grant.Grant) record {
	out := record{Subject: g.Subject.ID, Role: g.RoleID, Hosts: g.Hosts, Duration: fault.Span(g.Duration), State: g.State, Policy: g.PolicyID,
		Needed: g.Terms.Approvals, Webhook: g.Webhook, Binding: g.BindingID, NotAfter: g.NotAfter, Comment: g.Comment}
	for _, a := range g.Approvals {
		out.Approvals = append(out.Approvals, approver{a.Principal, a.Name, a.At, a.Comment})
	}
	return out
}

func checkComment(comment string) error {
	var c fault.Check
	c.That(len(comment) <= grant.MaxComment, "comment", "is %d bytes long; at most %d are allowed", len(comment), grant.MaxComment)
	return c.Err("request_invalid", "the request is not valid")
}

func notInState(g grant.Grant, now time.Time, want grant.State) error {
	return fault.New(fault.Precondition, "grant_not_"+string(want), "grant %s is %s, not %s", g.ID, g.At(now), want).
		WithHint("%s", fmt.Sprintf("see what became of it: loopback grant show %s", g.ID))
}

// State is a grant's now, noted or not.
func (s *Service) State(g grant.Grant) grant.State { return g.At(s.now()) }

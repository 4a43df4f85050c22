package access

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/loopbackd/loopback/access"
	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/host"
	"github.com/loopbackd/loopback/label"
	"github.com/loopbackd/loopback/policy"
	"github.com/loopbackd/loopback/principal"
)

// Places finds where a question is about, where the caller holds a permission. All empty is the whole deployment.
type Places interface {
	Scope(ctx context.Context, organisation, project, workspace string, p access.Permission) (access.Scope, error)
}

// Subjects finds whom a question is about, where the caller may read them.
type Subjects interface {
	Subject(ctx context.Context, kind access.SubjectKind, ref string) (access.Subject, error)
}

// Fleet is the hosts that questions are about.
type Fleet interface {
	// Find is a host that the caller holds the permission on.
	Find(ctx context.Context, name, workspace string, p access.Permission) (host.Host, error)
	// Snapshot is the hosts within a scope.
	Snapshot(within access.Scope) ([]*host.Host, int64)
}

// Service answers questions about access. Whoever asks holds access.explain at the place, or on the host, that they ask
// about, and is told of everybody who can do something there, whatever organisation they belong to.
type Service struct {
	engine   *Engine
	places   Places
	subjects Subjects
	fleet    Fleet
}

// NewService makes the service.
func NewService(e *Engine, places Places, subjects Subjects, fleet Fleet) *Service {
	return &Service{e, places, subjects, fleet}
}

// Where a question is about: a place, a host, or the hosts of a place that a selector matches.
type Where struct {
	Organisation string
	Project      string
	Workspace    string
	Host         string
	Hosts        label.Selector
}

// located is a place with its hosts.
type located struct {
	at   access.Scope
	host *host.Host // where one is asked about
}

func (s *Service) locate(ctx context.Context, w Where) (located, error) {
	if w.Host != "" {
		h, err := s.fleet.Find(ctx, w.Host, w.Workspace, policy.Explain)
		return located{h.Scope, &h}, err
	}
	at, err := s.places.Scope(ctx, w.Organisation, w.Project, w.Workspace, policy.Explain)
	return located{at: at}, err
}

// hosts are those of a place, grouped.
func (s *Service) hosts(l located, selector label.Selector) *access.Hosts {
	out := access.NewHosts()
	snapshot, now := s.engine.options.Policy.Snapshot(), s.engine.options.Now()
	if l.host != nil {
		out.GroupOf(l.at, l.host.Labels, 1, snapshot.HostLock(l.at, l.host.ID, l.host.Labels, now) != "")
		return out
	}
	type group struct {
		at     access.Scope
		labels label.Set
		count  int
		locked bool
	}
	groups := map[string]*group{}
	all, _ := s.fleet.Snapshot(l.at)
	var key strings.Builder
	for _, h := range all {
		if h.State == host.Removed || !selector.Matches(h.Labels) {
			continue
		}
		key.Reset()
		key.WriteString(h.Scope.Workspace)
		for _, k := range h.Labels.Keys() {
			key.WriteByte(0)
			key.WriteString(k)
			key.WriteByte('=')
			key.WriteString(h.Labels[k])
		}
		locked := snapshot.HostLock(h.Scope, h.ID, h.Labels, now) != ""
		if locked {
			key.WriteString("\x00\x00")
		}
		g := groups[key.String()]
		if g == nil {
			g = &group{at: h.Scope, labels: h.Labels, locked: locked}
			groups[key.String()] = g
		}
		g.count++
	}
	for _, g := range groups {
		out.GroupOf(g.at, g.labels, g.count, g.locked)
	}
	return out
}

func (s *Service) check(p access.Permission) error {
	if !s.engine.options.Policy.Catalogue().Known(p) || strings.HasSuffix(string(p), "*") {
		var c fault.Check
		c.Add("permission", "is %q, which is no permission", p)
		return c.Err("request_invalid", "the request is not valid")
	}
	return nil
}

// who is the principal that a question is about.
func (s *Service) who(ctx context.Context, kind access.SubjectKind, ref string) (access.Subject, error) {
	if kind == access.Group {
		return access.Subject{}, fault.New(fault.Invalid, "subject_group", "a group acts through its members").WithHint("ask about a user")
	}
	return s.subjects.Subject(ctx, kind, ref)
}

// ExplainQuery is why somebody may do something, or may not.
type ExplainQuery struct {
	Where
	Kind       access.SubjectKind
	Subject    string
	Permission access.Permission
	At         time.Time // zero: now
	Address    string
	MFAAge     time.Duration // how long ago the second factor was given; 0: it was not
	Ticket     string
}

// Explanation is the answer.
type Explanation struct {
	Decision access.Decision
	Subject  access.Subject
	Scope    access.Scope
	HostID   string
	Reasons  []access.Reason
	Summary  string // one line for people
}

// Explain answers by the rules as they are now.
func (s *Service) Explain(ctx context.Context, q ExplainQuery) (Explanation, error) {
	where, err := s.locate(ctx, q.Where)
	if err == nil {
		err = s.check(q.Permission)
	}
	if err != nil {
		return Explanation{}, err
	}
	subject, err := s.who(ctx, q.Kind, q.Subject)
	if err != nil {
		return Explanation{}, err
	}
	in := access.Query{Principal: subject.ID, Permission: q.Permission, At: where.at, Now: q.At, Address: q.Address, Ticket: q.Ticket}
	if in.Now.IsZero() {
		in.Now = s.engine.options.Now()
	}
	if q.MFAAge > 0 {
		in.MFA = in.Now.Add(-q.MFAAge)
	}
	out := Explanation{Subject: subject, Scope: where.at}
	if where.host != nil {
		in.Host, in.Labels, out.HostID = where.host.ID, where.host.Labels, where.host.ID
	}
	policy := s.engine.options.Policy
	known := false
	out.Decision, out.Reasons, known = policy.Snapshot().Explain(policy.Catalogue(), in)
	out.Summary = summary(q, out, known)
	return out, nil
}

func summary(q ExplainQuery, e Explanation, known bool) string {
	who := principal.Word(q.Kind) + " " + q.Subject
	switch {
	case e.Decision.Allowed:
		for _, r := range e.Reasons {
			if r.Rule.ID == e.Decision.Grant {
				return fmt.Sprintf("%s may: binding %s gives the role %s", who, r.Rule.ID, r.Rule.Role)
			}
		}
		return who + " may"
	case strings.HasPrefix(e.Decision.Denial, access.LockPrefix):
		return fmt.Sprintf("%s may not: lock %s keeps it out, whatever is allowed", who, e.Decision.Denial)
	case e.Decision.Denial != "":
		return fmt.Sprintf("%s may not: binding %s denies it, and a denial wins", who, e.Decision.Denial)
	case !known:
		return who + " may not: it is not known to the rules yet"
	case len(e.Reasons) == 0:
		return fmt.Sprintf("%s may not: no binding gives a role with %s", who, q.Permission)
	default:
		return fmt.Sprintf("%s may not: no binding that gives %s applies here and now", who, q.Permission)
	}
}

// Answer is who can do something, or what somebody can do.
type Answer struct {
	Items    []access.Reach
	Hosts    int // that the question is about
	Snapshot uint64
}

// WhoCan is everybody who holds a permission.
func (s *Service) WhoCan(ctx context.Context, where Where, p access.Permission) (Answer, error) {
	l, err := s.locate(ctx, where)
	if err == nil {
		err = s.check(p)
	}
	if err != nil {
		return Answer{}, err
	}
	hosts, policy := s.hosts(l, where.Hosts), s.engine.options.Policy
	snapshot := policy.Snapshot()
	items := snapshot.WhoCan(policy.Catalogue(), p, l.at, hosts, s.engine.options.Now())
	return Answer{onlyHosts(items, l, where), hosts.Total(), snapshot.Version()}, nil
}

// onlyHosts leaves out who reaches none of the hosts that are asked about, where hosts are.
func onlyHosts(items []access.Reach, l located, where Where) []access.Reach {
	if l.host == nil && len(where.Hosts) == 0 {
		return items
	}
	var out []access.Reach
	for _, r := range items {
		if r.Hosts > 0 {
			out = append(out, r)
		}
	}
	return out
}

// WhatCan is what a user or a service account holds.
func (s *Service) WhatCan(ctx context.Context, where Where, kind access.SubjectKind, ref string) (Answer, error) {
	l, err := s.locate(ctx, where)
	if err != nil {
		return Answer{}, err
	}
	subject, err := s.who(ctx, kind, ref)
	if err != nil {
		return Answer{}, err
	}
	hosts, policy := s.hosts(l, where.Hosts), s.engine.options.Policy
	snapshot := policy.Snapshot()
	items := snapshot.WhatCan(policy.Catalogue(), subject.ID, l.at, hosts, s.engine.options.Now())
	return Answer{onlyHosts(items, l, where), hosts.Total(), snapshot.Version()}, nil
}

// Change is what would become of the rules.
type Change struct {
	Add    []policy.Binding
	Roles  map[string]policy.Role // of Add, by id; and roles as they would become
	Remove []string               // ids of bindings
}

// Changes are what a change comes to.
type Changes struct {
	Items    []access.Difference
	Hosts    int
	Snapshot uint64
}

// Diff is who would gain and lose what. Nothing is written.
func (s *Service) Diff(ctx context.Context, where Where, c Change) (Changes, error) {
	l, err := s.locate(ctx, where)
	if err != nil {
		return Changes{}, err
	}
	hosts, engine := s.hosts(l, where.Hosts), s.engine
	engine.mu.Lock()
	if engine.rules == nil || engine.options.Policy.Closed() {
		engine.mu.Unlock()
		return Changes{}, access.ErrClosed
	}
	rules := engine.rules.Clone()
	for _, id := range c.Remove {
		rules.DeleteRule(id)
	}
	for id, role := range c.Roles {
		for b := range engine.byRole[id] {
			if binding := engine.bindings[b]; !gone(c.Remove, b) {
				rules.PutRule(binding.Rule(role))
			}
		}
	}
	for _, b := range c.Add {
		role, ok := c.Roles[b.RoleID]
		if !ok {
			role = engine.roles[b.RoleID]
		}
		rules.PutRule(b.Rule(role))
	}
	now := engine.options.Policy.Snapshot() // what the clone was made of
	engine.mu.Unlock()
	items := now.Diff(engine.options.Policy.Catalogue(), rules.Snapshot(now.Version()), l.at, hosts, engine.options.Now())
	return Changes{items, hosts.Total(), now.Version()}, nil
}

func gone(removed []string, id string) bool {
	for _, r := range removed {
		if r == id {
			return true
		}
	}
	return false
}

// Package grant is access just in time: somebody asks for a role at a place, on all hosts or on selected ones, for a while and
// with a reason, others approve, and a binding that ends by itself is what comes of it.
//
//	          ┌──denied (an approver, or the webhook)
//	pending ──┼──cancelled (by who asked)
//	          ├──expired (nobody decided in time)
//	          └──active ──┬──ended (its time was over)
//	                      ├──revoked (by somebody who may, or its binding was deleted)
//	                      └──returned (by who has it)
//
// What may be asked for, and on which terms, is written in policies: how many distinct people have to approve and who they
// may be, which form the ticket has, how long at most, and which webhook is asked. A grant keeps the terms of the moment at
// which it was asked for. What no policy offers cannot be asked for.
//
// Nobody approves what they asked for themselves, by a second account of theirs neither where both have the same identity or
// e-mail address, and nobody approves what they do not hold. Only people approve.
package grant

import (
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/loopbackd/loopback/access"
	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/label"
	"github.com/loopbackd/loopback/tenant"
)

// Permissions over grants and the policies of them.
const (
	Request        access.Permission = "grants.request" // and withdraw one's own
	Read           access.Permission = "grants.read"
	Approve        access.Permission = "grants.approve" // and deny
	Revoke         access.Permission = "grants.revoke"
	PoliciesCreate access.Permission = "grant_policies.create"
	PoliciesRead   access.Permission = "grant_policies.read"
	PoliciesDelete access.Permission = "grant_policies.delete"
)

// What the audit log says of grants that nobody acted on.
const (
	Expire access.Permission = "grants.expire" // nobody decided
	End    access.Permission = "grants.end"    // the time was over
)

// Bounds.
const (
	MaxDuration   = 30 * 24 * time.Hour
	MaxPending    = 30 * 24 * time.Hour // how long a request may wait
	DefaultWait   = 24 * time.Hour
	MaxApprovals  = 10
	MaxComment    = 1024
	MaxOpen       = 50 // requests of one principal that are pending
	WebhookAnswer = 10 * time.Second
)

// State of a grant.
type State string

// The states.
const (
	Pending   State = "pending"
	Active    State = "active"
	Denied    State = "denied"
	Cancelled State = "cancelled"
	Expired   State = "expired"
	Ended     State = "ended"
	Revoked   State = "revoked"
	Returned  State = "returned"
)

// States are all of them.
var States = []State{Pending, Active, Denied, Cancelled, Expired, Ended, Revoked, Returned}

// Over tells whether nothing comes of it any more.
func (s State) Over() bool { return s != Pending && s != Active }

// Terms are what a grant is given on.
type Terms struct {
	Approvals   int           `json:"approvals"`           // distinct people who have to approve; 0: who asks gets it
	Approvers   []string      `json:"approvers,omitempty"` // ids of groups, one of which an approver is in; empty: whoever holds grants.approve
	Ticket      string        `json:"ticket,omitempty"`    // pattern (RE2) that the whole of the ticket matches; empty: none is asked for
	MaxDuration time.Duration `json:"maxDuration"`
	Wait        time.Duration `json:"wait"`              // how long a request stays open
	Webhook     string        `json:"webhook,omitempty"` // that is asked before anybody else; empty: none is
}

// Policy offers a role within a scope.
type Policy struct {
	tenant.Meta
	Scope       access.Scope
	Description string
	RoleID      string // empty: any role
	Role        int64  // the role's revision when the policy was written, for one that nobody has to approve
	Terms       Terms
	CA          string // PEM, of the webhook's certificate; empty: the system's
	Sealed      []byte // the webhook's secret, encrypted
	CreatedBy   string
}

// Validate collects what is wrong with a policy. tierZero is whether the role holds permissions of tier 0; longest how long those
// can be given.
func (p Policy) Validate(c *fault.Check, tierZero bool, longest time.Duration) {
	tenant.CheckName(c, "name", p.Name)
	t := p.Terms
	c.That(len(p.Description) <= tenant.MaxDescription, "description", "is %d bytes long; at most %d are allowed", len(p.Description), tenant.MaxDescription)
	c.That(t.Approvals >= 0 && t.Approvals <= MaxApprovals, "approvals", "is %d; allowed are 0 to %d", t.Approvals, MaxApprovals)
	c.That(p.RoleID != "" || t.Approvals > 0, "approvals", "is 0 for any role; name the role, or have somebody approve")
	c.That(t.Approvals > 0 || len(t.Approvers) == 0, "approvers", "are named though nobody has to approve")
	c.That(len(t.Approvers) <= 100, "approvers", "has %d groups; at most 100 are allowed", len(t.Approvers))
	c.That(len(t.Ticket) <= 200, "ticketPattern", "is %d bytes long; at most 200 are allowed", len(t.Ticket))
	if _, err := regexp.Compile(t.Ticket); err != nil {
		c.Add("ticketPattern", "is no pattern (RE2): %v", err)
	}
	most := MaxDuration
	if tierZero {
		most = longest
	}
	c.That(t.MaxDuration >= time.Minute && t.MaxDuration <= most, "maxDuration", "is %s; allowed are %s to %s", fault.Span(t.MaxDuration), fault.Span(time.Minute), fault.Span(most))
	c.That(t.Wait >= time.Minute && t.Wait <= MaxPending, "wait", "is %s; allowed are %s to %s", fault.Span(t.Wait), fault.Span(time.Minute), fault.Span(MaxPending))
	if t.Webhook != "" {
		u, err := url.Parse(t.Webhook)
		c.That(err == nil && (u.Scheme == "https" || u.Scheme == "http") && u.Host != "" && u.User == nil && u.Fragment == "" && len(t.Webhook) <= 2048, "webhook", "is %q, not https://HOST/PATH", t.Webhook)
	}
	c.That(len(p.CA) <= 64<<10, "ca", "is %d bytes long; at most 65536 are allowed", len(p.CA))
}

// Offer is the policy that says on which terms a role can be had at a scope: one that names the role before one for any, then
// the one over the least.
func Offer(policies []Policy, roleID string, at access.Scope) (Policy, bool) {
	var best Policy
	found := false
	for _, p := range policies {
		if !p.Scope.Contains(at) || p.RoleID != "" && p.RoleID != roleID {
			continue
		}
		if !found || p.RoleID != "" && best.RoleID == "" || (p.RoleID == "") == (best.RoleID == "") && p.Scope != best.Scope && best.Scope.Contains(p.Scope) {
			best, found = p, true
		}
	}
	return best, found
}

// Approval is one person's.
type Approval struct {
	Principal string    `json:"principal"`
	Name      string    `json:"name"`
	Identity  string    `json:"identity,omitempty"`
	Email     string    `json:"email,omitempty"`
	By        string    `json:"by"` // the credential
	At        time.Time `json:"at"`
	Comment   string    `json:"comment,omitempty"`
}

// Answer is what a webhook said.
type Answer struct {
	Allowed bool      `json:"allowed"`
	Message string    `json:"message"` // its own, or what kept it from answering
	Status  int       `json:"status,omitempty"`
	At      time.Time `json:"at"`
}

// Grant is a role asked for, and what became of that.
type Grant struct {
	tenant.Meta
	Scope     access.Scope
	Subject   access.Subject // who asked, and gets it
	Who       string         // its name then
	RoleID    string
	RoleName  string // its name then
	Hosts     string // selector; empty: all, and everything else at the scope
	Duration  time.Duration
	Reason    string
	Ticket    string
	PolicyID  string
	Terms     Terms
	State     State
	ExpiresAt time.Time // when the request does
	Approvals []Approval
	Webhook   *Answer
	BindingID string    // of the grant that is, or was, active
	BeganAt   time.Time // when it became active
	NotAfter  time.Time // when it ends by itself
	EndedAt   time.Time // when it was over, whatever made it so
	EndedBy   string
	Comment   string // why it was denied, revoked, …
}

// At is the grant's state at a time, noted or not.
func (g Grant) At(now time.Time) State {
	switch {
	case g.State == Pending && !now.Before(g.ExpiresAt):
		return Expired
	case g.State == Active && !now.Before(g.NotAfter):
		return Ended
	}
	return g.State
}

// Basis is what acts by the grant are said to rest on.
func (g Grant) Basis() *access.Basis {
	b := &access.Basis{Grant: g.ID, Reason: g.Reason, Ticket: g.Ticket}
	for _, a := range g.Approvals {
		b.Approvers = append(b.Approvers, access.Approver{ID: a.Principal, Name: a.Name, At: a.At.UTC()})
	}
	return b
}

// Validate collects what is wrong with a request.
func (g Grant) Validate(c *fault.Check) {
	if _, err := label.Parse(g.Hosts); err != nil {
		c.Add("hosts", "is no selector: %v", err)
	}
	c.That(strings.TrimSpace(g.Reason) != "", "reason", "is missing: say what it is needed for")
	c.That(len(g.Reason) <= access.MaxReason, "reason", "is %d bytes long; at most %d are allowed", len(g.Reason), access.MaxReason)
	c.That(len(g.Ticket) <= access.MaxTicket, "ticket", "is %d bytes long; at most %d are allowed", len(g.Ticket), access.MaxTicket)
	c.That(g.Duration >= time.Minute && g.Duration <= g.Terms.MaxDuration, "duration", "is %s; allowed are %s to %s", fault.Span(g.Duration), fault.Span(time.Minute), fault.Span(g.Terms.MaxDuration))
}

// Fits tells whether a ticket is one that the terms ask for.
func (t Terms) Fits(ticket string) bool {
	if t.Ticket == "" {
		return true
	}
	p, err := regexp.Compile("^(?:" + t.Ticket + ")$")
	return err == nil && p.MatchString(ticket)
}

// Query selects grants, newest first.
type Query struct {
	Readable access.Sight
	Within   access.Scope
	Subject  string // whose; with Own the only ones that are in sight
	Own      string // besides what is in sight, those of this principal
	States   []State
	Page     tenant.Page
}

// PolicyQuery selects policies, newest first.
type PolicyQuery struct {
	Readable access.Sight
	Within   access.Scope
	Page     tenant.Page
}

// Wanted tells whether a state is one that a query asks for.
func (q Query) Wanted(s State) bool { return len(q.States) == 0 || slices.Contains(q.States, s) }

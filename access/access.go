// Package access says who acts, what acting needs, and whether it is allowed.
//
// Every method of the API needs exactly one Permission, over a Scope: the whole deployment, an organisation, a project or
// one workspace, and where it acts on a host, over that host. Who holds what is written as Rules: a subject (a user, a
// group, a service account) is allowed or denied permissions over a scope, on all hosts or on those that a selector
// matches, under conditions, for a time. Nothing is allowed that no rule allows; a rule that denies wins over all that
// allow, and a Lock wins over all. An actor who may not even read a thing is told that it does not exist.
//
// Rules are compiled into a Snapshot, which never changes. A Policy holds the current one behind an atomic pointer: a
// change of the rules makes a new snapshot and swaps it in, and whoever decides next decides by it. Every Decision names
// the rule that made it and the snapshot that it was made with. Whoever acts for long (a stream) waits on
// Policy.Changed and asks again.
//
// An Actor who presents an API key is bounded twice: by the key's own Grants, and by what the key's owner holds. When a
// policy cannot learn of changes any more it is closed after a while, and allows nothing until it can (see Policy).
package access

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/label"
)

// Permission is what one method of the API needs: "noun.verb".
type Permission string

// All is in a grant that holds every permission that is not tier 0.
const All Permission = "*"

// The permissions that are not bound to a noun.
const (
	SelfRead        Permission = "self.read"        // held by whoever is signed in
	SelfManage      Permission = "self.manage"      // held by who signed in as themselves; API keys never hold it
	BootstrapRedeem Permission = "bootstrap.redeem" // held by everybody: the code itself is the credential
	SignInBegin     Permission = "sign_ins.begin"   // held by everybody
)

// Scope is a place in the tree organisation → project → workspace. An empty field is not narrowed: the zero scope is
// the whole deployment.
type Scope struct {
	Organisation string
	Project      string
	Workspace    string
}

// Contains tells whether o is s or lies within it.
func (s Scope) Contains(o Scope) bool {
	return (s.Organisation == "" || s.Organisation == o.Organisation) &&
		(s.Project == "" || s.Project == o.Project) &&
		(s.Workspace == "" || s.Workspace == o.Workspace)
}

// Intersect is the scope that lies within both; not ok where there is none.
func (s Scope) Intersect(o Scope) (Scope, bool) {
	switch {
	case s.Contains(o):
		return o, true
	case o.Contains(s):
		return s, true
	}
	return Scope{}, false
}

// narrowest is the id that names the scope; empty for the whole deployment.
func (s Scope) narrowest() string {
	switch {
	case s.Workspace != "":
		return s.Workspace
	case s.Project != "":
		return s.Project
	default:
		return s.Organisation
	}
}

// Grant is a set of permissions over a scope.
type Grant struct {
	ID          string // the id of the API key
	Permissions []Permission
	Scope       Scope
}

func (g Grant) holds(p Permission) bool {
	return slices.Contains(g.Permissions, p) || p != "" && !tierZero(p) && slices.Contains(g.Permissions, All)
}

// Kind of actor.
type Kind string

// The kinds of actors.
const (
	Anonymous Kind = "anonymous"
	APIKey    Kind = "api_key"
	SignIn    Kind = "sign_in" // somebody who signed in (package signin)
	Host      Kind = "host"
	System    Kind = "system" // a worker of the control plane; Name says which
	Guest     Kind = "guest"  // somebody without an account who watches a shell (package guest); holds nothing
)

// Actor is somebody or something that acts.
type Actor struct {
	Kind      Kind
	ID        string
	Name      string
	Address   string // where the call came from; empty for workers
	RequestID string
	Grants    []Grant // what the credential is good for at most

	// Principal is on whose behalf the actor acts: the user or service account whose key it is. Policy says what the
	// principal holds; an actor without one holds nothing, but for what GrantsAlone makes.
	Principal string
	Method    string // how the credential was come by: "api_key", or the sign-in's ("passkey", "oidc" …); empty: by none
	Policy    *Policy
	alone     bool

	// What conditions of rules look at, and what the audit log says of the act.
	MFA    time.Time // when the second factor was given; zero: it was not
	Ticket string    // that the caller names; empty: none
	Reason string    // that the caller gives; empty: none
}

// GrantsAlone is an actor who is decided on by its grants, with no rules to bound them. It is for tests: a law (test/law) keeps
// it out of what ships, so that no path can be wide open because it forgot the policy.
func GrantsAlone(a Actor) Actor {
	a.Policy, a.alone = nil, true
	return a
}

// Decision is the answer to one question.
type Decision struct {
	Allowed  bool
	Grant    string // the rule that allowed it: the id of a binding, or of an API key where there is no policy
	Denial   string // the rule that denied it; empty where it is merely not allowed
	Snapshot uint64 // the version of the rules that it was made by; 0 without a policy
	Basis    *Basis // what the rule that allowed it rests on; nil: it was written by hand
}

const builtIn = "built-in"

// Everybody tells whether a permission is held by whoever calls, a stranger included.
func Everybody(p Permission) bool { return p == BootstrapRedeem || p == SignInBegin }

// Built tells whether a permission follows from who calls, and no rule can give it.
func Built(p Permission) bool { return Everybody(p) || p == SelfRead || p == SelfManage }

// Decide tells whether the actor holds the permission at the scope, on all that lies there.
func (a Actor) Decide(p Permission, at Scope) Decision { return a.decide(p, &at, "", nil) }

// DecideOn tells whether the actor holds the permission on the host of an id with these labels at the scope.
func (a Actor) DecideOn(p Permission, at Scope, hostID string, labels label.Set) Decision {
	return a.decide(p, &at, cmp.Or(hostID, someHost), labels)
}

// DecideHost is DecideOn for whichever host has these labels, locked or not.
func (a Actor) DecideHost(p Permission, at Scope, labels label.Set) Decision {
	return a.decide(p, &at, someHost, labels)
}

// someHost stands for one that has no id yet.
const someHost = "-"

// decide is about a host where its id is given.
func (a *Actor) decide(p Permission, at *Scope, host string, labels label.Set) Decision {
	if Everybody(p) || p == SelfRead && a.Kind != Anonymous || p == SelfManage && a.Kind == SignIn || a.Kind == System {
		return Decision{Allowed: true, Grant: builtIn}
	}
	grant, within := a.within(p, at)
	switch {
	case a.alone:
		return Decision{Allowed: within, Grant: grant}
	case a.Policy == nil:
		return Decision{}
	case !within:
		return Decision{Snapshot: a.Policy.Version()}
	}
	return a.Policy.decide(a, p, at, host, labels)
}

// within is the grant of the credential that holds the permission at the scope.
func (a *Actor) within(p Permission, at *Scope) (id string, ok bool) {
	for i := range a.Grants {
		if g := &a.Grants[i]; g.Scope.Contains(*at) && g.holds(p) {
			return g.ID, true
		}
	}
	return "", false
}

// Readable is what the actor holds the permission over: what a list is filtered by.
func (a Actor) Readable(p Permission) Sight {
	if a.Kind == System {
		return Everywhere()
	}
	var out Sight
	for _, g := range a.Grants {
		if !g.holds(p) {
			continue
		}
		if a.alone {
			out = append(out, Clause{Scope: g.Scope})
			continue
		}
		if a.Policy == nil {
			return nil
		}
		for _, c := range a.Policy.sight(&a, p) {
			if s, ok := g.Scope.Intersect(c.Scope); ok {
				c.Scope = s
				out = append(out, c)
			}
		}
	}
	return out
}

// Bears tells whether the actor's credential is good for a permission at the scope, and the principal holds it over
// something there: what a further credential of the same principal may be good for.
func (a Actor) Bears(p Permission, at Scope) bool {
	if a.Kind == System {
		return true
	}
	_, ok := a.within(p, &at)
	return ok && (a.alone || a.Policy != nil && (p == All || a.Policy.sight(&a, p).Within(at)))
}

// Changed is closed when the actor may no longer hold what it held; nil, and so never, where no rules can change. Take it
// before asking.
func (a Actor) Changed() <-chan struct{} {
	if a.Policy == nil {
		return nil
	}
	return a.Policy.Changed()
}

// Touches tells whether the actor holds the permission over anything at all: over some scope, or on some hosts there.
func (a Actor) Touches(p Permission) bool {
	return a.Decide(p, Scope{}).Allowed || len(a.Readable(p)) > 0
}

// Require is nil where the actor holds the permission at the scope. An actor who may read there is Denied with the
// permission's name; one who may not is told NotFound, in the words that an unknown id gets: what names the thing
// ("token tok_01…"). An anonymous actor is Unauthenticated.
func (a Actor) Require(p Permission, at Scope, read Permission, what string) error {
	return a.require(p, at, "", nil, read, what)
}

// RequireHost is Require for a host.
func (a Actor) RequireHost(p Permission, at Scope, hostID string, labels label.Set, read Permission, what string) error {
	return a.require(p, at, cmp.Or(hostID, someHost), labels, read, what)
}

func (a *Actor) require(p Permission, at Scope, host string, labels label.Set, read Permission, what string) error {
	d := a.decide(p, &at, host, labels)
	switch {
	case d.Allowed:
		return nil
	case a.Kind == Anonymous || a.Kind == "":
		return ErrUnauthenticated
	}
	if l := a.lock(d.Denial); l != nil {
		return l.refusal()
	}
	if pattern := a.ticketFor(p, &at, host, labels); pattern != "" && d.Denial == "" {
		return TicketRequired(pattern, a.Ticket)
	}
	switch {
	case p != read && a.decide(read, &at, host, labels).Allowed:
		return Denied(p)
	default:
		return NotFound(what)
	}
}

func (a *Actor) lock(id string) *Lock {
	if id == "" || a.Policy == nil {
		return nil
	}
	return a.Policy.Snapshot().locks[id]
}

// Denied is the answer to who may know of a thing but lacks the permission for what they want of it.
func Denied(p Permission) error {
	if p == SelfManage {
		return fault.New(fault.Denied, "permission_denied", "only who signed in as themselves may do this (%s); an API key may not", p).
			WithHint("sign in without a key: loopback login, or in the console")
	}
	return fault.New(fault.Denied, "permission_denied", "you may not do this: it needs %s", p).
		WithHint("ask an administrator for a key with the permission %s", p)
}

// Refused is the answer to who holds a permission nowhere: that they lack it, or that they would hold it somewhere if they
// named a ticket.
func (a Actor) Refused(p Permission) error {
	if a.Kind == Anonymous || a.Kind == "" {
		return ErrUnauthenticated
	}
	if l := a.keptFrom(p); l != nil {
		return l.refusal()
	}
	if pattern := a.ticketFor(p, nil, someHost, nil); pattern != "" {
		return TicketRequired(pattern, a.Ticket)
	}
	return Denied(p)
}

// TicketRequired is the answer to who would hold a permission if they named a ticket that matches a pattern.
func TicketRequired(pattern, given string) error {
	const hint = "name the ticket: loopback --ticket TICKET …, LOOPBACK_TICKET, or the header " + TicketHeader
	if given == "" {
		return fault.New(fault.Denied, "ticket_required", "this needs a ticket; its whole has to match %s", pattern).WithHint(hint)
	}
	return fault.New(fault.Denied, "ticket_mismatch", "the ticket %q is not one that is asked for here: its whole has to match %s", given, pattern).WithHint(hint)
}

// The headers of a request that say why. Both are UTF-8; what is not ASCII, and "%", may be percent-encoded (RFC 3986), and
// has to be where a client sends nothing else.
const (
	ReasonHeader = "Loopback-Reason"
	TicketHeader = "Loopback-Ticket"
)

// Bounds of what a caller gives, in bytes.
const (
	MaxReason = 1024
	MaxTicket = 128
)

// NotFound is the answer for what does not exist, and for what the caller may not know of.
func NotFound(what string) error {
	return fault.New(fault.NotFound, "not_found", "%s was not found", what)
}

// ErrUnauthenticated is the answer to a call without a valid credential.
var ErrUnauthenticated = fault.New(fault.Unauthenticated, "not_signed_in", "you are not signed in").
	WithHint("run: loopback login, or set LOOPBACK_API_KEY")

type anewKey struct{}

// Anew is a context in which a credential is read anew, past what is remembered of it: what it may do has just changed.
func Anew(ctx context.Context) context.Context { return context.WithValue(ctx, anewKey{}, true) }

// IsAnew tells whether Anew was asked.
func IsAnew(ctx context.Context) bool { return ctx.Value(anewKey{}) != nil }

type againKey struct{}

// AskedAgain is a context in which a credential is looked at once more though nobody did anything: that is no use of it.
func AskedAgain(ctx context.Context) context.Context { return context.WithValue(ctx, againKey{}, true) }

// IsAskedAgain tells whether AskedAgain was asked.
func IsAskedAgain(ctx context.Context) bool { return ctx.Value(againKey{}) != nil }

type actorKey struct{}

// WithActor is a context in which a acts.
func WithActor(ctx context.Context, a Actor) context.Context {
	return context.WithValue(ctx, actorKey{}, a)
}

// ActorFrom is who acts in ctx; Anonymous where nobody was put in.
func ActorFrom(ctx context.Context) Actor {
	if a, ok := ctx.Value(actorKey{}).(Actor); ok {
		return a
	}
	return Actor{Kind: Anonymous}
}

// Package access says who acts, what acting needs, and whether it is allowed.
//
// Every method of the API needs exactly one Permission. Somebody who calls is an Actor with Grants, each a set of
// permissions over a Scope: the whole organisation, one project or one workspace. A grant on a scope holds for all
// within it. Nothing is allowed that no grant allows, and an actor who may not even read a thing is told that it does
// not exist.
package access

import (
	"context"
	"slices"

	"github.com/loopbackd/loopback/fault"
)

// Permission is what one method of the API needs: "noun.verb".
type Permission string

// All is in a grant that holds every permission that is not tier 0.
const All Permission = "*"

// The permissions that are not bound to a noun.
const (
	SelfRead        Permission = "self.read"        // held by whoever is signed in
	BootstrapRedeem Permission = "bootstrap.redeem" // held by everybody: the code itself is the credential
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

// Grant is a set of permissions over a scope.
type Grant struct {
	ID          string // what decisions name: the id of the API key, later of the binding
	Permissions []Permission
	Scope       Scope
}

func (g Grant) holds(p Permission) bool {
	return slices.Contains(g.Permissions, p) || slices.Contains(g.Permissions, All)
}

// Kind of actor.
type Kind string

// The kinds of actors.
const (
	Anonymous Kind = "anonymous"
	APIKey    Kind = "api_key"
	Host      Kind = "host"
	System    Kind = "system" // a worker of the control plane; Name says which
)

// Actor is somebody or something that acts.
type Actor struct {
	Kind      Kind
	ID        string
	Name      string
	Address   string // where the call came from; empty for workers
	RequestID string
	Grants    []Grant
}

// Decision is the answer to one question, with the grant that made it.
type Decision struct {
	Allowed bool
	Grant   string
}

// Decide tells whether the actor holds the permission at the scope.
func (a Actor) Decide(p Permission, at Scope) Decision {
	if p == BootstrapRedeem || p == SelfRead && a.Kind != Anonymous || a.Kind == System {
		return Decision{Allowed: true, Grant: "built-in"}
	}
	for _, g := range a.Grants {
		if g.Scope.Contains(at) && g.holds(p) {
			return Decision{Allowed: true, Grant: g.ID}
		}
	}
	return Decision{}
}

// Readable are the scopes over which the actor holds the permission: what a list is filtered by.
func (a Actor) Readable(p Permission) []Scope {
	if a.Kind == System {
		return []Scope{{}}
	}
	var out []Scope
	for _, g := range a.Grants {
		if g.holds(p) {
			out = append(out, g.Scope)
		}
	}
	return out
}

// Require is nil where the actor holds the permission at the scope. An actor who may read there is Denied with the
// permission's name; one who may not is told NotFound, in the words that an unknown id gets: what names the thing
// ("host hst_01…"). An anonymous actor is Unauthenticated.
func (a Actor) Require(p Permission, at Scope, read Permission, what string) error {
	switch {
	case a.Decide(p, at).Allowed:
		return nil
	case a.Kind == Anonymous || a.Kind == "":
		return ErrUnauthenticated
	case p != read && a.Decide(read, at).Allowed:
		return Denied(p)
	default:
		return NotFound(what)
	}
}

// Denied is the answer to who may know of a thing but lacks the permission for what they want of it.
func Denied(p Permission) error {
	return fault.New(fault.Denied, "permission_denied", "you may not do this: it needs %s", p).
		WithHint("ask an administrator for a key with the permission %s", p)
}

// NotFound is the answer for what does not exist, and for what the caller may not know of.
func NotFound(what string) error {
	return fault.New(fault.NotFound, "not_found", "%s was not found", what)
}

// ErrUnauthenticated is the answer to a call without a valid credential.
var ErrUnauthenticated = fault.New(fault.Unauthenticated, "not_signed_in", "you are not signed in").
	WithHint("run: loopback login, or set LOOPBACK_API_KEY")

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

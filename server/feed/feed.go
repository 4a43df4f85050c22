// Package feed is the order of changes: what the compiler, the caches and the watchers follow.
//
// Every transaction that changes a resource appends a Change. Positions are assigned in commit order, so a reader that
// remembers the last position it handled misses nothing and sees nothing twice. A nudge that there is something new is
// only a hint; readers also look by themselves from time to time.
package feed

import (
	"time"

	"github.com/loopbackd/loopback/access"
	"github.com/loopbackd/loopback/fault"
)

// Kind of resource that changed.
type Kind string

// The kinds.
const (
	Shell        Kind = "shell_session"
	Organisation Kind = "organisation"
	Project      Kind = "project"
	Workspace    Kind = "workspace"
	Token        Kind = "token"
	Host         Kind = "host"
	Settings     Kind = "settings" // of a workspace (ID is the workspace) or of a host (ID is the host)
	Operation    Kind = "operation"
	APIKey       Kind = "api_key"
	Release      Kind = "release"
	Exec         Kind = "exec"      // a command on hosts, or what came of it
	File         Kind = "file"      // a file on its way to or from a host
	Command      Kind = "command"   // a saved one
	Principal    Kind = "principal" // a user or a service account
	Group        Kind = "group"
	Role         Kind = "role"
	Binding      Kind = "binding"
	Sink         Kind = "sink"
	SignIn       Kind = "sign_in"
	Grant        Kind = "grant"
	GrantPolicy  Kind = "grant_policy"
	AccessReview Kind = "access_review"
	Witness      Kind = "witness" // what a host is to remember of the audit log; ID is the host
	Provider     Kind = "provider"
	Identity     Kind = "identity" // who somebody is at a provider
	Passkey      Kind = "passkey"
	Invitation   Kind = "invitation"
	Lock         Kind = "lock"
	Guest        Kind = "guest" // of a shell

	SessionReview       Kind = "session_review"
	SessionReviewPolicy Kind = "session_review_policy"
)

// Change says that a resource is not what it was; readers load what it is now.
type Change struct {
	Position int64
	Kind     Kind
	ID       string
	Scope    access.Scope
	Deleted  bool
	At       time.Time
}

// ErrGone says that the feed cannot be followed from a position: changes after it were pruned, or it lies ahead of the
// feed because an older backup was restored. Whoever gets it loads everything anew.
var ErrGone = fault.New(fault.Precondition, "changes_gone", "the feed of changes cannot be followed from there").
	WithHint("load everything anew and follow from the position read before that")

// Package policy is what is written about access: roles, which are named sets of permissions, and bindings, which give a
// role to somebody (or deny it) over a place, on all hosts or on selected ones, under conditions, for a time.
//
// Five roles are built in and belong to the deployment; their permissions are written here, so that those of a new
// version come with it. Other roles belong to an organisation, or to the deployment. A denial wins over whatever is
// allowed. Permissions of tier 0 have to be named in a role and are only given by bindings that end.
//
// An owner is whoever holds the owner's role, or one with all permissions, over the whole deployment without bounds.
// The last owner stays.
package policy

import (
	"fmt"
	"regexp"
	"slices"
	"time"

	"github.com/loopbackd/loopback/access"
	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/label"
	"github.com/loopbackd/loopback/principal"
	"github.com/loopbackd/loopback/tenant"
)

// Permissions over roles and bindings, and to ask about access.
const (
	RolesCreate    access.Permission = "roles.create"
	RolesRead      access.Permission = "roles.read"
	RolesUpdate    access.Permission = "roles.update"
	RolesDelete    access.Permission = "roles.delete"
	BindingsCreate access.Permission = "bindings.create"
	BindingsRead   access.Permission = "bindings.read"
	BindingsDelete access.Permission = "bindings.delete"
	Explain        access.Permission = "access.explain"
)

// MaxPermissions is how many entries a role can have.
const MaxPermissions = 256

// MaxTierZero is how long a binding can give permissions of tier 0.
const MaxTierZero = 24 * time.Hour

// Role is a named set of permissions.
type Role struct {
	tenant.Meta
	Scope       access.Scope // the deployment or an organisation
	Description string
	Permissions []access.Permission // wildcards: "*" and "noun.*"
	BuiltIn     bool
}

// Ids of the roles that are built in.
const (
	Owner    = "rol_owner"
	Admin    = "rol_admin"
	Operator = "rol_operator"
	Member   = "rol_member"
	Auditor  = "rol_auditor"
)

// BuiltIn are the roles that every deployment has.
func BuiltIn() []Role {
	role := func(id, description string, permissions ...access.Permission) Role {
		return Role{Meta: tenant.Meta{ID: id, Name: id[len("rol_"):]}, Description: description, Permissions: permissions, BuiltIn: true}
	}
	return []Role{
		role(Owner, "everything but tier 0", access.All),
		role(Admin, "everything but making and deleting organisations, and tier 0",
			"organisations.read", "projects.*", "workspaces.*", "agent_tokens.*", "hosts.*", "settings.*", "operations.*", "releases.*",
			"api_keys.*", "audit.*", "users.*", "groups.*", "service_accounts.*", "roles.*", "bindings.*", "access.*", "grants.*", "grant_policies.*", "access_reviews.*", "replicas.read", "sign_ins.*", "passkeys.*", "invitations.*", "providers.read",
			"shell_sessions.*", "shell_guests.*", "locks.*", "session_reviews.*", "exec.*", "file.*", "commands.*", "checks.*"),
		// Saves commands and runs those that somebody approved; to approve is of tier 0, and in no role that is held for good. What one
		// runs, and what a host tells of itself, is read and ended by exec.* and file.*, of which the rest is of tier 0, too.
		role(Operator, "runs hosts: enrols, labels, moves, quarantines and removes them, sets how agents behave, and runs checks and commands that were approved",
			"organisations.read", "projects.read", "workspaces.read", "agent_tokens.*", "hosts.*", "settings.*", "operations.*", "releases.read",
			"grants.request", "grants.read", "grants.approve", "grant_policies.read",
			"exec.read", "exec.cancel", "file.read", "file.cancel", "commands.save", "commands.read", "commands.run", "checks.run"),
		role(Member, "sees hosts and what becomes of them",
			"organisations.read", "projects.read", "workspaces.read", "agent_tokens.list", "hosts.read", "settings.read", "operations.read", "releases.read",
			"grants.request", "grants.read", "grant_policies.read", "commands.read"),
		role(Auditor, "sees everything, the audit log and who may do what; changes nothing",
			"organisations.read", "projects.read", "workspaces.read", "agent_tokens.list", "hosts.read", "settings.read", "operations.read", "releases.read",
			"api_keys.read", "audit.read", "audit.verify", "sinks.read", "users.read", "groups.read", "service_accounts.read", "roles.read", "bindings.read", "access.explain",
			"replicas.read", "grants.read", "grant_policies.read", "access_reviews.read", "sign_ins.read", "passkeys.read", "invitations.read", "providers.read",
			"shell_sessions.read", "shell_sessions.replay", "shell_guests.read", "locks.read", "session_reviews.read",
			"exec.read", "file.read", "commands.read"),
	}
}

// BuiltInRole is the built-in role of an id or name.
func BuiltInRole(ref string) (Role, bool) {
	all := BuiltIn()
	i := slices.IndexFunc(all, func(r Role) bool { return r.ID == ref || r.Name == ref })
	if i < 0 {
		return Role{}, false
	}
	return all[i], true
}

// CheckPermissions demands that a role's permissions are known.
func CheckPermissions(c *fault.Check, known *access.Catalogue, list []access.Permission) {
	c.That(len(list) > 0, "permissions", "is empty; name at least one, noun.* or *")
	c.That(len(list) <= MaxPermissions, "permissions", "has %d entries; at most %d are allowed", len(list), MaxPermissions)
	for i, p := range list {
		if i < MaxPermissions {
			c.That(known.Known(p), fmt.Sprintf("permissions[%d]", i), "is %q, which is no permission", p)
		}
	}
}

// Binding gives a role to a subject, or denies it.
type Binding struct {
	tenant.Meta
	Scope       access.Scope
	Description string
	Subject     access.Subject
	RoleID      string
	Hosts       string // a selector; empty: all hosts, and everything else at the scope
	Conditions  access.Conditions
	Deny        bool
	NotBefore   time.Time // zero: from ever
	NotAfter    time.Time // zero: for ever
	CreatedBy   string
	Basis       *access.Basis // the grant that it came of; nil: somebody wrote it
}

// Unbounded tells whether it holds everywhere, always, whatever the circumstances.
func (b Binding) Unbounded() bool {
	return b.Scope == (access.Scope{}) && b.Hosts == "" && b.Conditions.None() && b.NotBefore.IsZero() && b.NotAfter.IsZero()
}

// Validate checks what can be checked without knowing who asks. now is the time; r the role.
func (b Binding) Validate(now time.Time, r Role, known *access.Catalogue) error {
	var c fault.Check
	c.That(len(b.Description) <= tenant.MaxDescription, "description", "is %d bytes long; at most %d are allowed", len(b.Description), tenant.MaxDescription)
	if _, err := label.Parse(b.Hosts); err != nil {
		c.Add("hosts", "is no selector: %v", err)
	}
	c.That(b.NotAfter.IsZero() || b.NotAfter.After(now), "notAfter", "is over already")
	c.That(b.NotAfter.IsZero() || b.NotBefore.Before(b.NotAfter), "notBefore", "is not before notAfter")
	c.That(b.Conditions.MFAWithin >= 0 && b.Conditions.MFAWithin <= 24*time.Hour, "conditions.mfaWithin", "is %s; allowed are up to %s", b.Conditions.MFAWithin, 24*time.Hour)
	c.That(len(b.Conditions.Addresses) <= 100, "conditions.addresses", "has %d entries; at most 100 are allowed", len(b.Conditions.Addresses))
	c.That(len(b.Conditions.Ticket) <= 200, "conditions.ticket", "is %d bytes long; at most 200 are allowed", len(b.Conditions.Ticket))
	if _, err := regexp.Compile("^(?:" + b.Conditions.Ticket + ")$"); err != nil {
		c.Add("conditions.ticket", "is no pattern (RE2): %v", err)
	}
	for _, p := range r.Permissions {
		if known.IsTierZero(p) && !b.Deny {
			c.That(!b.NotAfter.IsZero() && b.NotAfter.Sub(now) <= MaxTierZero, "notAfter", "has to be within %s: the role holds %s, which is given for a time only", MaxTierZero, p)
		}
	}
	return c.Err("binding_invalid", "the binding is not valid")
}

// Rule is the binding as it is decided by.
func (b Binding) Rule(r Role) access.Rule {
	hosts, _ := label.Parse(b.Hosts) // checked when it was written
	return access.Rule{
		ID: b.ID, Subject: b.Subject, Role: r.Name, RoleID: b.RoleID, Permissions: r.Permissions, Scope: b.Scope, Hosts: hosts, Conditions: b.Conditions,
		Deny: b.Deny, NotBefore: b.NotBefore, NotAfter: b.NotAfter, Basis: b.Basis,
	}
}

// Query selects roles by name or bindings, newest first.
type Query struct {
	Readable access.Sight // only what is in this sight; the empty one sees nothing
	Within   access.Scope
	Name     string // of a role
	Subject  string // of a binding: an id
	Role     string // of a binding: an id
	Page     tenant.Page
}

// Owners are the principals who are owners, given all bindings over the whole deployment, the groups in them, and the
// principals in those. A denial over the whole deployment of anything at all makes nobody an owner, whenever it applies.
func Owners(bindings []Binding, roles map[string]Role, groups map[string]principal.Group, principals map[string]principal.Principal) []string {
	held, denied := map[string]bool{}, map[string]bool{}
	for _, b := range bindings {
		into := held
		switch {
		case b.Scope != (access.Scope{}):
			continue
		case b.Deny:
			into = denied
		case !b.Unbounded() || !slices.Contains(roles[b.RoleID].Permissions, access.All):
			continue
		}
		if b.Subject.Kind != access.Group {
			into[b.Subject.ID] = true
			continue
		}
		for _, m := range groups[b.Subject.ID].Members {
			into[m] = true
		}
	}
	var out []string
	for id := range held {
		if p, ok := principals[id]; ok && p.Active() && !denied[id] {
			out = append(out, id)
		}
	}
	slices.Sort(out)
	return out
}

// ErrLastOwner refuses what would leave the deployment without an owner.
var ErrLastOwner = fault.New(fault.Precondition, "last_owner", "nobody would be an owner of the deployment any more").
	WithHint("make somebody else an owner first: loopback binding create --role owner --user NAME --everywhere")

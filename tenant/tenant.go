// Package tenant is the tree that everything belongs to: organisation → project → workspace.
//
// A host belongs to exactly one workspace. Names are unique among siblings and may be used wherever an id may. What
// still holds something cannot be deleted, and says what it holds.
package tenant

import (
	"regexp"
	"time"

	"github.com/loopbackd/loopback/access"
	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/label"
)

// Permissions over the tree.
const (
	OrganisationsCreate access.Permission = "organisations.create"
	OrganisationsRead   access.Permission = "organisations.read"
	OrganisationsDelete access.Permission = "organisations.delete"
	ProjectsCreate      access.Permission = "projects.create"
	ProjectsRead        access.Permission = "projects.read"
	ProjectsDelete      access.Permission = "projects.delete"
	WorkspacesCreate    access.Permission = "workspaces.create"
	WorkspacesRead      access.Permission = "workspaces.read"
	WorkspacesUpdate    access.Permission = "workspaces.update"
	WorkspacesDelete    access.Permission = "workspaces.delete"
)

// Meta is what every resource has.
type Meta struct {
	ID        string
	Name      string
	Labels    label.Set
	CreatedAt time.Time
	UpdatedAt time.Time
	Revision  int64 // position in the change feed of the last change; an update may demand the one it read
}

// Organisation owns projects, roles, notification channels and bridges.
type Organisation struct {
	Meta
	Description string
}

// Project groups workspaces.
type Project struct {
	Meta
	OrganisationID string
	Description    string
}

// Workspace owns hosts, tokens, networks, firewalls and balancers.
type Workspace struct {
	Meta
	OrganisationID string
	ProjectID      string
	Description    string
	Tokens         TokenPolicy
}

// TokenPolicy narrows what tokens of a workspace may be. A zero field takes the deployment's.
type TokenPolicy struct {
	DefaultTTL      time.Duration
	MaxTTL          time.Duration
	DefaultMaxUses  int32
	MaxUses         int32
	RequireApproval bool // every host enrolled here awaits approval, whatever its token says
}

// Scope of the organisation.
func (o Organisation) Scope() access.Scope { return access.Scope{Organisation: o.ID} }

// Scope of the project.
func (p Project) Scope() access.Scope {
	return access.Scope{Organisation: p.OrganisationID, Project: p.ID}
}

// Scope of the workspace.
func (w Workspace) Scope() access.Scope {
	return access.Scope{Organisation: w.OrganisationID, Project: w.ProjectID, Workspace: w.ID}
}

var name = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$`)

// CheckName demands a DNS label: lower-case letters, digits and '-', at most 63.
func CheckName(c *fault.Check, field, value string) {
	c.That(name.MatchString(value), field, "is not lower-case letters, digits and '-' (at most 63, not at either end)")
}

// MaxDescription is the longest description, in bytes.
const MaxDescription = 1024

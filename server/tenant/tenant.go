// Package tenant keeps the tree of organisations, projects and workspaces, and finds a place in it by whatever a person
// calls it.
//
// A place is named by its id, by its path ("acme", "acme/shop", "acme/shop/prod"), or by its bare name where only one
// in the caller's sight has it. In sight is what the caller may read, or holds the wanted permission over; what lies
// outside is not found, in the same words as what does not exist, and never makes a name ambiguous.
//
// Names are unique among siblings. What still holds something is not deleted: the error counts what it holds. Both are
// decided inside the transaction, so that two callers at once cannot both be right.
package tenant

import (
	"context"
	"time"

	"github.com/loopbackd/loopback/access"
	"github.com/loopbackd/loopback/audit"
	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/id"
	"github.com/loopbackd/loopback/label"
	"github.com/loopbackd/loopback/tenant"
	"github.com/loopbackd/loopback/token"
)

// Reader reads the tree.
type Reader interface {
	Organisation(ctx context.Context, id string) (tenant.Organisation, error)
	Organisations(ctx context.Context, q tenant.Query) ([]tenant.Organisation, string, error)
	Project(ctx context.Context, id string) (tenant.Project, error)
	Projects(ctx context.Context, q tenant.Query) ([]tenant.Project, string, error)
	Workspace(ctx context.Context, id string) (tenant.Workspace, error)
	Workspaces(ctx context.Context, q tenant.Query) ([]tenant.Workspace, string, error)
}

// Changes changes the tree.
type Changes interface {
	PutOrganisation(ctx context.Context, o tenant.Organisation) (tenant.Organisation, error)
	DeleteOrganisation(ctx context.Context, id string) error
	PutProject(ctx context.Context, p tenant.Project) (tenant.Project, error)
	DeleteProject(ctx context.Context, id string) error
	PutWorkspace(ctx context.Context, w tenant.Workspace) (tenant.Workspace, error)
	DeleteWorkspace(ctx context.Context, id string) error
}

// Tx is one transaction over it.
type Tx interface {
	Reader
	Changes
	CountIn(ctx context.Context, at access.Scope) (tenant.Count, error)
	Audit(ctx context.Context, e audit.Entry) error
}

// Store is where the tree is kept.
type Store interface {
	View() Reader
	Write(ctx context.Context, change func(Tx) error) error
}

// Service is the tree as people work with it.
type Service struct {
	store  Store
	limits token.Limits
	now    func() time.Time
}

// NewService makes the service. The limits are the deployment's: a workspace's policy stays within them.
func NewService(store Store, limits token.Limits, now func() time.Time) *Service {
	return &Service{store: store, limits: limits, now: now}
}

// New is what a place is made from.
type New struct {
	Name        string
	Description string
	Labels      label.Set
}

func (n New) check(c *fault.Check) {
	tenant.CheckName(c, "name", n.Name)
	checkDescription(c, n.Description)
	n.Labels.Validate(c, "labels")
}

func checkDescription(c *fault.Check, d string) {
	c.That(len(d) <= tenant.MaxDescription, "description", "is %d bytes long; at most %d are allowed", len(d), tenant.MaxDescription)
}

func (s *Service) meta(prefix string, n New) tenant.Meta {
	now := s.now()
	return tenant.Meta{ID: id.New(prefix, now), Name: n.Name, Labels: n.Labels, CreatedAt: now}
}

// record is a place as the audit log shows it.
type record struct {
	ID           string    `json:"id"`
	Name         string    `json:"name"`
	Labels       label.Set `json:"labels,omitempty"`
	Description  string    `json:"description,omitempty"`
	Organisation string    `json:"organisationId,omitempty"`
	Project      string    `json:"projectId,omitempty"`
	TokenPolicy  *policy   `json:"tokenPolicy,omitempty"`
}

type policy struct {
	DefaultTTL      string `json:"defaultTtl,omitempty"`
	MaxTTL          string `json:"maxTtl,omitempty"`
	DefaultMaxUses  int32  `json:"defaultMaxUses,omitempty"`
	MaxUses         int32  `json:"maxUses,omitempty"`
	RequireApproval bool   `json:"requireApproval,omitempty"`
}

// every asks for all there is of a name: paging is for people.
func every[T any](ctx context.Context, list func(context.Context, tenant.Query) ([]T, string, error), q tenant.Query) ([]T, error) {
	var out []T
	q.Page = tenant.Page{Size: tenant.MaxPage}
	for {
		items, next, err := list(ctx, q)
		if err != nil {
			return nil, err
		}
		out = append(out, items...)
		if next == "" {
			return out, nil
		}
		q.Page.Token = next
	}
}

func free[T any](ctx context.Context, list func(context.Context, tenant.Query) ([]T, string, error), kind, name string, within access.Scope) error {
	taken, _, err := list(ctx, tenant.Query{Readable: access.Everywhere(), Within: within, Name: name, Page: tenant.Page{Size: 1}})
	if err != nil {
		return err
	}
	if len(taken) > 0 {
		return fault.New(fault.Exists, kind+"_exists", "there is already %s %s of the name %q here", article(kind), kind, name).
			WithHint("choose another name, or use the one that is there")
	}
	return nil
}

func article(kind string) string {
	if kind == "organisation" {
		return "an"
	}
	return "a"
}

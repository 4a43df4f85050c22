package rpc

import (
	"context"

	"connectrpc.com/connect"

	v1 "github.com/loopbackd/loopback/api/loopback/v1"
	"github.com/loopbackd/loopback/server/tenant"
	noun "github.com/loopbackd/loopback/tenant"
)

// Organisations is loopback.v1.OrganisationService.
type Organisations struct{ Service *tenant.Service }

// CreateOrganisation makes one.
func (h Organisations) CreateOrganisation(ctx context.Context, r *connect.Request[v1.CreateOrganisationRequest]) (*connect.Response[v1.Organisation], error) {
	o, err := h.Service.CreateOrganisation(ctx, tenant.New{Name: r.Msg.GetName(), Description: r.Msg.GetDescription(), Labels: r.Msg.GetLabels()})
	return answer(organisation(o), err)
}

// GetOrganisation is one.
func (h Organisations) GetOrganisation(ctx context.Context, r *connect.Request[v1.GetOrganisationRequest]) (*connect.Response[v1.Organisation], error) {
	o, err := h.Service.Organisation(ctx, r.Msg.GetOrganisation(), noun.OrganisationsRead)
	return answer(organisation(o), err)
}

// ListOrganisations is those that the caller may read.
func (h Organisations) ListOrganisations(ctx context.Context, r *connect.Request[v1.ListOrganisationsRequest]) (*connect.Response[v1.ListOrganisationsResponse], error) {
	items, next, err := h.Service.Organisations(ctx, page(r.Msg.GetPage()))
	return answer(&v1.ListOrganisationsResponse{Items: each(items, organisation), NextPageToken: next}, err)
}

// DeleteOrganisation deletes an empty one.
func (h Organisations) DeleteOrganisation(ctx context.Context, r *connect.Request[v1.DeleteOrganisationRequest]) (*connect.Response[v1.DeleteOrganisationResponse], error) {
	return answer(&v1.DeleteOrganisationResponse{}, h.Service.DeleteOrganisation(ctx, r.Msg.GetOrganisation()))
}

// Projects is loopback.v1.ProjectService.
type Projects struct{ Service *tenant.Service }

// CreateProject makes one.
func (h Projects) CreateProject(ctx context.Context, r *connect.Request[v1.CreateProjectRequest]) (*connect.Response[v1.Project], error) {
	p, err := h.Service.CreateProject(ctx, r.Msg.GetOrganisation(), tenant.New{Name: r.Msg.GetName(), Description: r.Msg.GetDescription(), Labels: r.Msg.GetLabels()})
	return answer(project(p), err)
}

// GetProject is one.
func (h Projects) GetProject(ctx context.Context, r *connect.Request[v1.GetProjectRequest]) (*connect.Response[v1.Project], error) {
	p, err := h.Service.Project(ctx, r.Msg.GetProject(), noun.ProjectsRead)
	return answer(project(p), err)
}

// ListProjects is those that the caller may read.
func (h Projects) ListProjects(ctx context.Context, r *connect.Request[v1.ListProjectsRequest]) (*connect.Response[v1.ListProjectsResponse], error) {
	items, next, err := h.Service.Projects(ctx, r.Msg.GetOrganisation(), page(r.Msg.GetPage()))
	return answer(&v1.ListProjectsResponse{Items: each(items, project), NextPageToken: next}, err)
}

// DeleteProject deletes an empty one.
func (h Projects) DeleteProject(ctx context.Context, r *connect.Request[v1.DeleteProjectRequest]) (*connect.Response[v1.DeleteProjectResponse], error) {
	return answer(&v1.DeleteProjectResponse{}, h.Service.DeleteProject(ctx, r.Msg.GetProject()))
}

// Workspaces is loopback.v1.WorkspaceService.
type Workspaces struct{ Service *tenant.Service }

// CreateWorkspace makes one.
func (h Workspaces) CreateWorkspace(ctx context.Context, r *connect.Request[v1.CreateWorkspaceRequest]) (*connect.Response[v1.Workspace], error) {
	var f fields
	policy := f.tokenPolicy(r.Msg.GetTokenPolicy())
	if err := f.err(); err != nil {
		return nil, err
	}
	w, err := h.Service.CreateWorkspace(ctx, r.Msg.GetProject(),
		tenant.New{Name: r.Msg.GetName(), Description: r.Msg.GetDescription(), Labels: r.Msg.GetLabels()}, policy)
	return answer(workspace(w), err)
}

// GetWorkspace is one.
func (h Workspaces) GetWorkspace(ctx context.Context, r *connect.Request[v1.GetWorkspaceRequest]) (*connect.Response[v1.Workspace], error) {
	w, err := h.Service.Workspace(ctx, r.Msg.GetWorkspace(), noun.WorkspacesRead)
	return answer(workspace(w), err)
}

// ListWorkspaces is those that the caller may read.
func (h Workspaces) ListWorkspaces(ctx context.Context, r *connect.Request[v1.ListWorkspacesRequest]) (*connect.Response[v1.ListWorkspacesResponse], error) {
	items, next, err := h.Service.Workspaces(ctx, r.Msg.GetProject(), page(r.Msg.GetPage()))
	return answer(&v1.ListWorkspacesResponse{Items: each(items, workspace), NextPageToken: next}, err)
}

// UpdateWorkspace changes one.
func (h Workspaces) UpdateWorkspace(ctx context.Context, r *connect.Request[v1.UpdateWorkspaceRequest]) (*connect.Response[v1.Workspace], error) {
	var f fields
	u := tenant.Update{Description: r.Msg.Description, Revision: r.Msg.GetRevision()}
	if r.Msg.GetTokenPolicy() != nil {
		policy := f.tokenPolicy(r.Msg.GetTokenPolicy())
		u.Tokens = &policy
	}
	if err := f.err(); err != nil {
		return nil, err
	}
	w, err := h.Service.UpdateWorkspace(ctx, r.Msg.GetWorkspace(), u)
	return answer(workspace(w), err)
}

// DeleteWorkspace deletes an empty one.
func (h Workspaces) DeleteWorkspace(ctx context.Context, r *connect.Request[v1.DeleteWorkspaceRequest]) (*connect.Response[v1.DeleteWorkspaceResponse], error) {
	return answer(&v1.DeleteWorkspaceResponse{}, h.Service.DeleteWorkspace(ctx, r.Msg.GetWorkspace()))
}

func organisation(o noun.Organisation) *v1.Organisation {
	return &v1.Organisation{
		Id: o.ID, Name: o.Name, Labels: o.Labels, CreatedAt: timestamp(o.CreatedAt), UpdatedAt: timestamp(o.UpdatedAt),
		Revision: o.Revision, Description: o.Description,
	}
}

func project(p noun.Project) *v1.Project {
	return &v1.Project{
		Id: p.ID, Name: p.Name, Labels: p.Labels, CreatedAt: timestamp(p.CreatedAt), UpdatedAt: timestamp(p.UpdatedAt),
		Revision: p.Revision, OrganisationId: p.OrganisationID, Description: p.Description,
	}
}

func workspace(w noun.Workspace) *v1.Workspace {
	return &v1.Workspace{
		Id: w.ID, Name: w.Name, Labels: w.Labels, CreatedAt: timestamp(w.CreatedAt), UpdatedAt: timestamp(w.UpdatedAt),
		Revision: w.Revision, OrganisationId: w.OrganisationID, ProjectId: w.ProjectID, Description: w.Description,
		TokenPolicy: &v1.TokenPolicy{
			DefaultTtl: duration(w.Tokens.DefaultTTL), MaxTtl: duration(w.Tokens.MaxTTL), DefaultMaxUses: w.Tokens.DefaultMaxUses,
			MaxUses: w.Tokens.MaxUses, RequireApproval: w.Tokens.RequireApproval,
		},
	}
}

func (f *fields) tokenPolicy(p *v1.TokenPolicy) noun.TokenPolicy {
	return noun.TokenPolicy{
		DefaultTTL:      f.duration("tokenPolicy.defaultTtl", p.GetDefaultTtl()),
		MaxTTL:          f.duration("tokenPolicy.maxTtl", p.GetMaxTtl()),
		DefaultMaxUses:  p.GetDefaultMaxUses(),
		MaxUses:         p.GetMaxUses(),
		RequireApproval: p.GetRequireApproval(),
	}
}

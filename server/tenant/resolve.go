package tenant

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/loopbackd/loopback/access"
	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/id"
	"github.com/loopbackd/loopback/tenant"
)

// Organisation is the one of this id or name, where the caller holds the permission over it.
func (s *Service) Organisation(ctx context.Context, ref string, p access.Permission) (tenant.Organisation, error) {
	o, err := s.findOrganisation(ctx, ref, sight(ctx, p, tenant.OrganisationsRead))
	if err != nil {
		return tenant.Organisation{}, err
	}
	return o, access.ActorFrom(ctx).Require(p, o.Scope(), tenant.OrganisationsRead, "organisation "+ref)
}

// Project is the one of this id, name or path, where the caller holds the permission over it.
func (s *Service) Project(ctx context.Context, ref string, p access.Permission) (tenant.Project, error) {
	found, err := s.findProject(ctx, ref, sight(ctx, p, tenant.ProjectsRead))
	if err != nil {
		return tenant.Project{}, err
	}
	return found, access.ActorFrom(ctx).Require(p, found.Scope(), tenant.ProjectsRead, "project "+ref)
}

// Workspace is the one of this id, name or path, where the caller holds the permission over it.
func (s *Service) Workspace(ctx context.Context, ref string, p access.Permission) (tenant.Workspace, error) {
	w, err := s.findWorkspace(ctx, ref, sight(ctx, p, tenant.WorkspacesRead))
	if err != nil {
		return tenant.Workspace{}, err
	}
	return w, access.ActorFrom(ctx).Require(p, w.Scope(), tenant.WorkspacesRead, "workspace "+ref)
}

// Frame is the workspace of this id, name or path, where the caller holds the permission over anything in it, a single
// host that a selector matches for example: what may narrow a list.
func (s *Service) Frame(ctx context.Context, ref string, p access.Permission) (tenant.Workspace, error) {
	seen := sight(ctx, p, tenant.WorkspacesRead)
	w, err := s.findWorkspace(ctx, ref, frames(seen))
	if err != nil {
		return tenant.Workspace{}, err
	}
	actor := access.ActorFrom(ctx)
	if actor.Readable(p).Within(w.Scope()) {
		return w, nil
	}
	return w, actor.Require(p, w.Scope(), tenant.WorkspacesRead, "workspace "+ref)
}

// sight is where the caller sees a place when it wants the permission over it.
func sight(ctx context.Context, permissions ...access.Permission) access.Sight {
	var out access.Sight
	for _, p := range permissions {
		out = append(out, access.ActorFrom(ctx).Readable(p)...)
	}
	return out
}

// frames is a sight of the places in which something is seen, if only selected hosts.
func frames(seen access.Sight) access.Sight {
	out := slices.Clone(seen)
	for i := range out {
		out[i].Hosts = nil
	}
	return out
}

// above widens a sight to the organisations, or to the projects, that it lies in: a place may be named as the frame of
// a list by whoever sees something inside it.
func above(seen access.Sight, project bool) access.Sight {
	out := frames(seen)
	for i := range out {
		out[i].Workspace, out[i].Except = "", nil
		if !project {
			out[i].Project = ""
		}
	}
	return out
}

// checkRef demands something that can be an id, a name or a path of so many parts, and takes it apart.
func checkRef(kind, ref string, parts int) ([]string, error) {
	if ref == "" {
		return nil, missing(kind)
	}
	split := strings.Split(ref, "/")
	if len(split) > parts || len(ref) > 256 || slices.Contains(split, "") {
		return nil, access.NotFound(kind + " " + abbreviate(ref))
	}
	return split, nil
}

func missing(kind string) error {
	var c fault.Check
	c.Add(kind, "is missing: give an id, a name or a path")
	return c.Err("request_invalid", "the request is not valid")
}

func abbreviate(s string) string {
	if len(s) > 256 {
		return s[:256] + "…"
	}
	return s
}

func (s *Service) findOrganisation(ctx context.Context, ref string, seen access.Sight) (tenant.Organisation, error) {
	if _, err := checkRef("organisation", ref, 1); err != nil {
		return tenant.Organisation{}, err
	}
	if id.Valid("org", ref) {
		o, err := s.store.View().Organisation(ctx, ref)
		return visible(o, err, seen, "organisation "+ref)
	}
	found, err := every(ctx, s.store.View().Organisations, tenant.Query{Readable: seen, Name: ref})
	if err != nil {
		return tenant.Organisation{}, err
	}
	return single(found, "organisation", ref, func(o tenant.Organisation) string { return o.ID })
}

func (s *Service) findProject(ctx context.Context, ref string, seen access.Sight) (tenant.Project, error) {
	path, err := checkRef("project", ref, 2)
	if err != nil {
		return tenant.Project{}, err
	}
	view := s.store.View()
	if id.Valid("prj", ref) {
		p, err := view.Project(ctx, ref)
		return visible(p, err, seen, "project "+ref)
	}
	found, err := every(ctx, view.Projects, tenant.Query{Readable: seen, Name: path[len(path)-1]})
	if err != nil {
		return tenant.Project{}, err
	}
	paths := map[string]string{}
	for _, p := range found {
		o, err := view.Organisation(ctx, p.OrganisationID)
		if err != nil {
			return tenant.Project{}, fmt.Errorf("read the organisation of project %s: %w", p.ID, err)
		}
		paths[p.ID] = o.Name + "/" + p.Name
	}
	if len(path) > 1 {
		found = slices.DeleteFunc(found, func(p tenant.Project) bool { return paths[p.ID] != ref && path[0] != p.OrganisationID })
	}
	return single(found, "project", ref, func(p tenant.Project) string { return paths[p.ID] })
}

func (s *Service) findWorkspace(ctx context.Context, ref string, seen access.Sight) (tenant.Workspace, error) {
	if ref == "" {
		return s.onlyWorkspace(ctx, seen)
	}
	path, err := checkRef("workspace", ref, 3)
	if err != nil {
		return tenant.Workspace{}, err
	}
	view := s.store.View()
	if id.Valid("ws", ref) {
		w, err := view.Workspace(ctx, ref)
		return visible(w, err, seen, "workspace "+ref)
	}
	found, err := every(ctx, view.Workspaces, tenant.Query{Readable: seen, Name: path[len(path)-1]})
	if err != nil {
		return tenant.Workspace{}, err
	}
	paths := map[string]string{}
	for _, w := range found {
		p, err := view.Project(ctx, w.ProjectID)
		if err != nil {
			return tenant.Workspace{}, fmt.Errorf("read the project of workspace %s: %w", w.ID, err)
		}
		o, err := view.Organisation(ctx, w.OrganisationID)
		if err != nil {
			return tenant.Workspace{}, fmt.Errorf("read the organisation of workspace %s: %w", w.ID, err)
		}
		paths[w.ID] = o.Name + "/" + p.Name + "/" + w.Name
	}
	if len(path) > 1 {
		found = slices.DeleteFunc(found, func(w tenant.Workspace) bool { return !strings.HasSuffix("/"+paths[w.ID], "/"+ref) })
	}
	return single(found, "workspace", ref, func(w tenant.Workspace) string { return paths[w.ID] })
}

// onlyWorkspace is the one that the caller sees, when it sees no other: most callers have no need to name it.
func (s *Service) onlyWorkspace(ctx context.Context, seen access.Sight) (tenant.Workspace, error) {
	found, _, err := s.store.View().Workspaces(ctx, tenant.Query{Readable: seen, Page: tenant.Page{Size: 2}})
	switch {
	case err != nil:
		return tenant.Workspace{}, err
	case len(found) != 1:
		return tenant.Workspace{}, fault.Of(missing("workspace")).
			WithHint("name one by --workspace or LOOPBACK_WORKSPACE; loopback workspace list shows those that you may see")
	}
	return found[0], nil
}

// visible is a place that was read by id, or not found in the same words where it does not lie in sight.
func visible[T interface{ Scope() access.Scope }](v T, err error, seen access.Sight, what string) (T, error) {
	var none T
	switch {
	case fault.KindOf(err) == fault.NotFound, err == nil && !seen.Sees(v.Scope()):
		return none, access.NotFound(what)
	case err != nil:
		return none, err
	}
	return v, nil
}

// maxCandidates is how many of the places that share a name an error lists.
const maxCandidates = 5

func single[T any](found []T, kind, ref string, path func(T) string) (T, error) {
	switch len(found) {
	case 0:
		var none T
		return none, access.NotFound(kind + " " + ref)
	case 1:
		return found[0], nil
	}
	var paths []string
	for _, v := range found {
		paths = append(paths, path(v))
	}
	slices.Sort(paths)
	if len(paths) > maxCandidates {
		paths = append(paths[:maxCandidates], "…")
	}
	var none T
	return none, fault.New(fault.Invalid, kind+"_ambiguous", "%q names %d %ss", ref, len(found), kind).
		WithHint("say which one: %s", strings.Join(paths, ", "))
}

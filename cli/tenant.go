package cli

import (
	"context"
	"slices"
	"strconv"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"

	pb "github.com/loopbackd/loopback/api/loopback/v1"
)

func (a *app) orgCommand() *cobra.Command {
	show := func(o *pb.Organisation) error {
		return a.print(o, [2]string{"id", o.Id}, [2]string{"name", o.Name}, [2]string{"description", o.Description}, [2]string{"created", stamp(o.CreatedAt)})
	}
	var description string
	create := &cobra.Command{Use: "create NAME", Short: "Create an organisation", Args: args("NAME"), RunE: a.with(func(ctx context.Context, s *api, w []string) error {
		o, err := call(ctx, s, s.organisations.CreateOrganisation, &pb.CreateOrganisationRequest{Name: w[0], Description: description})
		if err != nil {
			return err
		}
		return show(o)
	})}
	create.Flags().StringVar(&description, "description", "", "what it is for")
	return noun("org", "Organisations: the top of the tree",
		create,
		&cobra.Command{Use: "list", Short: "List organisations", Args: args(), RunE: a.with(func(ctx context.Context, s *api, _ []string) error {
			return list(a, ctx, 0, func(ctx context.Context, p *pb.Page) ([]*pb.Organisation, string, error) {
				r, err := call(ctx, s, s.organisations.ListOrganisations, &pb.ListOrganisationsRequest{Page: p})
				return r.GetItems(), r.GetNextPageToken(), err
			}, "there is no organisation that you may see",
				column[*pb.Organisation]{"NAME", (*pb.Organisation).GetName}, column[*pb.Organisation]{"ID", (*pb.Organisation).GetId},
				column[*pb.Organisation]{"AGE", func(o *pb.Organisation) string { return ago(o.CreatedAt) }},
				column[*pb.Organisation]{"DESCRIPTION", (*pb.Organisation).GetDescription})
		})},
		&cobra.Command{Use: "show ORGANISATION", Short: "Show an organisation", Args: args("ORGANISATION"), RunE: a.with(func(ctx context.Context, s *api, w []string) error {
			o, err := call(ctx, s, s.organisations.GetOrganisation, &pb.GetOrganisationRequest{Organisation: w[0]})
			if err != nil {
				return err
			}
			return show(o)
		})},
		&cobra.Command{Use: "delete ORGANISATION", Short: "Delete an organisation that holds no projects", Args: args("ORGANISATION"), RunE: a.with(func(ctx context.Context, s *api, w []string) error {
			if err := a.confirm(ctx, "delete the organisation %s?", w[0]); err != nil {
				return err
			}
			r, err := call(ctx, s, s.organisations.DeleteOrganisation, &pb.DeleteOrganisationRequest{Organisation: w[0]})
			return a.deleted(r, err, "organisation", w[0])
		})},
	)
}

// deleted says so on standard error. The result is empty, and printed for programs only.
func (a *app) deleted(r proto.Message, err error, kind, name string) error {
	if err != nil {
		return err
	}
	a.hint("deleted the %s %s", kind, name)
	return a.print(r)
}

func (a *app) projectCommand() *cobra.Command {
	show := func(p *pb.Project) error {
		return a.print(p, [2]string{"id", p.Id}, [2]string{"name", p.Name}, [2]string{"organisation", p.OrganisationId}, [2]string{"description", p.Description}, [2]string{"created", stamp(p.CreatedAt)})
	}
	var description, organisation, under string
	create := &cobra.Command{Use: "create NAME", Short: "Create a project", Args: args("NAME"), RunE: a.with(func(ctx context.Context, s *api, w []string) error {
		p, err := call(ctx, s, s.projects.CreateProject, &pb.CreateProjectRequest{Organisation: organisation, Name: w[0], Description: description})
		if err != nil {
			return err
		}
		return show(p)
	})}
	create.Flags().StringVar(&description, "description", "", "what it is for")
	create.Flags().StringVar(&organisation, "org", "default", "`ORGANISATION` that it belongs to")
	ls := &cobra.Command{Use: "list", Short: "List projects", Args: args(), RunE: a.with(func(ctx context.Context, s *api, _ []string) error {
		return list(a, ctx, 0, func(ctx context.Context, p *pb.Page) ([]*pb.Project, string, error) {
			r, err := call(ctx, s, s.projects.ListProjects, &pb.ListProjectsRequest{Organisation: under, Page: p})
			return r.GetItems(), r.GetNextPageToken(), err
		}, "there is no project that you may see",
			column[*pb.Project]{"NAME", (*pb.Project).GetName}, column[*pb.Project]{"ID", (*pb.Project).GetId},
			column[*pb.Project]{"ORGANISATION", (*pb.Project).GetOrganisationId},
			column[*pb.Project]{"AGE", func(p *pb.Project) string { return ago(p.CreatedAt) }},
			column[*pb.Project]{"DESCRIPTION", (*pb.Project).GetDescription})
	})}
	ls.Flags().StringVar(&under, "org", "", "only those of this `ORGANISATION`")
	return noun("project", "Projects: groups of workspaces",
		create, ls,
		&cobra.Command{Use: "show PROJECT", Short: "Show a project", Args: args("PROJECT"), RunE: a.with(func(ctx context.Context, s *api, w []string) error {
			p, err := call(ctx, s, s.projects.GetProject, &pb.GetProjectRequest{Project: w[0]})
			if err != nil {
				return err
			}
			return show(p)
		})},
		&cobra.Command{Use: "delete PROJECT", Short: "Delete a project that holds no workspaces", Args: args("PROJECT"), RunE: a.with(func(ctx context.Context, s *api, w []string) error {
			if err := a.confirm(ctx, "delete the project %s?", w[0]); err != nil {
				return err
			}
			r, err := call(ctx, s, s.projects.DeleteProject, &pb.DeleteProjectRequest{Project: w[0]})
			return a.deleted(r, err, "project", w[0])
		})},
	)
}

// policyFlags are the bounds that a workspace sets on its tokens.
type policyFlags struct {
	ttl, maxTTL   days
	uses, maxUses int32
	approval      bool
}

func (p *policyFlags) register(c *cobra.Command) {
	p.ttl.zero, p.maxTTL.zero = true, true
	c.Flags().Var(&p.ttl, "token-ttl", "life of its tokens unless they are minted with another; 0: the deployment's")
	c.Flags().Var(&p.maxTTL, "token-max-ttl", "longest life of its tokens; 0: the deployment's")
	c.Flags().Int32Var(&p.uses, "token-max-uses-default", 0, "uses of its tokens unless they are minted with another number; 0: the deployment's")
	c.Flags().Int32Var(&p.maxUses, "token-max-uses", 0, "most uses of its tokens; 0: the deployment's")
	c.Flags().BoolVar(&p.approval, "require-approval", false, "every host enrolled here awaits approval")
}

func (p *policyFlags) proto() *pb.TokenPolicy {
	return &pb.TokenPolicy{DefaultTtl: p.ttl.proto(), MaxTtl: p.maxTTL.proto(), DefaultMaxUses: p.uses, MaxUses: p.maxUses, RequireApproval: p.approval}
}

func (a *app) workspaceCommand() *cobra.Command {
	show := func(w *pb.Workspace) error {
		p := w.GetTokenPolicy()
		fields := [][2]string{{"id", w.Id}, {"name", w.Name}, {"project", w.ProjectId}, {"organisation", w.OrganisationId}, {"description", w.Description},
			{"created", stamp(w.CreatedAt)}, {"token life", duration(p.GetDefaultTtl())}, {"token life at most", duration(p.GetMaxTtl())}}
		if p.GetDefaultMaxUses() > 0 {
			fields = append(fields, [2]string{"token uses", strconv.Itoa(int(p.DefaultMaxUses))})
		}
		if p.GetMaxUses() > 0 {
			fields = append(fields, [2]string{"token uses at most", strconv.Itoa(int(p.MaxUses))})
		}
		if p.GetRequireApproval() {
			fields = append(fields, [2]string{"approval", "every host awaits it"})
		}
		return a.print(w, fields...)
	}
	var description, project, under string
	var policy, newPolicy policyFlags
	create := &cobra.Command{Use: "create NAME", Short: "Create a workspace", Args: args("NAME"), RunE: a.with(func(ctx context.Context, s *api, w []string) error {
		ws, err := call(ctx, s, s.workspaces.CreateWorkspace, &pb.CreateWorkspaceRequest{Project: project, Name: w[0], Description: description, TokenPolicy: policy.proto()})
		if err != nil {
			return err
		}
		return show(ws)
	})}
	create.Flags().StringVar(&description, "description", "", "what it is for")
	create.Flags().StringVar(&project, "project", "default", "`PROJECT` that it belongs to")
	policy.register(create)
	ls := &cobra.Command{Use: "list", Short: "List workspaces", Args: args(), RunE: a.with(func(ctx context.Context, s *api, _ []string) error {
		return list(a, ctx, 0, func(ctx context.Context, p *pb.Page) ([]*pb.Workspace, string, error) {
			r, err := call(ctx, s, s.workspaces.ListWorkspaces, &pb.ListWorkspacesRequest{Project: under, Page: p})
			return r.GetItems(), r.GetNextPageToken(), err
		}, "there is no workspace that you may see",
			column[*pb.Workspace]{"NAME", (*pb.Workspace).GetName}, column[*pb.Workspace]{"ID", (*pb.Workspace).GetId},
			column[*pb.Workspace]{"PROJECT", (*pb.Workspace).GetProjectId},
			column[*pb.Workspace]{"AGE", func(w *pb.Workspace) string { return ago(w.CreatedAt) }},
			column[*pb.Workspace]{"DESCRIPTION", (*pb.Workspace).GetDescription})
	})}
	ls.Flags().StringVar(&under, "project", "", "only those of this `PROJECT`")
	get := func(ctx context.Context, s *api, ref string) (*pb.Workspace, error) {
		return call(ctx, s, s.workspaces.GetWorkspace, &pb.GetWorkspaceRequest{Workspace: ref})
	}
	var newDescription string
	var update *cobra.Command
	update = &cobra.Command{Use: "update WORKSPACE", Short: "Change a workspace's description or what its tokens may be", Args: args("WORKSPACE"), RunE: a.with(func(ctx context.Context, s *api, w []string) error {
		if !slices.ContainsFunc([]string{"description", "token-ttl", "token-max-ttl", "token-max-uses-default", "token-max-uses", "require-approval"}, update.Flags().Changed) {
			return usage("there is nothing to change; say what by a flag")
		}
		ws, err := get(ctx, s, w[0])
		if err != nil {
			return err
		}
		q := &pb.UpdateWorkspaceRequest{Workspace: ws.Id, Revision: ws.Revision, TokenPolicy: ws.TokenPolicy}
		if q.TokenPolicy == nil {
			q.TokenPolicy = &pb.TokenPolicy{}
		}
		set, p := update.Flags().Changed, newPolicy.proto()
		if set("description") {
			q.Description = &newDescription
		}
		if set("token-ttl") {
			q.TokenPolicy.DefaultTtl = p.DefaultTtl
		}
		if set("token-max-ttl") {
			q.TokenPolicy.MaxTtl = p.MaxTtl
		}
		if set("token-max-uses-default") {
			q.TokenPolicy.DefaultMaxUses = p.DefaultMaxUses
		}
		if set("token-max-uses") {
			q.TokenPolicy.MaxUses = p.MaxUses
		}
		if set("require-approval") {
			q.TokenPolicy.RequireApproval = p.RequireApproval
		}
		if ws, err = call(ctx, s, s.workspaces.UpdateWorkspace, q); err != nil {
			return err
		}
		return show(ws)
	})}
	update.Flags().StringVar(&newDescription, "description", "", "what it is for")
	newPolicy.register(update)
	return noun("workspace", "Workspaces: what hosts and tokens belong to",
		create, ls, update,
		&cobra.Command{Use: "show WORKSPACE", Short: "Show a workspace", Args: args("WORKSPACE"), RunE: a.with(func(ctx context.Context, s *api, w []string) error {
			ws, err := get(ctx, s, w[0])
			if err != nil {
				return err
			}
			return show(ws)
		})},
		&cobra.Command{Use: "delete WORKSPACE", Short: "Delete a workspace that holds no hosts", Args: args("WORKSPACE"), RunE: a.with(func(ctx context.Context, s *api, w []string) error {
			if err := a.confirm(ctx, "delete the workspace %s?", w[0]); err != nil {
				return err
			}
			r, err := call(ctx, s, s.workspaces.DeleteWorkspace, &pb.DeleteWorkspaceRequest{Workspace: w[0]})
			return a.deleted(r, err, "workspace", w[0])
		})},
	)
}

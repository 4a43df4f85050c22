package cli

import (
	"context"
	"strings"

	"github.com/spf13/cobra"

	pb "github.com/loopbackd/loopback/api/loopback/v1"
)

func (a *app) roleCommand() *cobra.Command {
	type T = *pb.Role
	show := func(r T) error {
		return a.print(r, [2]string{"id", r.Id}, [2]string{"name", r.Name}, [2]string{"description", r.Description},
			[2]string{"belongs to", owner(r.Scope)}, [2]string{"permissions", strings.Join(r.Permissions, ", ")}, [2]string{"created", stamp(r.CreatedAt)})
	}
	q, u := &pb.CreateRoleRequest{}, &pb.UpdateRoleRequest{}
	create := &cobra.Command{Use: "create NAME", Short: "Create a role", Args: args("NAME"),
		Example: "  loopback role create labeller --permission hosts.read --permission hosts.label",
		RunE: a.with(func(ctx context.Context, s *api, w []string) error {
			q.Name = w[0]
			r, err := call(ctx, s, s.roles.CreateRole, q)
			if err != nil {
				return err
			}
			return show(r)
		})}
	create.Flags().StringVar(&q.Description, "description", "", "what it is for")
	create.Flags().StringVar(&q.Organisation, "org", "", "`ORGANISATION` that it belongs to (default: the deployment)")
	create.Flags().StringSliceVar(&q.Permissions, "permission", nil, "`PERMISSION`: noun.verb, noun.* or * (repeatable)")
	var under, description string
	ls := &cobra.Command{Use: "list", Short: "List roles", Args: args(), RunE: a.with(func(ctx context.Context, s *api, _ []string) error {
		return list(a, ctx, 0, func(ctx context.Context, p *pb.Page) ([]T, string, error) {
			r, err := call(ctx, s, s.roles.ListRoles, &pb.ListRolesRequest{Organisation: under, Page: p})
			return r.GetItems(), r.GetNextPageToken(), err
		}, "there are no roles that you may see",
			column[T]{"NAME", T.GetName}, column[T]{"ID", T.GetId}, column[T]{"BELONGS TO", func(r T) string { return owner(r.Scope) }},
			column[T]{"PERMISSIONS", func(r T) string { return strings.Join(r.Permissions, ",") }}, column[T]{"DESCRIPTION", T.GetDescription})
	})}
	ls.Flags().StringVar(&under, "org", "", "only those of this `ORGANISATION`")
	var update *cobra.Command
	update = &cobra.Command{Use: "update ROLE", Short: "Change a role, and with it what everybody may do who was given it", Args: args("ROLE"),
		RunE: a.with(func(ctx context.Context, s *api, w []string) error {
			if update.Flags().Changed("description") {
				u.Description = &description
			} else if len(u.Permissions) == 0 {
				return usage("there is nothing to change; say what by a flag")
			}
			u.Role = w[0]
			r, err := call(ctx, s, s.roles.UpdateRole, u)
			if err != nil {
				return err
			}
			return show(r)
		})}
	update.Flags().StringVar(&description, "description", "", "what it is for")
	update.Flags().StringSliceVar(&u.Permissions, "permission", nil, "`PERMISSION` that it is to have, all of them (repeatable)")
	return noun("role", "Roles: named sets of permissions", create, ls, update, a.rolePermissions(),
		&cobra.Command{Use: "show ROLE", Short: "Show a role", Args: args("ROLE"), RunE: a.with(func(ctx context.Context, s *api, w []string) error {
			r, err := call(ctx, s, s.roles.GetRole, &pb.GetRoleRequest{Role: w[0]})
			if err != nil {
				return err
			}
			return show(r)
		})},
		&cobra.Command{Use: "delete ROLE", Short: "Delete a role that no binding names", Args: args("ROLE"), RunE: a.with(func(ctx context.Context, s *api, w []string) error {
			if err := a.confirm(ctx, "delete the role %s?", w[0]); err != nil {
				return err
			}
			r, err := call(ctx, s, s.roles.DeleteRole, &pb.DeleteRoleRequest{Role: w[0]})
			return a.deleted(r, err, "role", w[0])
		})},
	)
}

func (a *app) rolePermissions() *cobra.Command {
	type T = *pb.Permission
	return &cobra.Command{Use: "permissions", Short: "List all permissions that a role may name, and what they allow", Args: args(), RunE: a.with(func(ctx context.Context, s *api, _ []string) error {
		return list(a, ctx, 0, func(ctx context.Context, _ *pb.Page) ([]T, string, error) {
			r, err := call(ctx, s, s.roles.ListPermissions, &pb.ListPermissionsRequest{})
			return r.GetItems(), "", err
		}, "there are none",
			column[T]{"PERMISSION", T.GetName}, column[T]{"TIER 0", func(p T) string { return yes(p.TierZero) }}, column[T]{"ALLOWS ONE TO", T.GetAllows})
	})}
}

// bindingFlags say what a binding is to be.
type bindingFlags struct {
	q          pb.CreateBindingRequest
	mfa        days
	addresses  []string
	ticket     string
	from, to   moment
	everywhere bool
}

func (b *bindingFlags) register(c *cobra.Command) {
	f := c.Flags()
	f.StringVar(&b.q.User, "user", "", "who gets it: a `USER`")
	f.StringVar(&b.q.Group, "group", "", "who gets it: a `GROUP`")
	f.StringVar(&b.q.ServiceAccount, "service-account", "", "who gets it: a service `ACCOUNT`")
	f.StringVar(&b.q.Role, "role", "", "the `ROLE`: owner, admin, operator, member, auditor, or one of your own")
	f.StringVar(&b.q.Organisation, "in-org", "", "holds in this `ORGANISATION`")
	f.StringVar(&b.q.Project, "in-project", "", "holds in this `PROJECT`")
	f.StringVar(&b.q.Workspace, "in-workspace", "", "holds in this `WORKSPACE`")
	f.BoolVar(&b.everywhere, "everywhere", false, "holds in the whole deployment")
	f.StringVar(&b.q.Hosts, "hosts", "", "only on hosts whose labels match this `SELECTOR`")
	f.BoolVar(&b.q.Deny, "deny", false, "deny what the role holds instead of giving it; a denial wins")
	f.Var(&b.mfa, "mfa-within", "only when a second factor was given no longer ago than this")
	f.StringSliceVar(&b.addresses, "from-address", nil, "only for calls from this `CIDR` (repeatable)")
	f.StringVar(&b.ticket, "ticket-pattern", "", "only when a ticket is named that matches this `PATTERN` as a whole")
	b.from.ahead, b.to.ahead = true, true
	f.Var(&b.from, "not-before", "from this time on, or after this span")
	f.Var(&b.to, "not-after", "until this time, or for this span: 8h")
	f.StringVar(&b.q.Description, "description", "", "why")
}

// request is what the flags ask for.
func (b *bindingFlags) request() (*pb.CreateBindingRequest, error) {
	q := &b.q
	places := 0
	for _, given := range []bool{q.Organisation != "", q.Project != "", q.Workspace != "", b.everywhere} {
		if given {
			places++
		}
	}
	switch {
	case places != 1:
		return nil, usage("say where it holds, by one of --in-org, --in-project, --in-workspace and --everywhere")
	case q.Role == "":
		return nil, usage("--role is missing")
	}
	if b.mfa.d > 0 || len(b.addresses) > 0 || b.ticket != "" {
		q.Conditions = &pb.Conditions{MfaWithin: b.mfa.proto(), Addresses: b.addresses, Ticket: b.ticket}
	}
	q.NotBefore, q.NotAfter = b.from.proto(), b.to.proto()
	return q, nil
}

func (a *app) bindingCommand() *cobra.Command {
	type T = *pb.Binding
	show := func(b T) error {
		c := b.GetConditions()
		return a.print(b, [2]string{"id", b.Id}, [2]string{"effect", b.Effect}, [2]string{"role", b.RoleId}, [2]string{"subject", b.SubjectId},
			[2]string{"scope", scope(b.Scope)}, [2]string{"hosts", b.Hosts}, [2]string{"second factor within", duration(c.GetMfaWithin())},
			[2]string{"from addresses", strings.Join(c.GetAddresses(), ", ")}, [2]string{"ticket", c.GetTicket()}, [2]string{"not before", stamp(b.NotBefore)},
			[2]string{"not after", stamp(b.NotAfter)}, [2]string{"description", b.Description}, [2]string{"created", stamp(b.CreatedAt)}, [2]string{"created by", b.CreatedBy})
	}
	var flags bindingFlags
	create := &cobra.Command{Use: "create", Short: "Give a role to somebody, or deny it", Args: args(),
		Example: "  loopback binding create --user ada --role operator --in-workspace prod --hosts env=staging\n  loopback binding create --group on-call --role admin --in-org acme --not-after 8h --from-address 10.0.0.0/8",
		RunE: a.with(func(ctx context.Context, s *api, _ []string) error {
			q, err := flags.request()
			if err != nil {
				return err
			}
			b, err := call(ctx, s, s.bindings.CreateBinding, q)
			if err != nil {
				return err
			}
			return show(b)
		})}
	flags.register(create)
	q := &pb.ListBindingsRequest{}
	ls := &cobra.Command{Use: "list", Short: "List bindings, newest first", Args: args(), RunE: a.with(func(ctx context.Context, s *api, _ []string) error {
		return list(a, ctx, 0, func(ctx context.Context, p *pb.Page) ([]T, string, error) {
			q.Page = p
			r, err := call(ctx, s, s.bindings.ListBindings, q)
			return r.GetItems(), r.GetNextPageToken(), err
		}, "there are no bindings that you may see",
			column[T]{"ID", T.GetId}, column[T]{"EFFECT", T.GetEffect}, column[T]{"ROLE", T.GetRoleId}, column[T]{"SUBJECT", T.GetSubjectId},
			column[T]{"SCOPE", func(b T) string { return scope(b.Scope) }}, column[T]{"HOSTS", T.GetHosts},
			column[T]{"ENDS", func(b T) string { return until(b.NotAfter) }})
	})}
	ls.Flags().StringVar(&q.Organisation, "in-org", "", "only those in this `ORGANISATION`")
	ls.Flags().StringVar(&q.Project, "in-project", "", "only those in this `PROJECT`")
	ls.Flags().StringVar(&q.Workspace, "in-workspace", "", "only those in this `WORKSPACE`")
	ls.Flags().StringVar(&q.Subject, "subject", "", "only those of this user, group or service account, by its `ID`")
	ls.Flags().StringVar(&q.Role, "role", "", "only those of this `ROLE`")
	return noun("binding", "Bindings: who was given which role, where, and for how long", create, ls,
		&cobra.Command{Use: "show BINDING", Short: "Show a binding", Args: args("BINDING"), RunE: a.with(func(ctx context.Context, s *api, w []string) error {
			b, err := call(ctx, s, s.bindings.GetBinding, &pb.GetBindingRequest{Binding: w[0]})
			if err != nil {
				return err
			}
			return show(b)
		})},
		&cobra.Command{Use: "delete BINDING", Short: "End a binding, everywhere and at once", Args: args("BINDING"), RunE: a.with(func(ctx context.Context, s *api, w []string) error {
			if err := a.confirm(ctx, "delete the binding %s?", w[0]); err != nil {
				return err
			}
			r, err := call(ctx, s, s.bindings.DeleteBinding, &pb.DeleteBindingRequest{Binding: w[0]})
			return a.deleted(r, err, "binding", w[0])
		})},
	)
}

package cli

import (
	"context"
	"strings"

	"github.com/spf13/cobra"

	pb "github.com/loopbackd/loopback/api/loopback/v1"
)

// standing is whether a user or a service account may act.
func standing(disabled string) string {
	if disabled == "" {
		return "active"
	}
	return "disabled since " + disabled
}

func (a *app) userCommand() *cobra.Command {
	type T = *pb.User
	show := func(u T) error {
		return a.print(u, [2]string{"id", u.Id}, [2]string{"name", u.Name}, [2]string{"email", u.Email}, [2]string{"identity", u.Identity}, [2]string{"description", u.Description},
			[2]string{"belongs to", owner(u.Scope)}, [2]string{"state", standing(stamp(u.DisabledAt))}, [2]string{"created", stamp(u.CreatedAt)})
	}
	q := &pb.CreateUserRequest{}
	create := &cobra.Command{Use: "create NAME", Short: "Create a user", Args: args("NAME"),
		Example: "  loopback user create ada --email ada@example.com\n  loopback binding create --user ada --role operator --in-workspace prod",
		RunE: a.with(func(ctx context.Context, s *api, w []string) error {
			q.Name = w[0]
			u, err := call(ctx, s, s.users.CreateUser, q)
			if err != nil {
				return err
			}
			return show(u)
		})}
	create.Flags().StringVar(&q.Email, "email", "", "e-mail `ADDRESS`")
	create.Flags().StringVar(&q.Identity, "identity", "", "the person behind, as the `PROVIDER` of identities names them; the same for all their accounts")
	create.Flags().StringVar(&q.Description, "description", "", "who this is")
	create.Flags().StringVar(&q.Organisation, "org", "", "`ORGANISATION` that the user belongs to (default: the deployment)")
	var under string
	ls := &cobra.Command{Use: "list", Short: "List users", Args: args(), RunE: a.with(func(ctx context.Context, s *api, _ []string) error {
		return list(a, ctx, 0, func(ctx context.Context, p *pb.Page) ([]T, string, error) {
			r, err := call(ctx, s, s.users.ListUsers, &pb.ListUsersRequest{Organisation: under, Page: p})
			return r.GetItems(), r.GetNextPageToken(), err
		}, "there are no users that you may see",
			column[T]{"NAME", T.GetName}, column[T]{"ID", T.GetId}, column[T]{"EMAIL", T.GetEmail}, column[T]{"BELONGS TO", func(u T) string { return owner(u.Scope) }},
			column[T]{"STATE", func(u T) string { return standing(stamp(u.DisabledAt)) }})
	})}
	ls.Flags().StringVar(&under, "org", "", "only those of this `ORGANISATION`")
	set := func(verb, short string, disabled bool) *cobra.Command {
		return &cobra.Command{Use: verb + " USER", Short: short, Args: args("USER"), RunE: a.with(func(ctx context.Context, s *api, w []string) error {
			u, err := call(ctx, s, s.users.UpdateUser, &pb.UpdateUserRequest{User: w[0], Disabled: &disabled})
			if err != nil {
				return err
			}
			return show(u)
		})}
	}
	var email, identity, about string
	var update *cobra.Command
	update = &cobra.Command{Use: "update USER", Short: "Change what is known of a user", Args: args("USER"), RunE: a.with(func(ctx context.Context, s *api, w []string) error {
		u := &pb.UpdateUserRequest{User: w[0]}
		for flag, field := range map[string]struct {
			value *string
			into  **string
		}{"email": {&email, &u.Email}, "identity": {&identity, &u.Identity}, "description": {&about, &u.Description}} {
			if update.Flags().Changed(flag) {
				*field.into = field.value
			}
		}
		if u.Email == nil && u.Identity == nil && u.Description == nil {
			return usage("there is nothing to change; say what by a flag")
		}
		out, err := call(ctx, s, s.users.UpdateUser, u)
		if err != nil {
			return err
		}
		return show(out)
	})}
	update.Flags().StringVar(&email, "email", "", "e-mail `ADDRESS`")
	update.Flags().StringVar(&identity, "identity", "", "the person behind, as the `PROVIDER` of identities names them")
	update.Flags().StringVar(&about, "description", "", "who this is")
	return noun("user", "Users: people who act", create, ls, update,
		set("disable", "Let a user do nothing any more, from now on and everywhere", true),
		set("enable", "Let a disabled user act again", false),
		a.inviteCommand(),
		&cobra.Command{Use: "show USER", Short: "Show a user", Args: args("USER"), RunE: a.with(func(ctx context.Context, s *api, w []string) error {
			u, err := call(ctx, s, s.users.GetUser, &pb.GetUserRequest{User: w[0]})
			if err != nil {
				return err
			}
			return show(u)
		})},
		&cobra.Command{Use: "delete USER", Short: "Delete a user, with bindings, memberships and API keys", Args: args("USER"), RunE: a.with(func(ctx context.Context, s *api, w []string) error {
			if err := a.confirm(ctx, "delete the user %s?", w[0]); err != nil {
				return err
			}
			r, err := call(ctx, s, s.users.DeleteUser, &pb.DeleteUserRequest{User: w[0]})
			return a.deleted(r, err, "user", w[0])
		})},
	)
}

// owner is what users, groups and roles belong to.
func owner(s *pb.Scope) string { return first(s.GetOrganisationId(), "the deployment") }

func (a *app) serviceAccountCommand() *cobra.Command {
	type T = *pb.ServiceAccount
	show := func(u T) error {
		return a.print(u, [2]string{"id", u.Id}, [2]string{"name", u.Name}, [2]string{"description", u.Description},
			[2]string{"belongs to", owner(u.Scope)}, [2]string{"state", standing(stamp(u.DisabledAt))}, [2]string{"created", stamp(u.CreatedAt)})
	}
	q := &pb.CreateServiceAccountRequest{}
	create := &cobra.Command{Use: "create NAME", Short: "Create a service account", Args: args("NAME"),
		Example: "  loopback service-account create ci\n  loopback binding create --service-account ci --role operator --in-workspace prod\n  loopback apikey create ci --service-account ci --in-workspace prod --permission hosts.read",
		RunE: a.with(func(ctx context.Context, s *api, w []string) error {
			q.Name = w[0]
			u, err := call(ctx, s, s.accounts.CreateServiceAccount, q)
			if err != nil {
				return err
			}
			return show(u)
		})}
	create.Flags().StringVar(&q.Description, "description", "", "what it is for")
	create.Flags().StringVar(&q.Organisation, "org", "", "`ORGANISATION` that it belongs to (default: the deployment)")
	var under string
	ls := &cobra.Command{Use: "list", Short: "List service accounts", Args: args(), RunE: a.with(func(ctx context.Context, s *api, _ []string) error {
		return list(a, ctx, 0, func(ctx context.Context, p *pb.Page) ([]T, string, error) {
			r, err := call(ctx, s, s.accounts.ListServiceAccounts, &pb.ListServiceAccountsRequest{Organisation: under, Page: p})
			return r.GetItems(), r.GetNextPageToken(), err
		}, "there are no service accounts that you may see",
			column[T]{"NAME", T.GetName}, column[T]{"ID", T.GetId}, column[T]{"BELONGS TO", func(u T) string { return owner(u.Scope) }},
			column[T]{"STATE", func(u T) string { return standing(stamp(u.DisabledAt)) }}, column[T]{"DESCRIPTION", T.GetDescription})
	})}
	ls.Flags().StringVar(&under, "org", "", "only those of this `ORGANISATION`")
	set := func(verb, short string, disabled bool) *cobra.Command {
		return &cobra.Command{Use: verb + " ACCOUNT", Short: short, Args: args("ACCOUNT"), RunE: a.with(func(ctx context.Context, s *api, w []string) error {
			u, err := call(ctx, s, s.accounts.UpdateServiceAccount, &pb.UpdateServiceAccountRequest{ServiceAccount: w[0], Disabled: &disabled})
			if err != nil {
				return err
			}
			return show(u)
		})}
	}
	var about string
	var update *cobra.Command
	update = &cobra.Command{Use: "update ACCOUNT", Short: "Change what is known of a service account", Args: args("ACCOUNT"), RunE: a.with(func(ctx context.Context, s *api, w []string) error {
		if !update.Flags().Changed("description") {
			return usage("there is nothing to change; say what by a flag")
		}
		u, err := call(ctx, s, s.accounts.UpdateServiceAccount, &pb.UpdateServiceAccountRequest{ServiceAccount: w[0], Description: &about})
		if err != nil {
			return err
		}
		return show(u)
	})}
	update.Flags().StringVar(&about, "description", "", "what it is for")
	return noun("service-account", "Service accounts: machines that act, by API keys of theirs", create, ls, update,
		set("disable", "Let a service account do nothing any more, from now on and everywhere", true),
		set("enable", "Let a disabled service account act again", false),
		&cobra.Command{Use: "show ACCOUNT", Short: "Show a service account", Args: args("ACCOUNT"), RunE: a.with(func(ctx context.Context, s *api, w []string) error {
			u, err := call(ctx, s, s.accounts.GetServiceAccount, &pb.GetServiceAccountRequest{ServiceAccount: w[0]})
			if err != nil {
				return err
			}
			return show(u)
		})},
		&cobra.Command{Use: "delete ACCOUNT", Short: "Delete a service account, with bindings and API keys", Args: args("ACCOUNT"), RunE: a.with(func(ctx context.Context, s *api, w []string) error {
			if err := a.confirm(ctx, "delete the service account %s?", w[0]); err != nil {
				return err
			}
			r, err := call(ctx, s, s.accounts.DeleteServiceAccount, &pb.DeleteServiceAccountRequest{ServiceAccount: w[0]})
			return a.deleted(r, err, "service account", w[0])
		})},
	)
}

func (a *app) groupCommand() *cobra.Command {
	type T = *pb.Group
	show := func(g T) error {
		return a.print(g, [2]string{"id", g.Id}, [2]string{"name", g.Name}, [2]string{"description", g.Description},
			[2]string{"belongs to", owner(g.Scope)}, [2]string{"members", strings.Join(g.Members, ", ")}, [2]string{"created", stamp(g.CreatedAt)})
	}
	q := &pb.CreateGroupRequest{}
	create := &cobra.Command{Use: "create NAME", Short: "Create a group", Args: args("NAME"), RunE: a.with(func(ctx context.Context, s *api, w []string) error {
		q.Name = w[0]
		g, err := call(ctx, s, s.groups.CreateGroup, q)
		if err != nil {
			return err
		}
		return show(g)
	})}
	create.Flags().StringVar(&q.Description, "description", "", "who is in it")
	create.Flags().StringVar(&q.Organisation, "org", "", "`ORGANISATION` that it belongs to (default: the deployment)")
	var under string
	ls := &cobra.Command{Use: "list", Short: "List groups", Args: args(), RunE: a.with(func(ctx context.Context, s *api, _ []string) error {
		return list(a, ctx, 0, func(ctx context.Context, p *pb.Page) ([]T, string, error) {
			r, err := call(ctx, s, s.groups.ListGroups, &pb.ListGroupsRequest{Organisation: under, Page: p})
			return r.GetItems(), r.GetNextPageToken(), err
		}, "there are no groups that you may see",
			column[T]{"NAME", T.GetName}, column[T]{"ID", T.GetId}, column[T]{"BELONGS TO", func(g T) string { return owner(g.Scope) }},
			column[T]{"MEMBERS", func(g T) string { return some(g.Members) }}, column[T]{"DESCRIPTION", T.GetDescription})
	})}
	ls.Flags().StringVar(&under, "org", "", "only those of this `ORGANISATION`")
	return noun("group", "Groups: users who get the same bindings", create, ls,
		&cobra.Command{Use: "show GROUP", Short: "Show a group", Args: args("GROUP"), RunE: a.with(func(ctx context.Context, s *api, w []string) error {
			g, err := call(ctx, s, s.groups.GetGroup, &pb.GetGroupRequest{Group: w[0]})
			if err != nil {
				return err
			}
			return show(g)
		})},
		&cobra.Command{Use: "add GROUP USER…", Short: "Put users into a group", Args: cobra.MinimumNArgs(2), RunE: a.with(func(ctx context.Context, s *api, w []string) error {
			g, err := call(ctx, s, s.groups.AddGroupMembers, &pb.AddGroupMembersRequest{Group: w[0], Users: w[1:]})
			if err != nil {
				return err
			}
			return show(g)
		})},
		&cobra.Command{Use: "remove GROUP USER…", Short: "Take users out of a group", Args: cobra.MinimumNArgs(2), RunE: a.with(func(ctx context.Context, s *api, w []string) error {
			g, err := call(ctx, s, s.groups.RemoveGroupMembers, &pb.RemoveGroupMembersRequest{Group: w[0], Users: w[1:]})
			if err != nil {
				return err
			}
			return show(g)
		})},
		&cobra.Command{Use: "delete GROUP", Short: "Delete a group, with its bindings", Args: args("GROUP"), RunE: a.with(func(ctx context.Context, s *api, w []string) error {
			if err := a.confirm(ctx, "delete the group %s?", w[0]); err != nil {
				return err
			}
			r, err := call(ctx, s, s.groups.DeleteGroup, &pb.DeleteGroupRequest{Group: w[0]})
			return a.deleted(r, err, "group", w[0])
		})},
	)
}

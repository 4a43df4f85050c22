package cli

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	pb "github.com/loopbackd/loopback/api/loopback/v1"
)

func (a *app) apiKeyCommand() *cobra.Command {
	type T = *pb.ApiKey
	show := func(k T) error {
		return a.print(k, [2]string{"id", k.Id}, [2]string{"name", k.Name}, [2]string{"description", k.Description},
			[2]string{"owner", k.OwnerId}, [2]string{"scope", scope(k.Scope)}, [2]string{"permissions", strings.Join(k.Permissions, ",")},
			[2]string{"created", stamp(k.CreatedAt)}, [2]string{"created by", k.CreatedBy}, [2]string{"expires", stamp(k.ExpiresAt)},
			[2]string{"last used", stamp(k.LastUsedAt)}, [2]string{"revoked", stamp(k.RevokedAt)})
	}
	q := &pb.CreateApiKeyRequest{}
	var ttl days
	create := &cobra.Command{
		Use: "create NAME", Short: "Make a key; its string is shown once", Args: args("NAME"),
		Example: "  loopback apikey create ci --in-workspace prod --permission agent_tokens.mint --permission hosts.read --ttl 30d",
		RunE: a.with(func(ctx context.Context, s *api, w []string) error {
			q.Name, q.Ttl = w[0], ttl.proto()
			r, err := call(ctx, s, s.keys.CreateApiKey, q)
			if err != nil {
				return err
			}
			return a.created(r)
		}),
	}
	f := create.Flags()
	f.StringVar(&q.Description, "description", "", "what it is for")
	f.StringVar(&q.Organisation, "in-org", "", "holds in this `ORGANISATION`")
	f.StringVar(&q.Project, "in-project", "", "holds in this `PROJECT`")
	f.StringVar(&q.Workspace, "in-workspace", "", "holds in this `WORKSPACE` (default: wherever you do)")
	f.StringSliceVar(&q.Permissions, "permission", nil, "`PERMISSION`, noun.verb or * (repeatable)")
	f.StringVar(&q.ServiceAccount, "service-account", "", "whose key it becomes: a service `ACCOUNT` (default: your own)")
	f.Var(&ttl, "ttl", "how long it works (default: 90d)")
	return noun("apikey", "API keys: credentials of scripts",
		create,
		&cobra.Command{Use: "list", Short: "List keys, newest first", Args: args(), RunE: a.with(func(ctx context.Context, s *api, _ []string) error {
			return list(a, ctx, 0, func(ctx context.Context, p *pb.Page) ([]T, string, error) {
				r, err := call(ctx, s, s.keys.ListApiKeys, &pb.ListApiKeysRequest{Page: p})
				return r.GetItems(), r.GetNextPageToken(), err
			}, "there are no keys that you may see",
				column[T]{"NAME", T.GetName}, column[T]{"ID", T.GetId}, column[T]{"SCOPE", func(k T) string { return scope(k.Scope) }},
				column[T]{"PERMISSIONS", func(k T) string { return strings.Join(k.Permissions, ",") }},
				column[T]{"EXPIRES", func(k T) string {
					if k.RevokedAt != nil {
						return "revoked"
					}
					return until(k.ExpiresAt)
				}},
				column[T]{"LAST USED", func(k T) string { return ago(k.LastUsedAt) }})
		})},
		&cobra.Command{Use: "show KEY", Short: "Show a key, without its string", Args: args("KEY"), RunE: a.with(func(ctx context.Context, s *api, w []string) error {
			k, err := call(ctx, s, s.keys.GetApiKey, &pb.GetApiKeyRequest{ApiKey: w[0]})
			if err != nil {
				return err
			}
			return show(k)
		})},
		&cobra.Command{Use: "revoke KEY", Short: "End a key at once", Args: args("KEY"), RunE: a.with(func(ctx context.Context, s *api, w []string) error {
			k, err := call(ctx, s, s.keys.RevokeApiKey, &pb.RevokeApiKeyRequest{ApiKey: w[0]})
			if err != nil {
				return err
			}
			return show(k)
		})},
	)
}

func (a *app) created(r *pb.CreateApiKeyResponse) error {
	if a.flags.output != "table" {
		return a.print(r)
	}
	fmt.Fprintln(a.Out, r.Secret)
	a.hint("This is the only time that the key is shown. It works until %s.", stamp(r.ApiKey.ExpiresAt))
	return nil
}

func scope(s *pb.Scope) string {
	return first(s.GetWorkspaceId(), s.GetProjectId(), s.GetOrganisationId(), "everything")
}

func (a *app) whoamiCommand() *cobra.Command {
	return &cobra.Command{Use: "whoami", Short: "Show who you are and what you may do", Args: args(), RunE: a.with(func(ctx context.Context, s *api, _ []string) error {
		me, err := call(ctx, s, s.sessions.WhoAmI, &pb.WhoAmIRequest{})
		if err != nil {
			return err
		}
		fields := [][2]string{{"kind", me.Kind}, {"name", me.Name}, {"id", me.Id}, {"on behalf of", me.PrincipalId}, {"expires", stamp(me.ExpiresAt)}, {"control plane", s.URL}, {"deployment", me.Deployment}, {"version", me.ServerVersion}}
		if in := me.SignIn; in != nil {
			fields = append(fields, [2]string{"signed in", how(in)}, [2]string{"since", stamp(in.CreatedAt)}, [2]string{"second factor", first(ago(in.MfaAt), "not given")})
		}
		for _, g := range me.Grants {
			fields = append(fields, [2]string{"may", strings.Join(g.Permissions, ",") + " in " + scope(g.Scope)})
		}
		return a.print(me, fields...)
	})}
}

func (a *app) versionCommand() *cobra.Command {
	return &cobra.Command{Use: "version", Short: "Show the version of this program", Args: args(), RunE: func(*cobra.Command, []string) error {
		if a.flags.output == "table" {
			_, err := fmt.Fprintln(a.Out, "loopback "+a.Version)
			return err
		}
		return a.printJSON([]byte(fmt.Sprintf(`{"version":%q}`, a.Version)))
	}}
}

func (a *app) completionCommand() *cobra.Command {
	shells := []string{"bash", "zsh", "fish", "powershell"}
	return &cobra.Command{
		Use: "completion SHELL", Short: "Write the completion script of bash, zsh, fish or powershell", Args: args("SHELL"), ValidArgs: shells,
		Example: "  loopback completion bash > /etc/bash_completion.d/loopback",
		RunE: func(c *cobra.Command, w []string) error {
			root := c.Root()
			switch w[0] {
			case "bash":
				return root.GenBashCompletionV2(a.Out, true)
			case "zsh":
				return root.GenZshCompletion(a.Out)
			case "fish":
				return root.GenFishCompletion(a.Out, true)
			case "powershell":
				return root.GenPowerShellCompletionWithDesc(a.Out)
			}
			return usage("%q is not a shell known here: %s", w[0], strings.Join(shells, ", "))
		},
	}
}

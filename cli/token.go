package cli

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	pb "github.com/loopbackd/loopback/api/loopback/v1"
)

func (a *app) tokenCommand() *cobra.Command {
	return noun("token", "Enrolment tokens: what a new host is let in by",
		a.tokenMint(), a.tokenList(), a.tokenShow(), a.tokenRotate(), a.tokenRevoke())
}

// minted prints a token's string, for the only time: alone on standard output, so that a script can take it.
func (a *app) minted(r *pb.MintTokenResponse) error {
	if a.flags.output != "table" {
		return a.print(r)
	}
	fmt.Fprintln(a.Out, r.Secret)
	t := r.Token
	a.hint("")
	enrols := hosts(t.MaxUses)
	if t.Honeytoken {
		enrols = "nobody, and tells of whoever tries,"
	}
	a.hint("This is the only time that the token is shown. It enrols %s until %s.", enrols, stamp(t.ExpiresAt))
	a.hint("On each server, as root, with the token in LOOPBACK_TOKEN:")
	a.hint("")
	a.hint("  %s", r.InstallCommand)
	a.hint("")
	a.hint("Then watch it arrive: loopback host watch")
	return nil
}

func hosts(n int32) string {
	if n == 1 {
		return "1 host"
	}
	return strconv.Itoa(int(n)) + " hosts"
}

func (a *app) tokenMint() *cobra.Command {
	q := &pb.MintTokenRequest{}
	var ttl, ephemeral days
	var hostLabels []string
	c := &cobra.Command{
		Use: "mint", Short: "Make a token; its string is shown once", Args: args(),
		Example: "  export LOOPBACK_TOKEN=$(loopback token mint --ttl 2h --max-uses 20 --description OPS-31)",
		RunE: a.with(func(ctx context.Context, s *api, _ []string) (err error) {
			if q.HostLabels, err = labels(hostLabels); err != nil {
				return err
			}
			q.Workspace, q.Ttl, q.EphemeralTtl = s.Workspace, ttl.proto(), ephemeral.proto()
			r, err := call(ctx, s, s.tokens.MintToken, q)
			if err != nil {
				return err
			}
			return a.minted(r)
		}),
	}
	f := c.Flags()
	f.StringVar(&q.Name, "name", "", "name (default: made up)")
	f.StringVar(&q.Description, "description", "", "ticket, environment, owner …")
	f.Var(&ttl, "ttl", "how long it works: 90m, 7d (default: the workspace's)")
	f.BoolVar(&q.LongLived, "long-lived", false, "works as long as the deployment's long-lived tokens do, unless --ttl says")
	f.Int32Var(&q.MaxUses, "max-uses", 0, "how many hosts it enrols (default: the workspace's)")
	f.StringSliceVar(&q.AllowedNetworks, "allow-network", nil, "`NETWORK` that it may be used from (repeatable; default: anywhere)")
	f.StringVar(&q.HostNamePattern, "host-name", "", "`PATTERN` that a host's name must match: web-*")
	f.BoolVar(&q.RequiresApproval, "require-approval", false, "hosts await approval")
	f.StringSliceVar(&hostLabels, "host-label", nil, "`KEY=VALUE` forced on its hosts (repeatable)")
	f.StringVar(&q.Channel, "channel", "", "release channel of its hosts: stable or preview")
	f.Var(&ephemeral, "ephemeral", "remove its hosts after they were offline this long")
	f.BoolVar(&q.Honeytoken, "honeytoken", false, "a trap: enrols nobody, every use is a leak signal")
	return c
}

func (a *app) tokenList() *cobra.Command {
	var states []string
	var limit int
	c := &cobra.Command{Use: "list", Short: "List tokens, newest first", Args: args(), RunE: a.with(func(ctx context.Context, s *api, _ []string) error {
		type T = *pb.Token
		return list(a, ctx, limit, func(ctx context.Context, p *pb.Page) ([]T, string, error) {
			r, err := call(ctx, s, s.tokens.ListTokens, &pb.ListTokensRequest{Workspace: s.Workspace, States: states, Page: p})
			return r.GetItems(), r.GetNextPageToken(), err
		}, "there are no tokens; make one: loopback token mint",
			column[T]{"NAME", T.GetName}, column[T]{"ID", T.GetId}, column[T]{"STATE", T.GetState},
			column[T]{"USES", func(t T) string { return fmt.Sprintf("%d/%d", t.Uses, t.MaxUses) }},
			column[T]{"EXPIRES", func(t T) string { return until(t.ExpiresAt) }},
			column[T]{"LAST USED", func(t T) string { return ago(t.LastUsedAt) }},
			column[T]{"WARNINGS", func(t T) string { return strings.Join(t.Warnings, ",") }},
			column[T]{"DESCRIPTION", T.GetDescription})
	})}
	c.Flags().StringSliceVar(&states, "state", nil, "only tokens in this `STATE`: active, exhausted, expired, revoked (repeatable)")
	c.Flags().IntVar(&limit, "limit", 0, "show at most this many (default: all)")
	return c
}

func (a *app) showToken(t *pb.Token) error {
	fields := [][2]string{{"id", t.Id}, {"name", t.Name}, {"description", t.Description},
		{"state", t.State}, {"uses", fmt.Sprintf("%d of %d", t.Uses, t.MaxUses)},
		{"created", stamp(t.CreatedAt)}, {"created by", t.CreatedBy}, {"expires", stamp(t.ExpiresAt)},
		{"allowed networks", strings.Join(t.AllowedNetworks, ",")}, {"host names", t.HostNamePattern},
		{"approval", yes(t.RequiresApproval)}, {"host labels", pairs(t.HostLabels)}, {"channel", t.Channel},
		{"ephemeral", duration(t.EphemeralTtl)}, {"honeytoken", yes(t.Honeytoken)},
		{"last used", stamp(t.LastUsedAt)}, {"last address", t.LastAddress}, {"successor", t.SuccessorId},
		{"revoked", stamp(t.RevokedAt)}, {"revoked by", t.RevokedBy}, {"reason", t.Reason},
		{"warnings", strings.Join(t.Warnings, ", ")}}
	for _, one := range t.Signals {
		fields = append(fields, [2]string{"signal " + one.Kind, fmt.Sprintf("%d times, last %s from %s", one.Count, stamp(one.LastAt), one.Address)})
	}
	return a.print(t, fields...)
}

func yes(b bool) string {
	if b {
		return "yes"
	}
	return ""
}

func (a *app) tokenShow() *cobra.Command {
	return &cobra.Command{Use: "show TOKEN", Short: "Show a token, without its string", Args: args("TOKEN"), RunE: a.with(func(ctx context.Context, s *api, w []string) error {
		t, err := call(ctx, s, s.tokens.GetToken, &pb.GetTokenRequest{Token: w[0]})
		if err != nil {
			return err
		}
		return a.showToken(t)
	})}
}

func (a *app) tokenRotate() *cobra.Command {
	var overlap, ttl days
	c := &cobra.Command{Use: "rotate TOKEN", Short: "Mint a successor; both work until the overlap ends", Args: args("TOKEN"), RunE: a.with(func(ctx context.Context, s *api, w []string) error {
		r, err := call(ctx, s, s.tokens.RotateToken, &pb.RotateTokenRequest{Token: w[0], Overlap: overlap.proto(), Ttl: ttl.proto()})
		if err != nil {
			return err
		}
		return a.minted(r)
	})}
	c.Flags().Var(&overlap, "overlap", "how long the old one still works (default: 1h)")
	c.Flags().Var(&ttl, "ttl", "life of the successor (default: as long as the old one was minted for)")
	return c
}

func (a *app) tokenRevoke() *cobra.Command {
	q := &pb.RevokeTokenRequest{}
	var since moment
	var noWait bool
	c := &cobra.Command{Use: "revoke TOKEN", Short: "End a token at once, alone or with the hosts that it enrolled", Args: args("TOKEN"), RunE: a.with(func(ctx context.Context, s *api, w []string) error {
		if q.Hosts != "" && q.Hosts != "keep" {
			if err := a.confirm(ctx, "revoke %s and %s the hosts that it enrolled?", w[0], q.Hosts); err != nil {
				return err
			}
		}
		q.Token, q.Since = w[0], since.proto()
		r, err := call(ctx, s, s.tokens.RevokeToken, q)
		if err != nil {
			return err
		}
		if r.Operation != nil && !noWait {
			if r.Operation, err = a.follow(ctx, s, r.Operation); err != nil {
				return err
			}
		}
		show := func() error { return a.showToken(r.Token) }
		if a.flags.output != "table" {
			show = func() error { return a.print(r) }
		}
		if err := show(); err != nil {
			return err
		}
		return failed(r.Operation)
	})}
	c.Flags().StringVar(&q.Hosts, "hosts", "keep", "what becomes of its hosts: keep, quarantine or expel")
	c.Flags().Var(&since, "since", "only hosts enrolled since: a time, or 2h for two hours ago")
	c.Flags().StringVar(&q.Reason, "reason", "", "why; goes to the audit log")
	c.Flags().BoolVar(&noWait, "no-wait", false, "do not wait until the hosts are dealt with")
	return c
}

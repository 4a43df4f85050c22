package cli

import (
	"context"

	"github.com/spf13/cobra"

	pb "github.com/loopbackd/loopback/api/loopback/v1"
)

func (a *app) hostSettle() *cobra.Command {
	var section, winner, reason, selector string
	c := &cobra.Command{Use: "settle HOST… --winner host|control-plane", Short: "Say who wins where a host is ahead of the control plane",
		Long: `Say who wins where a host is ahead of the control plane.

After restoring an old backup, hosts may hold configuration that is newer than the backup knew. They keep it: the section is
frozen, and the host is degraded. With --winner host the control plane takes over what the host holds, as settings and labels of
its own; with --winner control-plane the host takes what the control plane has.`,
		Example:           "  loopback host list --query 'reason~ahead'\n  loopback host settle web-1 --winner host\n  loopback host settle -l env=test --winner control-plane",
		ValidArgsFunction: a.completeHosts,
		RunE: a.with(func(ctx context.Context, s *api, w []string) error {
			if winner == "" {
				return usage("--winner is missing; it is host or control-plane")
			}
			return a.eachHost(ctx, s, w, selector, func(name string) (*pb.Host, error) {
				return call(ctx, s, s.hosts.SettleHost, &pb.SettleHostRequest{Host: name, Workspace: s.Workspace, Section: section, Winner: winner, Reason: reason})
			})
		})}
	c.Flags().StringVar(&section, "section", "", "the frozen `SECTION` (default: every one that is)")
	c.Flags().StringVar(&winner, "winner", "", "whose value counts: `host or control-plane`")
	c.Flags().StringVar(&reason, "reason", "", "why; goes to the audit log")
	selectorFlag(c, &selector)
	_ = c.RegisterFlagCompletionFunc("winner", cobra.FixedCompletions([]string{"host", "control-plane"}, cobra.ShellCompDirectiveNoFileComp))
	return c
}

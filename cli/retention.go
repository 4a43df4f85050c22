package cli

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	pb "github.com/loopbackd/loopback/api/loopback/v1"
)

func (a *app) auditRetention() *cobra.Command {
	q := &pb.SetRetentionRequest{}
	var org, hold string
	var release bool
	var c *cobra.Command
	c = &cobra.Command{
		Use: "retention", Short: "Show or set how long entries keep their bodies", Args: args(),
		Long: `Show how long the bodies of entries are kept, or set it. Hashes are kept for ever: the log verifies as before, and an entry
whose body is gone shows as its hash. What no checkpoint covers, what a sink has not got yet and what is on hold is kept.`,
		Example: `  loopback audit retention
  loopback audit retention --org acme --keep-days 400
  loopback audit retention --org acme --hold "case 2026-17"
  loopback audit retention --org acme --release`,
		RunE: a.with(func(ctx context.Context, s *api, _ []string) error {
			now, err := call(ctx, s, s.audit.GetRetention, &pb.GetRetentionRequest{Organisation: org})
			if err != nil {
				return err
			}
			keep := c.Flags().Changed("keep-days")
			if keep || hold != "" || release {
				if hold != "" && release {
					return usage("--hold and --release contradict each other")
				}
				if !keep {
					q.KeepDays = now.KeepDays
				}
				if keep && q.KeepDays != 0 && (now.KeepDays == 0 || q.KeepDays < now.KeepDays) {
					if err := a.confirm(ctx, "Delete the bodies of entries that are older than %d days? They cannot be brought back.", q.KeepDays); err != nil {
						return err
					}
				}
				q.Organisation, q.Hold, q.Reason = org, hold != "" || now.Hold && !release, first(hold, a.flags.reason, now.Reason)
				if now, err = call(ctx, s, s.audit.SetRetention, q); err != nil {
					return err
				}
			}
			kept := "for ever"
			if now.KeepDays > 0 {
				kept = fmt.Sprint(now.KeepDays, " days")
			}
			if now.UpdatedAt == nil && org != "" {
				kept = "as the deployment keeps them"
			}
			held := "no"
			if now.Hold {
				held = "yes"
			}
			return a.print(now, [2]string{"organisation", first(now.OrganisationId, "everything without a retention of its own")}, [2]string{"bodies are kept", kept},
				[2]string{"on hold", held}, [2]string{"reason", now.Reason}, [2]string{"set", stamp(now.UpdatedAt)})
		}),
	}
	c.Flags().StringVar(&org, "org", "", "of this `ORGANISATION` (default: the deployment)")
	c.Flags().Int64Var(&q.KeepDays, "keep-days", 0, "keep bodies for so many `DAYS`, at least 30; 0: for ever")
	c.Flags().StringVar(&hold, "hold", "", "keep everything, however old, for this `REASON`")
	c.Flags().BoolVar(&release, "release", false, "end the hold")
	return c
}

package cli

import (
	"context"

	"github.com/spf13/cobra"

	pb "github.com/loopbackd/loopback/api/loopback/v1"
)

func (a *app) hostSplit() *cobra.Command {
	q := &pb.SplitHostRequest{}
	c := &cobra.Command{Use: "split HOST --keep COPY", Short: "Make hosts of their own of machines that were copied with their identity",
		Long: `Make hosts of their own of machines that were copied with their identity.

A host whose identity key several machines hold is locked: loopback host show lists the copies. The one that is kept goes on as
the host, with a new key; every other one becomes a new host with a name and a key of its own, in the same workspace and with
the same labels. A COPY is named by its boot id (or the beginning of it), its address, or its host name.`,
		Example: "  loopback host show web-1\n  loopback host split web-1 --keep 10.0.0.5", Args: args("HOST"), ValidArgsFunction: a.completeHosts,
		RunE: a.with(func(ctx context.Context, s *api, w []string) error {
			if q.Keep == "" {
				return usage("--keep is missing; loopback host show %s lists the copies", w[0])
			}
			q.Host, q.Workspace = w[0], s.Workspace
			h, err := call(ctx, s, s.hosts.SplitHost, q)
			if err != nil {
				return err
			}
			return a.showHost(h)
		})}
	c.Flags().StringVar(&q.Keep, "keep", "", "the `COPY` that goes on as the host")
	c.Flags().StringVar(&q.Reason, "reason", "", "why; goes to the audit log")
	return c
}

func (a *app) hostDrop() *cobra.Command {
	q := &pb.DropHostCopyRequest{}
	c := &cobra.Command{Use: "drop HOST --copy COPY", Short: "Shut out a machine that was copied with the host's identity",
		Long: `Shut out a machine that was copied with the host's identity.

A host whose identity key several machines hold is locked: loopback host show lists the copies. The one that is dropped is
refused for good, the other goes on as the host, with a new key. Where there are more than two, --keep names the one that goes
on, and all others are dropped.`,
		Example: "  loopback host drop web-1 --copy 10.0.0.9 --reason 'restored from a backup by mistake'", Args: args("HOST"), ValidArgsFunction: a.completeHosts,
		RunE: a.with(func(ctx context.Context, s *api, w []string) error {
			if q.Copy == "" && q.Keep == "" {
				return usage("--copy is missing; loopback host show %s lists the copies", w[0])
			}
			q.Host, q.Workspace = w[0], s.Workspace
			h, err := call(ctx, s, s.hosts.DropHostCopy, q)
			if err != nil {
				return err
			}
			return a.showHost(h)
		})}
	c.Flags().StringVar(&q.Copy, "copy", "", "the `COPY` that is refused from now on")
	c.Flags().StringVar(&q.Keep, "keep", "", "the `COPY` that goes on as the host; all others are dropped")
	c.Flags().StringVar(&q.Reason, "reason", "", "why; goes to the audit log")
	return c
}

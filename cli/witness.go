package cli

import (
	"context"
	"strconv"

	"github.com/spf13/cobra"

	pb "github.com/loopbackd/loopback/api/loopback/v1"
)

func (a *app) auditWitnesses() *cobra.Command {
	type T = *pb.AuditWitness
	return &cobra.Command{Use: "witnesses", Short: "List the hosts that remember checkpoints of the log, and what each says",
		Long: `List the hosts that remember checkpoints of the log, and what each says that it remembers, or why it refuses the last that it was sent.
That is the control plane's word: to be sure, ask a host itself, as root there, and compare with the log:
  loopback-agent status --checkpoint > from-host.txt
  loopback audit verify --checkpoint from-host.txt`,
		Args: args(), RunE: a.with(func(ctx context.Context, s *api, _ []string) error {
			return list(a, ctx, 0, func(ctx context.Context, _ *pb.Page) ([]T, string, error) {
				r, err := call(ctx, s, s.audit.ListWitnesses, &pb.ListWitnessesRequest{})
				return r.GetItems(), "", err
			}, "no host that you may see remembers the log yet", column[T]{"HOST", T.GetHostName}, column[T]{"ID", T.GetHostId}, column[T]{"STATE", T.GetState},
				column[T]{"SENT", func(w T) string { return strconv.FormatInt(w.Size, 10) }}, column[T]{"SINCE", func(w T) string { return ago(w.RememberedAt) }}, column[T]{"SAYS", T.GetMessage})
		})}
}

package cli

import (
	"context"

	"github.com/spf13/cobra"

	pb "github.com/loopbackd/loopback/api/loopback/v1"
)

func (a *app) passkeyCommand() *cobra.Command {
	type T = *pb.Passkey
	var user string
	var all bool
	listing := &cobra.Command{
		Use: "list", Short: "List your passkeys, or others'", Args: args(),
		Example: "  loopback passkey list\n  loopback passkey list --user ada",
		RunE: a.with(func(ctx context.Context, s *api, _ []string) error {
			return list(a, ctx, 0, func(ctx context.Context, p *pb.Page) ([]T, string, error) {
				var r *pb.ListPasskeysResponse
				var err error
				if all || user != "" {
					r, err = call(ctx, s, s.passkeys.ListPasskeys, &pb.ListPasskeysRequest{User: user, Page: p})
				} else {
					r, err = call(ctx, s, s.passkeys.ListMyPasskeys, &pb.ListMyPasskeysRequest{Page: p})
				}
				return r.GetItems(), r.GetNextPageToken(), err
			}, "there are no passkeys that you may see; make one in the console, on the page of your account",
				column[T]{"NAME", T.GetName}, column[T]{"ID", T.GetId}, column[T]{"USER", T.GetUserId}, column[T]{"DOMAIN", T.GetDomain},
				column[T]{"BACKED UP", func(p T) string { return yes(p.BackedUp) }}, column[T]{"MADE", func(p T) string { return ago(p.CreatedAt) }},
				column[T]{"LAST USED", func(p T) string { return ago(p.LastUsedAt) }})
		}),
	}
	listing.Flags().StringVar(&user, "user", "", "of this `USER`: id or name")
	listing.Flags().BoolVar(&all, "all", false, "everybody's that you may see")
	var last bool
	remove := &cobra.Command{
		Use: "remove PASSKEY", Short: "Remove one of your own; sign-ins that began with it end, but for this one", Args: args("PASSKEY"),
		RunE: a.with(func(ctx context.Context, s *api, w []string) error {
			_, err := call(ctx, s, s.passkeys.RemovePasskey, &pb.RemovePasskeyRequest{Passkey: w[0], EvenLast: last})
			if err == nil {
				a.hint("removed; delete it where you keep it too")
			}
			return err
		}),
	}
	remove.Flags().BoolVar(&last, "even-last", false, "though you could not sign in any more")
	return noun("passkey", "Passkeys: what people sign in with; they are made in the console",
		listing, remove,
		&cobra.Command{Use: "rename PASSKEY NAME", Short: "Give one of your own another name", Args: args("PASSKEY", "NAME"), RunE: a.with(func(ctx context.Context, s *api, w []string) error {
			p, err := call(ctx, s, s.passkeys.RenamePasskey, &pb.RenamePasskeyRequest{Passkey: w[0], Name: w[1]})
			if err != nil {
				return err
			}
			return a.print(p, [2]string{"id", p.Id}, [2]string{"name", p.Name})
		})},
		&cobra.Command{Use: "revoke PASSKEY", Short: "Remove somebody's: a device that was lost. Sign-ins that began with it end", Args: args("PASSKEY"), RunE: a.with(func(ctx context.Context, s *api, w []string) error {
			_, err := call(ctx, s, s.passkeys.RevokePasskey, &pb.RevokePasskeyRequest{Passkey: w[0]})
			return err
		})},
	)
}

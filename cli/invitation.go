package cli

import (
	"context"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/durationpb"

	pb "github.com/loopbackd/loopback/api/loopback/v1"
)

// inviteCommand is among the verbs of users: that is where people look for it.
func (a *app) inviteCommand() *cobra.Command {
	var ttl time.Duration
	c := &cobra.Command{
		Use: "invite USER", Short: "Make a link by which a user comes in, once: it is shown once", Args: args("USER"),
		Long: `Make a link by which a user comes in for the first time, or after all their ways in were lost.

Who opens it makes a passkey and is signed in as the user: send it by a way that only they read. It works once. You have to hold
all that the user holds.`,
		Example: "  loopback user invite ada\n  loopback user invite ada --ttl 1h",
		RunE: a.with(func(ctx context.Context, s *api, w []string) error {
			q := &pb.CreateInvitationRequest{User: w[0]}
			if ttl != 0 {
				q.Ttl = durationpb.New(ttl)
			}
			r, err := call(ctx, s, s.invitations.CreateInvitation, q)
			if err != nil {
				return err
			}
			return a.print(r, [2]string{"id", r.Invitation.GetId()}, [2]string{"user", r.Invitation.GetName()}, [2]string{"expires", stamp(r.Invitation.GetExpiresAt())}, [2]string{"link", r.Url})
		}),
	}
	c.Flags().DurationVar(&ttl, "ttl", 0, "how long it works: 5m to 168h (default 72h)")
	return c
}

func (a *app) invitationCommand() *cobra.Command {
	type T = *pb.Invitation
	var user string
	listing := &cobra.Command{
		Use: "list", Short: "List invitations", Args: args(),
		RunE: a.with(func(ctx context.Context, s *api, _ []string) error {
			return list(a, ctx, 0, func(ctx context.Context, p *pb.Page) ([]T, string, error) {
				r, err := call(ctx, s, s.invitations.ListInvitations, &pb.ListInvitationsRequest{User: user, Page: p})
				return r.GetItems(), r.GetNextPageToken(), err
			}, "there are no invitations that you may see; make one: loopback user invite USER",
				column[T]{"NAME", T.GetName}, column[T]{"ID", T.GetId}, column[T]{"STATE", T.GetState}, column[T]{"MADE", func(i T) string { return ago(i.CreatedAt) }},
				column[T]{"BY", T.GetCreatedBy}, column[T]{"EXPIRES", func(i T) string { return until(i.ExpiresAt) }})
		}),
	}
	listing.Flags().StringVar(&user, "user", "", "of this `USER`: id or name")
	return noun("invitation", "Invitations: links by which users come in; user invite makes one", listing,
		&cobra.Command{Use: "revoke INVITATION", Short: "Take one back", Args: args("INVITATION"), RunE: a.with(func(ctx context.Context, s *api, w []string) error {
			i, err := call(ctx, s, s.invitations.RevokeInvitation, &pb.RevokeInvitationRequest{Invitation: w[0]})
			if err != nil {
				return err
			}
			return a.print(i, [2]string{"id", i.Id}, [2]string{"user", i.Name}, [2]string{"state", i.State})
		})},
	)
}

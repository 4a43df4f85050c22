package cli

import (
	"context"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/durationpb"

	pb "github.com/loopbackd/loopback/api/loopback/v1"
)

// sessionGuestCommand is among the verbs of sessions: a guest is of one session, and `loopback shell` takes a host's name.
func (a *app) sessionGuestCommand() *cobra.Command {
	type T = *pb.Guest
	q := &pb.InviteGuestRequest{}
	var span time.Duration
	invite := &cobra.Command{Use: "invite SESSION", Short: "Make a link by which somebody without an account watches a live session: it is shown once", Args: args("SESSION"),
		Long: `Make a link by which somebody without an account watches a live session, such as a vendor's support.

Who opens it sees the terminal in a browser, from about the last screen on, and nothing else: they do not type, and learn neither who else
is there nor anything of other sessions. Send it by a way that only they read. It can be opened again until its time is over, in one
place at a time; those in the session see the guest come and go. It ends as well when the session does, when it is taken back, and once
you may not watch the session any more. A session has five at most.`,
		Example: "  loopback session guest invite ses_06h… --name 'Vendor, Jane' --for 30m --reason 'case 4711'",
		RunE: a.with(func(ctx context.Context, s *api, w []string) error {
			q.Session = w[0]
			if span != 0 {
				q.Ttl = durationpb.New(span)
			}
			r, err := call(ctx, s, s.guests.InviteGuest, q)
			if err != nil {
				return err
			}
			return a.print(r, [2]string{"id", r.Guest.GetId()}, [2]string{"guest", r.Guest.GetName()}, [2]string{"host", r.Guest.GetHostName()}, [2]string{"expires", stamp(r.Guest.GetExpiresAt())}, [2]string{"link", r.Url})
		})}
	invite.Flags().StringVar(&q.Name, "name", "", "who the `GUEST` is; those in the session read it")
	invite.Flags().DurationVar(&span, "for", 0, "how long it works: 1m to 8h, and never past the session's end (default 30m)")
	ls := &cobra.Command{Use: "list SESSION", Short: "List a session's guests, newest first", Args: args("SESSION"), RunE: a.with(func(ctx context.Context, s *api, w []string) error {
		return list(a, ctx, 0, func(ctx context.Context, p *pb.Page) ([]T, string, error) {
			r, err := call(ctx, s, s.guests.ListGuests, &pb.ListGuestsRequest{Session: w[0], Page: p})
			return r.GetItems(), r.GetNextPageToken(), err
		}, "nobody was invited to it as a guest",
			column[T]{"NAME", T.GetName}, column[T]{"ID", T.GetId}, column[T]{"STATE", T.GetState}, column[T]{"BY", T.GetPrincipalName}, column[T]{"INVITED", func(g T) string { return ago(g.CreatedAt) }},
			column[T]{"EXPIRES", func(g T) string { return until(g.ExpiresAt) }}, column[T]{"CAME", func(g T) string { return ago(g.JoinedAt) }}, column[T]{"FROM", T.GetAddress}, column[T]{"REASON", T.GetReason})
	})}
	revoke := &cobra.Command{Use: "revoke GUEST", Short: "Take a guest's link back; one who watches is gone at once", Args: args("GUEST"), RunE: a.with(func(ctx context.Context, s *api, w []string) error {
		g, err := call(ctx, s, s.guests.RevokeGuest, &pb.RevokeGuestRequest{Guest: w[0]})
		if err != nil {
			return err
		}
		return a.print(g, [2]string{"id", g.Id}, [2]string{"guest", g.Name}, [2]string{"session", g.SessionId}, [2]string{"state", g.State})
	})}
	return noun("guest", "Guests: people without an account who watch a live session by a link", invite, ls, revoke)
}

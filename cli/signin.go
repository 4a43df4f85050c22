package cli

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	pb "github.com/loopbackd/loopback/api/loopback/v1"
	"github.com/loopbackd/loopback/fault"
)

func (a *app) signInCommand() *cobra.Command {
	type T = *pb.SignIn
	var user string
	var all bool
	listing := &cobra.Command{
		Use: "list", Short: "List your sign-ins that are live, or others'", Args: args(),
		Example: "  loopback signin list\n  loopback signin list --user ada\n  loopback signin list --all",
		RunE: a.with(func(ctx context.Context, s *api, _ []string) error {
			return list(a, ctx, 0, func(ctx context.Context, p *pb.Page) ([]T, string, error) {
				var r *pb.ListSignInsResponse
				var err error
				if all || user != "" {
					r, err = call(ctx, s, s.signIns.ListSignIns, &pb.ListSignInsRequest{User: user, Page: p})
				} else {
					r, err = call(ctx, s, s.signIns.ListMySignIns, &pb.ListMySignInsRequest{Page: p})
				}
				return r.GetItems(), r.GetNextPageToken(), err
			}, "there are no sign-ins that you may see",
				column[T]{"NAME", T.GetName}, column[T]{"ID", T.GetId}, column[T]{"METHOD", T.GetMethod}, column[T]{"FROM", T.GetAddress},
				column[T]{"PROGRAM", T.GetAgent}, column[T]{"BEGAN", func(i T) string { return ago(i.CreatedAt) }},
				column[T]{"LAST USED", func(i T) string { return ago(i.LastUsedAt) }}, column[T]{"ENDS", func(i T) string { return until(i.ExpiresAt) }})
		}),
	}
	listing.Flags().StringVar(&user, "user", "", "of this `USER`: id or name")
	listing.Flags().BoolVar(&all, "all", false, "everybody's that you may see")
	var whose string
	revoke := &cobra.Command{
		Use: "revoke [SIGN-IN]", Short: "End somebody's sign-in at once, or with --user all of theirs", Args: cobra.MaximumNArgs(1),
		RunE: a.with(func(ctx context.Context, s *api, w []string) error {
			switch {
			case len(w) == 0 && whose == "":
				return usage("SIGN-IN is missing; or give --user to end all of a user's")
			case len(w) > 0 && whose != "":
				return usage("a sign-in and --user are both given; give one")
			case whose != "":
				r, err := call(ctx, s, s.signIns.RevokeSignIns, &pb.RevokeSignInsRequest{User: whose})
				if err != nil {
					return err
				}
				a.hint("%d ended", r.Ended)
				return nil
			}
			r, err := call(ctx, s, s.signIns.RevokeSignIn, &pb.RevokeSignInRequest{SignIn: w[0]})
			if err != nil {
				return err
			}
			return a.print(r, [2]string{"id", r.Id}, [2]string{"name", r.Name}, [2]string{"ended", stamp(r.EndedAt)}, [2]string{"for", r.EndedFor})
		}),
	}
	revoke.Flags().StringVar(&whose, "user", "", "all of this `USER`: id or name")
	return noun("signin", "Sign-ins: who is signed in, how and from where",
		listing, revoke,
		&cobra.Command{Use: "end SIGN-IN", Short: "End one of your own: a browser or a machine that you left", Args: args("SIGN-IN"), RunE: a.with(func(ctx context.Context, s *api, w []string) error {
			_, err := call(ctx, s, s.signIns.SignOut, &pb.SignOutRequest{SignIn: w[0]})
			return err
		})},
	)
}

func (a *app) logoutCommand() *cobra.Command {
	var everywhere bool
	c := &cobra.Command{
		Use: "logout", Short: "Sign out: end this sign-in and forget it, or with --everywhere all of yours", Args: args(),
		Long: `Sign out of the current context.

The sign-in ends on the control plane, with every stream that it opened, and is taken out of the configuration file. An API
key is only taken out of the file: it works until it is revoked (loopback apikey revoke).`,
		RunE: func(c *cobra.Command, _ []string) error { return a.logout(c.Context(), everywhere) },
	}
	c.Flags().BoolVar(&everywhere, "everywhere", false, "end all of your sign-ins, in every browser and on every machine")
	return c
}

func (a *app) logout(ctx context.Context, everywhere bool) error {
	s, err := a.dial()
	if err != nil {
		return err
	}
	if strings.HasPrefix(s.APIKey, "lbs_") {
		r, err := call(ctx, s, s.signIns.SignOut, &pb.SignOutRequest{Everywhere: everywhere})
		switch {
		case fault.KindOf(err) == fault.Unauthenticated: // over already
		case err != nil:
			return err
		case everywhere:
			a.hint("%d sign-ins ended", r.Ended)
		}
	} else if everywhere {
		return usage("this context has an API key, which is signed in nowhere; revoke it: loopback apikey revoke")
	}
	f, err := a.readConfig()
	if err != nil {
		return err
	}
	for name, c := range f.Contexts {
		if c.APIKey != s.APIKey || c.URL != s.URL {
			continue
		}
		c.APIKey = ""
		f.Contexts[name] = c
		if err := a.writeConfig(f); err != nil {
			return err
		}
		a.hint("signed out of %s", s.URL)
		return nil
	}
	if !strings.HasPrefix(s.APIKey, "lbs_") {
		return fault.New(fault.Precondition, "not_remembered", "the API key is not in the configuration file: it comes from a flag or the environment")
	}
	a.hint("signed out of %s", s.URL)
	return nil
}

// how is the way somebody signed in, for people.
func how(s *pb.SignIn) string {
	if s == nil {
		return ""
	}
	out := s.Method
	if s.Via != "" {
		out += " (" + s.Via + ")"
	}
	return fmt.Sprintf("%s, from %s", out, first(s.Address, "somewhere"))
}

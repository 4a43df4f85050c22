package cli

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	pb "github.com/loopbackd/loopback/api/loopback/v1"
)

// keptAs is what becomes of a session's recording.
func keptAs(s *pb.ShellSession) string {
	switch {
	case s.State != "ended":
		return ""
	case s.Deletion != nil:
		return "deleted"
	case s.Hold != nil:
		return "kept while it is on hold"
	case s.KeptUntil != nil:
		return "kept until " + stamp(s.KeptUntil)
	}
	return "kept for ever"
}

func onHold(h *pb.RecordingHold) string {
	if h == nil {
		return ""
	}
	return fmt.Sprintf("by %s, %s: %s", h.PrincipalName, stamp(h.At), h.Reason)
}

func forgotten(d *pb.RecordingDeletion) string {
	if d == nil {
		return ""
	}
	return fmt.Sprintf("by %s, %s: %s", first(d.PrincipalName, "the control plane"), stamp(d.At), d.Reason)
}

func hostsCopy(d *pb.RecordingDeletion) string {
	switch {
	case d == nil:
		return ""
	case d.HostAt != nil:
		return "dropped " + stamp(d.HostAt)
	}
	return "dropped once the host is linked; nobody can read it"
}

func (a *app) sessionHold() *cobra.Command {
	return &cobra.Command{Use: "hold SESSION", Short: "Keep a session's recording, whatever its retention, until it is released", Args: args("SESSION"),
		Example: "  loopback session hold ses_06h… --reason 'case 2026-17'",
		RunE: a.with(func(ctx context.Context, s *api, w []string) error {
			if a.flags.reason == "" {
				return usage("--reason is missing: say why the recording has to be kept")
			}
			one, err := call(ctx, s, s.shells.HoldShellSession, &pb.HoldShellSessionRequest{Session: w[0], Reason: a.flags.reason})
			if err != nil {
				return err
			}
			return a.showSession(one)
		})}
}

func (a *app) sessionRelease() *cobra.Command {
	return &cobra.Command{Use: "release SESSION", Short: "End a hold: the retention of the place decides again", Args: args("SESSION"),
		RunE: a.with(func(ctx context.Context, s *api, w []string) error {
			one, err := call(ctx, s, s.shells.ReleaseShellSession, &pb.ReleaseShellSessionRequest{Session: w[0], Reason: a.flags.reason})
			if err != nil {
				return err
			}
			return a.showSession(one)
		})}
}

func (a *app) sessionForget() *cobra.Command {
	return &cobra.Command{Use: "forget SESSION", Short: "Delete a session's recording for good, because it shows what nobody may see", Args: args("SESSION"),
		Long: `Delete a session's recording for good: its key, what was recorded here, and the host's copy once the host is linked. Who had the
session, when and why stays, and so do the roots of both recordings: the audit log proves that there was this recording, and says
who deleted it and why. It takes shell_sessions.forget, which is given for a time only. What is on hold is not deleted.`,
		Example: "  loopback session forget ses_06h… --reason 'shows the password of the payment provider; OPS-77'",
		RunE: a.with(func(ctx context.Context, s *api, w []string) error {
			if a.flags.reason == "" {
				return usage("--reason is missing: say why the recording has to go")
			}
			if err := a.confirm(ctx, "Delete the recording of session %s? It cannot be brought back.", w[0]); err != nil {
				return err
			}
			one, err := call(ctx, s, s.shells.ForgetShellSession, &pb.ForgetShellSessionRequest{Session: w[0], Reason: a.flags.reason})
			if err != nil {
				return err
			}
			return a.showSession(one)
		})}
}

func (a *app) sessionRetention() *cobra.Command {
	type T = *pb.RecordingRetention
	days := func(r T) string {
		if r.GetKeepDays() == 0 {
			return "for ever"
		}
		return fmt.Sprintf("%d days", r.GetKeepDays())
	}
	place := placeFlags{}
	q := &pb.SetRecordingRetentionRequest{}
	var c *cobra.Command
	c = &cobra.Command{Use: "retention", Short: "Show or set how long recordings are kept", Args: args(),
		Long: `Show how long the recordings of shells are kept, or set it for a place. The place nearest to a session decides; without any,
recordings are kept for ever. What is on hold, and what somebody has yet to review, is kept longer. Sessions themselves, and the roots
of their recordings, are not deleted.`,
		Example: `  loopback session retention
  loopback session retention --in-org acme --keep-days 400
  loopback session retention --in-workspace prod --keep-days 90 --reason 'works council'
  loopback session retention --in-workspace prod --inherit`,
		RunE: a.with(func(ctx context.Context, s *api, _ []string) error {
			if !q.Inherit && !c.Flags().Changed("keep-days") {
				return list(a, ctx, 0, func(ctx context.Context, _ *pb.Page) ([]T, string, error) {
					r, err := call(ctx, s, s.shells.ListRecordingRetentions, &pb.ListRecordingRetentionsRequest{})
					return r.GetItems(), "", err
				}, "recordings are kept for ever, as far as you may see",
					column[T]{"SCOPE", func(r T) string { return scope(r.Scope) }}, column[T]{"KEPT", days}, column[T]{"SET BY", T.GetPrincipalName},
					column[T]{"SET", func(r T) string { return stamp(r.UpdatedAt) }}, column[T]{"REASON", T.GetReason})
			}
			if err := place.one(); err != nil {
				return err
			}
			if q.Inherit && q.KeepDays != 0 {
				return usage("--keep-days and --inherit contradict each other")
			}
			if q.KeepDays != 0 {
				if err := a.confirm(ctx, "Delete the recordings of sessions that ended more than %d days ago? They cannot be brought back.", q.KeepDays); err != nil {
					return err
				}
			}
			q.Organisation, q.Project, q.Workspace, q.Reason = place.org, place.project, place.workspace, a.flags.reason
			r, err := call(ctx, s, s.shells.SetRecordingRetention, q)
			if err != nil {
				return err
			}
			kept := days(r)
			if q.Inherit {
				kept = "as the place above keeps them"
			}
			return a.print(r, [2]string{"scope", scope(r.Scope)}, [2]string{"recordings are kept", kept}, [2]string{"reason", r.Reason}, [2]string{"set by", r.PrincipalName}, [2]string{"set", stamp(r.UpdatedAt)})
		})}
	place.register(c)
	c.Flags().Int64Var(&q.KeepDays, "keep-days", 0, "keep recordings for so many `DAYS` after a session's end, at least 1; 0: for ever")
	c.Flags().BoolVar(&q.Inherit, "inherit", false, "take what was said of this place away: the place above it decides")
	return c
}

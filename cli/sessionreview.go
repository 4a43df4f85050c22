package cli

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/loopbackd/loopback/api/loopback/v1"
)

// looked is a review's state in a word.
func looked(r *pb.SessionReview) string {
	if r.Overdue {
		return "overdue"
	}
	return first(r.Verdict, r.State)
}

func (a *app) showSessionReview(r *pb.SessionReview) error {
	return a.print(r, [][2]string{{"id", r.Id}, {"session", r.SessionId}, {"state", looked(r)}, {"because", r.Cause}, {"host", r.HostName}, {"by", r.PrincipalName}, {"reason", r.Reason},
		{"ticket", r.Ticket}, {"scope", scope(r.Scope)}, {"ended", stamp(r.EndedAt)}, {"due", stamp(r.DueAt)}, {"note", r.Note}, {"reviewer", r.ReviewerName}, {"reviewed", stamp(r.DoneAt)}}...)
}

func (a *app) sessionReviewCommand() *cobra.Command {
	type T = *pb.SessionReview
	lq := &pb.ListSessionReviewsRequest{}
	all := false
	ls := &cobra.Command{Use: "list", Short: "List sessions that wait for somebody to look at them, newest first", Args: args(), RunE: a.with(func(ctx context.Context, s *api, _ []string) error {
		if !all && !lq.Overdue && len(lq.States) == 0 {
			lq.States = []string{"open"}
		}
		return list(a, ctx, 0, func(ctx context.Context, p *pb.Page) ([]T, string, error) {
			lq.Page = p
			r, err := call(ctx, s, s.sessionReviews.ListSessionReviews, lq)
			return r.GetItems(), r.GetNextPageToken(), err
		}, "no session waits that you may see",
			column[T]{"SESSION", T.GetSessionId}, column[T]{"STATE", looked}, column[T]{"HOST", T.GetHostName}, column[T]{"BY", T.GetPrincipalName}, column[T]{"BECAUSE", T.GetCause},
			column[T]{"DUE", func(r T) string { return until(r.DueAt) }}, column[T]{"REVIEWER", T.GetReviewerName}, column[T]{"TICKET", T.GetTicket}, column[T]{"REASON", T.GetReason})
	})}
	ls.Flags().BoolVar(&all, "all", false, "those that have a verdict as well")
	ls.Flags().BoolVar(&lq.Overdue, "overdue", false, "only those that nobody looked at in time")
	ls.Flags().StringVar(&lq.Organisation, "in-org", "", "only those in this `ORGANISATION`")
	ls.Flags().StringVar(&lq.Project, "in-project", "", "only those in this `PROJECT`")
	ls.Flags().StringVar(&lq.Workspace, "in-workspace", "", "only those in this `WORKSPACE`")

	answer := func(verb, verdict, short, example string) *cobra.Command {
		q := &pb.AnswerSessionReviewRequest{Verdict: verdict}
		c := &cobra.Command{Use: verb + " SESSION", Short: short, Example: example, Args: args("SESSION"), RunE: a.with(func(ctx context.Context, s *api, w []string) error {
			q.SessionReview, q.Note = w[0], first(q.Note, a.flags.reason)
			if q.Note == "" && verdict != "fine" {
				return usage("--note is missing: say what is to be done, or what was wrong")
			}
			r, err := call(ctx, s, s.sessionReviews.AnswerSessionReview, q)
			if err != nil {
				return err
			}
			return a.showSessionReview(r)
		})}
		c.Flags().StringVar(&q.Note, "note", "", "what is to be done, or what was wrong; an auditor reads it")
		return c
	}

	sq := &pb.SetSessionReviewPolicyRequest{}
	var place placeFlags
	var span days
	set := &cobra.Command{Use: "require", Short: "Say which sessions of a place have to be looked at", Args: args(),
		Long: `Say which sessions of a place have to be looked at, in place of what was said before: all that --role gave (repeatable; '*' for
every one), and of the others --share percent of each month, drawn by lot once it is over. Nobody can know beforehand which ones
are drawn: docs/guides/shell.md says how that can be checked.`,
		Example: "  loopback session review require --in-project prod --role debugger --share 5 --within 14d",
		RunE: a.with(func(ctx context.Context, s *api, _ []string) error {
			if err := place.one(); err != nil {
				return err
			}
			sq.Organisation, sq.Project, sq.Workspace = place.org, place.project, place.workspace
			if span.d > 0 {
				sq.Within = durationpb.New(span.d)
			}
			p, err := call(ctx, s, s.sessionReviews.SetSessionReviewPolicy, sq)
			if err != nil {
				return err
			}
			return a.print(p, [][2]string{{"id", p.Id}, {"scope", scope(p.Scope)}, {"roles", strings.Join(p.Roles, ", ")}, {"drawn", fmt.Sprintf("%d %% of the others", p.SharePercent)}, {"within", duration(p.Within)}}...)
		})}
	place.register(set)
	set.Flags().StringArrayVar(&sq.ReviewRoles, "role", nil, "sessions that this `ROLE` gave, all of them (repeatable)")
	set.Flags().Int32Var(&sq.SharePercent, "share", 0, "so many `PERCENT` of the others, of each month")
	set.Flags().Var(&span, "within", "how long there is to look (default 14d)")

	var from placeFlags
	unset := &cobra.Command{Use: "unset", Short: "Take a place's policy away; what is in the queue stays", Args: args(), RunE: a.with(func(ctx context.Context, s *api, _ []string) error {
		if err := from.one(); err != nil {
			return err
		}
		_, err := call(ctx, s, s.sessionReviews.UnsetSessionReviewPolicy, &pb.UnsetSessionReviewPolicyRequest{Organisation: from.org, Project: from.project, Workspace: from.workspace})
		return err
	})}
	from.register(unset)

	type P = *pb.SessionReviewPolicy
	policies := &cobra.Command{Use: "policies", Short: "List which sessions have to be looked at, by place", Args: args(), RunE: a.with(func(ctx context.Context, s *api, _ []string) error {
		return list(a, ctx, 0, func(ctx context.Context, _ *pb.Page) ([]P, string, error) {
			r, err := call(ctx, s, s.sessionReviews.ListSessionReviewPolicies, &pb.ListSessionReviewPoliciesRequest{})
			return r.GetItems(), "", err
		}, "no session has to be looked at, as far as you may see",
			column[P]{"SCOPE", func(p P) string { return scope(p.Scope) }}, column[P]{"ROLES", func(p P) string { return strings.Join(p.Roles, ", ") }},
			column[P]{"DRAWN", func(p P) string { return fmt.Sprintf("%d %%", p.SharePercent) }}, column[P]{"WITHIN", func(p P) string { return duration(p.Within) }})
	})}

	return noun("review", "Recorded sessions that somebody else has to look at", ls,
		&cobra.Command{Use: "show SESSION", Short: "Show why a session has to be looked at, and what became of it", Args: args("SESSION"), RunE: a.with(func(ctx context.Context, s *api, w []string) error {
			r, err := call(ctx, s, s.sessionReviews.GetSessionReview, &pb.GetSessionReviewRequest{SessionReview: w[0]})
			if err != nil {
				return err
			}
			return a.showSessionReview(r)
		})},
		answer("fine", "fine", "Nothing was wrong in a session", "  loopback session replay ses_06h… --speed 4 && loopback session review fine ses_06h…"),
		answer("follow-up", "follow_up", "Nothing was wrong, but something is to be mended", "  loopback session review follow-up ses_06h… --note 'restart of the queue: make it a saved command'"),
		answer("violation", "violation", "Something was wrong in a session", "  loopback session review violation ses_06h… --note 'read customer data without need'"),
		set, unset, policies)
}

func (a *app) sessionReport() *cobra.Command {
	q := &pb.ReportSessionsRequest{}
	var span days
	c := &cobra.Command{Use: "report", Short: "Report who has shells where, how often and why, and which commands recur", Args: args(),
		Example: "  loopback session report --in-project prod --for 90d\n  loopback session report -o json",
		RunE: a.with(func(ctx context.Context, s *api, _ []string) error {
			if span.d > 0 {
				q.Since = timestamppb.New(time.Now().Add(-span.d))
			}
			r, err := call(ctx, s, s.sessionReviews.ReportSessions, q)
			if err != nil {
				return err
			}
			return a.showReport(r)
		})}
	c.Flags().Var(&span, "for", "how far back: 90d (default 30d)")
	c.Flags().StringVar(&q.Organisation, "in-org", "", "only what was in this `ORGANISATION`")
	c.Flags().StringVar(&q.Project, "in-project", "", "only what was in this `PROJECT`")
	c.Flags().StringVar(&q.Workspace, "in-workspace", "", "only what was in this `WORKSPACE`")
	return c
}

// showReport writes a report's tables one after the other.
func (a *app) showReport(r *pb.ReportSessionsResponse) error {
	if a.flags.output != "table" {
		return a.print(r)
	}
	fmt.Fprintf(a.Out, "%d sessions and %d runs from %s to %s\n", r.Sessions, r.Runs, stamp(r.Since), stamp(r.Until))
	number := func(n int32) string { return fmt.Sprint(n) }
	if len(r.People) > 0 {
		type T = *pb.SessionReportPerson
		fmt.Fprintln(a.Out)
		if err := table(a, r.People, []column[T]{
			{"WHO", T.GetPrincipalName}, {"SESSIONS", func(p T) string { return number(p.Sessions) }}, {"HOSTS", func(p T) string { return number(p.Hosts) }},
			{"TIME", func(p T) string { return duration(p.Time) }}, {"LAST", func(p T) string { return ago(p.LastAt) }},
			{"MOSTLY FOR", func(p T) string {
				if len(p.Reasons) == 0 {
					return ""
				}
				return fmt.Sprintf("%s (%d)", p.Reasons[0].Text, p.Reasons[0].Times)
			}},
		}); err != nil {
			return err
		}
	}
	if len(r.Hosts) > 0 {
		type T = *pb.SessionReportHost
		fmt.Fprintln(a.Out)
		if err := table(a, r.Hosts, []column[T]{
			{"HOST", T.GetHostName}, {"SESSIONS", func(h T) string { return number(h.Sessions) }}, {"PEOPLE", func(h T) string { return number(h.People) }},
			{"TIME", func(h T) string { return duration(h.Time) }}, {"LAST", func(h T) string { return ago(h.LastAt) }},
		}); err != nil {
			return err
		}
	}
	if len(r.Commands) > 0 {
		type T = *pb.SessionReportCommand
		fmt.Fprintln(a.Out)
		if err := table(a, r.Commands, []column[T]{
			{"COMMAND THAT RECURS", T.GetCommand}, {"TIMES", func(c T) string { return number(c.Times) }}, {"SHELLS", func(c T) string { return number(c.Sessions) }},
			{"RUNS", func(c T) string { return number(c.Runs) }}, {"PEOPLE", func(c T) string { return number(c.People) }}, {"HOSTS", func(c T) string { return number(c.Hosts) }},
		}); err != nil {
			return err
		}
	}
	if r.Partial {
		a.hint("there is more than is shown: narrow the time (--for) or the place")
	}
	return nil
}

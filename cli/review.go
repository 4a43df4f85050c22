package cli

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/loopbackd/loopback/api/loopback/v1"
)

var reviewedColumns = []column[*pb.AccessReviewItem]{
	{"BINDING", (*pb.AccessReviewItem).GetBindingId},
	{"WHO", func(i *pb.AccessReviewItem) string { return first(i.SubjectName, i.SubjectId) }},
	{"ROLE", func(i *pb.AccessReviewItem) string { return first(i.RoleName, i.RoleId) }},
	{"SCOPE", func(i *pb.AccessReviewItem) string { return scope(i.Scope) }},
	{"HOSTS", (*pb.AccessReviewItem).GetHosts},
	{"SINCE", func(i *pb.AccessReviewItem) string { return stamp(i.GrantedAt) }},
	{"MADE BY", (*pb.AccessReviewItem).GetGrantedBy},
	{"LAST ACT", func(i *pb.AccessReviewItem) string { return ago(i.LastActAt) }},
	{"LAST SEEN", func(i *pb.AccessReviewItem) string { return ago(i.LastSeenAt) }},
	{"ANSWER", (*pb.AccessReviewItem).GetAnswer},
	{"BY", (*pb.AccessReviewItem).GetAnsweredByName},
	{"RATIONALE", (*pb.AccessReviewItem).GetRationale},
}

func (a *app) showReview(r *pb.AccessReview) error {
	left := "left"
	if r.RevokeUnanswered {
		left = "revoked"
	}
	return a.print(r, [][2]string{{"id", r.Id}, {"name", r.Name}, {"state", r.State}, {"scope", scope(r.Scope)}, {"description", r.Description}, {"due", stamp(r.DueAt)},
		{"unanswered are", left}, {"bindings", fmt.Sprint(r.Items)}, {"open", fmt.Sprint(r.Open)}, {"kept", fmt.Sprint(r.Kept)}, {"revoked", fmt.Sprint(r.Revoked)},
		{"unanswered", fmt.Sprint(r.Unanswered)}, {"gone", fmt.Sprint(r.Gone)}, {"created", stamp(r.CreatedAt)}, {"created by", r.CreatedBy}, {"closed", stamp(r.ClosedAt)}}...)
}

func (a *app) reviewCommand() *cobra.Command {
	type T = *pb.AccessReview
	q := &pb.CreateAccessReviewRequest{}
	var place placeFlags
	var span days
	create := &cobra.Command{Use: "create NAME", Short: "Have standing access at a place reviewed", Args: args("NAME"),
		Long: `Have all bindings at a place and below it reviewed that allow something and came of no grant: each is kept with a rationale, or
revoked, by somebody who does not hold it. What nobody answers for by the end is listed, and revoked with --revoke-unanswered.`,
		Example: "  loopback review create q3-prod --in-workspace prod --within 14d --revoke-unanswered",
		RunE: a.with(func(ctx context.Context, s *api, w []string) error {
			if err := place.one(); err != nil {
				return err
			}
			if span.d == 0 {
				return usage("--within is missing: say how long there is to answer, for example 14d")
			}
			q.Name, q.Organisation, q.Project, q.Workspace, q.DueAt = w[0], place.org, place.project, place.workspace, timestamppb.New(time.Now().Add(span.d))
			r, err := call(ctx, s, s.reviews.CreateAccessReview, q)
			if err != nil {
				return err
			}
			return a.showReview(r)
		})}
	f := create.Flags()
	f.Var(&span, "within", "how long there is to answer: 14d")
	f.BoolVar(&q.RevokeUnanswered, "revoke-unanswered", false, "revoke what nobody answers for by then")
	f.StringVar(&q.Description, "description", "", "what it is for")
	place.register(create)

	lq := &pb.ListAccessReviewsRequest{}
	ls := &cobra.Command{Use: "list", Short: "List reviews, newest first", Args: args(), RunE: a.with(func(ctx context.Context, s *api, _ []string) error {
		return list(a, ctx, 0, func(ctx context.Context, p *pb.Page) ([]T, string, error) {
			lq.Page = p
			r, err := call(ctx, s, s.reviews.ListAccessReviews, lq)
			return r.GetItems(), r.GetNextPageToken(), err
		}, "there are no reviews that you may see",
			column[T]{"ID", T.GetId}, column[T]{"NAME", T.GetName}, column[T]{"STATE", T.GetState}, column[T]{"SCOPE", func(r T) string { return scope(r.Scope) }},
			column[T]{"DUE", func(r T) string { return until(r.DueAt) }}, column[T]{"OPEN", func(r T) string { return fmt.Sprintf("%d/%d", r.Open, r.Items) }},
			column[T]{"KEPT", func(r T) string { return fmt.Sprint(r.Kept) }}, column[T]{"REVOKED", func(r T) string { return fmt.Sprint(r.Revoked) }},
			column[T]{"UNANSWERED", func(r T) string { return fmt.Sprint(r.Unanswered) }})
	})}
	ls.Flags().StringSliceVar(&lq.States, "state", nil, "only those of this `STATE`: open, done, overdue, cancelled (repeatable)")
	ls.Flags().StringVar(&lq.Organisation, "in-org", "", "only those in this `ORGANISATION`")
	ls.Flags().StringVar(&lq.Project, "in-project", "", "only those in this `PROJECT`")
	ls.Flags().StringVar(&lq.Workspace, "in-workspace", "", "only those in this `WORKSPACE`")

	show := &cobra.Command{Use: "show REVIEW", Short: "Show a review", Args: args("REVIEW"), RunE: a.with(func(ctx context.Context, s *api, w []string) error {
		r, err := call(ctx, s, s.reviews.GetAccessReview, &pb.GetAccessReviewRequest{AccessReview: w[0]})
		if err != nil {
			return err
		}
		return a.showReview(r)
	})}

	iq := &pb.ListAccessReviewItemsRequest{}
	items := &cobra.Command{Use: "bindings REVIEW", Short: "List what is under review: who holds what, since when, by whom made, when last used", Args: args("REVIEW"),
		RunE: a.with(func(ctx context.Context, s *api, w []string) error {
			iq.AccessReview = w[0]
			return list(a, ctx, 0, func(ctx context.Context, p *pb.Page) ([]*pb.AccessReviewItem, string, error) {
				iq.Page = p
				r, err := call(ctx, s, s.reviews.ListAccessReviewItems, iq)
				return r.GetItems(), r.GetNextPageToken(), err
			}, "there is nothing of that kind under review", reviewedColumns...)
		})}
	items.Flags().StringSliceVar(&iq.Answers, "answer", nil, "only those with this `ANSWER`: open, kept, revoked, expired, unanswered, gone (repeatable)")

	verdict := func(verb, short, example string) *cobra.Command {
		aq := &pb.AnswerAccessReviewRequest{Answer: verb}
		c := &cobra.Command{Use: verb + " REVIEW BINDING…", Short: short, Example: example,
			Args: func(_ *cobra.Command, words []string) error {
				if len(words) < 2 {
					return usage("give a review, and the bindings that are to be answered for")
				}
				return nil
			},
			RunE: a.with(func(ctx context.Context, s *api, w []string) error {
				aq.AccessReview, aq.Bindings, aq.Rationale = w[0], w[1:], first(aq.Rationale, a.flags.reason)
				if aq.Rationale == "" {
					return usage("--rationale is missing: say why")
				}
				r, err := call(ctx, s, s.reviews.AnswerAccessReview, aq)
				if err != nil {
					return err
				}
				return a.showReview(r)
			})}
		c.Flags().StringVar(&aq.Rationale, "rationale", "", "why; an auditor reads it")
		return c
	}
	return noun("review", "Reviews of standing access: what is held for good is kept with a rationale, or revoked", create, ls, show, items,
		verdict("keep", "Keep what others hold", "  loopback review keep rvw_06h… bnd_06h… bnd_06j… --rationale 'on call for the databases'"),
		verdict("revoke", "Revoke what others hold, everywhere and at once", "  loopback review revoke rvw_06h… bnd_06h… --rationale 'changed teams in May'"),
		&cobra.Command{Use: "cancel REVIEW", Short: "End a review before its time; what was answered stays so", Args: args("REVIEW"), RunE: a.with(func(ctx context.Context, s *api, w []string) error {
			r, err := call(ctx, s, s.reviews.CancelAccessReview, &pb.CancelAccessReviewRequest{AccessReview: w[0], Reason: a.flags.reason})
			if err != nil {
				return err
			}
			return a.showReview(r)
		})},
	)
}

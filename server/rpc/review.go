package rpc

import (
	"context"

	"connectrpc.com/connect"

	v1 "github.com/loopbackd/loopback/api/loopback/v1"
	noun "github.com/loopbackd/loopback/review"
	"github.com/loopbackd/loopback/server/review"
)

// AccessReviews is loopback.v1.AccessReviewService.
type AccessReviews struct{ Service *review.Service }

// CreateAccessReview begins one.
func (h AccessReviews) CreateAccessReview(ctx context.Context, r *connect.Request[v1.CreateAccessReviewRequest]) (*connect.Response[v1.AccessReview], error) {
	var f fields
	m := r.Msg
	in := review.New{
		Place: review.Place{Organisation: m.GetOrganisation(), Project: m.GetProject(), Workspace: m.GetWorkspace()},
		Name:  m.GetName(), Description: m.GetDescription(), Labels: m.GetLabels(), DueAt: f.time("dueAt", m.GetDueAt()), Revoke: m.GetRevokeUnanswered(),
	}
	if err := f.err(); err != nil {
		return nil, err
	}
	out, err := h.Service.Create(ctx, in)
	return answer(accessReview(out), err)
}

// GetAccessReview is one.
func (h AccessReviews) GetAccessReview(ctx context.Context, r *connect.Request[v1.GetAccessReviewRequest]) (*connect.Response[v1.AccessReview], error) {
	out, err := h.Service.Get(ctx, r.Msg.GetAccessReview())
	return answer(accessReview(out), err)
}

// ListAccessReviews is those that the caller may read.
func (h AccessReviews) ListAccessReviews(ctx context.Context, r *connect.Request[v1.ListAccessReviewsRequest]) (*connect.Response[v1.ListAccessReviewsResponse], error) {
	items, next, err := h.Service.List(ctx, review.Query{
		Place:  review.Place{Organisation: r.Msg.GetOrganisation(), Project: r.Msg.GetProject(), Workspace: r.Msg.GetWorkspace()},
		States: each(r.Msg.GetStates(), func(s string) noun.State { return noun.State(s) }), Page: page(r.Msg.GetPage()),
	})
	return answer(&v1.ListAccessReviewsResponse{Items: each(items, accessReview), NextPageToken: next}, err)
}

// ListAccessReviewItems is what is under review.
func (h AccessReviews) ListAccessReviewItems(ctx context.Context, r *connect.Request[v1.ListAccessReviewItemsRequest]) (*connect.Response[v1.ListAccessReviewItemsResponse], error) {
	items, next, err := h.Service.Items(ctx, r.Msg.GetAccessReview(), each(r.Msg.GetAnswers(), func(s string) noun.Verdict { return noun.Verdict(s) }), page(r.Msg.GetPage()))
	return answer(&v1.ListAccessReviewItemsResponse{Items: each(items, accessReviewItem), NextPageToken: next}, err)
}

// AnswerAccessReview keeps bindings, or revokes them.
func (h AccessReviews) AnswerAccessReview(ctx context.Context, r *connect.Request[v1.AnswerAccessReviewRequest]) (*connect.Response[v1.AccessReview], error) {
	said := map[string]noun.Verdict{"keep": noun.Kept, "revoke": noun.Revoked}
	out, err := h.Service.Answer(ctx, r.Msg.GetAccessReview(), review.Reply{Bindings: r.Msg.GetBindings(), Verdict: said[r.Msg.GetAnswer()], Rationale: r.Msg.GetRationale()})
	return answer(accessReview(out), err)
}

// CancelAccessReview ends one.
func (h AccessReviews) CancelAccessReview(ctx context.Context, r *connect.Request[v1.CancelAccessReviewRequest]) (*connect.Response[v1.AccessReview], error) {
	out, err := h.Service.Cancel(ctx, r.Msg.GetAccessReview(), r.Msg.GetReason())
	return answer(accessReview(out), err)
}

func accessReview(r noun.Review) *v1.AccessReview {
	count := func(v ...noun.Verdict) (n int32) {
		for _, one := range v {
			n += int32(r.Counts[one])
		}
		return n
	}
	return &v1.AccessReview{
		Id: r.ID, Name: r.Name, Labels: r.Labels, CreatedAt: timestamp(r.CreatedAt), UpdatedAt: timestamp(r.UpdatedAt), Revision: r.Revision, Scope: scope(r.Scope),
		Description: r.Description, State: string(r.State), DueAt: timestamp(r.DueAt), RevokeUnanswered: r.Revoke, CreatedBy: r.CreatedBy, ClosedAt: timestamp(r.ClosedAt),
		Items: int32(r.Items()), Open: count(noun.Unasked), Kept: count(noun.Kept), Revoked: count(noun.Revoked), Unanswered: count(noun.Expired, noun.Unanswered), Gone: count(noun.Gone),
	}
}

func accessReviewItem(i noun.Item) *v1.AccessReviewItem {
	return &v1.AccessReviewItem{
		ReviewId: i.ReviewID, BindingId: i.BindingID, SubjectKind: string(i.Subject.Kind), SubjectId: i.Subject.ID, SubjectName: i.Who, RoleId: i.RoleID, RoleName: i.RoleName,
		Scope: scope(i.Scope), Hosts: i.Hosts, NotAfter: timestamp(i.NotAfter), Description: i.About, GrantedAt: timestamp(i.GrantedAt), GrantedBy: i.GrantedBy,
		LastActAt: timestamp(i.LastAct), LastSeenAt: timestamp(i.LastSeen), Answer: string(i.Verdict), Rationale: i.Rationale, AnsweredBy: i.By, AnsweredByName: i.ByName,
		AnsweredAt: timestamp(i.At),
	}
}

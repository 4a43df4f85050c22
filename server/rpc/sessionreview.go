package rpc

import (
	"context"

	"connectrpc.com/connect"

	v1 "github.com/loopbackd/loopback/api/loopback/v1"
	"github.com/loopbackd/loopback/server/sessionreview"
	noun "github.com/loopbackd/loopback/sessionreview"
)

// SessionReviews is loopback.v1.SessionReviewService.
type SessionReviews struct{ Service *sessionreview.Service }

// SetSessionReviewPolicy says which sessions have to be looked at.
func (h SessionReviews) SetSessionReviewPolicy(ctx context.Context, r *connect.Request[v1.SetSessionReviewPolicyRequest]) (*connect.Response[v1.SessionReviewPolicy], error) {
	var f fields
	m := r.Msg
	in := sessionreview.NewPolicy{Place: sessionreview.Place{Organisation: m.GetOrganisation(), Project: m.GetProject(), Workspace: m.GetWorkspace()},
		Roles: m.GetReviewRoles(), Share: int(m.GetSharePercent()), Within: f.duration("within", m.GetWithin())}
	if err := f.err(); err != nil {
		return nil, err
	}
	out, err := h.Service.SetPolicy(ctx, in)
	return answer(sessionReviewPolicy(out), err)
}

// UnsetSessionReviewPolicy takes a place's policy away.
func (h SessionReviews) UnsetSessionReviewPolicy(ctx context.Context, r *connect.Request[v1.UnsetSessionReviewPolicyRequest]) (*connect.Response[v1.UnsetSessionReviewPolicyResponse], error) {
	err := h.Service.UnsetPolicy(ctx, sessionreview.Place{Organisation: r.Msg.GetOrganisation(), Project: r.Msg.GetProject(), Workspace: r.Msg.GetWorkspace()})
	return answer(&v1.UnsetSessionReviewPolicyResponse{}, err)
}

// ListSessionReviewPolicies is those that the caller may read.
func (h SessionReviews) ListSessionReviewPolicies(ctx context.Context, _ *connect.Request[v1.ListSessionReviewPoliciesRequest]) (*connect.Response[v1.ListSessionReviewPoliciesResponse], error) {
	items, err := h.Service.Policies(ctx)
	return answer(&v1.ListSessionReviewPoliciesResponse{Items: each(items, sessionReviewPolicy)}, err)
}

// GetSessionReview is one.
func (h SessionReviews) GetSessionReview(ctx context.Context, r *connect.Request[v1.GetSessionReviewRequest]) (*connect.Response[v1.SessionReview], error) {
	out, err := h.Service.Get(ctx, r.Msg.GetSessionReview())
	return answer(h.review(out), err)
}

// ListSessionReviews is those that the caller may read.
func (h SessionReviews) ListSessionReviews(ctx context.Context, r *connect.Request[v1.ListSessionReviewsRequest]) (*connect.Response[v1.ListSessionReviewsResponse], error) {
	items, next, err := h.Service.List(ctx, sessionreview.Query{
		Place:  sessionreview.Place{Organisation: r.Msg.GetOrganisation(), Project: r.Msg.GetProject(), Workspace: r.Msg.GetWorkspace()},
		States: each(r.Msg.GetStates(), func(s string) noun.State { return noun.State(s) }), Overdue: r.Msg.GetOverdue(), Page: page(r.Msg.GetPage()),
	})
	return answer(&v1.ListSessionReviewsResponse{Items: each(items, h.review), NextPageToken: next}, err)
}

// AnswerSessionReview is a verdict.
func (h SessionReviews) AnswerSessionReview(ctx context.Context, r *connect.Request[v1.AnswerSessionReviewRequest]) (*connect.Response[v1.SessionReview], error) {
	out, err := h.Service.Answer(ctx, r.Msg.GetSessionReview(), noun.Verdict(r.Msg.GetVerdict()), r.Msg.GetNote())
	return answer(h.review(out), err)
}

// ReportSessions is who had shells where, and for what.
func (h SessionReviews) ReportSessions(ctx context.Context, r *connect.Request[v1.ReportSessionsRequest]) (*connect.Response[v1.ReportSessionsResponse], error) {
	var f fields
	since, until := f.time("since", r.Msg.GetSince()), f.time("until", r.Msg.GetUntil())
	if err := f.err(); err != nil {
		return nil, err
	}
	out, err := h.Service.Report(ctx, sessionreview.Place{Organisation: r.Msg.GetOrganisation(), Project: r.Msg.GetProject(), Workspace: r.Msg.GetWorkspace()}, since, until)
	return answer(&v1.ReportSessionsResponse{
		Since: timestamp(out.Since), Until: timestamp(out.Until), Sessions: int32(out.Sessions), Runs: int32(out.Runs), Partial: out.Partial,
		People: each(out.People, func(p sessionreview.Person) *v1.SessionReportPerson {
			return &v1.SessionReportPerson{PrincipalId: p.Principal, PrincipalName: p.Name, Sessions: int32(p.Sessions), Hosts: int32(p.Hosts), Time: duration(p.Time), LastAt: timestamp(p.Last),
				Reasons: each(p.Reasons, func(c sessionreview.Counted) *v1.SessionReportReason {
					return &v1.SessionReportReason{Text: c.Text, Times: int32(c.Times)}
				})}
		}),
		Hosts: each(out.Hosts, func(u sessionreview.HostUse) *v1.SessionReportHost {
			return &v1.SessionReportHost{HostId: u.Host, HostName: u.Name, Sessions: int32(u.Sessions), People: int32(u.People), Time: duration(u.Time), LastAt: timestamp(u.Last)}
		}),
		Commands: each(out.Commands, func(c sessionreview.Recurring) *v1.SessionReportCommand {
			return &v1.SessionReportCommand{Command: c.Command, Times: int32(c.Times), Sessions: int32(c.Sessions), Runs: int32(c.Runs), People: int32(c.People), Hosts: int32(c.Hosts)}
		}),
	}, err)
}

func sessionReviewPolicy(p noun.Policy) *v1.SessionReviewPolicy {
	return &v1.SessionReviewPolicy{Id: p.ID, CreatedAt: timestamp(p.CreatedAt), UpdatedAt: timestamp(p.UpdatedAt), Revision: p.Revision, Scope: scope(p.Scope),
		Roles: p.Roles, SharePercent: int32(p.Share), Within: duration(p.Within), WrittenBy: p.By}
}

func (h SessionReviews) review(r noun.Review) *v1.SessionReview {
	return &v1.SessionReview{
		Id: r.ID, CreatedAt: timestamp(r.CreatedAt), UpdatedAt: timestamp(r.UpdatedAt), Revision: r.Revision, Scope: scope(r.Scope), SessionId: r.SessionID,
		HostName: r.HostName, PrincipalId: r.Principal, PrincipalName: r.Who, Reason: r.Reason, Ticket: r.Ticket, EndedAt: timestamp(r.EndedAt), Cause: r.Cause,
		DueAt: timestamp(r.DueAt), State: string(r.State), Overdue: r.Overdue(h.Service.Now()), Verdict: string(r.Verdict), Note: r.Note,
		ReviewerId: r.By, ReviewerName: r.ByName, DoneAt: timestamp(r.DoneAt),
	}
}

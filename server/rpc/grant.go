package rpc

import (
	"context"

	"connectrpc.com/connect"

	v1 "github.com/loopbackd/loopback/api/loopback/v1"
	noun "github.com/loopbackd/loopback/grant"
	"github.com/loopbackd/loopback/server/grant"
)

// Grants is loopback.v1.GrantService.
type Grants struct{ Service *grant.Service }

// RequestGrant asks for one.
func (h Grants) RequestGrant(ctx context.Context, r *connect.Request[v1.RequestGrantRequest]) (*connect.Response[v1.Grant], error) {
	var f fields
	m := r.Msg
	in := grant.New{
		Place: grant.Place{Organisation: m.GetOrganisation(), Project: m.GetProject(), Workspace: m.GetWorkspace()},
		Role:  m.GetRole(), Hosts: m.GetHosts(), Duration: f.duration("duration", m.GetDuration()), Reason: m.GetReason(), Ticket: m.GetTicket(),
	}
	if err := f.err(); err != nil {
		return nil, err
	}
	g, err := h.Service.Request(ctx, in)
	return answer(h.grant(g), err)
}

// GetGrant is one.
func (h Grants) GetGrant(ctx context.Context, r *connect.Request[v1.GetGrantRequest]) (*connect.Response[v1.Grant], error) {
	g, err := h.Service.Get(ctx, r.Msg.GetGrant())
	return answer(h.grant(g), err)
}

// ListGrants is those that the caller may read, and the caller's own.
func (h Grants) ListGrants(ctx context.Context, r *connect.Request[v1.ListGrantsRequest]) (*connect.Response[v1.ListGrantsResponse], error) {
	items, next, err := h.Service.List(ctx, grant.Query{
		Place:  grant.Place{Organisation: r.Msg.GetOrganisation(), Project: r.Msg.GetProject(), Workspace: r.Msg.GetWorkspace()},
		States: each(r.Msg.GetStates(), func(s string) noun.State { return noun.State(s) }), Subject: r.Msg.GetSubject(), Page: page(r.Msg.GetPage()),
	})
	return answer(&v1.ListGrantsResponse{Items: each(items, h.grant), NextPageToken: next}, err)
}

// WaitGrant is one once its state is another, or the time is over.
func (h Grants) WaitGrant(ctx context.Context, r *connect.Request[v1.WaitGrantRequest]) (*connect.Response[v1.Grant], error) {
	var f fields
	timeout := f.duration("timeout", r.Msg.GetTimeout())
	if err := f.err(); err != nil {
		return nil, err
	}
	g, err := h.Service.Wait(ctx, r.Msg.GetGrant(), noun.State(r.Msg.GetState()), timeout)
	return answer(h.grant(g), err)
}

// ApproveGrant is the caller's approval.
func (h Grants) ApproveGrant(ctx context.Context, r *connect.Request[v1.ApproveGrantRequest]) (*connect.Response[v1.Grant], error) {
	g, err := h.Service.Approve(ctx, r.Msg.GetGrant(), r.Msg.GetComment())
	return answer(h.grant(g), err)
}

// DenyGrant ends a request.
func (h Grants) DenyGrant(ctx context.Context, r *connect.Request[v1.DenyGrantRequest]) (*connect.Response[v1.Grant], error) {
	g, err := h.Service.Deny(ctx, r.Msg.GetGrant(), r.Msg.GetComment())
	return answer(h.grant(g), err)
}

// RevokeGrant ends one before its time.
func (h Grants) RevokeGrant(ctx context.Context, r *connect.Request[v1.RevokeGrantRequest]) (*connect.Response[v1.Grant], error) {
	g, err := h.Service.Revoke(ctx, r.Msg.GetGrant(), r.Msg.GetComment())
	return answer(h.grant(g), err)
}

// CancelGrant withdraws the caller's own.
func (h Grants) CancelGrant(ctx context.Context, r *connect.Request[v1.CancelGrantRequest]) (*connect.Response[v1.Grant], error) {
	g, err := h.Service.Cancel(ctx, r.Msg.GetGrant())
	return answer(h.grant(g), err)
}

func (h Grants) grant(g noun.Grant) *v1.Grant {
	out := &v1.Grant{
		Id: g.ID, CreatedAt: timestamp(g.CreatedAt), UpdatedAt: timestamp(g.UpdatedAt), Revision: g.Revision, Scope: scope(g.Scope),
		SubjectKind: string(g.Subject.Kind), SubjectId: g.Subject.ID, SubjectName: g.Who, RoleId: g.RoleID, RoleName: g.RoleName, Hosts: g.Hosts,
		Duration: duration(g.Duration), Reason: g.Reason, Ticket: g.Ticket, PolicyId: g.PolicyID, State: string(h.Service.State(g)),
		ApprovalsNeeded: int32(g.Terms.Approvals), ExpiresAt: timestamp(g.ExpiresAt), BindingId: g.BindingID, BeganAt: timestamp(g.BeganAt),
		NotAfter: timestamp(g.NotAfter), EndedAt: timestamp(g.EndedAt), EndedBy: g.EndedBy, Comment: g.Comment,
	}
	for _, a := range g.Approvals {
		out.Approvals = append(out.Approvals, &v1.GrantApproval{UserId: a.Principal, UserName: a.Name, At: timestamp(a.At), Comment: a.Comment})
	}
	if w := g.Webhook; w != nil {
		out.Webhook = &v1.GrantAnswer{Allowed: w.Allowed, Message: w.Message, Status: int32(w.Status), At: timestamp(w.At)}
	}
	return out
}

// GrantPolicies is loopback.v1.GrantPolicyService.
type GrantPolicies struct{ Service *grant.Service }

// CreateGrantPolicy makes one.
func (h GrantPolicies) CreateGrantPolicy(ctx context.Context, r *connect.Request[v1.CreateGrantPolicyRequest]) (*connect.Response[v1.CreateGrantPolicyResponse], error) {
	var f fields
	m := r.Msg
	in := grant.NewPolicy{
		Place: grant.Place{Organisation: m.GetOrganisation(), Project: m.GetProject(), Workspace: m.GetWorkspace()},
		Name:  m.GetName(), Description: m.GetDescription(), Labels: m.GetLabels(), Role: m.GetRole(), Approvals: int(m.GetApprovals()), Approvers: m.GetApprovers(),
		Ticket: m.GetTicketPattern(), MaxDuration: f.duration("maxDuration", m.GetMaxDuration()), Wait: f.duration("wait", m.GetWait()),
		Webhook: m.GetWebhook(), CA: m.GetCa(), Secret: m.GetSecret(),
	}
	if err := f.err(); err != nil {
		return nil, err
	}
	p, secret, err := h.Service.CreatePolicy(ctx, in)
	return answer(&v1.CreateGrantPolicyResponse{Policy: grantPolicy(p), Secret: secret}, err)
}

// GetGrantPolicy is one.
func (h GrantPolicies) GetGrantPolicy(ctx context.Context, r *connect.Request[v1.GetGrantPolicyRequest]) (*connect.Response[v1.GrantPolicy], error) {
	p, err := h.Service.Policy(ctx, r.Msg.GetGrantPolicy())
	return answer(grantPolicy(p), err)
}

// ListGrantPolicies is those that the caller may read.
func (h GrantPolicies) ListGrantPolicies(ctx context.Context, r *connect.Request[v1.ListGrantPoliciesRequest]) (*connect.Response[v1.ListGrantPoliciesResponse], error) {
	at := grant.Place{Organisation: r.Msg.GetOrganisation(), Project: r.Msg.GetProject(), Workspace: r.Msg.GetWorkspace()}
	items, next, err := h.Service.Policies(ctx, at, page(r.Msg.GetPage()))
	return answer(&v1.ListGrantPoliciesResponse{Items: each(items, grantPolicy), NextPageToken: next}, err)
}

// DeleteGrantPolicy deletes one.
func (h GrantPolicies) DeleteGrantPolicy(ctx context.Context, r *connect.Request[v1.DeleteGrantPolicyRequest]) (*connect.Response[v1.DeleteGrantPolicyResponse], error) {
	return answer(&v1.DeleteGrantPolicyResponse{}, h.Service.DeletePolicy(ctx, r.Msg.GetGrantPolicy()))
}

func grantPolicy(p noun.Policy) *v1.GrantPolicy {
	t := p.Terms
	return &v1.GrantPolicy{
		Id: p.ID, Name: p.Name, Labels: p.Labels, CreatedAt: timestamp(p.CreatedAt), UpdatedAt: timestamp(p.UpdatedAt), Revision: p.Revision, Scope: scope(p.Scope),
		Description: p.Description, RoleId: p.RoleID, Approvals: int32(t.Approvals), Approvers: t.Approvers, TicketPattern: t.Ticket,
		MaxDuration: duration(t.MaxDuration), Wait: duration(t.Wait), Webhook: t.Webhook, CreatedBy: p.CreatedBy,
	}
}

package rpc

import (
	"context"
	"time"

	"connectrpc.com/connect"

	v1 "github.com/loopbackd/loopback/api/loopback/v1"
	noun "github.com/loopbackd/loopback/invitation"
	"github.com/loopbackd/loopback/server/invitation"
	"github.com/loopbackd/loopback/server/passkey"
)

// Invitations is loopback.v1.InvitationService.
type Invitations struct {
	Service   *invitation.Service
	Passkeys  *passkey.Service
	PublicURL string
	Now       func() time.Time
	// Refused records that one was shown that opens nothing, and gives the error back.
	Refused func(ctx context.Context, invitation string, err error) error
}

// CreateInvitation makes one.
func (h Invitations) CreateInvitation(ctx context.Context, r *connect.Request[v1.CreateInvitationRequest]) (*connect.Response[v1.CreateInvitationResponse], error) {
	i, secret, err := h.Service.Create(ctx, r.Msg.GetUser(), r.Msg.GetTtl().AsDuration())
	return answer(&v1.CreateInvitationResponse{Invitation: h.invitation(i), Secret: secret, Url: h.PublicURL + "/invite#" + secret}, err)
}

// ListInvitations is those that the caller may read.
func (h Invitations) ListInvitations(ctx context.Context, r *connect.Request[v1.ListInvitationsRequest]) (*connect.Response[v1.ListInvitationsResponse], error) {
	items, next, err := h.Service.List(ctx, r.Msg.GetUser(), page(r.Msg.GetPage()))
	return answer(&v1.ListInvitationsResponse{Items: each(items, h.invitation), NextPageToken: next}, err)
}

// RevokeInvitation takes one back.
func (h Invitations) RevokeInvitation(ctx context.Context, r *connect.Request[v1.RevokeInvitationRequest]) (*connect.Response[v1.Invitation], error) {
	i, err := h.Service.Revoke(ctx, r.Msg.GetInvitation())
	return answer(h.invitation(i), err)
}

// OpenInvitation says whom one is for.
func (h Invitations) OpenInvitation(ctx context.Context, r *connect.Request[v1.OpenInvitationRequest]) (*connect.Response[v1.OpenInvitationResponse], error) {
	i, err := h.Service.Open(ctx, r.Msg.GetInvitationSecret())
	if err != nil {
		return nil, h.Refused(ctx, i.ID, err)
	}
	opened := &v1.OpenInvitationResponse{Name: i.Name, ExpiresAt: timestamp(i.ExpiresAt)}
	if h.Passkeys.Domain() == "" {
		return answer(opened, nil) // no passkeys here; they may come in by a provider
	}
	c, err := h.Passkeys.BeginInvited(ctx, i)
	opened.Ceremony = ceremony(c)
	return answer(opened, err)
}

func (h Invitations) invitation(i noun.Invitation) *v1.Invitation {
	return &v1.Invitation{
		Id: i.ID, Name: i.Name, Labels: i.Labels, CreatedAt: timestamp(i.CreatedAt), UpdatedAt: timestamp(i.UpdatedAt), Revision: i.Revision, Scope: scope(i.Scope),
		UserId: i.UserID, CreatedBy: i.CreatedBy, ExpiresAt: timestamp(i.ExpiresAt), UsedAt: timestamp(i.UsedAt), RevokedAt: timestamp(i.RevokedAt), State: i.State(h.Now()),
	}
}

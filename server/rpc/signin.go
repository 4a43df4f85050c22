package rpc

import (
	"context"

	"connectrpc.com/connect"

	v1 "github.com/loopbackd/loopback/api/loopback/v1"
	nouns "github.com/loopbackd/loopback/provider"
	"github.com/loopbackd/loopback/server/provider"
	"github.com/loopbackd/loopback/server/signin"
	noun "github.com/loopbackd/loopback/signin"
)

// SignIns is loopback.v1.SignInService.
type SignIns struct {
	Service   *signin.Service
	Providers *provider.Service
}

// ListSignInMethods is what the sign-in page offers.
func (h SignIns) ListSignInMethods(ctx context.Context, _ *connect.Request[v1.ListSignInMethodsRequest]) (*connect.Response[v1.ListSignInMethodsResponse], error) {
	all, err := h.Providers.Offered(ctx)
	return answer(&v1.ListSignInMethodsResponse{Providers: each(all, func(p nouns.Provider) *v1.OfferedProvider {
		return &v1.OfferedProvider{Id: p.ID, Name: p.Name}
	})}, err)
}

// ListSignIns is those that the caller may read.
func (h SignIns) ListSignIns(ctx context.Context, r *connect.Request[v1.ListSignInsRequest]) (*connect.Response[v1.ListSignInsResponse], error) {
	items, next, err := h.Service.List(ctx, r.Msg.GetUser(), page(r.Msg.GetPage()))
	return answer(&v1.ListSignInsResponse{Items: each(items, signIn), NextPageToken: next}, err)
}

// RevokeSignIn ends one.
func (h SignIns) RevokeSignIn(ctx context.Context, r *connect.Request[v1.RevokeSignInRequest]) (*connect.Response[v1.SignIn], error) {
	s, err := h.Service.Revoke(ctx, r.Msg.GetSignIn())
	return answer(signIn(s), err)
}

// RevokeSignIns ends all of a user.
func (h SignIns) RevokeSignIns(ctx context.Context, r *connect.Request[v1.RevokeSignInsRequest]) (*connect.Response[v1.RevokeSignInsResponse], error) {
	n, err := h.Service.RevokeAll(ctx, r.Msg.GetUser())
	return answer(&v1.RevokeSignInsResponse{Ended: int32(n)}, err)
}

// ListMySignIns is the caller's own.
func (h SignIns) ListMySignIns(ctx context.Context, r *connect.Request[v1.ListMySignInsRequest]) (*connect.Response[v1.ListSignInsResponse], error) {
	items, next, err := h.Service.Mine(ctx, page(r.Msg.GetPage()))
	return answer(&v1.ListSignInsResponse{Items: each(items, signIn), NextPageToken: next}, err)
}

// SignOut ends one of the caller's own, or all.
func (h SignIns) SignOut(ctx context.Context, r *connect.Request[v1.SignOutRequest]) (*connect.Response[v1.SignOutResponse], error) {
	if r.Msg.GetEverywhere() {
		n, err := h.Service.EndMine(ctx)
		return answer(&v1.SignOutResponse{Ended: int32(n)}, err)
	}
	return answer(&v1.SignOutResponse{Ended: 1}, h.Service.End(ctx, r.Msg.GetSignIn()))
}

func signIn(s noun.SignIn) *v1.SignIn {
	return &v1.SignIn{
		Id: s.ID, Name: s.Name, Labels: s.Labels, CreatedAt: timestamp(s.CreatedAt), UpdatedAt: timestamp(s.UpdatedAt), Revision: s.Revision,
		Scope: scope(s.Scope), UserId: s.UserID, Method: string(s.Method), Via: s.Via, ApiKeyId: s.KeyID, Address: s.Address, Agent: s.Agent,
		ExpiresAt: timestamp(s.ExpiresAt), Idle: duration(s.Idle), LastUsedAt: timestamp(s.LastUsedAt), MfaAt: timestamp(s.MFAAt),
		EndedAt: timestamp(s.EndedAt), EndedFor: s.EndedFor,
	}
}

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
	PublicURL string
	Domain    string // that passkeys are good for; empty: none
}

// BeginDeviceSignIn notes a device.
func (h SignIns) BeginDeviceSignIn(ctx context.Context, r *connect.Request[v1.BeginDeviceSignInRequest]) (*connect.Response[v1.BeginDeviceSignInResponse], error) {
	d, code, secret, err := h.Service.BeginDevice(ctx, r.Msg.GetAgent())
	url := h.PublicURL + "/device"
	return answer(&v1.BeginDeviceSignInResponse{Secret: secret, Code: code, Url: url, UrlComplete: url + "?code=" + code, ExpiresAt: timestamp(d.ExpiresAt),
		Interval: duration(noun.DeviceInterval)}, err)
}

// BeginDeviceStepUp notes that a command line asks for a passkey.
func (h SignIns) BeginDeviceStepUp(ctx context.Context, _ *connect.Request[v1.BeginDeviceStepUpRequest]) (*connect.Response[v1.BeginDeviceSignInResponse], error) {
	d, code, secret, err := h.Service.BeginStepUp(ctx)
	url := h.PublicURL + "/device"
	return answer(&v1.BeginDeviceSignInResponse{Secret: secret, Code: code, Url: url, UrlComplete: url + "?code=" + code, ExpiresAt: timestamp(d.ExpiresAt),
		Interval: duration(noun.StepUpInterval)}, err)
}

// PollDeviceSignIn tells a device whether it was approved.
func (h SignIns) PollDeviceSignIn(ctx context.Context, r *connect.Request[v1.PollDeviceSignInRequest]) (*connect.Response[v1.PollDeviceSignInResponse], error) {
	in, secret, waits, err := h.Service.PollDevice(ctx, r.Msg.GetSecret())
	out := &v1.PollDeviceSignInResponse{Pending: waits, Secret: secret}
	if in.ID != "" {
		out.SignIn = signIn(in)
	}
	return answer(out, err)
}

// GetDevice is the one that waits for a code.
func (h SignIns) GetDevice(ctx context.Context, r *connect.Request[v1.GetDeviceRequest]) (*connect.Response[v1.Device], error) {
	d, err := h.Service.WaitingDevice(ctx, r.Msg.GetCode())
	return answer(device(d), err)
}

// DecideDevice approves or denies it.
func (h SignIns) DecideDevice(ctx context.Context, r *connect.Request[v1.DecideDeviceRequest]) (*connect.Response[v1.Device], error) {
	d, err := h.Service.DecideDevice(ctx, r.Msg.GetCode(), r.Msg.GetApprove())
	return answer(device(d), err)
}

func device(d noun.Device) *v1.Device {
	return &v1.Device{Id: d.ID, Address: d.Address, Agent: d.Agent, CreatedAt: timestamp(d.CreatedAt), ExpiresAt: timestamp(d.ExpiresAt), Approved: d.Approved, StepUp: d.StepUp != ""}
}

// ListSignInMethods is what the sign-in page offers.
func (h SignIns) ListSignInMethods(ctx context.Context, _ *connect.Request[v1.ListSignInMethodsRequest]) (*connect.Response[v1.ListSignInMethodsResponse], error) {
	all, err := h.Providers.Offered(ctx)
	return answer(&v1.ListSignInMethodsResponse{PasskeyDomain: h.Domain, Url: h.PublicURL, Providers: each(all, func(p nouns.Provider) *v1.OfferedProvider {
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

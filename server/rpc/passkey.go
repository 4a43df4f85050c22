package rpc

import (
	"context"

	"connectrpc.com/connect"

	v1 "github.com/loopbackd/loopback/api/loopback/v1"
	noun "github.com/loopbackd/loopback/passkey"
	"github.com/loopbackd/loopback/server/passkey"
)

// Passkeys is loopback.v1.PasskeyService.
type Passkeys struct{ Service *passkey.Service }

// BeginPasskeySignIn gives what a browser needs to sign in.
func (h Passkeys) BeginPasskeySignIn(ctx context.Context, _ *connect.Request[v1.BeginPasskeySignInRequest]) (*connect.Response[v1.PasskeyCeremony], error) {
	c, err := h.Service.BeginSignIn(ctx)
	return answer(ceremony(c), err)
}

// BeginPasskeyRegistration gives what a browser needs to make one.
func (h Passkeys) BeginPasskeyRegistration(ctx context.Context, _ *connect.Request[v1.BeginPasskeyRegistrationRequest]) (*connect.Response[v1.PasskeyCeremony], error) {
	c, err := h.Service.BeginRegistration(ctx)
	return answer(ceremony(c), err)
}

// FinishPasskeyRegistration keeps what was made.
func (h Passkeys) FinishPasskeyRegistration(ctx context.Context, r *connect.Request[v1.FinishPasskeyRegistrationRequest]) (*connect.Response[v1.Passkey], error) {
	p, err := h.Service.FinishRegistration(ctx, r.Msg.GetCeremony(), r.Msg.GetResponse(), r.Msg.GetName())
	return answer(passkeyOf(p), err)
}

// BeginStepUp gives what a browser needs to show one anew.
func (h Passkeys) BeginStepUp(ctx context.Context, _ *connect.Request[v1.BeginStepUpRequest]) (*connect.Response[v1.PasskeyCeremony], error) {
	c, err := h.Service.BeginStepUp(ctx)
	return answer(ceremony(c), err)
}

// FinishStepUp notes that one was shown.
func (h Passkeys) FinishStepUp(ctx context.Context, r *connect.Request[v1.FinishStepUpRequest]) (*connect.Response[v1.FinishStepUpResponse], error) {
	p, err := h.Service.FinishStepUp(ctx, r.Msg.GetCeremony(), r.Msg.GetResponse())
	return answer(&v1.FinishStepUpResponse{MfaAt: timestamp(p.At)}, err)
}

// ListMyPasskeys is the caller's own.
func (h Passkeys) ListMyPasskeys(ctx context.Context, r *connect.Request[v1.ListMyPasskeysRequest]) (*connect.Response[v1.ListPasskeysResponse], error) {
	items, next, err := h.Service.Mine(ctx, page(r.Msg.GetPage()))
	return answer(&v1.ListPasskeysResponse{Items: each(items, passkeyOf), NextPageToken: next}, err)
}

// ListPasskeys is those that the caller may read.
func (h Passkeys) ListPasskeys(ctx context.Context, r *connect.Request[v1.ListPasskeysRequest]) (*connect.Response[v1.ListPasskeysResponse], error) {
	items, next, err := h.Service.List(ctx, r.Msg.GetUser(), page(r.Msg.GetPage()))
	return answer(&v1.ListPasskeysResponse{Items: each(items, passkeyOf), NextPageToken: next}, err)
}

// RenamePasskey gives one another name.
func (h Passkeys) RenamePasskey(ctx context.Context, r *connect.Request[v1.RenamePasskeyRequest]) (*connect.Response[v1.Passkey], error) {
	p, err := h.Service.Rename(ctx, r.Msg.GetPasskey(), r.Msg.GetName())
	return answer(passkeyOf(p), err)
}

// RemovePasskey removes one of the caller's own.
func (h Passkeys) RemovePasskey(ctx context.Context, r *connect.Request[v1.RemovePasskeyRequest]) (*connect.Response[v1.RemovePasskeyResponse], error) {
	return answer(&v1.RemovePasskeyResponse{}, h.Service.Remove(ctx, r.Msg.GetPasskey(), r.Msg.GetEvenLast()))
}

// RevokePasskey removes somebody's.
func (h Passkeys) RevokePasskey(ctx context.Context, r *connect.Request[v1.RevokePasskeyRequest]) (*connect.Response[v1.RevokePasskeyResponse], error) {
	return answer(&v1.RevokePasskeyResponse{}, h.Service.Revoke(ctx, r.Msg.GetPasskey()))
}

func ceremony(c passkey.Ceremony) *v1.PasskeyCeremony {
	return &v1.PasskeyCeremony{Ceremony: c.Text, Options: string(c.Options), ExpiresAt: timestamp(c.ExpiresAt)}
}

func passkeyOf(p noun.Passkey) *v1.Passkey {
	return &v1.Passkey{
		Id: p.ID, Name: p.Name, Labels: p.Labels, CreatedAt: timestamp(p.CreatedAt), UpdatedAt: timestamp(p.UpdatedAt), Revision: p.Revision,
		Scope: scope(p.Scope), UserId: p.UserID, Domain: p.Domain, LastUsedAt: timestamp(p.LastUsedAt), BackedUp: p.BackedUp, Transports: p.Transports,
	}
}

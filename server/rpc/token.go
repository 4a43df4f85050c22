package rpc

import (
	"context"

	"connectrpc.com/connect"

	v1 "github.com/loopbackd/loopback/api/loopback/v1"
	"github.com/loopbackd/loopback/operation"
	"github.com/loopbackd/loopback/server/token"
	noun "github.com/loopbackd/loopback/token"
)

// Tokens is loopback.v1.TokenService.
type Tokens struct{ Service *token.Service }

// MintToken makes one.
func (h Tokens) MintToken(ctx context.Context, r *connect.Request[v1.MintTokenRequest]) (*connect.Response[v1.MintTokenResponse], error) {
	var f fields
	m := r.Msg
	in := token.Request{
		Name: m.GetName(), Description: m.GetDescription(), Labels: m.GetLabels(), TTL: f.duration("ttl", m.GetTtl()),
		LongLived: m.GetLongLived(), MaxUses: m.GetMaxUses(), AllowedNetworks: m.GetAllowedNetworks(),
		HostNamePattern: m.GetHostNamePattern(), RequiresApproval: m.GetRequiresApproval(), HostLabels: m.GetHostLabels(),
		Channel: m.GetChannel(), EphemeralTTL: f.duration("ephemeralTtl", m.GetEphemeralTtl()), Honeytoken: m.GetHoneytoken(),
	}
	if err := f.err(); err != nil {
		return nil, err
	}
	minted, err := h.Service.Mint(ctx, m.GetWorkspace(), in)
	return answer(h.minted(minted), err)
}

// GetToken is one.
func (h Tokens) GetToken(ctx context.Context, r *connect.Request[v1.GetTokenRequest]) (*connect.Response[v1.Token], error) {
	t, err := h.Service.Get(ctx, r.Msg.GetToken())
	return answer(h.token(t), err)
}

// ListTokens is those that the caller may see.
func (h Tokens) ListTokens(ctx context.Context, r *connect.Request[v1.ListTokensRequest]) (*connect.Response[v1.ListTokensResponse], error) {
	states := each(r.Msg.GetStates(), func(s string) noun.State { return noun.State(s) })
	items, next, err := h.Service.List(ctx, r.Msg.GetWorkspace(), states, page(r.Msg.GetPage()))
	return answer(&v1.ListTokensResponse{Items: each(items, h.token), NextPageToken: next}, err)
}

// RotateToken mints a successor.
func (h Tokens) RotateToken(ctx context.Context, r *connect.Request[v1.RotateTokenRequest]) (*connect.Response[v1.MintTokenResponse], error) {
	var f fields
	in := token.Rotation{TTL: f.duration("ttl", r.Msg.GetTtl())}
	if r.Msg.GetOverlap() != nil {
		overlap := f.duration("overlap", r.Msg.GetOverlap())
		in.Overlap = &overlap
	}
	if err := f.err(); err != nil {
		return nil, err
	}
	minted, err := h.Service.Rotate(ctx, r.Msg.GetToken(), in)
	return answer(h.minted(minted), err)
}

// RevokeToken ends one.
func (h Tokens) RevokeToken(ctx context.Context, r *connect.Request[v1.RevokeTokenRequest]) (*connect.Response[v1.RevokeTokenResponse], error) {
	var f fields
	in := token.Revocation{
		Hosts: noun.Fate(r.Msg.GetHosts()), Since: f.time("since", r.Msg.GetSince()), Reason: r.Msg.GetReason(), RequestID: r.Msg.GetRequestId(),
	}
	if err := f.err(); err != nil {
		return nil, err
	}
	t, op, err := h.Service.Revoke(ctx, r.Msg.GetToken(), in)
	out := &v1.RevokeTokenResponse{Token: h.token(t)}
	if op != nil {
		out.Operation = operationMessage(*op)
	}
	return answer(out, err)
}

func (h Tokens) minted(m token.Minted) *v1.MintTokenResponse {
	return &v1.MintTokenResponse{Token: h.token(m.Token), Secret: m.Secret.Reveal(), InstallCommand: m.InstallCommand}
}

func (h Tokens) token(t noun.Token) *v1.Token {
	state, warnings := h.Service.Standing(t)
	out := &v1.Token{
		Id: t.ID, Name: t.Name, Labels: t.Labels, CreatedAt: timestamp(t.CreatedAt), UpdatedAt: timestamp(t.UpdatedAt),
		Revision: t.Revision, Scope: scope(t.Scope), Description: t.Description, State: string(state),
		ExpiresAt: timestamp(t.ExpiresAt), MaxUses: t.MaxUses, Uses: t.Uses, HostNamePattern: t.HostNamePattern,
		RequiresApproval: t.RequiresApproval, HostLabels: t.HostLabels, Channel: t.Channel,
		EphemeralTtl: duration(t.EphemeralTTL), Honeytoken: t.Honeytoken, CreatedBy: t.CreatedBy,
		LastUsedAt: timestamp(t.LastUsedAt), LastAddress: t.LastAddress, SuccessorId: t.SuccessorID,
		RevokedAt: timestamp(t.RevokedAt), RevokedBy: t.RevokedBy, Reason: t.Reason, Warnings: texts(warnings),
	}
	for _, n := range t.AllowedNetworks {
		out.AllowedNetworks = append(out.AllowedNetworks, n.String())
	}
	for _, s := range t.Signals {
		out.Signals = append(out.Signals, &v1.TokenSignal{
			Kind: string(s.Kind), FirstAt: timestamp(s.First), LastAt: timestamp(s.Last), Count: s.Count, Address: s.Address,
		})
	}
	return out
}

func operationMessage(o operation.Operation) *v1.Operation {
	out := &v1.Operation{
		Id: o.ID, Name: o.Name, Labels: o.Labels, CreatedAt: timestamp(o.CreatedAt), UpdatedAt: timestamp(o.UpdatedAt),
		Revision: o.Revision, Scope: scope(o.Scope), Target: o.Target, State: string(o.State), Progress: o.Progress,
		Actor: o.Actor, EndedAt: timestamp(o.EndedAt),
	}
	for _, s := range o.Steps {
		out.Steps = append(out.Steps, &v1.OperationStep{
			Name: s.Name, State: string(s.State), Message: s.Message, StartedAt: timestamp(s.StartedAt), EndedAt: timestamp(s.EndedAt),
		})
	}
	if o.ErrorCode != "" {
		out.Error = &v1.OperationError{Code: o.ErrorCode, Message: o.Error}
	}
	return out
}

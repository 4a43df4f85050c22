package rpc

import (
	"context"

	"connectrpc.com/connect"

	"github.com/loopbackd/loopback/access"
	v1 "github.com/loopbackd/loopback/api/loopback/v1"
	noun "github.com/loopbackd/loopback/apikey"
	"github.com/loopbackd/loopback/server/apikey"
	"github.com/loopbackd/loopback/server/signin"
)

// ApiKeys is loopback.v1.ApiKeyService.
type ApiKeys struct{ Service *apikey.Service }

// CreateApiKey makes one.
func (h ApiKeys) CreateApiKey(ctx context.Context, r *connect.Request[v1.CreateApiKeyRequest]) (*connect.Response[v1.CreateApiKeyResponse], error) {
	var f fields
	m := r.Msg
	in := apikey.New{
		Name: m.GetName(), Description: m.GetDescription(), Labels: m.GetLabels(), Organisation: m.GetOrganisation(),
		Project: m.GetProject(), Workspace: m.GetWorkspace(), ServiceAccount: m.GetServiceAccount(), TTL: f.duration("ttl", m.GetTtl()),
		Permissions: each(m.GetPermissions(), func(p string) access.Permission { return access.Permission(p) }),
	}
	if err := f.err(); err != nil {
		return nil, err
	}
	k, secret, err := h.Service.Create(ctx, in)
	return answer(&v1.CreateApiKeyResponse{ApiKey: apiKey(k), Secret: secret}, err)
}

// GetApiKey is one.
func (h ApiKeys) GetApiKey(ctx context.Context, r *connect.Request[v1.GetApiKeyRequest]) (*connect.Response[v1.ApiKey], error) {
	k, err := h.Service.Get(ctx, r.Msg.GetApiKey())
	return answer(apiKey(k), err)
}

// ListApiKeys is those that the caller may read.
func (h ApiKeys) ListApiKeys(ctx context.Context, r *connect.Request[v1.ListApiKeysRequest]) (*connect.Response[v1.ListApiKeysResponse], error) {
	items, next, err := h.Service.List(ctx, page(r.Msg.GetPage()))
	return answer(&v1.ListApiKeysResponse{Items: each(items, apiKey), NextPageToken: next}, err)
}

// RevokeApiKey ends one.
func (h ApiKeys) RevokeApiKey(ctx context.Context, r *connect.Request[v1.RevokeApiKeyRequest]) (*connect.Response[v1.ApiKey], error) {
	k, err := h.Service.Revoke(ctx, r.Msg.GetApiKey())
	return answer(apiKey(k), err)
}

// Sessions is loopback.v1.SessionService.
type Sessions struct {
	Service    *apikey.Service
	SignIns    *signin.Service
	Deployment string // its id
	Version    string // of this program
}

// WhoAmI is the caller, as the control plane sees them.
func (h Sessions) WhoAmI(ctx context.Context, _ *connect.Request[v1.WhoAmIRequest]) (*connect.Response[v1.WhoAmIResponse], error) {
	actor := access.ActorFrom(ctx)
	out := &v1.WhoAmIResponse{
		Kind: string(actor.Kind), Id: actor.ID, Name: actor.Name, Deployment: h.Deployment, ServerVersion: h.Version,
		PrincipalId: actor.Principal,
		Grants: each(actor.Grants, func(g access.Grant) *v1.PermissionGrant {
			return &v1.PermissionGrant{Id: g.ID, Permissions: texts(g.Permissions), Scope: scope(g.Scope)}
		}),
	}
	for _, p := range Permissions { // self.read among them, so that the list is never empty
		if actor.Touches(p.Name) {
			out.Permissions = append(out.Permissions, string(p.Name))
		}
	}
	if actor.Kind == access.SignIn {
		in, err := h.SignIns.Current(ctx)
		out.SignIn, out.ExpiresAt = signIn(in), timestamp(in.ExpiresAt)
		return answer(out, err)
	}
	expires, err := h.Service.Expiry(ctx)
	out.ExpiresAt = timestamp(expires)
	return answer(out, err)
}

// RedeemBootstrapCode trades the code for the first administrator's key, or for an invitation of theirs.
func (h Sessions) RedeemBootstrapCode(ctx context.Context, r *connect.Request[v1.RedeemBootstrapCodeRequest]) (*connect.Response[v1.CreateApiKeyResponse], error) {
	if r.Msg.GetInvite() {
		secret, err := h.Service.RedeemForInvitation(ctx, r.Msg.GetCode(), r.Msg.GetName())
		return answer(&v1.CreateApiKeyResponse{InvitationSecret: secret}, err)
	}
	k, secret, err := h.Service.Redeem(ctx, r.Msg.GetCode(), r.Msg.GetName())
	return answer(&v1.CreateApiKeyResponse{ApiKey: apiKey(k), Secret: secret}, err)
}

func apiKey(k noun.Key) *v1.ApiKey {
	return &v1.ApiKey{
		Id: k.ID, Name: k.Name, Labels: k.Labels, CreatedAt: timestamp(k.CreatedAt), UpdatedAt: timestamp(k.UpdatedAt),
		Revision: k.Revision, Scope: scope(k.Scope), Description: k.Description, Permissions: texts(k.Permissions),
		ExpiresAt: timestamp(k.ExpiresAt), CreatedBy: k.CreatedBy, LastUsedAt: timestamp(k.LastUsedAt), RevokedAt: timestamp(k.RevokedAt),
		OwnerId: k.OwnerID,
	}
}

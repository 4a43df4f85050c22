package rpc

import (
	"context"

	"connectrpc.com/connect"

	v1 "github.com/loopbackd/loopback/api/loopback/v1"
	noun "github.com/loopbackd/loopback/provider"
	"github.com/loopbackd/loopback/server/provider"
)

// Providers is loopback.v1.ProviderService.
type Providers struct{ Service *provider.Service }

func providerFields(m *v1.ProviderFields) provider.Fields {
	if m == nil {
		return provider.Fields{}
	}
	f := provider.Fields{Issuer: m.Issuer, ClientID: m.ClientId, Secret: m.Secret, CA: m.Ca, Scopes: m.Scopes, Disabled: m.Disabled, Organisation: m.Organisation,
		CreateUsers: m.CreateUsers, GroupsClaim: m.GroupsClaim, TrustMFA: m.TrustMfa}
	if m.Domains != nil {
		f.Domains = &m.Domains.Domains
	}
	if m.Groups != nil {
		f.Groups = &m.Groups.Groups
	}
	if m.MfaValues != nil {
		f.MFAValues = &m.MfaValues.MfaValues
	}
	return f
}

// CreateProvider makes one.
func (h Providers) CreateProvider(ctx context.Context, r *connect.Request[v1.CreateProviderRequest]) (*connect.Response[v1.Provider], error) {
	p, err := h.Service.Create(ctx, r.Msg.GetName(), providerFields(r.Msg.GetFields()))
	return answer(h.provider(p), err)
}

// GetProvider is one.
func (h Providers) GetProvider(ctx context.Context, r *connect.Request[v1.GetProviderRequest]) (*connect.Response[v1.Provider], error) {
	p, err := h.Service.Get(ctx, r.Msg.GetIdentityProvider())
	return answer(h.provider(p), err)
}

// ListProviders is all of them.
func (h Providers) ListProviders(ctx context.Context, _ *connect.Request[v1.ListProvidersRequest]) (*connect.Response[v1.ListProvidersResponse], error) {
	all, err := h.Service.List(ctx)
	return answer(&v1.ListProvidersResponse{Items: each(all, h.provider)}, err)
}

// UpdateProvider changes one.
func (h Providers) UpdateProvider(ctx context.Context, r *connect.Request[v1.UpdateProviderRequest]) (*connect.Response[v1.Provider], error) {
	f := providerFields(r.Msg.GetFields())
	f.Revision = r.Msg.GetRevision()
	p, err := h.Service.Update(ctx, r.Msg.GetIdentityProvider(), f)
	return answer(h.provider(p), err)
}

// DeleteProvider removes one.
func (h Providers) DeleteProvider(ctx context.Context, r *connect.Request[v1.DeleteProviderRequest]) (*connect.Response[v1.DeleteProviderResponse], error) {
	return answer(&v1.DeleteProviderResponse{}, h.Service.Delete(ctx, r.Msg.GetIdentityProvider()))
}

// LinkIdentity says who a subject is here.
func (h Providers) LinkIdentity(ctx context.Context, r *connect.Request[v1.LinkIdentityRequest]) (*connect.Response[v1.Identity], error) {
	i, err := h.Service.Link(ctx, r.Msg.GetIdentityProvider(), r.Msg.GetSubject(), r.Msg.GetUser())
	return answer(identity(i), err)
}

// DeleteIdentity forgets it.
func (h Providers) DeleteIdentity(ctx context.Context, r *connect.Request[v1.DeleteIdentityRequest]) (*connect.Response[v1.DeleteIdentityResponse], error) {
	return answer(&v1.DeleteIdentityResponse{}, h.Service.Unlink(ctx, r.Msg.GetIdentityProvider(), r.Msg.GetSubject()))
}

// GetIdentities is whom a provider let in.
func (h Providers) GetIdentities(ctx context.Context, r *connect.Request[v1.GetIdentitiesRequest]) (*connect.Response[v1.GetIdentitiesResponse], error) {
	items, next, err := h.Service.Identities(ctx, r.Msg.GetIdentityProvider(), page(r.Msg.GetPage()))
	return answer(&v1.GetIdentitiesResponse{Items: each(items, identity), NextPageToken: next}, err)
}

func (h Providers) provider(p noun.Provider) *v1.Provider {
	return &v1.Provider{
		Id: p.ID, Name: p.Name, Labels: p.Labels, CreatedAt: timestamp(p.CreatedAt), UpdatedAt: timestamp(p.UpdatedAt), Revision: p.Revision,
		Issuer: p.Issuer, ClientId: p.ClientID, HasSecret: len(p.Sealed) > 0, Ca: p.CA, Scopes: p.Scopes, Disabled: p.Disabled, OrganisationId: p.Organisation,
		CreateUsers: p.CreateUsers, Domains: p.Domains, GroupsClaim: p.GroupsClaim, Groups: p.Groups, TrustMfa: p.TrustMFA, MfaValues: p.MFAValues,
		ReturnUrl: h.Service.ReturnURL(p.ID),
	}
}

func identity(i noun.Identity) *v1.Identity {
	return &v1.Identity{Id: i.ID, ProviderId: i.ProviderID, Subject: i.Subject, UserId: i.UserID, Email: i.Email, CreatedAt: timestamp(i.CreatedAt), LastUsedAt: timestamp(i.LastUsedAt)}
}

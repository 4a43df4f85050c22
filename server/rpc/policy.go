package rpc

import (
	"context"
	"fmt"
	"net/netip"
	"slices"

	"connectrpc.com/connect"

	"github.com/loopbackd/loopback/access"
	v1 "github.com/loopbackd/loopback/api/loopback/v1"
	noun "github.com/loopbackd/loopback/policy"
	"github.com/loopbackd/loopback/server/policy"
)

// Roles is loopback.v1.RoleService.
type Roles struct{ Service *policy.Service }

// CreateRole makes one.
func (h Roles) CreateRole(ctx context.Context, r *connect.Request[v1.CreateRoleRequest]) (*connect.Response[v1.Role], error) {
	out, err := h.Service.CreateRole(ctx, policy.NewRole{
		Name: r.Msg.GetName(), Description: r.Msg.GetDescription(), Labels: r.Msg.GetLabels(), Organisation: r.Msg.GetOrganisation(),
		Permissions: permissions(r.Msg.GetPermissions()),
	})
	return answer(role(out), err)
}

// GetRole is one.
func (h Roles) GetRole(ctx context.Context, r *connect.Request[v1.GetRoleRequest]) (*connect.Response[v1.Role], error) {
	out, err := h.Service.Role(ctx, r.Msg.GetRole())
	return answer(role(out), err)
}

// ListRoles is those that the caller may read.
func (h Roles) ListRoles(ctx context.Context, r *connect.Request[v1.ListRolesRequest]) (*connect.Response[v1.ListRolesResponse], error) {
	items, next, err := h.Service.Roles(ctx, r.Msg.GetOrganisation(), page(r.Msg.GetPage()))
	return answer(&v1.ListRolesResponse{Items: each(items, role), NextPageToken: next}, err)
}

// UpdateRole changes one.
func (h Roles) UpdateRole(ctx context.Context, r *connect.Request[v1.UpdateRoleRequest]) (*connect.Response[v1.Role], error) {
	u := policy.UpdateRole{Description: r.Msg.Description, Revision: r.Msg.GetRevision()}
	if len(r.Msg.GetPermissions()) > 0 {
		u.Permissions = permissions(r.Msg.GetPermissions())
	}
	out, err := h.Service.UpdateRole(ctx, r.Msg.GetRole(), u)
	return answer(role(out), err)
}

// DeleteRole deletes one.
func (h Roles) DeleteRole(ctx context.Context, r *connect.Request[v1.DeleteRoleRequest]) (*connect.Response[v1.DeleteRoleResponse], error) {
	return answer(&v1.DeleteRoleResponse{}, h.Service.DeleteRole(ctx, r.Msg.GetRole()))
}

// ListPermissions is what roles may name.
func (h Roles) ListPermissions(context.Context, *connect.Request[v1.ListPermissionsRequest]) (*connect.Response[v1.ListPermissionsResponse], error) {
	out := &v1.ListPermissionsResponse{}
	for _, p := range Permissions {
		if !access.Built(p.Name) {
			out.Items = append(out.Items, &v1.Permission{Name: string(p.Name), Allows: p.Allows, TierZero: slices.Contains(access.TierZero(), p.Name)})
		}
	}
	return answer(out, nil)
}

func permissions(list []string) []access.Permission {
	return each(list, func(p string) access.Permission { return access.Permission(p) })
}

func role(r noun.Role) *v1.Role {
	return &v1.Role{
		Id: r.ID, Name: r.Name, Labels: r.Labels, CreatedAt: timestamp(r.CreatedAt), UpdatedAt: timestamp(r.UpdatedAt), Revision: r.Revision,
		Scope: scope(r.Scope), Description: r.Description, Permissions: texts(r.Permissions), BuiltIn: r.BuiltIn,
	}
}

// Bindings is loopback.v1.BindingService.
type Bindings struct{ Service *policy.Service }

// CreateBinding makes one.
func (h Bindings) CreateBinding(ctx context.Context, r *connect.Request[v1.CreateBindingRequest]) (*connect.Response[v1.Binding], error) {
	in, err := newBinding("", r.Msg)
	if err != nil {
		return nil, err
	}
	b, err := h.Service.Create(ctx, in)
	return answer(binding(b), err)
}

// GetBinding is one.
func (h Bindings) GetBinding(ctx context.Context, r *connect.Request[v1.GetBindingRequest]) (*connect.Response[v1.Binding], error) {
	b, err := h.Service.Binding(ctx, r.Msg.GetBinding())
	return answer(binding(b), err)
}

// ListBindings is those that the caller may read.
func (h Bindings) ListBindings(ctx context.Context, r *connect.Request[v1.ListBindingsRequest]) (*connect.Response[v1.ListBindingsResponse], error) {
	items, next, err := h.Service.Bindings(ctx, policy.Query{
		Place:   policy.Place{Organisation: r.Msg.GetOrganisation(), Project: r.Msg.GetProject(), Workspace: r.Msg.GetWorkspace()},
		Subject: r.Msg.GetSubject(), Role: r.Msg.GetRole(), Page: page(r.Msg.GetPage()),
	})
	return answer(&v1.ListBindingsResponse{Items: each(items, binding), NextPageToken: next}, err)
}

// DeleteBinding ends one.
func (h Bindings) DeleteBinding(ctx context.Context, r *connect.Request[v1.DeleteBindingRequest]) (*connect.Response[v1.DeleteBindingResponse], error) {
	return answer(&v1.DeleteBindingResponse{}, h.Service.Delete(ctx, r.Msg.GetBinding()))
}

// subject is the one of several references that is given.
func (f *fields) subject(prefix string, refs map[access.SubjectKind]string) (kind access.SubjectKind, ref string) {
	given := 0
	for k, v := range refs {
		if v != "" {
			kind, ref = k, v
			given++
		}
	}
	switch {
	case given == 0:
		f.Add(prefix+"user", "is missing: say who, by one of user, group and service account")
	case given > 1:
		f.Add(prefix+"user", "is given along with another subject; give exactly one")
	}
	return kind, ref
}

func newBinding(prefix string, m *v1.CreateBindingRequest) (policy.NewBinding, error) {
	var f fields
	out := policy.NewBinding{
		Place:       policy.Place{Organisation: m.GetOrganisation(), Project: m.GetProject(), Workspace: m.GetWorkspace()},
		Description: m.GetDescription(), Labels: m.GetLabels(), Role: m.GetRole(), Hosts: m.GetHosts(), Deny: m.GetDeny(),
		NotBefore: f.time(prefix+"notBefore", m.GetNotBefore()), NotAfter: f.time(prefix+"notAfter", m.GetNotAfter()),
	}
	out.SubjectKind, out.Subject = f.subject(prefix, map[access.SubjectKind]string{
		access.User: m.GetUser(), access.Group: m.GetGroup(), access.ServiceAccount: m.GetServiceAccount(),
	})
	c := m.GetConditions()
	out.Conditions = access.Conditions{MFAWithin: f.duration(prefix+"conditions.mfaWithin", c.GetMfaWithin()), Ticket: c.GetTicket()}
	for i, text := range c.GetAddresses() {
		p, err := netip.ParsePrefix(text)
		if err != nil {
			f.Add(fmt.Sprintf("%sconditions.addresses[%d]", prefix, i), "is not a range of addresses such as 10.0.0.0/8")
			continue
		}
		out.Conditions.Addresses = append(out.Conditions.Addresses, p.Masked())
	}
	return out, f.err()
}

func binding(b noun.Binding) *v1.Binding {
	out := &v1.Binding{
		Id: b.ID, Labels: b.Labels, CreatedAt: timestamp(b.CreatedAt), UpdatedAt: timestamp(b.UpdatedAt), Revision: b.Revision, Scope: scope(b.Scope),
		Description: b.Description, SubjectKind: string(b.Subject.Kind), SubjectId: b.Subject.ID, RoleId: b.RoleID, Hosts: b.Hosts,
		Effect: effect(b.Deny), NotBefore: timestamp(b.NotBefore), NotAfter: timestamp(b.NotAfter), CreatedBy: b.CreatedBy,
	}
	if c := b.Conditions; !c.None() {
		out.Conditions = &v1.Conditions{MfaWithin: duration(c.MFAWithin), Ticket: c.Ticket, Addresses: each(c.Addresses, netip.Prefix.String)}
	}
	return out
}

func effect(deny bool) string {
	if deny {
		return "deny"
	}
	return "allow"
}

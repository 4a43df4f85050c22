package rpc

import (
	"context"

	"connectrpc.com/connect"

	"github.com/loopbackd/loopback/access"
	v1 "github.com/loopbackd/loopback/api/loopback/v1"
	noun "github.com/loopbackd/loopback/principal"
	"github.com/loopbackd/loopback/server/principal"
)

// Users is loopback.v1.UserService.
type Users struct{ Service *principal.Service }

// CreateUser makes one.
func (h Users) CreateUser(ctx context.Context, r *connect.Request[v1.CreateUserRequest]) (*connect.Response[v1.User], error) {
	p, err := h.Service.Create(ctx, access.User, principal.New{
		Name: r.Msg.GetName(), Email: r.Msg.GetEmail(), Identity: r.Msg.GetIdentity(), Description: r.Msg.GetDescription(), Labels: r.Msg.GetLabels(), Organisation: r.Msg.GetOrganisation(),
	})
	return answer(user(p), err)
}

// GetUser is one.
func (h Users) GetUser(ctx context.Context, r *connect.Request[v1.GetUserRequest]) (*connect.Response[v1.User], error) {
	p, err := h.Service.Get(ctx, access.User, r.Msg.GetUser())
	return answer(user(p), err)
}

// ListUsers is those that the caller may read.
func (h Users) ListUsers(ctx context.Context, r *connect.Request[v1.ListUsersRequest]) (*connect.Response[v1.ListUsersResponse], error) {
	items, next, err := h.Service.List(ctx, access.User, r.Msg.GetOrganisation(), page(r.Msg.GetPage()))
	return answer(&v1.ListUsersResponse{Items: each(items, user), NextPageToken: next}, err)
}

// UpdateUser changes one.
func (h Users) UpdateUser(ctx context.Context, r *connect.Request[v1.UpdateUserRequest]) (*connect.Response[v1.User], error) {
	p, err := h.Service.Update(ctx, access.User, r.Msg.GetUser(), principal.Update{
		Email: r.Msg.Email, Identity: r.Msg.Identity, Description: r.Msg.Description, Disabled: r.Msg.Disabled, Revision: r.Msg.GetRevision(),
	})
	return answer(user(p), err)
}

// DeleteUser deletes one.
func (h Users) DeleteUser(ctx context.Context, r *connect.Request[v1.DeleteUserRequest]) (*connect.Response[v1.DeleteUserResponse], error) {
	return answer(&v1.DeleteUserResponse{}, h.Service.Delete(ctx, access.User, r.Msg.GetUser()))
}

func user(p noun.Principal) *v1.User {
	return &v1.User{
		Id: p.ID, Name: p.Name, Labels: p.Labels, CreatedAt: timestamp(p.CreatedAt), UpdatedAt: timestamp(p.UpdatedAt), Revision: p.Revision,
		Scope: scope(p.Scope), Email: p.Email, Identity: p.Identity, Description: p.Description, DisabledAt: timestamp(p.DisabledAt),
	}
}

// ServiceAccounts is loopback.v1.ServiceAccountService.
type ServiceAccounts struct{ Service *principal.Service }

// CreateServiceAccount makes one.
func (h ServiceAccounts) CreateServiceAccount(ctx context.Context, r *connect.Request[v1.CreateServiceAccountRequest]) (*connect.Response[v1.ServiceAccount], error) {
	p, err := h.Service.Create(ctx, access.ServiceAccount, principal.New{
		Name: r.Msg.GetName(), Description: r.Msg.GetDescription(), Labels: r.Msg.GetLabels(), Organisation: r.Msg.GetOrganisation(),
	})
	return answer(serviceAccount(p), err)
}

// GetServiceAccount is one.
func (h ServiceAccounts) GetServiceAccount(ctx context.Context, r *connect.Request[v1.GetServiceAccountRequest]) (*connect.Response[v1.ServiceAccount], error) {
	p, err := h.Service.Get(ctx, access.ServiceAccount, r.Msg.GetServiceAccount())
	return answer(serviceAccount(p), err)
}

// ListServiceAccounts is those that the caller may read.
func (h ServiceAccounts) ListServiceAccounts(ctx context.Context, r *connect.Request[v1.ListServiceAccountsRequest]) (*connect.Response[v1.ListServiceAccountsResponse], error) {
	items, next, err := h.Service.List(ctx, access.ServiceAccount, r.Msg.GetOrganisation(), page(r.Msg.GetPage()))
	return answer(&v1.ListServiceAccountsResponse{Items: each(items, serviceAccount), NextPageToken: next}, err)
}

// UpdateServiceAccount changes one.
func (h ServiceAccounts) UpdateServiceAccount(ctx context.Context, r *connect.Request[v1.UpdateServiceAccountRequest]) (*connect.Response[v1.ServiceAccount], error) {
	p, err := h.Service.Update(ctx, access.ServiceAccount, r.Msg.GetServiceAccount(), principal.Update{
		Description: r.Msg.Description, Disabled: r.Msg.Disabled, Revision: r.Msg.GetRevision(),
	})
	return answer(serviceAccount(p), err)
}

// DeleteServiceAccount deletes one.
func (h ServiceAccounts) DeleteServiceAccount(ctx context.Context, r *connect.Request[v1.DeleteServiceAccountRequest]) (*connect.Response[v1.DeleteServiceAccountResponse], error) {
	return answer(&v1.DeleteServiceAccountResponse{}, h.Service.Delete(ctx, access.ServiceAccount, r.Msg.GetServiceAccount()))
}

func serviceAccount(p noun.Principal) *v1.ServiceAccount {
	return &v1.ServiceAccount{
		Id: p.ID, Name: p.Name, Labels: p.Labels, CreatedAt: timestamp(p.CreatedAt), UpdatedAt: timestamp(p.UpdatedAt), Revision: p.Revision,
		Scope: scope(p.Scope), Description: p.Description, DisabledAt: timestamp(p.DisabledAt),
	}
}

// Groups is loopback.v1.GroupService.
type Groups struct{ Service *principal.Service }

// CreateGroup makes one.
func (h Groups) CreateGroup(ctx context.Context, r *connect.Request[v1.CreateGroupRequest]) (*connect.Response[v1.Group], error) {
	g, err := h.Service.CreateGroup(ctx, principal.New{
		Name: r.Msg.GetName(), Description: r.Msg.GetDescription(), Labels: r.Msg.GetLabels(), Organisation: r.Msg.GetOrganisation(),
	})
	return answer(group(g), err)
}

// GetGroup is one.
func (h Groups) GetGroup(ctx context.Context, r *connect.Request[v1.GetGroupRequest]) (*connect.Response[v1.Group], error) {
	g, err := h.Service.GetGroup(ctx, r.Msg.GetGroup())
	return answer(group(g), err)
}

// ListGroups is those that the caller may read.
func (h Groups) ListGroups(ctx context.Context, r *connect.Request[v1.ListGroupsRequest]) (*connect.Response[v1.ListGroupsResponse], error) {
	items, next, err := h.Service.Groups(ctx, r.Msg.GetOrganisation(), page(r.Msg.GetPage()))
	return answer(&v1.ListGroupsResponse{Items: each(items, group), NextPageToken: next}, err)
}

// AddGroupMembers puts users in.
func (h Groups) AddGroupMembers(ctx context.Context, r *connect.Request[v1.AddGroupMembersRequest]) (*connect.Response[v1.Group], error) {
	g, err := h.Service.Join(ctx, r.Msg.GetGroup(), r.Msg.GetUsers())
	return answer(group(g), err)
}

// RemoveGroupMembers takes users out.
func (h Groups) RemoveGroupMembers(ctx context.Context, r *connect.Request[v1.RemoveGroupMembersRequest]) (*connect.Response[v1.Group], error) {
	g, err := h.Service.Leave(ctx, r.Msg.GetGroup(), r.Msg.GetUsers())
	return answer(group(g), err)
}

// DeleteGroup deletes one.
func (h Groups) DeleteGroup(ctx context.Context, r *connect.Request[v1.DeleteGroupRequest]) (*connect.Response[v1.DeleteGroupResponse], error) {
	return answer(&v1.DeleteGroupResponse{}, h.Service.DeleteGroup(ctx, r.Msg.GetGroup()))
}

func group(g noun.Group) *v1.Group {
	return &v1.Group{
		Id: g.ID, Name: g.Name, Labels: g.Labels, CreatedAt: timestamp(g.CreatedAt), UpdatedAt: timestamp(g.UpdatedAt), Revision: g.Revision,
		Scope: scope(g.Scope), Description: g.Description, Members: append([]string{}, g.Members...),
	}
}

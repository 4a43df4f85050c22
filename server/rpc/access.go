package rpc

import (
	"context"
	"fmt"

	"connectrpc.com/connect"

	nouns "github.com/loopbackd/loopback/access"
	v1 "github.com/loopbackd/loopback/api/loopback/v1"
	"github.com/loopbackd/loopback/label"
	noun "github.com/loopbackd/loopback/policy"
	"github.com/loopbackd/loopback/server/access"
	"github.com/loopbackd/loopback/server/policy"
)

// Access is loopback.v1.AccessService.
type Access struct {
	Service  *access.Service
	Policies *policy.Service
}

func where(m *v1.AccessTarget) (access.Where, error) {
	hosts, err := label.Parse(m.GetSelector())
	return access.Where{Organisation: m.GetOrganisation(), Project: m.GetProject(), Workspace: m.GetWorkspace(), Host: m.GetHost(), Hosts: hosts}, err
}

// ExplainAccess says why.
func (h Access) ExplainAccess(ctx context.Context, r *connect.Request[v1.ExplainAccessRequest]) (*connect.Response[v1.ExplainAccessResponse], error) {
	at, err := where(r.Msg.GetAt())
	if err != nil {
		return nil, err
	}
	var f fields
	q := access.ExplainQuery{Where: at, Permission: nouns.Permission(r.Msg.GetPermission()), At: f.time("time", r.Msg.GetTime()),
		Address: r.Msg.GetAddress(), MFAAge: f.duration("mfaAge", r.Msg.GetMfaAge()), Ticket: r.Msg.GetTicket()}
	q.Kind, q.Subject = f.subject("", map[nouns.SubjectKind]string{nouns.User: r.Msg.GetUser(), nouns.ServiceAccount: r.Msg.GetServiceAccount()})
	if err := f.err(); err != nil {
		return nil, err
	}
	e, err := h.Service.Explain(ctx, q)
	if err != nil {
		return nil, err
	}
	out := &v1.ExplainAccessResponse{
		Allowed: e.Decision.Allowed, Summary: e.Summary, BindingId: e.Decision.Grant + e.Decision.Denial, Snapshot: int64(e.Decision.Snapshot),
		Scope: scope(e.Scope), HostId: e.HostID, SubjectId: e.Subject.ID,
		Reasons: each(e.Reasons, func(r nouns.Reason) *v1.AccessReason {
			return &v1.AccessReason{BindingId: r.Rule.ID, Role: r.Rule.Role, Effect: effect(r.Rule.Deny), Scope: scope(r.Rule.Scope),
				Hosts: r.Rule.Hosts.String(), Applies: r.Applies, Why: r.Why}
		}),
	}
	return connect.NewResponse(out), nil
}

// WhoCan says who may do something.
func (h Access) WhoCan(ctx context.Context, r *connect.Request[v1.WhoCanRequest]) (*connect.Response[v1.WhoCanResponse], error) {
	at, err := where(r.Msg.GetAt())
	if err != nil {
		return nil, err
	}
	a, err := h.Service.WhoCan(ctx, at, nouns.Permission(r.Msg.GetPermission()))
	return answer(&v1.WhoCanResponse{Items: each(a.Items, reach), Hosts: int64(a.Hosts), Snapshot: int64(a.Snapshot)}, err)
}

// WhatCan says what somebody may do.
func (h Access) WhatCan(ctx context.Context, r *connect.Request[v1.WhatCanRequest]) (*connect.Response[v1.WhatCanResponse], error) {
	at, err := where(r.Msg.GetAt())
	if err != nil {
		return nil, err
	}
	var f fields
	kind, ref := f.subject("", map[nouns.SubjectKind]string{nouns.User: r.Msg.GetUser(), nouns.ServiceAccount: r.Msg.GetServiceAccount()})
	if err := f.err(); err != nil {
		return nil, err
	}
	a, err := h.Service.WhatCan(ctx, at, kind, ref)
	return answer(&v1.WhatCanResponse{Items: each(a.Items, reach), Hosts: int64(a.Hosts), Snapshot: int64(a.Snapshot)}, err)
}

func reach(r nouns.Reach) *v1.AccessReach {
	return &v1.AccessReach{SubjectKind: string(r.Principal.Kind), SubjectId: r.Principal.ID, Subject: r.Principal.Name, Permission: string(r.Permission),
		Everything: r.Everything, Hosts: int64(r.Hosts), BindingIds: r.Rules, Conditional: r.Conditional}
}

// DiffAccess says what a change would come to. Bindings to add are drafted where the caller may explain access; those to
// remove, and a role to change, are ones that they may read.
func (h Access) DiffAccess(ctx context.Context, r *connect.Request[v1.DiffAccessRequest]) (*connect.Response[v1.DiffAccessResponse], error) {
	at, err := where(r.Msg.GetAt())
	if err != nil {
		return nil, err
	}
	change := access.Change{Roles: map[string]noun.Role{}}
	for i, m := range r.Msg.GetAdd() {
		in, err := newBinding(fmt.Sprintf("add[%d].", i), m)
		if err != nil {
			return nil, err
		}
		b, role, err := h.Policies.Draft(ctx, in, noun.Explain)
		if err != nil {
			return nil, err
		}
		change.Add = append(change.Add, b)
		change.Roles[role.ID] = role
	}
	for _, ref := range r.Msg.GetRemoveBindings() {
		b, err := h.Policies.Binding(ctx, ref)
		if err != nil {
			return nil, err
		}
		change.Remove = append(change.Remove, b.ID)
	}
	if ref := r.Msg.GetRole(); ref != "" {
		role, err := h.Policies.Reshape(ctx, ref, permissions(r.Msg.GetPermissions()))
		if err != nil {
			return nil, err
		}
		change.Roles[role.ID] = role
	}
	d, err := h.Service.Diff(ctx, at, change)
	return answer(&v1.DiffAccessResponse{Hosts: int64(d.Hosts), Snapshot: int64(d.Snapshot), Items: each(d.Items, func(d nouns.Difference) *v1.AccessDifference {
		return &v1.AccessDifference{SubjectKind: string(d.Principal.Kind), SubjectId: d.Principal.ID, Subject: d.Principal.Name, Permission: string(d.Permission),
			EverythingBefore: d.Before, EverythingAfter: d.After, HostsBefore: int64(d.BeforeN), HostsAfter: int64(d.AfterN),
			Gained: int64(d.Gained), Lost: int64(d.Lost)}
	})}, err)
}

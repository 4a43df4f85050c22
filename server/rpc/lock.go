package rpc

import (
	"context"

	"connectrpc.com/connect"

	v1 "github.com/loopbackd/loopback/api/loopback/v1"
	noun "github.com/loopbackd/loopback/lock"
	"github.com/loopbackd/loopback/server/lock"
)

// Locks is loopback.v1.LockService.
type Locks struct{ Service *lock.Service }

// CreateLock locks.
func (h Locks) CreateLock(ctx context.Context, r *connect.Request[v1.CreateLockRequest]) (*connect.Response[v1.Lock], error) {
	var f fields
	m := r.Msg
	in := lock.New{
		Place: lock.Place{Organisation: m.GetOrganisation(), Project: m.GetProject(), Workspace: m.GetWorkspace()},
		User:  m.GetUser(), Group: m.GetGroup(), ServiceAccount: m.GetServiceAccount(), Role: m.GetRole(), Host: m.GetHost(), Hosts: m.GetHostSelector(),
		Reason: m.GetReason(), Ticket: m.GetTicket(), Labels: m.GetLabels(), NotAfter: f.time("notAfter", m.GetNotAfter()),
	}
	if err := f.err(); err != nil {
		return nil, err
	}
	out, err := h.Service.Create(ctx, in)
	return answer(h.lock(out), err)
}

// GetLock is one.
func (h Locks) GetLock(ctx context.Context, r *connect.Request[v1.GetLockRequest]) (*connect.Response[v1.Lock], error) {
	out, err := h.Service.Get(ctx, r.Msg.GetLock())
	return answer(h.lock(out), err)
}

// ListLocks is those that the caller may read.
func (h Locks) ListLocks(ctx context.Context, r *connect.Request[v1.ListLocksRequest]) (*connect.Response[v1.ListLocksResponse], error) {
	items, next, err := h.Service.List(ctx, lock.Query{
		Place:  lock.Place{Organisation: r.Msg.GetOrganisation(), Project: r.Msg.GetProject(), Workspace: r.Msg.GetWorkspace()},
		States: each(r.Msg.GetStates(), func(s string) noun.State { return noun.State(s) }), Page: page(r.Msg.GetPage()),
	})
	return answer(&v1.ListLocksResponse{Items: each(items, h.lock), NextPageToken: next}, err)
}

// LiftLock lets in again.
func (h Locks) LiftLock(ctx context.Context, r *connect.Request[v1.LiftLockRequest]) (*connect.Response[v1.Lock], error) {
	out, err := h.Service.Lift(ctx, r.Msg.GetLock(), r.Msg.GetComment())
	return answer(h.lock(out), err)
}

func (h Locks) lock(l noun.Lock) *v1.Lock {
	return &v1.Lock{
		Id: l.ID, Name: l.Name, Labels: l.Labels, CreatedAt: timestamp(l.CreatedAt), UpdatedAt: timestamp(l.UpdatedAt), Revision: l.Revision, Scope: scope(l.Scope),
		TargetKind: string(l.Target.Kind), TargetId: l.Target.ID, Hosts: l.Target.Hosts, Reason: l.Reason, Ticket: l.Ticket, NotAfter: timestamp(l.NotAfter),
		State: string(l.At(h.Service.Now())), CreatedBy: l.CreatedBy, CreatedByName: l.Creator, ClosedAt: timestamp(l.ClosedAt), ClosedBy: l.ClosedBy, Comment: l.Comment,
	}
}

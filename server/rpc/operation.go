package rpc

import (
	"context"

	"connectrpc.com/connect"

	v1 "github.com/loopbackd/loopback/api/loopback/v1"
	noun "github.com/loopbackd/loopback/operation"
	"github.com/loopbackd/loopback/server/operation"
)

// Operations is loopback.v1.OperationService.
type Operations struct{ Service *operation.Service }

// GetOperation is one.
func (h Operations) GetOperation(ctx context.Context, r *connect.Request[v1.GetOperationRequest]) (*connect.Response[v1.Operation], error) {
	o, err := h.Service.Get(ctx, r.Msg.GetOperation())
	return answer(operationMessage(o), err)
}

// ListOperations is those that the caller may see.
func (h Operations) ListOperations(ctx context.Context, r *connect.Request[v1.ListOperationsRequest]) (*connect.Response[v1.ListOperationsResponse], error) {
	q := noun.Query{
		Target: r.Msg.GetTarget(), Page: page(r.Msg.GetPage()),
		States: each(r.Msg.GetStates(), func(s string) noun.State { return noun.State(s) }),
	}
	items, next, err := h.Service.List(ctx, r.Msg.GetWorkspace(), q)
	return answer(&v1.ListOperationsResponse{Items: each(items, operationMessage), NextPageToken: next}, err)
}

// WaitOperation is one once it has ended, or the time is over.
func (h Operations) WaitOperation(ctx context.Context, r *connect.Request[v1.WaitOperationRequest]) (*connect.Response[v1.Operation], error) {
	var f fields
	timeout := f.duration("timeout", r.Msg.GetTimeout())
	if err := f.err(); err != nil {
		return nil, err
	}
	o, err := h.Service.Wait(ctx, r.Msg.GetOperation(), timeout)
	return answer(operationMessage(o), err)
}

// CancelOperation ends one before its time.
func (h Operations) CancelOperation(ctx context.Context, r *connect.Request[v1.CancelOperationRequest]) (*connect.Response[v1.Operation], error) {
	o, err := h.Service.Cancel(ctx, r.Msg.GetOperation())
	return answer(operationMessage(o), err)
}

package rpc

import (
	"context"

	"connectrpc.com/connect"

	v1 "github.com/loopbackd/loopback/api/loopback/v1"
	noun "github.com/loopbackd/loopback/shell"
)

// HoldShellSession keeps a recording.
func (h Shells) HoldShellSession(ctx context.Context, r *connect.Request[v1.HoldShellSessionRequest]) (*connect.Response[v1.ShellSession], error) {
	s, err := h.Service.Hold(ctx, r.Msg.GetSession(), r.Msg.GetReason())
	return h.one(ctx, s, err)
}

// ReleaseShellSession ends that.
func (h Shells) ReleaseShellSession(ctx context.Context, r *connect.Request[v1.ReleaseShellSessionRequest]) (*connect.Response[v1.ShellSession], error) {
	s, err := h.Service.Release(ctx, r.Msg.GetSession(), r.Msg.GetReason())
	return h.one(ctx, s, err)
}

// ForgetShellSession deletes a recording.
func (h Shells) ForgetShellSession(ctx context.Context, r *connect.Request[v1.ForgetShellSessionRequest]) (*connect.Response[v1.ShellSession], error) {
	s, err := h.Service.Forget(ctx, r.Msg.GetSession(), r.Msg.GetReason())
	if there := h.there(ctx, err); there != nil {
		return answered(there.ForgetShellSession(ctx, passed(r)))
	}
	return h.one(ctx, s, err)
}

// ListRecordingRetentions is those that the caller may read.
func (h Shells) ListRecordingRetentions(ctx context.Context, _ *connect.Request[v1.ListRecordingRetentionsRequest]) (*connect.Response[v1.ListRecordingRetentionsResponse], error) {
	items, err := h.Service.Retentions(ctx)
	return answer(&v1.ListRecordingRetentionsResponse{Items: each(items, recordingRetention)}, err)
}

// SetRecordingRetention says how long recordings are kept.
func (h Shells) SetRecordingRetention(ctx context.Context, r *connect.Request[v1.SetRecordingRetentionRequest]) (*connect.Response[v1.RecordingRetention], error) {
	m := r.Msg
	kept, err := h.Service.SetRetention(ctx, m.GetOrganisation(), m.GetProject(), m.GetWorkspace(), noun.Retention{KeepDays: m.GetKeepDays(), Reason: m.GetReason()}, m.GetInherit())
	return answer(recordingRetention(kept), err)
}

func recordingRetention(r noun.Retention) *v1.RecordingRetention {
	return &v1.RecordingRetention{Scope: scope(r.Scope), KeepDays: r.KeepDays, Reason: r.Reason, PrincipalName: r.By, UpdatedAt: timestamp(r.UpdatedAt)}
}

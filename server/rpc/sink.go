package rpc

import (
	"context"

	"connectrpc.com/connect"

	v1 "github.com/loopbackd/loopback/api/loopback/v1"
	"github.com/loopbackd/loopback/server/sink"
	noun "github.com/loopbackd/loopback/sink"
)

// Sinks is loopback.v1.SinkService.
type Sinks struct{ Service *sink.Service }

// CreateSink makes one.
func (h Sinks) CreateSink(ctx context.Context, r *connect.Request[v1.CreateSinkRequest]) (*connect.Response[v1.CreateSinkResponse], error) {
	var f fields
	m := r.Msg
	in := sink.New{
		Name: m.GetName(), Organisation: m.GetOrganisation(), Kind: noun.Kind(m.GetKind()), Target: m.GetTarget(), Format: noun.Format(m.GetFormat()),
		CA: m.GetCa(), Secret: m.GetSecret(), Since: f.time("since", m.GetSince()),
	}
	if err := f.err(); err != nil {
		return nil, err
	}
	s, secret, err := h.Service.Create(ctx, in)
	if err != nil {
		return nil, err
	}
	out, err := h.sink(ctx, s)
	return answer(&v1.CreateSinkResponse{Sink: out, Secret: secret}, err)
}

// GetSink is one.
func (h Sinks) GetSink(ctx context.Context, r *connect.Request[v1.GetSinkRequest]) (*connect.Response[v1.Sink], error) {
	s, err := h.Service.Get(ctx, r.Msg.GetSink())
	if err != nil {
		return nil, err
	}
	return answer(h.sink(ctx, s))
}

// ListSinks is those that the caller may read.
func (h Sinks) ListSinks(ctx context.Context, r *connect.Request[v1.ListSinksRequest]) (*connect.Response[v1.ListSinksResponse], error) {
	items, next, err := h.Service.List(ctx, page(r.Msg.GetPage()))
	if err != nil {
		return nil, err
	}
	out := &v1.ListSinksResponse{NextPageToken: next}
	for _, s := range items {
		one, err := h.sink(ctx, s)
		if err != nil {
			return nil, err
		}
		out.Items = append(out.Items, one)
	}
	return answer(out, nil)
}

// UpdateSink pauses, resumes or replays.
func (h Sinks) UpdateSink(ctx context.Context, r *connect.Request[v1.UpdateSinkRequest]) (*connect.Response[v1.Sink], error) {
	var f fields
	in := sink.Update{Paused: r.Msg.Paused, Replay: f.time("replaySince", r.Msg.GetReplaySince())}
	if err := f.err(); err != nil {
		return nil, err
	}
	s, err := h.Service.Update(ctx, r.Msg.GetSink(), in)
	if err != nil {
		return nil, err
	}
	return answer(h.sink(ctx, s))
}

// DeleteSink removes one.
func (h Sinks) DeleteSink(ctx context.Context, r *connect.Request[v1.DeleteSinkRequest]) (*connect.Response[v1.DeleteSinkResponse], error) {
	return answer(&v1.DeleteSinkResponse{}, h.Service.Delete(ctx, r.Msg.GetSink()))
}

// GetDeadLetters is a sink's entries that its receiver refuses.
func (h Sinks) GetDeadLetters(ctx context.Context, r *connect.Request[v1.GetDeadLettersRequest]) (*connect.Response[v1.GetDeadLettersResponse], error) {
	items, next, err := h.Service.DeadLetters(ctx, r.Msg.GetSink(), page(r.Msg.GetPage()))
	if err != nil {
		return nil, err
	}
	out := &v1.GetDeadLettersResponse{NextPageToken: next}
	for _, l := range items {
		out.Items = append(out.Items, &v1.DeadLetter{
			Id: l.ID, Entry: l.Entry, Position: l.Position, Action: string(l.Action), Reason: l.Reason, Tries: l.Tries, RefusedAt: timestamp(l.At), Resend: l.Resend,
		})
	}
	return answer(out, nil)
}

// ResendDeadLetters tries some or all once more.
func (h Sinks) ResendDeadLetters(ctx context.Context, r *connect.Request[v1.ResendDeadLettersRequest]) (*connect.Response[v1.ResendDeadLettersResponse], error) {
	n, err := h.Service.ResendDeadLetters(ctx, r.Msg.GetSink(), r.Msg.GetDeadLetters())
	return answer(&v1.ResendDeadLettersResponse{Count: int32(n)}, err)
}

// DismissDeadLetters gives some or all up.
func (h Sinks) DismissDeadLetters(ctx context.Context, r *connect.Request[v1.DismissDeadLettersRequest]) (*connect.Response[v1.DismissDeadLettersResponse], error) {
	n, err := h.Service.DismissDeadLetters(ctx, r.Msg.GetSink(), r.Msg.GetDeadLetters())
	return answer(&v1.DismissDeadLettersResponse{Count: int32(n)}, err)
}

func (h Sinks) sink(ctx context.Context, s noun.Sink) (*v1.Sink, error) {
	head, err := h.Service.Head(ctx)
	if err != nil {
		return nil, err
	}
	letters, err := h.Service.CountDeadLetters(ctx, s)
	return &v1.Sink{
		Id: s.ID, Name: s.Name, Labels: s.Labels, CreatedAt: timestamp(s.CreatedAt), UpdatedAt: timestamp(s.UpdatedAt), Revision: s.Revision,
		OrganisationId: s.Organisation, Kind: string(s.Kind), Target: s.Target, Format: string(s.Format), State: s.Health(), Position: s.Cursor,
		Lag: max(0, head-s.Cursor), Delivered: s.Delivered, DeliveredAt: timestamp(s.DeliveredAt), Failures: s.Failures, LastError: s.LastError,
		FailedAt: timestamp(s.FailedAt), DeadLetters: letters,
	}, err
}

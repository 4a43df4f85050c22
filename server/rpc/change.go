package rpc

import (
	"context"

	"connectrpc.com/connect"

	v1 "github.com/loopbackd/loopback/api/loopback/v1"
	"github.com/loopbackd/loopback/server/change"
	"github.com/loopbackd/loopback/server/feed"
)

// Changes is loopback.v1.ChangeService.
type Changes struct{ Service *change.Service }

// WatchChanges streams of which kinds of things some changed.
func (h Changes) WatchChanges(ctx context.Context, r *connect.Request[v1.WatchChangesRequest], stream *connect.ServerStream[v1.WatchChangesResponse]) error {
	kinds := each(r.Msg.GetKinds(), func(k string) feed.Kind { return feed.Kind(k) })
	return h.Service.Watch(ctx, kinds, func(t change.Told) error {
		return stream.Send(&v1.WatchChangesResponse{Kinds: texts(t.Kinds), Access: t.Access, Synced: t.Synced})
	})
}

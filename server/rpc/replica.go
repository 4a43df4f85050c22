package rpc

import (
	"context"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/durationpb"

	v1 "github.com/loopbackd/loopback/api/loopback/v1"
	"github.com/loopbackd/loopback/server/replica"
)

// Replicas is loopback.v1.ReplicaService.
type Replicas struct{ Service *replica.Service }

// ListReplicas is all of them.
func (h Replicas) ListReplicas(ctx context.Context, _ *connect.Request[v1.ListReplicasRequest]) (*connect.Response[v1.ListReplicasResponse], error) {
	all, err := h.Service.List(ctx)
	if err != nil {
		return nil, err
	}
	out := &v1.ListReplicasResponse{}
	for _, r := range all {
		out.Items = append(out.Items, replicaMessage(r))
	}
	return answer(out, nil)
}

func replicaMessage(r replica.Seen) *v1.Replica {
	out := &v1.Replica{
		Name: r.Name, State: string(r.State), Version: r.Version, Address: r.Address, BusAddress: r.Routes,
		StartedAt: timestamp(r.StartedAt), SeenAt: timestamp(r.SeenAt), Links: r.Links, Leases: r.Leases, Keyset: r.Keyset,
		Position: r.Position, Answering: r.Me,
	}
	if r.BusPeers >= 0 {
		out.BusPeers = &r.BusPeers
	}
	if r.ClockKnown {
		out.ClockOffset = durationpb.New(r.ClockOffset) // none is a measurement too
	}
	for _, t := range r.Troubles {
		out.Troubles = append(out.Troubles, string(t))
	}
	return out
}

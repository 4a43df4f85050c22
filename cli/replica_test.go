package cli_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/loopbackd/loopback/api/loopback/v1"
	"github.com/loopbackd/loopback/api/loopback/v1/loopbackv1connect"
)

type replicaAPI struct {
	loopbackv1connect.UnimplementedReplicaServiceHandler
	p *controlPlane
}

func (a replicaAPI) ListReplicas(context.Context, *connect.Request[pb.ListReplicasRequest]) (*connect.Response[pb.ListReplicasResponse], error) {
	return answer(&pb.ListReplicasResponse{Items: a.p.replicas}, nil)
}

func TestReplicasAndInWhatTheyDiffer(t *testing.T) {
	p := &controlPlane{replicas: []*pb.Replica{
		{Name: "replica-1", State: "serving", Version: "1.2.0", Address: "10.0.0.1:8444", StartedAt: timestamppb.New(time.Now().Add(-2 * time.Hour)), SeenAt: timestamppb.Now(),
			Links: 1200, Leases: []string{"audit log", "sink siem"}, BusPeers: proto.Int64(1), ClockOffset: durationpb.New(3 * time.Millisecond), Answering: true},
		{Name: "replica-2", State: "serving", Version: "1.1.0", BusPeers: proto.Int64(0), ClockOffset: durationpb.New(-7 * time.Second), Troubles: []string{"clock_apart", "bus_cut"}},
		{Name: "replica-3", State: "left"}, // of a version that says less of itself
	}}
	p.start(t)
	x := sit(t, p)
	list := strings.Split(x.ok("replica", "list"), "\n")
	for i, want := range [][]string{{"replica-1 *", "serving", "1.2.0", "10.0.0.1:8444", "1200", "audit log, sink siem", "+3ms"}, {"replica-2", "1.1.0", "-7s", "clock_apart, bus_cut"}, {"replica-3", "left"}} {
		for _, w := range want {
			if !strings.Contains(list[i+1], w) {
				t.Errorf("%q is not shown in %q", w, list[i+1])
			}
		}
	}
	r := x.run("replica", "show", "replica-2")
	if r.code != 0 || !strings.Contains(r.out, "bus peers") || !strings.Contains(r.err, "set its clock by NTP") || !strings.Contains(r.err, "cluster-listen") {
		t.Errorf("shown are\n%s\n%s", r.out, r.err)
	}
	x.fails(5, "there is no replica replica-9", "loopback replica list", "replica", "show", "replica-9")
}

package link_test

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	pb "github.com/loopbackd/loopback/api/loopback/v1"
	"github.com/loopbackd/loopback/server/link"
	"github.com/loopbackd/loopback/server/link/linktest"
)

func within(d time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), d)
}

// FuzzReceive gives a fresh link and a welcomed one whatever comes. Neither may take the hub down, what the hub sends is
// readable (conn panics otherwise), and an honest host beside them is served as before.
func FuzzReceive(f *testing.F) {
	fleet := &linktest.Fleet{}
	if _, err := fleet.Want(settingsAt("info")); err != nil {
		f.Fatal(err)
	}
	var elapsed atomic.Int64
	start := time.Now()
	o := options(fleet)
	o.EnrolmentRate, o.AddressBurst = 1<<30, 1<<30
	o.Clock = func() time.Time { return start.Add(time.Duration(elapsed.Load())) }
	hub, err := link.New(o)
	if err != nil {
		f.Fatal(err)
	}
	hub.Start()
	f.Cleanup(func() { _ = hub.Close(context.Background()) })
	m := newMachine()
	honest, _ := quietLink(f, hub)

	for _, seed := range []*pb.AgentFrame{
		beat(1), {}, m.hello(&conn{}), offer(m, m.key, 2),
		{Body: &pb.AgentFrame_SectionReport{SectionReport: &pb.SectionReport{Section: &pb.SectionHeld{Name: "settings", State: "applied", Digest: make([]byte, 32)}}}},
		{Body: &pb.AgentFrame_SectionRequest{SectionRequest: &pb.SectionRequest{Name: "settings"}}},
		{Body: &pb.AgentFrame_Inventory{Inventory: &pb.InventoryReport{Digest: make([]byte, 32), Inventory: &pb.Inventory{Disks: []*pb.Disk{{}}}}}},
		{Body: &pb.AgentFrame_Enrol{Enrol: &pb.Enrol{Token: "t"}}},
		{Body: &pb.AgentFrame_Goodbye{Goodbye: &pb.Goodbye{}}},
		{Body: &pb.AgentFrame_Trouble{Trouble: &pb.LinkTrouble{Code: "dns_failed"}}},
		{Body: &pb.AgentFrame_Health{Health: &pb.HealthReport{Modules: []*pb.ModuleHealth{{Module: "probe"}}}}},
	} {
		f.Add(marshal(seed))
	}
	f.Add([]byte{0x1a, 0xff, 0xff, 0xff, 0xff, 0x0f})
	linked, _ := quietLink(f, hub)
	f.Fuzz(func(t *testing.T, frame []byte) {
		fresh := openQuiet(hub)
		fresh.receiver.Receive(frame)
		fresh.receiver.Receive(frame)
		fresh.Close(nil)
		linked.receiver.Receive(frame)
		if linked.ended() {
			linked, _ = quietLink(t, hub)
		}
		elapsed.Add(int64(10 * time.Millisecond)) // no flood
		honest.first = nil
		honest.receiver.Receive(marshal(beat(7)))
		var answer pb.ServerFrame
		if err := proto.Unmarshal(honest.first, &answer); err != nil || answer.GetPulse().GetSequence() != 7 {
			t.Fatalf("an honest heartbeat was answered by %v, %v", &answer, err)
		}
	})
}

// FuzzHeartbeat holds the parser by hand against the general one.
func FuzzHeartbeat(f *testing.F) {
	f.Add(marshal(beat(1)))
	f.Add(marshal(&pb.AgentFrame{Body: &pb.AgentFrame_Heartbeat{Heartbeat: &pb.Heartbeat{Uptime: &durationpb.Duration{Seconds: 1 << 40, Nanos: 999_999_999}}}}))
	f.Add(marshal(&pb.AgentFrame{Body: &pb.AgentFrame_Heartbeat{Heartbeat: &pb.Heartbeat{Uptime: &durationpb.Duration{Seconds: -1, Nanos: -1}}}}))
	f.Fuzz(func(t *testing.T, frame []byte) {
		sequence, uptime, ok := link.ParseHeartbeat(frame)
		if !ok {
			return
		}
		var general pb.AgentFrame
		if err := proto.Unmarshal(frame, &general); err != nil {
			t.Fatalf("taken by hand, but %v", err)
		}
		h := general.GetHeartbeat()
		if h == nil || h.Sequence != sequence || h.Uptime.AsDuration() != uptime {
			t.Fatalf("by hand %d %v, else %v", sequence, uptime, h)
		}
	})
}

// A pulse by hand reads as one by the encoder.
func TestAPulseByHandIsAPulse(t *testing.T) {
	for _, c := range []struct {
		sequence uint64
		interval time.Duration
		want     bool
	}{{0, 0, false}, {1, 0, true}, {1 << 63, 50 * time.Second, true}, {300, 1500 * time.Millisecond, false}, {5, 999 * time.Millisecond, false}} {
		var f pb.ServerFrame
		if err := proto.Unmarshal(link.AppendPulse(nil, c.sequence, c.interval, c.want), &f); err != nil {
			t.Fatal(err)
		}
		p := f.GetPulse()
		if p == nil || p.Sequence != c.sequence || p.Heartbeat.AsDuration() != c.interval || p.WantInventory != c.want || (p.Heartbeat == nil) != (c.interval == 0) {
			t.Errorf("got %v, wanted %+v", p, c)
		}
	}
}

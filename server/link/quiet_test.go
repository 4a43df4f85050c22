package link_test

import (
	"crypto/rand"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	pb "github.com/loopbackd/loopback/api/loopback/v1"
	"github.com/loopbackd/loopback/server/link"
	"github.com/loopbackd/loopback/server/link/linktest"
	"github.com/loopbackd/loopback/wire"
)

// quietConn takes what is sent and keeps only the first frame.
type quietConn struct {
	hash     [32]byte
	receiver link.Receiver
	first    []byte
	over     atomic.Bool
}

func (c *quietConn) Send(b []byte) error {
	if c.first == nil {
		c.first = append([]byte{}, b...)
	}
	return nil
}
func (c *quietConn) Hash() []byte     { return c.hash[:] }
func (*quietConn) Remote() netip.Addr { return netip.MustParseAddr("192.0.2.7") }
func (*quietConn) Transport() string  { return wire.WebSocket }
func (c *quietConn) ended() bool      { return c.over.Load() }

// Close may be called from within Receive; the hub does not mind Closed coming beside it here, since a quietConn takes
// nothing more.
func (c *quietConn) Close(err error) {
	if c.over.CompareAndSwap(false, true) {
		go c.receiver.Closed(err)
	}
}

func marshal(f *pb.AgentFrame) []byte {
	b, err := proto.Marshal(f)
	if err != nil {
		panic(err)
	}
	return b
}

func openQuiet(hub *link.Hub) *quietConn {
	c := &quietConn{}
	rand.Read(c.hash[:])
	c.receiver = hub.Accept(c)
	return c
}

// quietLink enrols a machine and links it.
func quietLink(t testing.TB, hub *link.Hub) (*quietConn, *machine) {
	t.Helper()
	m, e := newMachine(), openQuiet(hub)
	e.receiver.Receive(marshal(&pb.AgentFrame{Body: &pb.AgentFrame_Enrol{Enrol: &pb.Enrol{
		Proof: wire.SignProof(m.key, wire.RoleEnrol, "", e.hash[:]),
	}}}))
	var f pb.ServerFrame
	if err := proto.Unmarshal(e.first, &f); err != nil || f.GetEnrolled() == nil {
		t.Fatalf("not enrolled: %v %v", &f, err)
	}
	e.Close(nil)
	m.id = f.GetEnrolled().HostId
	c := openQuiet(hub)
	c.receiver.Receive(marshal(m.hello(&conn{hash: c.hash})))
	if err := proto.Unmarshal(c.first, &f); err != nil || f.GetWelcome() == nil {
		t.Fatalf("not welcomed: %v %v", &f, err)
	}
	return c, m
}

// BenchmarkHeartbeat is the hub's own share of a heartbeat, without the seal and the socket.
func BenchmarkHeartbeat(b *testing.B) {
	f := &linktest.Fleet{}
	o := options(f)
	now := time.Now()
	o.Clock = func() time.Time { now = now.Add(10 * time.Millisecond); return now } // slower than a flood
	o.EnrolmentRate = 1 << 20
	hub, err := link.New(o)
	if err != nil {
		b.Fatal(err)
	}
	c, _ := quietLink(b, hub)
	frame := marshal(beat(77))
	b.ReportAllocs()
	for b.Loop() {
		c.receiver.Receive(frame)
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "heartbeats/s")
}

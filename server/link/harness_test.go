package link_test

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	pb "github.com/loopbackd/loopback/api/loopback/v1"
	"github.com/loopbackd/loopback/section"
	"github.com/loopbackd/loopback/server/link"
	"github.com/loopbackd/loopback/server/link/linktest"
	"github.com/loopbackd/loopback/settings"
	"github.com/loopbackd/loopback/wire"
)

// conn is a link whose other end is the test: unsealed, in memory, under the rules of wire.Link.
type conn struct {
	hash     [32]byte
	receiver link.Receiver

	receiving sync.Mutex // one call of the receiver at a time

	mu     sync.Mutex
	frames []*pb.ServerFrame
	stuck  chan struct{} // a peer that does not read; closed by Close
	closed bool
	reason error
}

func (c *conn) Send(b []byte) error {
	c.mu.Lock()
	stuck := c.stuck
	if c.closed {
		c.mu.Unlock()
		return wire.ErrClosed
	}
	c.mu.Unlock()
	if stuck != nil {
		<-stuck
		return wire.ErrSlow
	}
	var f pb.ServerFrame
	if err := proto.Unmarshal(b, &f); err != nil {
		panic("the hub sent what cannot be read: " + err.Error())
	}
	c.mu.Lock()
	c.frames = append(c.frames, &f)
	c.mu.Unlock()
	return nil
}

func (c *conn) Hash() []byte       { return c.hash[:] }
func (c *conn) Remote() netip.Addr { return netip.MustParseAddr("192.0.2.7") }
func (c *conn) Transport() string  { return wire.WebSocket }

func (c *conn) Close(reason error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return
	}
	c.closed, c.reason = true, reason
	if c.stuck != nil {
		close(c.stuck)
	}
	go func() {
		c.receiving.Lock()
		defer c.receiving.Unlock()
		if c.receiver != nil {
			c.receiver.Closed(reason)
		}
	}()
}

// say is a frame from the agent.
func (c *conn) say(f *pb.AgentFrame) {
	b, err := proto.Marshal(f)
	if err != nil {
		panic(err)
	}
	c.raw(b)
}

func (c *conn) raw(b []byte) {
	c.receiving.Lock()
	defer c.receiving.Unlock()
	c.receiver.Receive(b)
}

// heard takes what the hub sent since the last call.
func (c *conn) heard() []*pb.ServerFrame {
	synctest.Wait()
	c.mu.Lock()
	defer c.mu.Unlock()
	out := c.frames
	c.frames = nil
	return out
}

func (c *conn) isClosed() (bool, error) {
	synctest.Wait()
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.closed, c.reason
}

// bundle is a hub with a fleet in memory. It lives in a synctest bubble.
type bundle struct {
	t     *testing.T
	fleet *linktest.Fleet
	hub   *link.Hub
}

func options(f *linktest.Fleet) link.Options {
	return link.Options{Fleet: f, Enroller: f, Observer: f, Replica: "one", Version: "1.2.3"}
}

func newBundle(t *testing.T, adjust ...func(*link.Options)) *bundle {
	t.Helper()
	b := &bundle{t: t, fleet: &linktest.Fleet{}}
	b.start(adjust...)
	t.Cleanup(b.stop)
	return b
}

func (b *bundle) start(adjust ...func(*link.Options)) {
	b.t.Helper()
	o := options(b.fleet)
	for _, a := range adjust {
		a(&o)
	}
	hub, err := link.New(o)
	if err != nil {
		b.t.Fatal(err)
	}
	b.hub = hub
	b.fleet.Tell(hub.Changed)
	hub.Start()
}

func (b *bundle) stop() {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := b.hub.Close(ctx); err != nil {
		b.t.Errorf("closing the hub: %v", err)
	}
}

// open makes a link.
func (b *bundle) open() *conn {
	c := &conn{}
	rand.Read(c.hash[:])
	c.receiving.Lock()
	defer c.receiving.Unlock()
	c.receiver = b.hub.Accept(c)
	return c
}

// machine is an agent's side, as far as it outlives links.
type machine struct {
	key        ed25519.PrivateKey
	id         string
	boot       string
	connection uint64
	held       []*pb.SectionHeld
	inventory  []byte
	parts      bool // takes sections in parts
	knows      bool // how to answer a challenge
}

func newMachine() *machine {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		panic(err)
	}
	sum := sha256.Sum256(key)
	return &machine{key: key, boot: "boot-1", inventory: sum[:]}
}

// enrolled is a machine that is a host.
func (b *bundle) enrolled() *machine {
	b.t.Helper()
	m := newMachine()
	c := b.open()
	c.say(&pb.AgentFrame{Body: &pb.AgentFrame_Enrol{Enrol: &pb.Enrol{
		Token: "token", Proof: wire.SignProof(m.key, wire.RoleEnrol, "", c.hash[:]), HostName: "web1", AgentVersion: "1.0.0",
	}}})
	for _, f := range c.heard() {
		if e := f.GetEnrolled(); e != nil {
			m.id = e.HostId
		}
	}
	if m.id == "" {
		b.t.Fatal("the machine was not enrolled")
	}
	c.Close(nil)
	return m
}

func (m *machine) hello(c *conn) *pb.AgentFrame {
	m.connection++
	return &pb.AgentFrame{Body: &pb.AgentFrame_Hello{Hello: &pb.Hello{
		HostId: m.id, Proof: wire.SignProof(m.key, wire.RoleHello, m.id, c.hash[:]), AgentVersion: "1.0.0", BootId: m.boot,
		Connection: m.connection, Held: m.held, InventoryDigest: m.inventory, Uptime: durationpb.New(time.Hour), TakesParts: m.parts,
		AnswersChallenges: m.knows,
	}}}
}

// linked is a link of the machine that was welcomed. What came behind the welcome is still to be heard.
func (b *bundle) linked(m *machine) (*conn, *pb.Welcome) {
	b.t.Helper()
	c := b.open()
	c.say(m.hello(c))
	frames := c.heard()
	if len(frames) == 0 || frames[0].GetWelcome() == nil {
		b.t.Fatalf("got %v, wanted a welcome first", frames)
	}
	c.mu.Lock()
	c.frames = frames[1:]
	c.mu.Unlock()
	return c, frames[0].GetWelcome()
}

func beat(sequence uint64) *pb.AgentFrame {
	return &pb.AgentFrame{Body: &pb.AgentFrame_Heartbeat{Heartbeat: &pb.Heartbeat{Sequence: sequence, Uptime: durationpb.New(time.Hour)}}}
}

func reportOf(c *link.Compiled, state section.State, message string) *pb.AgentFrame {
	return &pb.AgentFrame{Body: &pb.AgentFrame_SectionReport{SectionReport: &pb.SectionReport{Section: heldOf(c, state, message)}}}
}

func heldOf(c *link.Compiled, state section.State, message string) *pb.SectionHeld {
	return &pb.SectionHeld{Name: c.Name, Revision: &pb.SectionRevision{Epoch: c.Revision.Epoch, Number: c.Revision.Number},
		Digest: c.Digest[:], State: string(state), Message: message}
}

func want(t *testing.T, b *bundle, level string) *link.Compiled {
	t.Helper()
	c, err := b.fleet.Want(settings.Settings{LogLevel: level})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// refusal is the one that the link ended with.
func refusalIn(frames []*pb.ServerFrame) *pb.Refusal {
	for _, f := range frames {
		if r := f.GetRefusal(); r != nil {
			return r
		}
	}
	return nil
}

// keepAlive beats for a machine until stop is called.
func keepAlive(c *conn, every time.Duration) (stop func()) {
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(every)
		defer tick.Stop()
		for n := uint64(1); ; n++ {
			select {
			case <-done:
				return
			case <-tick.C:
				c.say(beat(n))
			}
		}
	}()
	return sync.OnceFunc(func() { close(done); <-ended })
}

func settingsAt(level string) settings.Settings { return settings.Settings{LogLevel: level} }

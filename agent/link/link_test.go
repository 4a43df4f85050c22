package link_test

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/loopbackd/loopback/agent/config"
	"github.com/loopbackd/loopback/agent/link"
	"github.com/loopbackd/loopback/agent/state"
	pb "github.com/loopbackd/loopback/api/loopback/v1"
	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/host"
	"github.com/loopbackd/loopback/section"
	"github.com/loopbackd/loopback/test/controltest"
	"github.com/loopbackd/loopback/trust"
	"github.com/loopbackd/loopback/wire"
)

// machine is a Host that remembers what it was told.
type machine struct {
	mu        sync.Mutex
	held      []section.Status
	wholes    []section.Section
	deltas    []section.Delta
	orders    []link.Order
	standings []link.Standing
	inventory link.Inventory
	health    []host.Health
	least     time.Duration
	most      time.Duration
}

func (m *machine) do(f func()) { m.mu.Lock(); defer m.mu.Unlock(); f() }

func (m *machine) Linking() (out []section.Status) { m.do(func() { out = m.held }); return }
func (m *machine) Stand(s link.Standing, _ string) {
	m.do(func() { m.standings = append(m.standings, s) })
}
func (m *machine) Whole(s section.Section)         { m.do(func() { m.wholes = append(m.wholes, s) }) }
func (m *machine) Delta(d section.Delta)           { m.do(func() { m.deltas = append(m.deltas, d) }) }
func (m *machine) Order(o link.Order)              { m.do(func() { m.orders = append(m.orders, o) }) }
func (m *machine) Word(string, bool, bool)         {}
func (m *machine) Inventory() (out link.Inventory) { m.do(func() { out = m.inventory }); return }
func (m *machine) Health() (out []host.Health)     { m.do(func() { out = m.health }); return }
func (m *machine) HeartbeatBounds() (a, b time.Duration) {
	m.do(func() { a, b = m.least, m.most })
	return
}

// bench is a control plane and one host of it, in a bubble.
type bench struct {
	*controltest.Server
	pipes   *controltest.Pipes
	machine *machine
	config  config.Config
	store   *state.Store
	client  *link.Client
	dial    link.Dial // nil: over the pipes
	alone   link.Dial // by WebSocket alone; nil: over the pipes
	id      string
	stop    func()
}

// inBubble runs a test in a bubble, with a control plane that setup may change first.
func inBubble(t *testing.T, setup func(*bench), test func(*testing.T, *bench)) {
	synctest.Test(t, func(t *testing.T) {
		pipes := controltest.NewPipes()
		b := &bench{Server: &controltest.Server{Listener: pipes, Heartbeat: 20 * time.Second}, pipes: pipes, machine: &machine{}}
		b.machine.inventory = link.Inventory{Inventory: host.Inventory{HostName: "web-1"}, Digest: []byte("one")}
		if setup != nil {
			setup(b)
		}
		b.Start(t)
		b.config = b.Config()
		store, err := state.Open(t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		b.store = store
		t.Cleanup(func() { store.Close() })
		b.enrol(t)
		test(t, b)
	})
}

func (b *bench) enrol(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
	defer cancel()
	i, err := link.Enrol(ctx, b.enrolment())
	if err != nil {
		t.Fatalf("enrol: %v", err)
	}
	b.id = i.HostID
}

func (b *bench) enrolment() link.EnrolOptions {
	return link.EnrolOptions{
		Config: b.config, Store: b.store, Token: b.Token(), HostName: "web-1", Version: "1.0.0", Dial: b.pipes.Dial(b.config),
		Labels: map[string]string{"env": "test"},
	}
}

// run starts a client, as an agent that was just started does; it ends with the test, or by stop.
func (b *bench) run(t *testing.T) {
	t.Helper()
	if b.dial == nil {
		b.dial = b.pipes.Dial(b.config)
	}
	c, err := link.New(link.Options{
		Config: b.config, Store: b.store, Host: b.machine, Version: "1.0.0", BootID: "boot-1", Dial: b.dial, DialWebSocket: b.alone,
		Uptime: func() time.Duration { return time.Minute },
	})
	if err != nil {
		t.Fatal(err)
	}
	b.client = c
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { c.Run(ctx) })
	b.stop = func() { cancel(); running.Wait() }
	t.Cleanup(b.stop)
}

func linked(h *controltest.Host) bool { return h.Link != nil }

func TestHelloSaysWhatIsHeldAndFramesReachTheHost(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, b *bench) {
		v, _ := section.New("settings", section.Revision{Epoch: 1, Number: 4}, []section.Item{{Key: "a", Value: []byte("1")}})
		b.machine.held = []section.Status{{Name: "settings", Revision: v.Revision, Digest: v.Digest, State: section.Applied}}
		b.run(t)
		b.Wait(t, "inventory and health", b.id, func(h *controltest.Host) bool { return h.Inventory != nil && h.Health != nil })
		h := b.Host(b.id)
		hello := h.Hellos[0]
		if hello.Connection != 1 || hello.BootId != "boot-1" || hello.Transport != "websocket" || hello.AgentVersion != "1.0.0" || hello.KeysetVersion != 1 || hello.Uptime.AsDuration() != time.Minute {
			t.Errorf("got hello %v", hello)
		}
		if len(hello.Held) != 1 || hello.Held[0].Revision.Number != 4 || string(hello.Held[0].Digest) != string(v.Digest[:]) || hello.Held[0].State != "applied" {
			t.Errorf("got held %v; want settings 1.4 applied", hello.Held)
		}
		w, _ := section.New("settings", section.Revision{Epoch: 1, Number: 5}, []section.Item{{Key: "b", Value: []byte("2")}})
		b.Push(w)
		b.Send(controltest.Delta(v, w))
		b.Stand("quarantined", "suspicious")
		synctest.Wait()
		b.machine.do(func() {
			if len(b.machine.wholes) != 1 || b.machine.wholes[0].Digest != w.Digest || len(b.machine.deltas) != 1 || b.machine.deltas[0].Base != v.Revision {
				t.Errorf("got %v and %v; want the whole and the delta", b.machine.wholes, b.machine.deltas)
			}
			if want := []link.Standing{link.Managed, link.Quarantined}; !slices.Equal(b.machine.standings, want) {
				t.Errorf("got standings %v; want %v", b.machine.standings, want)
			}
		})
		b.client.Report(section.Status{Name: "settings", Revision: w.Revision, State: section.Failed, Message: "no \xff"})
		b.client.Request("mesh", section.Revision{Epoch: 1, Number: 2})
		b.Wait(t, "report and request", b.id, func(h *controltest.Host) bool { return len(h.Reports) == 1 && len(h.Requests) == 1 })
		if st := b.client.Status(); st.State != link.Linked || st.Standing != link.Quarantined || st.Reason != "suspicious" || st.Server != "test" {
			t.Errorf("got status %+v", st)
		}
	})
}

func TestHeartbeatsFollowTheServersPaceWithinTheSettingsBounds(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, b *bench) {
		b.run(t)
		count := func(d time.Duration) int {
			before := b.Host(b.id).Beats
			time.Sleep(d)
			synctest.Wait()
			return b.Host(b.id).Beats - before
		}
		if n := count(1000 * time.Second); n < 44 || n > 56 {
			t.Errorf("got %d heartbeats in 1000 s; want about 50", n)
		}
		b.Send(&pb.ServerFrame{Body: &pb.ServerFrame_Pulse{Pulse: &pb.Pulse{Heartbeat: durationOf(40 * time.Second)}}})
		if n := count(1000 * time.Second); n < 22 || n > 28 {
			t.Errorf("after the pulse: got %d heartbeats in 1000 s; want about 25", n)
		}
		b.machine.do(func() { b.machine.most = 10 * time.Second })
		time.Sleep(time.Minute)
		if n := count(1000 * time.Second); n < 90 || n > 110 {
			t.Errorf("with bounds: got %d heartbeats in 1000 s; want about 100", n)
		}
	})
}

func TestASilentControlPlaneIsLeft(t *testing.T) {
	var hangs atomic.Bool
	inBubble(t, func(b *bench) {
		b.Server.Mute = func(f *pb.ServerFrame) bool { return hangs.Load() && f.GetPulse() != nil }
	}, func(t *testing.T, b *bench) {
		b.run(t)
		b.Wait(t, "link", b.id, linked)
		synctest.Wait()
		if n := len(b.Host(b.id).Hellos); n != 1 {
			t.Errorf("got %d hellos; want one", n)
		}
		hangs.Store(true)
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		if st := b.client.Status(); len(b.Host(b.id).Hellos) < 2 || st.LastError == nil || st.LastError.Code != "link_silent" {
			t.Errorf("got %d hellos, %+v; want a second link because of link_silent", len(b.Host(b.id).Hellos), st)
		}
	})
}

func TestReconnectsAfterACutWithAHigherNumber(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, b *bench) {
		b.run(t)
		for i := range 5 {
			b.Wait(t, "link", b.id, func(h *controltest.Host) bool { return h.Link != nil && len(h.Hellos) == i+1 })
			b.Cut()
		}
		for i, h := range b.Host(b.id).Hellos {
			if h.Connection != uint64(i+1) {
				t.Errorf("link %d has the number %d", i+1, h.Connection)
			}
		}
	})
}

func TestBackoffIsBoundedAndTroubleIsReported(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, b *bench) {
		b.pipes.Break(syscall.ECONNREFUSED)
		b.run(t)
		time.Sleep(time.Hour)
		synctest.Wait()
		st := b.client.Status()
		if st.State != link.Waiting || st.LastError == nil || st.LastError.Code != "connect_refused" || st.LastError.Hint == "" {
			t.Errorf("got %+v; want it waiting after connect_refused with a hint", st)
		}
		if st.Attempts < 3600/30 || st.Attempts > 3*3600/15 {
			t.Errorf("got %d attempts in an hour; want about %d", st.Attempts, 3600/15)
		}
		b.pipes.Break(nil)
		began := time.Now()
		b.Wait(t, "link", b.id, func(h *controltest.Host) bool { return len(h.Troubles) > 0 })
		if d := time.Since(began); d > link.MaxBackoff {
			t.Errorf("took %s to come back; want at most %s", d, link.MaxBackoff)
		}
		if got := b.Host(b.id).Troubles[0]; got.Code != "connect_refused" || got.Attempts != st.Attempts {
			t.Errorf("got trouble %v; want connect_refused, %d attempts", got, st.Attempts)
		}
		if st := b.client.Status(); st.Attempts != 0 {
			t.Errorf("got %d attempts once linked; want 0", st.Attempts)
		}
	})
}

func TestRetryAfterIsObeyed(t *testing.T) {
	var refusals atomic.Int64
	inBubble(t, func(b *bench) {
		b.Server.Refuse = func(f *pb.AgentFrame) *pb.Refusal {
			if f.GetHello() == nil || refusals.Add(1) > 3 {
				return nil
			}
			return controltest.Refusal("too_busy", false, 5*time.Minute)
		}
	}, func(t *testing.T, b *bench) {
		began := time.Now()
		b.run(t)
		time.Sleep(16 * time.Minute)
		synctest.Wait()
		h := b.Host(b.id)
		if h.Link == nil {
			t.Fatal("not linked after 16 minutes")
		}
		if got := b.client.Status().Since.Sub(began); got < 15*time.Minute || got > 16*time.Minute {
			t.Errorf("linked after %s; want 15 minutes: three times sent away for five", got)
		}
		if h.Troubles[0].Code != "too_busy" || h.Troubles[0].Attempts != 3 {
			t.Errorf("got %v; want too_busy three times", h.Troubles)
		}
	})
}

func TestAFinalRefusalIsNotAskedAgain(t *testing.T) {
	var hellos atomic.Int64
	inBubble(t, func(b *bench) {
		b.Server.Refuse = func(f *pb.AgentFrame) *pb.Refusal {
			if f.GetHello() == nil {
				return nil
			}
			hellos.Add(1)
			return controltest.Refusal("host_removed", true, 0)
		}
	}, func(t *testing.T, b *bench) {
		b.run(t)
		time.Sleep(24 * time.Hour)
		synctest.Wait()
		st := b.client.Status()
		if hellos.Load() != 1 || st.State != link.Refused || st.LastError.Code != "host_removed" || st.LastError.Hint != "do something" {
			t.Errorf("got %d hellos, %+v; want one, refused with the reason and its hint", hellos.Load(), st)
		}
	})
}

func TestTheNextEndpointIsTried(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, b *bench) {
		good := b.config.Endpoints[0]
		b.config.Endpoints = []string{"https://away.test", good}
		dial := b.pipes.Dial(b.config)
		var tried []string
		c, err := link.New(link.Options{Config: b.config, Store: b.store, Host: b.machine, BootID: "b",
			Dial: func(ctx context.Context, endpoint string, anchors []trust.AnchorHash, seen uint64) (link.Conn, error) {
				tried = append(tried, endpoint)
				if endpoint != good {
					return nil, fault.New(fault.Unavailable, "dns_failed", "no such name")
				}
				return dial(ctx, endpoint, anchors, seen)
			}})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() { c.Run(ctx) })
		defer running.Wait()
		defer cancel()
		b.Wait(t, "link", b.id, func(h *controltest.Host) bool { return len(h.Troubles) == 1 })
		if want := []string{"https://away.test", good}; !slices.Equal(tried, want) || c.Status().Endpoint != good {
			t.Errorf("got %v; want %v", tried, want)
		}
	})
}

func TestStoppingSaysGoodbye(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, b *bench) {
		b.run(t)
		b.Wait(t, "link", b.id, linked)
		b.stop()
		b.Wait(t, "goodbye", b.id, func(h *controltest.Host) bool { return h.Goodbyes == 1 })
		if st := b.client.Status(); st.State != link.Stopped {
			t.Errorf("got %s; want stopped", st.State)
		}
	})
}

func TestInventoryIsSentWhenItChangedWhileAwayOrLinked(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, b *bench) {
		b.run(t)
		has := func(digest string) func(*controltest.Host) bool {
			return func(h *controltest.Host) bool { return h.Inventory != nil && string(h.Inventory.Digest) == digest }
		}
		set := func(digest string) { b.machine.do(func() { b.machine.inventory.Digest = []byte(digest) }) }
		b.Wait(t, "first inventory", b.id, has("one"))
		set("two")
		b.client.InventoryChanged()
		b.Wait(t, "second inventory", b.id, has("two"))
		b.stop()
		set("three")
		b.run(t)
		b.Wait(t, "third inventory", b.id, has("three"))
	})
}

func TestKeysetsAreKeptAndOlderOnesRefused(t *testing.T) {
	inBubble(t, func(b *bench) { b.Server.Keyset = 7 }, func(t *testing.T, b *bench) {
		b.run(t)
		b.Wait(t, "link", b.id, linked)
		b.stop()
		b.Rekey(8, nil)
		b.run(t)
		b.Wait(t, "link under keyset 8", b.id, func(h *controltest.Host) bool { return h.Hellos[len(h.Hellos)-1].KeysetVersion == 8 })
		b.stop()
		b.Rekey(6, nil)
		b.run(t)
		time.Sleep(time.Minute)
		synctest.Wait()
		if st := b.client.Status(); st.LastError == nil || !errors.Is(st.LastError, trust.ErrStale) || st.Keyset != 8 {
			t.Errorf("got %+v; want keyset_stale", st)
		}
	})
}

// polled is a link that polls because a WebSocket did not get through.
type polled struct{ link.Conn }

func (polled) Fallback() error { return wire.ErrNoWebSocket }

func TestALinkThatPollsGoesBackToAWebSocketOnceOneGetsThrough(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, b *bench) {
		// Another goroutine dials, and a bubble's clock orders it after the
		// test's writes in time but not for the race detector.
		var open atomic.Bool
		var mu sync.Mutex
		var tried []time.Duration
		attempts := func() []time.Duration {
			mu.Lock()
			defer mu.Unlock()
			return slices.Clone(tried)
		}
		began := time.Now()
		poll, socket := b.config, b.config
		poll.Transport, socket.Transport = wire.Poll, wire.WebSocket
		b.dial = func(ctx context.Context, endpoint string, anchors []trust.AnchorHash, seen uint64) (link.Conn, error) {
			if open.Load() {
				return b.pipes.Dial(socket)(ctx, endpoint, anchors, seen)
			}
			c, err := b.pipes.Dial(poll)(ctx, endpoint, anchors, seen)
			return polled{c}, err
		}
		b.alone = func(ctx context.Context, endpoint string, anchors []trust.AnchorHash, seen uint64) (link.Conn, error) {
			mu.Lock()
			tried = append(tried, time.Since(began))
			mu.Unlock()
			if !open.Load() {
				return nil, wire.ErrNoWebSocket
			}
			return b.pipes.Dial(socket)(ctx, endpoint, anchors, seen)
		}
		b.run(t)
		time.Sleep(3 * time.Hour)
		if s := b.client.Status(); s.State != link.Linked || s.Transport != wire.Poll {
			t.Fatalf("got %s by %s, want linked by polling", s.State, s.Transport)
		}
		if at := attempts(); len(at) < 5 || len(at) > 9 {
			t.Errorf("a WebSocket was tried %d times in three hours, at %v", len(at), at)
		}
		open.Store(true)
		time.Sleep(time.Hour + time.Minute)
		if s := b.client.Status(); s.State != link.Linked || s.Transport != wire.WebSocket {
			t.Errorf("after it opened: got %s by %s, want linked by a WebSocket", s.State, s.Transport)
		}
		before := len(attempts())
		time.Sleep(3 * time.Hour)
		if more := len(attempts()) - before; more != 0 {
			t.Errorf("a link by WebSocket tried %d more", more)
		}
	})
}

func TestRestartsInARowAreNotWaitedForAsALongAbsence(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, b *bench) {
		b.run(t)
		for range 12 {
			synctest.Wait()
			await := time.Now()
			for b.client.Status().State != link.Linked {
				time.Sleep(100 * time.Millisecond)
			}
			if away := time.Since(await); away > 5*time.Second {
				t.Errorf("it was back after %s, want within 5 s", away)
			}
			time.Sleep(2 * time.Second) // less than what ends a row of failures
			b.Cut()
		}
	})
}

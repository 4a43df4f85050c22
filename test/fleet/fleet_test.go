package fleet

import (
	"context"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	pb "github.com/loopbackd/loopback/api/loopback/v1"
	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/section"
	"github.com/loopbackd/loopback/server/link"
	"github.com/loopbackd/loopback/server/link/linktest"
	"github.com/loopbackd/loopback/settings"
	"github.com/loopbackd/loopback/wire"
)

func newControl(t testing.TB, f *linktest.Fleet, adjust ...func(*link.Options)) *Control {
	t.Helper()
	c, err := NewControl(f, func(o *link.Options) {
		o.AddressBurst, o.EnrolmentRate = 1<<20, 1<<20 // all agents come from one address
		for _, a := range adjust {
			a(o)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := c.Stop(ctx); err != nil {
			t.Errorf("stopping the control plane: %v", err)
		}
	})
	return c
}

func running(t testing.TB, c *Control, n int, change ...func(i int, a *Agent)) *Fleet {
	t.Helper()
	f := Run(t.Context(), n, 64, func(i int) *Agent {
		a := &Agent{Dialer: c.Dialer(wire.WebSocket), Token: "token"}
		for _, by := range change {
			by(i, a)
		}
		return a
	})
	t.Cleanup(f.Stop)
	return f
}

func wait(t testing.TB, f *Fleet, most time.Duration, done func(Counts) bool) time.Duration {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), most)
	defer cancel()
	start := time.Now()
	if err := f.Wait(ctx, done); err != nil {
		t.Fatal(err)
	}
	return time.Since(start)
}

func allLinked(n int) func(Counts) bool { return func(c Counts) bool { return c.Linked == n } }

func want(t testing.TB, f *linktest.Fleet, level string) section.Section {
	t.Helper()
	c, err := f.Want(settings.Settings{LogLevel: level})
	if err != nil {
		t.Fatal(err)
	}
	return c.Section
}

// size is how many agents a test runs: fewer in the quick part, and under the race detector, which looks for races and
// finds them among hundreds as well.
func size(n int) int {
	if testing.Short() || raced {
		return n / 10
	}
	return n
}

func TestAgentsEnrolLinkAndComeIntoSync(t *testing.T) {
	for _, transport := range []string{wire.WebSocket, wire.Poll} {
		t.Run(transport, func(t *testing.T) {
			c := newControl(t, &linktest.Fleet{})
			first := want(t, c.Fleet, "info")
			const n = 50
			f := running(t, c, n, func(_ int, a *Agent) { a.Dialer = c.Dialer(transport) })
			wait(t, f, time.Minute, func(k Counts) bool { return k.Linked == n && f.InSync(first) == n })
			second := want(t, c.Fleet, "debug")
			wait(t, f, time.Minute, func(Counts) bool { return f.InSync(second) == n })
			if k := f.Counts(); k.Mismatches != 0 || k.Wholes != n || k.Links != n {
				t.Errorf("got %+v, wanted each agent linked once, sent one whole section and then a delta or the whole", k)
			}
		})
	}
}

func TestATokenEnrolsAsOftenAsItMay(t *testing.T) {
	n, uses := size(2000), size(500)
	c := newControl(t, &linktest.Fleet{Uses: map[string]int{"token": uses}})
	var lost atomic.Int64
	f := running(t, c, n, func(_ int, a *Agent) {
		a.Patience = 50 * time.Millisecond
		a.LoseAnswer = func() bool {
			if rand.N(5) > 0 {
				return false
			}
			lost.Add(1)
			return true
		}
	})
	wait(t, f, 2*time.Minute, func(k Counts) bool { return k.Linked == uses && k.Ended == n-uses })
	if got := c.Fleet.Used("token"); got != uses || len(c.Fleet.Hosts()) != uses {
		t.Errorf("got %d uses and %d hosts, wanted %d", got, len(c.Fleet.Hosts()), uses)
	}
	if lost.Load() == 0 {
		t.Error("no answer was lost: the test proves nothing")
	}
}

func TestAFleetIsBackAfterAKillWithNobodyOfflineAndNothingStored(t *testing.T) {
	n := size(1000)
	c := newControl(t, &linktest.Fleet{})
	first := want(t, c.Fleet, "info")
	f := running(t, c, n, func(_ int, a *Agent) { a.Patience = 300 * time.Millisecond })
	wait(t, f, time.Minute, func(Counts) bool { return f.InSync(first) == n })
	reported(t, c, f, n)
	stored := c.Fleet.Observations.Load()

	c.Kill()
	wait(t, f, time.Minute, allLinked(0))
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	took := wait(t, f, 2*time.Minute, allLinked(n))
	settle(t, c)
	if got := c.Fleet.Observations.Load(); got != stored {
		t.Errorf("coming back cost %d observations, wanted none", got-stored)
	}
	if k := f.Counts(); k.Wholes != n || f.InSync(first) != n {
		t.Errorf("%d sections were sent and %d agents are in sync, wanted nothing sent again", k.Wholes, f.InSync(first))
	}
	for _, id := range c.Fleet.Hosts() {
		if got := c.Fleet.Transitions(id); len(got) != 1 {
			t.Fatalf("host %s: got %v, wanted no transition after the first", id, got)
		}
	}
	t.Logf("%d agents were back %v after the start", n, took)
}

func TestAFleetIsToldWhenToComeBack(t *testing.T) {
	n := size(1000)
	c := newControl(t, &linktest.Fleet{}, func(o *link.Options) { o.AdmissionRate = n / 2 })
	f := running(t, c, n)
	wait(t, f, time.Minute, allLinked(n))
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if err := c.Stop(ctx); err != nil {
		t.Fatal(err)
	}
	wait(t, f, time.Minute, allLinked(0))
	if got := f.Counts().Endings["server_stopping"]; got < n*99/100 {
		t.Errorf("%d of %d agents were told that the control plane stops: %v", got, n, f.Counts().Endings)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	took := wait(t, f, time.Minute, allLinked(n))
	t.Logf("%d agents were back after %v; %v", n, took, f.Counts().Endings)
}

// With a fifth of the agents dying, a fifth deaf or mute and values changing all the time, those that behave end up
// holding what is desired.
func TestAStormEndsInSync(t *testing.T) {
	n := size(1000)
	c := newControl(t, &linktest.Fleet{}, func(o *link.Options) { o.AnswerTimeout = 2 * time.Second })
	c.Fleet.SetBounds(time.Second, time.Second)
	behaves := func(i int) bool { return i%5 != 0 }
	f := running(t, c, n, func(i int, a *Agent) {
		a.Patience = 200 * time.Millisecond
		a.Deaf, a.Mute = i%10 == 0, i%10 == 5
	})
	wait(t, f, time.Minute, allLinked(n))
	levels := []string{"debug", "info", "warn", "error"}
	for i := range 40 {
		want(t, c.Fleet, levels[i%4])
		if i == 20 {
			c.Kill()
			if err := c.Start(); err != nil {
				t.Fatal(err)
			}
		}
	}
	last := want(t, c.Fleet, "debug")
	wait(t, f, 2*time.Minute, func(Counts) bool {
		in := 0
		for i, a := range f.Agents {
			if behaves(i) && a.Holds("settings").Digest == last.Digest && a.Holds("settings").Revision == last.Revision {
				in++
			}
		}
		return in == n*4/5
	})
	t.Logf("%+v", f.Counts())
}

func TestExpelledHostsAreGoneWithinASecondAndNothingOfThemIsAccepted(t *testing.T) {
	n := size(1000)
	c := newControl(t, &linktest.Fleet{})
	want(t, c.Fleet, "info")
	sessions := linked(t, c, n)
	ended := make([]time.Time, n)
	var talking, ready sync.WaitGroup
	ready.Add(n)
	for i, s := range sessions {
		talking.Go(func() { // reports its health, each time another, until it is shut out
			said := false
			for send(t.Context(), s.Conn, health()) == nil {
				if !said {
					said = true
					ready.Done()
				}
				turn, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond+rand.N(200*time.Millisecond))
				var err error
				for err == nil {
					_, err = s.Conn.Receive(turn)
				}
				over := turn.Err() == nil
				cancel()
				if over {
					break
				}
			}
			ended[i] = time.Now()
			s.Conn.Close()
		})
	}
	ready.Wait()
	var after atomic.Int64
	c.Fleet.FailBy(func(batch []link.Observation) error {
		for _, o := range batch {
			if expelled := after.Load(); expelled != 0 && o.At.UnixNano() > expelled {
				t.Errorf("what was seen %v after the expulsion was accepted", time.Duration(o.At.UnixNano()-expelled))
			}
		}
		return nil
	})
	ids := c.Fleet.Hosts()
	start := time.Now()
	c.Hub.Expel(ids)
	after.Store(time.Now().UnixNano())
	returned := time.Since(start)
	talking.Wait()
	took := make([]time.Duration, n)
	for i := range took {
		took[i] = ended[i].Sub(start)
	}
	slices.Sort(took)
	p50, p99 := took[n/2], took[n*99/100]
	t.Logf("Expel returned after %v; links ended p50 %v, p99 %v, last %v", returned, p50, p99, took[n-1])
	if p99 > time.Second {
		t.Errorf("p99 of the links ended after %v, wanted at most 1 s", p99)
	}
	for _, s := range sessions[:min(20, n)] {
		_, err := s.agent.Link(t.Context())
		if refused, ok := err.(*Refused); !ok || !refused.Final || refused.Fault.Code != "host_removed" {
			t.Errorf("a new link: got %v, wanted host_removed", err)
		}
	}
	settle(t, c)
	if c.Hub.Links() != 0 {
		t.Errorf("%d hosts are still linked", c.Hub.Links())
	}
}

// linked are so many agents that were welcomed, in the test's hands.
func linked(t testing.TB, c *Control, n int) []*Session {
	t.Helper()
	sessions := make([]*Session, n)
	var working sync.WaitGroup
	for worker := range 16 {
		working.Go(func() {
			for i := worker; i < n; i += 16 {
				a := &Agent{Dialer: c.Dialer(wire.WebSocket), Token: "token", Name: "host", BootID: "boot"}
				err := a.Enrol(t.Context())
				if err == nil {
					sessions[i], err = a.Link(t.Context())
				}
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	working.Wait()
	if t.Failed() {
		t.FailNow()
	}
	return sessions
}

func TestAMisbehavingAgentIsClosedAndOthersAreNot(t *testing.T) {
	c := newControl(t, &linktest.Fleet{})
	good := running(t, c, 5)
	wait(t, good, time.Minute, allLinked(5))
	for _, m := range []struct {
		name string
		do   func(ctx context.Context, s *Session) error
		code string
	}{
		{"garbage", func(ctx context.Context, s *Session) error { return s.Conn.Send(ctx, []byte("\xff\xff\xff")) }, "frame_malformed"},
		{"a second hello", func(ctx context.Context, s *Session) error {
			return send(ctx, s.Conn, &pb.AgentFrame{Body: &pb.AgentFrame_Hello{Hello: &pb.Hello{}}})
		}, "frame_unexpected"},
		{"a flood", func(ctx context.Context, s *Session) error {
			for range 500 {
				if err := send(ctx, s.Conn, health()); err != nil {
					return nil // closed already
				}
			}
			return nil
		}, "link_flooding"},
	} {
		t.Run(m.name, func(t *testing.T) {
			a := &Agent{Dialer: c.Dialer(wire.WebSocket), Token: "token", Name: "bad", BootID: "boot"}
			if err := a.Enrol(t.Context()); err != nil {
				t.Fatal(err)
			}
			s, err := a.Link(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			defer s.Conn.Close()
			if err := m.do(t.Context(), s); err != nil {
				t.Fatal(err)
			}
			for err == nil {
				_, err = receive(t.Context(), s.Conn)
			}
			if fault.Of(err).Code != m.code {
				t.Errorf("got %v (%s), wanted %s", err, fault.Of(err).Code, m.code)
			}
		})
	}
	if k := good.Counts(); k.Linked != 5 || k.Links != 5 {
		t.Errorf("got %+v, wanted the others untouched", k)
	}
}

func health() *pb.AgentFrame {
	return &pb.AgentFrame{Body: &pb.AgentFrame_Health{Health: &pb.HealthReport{Modules: []*pb.ModuleHealth{
		{Module: "probe", Healthy: rand.N(2) == 0, Message: time.Now().String()}}}}}
}

// reported waits until the control plane has heard and stored that all agents applied their settings.
func reported(t testing.TB, c *Control, f *Fleet, n int) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); ; {
		settle(t, c)
		applied := 0
		for _, id := range c.Fleet.Hosts() {
			if c.Fleet.Status(id, "settings").State == section.Applied && c.Fleet.Lookup(id).InventoryDigest != nil {
				applied++
			}
		}
		if applied == n {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d of %d hosts reported their settings as applied; %+v", applied, n, f.Counts())
		}
		runtime.Gosched()
	}
}

// settle waits until the hub has handed over everything that it saw.
func settle(t testing.TB, c *Control) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if err := c.Hub.Settle(ctx); err != nil {
		t.Fatal(err)
	}
}

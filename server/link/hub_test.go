package link_test

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	pb "github.com/loopbackd/loopback/api/loopback/v1"
	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/host"
	"github.com/loopbackd/loopback/server/link"
	"github.com/loopbackd/loopback/server/link/linktest"
	"github.com/loopbackd/loopback/wire"
)

func TestAnEnrolledHostIsWelcomedAndShownOnline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBundle(t)
		m := b.enrolled()
		_, welcome := b.linked(m)
		if welcome.Standing != "managed" || !welcome.WantInventory || welcome.KeyGeneration != 1 || welcome.Heartbeat.AsDuration() != 5*time.Second {
			t.Errorf("got %v, wanted a managed host that is asked for its inventory and beats every 5 s", welcome)
		}
		synctest.Wait()
		if got := b.fleet.Transitions(m.id); len(got) != 1 || !got[0].Online {
			t.Errorf("got transitions %v, wanted one to online", got)
		}
		if p := b.hub.Presence(m.id); !p.Linked || p.Uptime != time.Hour || p.Transport != "websocket" || p.Replica != "one" {
			t.Errorf("got presence %+v, wanted a linked host", p)
		}
	})
}

func TestEnrolmentIsRefusedWithItsReason(t *testing.T) {
	for _, c := range []struct {
		name  string
		uses  map[string]int
		fail  error
		code  string
		final bool
	}{
		{"unknown token", map[string]int{}, nil, "token_unknown", true},
		{"exhausted token", map[string]int{"token": 0}, nil, "token_exhausted", true},
		{"database away", nil, fault.New(fault.Unavailable, "database_away", "the database is away"), "database_away", false},
		{"defect of ours", nil, context.DeadlineExceeded, "timeout", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBundle(t)
				b.fleet.Uses = c.uses
				b.fleet.FailBy(func([]link.Observation) error { return c.fail })
				l, m := b.open(), newMachine()
				l.say(&pb.AgentFrame{Body: &pb.AgentFrame_Enrol{Enrol: &pb.Enrol{
					Token: "token", Proof: wire.SignProof(m.key, wire.RoleEnrol, "", l.hash[:])}}})
				r := refusalIn(l.heard())
				if r == nil || r.Detail.Code != c.code || r.Final != c.final {
					t.Errorf("got %v, wanted %s, final %v", r, c.code, c.final)
				}
				if closed, _ := l.isClosed(); !closed {
					t.Error("the link still stands")
				}
			})
		})
	}
}

func TestHelloIsRefused(t *testing.T) {
	_, stranger, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name  string
		with  func(b *bundle, m *machine, l *conn) *pb.AgentFrame
		code  string
		final bool
	}{
		{"id that is not known", func(_ *bundle, m *machine, l *conn) *pb.AgentFrame {
			m.id = "hst_00000000000000000000000000"
			return m.hello(l)
		}, "host_unknown", false},
		{"another's key", func(_ *bundle, m *machine, l *conn) *pb.AgentFrame {
			m.key = stranger
			return m.hello(l)
		}, "identity_unknown", false},
		{"proof of another link", func(b *bundle, m *machine, _ *conn) *pb.AgentFrame {
			return m.hello(b.open())
		}, "proof_invalid", false},
		{"proof of an enrolment", func(_ *bundle, m *machine, l *conn) *pb.AgentFrame {
			f := m.hello(l)
			f.GetHello().Proof = wire.SignProof(m.key, wire.RoleEnrol, "", l.hash[:])
			return f
		}, "proof_invalid", false},
		{"host that was removed", func(b *bundle, m *machine, l *conn) *pb.AgentFrame {
			if err := b.fleet.SetLifecycle(host.LifecycleRemoved, "", m.id); err != nil {
				b.t.Fatal(err)
			}
			return m.hello(l)
		}, "host_removed", true},
		{"no hello", func(*bundle, *machine, *conn) *pb.AgentFrame { return beat(1) }, "frame_unexpected", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBundle(t)
				m, l := b.enrolled(), b.open()
				l.say(c.with(b, m, l))
				r := refusalIn(l.heard())
				if r == nil || r.Detail.Code != c.code || r.Final != c.final {
					t.Errorf("got %v, wanted %s, final %v", r, c.code, c.final)
				}
				if closed, _ := l.isClosed(); !closed || b.hub.Links() != 0 {
					t.Errorf("the link still stands")
				}
			})
		})
	}
}

func TestALinkThatSaysNothingIsClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBundle(t)
		l := b.open()
		time.Sleep(12 * time.Second)
		if r := refusalIn(l.heard()); r == nil || r.Detail.Code != "hello_missing" {
			t.Errorf("got %v, wanted hello_missing", r)
		}
	})
}

func TestAnAwayHostIsOfflineAfterTheWindowOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBundle(t)
		m := b.enrolled()
		l, _ := b.linked(m)
		l.Close(wire.ErrLost)
		time.Sleep(80 * time.Second)
		if got := b.fleet.Transitions(m.id); len(got) != 1 || !b.hub.Presence(m.id).Online || b.hub.Presence(m.id).Linked {
			t.Fatalf("after 80 s: got %v, %+v, wanted online but not linked", got, b.hub.Presence(m.id))
		}
		l, _ = b.linked(m) // back in time: nobody notices
		stop := keepAlive(l, 5*time.Second)
		time.Sleep(5 * time.Minute)
		stop()
		if got := b.fleet.Transitions(m.id); len(got) != 1 {
			t.Fatalf("after coming back: got %v, wanted no further transition", got)
		}
		last := b.hub.Presence(m.id).LastSeen
		l.Close(wire.ErrLost)
		time.Sleep(5 * time.Minute)
		got := b.fleet.Transitions(m.id)
		if len(got) != 2 || got[1].Online || !got[1].Since.Equal(last) {
			t.Fatalf("after staying away: got %v, wanted offline since %v, once", got, last)
		}
		b.linked(m)
		synctest.Wait()
		if got := b.fleet.Transitions(m.id); len(got) != 3 || !got[2].Online {
			t.Errorf("at its return: got %v, wanted online", got)
		}
	})
}

func TestAHostThatSaidGoodbyeIsOfflineSooner(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBundle(t)
		m := b.enrolled()
		l, _ := b.linked(m)
		l.say(&pb.AgentFrame{Body: &pb.AgentFrame_Goodbye{Goodbye: &pb.Goodbye{Reason: "stopping"}}})
		l.Close(wire.ErrClosed)
		time.Sleep(12 * time.Second)
		if got := b.fleet.Transitions(m.id); len(got) != 2 || got[1].Online {
			t.Errorf("got %v, wanted offline after 12 s", got)
		}
	})
}

func TestMissedHeartbeatsEndTheLink(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBundle(t)
		m := b.enrolled()
		l, _ := b.linked(m)
		time.Sleep(14 * time.Second)
		if closed, reason := l.isClosed(); closed {
			t.Fatalf("closed after 14 s: %v", reason)
		}
		time.Sleep(30 * time.Second)
		if r := refusalIn(l.heard()); r == nil || r.Detail.Code != "link_silent" {
			t.Errorf("got %v, wanted link_silent", r)
		}
		time.Sleep(90 * time.Second)
		if b.hub.Presence(m.id).Online {
			t.Error("a silent host is still online after the window")
		}
	})
}

func TestOurRestartMarksNobodyOffline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBundle(t)
		back, gone := b.enrolled(), b.enrolled()
		first, _ := b.linked(back)
		second, _ := b.linked(gone)
		synctest.Wait()
		b.stop()
		for _, l := range []*conn{first, second} {
			if r := refusalIn(l.heard()); r == nil || r.Detail.Code != "server_stopping" || r.Final || r.Detail.RetryAfter.AsDuration() <= 0 {
				t.Errorf("at our end: got %v, wanted to be told when to come back", r)
			}
		}
		stored := b.fleet.Observations.Load()
		b.start()
		time.Sleep(60 * time.Second)
		l, _ := b.linked(back)
		stop := keepAlive(l, 5*time.Second)
		defer stop()
		if got := b.fleet.Observations.Load(); got != stored {
			t.Errorf("coming back cost %d observations, wanted none", got-stored)
		}
		time.Sleep(60 * time.Second)
		if got := b.fleet.Transitions(back.id); len(got) != 1 {
			t.Errorf("the host that came back: got %v, wanted no transition", got)
		}
		if got := b.fleet.Transitions(gone.id); len(got) != 2 || got[1].Online {
			t.Errorf("the host that did not: got %v, wanted offline", got)
		}
	})
}

func TestTheNewerLinkOfAHostReplacesTheOlder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBundle(t)
		m := b.enrolled()
		older, _ := b.linked(m)
		newer, _ := b.linked(m)
		if closed, reason := older.isClosed(); !closed || fault.Of(reason).Code != "link_superseded" {
			t.Errorf("the older link: got closed %v, %v, wanted link_superseded", closed, reason)
		}
		if closed, reason := newer.isClosed(); closed || !b.hub.Presence(m.id).Linked {
			t.Errorf("the newer link was closed: %v", reason)
		}
		m.connection = 0 // a hello that was under way for long
		late := b.open()
		late.say(m.hello(late))
		if r := refusalIn(late.heard()); r == nil || r.Detail.Code != "link_superseded" {
			t.Errorf("the late link: got %v, wanted link_superseded", r)
		}
		if closed, reason := newer.isClosed(); closed {
			t.Errorf("the late link ended the newer: %v", reason)
		}
		m.boot, m.connection = "boot-2", 0 // a boot starts counting anew
		b.linked(m)
		if closed, _ := newer.isClosed(); !closed {
			t.Error("the link of the boot before still stands")
		}
		time.Sleep(3 * time.Minute)
		if got := b.fleet.Transitions(m.id); len(got) > 2 {
			t.Errorf("got %v, wanted no flapping", got)
		}
	})
}

func TestNothingOfAnExpelledHostIsAccepted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBundle(t)
		c := want(t, b, "debug")
		m := b.enrolled()
		l, _ := b.linked(m)
		l.heard()
		synctest.Wait()
		before := b.fleet.Observations.Load()
		b.hub.Expel([]string{m.id}) // before the fleet knows
		l.say(reportOf(c, "applied", ""))
		l.say(beat(1))
		frames := l.heard()
		if r := refusalIn(frames); r == nil || r.Detail.Code != "host_removed" || !r.Final || len(frames) != 1 {
			t.Errorf("got %v, wanted one final refusal", frames)
		}
		again := b.open()
		again.say(m.hello(again))
		if r := refusalIn(again.heard()); r == nil || r.Detail.Code != "host_removed" || !r.Final {
			t.Errorf("a new link: got %v, wanted host_removed", r)
		}
		time.Sleep(5 * time.Minute)
		if got := b.fleet.Observations.Load(); got != before {
			t.Errorf("%d observations were made after the expulsion, wanted none", got-before)
		}
		if b.hub.Presence(m.id).Online {
			t.Error("an expelled host is online")
		}
	})
}

func TestAFleetComingBackIsAdmittedAtTheRateThatIsServed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBundle(t, func(o *link.Options) { o.AdmissionRate, o.AddressBurst = 100, 10_000 })
		start := time.Now()
		due := make([]time.Time, 3000)
		for i := range due {
			due[i] = start
		}
		admitted := map[int]int{} // by second
		tries := 0
		for len(due) > 0 {
			var later []time.Time
			for _, at := range due {
				if at.After(time.Now()) {
					later = append(later, at)
					continue
				}
				tries++
				retry, ok := b.hub.Admit(netip.MustParseAddr("192.0.2.1"))
				if ok {
					admitted[int(time.Since(start).Seconds())]++
					continue
				}
				if retry <= 0 || retry > 2*time.Minute {
					t.Fatalf("told to come back after %v", retry)
				}
				later = append(later, time.Now().Add(retry.Round(time.Second)+time.Second/2)) // as the header tells it, or so
			}
			due = later
			time.Sleep(10 * time.Millisecond)
		}
		took := time.Since(start)
		if took > 45*time.Second || tries > 3*3000 {
			t.Errorf("3,000 hosts were back after %v and %d tries, wanted about 30 s and few tries", took, tries)
		}
		total := 0
		for second := range 60 {
			if total += admitted[second]; total > 100*(second+2) {
				t.Errorf("%d were admitted by the end of second %d, wanted at most 100 a second and a burst of 100", total, second)
			}
		}
	})
}

func TestGuessersAreHeldBackAndOthersAreNot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBundle(t, func(o *link.Options) { o.AddressBurst, o.AddressRate = 100, 1 })
		b.fleet.Uses = map[string]int{"token": 1}
		here := netip.MustParseAddr("192.0.2.7") // where the test's links come from
		guesses := 0
		for ; guesses < 1000; guesses++ {
			if _, ok := b.hub.Admit(here); !ok {
				break
			}
			l, m := b.open(), newMachine()
			l.say(&pb.AgentFrame{Body: &pb.AgentFrame_Enrol{Enrol: &pb.Enrol{Token: "guess", Proof: wire.SignProof(m.key, wire.RoleEnrol, "", l.hash[:])}}})
		}
		if guesses > 10 {
			t.Errorf("%d guesses were let through at once, wanted a handful", guesses)
		}
		if _, ok := b.hub.Admit(netip.MustParseAddr("192.0.2.8")); !ok {
			t.Error("another address was held back too")
		}
		time.Sleep(2 * time.Minute)
		if _, ok := b.hub.Admit(here); !ok {
			t.Error("the address is still held back after two minutes")
		}
	})
}

func TestHeartbeatsAreSpacedByTheNumberOfHosts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBundle(t, func(o *link.Options) { o.HeartbeatRate = 1 })
		var last *pb.Welcome
		var first *conn
		for i := range 12 {
			l, w := b.linked(b.enrolled())
			if last = w; i == 0 {
				first = l
				first.heard()
			}
		}
		if got := last.Heartbeat.AsDuration(); got < 11*time.Second || got > 12*time.Second {
			t.Errorf("the twelfth host at one heartbeat a second: got %v, wanted 11 or 12 s", got)
		}
		first.say(beat(1))
		if f := first.heard(); len(f) != 1 || f[0].GetPulse().GetHeartbeat().AsDuration() != 12*time.Second {
			t.Errorf("the first host got %v, wanted to be told 12 s", f)
		}
		b.fleet.SetBounds(time.Second, 7*time.Second)
		first.say(beat(2))
		if f := first.heard(); len(f) != 1 || f[0].GetPulse().GetHeartbeat().AsDuration() != 7*time.Second {
			t.Errorf("with bounds: got %v, wanted 7 s", f)
		}
	})
}

func TestReplicasHearOfEachOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var said []link.Announcement
		b := newBundle(t, func(o *link.Options) {
			o.Announcer = announcer(func(a []link.Announcement) { said = append(said, a...) })
		})
		m := b.enrolled()
		l, _ := b.linked(m)
		order := link.Order{BootID: "boot-1", Connection: 1}
		if len(said) != 1 || !said[0].Online || said[0].Link != order || said[0].Replica != "one" {
			t.Fatalf("said %v, wanted the host's arrival", said)
		}
		other := func(online bool, connection uint64) {
			b.hub.Hear([]link.Announcement{{Replica: "two", HostID: m.id, Online: online, Link: link.Order{BootID: "boot-1", Connection: connection}, At: time.Now()}})
		}
		other(true, 0) // late news of an older link
		if closed, _ := l.isClosed(); closed {
			t.Fatal("an older link elsewhere ended the newer one here")
		}
		other(true, 2)
		if closed, reason := l.isClosed(); !closed || fault.Of(reason).Code != "link_superseded" {
			t.Fatalf("got closed %v, %v, wanted link_superseded", closed, reason)
		}
		other(false, 1) // a late "gone" of another link
		if p := b.hub.Presence(m.id); !p.Linked || p.Replica != "two" {
			t.Errorf("got %+v, wanted the host at replica two", p)
		}
		other(false, 2)
		if p := b.hub.Presence(m.id); p.Linked {
			t.Errorf("got %+v, wanted the host away", p)
		}
		time.Sleep(5 * time.Minute)
		if got := b.fleet.Transitions(m.id); len(got) != 1 {
			t.Errorf("got %v: it is for the other replica to say that the host is offline", got)
		}
	})
}

type announcer func([]link.Announcement)

func (a announcer) Announce(batch []link.Announcement) { a(batch) }
func (a announcer) Ask(link.Question)                  {}

func TestAHeartbeatThatChangesNothingCostsNoTransaction(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBundle(t)
		l, _ := b.linked(b.enrolled())
		l.heard()
		before := b.fleet.Transactions.Load()
		for n := range uint64(100) {
			l.say(beat(n + 1))
			time.Sleep(time.Second)
		}
		pulses := l.heard()
		if len(pulses) != 100 || pulses[99].GetPulse().GetSequence() != 100 || !pulses[99].GetPulse().GetWantInventory() {
			t.Errorf("got %d answers, the last %v, wanted a pulse for each heartbeat", len(pulses), pulses[len(pulses)-1])
		}
		if got := b.fleet.Transactions.Load(); got != before {
			t.Errorf("100 heartbeats cost %d transactions", got-before)
		}
	})
}

func TestAHeartbeatAllocatesNothing(t *testing.T) {
	hub, err := link.New(options(&linktest.Fleet{}))
	if err != nil {
		t.Fatal(err)
	}
	hub.Start()
	c, _ := quietLink(t, hub)
	frame := marshal(beat(77))
	if n := testing.AllocsPerRun(100, func() { c.receiver.Receive(frame) }); n > 0 { // the hub takes 200 frames a second
		t.Errorf("a heartbeat allocates %v times, wanted 0", n)
	}
	if err := hub.Close(t.Context()); err != nil {
		t.Error(err)
	}
}

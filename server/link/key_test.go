package link_test

import (
	"crypto/ed25519"
	"testing"
	"testing/synctest"
	"time"

	pb "github.com/loopbackd/loopback/api/loopback/v1"
	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/host"
	"github.com/loopbackd/loopback/server/link"
)

func offer(m *machine, next ed25519.PrivateKey, generation int64) *pb.AgentFrame {
	return &pb.AgentFrame{Body: &pb.AgentFrame_KeyOffer{KeyOffer: &pb.KeyOffer{
		PublicKey: next.Public().(ed25519.PublicKey), Generation: generation,
		Signature: ed25519.Sign(next, link.OfferMessage(m.id, generation)),
	}}}
}

func TestAKeyIsRotatedThoughAnswersAreLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBundle(t)
		m := b.enrolled()
		old, next := m.key, newMachine().key
		l, _ := b.linked(m)
		for range 2 { // the first answer is lost
			l.say(offer(m, next, 2))
			got := l.heard()
			if len(got) == 0 || got[len(got)-1].GetKeyAccepted().GetGeneration() != 2 {
				t.Fatalf("got %v, wanted the key accepted", got)
			}
		}
		_, welcome := b.linked(m) // current or next is taken until next is used
		if welcome.KeyGeneration != 1 {
			t.Errorf("with the current key: got generation %d, wanted 1", welcome.KeyGeneration)
		}
		m.key = next
		l, welcome = b.linked(m)
		if welcome.KeyGeneration != 2 {
			t.Errorf("with the next key: got generation %d, wanted 2", welcome.KeyGeneration)
		}
		l.say(offer(m, next, 2)) // an agent that never heard any answer
		if got := l.heard(); len(got) != 1 || got[0].GetKeyAccepted().GetGeneration() != 2 {
			t.Errorf("offered again: got %v, wanted it accepted", got)
		}
		m.key = old
		stale := b.open()
		stale.say(m.hello(stale))
		if r := refusalIn(stale.heard()); r == nil || r.Detail.Code != "identity_superseded" || r.Final {
			t.Errorf("the old key while the new one is here: got %v, wanted identity_superseded", r)
		}
	})
}

func TestAKeyOfferThatDoesNotHoldIsRefused(t *testing.T) {
	for _, c := range []struct {
		name  string
		offer func(m *machine) *pb.AgentFrame
		code  string
	}{
		{"signed for another host", func(*machine) *pb.AgentFrame {
			return offer(&machine{id: "hst_other"}, newMachine().key, 2)
		}, "key_offer_invalid"},
		{"generation too far", func(m *machine) *pb.AgentFrame { return offer(m, newMachine().key, 3) }, "key_offer_stale"},
		{"the current key as the next", func(m *machine) *pb.AgentFrame { return offer(m, m.key, 2) }, "key_offer_stale"},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBundle(t)
				m := b.enrolled()
				l, _ := b.linked(m)
				l.say(c.offer(m))
				if r := refusalIn(l.heard()); r == nil || r.Detail.Code != c.code {
					t.Errorf("got %v, wanted %s", r, c.code)
				}
				if k := b.fleet.Lookup(m.id); k.NextKey != nil {
					t.Errorf("the offered key was stored")
				}
			})
		})
	}
}

func TestAPastKeyWhileTheNewerIsSilentAwaitsApproval(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBundle(t)
		want(t, b, "info")
		m := b.enrolled()
		old, next := m.key, newMachine().key
		l, _ := b.linked(m)
		l.say(offer(m, next, 2))
		m.key = next
		l, _ = b.linked(m)
		l.Close(nil)
		time.Sleep(2 * time.Minute) // a snapshot is restored
		m.key = old
		l, welcome := b.linked(m)
		if welcome.Standing != "pending" || welcome.Reason != "rolled back" || len(l.heard()) != 0 {
			t.Fatalf("got %v, wanted a pending host without sections", welcome)
		}
		if err := b.fleet.SetLifecycle(host.LifecycleActive, "", m.id); err != nil {
			t.Fatal(err)
		}
		if got := l.heard(); len(got) != 2 || got[0].GetStanding().GetStanding() != "managed" {
			t.Errorf("approved, got %v, wanted its standing and its section", got)
		}
		if k := b.fleet.Lookup(m.id); !k.Key.Equal(old.Public()) || k.Generation != 3 {
			t.Errorf("got generation %d, wanted the restored key as the third", k.Generation)
		}
	})
}

func TestWithTheDatabaseAwayNothingIsLostAndTheNewestWins(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBundle(t, func(o *link.Options) { o.Batch = 3 })
		first := want(t, b, "info")
		var machines []*machine
		var links []*conn
		for range 10 {
			m := b.enrolled()
			l, _ := b.linked(m)
			machines, links = append(machines, m), append(links, l)
		}
		synctest.Wait()
		b.fleet.FailBy(away)
		for i, l := range links {
			l.say(reportOf(first, "failed", "at first"))
			if i%2 == 0 {
				time.Sleep(100 * time.Millisecond) // some are being stored when the next word comes
			}
			l.say(reportOf(first, "applied", ""))
		}
		time.Sleep(20 * time.Second)
		b.fleet.FailBy(nil)
		time.Sleep(15 * time.Second)
		for _, m := range machines {
			if s := observed(b, m, "settings"); s.State != "applied" {
				t.Errorf("got %+v, wanted the last word: applied", s)
			}
		}
	})
}

func TestAnObservationThatCannotBeStoredHoldsUpNoOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBundle(t)
		c := want(t, b, "info")
		var machines []*machine
		var links []*conn
		for range 9 {
			m := b.enrolled()
			l, _ := b.linked(m)
			machines, links = append(machines, m), append(links, l)
		}
		synctest.Wait()
		bad := machines[4].id
		b.fleet.FailBy(away)
		for _, l := range links {
			l.say(reportOf(c, "applied", ""))
		}
		synctest.Wait()
		b.fleet.FailBy(func(batch []link.Observation) error {
			for _, o := range batch {
				if o.HostID == bad {
					return fault.New(fault.Internal, "defect", "this host cannot be stored")
				}
			}
			return nil
		})
		time.Sleep(10 * time.Second)
		for i, m := range machines {
			if s := observed(b, m, "settings"); (s.State == "applied") != (i != 4) {
				t.Errorf("host %d: got %+v", i, s)
			}
		}
	})
}

func TestTheHubTellsWhatItCouldNotStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBundle(t)
		m := b.enrolled()
		b.fleet.FailBy(away)
		b.linked(m)
		ctx, cancel := within(5 * time.Second)
		defer cancel()
		if err := b.hub.Close(ctx); fault.Of(err).Code != "observations_lost" {
			t.Errorf("got %v, wanted observations_lost", err)
		}
	})
}

func away([]link.Observation) error { return fault.New(fault.Unavailable, "database_away", "away") }

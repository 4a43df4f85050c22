package link_test

import (
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	pb "github.com/loopbackd/loopback/api/loopback/v1"
	"github.com/loopbackd/loopback/host"
	"github.com/loopbackd/loopback/label"
	"github.com/loopbackd/loopback/section"
	"github.com/loopbackd/loopback/server/link"
	"github.com/loopbackd/loopback/settings"
)

func TestAHostGetsWhatItLacksAndNothingElse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBundle(t)
		first := wantLabels(t, b, 40, "a")
		m := b.enrolled()
		l, _ := b.linked(m)
		got := l.heard()
		if len(got) != 1 || got[0].GetSection().GetRevision().GetNumber() != first.Revision.Number {
			t.Fatalf("a new host got %v, wanted the section whole", got)
		}
		l.say(reportOf(first, "applied", ""))
		if s := observed(b, m, "settings"); s.State != section.Applied || s.Revision != first.Revision {
			t.Fatalf("got status %+v, wanted revision %s applied", s, first.Revision)
		}
		if got := l.heard(); len(got) != 0 {
			t.Fatalf("a host that has all got %v", got)
		}

		second := want(t, b, "debug") // one item of four changes, labels go away
		got = l.heard()
		d := delta(got)
		if d == nil || d.Base.Number != first.Revision.Number || d.Revision.Number != second.Revision.Number {
			t.Fatalf("got %v, wanted a delta from %s to %s", got, first.Revision, second.Revision)
		}
		applied, err := first.Apply(section.Delta{Name: d.Name, Base: first.Revision, BaseDigest: first.Digest,
			Revision: second.Revision, Digest: section.Digest(d.Digest), Put: items(d.Put), Delete: d.Delete})
		if err != nil || applied.Digest != second.Digest {
			t.Fatalf("the delta does not lead to what is desired: %v", err)
		}
		l.say(reportOf(second, "applied", ""))
		l.Close(nil)

		m.held = []*pb.SectionHeld{heldOf(second, "applied", "")}
		synctest.Wait()
		before := b.fleet.Observations.Load()
		l, _ = b.linked(m)
		if got := l.heard(); len(got) != 0 || b.fleet.Observations.Load() != before {
			t.Errorf("a host that came back with all it should have got %v and cost %d observations", got, b.fleet.Observations.Load()-before)
		}
	})
}

func TestNewerValuesReplaceOlderOnesThatWereNotAnswered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBundle(t)
		first := want(t, b, "info")
		l, _ := b.linked(b.enrolled())
		l.heard()
		for range 50 {
			want(t, b, "debug")
			want(t, b, "warn")
		}
		last := want(t, b, "error")
		if got := l.heard(); len(got) != 0 {
			t.Fatalf("before the first value was answered, got %d more", len(got))
		}
		l.say(reportOf(first, "applied", ""))
		got := l.heard()
		if len(got) != 1 || revisionIn(got[0]) != last.Revision.Number {
			t.Fatalf("got %v, wanted revision %s alone", got, last.Revision)
		}
		// An agent that never answers is sent what is newest, whole, after a while.
		last = want(t, b, "info")
		stop := keepAlive(l, 5*time.Second)
		time.Sleep(70 * time.Second)
		stop()
		got = slices.DeleteFunc(l.heard(), func(f *pb.ServerFrame) bool { return f.GetPulse() != nil })
		if len(got) != 1 || got[0].GetSection().GetRevision().GetNumber() != last.Revision.Number {
			t.Errorf("got %v, wanted revision %s whole", got, last.Revision)
		}
	})
}

func TestAFailedValueIsNotSentAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBundle(t)
		first := want(t, b, "info")
		m := b.enrolled()
		l, _ := b.linked(m)
		l.heard()
		l.say(reportOf(first, "failed", "no such level"))
		b.hub.Changed([]string{m.id})
		if got := l.heard(); len(got) != 0 {
			t.Fatalf("got %v after the value failed", got)
		}
		if s := observed(b, m, "settings"); s.State != section.Failed || s.Message != "no such level" {
			t.Errorf("got status %+v, wanted failed and why", s)
		}
		second := want(t, b, "warn")
		if got := l.heard(); len(got) != 1 || revisionIn(got[0]) != second.Revision.Number {
			t.Errorf("got %v, wanted the next revision", got)
		}
	})
}

func TestASectionIsSentWholeOnRequestOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBundle(t)
		c := want(t, b, "info")
		m := b.enrolled()
		l, _ := b.linked(m)
		l.heard()
		request := &pb.AgentFrame{Body: &pb.AgentFrame_SectionRequest{SectionRequest: &pb.SectionRequest{Name: "settings"}}}
		l.say(request)
		if got := l.heard(); len(got) != 1 || got[0].GetSection().GetRevision().GetNumber() != c.Revision.Number {
			t.Fatalf("got %v, wanted the section whole", got)
		}
		l.say(request)
		if got := l.heard(); len(got) != 0 {
			t.Fatalf("got %v at the second request", got)
		}
		if s := observed(b, m, "settings"); s.State != section.Failed || !strings.Contains(s.Message, "digest") {
			t.Errorf("got status %+v, wanted failed", s)
		}
	})
}

func TestASectionOfAHostThatIsAheadIsFrozen(t *testing.T) {
	at := func(epoch uint32, number uint64) section.Revision {
		return section.Revision{Epoch: epoch, Number: number}
	}
	for _, c := range []struct {
		name          string
		held, desired section.Revision
		other         bool // the held value is another
		frozen        bool
	}{
		{"holds less", at(1, 5), at(1, 7), true, false},
		{"holds more", at(1, 9), at(1, 7), true, true},
		{"holds another value under the same revision", at(1, 7), at(1, 7), true, true},
		{"comes from a later epoch", at(3, 1), at(2, 7), true, true},
		{"holds of the old epoch what the backup knew", at(1, 6), at(2, 7), true, false},
		{"holds of the old epoch what the backup did not know", at(1, 12), at(2, 7), true, true},
		{"an operator has decided since", at(1, 12), at(2, 11), true, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBundle(t)
				b.fleet.SetEpoch(link.Epoch{Number: 2, Began: 10})
				m := b.enrolled()
				make := func(rev section.Revision, value string) section.Section {
					s, err := section.New("settings", rev, []section.Item{{Key: "log", Value: []byte(value)}})
					if err != nil {
						t.Fatal(err)
					}
					return s
				}
				if err := b.fleet.WantOf(m.id, make(c.desired, "ours")); err != nil {
					t.Fatal(err)
				}
				held, err := link.Compile(make(c.held, "theirs"))
				if err != nil {
					t.Fatal(err)
				}
				m.held = []*pb.SectionHeld{heldOf(held, "applied", "")}
				l, _ := b.linked(m)
				got, status := l.heard(), observed(b, m, "settings")
				if c.frozen != (len(got) == 0) || c.frozen != status.Frozen {
					t.Errorf("got frames %v and status %+v, wanted frozen %v", got, status, c.frozen)
				}
				if c.frozen {
					b.hub.Changed([]string{m.id})
					if got := l.heard(); len(got) != 0 {
						t.Errorf("got %v later", got)
					}
				}
			})
		})
	}
}

func TestAQuarantinedHostGetsNothingAndOnlyItsStatusIsHeard(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBundle(t)
		c := want(t, b, "info")
		m := b.enrolled()
		l, _ := b.linked(m)
		l.say(reportOf(c, "applied", ""))
		l.heard()
		if err := b.fleet.SetLifecycle(host.LifecycleQuarantined, "stolen laptop", m.id); err != nil {
			t.Fatal(err)
		}
		got := l.heard()
		if len(got) != 1 || got[0].GetStanding().GetStanding() != "quarantined" || got[0].GetStanding().GetReason() != "stolen laptop" {
			t.Fatalf("got %v, wanted its standing and why", got)
		}
		want(t, b, "debug")
		l.say(&pb.AgentFrame{Body: &pb.AgentFrame_Inventory{Inventory: &pb.InventoryReport{Digest: m.inventory}}})
		l.say(&pb.AgentFrame{Body: &pb.AgentFrame_SectionRequest{SectionRequest: &pb.SectionRequest{Name: "settings"}}})
		if got := l.heard(); len(got) != 0 || b.fleet.Lookup(m.id).InventoryDigest != nil {
			t.Errorf("got %v, inventory %x, wanted nothing sent or taken", got, b.fleet.Lookup(m.id).InventoryDigest)
		}
		l.say(beat(1))
		l.say(&pb.AgentFrame{Body: &pb.AgentFrame_Health{Health: &pb.HealthReport{Modules: []*pb.ModuleHealth{{Module: "probe", Message: "down"}}}}})
		if got := l.heard(); len(got) != 1 || got[0].GetPulse() == nil || len(b.fleet.Lookup(m.id).Modules) != 1 {
			t.Errorf("got %v, modules %v, wanted heartbeat and health heard", got, b.fleet.Lookup(m.id).Modules)
		}
		again, welcome := b.linked(m)
		if welcome.Standing != "quarantined" || welcome.Reason != "stolen laptop" || len(again.heard()) != 0 {
			t.Errorf("got %v, wanted a link without sections", welcome)
		}
		if err := b.fleet.SetLifecycle(host.LifecycleActive, "", m.id); err != nil {
			t.Fatal(err)
		}
		if got := again.heard(); len(got) != 2 || got[0].GetStanding().GetStanding() != "managed" || revisionIn(got[1]) == 0 {
			t.Errorf("released, got %v, wanted its standing and its section", got)
		}
	})
}

func TestAHostThatDoesNotReadHoldsUpNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBundle(t, func(o *link.Options) { o.EnrolmentRate = 10_000 })
		var deaf []*conn
		for range 300 {
			l, _ := b.linked(b.enrolled())
			l.mu.Lock()
			l.stuck = make(chan struct{})
			l.mu.Unlock()
			deaf = append(deaf, l)
		}
		good, _ := b.linked(b.enrolled())
		c := want(t, b, "debug")
		start := time.Now()
		for len(good.heard()) == 0 {
			if time.Sleep(time.Millisecond); time.Since(start) > 10*time.Second {
				t.Fatal("a host that reads waits for those that do not")
			}
		}
		if took := time.Since(start); took > 500*time.Millisecond {
			t.Errorf("behind 300 deaf hosts the section took %v, wanted at most half a second", took)
		}
		good.say(reportOf(c, "applied", ""))
		for _, l := range deaf { // as wire does after its write timeout
			l.Close(nil)
		}
	})
}

func TestInventoryIsAskedForUntilItCame(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBundle(t)
		m := b.enrolled()
		l, welcome := b.linked(m)
		l.say(&pb.AgentFrame{Body: &pb.AgentFrame_Inventory{Inventory: &pb.InventoryReport{
			Inventory: &pb.Inventory{Kernel: "6.12.0\x1b[31m", Cpus: -1}, Digest: m.inventory}}})
		l.say(beat(1))
		got := l.heard()
		if !welcome.WantInventory || len(got) != 1 || got[0].GetPulse().GetWantInventory() {
			t.Errorf("got %v, then %v, wanted to be asked once", welcome, got)
		}
		synctest.Wait()
		before := b.fleet.Observations.Load()
		_, welcome = b.linked(m)
		if welcome.WantInventory || b.fleet.Observations.Load() != before {
			t.Error("the same inventory was asked for again")
		}
	})
}

// observed is the status of a section once everything said was stored.
func observed(b *bundle, m *machine, name string) section.Status {
	synctest.Wait()
	return b.fleet.Status(m.id, name)
}

func wantLabels(t *testing.T, b *bundle, n int, value string) *link.Compiled {
	t.Helper()
	s := settings.Settings{Labels: label.Set{}}
	for i := range n {
		s.Labels["label-"+string(rune('a'+i%26))+string(rune('a'+i/26))] = value
	}
	c, err := b.fleet.Want(s)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func delta(frames []*pb.ServerFrame) *pb.SectionDelta {
	if len(frames) != 1 {
		return nil
	}
	return frames[0].GetSectionDelta()
}

func revisionIn(f *pb.ServerFrame) uint64 {
	return f.GetSection().GetRevision().GetNumber() + f.GetSectionDelta().GetRevision().GetNumber()
}

func items(in []*pb.SectionItem) (out []section.Item) {
	for _, i := range in {
		out = append(out, section.Item{Key: i.Key, Value: i.Value})
	}
	return out
}

package link_test

import (
	"crypto/ed25519"
	"crypto/sha256"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	pb "github.com/loopbackd/loopback/api/loopback/v1"
	"github.com/loopbackd/loopback/host"
	"github.com/loopbackd/loopback/section"
	"github.com/loopbackd/loopback/server/link"
	"github.com/loopbackd/loopback/wire"
)

func TestWhoIsTheHostOfTwoLinks(t *testing.T) {
	const (
		w, p, u, s, g = link.Waiting, link.Present, link.Unable, link.Silent, link.Gone
	)
	for _, c := range []struct {
		older, newer link.Answer
		want         string
	}{
		{p, p, "cloned"},
		{p, s, "older"}, {p, u, "older"}, {s, p, "newer"}, {u, p, "newer"},
		{s, s, "neither"},
		{u, u, "newer"}, {s, u, "newer"}, {u, s, "older"},
		{w, w, ""}, {w, p, ""}, {p, w, ""}, {w, s, ""}, {s, w, ""}, {w, u, ""}, {u, w, ""},
		{g, w, "ended"}, {w, g, "ended"}, {g, p, "ended"}, {p, g, "ended"}, {g, g, "ended"}, {g, s, "ended"}, {u, g, "ended"},
	} {
		if got := link.Judge(c.older, c.newer); got != c.want {
			t.Errorf("older %s, newer %s: got %q, wanted %q", c.older, c.newer, got, c.want)
		}
	}
}

// What judge says of every pair of answers, held against what is true of worlds: in each, an agent is behind the older
// link, the newer one, both or none, of a build that answers or of one that cannot.
func TestTheVerdictIsTrueOfEveryWorldThatLooksLikeIt(t *testing.T) {
	type side struct{ alive, able bool }
	answer := func(s side) link.Answer { // as it looks when nothing more comes
		switch {
		case !s.able:
			return link.Unable
		case s.alive:
			return link.Present
		default:
			return link.Silent
		}
	}
	var sides []side
	for _, alive := range []bool{false, true} {
		for _, able := range []bool{false, true} {
			sides = append(sides, side{alive, able})
		}
	}
	for _, older := range sides {
		for _, newer := range sides {
			got := link.Judge(answer(older), answer(newer))
			two := older.alive && newer.alive
			switch {
			case got == "cloned" && !two:
				t.Errorf("%+v, %+v: a false lock", older, newer)
			case two && older.able && newer.able && got != "cloned":
				t.Errorf("%+v, %+v: got %s, wanted the clone found", older, newer, got)
			case got == "older" && older.able && !older.alive, got == "newer" && newer.able && !newer.alive:
				t.Errorf("%+v, %+v: got %s, a link that nobody is behind", older, newer, got)
			case got == "neither" && (older.alive && older.able || newer.alive && newer.able):
				t.Errorf("%+v, %+v: a live agent that proved itself was closed", older, newer)
			}
		}
	}
}

// challenge is the nonce that the link was asked to sign, nil for none.
func challenge(frames []*pb.ServerFrame) []byte {
	for _, f := range frames {
		if c := f.GetChallenge(); c != nil {
			return c.Nonce
		}
	}
	return nil
}

func (m *machine) answer(c *conn, connection uint64, nonce []byte) *pb.AgentFrame {
	here := wire.Presence{HostID: m.id, BootID: m.boot, Connection: connection, Nonce: nonce, Hash: c.hash[:]}
	return &pb.AgentFrame{Body: &pb.AgentFrame_ChallengeAnswer{ChallengeAnswer: &pb.ChallengeAnswer{
		Nonce: nonce, Signature: here.Sign(m.key), HostName: "name-" + m.boot, MachineId: "machine",
	}}}
}

// pair is a host with a link, and a copy of its machine with another.
func pair(t *testing.T, b *bundle) (m, clone *machine, one, two *conn) {
	t.Helper()
	m = b.enrolled()
	m.knows = true
	one, _ = b.linked(m)
	one.heard()
	twin := *m
	clone = &twin
	clone.boot = "boot-2"
	two, _ = b.linked(clone)
	return m, clone, one, two
}

func lock(t *testing.T, b *bundle) (m, clone *machine, one, two *conn) {
	t.Helper()
	m, clone, one, two = pair(t, b)
	one.say(m.answer(one, m.connection, challenge(one.heard())))
	two.say(clone.answer(two, clone.connection, challenge(two.heard())))
	synctest.Wait()
	return m, clone, one, two
}

func standings(frames []*pb.ServerFrame) (all []string) {
	for _, f := range frames {
		if s := f.GetStanding(); s != nil {
			all = append(all, s.Standing+" "+s.Reason)
		}
	}
	return all
}

func TestTwoMachinesThatBothAnswerAreLocked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBundle(t)
		m, _, one, two := lock(t, b)
		for name, l := range map[string]*conn{"older": one, "newer": two} {
			got := standings(l.heard())
			if len(got) != 1 || !strings.HasPrefix(got[0], "quarantined cloned") {
				t.Errorf("the %s was told %q, wanted quarantined: cloned", name, got)
			}
			if closed, reason := l.isClosed(); closed {
				t.Errorf("the %s was closed: %v", name, reason)
			}
		}
		k := b.fleet.Lookup(m.id)
		var boots []string
		for _, c := range k.Clones.Copies {
			boots = append(boots, c.BootID+" "+c.HostName+" "+c.Address)
		}
		if want := []string{"boot-1 name-boot-1 192.0.2.7", "boot-2 name-boot-2 192.0.2.7"}; !slices.Equal(boots, want) {
			t.Errorf("got the copies %q, wanted %q", boots, want)
		}
		level := want(t, b, "debug")
		if f := append(one.heard(), two.heard()...); len(f) != 0 {
			t.Errorf("locked hosts were sent %v for %s", f, level.Revision)
		}
	})
}

func TestALinkThatDoesNotAnswerCloses(t *testing.T) {
	for _, c := range []struct {
		name             string
		older, newer     bool // answer
		olderEnds, ended bool // of older and newer
	}{
		{"a power cut left the older half open", false, true, true, false},
		{"the newer was given up before it was heard", true, false, false, true},
		{"both are dead", false, false, true, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBundle(t)
				m, clone, one, two := pair(t, b)
				if c.older {
					one.say(m.answer(one, m.connection, challenge(one.heard())))
				}
				if c.newer {
					two.say(clone.answer(two, clone.connection, challenge(two.heard())))
				}
				time.Sleep(12 * time.Second)
				if closed, _ := one.isClosed(); closed != c.olderEnds {
					t.Errorf("the older: got closed %v, wanted %v", closed, c.olderEnds)
				}
				if closed, _ := two.isClosed(); closed != c.ended {
					t.Errorf("the newer: got closed %v, wanted %v", closed, c.ended)
				}
				k := b.fleet.Lookup(m.id)
				if k.Lifecycle != host.LifecycleActive || k.Clones != nil {
					t.Errorf("got %s, %v: a false lock", k.Lifecycle, k.Clones)
				}
				level := want(t, b, "debug")
				for name, l := range map[string]*conn{"older": one, "newer": two} {
					closed, _ := l.isClosed()
					sent := slices.ContainsFunc(l.heard(), func(f *pb.ServerFrame) bool {
						return f.GetSection() != nil || f.GetSectionDelta() != nil
					})
					if !closed && !sent {
						t.Errorf("the %s, which stays, was not sent %s", name, level.Revision)
					}
				}
			})
		})
	}
}

func TestAgentsThatKnowNoChallengeWorkAsBefore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBundle(t)
		m := b.enrolled()
		one, _ := b.linked(m)
		two, _ := b.linked(m)
		if closed, _ := one.isClosed(); !closed {
			t.Error("the older link stayed")
		}
		if got := challenge(two.heard()); got != nil {
			t.Error("an agent that knows no challenge was sent one")
		}
		m.knows = true // it was updated meanwhile
		three, _ := b.linked(m)
		three.say(m.answer(three, m.connection, challenge(three.heard())))
		if closed, _ := two.isClosed(); !closed {
			t.Error("the link of the build before stayed")
		}
		m.knows = false // and back: the update was rolled back
		four, _ := b.linked(m)
		time.Sleep(12 * time.Second) // nobody is behind the older
		if closed, _ := three.isClosed(); !closed {
			t.Error("the link of the newer build stayed")
		}
		if closed, reason := four.isClosed(); closed {
			t.Errorf("the newest link was closed: %v", reason)
		}
	})
}

func TestAnAnswerHoldsForItsOwnLinkAndNonceAlone(t *testing.T) {
	for name, forge := range map[string]func(m, clone *machine, one, two *conn, n1, n2 []byte) *pb.AgentFrame{
		"by another key": func(m, _ *machine, one, _ *conn, n1, _ []byte) *pb.AgentFrame {
			other := *m
			other.key = newMachine().key
			return other.answer(one, m.connection, n1)
		},
		"of another link": func(_, clone *machine, _, two *conn, n1, _ []byte) *pb.AgentFrame {
			return clone.answer(two, clone.connection, n1)
		},
		"to another nonce": func(m, _ *machine, one, _ *conn, n1, n2 []byte) *pb.AgentFrame {
			f := m.answer(one, m.connection, n2)
			f.GetChallengeAnswer().Nonce = n1
			return f
		},
		"of another connection": func(m, _ *machine, one, _ *conn, n1, _ []byte) *pb.AgentFrame {
			return m.answer(one, m.connection+1, n1)
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBundle(t)
				m, clone, one, two := pair(t, b)
				n1, n2 := challenge(one.heard()), challenge(two.heard())
				two.say(clone.answer(two, clone.connection, n2))
				one.say(forge(m, clone, one, two, n1, n2))
				if r := refusalIn(one.heard()); r == nil || r.Detail.Code != "challenge_failed" {
					t.Errorf("got %v, wanted challenge_failed", r)
				}
				if k := b.fleet.Lookup(m.id); k.Lifecycle != host.LifecycleActive {
					t.Errorf("got %s: locked by a forged answer", k.Lifecycle)
				}
			})
		})
	}
}

func TestAnOperatorDecidesWhichCopyGoesOn(t *testing.T) {
	for _, verdict := range []host.Verdict{host.SplitOff, host.Dropped} {
		t.Run(string(verdict), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBundle(t)
				m, clone, one, two := lock(t, b)
				one.heard()
				two.heard()
				if err := b.fleet.Decide(m.id, "boot-1", verdict); err != nil {
					t.Fatal(err)
				}
				// The one that was kept is managed and replaces its key.
				got := one.heard()
				rekey := slices.ContainsFunc(got, func(f *pb.ServerFrame) bool { return f.GetRekey() != nil })
				if !rekey || !slices.Equal(standings(got), []string{"managed "}) {
					t.Fatalf("the kept one was sent %v, wanted its standing and the order to replace its key", got)
				}
				next := newMachine().key
				one.say(offer(m, next, 2))
				m.key = next
				one.Close(nil)
				one, welcome := b.linked(m)
				if welcome.Standing != "managed" || welcome.KeyGeneration != 2 {
					t.Fatalf("got %v, wanted it managed with its second key", welcome)
				}
				k := b.fleet.Lookup(m.id)
				if v := k.Clones.Of(sha256.Sum256(clone.key.Public().(ed25519.PublicKey)), "any"); v != verdict {
					t.Errorf("got the verdict %q on the key that was copied, wanted %q", v, verdict)
				}
				if verdict == host.Dropped {
					if r := refusalIn(two.heard()); r == nil || r.Detail.Code != "host_copy_dropped" || !r.Final {
						t.Fatalf("the dropped one got %v", r)
					}
					clone.boot = "boot-3" // it was restarted
					again := b.open()
					again.say(clone.hello(again))
					if r := refusalIn(again.heard()); r == nil || r.Detail.Code != "host_copy_dropped" || !r.Final {
						t.Errorf("the dropped one came back and got %v", r)
					}
					return
				}
				two.Close(nil)
				clone.boot = "boot-3" // it was restarted before it took the new key
				two, welcome = b.linked(clone)
				if welcome.Standing != "quarantined" {
					t.Errorf("the split one: got %v", welcome)
				}
				var told bool
				for _, f := range two.heard() {
					told = told || f.GetSplit() != nil
				}
				if !told {
					t.Fatal("the split one was not told to take a key of its own")
				}
				own := newMachine().key
				for range 2 { // the first answer is lost
					two.say(&pb.AgentFrame{Body: &pb.AgentFrame_SplitKey{SplitKey: &pb.SplitKey{
						Proof: wire.SignProof(own, wire.RoleEnrol, "", two.hash[:]), HostName: "web1",
					}}})
				}
				var ids []string
				for _, f := range two.heard() {
					if e := f.GetEnrolled(); e != nil {
						ids = append(ids, e.HostId)
					}
				}
				if len(ids) != 2 || ids[0] != ids[1] || ids[0] == m.id {
					t.Fatalf("got the ids %v, wanted a new one, twice", ids)
				}
				two.Close(nil)
				clone.key, clone.id = own, ids[0]
				if _, welcome = b.linked(clone); welcome.Standing != "managed" {
					t.Errorf("the new host: got %v", welcome)
				}
				if closed, reason := one.isClosed(); closed {
					t.Errorf("the kept one was closed: %v", reason)
				}
			})
		})
	}
}

func TestABootThatNobodyDecidedOnLocksAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBundle(t)
		m, clone, one, two := lock(t, b)
		one.Close(nil) // the one to be kept is away when it is decided, and comes back in another boot
		if err := b.fleet.Decide(m.id, "boot-1", host.Dropped); err != nil {
			t.Fatal(err)
		}
		if r := refusalIn(two.heard()); r == nil || r.Detail.Code != "host_copy_dropped" {
			t.Fatalf("the dropped one got %v", r)
		}
		m.boot = "boot-9"
		_, welcome := b.linked(m)
		if welcome.Standing != "quarantined" || !strings.HasPrefix(welcome.Reason, "cloned") {
			t.Fatalf("got %v, wanted it locked: nobody can tell which of the two it is", welcome)
		}
		clone.boot = "boot-2"
		if err := b.fleet.Decide(m.id, "boot-9", host.Dropped); err != nil {
			t.Fatal(err)
		}
		if k := b.fleet.Lookup(m.id); k.Lifecycle != host.LifecycleActive {
			t.Errorf("got %s after the second decision", k.Lifecycle)
		}
	})
}

func TestAHostThatWinsIsAskedForWhatItHolds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBundle(t)
		first := want(t, b, "info")
		m := b.enrolled()
		l, _ := b.linked(m)
		l.heard()
		ahead, err := settingsAt("debug").Section(section.Revision{Epoch: first.Revision.Epoch, Number: first.Revision.Number + 100})
		if err != nil {
			t.Fatal(err)
		}
		shown := func(s section.Section) *pb.AgentFrame {
			out := &pb.SectionWhole{Name: s.Name, Revision: &pb.SectionRevision{Epoch: s.Revision.Epoch, Number: s.Revision.Number}, Digest: s.Digest[:]}
			for _, it := range s.Items {
				out.Items = append(out.Items, &pb.SectionItem{Key: it.Key, Value: it.Value})
			}
			return &pb.AgentFrame{Body: &pb.AgentFrame_SectionHeld{SectionHeld: out}}
		}
		l.say(&pb.AgentFrame{Body: &pb.AgentFrame_SectionReport{SectionReport: &pb.SectionReport{Section: &pb.SectionHeld{
			Name: ahead.Name, Revision: &pb.SectionRevision{Epoch: ahead.Revision.Epoch, Number: ahead.Revision.Number}, Digest: ahead.Digest[:], State: "applied",
		}}}})
		l.say(shown(ahead)) // nobody asked
		l.heard()
		if s := b.fleet.Status(m.id, "settings"); !s.Frozen {
			t.Fatalf("got %+v, wanted the section frozen", s)
		}
		if err := b.fleet.Settling(m.id, "settings"); err != nil {
			t.Fatal(err)
		}
		asked := 0
		for _, f := range l.heard() {
			if f.GetSectionWanted() != nil {
				asked++
			}
		}
		if asked != 1 {
			t.Fatalf("the host was asked %d times, wanted once", asked)
		}
		other := first.Section
		other.Revision = ahead.Revision
		l.say(shown(other)) // not what it said it holds
		if b.fleet.Lookup(m.id).Settling == nil {
			t.Fatal("another value than the host named was taken over")
		}
		l.say(shown(ahead))
		if b.fleet.Lookup(m.id).Settling != nil {
			t.Error("the host's value was not taken over")
		}
		got := b.fleet.Desired(m.id)
		if len(got) != 1 || got[0].Digest != ahead.Digest {
			t.Errorf("got %v desired, wanted what the host holds", got)
		}
	})
}

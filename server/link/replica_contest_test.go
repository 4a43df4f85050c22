package link_test

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/loopbackd/loopback/host"
	"github.com/loopbackd/loopback/server/link"
)

// between carries what one replica says to the other; change may alter or lose it.
type between struct {
	hear   func([]link.Announcement)
	ask    func(link.Question)
	change func(link.Question) (link.Question, bool)
}

func (b *between) Announce(batch []link.Announcement) { go b.hear(batch) }

func (b *between) Ask(q link.Question) {
	if b.change != nil {
		var ok bool
		if q, ok = b.change(q); !ok {
			return
		}
	}
	go b.ask(q)
}

// replicas are two hubs of one fleet that hear of each other.
func replicas(t *testing.T, change func(link.Question) (link.Question, bool)) (one, two *bundle) {
	t.Helper()
	toOne, toTwo := &between{change: change}, &between{change: change}
	one = newBundle(t, func(o *link.Options) { o.Announcer = toTwo })
	two = &bundle{t: t, fleet: one.fleet}
	two.start(func(o *link.Options) { o.Announcer, o.Replica = toOne, "two" })
	t.Cleanup(two.stop)
	toOne.hear, toOne.ask = one.hub.Hear, one.hub.HearQuestion
	toTwo.hear, toTwo.ask = two.hub.Hear, two.hub.HearQuestion
	one.fleet.Tell(func(ids []string) {
		one.hub.Changed(ids)
		two.hub.Changed(ids)
	})
	return one, two
}

// across is a host linked to one replica, and a copy of it linked to the other.
func across(t *testing.T, one, two *bundle) (m, clone *machine, a, b *conn) {
	t.Helper()
	m = one.enrolled()
	m.knows = true
	a, _ = one.linked(m)
	synctest.Wait()
	twin := *m
	clone = &twin
	clone.boot = "boot-2"
	time.Sleep(time.Second)
	b, _ = two.linked(clone)
	synctest.Wait()
	return m, clone, a, b
}

func TestACopyOnAnotherReplicaIsFoundOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		one, two := replicas(t, nil)
		m, clone, a, b := across(t, one, two)
		a.say(m.answer(a, m.connection, challenge(a.heard())))
		b.say(clone.answer(b, clone.connection, challenge(b.heard())))
		synctest.Wait()
		k := one.fleet.Lookup(m.id)
		if !k.Clones.Locked() || len(k.Clones.Copies) != 2 || k.Clones.Copies[1].HostName != "name-boot-2" {
			t.Fatalf("got %+v, wanted both copies known", k.Clones)
		}
		for name, l := range map[string]*conn{"one": a, "two": b} {
			if closed, reason := l.isClosed(); closed {
				t.Errorf("the link to replica %s was closed: %v", name, reason)
			}
			if got := standings(l.heard()); len(got) != 1 || !strings.HasPrefix(got[0], "quarantined cloned") {
				t.Errorf("over replica %s the agent was told %q", name, got)
			}
		}
		// What is decided reaches both, wherever they are linked.
		if err := one.fleet.Decide(m.id, "boot-2", host.Dropped); err != nil {
			t.Fatal(err)
		}
		if r := refusalIn(a.heard()); r == nil || r.Detail.Code != "host_copy_dropped" {
			t.Errorf("the dropped one got %v", r)
		}
		rekey := false
		for _, f := range b.heard() {
			rekey = rekey || f.GetRekey() != nil
		}
		if !rekey {
			t.Error("the kept one was not told to replace its key")
		}
	})
}

func TestAHostThatMovedToAnotherReplicaIsNoCopy(t *testing.T) {
	for _, c := range []struct {
		name         string
		older, newer bool
		olderClosed  bool
	}{
		{"the older link is half open", false, true, true},
		{"the newer link is dead", true, false, false},
		{"both are dead", false, false, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				one, two := replicas(t, nil)
				m, clone, a, b := across(t, one, two)
				if c.older {
					a.say(m.answer(a, m.connection, challenge(a.heard())))
				}
				if c.newer {
					b.say(clone.answer(b, clone.connection, challenge(b.heard())))
				}
				time.Sleep(12 * time.Second)
				if closed, _ := a.isClosed(); closed != c.olderClosed {
					t.Errorf("the older: got closed %v, wanted %v", closed, c.olderClosed)
				}
				if k := one.fleet.Lookup(m.id); k.Clones != nil {
					t.Errorf("a false lock: %s", k.LifecycleReason)
				}
				if c.older {
					if p := one.hub.Presence(m.id); p.Replica != "one" {
						t.Errorf("got %+v, wanted the host where it answered", p)
					}
				}
			})
		})
	}
}

// Somebody who can write to the bus makes no clone: an agent's own signature does, over a nonce that was made for it.
func TestAForgedAnswerOnTheBusLocksNobody(t *testing.T) {
	for name, forge := range map[string]func(q link.Question) (link.Question, bool){
		"no signature": func(q link.Question) (link.Question, bool) {
			q.Signature = nil
			return q, true
		},
		"another nonce's": func(q link.Question) (link.Question, bool) {
			if q.Answer == "" {
				q.Nonce = append([]byte{q.Nonce[0] ^ 1}, q.Nonce[1:]...)
			}
			return q, true
		},
		"another link's": func(q link.Question) (link.Question, bool) {
			if q.Answer != "" && len(q.Hash) > 0 {
				q.Hash = append([]byte{q.Hash[0] ^ 1}, q.Hash[1:]...)
			}
			return q, true
		},
		"by another key": func(q link.Question) (link.Question, bool) {
			if q.Answer != "" && len(q.Key) > 0 {
				q.Key = append([]byte{q.Key[0] ^ 1}, q.Key[1:]...)
			}
			return q, true
		},
		"lost": func(q link.Question) (link.Question, bool) { return q, q.Answer == "" },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				one, two := replicas(t, forge)
				m, clone, a, b := across(t, one, two)
				a.say(m.answer(a, m.connection, challenge(a.heard())))
				if n := challenge(b.heard()); n != nil {
					b.say(clone.answer(b, clone.connection, n))
				}
				time.Sleep(12 * time.Second)
				if k := one.fleet.Lookup(m.id); k.Clones != nil {
					t.Errorf("locked by the bus: %s", k.LifecycleReason)
				}
			})
		})
	}
}

package link

import (
	"crypto/rand"
	"sync"
	"time"

	"github.com/loopbackd/loopback/host"
)

// Where two links speak for one host, one of them is usually dead and nobody noticed: its machine lost power, or an
// address. Only a challenge can tell that from a machine that was copied. Both agents are asked to sign a fresh nonce.
// The newer link is the host's meanwhile and the older one is kept beside it, so that a host which merely came back waits
// for nothing.
//
//	older answers   newer answers
//	     yes             yes          cloned: the host is locked, both links stay to be told
//	     yes             no           the newer closes, the older is the host's again
//	     no              yes          the older closes
//	     no              no           both close
//
// An agent of a build that knows no challenge cannot answer one. It is never taken for a clone: it yields to one that
// answered, and between two of them the newer one stays.

// Answer is what came of asking an agent whether it is there.
type Answer string

// The answers.
const (
	Waiting Answer = "waiting"
	Present Answer = "present" // it proved so
	Unable  Answer = "unable"  // its build knows no challenge
	Silent  Answer = "silent"  // nothing came in time
	Gone    Answer = "gone"    // the link has ended
)

// outcome of a contest.
type outcome string

const (
	open    outcome = ""
	cloned  outcome = "cloned"
	toOlder outcome = "older" // is the host's; the newer closes
	toNewer outcome = "newer"
	neither outcome = "neither"
	settled outcome = "ended" // by itself: one of the links has ended
)

// judge decides between two links of one host. It stays open while an answer that counts may still come.
func judge(older, newer Answer) outcome {
	switch {
	case older == Gone || newer == Gone:
		return settled
	case older == Waiting || newer == Waiting:
		return open
	case older == Present && newer == Present:
		return cloned
	case older == Present:
		return toOlder
	case newer == Present:
		return toNewer
	case older == Silent && newer == Silent:
		return neither
	case newer == Silent:
		return toOlder // which cannot answer
	default:
		return toNewer
	}
}

// claim is one side of a contest.
type claim struct {
	peer   *peer // nil: its link is on another replica
	link   Order
	nonce  [32]byte
	answer Answer
	copy   host.Copy
}

// contest is one under way.
type contest struct {
	hub      *Hub
	id       string
	hostID   string
	deadline time.Time

	mu           sync.Mutex
	older, newer claim
	over         bool
}

// contests are those under way.
type contests struct {
	mu   sync.Mutex
	byID map[string]*contest
}

func (cs *contests) add(c *contest) {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	if cs.byID == nil {
		cs.byID = map[string]*contest{}
	}
	cs.byID[c.id] = c
}

func (cs *contests) find(id string) *contest {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	return cs.byID[id]
}

func (cs *contests) remove(id string) {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	delete(cs.byID, id)
}

// sweep ends the waiting of those that are due.
func (cs *contests) sweep(now time.Time) {
	var due []*contest
	cs.mu.Lock()
	for _, c := range cs.byID {
		if !now.Before(c.deadline) {
			due = append(due, c)
		}
	}
	cs.mu.Unlock()
	for _, c := range due {
		c.expire()
	}
}

func fresh() (nonce [32]byte) {
	_, _ = rand.Read(nonce[:]) // it never fails
	return nonce
}

// contest finds out which of two links here has the host's agent behind it.
func (h *Hub) contest(older, newer *peer) {
	if !older.knows && !newer.knows {
		h.metrics.contests.WithLabelValues(string(toNewer)).Inc()
		h.supersede(older, errSuperseded.WithRetryAfter(0))
		return
	}
	c := &contest{
		hub: h, id: rand.Text(), hostID: older.id, deadline: h.Clock().Add(h.AliveTimeout),
		older: claim{peer: older, link: older.order, nonce: fresh(), answer: Waiting, copy: older.copy()},
		newer: claim{peer: newer, link: newer.order, nonce: fresh(), answer: Waiting, copy: newer.copy()},
	}
	h.contests.add(c)
	c.ask(&c.older)
	c.ask(&c.newer)
}

// contestElsewhere is one between a link here and a newer one that another replica announced.
func (h *Hub) contestElsewhere(older *peer, a Announcement) {
	c := &contest{
		hub: h, id: rand.Text(), hostID: older.id, deadline: h.Clock().Add(h.AliveTimeout),
		older: claim{peer: older, link: older.order, nonce: fresh(), answer: Waiting, copy: older.copy()},
		newer: claim{link: a.Link, nonce: fresh(), answer: Waiting},
	}
	h.contests.add(c)
	h.Announcer.Ask(Question{From: h.Replica, To: a.Replica, ID: c.id, HostID: c.hostID, Link: a.Link, Nonce: c.newer.nonce[:]})
	c.ask(&c.older)
}

// ask challenges one side that is here.
func (c *contest) ask(side *claim) {
	side.peer.challenge(side.nonce, func(a Answer, m *proved) {
		c.mu.Lock()
		side.answer = a
		if m != nil {
			side.copy.HostName, side.copy.MachineID = m.hostName, m.machineID
		}
		c.mu.Unlock()
		c.settle()
	})
}

// expire takes whoever has not answered for silent.
func (c *contest) expire() {
	c.mu.Lock()
	for _, side := range []*claim{&c.older, &c.newer} {
		if side.answer == Waiting {
			side.answer = Silent
		}
	}
	c.mu.Unlock()
	c.settle()
}

// settle acts once the outcome is clear.
func (c *contest) settle() {
	c.mu.Lock()
	result := judge(c.older.answer, c.newer.answer)
	if result == open || c.over {
		c.mu.Unlock()
		return
	}
	c.over = true
	older, newer := c.older, c.newer
	c.mu.Unlock()

	h := c.hub
	h.contests.remove(c.id)
	h.metrics.contests.WithLabelValues(string(result)).Inc()
	switch result {
	case cloned:
		h.spawn(func() { h.cloned(c.hostID, older, newer) })
	case toNewer:
		h.supersede(older.peer, errSuperseded)
	case toOlder:
		h.Logger.Info("a newer link of a host did not answer; the older one stays", "host", c.hostID, "older", older.link, "newer", newer.link)
		h.restore(older.peer)
		if newer.peer != nil {
			h.supersede(newer.peer, errUnanswered)
		}
	case neither:
		h.supersede(older.peer, errUnanswered)
		if newer.peer != nil {
			h.supersede(newer.peer, errUnanswered)
		}
	case settled:
		// A link here that ends leaves its place to what is beside it. One on another replica does not.
		if newer.peer == nil && newer.answer == Gone && older.answer != Gone {
			h.restore(older.peer)
		}
	}
}

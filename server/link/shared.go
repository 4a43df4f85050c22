package link

import (
	"slices"
	"time"

	"github.com/loopbackd/loopback/host"
)

// Several replicas agree on who holds a host's link by the database. The bus is quicker, but its silence is no evidence,
// so that a link's move to another replica is recorded with the host: once a move, not once a reconnection. Every replica
// compares what it holds with that record whenever the host changes. The link that is newer by the host's own count
// stays; so two replicas that cannot hear each other do not both keep a host for long.

// claim notes that the host's link is here.
func (h *Hub) claim(p *peer) {
	h.ledger.add(p.id, p.welcomed, func(o *Observation) {
		o.Presence = &Presence{Online: true, Since: p.welcomed, Link: p.order, From: p.conn.Remote()}
		if h.Shared {
			o.Presence.Replica, o.Presence.At = h.Replica, p.welcomed
		}
	})
}

func (p *peer) link() host.Link {
	return host.Link{Replica: p.hub.Replica, BootID: p.order.BootID, Connection: p.order.Connection, At: p.welcomed}
}

// settleWith compares the host's link, where that is here, with what is recorded: one at another replica, or none. Where
// the other is newer, it is as if that replica had announced it; else the record is corrected.
func (h *Hub) settleWith(p *peer, known *Known) {
	recorded := known.Link
	switch {
	case !h.table.seated(p):
	case known.Online && recorded.Replica != "" && recorded.Replica != h.Replica && recorded.Newer(p.link()):
		h.Hear([]Announcement{{Replica: recorded.Replica, HostID: p.id, Online: true, Link: Order{recorded.BootID, recorded.Connection}, At: recorded.At}})
	case !p.ended():
		h.claim(p)
	}
}

// seated tells whether a link is its host's, not one beside it.
func (t *table) seated(p *peer) bool {
	s := t.shard(p.id)
	s.mu.Lock()
	defer s.mu.Unlock()
	at := s.seats[p.id]
	return at != nil && at.peer == p
}

// recorded is the presence of a host of which this replica has heard no more than that itself. No lock is held: the
// fleet may be inside a call to us.
func (h *Hub) recorded(hostID string, seen Seen) Seen {
	if !h.Shared || seen.Online || seen.Linked {
		return seen
	}
	if known := h.Fleet.Lookup(hostID); known != nil && known.Online && known.Link.Replica != "" && known.Link.Replica != h.Replica && !h.departed(known.Link.Replica) {
		return Seen{Online: true, Linked: true, Replica: known.Link.Replica, Since: known.Link.At, LastSeen: h.Clock()}
	}
	return seen
}

// expect opens the reconnect window of a host that the database shows online and whose link is nowhere, unless another
// replica is known to hold it.
func (h *Hub) expect(id string, now time.Time) {
	var recorded host.Link
	if known := h.Fleet.Lookup(id); h.Shared && known != nil {
		recorded = known.Link
		if recorded.Replica != "" && recorded.Replica != h.Replica && h.present(recorded.Replica) {
			return
		}
	}
	h.table.expect(id, recorded, now, now.Add(h.ReconnectWindow))
}

// Present says which other replicas have a lease, from now on. Whose lease has ended holds no links any more: its hosts
// have the reconnect window, from now, to come back to anybody.
func (h *Hub) Present(replicas []string) {
	h.replicas.Lock()
	var gone, back []string
	for name := range h.leased {
		if !slices.Contains(replicas, name) {
			gone = append(gone, name)
			h.left[name] = true
		}
	}
	h.leased = make(map[string]bool, len(replicas))
	for _, name := range replicas {
		h.leased[name] = true
		if h.left[name] {
			delete(h.left, name)
			back = append(back, name)
		}
	}
	h.replicas.Unlock()
	for _, name := range back {
		h.table.comeBack(name) // it holds what it held; what it does not, it says
	}
	for _, name := range gone {
		h.depart(name)
	}
}

func (h *Hub) present(replica string) bool {
	h.replicas.Lock()
	defer h.replicas.Unlock()
	return h.leased[replica]
}

func (h *Hub) departed(replica string) bool {
	h.replicas.Lock()
	defer h.replicas.Unlock()
	return h.left[replica]
}

// depart opens the window of all hosts whose link was at a replica that is gone.
func (h *Hub) depart(replica string) {
	now := h.Clock()
	h.table.depart(replica, now, now.Add(h.ReconnectWindow))
	for id := range h.Fleet.Online() {
		if known := h.Fleet.Lookup(id); known != nil && known.Link.Replica == replica {
			h.table.expect(id, known.Link, now, now.Add(h.ReconnectWindow))
		}
	}
}

// comeBack closes the windows that a replica's departure opened.
func (t *table) comeBack(replica string) {
	for i := range t.shards {
		s := &t.shards[i]
		s.mu.Lock()
		for _, at := range s.seats {
			if at.peer == nil && at.held == replica && !at.expelled && !at.until.IsZero() {
				at.elsewhere, at.until = replica, time.Time{}
			}
		}
		s.mu.Unlock()
	}
}

// depart opens the window of the hosts that were heard of at a replica.
func (t *table) depart(replica string, now, until time.Time) {
	for i := range t.shards {
		s := &t.shards[i]
		s.mu.Lock()
		for _, at := range s.seats {
			if at.peer == nil && at.elsewhere == replica {
				at.elsewhere = ""
				if !at.expelled {
					at.heard, at.until, at.shown = now, until, true
				}
			}
		}
		s.mu.Unlock()
	}
}

package link

import (
	"hash/maphash"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/loopbackd/loopback/host"
)

// Seen is a host's presence as this replica sees it.
type Seen struct {
	Online    bool // linked, or away for less than the reconnect window
	Linked    bool
	Replica   string    // that holds the link; empty while away
	Since     time.Time // when the link was welcomed, or when the host was last heard
	LastSeen  time.Time // zero: not since this replica started
	Uptime    time.Duration
	From      netip.Addr
	Transport string
}

// seat is what is remembered of one host's comings and goings.
type seat struct {
	peer      *peer     // its link here
	beside    []*peer   // links here that may be gone, or a copy's: they are heard and are not the host; oldest first
	newest    Order     // of the links seen so far
	welcomed  time.Time // when that was welcomed
	elsewhere string    // the replica that holds its link
	held      string    // the replica that held the newest link, where there are several
	heard     time.Time // when last heard, while there is no link here
	until     time.Time // when away becomes offline; zero: nothing waits for that
	shown     bool      // what was last said of it to the Observer: online
	expected  bool      // online before our start, and not back yet
	expelled  bool      // nothing is taken from it any more; elsewhere says that its owner has not closed its link yet
}

// table holds the seats. It is cut into shards so that thousands of links coming back together do not queue for one lock.
type table struct {
	seed   maphash.Seed
	crowd  returning
	shards [64]shard
}

type shard struct {
	mu    sync.Mutex
	seats map[string]*seat
	_     [40]byte // keeps neighbours' locks out of this cache line
}

func (t *table) init() {
	t.seed = maphash.MakeSeed()
	for i := range t.shards {
		t.shards[i].seats = make(map[string]*seat)
	}
}

func (t *table) shard(id string) *shard {
	return &t.shards[maphash.String(t.seed, id)%uint64(len(t.shards))]
}

// seat of a host, made where there is none. The shard is locked.
func (s *shard) seat(id string) *seat {
	at := s.seats[id]
	if at == nil {
		at = &seat{}
		s.seats[id] = at
	}
	return at
}

// expect opens the reconnect window of a host that was online when the hub was not there to see it. Where it is linked by
// now, or its window is open, nothing changes.
func (t *table) expect(id string, recorded host.Link, now, until time.Time) {
	s := t.shard(id)
	s.mu.Lock()
	defer s.mu.Unlock()
	at := s.seat(id)
	if at.peer != nil || at.elsewhere != "" || at.expelled || !at.until.IsZero() {
		return
	}
	if recorded.Replica != "" {
		at.held, at.newest, at.welcomed = recorded.Replica, Order{recorded.BootID, recorded.Connection}, recorded.At
	}
	at.shown, at.expected, at.heard, at.until = true, true, now, until
}

// of appends a host's links: its own, and those beside it.
func (t *table) of(id string, to []*peer) []*peer {
	s := t.shard(id)
	s.mu.Lock()
	defer s.mu.Unlock()
	if at := s.seats[id]; at != nil {
		to = at.all(to)
	}
	return to
}

func (at *seat) all(to []*peer) []*peer {
	if at.peer != nil {
		to = append(to, at.peer)
	}
	return append(to, at.beside...)
}

// links appends every link; seated ones only where that is asked for.
func (t *table) links(to []*peer, seated bool) []*peer {
	for i := range t.shards {
		s := &t.shards[i]
		s.mu.Lock()
		for _, at := range s.seats {
			switch {
			case !seated:
				to = at.all(to)
			case at.peer != nil:
				to = append(to, at.peer)
			}
		}
		s.mu.Unlock()
	}
	return to
}

// newer tells whether link a of a host came after link b. Within a boot the agent's own count decides; between boots the
// time at which each proved itself does, since a proof cannot be made ahead or replayed.
func newer(a Order, at time.Time, b Order, bt time.Time) bool {
	if a.BootID == b.BootID && a.Connection != b.Connection {
		return a.Connection > b.Connection
	}
	return !at.Before(bt)
}

// bind seats a link that has proved itself and returns the links here that it has to be compared with, older before
// newer, where there is one; or why it cannot be seated. A link that comes late, behind a newer one of the same boot, is
// put beside that. Where the host was not shown online, or its link moved here from another replica, it calls found, the
// shard being locked, so that what the Observer is told has the order in which it happened.
func (t *table) bind(p *peer, shown, moved bool, found func(transition bool)) (older, newest *peer, refused *refusal) {
	s := t.shard(p.id)
	s.mu.Lock()
	defer s.mu.Unlock()
	at := s.seats[p.id]
	if at == nil {
		at = s.seat(p.id)
		at.shown = shown
	}
	if at.expelled {
		return nil, nil, &refusal{errRemoved, true}
	}
	if p.aside.Load() {
		if len(at.beside) >= maxBeside {
			return nil, nil, &refusal{errBusy.WithRetryAfter(maxRetry), false}
		}
		at.beside = append(at.beside, p)
		return nil, nil, nil
	}
	here := at.peer != nil || at.elsewhere != ""
	late := here && !newer(p.order, p.welcomed, at.newest, at.welcomed)
	switch {
	case late && (at.peer == nil || !p.knows), len(at.beside) >= maxBeside:
		return nil, nil, &refusal{errSuperseded.WithRetryAfter(maxRetry), false}
	case late:
		at.beside = append(at.beside, p)
		return p, at.peer, nil
	}
	if at.peer != nil {
		older, newest = at.peer, p
		at.beside = append(at.beside, older)
	}
	at.peer, at.newest, at.welcomed, at.elsewhere, at.until = p, p.order, p.welcomed, "", time.Time{}
	if p.hub.Shared {
		at.held = p.hub.Replica
	}
	if at.expected {
		at.expected = false
		t.crowd.back.Add(1)
	}
	if transition := !at.shown; transition || moved {
		at.shown = true
		found(transition)
	}
	return older, newest, nil
}

// maxBeside bounds the links that one host, or whoever holds its key, may have beside its own.
const maxBeside = 8

// leave notes that a link ended. It reports whether the host has none here any more: a link beside the host's own leaves
// nothing. Where the host's own went and there is one beside it, that takes its place and is returned.
func (t *table) leave(p *peer, until time.Time) (gone bool, next *peer) {
	s := t.shard(p.id)
	s.mu.Lock()
	defer s.mu.Unlock()
	at := s.seats[p.id]
	if at == nil {
		return false, nil
	}
	if i := slices.Index(at.beside, p); i >= 0 {
		at.beside = slices.Delete(at.beside, i, i+1)
		return false, nil
	}
	if at.peer != p {
		return false, nil
	}
	at.vacate(until)
	return at.peer == nil && !at.expelled, at.peer
}

// vacate takes the host's link out of its place. The newest beside it that could be the host moves up.
func (at *seat) vacate(until time.Time) {
	p := at.peer
	at.peer, at.heard, at.until = nil, p.lastHeard(), until
	for i := len(at.beside) - 1; i >= 0 && !at.expelled; i-- {
		if next := at.beside[i]; !next.aside.Load() && !next.ended() {
			at.beside = slices.Delete(at.beside, i, i+1)
			at.peer, at.newest, at.welcomed, at.until = next, next.order, next.welcomed, time.Time{}
			return
		}
	}
}

// prefer seats a link that is beside the host's own, or was superseded by one on another replica. It reports whether that
// changed anything.
func (t *table) prefer(p *peer, now time.Time) bool {
	s := t.shard(p.id)
	s.mu.Lock()
	defer s.mu.Unlock()
	at := s.seats[p.id]
	if at == nil || at.expelled || p.ended() {
		return false
	}
	i := slices.Index(at.beside, p)
	if i < 0 {
		return false
	}
	at.beside = slices.Delete(at.beside, i, i+1)
	if at.peer != nil {
		at.beside = append(at.beside, at.peer)
	}
	at.peer, at.newest, at.welcomed, at.elsewhere, at.until = p, p.order, now, "", time.Time{}
	if p.hub.Shared {
		at.held = p.hub.Replica
	}
	return true
}

// demote puts a link that is the host's beside it. What takes its place is returned, if there is something.
func (t *table) demote(p *peer, until time.Time) (next *peer) {
	s := t.shard(p.id)
	s.mu.Lock()
	defer s.mu.Unlock()
	at := s.seats[p.id]
	if at == nil || at.peer != p {
		return nil
	}
	at.vacate(until)
	at.beside = append(at.beside, p)
	return at.peer
}

// expel shuts a host out for good and returns the links that it had. A link at another replica is over when that replica
// says so, or could not have failed to hear of the removal.
func (t *table) expel(id string, now time.Time) []*peer {
	s := t.shard(id)
	s.mu.Lock()
	defer s.mu.Unlock()
	at := s.seat(id)
	had := at.all(nil)
	if !at.expelled && at.elsewhere != "" {
		at.heard = now
	}
	at.expelled, at.peer, at.beside, at.until, at.shown = true, nil, nil, time.Time{}, false
	return had
}

// deafness is for how long at most a replica does not see a change and is one all the same: it reads the feed each
// second, and its lease, which it renews in the same database, is shorter.
const deafness = 30 * time.Second

// sweep calls lost for every host whose window has ended, the shard being locked, and returns the links that check names.
func (t *table) sweep(now time.Time, lost func(id string, at *seat), check func(*peer) bool) (found []*peer) {
	hold := t.crowd.hold(now)
	for i := range t.shards {
		s := &t.shards[i]
		s.mu.Lock()
		for id, at := range s.seats {
			for _, p := range at.beside {
				if check(p) {
					found = append(found, p)
				}
			}
			switch {
			case at.peer != nil:
				if check(at.peer) {
					found = append(found, at.peer)
				}
			case at.expelled && at.elsewhere != "" && now.Sub(at.heard) > deafness:
				at.elsewhere = ""
			case at.expected && now.Before(hold):
			case !at.until.IsZero() && !now.Before(at.until):
				at.until = time.Time{}
				if at.shown {
					at.shown = false
					lost(id, at)
				}
			}
		}
		s.mu.Unlock()
	}
	return found
}

// hear takes another replica's word. It returns our link of the host where the other's is newer: it is beside from then
// on. Where the other's ended and one of ours is beside, that takes its place.
func (t *table) hear(a Announcement) (superseded, next *peer) {
	s := t.shard(a.HostID)
	s.mu.Lock()
	defer s.mu.Unlock()
	at := s.seat(a.HostID)
	switch {
	case at.expelled:
		if !a.Online && at.elsewhere == a.Replica {
			at.elsewhere = ""
		}
	case a.Online && !newer(a.Link, a.At, at.newest, at.welcomed):
	case a.Online:
		superseded = at.peer
		if superseded != nil {
			at.beside = append(at.beside, superseded)
		}
		at.peer, at.elsewhere, at.newest, at.welcomed = nil, a.Replica, a.Link, a.At
		at.held = a.Replica
		at.until, at.shown, at.expected = time.Time{}, true, false // the other replica says so to the Observer
	case at.elsewhere == a.Replica && a.Link == at.newest:
		at.elsewhere, at.heard, at.shown = "", a.At, false // and that it is offline, when its window ends
		for i := len(at.beside) - 1; i >= 0; i-- {
			if p := at.beside[i]; !p.aside.Load() && !p.ended() {
				at.beside = slices.Delete(at.beside, i, i+1)
				at.peer, at.newest, at.welcomed, at.shown = p, p.order, a.At, true
				if p.hub.Shared {
					at.held = p.hub.Replica
				}
				return nil, p
			}
		}
	}
	return superseded, nil
}

// Presence is what this replica sees of a host.
func (h *Hub) Presence(hostID string) Seen { return h.recorded(hostID, h.seen(hostID)) }

func (h *Hub) seen(hostID string) Seen {
	s := h.table.shard(hostID)
	s.mu.Lock()
	defer s.mu.Unlock()
	at := s.seats[hostID]
	switch {
	case at == nil:
		return Seen{}
	case at.expelled:
		return Seen{Linked: at.elsewhere != "", Replica: at.elsewhere} // being closed there
	case at.peer != nil:
		p := at.peer
		return Seen{Online: true, Linked: true, Replica: h.Replica, Since: p.welcomed, LastSeen: p.lastHeard(),
			Uptime: time.Duration(p.uptime.Load()), From: p.conn.Remote(), Transport: p.conn.Transport()}
	case at.elsewhere != "":
		return Seen{Online: true, Linked: true, Replica: at.elsewhere, Since: at.welcomed, LastSeen: h.Clock()}
	default:
		return Seen{Online: !at.until.IsZero(), Since: at.heard, LastSeen: at.heard}
	}
}

// Hear takes what other replicas announced.
func (h *Hub) Hear(batch []Announcement) {
	var superseded []*peer
	for _, a := range batch {
		if a.Replica == h.Replica {
			continue
		}
		p, next := h.table.hear(a)
		switch {
		case next != nil:
			h.seated(next)
		case p != nil && p.knows && h.Announcer != nil:
			h.contestElsewhere(p, a)
		case p != nil && p.end():
			superseded = append(superseded, p)
		}
	}
	h.dismiss(superseded, func(*peer) refusal { return refusal{errSuperseded, false} })
}

// RollCall announces every link held here: at our own start, when another replica starts, and when the bus was away.
func (h *Hub) RollCall() {
	if h.Announcer == nil {
		return
	}
	const atOnce = 500
	batch := make([]Announcement, 0, atOnce)
	for _, p := range h.table.links(nil, true) {
		if batch = append(batch, h.announcement(p, true, p.welcomed)); len(batch) == atOnce {
			h.Announcer.Announce(batch)
			batch = make([]Announcement, 0, atOnce)
		}
	}
	if len(batch) > 0 {
		h.Announcer.Announce(batch)
	}
}

func (h *Hub) announcement(p *peer, online bool, at time.Time) Announcement {
	return Announcement{Replica: h.Replica, HostID: p.id, Online: online, Link: p.order, At: at}
}

func (h *Hub) announce(p *peer, online bool, at time.Time) {
	if h.Announcer != nil {
		h.Announcer.Announce([]Announcement{h.announcement(p, online, at)})
	}
}

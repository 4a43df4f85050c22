package fleet

import (
	"sync"

	"github.com/loopbackd/loopback/access"
	"github.com/loopbackd/loopback/host"
)

// changes is a ring of the latest changes. Whoever writes never waits: a reader that fell behind the ring is told so.
// Memory is bounded by the ring, however many read it.
type changes struct {
	mu   sync.Mutex
	ring []host.Change
	next int64         // number of the next change; the ring holds those from next-len(ring)
	more chan struct{} // closed when there is a next one
}

func (c *changes) init(size int) {
	c.ring, c.more = make([]host.Change, size), make(chan struct{})
}

func (c *changes) add(list []host.Change) {
	if len(list) == 0 {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, change := range list {
		c.ring[c.next%int64(len(c.ring))] = change
		c.next++
	}
	close(c.more)
	c.more = make(chan struct{})
}

func (c *changes) position() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.next
}

// atOnce bounds what a reader takes out of the ring in one go.
const atOnce = 256

// Since is the changes from a place in the log on, and the place after them. Where there are none yet, more is closed
// once there are. ok is false where the log no longer reaches back to that place: begin anew with Snapshot.
func (d *Directory) Since(from int64) (list []host.Change, next int64, more <-chan struct{}, ok bool) {
	c := &d.log
	c.mu.Lock()
	defer c.mu.Unlock()
	if from < c.next-int64(len(c.ring)) || from > c.next {
		return nil, c.next, c.more, false
	}
	for next = from; next < c.next && len(list) < atOnce; next++ {
		list = append(list, c.ring[next%int64(len(c.ring))])
	}
	return list, next, c.more, true
}

// Snapshot is the hosts within a scope as they are, in no order, and the place in the log from which on Since tells what
// became of them.
func (d *Directory) Snapshot(within access.Scope) ([]*host.Host, int64) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	var out []*host.Host
	if within.Workspace != "" {
		if w := d.workspaces[within.Workspace]; w != nil {
			out = make([]*host.Host, 0, len(w.members))
			for id := range w.members {
				if h := d.hosts[id].host; within.Contains(h.Scope) {
					out = append(out, h)
				}
			}
		}
		return out, d.log.position()
	}
	out = make([]*host.Host, 0, len(d.hosts))
	for _, e := range d.hosts {
		if within.Contains(e.host.Scope) {
			out = append(out, e.host)
		}
	}
	return out, d.log.position()
}

// Host is one host; nil and false where it is not known or was removed.
func (d *Directory) Host(id string) (*host.Host, bool) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	e := d.hosts[id]
	if e == nil {
		return nil, false
	}
	return e.host, true
}

package link

import (
	"container/list"
	"sync"

	"google.golang.org/protobuf/proto"

	pb "github.com/loopbackd/loopback/api/loopback/v1"
	"github.com/loopbackd/loopback/section"
)

// recall remembers values that were sent lately, so that a host which holds one is brought further by a delta, and the
// deltas themselves, so that each is encoded once for all hosts that need it. It forgets what was not asked for longest.
type recall struct {
	mu     sync.Mutex
	limit  int
	size   int
	recent *list.List // of *recalled, the latest first
	values map[version]*list.Element
	deltas map[step]*list.Element
}

// version names one value of a section.
type version struct {
	name     string
	revision section.Revision
	digest   section.Digest
}

// step leads from one value to another.
type step struct{ from, to version }

type recalled struct {
	version version
	step    step
	value   *Compiled // or
	frame   []byte
}

// overhead of an entry beside its bytes.
const overhead = 400

func (r *recalled) cost() int {
	if r.value != nil {
		return overhead + 2*r.value.Size // items and frames
	}
	return overhead + len(r.frame)
}

func newRecall(limit int) *recall {
	return &recall{limit: limit, recent: list.New(), values: map[version]*list.Element{}, deltas: map[step]*list.Element{}}
}

func versionOf(c *Compiled) version { return version{c.Name, c.Revision, c.Digest} }

// frames are what brings a holder of the base to a value, and how: "delta" or "whole".
func (r *recall) frames(base section.Revision, digest section.Digest, want *Compiled) ([][]byte, string) {
	to := versionOf(want)
	from := version{want.Name, base, digest}
	r.mu.Lock()
	r.keep(&recalled{version: to, value: want})
	if e := r.deltas[step{from, to}]; e != nil {
		r.recent.MoveToFront(e)
		r.mu.Unlock()
		return [][]byte{e.Value.(*recalled).frame}, "delta"
	}
	var old *Compiled
	if e := r.values[from]; e != nil {
		r.recent.MoveToFront(e)
		old = e.Value.(*recalled).value
	}
	r.mu.Unlock()

	var d section.Delta
	switch {
	case base.IsZero():
		return want.Whole, "whole"
	case digest == want.Digest: // the same contents under another revision
		d = section.Delta{Name: want.Name, Base: base, BaseDigest: digest, Revision: want.Revision, Digest: want.Digest}
	case old != nil:
		d = section.Diff(old.Section, want.Section)
	default:
		return want.Whole, "whole"
	}
	frame, err := proto.Marshal(&pb.ServerFrame{Body: &pb.ServerFrame_SectionDelta{SectionDelta: &pb.SectionDelta{
		Name: d.Name, Base: revisionOut(d.Base), BaseDigest: d.BaseDigest[:], Revision: revisionOut(d.Revision),
		Digest: d.Digest[:], Put: itemsOut(d.Put), Delete: d.Delete,
	}}})
	if err != nil || len(frame) >= want.Size || len(frame) > MaxFrame {
		return want.Whole, "whole"
	}
	r.mu.Lock()
	r.keep(&recalled{step: step{from, to}, frame: frame})
	r.mu.Unlock()
	return [][]byte{frame}, "delta"
}

// remember keeps a value that a host holds: what comes next can then be told as a delta from it.
func (r *recall) remember(c *Compiled) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.keep(&recalled{version: versionOf(c), value: c})
}

// holds tells whether a failed status names a value that exists: then the agent holds it, though it could not apply it.
func (r *recall) holds(s section.Status) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.values[version{s.Name, s.Revision, s.Digest}] != nil
}

// keep adds an entry that is not there yet, and makes room.
func (r *recall) keep(n *recalled) {
	if n.value != nil {
		if e := r.values[n.version]; e != nil {
			r.recent.MoveToFront(e)
			return
		}
		r.values[n.version] = r.recent.PushFront(n)
	} else {
		if r.deltas[n.step] != nil {
			return
		}
		r.deltas[n.step] = r.recent.PushFront(n)
	}
	r.size += n.cost()
	for r.size > r.limit && r.recent.Len() > 1 {
		last := r.recent.Back()
		old := r.recent.Remove(last).(*recalled)
		r.size -= old.cost()
		if old.value != nil {
			delete(r.values, old.version)
		} else {
			delete(r.deltas, old.step)
		}
	}
}

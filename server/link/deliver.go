package link

import (
	"fmt"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	pb "github.com/loopbackd/loopback/api/loopback/v1"
	"github.com/loopbackd/loopback/host"
	"github.com/loopbackd/loopback/section"
)

// holding is one section on the other end of a link.
type holding struct {
	name     string
	held     section.Revision // what the agent said it holds; zero: nothing, or not known
	digest   section.Digest
	sent     section.Revision // the last value sent over this link
	sentAt   time.Time
	open     bool             // and not answered yet
	doubted  bool             // the agent holds what we do not know yet, since sentAt
	answered section.Revision // the last that the agent reported an outcome of
	asked    section.Revision // the last that the agent wanted whole
	frozen   section.Revision // what was desired when the host was found to be ahead
	wanted   section.Revision // what the host was asked for, since it wins
}

// outbox is what a link still has to be told. It holds no frames but marks, so that what is overtaken costs nothing.
type outbox struct {
	sections bool // some may have changed
	standing bool
	key      *pb.KeyAccepted
	nonces   [][32]byte        // of challenges
	wanted   []string          // sections that the host is asked for
	orders   []*pb.ServerFrame // orders, and words on them
	rekey    bool
	split    bool
	shells   []*pb.ShellOrder
	flushing bool // somebody is at it
}

// holding of a section, made where there is none. The peer is locked.
func (p *peer) holding(name string) *holding {
	i := slices.IndexFunc(p.sections, func(hd holding) bool { return hd.name == name })
	if i < 0 {
		p.sections = append(p.sections, holding{name: name})
		i = len(p.sections) - 1
	}
	return &p.sections[i]
}

// refresh looks at what is known and desired by now and has the agent told what is new to it. It does not block.
func (p *peer) refresh() {
	h := p.hub
	known := h.Fleet.Lookup(p.id)
	if known == nil || known.Lifecycle == host.LifecycleRemoved {
		if known == nil {
			if p.end() {
				h.dismiss([]*peer{p}, func(*peer) refusal { return refusal{errUnknown.WithRetryAfter(maxRetry), false} })
			}
			return
		}
		h.Expel([]string{p.id})
		return
	}
	if h.Shared && (known.Link.Replica != h.Replica || !known.Online) {
		h.settleWith(p, known)
	}
	if !p.place(known) {
		return
	}
	if string(p.key[:]) == string(known.NextKey) && known.Lifecycle != host.LifecyclePending && p.mayRotate(known) {
		h.spawn(p.promote)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if standing, _ := p.standingIn(known); standing != p.standing {
		p.standing, p.outbox.standing = standing, true
	}
	if p.outbox.sections {
		h.metrics.coalesced.Inc()
	}
	p.outbox.sections = true
	p.schedule()
}

// schedule has the outbox flushed. The peer is locked.
func (p *peer) schedule() {
	if p.seated && !p.over && !p.outbox.flushing {
		p.outbox.flushing = true
		p.hub.flushers.add(p)
	}
}

// flush sends what there is to send.
func (p *peer) flush() {
	for {
		frames := p.next()
		if frames == nil {
			return
		}
		for _, frame := range frames {
			p.hub.metrics.sent(len(frame))
			if p.conn.Send(frame) != nil {
				return // Closed comes; nothing is scheduled any more
			}
		}
		if len(frames) > 1 {
			p.delivered()
		}
	}
}

// delivered counts the time for an answer from now on: parts take theirs.
func (p *peer) delivered() {
	now := p.hub.Clock()
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := range p.sections {
		if p.sections[i].open {
			p.sections[i].sentAt = now
		}
	}
}

// next are the frames to send now; nil when there are none, and then nobody is flushing any more.
func (p *peer) next() [][]byte {
	for {
		p.mu.Lock()
		var m *pb.ServerFrame
		switch {
		case p.over:
		case p.outbox.standing:
			p.outbox.standing = false
			m = &pb.ServerFrame{Body: &pb.ServerFrame_Standing{Standing: &pb.Standing{Standing: p.standing}}}
		case len(p.outbox.nonces) > 0:
			m = &pb.ServerFrame{Body: &pb.ServerFrame_Challenge{Challenge: &pb.Challenge{Nonce: p.outbox.nonces[0][:]}}}
			p.outbox.nonces = p.outbox.nonces[1:]
		case len(p.outbox.wanted) > 0:
			m = &pb.ServerFrame{Body: &pb.ServerFrame_SectionWanted{SectionWanted: &pb.SectionWanted{Name: p.outbox.wanted[0]}}}
			p.outbox.wanted = p.outbox.wanted[1:]
		case len(p.outbox.orders) > 0:
			m = p.outbox.orders[0]
			p.outbox.orders = p.outbox.orders[1:]
		case p.outbox.rekey:
			p.outbox.rekey = false
			m = &pb.ServerFrame{Body: &pb.ServerFrame_Rekey{Rekey: &pb.Rekey{}}}
		case p.outbox.split:
			p.outbox.split = false
			m = &pb.ServerFrame{Body: &pb.ServerFrame_Split{Split: &pb.Split{Reason: reasonSplit}}}
		case len(p.outbox.shells) > 0:
			m = &pb.ServerFrame{Body: &pb.ServerFrame_Shell{Shell: p.outbox.shells[0]}}
			p.outbox.shells = p.outbox.shells[1:]
		case p.outbox.key != nil:
			m = &pb.ServerFrame{Body: &pb.ServerFrame_KeyAccepted{KeyAccepted: p.outbox.key}}
			p.outbox.key = nil
		case p.outbox.sections:
			p.outbox.sections = false
			p.mu.Unlock()
			if frames := p.nextSection(); frames != nil {
				return frames
			}
			continue
		default:
		}
		p.outbox.flushing = m != nil
		p.mu.Unlock()
		if m == nil {
			return nil
		}
		if s := m.GetStanding(); s != nil {
			if known := p.hub.Fleet.Lookup(p.id); known != nil {
				_, s.Reason = p.standingIn(known)
			}
		}
		b, err := proto.Marshal(m)
		if err != nil {
			p.hub.Logger.Error("a frame cannot be encoded", "host", p.id, "error", err)
			continue
		}
		return [][]byte{b}
	}
}

// nextSection is the first section that the agent lacks and can be sent now. The fleet is asked without a lock held: it
// may be inside a call to us.
func (p *peer) nextSection() [][]byte {
	h := p.hub
	desired, epoch, now := h.Fleet.Desired(p.id), h.Fleet.Epoch(), h.Clock()
	known := h.Fleet.Lookup(p.id)
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.over || p.aside.Load() {
		return nil
	}
	for _, want := range desired {
		hd := p.holding(want.Name)
		switch {
		case hd.held == want.Revision && hd.digest == want.Digest:
			h.recall.remember(want)
			h.metrics.sections.WithLabelValues("skipped").Inc()
			continue
		case hd.answered == want.Revision, hd.open && hd.sent == want.Revision:
			continue
		case hd.open && now.Sub(hd.sentAt) < h.AnswerTimeout:
			p.wake.Store(hd.sentAt.Add(h.AnswerTimeout).UnixNano())
			continue
		case hd.ahead(want, epoch):
			if p.mayCatchUp(now, hd, want) {
				continue
			}
			p.freeze(now, known, hd, want)
			continue
		}
		hd.doubted = false
		base := hd.held
		if hd.open {
			base = section.Revision{} // the agent may have taken what it did not answer
		}
		frames, kind := h.recall.frames(base, hd.digest, want)
		if len(frames) > 1 && !p.parts {
			p.tooLarge(now, hd, want)
			continue
		}
		hd.sent, hd.sentAt, hd.open = want.Revision, now, true
		p.outbox.sections = true // there may be more
		h.metrics.sections.WithLabelValues(kind).Inc()
		return frames
	}
	return nil
}

// catchUp is for how long a host that comes from another replica may hold a revision that has not reached this one. The feed
// is looked at every second where no nudge comes.
const catchUp = 10 * time.Second

// mayCatchUp tells whether it may be this replica that is behind, not the host that is ahead: the feed may yet bring what
// another one gave it. The peer is locked.
func (p *peer) mayCatchUp(now time.Time, hd *holding, want *Compiled) bool {
	if !p.hub.Shared || hd.held.Epoch != want.Revision.Epoch || hd.held == want.Revision {
		return false
	}
	if !hd.doubted {
		hd.doubted, hd.open, hd.sentAt = true, false, now
	}
	until := hd.sentAt.Add(catchUp)
	if now.Before(until) {
		p.wake.Store(until.UnixNano())
		return true
	}
	return false
}

// ahead tells whether the host has gone on where we were set back: it holds a revision past ours, another value under
// the same revision, or one past what the restored backup knew. See Epoch.
func (hd *holding) ahead(want *Compiled, e Epoch) bool {
	switch {
	case hd.held.IsZero():
		return false
	case hd.held.Epoch < want.Revision.Epoch:
		return hd.held.Number > e.Began && want.Revision.Number <= e.Began
	case hd.held == want.Revision:
		return hd.digest != want.Digest
	default:
		return hd.held.Compare(want.Revision) > 0
	}
}

// freeze leaves a section as the host has it, and says so once for each desired value. The peer is locked.
func (p *peer) freeze(now time.Time, known *Known, hd *holding, want *Compiled) {
	if known != nil && hd.wanted != hd.held && slices.Contains(known.Settling, hd.name) {
		hd.wanted = hd.held
		p.outbox.wanted = append(p.outbox.wanted, hd.name)
	}
	if hd.frozen == want.Revision || known == nil {
		return
	}
	hd.frozen = want.Revision
	status := section.Status{Name: hd.name, Revision: hd.held, Digest: hd.digest, State: section.Applied, Frozen: true,
		Message: fmt.Sprintf("the host holds revision %s, which the control plane at %s does not know", hd.held, want.Revision)}
	for _, s := range known.Sections {
		if s.Name == hd.name && s.Revision == hd.held {
			status.State, status.AppliedAt = s.State, s.AppliedAt
			if sameStatus(s, status) {
				return
			}
		}
	}
	p.hub.ledger.add(p.id, now, func(o *Observation) { o.setStatus(status) })
}

// tooLarge says of a section in parts that this agent, which is older than parts, cannot be sent it. The peer is locked.
func (p *peer) tooLarge(now time.Time, hd *holding, want *Compiled) {
	hd.answered = want.Revision
	p.hub.ledger.add(p.id, now, func(o *Observation) {
		o.setStatus(section.Status{Name: want.Name, Revision: want.Revision, Digest: hd.digest, State: section.Failed,
			Message: fmt.Sprintf("the section takes %d bytes, and this version of the agent takes %d at most; update the agent", want.Size, MaxFrame)})
	})
}

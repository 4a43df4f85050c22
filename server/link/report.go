package link

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/binary"
	"slices"
	"time"

	pb "github.com/loopbackd/loopback/api/loopback/v1"
	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/host"
	"github.com/loopbackd/loopback/section"
)

// maxSections is how many sections an agent may name.
const maxSections = 32

// holds takes what the agent said that it holds.
func (p *peer) holds(now time.Time, known *Known, held []*pb.SectionHeld) {
	for _, s := range held[:min(len(held), maxSections)] {
		status, ok := statusIn(s)
		if !ok || !p.hub.concerns(known, status.Name) {
			continue
		}
		p.mu.Lock()
		hd := p.holding(status.Name)
		if status.State != section.Failed || !status.Revision.IsZero() && p.hub.recall.holds(status) {
			hd.held, hd.digest = status.Revision, status.Digest
		}
		p.mu.Unlock()
		p.noteStatus(now, known, status)
	}
}

// report takes the outcome of a section. Whatever waited behind it goes out now.
func (p *peer) report(now time.Time, known *Known, s *pb.SectionHeld) {
	status, ok := statusIn(s)
	if !ok {
		p.refuse(refusal{errMalformed, false})
		return
	}
	if !p.hub.concerns(known, status.Name) {
		return
	}
	p.mu.Lock()
	hd := p.holding(status.Name)
	switch {
	case status.State != section.Failed:
		hd.held, hd.digest = status.Revision, status.Digest
	case status.Digest != hd.digest:
		hd.held, hd.digest = section.Revision{}, section.Digest{} // not what either of us thought: next time whole
	}
	if status.State != section.Pending {
		hd.answered = status.Revision
		if hd.open && status.Revision.Compare(hd.sent) >= 0 {
			hd.open = false
		}
		p.outbox.sections = true
		p.schedule()
	}
	p.mu.Unlock()
	p.noteStatus(now, known, status)
}

func (p *peer) noteStatus(now time.Time, known *Known, status section.Status) {
	if i := slices.IndexFunc(known.Sections, func(s section.Status) bool { return s.Name == status.Name }); i >= 0 &&
		sameStatus(known.Sections[i], status) {
		return
	}
	p.observe(now, func(o *Observation) { o.setStatus(status) })
}

func sameStatus(a, b section.Status) bool {
	same := a.AppliedAt.Equal(b.AppliedAt)
	a.AppliedAt, b.AppliedAt = time.Time{}, time.Time{}
	return same && a == b
}

// concerns tells whether a section is one that this host has or had; others it may claim to hold are not taken down.
func (h *Hub) concerns(known *Known, name string) bool {
	return slices.ContainsFunc(known.Sections, func(s section.Status) bool { return s.Name == name }) ||
		slices.ContainsFunc(h.Fleet.Desired(known.HostID), func(c *Compiled) bool { return c.Name == name })
}

// request takes the agent's word that what came did not fit what it holds. It gets the section whole, once: if that does
// not match its digest either, sending it again would change nothing.
func (p *peer) request(now time.Time, r *pb.SectionRequest) {
	for _, want := range p.hub.Fleet.Desired(p.id) {
		if want.Name != r.GetName() {
			continue
		}
		p.mu.Lock()
		hd := p.holding(want.Name)
		hd.held, hd.digest, hd.open, hd.answered = section.Revision{}, section.Digest{}, false, section.Revision{}
		again := hd.asked == want.Revision
		hd.asked = want.Revision
		if again {
			hd.answered = want.Revision
		} else {
			p.outbox.sections = true
			p.schedule()
		}
		p.mu.Unlock()
		if again {
			p.observe(now, func(o *Observation) {
				o.setStatus(section.Status{Name: want.Name, Revision: want.Revision, State: section.Failed,
					Message: "the host got the section whole twice and found that it does not match its digest"})
			})
		}
	}
}

// health takes the state of the modules.
func (p *peer) health(now time.Time, known *Known, m *pb.HealthReport) {
	const most = 128
	modules := make([]host.Health, 0, min(len(m.GetModules()), most))
	for _, one := range m.GetModules()[:min(len(m.GetModules()), most)] {
		modules = append(modules, host.Health{Module: clip(one.GetModule()), Healthy: one.GetHealthy(), Message: clipTo(one.GetMessage(), maxMessage)})
	}
	if !slices.Equal(modules, known.Modules) {
		p.observe(now, func(o *Observation) { o.Modules = &modules })
	}
	var ongoing []host.Trouble
	for _, t := range m.GetTroubles()[:min(len(m.GetTroubles()), host.MaxTroubles)] {
		if t := troubleIn(now, t); t.Code != "" {
			ongoing = append(ongoing, t)
		}
	}
	if !host.SameOngoing(known.Troubles, ongoing) {
		p.observe(now, func(o *Observation) { o.Ongoing = &ongoing })
	}
}

// inventory takes the host's description of itself.
func (p *peer) inventory(now time.Time, known *Known, m *pb.InventoryReport) {
	if len(m.GetDigest()) != sha256.Size {
		p.refuse(refusal{errMalformed, false})
		return
	}
	p.mu.Lock()
	p.wanting = false
	p.mu.Unlock()
	if string(m.GetDigest()) == string(known.InventoryDigest) {
		return
	}
	p.observe(now, func(o *Observation) {
		o.Inventory = &Inventory{inventoryIn(m.GetInventory()), ceilingIn(m.GetCeiling()), slices.Clone(m.GetDigest())}
	})
}

// trouble takes what stood in the agent's way before.
func (p *peer) trouble(now time.Time, m *pb.LinkTrouble) {
	if t := troubleIn(now, m); t.Code != "" && !p.hub.ours(t) {
		p.observe(now, func(o *Observation) { o.met(t) })
	}
}

// adopt takes over what the host holds of a section, where an operator decided that the host wins. It must be the very
// value that the host named before.
func (p *peer) adopt(known *Known, m *pb.SectionWhole) {
	h := p.hub
	if !slices.Contains(known.Settling, m.GetName()) {
		return
	}
	items := make([]section.Item, len(m.GetItems()))
	for i, it := range m.GetItems() {
		items[i] = section.Item{Key: it.GetKey(), Value: slices.Clone(it.GetValue())}
	}
	v, err := section.New(m.GetName(), section.Revision{Epoch: m.GetRevision().GetEpoch(), Number: m.GetRevision().GetNumber()}, items)
	p.mu.Lock()
	hd := p.holding(m.GetName())
	same := err == nil && hd.held == v.Revision && hd.digest == v.Digest
	p.mu.Unlock()
	if !same {
		h.Logger.Warn("a host sent another section than it said it holds", "host", p.id, "section", m.GetName(), "error", err)
		return
	}
	ctx, cancel := context.WithTimeout(h.lifetime, durable)
	defer cancel()
	if err := h.Observer.Adopt(ctx, p.id, v); err != nil {
		// The host's next link asks again.
		h.Logger.Error("a host's section could not be taken over", "host", p.id, "section", v.Name, "error", err)
	}
}

// Troubles that a control plane makes itself: always, or by not being there.
var (
	sentAway = []string{errBusy.Code, errStopping.Code, errSuperseded.Code}
	notThere = []string{"connect_refused", "connect_timeout", "connect_failed", "link_lost", "link_idle", "link_silent", "welcome_missing", "http_status"}
)

// ours tells whether a trouble says more of us than of the host: after our restart, each of a fleet has met that nobody
// answered, and storing that would cost a write for each.
func (h *Hub) ours(t host.Trouble) bool {
	return slices.Contains(sentAway, t.Code) ||
		slices.Contains(notThere, t.Code) && t.At.Before(h.started.Add(h.ReconnectWindow))
}

// OfferMessage is what the next key signs when it is offered.
func OfferMessage(hostID string, generation int64) []byte {
	m := append([]byte("loopback next key 1\x00"), hostID...)
	m = append(m, 0)
	return binary.BigEndian.AppendUint64(m, uint64(generation))
}

// keyOffer stores the host's next key and says so. An offer whose answer was lost comes again and is answered again, also
// when the key is in use by then.
func (p *peer) keyOffer(known *Known, m *pb.KeyOffer) {
	next := ed25519.PublicKey(slices.Clone(m.GetPublicKey()))
	inUse := string(next) == string(known.Key) && m.GetGeneration() == known.Generation
	switch {
	case !p.mayRotate(known):
		return // no answer: it may hold a copy of the key, and offers again once that is decided
	case len(next) != ed25519.PublicKeySize || !ed25519.Verify(next, OfferMessage(p.id, m.GetGeneration()), m.GetSignature()):
		p.refuse(refusal{fault.New(fault.Unauthenticated, "key_offer_invalid", "the offered key's proof does not hold"), false})
		return
	case !inUse && (m.GetGeneration() != known.Generation+1 || keyOf(known, next) == pastKey || keyOf(known, next) == currentKey):
		p.refuse(refusal{fault.New(fault.Conflict, "key_offer_stale", "generation %d was offered for a host whose key is of generation %d",
			m.GetGeneration(), known.Generation).WithRetryAfter(maxRetry), false})
		return
	}
	if !inUse {
		ctx, cancel := context.WithTimeout(p.hub.lifetime, durable)
		defer cancel()
		if err := p.hub.Observer.OfferKey(ctx, p.id, next, m.GetGeneration()); err != nil {
			// No answer: the agent offers again.
			p.hub.Logger.Warn("an offered key could not be stored", "host", p.id, "error", err)
			return
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.outbox.key = &pb.KeyAccepted{Generation: m.GetGeneration(), PublicKey: next}
	p.schedule()
}

package link

import (
	"context"
	"crypto/sha256"
	"slices"
	"time"

	pb "github.com/loopbackd/loopback/api/loopback/v1"
	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/host"
	"github.com/loopbackd/loopback/wire"
)

// reasonSplit is what a copy is told that becomes a host of its own.
const reasonSplit = "split: this machine held a copy of another host's identity and becomes a host of its own"

// question is a challenge that an agent has not answered yet.
type question struct {
	nonce [32]byte
	done  func(Answer, *proved)
}

// proved is what an agent that is there said, beside proving it.
type proved struct {
	signature           []byte
	hostName, machineID string
}

// maxQuestions bounds the challenges that wait for one agent: others may ask as well.
const maxQuestions = 8

// challenge asks the link's agent to prove that it is there; done is called once, unless Silence is all that comes.
func (p *peer) challenge(nonce [32]byte, done func(Answer, *proved)) {
	p.mu.Lock()
	switch {
	case p.over:
		p.mu.Unlock()
		done(Gone, nil)
	case !p.knows, len(p.asked) >= maxQuestions:
		p.mu.Unlock()
		done(Unable, nil)
	default:
		p.asked = append(p.asked, question{nonce, done})
		p.outbox.nonces = append(p.outbox.nonces, nonce)
		p.schedule()
		p.mu.Unlock()
	}
}

// answer takes an agent's answer to a challenge. One to a question that nobody asks any more is of no interest.
func (p *peer) answer(m *pb.ChallengeAnswer) {
	p.mu.Lock()
	i := slices.IndexFunc(p.asked, func(q question) bool { return string(q.nonce[:]) == string(m.GetNonce()) })
	if i < 0 {
		p.mu.Unlock()
		return
	}
	q := p.asked[i]
	p.asked = slices.Delete(p.asked, i, i+1)
	p.mu.Unlock()
	if !p.presence(m.GetNonce()).Verify(p.key[:], m.GetSignature()) {
		q.done(Gone, nil)
		p.refuse(refusal{errAnswer, false})
		return
	}
	q.done(Present, &proved{slices.Clone(m.GetSignature()), clip(m.GetHostName()), clip(m.GetMachineId())})
}

func (p *peer) presence(nonce []byte) wire.Presence {
	return wire.Presence{HostID: p.id, BootID: p.order.BootID, Connection: p.order.Connection, Nonce: nonce, Hash: p.conn.Hash()}
}

func (p *peer) keyHash() [sha256.Size]byte { return sha256.Sum256(p.key[:]) }

// copy is the link's machine, as one of several.
func (p *peer) copy() host.Copy {
	return host.Copy{BootID: p.order.BootID, Address: address(p), AgentVersion: p.version}
}

func (p *peer) copyOf(m *pb.Hello) host.Copy {
	return host.Copy{BootID: orderOf(m).BootID, Address: address(p), AgentVersion: clip(m.GetAgentVersion())}
}

func address(p *peer) string {
	if from := p.conn.Remote(); from.IsValid() {
		return from.Unmap().String()
	}
	return ""
}

// cloned locks a host that two machines answered for. Their links stay: what an operator decides reaches them there.
func (h *Hub) cloned(hostID string, older, newer claim) {
	ctx, cancel := context.WithTimeout(h.lifetime, durable)
	defer cancel()
	h.Logger.Warn("two machines answer for one host: it is locked", "host", hostID, "older", older.copy, "newer", newer.copy)
	if _, err := h.Observer.Cloned(ctx, hostID, []host.Copy{older.copy, newer.copy}); err != nil {
		// Nothing was decided: both come back and are asked again.
		h.Logger.Error("a cloned host could not be locked", "host", hostID, "error", err)
		for _, side := range []claim{older, newer} {
			if side.peer != nil {
				h.supersede(side.peer, errBusy.WithRetryAfter(h.spread()))
			}
		}
	}
}

// supersede ends a link that is not the host's, or is not any more.
func (h *Hub) supersede(p *peer, why *fault.Error) {
	if p.end() {
		h.metrics.refused(why.Code)
		h.dismiss([]*peer{p}, func(*peer) refusal { return refusal{why, false} })
	}
}

// restore makes a link beside the host's own the host's again.
func (h *Hub) restore(p *peer) {
	if h.table.prefer(p, h.Clock()) {
		h.seated(p)
	}
}

// seated tells everybody of a link that took the host's place without a hello.
func (h *Hub) seated(p *peer) {
	h.announce(p, true, h.Clock())
	p.refresh()
}

// standingIn is what the agent of this link may expect, and why.
func (p *peer) standingIn(known *Known) (standing, reason string) {
	if p.aside.Load() {
		return standingQuarantined, reasonSplit
	}
	return standingOf(known), known.LifecycleReason
}

// mayRotate tells whether the link's agent may replace the host's key: not while copies of it are to be told apart, unless
// it is the one that was kept.
func (p *peer) mayRotate(known *Known) bool {
	if known == nil {
		return false
	}
	verdict := known.Clones.Of(p.keyHash(), p.order.BootID)
	return verdict == host.Single || verdict == host.Kept
}

// place gives the link the place that operators decided on, and reports whether it has one.
func (p *peer) place(known *Known) bool {
	if known.Clones == nil {
		return true
	}
	h := p.hub
	switch known.Clones.Of(p.keyHash(), p.order.BootID) {
	case host.Dropped:
		if p.end() {
			h.metrics.refused(errDropped.Code)
			h.dismiss([]*peer{p}, func(*peer) refusal { return refusal{errDropped, true} })
		}
		return false
	case host.SplitOff:
		if !p.aside.Swap(true) {
			if next := h.table.demote(p, h.Clock().Add(h.ReconnectWindow)); next != nil {
				h.seated(next)
			}
		}
		p.mu.Lock()
		defer p.mu.Unlock()
		if !p.rekeyed {
			p.rekeyed, p.outbox.split = true, true
			p.schedule()
		}
	case host.Kept:
		p.mu.Lock()
		first := !p.rekeyed && known.Lifecycle != host.LifecyclePending
		if first {
			p.rekeyed, p.outbox.rekey = true, true
			p.schedule()
		}
		p.mu.Unlock()
		if first && h.table.prefer(p, h.Clock()) {
			h.announce(p, true, h.Clock())
		}
	}
	return true
}

// splitKey makes a host of a copy that was told to become one, and tells it who it is now. Asked again it tells the same.
func (p *peer) splitKey(now time.Time, m *pb.SplitKey) {
	h := p.hub
	if !p.aside.Load() {
		p.refuse(refusal{errUnexpected, false})
		return
	}
	if err := wire.VerifyProof(m.GetProof(), wire.RoleEnrol, "", p.conn.Hash()); err != nil {
		p.refuse(refusal{fault.Of(err), false})
		return
	}
	ctx, cancel := context.WithTimeout(h.lifetime, durable)
	defer cancel()
	done, err := h.Enroller.Split(ctx, p.id, Enrolment{
		Key: slices.Clone(m.GetProof().GetPublicKey()), HostName: clip(m.GetHostName()), AgentVersion: clip(m.GetAgentVersion()),
		Inventory: inventoryIn(m.GetInventory()), Ceiling: ceilingIn(m.GetCeiling()), From: p.conn.Remote(), Transport: p.conn.Transport(),
	})
	if err != nil {
		h.Logger.Warn("a copy could not be made a host of its own", "host", p.id, "from", p.conn.Remote(), "error", err)
		p.refuse(refusal{refusalOf(err).why.WithRetryAfter(maxRetry), false})
		return
	}
	h.Logger.Info("a copy became a host of its own", "host", p.id, "new", done.HostID, "at", now)
	h.send(p, &pb.ServerFrame{Body: &pb.ServerFrame_Enrolled{Enrolled: enrolledOut(done)}})
}

// HearQuestion takes what another replica asks of a link here, or answers of one there.
func (h *Hub) HearQuestion(q Question) {
	if q.To != h.Replica || h.Announcer == nil {
		return
	}
	if q.Answer != "" {
		h.answered(q)
		return
	}
	reply := q
	reply.From, reply.To, reply.Answer = h.Replica, q.From, Gone
	for _, p := range h.table.of(q.HostID, nil) {
		if p.order != q.Link || len(q.Nonce) != wire.NonceSize {
			continue
		}
		p.challenge([32]byte(q.Nonce), func(a Answer, m *proved) {
			reply.Answer, reply.Copy = a, p.copy()
			if m != nil {
				reply.Key, reply.Hash, reply.Signature = p.key[:], p.conn.Hash(), m.signature
				reply.Copy.HostName, reply.Copy.MachineID = m.hostName, m.machineID
			}
			h.Announcer.Ask(reply)
		})
		return
	}
	h.Announcer.Ask(reply)
}

// answered takes another replica's answer. That an agent is there is believed to the agent alone.
func (h *Hub) answered(q Question) {
	c := h.contests.find(q.ID)
	known := h.Fleet.Lookup(q.HostID)
	if c == nil || known == nil || c.hostID != q.HostID || c.newer.peer != nil {
		return
	}
	if q.Answer == Present {
		own := string(q.Key) == string(known.Key) || len(q.Key) > 0 && string(q.Key) == string(known.NextKey)
		there := wire.Presence{HostID: c.hostID, BootID: c.newer.link.BootID, Connection: c.newer.link.Connection, Nonce: c.newer.nonce[:], Hash: q.Hash}
		if !own || !there.Verify(q.Key, q.Signature) {
			h.Logger.Warn("an answer on the bus does not hold", "host", q.HostID, "from", q.From)
			return
		}
	}
	c.mu.Lock()
	c.newer.answer = q.Answer
	c.newer.copy = q.Copy
	c.newer.copy.BootID = c.newer.link.BootID
	c.mu.Unlock()
	c.settle()
}

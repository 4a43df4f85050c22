package link

import (
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/protobuf/proto"

	pb "github.com/loopbackd/loopback/api/loopback/v1"
)

// peer is one link. It is small: thousands of them wait.
type peer struct {
	hub      *Hub
	conn     Conn
	accepted time.Time

	// Set by the hello, before the peer is seated; read-only from then on.
	id       string
	key      [32]byte // that proved the hello
	order    Order
	welcomed time.Time
	parts    bool   // it takes a section in parts
	knows    bool   // how to answer a challenge
	version  string // of the agent

	heard    atomic.Int64 // when the last frame came, in nanoseconds since 1970
	uptime   atomic.Int64 // of the host
	interval atomic.Int64 // between heartbeats, as the agent was told
	wake     atomic.Int64 // when an unanswered section is not waited for any longer; 0: there is none
	busy     atomic.Bool  // its first frame is being handled
	aside    atomic.Bool  // a copy's that becomes a host of its own: never the host's link

	// Of the goroutine that receives.
	said   bool  // the first frame was handled
	second int64 // that frames are counted in
	frames int   // in that second
	pulse  [48]byte

	mu       sync.Mutex
	over     bool   // nothing is accepted any more
	seated   bool   // welcomed: the outbox may send
	wanting  bool   // inventory: it was asked for and has not come
	standing string // as the agent was told
	sections []holding
	outbox   outbox
	asked    []question // challenges that are not answered yet
	rekeyed  bool       // was told to replace its key
	leaving  bool       // said goodbye
}

// maxFrames is how many frames a second an agent may send, far above what one has reason to.
const maxFrames = 200

func (p *peer) lastHeard() time.Time { return time.Unix(0, p.heard.Load()) }

// end makes the peer accept nothing any more. It reports whether it did before.
func (p *peer) end() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	was := !p.over
	p.over = true
	return was
}

func (p *peer) ended() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.over
}

// lastWords is how long a peer that is let go has for taking the reason.
const lastWords = 500 * time.Millisecond

// dismiss tells the agent why and closes. The peer has ended before.
func (p *peer) dismiss(r refusal) {
	deaf := time.AfterFunc(lastWords, func() { p.conn.Close(r.why) })
	_ = p.conn.Send(r.frame()) // whoever cannot be told is closed all the same
	if deaf.Stop() {
		p.conn.Close(r.why)
	}
}

// refuse ends the peer from its own goroutine.
func (p *peer) refuse(r refusal) {
	if p.end() {
		p.hub.metrics.refused(r.why.Code)
		p.dismiss(r)
	}
}

// Closed is the link's last call.
func (p *peer) Closed(reason error) {
	h := p.hub
	p.end()
	p.mu.Lock()
	leaving, seated, asked := p.leaving, p.seated, p.asked
	p.asked = nil
	p.mu.Unlock()
	h.mu.Lock()
	delete(h.nascent, p)
	stopping := h.stopping
	h.mu.Unlock()
	if seated {
		h.links.Add(-1)
		now := h.Clock()
		window := h.ReconnectWindow
		if leaving {
			window = h.GoodbyeWindow
		}
		gone, next := h.table.leave(p, now.Add(window))
		if gone && !stopping {
			h.announce(p, false, now)
			h.Logger.Debug("link ended", "host", p.id, "reason", reason)
		}
		if next != nil {
			h.seated(next)
		}
	}
	for _, q := range asked {
		q.done(Gone, nil)
	}
	h.peers.Done()
}

// Receive takes a frame.
func (p *peer) Receive(frame []byte) {
	now := p.hub.Clock()
	p.hub.metrics.received(len(frame))
	if p.flooding(now) {
		p.refuse(refusal{errFlood.WithRetryAfter(maxRetry), false})
		return
	}
	if p.said {
		if beat, ok := parseHeartbeat(frame); ok {
			p.heartbeat(now, beat)
			return
		}
	}
	var f pb.AgentFrame
	if err := proto.Unmarshal(frame, &f); err != nil {
		p.hub.Logger.Debug("malformed frame", "from", p.conn.Remote(), "host", p.id, "error", err)
		p.refuse(refusal{errMalformed, false})
		return
	}
	if f.Body == nil {
		return // of a newer agent, which can do without
	}
	if p.ended() {
		return
	}
	if !p.said {
		p.first(now, &f)
		return
	}
	p.heard.Store(now.UnixNano())
	p.dispatch(now, &f)
}

func (p *peer) flooding(now time.Time) bool {
	if s := now.Unix(); s != p.second {
		p.second, p.frames = s, 0
	}
	p.frames++
	return p.frames > maxFrames
}

// first handles what a link begins with.
func (p *peer) first(now time.Time, f *pb.AgentFrame) {
	p.busy.Store(true)
	defer p.busy.Store(false)
	switch body := f.Body.(type) {
	case *pb.AgentFrame_Enrol:
		p.said = true
		p.enrol(now, body.Enrol)
	case *pb.AgentFrame_Hello:
		p.said = true
		p.hello(now, body.Hello)
	default:
		p.refuse(refusal{errUnexpected, false})
	}
}

// dispatch handles what comes after the hello. Hosts that are not active have their heartbeat, status and key heard and
// nothing else.
func (p *peer) dispatch(now time.Time, f *pb.AgentFrame) {
	if p.id == "" {
		p.refuse(refusal{errUnexpected, false}) // after an enrolment
		return
	}
	known := p.hub.Fleet.Lookup(p.id)
	if known == nil {
		p.refuse(refusal{errUnknown.WithRetryAfter(maxRetry), false})
		return
	}
	switch body := f.Body.(type) {
	case *pb.AgentFrame_Heartbeat:
		p.heartbeat(now, beat{body.Heartbeat.GetSequence(), body.Heartbeat.GetUptime().AsDuration()})
		return
	case *pb.AgentFrame_ChallengeAnswer:
		p.answer(body.ChallengeAnswer)
		return
	case *pb.AgentFrame_Goodbye:
		p.mu.Lock()
		p.leaving = true
		p.mu.Unlock()
		return
	case *pb.AgentFrame_SplitKey:
		p.splitKey(now, body.SplitKey)
		return
	}
	if p.aside.Load() {
		return // what it says of itself is not said of the host
	}
	switch body := f.Body.(type) {
	case *pb.AgentFrame_SectionReport:
		p.report(now, known, body.SectionReport.GetSection())
	case *pb.AgentFrame_Health:
		p.health(now, known, body.Health)
	case *pb.AgentFrame_KeyOffer:
		p.keyOffer(known, body.KeyOffer)
	case *pb.AgentFrame_Enrol, *pb.AgentFrame_Hello:
		p.refuse(refusal{errUnexpected, false})
	}
	if standingOf(known) != standingManaged {
		return
	}
	switch body := f.Body.(type) {
	case *pb.AgentFrame_SectionRequest:
		p.request(now, body.SectionRequest)
	case *pb.AgentFrame_Inventory:
		p.inventory(now, known, body.Inventory)
	case *pb.AgentFrame_Trouble:
		p.trouble(now, body.Trouble)
	case *pb.AgentFrame_OrderReport:
		p.ordered(body.OrderReport)
	case *pb.AgentFrame_SectionHeld:
		p.adopt(known, body.SectionHeld)
	case *pb.AgentFrame_Shell:
		p.shell(body.Shell)
	}
}

// observe notes a fact, unless the link has ended: once Expel has returned, nothing gets past here.
func (p *peer) observe(now time.Time, note func(*Observation)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.over {
		p.hub.ledger.add(p.id, now, note)
	}
}

package link

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/loopbackd/loopback/api/loopback/v1"
	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/host"
	"github.com/loopbackd/loopback/label"
	"github.com/loopbackd/loopback/token"
	"github.com/loopbackd/loopback/wire"
)

// durable is how long a link waits for the database.
const durable = 30 * time.Second

// guessCost is how many unproven links a guessed token counts for.
const guessCost = 20

// What an agent may expect, in Welcome and Standing.
const (
	standingManaged     = "managed"
	standingPending     = "pending"
	standingQuarantined = "quarantined"
)

func standingOf(k *Known) string {
	switch k.Lifecycle {
	case host.LifecycleActive:
		return standingManaged
	case host.LifecycleQuarantined:
		return standingQuarantined
	default:
		return standingPending
	}
}

// enrol hands a machine to the enroller and tells it the answer. The link is closed by the agent, or when it is silent.
func (p *peer) enrol(now time.Time, e *pb.Enrol) {
	h := p.hub
	if retry, ok := h.enrolling.take(now); !ok {
		p.refuse(refusal{errBusy.WithRetryAfter(retry), false})
		return
	}
	select {
	case h.slots <- struct{}{}:
		defer func() { <-h.slots }()
	default:
		p.refuse(refusal{errBusy.WithRetryAfter(h.spread()), false})
		return
	}
	if err := wire.VerifyProof(e.GetProof(), wire.RoleEnrol, "", p.conn.Hash()); err != nil {
		p.refuse(refusal{fault.Of(err), true})
		return
	}
	request := Enrolment{
		Token: e.GetToken(), Key: slices.Clone(e.GetProof().GetPublicKey()),
		HostName: clip(e.GetHostName()), AgentVersion: clip(e.GetAgentVersion()),
		Inventory: inventoryIn(e.GetInventory()), Ceiling: ceilingIn(e.GetCeiling()), Labels: label.Set(e.GetLabels()),
		From: p.conn.Remote(), Transport: p.conn.Transport(),
	}
	ctx, cancel := context.WithTimeout(h.lifetime, durable)
	defer cancel()
	done, err := h.Enroller.Enrol(ctx, request)
	h.enrolling.tookUp(h.Clock().Sub(now))
	if err != nil {
		guess := errors.Is(err, token.ErrUnknown) || errors.Is(err, token.ErrMalformed)
		if guess {
			h.addresses.charge(now, p.conn.Remote(), guessCost)
		} else {
			h.proven(p.conn.Remote())
		}
		h.metrics.handshakes.WithLabelValues("enrol", "refused").Inc()
		if fault.KindOf(err) == fault.Internal {
			h.Logger.Error("enrolment failed", "from", p.conn.Remote(), "error", err)
		}
		p.refuse(refusalOf(err))
		return
	}
	h.proven(p.conn.Remote())
	h.metrics.handshakes.WithLabelValues("enrol", "taken").Inc()
	h.send(p, &pb.ServerFrame{Body: &pb.ServerFrame_Enrolled{Enrolled: enrolledOut(done)}})
}

func enrolledOut(e Enrolled) *pb.Enrolled {
	return &pb.Enrolled{HostId: e.HostID, HostName: e.HostName, WorkspaceId: e.WorkspaceID, State: string(e.State), Reason: e.Reason, Channel: e.Channel}
}

// Which of a host's keys proved a hello.
type which int

const (
	noKey which = iota
	currentKey
	nextKey
	pastKey
)

func keyOf(k *Known, public []byte) which {
	switch {
	case len(public) != ed25519.PublicKeySize:
		return noKey
	case string(public) == string(k.Key):
		return currentKey
	case string(public) == string(k.NextKey):
		return nextKey
	case slices.Contains(k.PastKeys, sha256.Sum256(public)):
		return pastKey
	default:
		return noKey
	}
}

// hello seats a host's link.
func (p *peer) hello(now time.Time, m *pb.Hello) {
	h := p.hub
	known, refused := p.identify(now, m)
	if refused != nil {
		h.metrics.handshakes.WithLabelValues("hello", "refused").Inc()
		p.refuse(*refused)
		return
	}
	p.id, p.key = known.HostID, [32]byte(m.GetProof().GetPublicKey())
	p.order = orderOf(m)
	p.knows, p.version = m.GetAnswersChallenges(), clip(m.GetAgentVersion())
	p.aside.Store(known.Clones.Of(p.keyHash(), p.order.BootID) == host.SplitOff)
	p.parts, p.welcomed = m.GetTakesParts(), h.Clock()
	p.heard.Store(p.welcomed.UnixNano())
	p.uptime.Store(int64(max(m.GetUptime().AsDuration(), 0)))
	interval := h.interval(p.id)
	p.interval.Store(int64(interval))

	moved := h.Shared && known.Link.Replica != h.Replica
	older, newest, refused := h.table.bind(p, known.Online, moved, func(transition bool) {
		if transition {
			h.metrics.transitions.WithLabelValues("online").Inc()
		}
		h.claim(p)
	})
	if refused != nil {
		h.metrics.handshakes.WithLabelValues("hello", "refused").Inc()
		p.refuse(*refused)
		return
	}
	h.mu.Lock()
	delete(h.nascent, p)
	h.mu.Unlock()
	h.links.Add(1)
	h.proven(p.conn.Remote())

	standing, reason := p.standingIn(known)
	wanting := standing == standingManaged &&
		(len(known.InventoryDigest) == 0 || string(known.InventoryDigest) != string(m.GetInventoryDigest()))
	p.mu.Lock()
	p.wanting, p.standing = wanting, standing
	p.mu.Unlock()
	h.send(p, &pb.ServerFrame{Body: &pb.ServerFrame_Welcome{Welcome: &pb.Welcome{
		Heartbeat: durationpb.New(interval), Jitter: jitter, ServerTime: timestamppb.New(p.welcomed), ServerVersion: h.Version,
		Standing: standing, Reason: reason, WantInventory: wanting, KeyGeneration: known.Generation,
	}}})
	h.metrics.handshakes.WithLabelValues("hello", "taken").Inc()
	if older != p && !p.aside.Load() {
		h.announce(p, true, p.welcomed)
	}
	if !p.aside.Load() {
		if p.version != known.AgentVersion {
			p.observe(now, func(o *Observation) { o.AgentVersion = p.version })
		}
		p.holds(now, known, m.GetHeld())
	}
	p.mu.Lock()
	p.seated = true
	p.mu.Unlock()
	p.refresh() // what changed between Lookup and here, and what the agent lacks
	if older != nil {
		h.contest(older, newest)
	}
	h.admission.tookUp(h.Clock().Sub(now))
}

func orderOf(m *pb.Hello) Order { return Order{clip(m.GetBootId()), m.GetConnection()} }

// identify finds out whose hello this is. Ids that are not known cost no cryptography.
func (p *peer) identify(now time.Time, m *pb.Hello) (*Known, *refusal) {
	h := p.hub
	known := h.Fleet.Lookup(m.GetHostId())
	if h.Recheck != nil && (known == nil || keyOf(known, m.GetProof().GetPublicKey()) != currentKey) {
		// Another replica may have enrolled it, or taken its key, a moment ago.
		h.proving <- struct{}{}
		ctx, cancel := context.WithTimeout(h.lifetime, h.HelloTimeout)
		h.Recheck(ctx, m.GetHostId())
		cancel()
		<-h.proving
		known = h.Fleet.Lookup(m.GetHostId())
	}
	if known == nil {
		return nil, &refusal{errUnknown.WithRetryAfter(maxRetry), false}
	}
	which := keyOf(known, m.GetProof().GetPublicKey())
	if which == noKey && (len(m.GetSuccessions()) == 0 || !known.mayBeSucceeded()) {
		return nil, &refusal{errIdentity.WithRetryAfter(maxRetry), false}
	}
	h.proving <- struct{}{}
	err := wire.VerifyProof(m.GetProof(), wire.RoleHello, known.HostID, p.conn.Hash())
	var after []ed25519.PublicKey
	var generation int64
	follows := true
	if err == nil && which == noKey {
		after, generation, follows = wire.FollowSuccessions(known.HostID, known.Key, m.GetProof().GetPublicKey(), m.GetSuccessions())
	}
	<-h.proving
	if err == nil && !follows {
		return nil, &refusal{errIdentity.WithRetryAfter(maxRetry), false}
	}
	if err != nil {
		return nil, &refusal{fault.Of(err).WithRetryAfter(maxRetry), false}
	}
	switch known.Lifecycle {
	case host.LifecycleRemoved:
		return nil, &refusal{errRemoved, true}
	case host.LifecycleUnmanaged:
		return nil, &refusal{errUnmanaged.WithRetryAfter(maxRetry), false}
	}
	ctx, cancel := context.WithTimeout(h.lifetime, durable)
	defer cancel()
	key := ed25519.PublicKey(slices.Clone(m.GetProof().GetPublicKey()))
	switch verdict := known.Clones.Of(sha256.Sum256(key), clip(m.GetBootId())); {
	case verdict == host.Dropped:
		return nil, &refusal{errDropped, true}
	case verdict == host.SplitOff:
	case which == noKey:
		h.Logger.Warn("a host's key is newer than what is known of it, and follows from that: it is taken up", "host", known.HostID, "generation", generation)
		known, err = h.Observer.Succeeded(ctx, known.HostID, known.Key, after, generation)
	case which == pastKey && verdict != host.Single:
		return nil, &refusal{errStaleKey.WithRetryAfter(maxRetry), false}
	case which == nextKey && (verdict == host.Undecided || verdict == host.Stranger):
		return nil, &refusal{errIdentity, false} // it falls back on the current one, which is what copies are told apart under
	case verdict == host.Stranger:
		h.Logger.Warn("a machine in a boot that nobody decided on holds the key of a cloned host", "host", known.HostID, "from", p.conn.Remote())
		known, err = h.Observer.Cloned(ctx, known.HostID, []host.Copy{p.copyOf(m)})
	case verdict == host.Undecided:
	case which == pastKey && h.Presence(known.HostID).Online:
		return nil, &refusal{errStaleKey.WithRetryAfter(h.ReconnectWindow), false}
	case which == pastKey:
		h.Logger.Warn("a past identity key is back: the host awaits approval", "host", known.HostID, "from", p.conn.Remote())
		known, err = h.Observer.RolledBack(ctx, known.HostID, key)
	case which == nextKey && known.Lifecycle != host.LifecyclePending:
		known, err = h.Observer.UseNextKey(ctx, known.HostID, key)
	}
	if err != nil {
		h.Logger.Warn("the key of a hello could not be stored", "host", m.GetHostId(), "error", err)
		return nil, &refusal{errBusy.WithCause(err).WithRetryAfter(h.spread()), false}
	}
	return known, nil
}

// mayBeSucceeded tells whether the host's key may have been replaced without this control plane knowing: not while somebody
// has to decide on the host, or on copies of it.
func (k *Known) mayBeSucceeded() bool {
	return (k.Lifecycle == host.LifecycleActive || k.Lifecycle == host.LifecycleQuarantined) &&
		(k.Clones == nil || len(k.Clones.Copies) == 0)
}

// promote makes the key of a standing link the current one: the host was approved since.
func (p *peer) promote() {
	h := p.hub
	ctx, cancel := context.WithTimeout(h.lifetime, durable)
	defer cancel()
	if p.ended() || !p.mayRotate(h.Fleet.Lookup(p.id)) {
		return
	}
	if _, err := h.Observer.UseNextKey(ctx, p.id, p.key[:]); err != nil {
		// The agent's next hello tries again.
		h.Logger.Warn("the host's next key could not be taken into use", "host", p.id, "error", err)
	}
}

// send encodes a frame and sends it. Where that fails, Closed comes.
func (h *Hub) send(p *peer, f *pb.ServerFrame) {
	b, err := proto.Marshal(f)
	if err != nil {
		h.Logger.Error("a frame cannot be encoded", "host", p.id, "error", err)
		return
	}
	h.metrics.sent(len(b))
	_ = p.conn.Send(b)
}

package link

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	pb "github.com/loopbackd/loopback/api/loopback/v1"
	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/settings"
	"github.com/loopbackd/loopback/wire"
)

// Errors of a link that the agent itself finds.
var (
	errSilent    = fault.New(fault.Timeout, "link_silent", "the control plane stopped answering heartbeats")
	errNoWelcome = fault.New(fault.Timeout, "welcome_missing", "the control plane did not answer the hello in time")
	errFrame     = fault.New(fault.Invalid, "frame_malformed", "the control plane sent a frame that cannot be read")
)

// keyUnknown is the code by which a control plane says that an identity key is not this host's.
const keyUnknown = "identity_unknown"

// session is one link that was dialled.
type session struct {
	*Client
	conn     Conn
	key      ed25519.PrivateKey
	next     bool // key is the identity's next one
	earlier  bool // the hello says how the key followed from earlier ones
	frames   chan *pb.ServerFrame
	readErr  error // why frames closed
	stop     context.CancelFunc
	standing Standing

	interval time.Duration // heartbeat as the server paces it
	jitter   float64
	sequence uint64
	answered uint64
	offered  bool
	parts    parts            // of a section that comes in several frames
	rekey    <-chan time.Time // when to make way for the accepted key

	beside sync.WaitGroup // goroutines that end with the session
}

// attempt dials an endpoint and, where that succeeds, carries the link until it ends. It tells how long the link stood
// after its Welcome; zero means that there was none.
func (c *Client) attempt(ctx context.Context, endpoint string) (stood time.Duration, err error) {
	c.update(func(s *Status) { s.State, s.Endpoint = Connecting, endpoint })
	if c.identity.Next != nil {
		stood, err = c.attemptWith(ctx, endpoint, true, false)
		if stood > 0 || !isCode(err, keyUnknown) {
			return stood, err
		}
		c.log.Info("the control plane does not know the next key yet; using the current one")
	}
	stood, err = c.attemptWith(ctx, endpoint, false, false)
	if stood > 0 || !isCode(err, keyUnknown) || len(c.identity.Earlier) == 0 {
		return stood, err
	}
	c.log.Warn("the control plane does not know this host's key; showing how it followed from earlier ones")
	return c.attemptWith(ctx, endpoint, false, true)
}

func isCode(err error, code string) bool {
	var f *fault.Error
	return errors.As(err, &f) && f.Code == code
}

func (c *Client) attemptWith(ctx context.Context, endpoint string, next, earlier bool) (stood time.Duration, err error) {
	c.options.Promise(dialTimeout + time.Minute)
	dialling, cancel := context.WithTimeout(ctx, dialTimeout)
	conn, err := c.options.Dial(dialling, endpoint, c.trust.Anchors, c.trust.Version)
	cancel()
	if err != nil {
		return 0, err
	}
	ctx, stop := context.WithCancel(ctx)
	s := &session{Client: c, conn: conn, key: c.identity.Key, next: next, earlier: earlier, stop: stop, frames: make(chan *pb.ServerFrame)}
	if next {
		s.key = c.identity.Next
	}
	s.beside.Go(func() { s.read(ctx) })
	if f := conn.Fallback(); f != nil {
		c.log.Info("polling, since a WebSocket does not get through", "endpoint", endpoint, "error", f)
		c.troubles.note(fault.Of(f), time.Now())
	}
	stood, err = s.run(ctx)
	stop()
	if e := conn.Close(); e != nil && err == nil {
		err = e
	}
	s.beside.Wait()
	return stood, err
}

// read hands frames to the session's goroutine until the link or the session ends.
func (s *session) read(ctx context.Context) {
	defer close(s.frames)
	for {
		b, err := s.conn.Receive(ctx)
		if err != nil {
			s.readErr = err
			return
		}
		f := &pb.ServerFrame{}
		if err := proto.Unmarshal(b, f); err != nil {
			s.readErr = errFrame.WithCause(err)
			return
		}
		select {
		case s.frames <- f:
		case <-ctx.Done():
			s.readErr = ctx.Err()
			return
		}
	}
}

func (s *session) send(ctx context.Context, f *pb.AgentFrame) error {
	b, err := proto.Marshal(f)
	if err != nil {
		return fmt.Errorf("encode a frame: %w", err)
	}
	s.options.Promise(sendTimeout + time.Minute)
	// A send that is cut short ends the link. When the agent stops, the frame under way still gets its time, so that the
	// goodbye can follow it.
	sending, cancel := context.WithTimeout(context.WithoutCancel(ctx), sendTimeout)
	defer cancel()
	defer context.AfterFunc(ctx, func() {
		select {
		case <-time.After(goodbyeTimeout):
			cancel()
		case <-sending.Done():
		}
	})()
	return s.conn.Send(sending, b)
}

// run says hello, waits for the answer and carries the link.
func (s *session) run(ctx context.Context) (stood time.Duration, err error) {
	if err := s.learn(); err != nil {
		return 0, err
	}
	if err := s.hello(ctx); err != nil {
		return 0, err
	}
	defer func() {
		if ctx.Err() != nil { // the agent stops: there may still be a way to say so
			s.goodbye()
		}
	}()
	w, err := s.welcome(ctx)
	if err != nil {
		return 0, err
	}
	began := time.Now()
	if err := s.welcomed(ctx, w); err != nil {
		return time.Since(began) + 1, err
	}
	err = s.carry(ctx)
	return time.Since(began) + 1, err
}

// learn stores the keyset that the control plane was verified by, before anything is said to it.
func (s *session) learn() error {
	next, keyset, err := s.trust.Accept(s.conn.Signed())
	if err != nil {
		return err
	}
	if next.Version != s.trust.Version {
		if err := s.options.Store.PutTrust(next); err != nil {
			s.forgetful(err)
		}
		s.trust = next
		s.mu.Lock()
		s.trusting = next
		s.mu.Unlock()
		s.update(func(st *Status) { st.Keyset = keyset.Version })
	}
	return nil
}

func (s *session) hello(ctx context.Context) error {
	number, err := s.options.Store.NextConnection(s.options.BootID)
	s.links = max(number, s.links+1)
	if err != nil {
		s.forgetful(err)
	}
	s.outbox.clear()
	h := &pb.Hello{
		HostId:            s.identity.HostID,
		Proof:             wire.SignProof(s.key, wire.RoleHello, s.identity.HostID, s.conn.Hash()),
		AgentVersion:      s.options.Version,
		BootId:            s.options.BootID,
		Connection:        s.links,
		InventoryDigest:   s.options.Host.Inventory().Digest,
		Uptime:            durationpb.New(s.options.Uptime()),
		Transport:         s.conn.Transport(),
		KeysetVersion:     s.trust.Version,
		TakesParts:        true,
		AnswersChallenges: true,
	}
	if s.earlier {
		for _, e := range s.identity.Earlier {
			h.Successions = append(h.Successions, &pb.Succession{PublicKey: e.Key, NextKey: e.Next, Generation: e.Generation, Signature: e.Signature})
		}
	}
	for _, st := range s.options.Host.Linking() {
		h.Held = append(h.Held, heldOut(st))
	}
	return s.send(ctx, &pb.AgentFrame{Body: &pb.AgentFrame_Hello{Hello: h}})
}

// welcome is the answer to the hello. Frames of a newer control plane that come before it are ignored.
func (s *session) welcome(ctx context.Context) (*pb.Welcome, error) {
	s.options.Promise(welcomeTimeout + time.Minute)
	timeout := time.NewTimer(welcomeTimeout)
	defer timeout.Stop()
	for {
		select {
		case f, ok := <-s.frames:
			if !ok {
				return nil, s.readErr
			}
			if r := f.GetRefusal(); r != nil {
				return nil, refusal(r)
			}
			if w := f.GetWelcome(); w != nil {
				return w, nil
			}
		case <-timeout.C:
			return nil, errNoWelcome
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// welcomed takes in what the control plane says of itself and of us, and reports what stood in the way.
func (s *session) welcomed(ctx context.Context, w *pb.Welcome) error {
	s.counted(w.KeyGeneration)
	s.interval, s.jitter = w.Heartbeat.AsDuration(), min(max(w.Jitter, 0), 1)
	now := time.Now()
	var skew time.Duration
	if w.ServerTime.IsValid() {
		skew = w.ServerTime.AsTime().Sub(now)
	}
	s.setClock(w.ServerTime)
	s.update(func(st *Status) {
		st.State, st.Transport, st.LastHeard, st.Server, st.Skew = Linked, s.conn.Transport(), now, w.ServerVersion, skew
		st.Attempts = 0
	})
	s.flaws(skew, now)
	s.log.Info("linked", "endpoint", s.Status().Endpoint, "transport", s.conn.Transport(), "standing", w.Standing, "server", w.ServerVersion)
	s.stand(w.Standing, w.Reason)
	for _, t := range s.troubles.drain() {
		if err := s.send(ctx, t); err != nil {
			return err
		}
	}
	s.outbox.health()
	if w.WantInventory {
		s.outbox.inventory()
	}
	return nil
}

// stand hears of the host's standing. An older control plane that names none means managed.
func (s *session) stand(standing, reason string) {
	switch st := Standing(standing); st {
	case Pending, Quarantined:
		s.standing = st
	default:
		s.standing = Managed
	}
	s.update(func(st *Status) { st.Standing, st.Reason = s.standing, reason })
	s.options.Host.Stand(s.standing, reason)
}

// carry is the life of a link.
func (s *session) carry(ctx context.Context) error {
	beat := time.NewTimer(s.pace())
	defer beat.Stop()
	rotate := time.NewTimer(s.untilRotation())
	defer rotate.Stop()
	better := s.look(ctx)
	for {
		s.options.Promise(settings.MaxHeartbeat*2 + time.Minute)
		select {
		case f, ok := <-s.frames:
			if !ok {
				return s.readErr
			}
			again, err := s.receive(ctx, f)
			if err != nil {
				return err
			}
			if again {
				beat.Reset(s.pace())
			}
		case <-beat.C:
			if s.sequence-s.answered >= missedPulses {
				return errSilent
			}
			s.sequence++
			if err := s.send(ctx, &pb.AgentFrame{Body: &pb.AgentFrame_Heartbeat{Heartbeat: &pb.Heartbeat{
				Sequence: s.sequence, Uptime: durationpb.New(s.options.Uptime()),
			}}}); err != nil {
				return err
			}
			beat.Reset(s.pace())
		case <-s.outbox.wake:
			for _, f := range s.outbox.drain(s.options.Host, s.troubles.ongoing) {
				if err := s.send(ctx, f); err != nil {
					return err
				}
			}
		case <-rotate.C:
			if err := s.offer(ctx); err != nil {
				return err
			}
			rotate.Reset(time.Hour) // an offer is repeated in the next link; here only if the standing kept it back
		case <-s.rekey:
			return errAnew
		case f := <-better:
			s.log.Info("making the link anew", "because", f.why)
			if f.earlier {
				s.returns++ // until a link there has stood
			}
			return errAnew
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// goodbye tells the control plane that the agent leaves on purpose. The session's context has ended by then.
func (s *session) goodbye() {
	ctx, cancel := context.WithTimeout(context.Background(), goodbyeTimeout)
	defer cancel()
	if err := s.send(ctx, &pb.AgentFrame{Body: &pb.AgentFrame_Goodbye{Goodbye: &pb.Goodbye{Reason: "stopping"}}}); err != nil {
		s.log.Debug("the goodbye was not sent", "error", err)
	}
}

// pace is the time to the next heartbeat: what the server said, within the bounds of the settings, moved at random.
func (s *session) pace() time.Duration {
	d := s.interval
	if d <= 0 {
		d = settings.DefaultHeartbeat
	}
	least, most := s.options.Host.HeartbeatBounds()
	if least > 0 {
		d = max(d, least)
	}
	if most > 0 {
		d = min(d, most)
	}
	d = min(max(d, settings.MinHeartbeat), settings.MaxHeartbeat)
	s.update(func(st *Status) { st.Heartbeat = d })
	return max(d+time.Duration((2*rand.Float64()-1)*s.jitter*float64(d)), settings.MinHeartbeat/10)
}

// receive acts on a frame. again says that the pace has changed. Frames that it does not know are those of a newer
// control plane, and ignored.
func (s *session) receive(ctx context.Context, f *pb.ServerFrame) (again bool, err error) {
	s.update(func(st *Status) { st.LastHeard = time.Now() })
	switch b := f.Body.(type) {
	case *pb.ServerFrame_Refusal:
		return false, refusal(b.Refusal)
	case *pb.ServerFrame_Pulse:
		s.answered = max(s.answered, min(b.Pulse.Sequence, s.sequence))
		if b.Pulse.WantInventory {
			s.outbox.inventory()
		}
		if d := b.Pulse.Heartbeat.AsDuration(); d > 0 && d != s.interval {
			s.interval, again = d, true
		}
	case *pb.ServerFrame_Section:
		s.options.Host.Whole(wholeIn(b.Section))
	case *pb.ServerFrame_SectionPart:
		s.part(b.SectionPart)
	case *pb.ServerFrame_SectionDelta:
		s.options.Host.Delta(deltaIn(b.SectionDelta))
	case *pb.ServerFrame_Standing:
		s.log.Info("the control plane changed the host's standing", "standing", b.Standing.Standing, "reason", b.Standing.Reason)
		s.stand(b.Standing.Standing, b.Standing.Reason)
	case *pb.ServerFrame_KeyAccepted:
		s.accepted(b.KeyAccepted)
	case *pb.ServerFrame_SectionWanted:
		return false, s.showSection(ctx, b.SectionWanted.GetName())
	case *pb.ServerFrame_Order:
		s.order(b.Order)
	case *pb.ServerFrame_OrderWord:
		s.options.Host.Word(b.OrderWord.GetId(), b.OrderWord.GetStored(), b.OrderWord.GetCancel())
	case *pb.ServerFrame_Shell:
		s.shell(ctx, b.Shell)
	case *pb.ServerFrame_Challenge:
		return false, s.prove(ctx, b.Challenge)
	case *pb.ServerFrame_Rekey:
		return false, s.renew(ctx)
	case *pb.ServerFrame_Split:
		return false, s.apart(ctx, b.Split)
	case *pb.ServerFrame_Enrolled:
		return false, s.parted(b.Enrolled)
	}
	return again, nil
}

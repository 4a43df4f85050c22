package fleet

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"maps"
	mathrand "math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/protobuf/proto"

	pb "github.com/loopbackd/loopback/api/loopback/v1"
	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/section"
	"github.com/loopbackd/loopback/wire"
)

// Refused is the control plane's word that it will not go on.
type Refused struct {
	Fault *fault.Error
	Final bool // there is no point in coming back
}

func (r *Refused) Error() string { return r.Fault.Error() }

// Unwrap is the fault, so that errors.Is finds it by its code.
func (r *Refused) Unwrap() error { return r.Fault }

// Agent is one simulated agent. Fields are set before it is used. Between links it may be changed: it is another machine
// then, or this one after something happened to it.
type Agent struct {
	Dialer  wire.Dialer
	Token   string
	Name    string
	Version string
	BootID  string
	Key     ed25519.PrivateKey // made when it enrols, unless set

	// Apply is what the machine says to a section; nil: applied.
	Apply func(section.Section) section.Status
	// LoseAnswer tells whether the answer to the next enrolment is lost: the agent hangs up before it reads it.
	LoseAnswer func() bool
	// Reported is called when the control plane was told what became of a section; nil: nobody wants to know.
	Reported func(section.Status)
	// Pace is how many nanoseconds to wait between heartbeats, whatever the control plane says; nil or 0: what it says.
	Pace *atomic.Int64
	// NoParts agents are of the builds that knew no sections in parts.
	NoParts bool
	// Mute agents link and then send no heartbeats. Deaf ones link and then read nothing.
	Mute, Deaf bool
	// Exec is what the machine does when it is ordered a command, in place of running it; nil: it never answers orders.
	Exec func(ctx context.Context, o Order)
	// Shell is what the machine does when it is ordered a shell, which outlives the link; nil: its ceiling allows none.
	Shell func(o ShellOrder)
	// Inventory is what it tells of its machine, once; nil: a plain Debian.
	Inventory *pb.Inventory
	// Ceiling is what the machine allows; nil: no more than shells, where it has any.
	Ceiling *pb.Ceiling
	// Word hears what is said of an order that it was given; nil: it does not listen.
	Word func(*pb.OrderWord)
	// Old agents are of a build that knows no challenge.
	Old bool
	// Met is what stood in the agent's way, as it says once it got through; nil: nothing did.
	Met *pb.LinkTrouble
	// Patience is how long to wait before trying again where nobody said how long; 0 is a second.
	Patience time.Duration

	fleet *Fleet // that counts; nil when alone

	mu         sync.Mutex
	hostID     string
	connection uint64
	held       map[string]holding
	standing   string
	next       ed25519.PrivateKey // offered, or to be; not in use yet
	earlier    []*pb.Succession   // how Key followed from those before it
	own        ed25519.PrivateKey // of the host that this copy becomes
	kept       uint64             // generation of Key
}

type holding struct {
	section section.Section
	status  section.Status
}

// HostID is empty until the agent is enrolled.
func (a *Agent) HostID() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.hostID
}

// Standing is what it was told last: managed, pending or quarantined.
func (a *Agent) Standing() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.standing
}

// Holds is the value that the agent holds of a section.
func (a *Agent) Holds(name string) section.Section {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.held[name].section
}

func (a *Agent) inventory() (*pb.Inventory, []byte) {
	sum := sha256.Sum256([]byte(a.Name))
	if a.Inventory != nil {
		return a.Inventory, sum[:]
	}
	return &pb.Inventory{HostName: a.Name, Os: "debian", OsVersion: "13", Kernel: "6.12.0", Architecture: "x86_64",
		Cpus: 2, MemoryBytes: 2 << 30, BootId: a.BootID, AgentVersion: a.Version}, sum[:]
}

// Enrol tries once. A lost answer is an error like any other: trying again gets the same answer.
func (a *Agent) Enrol(ctx context.Context) error {
	if a.Key == nil {
		_, key, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			return err
		}
		a.Key = key
	}
	c, err := a.Dialer.Dial(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	inventory, _ := a.inventory()
	if err := send(ctx, c, &pb.AgentFrame{Body: &pb.AgentFrame_Enrol{Enrol: &pb.Enrol{
		Token: a.Token, Proof: wire.SignProof(a.Key, wire.RoleEnrol, "", c.Hash()), HostName: a.Name,
		AgentVersion: a.Version, Inventory: inventory, Ceiling: a.ceiling(),
	}}}); err != nil {
		return err
	}
	if a.LoseAnswer != nil && a.LoseAnswer() {
		return errLost
	}
	f, err := receive(ctx, c)
	if err != nil {
		return err
	}
	e := f.GetEnrolled()
	if e == nil {
		return errOutOfTurn
	}
	a.mu.Lock()
	a.hostID = e.HostId
	a.mu.Unlock()
	return nil
}

var (
	errLost      = fault.New(fault.Unavailable, "answer_lost", "the answer was lost on purpose")
	errOutOfTurn = fault.New(fault.Internal, "out_of_turn", "the control plane sent another frame than was its turn")
)

// Session is one link of an agent that was welcomed.
type Session struct {
	agent   *Agent
	Conn    *wire.Conn
	Welcome *pb.Welcome
	parts   []*pb.SectionItem // of a section that is under way

	key        ed25519.PrivateKey // that said hello
	hostID     string
	bootID     string
	connection uint64
	cut        atomic.Bool
}

// PowerCut makes Serve return without a word to the other side when its context ends: the connection stays as it is, and
// nobody is behind it.
func (s *Session) PowerCut() { s.cut.Store(true) }

// Link dials and says hello.
func (a *Agent) Link(ctx context.Context) (*Session, error) {
	s, err := a.link(ctx, nil)
	if err != nil && len(a.earlier) > 0 && fault.Of(err).Code == "identity_unknown" {
		return a.link(ctx, a.earlier) // as agents do
	}
	return s, err
}

func (a *Agent) link(ctx context.Context, earlier []*pb.Succession) (*Session, error) {
	c, err := a.Dialer.Dial(ctx)
	if err != nil {
		return nil, err
	}
	_, digest := a.inventory()
	a.mu.Lock()
	a.connection++
	hello := &pb.Hello{
		HostId: a.hostID, Proof: wire.SignProof(a.Key, wire.RoleHello, a.hostID, c.Hash()), AgentVersion: a.Version,
		BootId: a.BootID, Connection: a.connection, InventoryDigest: digest, Transport: c.Transport(), KeysetVersion: c.Keyset().Version, TakesParts: !a.NoParts,
		AnswersChallenges: !a.Old, Successions: earlier,
	}
	s := &Session{agent: a, Conn: c, key: a.Key, hostID: a.hostID, bootID: a.BootID, connection: a.connection}
	for _, h := range a.held {
		hello.Held = append(hello.Held, heldOut(h.status))
	}
	a.mu.Unlock()
	err = send(ctx, c, &pb.AgentFrame{Body: &pb.AgentFrame_Hello{Hello: hello}})
	var f *pb.ServerFrame
	if err == nil {
		f, err = receive(ctx, c)
	}
	if err == nil && f.GetWelcome() == nil {
		err = errOutOfTurn
	}
	if err != nil {
		c.Close()
		return nil, err
	}
	a.mu.Lock()
	a.standing, a.kept = f.GetWelcome().Standing, uint64(f.GetWelcome().KeyGeneration)
	a.mu.Unlock()
	s.Welcome = f.GetWelcome()
	return s, nil
}

// Serve beats and applies until the link ends, and says why it did.
func (s *Session) Serve(ctx context.Context) error {
	defer func() {
		if !s.cut.Load() {
			s.Conn.Close()
		}
	}()
	if s.agent.Deaf {
		<-ctx.Done()
		return ctx.Err()
	}
	if s.Welcome.WantInventory {
		if err := s.sendInventory(ctx); err != nil {
			return err
		}
	}
	if met := s.agent.Met; met != nil {
		if err := send(ctx, s.Conn, &pb.AgentFrame{Body: &pb.AgentFrame_Trouble{Trouble: met}}); err != nil {
			return err
		}
	}
	interval, sequence := s.Welcome.Heartbeat.AsDuration(), uint64(0)
	for {
		every := interval
		if own := s.agent.Pace; own != nil && own.Load() > 0 {
			every = time.Duration(own.Load())
		}
		wait := every + time.Duration((mathrand.Float64()*2-1)*s.Welcome.Jitter*float64(every))
		turn, cancel := context.WithTimeout(ctx, wait)
		for turn.Err() == nil {
			f, err := receive(turn, s.Conn)
			if err != nil {
				if turn.Err() != nil {
					break
				}
				cancel()
				return err
			}
			if p := f.GetPulse(); p != nil {
				s.agent.count(func(c *Counts) { c.Pulses++ })
				if p.Heartbeat != nil {
					interval = p.Heartbeat.AsDuration()
				}
				continue
			}
			if err := s.take(ctx, f); err != nil {
				cancel()
				return err
			}
		}
		cancel()
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if s.agent.Mute {
			continue
		}
		sequence++
		if err := send(ctx, s.Conn, &pb.AgentFrame{Body: &pb.AgentFrame_Heartbeat{Heartbeat: &pb.Heartbeat{Sequence: sequence}}}); err != nil {
			return err
		}
	}
}

func (s *Session) sendInventory(ctx context.Context) error {
	inventory, digest := s.agent.inventory()
	return send(ctx, s.Conn, &pb.AgentFrame{Body: &pb.AgentFrame_Inventory{Inventory: &pb.InventoryReport{
		Inventory: inventory, Ceiling: s.agent.ceiling(), Digest: digest}}})
}

// Goodbye leaves on purpose.
func (s *Session) Goodbye(ctx context.Context) error {
	err := send(ctx, s.Conn, &pb.AgentFrame{Body: &pb.AgentFrame_Goodbye{Goodbye: &pb.Goodbye{Reason: "stopping"}}})
	return errors.Join(err, s.Conn.Close())
}

// Run enrols where needed and stays linked until ctx ends (nil) or the control plane says that there is no point.
func (a *Agent) Run(ctx context.Context) error {
	for ctx.Err() == nil {
		err := a.once(ctx)
		if ctx.Err() != nil {
			return nil
		}
		a.count(func(c *Counts) { c.Endings[fault.Of(err).Code]++ })
		var refused *Refused
		if errors.As(err, &refused) && refused.Final {
			return err
		}
		wait := fault.Of(err).RetryAfter
		if wait == 0 {
			patience := max(a.Patience, time.Millisecond)
			if a.Patience == 0 {
				patience = time.Second
			}
			wait = patience/2 + mathrand.N(patience)
		}
		select {
		case <-ctx.Done():
		case <-time.After(wait):
		}
	}
	return nil
}

// once goes as far as it gets: enrol, link, serve.
func (a *Agent) once(ctx context.Context) error {
	if a.HostID() == "" {
		if err := a.dialling(ctx, func() error { return a.Enrol(ctx) }); err != nil {
			return err
		}
		a.count(func(c *Counts) { c.Enrolled++ })
	}
	var s *Session
	if err := a.dialling(ctx, func() (err error) { s, err = a.Link(ctx); return err }); err != nil {
		return err
	}
	a.count(func(c *Counts) { c.Linked++; c.Links++ })
	defer a.count(func(c *Counts) { c.Linked-- })
	return s.Serve(ctx)
}

// dialling keeps the number of handshakes at a time below the fleet's.
func (a *Agent) dialling(ctx context.Context, do func() error) error {
	if a.fleet == nil {
		return do()
	}
	select {
	case a.fleet.dials <- struct{}{}:
		defer func() { <-a.fleet.dials }()
		return do()
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Snapshot is what the agent holds, by section.
func (a *Agent) Snapshot() map[string]section.Section {
	a.mu.Lock()
	defer a.mu.Unlock()
	out := make(map[string]section.Section, len(a.held))
	for name, h := range maps.All(a.held) {
		out[name] = h.section
	}
	return out
}

func send(ctx context.Context, c *wire.Conn, f *pb.AgentFrame) error {
	b, err := proto.Marshal(f)
	if err != nil {
		return err
	}
	return c.Send(ctx, b)
}

// receive is the next frame; a refusal is an error.
func receive(ctx context.Context, c *wire.Conn) (*pb.ServerFrame, error) {
	b, err := c.Receive(ctx)
	if err != nil {
		return nil, err
	}
	var f pb.ServerFrame
	if err := proto.Unmarshal(b, &f); err != nil {
		return nil, err
	}
	if r := f.GetRefusal(); r != nil {
		e := fault.New(fault.Unavailable, r.GetDetail().GetCode(), "%s", r.GetMessage()).WithRetryAfter(r.GetDetail().GetRetryAfter().AsDuration())
		e.Hint = r.GetDetail().GetHint()
		return nil, &Refused{e, r.GetFinal()}
	}
	return &f, nil
}

func (a *Agent) ceiling() *pb.Ceiling {
	if a.Ceiling == nil {
		return &pb.Ceiling{Shell: a.Shell != nil}
	}
	return a.Ceiling
}

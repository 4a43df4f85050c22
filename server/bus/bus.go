// Package bus is how replicas of the control plane hear of each other.
//
// It carries hints and ids, never authority and no secrets: whoever could write to it could wake replicas and confuse
// them about who is online, but command nobody. What a message announces, its reader looks up. Messages may be lost:
// nudges are repeated by polling, presence by a roll call, which every replica makes at its start and after Lost.
//
// The bus is core NATS, embedded: the server runs in this process and is spoken to in memory. Alone it opens no port.
// With others it has routes, under mutual TLS, and a client port on 127.0.0.1 that NATS insists on and nobody has the
// password of. Or it is somebody's NATS outside, shared with who knows whom. A replica hears its own messages as well;
// presence names its replica, so that a reader can pass over its own.
//
// Among several replicas every message is signed by the replica that sent it, and dated. One that is not, or whose
// signer is no replica (any more), is counted and dropped: whoever else publishes on these subjects wakes nobody, shows
// nobody as online and cuts nobody's link. A message that is heard again later says nothing that was not true once, and
// what it says is ordered by the host's own count of its links.
//
//	loopback.v1.nudge      the change feed has reached a position
//	loopback.v1.presence   hosts came to, or went from, a replica
//	loopback.v1.roll       every replica is asked to say whom it holds
//	loopback.v1.question   one replica asks another whether a host's agent is there, or is answered
//
// Subjects carry a version: a replica of another version subscribes to both for as long as they live side by side.
package bus

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
)

// Nudge says how far the change feed has come. It is a hint: look there, however often it is heard.
type Nudge struct {
	Position int64 `json:"position"`
}

// Presence is one replica's word on one host's link.
type Presence struct {
	Replica    string    `json:"replica"`
	HostID     string    `json:"host"`
	Online     bool      `json:"online"`
	BootID     string    `json:"boot"`
	Connection uint64    `json:"connection"` // counts the host's links since boot
	At         time.Time `json:"at"`
}

// Question asks one replica whether the agent of a link that it holds is there, and comes back answered. The answer is
// signed by the agent: whoever reads it believes that, not the bus.
type Question struct {
	From       string `json:"from"`
	To         string `json:"to"`
	ID         string `json:"id"`
	HostID     string `json:"host"`
	BootID     string `json:"boot"`
	Connection uint64 `json:"connection"`
	Nonce      []byte `json:"nonce"`
	Answer     string `json:"answer,omitempty"` // empty: it is asked
	Key        []byte `json:"key,omitempty"`
	Hash       []byte `json:"hash,omitempty"`
	Signature  []byte `json:"signature,omitempty"`
	Copy       Copy   `json:"copy,omitzero"`
}

// Copy is what the machine at the other end of the link says of itself.
type Copy struct {
	Address      string `json:"address,omitempty"`
	HostName     string `json:"hostName,omitempty"`
	MachineID    string `json:"machineId,omitempty"`
	AgentVersion string `json:"agentVersion,omitempty"`
}

// Roll asks for everybody's presence.
type Roll struct {
	Replica string `json:"replica"` // that asks
}

const (
	subjectNudge    = "loopback.v1.nudge"
	subjectPresence = "loopback.v1.presence"
	subjectRoll     = "loopback.v1.roll"
	subjectQuestion = "loopback.v1.question"
)

// maxMessage bounds a message, in bytes; longer presence is cut into several.
const maxMessage = 512 << 10

// Options of a bus.
type Options struct {
	Logger *slog.Logger
	// Lost is called when messages may have been missed: a reader was too slow. It must not block.
	Lost func()

	Cluster *Cluster // routes to the others; nil: none
	Outside *Outside // somebody's NATS instead of an embedded one; nil: none
	Signer  Signer   // of several replicas; nil: this one is alone, and nobody else can write to the bus
	Clock   func() time.Time
}

// Signer vouches for messages.
type Signer interface {
	Sign(message []byte) (replica string, signature []byte)
	Verify(replica string, message, signature []byte) bool
}

// Bus is an open bus. Its methods are safe for concurrent use.
type Bus struct {
	logger *slog.Logger
	signer Signer
	clock  func() time.Time
	server *server.Server // nil: it is outside
	conn   *nats.Conn
	closed chan struct{}
	once   sync.Once

	heard  atomic.Int64
	forged atomic.Int64
}

// openTimeout is how long the embedded server may take to be ready.
const openTimeout = 10 * time.Second

// Open starts the embedded server and connects to it in memory, or connects to the one outside, which may be away: it is
// waited for in the background.
func Open(o Options) (*Bus, error) {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Clock == nil {
		o.Clock = time.Now
	}
	b := &Bus{logger: o.Logger, signer: o.Signer, clock: o.Clock, closed: make(chan struct{})}
	lost := func(reason error) {
		o.Logger.Warn("messages of the bus may have been lost", "reason", reason)
		if o.Lost != nil {
			o.Lost()
		}
	}
	options := []nats.Option{
		nats.MaxReconnects(-1), nats.Name("loopbackd"),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { lost(err) }),
		nats.ReconnectHandler(func(*nats.Conn) { lost(errors.New("reconnected")) }),
		nats.ClosedHandler(func(*nats.Conn) { close(b.closed) }),
	}
	if o.Outside != nil {
		more, err := o.Outside.options(o.Logger)
		if err != nil {
			return nil, err
		}
		if b.conn, err = nats.Connect(o.Outside.URL, append(options, more...)...); err != nil {
			return nil, fmt.Errorf("connecting to the bus at %s: %w", o.Outside.redacted(), err)
		}
		return b, nil
	}
	user, password := "loopbackd", rand.Text()
	so := &server.Options{
		DontListen: true, // no port, for clients or for routes
		NoSigs:     true, // signals are the program's
		NoLog:      true,
		MaxPayload: maxMessage,
	}
	if o.Cluster != nil {
		if err := o.Cluster.apply(so); err != nil {
			return nil, err
		}
		so.Username, so.Password = user, password
	}
	s, err := server.NewServer(so)
	if err != nil {
		return nil, fmt.Errorf("starting the embedded bus: %w", err)
	}
	s.SetLoggerV2(logger{o.Logger}, false, false, false)
	s.Start()
	if !s.ReadyForConnections(openTimeout) {
		s.Shutdown()
		return nil, fmt.Errorf("the embedded bus was not ready after %s", openTimeout)
	}
	b.server = s
	if b.conn, err = nats.Connect("", append(options, nats.InProcessServer(s), nats.UserInfo(user, password))...); err != nil {
		s.Shutdown()
		return nil, fmt.Errorf("connecting to the embedded bus: %w", err)
	}
	return b, nil
}

// Connected is how many other replicas' servers the embedded one has routes to, or 1 while the one outside is there.
func (b *Bus) Connected() int {
	if b.server != nil {
		return b.server.NumRemotes()
	}
	if b.conn.IsConnected() {
		return 1
	}
	return 0
}

// Heard is how many messages came, and how many of them were dropped because no replica had signed them.
func (b *Bus) Heard() (all, forged int64) { return b.heard.Load(), b.forged.Load() }

// Close delivers what was published, ends all subscriptions, waits for their functions to return, and stops the server.
// When ctx ends first, what is left is dropped and ctx's error returned.
func (b *Bus) Close(ctx context.Context) (err error) {
	b.once.Do(func() {
		if drain := b.conn.Drain(); drain != nil {
			b.conn.Close()
		}
		select {
		case <-b.closed:
		case <-ctx.Done():
			err = ctx.Err()
			b.conn.Close()
		}
		if b.server != nil {
			b.server.Shutdown()
			b.server.WaitForShutdown()
		}
	})
	return err
}

// Nudge tells everybody, this replica included.
func (b *Bus) Nudge(n Nudge) error { return publish(b, subjectNudge, n) }

// OnNudge has a function called for every nudge, in order, until stop is called or the bus is closed.
func (b *Bus) OnNudge(do func(Nudge)) (stop func(), err error) { return subscribe(b, subjectNudge, do) }

// Announce tells everybody of comings and goings.
func (b *Bus) Announce(batch []Presence) error {
	const atOnce = 1000 // some 200 bytes each
	var failed error
	for len(batch) > 0 {
		n := min(len(batch), atOnce)
		failed = errors.Join(failed, publish(b, subjectPresence, batch[:n]))
		batch = batch[n:]
	}
	return failed
}

// OnPresence has a function called for what is announced, in the order of each replica.
func (b *Bus) OnPresence(do func([]Presence)) (stop func(), err error) {
	return subscribe(b, subjectPresence, do)
}

// CallRoll asks every replica to announce whom it holds.
func (b *Bus) CallRoll(r Roll) error { return publish(b, subjectRoll, r) }

// OnRoll has a function called when somebody asks.
func (b *Bus) OnRoll(do func(Roll)) (stop func(), err error) { return subscribe(b, subjectRoll, do) }

// Ask sends a question, or its answer, to the replica that it names.
func (b *Bus) Ask(q Question) error { return publish(b, subjectQuestion, q) }

// OnQuestion has a function called for every question and answer, whomever it is for.
func (b *Bus) OnQuestion(do func(Question)) (stop func(), err error) {
	return subscribe(b, subjectQuestion, do)
}

// publish hands a message over; it does not wait for anybody to read it.
func publish[T any](b *Bus, subject string, message T) error {
	payload, err := json.Marshal(message)
	if err != nil {
		return fmt.Errorf("encoding for %s: %w", subject, err)
	}
	if b.signer != nil {
		if payload, err = b.signed(subject, payload); err != nil {
			return fmt.Errorf("signing for %s: %w", subject, err)
		}
	}
	if err := b.conn.Publish(subject, payload); err != nil {
		return fmt.Errorf("publishing on %s: %w", subject, err)
	}
	return nil
}

// subscribe calls do with every message that can be read.
func subscribe[T any](b *Bus, subject string, do func(T)) (stop func(), err error) {
	s, err := b.conn.Subscribe(subject, func(m *nats.Msg) {
		b.heard.Add(1)
		payload, err := b.opened(subject, m.Data)
		if err != nil {
			if b.forged.Add(1) == 1 { // once: whoever does it may do it a thousand times a second
				b.logger.Warn("somebody who is no replica publishes on the bus; it is passed over", "subject", subject, "error", err)
			}
			return
		}
		message, err := decode[T](payload)
		if err != nil {
			b.logger.Warn("a message of the bus cannot be read", "subject", subject, "error", err)
			return
		}
		do(message)
	})
	if err != nil {
		return nil, fmt.Errorf("subscribing to %s: %w", subject, err)
	}
	return func() { _ = s.Unsubscribe() }, nil // it fails only when the bus is closed
}

func decode[T any](payload []byte) (message T, err error) {
	err = json.Unmarshal(payload, &message)
	return message, err
}

// logger gives the server's words to ours. What it notices of its own life is of no interest to an operator.
type logger struct{ to *slog.Logger }

func (l logger) Noticef(format string, v ...any) { l.to.Debug("bus: " + fmt.Sprintf(format, v...)) }
func (l logger) Debugf(format string, v ...any)  { l.to.Debug("bus: " + fmt.Sprintf(format, v...)) }
func (l logger) Tracef(format string, v ...any)  { l.to.Debug("bus: " + fmt.Sprintf(format, v...)) }
func (l logger) Warnf(format string, v ...any) {
	level := slog.LevelWarn
	if strings.HasPrefix(format, "TLS certificate chain and hostname of solicited routes") {
		level = slog.LevelDebug // routes are verified by key, see keys.PeerTLS
	}
	l.to.Log(context.Background(), level, "bus: "+fmt.Sprintf(format, v...))
}
func (l logger) Errorf(format string, v ...any) { l.to.Error("bus: " + fmt.Sprintf(format, v...)) }
func (l logger) Fatalf(format string, v ...any) { l.to.Error("bus: " + fmt.Sprintf(format, v...)) }

// Package bus is how replicas of the control plane hear of each other.
//
// It carries hints and ids, never authority and no secrets: whoever could write to it could wake replicas and confuse
// them about who is online, but command nobody. What a message announces, its reader looks up. Messages may be lost:
// nudges are repeated by polling, presence by a roll call, which every replica makes at its start and after Lost.
//
// The bus is core NATS, embedded: the server runs in this process, opens no port, and is spoken to in memory. A replica
// hears its own messages as well; presence names its replica, so that a reader can pass over its own.
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
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync"
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
}

// Bus is an open bus. Its methods are safe for concurrent use.
type Bus struct {
	logger *slog.Logger
	server *server.Server
	conn   *nats.Conn
	closed chan struct{}
	once   sync.Once
}

// openTimeout is how long the embedded server may take to be ready.
const openTimeout = 10 * time.Second

// Open starts the embedded server and connects to it in memory.
func Open(o Options) (*Bus, error) {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	s, err := server.NewServer(&server.Options{
		DontListen: true, // no port, for clients or for routes
		NoSigs:     true, // signals are the program's
		NoLog:      true,
		MaxPayload: maxMessage,
	})
	if err != nil {
		return nil, fmt.Errorf("starting the embedded bus: %w", err)
	}
	s.SetLoggerV2(logger{o.Logger}, false, false, false)
	s.Start()
	if !s.ReadyForConnections(openTimeout) {
		s.Shutdown()
		return nil, fmt.Errorf("the embedded bus was not ready after %s", openTimeout)
	}
	b := &Bus{logger: o.Logger, server: s, closed: make(chan struct{})}
	lost := func(reason error) {
		o.Logger.Warn("messages of the bus may have been lost", "reason", reason)
		if o.Lost != nil {
			o.Lost()
		}
	}
	b.conn, err = nats.Connect("", nats.InProcessServer(s), nats.MaxReconnects(-1),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { lost(err) }),
		nats.ReconnectHandler(func(*nats.Conn) { lost(errors.New("reconnected")) }),
		nats.ClosedHandler(func(*nats.Conn) { close(b.closed) }))
	if err != nil {
		s.Shutdown()
		return nil, fmt.Errorf("connecting to the embedded bus: %w", err)
	}
	return b, nil
}

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
		b.server.Shutdown()
		b.server.WaitForShutdown()
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
	if err := b.conn.Publish(subject, payload); err != nil {
		return fmt.Errorf("publishing on %s: %w", subject, err)
	}
	return nil
}

// subscribe calls do with every message that can be read.
func subscribe[T any](b *Bus, subject string, do func(T)) (stop func(), err error) {
	s, err := b.conn.Subscribe(subject, func(m *nats.Msg) {
		message, err := decode[T](m.Data)
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
func (l logger) Warnf(format string, v ...any)   { l.to.Warn("bus: " + fmt.Sprintf(format, v...)) }
func (l logger) Errorf(format string, v ...any)  { l.to.Error("bus: " + fmt.Sprintf(format, v...)) }
func (l logger) Fatalf(format string, v ...any)  { l.to.Error("bus: " + fmt.Sprintf(format, v...)) }

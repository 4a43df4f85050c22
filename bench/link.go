package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/lxzan/gws"
	"google.golang.org/protobuf/proto"

	pb "github.com/loopbackd/loopback/api/loopback/v1"
	"github.com/loopbackd/loopback/test/daemon"
	"github.com/loopbackd/loopback/test/fleet"
)

// sockets are a rival's client ends.
type sockets struct {
	all    []*socket
	closed sync.WaitGroup
}

type socket struct {
	gws.BuiltinEventHandler
	conn  *gws.Conn
	heard chan struct{}
}

func (s *socket) OnMessage(_ *gws.Conn, m *gws.Message) {
	_ = m.Close()
	s.heard <- struct{}{}
}

func dialSockets(ctx context.Context, address string, n int) (*sockets, error) {
	out := &sockets{all: make([]*socket, n)}
	err := each(n, abreast, func(i int) error {
		raw, err := tls.DialWithDialer(from(8, i), "tcp", address, &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS13}) // it is a rival of ours
		if err != nil {
			return err
		}
		s := &socket{heard: make(chan struct{}, 1)}
		if s.conn, _, err = gws.NewClientFromConn(s, &gws.ClientOption{Addr: "wss://" + address, ReadBufferSize: 512, WriteBufferSize: 512}, raw); err != nil {
			return err
		}
		out.all[i] = s
		out.closed.Go(s.conn.ReadLoop)
		return ctx.Err()
	})
	return out, err
}

func (s *sockets) close() {
	for _, one := range s.all {
		if one != nil {
			_ = one.conn.NetConn().Close() // its loop ends by that
		}
	}
	s.closed.Wait()
}

// linked are welcomed sessions that nobody reads yet.
func linked(ctx context.Context, agents []*fleet.Agent) ([]*fleet.Session, error) {
	out := make([]*fleet.Session, len(agents))
	return out, each(len(agents), abreast, func(i int) (err error) {
		out[i], err = agents[i].Link(ctx)
		return err
	})
}

func part(sessions []*fleet.Session) error {
	return each(len(sessions), abreast, func(i int) error {
		if sessions[i] == nil {
			return nil
		}
		return sessions[i].Conn.Close()
	})
}

// exchange sends a heartbeat and waits for its pulse; what else comes is what a link's beginning brings.
func exchange(ctx context.Context, s *fleet.Session, frame []byte) error {
	if err := s.Conn.Send(ctx, frame); err != nil {
		return err
	}
	for {
		b, err := s.Conn.Receive(ctx)
		if err != nil {
			return err
		}
		var f pb.ServerFrame
		if err := proto.Unmarshal(b, &f); err != nil {
			return err
		}
		if f.GetPulse() != nil {
			return nil
		}
		if r := f.GetRefusal(); r != nil {
			return fmt.Errorf("the control plane refused: %s", r.GetMessage())
		}
	}
}

// storm has n ends exchange messages as fast as they can for a while, and gives how many a second of the processor time
// of the server came back.
func storm(ctx context.Context, pid, n int, long time.Duration, once func(ctx context.Context, i int) error) (perCPU float64, cpu time.Duration, err error) {
	before, err := daemon.CPU(pid)
	if err != nil {
		return 0, 0, err
	}
	end := time.Now().Add(long)
	var count atomic.Int64
	if err := each(n, n, func(i int) error {
		for time.Now().Before(end) {
			if err := once(ctx, i); err != nil {
				return err
			}
			count.Add(1)
		}
		return nil
	}); err != nil {
		return 0, 0, err
	}
	after, err := daemon.CPU(pid)
	cpu = after - before
	return float64(count.Load()) / cpu.Seconds(), cpu, err
}

// beating is how many links beat at a time in a storm.
const beating = 256

// link measures what it costs to hold agents: processor time to connect, memory while linked, processor time to beat.
// Each round has a fresh process on both sides; the control plane's has every host in memory already.
func (b *bench) link(ctx context.Context) ([]Result, error) {
	const rival = "plain gws WebSocket over TLS 1.3"
	connecting := &figure{Result: Result{Name: "server processor time to connect and say hello", Unit: "µs", Rival: rival + ", no identity", Target: 900, Better: "lower"}}
	memory := &figure{Result: Result{Name: fmt.Sprintf("server memory an agent, %d linked, no forced collection", b.agents), Unit: "KiB", Rival: rival, Target: 32, Better: "lower"}}
	beats := &figure{Result: Result{Name: "heartbeats a second of server processor time", Unit: "1/cpu-s", Rival: rival + ", 200 byte echo", Target: 30_000, Better: "higher"}}
	d, err := b.start(ctx, "link")
	if err != nil {
		return nil, err
	}
	defer func() { _ = d.Kill() }() // its data goes with it
	empty, err := daemon.Resident(d.PID())
	if err != nil {
		return nil, err
	}
	agents, err := simulated(ctx, d, 0, b.agents)
	if err != nil {
		return nil, err
	}
	if err := each(len(agents), abreast, func(i int) error { return agents[i].Enrol(ctx) }); err != nil {
		return nil, fmt.Errorf("enrol: %w", err)
	}
	for range b.rounds {
		if err := b.linkRound(ctx, d, agents, empty, connecting, memory, beats); err != nil {
			return nil, err
		}
	}
	return []Result{connecting.result(), memory.result(), beats.result()}, nil
}

// weighed is one side of a round.
type weighed struct {
	connecting, beating time.Duration
	memory              int64
	rate                float64
}

const (
	rests  = 3 // heartbeats of every link before the memory is read
	storms = 4 * time.Second
)

func (b *bench) linkRound(ctx context.Context, d *daemon.Daemon, agents []*fleet.Agent, empty int64, connecting, memory, beats *figure) error {
	ours, err := b.weighOurs(ctx, d, agents)
	if err != nil {
		return err
	}
	theirs, err := b.weighRival(ctx, len(agents))
	if err != nil {
		return err
	}
	n := float64(len(agents))
	connecting.add(float64(ours.connecting.Microseconds())/n, float64(theirs.connecting.Microseconds())/n, ours.connecting)
	memory.add(float64(ours.memory-empty)/n/1024, float64(theirs.memory)/n/1024, 0)
	beats.add(ours.rate, theirs.rate, ours.beating)
	return nil
}

func (b *bench) weighOurs(ctx context.Context, d *daemon.Daemon, agents []*fleet.Agent) (w weighed, err error) {
	if err := d.Kill(); err != nil {
		return w, err
	}
	if err := d.Restart(ctx); err != nil {
		return w, err
	}
	before, err := daemon.CPU(d.PID())
	if err != nil {
		return w, err
	}
	sessions, err := linked(ctx, agents)
	defer func() { err = errors.Join(err, part(sessions)) }()
	if err != nil {
		return w, fmt.Errorf("link: %w", err)
	}
	after, err := daemon.CPU(d.PID())
	if err != nil {
		return w, err
	}
	w.connecting = after - before
	beat, err := proto.Marshal(&pb.AgentFrame{Body: &pb.AgentFrame_Heartbeat{Heartbeat: &pb.Heartbeat{Sequence: 1}}})
	if err != nil {
		return w, err
	}
	for range rests {
		if err := each(len(sessions), beating, func(i int) error { return exchange(ctx, sessions[i], beat) }); err != nil {
			return w, fmt.Errorf("beat: %w", err)
		}
	}
	if w.memory, err = daemon.Resident(d.PID()); err != nil {
		return w, err
	}
	w.rate, w.beating, err = storm(ctx, d.PID(), min(beating, len(sessions)), storms, func(ctx context.Context, i int) error { return exchange(ctx, sessions[i], beat) })
	return w, err
}

func (b *bench) weighRival(ctx context.Context, n int) (w weighed, err error) {
	r, address, err := b.startRival(ctx, "websocket")
	if err != nil {
		return w, err
	}
	defer func() { err = errors.Join(err, r.close()) }()
	empty, err := daemon.Resident(r.pid())
	if err != nil {
		return w, err
	}
	before, err := daemon.CPU(r.pid())
	if err != nil {
		return w, err
	}
	s, err := dialSockets(ctx, address, n)
	defer s.close()
	if err != nil {
		return w, fmt.Errorf("dial the rival: %w", err)
	}
	after, err := daemon.CPU(r.pid())
	if err != nil {
		return w, err
	}
	w.connecting = after - before
	message := make([]byte, 200)
	once := func(ctx context.Context, i int) error {
		if err := s.all[i].conn.WriteMessage(gws.OpcodeBinary, message); err != nil {
			return err
		}
		select {
		case <-s.all[i].heard:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	for range rests {
		if err := each(n, beating, func(i int) error { return once(ctx, i) }); err != nil {
			return w, err
		}
	}
	full, err := daemon.Resident(r.pid())
	if err != nil {
		return w, err
	}
	w.memory = full - empty
	w.rate, w.beating, err = storm(ctx, r.pid(), min(beating, n), storms, once)
	return w, err
}

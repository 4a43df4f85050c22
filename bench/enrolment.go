package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"connectrpc.com/connect"

	pb "github.com/loopbackd/loopback/api/loopback/v1"
	"github.com/loopbackd/loopback/test/daemon"
	"github.com/loopbackd/loopback/test/fleet"
	"github.com/loopbackd/loopback/wire"
)

// unlimited lets a control plane take what it can: what it admits is measured, not what it is told to admit.
var unlimited = []string{"--enrolment-rate", "1000000", "--admission-rate", "1000000", "--log-level", "error"}

func (b *bench) start(ctx context.Context, name string) (*daemon.Daemon, error) {
	dir := filepath.Join(b.dir, name)
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, err
	}
	return daemon.Start(ctx, daemon.Options{Program: b.program, Dir: dir, Args: unlimited})
}

// simulated are agents that have not done anything yet.
func simulated(ctx context.Context, d *daemon.Daemon, from, n int) ([]*fleet.Agent, error) {
	minted, err := d.Mint(ctx, n)
	if err != nil {
		return nil, err
	}
	out := make([]*fleet.Agent, n)
	for i := range out {
		out[i] = &fleet.Agent{Dialer: d.Dialer(wire.WebSocket, from+i), Token: minted.GetSecret(), Name: fmt.Sprintf("host-%06d", from+i),
			Version: "0.0.0-simulated", BootID: fmt.Sprintf("boot-%06d", from+i)}
	}
	return out, nil
}

// each does n things, at so many at a time, and gives the first error.
func each(n, at int, do func(i int) error) error {
	var all sync.WaitGroup
	var once sync.Once
	var first error
	slots := make(chan struct{}, at)
	for i := range n {
		slots <- struct{}{}
		all.Go(func() {
			defer func() { <-slots }()
			if err := do(i); err != nil {
				once.Do(func() { first = err })
			}
		})
	}
	all.Wait()
	return first
}

// abreast is how many agents shake hands at a time.
const abreast = 128

// enrolment counts hosts that came to be: handshake, proof, a use of the token, the host and both audit entries, durable.
func (b *bench) enrolment(ctx context.Context) ([]Result, error) {
	d, err := b.start(ctx, "enrolment")
	if err != nil {
		return nil, err
	}
	defer func() { _ = d.Kill() }() // its data goes with it
	r, _, err := b.startRival(ctx, "sqlite", filepath.Join(b.dir, "rival-enrolment.db"))
	if err != nil {
		return nil, err
	}
	defer func() { _ = r.close() }() // likewise
	const rival = "one bare SQLite row a transaction, synchronous=FULL; no TLS, handshake or audit"
	wall := &figure{Result: Result{Name: "durable enrolments, both ends on this machine", Unit: "1/s", Rival: rival, Target: 400, Better: "higher"}}
	core := &figure{Result: Result{Name: "durable enrolments a second of server processor time", Unit: "1/cpu-s", Rival: rival, Target: 400, Better: "higher"}}
	for round := range b.rounds {
		agents, err := simulated(ctx, d, round*b.agents, b.agents)
		if err != nil {
			return nil, err
		}
		before, err := daemon.CPU(d.PID())
		if err != nil {
			return nil, err
		}
		began := time.Now()
		if err := each(len(agents), abreast, func(i int) error { return agents[i].Enrol(ctx) }); err != nil {
			return nil, fmt.Errorf("enrol: %w", err)
		}
		took := time.Since(began)
		after, err := daemon.CPU(d.PID())
		if err != nil {
			return nil, err
		}
		rows, rowsCPU, err := r.insert(1000)
		if err != nil {
			return nil, err
		}
		cpu := after - before
		wall.add(float64(b.agents)/took.Seconds(), rows, cpu)
		core.add(float64(b.agents)/cpu.Seconds(), 1000/max(rowsCPU, 10*time.Millisecond).Seconds(), cpu)
	}
	hosts, err := d.AllHosts(ctx)
	if err != nil {
		return nil, err
	}
	if want := b.rounds * b.agents; len(hosts) != want {
		return nil, fmt.Errorf("%d hosts are there, %d were enrolled", len(hosts), want)
	}
	return []Result{wall.result(), core.result()}, nil
}

// storage counts changes through the API: authorised, audited, durable.
func (b *bench) storage(ctx context.Context) ([]Result, error) {
	d, err := b.start(ctx, "storage")
	if err != nil {
		return nil, err
	}
	defer func() { _ = d.Kill() }() // its data goes with it
	r, _, err := b.startRival(ctx, "sqlite", filepath.Join(b.dir, "rival-storage.db"))
	if err != nil {
		return nil, err
	}
	defer func() { _ = r.close() }() // likewise
	f := &figure{Result: Result{Name: "tokens minted through the API, each audited and durable, 64 callers", Unit: "1/s",
		Rival: "one bare SQLite row a transaction, synchronous=FULL; no API, no audit", Target: 400, Better: "higher"}}
	slow := &figure{Result: Result{Name: "p99 of such a call", Unit: "ms", Target: 200, Better: "lower"}}
	for range b.rounds {
		const calls = 2000
		took := make([]time.Duration, calls)
		before, err := daemon.CPU(d.PID())
		if err != nil {
			return nil, err
		}
		began := time.Now()
		if err := each(calls, 64, func(i int) error {
			at := time.Now()
			_, err := d.Tokens.MintToken(ctx, connect.NewRequest(&pb.MintTokenRequest{Workspace: d.Workspace, MaxUses: 1}))
			took[i] = time.Since(at)
			return err
		}); err != nil {
			return nil, err
		}
		wall := time.Since(began)
		after, err := daemon.CPU(d.PID())
		if err != nil {
			return nil, err
		}
		rows, _, err := r.insert(1000)
		if err != nil {
			return nil, err
		}
		f.add(calls/wall.Seconds(), rows, after-before)
		slow.add(share(took, 0.99).Seconds()*1000, 0, after-before)
	}
	return []Result{f.result(), slow.result()}, nil
}

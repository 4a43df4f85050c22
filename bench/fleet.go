package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"connectrpc.com/connect"

	pb "github.com/loopbackd/loopback/api/loopback/v1"
	"github.com/loopbackd/loopback/test/daemon"
)

// fanned is how many hosts the change of one section item goes to.
const fanned = 10_000

// fleet holds as many agents in one control plane as the descriptors of a process allow, and does with them what a
// fleet does: enrol, rest, beat, take a change, and come back after the control plane was killed. Two floors stand
// beside it all the time, with as many connections, and are measured in turn with it. An operator keeps asking.
func (b *bench) fleet(ctx context.Context) (_ []Result, err error) {
	n, err := b.fleetSize()
	if err != nil {
		return nil, err
	}
	f := &fleetRun{bench: b, n: n}
	if f.d, err = b.start(ctx, "fleet"); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.d.Kill()) }()
	defer func() { err = errors.Join(err, f.close()) }()
	if f.empty, err = daemon.Resident(f.d.PID()); err != nil {
		return nil, err
	}
	if err := f.gather(ctx); err != nil {
		return nil, err
	}
	f.operator = watchOperator(ctx, f.d)
	for _, step := range []struct {
		name string
		do   func(context.Context) error
	}{
		{"enrol", f.enrol}, {"link", f.link}, {"floors", f.raise}, {"rest", f.rest}, {"beat", f.beat}, {"change", f.change}, {"kill", f.kill},
	} {
		began := time.Now()
		if err := step.do(ctx); err != nil {
			return f.results, errors.Join(fmt.Errorf("%s: %w", step.name, err), f.operator.stop())
		}
		fmt.Fprintf(os.Stderr, "  %s took %s\n", step.name, time.Since(began).Round(time.Second))
	}
	if err := f.operator.stop(); err != nil {
		return f.results, err
	}
	asked := f.operator.took
	f.add(Result{Name: fmt.Sprintf("p99 of an operator's call during all of it, of %d", len(asked)), Unit: "ms", Value: share(asked, 0.99).Seconds() * 1000, Target: 200, Better: "lower", Runs: len(asked)})
	return f.results, nil
}

// fleetSize leaves room for what a process has open beside its connections.
func (b *bench) fleetSize() (int, error) {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return 0, err
	}
	n := min(b.fleets, int(limit.Max)-500)
	if n < b.fleets {
		fmt.Fprintf(os.Stderr, "fleet: %d agents instead of %d: a process may have %d descriptors (ulimit -n)\n", n, b.fleets, limit.Max)
	}
	if n < 2 {
		return 0, fmt.Errorf("a process may have %d descriptors, which is too few", limit.Max)
	}
	return n, nil
}

// fleetRun is a run of the area.
type fleetRun struct {
	*bench
	n        int
	d        *daemon.Daemon
	empty    int64    // memory of the server before there was anybody
	crowds   []*crowd // of agents; those of the first take the change
	floors   []*floor
	operator *operator
	results  []Result
}

// floor is a rival with the ends of its connections.
type floor struct {
	name    string
	process *rival
	ends    *crowd
	memory  int64
}

func (f *fleetRun) close() error {
	var err error
	for _, c := range f.crowds {
		err = errors.Join(err, c.process.close())
	}
	for _, r := range f.floors {
		if r.ends != nil {
			err = errors.Join(err, r.ends.process.close())
		}
		err = errors.Join(err, r.process.close())
	}
	return err
}

func (f *fleetRun) add(r Result) {
	if r.RivalValue != 0 {
		r.Ratio = r.Value / r.RivalValue
	}
	r.Runs = max(r.Runs, 1)
	r.Met = r.Better == "higher" && r.Value >= r.Target || r.Better == "lower" && r.Value <= r.Target
	f.results = append(f.results, r)
}

// spent is the processor time of the server that something took.
func (f *fleetRun) spent(do func() error) (time.Duration, error) {
	before, err := daemon.CPU(f.d.PID())
	if err != nil {
		return 0, err
	}
	if err := do(); err != nil {
		return 0, err
	}
	after, err := daemon.CPU(f.d.PID())
	return after - before, err
}

// gather makes the crowds: one in a workspace of its own, which the change goes to, and the rest beside it.
func (f *fleetRun) gather(ctx context.Context) error {
	roots, err := os.ReadFile(filepath.Join(f.d.DataDir, "keys", "ca.crt"))
	if err != nil {
		return err
	}
	w, err := f.d.Workspaces.CreateWorkspace(ctx, connect.NewRequest(&pb.CreateWorkspaceRequest{Project: "default", Name: "changed"}))
	if err != nil {
		return err
	}
	sizes := []int{min(fanned, f.n), max(f.n-fanned, 0)}
	for i, in := range []*daemon.Client{f.d.In(w.Msg.GetName()), f.d.Client} {
		if sizes[i] == 0 {
			continue
		}
		c, err := f.startCrowd(ctx, sizes[i])
		if err != nil {
			return err
		}
		f.crowds = append(f.crowds, c)
		minted, err := in.Mint(ctx, sizes[i])
		if err != nil {
			return err
		}
		if _, err := c.ask(order{Do: "agents", Agents: mission{URL: f.d.URL, Roots: roots, Anchor: f.d.Anchor, Token: minted.GetSecret(), From: i * fanned, N: sizes[i]}}); err != nil {
			return err
		}
	}
	return nil
}

// enrol has all enrol, crowd by crowd, abreast at a time each.
func (f *fleetRun) enrol(context.Context) error {
	began := time.Now()
	cpu, err := f.spent(func() error { _, err := askAll(f.crowds, order{Do: "enrol"}); return err })
	if err != nil {
		return err
	}
	f.add(Result{Name: fmt.Sprintf("durable enrolments a second of server processor time, %d in a row", f.n), Unit: "1/cpu-s", Value: float64(f.n) / cpu.Seconds(), Target: 400, Better: "higher", CPUSeconds: cpu.Seconds()})
	f.add(Result{Name: "such enrolments a second, both ends on this machine", Unit: "1/s", Value: float64(f.n) / time.Since(began).Seconds(), Target: 400, Better: "higher", CPUSeconds: cpu.Seconds()})
	return nil
}

// link has all link.
func (f *fleetRun) link(context.Context) error {
	cpu, err := f.spent(func() error { _, err := askAll(f.crowds, order{Do: "run"}); return err })
	if err != nil {
		return err
	}
	f.add(Result{Name: "server processor time to connect, say hello and take the first section", Unit: "µs", Value: float64(cpu.Microseconds()) / float64(f.n), Target: 900, Better: "lower", CPUSeconds: cpu.Seconds()})
	return nil
}

// raise puts the floors beside it.
func (f *fleetRun) raise(ctx context.Context) error {
	for _, kind := range []struct{ role, name string }{{"websocket", "plain gws WebSocket over TLS 1.3"}, {"tls", "raw TLS 1.3"}} {
		process, address, err := f.startRival(ctx, kind.role)
		if err != nil {
			return err
		}
		r := &floor{name: kind.name, process: process}
		f.floors = append(f.floors, r)
		empty, err := daemon.Resident(process.pid())
		if err != nil {
			return err
		}
		if r.ends, err = f.startCrowd(ctx, f.n); err != nil {
			return err
		}
		if _, err := r.ends.ask(order{Do: "floor", Kind: kind.role, Address: address, N: f.n}); err != nil {
			return err
		}
		if _, err := r.ends.ask(order{Do: "echo", Every: time.Second, For: rests * time.Second}); err != nil {
			return err
		}
		full, err := daemon.Resident(process.pid())
		if err != nil {
			return err
		}
		r.memory = full - empty
	}
	return nil
}

// memory tells what the agents weigh, beside what the floors do.
func (f *fleetRun) memory(when string) error {
	now, err := daemon.Resident(f.d.PID())
	if err != nil {
		return err
	}
	for _, r := range f.floors {
		f.add(Result{Name: fmt.Sprintf("server memory an agent, %d %s, no forced collection", f.n, when), Unit: "KiB",
			Value: float64(now-f.empty) / float64(f.n) / 1024, Rival: r.name, RivalValue: float64(r.memory) / float64(f.n) / 1024, Target: 32, Better: "lower"})
	}
	return nil
}

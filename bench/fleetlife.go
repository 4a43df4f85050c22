package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"connectrpc.com/connect"

	pb "github.com/loopbackd/loopback/api/loopback/v1"
	"github.com/loopbackd/loopback/test/daemon"
)

const (
	turn     = 5 * time.Second  // of each side in a round of heartbeats
	settled  = 12 * time.Second // until every agent has heard of a new pace: a heartbeat at the old one, and some
	commits  = "loopback_database_commit_seconds_count"
	bytesIn  = `loopback_link_bytes_total{direction="in"}`
	bytesOut = `loopback_link_bytes_total{direction="out"}`
)

// rest lets every agent beat some times, counts what that costs the database, and weighs the server.
func (f *fleetRun) rest(ctx context.Context) error {
	if err := f.atPace(ctx, time.Second); err != nil {
		return err
	}
	before, err := f.d.Metric(ctx, commits)
	if err != nil {
		return err
	}
	beats, err := f.d.Metric(ctx, "loopback_link_heartbeats_total")
	if err != nil {
		return err
	}
	if err := wait(ctx, turn); err != nil {
		return err
	}
	after, err := f.d.Metric(ctx, commits)
	if err != nil {
		return err
	}
	more, err := f.d.Metric(ctx, "loopback_link_heartbeats_total")
	if err != nil {
		return err
	}
	f.add(Result{Name: fmt.Sprintf("database transactions for %.0f idle heartbeats", more-beats), Unit: "commits", Value: after - before, Target: 0, Better: "lower"})
	return f.memory("linked and beating")
}

// atPace has all agents beat so often; 0: as the control plane says.
func (f *fleetRun) atPace(ctx context.Context, every time.Duration) error {
	if _, err := askAll(f.crowds, order{Do: "pace", Every: every}); err != nil {
		return err
	}
	return wait(ctx, settled)
}

func wait(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// beat measures heartbeats in turn with the floors' echoes: every connection once a second, on either side. What a server
// can do is seen when it is not idle between two messages: crowds that stand back would have it woken for each of them.
func (f *fleetRun) beat(ctx context.Context) (err error) {
	if err := f.renice(0); err != nil {
		return err
	}
	f.operator.pause(true) // its calls are not what a heartbeat costs, and what a rival's crowd costs it is not our doing
	defer func() {
		err = errors.Join(err, f.renice(standingBack))
		f.operator.pause(false)
	}()
	beats := make([]*figure, len(f.floors))
	for i, r := range f.floors {
		beats[i] = &figure{Result: Result{Name: fmt.Sprintf("heartbeats a second of server processor time, %d links once a second", f.n), Unit: "1/cpu-s", Rival: r.name + ", 200 byte echo", Target: 30_000, Better: "higher"}}
	}
	for range f.rounds {
		before, err := f.d.Metric(ctx, "loopback_link_heartbeats_total")
		if err != nil {
			return err
		}
		cpu, err := f.spent(func() error { return wait(ctx, turn) })
		if err != nil {
			return err
		}
		after, err := f.d.Metric(ctx, "loopback_link_heartbeats_total")
		if err != nil {
			return err
		}
		for i, r := range f.floors {
			idle, err := daemon.CPU(r.process.pid())
			if err != nil {
				return err
			}
			echoed, err := r.ends.ask(order{Do: "echo", Every: time.Second, For: turn})
			if err != nil {
				return err
			}
			busy, err := daemon.CPU(r.process.pid())
			if err != nil {
				return err
			}
			beats[i].add((after-before)/cpu.Seconds(), float64(echoed.Count)/(busy-idle).Seconds(), cpu)
		}
	}
	for _, fig := range beats {
		f.results = append(f.results, fig.result())
	}
	return f.atPace(ctx, 0)
}

func (f *fleetRun) renice(to int) (err error) {
	for _, c := range f.crowds {
		err = errors.Join(err, c.renice(to))
	}
	for _, r := range f.floors {
		err = errors.Join(err, r.ends.renice(to))
	}
	return err
}

// change has an operator change one item of the settings of 10,000 hosts, and measures until each has applied it and
// said so, and until the control plane has all of that on its disk.
func (f *fleetRun) change(ctx context.Context) error {
	n := f.crowds[0].n
	slow := &figure{Result: Result{Name: fmt.Sprintf("one section item changed for %d hosts, applied and reported, p99", n), Unit: "ms", Target: 1000, Better: "lower"}}
	all := &figure{Result: Result{Name: fmt.Sprintf("such a change until the last of %d reports is on disk", n), Unit: "ms", Target: 3000, Better: "lower"}}
	size := &figure{Result: Result{Name: "bytes to a host for such a change, before they are sealed", Unit: "B", Target: 160, Better: "lower"}}
	for round := range f.rounds {
		level := []string{"debug", "warn"}[round%2]
		if _, err := f.crowds[0].ask(order{Do: "expect"}); err != nil {
			return err
		}
		stored, err := f.d.Metric(ctx, `loopback_link_observations_total{result="stored"}`)
		if err != nil {
			return err
		}
		sent, err := f.d.Metric(ctx, bytesOut)
		if err != nil {
			return err
		}
		began := time.Now()
		var took answer
		var done time.Duration
		cpu, err := f.spent(func() error {
			if _, err := f.d.Settings.SetSettings(ctx, connect.NewRequest(&pb.SetSettingsRequest{Workspace: "changed", Settings: &pb.AgentSettings{LogLevel: level}})); err != nil {
				return err
			}
			if took, err = f.crowds[0].ask(order{Do: "reported"}); err != nil {
				return err
			}
			for {
				now, err := f.d.Metric(ctx, `loopback_link_observations_total{result="stored"}`)
				if err != nil {
					return err
				}
				if done = time.Since(began); now-stored >= float64(n) {
					return nil
				}
				if err := wait(ctx, 20*time.Millisecond); err != nil {
					return err
				}
			}
		})
		if err != nil {
			return err
		}
		more, err := f.d.Metric(ctx, bytesOut)
		if err != nil {
			return err
		}
		each := make([]time.Duration, len(took.Times))
		for i, t := range took.Times {
			each[i] = time.Unix(0, t).Sub(began)
		}
		slow.add(share(each, 0.99).Seconds()*1000, 0, cpu)
		if err := f.applied(ctx, n); err != nil {
			return err
		}
		all.add(done.Seconds()*1000, 0, cpu)
		size.add((more-sent)/float64(n), 0, 0)
	}
	f.results = append(f.results, slow.result(), all.result(), size.result())
	return nil
}

// applied waits until the control plane says of every host what the hosts said of themselves.
func (f *fleetRun) applied(ctx context.Context, n int) error {
	for began := time.Now(); ; {
		err := f.agrees(ctx, n)
		if err == nil || time.Since(began) > patience {
			return err
		}
		if err := wait(ctx, 200*time.Millisecond); err != nil {
			return err
		}
	}
}

func (f *fleetRun) agrees(ctx context.Context, n int) error {
	count, managed := map[string]int{}, 0
	q := &pb.ListHostsRequest{Workspace: "changed", States: []string{"managed"}, Page: &pb.Page{Size: 1000}}
	for {
		r, err := f.d.Hosts.ListHosts(ctx, connect.NewRequest(q))
		if err != nil {
			return err
		}
		for _, h := range r.Msg.GetItems() {
			managed++
			for _, s := range h.GetSections() {
				count[s.GetRevision()+" "+s.GetStatus()]++
			}
		}
		if q.Page.Token = r.Msg.GetNextPageToken(); q.Page.Token == "" {
			break
		}
	}
	if managed != n || len(count) != 1 {
		return fmt.Errorf("of %d hosts %d are managed, their sections at %v", n, managed, count)
	}
	return nil
}

// kill ends the control plane without a word, starts it again, and measures until every agent is back and the control
// plane has found that it holds what it should.
func (f *fleetRun) kill(ctx context.Context) error {
	if _, err := askAll(f.crowds, order{Do: "mark"}); err != nil {
		return err
	}
	f.operator.pause(true)
	began := time.Now()
	if err := f.d.Kill(); err != nil {
		return err
	}
	if err := f.d.Restart(ctx); err != nil {
		return err
	}
	f.operator.pause(false)
	if _, err := askAll(f.crowds, order{Do: "back"}); err != nil {
		return err
	}
	for {
		synced, err := f.d.Metric(ctx, `loopback_link_sections_total{kind="skipped"}`)
		if err != nil {
			return err
		}
		if synced >= float64(f.n) {
			break
		}
		if err := wait(ctx, 20*time.Millisecond); err != nil {
			return err
		}
	}
	took := time.Since(began)
	cpu, err := daemon.CPU(f.d.PID()) // it began with the process
	if err != nil {
		return err
	}
	f.add(Result{Name: fmt.Sprintf("kill -9 until %d are back and found in sync", f.n), Unit: "s", Value: took.Seconds(), Target: 20, Better: "lower", CPUSeconds: cpu.Seconds()})
	for _, way := range []struct{ name, metric string }{{"bytes from a host that comes back holding the current revision, before they are sealed", bytesIn}, {"bytes to such a host", bytesOut}} {
		v, err := f.d.Metric(ctx, way.metric)
		if err != nil {
			return err
		}
		f.add(Result{Name: way.name, Unit: "B", Value: v / float64(f.n), Target: 200, Better: "lower"})
	}
	offline, err := f.d.Metric(ctx, `loopback_link_transitions_total{to="offline"}`)
	if err != nil {
		return err
	}
	f.add(Result{Name: "hosts shown offline because of it", Unit: "hosts", Value: offline, Target: 0, Better: "lower"})
	if err := f.atPace(ctx, time.Second); err != nil {
		return err
	}
	return f.memory("back after a kill")
}

// operator asks the API what people and scripts ask, one call after the other.
type operator struct {
	took   []time.Duration
	err    error
	cancel context.CancelFunc
	ended  chan struct{}

	mu     sync.Mutex // held while it asks, and while it must not
	paused bool
}

func watchOperator(ctx context.Context, d *daemon.Daemon) *operator {
	ctx, cancel := context.WithCancel(ctx)
	o := &operator{cancel: cancel, ended: make(chan struct{})}
	go func() {
		defer close(o.ended)
		calls := []func() error{
			func() error {
				_, err := d.Hosts.ListHosts(ctx, connect.NewRequest(&pb.ListHostsRequest{Page: &pb.Page{Size: 100}}))
				return err
			},
			func() error {
				_, err := d.Hosts.CountHosts(ctx, connect.NewRequest(&pb.CountHostsRequest{}))
				return err
			},
			func() error {
				_, err := d.Audit.ListEntries(ctx, connect.NewRequest(&pb.ListEntriesRequest{Page: &pb.Page{Size: 50}}))
				return err
			},
			func() error {
				_, err := d.Settings.GetSettings(ctx, connect.NewRequest(&pb.GetSettingsRequest{Workspace: "changed"}))
				return err
			},
		}
		for i := 0; wait(ctx, 50*time.Millisecond) == nil; i++ {
			o.ask(ctx, calls[i%len(calls)])
		}
	}()
	return o
}

func (o *operator) ask(ctx context.Context, call func() error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.paused || o.err != nil {
		return
	}
	began := time.Now()
	err := call()
	if ctx.Err() != nil {
		return
	}
	o.took, o.err = append(o.took, time.Since(began)), err
}

// pause keeps it from asking a control plane that is not there.
func (o *operator) pause(on bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.paused = on
}

func (o *operator) stop() error {
	o.cancel()
	<-o.ended
	return errors.Join(o.err)
}

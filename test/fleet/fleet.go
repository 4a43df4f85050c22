package fleet

import (
	"context"
	"fmt"
	"maps"
	"sync"

	"github.com/loopbackd/loopback/section"
)

// Counts of a fleet's doings.
type Counts struct {
	Enrolled   int            // agents that know that they are
	Linked     int            // now
	Links      int            // ever
	Pulses     int            // heartbeats answered
	Wholes     int            // sections taken
	Deltas     int            //
	Mismatches int            // deltas that did not fit
	Ended      int            // agents that gave up, or were told to
	Endings    map[string]int // of links and attempts, by the code of the reason
}

// Fleet is many agents at work.
type Fleet struct {
	Agents []*Agent

	dials   chan struct{}
	stop    context.CancelFunc
	running sync.WaitGroup

	mu     sync.Mutex
	counts Counts
	stir   chan struct{} // closed when something is counted
}

// Run starts n agents, each made by the template, and keeps them running until Stop. At most dials (0: 256) of them
// shake hands at a time: the machine that simulates is small as well.
func Run(ctx context.Context, n, dials int, template func(i int) *Agent) *Fleet {
	if dials == 0 {
		dials = 256
	}
	ctx, stop := context.WithCancel(ctx)
	f := &Fleet{dials: make(chan struct{}, dials), stop: stop, stir: make(chan struct{}), counts: Counts{Endings: map[string]int{}}}
	for i := range n {
		a := template(i)
		a.fleet = f
		if a.Name == "" {
			a.Name = fmt.Sprintf("host-%05d", i)
		}
		if a.Version == "" {
			a.Version = "0.0.0-simulated"
		}
		if a.BootID == "" {
			a.BootID = fmt.Sprintf("boot-%05d", i)
		}
		f.Agents = append(f.Agents, a)
	}
	for _, a := range f.Agents {
		f.running.Go(func() {
			if err := a.Run(ctx); err != nil {
				a.count(func(c *Counts) { c.Ended++ })
			}
		})
	}
	return f
}

// Stop ends all agents and waits for them.
func (f *Fleet) Stop() {
	f.stop()
	f.running.Wait()
}

// Counts is a copy.
func (f *Fleet) Counts() Counts {
	f.mu.Lock()
	defer f.mu.Unlock()
	c := f.counts
	c.Endings = maps.Clone(c.Endings)
	return c
}

// Wait returns when the counts satisfy done, or with what they are when ctx ends.
func (f *Fleet) Wait(ctx context.Context, done func(Counts) bool) error {
	for {
		f.mu.Lock()
		stir, now := f.stir, f.counts
		now.Endings = maps.Clone(now.Endings)
		f.mu.Unlock()
		if done(now) { // what it looks at takes its time: the agents go on meanwhile
			return nil
		}
		select {
		case <-stir:
		case <-ctx.Done():
			return fmt.Errorf("waiting for the fleet, which is at %+v: %w", f.Counts(), ctx.Err())
		}
	}
}

// InSync counts the agents that hold this value.
func (f *Fleet) InSync(want section.Section) int {
	n := 0
	for _, a := range f.Agents {
		if s := a.Holds(want.Name); s.Revision == want.Revision && s.Digest == want.Digest {
			n++
		}
	}
	return n
}

func (a *Agent) count(by func(*Counts)) {
	f := a.fleet
	if f == nil {
		return
	}
	f.mu.Lock()
	by(&f.counts)
	close(f.stir)
	f.stir = make(chan struct{})
	f.mu.Unlock()
}

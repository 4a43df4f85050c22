package fleet

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/host"
	"github.com/loopbackd/loopback/section"
	"github.com/loopbackd/loopback/server/link"
	"github.com/loopbackd/loopback/server/link/linktest"
	"github.com/loopbackd/loopback/settings"
	"github.com/loopbackd/loopback/wire"
)

// A hundred machines are copied, key and all. Each pair is locked within a heartbeat of the copy's first word, both stay
// linked and are sent nothing; an operator splits one half and drops from the other, and every machine that goes on does so
// with a key that no copy has.
func TestEveryClonedPairIsCaughtAndCanBeSplitOrDropped(t *testing.T) {
	const n = 100
	c := newControl(t, &linktest.Fleet{})
	first := want(t, c.Fleet, "info")
	f := running(t, c, n)
	wait(t, f, time.Minute, func(Counts) bool { return f.InSync(first) == n })

	began := time.Now()
	copies := make([]*Agent, n)
	g := Run(t.Context(), n, 64, func(i int) *Agent {
		copies[i] = f.Agents[i].Clone(fmt.Sprintf("copy-%05d", i))
		return copies[i]
	})
	t.Cleanup(g.Stop)
	locked := func() int {
		k := 0
		for _, a := range f.Agents {
			if known := c.Fleet.Lookup(a.HostID()); known.Clones.Locked() && len(known.Clones.Copies) == 2 && known.Lifecycle == host.LifecycleQuarantined {
				k++
			}
		}
		return k
	}
	wait(t, g, settings.DefaultHeartbeat, func(k Counts) bool { return locked() == n })
	took := time.Since(began)
	t.Logf("%d of %d cloned pairs were locked %v after the copies were switched on", locked(), n, took.Round(time.Millisecond))

	both := func() int {
		k := 0
		for i := range n {
			if f.Agents[i].Standing() == "quarantined" && copies[i].Standing() == "quarantined" {
				k++
			}
		}
		return k
	}
	wait(t, f, time.Minute, func(Counts) bool { return both() == n })
	want(t, c.Fleet, "debug")

	ids := make([]string, n)
	for i, a := range f.Agents {
		ids[i] = a.HostID()
		verdict, keep := host.SplitOff, a.BootID
		if i%2 == 1 {
			verdict = host.Dropped
		}
		if i%4 >= 2 { // the copy goes on, and the machine that was there first does not
			keep = copies[i].BootID
		}
		if err := c.Fleet.Decide(ids[i], keep, verdict); err != nil {
			t.Fatal(err)
		}
	}
	last := want(t, c.Fleet, "warn")
	done := func(i int) bool {
		kept, other := f.Agents[i], copies[i]
		if i%4 >= 2 {
			kept, other = other, kept
		}
		holds := func(a *Agent) bool {
			s := a.Holds("settings")
			return s.Revision == last.Revision && s.Digest == last.Digest
		}
		k := c.Fleet.Lookup(ids[i])
		if !holds(kept) || kept.HostID() != ids[i] || k.Generation != 2 || k.Lifecycle != host.LifecycleActive {
			return false
		}
		if i%2 == 1 {
			return true
		}
		return holds(other) && other.HostID() != ids[i]
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for i := range n {
		fleet := f
		for !done(i) {
			if err := fleet.Wait(ctx, func(Counts) bool { return done(i) }); err != nil {
				t.Fatalf("pair %d: %v; %+v", i, err, c.Fleet.Lookup(ids[i]))
			}
		}
	}
	wait(t, f, time.Minute, func(k Counts) bool { return k.Ended+g.Counts().Ended == n/2 })
	if hosts := len(c.Fleet.Hosts()); hosts != n+n/2 {
		t.Errorf("got %d hosts, wanted %d and one more for each pair that was split", hosts, n)
	}
}

// life is one machine to which things happen.
type life struct {
	t       *testing.T
	control *Control
	agent   *Agent
	session *Session
	stop    context.CancelFunc
	ended   chan struct{}
	old     ed25519.PrivateKey // of an earlier generation
	seed    *rand.Rand
}

// up links, however often it has to ask.
func (l *life) up(ctx context.Context) error {
	for {
		s, err := l.agent.Link(ctx)
		if err == nil {
			serving, stop := context.WithCancel(ctx)
			l.session, l.stop, l.ended = s, stop, make(chan struct{})
			ended := l.ended
			go func() {
				defer close(ended)
				_ = s.Serve(serving) // why it ended is of no interest: the next change makes another
			}()
			return nil
		}
		var refused *Refused
		if errors.As(err, &refused) && (refused.Final || refused.Fault.Code == "identity_unknown") {
			return err
		}
		pause := min(max(fault.Of(err).RetryAfter, 20*time.Millisecond), 200*time.Millisecond)
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w, the last time because of: %w", ctx.Err(), err)
		case <-time.After(pause):
		}
	}
}

// down ends the agent's part. Where it is cut, the control plane is not told.
func (l *life) down(cut bool) {
	if cut {
		l.session.PowerCut()
		l.t.Cleanup(func() { l.session.Conn.Close() })
	}
	l.stop()
	<-l.ended
}

func (l *life) known() *link.Known { return l.control.Fleet.Lookup(l.agent.HostID()) }

// await polls what another goroutine brings about.
func await(ctx context.Context, what string, is func() bool) error {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !is() {
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: %w", what, ctx.Err())
		case <-tick.C:
		}
	}
	return nil
}

// changes are what may happen to a machine. None of them makes it two.
var changes = map[string]func(ctx context.Context, l *life) error{
	"another address": func(ctx context.Context, l *life) error {
		l.down(true) // the packets of the old one go nowhere
		return l.up(ctx)
	},
	"another NIC, name and system": func(ctx context.Context, l *life) error {
		l.down(false)
		l.agent.Name = fmt.Sprintf("renamed-%d", l.seed.Int())
		if err := l.up(ctx); err != nil {
			return err
		}
		if l.session.sendInventory(ctx) != nil {
			return l.up(ctx) // the link ended meanwhile
		}
		return nil
	},
	"an agent of another version": func(ctx context.Context, l *life) error {
		l.down(false)
		l.agent.Version = fmt.Sprintf("0.%d.0", l.seed.IntN(100))
		return l.up(ctx)
	},
	"an agent of the build before, and back": func(ctx context.Context, l *life) error {
		l.down(l.seed.IntN(2) == 0)
		l.agent.Old = !l.agent.Old
		return l.up(ctx)
	},
	"a reboot": func(ctx context.Context, l *life) error {
		l.down(false)
		l.agent.BootID = fmt.Sprintf("boot-%d", l.seed.Int())
		l.agent.connection = 0
		return l.up(ctx)
	},
	"a power cut": func(ctx context.Context, l *life) error {
		l.down(true)
		l.agent.BootID = fmt.Sprintf("boot-%d", l.seed.Int())
		l.agent.connection = 0
		return l.up(ctx)
	},
	"several power cuts in a row": func(ctx context.Context, l *life) error {
		for range 3 {
			l.down(true)
			l.agent.BootID = fmt.Sprintf("boot-%d", l.seed.Int())
			l.agent.connection = 0
			if err := l.up(ctx); err != nil {
				return err
			}
		}
		return nil
	},
	"a rotation whose answer is lost": func(ctx context.Context, l *life) error {
		l.down(false)
		s, err := l.agent.Link(ctx)
		if err != nil {
			return l.up(ctx)
		}
		before := l.agent.Key
		if err := s.Offer(ctx); err != nil {
			s.Conn.Close()
			return l.up(ctx)
		}
		if l.seed.IntN(2) == 0 { // the control plane took it, the agent does not know
			_ = await(ctx, "", func() bool { return l.known().NextKey != nil })
		}
		s.PowerCut()
		l.t.Cleanup(func() { s.Conn.Close() })
		// As agents do: with the next key first, with the current one where that is not known.
		l.agent.Key = l.agent.next
		err = l.up(ctx)
		switch {
		case err == nil:
			l.old = before
			return nil
		case fault.Of(err).Code == "identity_unknown":
			l.agent.Key = before
			return l.up(ctx)
		default:
			return err
		}
	},
	"a snapshot from before a rotation": func(ctx context.Context, l *life) error {
		if l.old == nil {
			return nil
		}
		l.down(l.seed.IntN(2) == 0)
		l.agent.Key, l.old = l.old, nil
		l.agent.BootID = fmt.Sprintf("boot-%d", l.seed.Int())
		if err := l.up(ctx); err != nil {
			return err
		}
		if k := l.known(); k.Lifecycle != host.LifecyclePending {
			return fmt.Errorf("a reverted snapshot left the host %s (%s), wanted pending", k.Lifecycle, k.LifecycleReason)
		}
		key := l.agent.Key.Public()
		if err := l.control.Fleet.SetLifecycle(host.LifecycleActive, "", l.agent.HostID()); err != nil {
			return err
		}
		return await(ctx, "one approval", func() bool { return l.known().Key.Equal(key) && l.agent.Standing() == "managed" })
	},
}

func TestNothingButACopyIsTakenForOne(t *testing.T) {
	total, machines := size(1000), 50
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	c := newControl(t, &linktest.Fleet{}, func(o *link.Options) {
		o.AliveTimeout, o.ReconnectWindow, o.GoodbyeWindow = time.Second, 300*time.Millisecond, 300*time.Millisecond
	})
	want(t, c.Fleet, "info")
	kinds := []string{}
	for kind := range changes {
		kinds = append(kinds, kind)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	var mu sync.Mutex
	done := map[string]int{}
	var living sync.WaitGroup
	lives := make([]*life, machines)
	for i := range machines {
		l := &life{t: t, control: c, seed: rand.New(rand.NewPCG(seed, uint64(i))),
			agent: &Agent{Dialer: c.Dialer(wire.WebSocket), Token: "token", Name: fmt.Sprintf("host-%d", i), Version: "0.0.0", BootID: fmt.Sprintf("boot-%d", i)}}
		lives[i] = l
		living.Go(func() {
			err := l.agent.Enrol(ctx)
			if err == nil {
				err = l.up(ctx)
			}
			for step := 0; err == nil && step < total/machines; step++ {
				kind := kinds[l.seed.IntN(len(kinds))]
				if l.old != nil && l.seed.IntN(2) == 0 {
					kind = "a snapshot from before a rotation"
				}
				if err = changes[kind](ctx, l); err != nil {
					err = fmt.Errorf("%s: %w", kind, err)
				}
				mu.Lock()
				done[kind]++
				mu.Unlock()
				if k := l.known(); k.Clones != nil {
					t.Errorf("host %d after %s: a false lock: %s", i, kind, k.LifecycleReason)
				}
			}
			if err != nil {
				t.Errorf("host %d: %v", i, err)
			}
		})
	}
	living.Wait()
	if t.Failed() {
		t.FailNow()
	}
	last := want(t, c.Fleet, "debug")
	for i, l := range lives {
		if err := await(ctx, fmt.Sprintf("host %d takes what is wanted last", i), func() bool {
			s := l.agent.Holds("settings")
			return s.Revision == last.Revision && s.Digest == last.Digest && c.Fleet.Status(l.agent.HostID(), "settings").State == section.Applied
		}); err != nil {
			t.Error(err)
		}
		if k := l.known(); k.Clones != nil || k.Lifecycle != host.LifecycleActive {
			t.Errorf("host %d ended %s: %s", i, k.Lifecycle, k.LifecycleReason)
		}
		l.down(false)
	}
	t.Logf("%d changes to %d hosts, no false lock: %v", total, machines, done)
}

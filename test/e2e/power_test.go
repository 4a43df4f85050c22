package e2e

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/loopbackd/loopback/test/lab"
)

// quick makes the control plane notice soon: the shortest reconnect window there is.
var quick = []string{"--reconnect-window", "10s"}

// Bounds of noticing with these settings. A host that stops answering is silent after three heartbeats, at least 5 s, and
// a tenth; then its reconnect window runs; the hub looks once a second at each of the two. One that says goodbye has 10 s
// to come back.
const (
	window        = 10 * time.Second
	offlineBound  = 5500*time.Millisecond + window + 2*time.Second
	goodbyeBound  = 10*time.Second + time.Second
	noticingSlack = 1500 * time.Millisecond // of this computer, which runs everything
)

// What happens to a host's power and network shows, within the bound, and mends itself.
func TestPowerAndNetworkLossShowAndMend(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "e2e-power", quick, "off", "dead", "cut", "crash")
	w.Must(t, "settings", "set", "--heartbeat-min", "1s", "--heartbeat-max", "2s")
	all := []string{"off", "dead", "cut", "crash"}
	start := time.Now()
	w.enrolAll(t, all...)
	t.Logf("4 machines enrolled together in %v", time.Since(start).Round(time.Millisecond))
	boots := map[string]string{}
	for _, name := range all {
		h, _ := w.AwaitState(t, name, "managed", 10*time.Second)
		boots[name] = h.Inventory.BootID
	}
	watch := w.Watch(t)
	for _, name := range all {
		watch.Await(t, name, "managed", time.Time{}, 10*time.Second)
	}

	began := time.Now()
	pid := mainPID(t, w.machines["crash"])
	must(t, w.machines["crash"], "kill -KILL "+pid)
	faults := map[string]time.Time{}
	cause := func(name string, fault func(*lab.Machine) error, since func() time.Time) {
		if err := fault(w.machines[name]); err != nil {
			t.Fatal(err)
		}
		faults[name] = since()
	}
	cause("cut", func(m *lab.Machine) error { return m.Blackhole(t.Context()) }, time.Now)
	killing := time.Now()
	cause("dead", func(m *lab.Machine) error { return m.Kill(t.Context()) }, func() time.Time { return killing })
	cause("off", func(m *lab.Machine) error { return m.Shutdown(t.Context()) }, time.Now)

	for name, bound := range map[string]time.Duration{"cut": offlineBound, "dead": offlineBound, "off": goodbyeBound} {
		seen := watch.Await(t, name, "offline", began, 40*time.Second)
		took := seen.At.Sub(faults[name])
		t.Logf("%s: offline after %v (bound %v)", name, took.Round(time.Millisecond), bound)
		if took > bound+noticingSlack {
			t.Errorf("%s was offline after %v, wanted within %v", name, took, bound)
		}
		if seen.At.Sub(began) < window-2*time.Second { // it was last heard up to a heartbeat before
			t.Errorf("%s was offline after %v, before its window had ended", name, took)
		}
	}

	mended := time.Now()
	if err := w.machines["cut"].Restore(t.Context()); err != nil {
		t.Fatal(err)
	}
	started := make(chan error)
	for _, name := range []string{"off", "dead"} {
		go func() { started <- w.machines[name].Start(t.Context()) }()
	}
	for range 2 {
		if err := <-started; err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"off", "dead", "cut"} {
		seen := watch.Await(t, name, "managed", mended, 60*time.Second)
		t.Logf("%s: managed %v after it was mended", name, seen.At.Sub(mended).Round(time.Millisecond))
	}
	for _, name := range []string{"off", "dead"} {
		w.Await(t, name, 10*time.Second, "another boot id", func(h controlHost) bool { return h.Inventory.BootID != boots[name] })
	}

	if got := mainPID(t, w.machines["crash"]); got == pid || got == "0" {
		t.Errorf("main process of the agent that was killed: got %s, wanted another than %s", got, pid)
	}
	if s := status(t, w.machines["crash"]); !s.OK {
		t.Errorf("the agent that was killed: got %+v, wanted it linked and well", s)
	}
	if states := watch.States("crash", began); slices.ContainsFunc(states, func(s string) bool { return s != "managed" }) {
		t.Errorf("the host whose agent was killed was shown %v, wanted managed all the time", states)
	}
}

// A control plane that is killed and started again shows nobody offline.
func TestControlPlaneRestartsShowNobodyOffline(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "e2e-restart", nil, "a", "b")
	w.enrolAll(t, "a", "b")
	watch := w.Watch(t)
	for _, name := range []string{"a", "b"} {
		watch.Await(t, name, "managed", time.Time{}, 10*time.Second)
	}
	// Beside the watch, which connects anew once a second, a client that asks all the time.
	stop, asked := make(chan struct{}), make(chan []string, 1)
	answers := 0
	go func() {
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		var wrong []string
		for {
			select {
			case <-stop:
				asked <- wrong
				return
			case <-t.Context().Done(): // the test ended without asking
				return
			case <-tick.C:
			}
			hosts, err := w.Hosts(t.Context())
			if err != nil {
				continue // it is down
			}
			answers++
			for _, name := range []string{"a", "b"} {
				if h := hosts[name]; h.State != "managed" {
					wrong = append(wrong, name+" "+h.State+" ("+h.Reason+")")
				}
			}
		}
	}()
	for _, round := range []struct {
		name string
		end  func(testing.TB)
		away time.Duration
	}{
		{"killed and started at once", w.Kill, 0},
		{"killed and away for 6 s", w.Kill, 6 * time.Second},
		{"killed twice in a row", func(t testing.TB) { w.Kill(t); w.Restart(t); w.Kill(t) }, 0},
		{"stopped and started", w.Stop, 0},
	} {
		ended := time.Now()
		round.end(t)
		if took := time.Since(ended); took > 5*time.Second {
			t.Errorf("%s: ending took %v, wanted no waiting for the watch", round.name, took)
		}
		<-time.After(round.away)
		w.Restart(t)
		ready := time.Now()
		for _, name := range []string{"a", "b"} {
			await(t, 45*time.Second, name+" linked anew", func() bool {
				s := status(t, w.machines[name])
				return s.OK && s.Since.After(ended)
			})
		}
		t.Logf("%s: ready after %v, all linked %v later", round.name, ready.Sub(ended).Round(time.Millisecond), time.Since(ready).Round(time.Millisecond))
	}
	close(stop)
	if wrong := <-asked; len(wrong) > 0 {
		t.Errorf("seen in %d answers: %s; wanted managed in each", answers, strings.Join(slices.Compact(wrong), ", "))
	}
	for _, one := range watch.All() {
		if one.Host.State != "managed" {
			t.Errorf("the watch showed %s %s (%s), wanted managed only", one.Host.Name, one.Host.State, one.Host.Reason)
		}
	}
	t.Logf("%d answers while it came and went", answers)
}

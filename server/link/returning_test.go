package link_test

import (
	"testing"
	"testing/synctest"
	"time"
)

// A crowd that comes back slowly, because we are slow to take it, is not offline meanwhile; who does not come at all is
// offline once the crowd has.
func TestACrowdThatIsStillComingBackIsNotOffline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBundle(t)
		crowd := make([]*machine, 80)
		for i := range crowd {
			crowd[i] = b.enrolled()
			b.linked(crowd[i])
		}
		synctest.Wait()
		b.stop()
		before := b.fleet.Observations.Load()
		b.start()
		for _, m := range crowd[:60] { // two and a half minutes in all, and the window is one and a half
			time.Sleep(2500 * time.Millisecond)
			l, _ := b.linked(m)
			defer keepAlive(l, 5*time.Second)()
		}
		if n := b.fleet.Observations.Load() - before; n != 0 {
			t.Errorf("while the crowd came back, %d hosts were declared offline", n)
		}
		time.Sleep(150 * time.Second)
		for i, m := range crowd {
			if offline := len(b.fleet.Transitions(m.id)) == 2; offline != (i >= 60) {
				t.Errorf("host %d, %v that it came back: offline %v", i, i < 60, offline)
			}
		}
	})
}

// A few that come back late do not keep those online that are gone.
func TestAFewThatComeBackLateAreNoCrowd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBundle(t)
		crowd := make([]*machine, 40)
		for i := range crowd {
			crowd[i] = b.enrolled()
			b.linked(crowd[i])
		}
		synctest.Wait()
		b.stop()
		b.start()
		for _, m := range crowd[:20] {
			time.Sleep(5 * time.Second)
			l, _ := b.linked(m)
			defer keepAlive(l, 5*time.Second)()
		}
		for i, m := range crowd[20:] {
			if len(b.fleet.Transitions(m.id)) != 2 {
				t.Errorf("host %d is not offline a hundred seconds after our start", 20+i)
			}
		}
	})
}

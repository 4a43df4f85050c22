package link_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/loopbackd/loopback/settings"
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

// While a crowd is on its way back, those who are back beat as seldom as their settings allow: the processor is what the others
// wait for. Once most are there, the pace is the usual one; and also when the others do not come.
func TestWhoIsBackLeavesTheProcessorToTheOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBundle(t)
		crowd := make([]*machine, 80)
		for i := range crowd {
			crowd[i] = b.enrolled()
			b.linked(crowd[i])
		}
		synctest.Wait()
		pace := func(m *machine) time.Duration {
			_, welcome := b.linked(m)
			return welcome.GetHeartbeat().AsDuration()
		}
		usual := pace(crowd[0])
		b.stop()
		b.start()
		if got := pace(crowd[0]); got != settings.DefaultHeartbeat {
			t.Errorf("the first is told to beat every %s, want %s", got, settings.DefaultHeartbeat)
		}
		for _, m := range crowd[1:79] {
			b.linked(m)
		}
		if got := pace(crowd[79]); got != usual {
			t.Errorf("the last is told to beat every %s, want %s", got, usual)
		}
		b.stop()
		b.start()
		time.Sleep(5 * time.Minute)
		if got := pace(crowd[0]); got != usual {
			t.Errorf("when nobody else comes, one is told to beat every %s, want %s", got, usual)
		}
	})
}

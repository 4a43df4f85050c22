package fleet_test

import (
	"testing"
	"time"

	"github.com/loopbackd/loopback/host"
	"github.com/loopbackd/loopback/server/link"
	"github.com/loopbackd/loopback/test/plane"
)

// TestTroublesAreStoredAndGiveTheStateItsReason: while something stands in the way, the host is degraded and says by what;
// what was met is kept. Saying it again changes nothing.
func TestTroublesAreStoredAndGiveTheStateItsReason(t *testing.T) {
	p := plane.New(t)
	id := enrolled(t, p, "a")[0]
	observe(t, p, online(p, id))
	observe(t, p, applied(t, p, id))
	met := host.Trouble{Code: "dns_failed", Message: "no such name", At: p.Clock.Now(), Attempts: 4}
	full := []host.Trouble{{Code: "disk_full", Message: "3 MiB free", At: p.Clock.Now()}}
	for round := range 2 {
		at := position(t, p)
		observe(t, p, link.Observation{HostID: id, Met: []host.Trouble{met}, Ongoing: &full})
		if moved := position(t, p) != at; moved != (round == 0) {
			t.Errorf("round %d: the feed moved: %v", round, moved)
		}
		h := stored(t, p, id)
		if h.State != host.Degraded || h.StateReason != "disk_full: 3 MiB free" || len(h.Troubles) != 2 || !h.Troubles[0].Ongoing || h.Troubles[1].Attempts != 4 {
			t.Errorf("round %d: %s (%s) with %+v", round, h.State, h.StateReason, h.Troubles)
		}
		if known := p.Fleet.Lookup(id); len(known.Troubles) != 2 {
			t.Errorf("round %d: the hub is told of %+v", round, known.Troubles)
		}
	}
	p.Clock.Pass(time.Minute)
	observe(t, p, link.Observation{HostID: id, Ongoing: &[]host.Trouble{}})
	if h := stored(t, p, id); h.State != host.Managed || len(h.Troubles) != 2 || h.Troubles[0].Ongoing || h.Troubles[1].Ongoing {
		t.Errorf("after it was mended: %s (%s) with %+v", h.State, h.StateReason, h.Troubles)
	}
}

package link

import (
	"runtime"
	"time"

	"github.com/loopbackd/loopback/settings"
)

// sweepEvery is how often the hub looks at all links. One look for all is far cheaper than a timer for each.
const sweepEvery = time.Second

// silences is how many heartbeats may be missed.
const silences = 3

// jitter by which agents move each heartbeat at random, as a part of the interval.
const jitter = 0.1

func provers() int { return 4 * runtime.GOMAXPROCS(0) }

func (h *Hub) sweepLoop() {
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	for {
		select {
		case <-h.lifetime.Done():
			return
		case <-tick.C:
			h.sweep(h.Clock())
		}
	}
}

// sweep declares hosts offline whose window has ended, and ends links that are silent or do not say who they are.
func (h *Hub) sweep(now time.Time) {
	h.mu.Lock()
	stopping := h.stopping
	var unsaid []*peer
	for p := range h.nascent {
		if !p.busy.Load() && now.Sub(p.accepted) > h.HelloTimeout {
			unsaid = append(unsaid, p)
		}
	}
	h.mu.Unlock()
	if stopping {
		return
	}
	lost := func(id string, at *seat) {
		h.metrics.transitions.WithLabelValues("offline").Inc()
		h.ledger.add(id, now, func(o *Observation) {
			o.Presence = &Presence{Since: at.heard, Link: at.newest, Replica: at.held, At: at.welcomed}
		})
	}
	var due []*peer
	silent := h.table.sweep(now, lost, func(p *peer) bool {
		if wake := p.wake.Load(); wake != 0 && now.UnixNano() >= wake {
			p.wake.Store(0)
			due = append(due, p)
		}
		return p.silent(now)
	})
	for _, p := range due {
		p.refresh()
	}
	h.contests.sweep(now)
	h.endAll(unsaid, refusal{errUnsaid, false})
	h.endAll(silent, refusal{errSilent, false})
	h.admission.adapt()
	h.enrolling.adapt()
	h.addresses.sweep(now)
}

func (h *Hub) endAll(peers []*peer, why refusal) {
	ended := peers[:0]
	for _, p := range peers {
		if p.end() {
			h.metrics.refused(why.why.Code)
			ended = append(ended, p)
		}
	}
	h.dismiss(ended, func(*peer) refusal { return why })
}

// silent tells whether so many heartbeats were missed that the link is taken for dead.
func (p *peer) silent(now time.Time) bool {
	bound := max(silences*time.Duration(p.interval.Load()), 5*settings.MinHeartbeat)
	return now.UnixNano()-p.heard.Load() > int64(bound+time.Duration(float64(bound)*jitter))
}

// interval is how long a host is told to wait between heartbeats: as long as it takes to keep all hosts together under
// HeartbeatRate, within the bounds of the host's settings. The bounds win. While a crowd is on its way back, those who are
// back leave the processor to the others.
func (h *Hub) interval(hostID string) time.Duration {
	least, most := h.Fleet.Pace(hostID)
	if h.table.crowd.coming() {
		return most
	}
	wanted := time.Duration(float64(h.links.Load()) / float64(h.HeartbeatRate) * float64(time.Second))
	return min(max(wanted, least), most)
}

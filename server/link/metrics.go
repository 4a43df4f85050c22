package link

import "github.com/prometheus/client_golang/prometheus"

// metrics of the hub. Those of the busiest paths are looked up once.
type metrics struct {
	registerer   prometheus.Registerer
	handshakes   *prometheus.CounterVec
	refusals     *prometheus.CounterVec
	sections     *prometheus.CounterVec
	transitions  *prometheus.CounterVec
	contests     *prometheus.CounterVec
	observations *prometheus.CounterVec
	coalesced    prometheus.Counter

	bytesIn, bytesOut, framesIn, framesOut prometheus.Counter
}

const metricsPrefix = "loopback_link_"

func newMetrics(r prometheus.Registerer, links, beats func() float64) *metrics {
	if r == nil {
		r = prometheus.NewRegistry()
	}
	m := &metrics{registerer: r}
	vec := func(name, help string, labels ...string) *prometheus.CounterVec {
		c := prometheus.NewCounterVec(prometheus.CounterOpts{Name: metricsPrefix + name, Help: help}, labels)
		r.MustRegister(c)
		return c
	}
	one := func(name, help string) prometheus.Counter {
		c := prometheus.NewCounter(prometheus.CounterOpts{Name: metricsPrefix + name, Help: help})
		r.MustRegister(c)
		return c
	}
	m.handshakes = vec("handshakes_total", "Hellos and enrolments by their outcome.", "kind", "result")
	m.refusals = vec("refusals_total", "Links refused or ended by the control plane.", "code")
	m.sections = vec("sections_total", "Sections sent whole, sent as a delta, or found to be held already (skipped).", "kind")
	m.transitions = vec("transitions_total", "Hosts that came online or went offline.", "to")
	m.transitions.WithLabelValues("online") // there from the start: a rate would miss the first event
	m.transitions.WithLabelValues("offline")
	m.contests = vec("contests_total", "Times that two links spoke for one host, by which of them turned out to have its agent behind it; cloned: both.", "outcome")
	m.contests.WithLabelValues(string(cloned))
	m.observations = vec("observations_total", "Observations by what became of them.", "result")
	r.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{Name: metricsPrefix + "heartbeats_total", Help: "Heartbeats answered."}, beats))
	m.coalesced = one("outbox_coalesced_total", "Changes overtaken by newer ones before they were sent.")
	bytes := vec("bytes_total", "Plaintext of frames.", "direction")
	frames := vec("frames_total", "Frames.", "direction")
	m.bytesIn, m.bytesOut = bytes.WithLabelValues("in"), bytes.WithLabelValues("out")
	m.framesIn, m.framesOut = frames.WithLabelValues("in"), frames.WithLabelValues("out")
	m.gauge("links", "Hosts linked to this replica.", links)
	return m
}

func (m *metrics) gauge(name, help string, value func() float64) {
	m.registerer.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: metricsPrefix + name, Help: help}, value))
}

func (m *metrics) refused(code string) { m.refusals.WithLabelValues(code).Inc() }

func (m *metrics) received(n int) {
	m.framesIn.Inc()
	m.bytesIn.Add(float64(n))
}

func (m *metrics) sent(n int) {
	m.framesOut.Inc()
	m.bytesOut.Add(float64(n))
}

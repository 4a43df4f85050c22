package server

import (
	"runtime"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/guest"
	"github.com/loopbackd/loopback/replica"
	"github.com/loopbackd/loopback/server/limit"
	"github.com/loopbackd/loopback/server/rpc"
	"github.com/loopbackd/loopback/server/storage"
	"github.com/loopbackd/loopback/signin"
)

// meters are the metrics of everything but the hub, which has its own. docs/guides/operate.md lists all of them,
// docs/monitoring has the dashboard and the rules that rest on them.
type meters struct {
	registry *prometheus.Registry

	calls   *prometheus.HistogramVec
	refused *prometheus.CounterVec
	cuts    *prometheus.CounterVec

	commits  prometheus.Histogram
	closures prometheus.Histogram
	turns    prometheus.Histogram
	errors   *prometheus.CounterVec

	databaseUp, databaseProbe, feedLag, auditEntries  prometheus.Gauge
	auditUnsigned, auditSigned, auditHalted           prometheus.Gauge
	sinkDelivered, sinkFailures, sinkAside            *prometheus.CounterVec
	sinkLag, sinkFailing, sinkLetters                 *prometheus.GaugeVec
	operations, operationsOldest                      *prometheus.GaugeVec
	grants, locks, reviews, sessionReviews, witnesses *prometheus.GaugeVec
	shells, recordings                                *prometheus.GaugeVec
	unrecorded, recordingsHeld, guests                prometheus.Gauge
	guestsRefused                                     *prometheus.CounterVec
	dataFree, dataSize, dataInodes                    prometheus.Gauge
	certificates, releases                            *prometheus.GaugeVec
	backup                                            prometheus.Gauge
	signIns                                           *prometheus.CounterVec
	signInsLive                                       prometheus.Gauge
}

func newMeters(r *prometheus.Registry) *meters {
	m := &meters{registry: r}
	counters := func(name, help, label string) *prometheus.CounterVec {
		c := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "loopback_" + name, Help: help}, []string{label})
		r.MustRegister(c)
		return c
	}
	gauges := func(name, help, label string) *prometheus.GaugeVec {
		g := prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "loopback_" + name, Help: help}, []string{label})
		r.MustRegister(g)
		return g
	}
	gauge := func(name, help string) prometheus.Gauge {
		g := prometheus.NewGauge(prometheus.GaugeOpts{Name: "loopback_" + name, Help: help})
		r.MustRegister(g)
		return g
	}
	histogram := func(name, help string, buckets []float64) prometheus.Histogram {
		h := prometheus.NewHistogram(prometheus.HistogramOpts{Name: "loopback_" + name, Help: help, Buckets: buckets})
		r.MustRegister(h)
		return h
	}
	m.calls = prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "loopback_api_call_duration_seconds", Help: "Duration of API calls by method and code.",
		Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10},
	}, []string{"method", "code"})
	r.MustRegister(m.calls)
	m.refused = counters("api_refused_total", "Requests refused by a limit, by which.", "limit")
	m.cuts = counters("http_cut_total", "Connections and requests cut off, by why.", "why")

	m.commits = histogram("database_commit_seconds", "Time that a group commit took to be durable.",
		[]float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5})
	m.turns = histogram("database_turn_seconds", "Time that a transaction of this replica held the write lock of the deployment.",
		[]float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 15})
	m.closures = histogram("database_commit_changes", "Changes in a group commit.", []float64{1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024})
	m.errors = counters("database_errors_total", "Changes that the database did not take, by error code.", "code")

	m.databaseUp = gauge("database_up", "1 while the database answers.")
	m.databaseProbe = gauge("database_probe_seconds", "How long the database last took to answer a read.")
	m.feedLag = gauge("feed_lag_changes", "Changes that were committed and not yet handed out in this process.")
	m.auditEntries = gauge("audit_entries", "Entries in the audit log.")
	m.auditUnsigned = gauge("audit_unsigned_entries", "Entries of the audit log that no signed checkpoint covers yet.")
	m.auditSigned = gauge("audit_checkpoint_timestamp_seconds", "When the audit log's last checkpoint was signed; 0: never.")
	m.auditHalted = gauge("audit_log_halted", "1 while the audit log is not signed because it is not what was signed before, or cannot be read.")
	m.sinkDelivered = counters("sink_delivered_total", "Entries of the audit log that a receiver took, by sink.", "sink")
	m.sinkFailures = counters("sink_failures_total", "Deliveries to a sink that failed, by sink.", "sink")
	m.sinkAside = counters("sink_set_aside_total", "Entries that were set aside because a sink's receiver refuses them, by sink.", "sink")
	m.sinkLetters = gauges("sink_dead_letters", "Entries that are set aside, by sink.", "sink")
	m.sinkLag = gauges("sink_lag_entries", "Entries that were committed and that a sink's receiver does not have, by sink.", "sink")
	m.sinkFailing = gauges("sink_failing", "1 while a sink's receiver does not take what it is sent, by sink.", "sink")
	m.operations = gauges("operations", "Operations that have not ended, by state.", "state")
	m.operationsOldest = gauges("operation_oldest_timestamp_seconds", "When the oldest operation that has not ended was asked for, by state; 0: there is none.", "state")
	m.grants = gauges("grants", "Grants that wait for approval or are in force, by state.", "state")
	m.locks = gauges("locks", "Locks that are in force, by what they keep out: user, group, service_account, role, host or hosts.", "target")
	m.sessionReviews = gauges("session_reviews", "Recorded shells that wait for somebody to look at them: open and in time, and overdue.", "what")
	m.shells = gauges("shell_sessions", "Shells that have not ended, in the whole deployment, by state.", "state")
	m.recordings = gauges("shell_recordings", "Shells that ended within the last day, by how their two recordings compare: agreed, partial, alone or disagreed.", "verdict")
	m.unrecorded = gauge("shell_unrecorded", "Shells that ended within the last day because the control plane could not record them any further.")
	m.recordingsHeld = gauge("recordings_held", "Recordings of shells that are on hold, in the whole deployment.")
	m.guests = gauge("shell_guests", "Guests who watch shells that this replica has.")
	m.guestsRefused = counters("shell_guests_refused_total", "Links of guests that let nobody in, by why.", "reason")
	m.reviews = gauges("access_reviews", "Reviews of standing access that are open and in time, those that are overdue, and bindings that wait for an answer in both.", "what")
	m.witnesses = gauges("audit_witnesses", "Hosts that remember checkpoints of the audit log, by what they say to the last: pending, applied, degraded (a backup was restored) or failed (it is refused).", "state")
	m.dataFree = gauge("data_free_bytes", "Space left for loopbackd on the file system of the data folder.")
	m.dataSize = gauge("data_size_bytes", "Size of the file system of the data folder.")
	m.dataInodes = gauge("data_free_inodes", "Inodes left on the file system of the data folder.")
	m.certificates = gauges("certificate_expiry_timestamp_seconds", "When a certificate ceases to be valid.", "certificate")
	m.releases = gauges("release_metadata_expiry_timestamp_seconds", "When signed release metadata expires, by role.", "role")
	// Known from the start: a rate over what appears with its first event misses that event.
	for _, l := range []string{limit.SourceRate, limit.CallerRate, limit.Calls, limit.Streams} {
		m.refused.WithLabelValues(l)
	}
	for _, why := range []string{slowSender, slowReader, connections, handshakes} {
		m.cuts.WithLabelValues(why)
	}
	for _, code := range []string{"database_full", "database_locked", "database_read_only", "database_failing", "database_corrupt", "database_unreachable"} {
		m.errors.WithLabelValues(code)
	}
	for _, why := range []*fault.Error{guest.ErrInvalid, guest.ErrExpired, guest.ErrRevoked, guest.ErrUnheld} {
		m.guestsRefused.WithLabelValues(why.Code)
	}
	m.signIns = prometheus.NewCounterVec(prometheus.CounterOpts{Name: "loopback_sign_ins_total", Help: "Attempts to sign in, by method and outcome (ok, or why not)."}, []string{"method", "outcome"})
	r.MustRegister(m.signIns)
	for _, method := range signin.Methods {
		m.signIns.WithLabelValues(string(method), "ok")
	}
	m.signInsLive = gauge("sign_ins", "Sign-ins that are live, in the whole deployment.")
	m.backup = gauge("backup_timestamp_seconds", "When the last backup was finished; 0: never.")
	return m
}

// watch shows what is going on in a server at the moment of a scrape.
func (m *meters) watch(s *Server) {
	now := func(name, help string, value func() float64) {
		m.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "loopback_" + name, Help: help}, value))
	}
	now("api_calls", "API calls that are under way.", func() float64 { n, _, _ := s.limits.Load(); return float64(n) })
	now("access_closed", "1 while nothing is allowed because changes of who may do what do not arrive here.", func() float64 {
		if s.policy.Closed() {
			return 1
		}
		return 0
	})
	now("access_snapshot_version", "Place in the change feed up to which who may do what is known.", func() float64 { return float64(s.policy.Version()) })
	now("access_snapshot_age_seconds", "How long ago the change feed was last read, and with it who may do what was known to be current.", func() float64 {
		return time.Since(s.follower.Fresh()).Seconds()
	})
	now("api_calls_waiting", "API calls that wait for their turn.", func() float64 { _, n, _ := s.limits.Load(); return float64(n) })
	now("api_streams", "Watches and waits that are open.", func() float64 { _, _, n := s.limits.Load(); return float64(n) })
	now("bus_peers", "Routes to other replicas' buses, or 1 while the bus outside is there.", func() float64 { return float64(s.bus.Connected()) })
	now("replica_lease_age_seconds", "How long ago this replica renewed its lease; 0: it is alone.", func() float64 { return s.replicas.LeaseAge().Seconds() })
	for _, state := range []replica.State{replica.Serving, replica.Leaving, replica.Left, replica.Gone} {
		m.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "loopback_replicas", Help: "Replicas as this one sees them, by state; none where it is alone.", ConstLabels: prometheus.Labels{"state": string(state)},
		}, func() float64 { return float64(s.replicas.Count(state)) }))
	}
	now("replica_clock_offset_seconds", "By how much this replica's clock is ahead of the database's; 0: it is alone.", func() float64 { return s.replicas.ClockOffset().Seconds() })
	for _, trouble := range replica.Troubles {
		m.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "loopback_replica_troubles", Help: "Replicas that differ from the others as this one sees them, by in what.", ConstLabels: prometheus.Labels{"trouble": string(trouble)},
		}, func() float64 { return float64(s.replicas.Troubled(trouble)) }))
	}
	count := func(name, help string, value func() int64) {
		m.registry.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{Name: "loopback_" + name, Help: help}, func() float64 { return float64(value()) }))
	}
	count("bus_messages_total", "Messages of the bus that came.", func() int64 { all, _ := s.bus.Heard(); return all })
	count("bus_forged_total", "Messages of the bus that no replica had signed, or long ago; they were dropped.", func() int64 { _, forged := s.bus.Heard(); return forged })
	now("database_changes_waiting", "Changes that wait for the writer.", func() float64 { return float64(s.db.Waiting()) })
}

// process registers what is true of any Go program, and which this is.
func (m *meters) process(version, replica string) {
	// How long what is ready waits for a processor is what an operator's call waits for when a fleet comes back.
	scheduler := collectors.WithGoCollectorRuntimeMetrics(collectors.MetricsScheduler)
	m.registry.MustRegister(collectors.NewGoCollector(scheduler), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "loopback_info", Help: "1, with version, Go version and replica.",
			ConstLabels: prometheus.Labels{"version": version, "go": runtime.Version(), "replica": replica},
		}, func() float64 { return 1 }))
}

func (m *meters) call(c rpc.Call) {
	m.calls.WithLabelValues(c.Procedure, c.Code).Observe(c.Duration.Seconds())
}
func (m *meters) signIn(method signin.Method, outcome string) {
	m.signIns.WithLabelValues(string(method), outcome).Inc()
}
func (m *meters) guestRefused(why string) { m.guestsRefused.WithLabelValues(why).Inc() }
func (m *meters) refuse(limit string)     { m.refused.WithLabelValues(limit).Inc() }
func (m *meters) cut(why string)          { m.cuts.WithLabelValues(why).Inc() }

func (m *meters) storage() storage.Watch {
	return storage.Watch{
		Committed: func(took time.Duration, closures int) {
			m.commits.Observe(took.Seconds())
			m.closures.Observe(float64(closures))
		},
		Held:    func(took time.Duration) { m.turns.Observe(took.Seconds()) },
		Refused: func(code string, closures int) { m.errors.WithLabelValues(code).Add(float64(closures)) },
	}
}

func (m *meters) setAside(sink string) { m.sinkAside.WithLabelValues(sink).Inc() }

func (m *meters) shipped(sink string, entries int, err error) {
	if err != nil {
		m.sinkFailures.WithLabelValues(sink).Inc()
		return
	}
	m.sinkDelivered.WithLabelValues(sink).Add(float64(entries))
}

package server

import (
	"context"
	"errors"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/server/bus"
	"github.com/loopbackd/loopback/server/feed"
)

// Listen takes the HTTPS port. Run does it where it was not done before.
func (s *Server) Listen() (net.Addr, error) {
	if s.listener == nil {
		l, err := net.Listen("tcp", s.options.Settings.Listen)
		if err != nil {
			return nil, fault.New(fault.Unavailable, "listen_failed", "the address %s cannot be listened on", s.options.Settings.Listen).WithCause(err).
				WithHint("another program may hold it: ss -ltnp; or choose another with --listen")
		}
		s.listener = l
	}
	return s.listener.Addr(), nil
}

// Run serves until ctx ends or something that it cannot go on without fails, then stops in order.
func (s *Server) Run(ctx context.Context) error {
	if _, err := s.Listen(); err != nil {
		return errors.Join(err, s.Close())
	}
	public := s.httpServer()
	metrics, err := s.metricsServer()
	if err != nil {
		return errors.Join(err, s.listener.Close(), s.Close())
	}

	if s.peers, err = s.listenToPeers(); err != nil {
		return errors.Join(err, s.listener.Close(), s.Close())
	}
	if s.peers != nil {
		s.wire.Forward = s.peers.forward
	}

	// Workers outlive the calls that are under way at shutdown, hence a context of their own.
	working, stopWorking := context.WithCancel(context.WithoutCancel(ctx))
	defer stopWorking()
	failed := make(chan error, 16)
	var workers, servers sync.WaitGroup
	work := func(name string, do func(context.Context) error) {
		workers.Go(func() {
			if err := do(working); err != nil && working.Err() == nil {
				failed <- wrap(name, err)
			}
		})
	}
	work("nudging replicas", s.nudge)
	work("following the change feed", func(ctx context.Context) error { s.follower.Run(ctx); return nil })
	loaded := make(chan struct{})
	follow := func(name string, do func(context.Context, *feed.Subscription) error) {
		from := s.follower.Subscribe(0)
		work(name, func(ctx context.Context) error { defer from.Close(); return do(ctx, from) })
	}
	follow("keeping the fleet in memory", func(ctx context.Context, from *feed.Subscription) error {
		return s.directory.Follow(ctx, from, loaded)
	})
	known := make(chan struct{})
	follow("following who may do what", func(ctx context.Context, from *feed.Subscription) error {
		return s.engine.Follow(ctx, from, known)
	})
	follow("following operations", s.jobs.Follow)
	follow("following commands", s.execs.Follow)
	follow("following files", s.files.Follow)
	follow("following restarts of modules", s.restarts.Follow)
	follow("following grants", s.grants.Follow)
	follow("telling of changes", s.changes.Follow)
	follow("waking the worker", s.worker.Follow)
	follow("following releases", s.followReleases)
	follow("following guests of shells", s.guests.Follow)
	follow("following API keys and sign-ins", s.followCredentials)
	for _, read := range []chan struct{}{loaded, known} {
		select {
		case <-read: // agents are answered from memory, and so is who may do what
		case <-ctx.Done():
		}
	}
	work("settling host states", s.directory.Settle)
	work("carrying out operations", s.worker.Run)
	work("having commands run", s.execs.Run)
	work("tidying up after files", s.files.Run)
	work("having modules restarted", s.restarts.Run)
	work("removing expired hosts", s.expiry.Run)
	work("keeping releases fresh", s.releases.Run)
	work("dropping old changes", func(ctx context.Context) error { return feed.Prune(ctx, s.db, s.options.Clock, s.log) })
	work("keeping API keys", func(ctx context.Context) error { s.apikeys.Run(ctx); return nil })
	work("keeping sign-ins", func(ctx context.Context) error { s.signIns.Run(ctx); return nil })
	work("noting who reads the audit log", s.reads.Run)
	work("signing the audit log", s.ledger.Run)
	work("having hosts remember the audit log", s.witnesses.Run)
	work("deleting what the audit log no longer keeps", s.retention.Run)
	work("keeping shell sessions", s.shells.Run)
	work("deleting recordings that are no longer kept", s.shells.Keep)
	work("keeping guests of shells", s.guests.Run)
	work("noting the ends of grants", s.grants.Run)
	work("ending reviews of access", s.reviews.Run)
	work("noting the ends of locks", s.locks.Run)
	work("having sessions looked at", s.sessionReviews.Run)
	work("shipping the audit log", s.shipper.Run)
	work("looking at vital signs", s.keepVitals)
	work("keeping room for garbage", keepRoom(s.hub.Links))
	work("keeping tokens", func(ctx context.Context) error { s.tokens.Run(ctx); return nil })
	if err := s.hear(); err != nil {
		failed <- wrap("listening to replicas", err)
	}
	clustered := s.options.Settings.Cluster.On()
	if clustered {
		if err := s.replicas.Look(ctx); err != nil { // whose hosts are not to be waited for here
			s.log.Warn("the other replicas are not known yet", "error", err)
		}
		work("keeping this replica's lease", s.replicas.Run)
		work("asking whether the other replicas are there", s.peers.probe)
	}
	s.hub.Start()
	if err := s.bus.CallRoll(bus.Roll{Replica: s.replica}); err != nil {
		s.log.Warn("asking the other replicas for their links", "error", err)
	}

	serve := func(name string, do func() error) {
		servers.Go(func() {
			if err := do(); !errors.Is(err, http.ErrServerClosed) {
				failed <- wrap(name, err)
			}
		})
	}
	if s.peers != nil {
		serve("serving other replicas", func() error { return s.peers.server.ServeTLS(s.peers.listener, "", "") })
	}
	serve("serving HTTPS", func() error { return public.ServeTLS(s.listener, "", "") })
	if metrics != nil {
		serve("serving metrics", func() error { return metrics.server.Serve(metrics.listener) })
	}
	s.log.Info("ready", "listen", s.listener.Addr().String(), "url", s.options.Settings.PublicURL, "version", s.options.Version)

	select {
	case <-ctx.Done():
	case err = <-failed:
		s.log.Error("stopping", "error", err)
	}
	s.log.Info("stopping")
	s.stop() // not ready from here on
	end, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.options.Settings.ShutdownTimeout)
	defer cancel()
	if clustered {
		if left := s.replicas.Leaving(end); left != nil {
			s.log.Warn("the other replicas were not told that this one stops", "error", left)
		}
	}
	err = errors.Join(err, wrap("parting from agents", s.hub.Close(end)))
	err = errors.Join(err, wrap("closing links", s.wire.Close(end)), wrap("closing streams", s.streams.Close(end)))
	// Callers do not get all of the time: what is said to the database and the other replicas comes after them.
	calls, cut := context.WithTimeout(end, s.options.Settings.ShutdownTimeout*3/4)
	defer cut()
	err = errors.Join(err, s.ended("callers", public.Shutdown(calls)))
	_ = public.Close()
	if s.peers != nil {
		err = errors.Join(err, s.ended("other replicas", s.peers.server.Shutdown(calls)), s.peers.close())
	}
	stopWorking()
	workers.Wait()
	if clustered {
		if left := s.replicas.Leave(end); left != nil {
			s.log.Warn("this replica's lease was not given back", "error", left)
		}
	}
	if metrics != nil {
		_ = metrics.server.Close()
	}
	servers.Wait()
	if lost := s.closeTracers(end); lost != nil {
		s.log.Warn("the last traces were not sent", "error", lost)
	}
	err = errors.Join(err, wrap("closing the bus", s.bus.Close(end)), wrap("closing the database", s.db.Close()))
	s.log.Info("stopped")
	return err
}

// ended is how ending the calls of some went. Those that they never end are cut, which is not a failure of ours.
func (s *Server) ended(of string, err error) error {
	if errors.Is(err, context.DeadlineExceeded) {
		s.log.Warn("calls that did not end are cut", "of", of)
		return nil
	}
	return wrap("ending calls of "+of, err)
}

// followCredentials keeps the caches of API keys and sign-ins true to the feed: one that was ended opens nothing from then
// on, and what it had opened is asked again.
func (s *Server) followCredentials(ctx context.Context, from *feed.Subscription) error {
	for {
		changes, anew, err := from.Next(ctx)
		if err != nil {
			return nil
		}
		s.apikeys.Changed(changes, anew)
		s.signIns.Changed(changes, anew)
		if anew || slices.ContainsFunc(changes, func(c feed.Change) bool { return c.Kind == feed.APIKey || c.Kind == feed.SignIn }) {
			s.policy.Touch()
		}
	}
}

// httpServer is the one HTTPS port. HTTP/2 is on for callers; agents ask for HTTP/1.1, which WebSocket needs.
func (s *Server) httpServer() *http.Server {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(true)
	return &http.Server{
		Handler: s.handler(), TLSConfig: s.keys.Resumable(s.certs.TLS(), s.options.Clock),
		Protocols: protocols, HTTP2: &http.HTTP2Config{MaxConcurrentStreams: 250, SendPingTimeout: 30 * time.Second},
		ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 32 << 10,
		ErrorLog:  quietLog(s.log),
		ConnState: newDoors(s.options.Settings.Limits.SourceConnections, s.limits.Shake, s.options.Settings.Proxies(), s.meters.cut).state,
	}
}

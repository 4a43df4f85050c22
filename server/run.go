package server

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"sync"
	"time"

	"golang.org/x/net/http2"

	"github.com/loopbackd/loopback/fault"
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
		return errors.Join(err, s.db.Close())
	}
	public := s.httpServer()
	metrics, err := s.metricsServer()
	if err != nil {
		return errors.Join(err, s.listener.Close(), s.db.Close())
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
	work("following the change feed", func(ctx context.Context) error { s.follower.Run(ctx); return nil })
	s.follow(ctx, working, &workers)
	work("settling host states", s.directory.Settle)
	work("carrying out operations", s.worker.Run)
	work("removing expired hosts", s.expiry.Run)
	work("keeping releases fresh", s.releases.Run)
	work("keeping API keys", func(ctx context.Context) error { s.apikeys.Run(ctx); return nil })
	work("keeping tokens", func(ctx context.Context) error { s.tokens.Run(ctx); return nil })
	s.hub.Start()

	serve := func(name string, srv *http.Server, l net.Listener) {
		servers.Go(func() {
			if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
				failed <- wrap(name, err)
			}
		})
	}
	serve("serving HTTPS", public, tls.NewListener(s.listener, public.TLSConfig))
	if metrics != nil {
		serve("serving metrics", metrics.server, metrics.listener)
	}
	s.log.Info("ready", "listen", s.listener.Addr().String(), "url", s.options.Settings.PublicURL, "version", s.options.Version)

	select {
	case <-ctx.Done():
	case err = <-failed:
		s.log.Error("stopping", "error", err)
	}
	s.log.Info("stopping")
	close(s.stopping) // not ready from here on
	end, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.options.Settings.ShutdownTimeout)
	defer cancel()
	err = errors.Join(err, wrap("parting from agents", s.hub.Close(end)))
	err = errors.Join(err, wrap("closing links", s.wire.Close(end)))
	err = errors.Join(err, ignoreDeadline(wrap("ending calls", public.Shutdown(end))))
	_ = public.Close()
	stopWorking()
	workers.Wait()
	if metrics != nil {
		_ = metrics.server.Close()
	}
	servers.Wait()
	err = errors.Join(err, wrap("closing the database", s.db.Close()))
	s.log.Info("stopped")
	return err
}

// ignoreDeadline: streams that their callers never end are cut at shutdown; that is not a failure of ours.
func ignoreDeadline(err error) error {
	if errors.Is(err, context.DeadlineExceeded) {
		return nil
	}
	return err
}

// follow hands the change feed to those who keep something in memory. It returns once they are up to date, or
// start ended.
func (s *Server) follow(start, ctx context.Context, wg *sync.WaitGroup) {
	subscription := s.follower.Subscribe(0)
	loaded := make(chan struct{})
	wg.Go(func() {
		defer subscription.Close()
		for first := true; ; first = false {
			batch, anew, err := subscription.Next(ctx)
			if err != nil {
				return
			}
			s.apikeys.Changed(batch, anew)
			s.jobs.Apply(batch)
			s.worker.Apply(batch)
			s.bring(ctx, batch, anew)
			if first {
				close(loaded)
			}
		}
	})
	select {
	case <-loaded:
	case <-start.Done():
	}
}

// bring takes the directory to where the feed is, however often the database has to be asked.
func (s *Server) bring(ctx context.Context, batch []feed.Change, anew bool) {
	for {
		var err error
		if anew {
			err = s.directory.Load(ctx)
		} else {
			err = s.directory.Apply(ctx, batch)
		}
		if err == nil || ctx.Err() != nil {
			return
		}
		s.log.Warn("the fleet in memory is behind; trying again", "error", err)
		select {
		case <-ctx.Done():
			return
		case <-time.After(time.Second):
		}
	}
}

// httpServer is the one HTTPS port. HTTP/2 is on for callers; agents ask for HTTP/1.1, which WebSocket needs.
func (s *Server) httpServer() *http.Server {
	c := s.certs.TLS()
	c.NextProtos = []string{"h2", "http/1.1"}
	srv := &http.Server{
		Handler: s.handler(), TLSConfig: c,
		ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 32 << 10,
		ErrorLog: quietLog(s.log),
	}
	if err := http2.ConfigureServer(srv, &http2.Server{MaxConcurrentStreams: 250, ReadIdleTimeout: 30 * time.Second}); err != nil {
		s.log.Error("HTTP/2 is off", "error", err)
	}
	return srv
}

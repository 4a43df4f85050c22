package server

import (
	"context"
	"log"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/server/console"
	providers "github.com/loopbackd/loopback/server/provider"
	"github.com/loopbackd/loopback/server/rpc"
	"github.com/loopbackd/loopback/server/rpc/openapi"
	"github.com/loopbackd/loopback/web"
	"github.com/loopbackd/loopback/wire"
)

// handler is everything on the one port.
func (s *Server) handler() http.Handler {
	options := rpc.Options{Logger: s.log, Address: s.address, Observe: s.meters.call, Limits: s.limits, Tracer: s.tracers.Tracer("loopback/rpc"), Stopping: s.stopping}
	api := rpc.Handler(rpc.Services{
		Access:          rpc.Access{Service: s.questions, Policies: s.policies},
		AccessReviews:   rpc.AccessReviews{Service: s.reviews},
		Bindings:        rpc.Bindings{Service: s.policies},
		GrantPolicies:   rpc.GrantPolicies{Service: s.grants},
		Grants:          rpc.Grants{Service: s.grants},
		Groups:          rpc.Groups{Service: s.people},
		Roles:           rpc.Roles{Service: s.policies},
		ServiceAccounts: rpc.ServiceAccounts{Service: s.people},
		Users:           rpc.Users{Service: s.people},
		ApiKeys:         rpc.ApiKeys{Service: s.apikeys},
		Audit:           rpc.Audit{Service: s.audit, Retention: s.retention, Ledger: s.ledger, Witnesses: s.witnesses},
		Changes:         rpc.Changes{Service: s.changes},
		Execs:           rpc.Execs{Service: s.execs},
		Files:           rpc.Files{Service: s.files},
		Commands:        rpc.Commands{Service: s.commands},
		Guests:          s.guestService(),
		Hosts:           rpc.Hosts{Service: s.hosts},
		Locks:           rpc.Locks{Service: s.locks},
		SessionReviews:  rpc.SessionReviews{Service: s.sessionReviews},
		Invitations:     rpc.Invitations{Service: s.invitations, Passkeys: s.passkeys, PublicURL: s.options.Settings.PublicURL, Now: s.options.Clock, Refused: s.credentials.uninvited},
		Operations:      rpc.Operations{Service: s.jobs},
		Organisations:   rpc.Organisations{Service: s.tenants},
		Passkeys:        rpc.Passkeys{Service: s.passkeys},
		Projects:        rpc.Projects{Service: s.tenants},
		Providers:       rpc.Providers{Service: s.providers},
		Releases:        rpc.Releases{Service: s.releases, Install: s.install},
		Replicas:        rpc.Replicas{Service: s.replicas},
		Sessions:        rpc.Sessions{Service: s.apikeys, SignIns: s.signIns, Deployment: s.deployment.ID, Version: s.options.Version},
		Shells:          s.shellService(replicaShells{s}),
		Settings:        rpc.Settings{Service: s.settings},
		SignIns:         rpc.SignIns{Service: s.signIns, Providers: s.providers, PublicURL: s.options.Settings.PublicURL, Domain: s.passkeys.Domain()},
		Sinks:           rpc.Sinks{Service: s.sinks},
		Tokens:          rpc.Tokens{Service: s.tokens},
		Workspaces:      rpc.Workspaces{Service: s.tenants},
	}, s.credentials, options)
	mux := http.NewServeMux()
	mux.Handle("/api/", http.StripPrefix("/api", s.sessions.Wrap(api)))
	mux.Handle("/session", s.anonymous(s.sessions))
	way := console.Providers{Sessions: s.sessions, Journeys: browsers{s.credentials, s.providers, s.passkeys, s.invitations}, Patience: int(providers.Patience.Seconds())}
	mux.Handle("GET /oidc/begin", s.anonymous(http.HandlerFunc(way.Begin)))
	mux.Handle("POST /oidc/begin", s.anonymous(http.HandlerFunc(way.BeginInvited)))
	mux.Handle("GET /oidc/callback/{provider}", s.anonymous(http.HandlerFunc(way.Return)))
	description := s.anonymous(http.StripPrefix("/api", openapi.Handler()))
	for _, file := range []string{"/api/openapi.yaml", "/api/docs", "/api/docs.css"} {
		mux.Handle(file, description)
	}
	mux.Handle("/install.sh", s.anonymous(s.install))
	mux.Handle("/dl/", s.anonymous(s.releases))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { plain(w, http.StatusOK, "ok") })
	mux.HandleFunc("GET /readyz", s.readyz)
	mux.Handle("/", s.anonymous(console.Handler(web.Files())))
	// Agents' links bring patience of their own.
	all := http.NewServeMux()
	all.HandleFunc("/agent/v1/link", s.wire.ServeLink)
	all.HandleFunc("/agent/v1/poll", s.wire.ServePoll)
	all.Handle(wire.StreamPath, s.streams)
	all.Handle("GET /shell/v1/{session}", s.sessions.Wrap(rpc.Terminal(s.shellService(replicaShells{s}), options)))
	all.Handle("GET /guest/v1/{session}", rpc.GuestTerminal(s.guestService(), s.shellService(replicaShells{s}), options)) // nobody signs in there
	all.Handle("/file/v1/{transfer}", s.sessions.Wrap(rpc.Bytes(s.files, s.credentials, options)))
	all.Handle("/", patient{s.options.Settings.Limits.ReadTimeout, s.options.Settings.Limits.WriteTimeout, s.meters.cut}.handler(mux))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Strict-Transport-Security", "max-age=31536000")
		all.ServeHTTP(w, r)
	})
}

// anonymous serves what needs no key, to each source at the pace that strangers are held to.
func (s *Server) anonymous(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := s.limits.Take(s.address(r)); err != nil {
			f := fault.Of(err)
			w.Header().Set("Retry-After", strconv.Itoa(int(f.RetryAfter.Seconds())))
			plain(w, http.StatusTooManyRequests, f.Message)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// readyz is ready while calls can be answered: the database answers and nobody asked us to stop.
func (s *Server) readyz(w http.ResponseWriter, r *http.Request) {
	if s.stopping.Err() != nil {
		plain(w, http.StatusServiceUnavailable, "stopping")
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), 2*time.Second)
	defer cancel()
	if err := s.db.Ping(ctx); err != nil {
		plain(w, http.StatusServiceUnavailable, "the database does not answer")
		return
	}
	plain(w, http.StatusOK, "ready")
}

func plain(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_, _ = w.Write([]byte(text + "\n"))
}

// address is where a call came from: the peer, or what a trusted proxy says of it. Each proxy on the way appends the
// address that it saw, so the client's is the last that is not a trusted proxy's.
func (s *Server) address(r *http.Request) netip.Addr {
	from := rpc.PeerAddress(r)
	proxies := s.options.Settings.Proxies()
	trusted := func(a netip.Addr) bool {
		for _, p := range proxies {
			if p.Contains(a) {
				return true
			}
		}
		return false
	}
	hops := strings.Split(strings.Join(r.Header.Values("X-Forwarded-For"), ","), ",")
	for i := len(hops) - 1; i >= 0 && trusted(from); i-- {
		a, err := netip.ParseAddr(strings.TrimSpace(hops[i]))
		if err != nil {
			break
		}
		from = a.Unmap()
	}
	return from
}

type metricsServer struct {
	server   *http.Server
	listener net.Listener
}

// metricsServer serves metrics and profiling, apart from the public port; nil when they are off.
func (s *Server) metricsServer() (*metricsServer, error) {
	if s.options.Settings.MetricsListen == "off" {
		return nil, nil
	}
	l, err := net.Listen("tcp", s.options.Settings.MetricsListen)
	if err != nil {
		return nil, fault.New(fault.Unavailable, "listen_failed", "the address %s for metrics cannot be listened on", s.options.Settings.MetricsListen).WithCause(err).
			WithHint("choose another with --metrics-listen, or off")
	}
	s.meters.process(s.options.Version, s.replica)
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(s.options.Registry, promhttp.HandlerOpts{}))
	mux.HandleFunc("/debug/pprof/", pprof.Index)
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	return &metricsServer{&http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}, l}, nil
}

// quietLog takes what net/http says of strangers' broken handshakes: of use when looking for something, noise otherwise.
func quietLog(l *slog.Logger) *log.Logger { return slog.NewLogLogger(l.Handler(), slog.LevelDebug) }

package server

import (
	"context"
	"crypto/rand"
	"errors"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/loopbackd/loopback/fault"
	noun "github.com/loopbackd/loopback/replica"
	"github.com/loopbackd/loopback/server/bus"
	"github.com/loopbackd/loopback/server/keys"
	"github.com/loopbackd/loopback/server/replica"
	"github.com/loopbackd/loopback/server/storage"
	"github.com/loopbackd/loopback/wire"
)

// joinReplicas takes this replica's place among the others, where there are any.
func (s *Server) joinReplicas(ctx context.Context) error {
	set := s.options.Settings.Cluster
	folder, err := folderID(s.options.Settings.DataDir)
	if err != nil {
		return err
	}
	s.replicas = replica.New(replica.Options{
		Store: storage.Bind[replica.Reader, replica.Tx](s.db), Keys: s.keys, Folder: folder, Instance: rand.Text(),
		Me: noun.Replica{
			Name: s.replica, Version: s.options.Version,
			Address: set.Advertised(set.ReplicaListen), Routes: set.Advertised(set.Listen),
		},
		Links: func() int {
			if s.hub == nil {
				return 0
			}
			return s.hub.Links()
		},
		Position: func() int64 {
			if s.follower == nil {
				return 0
			}
			return s.follower.Position()
		},
		BusPeers: func() int64 {
			if s.bus == nil {
				return 0
			}
			return int64(s.bus.Connected())
		},
		Database: s.db.Clock,
		Reached:  func(name string) bool { return s.peers == nil || s.peers.reached(name) },
		Present: func(others []string) {
			if s.hub != nil {
				s.hub.Present(others)
			}
		},
		Now: s.options.Clock, Logger: s.log,
	})
	if !set.On() {
		if others := len(s.keys.Keyset.Replicas); others > 1 {
			return fault.New(fault.Precondition, "cluster_off", "this control plane has %d replicas, and this one is not told how to reach the others", others).
				WithHint("start it with --cluster-listen, or with --bus, as the others are")
		}
		return nil
	}
	return s.replicas.Join(ctx)
}

// folderID names the data folder, which one process at a time has: after a crash its lease is taken over at once.
func folderID(dir string) (string, error) {
	name := filepath.Join(dir, "folder-id")
	b, err := os.ReadFile(name)
	if errors.Is(err, os.ErrNotExist) {
		b = []byte(rand.Text())
		err = os.WriteFile(name, b, 0o600)
	}
	if err != nil {
		return "", fault.New(fault.Unavailable, "data_folder_unusable", "the file %s cannot be used", name).WithCause(err)
	}
	return strings.TrimSpace(string(b)), nil
}

// openBus opens the bus as the settings want it.
func (s *Server) openBus() error {
	set := s.options.Settings.Cluster
	o := bus.Options{Logger: s.log, Clock: s.options.Clock, Lost: func() {
		if s.hub != nil {
			s.hub.RollCall()
		}
	}}
	if set.On() {
		o.Signer = s.keys
	}
	switch {
	case set.Bus != "":
		o.Outside = &bus.Outside{URL: set.Bus, CA: set.BusCA, Certificate: set.BusCertificate, Key: set.BusKey, Credentials: set.BusCredentials}
	case set.On():
		config, err := s.keys.PeerTLS("")
		if err != nil {
			return err
		}
		o.Cluster = &bus.Cluster{Name: s.keys.Keyset.Deployment, Listen: set.Listen, Advertise: set.Advertised(set.Listen), Peers: set.Peers, TLS: config}
		for _, r := range s.replicas.All() {
			if !r.Me && r.Routes != "" && r.Beat > 0 {
				o.Cluster.Peers = append(o.Cluster.Peers, r.Routes)
			}
		}
	}
	var err error
	s.bus, err = bus.Open(o)
	return err
}

// peers is how this replica and the others ask things of each other: polls of links that another one holds. Both ends
// show keys that the keyset lists.
type peers struct {
	keys     *keys.Keys
	replicas *replica.Service
	server   *http.Server
	listener net.Listener
	stopping context.Context // the server's

	mu      sync.Mutex
	quiet   *log.Logger
	proxies map[string]*httputil.ReverseProxy // by address and name
	reach   map[string]*reach                 // by name
}

// listenToPeers takes the port for other replicas; nil where this one is alone.
func (s *Server) listenToPeers() (*peers, error) {
	set := s.options.Settings.Cluster
	if !set.On() {
		return nil, nil
	}
	config, err := s.keys.PeerTLS("")
	if err != nil {
		return nil, err
	}
	l, err := net.Listen("tcp", set.ReplicaListen)
	if err != nil {
		return nil, fault.New(fault.Unavailable, "listen_failed", "the address %s for other replicas cannot be listened on", set.ReplicaListen).WithCause(err).
			WithHint("choose another with --replica-listen")
	}
	mux := http.NewServeMux()
	short := shortName(s.replica)
	// What came from a replica is not sent on to a third: names in polls are their sender's claim.
	foreign := func(w http.ResponseWriter, r *http.Request) bool {
		to, _, _ := strings.Cut(r.Header.Get(linkHeader), "-")
		if to != short {
			http.Error(w, "link_unknown", http.StatusGone)
		}
		return to != short
	}
	mux.HandleFunc("/agent/v1/poll", func(w http.ResponseWriter, r *http.Request) {
		if !foreign(w, r) {
			s.wire.ServePoll(w, r)
		}
	})
	mux.HandleFunc(wire.StreamPath, func(w http.ResponseWriter, r *http.Request) {
		if !wire.Resumes(r) || !foreign(w, r) {
			s.streams.ServePeer(w, r)
		}
	})
	mux.HandleFunc("GET "+replica.AboutPath, s.about)
	s.serveShells(mux)
	return &peers{
		keys: s.keys, replicas: s.replicas, listener: l, quiet: quietLog(s.log), stopping: s.stopping, proxies: map[string]*httputil.ReverseProxy{}, reach: map[string]*reach{},
		server: &http.Server{Handler: mux, TLSConfig: config, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute, ErrorLog: quietLog(s.log)},
	}, nil
}

// linkHeader names a poll's session; see package wire.
const linkHeader = "Loopback-Link"

// shortName is a replica's name in the ids of poll sessions.
func shortName(replica string) string { return strings.ReplaceAll(replica, "-", "") }

// forward sends a poll, unopened, to the replica that holds its session. A session whose replica is gone is over.
func (p *peers) forward(w http.ResponseWriter, r *http.Request, short string) {
	name, address := p.replicas.Address(short)
	if address == "" {
		http.Error(w, "link_unknown", http.StatusGone)
		return
	}
	proxy, err := p.proxy(name, address)
	if err != nil {
		http.Error(w, "link_unknown", http.StatusGone)
		return
	}
	while, stop, ok := p.whileReached(r.Context(), name)
	if !ok {
		http.Error(w, "link_unreachable", http.StatusGone)
		return
	}
	defer stop()
	proxy.ServeHTTP(w, r.WithContext(while))
}

// forwardPoll is forward for a replica that may be alone.
func (s *Server) forwardPoll(w http.ResponseWriter, r *http.Request, short string) {
	if s.peers == nil {
		http.Error(w, "link_unknown", http.StatusGone)
		return
	}
	s.peers.forward(w, r, short)
}

// forwardStream sends a stream, unopened, or somebody's part in a shell, to the replica of this name; false where that cannot be reached.
func (p *peers) forwardStream(w http.ResponseWriter, r *http.Request, replica string) bool {
	name, address := p.replicas.Address(shortName(replica))
	if address == "" {
		return false
	}
	proxy, err := p.proxy(name, address)
	if err != nil {
		return false
	}
	while, stop, ok := p.whileReached(r.Context(), name)
	if !ok {
		return false
	}
	defer stop()
	proxy.ServeHTTP(w, r.WithContext(while))
	return true
}

func (p *peers) proxy(name, address string) (*httputil.ReverseProxy, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	key := name + " " + address
	if proxy := p.proxies[key]; proxy != nil {
		return proxy, nil
	}
	config, err := p.keys.PeerTLS(name)
	if err != nil {
		return nil, err
	}
	dialer := &net.Dialer{Timeout: 5 * time.Second}
	proxy := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.Out.URL.Scheme, r.Out.URL.Host = "https", address
			r.Out.Host = address
		},
		Transport: &http.Transport{
			TLSClientConfig: config, DialContext: dialer.DialContext, TLSHandshakeTimeout: 5 * time.Second,
			MaxIdleConnsPerHost: 256, IdleConnTimeout: time.Minute,
		},
		ErrorLog: p.quiet,
		ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) {
			if errors.Is(context.Cause(r.Context()), errStopping) {
				w.Header().Set("Retry-After", "1")
				http.Error(w, "stopping", http.StatusServiceUnavailable)
				return
			}
			if r.Context().Err() == nil || errors.Is(context.Cause(r.Context()), errUnreached) {
				// The agent begins anew, wherever it gets: its session's replica cannot be reached from here.
				http.Error(w, "link_unreachable", http.StatusGone)
			}
		},
	}
	p.proxies[key] = proxy
	return proxy, nil
}

// close cuts what is under way.
func (p *peers) close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, one := range p.reach {
		one.cut(errUnreached)
		one.client.CloseIdleConnections()
	}
	for _, proxy := range p.proxies {
		proxy.Transport.(*http.Transport).CloseIdleConnections()
	}
	return p.server.Close()
}

package server

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/netip"
	"time"

	"github.com/loopbackd/loopback/api/loopback/v1/loopbackv1connect"
	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/server/link"
	"github.com/loopbackd/loopback/server/rpc"
	"github.com/loopbackd/loopback/server/shell"
	"github.com/loopbackd/loopback/server/stream"
	terminal "github.com/loopbackd/loopback/shell"
	ends "github.com/loopbackd/loopback/stream"
)

// A shell is at one replica, which records it; its host may be linked to a second, and who takes part in it be connected to a third.
// They reach each other over mutual TLS, as themselves: what a caller may do is asked again by the replica that has the session.
//
//	POST /replica/v1/shell        the order of a shell, for the replica that holds the host's link
//	GET  /shell/v1/{session}      somebody's part in a session
//	GET  /guest/v1/{session}      a guest's
//	POST /api/…ShellService/…     a call about a session

const (
	orderPath = "/replica/v1/shell"
	// askedFrom is the address of who asked another replica first.
	askedFrom = "Loopback-Asked-From"
)

func (s *Server) shellService(peers rpc.Peers) rpc.Shells {
	return rpc.Shells{Service: s.shells, Authenticate: s.credentials, Peers: peers}
}

func (s *Server) guestService() rpc.Guests {
	return rpc.Guests{Service: s.guests, PublicURL: s.options.Settings.PublicURL}
}

// serveShells answers other replicas. They have looked for the session where it is: nothing is handed on a second time.
func (s *Server) serveShells(mux *http.ServeMux) {
	options := rpc.Options{Logger: s.log, Observe: s.meters.call, Limits: s.limits, Tracer: s.tracers.Tracer("loopback/rpc"), Stopping: s.stopping,
		Address: func(r *http.Request) netip.Addr {
			a, _ := netip.ParseAddr(r.Header.Get(askedFrom)) // another replica wrote it
			return a
		}}
	mux.Handle("POST /api/"+loopbackv1connect.ShellServiceName+"/", http.StripPrefix("/api", rpc.Handler(rpc.Services{Shells: s.shellService(nil)}, s.credentials, options)))
	mux.Handle("GET /shell/v1/{session}", rpc.Terminal(s.shellService(nil), options))
	mux.Handle("GET /guest/v1/{session}", rpc.GuestTerminal(s.guestService(), s.shellService(nil), options))
	mux.HandleFunc("POST "+orderPath, s.takeShellOrder)
}

// replicaShells are the shells of the other replicas.
type replicaShells struct{ *Server }

func (s replicaShells) Terminal(w http.ResponseWriter, r *http.Request, replica string) bool {
	if s.peers == nil || replica == s.replica {
		return false
	}
	out := r.Clone(r.Context())
	out.Header.Set(askedFrom, s.address(r).String())
	for _, ours := range []string{"Cookie", "Origin"} { // looked at here
		out.Header.Del(ours)
	}
	return s.peers.forwardStream(w, out, replica)
}

func (s replicaShells) Shells(replica string, from netip.Addr) loopbackv1connect.ShellServiceClient {
	if s.peers == nil || replica == s.replica {
		return nil
	}
	client, address := s.peers.ask(replica)
	if client == nil {
		return nil
	}
	as := *client
	as.Transport = askingFor{client.Transport, from}
	return loopbackv1connect.NewShellServiceClient(&as, "https://"+address+"/api")
}

// askingFor says in whose name another replica is asked.
type askingFor struct {
	http.RoundTripper
	from netip.Addr
}

func (a askingFor) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set(askedFrom, a.from.String())
	return a.RoundTripper.RoundTrip(r)
}

// ask is how a replica is asked; nil where it cannot be reached.
func (p *peers) ask(replica string) (client *http.Client, address string) {
	name, address := p.replicas.Address(shortName(replica))
	if address == "" || !p.reached(name) {
		return nil, ""
	}
	one, err := p.reachOf(name)
	if err != nil {
		return nil, ""
	}
	return one.client, address
}

// reached tells the shells whether another replica is there; nil where there is none.
func (s *Server) reached() func(replica string) bool {
	if !s.options.Settings.Cluster.On() {
		return nil
	}
	return func(replica string) bool {
		if s.peers == nil {
			return true // we are starting, and have not asked yet
		}
		client, _ := s.peers.ask(replica)
		return client != nil
	}
}

// shellStreams gives the shell slice the way to hosts.
type shellStreams struct{ *Server }

var _ shell.Streams = shellStreams{}

// shellOrder is an order as it goes to the replica that holds the host's link.
type shellOrder struct {
	Host  string          `json:"host"`
	Order link.ShellOrder `json:"order"`
}

func (s shellStreams) Start(ctx context.Context, hostID, session string, order []byte, end *ends.End) (forget func(), err error) {
	forget = s.Expect(hostID, session, end)
	return forget, s.order(ctx, shellOrder{hostID, link.ShellOrder{Session: session, Order: order, Stream: s.streams.Name(session), Credential: s.streams.Credential(session)}})
}

func (s shellStreams) Expect(hostID, session string, end *ends.End) (forget func()) {
	return s.streams.Expect(stream.Session{ID: session, HostID: hostID, End: end})
}

func (s shellStreams) Tell(ctx context.Context, hostID, session string, order []byte) error {
	return s.order(ctx, shellOrder{hostID, link.ShellOrder{Session: session, Order: order}})
}

// relinks is how long a host may take that goes from one replica to another just now.
const relinks = 5 * time.Second

// order has a host given an order, by whichever replica holds its link.
func (s shellStreams) order(ctx context.Context, o shellOrder) error {
	ctx, cancel := context.WithTimeout(ctx, link.ShellWithin)
	defer cancel()
	ticks := time.NewTicker(100 * time.Millisecond)
	defer ticks.Stop()
	for began := s.options.Clock(); ; {
		var err error
		if at := s.hub.Presence(o.Host).Replica; at == "" || at == s.replica || s.peers == nil {
			err = s.hub.Shell(ctx, o.Host, o.Order)
		} else {
			err = s.peers.order(ctx, at, o)
		}
		// An order that nobody was given can be given again, and a host begins a session once.
		if errors.Is(err, link.ErrNotLinked) && s.options.Clock().Sub(began) < relinks {
			select {
			case <-ticks.C:
				continue
			case <-ctx.Done():
			}
		}
		return err
	}
}

// order has another replica give an order.
func (p *peers) order(ctx context.Context, replica string, o shellOrder) error {
	client, address := p.ask(replica)
	if client == nil {
		return link.ErrNotLinked
	}
	body, err := json.Marshal(o)
	if err != nil {
		return err
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, "https://"+address+orderPath, bytes.NewReader(body))
	if err != nil {
		return err
	}
	answer, err := client.Do(r)
	if err != nil {
		return fault.New(fault.Timeout, "shell_unanswered", "the replica that holds the host's link did not say whether the session begins").WithCause(err)
	}
	defer answer.Body.Close()
	said, err := io.ReadAll(io.LimitReader(answer.Body, 4<<10))
	switch {
	case err != nil:
		return fault.New(fault.Timeout, "shell_unanswered", "the replica that holds the host's link did not say whether the session begins").WithCause(err)
	case answer.StatusCode == http.StatusNoContent:
		return nil
	}
	return terminal.DecodeOver(said)
}

// takeShellOrder gives a host of ours an order of another replica's.
func (s *Server) takeShellOrder(w http.ResponseWriter, r *http.Request) {
	var o shellOrder
	err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 64<<10)).Decode(&o)
	if err == nil {
		err = s.hub.Shell(r.Context(), o.Host, o.Order)
	}
	if err != nil {
		w.WriteHeader(http.StatusConflict)
		_, _ = w.Write(terminal.EncodeOver(fault.Of(err))) // whoever asked is gone
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

// adoptShell has the shell slice asked for streams that nobody expects: of sessions from before a restart.
func adoptShell(service *shell.Service) stream.Adopter {
	return func(ctx context.Context, id string) error {
		ok, err := service.Adopt(ctx, id)
		if err == nil && !ok {
			err = stream.ErrUnknown
		}
		return err
	}
}

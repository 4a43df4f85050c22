package cli_test

import (
	"cmp"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	pb "github.com/loopbackd/loopback/api/loopback/v1"
	"github.com/loopbackd/loopback/api/loopback/v1/loopbackv1connect"
	"github.com/loopbackd/loopback/fault"
)

// A controlPlane keeps what it is told, in memory, and answers as the API's contract says. The zero value has nothing in it
// and lets in whoever shows adminKey.
type controlPlane struct {
	mu         sync.Mutex
	hosts      []*pb.Host
	tokens     []*pb.Token
	keys       []*pb.ApiKey
	operations []*pb.Operation
	entries    []*pb.AuditEntry
	tree       []*pb.Workspace // organisations and projects follow from them
	settings   *pb.AgentSettings
	replicas   []*pb.Replica
	code       string // bootstrap code that is still good
	failWith   *fault.Error
	failTimes  int                 // so often, then no more; 0: for ever
	step       func(*pb.Operation) // what becomes of an operation each time that it is waited for; nil: it succeeds
	changed    chan struct{}
	watched    chan struct{} // closed once somebody watches
	lastMint   *pb.MintTokenRequest
	calls      []string
	heard      func(procedure string) // of every call; nil: nobody listens
	header     http.Header            // of the last call

	server  *httptest.Server
	address string
}

const adminKey = "lbk_administrator"

// start serves on an address of its own, and on the same one again after stop.
func (p *controlPlane) start(t *testing.T) *controlPlane {
	t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	mux := http.NewServeMux()
	o := connect.WithInterceptors(guard{p})
	for _, one := range []func() (string, http.Handler){
		func() (string, http.Handler) { return loopbackv1connect.NewHostServiceHandler(hostAPI{p: p}, o) },
		func() (string, http.Handler) { return loopbackv1connect.NewTokenServiceHandler(tokenAPI{p: p}, o) },
		func() (string, http.Handler) {
			return loopbackv1connect.NewOperationServiceHandler(operationAPI{p: p}, o)
		},
		func() (string, http.Handler) { return loopbackv1connect.NewApiKeyServiceHandler(keyAPI{p: p}, o) },
		func() (string, http.Handler) {
			return loopbackv1connect.NewSessionServiceHandler(sessionAPI{p: p}, o)
		},
		func() (string, http.Handler) { return loopbackv1connect.NewAuditServiceHandler(auditAPI{p: p}, o) },
		func() (string, http.Handler) {
			return loopbackv1connect.NewOrganisationServiceHandler(treeAPI{p: p}, o)
		},
		func() (string, http.Handler) { return loopbackv1connect.NewProjectServiceHandler(treeAPI{p: p}, o) },
		func() (string, http.Handler) { return loopbackv1connect.NewWorkspaceServiceHandler(treeAPI{p: p}, o) },
		func() (string, http.Handler) {
			return loopbackv1connect.NewSettingsServiceHandler(settingsAPI{p: p}, o)
		},
		func() (string, http.Handler) {
			return loopbackv1connect.NewReplicaServiceHandler(replicaAPI{p: p}, o)
		},
	} {
		path, h := one()
		mux.Handle("/api"+path, http.StripPrefix("/api", h))
	}
	s := httptest.NewUnstartedServer(mux)
	if p.address != "" {
		l, err := net.Listen("tcp", p.address)
		if err != nil {
			t.Fatal(err)
		}
		s.Listener.Close()
		s.Listener = l
	}
	s.EnableHTTP2 = true
	s.Config.ErrorLog = log.New(io.Discard, "", 0) // handshakes that are cut off on purpose
	s.TLS = &tls.Config{MinVersion: tls.VersionTLS12}
	s.StartTLS()
	p.server, p.address = s, s.Listener.Addr().String()
	if p.changed == nil {
		p.changed, p.watched = make(chan struct{}), make(chan struct{})
		t.Cleanup(p.stop)
	}
	return p
}

// stop cuts every connection, as a machine does that goes away.
func (p *controlPlane) stop() {
	p.mu.Lock()
	s := p.server
	p.server = nil
	p.mu.Unlock()
	if s != nil {
		s.Listener.Close()
		s.CloseClientConnections()
		s.Config.Close()
		s.Close()
	}
}

// put adds or replaces hosts and tells watchers.
func (p *controlPlane) put(hosts ...*pb.Host) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, h := range hosts {
		h.Id = cmp.Or(h.Id, "hst_"+h.Name)
		if i := slices.IndexFunc(p.hosts, func(x *pb.Host) bool { return x.Id == h.Id }); i >= 0 {
			p.hosts[i] = h
		} else {
			p.hosts = append(p.hosts, h)
		}
	}
	p.tell()
}

func (p *controlPlane) tell() {
	if p.changed != nil {
		close(p.changed)
		p.changed = make(chan struct{})
	}
}

func (p *controlPlane) host(name string) (*pb.Host, error) {
	for _, h := range p.hosts {
		if h.Id == name || h.Name == name {
			return h, nil
		}
	}
	return nil, refuse(fault.New(fault.NotFound, "host_not_found", "there is no host %s", name).WithHint("loopback host list"))
}

// refuse is a fault as the API sends it.
func refuse(f *fault.Error) error {
	var code connect.Code
	if err := code.UnmarshalText([]byte(f.Kind)); err != nil {
		panic(err)
	}
	e := connect.NewError(code, fmt.Errorf("%s", f.Message))
	d := &pb.ErrorDetail{Code: f.Code, Hint: f.Hint, RequestId: "req_fake"}
	if f.RetryAfter > 0 {
		d.RetryAfter = durationpb.New(f.RetryAfter)
	}
	for _, v := range f.Violations {
		d.Violations = append(d.Violations, &pb.FieldViolation{Field: v.Field, Message: v.Message})
	}
	if detail, err := connect.NewErrorDetail(d); err == nil {
		e.AddDetail(detail)
	}
	return e
}

// guard lets in whoever shows a key that works, and fails calls where the test wants that.
type guard struct{ p *controlPlane }

func (g guard) check(h http.Header, procedure string) error {
	g.p.mu.Lock()
	defer g.p.mu.Unlock()
	g.p.calls, g.p.header = append(g.p.calls, procedure), h
	if g.p.heard != nil {
		g.p.heard(procedure)
	}
	if strings.HasSuffix(procedure, "/RedeemBootstrapCode") {
		return nil
	}
	key := strings.TrimPrefix(h.Get("Authorization"), "Bearer ")
	known := key == adminKey || slices.ContainsFunc(g.p.keys, func(k *pb.ApiKey) bool { return "lbk_"+k.Id == key && k.RevokedAt == nil })
	if !known {
		return refuse(fault.New(fault.Unauthenticated, "unauthenticated", "you are not signed in").WithHint("loopback login URL"))
	}
	if g.p.failWith != nil {
		f := g.p.failWith
		if g.p.failTimes--; g.p.failTimes == 0 {
			g.p.failWith = nil
		}
		return refuse(f)
	}
	return nil
}

func (g guard) WrapUnary(next connect.UnaryFunc) connect.UnaryFunc {
	return func(ctx context.Context, r connect.AnyRequest) (connect.AnyResponse, error) {
		if err := g.check(r.Header(), r.Spec().Procedure); err != nil {
			return nil, err
		}
		return next(ctx, r)
	}
}
func (g guard) WrapStreamingClient(next connect.StreamingClientFunc) connect.StreamingClientFunc {
	return next
}
func (g guard) WrapStreamingHandler(next connect.StreamingHandlerFunc) connect.StreamingHandlerFunc {
	return func(ctx context.Context, c connect.StreamingHandlerConn) error {
		if err := g.check(c.RequestHeader(), c.Spec().Procedure); err != nil {
			return err
		}
		return next(ctx, c)
	}
}

// page cuts one page out of a list, as the contract has it.
func page[T any](all []T, p *pb.Page) ([]T, string) {
	from, _ := strconv.Atoi(p.GetToken())
	size := int(p.GetSize())
	if size == 0 {
		size = 100
	}
	if to := from + min(size, 1000); to < len(all) {
		return all[from:to], strconv.Itoa(to)
	}
	return all[from:], ""
}

func answer[T any](m *T, err error) (*connect.Response[T], error) {
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(m), nil
}

// clone keeps what is sent apart from what may change while it is sent.
func clone[T proto.Message](all []T) (out []T) {
	for _, m := range all {
		out = append(out, proto.Clone(m).(T))
	}
	return out
}

package rpc_test

import (
	"context"
	"net/http/httptest"
	"net/netip"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/loopbackd/loopback/access"
	v1 "github.com/loopbackd/loopback/api/loopback/v1"
	"github.com/loopbackd/loopback/api/loopback/v1/loopbackv1connect"
	"github.com/loopbackd/loopback/host"
	"github.com/loopbackd/loopback/label"
	"github.com/loopbackd/loopback/section"
	"github.com/loopbackd/loopback/server/link"
	"github.com/loopbackd/loopback/server/rpc"
	tokens "github.com/loopbackd/loopback/server/token"
	"github.com/loopbackd/loopback/test/plane"
)

type administrator struct{}

func (administrator) Authenticate(context.Context, string, netip.Addr) (access.Actor, error) {
	return plane.Admin, nil
}

// TestAHostOnTheWire takes one host through its life, as the API shows it.
func TestAHostOnTheWire(t *testing.T) {
	p := plane.New(t)
	p.Run(t)
	server := httptest.NewServer(rpc.Handler(rpc.Services{
		Hosts: rpc.Hosts{Service: p.Hosts}, Operations: rpc.Operations{Service: p.Operations}, Settings: rpc.Settings{Service: p.Settings},
	}, administrator{}, rpc.Options{}))
	defer server.Close()
	signed := connect.WithInterceptors(bearer{})
	hosts := loopbackv1connect.NewHostServiceClient(server.Client(), server.URL, signed)
	operations := loopbackv1connect.NewOperationServiceClient(server.Client(), server.URL, signed)
	settings := loopbackv1connect.NewSettingsServiceClient(server.Client(), server.URL, signed)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()

	watch, err := hosts.WatchHosts(ctx, connect.NewRequest(&v1.WatchHostsRequest{Selector: "env=prod"}))
	if err != nil {
		t.Fatal(err)
	}
	defer watch.Close()
	next := func() *v1.WatchHostsResponse {
		t.Helper()
		if !watch.Receive() {
			t.Fatal(watch.Err())
		}
		return watch.Msg()
	}
	if next().GetSynced() == nil {
		t.Fatalf("heard %v first, want synced", watch.Msg())
	}
	p.Enrol(t, p.Mint(t, tokens.Request{HostLabels: label.Set{"env": "prod"}, EphemeralTTL: time.Hour}), "web")
	id := next().GetChanged().GetHost().GetId()

	got, err := hosts.GetHost(ctx, connect.NewRequest(&v1.GetHostRequest{Host: "web"}))
	if err != nil {
		t.Fatal(err)
	}
	h := got.Msg
	if h.GetId() != id || h.GetState() != "enrolling" || h.GetReason() == "" || h.GetKeyGeneration() != 1 || len(h.GetKeyFingerprint()) != 64 ||
		h.GetEphemeralTtl().AsDuration() != time.Hour || h.GetScope().GetWorkspaceId() != p.Workspace.ID ||
		len(h.GetSections()) != 1 || h.GetSections()[0].GetStatus() != "pending" || h.GetSections()[0].GetDesiredRevision() != "1.1" {
		t.Errorf("enrolled: %v", h)
	}
	desired := p.Fleet.Desired(id)[0]
	if err := p.Fleet.Observer().Observe(ctx, []link.Observation{{
		HostID: id, Presence: &link.Presence{Online: true, Since: p.Clock.Now()},
		Sections:  []section.Status{{Name: "settings", Revision: desired.Revision, State: section.Applied, AppliedAt: p.Clock.Now()}},
		Inventory: &link.Inventory{Inventory: host.Inventory{OS: "debian", CPUs: 4, Disks: []host.Disk{{Mount: "/"}}}, Digest: []byte{1}},
	}}); err != nil {
		t.Fatal(err)
	}
	if c := next().GetChanged(); c.GetHost().GetState() != "managed" || c.GetPreviousState() != "enrolling" || c.GetHost().GetSections()[0].GetStatus() != "applied" {
		t.Errorf("applied: %v, want managed from enrolling", c)
	}
	set, err := settings.SetSettings(ctx, connect.NewRequest(&v1.SetSettingsRequest{
		Host: "web", Settings: &v1.AgentSettings{LogLevel: "debug", HeartbeatMin: durationpb.New(time.Second), Modules: &v1.ModuleList{}},
	}))
	if err != nil || set.Msg.GetOwn().GetLogLevel() != "debug" || set.Msg.GetOwn().GetModules() == nil || set.Msg.GetEffective().GetHeartbeatMax().AsDuration() != 20*time.Second {
		t.Fatalf("settings: %v, %v", set, err)
	}
	next() // the host's desired revision is another
	list, err := hosts.ListHosts(ctx, connect.NewRequest(&v1.ListHostsRequest{Selector: "env in (prod)", OrderBy: "-last_seen_at", States: []string{"managed"}}))
	if err != nil || len(list.Msg.GetItems()) != 1 || list.Msg.GetTotal() != 1 {
		t.Fatalf("listed: %v, %v, want the host", list, err)
	}
	h = list.Msg.GetItems()[0]
	if s := h.GetSections()[0]; s.GetStatus() != "pending" || s.GetRevision() == s.GetDesiredRevision() {
		t.Errorf("section %v, want pending: another revision is desired", s)
	}
	if h.GetInventory().GetCpus() != 4 || len(h.GetInventory().GetDisks()) != 1 {
		t.Errorf("inventory %v", h.GetInventory())
	}
	for _, r := range []*v1.ListHostsRequest{{Selector: "env in"}, {OrderBy: "colour"}, {States: []string{"odd"}}, {Page: &v1.Page{Token: "?"}}} {
		if _, err := hosts.ListHosts(ctx, connect.NewRequest(r)); connect.CodeOf(err) != connect.CodeInvalidArgument {
			t.Errorf("%v: got %v, want an invalid argument", r, err)
		}
	}
	o, err := hosts.RemoveHost(ctx, connect.NewRequest(&v1.RemoveHostRequest{Host: "web", Reason: "sold", RequestId: "1"}))
	if err != nil {
		t.Fatal(err)
	}
	done, err := operations.WaitOperation(ctx, connect.NewRequest(&v1.WaitOperationRequest{Operation: o.Msg.GetId(), Timeout: durationpb.New(10 * time.Second)}))
	if err != nil || done.Msg.GetState() != "succeeded" || done.Msg.GetProgress() != 1 || len(done.Msg.GetSteps()) != 1 {
		t.Errorf("operation: %v, %v, want succeeded", done, err)
	}
	if c := next().GetChanged(); c.GetHost().GetState() != "removed" || c.GetHost().GetReason() != "sold" {
		t.Errorf("removed: %v", c)
	}
}

type bearer struct{}

func (bearer) WrapUnary(next connect.UnaryFunc) connect.UnaryFunc {
	return func(ctx context.Context, r connect.AnyRequest) (connect.AnyResponse, error) {
		r.Header().Set("Authorization", "Bearer x")
		return next(ctx, r)
	}
}

func (bearer) WrapStreamingClient(next connect.StreamingClientFunc) connect.StreamingClientFunc {
	return func(ctx context.Context, s connect.Spec) connect.StreamingClientConn {
		c := next(ctx, s)
		c.RequestHeader().Set("Authorization", "Bearer x")
		return c
	}
}

func (bearer) WrapStreamingHandler(next connect.StreamingHandlerFunc) connect.StreamingHandlerFunc {
	return next
}

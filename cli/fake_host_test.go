package cli_test

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/loopbackd/loopback/api/loopback/v1"
	"github.com/loopbackd/loopback/api/loopback/v1/loopbackv1connect"
	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/label"
)

type hostAPI struct {
	loopbackv1connect.UnimplementedHostServiceHandler
	p *controlPlane
}

func (a hostAPI) find(name string, change func(*pb.Host)) (*connect.Response[pb.Host], error) {
	a.p.mu.Lock()
	defer a.p.mu.Unlock()
	h, err := a.p.host(name)
	if err != nil {
		return nil, err
	}
	change(h)
	a.p.tell()
	return answer(proto.Clone(h).(*pb.Host), nil)
}

func (a hostAPI) GetHost(_ context.Context, r *connect.Request[pb.GetHostRequest]) (*connect.Response[pb.Host], error) {
	return a.find(r.Msg.Host, func(*pb.Host) {})
}

func (a hostAPI) matching(selector string) ([]*pb.Host, error) {
	s, err := label.Parse(selector)
	if err != nil {
		return nil, refuse(fault.New(fault.Invalid, "selector_invalid", "the selector cannot be read"))
	}
	var out []*pb.Host
	for _, h := range a.p.hosts {
		if s.Matches(label.Set(h.Labels)) {
			out = append(out, h)
		}
	}
	return clone(out), nil
}

func (a hostAPI) ListHosts(_ context.Context, r *connect.Request[pb.ListHostsRequest]) (*connect.Response[pb.ListHostsResponse], error) {
	a.p.mu.Lock()
	defer a.p.mu.Unlock()
	all, err := a.matching(r.Msg.Selector)
	if err != nil {
		return nil, err
	}
	all = slices.DeleteFunc(all, func(h *pb.Host) bool {
		return len(r.Msg.States) > 0 && !slices.Contains(r.Msg.States, h.State) || len(r.Msg.States) == 0 && h.State == "removed"
	})
	items, next := page(all, r.Msg.Page)
	return answer(&pb.ListHostsResponse{Items: items, NextPageToken: next, Total: int64(len(all))}, nil)
}

func (a hostAPI) WatchHosts(ctx context.Context, r *connect.Request[pb.WatchHostsRequest], s *connect.ServerStream[pb.WatchHostsResponse]) error {
	send := func(h *pb.Host, previous string, gone bool) error {
		return s.Send(&pb.WatchHostsResponse{Event: &pb.WatchHostsResponse_Changed{Changed: &pb.HostChange{Host: h, PreviousState: previous, Gone: gone, At: timestamppb.Now()}}})
	}
	known := map[string]*pb.Host{}
	for first := true; ; first = false {
		a.p.mu.Lock()
		all, err := a.matching(r.Msg.Selector)
		changed := a.p.changed
		a.p.mu.Unlock()
		if err != nil {
			return err
		}
		now := map[string]*pb.Host{}
		for _, h := range all {
			if h.State == "removed" && known[h.Id] == nil {
				continue // a watch shows what is there, and how it goes
			}
			now[h.Id] = h
			if old := known[h.Id]; old == nil || !proto.Equal(old, h) {
				if err := send(h, old.GetState(), false); err != nil {
					return err
				}
			}
		}
		for id, old := range known {
			if now[id] == nil {
				if err := send(old, old.State, true); err != nil {
					return err
				}
			}
		}
		known = now
		if first {
			if err := s.Send(&pb.WatchHostsResponse{Event: &pb.WatchHostsResponse_Synced{Synced: &pb.WatchSynced{}}}); err != nil {
				return err
			}
			a.p.mu.Lock()
			select {
			case <-a.p.watched:
			default:
				close(a.p.watched)
			}
			a.p.mu.Unlock()
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (a hostAPI) LabelHost(_ context.Context, r *connect.Request[pb.LabelHostRequest]) (*connect.Response[pb.Host], error) {
	return a.find(r.Msg.Host, func(h *pb.Host) {
		if h.Labels == nil {
			h.Labels = map[string]string{}
		}
		for k, v := range r.Msg.Set {
			h.Labels[k] = v
		}
		for _, k := range r.Msg.Remove {
			delete(h.Labels, k)
		}
	})
}

func (a hostAPI) AddHost(_ context.Context, r *connect.Request[pb.AddHostRequest]) (*connect.Response[pb.Host], error) {
	a.p.mu.Lock()
	_, err := a.p.host(r.Msg.Name)
	a.p.mu.Unlock()
	if err == nil {
		return nil, refuse(fault.New(fault.Exists, "host_exists", "there is a host %s already", r.Msg.Name))
	}
	h := &pb.Host{Name: r.Msg.Name, Address: r.Msg.Address, Provider: cmp.Or(r.Msg.Provider, "manual"), Labels: r.Msg.Labels, State: "unmanaged"}
	a.p.put(h)
	return answer(h, nil)
}

func (a hostAPI) MoveHost(_ context.Context, r *connect.Request[pb.MoveHostRequest]) (*connect.Response[pb.Host], error) {
	return a.find(r.Msg.Host, func(h *pb.Host) { h.Scope = &pb.Scope{WorkspaceId: r.Msg.ToWorkspace} })
}

func (a hostAPI) ApproveHost(_ context.Context, r *connect.Request[pb.ApproveHostRequest]) (*connect.Response[pb.Host], error) {
	return a.find(r.Msg.Host, func(h *pb.Host) { h.State = "enrolling" })
}

func (a hostAPI) ReleaseHost(_ context.Context, r *connect.Request[pb.ReleaseHostRequest]) (*connect.Response[pb.Host], error) {
	return a.find(r.Msg.Host, func(h *pb.Host) { h.State = "managed" })
}

func (a hostAPI) SplitHost(_ context.Context, r *connect.Request[pb.SplitHostRequest]) (*connect.Response[pb.Host], error) {
	return a.decide(r.Msg.Host, r.Msg.Keep, "split")
}

func (a hostAPI) DropHostCopy(_ context.Context, r *connect.Request[pb.DropHostCopyRequest]) (*connect.Response[pb.Host], error) {
	return a.decide(r.Msg.Host, r.Msg.Keep, "dropped")
}

func (a hostAPI) SettleHost(_ context.Context, r *connect.Request[pb.SettleHostRequest]) (*connect.Response[pb.Host], error) {
	return a.find(r.Msg.Host, func(h *pb.Host) {
		for _, s := range h.Sections {
			s.HostWins, s.Frozen = r.Msg.Winner == "host", r.Msg.Winner == "host"
		}
	})
}

func (a hostAPI) decide(name, keep, others string) (*connect.Response[pb.Host], error) {
	return a.find(name, func(h *pb.Host) {
		h.State = "managed"
		for _, c := range h.Copies {
			c.Verdict = others
			if c.HostName == keep {
				c.Verdict = "kept"
			}
		}
	})
}

func (a hostAPI) operate(kind, name, state string) (*connect.Response[pb.Operation], error) {
	h, err := a.find(name, func(h *pb.Host) { h.State = state })
	if err != nil {
		return nil, err
	}
	return answer(a.p.begin(kind, h.Msg.Id), nil)
}

func (a hostAPI) QuarantineHost(_ context.Context, r *connect.Request[pb.QuarantineHostRequest]) (*connect.Response[pb.Operation], error) {
	return a.operate("host.quarantine", r.Msg.Host, "quarantined")
}

func (a hostAPI) RestartModule(_ context.Context, r *connect.Request[pb.RestartModuleRequest]) (*connect.Response[pb.Operation], error) {
	h, err := a.find(r.Msg.Host, func(*pb.Host) {})
	switch {
	case err != nil:
		return nil, err
	case !slices.ContainsFunc(h.Msg.Modules, func(m *pb.ModuleHealth) bool { return m.Module == r.Msg.Module }):
		return nil, refuse(fault.New(fault.NotFound, "module_unknown", "the agent of host %s has no module %q", h.Msg.Name, r.Msg.Module).WithHint("it has settings"))
	}
	return answer(a.p.begin("host.restart_module", h.Msg.Id), nil)
}

func (a hostAPI) RemoveHost(_ context.Context, r *connect.Request[pb.RemoveHostRequest]) (*connect.Response[pb.Operation], error) {
	return a.operate("host.remove", r.Msg.Host, "removed")
}

func (p *controlPlane) begin(kind, target string) *pb.Operation {
	p.mu.Lock()
	defer p.mu.Unlock()
	o := &pb.Operation{Id: fmt.Sprintf("op_%d", len(p.operations)+1), Name: kind, Target: target, State: "running",
		Steps: []*pb.OperationStep{{Name: "close the link", State: "running"}}}
	p.operations = append(p.operations, o)
	return proto.Clone(o).(*pb.Operation)
}

type operationAPI struct {
	loopbackv1connect.UnimplementedOperationServiceHandler
	p *controlPlane
}

func (a operationAPI) find(id string, change func(*pb.Operation)) (*connect.Response[pb.Operation], error) {
	a.p.mu.Lock()
	defer a.p.mu.Unlock()
	for _, o := range a.p.operations {
		if o.Id == id {
			change(o)
			return answer(proto.Clone(o).(*pb.Operation), nil)
		}
	}
	return nil, refuse(fault.New(fault.NotFound, "operation_not_found", "there is no operation %s", id))
}

func (a operationAPI) GetOperation(_ context.Context, r *connect.Request[pb.GetOperationRequest]) (*connect.Response[pb.Operation], error) {
	return a.find(r.Msg.Operation, func(*pb.Operation) {})
}

func (a operationAPI) ListOperations(_ context.Context, r *connect.Request[pb.ListOperationsRequest]) (*connect.Response[pb.ListOperationsResponse], error) {
	a.p.mu.Lock()
	defer a.p.mu.Unlock()
	items, next := page(clone(a.p.operations), r.Msg.Page)
	return answer(&pb.ListOperationsResponse{Items: items, NextPageToken: next}, nil)
}

func (a operationAPI) WaitOperation(_ context.Context, r *connect.Request[pb.WaitOperationRequest]) (*connect.Response[pb.Operation], error) {
	return a.find(r.Msg.Operation, func(o *pb.Operation) {
		if a.p.step != nil {
			a.p.step(o)
			return
		}
		o.State, o.Progress = "succeeded", 1
		for _, s := range o.Steps {
			s.State = "succeeded"
		}
	})
}

func (a operationAPI) CancelOperation(_ context.Context, r *connect.Request[pb.CancelOperationRequest]) (*connect.Response[pb.Operation], error) {
	return a.find(r.Msg.Operation, func(o *pb.Operation) { o.State = "cancelled" })
}

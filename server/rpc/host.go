package rpc

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"strings"

	"connectrpc.com/connect"

	v1 "github.com/loopbackd/loopback/api/loopback/v1"
	noun "github.com/loopbackd/loopback/host"
	"github.com/loopbackd/loopback/label"
	"github.com/loopbackd/loopback/query"
	"github.com/loopbackd/loopback/section"
	"github.com/loopbackd/loopback/server/host"
)

// Hosts is loopback.v1.HostService.
type Hosts struct{ Service *host.Service }

// GetHost is one.
func (h Hosts) GetHost(ctx context.Context, r *connect.Request[v1.GetHostRequest]) (*connect.Response[v1.Host], error) {
	return hostAnswer(h.Service.Get(ctx, host.Ref{Host: r.Msg.GetHost(), Workspace: r.Msg.GetWorkspace()}))
}

// ListHosts is those that the caller may see.
func (h Hosts) ListHosts(ctx context.Context, r *connect.Request[v1.ListHostsRequest]) (*connect.Response[v1.ListHostsResponse], error) {
	selector, err := label.Parse(r.Msg.GetSelector())
	if err != nil {
		return nil, err
	}
	filter, err := query.Parse(r.Msg.GetQuery(), noun.Fields...)
	if err != nil {
		return nil, err
	}
	order, reverse := strings.CutPrefix(r.Msg.GetOrderBy(), "-")
	q := host.ListQuery{Workspace: r.Msg.GetWorkspace()}
	q.Selector, q.Filter, q.OrderBy, q.Reverse, q.Page = selector, filter, noun.Order(order), reverse, page(r.Msg.GetPage())
	q.States = each(r.Msg.GetStates(), func(s string) noun.State { return noun.State(s) })
	items, next, total, err := h.Service.List(ctx, q)
	return answer(&v1.ListHostsResponse{Items: each(items, hostMessage), NextPageToken: next, Total: total}, err)
}

// CountHosts is how many there are.
func (h Hosts) CountHosts(ctx context.Context, r *connect.Request[v1.CountHostsRequest]) (*connect.Response[v1.CountHostsResponse], error) {
	selector, err := label.Parse(r.Msg.GetSelector())
	if err != nil {
		return nil, err
	}
	filter, err := query.Parse(r.Msg.GetQuery(), noun.Fields...)
	if err != nil {
		return nil, err
	}
	counts, err := h.Service.Count(ctx, host.CountQuery{Workspace: r.Msg.GetWorkspace(), Selector: selector, Filter: filter})
	out := &v1.CountHostsResponse{Total: counts.Total, ByState: map[string]int64{}, ByVersion: counts.ByVersion}
	for state, n := range counts.ByState {
		out.ByState[string(state)] = n
	}
	return answer(out, err)
}

// WatchHosts streams hosts and what becomes of them.
func (h Hosts) WatchHosts(ctx context.Context, r *connect.Request[v1.WatchHostsRequest], stream *connect.ServerStream[v1.WatchHostsResponse]) error {
	selector, err := label.Parse(r.Msg.GetSelector())
	if err != nil {
		return err
	}
	filter, err := query.Parse(r.Msg.GetQuery(), noun.Fields...)
	if err != nil {
		return err
	}
	q := host.WatchQuery{
		Workspace: r.Msg.GetWorkspace(), Selector: selector, Filter: filter, Hosts: r.Msg.GetHosts(), ChangesOnly: r.Msg.GetChangesOnly(),
	}
	return h.Service.Watch(ctx, q, func(e host.Event) error {
		out := &v1.WatchHostsResponse{}
		switch {
		case e.Changed != nil:
			out.Event = &v1.WatchHostsResponse_Changed{Changed: &v1.HostChange{
				Host: hostMessage(e.Changed.Seen), PreviousState: string(e.Changed.Previous), At: timestamp(e.Changed.At), Gone: e.Changed.Gone,
			}}
		case e.Synced:
			out.Event = &v1.WatchHostsResponse_Synced{Synced: &v1.WatchSynced{}}
		case e.Reset:
			out.Event = &v1.WatchHostsResponse_Reset_{Reset_: &v1.WatchReset{}}
		}
		return stream.Send(out)
	})
}

// LabelHost sets and removes labels.
func (h Hosts) LabelHost(ctx context.Context, r *connect.Request[v1.LabelHostRequest]) (*connect.Response[v1.Host], error) {
	ref := host.Ref{Host: r.Msg.GetHost(), Workspace: r.Msg.GetWorkspace()}
	return hostAnswer(h.Service.Label(ctx, ref, r.Msg.GetSet(), r.Msg.GetRemove(), r.Msg.GetRevision()))
}

// AddHost puts a machine without an agent into the inventory.
func (h Hosts) AddHost(ctx context.Context, r *connect.Request[v1.AddHostRequest]) (*connect.Response[v1.Host], error) {
	return hostAnswer(h.Service.Add(ctx, host.Addition{
		Workspace: r.Msg.GetWorkspace(), Name: r.Msg.GetName(), Address: r.Msg.GetAddress(), Provider: r.Msg.GetProvider(), Labels: r.Msg.GetLabels(),
	}))
}

// MoveHost takes one to another workspace.
func (h Hosts) MoveHost(ctx context.Context, r *connect.Request[v1.MoveHostRequest]) (*connect.Response[v1.Host], error) {
	ref := host.Ref{Host: r.Msg.GetHost(), Workspace: r.Msg.GetWorkspace()}
	return hostAnswer(h.Service.Move(ctx, ref, r.Msg.GetToWorkspace(), r.Msg.GetReason()))
}

// ApproveHost lets one in.
func (h Hosts) ApproveHost(ctx context.Context, r *connect.Request[v1.ApproveHostRequest]) (*connect.Response[v1.Host], error) {
	return hostAnswer(h.Service.Approve(ctx, host.Ref{Host: r.Msg.GetHost(), Workspace: r.Msg.GetWorkspace()}))
}

// QuarantineHost starts the quarantine of one.
func (h Hosts) QuarantineHost(ctx context.Context, r *connect.Request[v1.QuarantineHostRequest]) (*connect.Response[v1.Operation], error) {
	ref := host.Ref{Host: r.Msg.GetHost(), Workspace: r.Msg.GetWorkspace()}
	o, err := h.Service.Quarantine(ctx, ref, r.Msg.GetReason(), r.Msg.GetRequestId())
	return answer(operationMessage(o), err)
}

// ReleaseHost ends the quarantine of one.
func (h Hosts) ReleaseHost(ctx context.Context, r *connect.Request[v1.ReleaseHostRequest]) (*connect.Response[v1.Host], error) {
	ref := host.Ref{Host: r.Msg.GetHost(), Workspace: r.Msg.GetWorkspace()}
	return hostAnswer(h.Service.Release(ctx, ref, r.Msg.GetReason()))
}

// SplitHost makes hosts of their own of the copies of one.
func (h Hosts) SplitHost(ctx context.Context, r *connect.Request[v1.SplitHostRequest]) (*connect.Response[v1.Host], error) {
	ref := host.Ref{Host: r.Msg.GetHost(), Workspace: r.Msg.GetWorkspace()}
	return hostAnswer(h.Service.Split(ctx, ref, r.Msg.GetKeep(), r.Msg.GetReason()))
}

// DropHostCopy shuts copies of one out.
func (h Hosts) DropHostCopy(ctx context.Context, r *connect.Request[v1.DropHostCopyRequest]) (*connect.Response[v1.Host], error) {
	ref := host.Ref{Host: r.Msg.GetHost(), Workspace: r.Msg.GetWorkspace()}
	return hostAnswer(h.Service.Drop(ctx, ref, r.Msg.GetCopy(), r.Msg.GetKeep(), r.Msg.GetReason()))
}

// SettleHost says who wins where one is ahead.
func (h Hosts) SettleHost(ctx context.Context, r *connect.Request[v1.SettleHostRequest]) (*connect.Response[v1.Host], error) {
	ref := host.Ref{Host: r.Msg.GetHost(), Workspace: r.Msg.GetWorkspace()}
	return hostAnswer(h.Service.Settle(ctx, ref, r.Msg.GetSection(), host.Winner(r.Msg.GetWinner()), r.Msg.GetReason()))
}

// RestartModule has a module of one's agent stopped and started.
func (h Hosts) RestartModule(ctx context.Context, r *connect.Request[v1.RestartModuleRequest]) (*connect.Response[v1.Operation], error) {
	ref := host.Ref{Host: r.Msg.GetHost(), Workspace: r.Msg.GetWorkspace()}
	o, err := h.Service.RestartModule(ctx, ref, r.Msg.GetModule(), r.Msg.GetReason(), r.Msg.GetRequestId())
	return answer(operationMessage(o), err)
}

// RemoveHost takes one out for good.
func (h Hosts) RemoveHost(ctx context.Context, r *connect.Request[v1.RemoveHostRequest]) (*connect.Response[v1.Operation], error) {
	ref := host.Ref{Host: r.Msg.GetHost(), Workspace: r.Msg.GetWorkspace()}
	o, err := h.Service.Remove(ctx, ref, r.Msg.GetReason(), r.Msg.GetRequestId())
	return answer(operationMessage(o), err)
}

func hostAnswer(seen host.Seen, err error) (*connect.Response[v1.Host], error) {
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(hostMessage(seen)), nil
}

func hostMessage(h host.Seen) *v1.Host {
	out := &v1.Host{
		Id: h.ID, Name: h.Name, Labels: h.Labels, CreatedAt: timestamp(h.CreatedAt), UpdatedAt: timestamp(h.UpdatedAt),
		Revision: h.Revision, Scope: scope(h.Scope), State: string(h.State), Reason: h.StateReason, Since: timestamp(h.StateSince),
		AgentVersion: h.AgentVersion, Channel: h.Channel, LastSeenAt: timestamp(h.LastSeenAt), EnrolledAt: timestamp(h.EnrolledAt),
		EnrolledFrom: h.EnrolledFrom, TokenId: h.TokenID, KeyGeneration: h.Generation, ForcedLabels: h.ForcedLabels,
		EphemeralTtl: duration(h.EphemeralTTL), Provider: h.Provider, Address: h.Address, Uptime: duration(h.Uptime),
		Inventory: inventoryMessage(h.Inventory),
		Ceiling: &v1.Ceiling{
			Exec: h.Ceiling.Exec, Shell: h.Ceiling.Shell, Files: h.Ceiling.Files, Power: h.Ceiling.Power, Modules: h.Ceiling.Modules,
		},
		Modules: each(h.Modules, func(m noun.Health) *v1.ModuleHealth {
			return &v1.ModuleHealth{Module: m.Module, Healthy: m.Healthy, Message: m.Message}
		}),
		Sections: sectionMessages(h),
		Troubles: each(h.Troubles, func(t noun.Trouble) *v1.HostTrouble {
			return &v1.HostTrouble{Code: t.Code, Message: t.Message, At: timestamp(t.At), Attempts: t.Attempts, Ongoing: t.Ongoing}
		}),
	}
	if h.Clones != nil {
		out.Copies = each(h.Clones.Copies, func(c noun.Copy) *v1.HostCopy {
			return &v1.HostCopy{BootId: c.BootID, Address: c.Address, HostName: c.HostName, MachineId: c.MachineID,
				AgentVersion: c.AgentVersion, SeenAt: timestamp(c.SeenAt), Verdict: string(c.Verdict)}
		})
	}
	if len(h.Key) > 0 {
		sum := sha256.Sum256(h.Key)
		out.KeyFingerprint = hex.EncodeToString(sum[:])
	} else {
		out.Ceiling = nil // no agent: nothing said what it allows
	}
	return out
}

// sectionMessages are the sections that the host reported, and those that it should have and has not reported.
func sectionMessages(h host.Seen) []*v1.SectionStatus {
	out := make([]*v1.SectionStatus, 0, len(h.Sections))
	reported := map[string]bool{}
	for _, s := range h.Sections {
		reported[s.Name] = true
		m := &v1.SectionStatus{
			Name: s.Name, Status: string(s.State), Revision: s.Revision.String(), AppliedAt: timestamp(s.AppliedAt), Message: s.Message, Frozen: s.Frozen,
			HostWins: slices.Contains(h.Settling, s.Name),
		}
		if wanted, ok := h.Wanted[s.Name]; ok {
			m.DesiredRevision = wanted.String()
			if wanted.Compare(s.Revision) > 0 && s.State == section.Applied && !s.Frozen {
				m.Status = string(section.Pending) // what was applied is not what is wanted any more
			}
		}
		out = append(out, m)
	}
	for name, wanted := range h.Wanted {
		if !reported[name] {
			out = append(out, &v1.SectionStatus{Name: name, Status: string(section.Pending), DesiredRevision: wanted.String()})
		}
	}
	return out
}

func inventoryMessage(v noun.Inventory) *v1.Inventory {
	if v.HostName == "" && v.OS == "" && v.Kernel == "" {
		return nil // none was ever sent
	}
	return &v1.Inventory{
		HostName: v.HostName, Os: v.OS, OsVersion: v.OSVersion, OsName: v.OSName, Kernel: v.Kernel, Architecture: v.Architecture,
		CpuModel: v.CPUModel, Cpus: int32(v.CPUs), MemoryBytes: v.MemoryBytes, Virtualisation: v.Virtualisation,
		BootId: v.BootID, MachineId: v.MachineID, AgentVersion: v.AgentVersion,
		Disks: each(v.Disks, func(d noun.Disk) *v1.Disk {
			return &v1.Disk{Mount: d.Mount, Device: d.Device, FileSystem: d.FileSystem, SizeBytes: d.SizeBytes}
		}),
		Addresses: each(v.Addresses, func(a noun.Address) *v1.InterfaceAddress {
			return &v1.InterfaceAddress{Interface: a.Interface, Mac: a.MAC, Prefix: a.Prefix}
		}),
	}
}

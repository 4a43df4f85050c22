package rpc

import (
	"context"

	"connectrpc.com/connect"

	v1 "github.com/loopbackd/loopback/api/loopback/v1"
	noun "github.com/loopbackd/loopback/exec"
	"github.com/loopbackd/loopback/server/exec"
)

// Execs is loopback.v1.ExecService.
type Execs struct{ Service *exec.Service }

// StartExec has a command run on hosts.
func (h Execs) StartExec(ctx context.Context, r *connect.Request[v1.StartExecRequest]) (*connect.Response[v1.Exec], error) {
	var f fields
	m := r.Msg
	q := exec.Request{Workspace: m.GetWorkspace(), Hosts: m.GetHosts(), Selector: m.GetSelector(), All: m.GetAll(), Run: noun.Run{
		Command:     execCommand(&f, m.GetCommand()),
		Concurrency: int(m.GetConcurrency()), MaxFailures: int(m.GetMaxFailures()), Canary: int(m.GetCanary()), RequestID: m.GetRequestId(),
	}}
	if err := f.err(); err != nil {
		return nil, err
	}
	run, err := h.Service.Start(ctx, q)
	return answer(execMessage(run), err)
}

// GetExec is one run.
func (h Execs) GetExec(ctx context.Context, r *connect.Request[v1.GetExecRequest]) (*connect.Response[v1.Exec], error) {
	run, err := h.Service.Get(ctx, r.Msg.GetExec())
	return answer(execMessage(run), err)
}

// ListExecs is those that the caller may see.
func (h Execs) ListExecs(ctx context.Context, r *connect.Request[v1.ListExecsRequest]) (*connect.Response[v1.ListExecsResponse], error) {
	items, next, err := h.Service.List(ctx, r.Msg.GetWorkspace(), noun.Query{Page: page(r.Msg.GetPage())})
	return answer(&v1.ListExecsResponse{Items: each(items, execMessage), NextPageToken: next}, err)
}

// WatchExec streams what comes of a run.
func (h Execs) WatchExec(ctx context.Context, r *connect.Request[v1.WatchExecRequest], stream *connect.ServerStream[v1.ExecEvent]) error {
	return h.Service.Watch(ctx, r.Msg.GetExec(), r.Msg.GetFollow(), !r.Msg.GetResultsOnly(), func(e exec.Event) error {
		switch {
		case e.Run != nil:
			return stream.Send(&v1.ExecEvent{Body: &v1.ExecEvent_Exec{Exec: execMessage(*e.Run)}})
		case e.Host != nil:
			return stream.Send(&v1.ExecEvent{Body: &v1.ExecEvent_Host{Host: execHostMessage(*e.Host)}})
		default:
			return stream.Send(&v1.ExecEvent{Body: &v1.ExecEvent_Output{Output: &v1.ExecOutput{
				HostId: e.Output.HostID, Channel: string(e.Output.Channel), Offset: e.Output.Offset, Data: e.Output.Data,
			}}})
		}
	})
}

// CancelExec ends a run before its time.
func (h Execs) CancelExec(ctx context.Context, r *connect.Request[v1.CancelExecRequest]) (*connect.Response[v1.Exec], error) {
	run, err := h.Service.Cancel(ctx, r.Msg.GetExec())
	return answer(execMessage(run), err)
}

func execMessage(r noun.Run) *v1.Exec {
	out := &v1.Exec{
		Id: r.ID, Name: r.Name, Labels: r.Labels, CreatedAt: timestamp(r.CreatedAt), UpdatedAt: timestamp(r.UpdatedAt), Revision: r.Revision, Scope: scope(r.Scope),
		Command: execCommandMessage(r.Command), As: r.Actor.As, Check: r.Actor.Of.Check, SavedCommand: r.Actor.Of.Saved, Values: r.Actor.Of.Values, StdinBytes: int64(len(r.Stdin)),
		State: string(r.State), Reason: r.Reason, Concurrency: int32(r.Concurrency), MaxFailures: int32(r.MaxFailures), Canary: int32(r.Canary),
		Actor: r.Actor.ID, ActorName: r.Actor.Name, StatedReason: r.Actor.Reason, Ticket: r.Actor.Ticket, EndedAt: timestamp(r.EndedAt), Hosts: map[string]int32{},
	}
	for state, n := range r.Counts {
		out.Hosts[string(state)] = int32(n)
	}
	return out
}

func execHostMessage(h noun.Host) *v1.ExecHost {
	out := &v1.ExecHost{
		Id: h.ID, HostId: h.HostID, Host: h.Name, State: string(h.State), Signal: h.Signal, ErrorCode: h.ErrorCode, Error: h.Error, Hint: h.Hint,
		StartedAt: timestamp(h.StartedAt), EndedAt: timestamp(h.EndedAt), StdoutBytes: h.Stdout, StderrBytes: h.Stderr, DroppedBytes: h.Dropped,
	}
	if h.Exited {
		code := int32(h.ExitCode)
		out.ExitCode = &code
	}
	return out
}

package rpc

import (
	"context"

	"connectrpc.com/connect"

	v1 "github.com/loopbackd/loopback/api/loopback/v1"
	noun "github.com/loopbackd/loopback/command"
	"github.com/loopbackd/loopback/exec"
	"github.com/loopbackd/loopback/server/command"
)

// Commands is loopback.v1.CommandService.
type Commands struct{ Service *command.Service }

// SaveCommand writes a version.
func (h Commands) SaveCommand(ctx context.Context, r *connect.Request[v1.SaveCommandRequest]) (*connect.Response[v1.SavedCommand], error) {
	var f fields
	m := r.Msg
	n := noun.Saved{Description: m.GetDescription(), Command: execCommand(&f, m.GetCommand()), Parameters: each(m.GetParameters(), func(p *v1.CommandParameter) noun.Parameter {
		return noun.Parameter{Name: p.GetName(), Pattern: p.GetPattern(), Description: p.GetDescription()}
	})}
	n.Name = m.GetName()
	if err := f.err(); err != nil {
		return nil, err
	}
	s, err := h.Service.Save(ctx, m.GetWorkspace(), n)
	return answer(savedMessage(s), err)
}

// ApproveCommand makes a version the one that is run.
func (h Commands) ApproveCommand(ctx context.Context, r *connect.Request[v1.ApproveCommandRequest]) (*connect.Response[v1.SavedCommand], error) {
	s, err := h.Service.Approve(ctx, r.Msg.GetCommand())
	return answer(savedMessage(s), err)
}

// GetCommand is a version.
func (h Commands) GetCommand(ctx context.Context, r *connect.Request[v1.GetCommandRequest]) (*connect.Response[v1.SavedCommand], error) {
	s, err := h.Service.Get(ctx, r.Msg.GetCommand(), r.Msg.GetWorkspace())
	return answer(savedMessage(s), err)
}

// ListCommands is those that the caller may read.
func (h Commands) ListCommands(ctx context.Context, r *connect.Request[v1.ListCommandsRequest]) (*connect.Response[v1.ListCommandsResponse], error) {
	items, next, err := h.Service.List(ctx, r.Msg.GetWorkspace(), noun.Query{
		Name: r.Msg.GetName(), States: each(r.Msg.GetStates(), func(s string) noun.State { return noun.State(s) }), Current: r.Msg.GetCurrent(), Search: r.Msg.GetSearch(),
		Page: page(r.Msg.GetPage()),
	})
	return answer(&v1.ListCommandsResponse{Items: each(items, savedMessage), NextPageToken: next}, err)
}

// DeleteCommand deletes all versions.
func (h Commands) DeleteCommand(ctx context.Context, r *connect.Request[v1.DeleteCommandRequest]) (*connect.Response[v1.DeleteCommandResponse], error) {
	return answer(&v1.DeleteCommandResponse{}, h.Service.Delete(ctx, r.Msg.GetCommand()))
}

// RunCommand runs the approved version.
func (h Commands) RunCommand(ctx context.Context, r *connect.Request[v1.RunCommandRequest]) (*connect.Response[v1.Exec], error) {
	m := r.Msg
	run, err := h.Service.Run(ctx, m.GetCommand(), m.GetValues(), command.Target{
		Workspace: m.GetWorkspace(), Hosts: m.GetHosts(), Selector: m.GetSelector(), All: m.GetAll(),
		Concurrency: int(m.GetConcurrency()), MaxFailures: int(m.GetMaxFailures()), Canary: int(m.GetCanary()), RequestID: m.GetRequestId(),
	})
	return answer(execMessage(run), err)
}

// ListChecks is the checks.
func (h Commands) ListChecks(context.Context, *connect.Request[v1.ListChecksRequest]) (*connect.Response[v1.ListChecksResponse], error) {
	return answer(&v1.ListChecksResponse{Items: each(noun.Checks, func(c noun.Check) *v1.Check {
		return &v1.Check{Name: c.Name, Description: c.Description, Command: execCommandMessage(c.Command)}
	})}, nil)
}

// RunCheck runs a check.
func (h Commands) RunCheck(ctx context.Context, r *connect.Request[v1.RunCheckRequest]) (*connect.Response[v1.Exec], error) {
	m := r.Msg
	run, err := h.Service.Check(ctx, m.GetCheck(), command.Target{
		Workspace: m.GetWorkspace(), Hosts: m.GetHosts(), Selector: m.GetSelector(), All: m.GetAll(), RequestID: m.GetRequestId(),
	})
	return answer(execMessage(run), err)
}

func execCommand(f *fields, m *v1.ExecCommand) exec.Command {
	return exec.Command{Arguments: m.GetArguments(), Shell: m.GetShell(), User: m.GetUser(), Stdin: m.GetStdin(), Timeout: f.duration("command.timeout", m.GetTimeout())}
}

func execCommandMessage(c exec.Command) *v1.ExecCommand {
	return &v1.ExecCommand{Arguments: c.Arguments, Shell: c.Shell, User: c.User, Timeout: duration(c.Timeout)}
}

func savedMessage(s noun.Saved) *v1.SavedCommand {
	return &v1.SavedCommand{
		Id: s.ID, Name: s.Name, Labels: s.Labels, CreatedAt: timestamp(s.CreatedAt), UpdatedAt: timestamp(s.UpdatedAt), Revision: s.Revision, Scope: scope(s.Scope),
		Description: s.Description, Version: int32(s.Version), Command: execCommandMessage(s.Command), State: string(s.State),
		Parameters: each(s.Parameters, func(p noun.Parameter) *v1.CommandParameter {
			return &v1.CommandParameter{Name: p.Name, Pattern: p.Pattern, Description: p.Description}
		}),
		SavedBy: s.By, SavedByName: s.ByName, ApprovedBy: s.ApprovedBy, ApprovedByName: s.Approver, ApprovedAt: timestamp(s.ApprovedAt),
	}
}

package fleet

import (
	"context"
	"encoding/json"

	agentexec "github.com/loopbackd/loopback/agent/exec"
	pb "github.com/loopbackd/loopback/api/loopback/v1"
	"github.com/loopbackd/loopback/exec"
)

// Carry has a simulated agent's orders carried out by the executor of real agents.
func (a *Agent) Carry(x *agentexec.Executor) {
	a.Exec = func(ctx context.Context, o Order) {
		e := o.GetExec()
		x.Order(agentexec.Order{
			ID: o.GetId(), NotAfter: o.GetNotAfter().AsTime(), Stdin: e.GetStdin(), Prompt: o.GetPrompt(), Dial: o.Dial,
			Command: exec.Command{Arguments: e.GetArguments(), Shell: e.GetShell(), User: e.GetUser(), Timeout: e.GetTimeout().AsDuration()},
		}, func(r agentexec.Report) {
			_ = o.Report(ctx, report(r)) // a link that ended has no use for it
		})
	}
	a.Word = func(w *pb.OrderWord) { x.Word(w.GetId(), w.GetStored(), w.GetCancel()) }
}

func report(r agentexec.Report) *pb.OrderReport {
	m := &pb.OrderReport{State: string(r.State), ExitCode: int32(r.ExitCode), Stdout: r.Stdout, Stderr: r.Stderr}
	if r.Fault != nil {
		m.Message, m.Detail = r.Fault.Message, &pb.ErrorDetail{Code: r.Fault.Code, Hint: r.Fault.Hint}
	}
	if r.State == agentexec.Ended {
		m.Result, _ = json.Marshal(r.Result) // plain fields
	}
	return m
}

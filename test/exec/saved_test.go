package exec

import (
	"slices"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/loopbackd/loopback/api/loopback/v1"
	"github.com/loopbackd/loopback/host"
	"github.com/loopbackd/loopback/test/daemon"
	"github.com/loopbackd/loopback/test/fleet"
)

// person is a client of somebody who holds these permissions, on hosts that a selector matches.
func person(t *testing.T, d *daemon.Daemon, name, hosts string, permissions ...string) *daemon.Client {
	t.Helper()
	ctx := t.Context()
	account := must(d.Accounts.CreateServiceAccount(ctx, connect.NewRequest(&pb.CreateServiceAccountRequest{Name: name})))
	role := must(d.Roles.CreateRole(ctx, connect.NewRequest(&pb.CreateRoleRequest{Name: name, Permissions: permissions})))
	b := &pb.CreateBindingRequest{ServiceAccount: account.Id, Role: role.Id, Hosts: hosts}
	if slices.Contains(permissions, "commands.approve") {
		b.NotAfter = timestamppb.New(time.Now().Add(time.Hour))
	}
	must(d.Bindings.CreateBinding(ctx, connect.NewRequest(b)))
	return d.As(must(d.APIKeys.CreateApiKey(ctx, connect.NewRequest(&pb.CreateApiKeyRequest{Name: name, ServiceAccount: account.Id, Permissions: permissions}))).Secret)
}

// TestSavedCommands has one save, another approve, and a third run what came of it and nothing else.
func TestSavedCommands(t *testing.T) {
	d := start(t)
	hosts(t, d, 2, func(_ int, a *fleet.Agent) { machine(t, a, host.Ceiling{Exec: true}) })
	all := must(d.Hosts.ListHosts(t.Context(), connect.NewRequest(&pb.ListHostsRequest{})))
	for _, h := range all.Items {
		if h.Name == "host-00000" {
			must(d.Hosts.LabelHost(t.Context(), connect.NewRequest(&pb.LabelHostRequest{Host: h.Id, Set: map[string]string{"role": "web"}})))
		}
	}
	saver := person(t, d, "saver", "", "commands.save", "commands.read", "commands.approve", "workspaces.read")
	approver := person(t, d, "approver", "", "commands.approve", "commands.read", "workspaces.read")
	runner := person(t, d, "runner", "role=web", "commands.run", "checks.run", "exec.read", "hosts.read", "workspaces.read")
	save := func(text string) *pb.SavedCommand {
		t.Helper()
		return must(saver.Commands.SaveCommand(t.Context(), connect.NewRequest(&pb.SaveCommandRequest{Workspace: "default", Name: "say",
			Command: &pb.ExecCommand{Arguments: []string{"printf", text + " %s", "{what}"}}, Parameters: []*pb.CommandParameter{{Name: "what", Pattern: "[a-z;$ ]+"}}})))
	}
	run := func(command, what, on string) (*pb.Exec, error) {
		r, err := runner.Commands.RunCommand(t.Context(), connect.NewRequest(&pb.RunCommandRequest{Workspace: "default", Command: command, Values: map[string]string{"what": what}, Hosts: []string{on}}))
		if err != nil {
			return nil, err
		}
		return r.Msg, nil
	}
	says := func(want string) {
		t.Helper()
		r, err := run("say", "a; b $x", "host-00000")
		if err != nil {
			t.Fatal(err)
		}
		if o := watch(t, runner, r.Id, nil); o.run.State != "succeeded" || o.stdout("host-00000") != want+" a; b $x" || !strings.HasPrefix(o.run.As, "say (version ") {
			t.Errorf("%s: it said %q, run as %q; wanted %q", o.run.State, o.stdout("host-00000"), o.run.As, want)
		}
	}
	refused := func(what string, err error, code connect.Code) {
		t.Helper()
		if connect.CodeOf(err) != code {
			t.Errorf("%s: %v; wanted %v", what, err, code)
		}
	}
	first := save("one")
	_, err := run("say", "x", "host-00000")
	refused("before it is approved", err, connect.CodeFailedPrecondition)
	_, err = saver.Commands.ApproveCommand(t.Context(), connect.NewRequest(&pb.ApproveCommandRequest{Command: first.Id}))
	refused("approved by who saved it", err, connect.CodePermissionDenied)
	_, err = d.Commands.ApproveCommand(t.Context(), connect.NewRequest(&pb.ApproveCommandRequest{Command: first.Id}))
	refused("approved by an administrator without tier 0", err, connect.CodePermissionDenied)
	must(approver.Commands.ApproveCommand(t.Context(), connect.NewRequest(&pb.ApproveCommandRequest{Command: first.Id})))
	says("one")
	_, err = run("say", "UPPER", "host-00000")
	refused("with a value that does not match", err, connect.CodeInvalidArgument)
	_, err = run("say", "x", "host-00001")
	refused("on a host where it is not held", err, connect.CodeNotFound)
	_, err = runner.Execs.StartExec(t.Context(), because(&pb.StartExecRequest{Workspace: "default", Hosts: []string{"host-00000"}, Command: sh("true")}))
	refused("any other command", err, connect.CodePermissionDenied)

	second := save("two")
	says("one") // a change waits for its own approval
	_, err = run(second.Id, "x", "host-00000")
	refused("the version that is not approved, by its id", err, connect.CodeFailedPrecondition)
	must(approver.Commands.ApproveCommand(t.Context(), connect.NewRequest(&pb.ApproveCommandRequest{Command: second.Id})))
	says("two")
	_, err = run(first.Id, "x", "host-00000")
	refused("the version that was replaced", err, connect.CodeFailedPrecondition)
	must(d.Commands.DeleteCommand(t.Context(), connect.NewRequest(&pb.DeleteCommandRequest{Command: second.Id})))
	_, err = run("say", "x", "host-00000")
	refused("once it is deleted", err, connect.CodeNotFound)

	check := must(runner.Commands.RunCheck(t.Context(), connect.NewRequest(&pb.RunCheckRequest{Workspace: "default", Check: "kernel", Hosts: []string{"host-00000"}})))
	if o := watch(t, runner, check.Id, nil); o.run.State != "succeeded" || !strings.Contains(o.stdout("host-00000"), "Linux") || o.run.As != "check kernel" {
		t.Errorf("the check %s: %q, run as %q", o.run.State, o.stdout("host-00000"), o.run.As)
	}
	_, err = runner.Commands.RunCheck(t.Context(), connect.NewRequest(&pb.RunCheckRequest{Workspace: "default", Check: "kernel", All: true}))
	if err != nil { // all that it sees, which is the one
		t.Error(err)
	}
	entries := must(d.Audit.ListEntries(t.Context(), connect.NewRequest(&pb.ListEntriesRequest{})))
	var actions []string
	for _, e := range entries.Items {
		actions = append(actions, e.Action)
	}
	for _, want := range []string{"commands.save", "commands.approve", "commands.run", "commands.delete", "checks.run"} {
		if !slices.Contains(actions, want) {
			t.Errorf("the audit log lacks %s", want)
		}
	}
}

package exec

import (
	"bytes"
	"context"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"

	pb "github.com/loopbackd/loopback/api/loopback/v1"
	"github.com/loopbackd/loopback/cli"
	"github.com/loopbackd/loopback/test/daemon"
	"github.com/loopbackd/loopback/test/fleet"
)

// loopback runs the command line with a key.
func loopback(t *testing.T, d *daemon.Daemon, key, in string, args ...string) (code int, out, said string) {
	t.Helper()
	var stdout, stderr bytes.Buffer
	env := map[string]string{"LOOPBACK_URL": d.URL, "LOOPBACK_API_KEY": key, "LOOPBACK_CA_FILE": filepath.Join(d.DataDir, "keys", "ca.crt"), "LOOPBACK_WORKSPACE": "default", "XDG_CONFIG_HOME": t.TempDir()}
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	code = cli.Run(ctx, args, cli.Environment{In: strings.NewReader(in), Out: &stdout, Err: &stderr, Getenv: func(k string) string { return env[k] }, Version: "0.0.0"})
	return code, stdout.String(), stderr.String()
}

// TestARunIsDoneAgainWhereItDidNotSucceed runs a command, a saved one and a check on hosts of which some fail, and each once more: on
// those alone, as what it was, and by whoever may run that.
func TestARunIsDoneAgainWhereItDidNotSucceed(t *testing.T) {
	d := start(t)
	c, _ := operator(t, d)
	hosts(t, d, 3, func(i int, a *fleet.Agent) {
		a.Exec = fleet.Say("no\n", min(i, 1)) // the first succeeds
	})
	saver := person(t, d, "saver", "", "commands.save", "commands.read", "workspaces.read")
	approver := person(t, d, "approver", "", "commands.approve", "commands.read", "workspaces.read")
	runner := person(t, d, "ordinary", "", "commands.run", "checks.run", "exec.read", "hosts.read", "workspaces.read")
	saved := must(saver.Commands.SaveCommand(t.Context(), connect.NewRequest(&pb.SaveCommandRequest{Workspace: "default", Name: "say",
		Command: &pb.ExecCommand{Arguments: []string{"say", "{what}"}}, Parameters: []*pb.CommandParameter{{Name: "what", Pattern: "[a-z=,]+"}}})))
	must(approver.Commands.ApproveCommand(t.Context(), connect.NewRequest(&pb.ApproveCommandRequest{Command: saved.Id})))

	latest := func() *pb.Exec {
		t.Helper()
		id := must(c.Execs.ListExecs(t.Context(), connect.NewRequest(&pb.ListExecsRequest{}))).Items[0].Id
		return watch(t, c, id, nil).run
	}
	everywhere := map[string]int32{"succeeded": 1, "failed": 2}
	failed := map[string]int32{"failed": 2}
	for name, one := range map[string]struct {
		key   string
		first []string
		again []string // flags
	}{
		"somebody's own":  {c.Key, []string{"exec", "--reason", "a test", "--all", "--user", "nobody", "--max-time", "30s", "--", "say", "it now"}, []string{"--reason", "again"}},
		"a saved command": {runner.Key, []string{"command", "run", "say", "--all", "--set", "what=a=b,c=d"}, nil},
		"a check":         {runner.Key, []string{"check", "run", "kernel", "--all"}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			if code, _, said := loopback(t, d, one.key, "", one.first...); code != 1 {
				t.Fatalf("%d, %s", code, said)
			}
			first := latest()
			if code, out, said := loopback(t, d, one.key, "", append(append([]string{"exec", "--rerun", first.Id}, one.again...), "--")...); code != 1 || !strings.Contains(out, "host-00001 host-00002 (2): failed") {
				t.Fatalf("%d, %s%s", code, out, said)
			}
			again := latest()
			if again.Id == first.Id || !maps.Equal(first.Hosts, everywhere) || !maps.Equal(again.Hosts, failed) {
				t.Errorf("%s was run on %v, then %s on %v", first.Id, first.Hosts, again.Id, again.Hosts)
			}
			if !slices.Equal(first.Command.Arguments, again.Command.Arguments) || first.Command.User != again.Command.User || first.Command.Timeout.AsDuration() != again.Command.Timeout.AsDuration() || first.As != again.As {
				t.Errorf("it was %v, and then %v", first, again)
			}
		})
	}
	refused := func(what, why, key, in string, args ...string) {
		t.Helper()
		if exit, _, said := loopback(t, d, key, in, args...); exit == 0 || !strings.Contains(said, why) {
			t.Errorf("%s: %d, %s; wanted %s", what, exit, said, why)
		}
	}
	own := must(c.Execs.StartExec(t.Context(), because(&pb.StartExecRequest{Workspace: "default", Hosts: []string{"host-00000"}, Command: sh("true")})))
	watch(t, c, own.Id, nil)
	refused("where it succeeded everywhere", "succeeded everywhere", c.Key, "", "exec", "--reason", "again", "--rerun", own.Id, "--")
	given := must(c.Execs.StartExec(t.Context(), because(&pb.StartExecRequest{Workspace: "default", Hosts: []string{"host-00001"}, Command: &pb.ExecCommand{Arguments: []string{"cat"}, Stdin: []byte("what it reads")}})))
	watch(t, c, given.Id, nil)
	refused("without the standard input that it had", "standard input, which nobody is shown", c.Key, "", "exec", "--reason", "again", "--rerun", given.Id, "--")
	refused("by who may not run any command", "exec.run", runner.Key, "what it reads", "exec", "--reason", "again", "--rerun", given.Id, "--stdin", "--")
	if code, out, _ := loopback(t, d, c.Key, "what it reads", "exec", "--reason", "again", "--rerun", given.Id, "--stdin", "-o", "json", "--"); code != 1 || latest().StdinBytes != int64(len("what it reads")) {
		t.Errorf("with its standard input once more: %d, %s", code, out)
	}
}

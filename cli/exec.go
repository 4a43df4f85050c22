package cli

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/durationpb"

	pb "github.com/loopbackd/loopback/api/loopback/v1"
	"github.com/loopbackd/loopback/exec"
	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/id"
)

func (a *app) execCommand() *cobra.Command {
	q := &pb.StartExecRequest{Command: &pb.ExecCommand{}}
	var stdin, detach bool
	var limit time.Duration
	var rerun string
	c := &cobra.Command{
		Use: "exec [SELECTOR | HOST…] -- COMMAND [ARGUMENT…]", Short: "Run a command on hosts, once on each", ValidArgsFunction: a.completeHosts,
		Long: `Run a command on hosts, once on each. Where it runs is a selector over labels, hosts by name or id, or --all of the
workspace. The arguments are handed over as they are; --shell has /bin/sh read them as one line.

It needs a reason (--reason) and the permission exec.run, which is given for a time only. What one host writes is shown as it
comes; of several, hosts that said the same are shown together when all have ended. Up to 1 MiB of each output is kept, and
shown again by loopback exec show. Ctrl-C ends the command everywhere, with all that it started.

The exit code is 1 where the command failed on any host; the hosts' own are in the JSON. Background jobs end with the
command: what is to stay is started with systemd-run.`,
		Example: "  loopback exec --reason 'who is up' 'role=web' -- uptime\n  loopback exec --reason INC-7 web-1 web-2 --shell -- 'df -h | tail -n 3'\n" +
			"  loopback exec --reason 'roll nginx' --all --canary 1 --max-failures 3 -- systemctl reload nginx",
	}
	c.RunE = func(cmd *cobra.Command, words []string) error {
		dash := cmd.ArgsLenAtDash()
		if dash < 0 {
			return unknownVerb(cmd, words)
		}
		where, command := words[:dash], words[dash:]
		if len(command) == 0 && rerun == "" {
			return usage("name a command behind --")
		}
		return a.with(func(ctx context.Context, s *api, _ []string) error {
			q.Workspace, q.Command.Arguments = s.Workspace, command
			q.Hosts, q.Selector = where, ""
			if len(where) == 1 && strings.ContainsAny(where[0], "=!(, ") {
				q.Hosts, q.Selector = nil, where[0]
			}
			if limit != 0 {
				q.Command.Timeout = durationpb.New(limit)
			}
			if stdin {
				b, err := io.ReadAll(io.LimitReader(a.In, exec.MaxStdin+1))
				if err != nil {
					return fmt.Errorf("read standard input: %w", err)
				}
				q.Command.Stdin = b
			}
			q.RequestId = id.New("req", time.Now())
			begin := func() (*pb.Exec, error) { return call(ctx, s, s.execs.StartExec, q) }
			if rerun != "" {
				var err error
				if begin, err = again(ctx, s, q, rerun); err != nil {
					return err
				}
			}
			run, err := begin()
			if err != nil {
				return err
			}
			if detach {
				return a.print(run, execFields(run)...)
			}
			return a.followExec(ctx, s, run.Id, true)
		})(cmd, words)
	}
	f := c.Flags()
	f.BoolVar(&q.All, "all", false, "on all hosts of the workspace")
	f.BoolVar(&q.Command.Shell, "shell", false, "have /bin/sh run the arguments as one line")
	f.StringVar(&q.Command.User, "user", "", "run it as this `USER` (default root)")
	f.BoolVar(&stdin, "stdin", false, "give standard input to the command, up to 1 MiB, on every host")
	f.DurationVar(&limit, "max-time", 0, "how long it may run on a host (default 1m, at most 24h)")
	f.Int32Var(&q.Concurrency, "concurrency", 0, "on how many hosts at a time (default 100)")
	f.Int32Var(&q.MaxFailures, "max-failures", 0, "begin on no further host once so many have failed (default: never stop)")
	f.Int32Var(&q.Canary, "canary", 0, "begin on so many hosts first, and on the others once it succeeded there")
	f.BoolVar(&detach, "detach", false, "do not wait: loopback exec watch EXEC goes on")
	f.StringVar(&rerun, "rerun", "", "run the command of this `EXEC` again where it did not succeed")
	type T = *pb.Exec
	var most int
	ls := &cobra.Command{Use: "list", Short: "List the commands that were run, newest first", Args: args(), RunE: a.with(func(ctx context.Context, s *api, _ []string) error {
		return list(a, ctx, most, func(ctx context.Context, p *pb.Page) ([]T, string, error) {
			r, err := call(ctx, s, s.execs.ListExecs, &pb.ListExecsRequest{Workspace: s.Workspace, Page: p})
			return r.GetItems(), r.GetNextPageToken(), err
		}, "no command was run",
			column[T]{"ID", T.GetId}, column[T]{"STATE", T.GetState}, column[T]{"HOSTS", func(r T) string { return outcomes(r.Hosts) }},
			column[T]{"AGE", func(r T) string { return ago(r.CreatedAt) }}, column[T]{"COMMAND", T.GetName})
	})}
	ls.Flags().IntVar(&most, "limit", 100, "show at most this many; 0: all")
	c.AddCommand(ls,
		&cobra.Command{Use: "show EXEC", Short: "Show what has come of a command so far, with its output", Args: args("EXEC"), RunE: a.with(func(ctx context.Context, s *api, w []string) error {
			return a.followExec(ctx, s, w[0], false)
		})},
		&cobra.Command{Use: "watch EXEC", Short: "Show what comes of a command until it has ended", Args: args("EXEC"), RunE: a.with(func(ctx context.Context, s *api, w []string) error {
			return a.followExec(ctx, s, w[0], true)
		})},
		&cobra.Command{Use: "cancel EXEC", Short: "End a command: on no further host, and where it runs", Args: args("EXEC"), RunE: a.with(func(ctx context.Context, s *api, w []string) error {
			r, err := call(ctx, s, s.execs.CancelExec, &pb.CancelExecRequest{Exec: w[0]})
			if err != nil {
				return err
			}
			return a.print(r, execFields(r)...)
		})})
	return c
}

// again is how the command of an earlier run is asked for once more, on the hosts on which it did not succeed: as what it was, so that
// whoever may run a check or a saved command may run it again.
func again(ctx context.Context, s *api, q *pb.StartExecRequest, runID string) (begin func() (*pb.Exec, error), err error) {
	if len(q.Hosts) > 0 || q.Selector != "" || q.All || len(q.Command.Arguments) > 0 {
		return nil, usage("--rerun takes command and hosts from the earlier run")
	}
	stream, err := s.execs.WatchExec(ctx, connect.NewRequest(&pb.WatchExecRequest{Exec: runID, ResultsOnly: true}))
	if err != nil {
		return nil, s.explain(err)
	}
	defer stream.Close()
	run := &pb.Exec{}
	for stream.Receive() {
		if r := stream.Msg().GetExec(); r != nil {
			run = r
		}
		if h := stream.Msg().GetHost(); h != nil && h.State != string(exec.Done) {
			q.Hosts = append(q.Hosts, h.HostId)
		}
	}
	if err := stream.Err(); err != nil {
		return nil, s.explain(err)
	}
	switch {
	case run.State == string(exec.Running):
		return nil, fault.New(fault.Precondition, "exec_running", "command %s goes on: where it will not have succeeded is not known yet", runID).WithHint("wait for its end: loopback exec watch %s", runID)
	case len(q.Hosts) == 0:
		return nil, fault.New(fault.Precondition, "exec_succeeded", "command %s succeeded everywhere", runID)
	case run.StdinBytes > 0 && len(q.Command.Stdin) == 0:
		return nil, fault.New(fault.Precondition, "exec_stdin_missing", "command %s was given %s of standard input, which nobody is shown", runID, bytesize(run.StdinBytes)).WithHint("give it once more: loopback exec --rerun %s --stdin --", runID)
	case run.Check != "":
		return func() (*pb.Exec, error) {
			return call(ctx, s, s.commands.RunCheck, &pb.RunCheckRequest{Check: run.Check, Hosts: q.Hosts, RequestId: q.RequestId})
		}, nil
	case run.SavedCommand != "":
		return func() (*pb.Exec, error) {
			return call(ctx, s, s.commands.RunCommand, &pb.RunCommandRequest{Command: run.SavedCommand, Values: run.Values, Hosts: q.Hosts,
				Concurrency: q.Concurrency, MaxFailures: q.MaxFailures, Canary: q.Canary, RequestId: q.RequestId})
		}, nil
	}
	q.Command.Arguments, q.Command.Shell, q.Command.User = run.Command.GetArguments(), run.Command.GetShell(), run.Command.GetUser()
	if q.Command.Timeout == nil {
		q.Command.Timeout = run.Command.GetTimeout()
	}
	return func() (*pb.Exec, error) { return call(ctx, s, s.execs.StartExec, q) }, nil
}

func execFields(r *pb.Exec) [][2]string {
	return [][2]string{{"id", r.Id}, {"command", r.Name}, {"state", r.State}, {"why", r.Reason}, {"hosts", outcomes(r.Hosts)},
		{"started", stamp(r.CreatedAt)}, {"ended", stamp(r.EndedAt)}}
}

func outcomes(hosts map[string]int32) string {
	var words []string
	for _, state := range slices.Sorted(maps.Keys(hosts)) {
		words = append(words, fmt.Sprintf("%d %s", hosts[state], strings.ReplaceAll(state, "_", " ")))
	}
	return strings.Join(words, ", ")
}

// heard is what one host has said so far.
type heard struct {
	*pb.ExecHost
	out, err bytes.Buffer
}

// followExec shows what comes of a run. Its error says that it failed somewhere.
func (a *app) followExec(ctx context.Context, s *api, runID string, follow bool) error {
	ctx, cancel := s.deadline(ctx, true)
	defer cancel()
	hosts := map[string]*heard{}
	var order []string
	var run *pb.Exec
	took := map[string]int64{} // by host and channel
	told, single := "", false
	see := func(e *pb.ExecEvent) error {
		host := func(id string) *heard {
			if hosts[id] == nil {
				hosts[id] = &heard{ExecHost: &pb.ExecHost{HostId: id}}
				order = append(order, id)
			}
			return hosts[id]
		}
		switch b := e.Body.(type) {
		case *pb.ExecEvent_Exec:
			run = b.Exec
			single = total(run.Hosts) == 1
			if line := outcomes(run.Hosts); follow && !single && a.Interactive && line != told {
				told = line
				a.hint("%s", line)
			}
		case *pb.ExecEvent_Host:
			host(b.Host.HostId).ExecHost = b.Host
		case *pb.ExecEvent_Output:
			o, h := b.Output, host(b.Output.HostId)
			at := took[o.HostId+o.Channel]
			if o.Offset+int64(len(o.Data)) <= at {
				return nil // seen before the watch connected anew
			}
			took[o.HostId+o.Channel] = o.Offset + int64(len(o.Data))
			data, into, live := o.Data[max(0, at-o.Offset):], &h.out, a.Out
			if o.Channel == string(exec.Stderr) {
				into, live = &h.err, a.Err
			}
			into.Write(data)
			if single && a.flags.output == "table" {
				_, err := live.Write(a.fit(data))
				return err
			}
		}
		return nil
	}
	// What there is to one host is known before its output comes.
	if r, err := call(ctx, s, s.execs.GetExec, &pb.GetExecRequest{Exec: runID}); err == nil {
		run, single = r, total(r.Hosts) == 1
	} else if !passing(err) {
		return err
	}
	err := a.watchExec(ctx, s, &pb.WatchExecRequest{Exec: runID, Follow: follow}, see)
	if err != nil {
		if errors.Is(ctx.Err(), context.Canceled) && follow {
			// The caller's own end is no reason to leave it running.
			ending, stop := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
			defer stop()
			if _, failed := call(ending, s, s.execs.CancelExec, &pb.CancelExecRequest{Exec: runID}); failed != nil {
				a.hint("it could not be cancelled, and goes on: loopback exec cancel %s", runID)
			}
		}
		return err
	}
	slices.SortFunc(order, func(x, y string) int { return strings.Compare(hosts[x].Host, hosts[y].Host) })
	if a.flags.output != "table" {
		if err := a.execJSON(run, hosts, order); err != nil {
			return err
		}
	} else if err := a.execText(run, hosts, order, single); err != nil {
		return err
	}
	if run.GetState() == string(exec.Failed) || run.GetState() == string(exec.Cancelled) {
		why := outcomes(run.Hosts)
		if run.Reason != "" {
			why = run.Reason + ": " + why
		}
		return fault.New(fault.Internal, "exec_failed", "%s", why).WithHint("what came of it: loopback exec show %s; once more where it did not succeed: loopback exec --rerun %s --", run.Id, run.Id)
	}
	return nil
}

func total(hosts map[string]int32) (n int32) {
	for _, c := range hosts {
		n += c
	}
	return n
}

// watchExec lasts through a control plane that goes away.
func (a *app) watchExec(ctx context.Context, s *api, q *pb.WatchExecRequest, see func(*pb.ExecEvent) error) error {
	told := false
	for {
		stream, err := s.execs.WatchExec(ctx, connect.NewRequest(q))
		if err == nil {
			ended := false
			for stream.Receive() {
				if err := see(stream.Msg()); err != nil {
					return errors.Join(err, stream.Close())
				}
				r := stream.Msg().GetExec()
				ended = ended || r != nil && (!q.Follow || r.State != string(exec.Running))
			}
			err = stream.Err()
			_ = stream.Close() // its error is the one that is known
			if err == nil && ended {
				return nil
			}
		}
		switch {
		case ctx.Err() != nil:
			return fault.Of(ctx.Err()).WithHint("it goes on: loopback exec watch %s", q.Exec)
		case err != nil && !passing(s.explain(err)):
			return s.explain(err)
		case err != nil && !told:
			told = true
			a.hint("%s; trying again", oneLine(s.explain(err).Error()))
		}
		if !pause(ctx, err) {
			return fault.Of(ctx.Err()).WithHint("it goes on: loopback exec watch %s", q.Exec)
		}
	}
}

// fit is output for where it goes: a terminal gets no control characters of somebody else's, a file or a pipe the very bytes.
func (a *app) fit(b []byte) []byte {
	if !a.Terminal {
		return b
	}
	lines := strings.Split(strings.ToValidUTF8(string(b), "\uFFFD"), "\n")
	for i, l := range lines {
		lines[i] = strings.ReplaceAll(clean(strings.ReplaceAll(l, "\t", "        ")), "\r", "")
	}
	return []byte(strings.Join(lines, "\n"))
}

// execText shows hosts that said the same together.
func (a *app) execText(run *pb.Exec, hosts map[string]*heard, order []string, single bool) error {
	type group struct {
		names []string
		first *heard
	}
	var groups []*group
	by := map[string]*group{}
	for _, id := range order {
		h := hosts[id]
		key := fmt.Sprintf("%s|%d|%s|%s|%s|%s", h.State, h.GetExitCode(), h.Signal, h.Error, h.out.String(), h.err.String())
		if by[key] == nil {
			by[key] = &group{first: h}
			groups = append(groups, by[key])
		}
		by[key].names = append(by[key].names, h.Host)
	}
	for i, g := range groups {
		h := g.first
		if !single {
			separate(a.Out, i)
			fmt.Fprintf(a.Out, "%s (%d): %s\n", clean(strings.Join(g.names, " ")), len(g.names), clean(verdict(h)))
			for _, b := range []*bytes.Buffer{&h.out, &h.err} {
				text := a.fit(b.Bytes())
				if len(text) > 0 && text[len(text)-1] != '\n' {
					text = append(text, '\n')
				}
				if _, err := a.Out.Write(text); err != nil {
					return err
				}
			}
		} else if h.State != string(exec.Done) {
			a.hint("%s: %s", clean(h.Host), verdict(h))
		}
		if h.Hint != "" {
			a.hint("hint: %s", clean(h.Hint))
		}
		if h.DroppedBytes > 0 {
			a.hint("%s: %s of output were not kept", clean(h.Host), bytesize(h.DroppedBytes))
		}
	}
	return nil
}

// verdict is what became of it on a host, for people.
func verdict(h *heard) string {
	words := strings.ReplaceAll(h.State, "_", " ")
	switch {
	case h.Signal != "":
		words += ", ended by " + h.Signal
	case h.ExitCode != nil && *h.ExitCode != 0:
		words += fmt.Sprintf(", exit code %d", *h.ExitCode)
	}
	if h.Error != "" {
		words += ": " + h.Error
	}
	return words
}

// execJSON is the run as the API has it, with its hosts and what they wrote: as text where it is text, else in base64.
func (a *app) execJSON(run *pb.Exec, hosts map[string]*heard, order []string) error {
	about, err := encode(run)
	if err != nil {
		return err
	}
	items := make([]json.RawMessage, 0, len(order))
	for _, id := range order {
		h := hosts[id]
		b, err := encode(h.ExecHost)
		if err != nil {
			return err
		}
		var fields map[string]json.RawMessage
		if err := json.Unmarshal(b, &fields); err != nil {
			return err
		}
		for name, b := range map[string][]byte{"stdout": h.out.Bytes(), "stderr": h.err.Bytes()} {
			text := string(b)
			if !utf8.Valid(b) {
				name, text = name+"Base64", base64.StdEncoding.EncodeToString(b)
			}
			if fields[name], err = json.Marshal(text); err != nil {
				return err
			}
		}
		one, err := json.Marshal(fields)
		if err != nil {
			return err
		}
		items = append(items, one)
	}
	b, err := json.Marshal(map[string]any{"exec": about, "items": items})
	if err != nil {
		return err
	}
	return a.printJSON(b)
}

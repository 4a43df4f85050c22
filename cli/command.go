package cli

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/durationpb"

	pb "github.com/loopbackd/loopback/api/loopback/v1"
	"github.com/loopbackd/loopback/id"
)

func commandFields(s *pb.SavedCommand) [][2]string {
	out := [][2]string{{"id", s.Id}, {"name", s.Name}, {"version", fmt.Sprint(s.Version)}, {"state", s.State}, {"description", s.Description}, {"command", words(s.Command)},
		{"user", s.Command.GetUser()}, {"max time", duration(s.Command.GetTimeout())}, {"saved by", s.SavedByName}, {"saved", stamp(s.CreatedAt)}, {"approved by", s.ApprovedByName}, {"approved", stamp(s.ApprovedAt)}}
	for _, p := range s.Parameters {
		out = append(out, [2]string{"{" + p.Name + "}", strings.TrimSuffix(p.Pattern+": "+p.Description, ": ")})
	}
	return out
}

// words are a command as it would be typed.
func words(c *pb.ExecCommand) string {
	if c.GetShell() {
		return "sh -c '" + strings.ReplaceAll(oneLine(strings.Join(c.Arguments, " ")), "'", `'\''`) + "'"
	}
	return oneLine(strings.Join(c.GetArguments(), " "))
}

// chosen is on which hosts something is run: by words on the command line, or by --all.
func chosen(list []string) (hosts []string, selector string) {
	if len(list) == 1 && strings.ContainsAny(list[0], "=!(, ") {
		return nil, list[0]
	}
	return list, ""
}

func (a *app) commandCommand() *cobra.Command {
	save := &pb.SaveCommandRequest{Command: &pb.ExecCommand{}}
	var limit time.Duration
	var parameters, descriptions []string
	saving := &cobra.Command{Use: "save NAME -- COMMAND [ARGUMENT…]", Short: "Save a command, to be approved by somebody else",
		Long: `Save a command under a name, as its next version. It is run once somebody else has approved it; until then, the version that
was approved before stays the one that is run. Where an argument holds {PARAMETER}, whoever runs the command gives the value; all
of it has to match the pattern (RE2).`,
		Example: "  loopback command save restart --parameter 'unit=(nginx|haproxy)\\.service' -- systemctl restart '{unit}'\n  loopback command save rotate --description 'rotate logs now' -- logrotate --force /etc/logrotate.conf",
	}
	saving.RunE = func(cmd *cobra.Command, list []string) error {
		if dash := cmd.ArgsLenAtDash(); dash != 1 || len(list) < 2 {
			return usage("give a name, and the command behind --")
		}
		return a.with(func(ctx context.Context, s *api, _ []string) error {
			save.Workspace, save.Name, save.Command.Arguments = s.Workspace, list[0], list[1:]
			if limit != 0 {
				save.Command.Timeout = durationpb.New(limit)
			}
			for _, p := range parameters {
				name, pattern, ok := strings.Cut(p, "=")
				if !ok {
					return usage("--parameter is NAME=PATTERN; %q has no '='", p)
				}
				save.Parameters = append(save.Parameters, &pb.CommandParameter{Name: name, Pattern: pattern})
			}
			for _, d := range descriptions {
				name, text, _ := strings.Cut(d, "=")
				i := slices.IndexFunc(save.Parameters, func(p *pb.CommandParameter) bool { return p.Name == name })
				if i < 0 {
					return usage("--parameter-description is NAME=TEXT of a parameter; there is none %q", name)
				}
				save.Parameters[i].Description = text
			}
			c, err := call(ctx, s, s.commands.SaveCommand, save)
			if err != nil {
				return err
			}
			a.hint("it can be run once somebody else has approved it: loopback command approve %s", c.Id)
			return a.print(c, commandFields(c)...)
		})(cmd, list)
	}
	f := saving.Flags()
	f.StringVar(&save.Description, "description", "", "what it is for")
	f.StringArrayVar(&parameters, "parameter", nil, "NAME=`PATTERN` of what whoever runs it fills in (repeatable)")
	f.StringArrayVar(&descriptions, "parameter-description", nil, "NAME=`TEXT` for whoever fills it in (repeatable)")
	f.BoolVar(&save.Command.Shell, "shell", false, "have /bin/sh run the arguments as one line; without parameters")
	f.StringVar(&save.Command.User, "user", "", "run it as this `USER` (default root)")
	f.DurationVar(&limit, "max-time", 0, "how long it may run on a host (default 1m, at most 24h)")

	type T = *pb.SavedCommand
	var most int
	look := &pb.ListCommandsRequest{}
	ls := &cobra.Command{Use: "list", Short: "List saved commands, newest versions first", Args: args(), RunE: a.with(func(ctx context.Context, s *api, _ []string) error {
		return list(a, ctx, most, func(ctx context.Context, p *pb.Page) ([]T, string, error) {
			look.Workspace, look.Page = s.Workspace, p
			r, err := call(ctx, s, s.commands.ListCommands, look)
			return r.GetItems(), r.GetNextPageToken(), err
		}, "no command is saved",
			column[T]{"ID", T.GetId}, column[T]{"NAME", T.GetName}, column[T]{"VERSION", func(c T) string { return fmt.Sprint(c.Version) }}, column[T]{"STATE", T.GetState},
			column[T]{"SAVED BY", T.GetSavedByName}, column[T]{"APPROVED BY", T.GetApprovedByName}, column[T]{"COMMAND", func(c T) string { return words(c.Command) }})
	})}
	ls.Flags().IntVar(&most, "limit", 100, "show at most this many; 0: all")
	ls.Flags().StringVar(&look.Name, "name", "", "only versions of the command of this `NAME`")
	ls.Flags().StringSliceVar(&look.States, "state", nil, "only versions in this `STATE`: pending, approved or replaced (repeatable)")
	ls.Flags().BoolVar(&look.Current, "current", false, "of each name only the version that is run, or the newest where none is approved")
	ls.Flags().StringVar(&look.Search, "search", "", "only where name or description holds this `TEXT`")

	run := &pb.RunCommandRequest{}
	var values []string
	running := a.onHosts(&cobra.Command{Use: "run NAME [SELECTOR | HOST…]", Short: "Run a saved command on hosts, once on each",
		Example: "  loopback command run restart 'role=web' --set unit=nginx.service --canary 1"}, &run.All, func(ctx context.Context, s *api, name string, hosts []string) (*pb.Exec, error) {
		run.Workspace, run.Command, run.Values, run.RequestId = s.Workspace, name, map[string]string{}, id.New("req", time.Now())
		for _, v := range values {
			name, value, ok := strings.Cut(v, "=")
			if !ok {
				return nil, usage("--set is NAME=VALUE; %q has no '='", v)
			}
			run.Values[name] = value
		}
		run.Hosts, run.Selector = chosen(hosts)
		return call(ctx, s, s.commands.RunCommand, run)
	})
	r := running.Flags()
	r.StringArrayVar(&values, "set", nil, "NAME=`VALUE` of a parameter (repeatable)")
	r.Int32Var(&run.Concurrency, "concurrency", 0, "on how many hosts at a time (default 100)")
	r.Int32Var(&run.MaxFailures, "max-failures", 0, "begin on no further host once so many have failed (default: never stop)")
	r.Int32Var(&run.Canary, "canary", 0, "begin on so many hosts first, and on the others once it succeeded there")

	return noun("command", "Commands that one saved and another approved", saving, ls,
		&cobra.Command{Use: "show NAME|ID", Short: "Show the version that is approved, or the newest where none is", Args: args("NAME|ID"), RunE: a.with(func(ctx context.Context, s *api, w []string) error {
			c, err := call(ctx, s, s.commands.GetCommand, &pb.GetCommandRequest{Command: w[0], Workspace: s.Workspace})
			if err != nil {
				return err
			}
			return a.print(c, commandFields(c)...)
		})},
		&cobra.Command{Use: "approve ID", Short: "Approve a version that somebody else saved", Args: args("ID"), RunE: a.with(func(ctx context.Context, s *api, w []string) error {
			c, err := call(ctx, s, s.commands.ApproveCommand, &pb.ApproveCommandRequest{Command: w[0]})
			if err != nil {
				return err
			}
			return a.print(c, commandFields(c)...)
		})},
		&cobra.Command{Use: "delete NAME", Short: "Delete a command with all its versions", Args: args("NAME"), RunE: a.with(func(ctx context.Context, s *api, w []string) error {
			c, err := call(ctx, s, s.commands.GetCommand, &pb.GetCommandRequest{Command: w[0], Workspace: s.Workspace})
			if err != nil {
				return err
			}
			_, err = call(ctx, s, s.commands.DeleteCommand, &pb.DeleteCommandRequest{Command: c.Id})
			return err
		})},
		running)
}

func (a *app) checkCommand() *cobra.Command {
	type T = *pb.Check
	q := &pb.RunCheckRequest{}
	return noun("check", "Checks that are built in, and change nothing",
		&cobra.Command{Use: "list", Short: "List the checks", Args: args(), RunE: a.with(func(ctx context.Context, s *api, _ []string) error {
			return list(a, ctx, 0, func(ctx context.Context, _ *pb.Page) ([]T, string, error) {
				r, err := call(ctx, s, s.commands.ListChecks, &pb.ListChecksRequest{})
				return r.GetItems(), "", err
			}, "there are no checks",
				column[T]{"NAME", T.GetName}, column[T]{"DESCRIPTION", T.GetDescription}, column[T]{"COMMAND", func(c T) string { return words(c.Command) }})
		})},
		a.onHosts(&cobra.Command{Use: "run CHECK [SELECTOR | HOST…]", Short: "Run a check on hosts", Example: "  loopback check run disk --all\n  loopback check run units 'role=db'"}, &q.All,
			func(ctx context.Context, s *api, name string, hosts []string) (*pb.Exec, error) {
				q.Workspace, q.Check, q.RequestId = s.Workspace, name, id.New("req", time.Now())
				q.Hosts, q.Selector = chosen(hosts)
				return call(ctx, s, s.commands.RunCheck, q)
			}))
}

// onHosts is a command that starts a run of something by name, on hosts, and shows what comes of it.
func (a *app) onHosts(c *cobra.Command, all *bool, start func(ctx context.Context, s *api, name string, hosts []string) (*pb.Exec, error)) *cobra.Command {
	var detach bool
	c.RunE = func(cmd *cobra.Command, list []string) error {
		if len(list) == 0 || len(list) == 1 && !*all {
			return usage("name what to run, and hosts, a selector or --all")
		}
		return a.with(func(ctx context.Context, s *api, _ []string) error {
			run, err := start(ctx, s, list[0], list[1:])
			if err != nil {
				return err
			}
			if detach {
				return a.print(run, execFields(run)...)
			}
			return a.followExec(ctx, s, run.Id, true)
		})(cmd, list)
	}
	c.Flags().BoolVar(all, "all", false, "on all hosts of the workspace")
	c.Flags().BoolVar(&detach, "detach", false, "do not wait: loopback exec watch EXEC goes on")
	return c
}

// Package command is the command line of loopback-agent.
//
// Results go to standard output, everything else to standard error. An error is one lower-case line that says what was
// wrong and, where one is known, a line with a hint; the exit code is that of its kind (package fault): 2 for a wrong
// command line, 6 where something else has to be done first, 7 where something is away. `status` and `doctor` exit 1 when
// what they looked at is not well.
package command

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"strings"

	"github.com/loopbackd/loopback/agent/config"
	"github.com/loopbackd/loopback/agent/state"
	"github.com/loopbackd/loopback/agent/status"
	"github.com/loopbackd/loopback/fault"
)

// Environment is what a command may use of the process.
type Environment struct {
	Version string
	Stdin   io.Reader
	Stdout  io.Writer
	Stderr  io.Writer
	Getenv  func(string) string
}

// A command of the program. Run gets the arguments after its name.
type command struct {
	name    string
	summary string
	run     func(context.Context, Environment, []string) error
}

// commands in the order in which the help names them.
func commands() []command {
	return []command{
		{"install", "install this program as the host's agent, enrol the host, wait until it is managed", runInstall},
		{"run", "keep this host linked to its control plane (what the service does)", runAgent},
		{"status", "show how the agent on this host is", showStatus},
		{"doctor", "find out what stands in the agent's way, and what to change", runDoctor},
		{"shell-host", "keep one shell session (the agent starts it)", runShellHost},
		{"file-host", "carry one file (the agent starts it)", runFileHost},
		{"uninstall", "stop the agent and remove what install made", runUninstall},
		{"version", "print the version", printVersion},
	}
}

// errNotWell ends a command whose output has said already what is wrong.
var errNotWell = errors.New("not well")

// errUsage ends a command whose usage was printed already.
var errUsage = errors.New("usage")

// Main runs the command that args name, without the program's own name, and returns the exit code.
func Main(ctx context.Context, env Environment, args []string) int {
	err := dispatch(ctx, env, args)
	switch {
	case err == nil, errors.Is(err, flag.ErrHelp):
		return 0
	case errors.Is(err, errNotWell):
		return 1
	case errors.Is(err, errUsage):
		return 2
	}
	var f *fault.Error
	if !errors.As(err, &f) {
		fmt.Fprintf(env.Stderr, "loopback-agent: %s\n", err)
		return 1
	}
	fmt.Fprintf(env.Stderr, "loopback-agent: %s\n", f.Error())
	if f.Hint != "" {
		fmt.Fprintf(env.Stderr, "hint: %s\n", f.Hint)
	}
	return f.Kind.ExitCode()
}

func dispatch(ctx context.Context, env Environment, args []string) error {
	if len(args) == 0 {
		usage(env.Stderr)
		return errUsage
	}
	switch args[0] {
	case "-h", "-help", "--help", "help":
		usage(env.Stdout)
		return nil
	case "-version", "--version":
		return printVersion(ctx, env, nil)
	}
	for _, c := range commands() {
		if c.name == args[0] {
			return c.run(ctx, env, args[1:])
		}
	}
	usage(env.Stderr)
	return fault.New(fault.Invalid, "usage", "there is no command %q", args[0]).WithHint("loopback-agent help lists them")
}

func usage(w io.Writer) {
	fmt.Fprint(w, "usage: loopback-agent COMMAND [flags]\n\n")
	for _, c := range commands() {
		fmt.Fprintf(w, "  %-10s %s\n", c.name, c.summary)
	}
	fmt.Fprint(w, "\nloopback-agent COMMAND --help shows the flags of a command.\n")
}

// flags of a command, which takes nothing else.
func flags(name string) *flag.FlagSet {
	f := flag.NewFlagSet("loopback-agent "+name, flag.ContinueOnError)
	f.SetOutput(io.Discard)
	f.Usage = func() {}
	return f
}

// parse reads the flags and refuses what is left.
func parse(env Environment, f *flag.FlagSet, args []string) error {
	err := f.Parse(args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		fmt.Fprintf(env.Stdout, "usage: %s [flags]\n\n", f.Name())
		f.VisitAll(func(one *flag.Flag) {
			value, text := flag.UnquoteUsage(one)
			name := "--" + one.Name
			if len(one.Name) == 1 {
				name = "-" + one.Name
			}
			if one.DefValue != "" && one.DefValue != "0s" {
				text += " (default " + one.DefValue + ")"
			}
			fmt.Fprintf(env.Stdout, "  %-20s %s\n", strings.TrimSpace(name+" "+value), text)
		})
		return err
	case err != nil:
		return fault.New(fault.Invalid, "usage", "%s", err).WithHint("%s --help shows the flags", f.Name())
	case f.NArg() > 0:
		return fault.New(fault.Invalid, "usage", "%s takes no argument %q", f.Name(), f.Arg(0)).WithHint("%s --help shows the flags", f.Name())
	}
	return nil
}

// places are where an agent keeps its things.
type places struct{ config, state, socket string }

func (p *places) register(f *flag.FlagSet) {
	f.StringVar(&p.config, "config", config.DefaultPath, "`FILE` of settings")
	f.StringVar(&p.state, "state-dir", state.DefaultDir, "`FOLDER` of identity and last good configuration")
	f.StringVar(&p.socket, "socket", status.DefaultSocket, "`SOCKET` for local status")
}

// output is the flag -o.
func output(f *flag.FlagSet) *string { return f.String("o", "table", "output `FORMAT`: table or json") }

func checkOutput(format string) error {
	if format != "table" && format != "json" {
		return fault.New(fault.Invalid, "usage", "-o is %q; allowed are table and json", format)
	}
	return nil
}

func printJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	return e.Encode(v)
}

func printVersion(_ context.Context, env Environment, args []string) error {
	f := flags("version")
	format := output(f)
	if err := errors.Join(parse(env, f, args), checkOutput(*format)); err != nil {
		return err
	}
	if *format == "json" {
		return printJSON(env.Stdout, map[string]string{"version": env.Version})
	}
	_, err := fmt.Fprintln(env.Stdout, strings.TrimSpace(env.Version))
	return err
}

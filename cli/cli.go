// Package cli is the command line, loopback NOUN VERB.
//
// A command reads its settings (flags, then LOOPBACK_*, then the current context of ~/.config/loopback/config.yaml),
// calls the API that everybody calls, and prints. Results go to standard output as a table, JSON or YAML; hints and
// progress go to standard error, and redraw only on a terminal. It ends with the exit code of the error's kind
// (fault.Kind.ExitCode), and an error is one lower-case line with, where one is known, a line that says what to do.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/loopbackd/loopback/fault"
)

// Environment is what a run of the command line touches outside the network.
type Environment struct {
	In       io.Reader
	Out, Err io.Writer
	Getenv   func(string) string
	Terminal bool   // Out and Err are a terminal: redraw, colour, ask before what cannot be undone
	Version  string // of the program
}

// System is the environment of the process.
func System(version string) Environment {
	return Environment{
		In: os.Stdin, Out: os.Stdout, Err: os.Stderr, Getenv: os.Getenv, Version: version,
		Terminal: isTerminal(os.Stdin) && isTerminal(os.Stdout) && isTerminal(os.Stderr),
	}
}

// Run carries out one command and returns its exit code.
func Run(ctx context.Context, args []string, env Environment) int {
	a := &app{Environment: env}
	root := a.root()
	root.SetArgs(args)
	root.SetIn(env.In)
	root.SetOut(env.Out)
	root.SetErr(env.Err)
	err := root.ExecuteContext(ctx)
	a.close()
	if err == nil {
		return 0
	}
	return a.report(err)
}

// app is one run.
type app struct {
	Environment
	flags struct {
		context, url, keyFile, caFile, workspace, output string
		timeout                                          time.Duration
		yes                                              bool
	}
	api *api // once dialled
}

// usageError is a mistake in the command's own words.
type usageError struct{ err error }

func (u usageError) Error() string { return u.err.Error() }

// quiet ends a run with a code and without a word: all was said.
type quiet int

func (q quiet) Error() string { return fmt.Sprintf("exit code %d", int(q)) }

func usage(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

// report prints an error as the contract wants it and gives its exit code.
func (a *app) report(err error) int {
	var q quiet
	if errors.As(err, &q) {
		return int(q)
	}
	var u usageError
	if errors.As(err, &u) || unknownCommand(err) {
		fmt.Fprintf(a.Err, "loopback: %s\n", oneLine(err.Error()))
		fmt.Fprintln(a.Err, "hint: add --help to see what the command takes")
		return 2
	}
	e := fault.Of(err)
	message := e.Message
	if len(e.Violations) > 0 || e.Kind == fault.Internal {
		message = e.Error()
	}
	fmt.Fprintf(a.Err, "loopback: %s\n", oneLine(message))
	if e.Hint != "" {
		fmt.Fprintf(a.Err, "hint: %s\n", oneLine(e.Hint))
	}
	return e.Kind.ExitCode()
}

// unknownCommand tells cobra's own complaints, which have no type.
func unknownCommand(err error) bool {
	s := err.Error()
	for _, start := range []string{"unknown command", "unknown flag", "unknown shorthand", "invalid argument", "flag needs an argument", "accepts ", "requires at least", "required flag", "if any flags in the group"} {
		if strings.HasPrefix(s, start) {
			return true
		}
	}
	return false
}

func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "loopback",
		Short: "Operate a fleet of Linux servers",
		Long: `Operate a fleet of Linux servers through a Loopback control plane.

Settings are flags, then LOOPBACK_URL, LOOPBACK_API_KEY, LOOPBACK_CA_FILE, LOOPBACK_WORKSPACE, then the
current context of ~/.config/loopback/config.yaml, which ` + "`loopback login`" + ` writes.

Exit codes: 0 done, 1 failed, 2 usage, 3 not signed in, 4 not permitted, 5 not found,
6 conflict or precondition, 7 unavailable or timed out.`,
		SilenceUsage: true, SilenceErrors: true,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	root.CompletionOptions.DisableDefaultCmd = true
	f := root.PersistentFlags()
	f.StringVar(&a.flags.context, "context", "", "`NAME` of the context in the configuration file")
	f.StringVar(&a.flags.url, "url", "", "`URL` of the control plane (LOOPBACK_URL)")
	f.StringVar(&a.flags.keyFile, "api-key-file", "", "`FILE` that holds the API key (else LOOPBACK_API_KEY)")
	f.StringVar(&a.flags.caFile, "ca-file", "", "PEM `FILE` of the CA that signed the control plane's certificate (LOOPBACK_CA_FILE)")
	f.StringVarP(&a.flags.workspace, "workspace", "w", "", "`WORKSPACE`: id, name, or organisation/project/name (LOOPBACK_WORKSPACE)")
	f.StringVarP(&a.flags.output, "output", "o", "table", "`FORMAT`: table, json or yaml")
	f.DurationVar(&a.flags.timeout, "timeout", 0, "give up after this long (default: 1m; waiting and watching have none)")
	f.BoolVarP(&a.flags.yes, "yes", "y", false, "do not ask before what cannot be undone")
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	root.PersistentPreRunE = func(*cobra.Command, []string) error {
		switch a.flags.output {
		case "table", "json", "yaml":
			return nil
		}
		return usage("the output format is %q; it is table, json or yaml", a.flags.output)
	}
	_ = root.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]string{"table", "json", "yaml"}, cobra.ShellCompDirectiveNoFileComp))
	root.AddCommand(
		a.orgCommand(), a.projectCommand(), a.workspaceCommand(),
		a.tokenCommand(), a.hostCommand(), a.settingsCommand(), a.operationCommand(),
		a.releaseCommand(), a.apiKeyCommand(), a.auditCommand(),
		a.loginCommand(), a.whoamiCommand(), a.versionCommand(), a.completionCommand(),
	)
	return root
}

// Root is the tree of commands, for the generated reference pages.
func Root() *cobra.Command {
	return (&app{Environment: Environment{Getenv: func(string) string { return "" }}}).root()
}

// noun is a command that only holds verbs.
func noun(use, short string, verbs ...*cobra.Command) *cobra.Command {
	c := &cobra.Command{Use: use, Short: short, Args: cobra.NoArgs, RunE: func(c *cobra.Command, args []string) error {
		return c.Help()
	}}
	c.AddCommand(verbs...)
	return c
}

// args checks the number of words and names them in its complaint.
func args(names ...string) cobra.PositionalArgs {
	return func(_ *cobra.Command, got []string) error {
		switch {
		case len(got) < len(names):
			return usage("%s is missing", names[len(got)])
		case len(got) > len(names):
			return usage("%q is one word too many", got[len(names)])
		}
		return nil
	}
}

// some wants at least one word of a kind.
func some(name string) cobra.PositionalArgs {
	return func(_ *cobra.Command, got []string) error {
		if len(got) == 0 {
			return usage("%s is missing", name)
		}
		return nil
	}
}

// confirm asks on a terminal before what cannot be undone. Scripts are not asked.
func (a *app) confirm(format string, words ...any) error {
	if a.flags.yes || !a.Terminal {
		return nil
	}
	fmt.Fprintf(a.Err, format+" [y/N] ", words...)
	var answer string
	fmt.Fscanln(a.In, &answer)
	if answer != "y" && answer != "yes" && answer != "Y" {
		return fault.New(fault.Canceled, "not_confirmed", "nothing was done")
	}
	return nil
}

func (a *app) hint(format string, words ...any) { fmt.Fprintf(a.Err, format+"\n", words...) }

// home is where the configuration lies.
func (a *app) home() string {
	if dir := a.Getenv("XDG_CONFIG_HOME"); dir != "" {
		return filepath.Join(dir, "loopback")
	}
	return filepath.Join(a.Getenv("HOME"), ".config", "loopback")
}

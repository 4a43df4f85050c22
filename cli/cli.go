// Package cli is the command line, loopback NOUN VERB.
//
// A command reads its settings (flags, then LOOPBACK_*, then the current context of ~/.config/loopback/config.yaml),
// calls the API that everybody calls, and prints. Results go to standard output as a table, JSON or YAML; hints and
// progress go to standard error. It ends with the exit code of the error's kind (fault.Kind.ExitCode), or Interrupted,
// and an error is one lower-case line with, where one is known, a line that says what to do.
//
// What a host says of itself, its name included, was written by somebody else. No control character and nothing that
// turns the direction of writing reaches the terminal: tables show a replacement character, JSON and YAML escape them.
//
// What waits (host watch, host wait, audit tail, an operation) lasts through a control plane that goes away and comes
// back. It ends by what it waits for, by --timeout, or by Ctrl-C.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
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
	Version  string // of the program

	Terminal    bool // Out is a terminal: tables are cut to be readable
	Interactive bool // In and Err are a terminal: somebody can be asked, and told of progress
}

// Interrupted is the exit code of a command that Ctrl-C or SIGTERM ended before it was done, as shells have it.
const Interrupted = 130

// System is the environment of the process.
func System(version string) Environment {
	return Environment{
		In: os.Stdin, Out: os.Stdout, Err: os.Stderr, Getenv: os.Getenv, Version: version,
		Terminal: isTerminal(os.Stdout), Interactive: isTerminal(os.Stdin) && isTerminal(os.Stderr),
	}
}

// Run carries out one command and returns its exit code.
func Run(ctx context.Context, args []string, env Environment) int {
	a := &app{Environment: env, words: args}
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
	if k := fault.KindOf(err); ctx.Err() != nil && (k == fault.Canceled || errors.Is(err, context.Canceled)) {
		a.complain("interrupted", fault.Of(err).Hint)
		return Interrupted
	}
	return a.report(err)
}

// app is one run.
type app struct {
	Environment
	words     []string // of the command line
	signingIn bool     // the context that is named may be new
	flags     struct {
		context, url, keyFile, caFile, workspace, output string
		reason, ticket                                   string
		timeout                                          time.Duration
		yes, verbose                                     bool
	}
	api *api // once dialled
}

// usageError is a mistake in the command's own words.
type usageError struct {
	err  error
	hint string // what to do; empty: see the help
}

func (u usageError) Error() string { return u.err.Error() }

func usage(format string, args ...any) error { return usageError{err: fmt.Errorf(format, args...)} }

// report prints an error as the contract wants it and gives its exit code.
func (a *app) report(err error) int {
	var u usageError
	if errors.As(err, &u) || ofCobra(err) {
		a.complain(err.Error(), first(u.hint, "add --help to see what the command takes"))
		return fault.Invalid.ExitCode()
	}
	var status exitStatus
	if errors.As(err, &status) {
		return int(status)
	}
	e := fault.Of(err)
	message := e.Message
	if len(e.Violations) > 0 || e.Kind == fault.Internal {
		message = e.Error()
	}
	a.complain(message, e.Hint)
	if a.flags.verbose {
		fmt.Fprintf(a.Err, "code: %s\n", clean(e.Code))
		if a.api != nil {
			if id := a.api.caller.failed.Load(); id != nil {
				fmt.Fprintf(a.Err, "request: %s\n", clean(*id))
			}
		}
	}
	return e.Kind.ExitCode()
}

// complain writes what is wrong and what to do about it. Both may repeat words of somebody else.
func (a *app) complain(message, hint string) {
	fmt.Fprintf(a.Err, "loopback: %s\n", clean(oneLine(message)))
	if hint != "" {
		fmt.Fprintf(a.Err, "hint: %s\n", clean(oneLine(hint)))
	}
}

// ofCobra tells cobra's own complaints, which have no type.
func ofCobra(err error) bool {
	s := err.Error()
	return slices.ContainsFunc([]string{"unknown command", "required flag", "if any flags in the group"}, func(start string) bool { return strings.HasPrefix(s, start) })
}

func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "loopback",
		Short: "Operate a fleet of Linux servers",
		Long: `Operate a fleet of Linux servers through a Loopback control plane.

Settings are flags, then LOOPBACK_URL, LOOPBACK_API_KEY, LOOPBACK_CA_FILE, LOOPBACK_WORKSPACE, then the
current context of ~/.config/loopback/config.yaml, which ` + "`loopback login`" + ` writes. --context and LOOPBACK_CONTEXT
name another context; with --context, none of the other variables is looked at.

Exit codes: 0 done, 1 failed, 2 usage, 3 not signed in, 4 not permitted, 5 not found,
6 conflict or precondition, 7 unavailable or timed out, 130 interrupted.`,
		SilenceUsage: true, SilenceErrors: true,
		Args: unknownVerb,
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
	f.StringVar(&a.flags.reason, "reason", "", "`TEXT`: why; goes to the audit log (LOOPBACK_REASON)")
	f.StringVar(&a.flags.ticket, "ticket", "", "`TICKET` that this is done for; goes to the audit log, and bindings may ask for it (LOOPBACK_TICKET)")
	f.DurationVar(&a.flags.timeout, "timeout", 0, "give up after this long (default: 1m; waiting and watching have none)")
	f.BoolVarP(&a.flags.yes, "yes", "y", false, "do not ask before what cannot be undone")
	f.BoolVarP(&a.flags.verbose, "verbose", "v", false, "with an error, show its code and the request's id, which is in the control plane's log and audit")
	root.SetUsageFunc(writeUsage)
	root.SetHelpCommand(&cobra.Command{Use: "help [COMMAND…]", Short: "Show the help of a command", RunE: func(c *cobra.Command, words []string) error {
		about, rest, err := c.Root().Find(words)
		if err == nil && len(rest) > 0 {
			err = unknownVerb(about, rest)
		}
		if err != nil {
			return err
		}
		return about.Help()
	}})
	root.SetFlagErrorFunc(a.flagError)
	root.PersistentPreRunE = func(c *cobra.Command, _ []string) error {
		if a.flags.timeout < 0 {
			return usage("--timeout is %s; give a span of time like 30s", a.flags.timeout)
		}
		switch a.flags.output {
		case "table", "json", "yaml":
			return nil
		}
		if c.Annotations[outputIsFile] != "" {
			return nil
		}
		return usage("the output format is %q; it is table, json or yaml", a.flags.output)
	}
	_ = root.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]string{"table", "json", "yaml"}, cobra.ShellCompDirectiveNoFileComp))
	root.AddCommand(
		a.orgCommand(), a.projectCommand(), a.workspaceCommand(),
		a.tokenCommand(), a.hostCommand(), a.execCommand(), a.fileCommand(), a.commandCommand(), a.checkCommand(), a.settingsCommand(), a.operationCommand(),
		a.releaseCommand(), a.apiKeyCommand(), a.auditCommand(), a.sinkCommand(), a.replicaCommand(),
		a.userCommand(), a.groupCommand(), a.serviceAccountCommand(), a.roleCommand(), a.bindingCommand(), a.grantCommand(), a.grantPolicyCommand(), a.reviewCommand(), a.lockCommand(), a.accessCommand(), a.signInCommand(), a.passkeyCommand(), a.invitationCommand(), a.providerCommand(),
		a.shellCommand(), a.sessionCommand(),
		a.loginCommand(), a.logoutCommand(), a.contextCommand(), a.whoamiCommand(), a.versionCommand(), a.completionCommand(),
	)
	suggest(root)
	return root
}

// Root is the tree of commands, for the generated reference pages.
func Root() *cobra.Command {
	return (&app{Environment: Environment{Getenv: func(string) string { return "" }}}).root()
}

// noun is a command that only holds verbs.
func noun(use, short string, verbs ...*cobra.Command) *cobra.Command {
	c := &cobra.Command{Use: use, Short: short, Args: unknownVerb, RunE: func(c *cobra.Command, args []string) error {
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

// confirm asks on a terminal before what cannot be undone. Scripts are not asked.
func (a *app) confirm(ctx context.Context, format string, words ...any) error {
	if a.flags.yes || !a.Interactive {
		return nil
	}
	answer, err := a.ask(ctx, fmt.Sprintf(format, words...)+" [y/N] ", false)
	if ctx.Err() != nil {
		return err
	}
	switch strings.ToLower(answer) {
	case "y", "yes":
		return nil
	}
	return fault.New(fault.Canceled, "not_confirmed", "nothing was done")
}

// hint tells the reader something that is not the result.
func (a *app) hint(format string, words ...any) {
	fmt.Fprintln(a.Err, clean(fmt.Sprintf(format, words...)))
}

// home is where the configuration lies.
func (a *app) home() string {
	if dir := a.Getenv("XDG_CONFIG_HOME"); dir != "" {
		return filepath.Join(dir, "loopback")
	}
	return filepath.Join(a.Getenv("HOME"), ".config", "loopback")
}

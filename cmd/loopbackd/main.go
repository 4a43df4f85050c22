// Loopbackd is the control plane: see package server.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/loopbackd/loopback/durable"
	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/server"
	"github.com/loopbackd/loopback/server/backup"
	"github.com/loopbackd/loopback/server/config"
	"github.com/loopbackd/loopback/server/doctor"
)

// version is set by the build.
var version = "0.0.0-dev"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := Command(os.Stdout, os.Stderr).ExecuteContext(ctx)
	stop()
	if err != nil {
		os.Exit(report(os.Stderr, err))
	}
}

// report prints an error, every violation of a setting on a line of its own, and gives the exit code.
func report(w io.Writer, err error) int {
	var e *fault.Error
	if !errors.As(err, &e) {
		fmt.Fprintf(w, "loopbackd: %s\n", err)
		if strings.HasPrefix(err.Error(), "unknown ") || strings.HasPrefix(err.Error(), "invalid argument") ||
			strings.HasPrefix(err.Error(), "required flag") {
			return fault.Invalid.ExitCode()
		}
		return 1
	}
	cause := ""
	if inner := errors.Unwrap(e); inner != nil {
		cause = ": " + inner.Error()
	}
	fmt.Fprintf(w, "loopbackd: %s%s\n", e.Message, cause)
	for _, v := range e.Violations {
		fmt.Fprintf(w, "  %s %s\n", v.Field, v.Message)
	}
	if e.Hint != "" {
		fmt.Fprintf(w, "hint: %s\n", e.Hint)
	}
	return e.Kind.ExitCode()
}

// Command is the tree of loopbackd's commands.
func Command(out, errs io.Writer) *cobra.Command {
	root := &cobra.Command{
		Use: "loopbackd", Short: "The Loopback control plane", SilenceUsage: true, SilenceErrors: true, Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	root.SetOut(out)
	root.SetErr(errs)
	root.CompletionOptions.DisableDefaultCmd = true
	root.AddCommand(serveCommand(errs), checkCommand(out), doctorCommand(out), backupCommand(errs), restoreCommand(errs),
		inviteCommand(out, errs), joinCommand(os.Stdin, errs), evictCommand(errs), keysetCommand(out, errs), rotateLogKeyCommand(out, errs),
		&cobra.Command{Use: "version", Short: "Show the version of this program", Args: cobra.NoArgs, RunE: func(*cobra.Command, []string) error {
			_, err := fmt.Fprintln(out, "loopbackd "+version)
			return err
		}})
	return root
}

const environment = `

Every setting may also come from the environment (LOOPBACKD_ and its name in capitals: LOOPBACKD_DATA_DIR) or from the
YAML file that --config names (data-dir: …). A flag wins over the environment, the environment over the file.`

func serveCommand(errs io.Writer) *cobra.Command {
	var s config.Settings
	c := &cobra.Command{Use: "serve", Short: "Run the control plane", Long: "Run the control plane until it is told to stop." + environment, Args: cobra.NoArgs}
	s.Register(c.Flags())
	c.RunE = func(c *cobra.Command, _ []string) error {
		if err := s.Load(c.Flags(), os.Getenv); err != nil {
			return err
		}
		unlock, err := lock(s.DataDir)
		if err != nil {
			return err
		}
		defer unlock()
		srv, err := server.New(c.Context(), server.Options{Settings: s, Version: version, Logger: logger(errs, s)})
		if err != nil {
			return err
		}
		if _, err := srv.Listen(); err != nil {
			return errors.Join(err, srv.Close())
		}
		if err := greet(c.Context(), errs, srv, s); err != nil {
			return errors.Join(err, srv.Close())
		}
		return srv.Run(c.Context())
	}
	return c
}

// greet prints what an operator needs to begin: whom to trust, and how to sign in first.
func greet(ctx context.Context, w io.Writer, srv *server.Server, s config.Settings) error {
	code, needed, err := srv.Bootstrap(ctx)
	if err != nil {
		return err
	}
	if ca := srv.CAFile(); ca != "" {
		fmt.Fprintf(w, "local CA: %s\nfingerprint (SHA-256): %s\n", ca, srv.Fingerprint())
	}
	if needed {
		trust := ""
		if ca := srv.CAFile(); ca != "" {
			trust = " --ca-file " + ca
		}
		fmt.Fprintf(w, "\nthere is no administrator yet. Sign in once with this code:\n  loopback login %s%s\nbootstrap code: %s\n\n", s.PublicURL, trust, code)
	}
	return nil
}

func logger(w io.Writer, s config.Settings) *slog.Logger {
	var level slog.Level
	_ = level.UnmarshalText([]byte(s.LogLevel)) // Load has checked it
	o := &slog.HandlerOptions{Level: level}
	if s.LogFormat == "json" {
		return slog.New(slog.NewJSONHandler(w, o))
	}
	return slog.New(slog.NewTextHandler(w, o))
}

// lock keeps a second control plane out of a data folder.
func lock(dir string) (unlock func(), err error) {
	if err := durable.MkdirAll(dir, 0o700); err != nil {
		return nil, fault.New(fault.Unavailable, "data_folder_unusable", "the data folder cannot be made").WithCause(err).WithHint("choose another with --data-dir")
	}
	f, err := os.OpenFile(filepath.Join(dir, ".lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fault.New(fault.Unavailable, "data_folder_unusable", "the data folder %s cannot be used", dir).WithCause(err).
			WithHint("its owner, and whether its file system is mounted for writing: loopbackd doctor")
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		f.Close()
		return nil, fault.New(fault.Precondition, "data_folder_in_use", "another loopbackd runs on %s", dir).WithHint("stop it first, or choose another --data-dir")
	}
	return func() { f.Close() }, nil
}

func checkCommand(out io.Writer) *cobra.Command {
	var s config.Settings
	c := &cobra.Command{Use: "check", Short: "Tell what is wrong with the settings, without starting", Long: "Tell what is wrong with the settings, all at once, without starting or changing anything." + environment, Args: cobra.NoArgs}
	s.Register(c.Flags())
	c.RunE = func(c *cobra.Command, _ []string) error {
		if err := s.Load(c.Flags(), os.Getenv); err != nil {
			return err
		}
		if err := s.CheckFiles(); err != nil {
			return err
		}
		_, err := fmt.Fprintf(out, "the settings are valid\nlisten      %s\npublic url  %s\ndata        %s\ndatabase    %s\n", s.Listen, s.PublicURL, s.DataDir, s.RedactedDatabase())
		return err
	}
	return c
}

func doctorCommand(out io.Writer) *cobra.Command {
	var s config.Settings
	var format string
	c := &cobra.Command{Use: "doctor", Short: "Look at what the control plane needs of this machine, and say what to change", Args: cobra.NoArgs,
		Long: `Look at what the control plane needs of this machine, and say what to change. Run it with the settings of serve and as
its user, while it runs or while it does not; nothing is changed. It exits with 1 where something failed, with 0 where
there are warnings at most.` + environment}
	s.Register(c.Flags())
	c.Flags().StringVarP(&format, "output", "o", "text", "`FORMAT`: text or json")
	c.RunE = func(c *cobra.Command, _ []string) error {
		if format != "text" && format != "json" {
			return fault.New(fault.Invalid, "output_unknown", "the output format is %q; it is text or json", format)
		}
		if err := s.LoadExcept(c.Flags(), os.Getenv, "output"); err != nil {
			return err
		}
		r := doctor.Examine(c.Context(), doctor.Options{Settings: s, Version: version})
		if err := writeReport(out, r, format); err != nil {
			return err
		}
		if r.Status == doctor.Failed {
			return errFound
		}
		return nil
	}
	return c
}

// errFound ends doctor with exit code 1: what was found is printed already.
var errFound = errors.New("something is wrong with what loopbackd needs; see above")

func writeReport(w io.Writer, r doctor.Report, format string) error {
	if format == "json" {
		e := json.NewEncoder(w)
		e.SetIndent("", "  ")
		return e.Encode(r)
	}
	for _, f := range r.Findings {
		name := f.Check
		if f.Code != "" {
			name = f.Code
		}
		fmt.Fprintf(w, "%-8s %s: %s\n", f.Status, name, f.Seen)
		if f.Hint != "" {
			fmt.Fprintf(w, "         hint: %s\n", f.Hint)
		}
	}
	running := "does not run"
	if r.Running {
		running = "runs"
	}
	_, err := fmt.Fprintf(w, "%s; the control plane %s\n", r.Status, running)
	return err
}

func backupCommand(errs io.Writer) *cobra.Command {
	var s config.Settings
	var to string
	c := &cobra.Command{Use: "backup --to FILE", Short: "Write database, keys and releases to one file, while the control plane runs", Args: cobra.NoArgs}
	s.Register(c.Flags())
	c.Flags().StringVar(&to, "to", "", "`FILE` to write; it must not exist")
	_ = c.MarkFlagRequired("to")
	c.RunE = func(c *cobra.Command, _ []string) error {
		if err := s.LoadExcept(c.Flags(), os.Getenv, "to"); err != nil {
			return err
		}
		if err := backup.Create(c.Context(), s.DataDir, s.Database, version, to, time.Now()); err != nil {
			return err
		}
		st, err := os.Stat(to)
		if err != nil {
			return err
		}
		fmt.Fprintf(errs, "wrote %s (%d bytes). It holds every key of this control plane: keep it as you keep the machine.\n", to, st.Size())
		if err := backup.Note(s.DataDir, time.Now()); err != nil {
			fmt.Fprintf(errs, "warning: %s\n", err)
		}
		if strings.Contains(s.Database, "://") {
			fmt.Fprintln(errs, "the PostgreSQL database is not in it: back it up with pg_dump")
		}
		return nil
	}
	return c
}

func restoreCommand(errs io.Writer) *cobra.Command {
	var s config.Settings
	var from string
	c := &cobra.Command{Use: "restore --from FILE", Short: "Make a data folder from a backup, in a new epoch", Args: cobra.NoArgs,
		Long: `Make a data folder from a backup. The folder must be empty.

The restored control plane begins a new epoch: enrolment tokens, API keys and the bootstrap code end, since what was
handed out or revoked after the backup cannot be known. Hosts come back by themselves. At the next start loopbackd prints
a new bootstrap code.`}
	s.Register(c.Flags())
	c.Flags().StringVar(&from, "from", "", "`FILE` that loopbackd backup wrote")
	_ = c.MarkFlagRequired("from")
	c.RunE = func(c *cobra.Command, _ []string) error {
		if err := s.LoadExcept(c.Flags(), os.Getenv, "from"); err != nil {
			return err
		}
		done, err := backup.Restore(c.Context(), from, s.DataDir, s.Database, time.Now())
		if err != nil {
			return err
		}
		fmt.Fprintf(errs, "restored the backup of %s into %s\nepoch %d begins: %d enrolment tokens, %d API keys, %d sign-ins and %d grants ended\nstart loopbackd serve and sign in with the code that it prints\n",
			done.Manifest.CreatedAt.Format(time.RFC3339), s.DataDir, done.Deployment.Epoch, done.Tokens, done.APIKeys, done.SignIns, done.Grants)
		return nil
	}
	return c
}

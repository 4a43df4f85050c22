package command

import (
	"context"
	"io"
	"log/slog"
	"os"

	"github.com/loopbackd/loopback/agent"
	"github.com/loopbackd/loopback/agent/config"
	"github.com/loopbackd/loopback/agent/doctor"
	"github.com/loopbackd/loopback/agent/file"
	"github.com/loopbackd/loopback/agent/inventory"
	"github.com/loopbackd/loopback/agent/link"
	"github.com/loopbackd/loopback/agent/shell"
	"github.com/loopbackd/loopback/agent/systemd"
	"github.com/loopbackd/loopback/host"
)

// runAgent is what the service does. It ends when ctx does.
func runAgent(ctx context.Context, env Environment, args []string) error {
	f := flags("run")
	var p places
	p.register(f)
	if err := parse(env, f, args); err != nil {
		return err
	}
	c, err := config.Read(p.config)
	if err != nil {
		return err
	}
	program, err := os.Executable()
	if err != nil {
		return err
	}
	level := new(slog.LevelVar)
	log := slog.New(logHandler(env.Stderr, level, env.Getenv("JOURNAL_STREAM") != ""))
	shells := shell.Launcher{
		Log: log, Allowed: c.Allow.Shell, Dir: shell.DefaultDir, StateDir: p.state, Program: program,
		Args: []string{"shell-host", "--config", p.config, "--state-dir", p.state, "--order"},
	}
	files := file.Options{Bundle: bundle(env, p)}
	if _, err := os.Stat("/run/systemd/system"); err == nil { // the agent's own unit may write next to nothing
		files.Program, files.Dir, files.Args = program, file.DefaultDir, []string{"file-host", "--config", p.config, "--state-dir", p.state, "--socket", p.socket, "--order"}
	}
	machine := inventory.Source{Boot: env.Getenv("LOOPBACK_BOOT_ID")} // as the unit says
	a, err := agent.New(agent.Options{
		Config: c, StateDir: p.state, Socket: p.socket, Version: env.Version, Level: level, Machine: machine,
		Log: log, Systemd: systemd.FromEnvironment(env.Getenv),
		Files: files,
		Shell: func(ctx context.Context, o link.ShellOrder) error {
			return shells.Launch(ctx, o.Order, o.Stream, o.Credential, o.Endpoint)
		},
		Troubles: func() []host.Trouble { return doctor.Troubles(doctor.Options{ConfigPath: p.config, StateDir: p.state}) },
	})
	if err != nil {
		return err
	}
	return a.Run(ctx)
}

// logHandler writes lines; the journal knows the time itself.
func logHandler(w io.Writer, level slog.Leveler, journal bool) slog.Handler {
	return slog.NewTextHandler(w, &slog.HandlerOptions{Level: level, ReplaceAttr: func(groups []string, a slog.Attr) slog.Attr {
		if journal && len(groups) == 0 && a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}})
}

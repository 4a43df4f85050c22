package command

import (
	"context"
	"log/slog"
	"path/filepath"
	"sync"
	"time"

	"github.com/loopbackd/loopback/agent/config"
	"github.com/loopbackd/loopback/agent/link"
	"github.com/loopbackd/loopback/agent/shell"
	"github.com/loopbackd/loopback/agent/state"
	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/recording"
	"github.com/loopbackd/loopback/stream"
)

// shellPatience is how long a session goes on without a connection.
const shellPatience = 20 * time.Minute

// runShellHost is one session's process: see package shell. The agent starts it; nobody else has an order to hand it.
func runShellHost(ctx context.Context, env Environment, args []string) error {
	f := flags("shell-host")
	var p places
	p.register(f)
	order := f.String("order", "", "`FILE` of the order, which is destroyed")
	if err := parse(env, f, args); err != nil {
		return err
	}
	if *order == "" {
		return fault.New(fault.Invalid, "usage", "--order is missing").WithHint("the agent starts shell hosts by itself")
	}
	handed, err := shell.Take(*order)
	if err != nil {
		return err
	}
	log := slog.New(logHandler(env.Stderr, slog.LevelInfo, env.Getenv("JOURNAL_STREAM") != "")).With("session", handed.Order.Session)
	c, err := config.Read(p.config)
	if err != nil {
		return err
	}
	if !c.Allow.Shell {
		return fault.New(fault.Precondition, "shell_not_allowed", "this host does not allow shells")
	}
	trust, err := state.ReadTrust(p.state, c.Anchor)
	if err != nil {
		return err
	}
	spool, err := recording.OpenSpool(filepath.Join(p.state, shell.RecordingsDir), shell.Reserve)
	if err != nil {
		return err
	}
	end := stream.New(stream.Options{})
	dialer := link.NewStreamDialer(c, trust, handed.Endpoint, handed.Stream, handed.Order.Session, handed.Credential)
	dialling, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	var keeping sync.WaitGroup
	keeping.Go(func() {
		if err := end.Keep(dialling, shellPatience, dialer.Dial); err != nil {
			log.Warn("the stream ended", "error", err)
		}
	})
	log.Info("a session begins", "user", handed.Order.User, "who", handed.Order.Who)
	err = shell.New(shell.Options{Order: handed.Order, Spool: spool, End: end, Start: shell.InUnit, Log: log}).Run(ctx)
	// The other end hears that it is over by the last that the connection carries.
	parting := time.AfterFunc(5*time.Second, stop)
	keeping.Wait()
	parting.Stop()
	log.Info("the session has ended", "error", err)
	return err
}

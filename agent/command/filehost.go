package command

import (
	"context"
	"log/slog"
	"path/filepath"

	"github.com/loopbackd/loopback/agent/config"
	"github.com/loopbackd/loopback/agent/diagnose"
	"github.com/loopbackd/loopback/agent/file"
	"github.com/loopbackd/loopback/agent/link"
	"github.com/loopbackd/loopback/agent/state"
	"github.com/loopbackd/loopback/fault"
	noun "github.com/loopbackd/loopback/file"
)

// notesDir is the folder of files on their way, in the state folder.
const notesDir = "files"

// bundle is what the host tells of itself.
func bundle(env Environment, p places) func(context.Context) ([]byte, error) {
	return func(ctx context.Context) ([]byte, error) {
		return diagnose.Bundle(ctx, diagnose.Options{Version: env.Version, ConfigPath: p.config, StateDir: p.state, Socket: p.socket})
	}
}

// runFileHost is one file's process: see package file. The agent starts it; nobody else has an order to hand it.
func runFileHost(ctx context.Context, env Environment, args []string) error {
	f := flags("file-host")
	var p places
	p.register(f)
	order := f.String("order", "", "`FILE` of the order, which is destroyed")
	if err := parse(env, f, args); err != nil {
		return err
	}
	if *order == "" {
		return fault.New(fault.Invalid, "usage", "--order is missing").WithHint("the agent starts file hosts by itself")
	}
	o, err := file.Take(*order)
	if err != nil {
		return err
	}
	c, err := config.Read(p.config)
	if err != nil {
		return err
	}
	if !c.Allow.Files && o.Task.Kind != noun.OfHost {
		return file.ErrCeiling
	}
	trust, err := state.ReadTrust(p.state, c.Anchor)
	if err != nil {
		return err
	}
	dialer := link.NewStreamDialer(c, trust, o.Endpoint, o.Stream, o.ID, o.Credential)
	log := slog.New(logHandler(env.Stderr, slog.LevelInfo, env.Getenv("JOURNAL_STREAM") != ""))
	file.Carrier{Task: o.Task, Dir: filepath.Join(p.state, notesDir), Log: log, Bundle: bundle(env, p)}.Carry(ctx, dialer.Dial)
	return nil
}

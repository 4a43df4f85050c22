// Command loopback-agent keeps a Linux host linked to its Loopback control plane. See package agent for how it works and
// loopback-agent help for its commands.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/loopbackd/loopback/agent/command"
)

// version is set when a release is built: -ldflags "-X main.version=1.2.3".
var version = "0.0.0-dev"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	code := command.Main(ctx, command.Environment{
		Version: version, Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr, Getenv: os.Getenv,
	}, os.Args[1:])
	stop()
	os.Exit(code)
}

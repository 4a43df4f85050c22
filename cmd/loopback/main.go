// Loopback is the command line: see package cli.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/loopbackd/loopback/cli"
)

// version is set by the build.
var version = "0.0.0-dev"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // the second Ctrl-C ends it where the first one could not
	code := cli.Run(ctx, os.Args[1:], cli.System(version))
	stop()
	os.Exit(code)
}

#!/bin/sh
# Runs the Go tests with the race detector and closes on the runner's own summary.
set -eu

CGO_ENABLED=1
export CGO_ENABLED
exec go tool -modfile=tools/check/go.mod gotestsum --format pkgname-and-test-fails --hide-summary skipped \
	-- -race -timeout 40m "$@"

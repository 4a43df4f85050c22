#!/bin/sh
# Runs the Go tests with the race detector and closes on the runner's own summary. What boots machines, runs thousands of
# agents or kills processes comes last, one package after the other: it waits for real time, which its neighbours would
# take away.
set -eu

CGO_ENABLED=1
export CGO_ENABLED
heavy='/test/(audit|console|e2e|fault|fleet|lab|reproduce|sinks)(/|$)'
LOOPBACK_TEST_REPRODUCE=1
export LOOPBACK_TEST_REPRODUCE

run() {
	go tool -modfile=tools/check/go.mod gotestsum --format pkgname-and-test-fails --hide-summary skipped -- -race -timeout 30m "$@"
}

(cd web && PATH=$PWD/node_modules/.bin:$PATH vitest run --silent)

# Cedar as an oracle, in a module of its own and without the race detector, which leaves time for fewer decisions.
(cd tools/oracle && LOOPBACK_SPAN=60s go test -timeout 10m ./...)

# A failure in one half does not hide those of the other.
failed=0
# shellcheck disable=SC2046 # lists of packages
run $(go list ./... | grep -vE "$heavy") || failed=1
# shellcheck disable=SC2046
run -p 1 $(go list ./... | grep -E "$heavy") || failed=1
exit $failed

#!/bin/bash
# Long runs against faults: `soak.sh` runs every area, `soak.sh AREA` one. Each prints the seed that repeats it:
# LOOPBACK_SEED=… build/soak.sh AREA.
set -euo pipefail
cd "$(dirname "$0")/.."

export LOOPBACK_SOAK=1
export LOOPBACK_SEED=${LOOPBACK_SEED:-$(date +%s%N)}
FUZZTIME=${FUZZTIME:-1m}

# Kills, races, expulsions, rotations, hostile peers, backups: the sizes that are promised.
area_fault() { CGO_ENABLED=0 go test -count=1 -v -timeout 2h ./test/fault; }

# The hub with thousands of agents, over and over, with the race detector.
area_link() { CGO_ENABLED=1 go test -race -count=5 -timeout 1h ./wire ./server/link ./test/fleet; }

# Group commit, both databases.
area_storage() { CGO_ENABLED=1 go test -race -count=5 -timeout 1h ./server/storage/... ./server/feed; }

# Sixty thousand hosts over five replicas, one of which dies. LOOPBACK_FLEET says how many instead.
area_fleet() { CGO_ENABLED=0 go test -count=1 -v -timeout 1h -run '^TestALargeFleet' ./test/replicas; }

# Ten million random decisions, ours and Cedar's.
area_access() { (cd tools/oracle && LOOPBACK_DECISIONS=10000000 LOOPBACK_SPAN=90m go test -count=1 -v -timeout 2h .); }

# The audit log under attack: every mutation of it found and named, what the owner of the database does, kills. LOOPBACK_KILLS=250
# runs a slice of the thousand.
area_audit() { CGO_ENABLED=0 go test -count=1 -v -timeout 2h ./ledger ./server/ledger ./test/audit; }

# Receivers of the audit log, and the control plane that sends to them, killed at random for ten minutes.
area_sinks() { CGO_ENABLED=0 go test -count=1 -v -timeout 1h ./server/sink ./test/sinks; }

# A page of the console left open for half an hour over 10,000 hosts, a hundred of which change each second: its memory stays flat.
# CONSOLE_HOSTS and CONSOLE_FOR (seconds) say otherwise. Needs the built console (make build).
area_console() { CGO_ENABLED=0 go test -count=1 -v -timeout 2h -run '^TestAnOpenPageKeepsNoMore$' ./test/console; }

# A thousand cuts of shells on a real machine, with bytes going both ways: resets, black holes, the control plane and the agent killed.
# LOOPBACK_CUTS says how many instead.
area_shell() { CGO_ENABLED=0 go test -count=1 -v -timeout 4h -run '^TestCutsOfAllKinds$' ./test/e2e; }

# Every fuzz target of the module, one after the other.
area_fuzz() {
	local package target
	# What the toolchain lists, so that no target can be forgotten.
	for package in $(go list -f '{{if or .TestGoFiles .XTestGoFiles}}{{.ImportPath}}{{end}}' ./...); do
		for target in $(go test -list '^Fuzz' "$package" | grep '^Fuzz' || true); do
			echo "fuzzing $package $target for $FUZZTIME"
			go test -run '^$' -fuzz "^$target\$" -fuzztime "$FUZZTIME" "$package"
		done
	done
}

areas=(fault link storage fleet access audit sinks console shell fuzz)
chosen=${1:-}
if [ -n "$chosen" ]; then
	declare -F "area_$chosen" >/dev/null || {
		echo "soak: there is no area called $chosen" >&2
		echo "hint: choose from ${areas[*]}, or none for all" >&2
		exit 2
	}
	areas=("$chosen")
fi
for area in "${areas[@]}"; do
	echo "== $area, LOOPBACK_SEED=$LOOPBACK_SEED"
	"area_$area"
done

#!/bin/bash
# The demo: a control plane on this machine and real systemd machines on a private bridge, each enrolled by the served
# install script with a token of its own. Everything lives in .demo and is removed by `down`.
set -euo pipefail
cd "$(dirname "$0")/.."

root=$PWD
HOSTS=${HOSTS:-3}
VERSION=${VERSION:-0.1.0}
state=$root/.demo
lab() {
	local verb=$1
	shift
	"$root/bin/labctl" "$verb" --dir "$root/.cache/lab" "$@"
}
say() { printf '\033[1m%s\033[0m\n' "$*" >&2; }
die() {
	printf 'demo: %s\n' "$1" >&2
	[ $# -lt 2 ] || printf 'hint: %s\n' "$2" >&2
	exit 1
}
[ -t 2 ] || say() { printf '%s\n' "$*" >&2; }

need_root() { [ "$(id -u)" -eq 0 ] || die "booting machines needs root" "sudo make demo"; }

# The control plane's process, if it is ours and runs.
running() {
	[ -s "$state/loopbackd.pid" ] || return 1
	pid=$(cat "$state/loopbackd.pid")
	[ -r "/proc/$pid/cmdline" ] && tr '\0' ' ' <"/proc/$pid/cmdline" | grep -qF -- "--data-dir $state/data"
}

machines() { local i; for ((i = 1; i <= HOSTS; i++)); do echo "host-$i"; done; }

start() {
	running && return 0
	say "starting the control plane"
	local port=8443
	while ss -Hltn "sport = :$port" | grep -q .; do port=$((port + 1)); done
	[ ! -s "$state/port" ] || port=$(cat "$state/port")
	echo "$port" >"$state/port"
	setsid "$root/bin/loopbackd" serve --listen ":$port" --metrics-listen "127.0.0.1:$((port + 1000))" --data-dir "$state/data" \
		--public-url "https://$1:$port" --tls-name localhost --tls-name 127.0.0.1 \
		</dev/null >>"$state/loopbackd.log" 2>&1 &
	echo $! >"$state/loopbackd.pid"
	local i
	for ((i = 0; i < 300; i++)); do
		if curl -fsk -o /dev/null "https://127.0.0.1:$port/readyz"; then return 0; fi
		running || die "the control plane ended: $(tail -n 3 "$state/loopbackd.log")"
		sleep 0.1
	done
	die "the control plane is not ready after 30 s" "see $state/loopbackd.log"
}

# Signs in as the first administrator and writes the file that everybody sources.
sign_in() {
	[ ! -s "$state/env" ] || return 0
	local url code key
	url=https://$1:$(cat "$state/port")
	export LOOPBACK_CA_FILE=$state/data/keys/ca.crt
	code=$(sed -n 's/.*bootstrap code: //p' "$state/loopbackd.log" | tail -n 1)
	XDG_CONFIG_HOME=$state/config LOOPBACK_BOOTSTRAP_CODE=$code loopback login "$url" 2>/dev/null ||
		die "signing in failed" "make demo-down, then make demo"
	key=$(demo_key) || die "making the demo's key failed" "make demo-down, then make demo"
	(umask 077 && cat >"$state/env.new" <<-END
		export LOOPBACK_URL=$url
		export LOOPBACK_API_KEY=$key
		export LOOPBACK_CA_FILE=$LOOPBACK_CA_FILE
		export LOOPBACK_WORKSPACE=default
		export PATH=$root/bin:\$PATH
	END
	)
	mv "$state/env.new" "$state/env"
}

# The demo's key is a service account's that may do everything, and, for a day, run commands on hosts: that is never given
# for good. `make demo` gives it again once the day is over.
demo_key() {
	export XDG_CONFIG_HOME=$state/config
	{
		loopback service-account create demo
		loopback binding create --service-account demo --role owner --everywhere
		loopback role create demo-commands --permission exec.run --permission file.put --permission file.get
	} >/dev/null && lend >/dev/null && loopback apikey create demo --service-account demo --permission '*' --permission exec.run --permission file.put --permission file.get --ttl 30d
}

lend() { loopback binding create --service-account demo --role demo-commands --everywhere --not-after 23h --description "commands on the demo's hosts"; }

# Whether the right to run commands is there; it ends by itself.
lent() { loopback binding list -o json | jq -e 'any(.items[]; .description == "commands on the demo'"'"'s hosts" and (.notAfter | sub("\\.[0-9]+"; "") | fromdate) > now)' >/dev/null; }

publish() {
	loopback release list -o json | jq -e --arg v "$VERSION" 'any(.items[]; .version == $v)' >/dev/null && return 0
	say "publishing loopback-agent $VERSION, with keys made for this demo"
	loopback release publish --keys "$state/release-keys" --version "$VERSION" --channel stable "$root/bin/agents/$VERSION" >/dev/null
}

enrol() {
	local minted token command
	minted=$(loopback token mint --max-uses 1 --ttl 15m --description "demo: $1" -o json)
	token=$(jq -r .secret <<<"$minted")
	command="$(jq -r .installCommand <<<"$minted") -s -- --allow-exec --allow-files"
	# The token travels on standard input and in the environment, never in arguments.
	if ! lab exec demo "$1" -- sh -c "LOOPBACK_TOKEN=\$(cat) && export LOOPBACK_TOKEN && $command" <<<"$token" >"$state/$1.log" 2>&1; then
		cat "$state/$1.log" >&2
		die "installing on $1 failed"
	fi
}

up() {
	need_root
	mkdir -p "$state"
	CGO_ENABLED=0 go build -o bin/labctl ./test/lab/labctl
	export PATH=$root/bin:$PATH
	local network address name new=()
	say "booting $HOSTS machines (the first time, a Debian image is made: about two minutes)"
	network=$(lab up demo --hosts "$HOSTS")
	address=$(jq -r .hostAddress <<<"$network")
	start "$address"
	sign_in "$address"
	# shellcheck disable=SC1091 # written above
	. "$state/env"
	lent || XDG_CONFIG_HOME=$state/config env -u LOOPBACK_API_KEY -u LOOPBACK_URL -u LOOPBACK_CA_FILE -u LOOPBACK_WORKSPACE "$0" lend
	publish
	for name in $(machines); do
		loopback host list -o json | jq -e --arg n "$name" 'any(.items[]; .name == $n)' >/dev/null || new+=("$name")
	done
	if [ ${#new[@]} -gt 0 ]; then
		say "installing the agent on ${new[*]}"
		for name in "${new[@]}"; do enrol "$name"; done
	fi
	# shellcheck disable=SC2046 # a list of words
	loopback host wait $(machines) --for managed --timeout 2m >/dev/null
	loopback host list --wide
	cat <<-END

		Console   $LOOPBACK_URL  (its certificate authority: $LOOPBACK_CA_FILE)
		Sign in   with the API key in .demo/env; or in a shell: . .demo/env, then: loopback host list
		Commands  loopback exec --reason 'a look' --all -- uptime
		Machines  make demo-exec HOST=host-1 CMD='systemctl status loopback-agent'
		Remove    make demo-down
	END
}

down() {
	need_root
	if running; then
		kill "$pid"
		local i
		for ((i = 0; i < 300 && i >= 0; i++)); do
			[ -d "/proc/$pid" ] || break
			sleep 0.1
		done
		[ ! -d "/proc/$pid" ] || kill -9 "$pid"
	fi
	if [ -d .cache/lab ]; then
		CGO_ENABLED=0 go build -o bin/labctl ./test/lab/labctl
		lab down demo
	fi
	rm -rf "$state"
}

case ${1:-} in
up) up ;;
down) down ;;
exec)
	need_root
	[ -n "${2:-}" ] || die "name a machine: HOST=host-1"
	[ -n "${3:-}" ] || die "name a command" "make demo-exec HOST=host-1 CMD='uptime'"
	lab exec demo "$2" -- sh -c "$3"
	;;
lend)
	export PATH=$root/bin:$PATH
	lend >/dev/null
	;;
*) die "usage: demo.sh up|down|exec|lend" ;;
esac

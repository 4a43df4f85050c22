#!/bin/sh
# Installs the Loopback agent on this host and enrols it at @{.URL}@
#
#   LOOPBACK_TOKEN=lbt_... sh install.sh          the token in the environment
#   sh install.sh --token-file FILE               in a file
#   sh install.sh <FILE                           or on standard input, when the script is not read from there
#
# sh install.sh --help lists the options. What is below is one command in braces: half of it does nothing.
{
set -eu

url=@{quote .URL}@
anchor=@{quote .Anchor}@
version=@{quote .Version}@
channel=@{quote .Channel}@
pinned=@{if .Pinned}@yes@{end}@
ca=@{quote .CA}@
root=@{quote .Root}@
base=/opt/loopback
staging=
token=

# artefact sets path, length and sha256 for an architecture.
artefact() {
	case $1 in
@{- range .Platforms}@
	@{.Name}@) path=@{quote .Path}@ length=@{.Length}@ sha256=@{.SHA256}@ ;;
@{- end}@
	*) return 1 ;;
	esac
}

say() { printf 'loopback: %s\n' "$*" >&2; }

detail() { if [ -n "$verbose" ]; then say "$*"; fi; }

# fail MESSAGE [HINT [STATUS]]
fail() {
	say "$1"
	if [ -n "${2-}" ]; then printf 'hint: %s\n' "$2" >&2; fi
	exit "${3-1}"
}

usage() {
	cat <<-'END'
	Usage: sh install.sh [OPTION]...

	  --channel NAME        stable (default) or preview
	  --version VERSION     this version instead of the newest of the channel
	  --token-file FILE     read the enrolment token from FILE; - is standard input
	  --name NAME           the host's name, instead of its own
	  --labels K=V,...      labels of the host
	  --allow-exec, --allow-shell, --allow-files, --allow-power
	                        what the control plane may do here; nothing by default
	  --proxy URL           reach the control plane by this proxy
  --mirror URL          fetch programs from a copy of the releases, now and later
  --bundle FOLDER       take the program from an unpacked bundle; found by itself where the script lies in one
	  --proxy-file FILE     read the proxy's URL, with its password, from FILE (mode 0600)
	  --dry-run             check everything, change nothing
	  --download-only DIR   fetch and verify into DIR, install nothing
	  --verbose             say what is done, and let the agent log what its link does
	  --uninstall [--purge] remove the agent; --purge also its identity and settings
	  --help                this text

	The token is read from LOOPBACK_TOKEN, a file or standard input, never from the command line.
	Options that are not listed here are those of: loopback-agent install --help
	END
}

main() {
	verbose='' dry='' download='' proxy='' proxy_file='' mirror='' bundle='' uninstall='' want_channel=$channel want_version=''
	token=${LOOPBACK_TOKEN-}
	unset LOOPBACK_TOKEN # what is started from here on does not see it, except for the agent
	umask 022
	case $0 in
	*/install.sh) bundle=${0%/*} ;;
	install.sh) bundle=. ;;
	esac
	if [ ! -f "$bundle/metadata/timestamp.json" ]; then bundle=''; fi

	# Options that the script acts upon are taken out of "$@"; the rest is the agent's.
	left=$#
	while [ "$left" -gt 0 ]; do
		option=$1 value=''
		shift
		left=$((left - 1))
		case $option in
		--channel | --version | --download-only | --proxy | --proxy-file | --mirror | --bundle)
			[ "$left" -gt 0 ] || fail "$option needs a value" "see --help" 2
			value=$1
			shift
			left=$((left - 1))
			;;
		--channel=* | --version=* | --download-only=* | --proxy=* | --proxy-file=* | --mirror=* | --bundle=*)
			value=${option#*=}
			option=${option%%=*}
			;;
		esac
		case $option in
		--channel) want_channel=$value ;;
		--version) want_version=$value ;;
		--download-only) download=$value ;;
		--proxy) proxy=$value ;;
		--mirror) mirror=${value%/} ;;
		--bundle) bundle=$value ;;
		--proxy-file) proxy_file=$value ;;
		--dry-run) dry=yes ;;
		--verbose) verbose=yes ;;
		--uninstall) uninstall=yes ;;
		--help | -h)
			usage
			exit 0
			;;
		--token | --token=*)
			fail "a token on the command line can be read by everybody on this host" \
				"revoke that one; give a new one in LOOPBACK_TOKEN, with --token-file FILE or on standard input" 2
			;;
		*) set -- "$@" "$option" ;;
		esac
	done

	case ${proxy#*://} in
	*:*@*)
		fail "a proxy's password on the command line can be read by everybody on this host" \
			"change it; give the URL in https_proxy, or with --proxy-file FILE" 2
		;;
	esac
	if [ -n "$proxy_file" ]; then
		[ -r "$proxy_file" ] || fail "$proxy_file cannot be read" "give the file with the proxy's URL" 2
		case $(stat -L -c %F:%a "$proxy_file" 2>/dev/null) in
		*file:*[!0]? | *file:*[!0]) fail "$proxy_file can be read by others than its owner" "change the password; then: chmod 600 $proxy_file" 2 ;;
		esac
		proxy=$(cat "$proxy_file")
	fi
	[ "$(uname -s)" = Linux ] || fail "the agent runs on Linux, and this is $(uname -s)"
	if [ -z "$download" ] && [ "$(id -u)" != 0 ]; then
		fail "installing needs root" "run it as root, or pipe it into: sudo --preserve-env=LOOPBACK_TOKEN sh"
	fi
	if [ -n "$uninstall" ]; then
		remove "$@"
		exit 0
	fi
	if [ -n "$proxy" ]; then
		export https_proxy="$proxy" HTTPS_PROXY="$proxy"
	fi
	source=$mirror
	case $mirror in
	none) source='' ;;
	'' | http://* | https://*) ;;
	*) fail "$mirror is not a mirror's address" "give http:// or https://, a host and a path" 2 ;;
	esac
	trap clean EXIT
	trap 'exit 129' HUP
	trap 'exit 130' INT
	trap 'exit 143' TERM
	tools
	if [ -n "$want_version" ]; then pinned=yes; fi # named on purpose, be it older than what is installed
	if [ "$want_channel" != "$channel" ] || [ "${want_version:-$version}" != "$version" ]; then
		other "$@"
	fi
	machine=$(uname -m)
	case $machine in
	x86_64 | amd64) arch=amd64 ;;
	aarch64 | arm64) arch=arm64 ;;
	*) fail "there is no agent for $machine" "it runs on amd64 (x86_64) and arm64 (aarch64)" ;;
	esac
	artefact "$arch" || fail "loopback-agent $version is not published for $arch" "publish it: loopback release publish"
	stage "${download:-$base}"
	if [ -n "$bundle" ]; then
		take "$bundle/targets/$path"
	else
		say "fetching loopback-agent $version for linux-$arch ($((length / 1048576)) MiB)"
		fetch "${source:-$url/dl}/targets/$path" "$staging/loopback-agent" "$length"
	fi
	verify "$staging/loopback-agent"
	chmod 755 "$staging/loopback-agent"
	if [ -n "$download" ]; then
		keep
		exit 0
	fi

	set -- install --endpoint "$url" --anchor "$anchor" --version "$version" --trust-root "$staging/root.json" "$@"
	if [ -n "$ca" ]; then set -- "$@" --ca-file "$staging/ca.pem"; fi
	if [ -n "$mirror" ]; then set -- "$@" --mirror "$mirror"; fi
	if [ -n "$bundle" ]; then set -- "$@" --bundle "$bundle"; fi
	if [ -n "$channel" ]; then set -- "$@" --channel "$channel"; fi
	if [ -n "$pinned" ]; then set -- "$@" --allow-downgrade; fi
	if [ -n "$dry" ]; then set -- "$@" --dry-run; fi
	if [ -n "$verbose" ]; then set -- "$@" --verbose; fi
	status=0
	if [ -n "$token" ]; then
		LOOPBACK_TOKEN=$token "$staging/loopback-agent" "$@" || status=$?
	else
		"$staging/loopback-agent" "$@" || status=$?
	fi
	if [ "$status" = 126 ]; then
		fail "the agent cannot be executed from $staging" "look for SELinux or fapolicyd denials: ausearch -m avc -ts recent"
	fi
	exit "$status"
}

# remove runs the installed agent's own uninstall.
remove() {
	if [ -x "$base/current/bin/loopback-agent" ]; then
		"$base/current/bin/loopback-agent" uninstall "$@"
	else
		say "the agent is not installed here"
	fi
}

# tools finds what to fetch and to hash with.
tools() {
	tool=none
	if [ -n "$bundle" ]; then
		: # nothing is fetched
	elif command -v curl >/dev/null 2>&1; then
		tool=curl
	elif wget --help 2>&1 | grep -q -e --ca-certificate; then
		tool=wget
	elif [ "${source#http://}" != "$source" ] && command -v wget >/dev/null 2>&1; then
		tool=busybox # without TLS to get wrong; what comes is verified by its hash
	else # the wget of busybox verifies nothing, and is too old for a server's TLS
		fail "neither curl nor GNU wget is installed" "install one of them and run this again"
	fi
	if command -v sha256sum >/dev/null 2>&1; then
		hash=sha256sum
	elif command -v openssl >/dev/null 2>&1; then
		hash='openssl dgst -sha256 -r'
	else
		fail "neither sha256sum nor openssl is installed" "install one of them and run this again"
	fi
	detail "fetching with $tool, verifying with $hash"
}

# other fetches and runs the script for the channel and version that were asked for.
other() {
	case $want_channel in
	'' | stable | preview) ;;
	*) fail "there is no release channel $want_channel" "the channels are stable and preview" 2 ;;
	esac
	case $want_version in
	*[!0-9A-Za-z.+-]*) fail "$want_version is not a version" "a version looks like 1.2.3 or 1.2.3-rc.1" 2 ;;
	esac
	if [ -n "$bundle" ]; then
		fail "the bundle is of loopback-agent $version" "make one of what you want: loopback release bundle --version VERSION" 2
	fi
	if [ "$tool" = busybox ]; then
		fail "another version needs another script, which this wget cannot fetch safely" "install curl or GNU wget and run this again"
	fi
	stage "${download:-$base}"
	query="channel=$want_channel"
	if [ -n "$want_version" ]; then
		query="$query&version=$(printf %s "$want_version" | sed 's/+/%2B/g')"
	fi
	detail "fetching the script for $query"
	fetch "$url/install.sh?$query" "$staging/install.sh"
	if [ -n "$dry" ]; then set -- "$@" --dry-run; fi
	if [ -n "$verbose" ]; then set -- "$@" --verbose; fi
	if [ -n "$mirror" ]; then set -- "$@" --mirror "$mirror"; fi
	if [ -n "$download" ]; then set -- "$@" --download-only "$download"; fi
	status=0
	if [ -n "$token" ]; then
		LOOPBACK_TOKEN=$token sh "$staging/install.sh" "$@" || status=$?
	else
		sh "$staging/install.sh" "$@" || status=$?
	fi
	exit "$status"
}

# stage makes a private folder on the file system that the agent will live on; /tmp may be small, or forbid execution.
stage() {
	target=$1
	if [ ! -d "$target" ]; then
		mkdir -p "$target" 2>/dev/null || fail "$target cannot be made" "see whether the file system is full or mounted read-only"
	fi
	staging=$(mktemp -d "$target/.staging.XXXXXX" 2>/dev/null) ||
		fail "nothing can be written to $target" "see whether the file system is full or mounted read-only: df -h $target"
	detail "staging in $staging"
	if [ -n "${length-}" ]; then
		free=$(df -Pk "$staging" | awk 'NR == 2 { print $4 }')
		need=$((length / 512 + 1024))
		if [ "${free:-$need}" -lt "$need" ]; then
			fail "the disk is full: $target has $((free / 1024)) MiB left, $((need / 1024 + 1)) are needed" "free some space and run this again"
		fi
	fi
	if ! printf '#!/bin/sh\n' >"$staging/try" 2>/dev/null || [ ! -s "$staging/try" ]; then
		fail "nothing can be written to $target" "see whether the file system is full: df -h $target"
	fi
	chmod 700 "$staging/try"
	if [ -z "$download" ] && ! "$staging/try" 2>/dev/null; then
		fail "programs cannot be run from $target" "is it mounted noexec? see: findmnt -T $target"
	fi
	printf '%s\n' "$root" >"$staging/root.json"
	if [ -n "$ca" ]; then printf '%s\n' "$ca" >"$staging/ca.pem"; fi
}

# shellcheck disable=SC2317 # the trap calls it
clean() {
	if [ -n "$staging" ]; then
		rm -rf "$staging"
		rmdir "$base" 2>/dev/null || : # only where nothing was installed
	fi
}

# take FILE copies the program from a bundle, and no more than was published.
take() {
	[ -f "$1" ] || fail "the bundle lacks ${1#"$bundle"/}" "copy it whole, or make it anew for this platform: loopback release bundle"
	head -c $((length + 1)) "$1" >"$staging/loopback-agent" ||
		fail "the program cannot be copied to $staging" "the disk is full or failing: df -h $staging"
}

# fetch URL FILE [LENGTH] goes on where a broken download stopped, and never takes more than LENGTH bytes.
fetch() {
	attempt=1 limit=${3:-1048576} from=$url
	case $1 in
	"$url"/*) ;;
	*) from=$source ;;
	esac
	: >"$2"
	while :; do
		have=$(($(wc -c <"$2")))
		detail "GET $1 from byte $have, attempt $attempt"
		: >"$staging/problem"
		written=0
		{ get "$1" "$have" 2>"$staging/problem" && echo 0 >"$staging/status" || echo $? >"$staging/status"; } |
			head -c $((limit - have + 1)) >>"$2" || written=$?
		status=$(cat "$staging/status" 2>/dev/null || echo 1)
		have=$(($(wc -c <"$2")))
		if [ "$written" != 0 ]; then
			fail "the download cannot be written to $staging" "the disk is full or failing: df -h $staging"
		fi
		if [ "$have" -gt "$limit" ]; then
			fail "what $from serves is longer than what was published" "something between here and the control plane alters downloads; see --help for --proxy"
		fi
		if [ "${3-}" = "$have" ]; then return 0; fi
		if [ -z "${3-}" ] && [ "$status" = 0 ]; then return 0; fi
		case $status in
		0 | 18 | 28 | 33 | 52 | 56 | 4 | 1) ;; # cut short, slow, gone for a moment
		*) attempt=9 ;;
		esac
		if grep -q -e ' 40[0-9]' -e ' 41[0-9]' -e 'Proxy Auth' "$staging/problem"; then attempt=9; fi
		if [ "$attempt" -ge 5 ]; then explain "$1"; fi
		say "the download stopped at $have of $limit bytes; going on"
		if [ -z "${3-}" ] || [ "$status" = 33 ]; then : >"$2"; fi
		sleep "$attempt"
		attempt=$((attempt + 1))
	done
}

# get URL OFFSET writes to standard output.
get() {
	case $tool in
	curl)
		set -- "$1" -r "$2-"
		if [ "$2 $3" = '-r 0-' ]; then set -- "$1"; fi
		if [ -n "$ca" ] && [ "$from" = "$url" ]; then set -- "$@" --cacert "$staging/ca.pem"; fi
		protocol='=https'
		case $from in
		http://*) protocol='=http,https' ;; # a mirror's; its program is verified by its hash
		esac
		# --proxy-anyauth: a proxy may want a digest; nothing is said before it asks.
		curl -fsSL --proto "$protocol" --proxy-anyauth --connect-timeout 15 --speed-limit 1 --speed-time 30 "$@"
		;;
	wget)
		set -- "$1" "--start-pos=$2"
		if [ "$2" = --start-pos=0 ]; then set -- "$1"; fi # the option is younger than wget
		if [ -n "$ca" ] && [ "$from" = "$url" ]; then set -- "$@" --ca-certificate="$staging/ca.pem"; fi
		wget -nv -O - --tries=1 --timeout=30 "$@"
		;;
	busybox)
		[ "$2" = 0 ] || return 33 # it cannot go on
		wget -q -O - "$1" # its -T crashes where busybox was built without
		;;
	esac
}

# explain says why a download failed for good.
explain() {
	# Of a certificate curl writes a paragraph; what is wrong is in the first line.
	problem=$(grep -m 1 '^curl: (' "$staging/problem") || problem=$(tail -n 1 "$staging/problem")
	# Of a proxy that was not content with the password, curl says only that some answer was an error.
	if [ "$tool" = curl ] && [ "$(curl -s -o /dev/null --proxy-anyauth --connect-timeout 15 -w '%{http_connect}' "$from" 2>>"$staging/problem")" = 407 ]; then
		problem='the proxy answered 407'
	fi
	case $problem in
	*407* | *'Proxy Auth'*) fail "the proxy wants credentials ($problem)" "give http://USER:PASSWORD@HOST:PORT in https_proxy, or with --proxy-file FILE" ;;
	*404*)
		if [ "$from" != "$url" ]; then fail "the mirror does not have $1 ($problem)" "copy it again: loopback release mirror; and see that $from is above metadata and targets"; fi
		fail "the control plane does not serve $1 ($problem)" "fetch the install script again: it may have published another version meanwhile"
		;;
	*' 403'*) fail "access to $1 is forbidden ($problem)" "a proxy or a firewall between here and there forbids it; allow $from" ;;
	*[Pp]roxy*) fail "the proxy does not let this through ($problem)" "check https_proxy, or give another one with --proxy" ;;
	*'not yet valid'* | *'not yet activated'* | *expired*) clock ;;
	*resolve*) fail "the name in $from cannot be resolved ($problem)" "check /etc/resolv.conf, or whether this network needs --proxy" ;;
	*certificate* | *SSL* | *TLS*)
		if [ "$from" != "$url" ]; then fail "the certificate of $from is not trusted here ($problem)" "install its CA on this host, or use http: what a mirror serves is verified by its hash"; fi
		fail "the certificate of $url is not the control plane's ($problem)" "something between here and the control plane intercepts TLS, this host's clock is wrong ($(date)), or the script is out of date: fetch it again"
		;;
	*refused* | *'timed out'* | *Timeout* | *'Failed to connect'* | *'connect to'* | *unreachable*) fail "$from cannot be reached ($problem)" "allow this host to connect there, or give a proxy with --proxy" ;;
	*) fail "the download failed (${problem:-it ended early})" "check the way to $from: curl -v $1" ;;
	esac
}

# clock says whose clock is wrong, where a certificate's time is over or has not come. What the control plane says of the
# time is not verified: it is shown, and nothing follows from it.
clock() {
	theirs=
	if [ "$tool" = curl ]; then
		theirs=$(curl -skI --proxy-anyauth --connect-timeout 15 "$url/healthz" 2>/dev/null | tr -d '\r' | sed -n 's/^[Dd]ate: //p')
	fi
	fail "this host's clock is wrong, or the certificate of $from is out of date ($problem)" \
		"this host says $(date -u '+%a, %d %b %Y %H:%M:%S GMT')${theirs:+, the control plane $theirs}; set the clock (timedatectl set-ntp true, or date -s) and run this again"
}

verify() {
	got=$($hash <"$1" | cut -c 1-64)
	if [ "$got" != "$sha256" ] && [ -n "$bundle" ]; then
		fail "what is in the bundle is not loopback-agent $version: its SHA-256 is $got, wanted $sha256" \
			"the bundle was altered or damaged; copy it again, or make it anew: loopback release bundle; nothing was run"
	fi
	if [ "$got" != "$sha256" ]; then
		fail "what was downloaded is not loopback-agent $version: its SHA-256 is $got, wanted $sha256" \
			"something between here and the control plane alters downloads, or the disk is failing; nothing was run"
	fi
	detail "SHA-256 verified"
}

# keep moves what was fetched to where it was asked for.
keep() {
	for name in loopback-agent root.json ca.pem; do
		if [ -f "$staging/$name" ]; then mv -f "$staging/$name" "$download/$name"; fi
	done
	say "fetched and verified loopback-agent $version into $download; to install it from there:"
	printf '%s/loopback-agent install --endpoint %s --anchor %s --version %s --trust-root %s/root.json%s\n' \
		"$download" "$url" "$anchor" "$version" "$download" "${ca:+ --ca-file $download/ca.pem}${mirror:+ --mirror $mirror}${bundle:+ --bundle $bundle}"
}

main "$@"
}

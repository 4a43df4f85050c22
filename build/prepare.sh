#!/bin/sh
# Installs the Debian packages that the demo and the tests use, where they are missing. Needs root only for that.
set -eu

packages='ca-certificates chromium curl debootstrap e2fsprogs git iproute2 iputils-ping jq kmod nftables nginx-light openssl postgresql procps prometheus qemu-system-x86 shellcheck squid systemd-container util-linux
fonts-dejavu-core gcc libc6-dev busybox qemu-user-static openssh-client openssh-server rpm rsyslog rsyslog-gnutls'

missing=
for p in $packages; do
	dpkg-query -W -f '${Status}' "$p" 2>/dev/null | grep -q 'ok installed' || missing="$missing $p"
done
# npm only where there is none: a newer one than Debian's may be there by other ways.
command -v npm >/dev/null || missing="$missing npm"
[ -n "$missing" ] || exit 0

if [ "$(id -u)" -ne 0 ]; then
	echo "these packages are missing:$missing" >&2
	echo "hint: run this once as root, or: apt-get install$missing" >&2
	exit 1
fi
echo "installing:$missing"
export DEBIAN_FRONTEND=noninteractive
# A cluster that Debian would create and start is of no use here: tests start their own.
if [ ! -e /etc/postgresql-common/createcluster.conf ]; then
	mkdir -p /etc/postgresql-common
	echo 'create_main_cluster = false' >/etc/postgresql-common/createcluster.conf
fi
# Nor are nginx, squid, rsyslog, sshd and prometheus to start, now or at the next boot: tests start their own, and of prometheus they use
# promtool alone.
policy=/usr/sbin/policy-rc.d
if [ -e $policy ]; then policy=; else printf '#!/bin/sh\nexit 101\n' >$policy && chmod 755 $policy; fi
trap '[ -z "$policy" ] || rm -f "$policy"' EXIT
log=$(mktemp)
# shellcheck disable=SC2086 # a list of words
{ apt-get update -qq && apt-get install -y -qq --no-install-recommends $missing; } >"$log" 2>&1 || {
	cat "$log" >&2
	rm -f "$log"
	exit 1
}
rm -f "$log"
for service in nginx squid prometheus rsyslog; do
	case $missing in *" $service"*) systemctl disable "$service" >/dev/null 2>&1 || true ;; esac
done
case $missing in *' openssh-server'*) systemctl disable ssh >/dev/null 2>&1 || true ;; esac

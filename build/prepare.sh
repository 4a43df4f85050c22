#!/bin/sh
# Installs the Debian packages that the demo and the tests use, where they are missing. Needs root only for that.
set -eu

packages='ca-certificates chromium curl debootstrap git iproute2 iputils-ping jq kmod nftables openssl postgresql procps prometheus shellcheck systemd-container util-linux
fonts-dejavu-core gcc libc6-dev busybox'

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
# Of prometheus only promtool is used: its service is masked before the package would start it.
case $missing in
*prometheus*)
	mkdir -p /etc/systemd/system
	[ -e /etc/systemd/system/prometheus.service ] || ln -s /dev/null /etc/systemd/system/prometheus.service
	;;
esac
log=$(mktemp)
# shellcheck disable=SC2086 # a list of words
{ apt-get update -qq && apt-get install -y -qq --no-install-recommends $missing; } >"$log" 2>&1 || {
	cat "$log" >&2
	rm -f "$log"
	exit 1
}
rm -f "$log"

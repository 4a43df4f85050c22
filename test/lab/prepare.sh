#!/bin/sh
# Installs what the lab needs on a Debian or Ubuntu machine. Does nothing, and
# needs no network, where all of it is there.
set -eu

missing=
for pair in debootstrap:debootstrap systemd-nspawn:systemd-container nft:nftables \
	ip:iproute2 tc:iproute2 nsenter:util-linux umount:mount; do
	command -v "${pair%%:*}" >/dev/null 2>&1 || missing="$missing ${pair#*:}"
done
# Without its keys debootstrap could not tell Debian's archive from another.
[ -e /usr/share/keyrings/debian-archive-keyring.gpg ] || missing="$missing debian-archive-keyring"

[ -n "$missing" ] || exit 0
if [ "$(id -u)" -ne 0 ]; then
	echo "prepare: needs root to install:$missing" >&2
	echo "hint: sudo $0, or install these packages yourself" >&2
	exit 1
fi
command -v apt-get >/dev/null 2>&1 || {
	echo "prepare: no apt-get here; install the equivalents of:$missing" >&2
	exit 1
}
export DEBIAN_FRONTEND=noninteractive
apt-get -qq update
# shellcheck disable=SC2086 # a list of words
apt-get -qq install --no-install-recommends -y $missing

#!/bin/sh
# The power supply of one lab machine. It plugs in the network, runs the machine
# and, when the machine rebooted itself (systemd-nspawn then exits with 133),
# does so again; on power-off it unplugs and ends. A reboot gets a new network
# namespace, for what the old one held would not survive on hardware either.
#
# It is a process of its own so that machines reboot with nobody watching. All
# settings come by LAB_* in the environment; machine.go is the only caller.
set -u

unplug() {
	ip link delete dev "$LAB_LINK" 2>/dev/null
	nft delete table netdev "$LAB_LINK" 2>/dev/null
	umount "$LAB_FOLDER/netns" 2>/dev/null
}

plug() {
	: >"$LAB_FOLDER/netns" &&
	unshare --net="$LAB_FOLDER/netns" true &&
	ip link add name "$LAB_LINK" address "$LAB_HOST_MAC" \
		type veth peer name eth0 address "$LAB_MAC" netns "$LAB_FOLDER/netns" &&
	{ ip link set dev "$LAB_LINK" addrgenmode none 2>/dev/null || true; } && # no IPv6 here, no need
	nsenter --net="$LAB_FOLDER/netns" ip -batch "$LAB_FOLDER/inside.ip" &&
	ip link set dev "$LAB_LINK" master "$LAB_BRIDGE" &&
	sh "$LAB_FOLDER/link.sh"
}

code=133
while [ "$code" -eq 133 ]; do
	unplug
	plug || { echo "lab: could not connect $LAB_LINK" >&2; code=1; break; }
	# A cgroup holds processes or subgroups: nspawn gets one to itself to divide.
	(
		# nspawn is started in the namespace, not told of it, because it mounts
		# /sys before it goes there: the machine would see this computer's links.
		echo 0 >"$LAB_CGROUP/cgroup.procs"
		exec env -i PATH="$PATH" SYSTEMD_NSPAWN_API_VFS_WRITABLE=1 \
			nsenter --net="$LAB_FOLDER/netns" systemd-nspawn --quiet \
			--directory="$LAB_FOLDER/root" --boot --register=no --keep-unit \
			--machine="$LAB_MACHINE" --hostname="$LAB_HOSTNAME" \
			--capability=all --system-call-filter='bpf perf_event_open' --bind=/dev/net/tun \
			--resolv-conf=off --timezone=off --link-journal=no --console=pipe
	)
	code=$?
done
unplug
exit "$code"

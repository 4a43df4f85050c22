package lab

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Faults is the whole state of what is wrong between a machine and its bridge;
// the zero value is a sound link. Faults survive a reboot of the machine, as
// those of a cable or a middlebox would.
type Faults struct {
	// Cut takes the link down: both ends see it.
	Cut bool `json:"cut,omitempty"`
	// Blackhole drops every frame in both directions; neither end is told.
	Blackhole bool `json:"blackhole,omitempty"`
	// Reject answers TCP from the machine to these ports with a reset, and
	// resets what is open on them at both ends with the next packet.
	Reject []uint16 `json:"reject,omitempty"`
	// Loss is the share of frames dropped in each direction, 0 to 1.
	Loss float64 `json:"loss,omitempty"`
	// Delay is added to each frame in each direction, so twice to a round trip.
	Delay time.Duration `json:"delay,omitempty"`
	// Rate bounds each direction, in bits per second; 0 is no bound.
	Rate int64 `json:"rate,omitempty"`
}

func (f Faults) validate() error {
	switch {
	case !(f.Loss >= 0 && f.Loss <= 1):
		return fmt.Errorf("loss %v: want a share between 0 and 1", f.Loss)
	case f.Delay < 0 || f.Delay > time.Minute:
		return fmt.Errorf("delay %v: want between 0 and a minute", f.Delay)
	case f.Rate < 0 || f.Rate > 0 && f.Rate < 8000:
		return fmt.Errorf("rate %d: want 0, or at least 8000 bits per second", f.Rate)
	case slices.Contains(f.Reject, 0):
		return errors.New("reject: 0 is not a port")
	}
	return nil
}

// SetFaults replaces the machine's faults by these. A fault that the kernel
// cannot make is [*Unsupported], and the faults are then as before.
func (m *Machine) SetFaults(ctx context.Context, faults Faults) error {
	return m.changeFaults(ctx, func(f *Faults) { *f = faults })
}

// Faults reports the machine's faults.
func (m *Machine) Faults() (Faults, error) {
	state, err := readRecord(m.network.dir)
	if err != nil {
		return Faults{}, fmt.Errorf("faults of machine %s: %w", m.name, err)
	}
	own, err := state.machine(m.name)
	if err != nil {
		return Faults{}, err
	}
	return own.Faults, nil
}

// Cut adds the fault [Faults].Cut to those of the machine.
func (m *Machine) Cut(ctx context.Context) error {
	return m.changeFaults(ctx, func(f *Faults) { f.Cut = true })
}

// Blackhole adds the fault [Faults].Blackhole.
func (m *Machine) Blackhole(ctx context.Context) error {
	return m.changeFaults(ctx, func(f *Faults) { f.Blackhole = true })
}

// Reject adds ports to [Faults].Reject.
func (m *Machine) Reject(ctx context.Context, ports ...uint16) error {
	return m.changeFaults(ctx, func(f *Faults) {
		f.Reject = append(slices.Clone(f.Reject), ports...)
		slices.Sort(f.Reject)
		f.Reject = slices.Compact(f.Reject)
	})
}

// Loss sets [Faults].Loss.
func (m *Machine) Loss(ctx context.Context, share float64) error {
	return m.changeFaults(ctx, func(f *Faults) { f.Loss = share })
}

// Delay sets [Faults].Delay. It needs the netem queueing discipline.
func (m *Machine) Delay(ctx context.Context, each time.Duration) error {
	return m.changeFaults(ctx, func(f *Faults) { f.Delay = each })
}

// Rate sets [Faults].Rate.
func (m *Machine) Rate(ctx context.Context, bitsPerSecond int64) error {
	return m.changeFaults(ctx, func(f *Faults) { f.Rate = bitsPerSecond })
}

// Restore removes every fault.
func (m *Machine) Restore(ctx context.Context) error {
	return m.SetFaults(ctx, Faults{})
}

func (m *Machine) changeFaults(ctx context.Context, change func(*Faults)) error {
	err := m.network.update(ctx, func(state *record) error {
		own, err := state.machine(m.name)
		if err != nil {
			return err
		}
		before := own.Faults
		change(&own.Faults)
		if err := own.Faults.validate(); err != nil {
			return err
		}
		err = m.applyFaults(ctx, *state, own.Faults)
		if err != nil {
			own.Faults = before
			err = errors.Join(err, m.applyFaults(context.WithoutCancel(ctx), *state, before))
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("change the link of machine %s: %w", m.name, err)
	}
	return nil
}

func (m *Machine) applyFaults(ctx context.Context, state record, own Faults) error {
	if err := m.writeLink(own); err != nil {
		return err
	}
	if err := m.network.applyRules(ctx, state); err != nil {
		return err
	}
	if !exists(m.link()) {
		// Off: power.sh runs link.sh when it plugs the machine in.
		return nil
	}
	err := run(ctx, "", "sh", m.linkPath())
	if err != nil && own.Delay > 0 && strings.Contains(err.Error(), "qdisc kind is unknown") {
		return &Unsupported{Feature: "tc netem qdisc", Detail: "kernel without CONFIG_NET_SCH_NETEM"}
	}
	return err
}

func (m *Machine) linkPath() string { return filepath.Join(m.folder(), "link.sh") }

// writeLink writes the commands that give the link its faults whenever it is
// made; they may be run any number of times.
func (m *Machine) writeLink(faults Faults) error {
	var script strings.Builder
	fmt.Fprintf(&script, "set -e\nip link set dev %s %s\n", m.link(), map[bool]string{true: "down", false: "up"}[faults.Cut])

	var discipline string
	switch {
	case faults.Delay > 0:
		discipline = fmt.Sprintf("netem delay %dus limit 100000", faults.Delay.Microseconds())
		if faults.Rate > 0 {
			discipline += fmt.Sprintf(" rate %dbit", faults.Rate)
		}
	case faults.Rate > 0:
		// A burst of at least a full-sized segment offload frame, else it would never pass.
		discipline = fmt.Sprintf("tbf rate %dbit burst %d latency 400ms", faults.Rate, max(65536, faults.Rate/8/100))
	}
	for _, end := range []struct{ prefix, device string }{
		{"", m.link()},
		{fmt.Sprintf("nsenter --net='%s' ", filepath.Join(m.folder(), "netns")), "eth0"},
	} {
		if discipline == "" {
			fmt.Fprintf(&script, "%stc qdisc del dev %s root 2>/dev/null || true\n", end.prefix, end.device)
		} else {
			fmt.Fprintf(&script, "%stc qdisc replace dev %s root %s\n", end.prefix, end.device, discipline)
		}
	}

	fmt.Fprintf(&script, "nft -f - <<'RULES'\n%s", dropTable("netdev", m.link()))
	if len(faults.Reject) > 0 {
		fmt.Fprintf(&script, `table netdev %[1]s {
	chain from {
		type filter hook ingress device "%[1]s" priority 0; policy accept;
		tcp dport { %[2]s } reject with tcp reset
	}
}
`, m.link(), ports(faults.Reject))
	}
	script.WriteString("RULES\n")
	return replaceFile(m.linkPath(), []byte(script.String()), 0o755)
}

func ports(list []uint16) string {
	var text []string
	for _, port := range list {
		text = append(text, strconv.Itoa(int(port)))
	}
	return strings.Join(text, ", ")
}

// dropTable is nft text that removes a table whether it is there or not.
func dropTable(family, name string) string {
	return fmt.Sprintf("table %[1]s %[2]s\ndelete table %[1]s %[2]s\n", family, name)
}

// applyRules replaces the network's own tables in one transaction.
func (n *Network) applyRules(ctx context.Context, state record) error {
	return nft(ctx, n.rules(state))
}

// rules renders the tables of the whole network: what keeps machines from this
// computer's other addresses and from the way out, and the faults that go by
// the link's name and so need not be renewed when a machine reboots.
func (n *Network) rules(state record) string {
	var resets, arriving, leaving strings.Builder
	for _, each := range state.Machines {
		m, faults := n.machine(each), each.Faults
		if len(faults.Reject) > 0 {
			fmt.Fprintf(&resets, "\t\tip daddr %s tcp sport { %s } reject with tcp reset\n", m.Address(), ports(faults.Reject))
			fmt.Fprintf(&resets, "\t\tip6 daddr %s tcp sport { %s } reject with tcp reset\n", m.Address6(), ports(faults.Reject))
		}
		verdict := "drop"
		if !faults.Blackhole {
			if faults.Loss == 0 {
				continue
			}
			verdict = fmt.Sprintf("numgen random mod 1000000 < %d drop", int(faults.Loss*1_000_000))
		}
		fmt.Fprintf(&arriving, "\t\tiifname \"%s\" %s\n", m.link(), verdict)
		fmt.Fprintf(&leaving, "\t\toifname \"%s\" %s\n", m.link(), verdict)
	}
	var text strings.Builder
	text.WriteString(dropTable("inet", n.bridge()) + dropTable("bridge", n.bridge()))
	fmt.Fprintf(&text, `table inet %[1]s {
	chain prerouting {
		type filter hook prerouting priority -300; policy accept;
		iifname "%[1]s" ip daddr != { %[2]s, 224.0.0.0/4, 255.255.255.255 } reject with icmp admin-prohibited
		iifname "%[1]s" ip6 daddr != { %[3]s, fe80::/10, ff00::/8 } reject with icmpv6 admin-prohibited
	}
	chain forward {
		type filter hook forward priority -300; policy accept;
		iifname != "%[1]s" oifname "%[1]s" drop
	}
	chain output {
		type filter hook output priority 0; policy accept;
%[4]s	}
}
`, n.bridge(), n.Prefix(), n.prefix6(), resets.String())
	if arriving.Len() > 0 {
		fmt.Fprintf(&text, `table bridge %s {
	chain arriving {
		type filter hook prerouting priority -300; policy accept;
%s	}
	chain leaving {
		type filter hook postrouting priority 300; policy accept;
%s	}
}
`, n.bridge(), arriving.String(), leaving.String())
	}
	return text.String()
}

func nft(ctx context.Context, rules string) error {
	if err := run(ctx, rules, "nft", "-f", "-"); err != nil {
		return fmt.Errorf("load rules: %w", err)
	}
	return nil
}

// bridge is the name of the network's bridge, and the stem of all its other names.
func (n *Network) bridge() string { return fmt.Sprintf("lblab%d", n.index) }

// hardwareAddress is fixed by the network's random id. The bridge is given its
// own in the call that makes it, which is what makes ownership of an index certain.
func (n *Network) hardwareAddress(index int, end string) net.HardwareAddr {
	digest := sha256.Sum256(fmt.Appendf(nil, "%s/%d/%s", n.id, index, end))
	address := net.HardwareAddr(digest[:6])
	address[0] = address[0]&^1 | 2 // unicast, locally administered
	return address
}

// claimRange takes the first index whose bridge and range are free.
func (n *Network) claimRange(ctx context.Context) error {
	for index := 1; index <= 254; index++ {
		n.index = index
		if exists(n.bridge()) || n.hasCgroup() || n.rangeTaken() {
			continue
		}
		if err := n.update(ctx, func(state *record) error { state.Index = index; return nil }); err != nil {
			return err
		}
		err := run(ctx, "", "ip", "link", "add", "name", n.bridge(), "address", n.hardwareAddress(0, "bridge").String(),
			"type", "bridge", "stp_state", "0", "forward_delay", "0", "mcast_snooping", "0")
		if err != nil {
			if exists(n.bridge()) {
				continue // another process was quicker
			}
			return err
		}
		commands := fmt.Sprintf("address add %s/24 dev %[2]s\nlink set dev %[2]s up\n", n.HostAddress(), n.bridge())
		if hasIPv6() {
			commands += fmt.Sprintf("address add %s/64 dev %s nodad\n", n.HostAddress6(), n.bridge())
		}
		if err := run(ctx, commands, "ip", "-batch", "-"); err != nil {
			return err
		}
		return n.update(ctx, func(state *record) error { return n.applyRules(ctx, *state) })
	}
	return errors.New("no free range left in 10.213.0.0/16")
}

// rangeTaken says whether an interface of this computer has an address in our range.
func (n *Network) rangeTaken() bool {
	addresses, err := net.InterfaceAddrs()
	if err != nil {
		return false
	}
	return slices.ContainsFunc(addresses, func(address net.Addr) bool {
		taken, ok := address.(*net.IPNet)
		return ok && (taken.Contains(n.Prefix().Addr().AsSlice()) || n.Prefix().Masked().Contains(addressOf(taken)))
	})
}

// Intact says whether the network's bridge is there: it is gone when this
// computer was restarted since. Such a network can only be closed.
func (n *Network) Intact() bool {
	found, err := net.InterfaceByName(n.bridge())
	return err == nil && n.index != 0 && slices.Equal(found.HardwareAddr, n.hardwareAddress(0, "bridge"))
}

// exists says whether there is an interface of that name.
func exists(link string) bool {
	_, err := net.InterfaceByName(link)
	return err == nil
}

func hasIPv6() bool {
	disabled, err := os.ReadFile("/proc/sys/net/ipv6/conf/all/disable_ipv6")
	return err == nil && strings.TrimSpace(string(disabled)) == "0"
}

// run runs a program of this computer; its error carries what the program said.
func run(ctx context.Context, stdin string, name string, args ...string) error {
	command := exec.CommandContext(ctx, name, args...)
	command.Stdin = strings.NewReader(stdin)
	output, err := command.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, strings.TrimSpace(string(output)))
	}
	return nil
}

func addressOf(network *net.IPNet) netip.Addr {
	address, _ := netip.AddrFromSlice(network.IP)
	return address.Unmap()
}

package lab

import (
	"context"
	"crypto/rand"
	_ "embed"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

//go:embed power.sh
var powerScript []byte

// MachineOptions of a new machine.
type MachineOptions struct {
	// Name is its host name too.
	Name string
	// Hosts are further lines of /etc/hosts. The network's own address is
	// there already, as "lab-host".
	Hosts map[string]netip.Addr
}

// Machine is one host of a network. It holds no state of its own: any number
// of Machine values, in any process, may stand for the same machine.
type Machine struct {
	network *Network
	name    string
	index   int
}

func (n *Network) machine(state machineRecord) *Machine {
	return &Machine{network: n, name: state.Name, index: state.Index}
}

// Name is the machine's name and host name.
func (m *Machine) Name() string { return m.name }

// Address is the machine's IPv4 address; it keeps it for life.
func (m *Machine) Address() netip.Addr {
	address := m.network.Prefix().Addr().As4()
	address[3] = byte(m.index)
	return netip.AddrFrom4(address)
}

// Address6 is the machine's IPv6 address.
func (m *Machine) Address6() netip.Addr {
	address := m.network.prefix6().Addr().As16()
	address[15] = byte(m.index)
	return netip.AddrFrom16(address)
}

func (m *Machine) folder() string { return filepath.Join(m.network.dir, "machines", m.name) }
func (m *Machine) root() string   { return filepath.Join(m.folder(), "root") }
func (m *Machine) link() string   { return fmt.Sprintf("%sm%d", m.network.bridge(), m.index) }
func (m *Machine) cgroup() string { return m.network.bridge() + "/" + m.name }

// registered is the name by which nspawn knows the machine; unique on this
// computer, which host names are not.
func (m *Machine) registered() string { return m.network.bridge() + "-" + m.name }

// Boot makes a machine, turns it on and returns once systemd inside reports
// "running" or "degraded". If that fails, nothing of the machine is left.
func (n *Network) Boot(ctx context.Context, options MachineOptions) (*Machine, error) {
	machines, err := n.BootAll(ctx, options)
	if err != nil {
		return nil, err
	}
	return machines[0], nil
}

// BootAll boots machines together; their addresses are in the order given. If
// one fails, nothing of any of them is left.
func (n *Network) BootAll(ctx context.Context, options ...MachineOptions) ([]*Machine, error) {
	machines, image, err := n.register(ctx, options)
	if err != nil {
		return nil, fmt.Errorf("boot machines: %w", err)
	}
	failures := make([]error, len(machines))
	var boots sync.WaitGroup
	for i, m := range machines {
		boots.Go(func() {
			err := m.install(image, options[i].Hosts)
			if err == nil {
				err = m.Start(ctx)
			}
			if err != nil {
				failures[i] = fmt.Errorf("boot machine %s: %w", m.name, err)
			}
		})
	}
	boots.Wait()
	if err := errors.Join(failures...); err != nil {
		for _, m := range machines {
			err = errors.Join(err, m.Remove(context.WithoutCancel(ctx)))
		}
		return nil, err
	}
	return machines, nil
}

// register writes new machines into the state, before anything of them is made.
func (n *Network) register(ctx context.Context, options []MachineOptions) (machines []*Machine, image string, err error) {
	for _, each := range options {
		if err := checkName("machine", each.Name); err != nil {
			return nil, "", err
		}
	}
	err = n.update(ctx, func(state *record) error {
		image = state.Image
		for _, each := range options {
			if _, err := state.machine(each.Name); err == nil {
				return fmt.Errorf("machine %s: %w", each.Name, ErrExists)
			}
			index := 2
			for slices.ContainsFunc(state.Machines, func(each machineRecord) bool { return each.Index == index }) {
				index++
			}
			if index > 254 {
				return errors.New("the network is full: it takes 253 machines")
			}
			added := machineRecord{Name: each.Name, Index: index}
			state.Machines = append(state.Machines, added)
			machines = append(machines, n.machine(added))
		}
		return nil
	})
	return machines, image, err
}

// install gives the machine its disk and what tells it from its siblings.
func (m *Machine) install(image string, hosts map[string]netip.Addr) error {
	for _, each := range []string{"upper", "work", "root"} {
		if err := os.MkdirAll(filepath.Join(m.folder(), each), 0o755); err != nil {
			return err
		}
	}
	if err := m.mountDisk(image); err != nil {
		return err
	}
	machineID := make([]byte, 16)
	rand.Read(machineID)
	var table strings.Builder
	fmt.Fprintf(&table, "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n")
	fmt.Fprintf(&table, "%s\t%s\n%s\tlab-host\n", m.Address(), m.name, m.network.HostAddress())
	for _, name := range slices.Sorted(maps.Keys(hosts)) {
		fmt.Fprintf(&table, "%s\t%s\n", hosts[name], name)
	}
	files := map[string]string{
		"etc/hostname":   m.name + "\n",
		"etc/machine-id": hex.EncodeToString(machineID) + "\n",
		"etc/hosts":      table.String(),
		// Nobody answers there unless a test serves names on the bridge.
		"etc/resolv.conf": fmt.Sprintf("nameserver %s\noptions timeout:1 attempts:1\n", m.network.HostAddress()),
	}
	for name, content := range files {
		path := filepath.Join(m.root(), name)
		// A symbolic link in the image must not lead us out of it.
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			return err
		}
	}
	inside := []string{
		"link set dev lo up",
		fmt.Sprintf("address add %s/24 dev eth0", m.Address()),
		"link set dev eth0 up",
		fmt.Sprintf("route add default via %s", m.network.HostAddress()),
	}
	if hasIPv6() {
		inside = append(inside,
			fmt.Sprintf("address add %s/64 dev eth0 nodad", m.Address6()),
			fmt.Sprintf("route add default via %s", m.network.HostAddress6()))
	}
	if err := os.WriteFile(filepath.Join(m.folder(), "inside.ip"), []byte(strings.Join(inside, "\n")+"\n"), 0o644); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(m.folder(), "power.sh"), powerScript, 0o755); err != nil {
		return err
	}
	return m.writeLink(Faults{})
}

func (m *Machine) mountDisk(image string) error {
	options := fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s", image, filepath.Join(m.folder(), "upper"), filepath.Join(m.folder(), "work"))
	if err := unix.Mount("overlay", m.root(), "overlay", 0, options); err != nil {
		return fmt.Errorf("mount the machine's disk (overlay on %s): %w", m.folder(), err)
	}
	return nil
}

// On says whether the machine has power; it may still be booting or shutting down.
func (m *Machine) On() bool {
	cgroups, err := findCgroups()
	return err == nil && populated(cgroups.path(m.cgroup()))
}

// Start turns a machine that is off on: same disk, new boot. It returns once
// systemd inside reports "running" or "degraded". Starting a machine that is
// on only waits for that.
func (m *Machine) Start(ctx context.Context) error {
	if !m.On() {
		if err := m.powerOn(); err != nil {
			return fmt.Errorf("start machine %s: %w", m.name, err)
		}
	}
	if err := m.waitReady(ctx, 0); err != nil {
		return fmt.Errorf("start machine %s: %w", m.name, err)
	}
	return nil
}

func (m *Machine) powerOn() error {
	cgroups, err := findCgroups()
	if err != nil {
		return err
	}
	for _, part := range []string{"power", "system"} {
		if err := cgroups.make(m.cgroup() + "/" + part); err != nil {
			return err
		}
	}
	supply, err := os.Open(cgroups.path(m.cgroup(), "power"))
	if err != nil {
		return err
	}
	defer supply.Close()
	console, err := os.OpenFile(m.consolePath(), os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o644)
	if err != nil {
		return err
	}
	defer console.Close()

	// Not exec.CommandContext: the machine must not die with the context that turned it on.
	command := exec.Command("/bin/sh", filepath.Join(m.folder(), "power.sh"))
	command.Dir = "/"
	command.Env = []string{
		"PATH=" + systemPath,
		"LAB_FOLDER=" + m.folder(),
		"LAB_CGROUP=" + cgroups.path(m.cgroup(), "system"),
		"LAB_LINK=" + m.link(),
		"LAB_BRIDGE=" + m.network.bridge(),
		"LAB_MAC=" + m.network.hardwareAddress(m.index, "machine").String(),
		"LAB_HOST_MAC=" + m.network.hardwareAddress(m.index, "host").String(),
		"LAB_MACHINE=" + m.registered(),
		"LAB_HOSTNAME=" + m.name,
	}
	command.Stdout, command.Stderr = console, console
	// A session and a cgroup of its own, so that neither the end of our
	// session nor of our cgroup takes the machine with it.
	command.SysProcAttr = &unix.SysProcAttr{Setsid: true, UseCgroupFD: true, CgroupFD: int(supply.Fd())}
	if err := command.Start(); err != nil {
		return fmt.Errorf("start the power supply: %w", err)
	}
	// Reaps the process should we outlive it; Close waits.
	m.network.supplies.Go(func() { _ = command.Wait() })
	return nil
}

func (m *Machine) consolePath() string { return filepath.Join(m.folder(), "console.log") }

// console is the end of what the power supply and nspawn said, for errors.
func (m *Machine) console() string {
	text, err := os.ReadFile(m.consolePath())
	if err != nil {
		return err.Error()
	}
	if len(text) == 0 {
		return "the console is empty"
	}
	return lastLines(string(text), 10)
}

// waitReady returns when systemd inside has booted under another leader than
// previous (0: any).
func (m *Machine) waitReady(ctx context.Context, previous int) error {
	ticker := time.NewTicker(10 * time.Millisecond)
	defer ticker.Stop()
	last := "not started"
	for {
		if !m.On() {
			return fmt.Errorf("the machine went off: %s", m.console())
		}
		// The bus is there long before systemctl could succeed; a look at its
		// socket costs nothing, a systemctl that fails costs a process.
		if leader := m.leader(); leader != 0 && leader != previous && isSocket(fmt.Sprintf("/proc/%d/root/run/dbus/system_bus_socket", leader)) {
			result, err := m.Exec(ctx, "systemctl", "is-system-running", "--wait")
			if err != nil {
				last = err.Error()
			} else {
				last = strings.TrimSpace(result.Stdout + result.Stderr)
				if last == "running" || last == "degraded" {
					return nil
				}
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for systemd (last: %s; console: %s): %w", last, m.console(), ctx.Err())
		case <-ticker.C:
		}
	}
}

func isSocket(path string) bool {
	stat, err := os.Stat(path)
	return err == nil && stat.Mode().Type() == os.ModeSocket
}

// leader is the process here that is process 1 in there; 0 if there is none yet.
// systemd moves itself to init.scope once it is in charge: before that,
// namespaces may be half made.
func (m *Machine) leader() int {
	cgroups, err := findCgroups()
	if err != nil {
		return 0
	}
	for _, pid := range processes(cgroups.path(m.cgroup(), "system", "payload", "init.scope")) {
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		if err != nil {
			continue
		}
		_, after, _ := strings.Cut(string(status), "\nNSpid:")
		line, _, _ := strings.Cut(after, "\n")
		if pids := strings.Fields(line); len(pids) > 1 && pids[len(pids)-1] == "1" {
			return pid
		}
	}
	return 0
}

// BootID is the id of the current boot, another one after each reboot.
func (m *Machine) BootID(ctx context.Context) (string, error) {
	result, err := m.Exec(ctx, "cat", "/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", err
	}
	if result.ExitCode != 0 {
		return "", fmt.Errorf("boot id of machine %s: exit code %d: %s", m.name, result.ExitCode, result.Stderr)
	}
	return strings.TrimSpace(result.Stdout), nil
}

// Reboot reboots in order from the inside and returns when the machine is up again.
func (m *Machine) Reboot(ctx context.Context) error {
	before := m.leader()
	// The shutdown may kill the very systemctl that asked for it, so its exit
	// code says nothing; only a new process 1 does.
	if _, err := m.Exec(ctx, "systemctl", "--no-block", "reboot"); err != nil {
		return fmt.Errorf("reboot machine %s: %w", m.name, err)
	}
	if err := m.waitReady(ctx, before); err != nil {
		return fmt.Errorf("reboot machine %s: %w", m.name, err)
	}
	return nil
}

// haltSignal is what systemd as process 1 takes as the order to halt:
// SIGRTMIN+3, with glibc's SIGRTMIN of 34.
const haltSignal = unix.Signal(37)

// Shutdown turns the machine off in order, as its power button would, and
// returns when it is off. If the context ends first the machine may still be
// on its way down; [Machine.Kill] then ends it.
func (m *Machine) Shutdown(ctx context.Context) error {
	if !m.On() {
		return nil
	}
	ticker := time.NewTicker(10 * time.Millisecond)
	defer ticker.Stop()
	leader := m.leader()
	for leader == 0 && m.On() {
		select {
		case <-ctx.Done():
			return fmt.Errorf("shut down machine %s: systemd never came up: %w", m.name, ctx.Err())
		case <-ticker.C:
			leader = m.leader()
		}
	}
	if leader != 0 {
		if err := unix.Kill(leader, haltSignal); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("shut down machine %s: %w", m.name, err)
		}
	}
	cgroups, err := findCgroups()
	if err != nil {
		return err
	}
	if err := waitEmpty(ctx, cgroups.path(m.cgroup())); err != nil {
		return fmt.Errorf("shut down machine %s: %w", m.name, err)
	}
	return m.powerOff(ctx)
}

// Kill takes the power away: nothing inside runs another instruction, nobody
// outside gets another packet. What was written stays, synced or not.
func (m *Machine) Kill(ctx context.Context) error {
	// First the link: the kernel would say goodbye to peers on behalf of the dead.
	if exists(m.link()) {
		if err := run(ctx, "", "ip", "link", "set", "dev", m.link(), "down"); err != nil {
			return fmt.Errorf("kill machine %s: %w", m.name, err)
		}
	}
	return m.powerOff(ctx)
}

// tidyTime is how long nspawn and the power supply may take to end once the
// inside is dead. One that had no inside yet, early in a boot, takes all of it.
const tidyTime = time.Second

// powerOff makes sure of the state off: no process, no link, no namespace.
func (m *Machine) powerOff(ctx context.Context) error {
	cgroups, err := findCgroups()
	if err != nil {
		return err
	}
	// The inside first: nspawn and the power supply then reap it, tidy up and
	// end by themselves, instead of leaving zombies to this computer's init.
	if err := killAll(ctx, cgroups.path(m.cgroup(), "system", "payload")); err != nil {
		return err
	}
	tidying, cancel := context.WithTimeout(ctx, tidyTime)
	defer cancel()
	if err := waitEmpty(tidying, cgroups.path(m.cgroup())); err != nil {
		if err := killAll(ctx, cgroups.path(m.cgroup())); err != nil {
			return err
		}
	}
	return errors.Join(m.unplug(ctx), cgroups.remove(m.cgroup()))
}

// unplug repeats what power.sh does at its end, for when it could not.
func (m *Machine) unplug(ctx context.Context) error {
	var failures error
	if exists(m.link()) {
		failures = run(ctx, "", "ip", "link", "delete", "dev", m.link())
	}
	failures = errors.Join(failures, nft(ctx, dropTable("netdev", m.link())))
	if err := unix.Unmount(filepath.Join(m.folder(), "netns"), 0); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		failures = errors.Join(failures, fmt.Errorf("unmount the namespace of %s: %w", m.name, err))
	}
	return failures
}

// Remove turns the machine off without order and removes it with its disk.
func (m *Machine) Remove(ctx context.Context) error {
	if err := m.Kill(ctx); err != nil {
		return fmt.Errorf("remove machine %s: %w", m.name, err)
	}
	if err := m.uninstall(); err != nil {
		return fmt.Errorf("remove machine %s: %w", m.name, err)
	}
	// Last, so that whoever comes after a crash still knows what to look for.
	return m.network.update(ctx, func(state *record) error {
		state.Machines = slices.DeleteFunc(state.Machines, func(each machineRecord) bool { return each.Name == m.name })
		return m.network.applyRules(ctx, *state)
	})
}

func (m *Machine) uninstall() error {
	// Killed itself, nspawn leaves a lock named for the root folder's inode, and a
	// folder for mounts to be passed in.
	var stat unix.Stat_t
	if err := unix.Stat(m.root(), &stat); err == nil {
		os.Remove(fmt.Sprintf("/run/systemd/nspawn/locks/inode-%d:%d", stat.Dev, stat.Ino))
	}
	os.Remove("/run/systemd/nspawn/propagate/" + m.registered())
	if err := unmountBelow(m.folder()); err != nil {
		return err
	}
	return os.RemoveAll(m.folder())
}

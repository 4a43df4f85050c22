// Package lab gives tests and demonstrations real Linux hosts: Debian machines
// with systemd as process 1, on a private network that can be cut, slowed and
// blocked, all on the machine that runs the test.
//
// # Model
//
// A [Network] is a bridge of this machine with a free range 10.213.N.0/24 (and
// fd00:213:N::/64). The first address is this machine's, so that a control
// plane listening here is reachable; each [Machine] gets one of the others.
// Machines reach each other and that one address, nothing else: there is no
// way to the internet, and rules of the lab's own keep them from this
// machine's other addresses.
//
// A machine is an overlay over one shared [Image], a network namespace with one
// end of a veth pair, and systemd-nspawn. Its disk survives [Machine.Shutdown],
// [Machine.Kill] and a reboot; its boot id, its memory and its network
// namespace do not, as on hardware: firewall rules, tunnels and attached
// programs are gone after a power cut. A machine may reboot itself; its power
// supply (a small supervising shell, power.sh) turns it on again even when
// whoever booted it has left.
//
//	         Boot              Shutdown, Kill, poweroff
//	absent ───────▶ on ─────────────────────────▶ off
//	   ▲            │ ▲                            │ │
//	   │            └─┘ reboot        Start        │ │
//	   │              ▲                            │ │
//	   │              └────────────────────────────┘ │
//	   └───────────────── Remove, Close ─────────────┘
//
// # State and failure
//
// Everything about a network stands in one folder, in a state file written
// before the thing it describes is made. Names of kernel objects follow from
// it (bridge lblabN, veth lblabNmM, cgroup loopback-lab/lblabN), and the bridge's
// hardware address proves that an index is this network's and nobody else's.
// No process id is ever stored: a machine is on exactly while its cgroup has
// processes. So any process can [Open] a network that another one made, and
// after a SIGKILL of the process that owned it, [Sweep] removes what is left.
// Networks made with [Options.Keep] are meant to outlive their maker; Sweep
// leaves them, [Network.Close] removes them.
//
// What this kernel or machine lacks is reported as [*Unsupported], which names
// the feature; [Require] turns that into a skip.
//
// Times, memory and CPU are shared with this machine: the clock cannot be set
// apart, and resource limits of units inside take effect only where the
// kernel's controllers are on the unified hierarchy.
package lab

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"
)

// Options of a new network. The zero value is what a test wants.
type Options struct {
	// Dir holds images and networks; "" means [DefaultDir].
	Dir string
	// Image is a root file system to use in place of [Image]'s.
	Image string
	// Keep lets the network outlive the process that makes it.
	Keep bool
}

// Network is one private network and its machines. Methods may be called by
// several goroutines and, for kept networks, by several processes.
type Network struct {
	name string
	dir  string // this network's folder
	root string // the lab's folder, shared by all networks
	id   string
	// index is N in every name and address.
	index int

	// owner holds the lock that tells Sweep that we live; nil if kept.
	owner *os.File
	// supplies counts the power.sh processes to be reaped by this process.
	supplies sync.WaitGroup
}

// ErrExists says that a network or machine of that name is already there.
var ErrExists = errors.New("already exists")

// ErrNotFound says that there is no network or machine of that name.
var ErrNotFound = errors.New("not found")

// Host names of at most 40 characters, so that a prefix still fits what the kernel and nspawn take.
var validName = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?$`)

func checkName(what, name string) error {
	if !validName.MatchString(name) {
		return fmt.Errorf("%s name %q: want lower-case letters, digits and inner hyphens, at most 40", what, name)
	}
	return nil
}

// DefaultDir is .cache/lab under the root of the repository (the nearest
// folder with a go.mod, from the working directory upwards).
func DefaultDir() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", fmt.Errorf("find the lab's folder: %w", err)
	}
	for at := dir; ; at = filepath.Dir(at) {
		if _, err := os.Stat(filepath.Join(at, "go.mod")); err == nil {
			return filepath.Join(at, ".cache", "lab"), nil
		}
		if at == filepath.Dir(at) {
			return "", fmt.Errorf("no go.mod above %s: say which folder the lab may use", dir)
		}
	}
}

func resolveDir(dir string) (string, error) {
	if dir == "" {
		return DefaultDir()
	}
	return filepath.Abs(dir)
}

// New makes a network, building the image first if the cache lacks it. A
// network of the same name whose owner has died is removed first; one that
// lives or was kept is [ErrExists].
func New(ctx context.Context, name string, options Options) (network *Network, err error) {
	if err := checkName("network", name); err != nil {
		return nil, err
	}
	if err := Supported(); err != nil {
		return nil, err
	}
	root, err := resolveDir(options.Dir)
	if err != nil {
		return nil, err
	}
	if err := checkFolder(root); err != nil {
		return nil, err
	}
	image := options.Image
	if image == "" {
		if image, err = Image(ctx, root); err != nil {
			return nil, err
		}
	}
	network = &Network{name: name, root: root, dir: filepath.Join(root, "networks", name)}
	if err := network.claimFolder(ctx, image, options.Keep); err != nil {
		return nil, fmt.Errorf("make network %s: %w", name, err)
	}
	if err := network.claimRange(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("make network %s: %w", name, err), network.Close(context.WithoutCancel(ctx)))
	}
	return network, nil
}

// claimFolder makes the network ours on disk. It runs under the lab's lock, so
// that Sweep cannot mistake a folder without its state file yet for debris.
func (n *Network) claimFolder(ctx context.Context, image string, keep bool) error {
	unlock, err := lockFile(ctx, filepath.Join(n.root, "lock"))
	if err != nil {
		return err
	}
	defer unlock()
	if _, err := os.Stat(n.dir); err == nil {
		if _, err := sweepOne(ctx, n.root, n.name); err != nil {
			return err
		}
		if _, err := os.Stat(n.dir); err == nil {
			return fmt.Errorf("%s: %w", n.dir, ErrExists)
		}
	}
	if err := os.MkdirAll(n.dir, 0o755); err != nil {
		return err
	}
	if !keep {
		if n.owner, err = tryLock(n.ownerPath()); err != nil {
			return err
		}
	}
	id := make([]byte, 16)
	rand.Read(id)
	n.id = hex.EncodeToString(id)
	return writeRecord(n.dir, record{Name: n.name, ID: n.id, Image: image, Keep: keep})
}

// Open finds a network that this or another process made under dir.
func Open(dir, name string) (*Network, error) {
	if err := checkName("network", name); err != nil {
		return nil, err
	}
	root, err := resolveDir(dir)
	if err != nil {
		return nil, err
	}
	n := &Network{name: name, root: root, dir: filepath.Join(root, "networks", name)}
	state, err := readRecord(n.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("open network %s in %s: %w", name, root, ErrNotFound)
	}
	if err != nil {
		return nil, fmt.Errorf("open network %s: %w", name, err)
	}
	n.id, n.index = state.ID, state.Index
	return n, nil
}

// List names the networks under dir, sorted.
func List(dir string) ([]string, error) {
	root, err := resolveDir(dir)
	if err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(filepath.Join(root, "networks"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("list networks: %w", err)
	}
	var names []string
	for _, entry := range entries {
		if entry.IsDir() && validName.MatchString(entry.Name()) {
			names = append(names, entry.Name())
		}
	}
	return names, nil
}

// Name is the network's name.
func (n *Network) Name() string { return n.name }

// HostAddress is this machine's address on the network.
func (n *Network) HostAddress() netip.Addr { return n.Prefix().Addr().Next() }

// Prefix is the network's IPv4 range.
func (n *Network) Prefix() netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 213, byte(n.index), 0}), 24)
}

// HostAddress6 is this machine's IPv6 address on the network.
func (n *Network) HostAddress6() netip.Addr { return n.prefix6().Addr().Next() }

func (n *Network) prefix6() netip.Prefix {
	// The index is written in decimal digits, so that both ranges read alike.
	return netip.MustParsePrefix(fmt.Sprintf("fd00:213:%d::/64", n.index))
}

// Machines lists the network's machines, on or off, in the order of their addresses.
func (n *Network) Machines() ([]*Machine, error) {
	state, err := readRecord(n.dir)
	if err != nil {
		return nil, fmt.Errorf("list machines of %s: %w", n.name, err)
	}
	var machines []*Machine
	for _, each := range state.Machines {
		machines = append(machines, n.machine(each))
	}
	slices.SortFunc(machines, func(a, b *Machine) int { return a.index - b.index })
	return machines, nil
}

// Machine finds one machine by name.
func (n *Network) Machine(name string) (*Machine, error) {
	machines, err := n.Machines()
	if err != nil {
		return nil, err
	}
	var have []string
	for _, machine := range machines {
		if machine.name == name {
			return machine, nil
		}
		have = append(have, machine.name)
	}
	return nil, fmt.Errorf("machine %q of network %s (it has: %s): %w", name, n.name, strings.Join(have, ", "), ErrNotFound)
}

// Close removes every trace of the network: machines, processes, mounts,
// namespaces, links, rules and files. It goes on past errors and returns them
// all; calling it again tries what failed once more. A network that another
// living process owns is refused.
func (n *Network) Close(ctx context.Context) error {
	if n.owner == nil {
		state, err := readRecord(n.dir)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err == nil && !state.Keep {
			owner, err := tryLock(n.ownerPath())
			if err != nil {
				return fmt.Errorf("close network %s: a living process owns it: %w", n.name, err)
			}
			n.owner = owner
		}
	}
	err := n.tearDown(ctx)
	if err == nil {
		n.supplies.Wait()
	}
	if n.owner != nil && err == nil {
		err = n.owner.Close()
		n.owner = nil
	}
	if err != nil {
		return fmt.Errorf("close network %s: %w", n.name, err)
	}
	return nil
}

// Sweep removes every network under dir whose owner has died, and returns the
// names of those removed. Kept networks and those of living processes stay.
func Sweep(ctx context.Context, dir string) ([]string, error) {
	root, err := resolveDir(dir)
	if err != nil {
		return nil, err
	}
	names, err := List(root)
	if err != nil || len(names) == 0 {
		return nil, err
	}
	unlock, err := lockFile(ctx, filepath.Join(root, "lock"))
	if err != nil {
		return nil, fmt.Errorf("sweep %s: %w", root, err)
	}
	defer unlock()
	var swept []string
	var failures error
	for _, name := range names {
		removed, err := sweepOne(ctx, root, name)
		if removed {
			swept = append(swept, name)
		}
		failures = errors.Join(failures, err)
	}
	return swept, failures
}

// forkTime bounds how long a process may take from fork to exec on a busy machine.
const forkTime = time.Second

// sweepOne runs under the lab's lock.
func sweepOne(ctx context.Context, root, name string) (removed bool, err error) {
	n := &Network{name: name, root: root, dir: filepath.Join(root, "networks", name)}
	state, err := readRecord(n.dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		// Died before the state was written: nothing but the folder was made.
	case err != nil:
		return false, fmt.Errorf("sweep network %s: %w", name, err)
	case state.Keep:
		return false, nil
	}
	n.id, n.index = state.ID, state.Index
	// An owner that was killed while it started a process lives on in that one's
	// open files until it has executed its program; a living owner keeps the lock.
	patience, cancel := context.WithTimeout(ctx, forkTime)
	defer cancel()
	owner, err := waitLock(patience, n.ownerPath())
	if err != nil {
		return false, nil
	}
	defer owner.Close()
	if err := n.tearDown(ctx); err != nil {
		return false, fmt.Errorf("sweep network %s: %w", name, err)
	}
	return true, nil
}

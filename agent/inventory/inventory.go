// Package inventory says what this machine is: operating system, kernel, processor, memory, disks, addresses, what it
// runs on.
//
// Everything is read from files that the kernel and the distribution keep; nothing is executed, nothing needs more rights
// than reading. What cannot be read is left out: half an inventory is worth more than none. Free space, load and other
// things that change all the time are not part of it, so that its Digest changes only when the machine did.
package inventory

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/loopbackd/loopback/host"
)

// Bounds on what one machine says of itself.
const (
	maxText = 256
	maxList = 256
)

// Source is where an inventory is read from. The zero value is this machine.
type Source struct {
	Root string // folder that stands for "/"; empty: "/" itself
	Boot string // id of this boot by the service manager; empty: by the kernel's file
}

func (s Source) path(p string) string { return filepath.Join("/", s.Root, p) }

func (s Source) text(p string) string {
	b, err := os.ReadFile(s.path(p))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

// Gather reads the inventory.
func (s Source) Gather(agentVersion string) host.Inventory {
	i := host.Inventory{
		Architecture: runtime.GOARCH, BootID: s.BootID(), MachineID: s.machineID(), AgentVersion: agentVersion,
		Virtualisation: s.virtualisation(), MemoryBytes: s.memory(), Disks: s.disks(), Addresses: addresses(),
	}
	i.HostName, _ = os.Hostname()
	i.OS, i.OSVersion, i.OSName = s.osRelease()
	var u unix.Utsname
	if unix.Uname(&u) == nil {
		i.Kernel = unix.ByteSliceToString(u.Release[:])
	}
	i.CPUModel, i.CPUs = s.processors()
	for _, t := range []*string{&i.HostName, &i.OS, &i.OSVersion, &i.OSName, &i.Kernel, &i.CPUModel, &i.BootID} {
		*t = clean(*t)
	}
	return i
}

// Digest names an inventory and the ceiling that goes with it. Equal ones have the same.
func Digest(i host.Inventory, c host.Ceiling) []byte {
	b, err := json.Marshal(struct {
		Inventory host.Inventory
		Ceiling   host.Ceiling
	}{i, c})
	if err != nil {
		return nil // strings, numbers and lists always encode
	}
	sum := sha256.Sum256(b)
	return sum[:]
}

func clean(s string) string {
	s = strings.ToValidUTF8(strings.Join(strings.Fields(s), " "), "?")
	for len(s) > maxText {
		s = strings.ToValidUTF8(s[:maxText], "")
	}
	return s
}

// BootID is the id of this boot, in the kernel's notation. In a container, the kernel's file is that of the machine below
// wherever the container's own was mounted over it and the service's confinement took that mount away; the service
// manager, outside of the confinement, knows better.
func (s Source) BootID() string {
	if b, err := hex.DecodeString(s.Boot); err == nil && len(b) == 16 {
		return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
	}
	return s.text("proc/sys/kernel/random/boot_id")
}

// machineID is a hash: machine-id(5) asks that the id itself be kept on the machine.
func (s Source) machineID() string {
	id := s.text("etc/machine-id")
	if id == "" {
		return ""
	}
	sum := sha256.Sum256([]byte("loopback machine 1\x00" + id))
	return hex.EncodeToString(sum[:16])
}

// osRelease reads os-release(5).
func (s Source) osRelease() (id, version, pretty string) {
	text := s.text("etc/os-release")
	if text == "" {
		text = s.text("usr/lib/os-release")
	}
	id, pretty = "linux", "Linux" // the defaults of the specification
	for line := range strings.Lines(text) {
		name, value, ok := strings.Cut(strings.TrimSpace(line), "=")
		if !ok {
			continue
		}
		switch value = unquote(value); name {
		case "ID":
			id = value
		case "VERSION_ID":
			version = value
		case "PRETTY_NAME":
			pretty = value
		}
	}
	return id, version, pretty
}

// unquote takes off the quotes of a shell assignment.
func unquote(s string) string {
	if len(s) >= 2 && (s[0] == '"' || s[0] == '\'') && s[len(s)-1] == s[0] {
		quote := s[0]
		s = s[1 : len(s)-1]
		if quote == '"' {
			s = strings.NewReplacer(`\\`, `\`, `\"`, `"`, `\$`, `$`, "\\`", "`").Replace(s)
		}
	}
	return s
}

// processors counts logical ones.
func (s Source) processors() (model string, count int) {
	for line := range strings.Lines(s.text("proc/cpuinfo")) {
		name, value, _ := strings.Cut(line, ":")
		switch name, value = strings.TrimSpace(name), strings.TrimSpace(value); {
		case name == "processor":
			count++
		case model == "" && (name == "model name" || name == "Model" || name == "cpu model" || name == "uarch"):
			model = value
		}
	}
	if count == 0 {
		count = runtime.NumCPU()
	}
	return model, count
}

func (s Source) memory() int64 {
	for line := range strings.Lines(s.text("proc/meminfo")) {
		f := strings.Fields(line)
		if len(f) >= 2 && f[0] == "MemTotal:" {
			kib, err := strconv.ParseInt(f[1], 10, 54)
			if err == nil {
				return kib << 10
			}
		}
	}
	return 0
}

// disks are the mounted file systems on real devices, each device once, at its shortest mount point. The view is that of
// process 1 where it can be read: a sandboxed service sees mounts of its own.
func (s Source) disks() []host.Disk {
	mounts := s.text("proc/1/mountinfo")
	if mounts == "" {
		mounts = s.text("proc/self/mountinfo")
	}
	byDevice := map[string]host.Disk{}
	scan := bufio.NewScanner(strings.NewReader(mounts))
	scan.Buffer(nil, 1<<20)
	for scan.Scan() {
		device, d, ok := parseMount(scan.Text())
		if !ok {
			continue
		}
		if before, ok := byDevice[device]; ok && len(before.Mount) <= len(d.Mount) {
			continue
		}
		byDevice[device] = d
	}
	var out []host.Disk
	for _, d := range byDevice {
		var st unix.Statfs_t
		if unix.Statfs(s.path(d.Mount), &st) == nil {
			d.SizeBytes = int64(st.Blocks) * st.Frsize
		}
		out = append(out, d)
	}
	slices.SortFunc(out, func(a, b host.Disk) int { return strings.Compare(a.Mount, b.Mount) })
	return out[:min(len(out), maxList)]
}

// parseMount reads a line of mountinfo (proc_pid_mountinfo(5)):
// id parent major:minor root mount options [optional …] - type source superoptions
func parseMount(line string) (device string, d host.Disk, ok bool) {
	left, right, found := strings.Cut(line, " - ")
	a, b := strings.Fields(left), strings.Fields(right)
	if !found || len(a) < 6 || len(b) < 2 {
		return "", d, false
	}
	source := b[1]
	real := strings.HasPrefix(source, "/dev/") && !strings.HasPrefix(source, "/dev/loop") && !strings.HasPrefix(source, "/dev/ram") &&
		!strings.HasPrefix(source, "/dev/zram") && b[0] != "devtmpfs"
	if !real && b[0] != "zfs" {
		return "", d, false
	}
	return source, host.Disk{Mount: clean(unescape(a[4])), Device: clean(unescape(source)), FileSystem: clean(b[0])}, true
}

// unescape undoes the octal escapes of mountinfo.
func unescape(s string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(s)
}

// addresses are those of interfaces that are up. Link-local ones are left out: every interface has one, and a machine that
// runs containers makes and drops interfaces all the time.
func addresses() []host.Address {
	interfaces, err := net.Interfaces()
	if err != nil {
		return nil
	}
	var out []host.Address
	for _, i := range interfaces {
		if i.Flags&net.FlagUp == 0 || i.Flags&net.FlagLoopback != 0 {
			continue
		}
		list, err := i.Addrs()
		if err != nil {
			continue
		}
		for _, a := range list {
			if n, ok := a.(*net.IPNet); ok && !n.IP.IsLinkLocalUnicast() {
				out = append(out, host.Address{Interface: i.Name, MAC: i.HardwareAddr.String(), Prefix: n.String()})
			}
		}
	}
	slices.SortFunc(out, func(a, b host.Address) int {
		return strings.Compare(a.Interface+" "+a.Prefix, b.Interface+" "+b.Prefix)
	})
	return out[:min(len(out), maxList)]
}

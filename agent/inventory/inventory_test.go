package inventory

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"runtime"
	"strings"
	"testing"

	"github.com/loopbackd/loopback/host"
)

// machine is a root folder with these files.
func machine(t *testing.T, files map[string]string) Source {
	t.Helper()
	root := t.TempDir()
	for name, text := range files {
		p := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return Source{Root: root}
}

func TestAMachineIsRead(t *testing.T) {
	s := machine(t, map[string]string{
		"etc/os-release":                 "PRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\nID=debian\nVERSION_ID='12'\n# x\nrubbish\n",
		"proc/cpuinfo":                   "processor\t: 0\nmodel name\t: Imagined CPU  @ 2GHz\n\nprocessor\t: 1\nmodel name\t: Imagined CPU\n",
		"proc/meminfo":                   "MemTotal:       2048 kB\nMemFree: 1 kB\n",
		"etc/machine-id":                 "0123456789abcdef0123456789abcdef\n",
		"proc/sys/kernel/random/boot_id": "b-1\n",
		"proc/1/mountinfo": strings.Join([]string{
			"1 0 8:1 / / rw shared:1 - ext4 /dev/sda1 rw",
			"2 1 8:1 /var/lib /var/lib rw - ext4 /dev/sda1 rw",
			"3 1 8:2 / /srv/my\\040disk rw - xfs /dev/sda2 rw",
			"4 1 0:5 / /dev rw - devtmpfs /dev/x rw",
			"5 1 7:0 / /snap/core ro - squashfs /dev/loop0 ro",
			"6 1 0:30 / /run rw - tmpfs tmpfs rw",
			"7 1 0:40 / /tank rw - zfs tank rw",
			"rubbish",
		}, "\n"),
	})
	got := s.Gather("1.2.3")
	want := host.Inventory{
		HostName: got.HostName, OS: "debian", OSVersion: "12", OSName: "Debian GNU/Linux 12 (bookworm)", Kernel: got.Kernel,
		Architecture: runtime.GOARCH, CPUModel: "Imagined CPU @ 2GHz", CPUs: 2, MemoryBytes: 2 << 20, Addresses: got.Addresses,
		Disks: []host.Disk{
			{Mount: "/", Device: "/dev/sda1", FileSystem: "ext4", SizeBytes: got.Disks[0].SizeBytes},
			{Mount: "/srv/my disk", Device: "/dev/sda2", FileSystem: "xfs"},
			{Mount: "/tank", Device: "tank", FileSystem: "zfs"},
		},
		Virtualisation: "none", BootID: "b-1", MachineID: got.MachineID, AgentVersion: "1.2.3",
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	if len(got.MachineID) != 32 || strings.Contains(got.MachineID, "0123456789abcdef") {
		t.Errorf("got machine id %q; want a hash", got.MachineID)
	}
	if got.Disks[0].SizeBytes <= 0 {
		t.Errorf("got size %d; want that of the file system", got.Disks[0].SizeBytes)
	}
}

func TestAnEmptyMachineIsStillAnInventory(t *testing.T) {
	got := machine(t, nil).Gather("1")
	if got.OS != "linux" || got.CPUs < 1 || got.Virtualisation != "none" || len(got.Disks) != 0 {
		t.Errorf("got %+v", got)
	}
}

func TestVirtualisation(t *testing.T) {
	for want, files := range map[string]map[string]string{
		"systemd-nspawn": {"run/systemd/container": "systemd-nspawn\n", "sys/class/dmi/id/product_name": "KVM"},
		"lxc":            {"proc/1/environ": "A=b\x00container=lxc\x00"},
		"docker":         {".dockerenv": ""},
		"wsl":            {"proc/sys/kernel/osrelease": "5.15-Microsoft-standard"},
		"kvm":            {"sys/class/dmi/id/product_name": "KVM Virtual Machine"},
		"amazon":         {"sys/class/dmi/id/sys_vendor": "Amazon EC2"},
		"microsoft":      {"sys/class/dmi/id/product_name": "Virtual Machine", "sys/class/dmi/id/sys_vendor": "Microsoft Corporation"},
		"xen":            {"sys/hypervisor/type": "xen"},
		"vm-other":       {"proc/cpuinfo": "flags : fpu hypervisor sse\n"},
		"none":           {"proc/cpuinfo": "flags : fpu sse\n", "sys/class/dmi/id/sys_vendor": "Dell Inc."},
	} {
		if got := machine(t, files).virtualisation(); got != want {
			t.Errorf("%v: got %q; want %q", files, got, want)
		}
	}
}

func TestThisMachineAgreesWithSystemd(t *testing.T) {
	out, _ := exec.Command("systemd-detect-virt").Output() // exits 1 for "none"
	if len(out) == 0 {
		t.Skip("missing feature: systemd-detect-virt")
	}
	if got, want := (Source{}).virtualisation(), strings.TrimSpace(string(out)); got != want && got != "vm-other" && want != "vm-other" {
		t.Errorf("got %q; systemd says %q", got, want)
	}
	i := Source{}.Gather("1")
	if i.Kernel == "" || i.MemoryBytes == 0 || i.CPUs != runtime.NumCPU() && i.CPUs == 0 || i.BootID == "" {
		t.Errorf("got %+v; want kernel, memory, processors and boot id", i)
	}
}

func TestTheDigestChangesWithTheMachineAndTheCeilingOnly(t *testing.T) {
	i := host.Inventory{Kernel: "1"}
	a := Digest(i, host.Ceiling{})
	if !bytes.Equal(a, Digest(i, host.Ceiling{})) {
		t.Error("the same inventory has two digests")
	}
	if bytes.Equal(a, Digest(host.Inventory{Kernel: "2"}, host.Ceiling{})) || bytes.Equal(a, Digest(i, host.Ceiling{Exec: true})) {
		t.Error("another inventory or ceiling has the same digest")
	}
}

func FuzzParseMount(f *testing.F) {
	f.Add("1 0 8:1 / / rw shared:1 - ext4 /dev/sda1 rw")
	f.Fuzz(func(t *testing.T, line string) {
		if _, d, ok := parseMount(line); ok && (d.Device == "" || d.FileSystem == "" || len(d.Mount) > maxText) {
			t.Errorf("%q: got %+v", line, d)
		}
	})
}

func FuzzOSRelease(f *testing.F) {
	f.Add("ID=\"a\\$b\"\nVERSION_ID=")
	f.Fuzz(func(t *testing.T, text string) {
		root := t.TempDir()
		if err := os.MkdirAll(filepath.Join(root, "etc"), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(root, "etc/os-release"), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		Source{Root: root}.osRelease()
	})
}

func TestTheServiceManagersBootIDWins(t *testing.T) {
	for given, want := range map[string]string{
		"5c14bf7426954f1a9dc6221bc1098ef0": "5c14bf74-2695-4f1a-9dc6-221bc1098ef0", "": "b-1", "%b": "b-1", "5c14": "b-1",
	} {
		s := machine(t, map[string]string{"proc/sys/kernel/random/boot_id": "b-1\n"})
		s.Boot = given
		if got := s.BootID(); got != want {
			t.Errorf("boot id with %q from the service manager: got %q, want %q", given, got, want)
		}
	}
}

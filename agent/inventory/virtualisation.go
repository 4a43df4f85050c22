package inventory

import (
	"os"
	"strings"
)

// virtualisation is what the machine runs on, in the words of systemd-detect-virt(1): a container first, since a
// container may well run in a virtual machine; "none" is bare metal.
func (s Source) virtualisation() string {
	if c := s.container(); c != "" {
		return c
	}
	if vm := s.machine(); vm != "" {
		return vm
	}
	return "none"
}

func (s Source) container() string {
	if name := s.text("run/systemd/container"); name != "" {
		return clean(name)
	}
	for variable := range strings.SplitSeq(s.text("proc/1/environ"), "\x00") {
		if name, ok := strings.CutPrefix(variable, "container="); ok && name != "" {
			return clean(name)
		}
	}
	switch {
	case s.exists(".dockerenv"):
		return "docker"
	case s.exists("run/.containerenv"):
		return "podman"
	case s.exists("proc/vz") && !s.exists("proc/bc"):
		return "openvz"
	}
	if release := strings.ToLower(s.text("proc/sys/kernel/osrelease")); strings.Contains(release, "microsoft") || strings.Contains(release, "wsl") {
		return "wsl"
	}
	return ""
}

func (s Source) exists(p string) bool {
	_, err := os.Lstat(s.path(p))
	return err == nil
}

// firmware names makers of virtual machines as their firmware does; the first that matches counts.
var firmware = []struct{ prefix, name string }{
	{"KVM", "kvm"}, {"OpenStack", "kvm"}, {"KubeVirt", "kvm"}, {"Amazon EC2", "amazon"}, {"QEMU", "qemu"},
	{"VMware", "vmware"}, {"VMW", "vmware"}, {"innotek GmbH", "oracle"}, {"VirtualBox", "oracle"}, {"Oracle Corporation", "oracle"},
	{"Xen", "xen"}, {"Bochs", "bochs"}, {"Parallels", "parallels"}, {"BHYVE", "bhyve"}, {"Hyper-V", "microsoft"},
	{"Virtual Machine", "microsoft"}, {"Apple Virtualization", "apple"}, {"Google Compute Engine", "google"}, {"Google", "google"},
}

func (s Source) machine() string {
	for _, file := range []string{"product_name", "sys_vendor", "board_vendor", "bios_vendor", "product_version"} {
		text := s.text("sys/class/dmi/id/" + file)
		for _, f := range firmware {
			if strings.HasPrefix(text, f.prefix) {
				return f.name
			}
		}
	}
	if kind := s.text("sys/hypervisor/type"); kind != "" {
		return clean(kind)
	}
	if compatible := s.text("proc/device-tree/hypervisor/compatible"); compatible != "" {
		if strings.Contains(compatible, "kvm") {
			return "kvm"
		}
		if strings.Contains(compatible, "xen") {
			return "xen"
		}
		return "vm-other"
	}
	for line := range strings.Lines(s.text("proc/cpuinfo")) {
		if name, flags, _ := strings.Cut(line, ":"); strings.TrimSpace(name) == "flags" {
			if strings.Contains(" "+strings.TrimSpace(flags)+" ", " hypervisor ") {
				return "vm-other"
			}
			break
		}
	}
	return ""
}

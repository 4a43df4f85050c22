package lab

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// Unsupported says that this machine lacks something the lab, or one of its
// faults, is made of.
type Unsupported struct {
	// Feature names what is missing, as a reader would look for it.
	Feature string
	// Detail says how that was found out; may be empty.
	Detail string
}

func (u *Unsupported) Error() string {
	if u.Detail == "" {
		return "not supported here: " + u.Feature
	}
	return "not supported here: " + u.Feature + " (" + u.Detail + ")"
}

// RequiredVariable names the environment variable that turns the skips of
// [Require] and [SkipUnsupported] into failures when it is set to "required": where the lab
// is known to work, a skip would hide that it broke.
const RequiredVariable = "LOOPBACK_LAB"

// programs that the lab runs, and the Debian package of each, for the message.
var programs = []struct{ name, from string }{
	{"systemd-nspawn", "systemd-container"},
	{"ip", "iproute2"},
	{"nft", "nftables"},
	{"nsenter", "util-linux"},
	{"unshare", "util-linux"},
	{"umount", "mount"},
	{"chroot", "coreutils"},
}

// Supported reports the first thing that machines need and that is missing
// here, as [*Unsupported]; nil means that [New] and [Network.Boot] should work.
func Supported() error {
	if os.Geteuid() != 0 {
		return &Unsupported{Feature: "root", Detail: fmt.Sprintf("running as user %d", os.Geteuid())}
	}
	for _, program := range programs {
		if _, err := exec.LookPath(program.name); err != nil {
			return &Unsupported{Feature: program.name, Detail: "package " + program.from}
		}
	}
	if listed, err := os.ReadFile("/proc/filesystems"); err != nil || !strings.Contains(string(listed), "\toverlay\n") {
		// A module is loaded by the first mount; asking modprobe is harmless where it is built in.
		if err := exec.Command("modprobe", "overlay").Run(); err != nil {
			return &Unsupported{Feature: "overlay file system", Detail: "not in /proc/filesystems"}
		}
	}
	cgroups, err := findCgroups()
	if err != nil {
		return err
	}
	if err := unix.Access(cgroups.unified, unix.W_OK); err != nil {
		return &Unsupported{Feature: "writable cgroup v2", Detail: cgroups.unified + ": " + err.Error()}
	}
	if _, err := os.Stat("/dev/net/tun"); err != nil {
		return &Unsupported{Feature: "/dev/net/tun", Detail: err.Error()}
	}
	return nil
}

// checkFolder refuses folders on which an overlay's upper layer cannot stand.
func checkFolder(dir string) error {
	if strings.ContainsAny(dir, ":,\\ \t\n") {
		return fmt.Errorf("folder %q: overlay mounts cannot take a colon, comma, backslash or space in a path; choose another", dir)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	var stat unix.Statfs_t
	if err := unix.Statfs(dir, &stat); err != nil {
		return fmt.Errorf("look at %s: %w", dir, err)
	}
	if stat.Type == unix.OVERLAYFS_SUPER_MAGIC {
		return &Unsupported{Feature: "overlay on this file system", Detail: dir + " is itself on an overlay; choose a folder on a disk or tmpfs"}
	}
	return nil
}

// Require skips the test, naming the missing feature, where machines cannot
// run. It installs nothing; test/lab/prepare.sh does.
func Require(t testing.TB) {
	t.Helper()
	SkipUnsupported(t, Supported())
}

// SkipUnsupported skips the test if err is [*Unsupported], and fails it on any
// other error.
func SkipUnsupported(t testing.TB, err error) {
	t.Helper()
	if err == nil {
		return
	}
	var missing *Unsupported
	if errors.As(err, &missing) && os.Getenv(RequiredVariable) != "required" {
		t.Skip(missing.Error())
	}
	t.Fatal(err)
}

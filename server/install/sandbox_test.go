package install_test

import (
	"bytes"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// sandbox runs the test again in namespaces of its own, where the folders that an installation touches are empty file
// systems in memory. It returns true inside.
func sandbox(t *testing.T, flags uintptr) bool {
	t.Helper()
	const variable = "LOOPBACK_TEST_SANDBOX"
	if os.Getenv(variable) == t.Name() {
		for _, mount := range []struct{ at, options string }{
			{"/opt", "mode=755,size=64m"}, {"/usr/local", "mode=755,size=64m"}, {"/var", "mode=755,size=64m"},
			{"/root", "mode=700,size=1m"}, {"/srv", "mode=755,size=64m"}, {"/run", "mode=755,size=64m"},
		} {
			if err := os.MkdirAll(mount.at, 0o755); err != nil {
				t.Fatal(err)
			}
			if err := syscall.Mount("tmpfs", mount.at, "tmpfs", 0, mount.options); err != nil {
				t.Fatalf("mount a file system on %s: %v", mount.at, err)
			}
		}
		return true
	}
	if os.Geteuid() != 0 {
		t.Skip("missing feature: root, to make mount and network namespaces")
	}
	c := exec.Command("/proc/self/exe", "-test.run=^"+t.Name()+"$", "-test.v", "-test.timeout=10m")
	if testing.Short() {
		c.Args = append(c.Args, "-test.short")
	}
	c.Env = append(os.Environ(), variable+"="+t.Name())
	c.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS | flags, Unshareflags: syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	out, err := c.CombinedOutput()
	t.Logf("inside the sandbox:\n%s", out)
	if err != nil {
		t.Fatal(err)
	}
	return false
}

// traces lists what is in the folders that an installation touches.
func traces(t *testing.T, also ...string) string {
	t.Helper()
	var out bytes.Buffer
	for _, folder := range append([]string{"/opt", "/usr/local", "/var", "/root", "/srv", "/run"}, also...) {
		err := filepath.WalkDir(folder, func(path string, _ fs.DirEntry, err error) error {
			if err == nil && path != folder {
				out.WriteString(path + "\n")
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return out.String()
}

type shell struct {
	name string
	argv []string
}

// shells are those that are here.
func shells(t *testing.T) []shell {
	t.Helper()
	var out []shell
	for _, argv := range [][]string{{"dash"}, {"busybox", "sh"}, {"bash", "--posix"}} {
		path, err := exec.LookPath(argv[0])
		if err != nil {
			t.Logf("%s is not installed: not tested with it", argv[0])
			continue
		}
		out = append(out, shell{strings.Join(argv, " "), append([]string{path}, argv[1:]...)})
	}
	if len(out) == 0 {
		t.Skip("missing feature: a POSIX shell (dash, busybox or bash)")
	}
	return out
}

package pack_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/loopbackd/loopback/release"
	"github.com/loopbackd/loopback/release/pack"
)

// A real agent, packaged, is installed, upgraded, set back and erased by rpm itself in a root of its own.
func TestRPMKeepsHouse(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("rpm --root needs root")
	}
	for _, need := range []string{"rpm", "busybox", "unshare"} {
		if _, err := exec.LookPath(need); err != nil {
			t.Skipf("%s is not installed", need)
		}
	}
	root := shellRoot(t)
	first, second := built(t, "1.0.0"), built(t, "1.1.0")
	one, two := file(t, first, release.FormatRPM), file(t, second, release.FormatRPM)
	// Nobody but this process sees the root's /proc, and it goes with the process.
	rpm := func(args ...string) string {
		t.Helper()
		words := append([]string{"--mount", "--propagation", "private", "sh", "-c", `mount -t proc proc "$0/proc" && exec rpm --root "$0" --dbpath /var/lib/rpm --nodeps "$@"`, root}, args...)
		out, err := exec.Command("unshare", words...).CombinedOutput()
		if err != nil {
			t.Fatalf("rpm %v: %v\n%s", args, err, out)
		}
		return string(out)
	}
	current := func(want string) {
		t.Helper()
		to, err := os.Readlink(filepath.Join(root, "opt/loopback/current"))
		if err != nil || !strings.HasPrefix(to, "versions/"+want+"-") {
			t.Errorf("current: got %q, %v, wanted %s", to, err, want)
		}
		program := filepath.Join("/opt/loopback", to, "bin/loopback-agent")
		if out, err := exec.Command("chroot", root, program, "version").CombinedOutput(); err != nil || strings.TrimSpace(string(out)) != want {
			t.Errorf("the current program says %s, %v, wanted %s", out, err, want)
		}
		rpm("--verify", "loopback-agent")
	}

	rpm("--install", one)
	current("1.0.0")
	settings := filepath.Join(root, "etc/loopback/agent.yaml")
	if info, err := os.Stat(settings); err != nil || info.Mode() != 0o600 {
		t.Errorf("settings: got %v, %v, wanted mode 0600", info, err)
	}
	// What a host collects over time.
	kept := map[string]string{"etc/loopback/agent.yaml": "endpoints: [https://lb.example.com]\n", "var/lib/loopback/identity.json": "{}"}
	for path, text := range kept {
		path = filepath.Join(root, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	rpm("--upgrade", two)
	current("1.1.0")
	rpm("--upgrade", "--oldpackage", one)
	current("1.0.0")

	// A version that the agent fetched by itself is not taken from it by an older package, and is by a newer one.
	fetched := filepath.Join(root, "opt/loopback/versions/1.0.5-0badcafe/bin")
	if err := os.MkdirAll(fetched, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Link(filepath.Join(root, "usr/lib/loopback/loopback-agent"), filepath.Join(fetched, "loopback-agent")); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(root, "opt/loopback/current")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("versions/1.0.5-0badcafe", filepath.Join(root, "opt/loopback/current")); err != nil {
		t.Fatal(err)
	}
	if out := rpm("--install", "--force", one); !strings.Contains(out, "stays") {
		t.Errorf("got %q, wanted that the newer version stays", out)
	}
	if to, err := os.Readlink(filepath.Join(root, "opt/loopback/current")); err != nil || to != "versions/1.0.5-0badcafe" {
		t.Errorf("current after an older package: got %q, %v, wanted the newer version", to, err)
	}
	rpm("--upgrade", two)
	current("1.1.0")

	rpm("--erase", "loopback-agent")
	var left []string
	err := filepath.WalkDir(root, func(path string, _ os.DirEntry, err error) error {
		if rel, _ := filepath.Rel(root, path); strings.Contains(rel, "loopback") {
			left = append(left, rel)
		}
		return err
	})
	if got, want := strings.Join(left, " "), "etc/loopback etc/loopback/agent.yaml var/lib/loopback var/lib/loopback/identity.json"; err != nil || got != want {
		t.Errorf("left after erasing: got %s, %v, wanted settings and state: %s", got, err, want)
	}
	for path, want := range kept {
		if got, err := os.ReadFile(filepath.Join(root, path)); err != nil || string(got) != want {
			t.Errorf("%s: got %q, %v, wanted it as it was", path, got, err)
		}
	}
}

// shellRoot is a folder with a shell in it and the libraries that it needs.
func shellRoot(t *testing.T) string {
	t.Helper()
	root := t.TempDir()
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		t.Fatal(err)
	}
	files := []string{busybox}
	libraries, _ := exec.Command("ldd", busybox).Output() // fails for a static one, which has none
	for _, word := range strings.Fields(string(libraries)) {
		if strings.HasPrefix(word, "/") {
			files = append(files, word)
		}
	}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		to := filepath.Join(root, f)
		if f == busybox {
			to = filepath.Join(root, "bin/sh")
		}
		if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(to, b, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(root, "proc"), 0o755); err != nil {
		t.Fatal(err)
	}
	return root
}

// built is a package of the real agent.
func built(t *testing.T, version string) pack.Agent {
	t.Helper()
	to := filepath.Join(t.TempDir(), "loopback-agent")
	c := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w -X main.version="+version, "-o", to, "github.com/loopbackd/loopback/cmd/loopback-agent")
	c.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := c.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	program, err := os.ReadFile(to)
	if err != nil {
		t.Fatal(err)
	}
	return pack.Agent{Program: program, Version: version, Architecture: runtime.GOARCH, Root: []byte(`{"signed":{}}`)}
}

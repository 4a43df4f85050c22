package pack_test

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/loopbackd/loopback/release"
	"github.com/loopbackd/loopback/release/pack"
	"github.com/loopbackd/loopback/trust"
)

var formats = []string{release.FormatDeb, release.FormatRPM}

// small is a small Go program for Linux.
var small = sync.OnceValues(func() ([]byte, error) {
	dir, err := os.MkdirTemp("", "loopback-pack-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	for name, text := range map[string]string{"go.mod": "module example.com/agent\n", "main.go": "package main\n\nfunc main() {}\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			return nil, err
		}
	}
	c := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", "agent", ".")
	c.Dir, c.Env = dir, append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=", "GOWORK=off")
	if out, err := c.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("%w\n%s", err, out)
	}
	return os.ReadFile(filepath.Join(dir, "agent"))
})

// agent is a package of a small program.
func agent(t *testing.T, version string) pack.Agent {
	t.Helper()
	program, err := small()
	if err != nil {
		t.Fatal(err)
	}
	return pack.Agent{Program: program, Version: version, Architecture: runtime.GOARCH, Root: []byte(`{"signed":{}}`)}
}

func write(t *testing.T, a pack.Agent, format string) []byte {
	t.Helper()
	p, err := a.Package()
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := p.Write(&out, format); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func file(t *testing.T, a pack.Agent, format string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), release.FileName(release.Agent, a.Version, a.Architecture, format))
	if err := os.WriteFile(name, write(t, a, format), 0o644); err != nil {
		t.Fatal(err)
	}
	return name
}

// tool runs a packaging tool, or skips with its name where it is missing.
func tool(t *testing.T, name string, args ...string) string {
	t.Helper()
	if _, err := exec.LookPath(name); err != nil {
		t.Skipf("%s is not installed", name)
	}
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
	return string(out)
}

func TestTheSameDescriptionGivesTheSameBytes(t *testing.T) {
	for _, format := range formats {
		a := agent(t, "1.2.3")
		first := write(t, a, format)
		if again := write(t, a, format); !bytes.Equal(first, again) {
			t.Errorf("%s: two packages of one description differ", format)
		}
		p, err := a.Package()
		if err != nil {
			t.Fatal(err)
		}
		slices.Reverse(p.Files)
		var out bytes.Buffer
		if err := p.Write(&out, format); err != nil || !bytes.Equal(first, out.Bytes()) {
			t.Errorf("%s: with its files in another order it is another package, %v", format, err)
		}
		a.Time = time.Unix(1_700_000_000, 0)
		if other := write(t, a, format); bytes.Equal(first, other) {
			t.Errorf("%s: the time that was given is not in the package", format)
		}
	}
}

func TestDpkgReadsAll(t *testing.T) {
	a := agent(t, "1.2.3-rc.1")
	a.Endpoint, a.Anchor, a.CA = "https://lb.example.com", trust.AnchorHash{1, 2}, []byte("-----BEGIN CERTIFICATE-----\n")
	deb := file(t, a, release.FormatDeb)
	about := tool(t, "dpkg-deb", "--info", deb)
	for _, want := range []string{"Package: loopback-agent\n", "Version: 1.2.3~rc.1\n", "Architecture: " + runtime.GOARCH + "\n", "Depends: systemd\n", "postinst", "prerm", "postrm", "md5sums"} {
		if !strings.Contains(about, want) {
			t.Errorf("got %s, wanted %q in it", about, want)
		}
	}
	dir := t.TempDir()
	tool(t, "dpkg-deb", "--raw-extract", deb, dir)
	for path, mode := range map[string]fs.FileMode{
		"usr/lib/loopback/loopback-agent": 0o755, "usr/lib/systemd/system/loopback-agent.service": 0o644, "usr/share/loopback/root.json": 0o644,
		"etc/loopback": 0o755 | fs.ModeDir, "DEBIAN/postinst": 0o755, "DEBIAN/prerm": 0o755, "DEBIAN/postrm": 0o755,
	} {
		if info, err := os.Stat(filepath.Join(dir, path)); err != nil || info.Mode() != mode {
			t.Errorf("%s: got %v, %v, wanted %v", path, info, err, mode)
		}
	}
	if held, err := os.ReadFile(filepath.Join(dir, "usr/lib/loopback/loopback-agent")); err != nil || !bytes.Equal(held, a.Program) {
		t.Errorf("the program came out as %d bytes, %v, wanted %d", len(held), err, len(a.Program))
	}
	settings, err := os.ReadFile(filepath.Join(dir, "usr/share/loopback/agent.yaml"))
	for _, want := range []string{`endpoints: ["https://lb.example.com"]`, `anchor: "0102000000`, "ca_file: /etc/loopback/ca.pem"} {
		if err != nil || !strings.Contains(string(settings), want) {
			t.Errorf("settings: got %s, %v, wanted %q in them", settings, err, want)
		}
	}
	check := exec.Command("md5sum", "--check", "--quiet", "DEBIAN/md5sums")
	check.Dir = dir
	if out, err := check.CombinedOutput(); err != nil {
		t.Errorf("the sums in the package: %v\n%s", err, out)
	}
}

func TestRPMReadsAll(t *testing.T) {
	a := agent(t, "1.2.3-rc.1+dirty-1")
	rpm := file(t, a, release.FormatRPM)
	if out := tool(t, "rpm", "--checksig", "--verbose", rpm); strings.Count(out, ": OK") < 4 || strings.Contains(out, "BAD") {
		t.Errorf("digests: got %s, wanted four that are right", out)
	}
	arch := release.RPMArchitecture(runtime.GOARCH)
	if got := tool(t, "rpm", "-qp", "--qf", "%{NAME} %{VERSION} %{RELEASE} %{ARCH} %{LICENSE}", rpm); got != "loopback-agent 1.2.3~rc.1+dirty.1 1 "+arch+" Apache-2.0" {
		t.Errorf("got %q", got)
	}
	files := tool(t, "rpm", "-qp", "--qf", "[%{FILEMODES:perms} %{FILEUSERNAME} %{FILENAMES} %{FILELINKTOS}\n]", rpm)
	for _, want := range []string{
		"-rwxr-xr-x root /usr/lib/loopback/loopback-agent \n", "lrwxrwxrwx root /usr/bin/loopback-agent /opt/loopback/current/bin/loopback-agent\n",
		"drwxr-xr-x root /etc/loopback \n", "-rw-r--r-- root /usr/lib/systemd/system/loopback-agent.service \n",
	} {
		if !strings.Contains(files, want) {
			t.Errorf("files: got\n%swanted %q", files, want)
		}
	}
	if out := tool(t, "rpm", "-qp", "--scripts", rpm); strings.Count(out, "scriptlet (using /bin/sh)") != 3 {
		t.Errorf("scripts: got %s, wanted three", out)
	}
}

// A package that was damaged on the way is refused by the tools that install it.
func TestDamageIsFound(t *testing.T) {
	a := agent(t, "1.2.3")
	rpm := file(t, a, release.FormatRPM)
	b, err := os.ReadFile(rpm)
	if err != nil {
		t.Fatal(err)
	}
	b[len(b)/2] ^= 1
	if err := os.WriteFile(rpm, b, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := exec.LookPath("rpm"); err != nil {
		t.Skip("rpm is not installed")
	}
	if out, err := exec.Command("rpm", "--checksig", rpm).CombinedOutput(); err == nil {
		t.Errorf("rpm takes a package with a wrong bit: %s", out)
	}
}

// dpkg and rpm order versions as we do.
func TestPackageVersionsAreInOrder(t *testing.T) {
	ordered := []string{"0.9.0", "1.0.0-alpha", "1.0.0-alpha.1", "1.0.0-beta.2", "1.0.0-beta.11", "1.0.0-rc.1", "1.0.0", "1.0.1", "1.2.0", "1.10.0"}
	for i := range len(ordered) - 1 {
		a, b := release.PackageVersion(ordered[i]), release.PackageVersion(ordered[i+1])
		tool(t, "dpkg", "--compare-versions", a, "lt", b)
		if got := strings.TrimSpace(tool(t, "rpm", "--eval", `%{lua: print(rpm.vercmp("`+a+`", "`+b+`"))}`)); got != "-1" {
			t.Errorf("rpm says %s of %s and %s, wanted -1", got, a, b)
		}
	}
}

func TestWhatCannotWorkIsRefused(t *testing.T) {
	for name, change := range map[string]func(*pack.Agent){
		"not a Linux program": func(a *pack.Agent) { a.Program = []byte("#!/bin/sh\n") },
		"is a program for": func(a *pack.Agent) {
			a.Architecture = map[string]string{"amd64": "arm64", "arm64": "amd64"}[runtime.GOARCH]
		},
		"releases' root":       func(a *pack.Agent) { a.Root = nil },
		"metadata is not JSON": func(a *pack.Agent) { a.Root = []byte("x") },
	} {
		a := agent(t, "1.2.3")
		change(&a)
		if _, err := a.Package(); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("got %v, wanted %q", err, name)
		}
	}
	p, err := agent(t, "not a version").Package()
	if err == nil {
		err = p.Write(&bytes.Buffer{}, release.FormatDeb)
	}
	if err == nil || !strings.Contains(err.Error(), "version") {
		t.Errorf("got %v, wanted that it is no version", err)
	}
	p, err = agent(t, "1.2.3").Package()
	if err == nil {
		err = p.Write(&bytes.Buffer{}, "apk")
	}
	if err == nil || !strings.Contains(err.Error(), "format") {
		t.Errorf("got %v, wanted that there is no such format", err)
	}
}

package install

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/loopbackd/loopback/agent/packaged"
	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/release"
)

// unpack lays down what a package would.
func (m *machine) unpack() {
	m.t.Helper()
	for path, text := range map[string][]byte{
		packaged.Program: []byte("the program"), packaged.Unit: []byte(packaged.UnitText(packaged.Running)),
		packaged.Root: m.plane.service.Root(), packaged.Settings: []byte("# brought by the package\n"),
	} {
		path = m.layout.at(path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			m.t.Fatal(err)
		}
		if err := os.WriteFile(path, text, 0o644); err != nil {
			m.t.Fatal(err)
		}
	}
	link := m.layout.at(packaged.Link)
	if err := os.MkdirAll(filepath.Dir(link), 0o755); err != nil {
		m.t.Fatal(err)
	}
	if err := os.Symlink(packaged.Running, link); err != nil && !os.IsExist(err) {
		m.t.Fatal(err)
	}
}

func (m *machine) configure(version string) {
	m.t.Helper()
	m.out.Reset()
	m.systemd.calls = nil
	if err := m.installer.ConfigurePackage(m.t.Context(), PackageOptions{Version: version, LockWait: m.options.LockWait}); err != nil {
		m.t.Fatalf("%v (hint: %s)", err, fault.Of(err).Hint)
	}
}

func TestPackageIsPutInPlaceAndEnrolledLater(t *testing.T) {
	_, m := published(t)
	m.unpack()
	m.configure("1.0.0")
	if m.systemd.running || m.systemd.on || m.layout.currentVersion() != "1.0.0" || !strings.Contains(m.out.String(), "to enrol this host") {
		t.Errorf("got running %v, enabled %v, current %q, said %q; wanted the program in place and nothing started", m.systemd.running, m.systemd.on, m.layout.currentVersion(), m.out.String())
	}
	if text, err := os.ReadFile(m.layout.Config()); err != nil || string(text) != "# brought by the package\n" {
		t.Errorf("settings: got %q, %v, wanted the package's", text, err)
	}
	// The root that the package brought is enough to verify by.
	m.mustInstall(func(o *Options) { o.TrustRoot = "" })
	if !m.systemd.running || !m.systemd.on || m.enrolled != 1 {
		t.Errorf("got running %v, enabled %v, enrolled %d times; wanted a managed host", m.systemd.running, m.systemd.on, m.enrolled)
	}
	for _, path := range []string{m.layout.Unit(), m.layout.Link()} {
		if _, err := os.Lstat(path); err == nil {
			t.Errorf("%s was made, beside the package's", path)
		}
	}
	if r := m.mustInstall(); r.Changed || len(m.systemd.calls) > 0 {
		t.Errorf("a second run: got %+v, systemd told %v, wanted nothing changed", r, m.systemd.calls)
	}

	before := m.tree()
	m.configure("1.0.0")
	if m.tree() != before || strings.Join(m.systemd.calls, " ") != "reload" {
		t.Errorf("configured again: systemd told %v, tree\n%s\nwanted nothing changed", m.systemd.calls, m.tree())
	}
	m.configure("1.1.0")
	if m.layout.currentVersion() != "1.1.0" || strings.Join(m.systemd.calls, " ") != "reload restart" {
		t.Errorf("upgraded: got current %q, systemd told %v, wanted 1.1.0 and a restart", m.layout.currentVersion(), m.systemd.calls)
	}
	m.configure("1.0.0")
	if m.layout.currentVersion() != "1.0.0" {
		t.Errorf("set back by the package manager: got current %q, wanted 1.0.0", m.layout.currentVersion())
	}
}

func TestPackageLeavesANewerVersionAlone(t *testing.T) {
	_, m := published(t)
	m.unpack()
	m.configure("1.0.0")
	newer := m.layout.version("2.0.0-01020304")
	if err := os.MkdirAll(filepath.Join(newer, "bin"), 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := m.layout.point(m.layout.Current(), "versions/2.0.0-01020304"); err != nil {
		t.Fatal(err)
	}
	m.systemd.running = true
	m.configure("1.5.0")
	if m.layout.currentVersion() != "2.0.0" || strings.Join(m.systemd.calls, " ") != "reload" {
		t.Errorf("got current %q, systemd told %v, wanted 2.0.0, not restarted", m.layout.currentVersion(), m.systemd.calls)
	}
	m.configure("2.1.0")
	if m.layout.currentVersion() != "2.1.0" || !strings.Contains(strings.Join(m.systemd.calls, " "), "restart") {
		t.Errorf("got current %q, systemd told %v, wanted 2.1.0 and a restart", m.layout.currentVersion(), m.systemd.calls)
	}
}

// An agent that the script installed becomes the package's: one unit, the same identity.
func TestPackageTakesOverFromTheScript(t *testing.T) {
	_, m := published(t)
	m.mustInstall()
	m.unpack()
	m.configure("1.1.0")
	if _, err := os.Lstat(m.layout.Unit()); err == nil {
		t.Error("the installer's unit hides the package's")
	}
	if !m.systemd.on || !m.systemd.running || m.layout.currentVersion() != "1.1.0" || m.enrolled != 1 {
		t.Errorf("got enabled %v, running %v, current %q; wanted the agent running on", m.systemd.on, m.systemd.running, m.layout.currentVersion())
	}
}

func TestUninstallLeavesThePackageItsFiles(t *testing.T) {
	_, m := published(t)
	m.unpack()
	m.configure("1.0.0")
	m.mustInstall()
	o := UninstallOptions{Purge: true, LockWait: m.options.LockWait}
	if err := m.installer.Uninstall(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]bool{m.layout.Current(): true, filepath.Dir(m.layout.Config()): true, m.layout.Config(): false, m.layout.State(): false} {
		if _, err := os.Stat(path); (err == nil) != want {
			t.Errorf("%s is there: %v, wanted %v", path, err == nil, want)
		}
	}
	// And the host can be enrolled anew, which is what hints say.
	if r := m.mustInstall(); m.enrolled != 2 || r.State != "managed" {
		t.Errorf("installed anew: got %+v, enrolled %d times", r, m.enrolled)
	}
	if err := m.installer.Uninstall(t.Context(), UninstallOptions{Packaged: true, LockWait: m.options.LockWait}); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]bool{m.layout.Base(): false, m.layout.Config(): true, m.layout.State(): true} {
		if _, err := os.Stat(path); (err == nil) != want {
			t.Errorf("after the package: %s is there: %v, wanted %v", path, err == nil, want)
		}
	}
	if m.systemd.running || m.systemd.on {
		t.Error("the agent still runs, or is enabled")
	}
}

func TestPackageOfAnAgentThatDoesNotStartIsStillConfigured(t *testing.T) {
	_, m := published(t)
	m.mustInstall()
	m.unpack()
	m.systemd.failStart = fault.New(fault.Internal, "agent_start_failed", "the agent does not start")
	m.configure("1.1.0")
	if !strings.Contains(m.out.String(), "warning: the agent does not start") {
		t.Errorf("said %q, wanted a warning", m.out.String())
	}
}

func TestPackageWaitsForAnInstallation(t *testing.T) {
	_, m := published(t)
	m.unpack()
	unlock, err := m.layout.lock(t.Context(), time.Second, func(string) {}, false)
	if err != nil {
		t.Fatal(err)
	}
	o := PackageOptions{Version: "1.0.0", LockWait: 200 * time.Millisecond}
	if err := m.installer.ConfigurePackage(t.Context(), o); code(err) != "install_busy" {
		t.Errorf("beside another installation: got %v, wanted install_busy", err)
	}
	if _, err := os.Lstat(m.layout.Base()); err == nil {
		t.Error("something was put in place beside another installation")
	}
	unlock()
	m.configure("1.0.0")
}

func TestOtherFormatsAreNotTakenForTheProgram(t *testing.T) {
	target := release.Target{Name: release.Agent, Version: "1.0.0", OS: "linux", Architecture: "amd64", Channel: release.Stable, Format: "apk", Length: 1, SHA256: make([]byte, 32)}
	target.Path = target.FilePath()
	if err := target.Validate(); err != nil {
		t.Errorf("a format of the future: %v, wanted it passed over", err)
	}
	if got, ok := release.Newest([]release.Target{target}, release.Agent, release.Stable, "linux", "amd64"); ok {
		t.Errorf("got %+v as the newest program", got)
	}
}

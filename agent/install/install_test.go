package install

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/loopbackd/loopback/agent/config"
	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/release"
	"github.com/loopbackd/loopback/token"
	"github.com/loopbackd/loopback/trust"
)

func published(t *testing.T) (*plane, *machine) {
	t.Helper()
	p := newPlane(t)
	p.publish("1.0.0", release.Stable)
	return p, newMachine(t, p)
}

func TestInstallPutsEverythingInPlace(t *testing.T) {
	p, m := published(t)
	yes := true
	r := m.mustInstall(func(o *Options) { o.Allow.Exec = &yes; o.Version = "1.0.0" })
	if !r.Changed || r.HostID != "hst_1" || r.State != "managed" || r.Version != "1.0.0" || m.enrolled != 1 || !m.systemd.running || !m.systemd.on {
		t.Errorf("got %+v, enrolled %d times, running %v; wanted a managed host", r, m.enrolled, m.systemd.running)
	}
	program, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	if held, err := os.ReadFile(filepath.Join(m.layout.Current(), "bin", "loopback-agent")); err != nil || !bytes.Equal(held, program) {
		t.Errorf("the current program: got %d bytes, %v; wanted this one", len(held), err)
	}
	for path, want := range map[string]os.FileMode{
		m.layout.Config(): 0o600, m.layout.CAFile(): 0o644, m.layout.Unit(): 0o644, m.layout.State(): 0o700 | os.ModeDir,
		m.layout.Base(): 0o755 | os.ModeDir, filepath.Join(m.layout.Current(), "bin", "loopback-agent"): 0o755,
	} {
		if info, err := os.Stat(path); err != nil || info.Mode() != want {
			t.Errorf("%s: got %v, %v; wanted %v", path, info.Mode(), err, want)
		}
	}
	if target, err := os.Readlink(m.layout.Link()); err != nil || target != "/opt/loopback/current/bin/loopback-agent" {
		t.Errorf("the link in the path: got %q, %v", target, err)
	}
	c, err := config.Read(m.layout.Config())
	if err != nil || c.Endpoints[0] != p.http.URL || c.Anchor != m.secret.Anchor || c.CAFile != "/etc/loopback/ca.pem" || !c.Allow.Exec || c.Allow.Shell {
		t.Errorf("settings: got %+v, %v", c, err)
	}
	if strings.Contains(m.out.String(), m.secret.Reveal()) || grep(t, m.layout.Root, m.secret.Reveal()) != "brought/token" {
		t.Errorf("the token is in %q and in the output %q", grep(t, m.layout.Root, m.secret.Reveal()), m.out.String())
	}
}

// grep names the files that hold a text.
func grep(t *testing.T, root, text string) string {
	t.Helper()
	var found []string
	err := filepath.WalkDir(root, func(path string, d os.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		b, err := os.ReadFile(path)
		if bytes.Contains(b, []byte(text)) {
			rel, _ := filepath.Rel(root, path)
			found = append(found, rel)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(found, " ")
}

func TestSecondRunChangesNothing(t *testing.T) {
	_, m := published(t)
	m.mustInstall()
	before := m.tree()
	r := m.mustInstall(func(o *Options) { o.TokenFile = "" })
	if r.Changed || len(m.systemd.calls) != 0 || m.enrolled != 1 || m.tree() != before || !strings.Contains(m.out.String(), "nothing changed") {
		t.Errorf("second run: got %+v, systemd told %v, enrolled %d times, said %q, tree\n%s\nwanted nothing done", r, m.systemd.calls, m.enrolled, m.out.String(), m.tree())
	}
	m.systemd.running = false
	if r := m.mustInstall(); !r.Changed || !m.systemd.running {
		t.Errorf("an agent that was stopped: got %+v, running %v; wanted it started", r, m.systemd.running)
	}
}

func TestDryRunChangesNothing(t *testing.T) {
	_, m := published(t)
	before := m.tree()
	for _, change := range []func(*Options){func(o *Options) {}, func(o *Options) { o.TokenFile = "" }} {
		r, err := m.install(change, func(o *Options) { o.DryRun = true })
		if err != nil || r.Changed || m.tree() != before || len(m.systemd.calls) != 0 || m.enrolled != 0 {
			t.Errorf("got %+v, %v, said %q and left\n%s", r, err, m.out.String(), m.tree())
		}
	}
	for _, want := range []string{"would put", "would write", "would enrol", "nothing was changed"} {
		if !strings.Contains(m.out.String(), want) {
			t.Errorf("got %q, wanted %q in it", m.out.String(), want)
		}
	}
}

func TestRefusedEnrolmentLeavesNothingRunningAndAFreshTokenFinishes(t *testing.T) {
	_, m := published(t)
	for _, refusal := range []*fault.Error{token.ErrExpired, token.ErrExhausted, token.ErrRevoked, token.ErrNetwork, token.ErrUnknown} {
		m.refuse = refusal
		_, err := m.install()
		if code(err) != refusal.Code || fault.Of(err).Hint != refusal.Hint || m.systemd.running || len(m.systemd.calls) != 0 {
			t.Errorf("%s: got %v (hint %q), systemd told %v", refusal.Code, err, fault.Of(err).Hint, m.systemd.calls)
		}
		if _, err := os.Lstat(m.layout.Current()); err == nil {
			t.Errorf("%s: a version is current", refusal.Code)
		}
	}
	m.refuse = nil
	if r := m.mustInstall(); r.State != "managed" || m.enrolled != 1 {
		t.Errorf("with a fresh token: got %+v", r)
	}
}

func TestTokens(t *testing.T) {
	_, m := published(t)
	write := func(s string) string {
		path := filepath.Join(t.TempDir(), "token")
		if err := os.WriteFile(path, []byte(s), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for name, c := range map[string]struct {
		change func(*Options)
		want   string
	}{
		"none":                     {func(o *Options) { o.TokenFile = "" }, "token_missing"},
		"empty standard input":     {func(o *Options) { o.TokenFile = "-"; o.Stdin = strings.NewReader("\n") }, "token_missing"},
		"a missing file":           {func(o *Options) { o.TokenFile = "/nowhere" }, "token_unreadable"},
		"a huge file":              {func(o *Options) { o.TokenFile = "/dev/zero" }, "token_unreadable"},
		"cut short":                {func(o *Options) { o.TokenFile = write(m.secret.Reveal()[:60]) }, "token_malformed"},
		"another control plane's":  {func(o *Options) { o.Anchor = trust.AnchorHash{9} }, "anchor_conflict"},
		"something else":           {func(o *Options) { o.TokenFile = write("hunter2") }, "token_malformed"},
		"two of them":              {func(o *Options) { o.TokenFile = write(m.secret.Reveal() + "\n" + m.secret.Reveal()) }, "token_malformed"},
		"the file wins over stdin": {func(o *Options) { o.TokenFile = write("x"); o.Stdin = strings.NewReader(m.secret.Reveal()) }, "token_malformed"},
	} {
		before := m.tree()
		if _, err := m.install(c.change); code(err) != c.want || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: got %v, wanted %s", name, err, c.want)
		} else if m.tree() != before && !strings.Contains(m.tree(), "install.lock") {
			t.Errorf("%s: left\n%s", name, m.tree())
		}
	}
	m.mustInstall(func(o *Options) { o.TokenFile = ""; o.Stdin = strings.NewReader("  " + m.secret.Reveal() + "\r\n") })
}

func TestChoicesOfTheHostsAdministratorAreKept(t *testing.T) {
	p, m := published(t)
	chosen := "# ours\nendpoints: [https://lb.example.com:8443, " + p.http.URL + "] # first the office's\nproxy: http://proxy:3128\nno_proxy: [127.0.0.1]\nallow: {exec: true, shell: true}\n"
	if err := os.MkdirAll(filepath.Dir(m.layout.Config()), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(m.layout.Config(), []byte(chosen), 0o600); err != nil {
		t.Fatal(err)
	}
	no := false
	// The proxy is not there, and is not used for 127.0.0.1.
	m.mustInstall(func(o *Options) { o.Allow.Shell = &no })
	c, err := config.Read(m.layout.Config())
	if err != nil || len(c.Endpoints) != 2 || c.Endpoints[0] != "https://lb.example.com:8443" || c.Proxy != "http://proxy:3128" || !c.Allow.Exec || c.Allow.Shell {
		t.Errorf("got %+v, %v", c, err)
	}
	if text, _ := os.ReadFile(m.layout.Config()); !strings.Contains(string(text), "# first the office's") {
		t.Errorf("the comment is gone: %s", text)
	}
}

func TestWrongSettingsStopBeforeAnythingChanges(t *testing.T) {
	_, m := published(t)
	for name, change := range map[string]func(*Options){
		"http":      func(o *Options) { o.Endpoint = "http://lb" },
		"a path":    func(o *Options) { o.Endpoint += "/x" },
		"a proxy":   func(o *Options) { o.Proxy = "ftp://proxy:1" },
		"no CA":     func(o *Options) { o.CAFile = "/nowhere" },
		"not a CA":  func(o *Options) { o.CAFile = o.TokenFile },
		"no root":   func(o *Options) { o.TrustRoot = "" },
		"root gone": func(o *Options) { o.TrustRoot = "/nowhere" },
	} {
		before := strings.ReplaceAll(m.tree(), "\n", "\n")
		if _, err := m.install(change); err == nil || fault.KindOf(err) == fault.Internal {
			t.Errorf("%s: got %v, wanted a refusal", name, err)
		} else if after := m.tree(); after != before && strings.Contains(after, "opt") {
			t.Errorf("%s: left\n%s", name, after)
		}
	}
	if err := os.MkdirAll(filepath.Dir(m.layout.Config()), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(m.layout.Config(), []byte("endpoints: [\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := m.install(); fault.KindOf(err) != fault.Invalid {
		t.Errorf("a broken agent.yaml: got %v, wanted it left to its owner", err)
	}
}

func TestProxySettingsAreCaptured(t *testing.T) {
	_, m := published(t)
	m.installer.getenv = func(name string) string {
		return map[string]string{"https_proxy": "proxy.example.com:3128", "NO_PROXY": "127.0.0.1, .example.com"}[name]
	}
	m.mustInstall()
	c, err := config.Read(m.layout.Config())
	if err != nil || c.Proxy != "http://proxy.example.com:3128" || strings.Join(c.NoProxy, " ") != "127.0.0.1 .example.com" {
		t.Errorf("got %q, %q, %v", c.Proxy, c.NoProxy, err)
	}
	m.installer.getenv = func(string) string { return "" }
	m.mustInstall()
	if again, _ := config.Read(m.layout.Config()); again.Proxy != c.Proxy {
		t.Errorf("run without it: got %q, wanted it kept", again.Proxy)
	}
	file := filepath.Join(t.TempDir(), "proxy")
	if err := os.WriteFile(file, []byte("http://agent:s3cret@proxy.example.com:3128\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := m.install(func(o *Options) { o.ProxyFile = file }); code(err) != "proxy_exposed" {
		t.Errorf("a file that others can read: %v", err)
	}
	if err := os.Chmod(file, 0o600); err != nil {
		t.Fatal(err)
	}
	m.mustInstall(func(o *Options) { o.ProxyFile = file })
	if again, _ := config.Read(m.layout.Config()); again.Proxy != "http://agent:s3cret@proxy.example.com:3128" {
		t.Errorf("run with a file: got %q", again.Proxy)
	}
	if info, err := os.Stat(m.layout.Config()); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("agent.yaml with a password: %v, %v", info.Mode(), err)
	}
	m.mustInstall(func(o *Options) { o.Proxy = "none" })
	if again, _ := config.Read(m.layout.Config()); again.Proxy != "" {
		t.Errorf("run with none: got %q", again.Proxy)
	}
}

func TestWhatTheAgentSaysAtTheEnd(t *testing.T) {
	_, m := published(t)
	m.mustInstall()
	for name, c := range map[string]struct {
		standing Standing
		code     string
		say      string
	}{
		"managed":  {Standing{Managed: true, State: "managed"}, "", "is managed"},
		"pending":  {Standing{State: "pending", Linked: true}, "", "awaits approval"},
		"refused":  {Standing{Refused: true, Trouble: "the host was removed", Hint: "purge"}, "host_refused", ""},
		"trouble":  {Standing{Trouble: "nothing answers"}, "not_managed", "nothing answers"},
		"no link":  {Standing{}, "not_managed", ""},
		"unmoving": {Standing{Linked: true}, "not_managed", ""},
	} {
		m.standing = c.standing
		if _, err := m.install(func(o *Options) { o.Wait = 50 * time.Millisecond }); code(err) != c.code || !strings.Contains(m.out.String(), c.say) {
			t.Errorf("%s: got %v and %q, wanted %s and %q", name, err, m.out.String(), c.code, c.say)
		}
	}
	if _, err := m.install(func(o *Options) { o.Wait = 0 }); err != nil {
		t.Errorf("without waiting: got %v", err)
	}
}

func TestTwoInstallationsAtOnce(t *testing.T) {
	_, m := published(t)
	unlock, err := m.layout.lock(t.Context(), time.Second, func(string) {}, false)
	if err != nil {
		t.Fatal(err)
	}
	_, err = m.install(func(o *Options) { o.LockWait = 10 * time.Millisecond })
	if code(err) != "install_busy" || !strings.Contains(err.Error(), "process ") {
		t.Errorf("while it is held: got %v, wanted install_busy with the holder", err)
	}
	done := make(chan error)
	o := m.options
	o.LockWait = time.Minute
	go func() {
		_, err := m.installer.Install(t.Context(), o)
		done <- err
	}()
	unlock()
	if err := <-done; err != nil {
		t.Errorf("after it: got %v", err)
	}
}

func TestUninstallRemovesWhatInstallMade(t *testing.T) {
	_, m := published(t)
	before := m.tree()
	m.mustInstall()
	installed := m.tree()
	uninstall := func(o UninstallOptions) {
		t.Helper()
		m.out.Reset()
		if err := m.installer.Uninstall(t.Context(), o); err != nil {
			t.Fatal(err)
		}
	}
	if uninstall(UninstallOptions{DryRun: true}); m.tree() != installed {
		t.Errorf("a dry run left\n%s\nwanted\n%s", m.tree(), installed)
	}
	uninstall(UninstallOptions{})
	if left := m.tree(); strings.Contains(left, "opt/loopback") || strings.Contains(left, "bin/loopback-agent") || strings.Contains(left, ".service") ||
		!strings.Contains(left, "var/lib/loopback/identity") || !strings.Contains(left, "agent.yaml") || m.systemd.running || m.systemd.on {
		t.Errorf("left\n%s", left)
	}
	m.mustInstall(func(o *Options) { o.TokenFile = "" })
	if m.enrolled != 1 {
		t.Errorf("installed again: enrolled %d times, wanted the identity used", m.enrolled)
	}
	uninstall(UninstallOptions{Purge: true})
	uninstall(UninstallOptions{Purge: true})
	if !strings.Contains(m.out.String(), "nothing is installed") {
		t.Errorf("the second time: said %q", m.out.String())
	}
	var left []string
	for line := range strings.Lines(m.tree()) {
		if !strings.Contains(before, line) && !strings.HasPrefix(line, "opt d") && !strings.HasPrefix(line, "usr") && !strings.HasPrefix(line, "var d") && !strings.HasPrefix(line, "var/lib d") && !strings.HasPrefix(line, "run d") {
			left = append(left, line)
		}
	}
	if len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestSomebodyElsesProgramOfThatNameStays(t *testing.T) {
	_, m := published(t)
	if err := os.MkdirAll(filepath.Dir(m.layout.Link()), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(m.layout.Link(), []byte("mine"), 0o755); err != nil {
		t.Fatal(err)
	}
	m.mustInstall()
	if err := m.installer.Uninstall(t.Context(), UninstallOptions{Purge: true}); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(m.layout.Link()); err != nil || string(b) != "mine" {
		t.Errorf("got %q, %v; wanted it left alone", b, err)
	}
}

func TestDamagedAndInterruptedStagesAreMended(t *testing.T) {
	_, m := published(t)
	m.mustInstall()
	program := filepath.Join(m.layout.Current(), "bin", "loopback-agent")
	want, err := os.ReadFile(program)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(program, want[:1000], 0o755); err != nil {
		t.Fatal(err)
	}
	left := filepath.Join(m.layout.Base(), ".staging.dead")
	if err := os.Mkdir(left, 0o700); err != nil {
		t.Fatal(err)
	}
	old := time.Now().Add(-48 * time.Hour)
	if err := os.Chtimes(left, old, old); err != nil {
		t.Fatal(err)
	}
	m.mustInstall()
	if got, err := os.ReadFile(program); err != nil || !bytes.Equal(got, want) {
		t.Errorf("the program: got %d bytes, %v; wanted %d", len(got), err, len(want))
	}
	if _, err := os.Stat(left); err == nil {
		t.Errorf("%s is still there", left)
	}
}

func TestTwoVersionsAreKept(t *testing.T) {
	_, m := published(t)
	m.mustInstall()
	for i, name := range []string{"0.1.0-00000001", "0.2.0-00000002", "0.3.0-00000003"} {
		if err := os.MkdirAll(m.layout.version(name), 0o755); err != nil {
			t.Fatal(err)
		}
		at := time.Now().Add(time.Duration(i-10) * time.Hour)
		if err := os.Chtimes(m.layout.version(name), at, at); err != nil {
			t.Fatal(err)
		}
	}
	m.mustInstall()
	entries, err := os.ReadDir(m.layout.versions())
	if err != nil || len(entries) != 2 || entries[0].Name() != "0.3.0-00000003" {
		t.Errorf("got %v, %v; wanted the current one and 0.3.0", entries, err)
	}
}

func TestPreflightNamesWhatIsWrongWithTheDisk(t *testing.T) {
	_, m := published(t)
	if err := os.MkdirAll(m.layout.Base(), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		flags         uintptr
		options, want string
	}{
		"full":      {0, "size=1m", "disk_full"},
		"no inodes": {0, "nr_inodes=10", "disk_full"},
		"noexec":    {syscall.MS_NOEXEC, "", "disk_noexec"},
		"read-only": {syscall.MS_RDONLY, "", "disk_read_only"},
	} {
		if err := syscall.Mount("tmpfs", m.layout.Base(), "tmpfs", c.flags, c.options); err != nil {
			t.Skipf("missing feature: mounting a tmpfs (%v)", err)
		}
		_, err := m.install()
		if code(err) != c.want || fault.Of(err).Hint == "" {
			t.Errorf("%s: got %v, wanted %s with a hint", name, err, c.want)
		}
		if err := syscall.Unmount(m.layout.Base(), 0); err != nil {
			t.Fatal(err)
		}
	}
}

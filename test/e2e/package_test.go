package e2e

import (
	"fmt"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/loopbackd/loopback/release"
	"github.com/loopbackd/loopback/test/e2e/controlplane"
)

// A deb from the control plane is installed, enrolled, upgraded, removed, installed again and purged by the tools that
// Debian has.
func TestDebKeepsHouse(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "e2e-deb", nil, "packed")
	m := w.machines["packed"]
	w.PublishPackages(t, controlplane.Stable, "stable")
	w.PublishPackages(t, controlplane.Preview, "preview")
	for _, version := range []string{controlplane.Stable, controlplane.Preview} {
		must(t, m, fmt.Sprintf("curl -fsSk -o /tmp/%s.deb %s/dl/targets/loopback-agent/%s/linux-%s/%s", version, w.URL, version, runtime.GOARCH,
			release.FileName(release.Agent, version, runtime.GOARCH, release.FormatDeb)))
		var shown struct {
			Targets []struct{ Format, Sha256 string }
		}
		w.JSON(t, &shown, "release", "show", "loopback-agent "+version)
		sum, _, _ := strings.Cut(must(t, m, "sha256sum /tmp/"+version+".deb"), " ")
		formats := map[string]string{}
		for _, each := range shown.Targets {
			formats[each.Format] = each.Sha256
		}
		if len(formats) != 4 || formats[release.FormatDeb] != sum {
			t.Errorf("%s: got targets %v and a deb of %s, wanted four formats and the deb's hash among them", version, formats, sum)
		}
	}
	before := files(t, m)

	out := must(t, m, "dpkg -i /tmp/0.1.0.deb")
	if !strings.Contains(out, "to enrol this host") {
		t.Errorf("installing said %q, wanted what comes next", out)
	}
	if r := run(t, m, "systemctl is-active loopback-agent; systemctl is-enabled loopback-agent"); strings.TrimSpace(r.Stdout) != "inactive\ndisabled" {
		t.Errorf("the unit before enrolling: got %q, wanted it neither started nor enabled", r.Stdout)
	}
	if r := run(t, m, "loopback-agent install </dev/null"); r.ExitCode != 2 || !strings.Contains(r.Stderr, "token") {
		t.Errorf("without a token: got exit code %d, %s, wanted 2 and what is missing", r.ExitCode, r.Stderr)
	}

	ca, err := w.CA()
	if err != nil {
		t.Fatal(err)
	}
	runInput(t, m, ca, "cat >/etc/loopback/ca.pem")
	must(t, m, fmt.Sprintf("printf 'endpoints: [%s]\\nca_file: /etc/loopback/ca.pem\\n' >>/etc/loopback/agent.yaml", w.URL))
	token := w.Mint(t)
	runInput(t, m, token.Secret, "umask 077 && cat >/root/token")
	enrolled := must(t, m, "loopback-agent install --token-file /root/token")
	first := w.Host(t, "packed")
	if first.State != "managed" || !strings.Contains(enrolled, "by the publisher's signature") {
		t.Errorf("got %s (%s), wanted managed, and verified\n%s", first.State, first.Reason, enrolled)
	}
	if got := must(t, m, "systemctl show -p FragmentPath --value loopback-agent"); got != "/usr/lib/systemd/system/loopback-agent.service" && got != "/lib/systemd/system/loopback-agent.service" {
		t.Errorf("the unit is %s, wanted the package's", got)
	}
	if r := run(t, m, "systemd-analyze security --no-pager --threshold=30 loopback-agent.service"); r.ExitCode != 0 {
		t.Errorf("exposure above 3.0:\n%s", r.Stdout)
	}
	if again := must(t, m, "loopback-agent install"); !strings.Contains(again, "nothing changed") {
		t.Errorf("a second run said %q, wanted that nothing changed", again)
	}
	verify := func() {
		t.Helper()
		if r := run(t, m, "dpkg --verify loopback-agent"); r.ExitCode != 0 || r.Stdout != "" {
			t.Errorf("dpkg finds its files changed: %s%s", r.Stdout, r.Stderr)
		}
	}
	verify()

	settings := must(t, m, "sha256sum /etc/loopback/agent.yaml")
	pid := mainPID(t, m)
	start := time.Now()
	must(t, m, "dpkg -i /tmp/0.1.1.deb")
	await(t, 10*time.Second, "the new version", func() bool { s := status(t, m); return s.Version == "0.1.1" && s.OK })
	t.Logf("upgraded and managed after %v", time.Since(start).Round(time.Millisecond))
	if h := w.Host(t, "packed"); h.ID != first.ID || mainPID(t, m) == pid || must(t, m, "sha256sum /etc/loopback/agent.yaml") != settings {
		t.Errorf("after the upgrade: got host %s, process %s, wanted host %s in another process, and its settings as they were", h.ID, mainPID(t, m), first.ID)
	}
	verify()

	// The agent keeps what it runs and the version before; an older package is what the operator asked for, too.
	must(t, m, "dpkg -i /tmp/0.1.0.deb")
	await(t, 10*time.Second, "the version before", func() bool { s := status(t, m); return s.Version == "0.1.0" && s.OK })
	if got := must(t, m, "loopback-agent uninstall --dry-run"); strings.Contains(got, "/opt/loopback") {
		t.Errorf("uninstall would take the package's program: %s", got)
	}

	must(t, m, "DEBIAN_FRONTEND=noninteractive apt-get remove -y -qq loopback-agent")
	left := slices.DeleteFunc(difference(files(t, m), before), packageManagers)
	for _, path := range left {
		if !strings.HasPrefix(path, "/etc/loopback") && !strings.HasPrefix(path, "/var/lib/loopback") && path != "/root/token" {
			t.Errorf("removing left %s", path)
		}
	}
	if found := run(t, m, "ps -eo args | grep [l]oopback-agent").Stdout; found != "" {
		t.Errorf("processes left:\n%s", found)
	}
	must(t, m, "dpkg -i /tmp/0.1.1.deb")
	await(t, 10*time.Second, "back without a token", func() bool { s := status(t, m); return s.HostID == first.ID && s.OK })

	must(t, m, "DEBIAN_FRONTEND=noninteractive apt-get purge -y -qq loopback-agent && rm /root/token")
	after := files(t, m)
	if left, lost := slices.DeleteFunc(difference(after, before), packageManagers), slices.DeleteFunc(difference(before, after), packageManagers); len(left)+len(lost) > 0 {
		t.Errorf("purging left %v and took %v; wanted the machine as it was", left, lost)
	}
	if units := run(t, m, "systemctl list-unit-files --no-legend 'loopback*'; systemctl list-units --all --no-legend 'loopback*'").Stdout; strings.TrimSpace(units) != "" {
		t.Errorf("units left:\n%s", units)
	}
}

// packageManagers is what dpkg and apt keep for themselves.
func packageManagers(path string) bool {
	for _, theirs := range []string{"/var/lib/dpkg", "/var/lib/apt", "/var/cache", "/run/lock", "/var/backups"} {
		if path == theirs || strings.HasPrefix(path, theirs+"/") {
			return true
		}
	}
	return false
}

package e2e

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/loopbackd/loopback/test/e2e/controlplane"
	"github.com/loopbackd/loopback/test/lab"
)

// Between hosts and control plane stands somebody who lets nothing be downloaded. A bundle that is carried to a host, and a
// plain file server with a mirror, make up for it.
func TestHostsThatCannotDownload(t *testing.T) {
	t.Parallel()
	n := newNetwork(t, "e2e-mirror")
	between := newMiddle(t, n.HostAddress())
	w := &world{network: n, machines: map[string]*lab.Machine{}}
	booted := make(chan error, 1)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go func() { booted <- w.boot(ctx, "carried", "mirrored") }()
	w.ControlPlane = controlplane.Start(t, controlplane.Options{
		Address: n.HostAddress(), PublicURL: between.url, CAFile: between.caFile(),
		Args: []string{"--tls-certificate", between.certificate, "--tls-key", between.key, "--trusted-proxy", n.HostAddress().String() + "/32"},
	})
	between.lead(t, w.URL)
	between.set(func(rw http.ResponseWriter, r *http.Request) bool {
		if strings.HasPrefix(r.URL.Path, "/dl/") {
			http.Error(rw, "downloads are not allowed here", http.StatusForbidden)
			return true
		}
		return false
	}, nil)
	if err := <-booted; err != nil {
		t.Fatal(err)
	}
	for _, m := range w.machines {
		if err := m.PutFile(t.Context(), "/usr/local/share/ca-certificates/company.crt", strings.NewReader(string(between.authority)), 0o644); err != nil {
			t.Fatal(err)
		}
		must(t, m, "update-ca-certificates")
	}

	t.Run("a bundle", func(t *testing.T) {
		m, file := w.machines["carried"], filepath.Join(t.TempDir(), "bundle.tar.gz")
		if r := w.Run(t, "release", "bundle", file); r.ExitCode != 0 || !strings.Contains(r.Stderr, "hosts install from this until") {
			t.Fatalf("exit code %d, wanted 0 and how long it is good\n%s%s", r.ExitCode, r.Stdout, r.Stderr)
		}
		for words, code := range map[string]int{"--version 9.9.9": 5, "--platform linux-riscv64": 5, "--channel nightly": 2, "--version one": 2} {
			other := filepath.Join(t.TempDir(), "other.tar.gz")
			r := w.Run(t, append([]string{"release", "bundle", other}, strings.Fields(words)...)...)
			if _, err := os.Stat(other); r.ExitCode != code || hintOf(r.Stderr) == "" || err == nil {
				t.Errorf("bundle %s: exit code %d, wanted %d, a hint and no file\n%s", words, r.ExitCode, code, r.Stderr)
			}
		}
		f, err := os.Open(file)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if err := m.PutFile(t.Context(), "/root/bundle.tar.gz", f, 0o600); err != nil {
			t.Fatal(err)
		}
		must(t, m, "cd /root && tar -xzf bundle.tar.gz")
		token := w.Mint(t)
		from := func(folder string) lab.Result {
			t.Helper()
			return runInput(t, m, token.Secret, "LOOPBACK_TOKEN=$(cat) && export LOOPBACK_TOKEN && sh /root/"+folder+"/install.sh")
		}
		// In this order: what was verified of one attempt is kept, and the next may do with it.
		for _, c := range []struct{ name, harm, says string }{
			{"missing metadata", "rm /root/bad/metadata/*.snapshot.json", "the bundle lacks metadata/"},
			{"a missing program", "rm -r /root/bad/targets", "the bundle lacks targets/"},
			{"an altered program", "f=$(find /root/bad/targets -type f) && printf x >>$f", "is not loopback-agent 0.1.0"},
			{"no metadata", "rm -r /root/bad/metadata", "403"},
			{"altered metadata", "sed -i s/0.1.0/0.1.9/ /root/bad/metadata/*.targets.json", "not validly signed"},
		} {
			must(t, m, "rm -rf /root/bad && cp -r /root/loopback-0.1.0 /root/bad && "+c.harm)
			r := from("bad")
			if text := r.Stdout + r.Stderr; r.ExitCode == 0 || !strings.Contains(text, c.says) || hintOf(text) == "" {
				t.Errorf("%s: got exit code %d, wanted a refusal that says %q, and a hint\n%s", c.name, r.ExitCode, c.says, text)
			}
			if left := run(t, m, "ls -A /opt/loopback 2>/dev/null").Stdout; strings.TrimSpace(left) != "" {
				t.Errorf("%s left %s", c.name, left)
			}
		}
		if r := from("loopback-0.1.0"); r.ExitCode != 0 || !strings.Contains(r.Stdout, "by the publisher's signature") {
			t.Fatalf("exit code %d, wanted 0, and verified\n%s%s", r.ExitCode, r.Stdout, r.Stderr)
		}
		if h := w.Host(t, "carried"); h.State != "managed" {
			t.Errorf("got %s (%s), wanted managed", h.State, h.Reason)
		}
		if r := from("loopback-0.1.0"); r.ExitCode != 0 || !strings.Contains(r.Stdout, "nothing changed") {
			t.Errorf("again: exit code %d, wanted 0 and nothing changed\n%s%s", r.ExitCode, r.Stdout, r.Stderr)
		}
	})

	t.Run("a mirror", func(t *testing.T) {
		m, dir := w.machines["mirrored"], filepath.Join(t.TempDir(), "www")
		w.Must(t, "release", "mirror", dir)
		l, err := net.Listen("tcp", netip.AddrPortFrom(n.HostAddress(), 0).String())
		if err != nil {
			t.Fatal(err)
		}
		server := &http.Server{Handler: http.FileServer(http.Dir(dir))}
		served := make(chan struct{})
		go func() {
			defer close(served)
			_ = server.Serve(l) // until it is closed
		}()
		defer func() {
			_ = server.Close()
			<-served
		}()
		token := w.Mint(t)
		if r := install(t, m, token.InstallCommand, token.Secret); r.ExitCode == 0 || !strings.Contains(r.Stderr, "403") {
			t.Fatalf("without the mirror: exit code %d, wanted a refusal\n%s%s", r.ExitCode, r.Stdout, r.Stderr)
		}
		r := install(t, m, token.InstallCommand, token.Secret, "--mirror", "http://"+l.Addr().String())
		if r.ExitCode != 0 || !strings.Contains(r.Stdout, "by the publisher's signature") {
			t.Fatalf("exit code %d, wanted 0, and verified\n%s%s", r.ExitCode, r.Stdout, r.Stderr)
		}
		if h := w.Host(t, "mirrored"); h.State != "managed" {
			t.Errorf("got %s (%s), wanted managed", h.State, h.Reason)
		}
		if got := must(t, m, "grep ^mirror: /etc/loopback/agent.yaml"); got != fmt.Sprintf("mirror: http://%s", l.Addr()) {
			t.Errorf("agent.yaml says %q, wanted the mirror", got)
		}
		w.Publish(t, controlplane.Preview, "preview")
		w.Must(t, "release", "mirror", dir)
		r = runInput(t, m, "", token.InstallCommand+" -s -- --channel preview --mirror http://"+l.Addr().String())
		if r.ExitCode != 0 || !strings.Contains(r.Stdout, "0.1.1 is current") {
			t.Errorf("the next version: exit code %d, wanted 0 and 0.1.1\n%s%s", r.ExitCode, r.Stdout, r.Stderr)
		}
	})
}

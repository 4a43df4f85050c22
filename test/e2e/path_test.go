package e2e

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/loopbackd/loopback/test/e2e/controlplane"
	"github.com/loopbackd/loopback/test/lab"
)

// What lies between a host and its control plane can keep an installation from happening, but not alter it, and where
// it lets no WebSocket through the host polls.
func TestWhatLiesBetween(t *testing.T) {
	t.Parallel()
	n := newNetwork(t, "e2e-path")
	between := newMiddle(t, n.HostAddress())
	w := &world{network: n, machines: map[string]*lab.Machine{}}
	booted := make(chan error, 1)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go func() { booted <- w.boot(ctx, "target", "polling") }()
	w.ControlPlane = controlplane.Start(t, controlplane.Options{
		Address: n.HostAddress(), PublicURL: between.url, CAFile: between.caFile(),
		Args: []string{"--tls-certificate", between.certificate, "--tls-key", between.key, "--trusted-proxy", n.HostAddress().String() + "/32"},
	})
	between.lead(t, w.URL)
	if err := <-booted; err != nil {
		t.Fatal(err)
	}
	for _, m := range w.machines {
		if err := m.PutFile(t.Context(), "/usr/local/share/ca-certificates/company.crt", strings.NewReader(string(between.authority)), 0o644); err != nil {
			t.Fatal(err)
		}
		must(t, m, "update-ca-certificates")
	}
	m := w.machines["target"]
	token := w.Mint(t)
	if strings.Contains(token.InstallCommand, "pinnedpubkey") || !strings.Contains(token.InstallCommand, between.url) {
		t.Errorf("command for a certificate that is trusted: got %s, wanted no pin and %s", token.InstallCommand, between.url)
	}
	blank := files(t, m)

	isProgram := func(r *http.Request) bool { return strings.HasPrefix(r.URL.Path, "/dl/targets/") }
	onPath := func(part string, change func([]byte) []byte) func(*http.Response) error {
		return func(r *http.Response) error {
			if !strings.Contains(r.Request.URL.Path, part) {
				return nil
			}
			return rewrite(r, change)
		}
	}
	flip := func(b []byte) []byte {
		b = slices.Clone(b)
		b[len(b)/2] ^= 1
		return b
	}
	var cuts atomic.Int64
	for _, c := range []struct {
		name   string
		meddle func(http.ResponseWriter, *http.Request) bool
		alter  func(*http.Response) error
		reason string
	}{
		{name: "a program with one bit flipped", alter: onPath("/dl/targets/", flip), reason: "what was downloaded is not loopback-agent"},
		{name: "a program with more behind it", alter: onPath("/dl/targets/", func(b []byte) []byte { return append(b, 'x') }), reason: "longer than what was published"},
		{name: "a program that always ends early", alter: onPath("/dl/targets/", func(b []byte) []byte { return b[:min(len(b), 1000)] }), reason: "the download failed"},
		{name: "no program", meddle: func(w http.ResponseWriter, r *http.Request) bool {
			if isProgram(r) {
				http.Error(w, "blocked by policy", http.StatusForbidden)
			}
			return isProgram(r)
		}, reason: "forbidden"},
		{name: "altered metadata", alter: onPath("targets.json", flip), reason: "not validly signed"},
		{name: "a script that ends early", alter: onPath("/install.sh", func(b []byte) []byte { return b[:len(b)*2/3] }), reason: "yntax error"},
	} {
		t.Run(c.name, func(t *testing.T) {
			between.set(c.meddle, c.alter)
			defer between.set(nil, nil)
			start := time.Now()
			r := install(t, m, token.InstallCommand, token.Secret)
			if said := r.Stdout + r.Stderr; r.ExitCode == 0 || !strings.Contains(said, c.reason) {
				t.Errorf("got exit code %d, wanted a refusal with %q\n%s", r.ExitCode, c.reason, said)
			}
			// Release metadata that was verified before stays, so that nothing older is accepted next time.
			left := slices.DeleteFunc(difference(files(t, m), blank), func(path string) bool {
				return path == "/var/lib/loopback" || strings.HasPrefix(path, "/var/lib/loopback/releases") || path == "/run/loopback-install.lock"
			})
			if len(left) > 0 {
				t.Errorf("half an installation is left: %v", left)
			}
			t.Logf("refused after %v", time.Since(start).Round(100*time.Millisecond))
		})
	}

	t.Run("a download that breaks once goes on where it broke", func(t *testing.T) {
		var ranges atomic.Value
		between.set(func(_ http.ResponseWriter, r *http.Request) bool {
			if isProgram(r) && cuts.Load() > 0 {
				ranges.Store(r.Header.Get("Range"))
			}
			return false
		}, func(r *http.Response) error {
			if isProgram(r.Request) && cuts.Add(1) == 1 {
				r.Body = &broken{r.Body, r.ContentLength / 2}
			}
			return nil
		})
		defer between.set(nil, nil)
		r := install(t, m, token.InstallCommand, token.Secret)
		if r.ExitCode != 0 {
			t.Fatalf("exit code %d, wanted 0\n%s%s", r.ExitCode, r.Stdout, r.Stderr)
		}
		if got := fmt.Sprint(ranges.Load()); !strings.HasPrefix(got, "bytes=") || got == "bytes=0-" {
			t.Errorf("range of the second request: got %s, wanted what was missing", got)
		}
		h, _ := w.AwaitState(t, "target", "managed", 5*time.Second)
		if h.AgentVersion != controlplane.Stable {
			t.Errorf("agent: got %s, wanted %s", h.AgentVersion, controlplane.Stable)
		}
	})

	t.Run("downgrades", func(t *testing.T) {
		old := map[string][]byte{}
		between.set(nil, func(r *http.Response) error {
			return rewrite(r, func(b []byte) []byte {
				if strings.Contains(r.Request.URL.Path, "/dl/metadata/") && r.StatusCode == http.StatusOK {
					old[r.Request.URL.Path] = b
				}
				return b
			})
		})
		if r := install(t, m, token.InstallCommand, ""); r.ExitCode != 0 {
			t.Fatalf("exit code %d, wanted 0\n%s%s", r.ExitCode, r.Stdout, r.Stderr)
		}
		between.set(nil, nil)
		if len(old) == 0 {
			t.Fatal("no metadata was fetched")
		}

		w.Publish(t, controlplane.Preview, "preview")
		if r := install(t, m, token.InstallCommand, "", "--channel preview"); r.ExitCode != 0 {
			t.Fatalf("moving to preview: exit code %d, wanted 0\n%s%s", r.ExitCode, r.Stdout, r.Stderr)
		}
		if got := status(t, m).Version; got != controlplane.Preview {
			t.Errorf("agent that runs: got %s, wanted %s", got, controlplane.Preview)
		}
		if h := w.Host(t, "target"); h.State != "managed" || h.AgentVersion != controlplane.Preview {
			t.Errorf("host: got %s with %s, wanted managed with %s", h.State, h.AgentVersion, controlplane.Preview)
		}
		pid := mainPID(t, m)
		refuse := func(reason string) {
			t.Helper()
			r := install(t, m, token.InstallCommand, "")
			if r.ExitCode == 0 || !strings.Contains(r.Stdout+r.Stderr, reason) {
				t.Errorf("got exit code %d, wanted a refusal with %q\n%s%s", r.ExitCode, reason, r.Stdout, r.Stderr)
			}
			if got := mainPID(t, m); got != pid || status(t, m).Version != controlplane.Preview {
				t.Errorf("the agent was touched: main process %s, wanted %s and version %s", got, pid, controlplane.Preview)
			}
		}
		refuse("is older")
		// Old answers, each of them validly signed once.
		between.set(func(w http.ResponseWriter, r *http.Request) bool {
			text, replayed := old[r.URL.Path]
			if replayed {
				_, _ = w.Write(text)
			}
			return replayed
		}, nil)
		refuse("older than what this host has seen")
		between.set(nil, nil)

		if r := install(t, m, token.InstallCommand, "", "--version "+controlplane.Stable); r.ExitCode != 0 {
			t.Errorf("going back on purpose: exit code %d, wanted 0\n%s%s", r.ExitCode, r.Stdout, r.Stderr)
		}
		if got := status(t, m).Version; got != controlplane.Stable {
			t.Errorf("agent that runs: got %s, wanted %s", got, controlplane.Stable)
		}
	})

	t.Run("no WebSocket gets through", func(t *testing.T) {
		m := w.machines["polling"]
		var refused, polls atomic.Int64
		between.set(func(w http.ResponseWriter, r *http.Request) bool {
			if r.URL.Path == "/agent/v1/poll" {
				polls.Add(1)
			}
			if r.Header.Get("Upgrade") == "" {
				return false
			}
			refused.Add(1)
			http.Error(w, "protocol not allowed", http.StatusForbidden)
			return true
		}, nil)
		defer between.set(nil, nil)
		took := w.enrol(t, "polling")
		t.Logf("managed over polling after %v (%d WebSockets refused, %d polls)", took.Round(time.Millisecond), refused.Load(), polls.Load())
		s := status(t, m)
		if s.Transport != "poll" || !s.OK || refused.Load() == 0 {
			t.Errorf("the agent: got %+v, %d WebSockets refused; wanted it well, by poll", s, refused.Load())
		}
		w.AwaitState(t, "polling", "managed", time.Second)
		start := time.Now()
		w.Must(t, "settings", "set", "--host", "polling", "--log-level", "debug")
		w.Await(t, "polling", 5*time.Second, "the new settings applied", applied)
		t.Logf("a changed setting was applied over polling after %v", time.Since(start).Round(time.Millisecond))
		if !strings.Contains(w.Log(t), "websocket_blocked") {
			t.Error("the control plane was not told that WebSockets are blocked")
		}
	})
}

// broken is a body that ends with an error.
type broken struct {
	io.ReadCloser
	left int64
}

func (b *broken) Read(p []byte) (int, error) {
	if b.left <= 0 {
		return 0, io.ErrUnexpectedEOF
	}
	n, err := b.ReadCloser.Read(p[:min(int64(len(p)), b.left)])
	b.left -= int64(n)
	return n, err
}

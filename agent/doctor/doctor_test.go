package doctor

import (
	"context"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/loopbackd/loopback/agent/config"
	"github.com/loopbackd/loopback/agent/link"
	"github.com/loopbackd/loopback/agent/state"
	"github.com/loopbackd/loopback/test/controltest"
)

// patient is a host that is well, apart from its agent not running.
type patient struct {
	control *controltest.Server
	config  config.Config
	options Options
}

func newPatient(t *testing.T) *patient {
	t.Helper()
	p := &patient{control: &controltest.Server{}}
	p.control.Start(t)
	p.config = p.control.Config()
	dir := t.TempDir()
	p.options = Options{Root: wholeMachine(t), ConfigPath: filepath.Join(dir, "agent.yaml"), StateDir: filepath.Join(dir, "state"), Socket: filepath.Join(dir, "sock"), Timeout: 5 * time.Second}
	store, err := state.Open(p.options.StateDir)
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	if _, err := link.Enrol(t.Context(), link.EnrolOptions{Config: p.config, Store: store, Token: p.control.Token(), HostName: "web-1"}); err != nil {
		t.Fatal(err)
	}
	p.save(t)
	return p
}

func (p *patient) save(t *testing.T) {
	t.Helper()
	if _, err := p.config.Save(p.options.ConfigPath); err != nil {
		t.Fatal(err)
	}
}

// codes are the checks that are not well, as "name=code".
func codes(checks []Check) string {
	var out []string
	for _, c := range checks {
		if c.Outcome == Failed || c.Outcome == Warning {
			out = append(out, c.Name+"="+c.Code)
			if c.Seen == "" {
				out = append(out, "(nothing seen)")
			}
		}
	}
	return strings.Join(out, " ")
}

func TestWhatIsWrongIsNamed(t *testing.T) {
	const away = "agent=agent_not_running"
	for name, c := range map[string]struct {
		break_ func(*testing.T, *patient)
		want   string
	}{
		"nothing": {func(*testing.T, *patient) {}, away},
		"config gone": {func(t *testing.T, p *patient) {
			if err := os.Remove(p.options.ConfigPath); err != nil {
				t.Fatal(err)
			}
		}, "config=config_missing " + away},
		"config writable by others": {func(t *testing.T, p *patient) { chmod(t, p.options.ConfigPath, 0o666) }, "config=config_permission " + away},
		"state gone": {func(t *testing.T, p *patient) {
			if err := os.RemoveAll(p.options.StateDir); err != nil {
				t.Fatal(err)
			}
		}, "permissions=state_missing " + away},
		"state open":              {func(t *testing.T, p *patient) { chmod(t, p.options.StateDir, 0o755) }, "permissions=state_permission " + away},
		"identity damaged":        {func(t *testing.T, p *patient) { write(t, filepath.Join(p.options.StateDir, "identity"), "x") }, "identity=identity_damaged " + away},
		"no such name":            {func(t *testing.T, p *patient) { p.config.Endpoints = []string{"https://control.invalid"}; p.save(t) }, "dns=dns_failed " + away},
		"nobody listens":          {func(_ *testing.T, p *patient) { p.control.Stop() }, "connect=connect_refused " + away},
		"CA file gone":            {func(t *testing.T, p *patient) { p.config.CAFile = "/nowhere/ca.pem"; p.save(t) }, "tls=ca_file_unusable " + away},
		"certificate not trusted": {func(t *testing.T, p *patient) { p.config.CAFile = ""; p.save(t) }, "tls=tls_untrusted " + away},
		"another control plane":   {func(t *testing.T, p *patient) { p.config.Anchor[0]++; p.save(t) }, "link=anchor_mismatch " + away},
		"proxy away":              {func(t *testing.T, p *patient) { p.config.Proxy = "http://127.0.0.1:1"; p.save(t) }, "connect=proxy_failed " + away},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newPatient(t)
			c.break_(t, p)
			checks := Run(t.Context(), p.options)
			if got := codes(checks); got != c.want {
				t.Errorf("got  %s\nwant %s\n%+v", got, c.want, checks)
			}
			for _, x := range checks {
				if x.Outcome == Failed && x.Change == "" {
					t.Errorf("%s says nothing about what to change: %+v", x.Name, x)
				}
			}
		})
	}
}

func chmod(t *testing.T, path string, mode os.FileMode) {
	t.Helper()
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestAFullOrReadOnlyDiskIsNamed(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=1m"); err != nil {
		t.Skipf("missing feature: mounting a tmpfs: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	if c := checkDisk(dir); c.Outcome != Failed || c.Code != "disk_full" || c.Change == "" {
		t.Errorf("got %+v; want disk_full", c)
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_REMOUNT|unix.MS_RDONLY, "size=64m"); err != nil {
		t.Fatal(err)
	}
	if c := checkDisk(dir); c.Outcome != Failed || c.Code != "disk_read_only" {
		t.Errorf("got %+v; want disk_read_only", c)
	}
}

func TestAWrongClockIsNamed(t *testing.T) {
	for name, c := range map[string]struct {
		ahead time.Duration
		want  string
	}{"right": {0, "ok"}, "behind": {time.Hour, "clock_skew"}, "ahead": {-48 * time.Hour, "clock_skew"}} {
		t.Run(name, func(t *testing.T) {
			s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Date", time.Now().Add(c.ahead).UTC().Format(http.TimeFormat))
			}))
			defer s.Close()
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			if got := checkClock(ctx, config.Default(), s.URL); got.Code != c.want {
				t.Errorf("got %+v; want %s", got, c.want)
			}
		})
	}
}

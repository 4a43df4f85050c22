// Package controlplane runs the real loopbackd for tests on real machines, and the real command line against it.
//
// Start builds the programs once a process (Go's own cache makes the second time cheap), starts `loopbackd serve` on this
// computer's address in a lab network, signs in with the bootstrap code as a person would, and publishes the agent with
// keys in the test's own folder as version 0.1.0 on stable. Everything lies in a temporary folder, the process is ended
// by its id, and its log is shown where the test failed.
package controlplane

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/loopbackd/loopback/test/port"
)

// Versions of the agent that can be published; Start publishes Stable.
const (
	Stable  = "0.1.0"
	Preview = "0.1.1"
)

// Options of a control plane.
type Options struct {
	Address netip.Addr // to listen on
	// Args are further flags of loopbackd serve; they come last, so they win.
	Args []string
	// CAFile that its certificate is checked by, where Args bring a certificate; empty: the local CA's.
	CAFile string
	// PublicURL by which hosts reach it; empty: the address it listens on.
	PublicURL string
	// PublicAddress by which hosts reach it, on the port it listens on, where PublicURL is empty.
	PublicAddress netip.Addr
}

// ControlPlane is one that runs.
type ControlPlane struct {
	URL     string // of the process itself
	DataDir string
	CAFile  string

	options  Options
	dir, log string
	address  string
	environ  []string
	key      string
	http     *http.Client

	mu      sync.Mutex
	process *exec.Cmd     // guarded by mu
	ended   chan struct{} // closed when process has ended; guarded by mu
}

// Start starts a control plane for the length of the test.
func Start(t testing.TB, o Options) *ControlPlane {
	t.Helper()
	dir := t.TempDir()
	c := &ControlPlane{options: o, dir: dir, DataDir: filepath.Join(dir, "data"), log: filepath.Join(dir, "loopbackd.log"), CAFile: o.CAFile}
	number, err := port.Free(o.Address.String())
	if err != nil {
		t.Fatal(err)
	}
	c.address = netip.AddrPortFrom(o.Address, uint16(number)).String()
	c.URL = "https://" + c.address
	if c.CAFile == "" {
		c.CAFile = filepath.Join(c.DataDir, "keys", "ca.crt")
	}
	t.Cleanup(func() {
		c.Kill(t)
		if t.Failed() {
			t.Logf("log of the control plane:\n%s", last(c.Log(t), 60))
		}
	})
	c.Restart(t)
	c.signIn(t)
	c.Publish(t, Stable, "stable")
	return c
}

// Restart starts the process on the same data and address, and waits until it is ready.
func (c *ControlPlane) Restart(t testing.TB) {
	t.Helper()
	c.start(t)
	c.await(t)
}

func (c *ControlPlane) start(t testing.TB) {
	t.Helper()
	public := c.options.PublicURL
	switch {
	case public != "":
	case c.options.PublicAddress.IsValid():
		public = "https://" + netip.AddrPortFrom(c.options.PublicAddress, netip.MustParseAddrPort(c.address).Port()).String()
	default:
		public = c.URL
	}
	log, err := os.OpenFile(c.log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	args := append([]string{"serve", "--listen", c.address, "--metrics-listen", "off", "--data-dir", c.DataDir,
		"--public-url", public, "--log-level", "debug"}, c.options.Args...)
	p := exec.Command(filepath.Join(Programs(t), "loopbackd"), args...)
	p.Stdout, p.Stderr = log, log
	p.SysProcAttr = &unix.SysProcAttr{Pdeathsig: unix.SIGKILL}
	ended := make(chan struct{})
	started := make(chan error)
	go func() { // the parent's death is that of the thread that started it: this one waits, so it lives as long
		defer close(ended)
		runtime.LockOSThread()
		err := p.Start()
		started <- err
		if err == nil {
			_ = p.Wait() // killed, as a rule
		}
	}()
	if err := <-started; err != nil {
		t.Fatal(err)
	}
	c.mu.Lock()
	c.process, c.ended = p, ended
	c.mu.Unlock()
}

func (c *ControlPlane) await(t testing.TB) {
	t.Helper()
	c.mu.Lock()
	ended := c.ended
	c.mu.Unlock()
	probe := &http.Client{Timeout: 2 * time.Second, Transport: &http.Transport{
		DisableKeepAlives: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, // only whether it is up
	}}
	deadline := time.NewTimer(30 * time.Second)
	defer deadline.Stop()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		if r, err := probe.Get(c.URL + "/readyz"); err == nil {
			r.Body.Close()
			if r.StatusCode == http.StatusOK {
				return
			}
		}
		select {
		case <-tick.C:
		case <-ended:
			t.Fatalf("loopbackd ended:\n%s", last(c.Log(t), 20))
		case <-deadline.C:
			t.Fatalf("loopbackd is not ready after 30 s:\n%s", last(c.Log(t), 20))
		}
	}
}

// Kill ends the process without a word (SIGKILL) and returns when it is gone.
func (c *ControlPlane) Kill(t testing.TB) { c.end(t, unix.SIGKILL) }

// Stop asks the process to end (SIGTERM) and returns when it is gone.
func (c *ControlPlane) Stop(t testing.TB) { c.end(t, unix.SIGTERM) }

func (c *ControlPlane) end(t testing.TB, signal os.Signal) {
	t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.process == nil {
		return
	}
	if err := c.process.Process.Signal(signal); err != nil && !strings.Contains(err.Error(), "finished") {
		t.Error(err)
	}
	<-c.ended
	c.process = nil
}

// Rename restarts it as one that people reach by another address: a name, as passkeys want. Hosts keep the one they have.
func (c *ControlPlane) Rename(t testing.TB, publicURL string) {
	t.Helper()
	c.Stop(t)
	c.options.PublicURL = publicURL
	c.Restart(t)
}

// Log is what the process wrote so far.
func (c *ControlPlane) Log(t testing.TB) string {
	t.Helper()
	text, err := os.ReadFile(c.log)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

var bootstrapCode = regexp.MustCompile(`bootstrap code: (\S+)`)

// signIn redeems the bootstrap code and makes an API key for the test.
func (c *ControlPlane) signIn(t testing.TB) {
	t.Helper()
	found := bootstrapCode.FindStringSubmatch(c.Log(t))
	if found == nil {
		t.Fatalf("no bootstrap code in the log:\n%s", last(c.Log(t), 20))
	}
	base := []string{"PATH=" + os.Getenv("PATH"), "HOME=" + c.dir, "XDG_CONFIG_HOME=" + filepath.Join(c.dir, "config"), "LOOPBACK_CA_FILE=" + c.CAFile}
	c.environ = append(base, "LOOPBACK_BOOTSTRAP_CODE="+found[1])
	c.Must(t, "login", c.URL)
	c.environ = base
	c.key = strings.TrimSpace(c.Must(t, "apikey", "create", "e2e", "--permission", "*", "--ttl", "1d"))
	c.environ = append(base, "LOOPBACK_URL="+c.URL, "LOOPBACK_API_KEY="+c.key, "LOOPBACK_WORKSPACE=default")

	pem, err := os.ReadFile(c.CAFile)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	c.http = &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}}
	t.Cleanup(c.http.CloseIdleConnections)
}

// Publish publishes the agent of a version on a channel.
func (c *ControlPlane) Publish(t testing.TB, version, channel string) {
	t.Helper()
	c.Must(t, "release", "publish", "--keys", filepath.Join(c.dir, "release-keys"), "--version", version, "--channel", channel,
		filepath.Join(Programs(t), "agents", version))
}

// PublishPackages makes packages of the agent of a version, publishes them beside it and returns their folder.
func (c *ControlPlane) PublishPackages(t testing.TB, version, channel string) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(filepath.Join(Programs(t), "agents", version))); err != nil {
		t.Fatal(err)
	}
	keys := filepath.Join(c.dir, "release-keys")
	c.Must(t, "release", "package", "--keys", keys, "--version", version, dir)
	c.Must(t, "release", "publish", "--keys", keys, "--version", version, "--channel", channel, dir)
	return dir
}

// Result is what a run of the command line left behind.
type Result struct {
	Stdout, Stderr string
	ExitCode       int
}

// Key is the administrator's API key.
func (c *ControlPlane) Key() string { return c.key }

// CA is the certificate of its certificate authority, as PEM.
func (c *ControlPlane) CA() (string, error) {
	text, err := os.ReadFile(c.CAFile)
	return string(text), err
}

// Run runs the command line.
func (c *ControlPlane) Run(t testing.TB, args ...string) Result {
	t.Helper()
	p := c.command(t, context.Background(), args...)
	var out, errs bytes.Buffer
	p.Stdout, p.Stderr = &out, &errs
	err := p.Run()
	if p.ProcessState == nil {
		t.Fatal(err)
	}
	return Result{out.String(), errs.String(), p.ProcessState.ExitCode()}
}

// Must runs the command line, which has to succeed, and returns its standard output.
func (c *ControlPlane) Must(t testing.TB, args ...string) string {
	t.Helper()
	r := c.Run(t, args...)
	if r.ExitCode != 0 {
		t.Fatalf("loopback %s: exit code %d, wanted 0\n%s%s", strings.Join(args, " "), r.ExitCode, r.Stdout, r.Stderr)
	}
	return r.Stdout
}

// JSON runs the command line with -o json and decodes what it printed.
func (c *ControlPlane) JSON(t testing.TB, into any, args ...string) {
	t.Helper()
	text := c.Must(t, append(args, "-o", "json")...)
	if err := json.Unmarshal([]byte(text), into); err != nil {
		t.Fatalf("loopback %s: %v in\n%s", strings.Join(args, " "), err, text)
	}
}

func (c *ControlPlane) command(t testing.TB, ctx context.Context, args ...string) *exec.Cmd {
	p := exec.CommandContext(ctx, filepath.Join(Programs(t), "loopback"), args...)
	p.Env = c.environ
	return p
}

// Command is the command line as whoever has another key runs it.
func (c *ControlPlane) Command(t testing.TB, ctx context.Context, key string, args ...string) *exec.Cmd {
	t.Helper()
	p := c.command(t, ctx, args...)
	p.Env = append(append([]string(nil), p.Env...), "LOOPBACK_API_KEY="+key)
	return p
}

// Call calls a method of the API ("HostService/ListHosts") as JSON. It returns the error that there was, so that it can
// be used while the process is down.
func (c *ControlPlane) Call(ctx context.Context, method string, request, answer any) error {
	body, err := json.Marshal(request)
	if err != nil {
		return err
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, c.URL+"/api/loopback.v1."+method, bytes.NewReader(body))
	if err != nil {
		return err
	}
	r.Header.Set("Authorization", "Bearer "+c.key)
	r.Header.Set("Content-Type", "application/json")
	a, err := c.http.Do(r)
	if err != nil {
		return err
	}
	defer a.Body.Close()
	text, err := io.ReadAll(a.Body)
	if err != nil {
		return err
	}
	if a.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s: %s", method, a.Status, text)
	}
	return json.Unmarshal(text, answer)
}

func last(text string, lines int) string {
	all := strings.Split(strings.TrimSpace(text), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

// Package daemon runs the real loopbackd as a child process, for tests that kill it and benchmarks that weigh it.
//
// Start builds the program where none is given, starts `loopbackd serve` on a port of its own that stays the same across
// restarts, waits until it is ready and signs in with the code that it printed. Kill is SIGKILL; Stop is SIGTERM and
// waits for the end. A process is only ever ended by its own id, and dies with the process that started it. What it
// logged is kept over restarts.
package daemon

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/loopbackd/loopback/test/port"
	"github.com/loopbackd/loopback/wire"
)

// Options of a control plane.
type Options struct {
	Program string        // loopbackd; empty: built into Dir
	Dir     string        // of data and log
	DataDir string        // empty: in Dir
	Host    string        // address to listen on; empty: 127.0.0.1
	Args    []string      // further flags of serve
	URL     string        // by which agents and people reach it; empty: its own address
	Ready   time.Duration // how long a start may take; 0: a minute
}

// Daemon is one control plane, running or not.
type Daemon struct {
	*Client
	URL     string
	Address string // HOST:PORT
	Metrics string // HOST:PORT of metrics
	DataDir string

	options Options
	logPath string
	signed  bool
	roots   *x509.CertPool

	mu      sync.Mutex
	process *process // nil before the first start
}

// process is one life of the program.
type process struct {
	cmd   *exec.Cmd
	ended chan struct{} // closed when it has been waited for
	code  int           // exit code, -1 for a signal; set before ended is closed
}

// Build builds loopbackd of this source tree into a folder.
func Build(ctx context.Context, dir string) (string, error) {
	return BuildFrom(ctx, Tree(), dir, "0.0.0-dev")
}

// Tree is the source tree that this was built from.
func Tree() string {
	if _, here, _, _ := runtime.Caller(0); filepath.IsAbs(here) {
		return filepath.Join(filepath.Dir(here), "..", "..")
	}
	// Built with -trimpath: tests run in the folder of their package.
	at, _ := os.Getwd() // where there is none, nothing can be built either
	for at != "/" {
		if _, err := os.Stat(filepath.Join(at, "go.mod")); err == nil {
			break
		}
		at = filepath.Dir(at)
	}
	return at
}

// BuildFrom builds loopbackd of some source tree as a version, into a folder.
func BuildFrom(ctx context.Context, tree, dir, version string) (string, error) {
	out := filepath.Join(dir, "loopbackd")
	c := exec.CommandContext(ctx, "go", "build", "-ldflags", "-X main.version="+version, "-o", out, "./cmd/loopbackd")
	c.Dir = tree
	c.Env = append(os.Environ(), "CGO_ENABLED=0")
	if b, err := c.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build loopbackd: %w: %s", err, b)
	}
	return out, nil
}

// Start starts a new control plane and signs in.
func Start(ctx context.Context, o Options) (*Daemon, error) {
	if o.Program == "" {
		var err error
		if o.Program, err = Build(ctx, o.Dir); err != nil {
			return nil, err
		}
	}
	if o.Host == "" {
		o.Host = "127.0.0.1"
	}
	address, err := port.FreeAddress(o.Host)
	if err != nil {
		return nil, err
	}
	metrics, err := port.FreeAddress("127.0.0.1")
	if err != nil {
		return nil, err
	}
	if o.DataDir == "" {
		o.DataDir = filepath.Join(o.Dir, "data")
	}
	named := address
	if net.ParseIP(o.Host) == nil { // a name, by which people and agents reach it
		_, port, err := net.SplitHostPort(address)
		if err != nil {
			return nil, err
		}
		named = net.JoinHostPort(o.Host, port)
	}
	d := &Daemon{URL: "https://" + named, Address: address, Metrics: metrics, DataDir: o.DataDir,
		options: o, logPath: filepath.Join(o.Dir, "loopbackd.log")}
	return d, d.Restart(ctx)
}

// Moved is a control plane on another data folder and the same address, not started yet: a restored one.
func (d *Daemon) Moved(dataDir string) *Daemon {
	return &Daemon{URL: d.URL, Address: d.Address, Metrics: d.Metrics, DataDir: dataDir, options: d.options, logPath: dataDir + ".log"}
}

// Join starts a further replica of a control plane that runs with these further flags of serve, by an invitation.
func (d *Daemon) Join(ctx context.Context, o Options, settings ...string) (*Daemon, error) {
	o.Program = cmp.Or(o.Program, d.options.Program)
	address, err := port.FreeAddress("127.0.0.1")
	if err != nil {
		return nil, err
	}
	metrics, err := port.FreeAddress("127.0.0.1")
	if err != nil {
		return nil, err
	}
	r := &Daemon{URL: "https://" + address, Address: address, Metrics: metrics, DataDir: filepath.Join(o.Dir, "data"),
		options: o, logPath: filepath.Join(o.Dir, "loopbackd.log"), signed: true, roots: d.roots}
	file := filepath.Join(o.Dir, "invitation")
	code, err := d.run(ctx, "", append([]string{"invite", "--data-dir", d.DataDir, "--to", file}, settings...)...)
	if err != nil {
		return nil, err
	}
	if _, err := r.run(ctx, strings.TrimPrefix(code, "code: "), "join", "--data-dir", r.DataDir, "--from", file); err != nil {
		return nil, err
	}
	r.Client = NewClient(r.URL, r.roots, d.Key)
	r.Client.Anchor = d.Anchor
	return r, r.Restart(ctx)
}

// At is the administrator's client by another address that leads here.
func (d *Daemon) At(url string) *Client {
	c := NewClient(url, d.roots, d.Key)
	c.Anchor = d.Anchor
	return c
}

// As is the API with another key.
func (d *Daemon) As(key string) *Client { return NewClient(d.URL, d.roots, key) }

// run runs another command of the program and returns what it printed.
func (d *Daemon) run(ctx context.Context, stdin string, args ...string) (string, error) {
	c := exec.CommandContext(ctx, d.options.Program, args...)
	var out, errs bytes.Buffer
	c.Stdin, c.Stdout, c.Stderr = strings.NewReader(stdin), &out, &errs
	if err := c.Run(); err != nil {
		return "", fmt.Errorf("loopbackd %s: %w: %s", args[0], err, errs.String())
	}
	return out.String(), nil
}

// Run runs another command of the program, on this data folder, and returns what it printed.
func (d *Daemon) Run(ctx context.Context, command string, args ...string) (string, error) {
	return d.run(ctx, "", append([]string{command, "--data-dir", d.DataDir}, args...)...)
}

// Use is what the next start runs.
func (d *Daemon) Use(program string) { d.options.Program = program }

// Program is the path of the program that runs.
func (d *Daemon) Program() string { return d.options.Program }

// Restart starts the program, which does not run, and waits until it is ready.
func (d *Daemon) Restart(ctx context.Context) error {
	if err := d.Launch(); err != nil {
		return err
	}
	most := d.options.Ready
	if most == 0 {
		most = time.Minute
	}
	ctx, cancel := context.WithTimeout(ctx, most)
	defer cancel()
	if err := d.awaitReady(ctx); err != nil {
		log, _ := d.Log()
		return errors.Join(fmt.Errorf("start loopbackd: %w; its log: %s", err, last(log, 4000)), d.Kill())
	}
	if d.signed {
		return nil
	}
	if err := d.signIn(ctx); err != nil {
		return errors.Join(err, d.Kill())
	}
	d.signed = true
	return nil
}

// lifted are the limits on callers out of the way: what a test asks for is what it gets, and what a benchmark measures is not
// what one key may do. Limits have tests of their own, in package server.
var lifted = []string{
	"--source-rate", "1000000", "--source-connections", "100000", "--source-handshakes", "1000000", "--caller-rate", "1000000",
	"--calls", "4096", "--caller-calls", "4096", "--streams", "100000", "--caller-streams", "100000",
}

// Launch starts the program and waits for nothing.
func (d *Daemon) Launch() error {
	log, err := os.OpenFile(d.logPath, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	args := []string{"serve", "--listen", d.Address, "--metrics-listen", d.Metrics, "--data-dir", d.DataDir, "--public-url", cmp.Or(d.options.URL, d.URL)}
	args = slices.Concat(args, lifted, d.options.Args)
	p := &process{cmd: exec.Command(d.options.Program, args...), ended: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = log, log
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	begun := make(chan error)
	go func() {
		// The kernel means the death of the thread that started it: this one is kept until the end.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := p.cmd.Start()
		begun <- err
		if err != nil {
			return
		}
		_ = p.cmd.Wait() // its code says how it ended
		p.code = p.cmd.ProcessState.ExitCode()
		close(p.ended)
	}()
	if err := <-begun; err != nil {
		return err
	}
	d.mu.Lock()
	d.process = p
	d.mu.Unlock()
	return nil
}

func (d *Daemon) current() *process {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.process
}

// awaitReady polls /readyz: a process cannot tell otherwise when its port is open.
func (d *Daemon) awaitReady(ctx context.Context) error {
	c := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true,
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}} // the certificate may not be made yet; only the status counts
	p := d.current()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		r, err := c.Get(d.URL + "/readyz")
		if err == nil {
			r.Body.Close()
			if r.StatusCode == http.StatusOK {
				return nil
			}
		}
		select {
		case <-tick.C:
		case <-p.ended:
			return fmt.Errorf("it ended with code %d", p.code)
		case <-ctx.Done():
			return fmt.Errorf("waiting until it is ready: %w", ctx.Err())
		}
	}
}

// PID of the running process.
func (d *Daemon) PID() int { return d.current().cmd.Process.Pid }

// Signal sends a signal.
func (d *Daemon) Signal(s os.Signal) error { return d.current().cmd.Process.Signal(s) }

// Ended is closed when the process has ended.
func (d *Daemon) Ended() <-chan struct{} { return d.current().ended }

// ExitCode of the process that has ended; -1: by a signal.
func (d *Daemon) ExitCode() int {
	p := d.current()
	<-p.ended
	return p.code
}

// Kill ends the process without a word, and waits until it is gone.
func (d *Daemon) Kill() error {
	p := d.current()
	if p == nil {
		return nil
	}
	if err := p.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	<-p.ended
	return nil
}

// Stop asks the process to end and returns its exit code.
func (d *Daemon) Stop(ctx context.Context) (int, error) {
	p := d.current()
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return 0, err
	}
	select {
	case <-p.ended:
		return p.code, nil
	case <-ctx.Done():
		return 0, errors.Join(fmt.Errorf("stopping loopbackd: %w", ctx.Err()), d.Kill())
	}
}

// Log is what the program printed, in all its lives.
func (d *Daemon) Log() (string, error) {
	b, err := os.ReadFile(d.logPath)
	return string(b), err
}

func last(s string, n int) string { return s[max(0, len(s)-n):] }

var codeLine = regexp.MustCompile(`(?m)^bootstrap code: (\S+)$`)

// signIn trades the printed code for the administrator's key and learns whom agents are to trust.
func (d *Daemon) signIn(ctx context.Context) error {
	log, err := d.Log()
	if err != nil {
		return err
	}
	m := codeLine.FindAllStringSubmatch(log, -1)
	if m == nil {
		return errors.New("loopbackd printed no bootstrap code")
	}
	pem, err := os.ReadFile(filepath.Join(d.DataDir, "keys", "ca.crt"))
	if err != nil {
		return err
	}
	d.roots = x509.NewCertPool()
	d.roots.AppendCertsFromPEM(pem)
	d.Client, err = signIn(ctx, d.URL, d.roots, m[len(m)-1][1])
	return err
}

// Dialer is how the agent number i gets here: every hundred agents have a source address of their own, as a fleet has,
// since unproven links are counted by address.
func (d *Daemon) Dialer(transport string, i int) wire.Dialer {
	block := i / 100
	from := &net.Dialer{Timeout: 30 * time.Second, LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 9, byte(block>>8), byte(block))}}
	return wire.Dialer{Endpoint: d.URL, Transport: transport, Anchor: d.Anchor, Timeout: 30 * time.Second, Connect: from.DialContext,
		TLS: &tls.Config{RootCAs: d.roots, MinVersion: tls.VersionTLS13}}
}

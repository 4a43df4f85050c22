package cli_test

import (
	"bytes"
	"context"
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/loopbackd/loopback/cli"
)

// A terminal is one run of the command line after another by one person.
type terminal struct {
	t   *testing.T
	env map[string]string
	in  string
	tty bool // tables are shown, questions asked
}

// sit gives a terminal of somebody who is signed in to the control plane by variables.
func sit(t *testing.T, p *controlPlane) *terminal {
	t.Helper()
	return &terminal{t: t, env: map[string]string{
		"HOME": t.TempDir(), "LOOPBACK_URL": "https://" + p.address, "LOOPBACK_API_KEY": adminKey, "LOOPBACK_CA_FILE": p.caFile(t),
	}}
}

func (p *controlPlane) caFile(t *testing.T) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "ca.pem")
	b := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: p.server.Certificate().Raw})
	if err := os.WriteFile(name, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

// A run is what came of a command.
type run struct {
	code     int
	out, err string
}

func (x *terminal) run(args ...string) run {
	x.t.Helper()
	ctx, cancel := context.WithTimeout(x.t.Context(), 30*time.Second)
	defer cancel()
	return x.runUntil(ctx, nil, args...)
}

// runUntil runs until ctx ends; results go to out as well.
func (x *terminal) runUntil(ctx context.Context, out *lines, args ...string) run {
	x.t.Helper()
	var stdout, stderr bytes.Buffer
	env := cli.Environment{
		In: strings.NewReader(x.in), Out: &stdout, Err: &stderr, Version: "1.2.3", Terminal: x.tty, Interactive: x.tty,
		Getenv: func(name string) string { return x.env[name] },
	}
	if out != nil {
		env.Out, env.Err = out, &out.err
	}
	code := cli.Run(ctx, args, env)
	if out != nil {
		return run{code, out.text(), out.err.text()}
	}
	return run{code, stdout.String(), stderr.String()}
}

// ok is a run that must succeed; its standard output.
func (x *terminal) ok(args ...string) string {
	x.t.Helper()
	r := x.run(args...)
	if r.code != 0 {
		x.t.Fatalf("loopback %s: exit code %d, want 0; it said %q", strings.Join(args, " "), r.code, r.err)
	}
	return r.out
}

// fails is a run that must end with an exit code, and say so on standard error only: one line, and a hint where wanted.
func (x *terminal) fails(code int, message, hint string, args ...string) {
	x.t.Helper()
	r := x.run(args...)
	if r.code != code {
		x.t.Errorf("loopback %s: exit code %d, want %d; it said %q", strings.Join(args, " "), r.code, code, r.err)
	}
	if r.out != "" {
		x.t.Errorf("loopback %s: standard output is %q, want nothing", strings.Join(args, " "), r.out)
	}
	said := strings.Split(strings.TrimSuffix(r.err, "\n"), "\n")
	if !strings.HasPrefix(said[0], "loopback: ") || !strings.Contains(said[0], message) {
		x.t.Errorf("loopback %s: said %q, want a line with %q", strings.Join(args, " "), r.err, message)
	}
	if hint == "" && len(said) > 1 || hint != "" && (len(said) != 2 || !strings.HasPrefix(said[1], "hint: ") || !strings.Contains(said[1], hint)) {
		x.t.Errorf("loopback %s: said %q, want the hint %q", strings.Join(args, " "), r.err, hint)
	}
}

// lines is an output that a test reads while it is written.
type lines struct {
	mu   sync.Mutex
	cond *sync.Cond
	b    bytes.Buffer
	err  buffer
}

// buffer is a bytes.Buffer for two goroutines.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) text() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

func newLines() *lines {
	l := &lines{}
	l.cond = sync.NewCond(&l.mu)
	return l
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	defer l.cond.Broadcast()
	return l.b.Write(p)
}

func (l *lines) text() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// waitFor blocks until the output has the text.
func (l *lines) waitFor(t *testing.T, ctx context.Context, text string) {
	t.Helper()
	stop := context.AfterFunc(ctx, l.cond.Broadcast)
	defer stop()
	l.mu.Lock()
	defer l.mu.Unlock()
	for !strings.Contains(l.b.String(), text) {
		if ctx.Err() != nil {
			t.Fatalf("the output is %q, want %q in it", l.b.String(), text)
		}
		l.cond.Wait()
	}
}

package controlplane

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"time"
)

// Token as `loopback token mint -o json` shows it.
type Token struct {
	Secret         string
	InstallCommand string
	Token          struct {
		ID    string
		State string
		Uses  int
	}
}

// Mint mints a token with the flags.
func (c *ControlPlane) Mint(t testing.TB, args ...string) Token {
	t.Helper()
	var out Token
	c.JSON(t, &out, append([]string{"token", "mint"}, args...)...)
	return out
}

// Host as the API shows it.
type Host struct {
	ID, Name, State, Reason, AgentVersion string
	Since, LastSeenAt                     time.Time
	EnrolledFrom                          string
	Labels                                map[string]string
	ForcedLabels                          []string
	Scope                                 struct{ WorkspaceID string }
	KeyGeneration                         string
	Copies                                []struct{ BootID, Address, HostName, Verdict string }
	Inventory                             struct{ BootID string }
	Sections                              []struct{ Name, Status, Revision, DesiredRevision, Message string }
}

// Hosts are those of the default workspace, removed ones left out.
func (c *ControlPlane) Hosts(ctx context.Context) (map[string]Host, error) {
	var out struct{ Items []Host }
	err := c.Call(ctx, "HostService/ListHosts", map[string]any{"workspace": "default", "page": map[string]any{"size": 1000}}, &out)
	if err != nil {
		return nil, err
	}
	hosts := map[string]Host{}
	for _, h := range out.Items {
		hosts[h.Name] = h
	}
	return hosts, nil
}

// Host is one host by name or id, in whatever state.
func (c *ControlPlane) Host(t testing.TB, name string) Host {
	t.Helper()
	var out Host
	if err := c.Call(t.Context(), "HostService/GetHost", map[string]any{"host": name}, &out); err != nil {
		t.Fatal(err)
	}
	return out
}

// Await waits until a host is as wanted, and returns it and how long that took.
func (c *ControlPlane) Await(t testing.TB, name string, within time.Duration, what string, wanted func(Host) bool) (Host, time.Duration) {
	t.Helper()
	start := time.Now()
	tick := time.NewTicker(25 * time.Millisecond)
	defer tick.Stop()
	for {
		h := c.Host(t, name)
		if wanted(h) {
			return h, time.Since(start)
		}
		if time.Since(start) > within {
			t.Fatalf("host %s after %s: got %s (%s) %+v, wanted %s", name, within, h.State, h.Reason, h.Sections, what)
		}
		<-tick.C
	}
}

// AwaitState waits until a host is in the state.
func (c *ControlPlane) AwaitState(t testing.TB, name, state string, within time.Duration) (Host, time.Duration) {
	t.Helper()
	return c.Await(t, name, within, state, func(h Host) bool { return h.State == state })
}

// Transition is a line of `loopback host watch -o json`.
type Transition struct {
	Host          Host
	PreviousState string
	At            time.Time // by the control plane's clock, which is this computer's
	Gone          bool
}

// Recording is everything that `loopback host watch` printed.
type Recording struct {
	mu    sync.Mutex
	lines []Transition  // guarded by mu
	wake  chan struct{} // closed at the next line; guarded by mu
}

// Watch records transitions until the test ends. It returns once the watch has begun.
func (c *ControlPlane) Watch(t testing.TB) *Recording {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	p := c.command(t, ctx, "host", "watch", "-o", "json")
	out, err := p.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	r := &Recording{wake: make(chan struct{})}
	done := make(chan struct{})
	go func() {
		defer close(done)
		r.read(out)
	}()
	t.Cleanup(func() {
		cancel()
		<-done
		_ = p.Wait() // killed
	})
	return r
}

func (r *Recording) read(from io.Reader) {
	lines := bufio.NewScanner(from)
	lines.Buffer(nil, 4<<20)
	for lines.Scan() {
		var one Transition
		if json.Unmarshal(lines.Bytes(), &one) != nil {
			one.Host.State = "unreadable: " + lines.Text()
		}
		r.mu.Lock()
		r.lines = append(r.lines, one)
		close(r.wake)
		r.wake = make(chan struct{})
		r.mu.Unlock()
	}
}

// All is the record so far.
func (r *Recording) All() []Transition {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]Transition(nil), r.lines...)
}

// Await waits for the first transition of a host to a state that came after a time.
func (r *Recording) Await(t testing.TB, name, state string, after time.Time, within time.Duration) Transition {
	t.Helper()
	limit := time.NewTimer(within)
	defer limit.Stop()
	for {
		r.mu.Lock()
		wake := r.wake
		for _, one := range r.lines {
			if one.Host.Name == name && one.Host.State == state && one.At.After(after) {
				r.mu.Unlock()
				return one
			}
		}
		r.mu.Unlock()
		select {
		case <-wake:
		case <-limit.C:
			t.Fatalf("host %s was not seen %s within %s; the watch showed:\n%s", name, state, within, r)
		}
	}
}

// States are those that a host was seen in after a time.
func (r *Recording) States(name string, after time.Time) (states []string) {
	for _, one := range r.All() {
		if one.Host.Name == name && one.At.After(after) {
			states = append(states, one.Host.State)
		}
	}
	return states
}

func (r *Recording) String() string {
	var b strings.Builder
	for _, one := range r.All() {
		fmt.Fprintf(&b, "%s  %s  %s → %s (%s)\n", one.At.Local().Format("15:04:05.000"), one.Host.Name, one.PreviousState, one.Host.State, one.Host.Reason)
	}
	return b.String()
}

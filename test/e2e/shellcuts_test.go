package e2e

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/loopbackd/loopback/shell"
	"github.com/loopbackd/loopback/test/lab"
)

// cable is the way of a command line to the control plane, which can be cut.
type cable struct {
	net.Listener
	to   string
	work sync.WaitGroup

	mu    sync.Mutex
	conns map[*net.TCPConn]bool
	held  chan struct{} // closed: bytes go through
}

func newCable(t testing.TB, to string) *cable {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := &cable{Listener: l, to: to, conns: map[*net.TCPConn]bool{}, held: make(chan struct{})}
	close(c.held)
	c.work.Go(func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			c.work.Go(func() { c.carry(in.(*net.TCPConn)) })
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		c.release()
		c.reset()
		c.work.Wait()
	})
	return c
}

func (c *cable) carry(in *net.TCPConn) {
	defer in.Close()
	c.wait()
	dialled, err := net.DialTimeout("tcp", c.to, 5*time.Second)
	if err != nil {
		return
	}
	out := dialled.(*net.TCPConn)
	defer out.Close()
	c.mu.Lock()
	c.conns[in], c.conns[out] = true, true
	c.mu.Unlock()
	var both sync.WaitGroup
	pipe := func(to, from *net.TCPConn) {
		buffer := make([]byte, 32<<10)
		for {
			n, err := from.Read(buffer)
			c.wait()
			if _, failed := to.Write(buffer[:n]); failed != nil || err != nil {
				break
			}
		}
		_, _ = to.Close(), from.Close()
	}
	both.Go(func() { pipe(out, in) })
	both.Go(func() { pipe(in, out) })
	both.Wait()
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.conns, in)
	delete(c.conns, out)
}

func (c *cable) wait() {
	c.mu.Lock()
	held := c.held
	c.mu.Unlock()
	<-held
}

// reset ends all connections by RST.
func (c *cable) reset() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for one := range c.conns {
		_ = one.SetLinger(0)
		_ = one.Close()
	}
}

// hold keeps every byte back, and release lets them go on.
func (c *cable) hold() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.held = make(chan struct{})
}

func (c *cable) release() {
	c.mu.Lock()
	defer c.mu.Unlock()
	select {
	case <-c.held:
	default:
		close(c.held)
	}
}

// mirror is a session whose program writes what is typed: every byte goes both ways, and is compared when it is back.
type mirror struct {
	in      io.WriteCloser
	errs    bytes.Buffer // of the command
	stop    chan struct{}
	running sync.WaitGroup
	ended   chan error // how the command ended

	mu   sync.Mutex
	came int
	err  error
}

func (m *mirror) back() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.came
}

func (m *mirror) failed() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.err
}

func (m *mirror) fail(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.err == nil {
		m.err = err
	}
}

// cutting is one kind of cut: cut makes it, for about that long, and returns once what was cut is whole again.
type cutting struct {
	name string
	ends bool // the control plane's end of the session
	cut  func(long time.Duration)
}

// A thousand cuts of all kinds (in make soak; a slice of them otherwise), while bytes of all kinds go both ways without a pause: none is lost,
// doubled or changed, the session is back soon after what was cut is, and each session has a start, an end and two recordings that agree.
func TestCutsOfAllKinds(t *testing.T) {
	t.Parallel()
	total := 14
	if os.Getenv("LOOPBACK_SOAK") != "" {
		total = 1000
	}
	if n, err := strconv.Atoi(os.Getenv("LOOPBACK_CUTS")); err == nil {
		total = n
	}
	seed := uint64(time.Now().UnixNano())
	if s := os.Getenv("LOOPBACK_SEED"); s != "" {
		var err error
		if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("LOOPBACK_SEED=%d", seed)
	random := rand.New(rand.NewPCG(seed, 1))
	w := newWorld(t, "e2e-cuts", nil, "db-7")
	m := w.machines["db-7"]
	token := w.Mint(t)
	if r := install(t, m, token.InstallCommand, token.Secret, "--allow-shell"); r.ExitCode != 0 {
		t.Fatalf("%s%s", r.Stdout, r.Stderr)
	}
	w.AwaitState(t, "db-7", "managed", 20*time.Second)
	key := sheller(t, w, "ada")
	c := newCable(t, w.URL[len("https://"):])
	port := mustPort(t, w.URL[strings.LastIndex(w.URL, ":")+1:])
	pause := func(d time.Duration) {
		select {
		case <-time.After(d):
		case <-t.Context().Done():
		}
	}
	faults := func(err error) {
		lab.SkipUnsupported(t, err)
	}
	kinds := []cutting{
		{"typist reset", false, func(time.Duration) { c.reset() }},
		{"typist in a black hole", false, func(d time.Duration) { c.hold(); pause(d); c.release() }},
		{"host reset", false, func(time.Duration) {
			faults(m.Reject(t.Context(), port))
			pause(200 * time.Millisecond)
			faults(m.Restore(t.Context()))
		}},
		{"host in a black hole", false, func(d time.Duration) {
			faults(m.Blackhole(t.Context()))
			pause(d)
			faults(m.Restore(t.Context()))
		}},
		{"control plane killed", true, func(time.Duration) { w.Kill(t); w.Restart(t) }},
		{"agent killed", false, func(time.Duration) { must(t, m, "systemctl kill --signal=KILL loopback-agent.service") }},
		{"agent restarted", false, func(time.Duration) { must(t, m, "systemctl restart loopback-agent.service") }},
	}
	var all []time.Duration
	took := map[string][]time.Duration{}
	for done := 0; done < total; {
		n := min(total-done, 21)
		done += n
		y := w.mirrored(t, key, c, random)
		lives := 0
		for i := range n {
			k := kinds[i%len(kinds)]
			if k.ends {
				if lives++; lives > shell.MaxLives {
					continue
				}
			}
			k.cut(time.Duration(500+random.IntN(8000)) * time.Millisecond)
			whole, from := time.Now(), y.back()
			await(t, 60*time.Second, "the session after: "+k.name, func() bool { return y.back() > from || y.failed() != nil })
			back := time.Since(whole)
			took[k.name], all = append(took[k.name], back), append(all, back)
			if err := y.failed(); err != nil {
				t.Fatalf("after %q, the cut %d of %d: %v", k.name, done-n+i+1, total, err)
			}
			pause(time.Duration(random.IntN(200)) * time.Millisecond)
		}
		y.finish(t, w)
	}
	slices.Sort(all)
	t.Logf("%d cuts: back after %v (median), %v (p95), %v at most", len(all), all[len(all)/2], all[len(all)*95/100], all[len(all)-1])
	for _, k := range kinds {
		if s := took[k.name]; len(s) > 0 {
			slices.Sort(s)
			t.Logf("  %-24s %4d: %v, %v at most", k.name, len(s), s[len(s)/2], s[len(s)-1])
		}
	}
}

// mirrored begins a session into which bytes of all kinds are typed without a pause.
func (w *world) mirrored(t *testing.T, key string, c *cable, random *rand.Rand) *mirror {
	t.Helper()
	command := w.Command(t, context.Background(), key, "shell", "db-7", "--reason", "cuts")
	command.Env = append(command.Env, "LOOPBACK_URL=https://"+c.Addr().String())
	y := &mirror{stop: make(chan struct{}), ended: make(chan error, 1)}
	var out io.Reader
	var err error
	if y.in, err = command.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if out, err = command.StdoutPipe(); err != nil {
		t.Fatal(err)
	}
	command.Stderr = &y.errs
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = command.Process.Kill() })
	if _, err := io.WriteString(y.in, "stty raw -echo; printf 'mir''ror\\n'; exec cat\n"); err != nil {
		t.Fatal(err)
	}
	if err := passOver(out, "mirror\n"); err != nil {
		t.Fatalf("%v: %s", err, y.errs.String())
	}
	source := rand.New(rand.NewPCG(random.Uint64(), 2))
	typed := make(chan []byte, 1<<12)
	y.running.Go(func() {
		defer close(typed)
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
			case <-y.stop:
				return
			}
			b := make([]byte, 256+source.IntN(1024))
			for i := range b {
				b[i] = byte(source.Uint32())
			}
			select {
			case typed <- b:
			case <-y.stop:
				return
			}
			if _, err := y.in.Write(b); err != nil {
				y.fail(fmt.Errorf("typing: %w", err))
				return
			}
		}
	})
	y.running.Go(func() {
		for want := range typed {
			got := make([]byte, len(want))
			n, err := io.ReadFull(out, got)
			if err == nil && !bytes.Equal(got, want) {
				err = fmt.Errorf("in the %d bytes from %d on: shown is %x…, typed was %x…", n, y.back(), got[:16], want[:16])
			}
			if err != nil {
				y.fail(err)
				return
			}
			y.mu.Lock()
			y.came += n
			y.mu.Unlock()
		}
	})
	go func() {
		y.running.Wait()
		_, _ = io.Copy(io.Discard, out)
		y.ended <- command.Wait()
	}()
	return y
}

// passOver reads up to the end of some text.
func passOver(r io.Reader, text string) error {
	var one [1]byte
	for seen := []byte(nil); !bytes.HasSuffix(seen, []byte(text)); seen = append(seen, one[0]) {
		if _, err := io.ReadFull(r, one[:]); err != nil {
			return fmt.Errorf("waiting for %q after %q: %w", text, seen, err)
		}
	}
	return nil
}

// finish has all that was typed compared, ends the session and looks at what it left.
func (m *mirror) finish(t *testing.T, w *world) {
	t.Helper()
	close(m.stop)
	m.running.Wait()
	if err := m.failed(); err != nil {
		t.Fatal(err)
	}
	id := w.last(t).ID
	w.Must(t, "session", "kill", id, "--comment", "enough")
	s := w.ended(t, id)
	if s.Verdict != "agreed" || s.Root == "" || s.Root != s.HostRoot {
		t.Errorf("the recordings of %s: %+v", id, s)
	}
	if cast := w.Must(t, "session", "export", id); !strings.Contains(cast, `"version":3`) {
		t.Errorf("the recording of %s is not read: %.200s", id, cast)
	}
	var log struct {
		Items []struct{ Action, Target string } `json:"items"`
	}
	w.JSON(t, &log, "audit", "list", "--limit", "50")
	var acts []string
	for _, e := range log.Items {
		if e.Target == id {
			acts = append(acts, strings.TrimPrefix(e.Action, "shell_sessions."))
		}
	}
	slices.Reverse(acts)
	if got := strings.Join(acts, " "); got != "open kill end replay" {
		t.Errorf("the audit log has %q of %s", got, id)
	}
	select {
	case <-m.ended:
	case <-time.After(30 * time.Second):
		t.Errorf("the command of %s does not end: %s", id, m.errs.String())
	}
}

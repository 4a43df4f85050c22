package sinks

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/loopbackd/loopback/api/loopback/v1"
	"github.com/loopbackd/loopback/server/sink/sinktest"
	"github.com/loopbackd/loopback/test/daemon"
)

var loopbackd, collector string // programs, built once

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "loopback-sinks-*")
	if err == nil {
		defer os.RemoveAll(dir)
		if loopbackd, err = daemon.Build(context.Background(), dir); err == nil {
			collector, err = buildCollector(context.Background(), dir)
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

func start(t *testing.T) *daemon.Daemon {
	t.Helper()
	if testing.Short() {
		t.Skip("loopbackd is started as a process of its own: not in the quick part")
	}
	d, err := daemon.Start(t.Context(), daemon.Options{Program: loopbackd, Dir: t.TempDir(), Args: []string{"--caller-rate", "100000"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Kill(); err != nil {
			t.Error(err)
		}
		if log, err := d.Log(); t.Failed() && err == nil {
			t.Logf("end of the control plane's log: %s", log[max(0, len(log)-4000):])
		}
	})
	return d
}

// within is a context for what has to happen within a time.
func within(t *testing.T, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

func launch(t *testing.T, p *program) {
	t.Helper()
	if err := p.Start(within(t, 30*time.Second)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Kill)
}

func sink(t *testing.T, d *daemon.Daemon, q *pb.CreateSinkRequest) string {
	t.Helper()
	q.Name, q.Since = q.Kind, timestamppb.New(time.Unix(1, 0))
	r, err := d.Sinks.CreateSink(t.Context(), connect.NewRequest(q))
	if err != nil {
		t.Fatal(err)
	}
	return r.Msg.Secret
}

func syslogServer(t *testing.T) *rsyslog {
	t.Helper()
	if _, err := exec.LookPath("rsyslogd"); err != nil {
		t.Skip("rsyslog with TLS is not installed (make prepare)")
	}
	r, err := newRsyslog(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	launch(t, &r.program)
	return r
}

// behind is a collector, and what it passed on.
func behind(t *testing.T) (*program, *sinktest.Crate) {
	t.Helper()
	cert, _ := sinktest.Certificate()
	l := listen(t, "127.0.0.1:0")
	c := &sinktest.Collector{Crate: sinktest.NewCrate(), Complain: t.Errorf, Token: "sesame"}
	t.Cleanup(sinktest.Serve(l, cert, c))
	p, err := newCollector(t.TempDir(), collector, "https://"+l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	launch(t, p)
	return p, c.Crate
}

func listen(t *testing.T, address string) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// all are the ids of every entry that there is.
func all(t *testing.T, d *daemon.Daemon) map[string]bool {
	t.Helper()
	entries, err := d.Entries(t.Context(), "", "")
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]bool{}
	for _, e := range entries {
		out[e.Id] = true
	}
	return out
}

// gets waits until a receiver has all of these, and holds it against them.
func gets(t *testing.T, d *daemon.Daemon, name string, wanted map[string]bool, crate func() (*sinktest.Crate, error)) {
	t.Helper()
	for ctx := within(t, 3*time.Minute); ; {
		c, err := crate()
		if err != nil {
			t.Fatal(err)
		}
		if c.Has(wanted) {
			break
		}
		select {
		case <-time.After(100 * time.Millisecond): // receivers are other processes: nothing tells us
		case <-ctx.Done():
			t.Fatalf("%s does not get what it has to: %v", name, c.Check(wanted)[0])
		}
	}
	c, err := crate()
	if err != nil {
		t.Fatal(err)
	}
	there := all(t, d)
	for id := range c.Times() {
		if c.Body(id) != "" && strings.HasPrefix(id, "aud_") && !there[id] {
			t.Errorf("%s has %s, which is not in the log", name, id)
		}
	}
	twice := 0
	for _, n := range c.Times() {
		twice += n - 1
	}
	t.Logf("%s has %d entries; %d came more than once", name, c.Len(), twice)
}

func act(t *testing.T, d *daemon.Daemon, n int) {
	t.Helper()
	for range n {
		if _, err := d.Mint(t.Context(), 1); err != nil {
			t.Fatal(err)
		}
	}
}

func TestRsyslogReceivesOverTLS(t *testing.T) {
	d := start(t)
	r := syslogServer(t)
	act(t, d, 50)
	sink(t, d, &pb.CreateSinkRequest{Kind: "syslog", Target: r.Address, Ca: r.CA})
	act(t, d, 50)
	// Larger than a message of syslog: it comes in parts.
	labels := map[string]string{}
	for i := range 60 {
		labels[fmt.Sprint("label-", i)] = fmt.Sprintf("%060d", i)
	}
	if _, err := d.Workspaces.CreateWorkspace(t.Context(), connect.NewRequest(&pb.CreateWorkspaceRequest{Project: "default", Name: "large", Labels: labels})); err != nil {
		t.Fatal(err)
	}
	gets(t, d, "rsyslog", all(t, d), r.crate)
}

func TestACollectorReceives(t *testing.T) {
	d := start(t)
	p, crate := behind(t)
	act(t, d, 50)
	sink(t, d, &pb.CreateSinkRequest{Kind: "otlp", Target: "https://" + p.Address, Ca: p.CA, Format: "ocsf"})
	act(t, d, 50)
	gets(t, d, "the collector", all(t, d), func() (*sinktest.Crate, error) { return crate, nil })
}

// dice are seeded, and say with what.
func dice(t *testing.T) *rand.Rand {
	t.Helper()
	seed := uint64(time.Now().UnixNano())
	if s := os.Getenv("LOOPBACK_SEED"); s != "" {
		var err error
		if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatalf("LOOPBACK_SEED=%q: %v", s, err)
		}
	}
	t.Logf("LOOPBACK_SEED=%d", seed)
	return rand.New(rand.NewPCG(seed, 0))
}

// The control plane and its receivers are killed at random under load: no receiver misses anything that was acknowledged.
func TestNothingIsMissedUnderFire(t *testing.T) {
	random := dice(t)
	long := 15 * time.Second
	if os.Getenv("LOOPBACK_SOAK") != "" {
		long = 10 * time.Minute
	}
	d := start(t)
	r := syslogServer(t)
	p, passed := behind(t)
	cert, ca := sinktest.Certificate()
	hook := &sinktest.Webhook{Crate: sinktest.NewCrate(), Complain: t.Errorf}
	l := listen(t, "127.0.0.1:0")
	address := l.Addr().String()
	stop := sinktest.Serve(l, cert, hook)
	defer func() { stop() }()
	var moods sync.Mutex
	luck := rand.New(rand.NewPCG(random.Uint64(), 1))
	hook.Behave(func([]string) sinktest.Answer {
		moods.Lock()
		defer moods.Unlock()
		return []sinktest.Answer{{}, {}, {}, {Status: 500}, {Lose: true}, {Wait: 200 * time.Millisecond}}[luck.IntN(6)]
	})
	if err := hook.Trust(sink(t, d, &pb.CreateSinkRequest{Kind: "webhook", Target: "https://" + address, Ca: ca})); err != nil {
		t.Fatal(err)
	}
	sink(t, d, &pb.CreateSinkRequest{Kind: "syslog", Target: r.Address, Ca: r.CA, Format: "ecs"})
	sink(t, d, &pb.CreateSinkRequest{Kind: "otlp", Target: "https://" + p.Address, Ca: p.CA, Format: "ocsf"})
	sink(t, d, &pb.CreateSinkRequest{Kind: "file", Target: "audit.jsonl"})

	load, end := context.WithTimeout(t.Context(), long)
	defer end()
	var acknowledged atomic.Int64
	var writers sync.WaitGroup
	for range 8 {
		writers.Go(func() {
			for load.Err() == nil {
				call, cancel := context.WithTimeout(load, 5*time.Second)
				_, err := d.Mint(call, 1)
				cancel()
				pause := 20 * time.Millisecond
				if err == nil {
					acknowledged.Add(1)
				}
				select {
				case <-time.After(pause):
				case <-load.Done():
				}
			}
		})
	}
	kills := map[string]int{}
	for load.Err() == nil {
		select {
		case <-time.After(time.Duration(200+random.IntN(1800)) * time.Millisecond):
		case <-load.Done():
			continue
		}
		switch who := []string{"loopbackd", "rsyslog", "collector", "webhook"}[random.IntN(4)]; who {
		case "loopbackd":
			if err := d.Kill(); err != nil {
				t.Fatal(err)
			}
			if err := d.Restart(t.Context()); err != nil {
				t.Fatal(err)
			}
			kills[who]++
		case "rsyslog":
			again(t, random, &r.program)
			kills[who]++
		case "collector":
			again(t, random, p)
			kills[who]++
		default:
			stop()
			time.Sleep(time.Duration(random.IntN(500)) * time.Millisecond)
			stop = sinktest.Serve(listen(t, address), cert, hook)
			kills[who]++
		}
	}
	writers.Wait()
	hook.Behave(nil)
	wanted := all(t, d)
	if n := acknowledged.Load(); int64(len(wanted)) < n || n < 50 {
		t.Fatalf("%d acts were acknowledged, the log has %d entries", n, len(wanted))
	}
	t.Logf("%d acts acknowledged, %d entries; killed %v", acknowledged.Load(), len(wanted), kills)
	crate := func(c *sinktest.Crate) func() (*sinktest.Crate, error) {
		return func() (*sinktest.Crate, error) { return c, nil }
	}
	gets(t, d, "the webhook", wanted, crate(hook.Crate))
	gets(t, d, "rsyslog", wanted, r.crate)
	gets(t, d, "the collector", wanted, crate(passed))
	gets(t, d, "the file", wanted, func() (*sinktest.Crate, error) {
		return lines(filepath.Join(d.DataDir, "sinks", "deployment", "audit.jsonl"))
	})
}

// again kills a receiver, and starts it a while later.
func again(t *testing.T, random *rand.Rand, p *program) {
	t.Helper()
	p.Kill()
	time.Sleep(time.Duration(random.IntN(500)) * time.Millisecond)
	if err := p.Start(within(t, 30*time.Second)); err != nil {
		t.Fatal(err)
	}
}

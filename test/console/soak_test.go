package console

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"

	pb "github.com/loopbackd/loopback/api/loopback/v1"
	"github.com/loopbackd/loopback/test/daemon"
	"github.com/loopbackd/loopback/test/fleet"
	"github.com/loopbackd/loopback/wire"
)

// TestAnOpenPageKeepsNoMore leaves a page open and looks around in it while hosts change: what it keeps in memory does not grow. In
// make soak it is half an hour with 10,000 hosts (CONSOLE_HOSTS and CONSOLE_FOR, in seconds, say otherwise).
func TestAnOpenPageKeepsNoMore(t *testing.T) {
	if testing.Short() {
		t.Skip("a browser and a control plane are started: not in the quick part")
	}
	hosts, length, rate := 200, 40*time.Second, 50
	if os.Getenv("LOOPBACK_SOAK") != "" {
		hosts, length, rate = 10_000, 30*time.Minute, 100
	}
	if n, err := strconv.Atoi(os.Getenv("CONSOLE_HOSTS")); err == nil {
		hosts = n
	}
	if n, err := strconv.Atoi(os.Getenv("CONSOLE_FOR")); err == nil {
		length = time.Duration(n) * time.Second
	}
	d, err := daemon.Start(t.Context(), daemon.Options{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Kill(); err != nil {
			t.Error(err)
		}
	})
	minted, err := d.Mint(t.Context(), hosts)
	if err != nil {
		t.Fatal(err)
	}
	f := fleet.Run(t.Context(), hosts, 64, func(i int) *fleet.Agent {
		return &fleet.Agent{Dialer: d.Dialer(wire.WebSocket, i), Token: minted.GetSecret(), Name: fmt.Sprintf("host-%d", i), Patience: 200 * time.Millisecond}
	})
	t.Cleanup(f.Stop)
	ctx, cancel := context.WithTimeout(t.Context(), length+20*time.Minute)
	defer cancel()
	if err := f.Wait(ctx, func(c fleet.Counts) bool { return c.Enrolled == hosts }); err != nil {
		t.Fatal(err)
	}
	all, err := d.AllHosts(ctx)
	if err != nil {
		t.Fatal(err)
	}

	every := max(length/40, time.Second)
	page := exec.CommandContext(ctx, filepath.Join("node_modules", ".bin", "node"), "e2e/soak.mjs")
	page.Dir = web
	page.Env = append(os.Environ(), "CONSOLE_URL="+d.URL, "CONSOLE_KEY="+d.Key, "CONSOLE_OUT="+t.TempDir(),
		fmt.Sprintf("CONSOLE_FOR=%f", length.Seconds()), fmt.Sprintf("CONSOLE_EVERY=%f", every.Seconds()))
	var said, complaints bytes.Buffer
	page.Stdout, page.Stderr = &said, &complaints
	changing, stop := context.WithCancel(ctx)
	var changes sync.WaitGroup
	changed := 0
	changes.Go(func() { changed = change(changing, d, all, rate) })
	err = page.Run()
	stop()
	changes.Wait()
	if err != nil {
		t.Fatalf("the page: %v: %s", err, complaints.String())
	}
	var kept struct{ Heap, Nodes, Listeners []float64 }
	if err := json.Unmarshal(said.Bytes(), &kept); err != nil {
		t.Fatalf("the page said %q: %v", said.String(), err)
	}
	if changed < int(length.Seconds()) {
		t.Errorf("%d hosts were changed in %s: too few to tell", changed, length)
	}
	t.Logf("%d hosts, %d changes in %s", hosts, changed, length)
	// The first third warms up: code is compiled, lists fill up to what they hold.
	for _, m := range []struct {
		name  string
		of    []float64
		slack float64 // beside a tenth
	}{{"bytes of heap", kept.Heap, 2e6}, {"nodes", kept.Nodes, 2000}, {"listeners", kept.Listeners, 500}} {
		third := len(m.of) / 3
		if third < 3 {
			t.Fatalf("%d samples are too few", len(m.of))
		}
		before, after := median(m.of[third:2*third]), median(m.of[2*third:])
		t.Logf("%s: %.0f at first, %.0f in the second third, %.0f in the last", m.name, median(m.of[:third]), before, after)
		if after > before*1.1+m.slack {
			t.Errorf("%s grew from %.0f to %.0f: %.0f", m.name, before, after, m.of)
		}
	}
}

func median(of []float64) float64 {
	sorted := slices.Sorted(slices.Values(of))
	return sorted[len(sorted)/2]
}

// change puts hosts into quarantine and takes them out again, so many a second, until ctx ends. It returns how many it changed.
func change(ctx context.Context, d *daemon.Daemon, hosts []*pb.Host, rate int) (done int) {
	tick := time.NewTicker(time.Second / time.Duration(rate))
	defer tick.Stop()
	for i := 0; ; i++ {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return done
		}
		id := hosts[i%len(hosts)].GetId()
		var err error
		if i/len(hosts)%2 == 0 {
			_, err = d.Hosts.QuarantineHost(ctx, connect.NewRequest(&pb.QuarantineHostRequest{Host: id, Reason: "soak"}))
		} else {
			_, err = d.Hosts.ReleaseHost(ctx, connect.NewRequest(&pb.ReleaseHostRequest{Host: id}))
		}
		if err == nil {
			done++
		}
	}
}

package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"

	"connectrpc.com/connect"

	pb "github.com/loopbackd/loopback/api/loopback/v1"
	"github.com/loopbackd/loopback/test/daemon"
	"github.com/loopbackd/loopback/test/fleet"
	"github.com/loopbackd/loopback/wire"
)

const (
	consoleHosts   = 10_000
	consoleChanges = 500 // a second
)

// console measures the list of hosts in a real browser, at 10,000 hosts. The rival of each figure is its floor: the same
// question asked by a program, with no page to draw.
func (b *bench) console(ctx context.Context) (_ []Result, err error) {
	node := filepath.Join(b.root, "web", "node_modules", ".bin", "node")
	for _, need := range []string{"/usr/bin/chromium", node} {
		if _, err := os.Stat(need); err != nil {
			fmt.Fprintln(os.Stderr, "console: skipped: missing", need, "(make prepare build)")
			return nil, nil
		}
	}
	d, err := b.start(ctx, "console")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, d.Kill()) }()
	minted, err := d.Mint(ctx, consoleHosts)
	if err != nil {
		return nil, err
	}
	f := fleet.Run(ctx, consoleHosts, 64, func(i int) *fleet.Agent {
		return &fleet.Agent{Dialer: d.Dialer(wire.WebSocket, i), Token: minted.GetSecret(), Name: fmt.Sprintf("host-%d", i)}
	})
	defer f.Stop()
	if err := f.Wait(ctx, func(c fleet.Counts) bool { return c.Enrolled == consoleHosts }); err != nil {
		return nil, err
	}
	hosts, err := d.AllHosts(ctx)
	if err != nil {
		return nil, err
	}

	page := exec.CommandContext(ctx, node, "e2e/speed.mjs")
	page.Dir = filepath.Join(b.root, "web")
	page.Env = append(os.Environ(), "CONSOLE_URL="+d.URL, "CONSOLE_KEY="+d.Key, "CONSOLE_HOSTS="+strconv.Itoa(consoleHosts), "CONSOLE_OUT="+b.dir)
	var said bytes.Buffer
	page.Stdout = &said
	progress, err := page.StderrPipe()
	if err != nil {
		return nil, err
	}
	begin, err := page.StdinPipe()
	if err != nil {
		return nil, err
	}
	before, err := daemon.CPU(d.PID())
	if err != nil {
		return nil, err
	}
	if err := page.Start(); err != nil {
		return nil, err
	}
	lines := bufio.NewScanner(progress)
	for lines.Scan() && lines.Text() != "ready" {
		fmt.Fprintln(os.Stderr, lines.Text())
	}
	changing, stop := context.WithTimeout(ctx, 12*time.Second)
	changed := make(chan int, 1)
	go func() { changed <- change(changing, d, hosts) }()
	if _, err := begin.Write([]byte("go\n")); err != nil {
		stop()
		return nil, errors.Join(err, page.Wait())
	}
	err = page.Wait()
	stop()
	changes := <-changed
	if err != nil {
		return nil, fmt.Errorf("the page: %w", err)
	}
	after, err := daemon.CPU(d.PID())
	if err != nil {
		return nil, err
	}
	var seen struct{ Cold, First, Filter, Frames, Heap []float64 }
	if err := json.Unmarshal(said.Bytes(), &seen); err != nil {
		return nil, fmt.Errorf("the page said %q: %w", said.String(), err)
	}
	fmt.Fprintf(os.Stderr, "%d changes in 12 s; the page's heap went from %.0f to %.0f MB\n", changes, seen.Heap[0]/1e6, seen.Heap[1]/1e6)

	list, err := asked(ctx, 15, func(int) *pb.ListHostsRequest {
		return &pb.ListHostsRequest{OrderBy: "name", Page: &pb.Page{Size: 200}}
	}, d)
	if err != nil {
		return nil, err
	}
	one, err := asked(ctx, 25, func(i int) *pb.ListHostsRequest {
		return &pb.ListHostsRequest{Query: fmt.Sprintf("name=host-%d", i*397%consoleHosts), OrderBy: "name", Page: &pb.Page{Size: 200}}
	}, d)
	if err != nil {
		return nil, err
	}
	cpu := (after - before).Seconds()
	result := func(name string, values []float64, part float64, rival string, rivals []float64, target float64) Result {
		r := Result{Name: name, Unit: "ms", Value: share(values, part), Rival: rival, Target: target, Better: "lower", CPUSeconds: cpu, Runs: len(values)}
		if rival != "" {
			r.RivalValue = share(rivals, part)
			r.Ratio = r.Value / r.RivalValue
		}
		r.Met = r.Value <= target
		return r
	}
	return []Result{
		result("first rows of 10,000 hosts, the page loaded anew, p50", seen.Cold, 0.5, "the first page asked for by a program", list, 300),
		result("first rows of 10,000 hosts, from the click, seen before, p50", seen.First, 0.5, "the first page asked for by a program", list, 300),
		result("a filter over 10,000 hosts, from the last key, p95", seen.Filter, 0.95, "the same query asked by a program", one, 200),
		result(fmt.Sprintf("between frames while scrolling, at %d changes a second, p99", consoleChanges), seen.Frames, 0.99, "", nil, 50),
	}, nil
}

// change labels hosts at a pace until ctx ends, and returns how many.
func change(ctx context.Context, d *daemon.Daemon, hosts []*pb.Host) (n int) {
	tick := time.NewTicker(time.Second / consoleChanges)
	defer tick.Stop()
	slots := make(chan struct{}, 64)
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
			return n
		case <-tick.C:
		}
		slots <- struct{}{}
		n++
		go func(i int) {
			defer func() { <-slots }()
			// One that fails for the end of the context is one of the last.
			_, _ = d.Hosts.LabelHost(ctx, connect.NewRequest(&pb.LabelHostRequest{Host: hosts[i%len(hosts)].GetId(), Set: map[string]string{"turn": strconv.Itoa(i)}}))
		}(n)
	}
	return n
}

// asked is how long each of n questions took, in milliseconds.
func asked(ctx context.Context, n int, question func(i int) *pb.ListHostsRequest, d *daemon.Daemon) (took []float64, err error) {
	for i := range n {
		began := time.Now()
		if _, err := d.Hosts.ListHosts(ctx, connect.NewRequest(question(i))); err != nil {
			return nil, err
		}
		took = append(took, float64(time.Since(began).Microseconds())/1000)
	}
	return took, nil
}

package replicas

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"connectrpc.com/connect"

	pb "github.com/loopbackd/loopback/api/loopback/v1"
	"github.com/loopbackd/loopback/cli"
	"github.com/loopbackd/loopback/test/daemon"
	"github.com/loopbackd/loopback/test/fleet"
)

// before builds the last loopbackd that did not know the newest migration: really another program, on another schema.
func before(t *testing.T, version string) string {
	t.Helper()
	git := func(args ...string) string {
		t.Helper()
		c := exec.CommandContext(t.Context(), "git", append([]string{"-C", daemon.Tree()}, args...)...)
		out, err := c.Output()
		if err != nil {
			t.Skipf("git history: the version before is built from it; git %s: %v", args[0], err)
		}
		return strings.TrimSpace(string(out))
	}
	files, err := filepath.Glob(filepath.Join(daemon.Tree(), "server/storage/migrations/*.sql"))
	if err != nil || len(files) == 0 {
		t.Fatalf("%d migrations, %v", len(files), err)
	}
	newest := "server/storage/migrations/" + filepath.Base(files[len(files)-1])
	added := git("log", "-1", "--diff-filter=A", "--format=%H", "--", newest)
	if added == "" {
		added = git("rev-parse", "HEAD") // it is not committed yet
	} else {
		added = git("rev-parse", added+"^")
	}
	dir := t.TempDir()
	archive := filepath.Join(dir, "tree.tar")
	git("archive", "--output", archive, added)
	tree := filepath.Join(dir, "tree")
	if err := os.Mkdir(tree, 0o700); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.CommandContext(t.Context(), "tar", "-C", tree, "-xf", archive).CombinedOutput(); err != nil {
		t.Fatalf("unpack: %v: %s", err, out)
	}
	built, err := daemon.BuildFrom(t.Context(), tree, dir, version)
	if err != nil {
		t.Fatal(err)
	}
	return built
}

// calling calls through the balancer until stop: by the product's own command line, which begins a connection for each
// call and repeats what it may, and by connections that stay.
type calling struct {
	calls, retries, failed atomic.Int64
	slowest                atomic.Int64
	end                    context.CancelFunc
	callers                sync.WaitGroup
}

func (c *cluster) call(t *testing.T) *calling {
	t.Helper()
	ctx, end := context.WithCancel(t.Context())
	k := &calling{end: end}
	t.Cleanup(k.stop)
	ca := filepath.Join(c.replicas[0].DataDir, "keys", "ca.crt")
	env := map[string]string{"HOME": t.TempDir(), "LOOPBACK_URL": c.balancer.url(), "LOOPBACK_API_KEY": c.replicas[0].Key, "LOOPBACK_CA_FILE": ca, "LOOPBACK_WORKSPACE": "default"}
	client := c.replicas[0].At(c.balancer.url())
	keep := func(do func() error) {
		k.callers.Go(func() {
			for ctx.Err() == nil {
				began := time.Now()
				err := do()
				if ctx.Err() != nil {
					return
				}
				k.calls.Add(1)
				took := int64(time.Since(began))
				for most := k.slowest.Load(); took > most && !k.slowest.CompareAndSwap(most, took); most = k.slowest.Load() {
				}
				if err != nil {
					k.failed.Add(1)
					t.Errorf("a call failed for good: %v", err)
				}
			}
		})
	}
	for _, command := range []string{"host list", "token list", "operation list"} {
		keep(func() error {
			var out, errs bytes.Buffer
			code := cli.Run(ctx, append(strings.Fields(command), "-o", "json"), cli.Environment{In: strings.NewReader(""), Out: &out, Err: &errs, Version: "1.0.0", Getenv: func(name string) string { return env[name] }})
			k.retries.Add(int64(strings.Count(errs.String(), "trying again in")))
			if code != 0 {
				return fmt.Errorf("loopback %s ended with %d: %s", command, code, errs.String())
			}
			return nil
		})
	}
	for range 3 {
		keep(func() error {
			for try := 0; ; try++ {
				_, err := client.Mint(ctx, 1)
				if code := connect.CodeOf(err); err == nil || try == 5 || code != connect.CodeUnavailable && code != connect.CodeUnknown {
					return err
				}
				k.retries.Add(1)
				select {
				case <-time.After(time.Duration(50<<try) * time.Millisecond):
				case <-ctx.Done():
				}
			}
		})
	}
	return k
}

func (k *calling) stop() { k.end(); k.callers.Wait() }

// versions are those that the replicas show, by name.
func versions(c *cluster, d *daemon.Daemon) []string {
	c.t.Helper()
	r, err := d.Replicas.ListReplicas(c.within(10*time.Second), connect.NewRequest(&pb.ListReplicasRequest{}))
	if err != nil {
		c.t.Fatal(err)
	}
	var out []string
	for _, one := range r.Msg.Items {
		out = append(out, one.Version)
	}
	return out
}

// A rolling upgrade between two real builds. The first that is new brings the schema up to date under the old ones, which
// go on; an old one that starts on it is refused by name; nobody's call fails.
func TestTwoVersionsSideBySide(t *testing.T) {
	if testing.Short() {
		t.Skip("two builds: not in the quick part")
	}
	older := before(t, "0.9.0")
	newer, err := daemon.BuildFrom(t.Context(), daemon.Tree(), t.TempDir(), "1.0.0")
	if err != nil {
		t.Fatal(err)
	}
	c := startWith(t, older, 3, "")
	const n = 30
	f := c.agents(n)
	for _, d := range c.replicas {
		c.until(30*time.Second, func() error { return c.managed(d, n) })
	}
	shown := c.offline(c.replicas[2])
	k := c.call(t)
	for i, d := range c.replicas {
		d.Use(newer)
		began := time.Now()
		if code, err := d.Stop(c.within(30 * time.Second)); err != nil || code != 0 {
			t.Fatalf("stop replica %d: code %d, %v", i+1, code, err)
		}
		if err := d.Restart(t.Context()); err != nil {
			t.Fatal(err)
		}
		c.await(f, 20*time.Second, func(now fleet.Counts) bool { return now.Linked == n })
		t.Logf("replica %d is upgraded, and all %d hosts linked, after %s", i+1, n, time.Since(began).Round(10*time.Millisecond))
		// Old and new answer for each other's hosts, and what either is told reaches all.
		level := []string{"debug", "warn", "error"}[i]
		t.Logf("settings through replica %d were at all hosts after %s", (i+1)%3+1, c.set(f, (i+1)%3, level, 20*time.Second).Round(time.Millisecond))
		for _, other := range c.replicas {
			c.until(20*time.Second, func() error { return c.managed(other, n) })
		}
		want := []string{"0.9.0", "0.9.0", "0.9.0"}
		for j := range i + 1 {
			want[j] = "1.0.0"
		}
		c.until(20*time.Second, func() error {
			if got := versions(c, d); !slices.Equal(got, want) {
				return fmt.Errorf("replica %d shows the versions %v, want %v", i+1, got, want)
			}
			return nil
		})
	}
	k.stop()
	t.Logf("%d calls, %d retries, %d failed; the slowest took %s", k.calls.Load(), k.retries.Load(), k.failed.Load(), time.Duration(k.slowest.Load()).Round(time.Millisecond))
	if shown.Load() > 0 {
		t.Errorf("%d times a host was shown as offline", shown.Load())
	}

	// Back to the old program: it refuses, and says what to do; nothing was harmed by its attempt.
	last := c.replicas[2]
	if code, err := last.Stop(c.within(30 * time.Second)); err != nil || code != 0 {
		t.Fatalf("stop: code %d, %v", code, err)
	}
	last.Use(older)
	if err := last.Restart(t.Context()); err == nil {
		t.Error("a program that does not know the schema started on it")
	}
	log, err := last.Log()
	if err != nil {
		t.Fatal(err)
	}
	if end := log[max(0, len(log)-1000):]; !strings.Contains(end, "this program knows versions up to") || !strings.Contains(end, "hint: ") {
		t.Errorf("it says %q", end)
	}
	last.Use(newer)
	if err := last.Restart(t.Context()); err != nil {
		t.Error(err)
	}
	c.until(20*time.Second, func() error { return c.managed(last, n) })
}

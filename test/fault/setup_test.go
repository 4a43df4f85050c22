package fault

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/loopbackd/loopback/test/daemon"
	"github.com/loopbackd/loopback/test/fleet"
	"github.com/loopbackd/loopback/wire"
)

var program string // loopbackd, built once

func TestMain(m *testing.M) {
	os.Exit(run(m))
}

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "loopback-fault-*")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	if program, err = daemon.Build(context.Background(), dir); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

// size is the slice of a run, or all of it when soaking.
func size(slice, whole int) int {
	if os.Getenv("LOOPBACK_SOAK") != "" {
		return whole
	}
	return slice
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

func start(t *testing.T, args ...string) *daemon.Daemon {
	t.Helper()
	return startOn(t, "", args...)
}

// startOn keeps the data in a folder, or in one of the test's own where none is given.
func startOn(t *testing.T, dataDir string, args ...string) *daemon.Daemon {
	t.Helper()
	if testing.Short() {
		t.Skip("loopbackd is started as a process of its own: not in the quick part")
	}
	d, err := daemon.Start(t.Context(), daemon.Options{Program: program, Dir: t.TempDir(), DataDir: dataDir, Args: args})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Kill(); err != nil {
			t.Error(err)
		}
		if log, err := d.Log(); t.Failed() && err == nil {
			t.Logf("end of the control plane's log: %s", log[max(0, len(log)-6000):])
		}
	})
	return d
}

func mint(t *testing.T, d *daemon.Daemon, uses int) (id, secret string) {
	t.Helper()
	m, err := d.Mint(t.Context(), uses)
	if err != nil {
		t.Fatal(err)
	}
	return m.GetToken().GetId(), m.GetSecret()
}

// agents runs a fleet of n that stays until the test ends.
func agents(t *testing.T, d *daemon.Daemon, n int, secret string, change func(i int, a *fleet.Agent)) *fleet.Fleet {
	t.Helper()
	f := fleet.Run(t.Context(), n, 64, func(i int) *fleet.Agent {
		a := &fleet.Agent{Dialer: d.Dialer(wire.WebSocket, i), Token: secret, Patience: 200 * time.Millisecond}
		if change != nil {
			change(i, a)
		}
		return a
	})
	t.Cleanup(f.Stop)
	return f
}

func within(t *testing.T, most time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), most)
	t.Cleanup(cancel)
	return ctx
}

func await(t *testing.T, f *fleet.Fleet, most time.Duration, done func(fleet.Counts) bool) {
	t.Helper()
	if err := f.Wait(within(t, most), done); err != nil {
		t.Fatal(err)
	}
}

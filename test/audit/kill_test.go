package audit

import (
	"context"
	"math/rand/v2"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// producers is how many write at once.
const producers = 1024

// Whatever was acknowledged is in the log after a SIGKILL, once, and the log adds to every checkpoint that was seen before.
func TestKillsUnderManyProducersLoseNoEntry(t *testing.T) {
	random := dice(t)
	kills := 5
	if os.Getenv("LOOPBACK_SOAK") != "" {
		kills = 1000
	}
	// A thousand take half an hour on a machine that is busy: they may come in slices, each with a seed and a log of its own.
	if n, err := strconv.Atoi(os.Getenv("LOOPBACK_KILLS")); err == nil && n > 0 {
		kills = n
	}
	b := start(t, "--caller-rate", "1000000", "--calls", "4096", "--caller-calls", "4096")

	var mu sync.Mutex
	acknowledged := map[string]bool{} // tokens
	var count atomic.Int64
	stir := make(chan struct{}, 1)
	ctx, stop := context.WithCancel(t.Context())
	var writing sync.WaitGroup
	defer func() { stop(); writing.Wait() }()
	for range producers {
		writing.Go(func() {
			for ctx.Err() == nil {
				call, cancel := context.WithTimeout(ctx, 10*time.Second)
				m, err := b.Mint(call, 1)
				cancel()
				if err != nil {
					select { // it is away: do not spin
					case <-time.After(50 * time.Millisecond):
					case <-ctx.Done():
					}
					continue
				}
				mu.Lock()
				acknowledged[m.GetToken().GetId()] = true
				mu.Unlock()
				count.Add(1)
				select {
				case stir <- struct{}{}:
				default:
				}
			}
		})
	}
	for k := range kills {
		for more := count.Load() + int64(50+random.IntN(1000)); count.Load() < more; {
			select {
			case <-stir:
			case <-time.After(time.Minute):
				t.Fatalf("before kill %d: nothing is acknowledged any more", k)
			}
		}
		if err := b.Kill(); err != nil {
			t.Fatal(err)
		}
		b.again(t)
		if k%100 == 0 || k == kills-1 {
			b.must(t, "verified", "audit", "verify", "--quick") // remembers, and holds against what was remembered
		}
	}
	stop()
	writing.Wait()
	b.act(t, 1)
	b.must(t, "it adds to what was remembered", "audit", "verify")
	entries, err := b.Entries(t.Context(), "agent_tokens.mint", "")
	if err != nil {
		t.Fatal(err)
	}
	times := map[string]int{}
	for _, e := range entries {
		times[e.Target]++
	}
	for id := range acknowledged {
		if times[id] != 1 {
			t.Errorf("the token %s was acknowledged, the log speaks of it %d times", id, times[id])
		}
	}
	t.Logf("%d kills, %d acts acknowledged, %d entries of them", kills, len(acknowledged), len(entries))
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

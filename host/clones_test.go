package host

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"
)

// Whatever machines come and whatever is decided: a host with an undecided copy is locked and one without is not, at most
// one copy is kept, what an operator decided before the lock comes back after it, and copies stay bounded.
func TestALockHoldsWhateverComesAndIsDecided(t *testing.T) {
	for seed := range uint64(2000) {
		r := rand.New(rand.NewPCG(seed, 1))
		before := []Lifecycle{LifecycleActive, LifecyclePending, LifecycleQuarantined}[r.IntN(3)]
		h := Host{Facts: Facts{Lifecycle: before, LifecycleReason: "before"}, Key: []byte("key")}
		now := time.Unix(1_000_000, 0)
		for step := range 30 {
			now = now.Add(time.Second)
			switch r.IntN(4) {
			case 0, 1:
				boot := fmt.Sprintf("boot-%d", r.IntN(25))
				h.Lock([]Copy{{BootID: boot, Address: "10.0.0.1"}}, now)
			case 2:
				if h.Clones.Locked() {
					kept := h.Clones.Copies[r.IntN(len(h.Clones.Copies))].BootID
					if err := h.Decide(kept, []Verdict{SplitOff, Dropped}[r.IntN(2)]); err != nil {
						t.Fatalf("seed %d, step %d: %v", seed, step, err)
					}
					if v := h.Clones.Of([32]byte{}, kept); v != Kept {
						t.Fatalf("seed %d, step %d: got %q for the one that was kept", seed, step, v)
					}
				}
			case 3:
				if h.Clones != nil && !h.Clones.Locked() {
					h.Fence()
					h.Key = fmt.Appendf(nil, "key-%d", step)
				}
			}
			kept := 0
			if h.Clones != nil {
				for _, c := range h.Clones.Copies {
					if c.Verdict == Kept {
						kept++
					}
				}
				if len(h.Clones.Copies) > maxCopies {
					t.Fatalf("seed %d, step %d: %d copies are kept in mind", seed, step, len(h.Clones.Copies))
				}
			}
			switch locked := h.Clones.Locked(); {
			case locked && h.Lifecycle == LifecycleActive, locked && h.LifecycleReason == "before":
				t.Fatalf("seed %d, step %d: locked, and %s (%s)", seed, step, h.Lifecycle, h.LifecycleReason)
			case locked && kept != 0, kept > 1:
				t.Fatalf("seed %d, step %d: %d copies are kept, locked %v", seed, step, kept, locked)
			case !locked && (h.Lifecycle != before || h.LifecycleReason != "before"):
				t.Fatalf("seed %d, step %d: got %s (%s), want %s as before", seed, step, h.Lifecycle, h.LifecycleReason, before)
			}
		}
	}
}

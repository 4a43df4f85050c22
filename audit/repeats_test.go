package audit_test

import (
	"fmt"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/loopbackd/loopback/audit"
)

func TestRepeatsWritesTheFirstAndMergesTheRest(t *testing.T) {
	now := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	r := audit.NewRepeats[string](time.Minute, 10)
	if !r.Add("a", "first", now) {
		t.Fatal("the first was not to be written, want it written at once")
	}
	for i := range 3 {
		if r.Add("a", fmt.Sprint(i), now.Add(time.Second)) {
			t.Fatalf("repeat %d was to be written at once, want it merged", i)
		}
	}
	if got := r.Due(now.Add(59 * time.Second)); len(got) != 0 {
		t.Fatalf("got %v before the window was over, want nothing", got)
	}
	got := r.Due(now.Add(time.Minute))
	if len(got) != 1 || got[0].Count != 3 || got[0].Last != "2" {
		t.Fatalf("got %+v, want one with the last of three", got)
	}
	if got := r.Due(now.Add(3 * time.Minute)); len(got) != 0 {
		t.Fatalf("got %v after a quiet window, want nothing", got)
	}
	if !r.Add("a", "again", now.Add(4*time.Minute)) {
		t.Fatal("after a quiet window the next was merged, want it written at once")
	}
}

// Whatever happens in whatever order, what was written at once and what was merged add up to what was added.
func TestRepeatsLosesNothing(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		now := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
		r := audit.NewRepeats[int](time.Minute, 3)
		var added, seen int64
		for range rapid.IntRange(0, 200).Draw(t, "steps") {
			now = now.Add(time.Duration(rapid.IntRange(0, 40).Draw(t, "seconds")) * time.Second)
			if rapid.IntRange(0, 3).Draw(t, "act") == 0 {
				for _, w := range r.Due(now) {
					seen += w.Count
				}
				continue
			}
			added++
			if r.Add(fmt.Sprint(rapid.IntRange(0, 6).Draw(t, "key")), 0, now) {
				seen++
			}
		}
		for _, w := range r.Rest(now) {
			seen += w.Count
		}
		if seen != added {
			t.Fatalf("got %d written or merged, want %d", seen, added)
		}
	})
}

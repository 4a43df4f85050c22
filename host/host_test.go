package host_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/host"
	"github.com/loopbackd/loopback/section"
	"github.com/loopbackd/loopback/tenant"
)

var now = time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)

func facts(t *rapid.T) host.Facts {
	f := host.Facts{
		Lifecycle: rapid.SampledFrom([]host.Lifecycle{
			host.LifecycleUnmanaged, host.LifecyclePending, host.LifecycleActive, host.LifecycleQuarantined, host.LifecycleRemoved,
		}).Draw(t, "lifecycle"),
		LifecycleReason: "why",
		Converged:       rapid.Bool().Draw(t, "converged"),
		Online:          rapid.Bool().Draw(t, "online"),
		Updating:        rapid.SampledFrom([]string{"", "1.2.3"}).Draw(t, "updating"),
		UpdatingUntil:   now.Add(time.Duration(rapid.IntRange(-2, 2).Draw(t, "until")) * time.Second),
	}
	for i := range rapid.IntRange(0, 3).Draw(t, "sections") {
		f.Sections = append(f.Sections, section.Status{
			Name:   fmt.Sprint("s", i),
			State:  rapid.SampledFrom([]section.State{section.Pending, section.Applied, section.Failed, section.Degraded}).Draw(t, "state"),
			Frozen: rapid.Bool().Draw(t, "frozen"),
		})
	}
	for i := range rapid.IntRange(0, 3).Draw(t, "modules") {
		f.Modules = append(f.Modules, host.Health{Module: fmt.Sprint("m", i), Healthy: rapid.Bool().Draw(t, "healthy")})
	}
	return f
}

// holds says of each state alone whether it would hold, in the words of the contract. The state is the first that does.
func holds(f host.Facts, s host.State) bool {
	switch s {
	case host.Removed:
		return f.Lifecycle == host.LifecycleRemoved
	case host.Unmanaged:
		return f.Lifecycle == host.LifecycleUnmanaged
	case host.Quarantined:
		return f.Lifecycle == host.LifecycleQuarantined
	case host.Pending:
		return f.Lifecycle == host.LifecyclePending
	case host.Enrolling:
		return !f.Converged
	case host.Offline:
		return !f.Online
	case host.Updating:
		return f.Updating != "" && now.Before(f.UpdatingUntil)
	case host.Degraded:
		return slices.ContainsFunc(f.Sections, func(s section.Status) bool {
			return s.Frozen || s.State == section.Failed || s.State == section.Degraded
		}) || slices.ContainsFunc(f.Modules, func(m host.Health) bool { return !m.Healthy })
	default:
		return true
	}
}

func TestTheStateIsTheFirstThatHolds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		f := facts(t)
		want := host.States[slices.IndexFunc(host.States, func(s host.State) bool { return holds(f, s) })]
		got, reason := f.Derive(now)
		if got != want {
			t.Fatalf("state of %+v\ngot  %s\nwant %s", f, got, want)
		}
		if (reason == "") != (got == host.Managed) {
			t.Fatalf("state %s of %+v has the reason %q", got, f, reason)
		}
	})
}

func TestTheTimeOfAStateChangesOnlyWithTheState(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		h := host.Host{Facts: facts(t)}
		h.Settle(now)
		was, at := h.State, h.StateSince
		h.Facts = facts(t)
		later := now.Add(time.Minute)
		changed := h.Settle(later)
		switch {
		case h.State == was && h.StateSince != at:
			t.Fatalf("still %s, but since %s became %s", was, at, h.StateSince)
		case h.State != was && (!changed || !h.StateSince.Equal(later)):
			t.Fatalf("from %s to %s: changed %t, since %s, want true and %s", was, h.State, changed, h.StateSince, later)
		}
		if h.Settle(later.Add(time.Hour)) && h.Updating == "" {
			t.Fatalf("settling again with the same facts changed %s", h.State)
		}
	})
}

func TestAFreeNameIsFreeAndFoundWithFewQuestions(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		dense := rapid.IntRange(0, 5000).Draw(t, "dense")
		base := rapid.SampledFrom([]string{"web", strings.Repeat("a", 63), strings.Repeat("a", 59) + "-b"}).Draw(t, "base")
		taken := map[string]bool{}
		for range dense {
			name, _, err := host.FreeName(base, len(taken)+1, func(n string) (bool, error) { return taken[n], nil })
			if err != nil {
				t.Fatal(err)
			}
			taken[name] = true
		}
		if len(taken) != dense {
			t.Fatalf("%d names given, %d of them different", dense, len(taken))
		}
		for range rapid.IntRange(0, 10).Draw(t, "holes") {
			n := rapid.IntRange(2, 5000).Draw(t, "hole")
			delete(taken, fmt.Sprintf("web-%d", n))
		}
		questions := 0
		try := rapid.SampledFrom([]int{0, 2, dense, dense + 1, dense * 2}).Draw(t, "try")
		name, _, err := host.FreeName(base, try, func(n string) (bool, error) { questions++; return taken[n], nil })
		if err != nil || taken[name] {
			t.Fatalf("got %q, %v, which is taken", name, err)
		}
		if questions > 60 {
			t.Errorf("%d questions for the name %s among %d", questions, name, len(taken))
		}
		var c fault.Check
		tenant.CheckName(&c, "name", name)
		if err := c.Err("x", "the name %s", name); err != nil {
			t.Error(err)
		}
	})
}

func TestFreeNamesAreGivenInOrder(t *testing.T) {
	taken := map[string]bool{}
	for i, want := range []string{"web", "web-2", "web-3", "web-4", "web-5", "web-6", "web-7", "web-8", "web-9"} {
		got, _, err := host.FreeName("web", 0, func(n string) (bool, error) { return taken[n], nil })
		if err != nil || got != want {
			t.Fatalf("name %d: got %s, %v, want %s", i+1, got, err, want)
		}
		taken[got] = true
	}
}

func TestCleanName(t *testing.T) {
	for in, want := range map[string]string{
		"web-1": "web-1", "Web_1.example.com": "web-1", "": "host", "...": "host", "-a-": "a", "DB  7": "db-7", "漢字": "host",
		strings.Repeat("x", 80): strings.Repeat("x", 63), "a--b": "a-b",
	} {
		if got := host.CleanName(in); got != want {
			t.Errorf("CleanName(%q) = %q, want %q", in, got, want)
		}
	}
}

func FuzzCleanName(f *testing.F) {
	f.Add("Web_1.example.com")
	f.Fuzz(func(t *testing.T, in string) {
		var c fault.Check
		out := host.CleanName(in)
		tenant.CheckName(&c, "name", out)
		if err := c.Err("x", "CleanName(%q) = %q", in, out); err != nil {
			t.Error(err)
		}
	})
}

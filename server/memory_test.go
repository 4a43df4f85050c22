package server

import "testing"

func TestTheRoomForGarbageIsAShareOfALargeHeapAndAFixedRoomInASmallOne(t *testing.T) {
	for _, c := range []struct {
		alive         uint64
		want, growing int
	}{{0, 400, 400}, {1 << 20, 400, 400}, {16 << 20, 200, 200}, {32 << 20, 100, 100}, {64 << 20, 50, 75}, {100 << 20, 40, 75}, {4 << 30, 40, 75}} {
		if got, more := share(c.alive, false), share(c.alive, true); got != c.want || more != c.growing {
			t.Errorf("with %d MiB alive: %d percent, %d while it grows, want %d and %d", c.alive>>20, got, more, c.want, c.growing)
		}
	}
	if growing(19_000, 19_020) || growing(0, 40) || !growing(0, 900) || !growing(10_000, 10_900) {
		t.Error("a fleet that returns is not told from hosts that come and go")
	}
}

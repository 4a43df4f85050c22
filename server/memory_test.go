package server

import "testing"

func TestTheRoomForGarbageIsAShareOfALargeHeapAndAFixedRoomInASmallOne(t *testing.T) {
	for _, c := range []struct {
		alive uint64
		want  int
	}{{0, 400}, {1 << 20, 400}, {16 << 20, 200}, {32 << 20, 100}, {64 << 20, 50}, {100 << 20, 40}, {4 << 30, 40}} {
		if got := share(c.alive); got != c.want {
			t.Errorf("with %d MiB alive: %d percent, want %d", c.alive>>20, got, c.want)
		}
	}
}

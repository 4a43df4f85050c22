package server

import (
	"context"
	"os"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

// What may lie around between two collections: a share of what is alive, and in a small process some more. Links live for
// weeks and leave next to no garbage, so that with thousands of them half as much room costs next to no processor time;
// with few of them, collections would come one after the other in the room that is a share of little. While links come in
// numbers, each leaves a handshake's garbage, and the processor is what all of them wait for.
const (
	leastRoom    = 32 << 20 // bytes
	leastShare   = 40       // percent
	growingShare = 75
	mostShare    = 400
)

// share is how many percent of what is alive may lie around.
func share(alive uint64, growing bool) int {
	least := leastShare
	if growing {
		least = growingShare
	}
	return int(min(max(leastRoom*100/max(alive, 1), uint64(least)), mostShare))
}

// growing tells whether links come in numbers, by how many there were a look before.
func growing(before, now int) bool { return now-before > max(50, before/50) }

// keepRoom adjusts that as the process grows, unless GOGC says what is wanted.
func keepRoom(links func() int) func(context.Context) error {
	return func(ctx context.Context) error {
		if os.Getenv("GOGC") != "" {
			return nil
		}
		alive := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
		now, linked := share(0, false), 0
		before := debug.SetGCPercent(now)
		defer debug.SetGCPercent(before)
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return nil
			case <-tick.C:
			}
			metrics.Read(alive)
			if alive[0].Value.Kind() != metrics.KindUint64 {
				return nil // a later Go that measures otherwise
			}
			last := linked
			linked = links()
			// Setting it stops the world for a moment: not for a percent or two.
			if next := share(alive[0].Value.Uint64(), growing(last, linked)); next*10 < now*9 || next*9 > now*10 {
				now = next
				debug.SetGCPercent(now)
			}
		}
	}
}

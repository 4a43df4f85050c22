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
// with few of them, collections would come one after the other in the room that is a share of little.
const (
	leastRoom  = 32 << 20 // bytes
	leastShare = 40       // percent
	mostShare  = 400
)

// share is how many percent of what is alive may lie around.
func share(alive uint64) int {
	return int(min(max(leastRoom*100/max(alive, 1), leastShare), mostShare))
}

// keepRoom adjusts that as the process grows, unless GOGC says what is wanted.
func keepRoom(ctx context.Context) error {
	if os.Getenv("GOGC") != "" {
		return nil
	}
	alive := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	now := share(0)
	before := debug.SetGCPercent(now)
	defer debug.SetGCPercent(before)
	tick := time.NewTicker(5 * time.Second)
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
		// Setting it stops the world for a moment: not for a percent or two.
		if next := share(alive[0].Value.Uint64()); next*10 < now*9 || next*9 > now*10 {
			now = next
			debug.SetGCPercent(now)
		}
	}
}

package feed

import (
	"context"
	"log/slog"
	"time"
)

// How long changes are kept, and how often old ones are dropped. A reader that was away for longer loads everything anew,
// which is what it would do after a minute's absence of a few thousand hosts anyway.
const (
	Kept       = 24 * time.Hour
	pruneEvery = time.Hour
)

// Pruned is where changes can be dropped: oldest first, never one that a younger one stands before.
type Pruned interface {
	PruneChanges(ctx context.Context, before time.Time) (int64, error)
}

// Prune drops changes that are older than Kept until ctx ends. Several replicas may do so; the second finds nothing.
func Prune(ctx context.Context, from Pruned, now func() time.Time, logger *slog.Logger) error {
	ticker := time.NewTicker(pruneEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
		switch n, err := from.PruneChanges(ctx, now().Add(-Kept)); {
		case err != nil && ctx.Err() == nil:
			logger.Warn("old changes stay in the feed for now", "error", err)
		case n > 0:
			logger.Debug("dropped old changes", "changes", n)
		}
	}
}

package storage

import (
	"context"
	"fmt"
	"time"

	"github.com/loopbackd/loopback/server/feed"
)

var changesTable = newTable("changes", func(c *feed.Change) []column {
	return append([]column{{"position", &c.Position}, {"kind", &c.Kind}, {"id", &c.ID},
		{"deleted", &c.Deleted}, {"at", moment{&c.At}}}, scopeColumns(&c.Scope)...)
})

// Position is that of the last change; 0 before the first.
func (db *DB) Position(ctx context.Context) (int64, error) {
	position, err := db.View().number(ctx, "SELECT feed FROM positions")
	if err != nil {
		return 0, fmt.Errorf("reading the feed's position: %w", err)
	}
	return position, nil
}

// Changes are the next ones after a position, at most limit of them. A position that the feed no longer reaches back to,
// or has not reached, is feed.ErrGone: load everything anew, from the Position read before that.
func (db *DB) Changes(ctx context.Context, after int64, limit int) ([]feed.Change, error) {
	for {
		list, err := changesTable.list(ctx, db.View().session, "WHERE position > $1 ORDER BY position LIMIT $2", after, limit)
		if err != nil {
			return nil, err
		}
		if len(list) > 0 {
			if list[0].Position != after+1 {
				return nil, feed.ErrGone
			}
			return list, nil
		}
		position, err := db.Position(ctx)
		switch {
		case err != nil:
			return nil, err
		case position == after:
			return nil, nil
		case position < after:
			return nil, feed.ErrGone
		}
		// Changes came between the two looks, or those after this position are gone.
		var left int64
		if left, err = db.oldestAfter(ctx, after); err != nil {
			return nil, err
		}
		if left != after+1 {
			return nil, feed.ErrGone
		}
	}
}

func (db *DB) oldestAfter(ctx context.Context, position int64) (int64, error) {
	list, err := changesTable.list(ctx, db.View().session, "WHERE position > $1 ORDER BY position LIMIT 1", position)
	if err != nil || len(list) == 0 {
		return 0, err
	}
	return list[0].Position, nil
}

// pruneStep bounds how long pruning holds the writer up.
const pruneStep = 2000

// PruneChanges drops changes from before a time, oldest first, and never one that a younger time comes before. It
// returns how many.
func (db *DB) PruneChanges(ctx context.Context, before time.Time) (int64, error) {
	var total int64
	for {
		var n int64
		err := db.Observe(ctx, func(tx *Tx) error {
			var err error
			n, err = tx.work.count(`DELETE FROM changes WHERE position IN (
				SELECT position FROM changes WHERE position < coalesce(
					(SELECT min(position) FROM changes WHERE at >= $1), (SELECT feed + 1 FROM positions))
				ORDER BY position LIMIT $2)`, micros(before), pruneStep)
			if n > 0 {
				tx.touch()
			}
			return err
		})
		if err != nil {
			return total, fmt.Errorf("pruning the feed: %w", err)
		}
		total += n
		if n < pruneStep {
			return total, nil
		}
	}
}

// Nudges is a channel that has something in it when this process has committed changes since it was last read. It is a
// hint: other processes commit as well. cancel gives it up.
func (db *DB) Nudges() (nudges <-chan struct{}, cancel func()) {
	c := make(chan struct{}, 1)
	db.mu.Lock()
	db.nudged[c] = struct{}{}
	db.mu.Unlock()
	return c, func() {
		db.mu.Lock()
		delete(db.nudged, c)
		db.mu.Unlock()
	}
}

func (db *DB) nudge() {
	db.mu.Lock()
	defer db.mu.Unlock()
	for c := range db.nudged {
		select {
		case c <- struct{}{}:
		default:
		}
	}
}

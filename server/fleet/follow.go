package fleet

import (
	"context"
	"time"

	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/server/feed"
)

// again is how long to wait before the database is asked again after it could not answer.
const again = time.Second

// Follow keeps the directory in step with the feed until ctx ends. It begins with a scan, and scans again whenever the
// feed says so, or a change could not be read. ready is closed after the first.
func (d *Directory) Follow(ctx context.Context, from *feed.Subscription, ready chan<- struct{}) error {
	for {
		changes, anew, err := from.Next(ctx)
		if err != nil {
			return nil
		}
		if anew {
			err = d.Load(ctx)
		}
		if err == nil {
			err = d.Apply(ctx, changes)
		}
		switch {
		case err == nil && anew && ready != nil:
			close(ready)
			ready = nil
		case err == nil:
		case ctx.Err() != nil:
			return nil
		default:
			d.options.Logger.WarnContext(ctx, "the directory of hosts cannot be brought up to date; it goes on with what it has",
				"error", fault.Of(err).Error())
			from.Anew()
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(again):
			}
		}
	}
}

package fleet

import (
	"context"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

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
			err = d.applyTraced(ctx, changes)
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

// applyTraced is Apply in a span that links to those that wrote the changes: reading, compiling, telling the hub.
func (d *Directory) applyTraced(ctx context.Context, changes []feed.Change) error {
	var links []trace.Link
	if d.options.Tracer != nil && d.options.Origin != nil {
		for _, c := range changes {
			if from := d.options.Origin(c.Position); from.IsValid() && len(links) < maxLinks {
				links = append(links, trace.Link{SpanContext: from})
			}
		}
	}
	if len(links) == 0 { // nobody traces what led to this
		return d.Apply(ctx, changes)
	}
	// It is part of the first one's trace: that is where somebody looks.
	ctx, span := d.options.Tracer.Start(trace.ContextWithRemoteSpanContext(ctx, links[0].SpanContext), "fleet.apply",
		trace.WithLinks(links[1:]...), trace.WithAttributes(attribute.Int("loopback.changes", len(changes))))
	defer span.End()
	err := d.Apply(ctx, changes)
	if err != nil {
		span.SetStatus(codes.Error, fault.Of(err).Code)
	}
	return err
}

const maxLinks = 32

package storage

import (
	"context"
	"sync"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	"github.com/loopbackd/loopback/fault"
)

// spanned begins a span below the caller's; where the caller has none, it costs nothing.
func spanned(ctx context.Context, name string, attributes ...attribute.KeyValue) (context.Context, trace.Span) {
	parent := trace.SpanFromContext(ctx)
	if !parent.IsRecording() {
		return ctx, parent
	}
	return parent.TracerProvider().Tracer("loopback/storage").Start(ctx, name, trace.WithAttributes(attributes...))
}

// ended ends a span of spanned.
func ended(ctx context.Context, span trace.Span, parent context.Context, err error) {
	if ctx == parent {
		return // it is the caller's own
	}
	if err != nil {
		span.SetStatus(codes.Error, fault.Of(err).Code)
	}
	span.End()
}

// origins remembers which spans wrote the latest changes, so that what follows from them can point back.
type origins struct {
	mu   sync.Mutex
	ring [512]struct {
		position int64
		span     trace.SpanContext
	}
}

func (o *origins) note(position int64, span trace.SpanContext) {
	o.mu.Lock()
	defer o.mu.Unlock()
	at := &o.ring[position%int64(len(o.ring))]
	at.position, at.span = position, span
}

// Origin is the span that wrote a change in this process, while that is remembered.
func (db *DB) Origin(position int64) trace.SpanContext {
	db.origins.mu.Lock()
	defer db.origins.mu.Unlock()
	if at := db.origins.ring[position%int64(len(db.origins.ring))]; at.position == position {
		return at.span
	}
	return trace.SpanContext{}
}

package rpc

import (
	"context"
	"net/http"
	"strings"

	"connectrpc.com/connect"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"github.com/loopbackd/loopback/access"
	"github.com/loopbackd/loopback/fault"
)

// span begins a call's span, as part of the caller's trace where it sent one (W3C traceparent). It reaches back to when
// the request came: signing in, waiting for a place and reading the message are in it.
func (e *edge) span(ctx context.Context, spec connect.Spec, header http.Header) (context.Context, trace.Span) {
	o, actor := originFrom(ctx), access.ActorFrom(ctx)
	ctx = propagation.TraceContext{}.Extract(ctx, propagation.HeaderCarrier(header))
	return e.options.Tracer.Start(ctx, strings.TrimPrefix(spec.Procedure, "/"), trace.WithTimestamp(o.began), trace.WithSpanKind(trace.SpanKindServer),
		trace.WithAttributes(attribute.String("rpc.method", spec.Procedure), attribute.String("loopback.request", o.requestID),
			attribute.String("loopback.actor", string(actor.Kind)+" "+actor.ID)))
}

func finish(span trace.Span, err error) {
	if err != nil {
		span.SetStatus(codes.Error, fault.Of(err).Code)
	}
	span.End()
}

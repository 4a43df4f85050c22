// Package tracing sends spans of what the control plane does to a collector, by OTLP over HTTP.
//
// It is off unless an endpoint is set. A call's span begins at the API's edge, continues a caller's trace (the header
// traceparent), and has the reads and writes of the database below it. What follows from a write happens later, for
// everybody's writes together: the span of a change being compiled and handed to the hub links to the spans that wrote
// it. Spans wait in a bounded queue; what a collector does not take in time is dropped, never waited for.
package tracing

import (
	"context"
	"log/slog"
	"net/url"
	"sync"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/sdk/resource"
	sdk "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"

	"github.com/loopbackd/loopback/fault"
)

// Options of the way to a collector.
type Options struct {
	Endpoint string  // http://HOST:4318 or https://…; empty: off
	Share    float64 // of the traces that begin here, 0 to 1; a caller that continues its own has decided already
	Version  string
	Replica  string
	Logger   *slog.Logger // told of a collector that does not take spans; nil: slog.Default
}

// sayEvery is how often a collector that is away is spoken of: spans are sent every few seconds.
const sayEvery = time.Minute

// complaints says in the log what the library would write to standard error by itself.
type complaints struct {
	log  *slog.Logger
	mu   sync.Mutex
	said time.Time
}

// Handle implements otel.ErrorHandler.
func (c *complaints) Handle(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if now := time.Now(); now.Sub(c.said) >= sayEvery {
		c.said = now
		c.log.Warn("traces are lost: the collector does not take them", "error", err)
	}
}

// Open makes a provider of tracers. close sends what waits.
func Open(ctx context.Context, o Options) (_ trace.TracerProvider, close func(context.Context) error, err error) {
	if o.Endpoint == "" {
		return noop.NewTracerProvider(), func(context.Context) error { return nil }, nil
	}
	u, err := url.Parse(o.Endpoint)
	if err != nil || u.Host == "" {
		return nil, nil, fault.New(fault.Invalid, "settings_invalid", "the trace endpoint is no URL").WithHint("for example http://127.0.0.1:4318")
	}
	if u.Path == "" || u.Path == "/" {
		u.Path = "/v1/traces"
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	otel.SetErrorHandler(&complaints{log: o.Logger}) // the library has no other way to tell
	exporter, err := otlptracehttp.New(ctx, otlptracehttp.WithEndpointURL(u.String()))
	if err != nil {
		return nil, nil, fault.New(fault.Invalid, "settings_invalid", "traces cannot be sent").WithCause(err).WithHint("check --trace-endpoint")
	}
	p := sdk.NewTracerProvider(
		sdk.WithBatcher(exporter),
		sdk.WithSampler(sdk.ParentBased(sdk.TraceIDRatioBased(o.Share))),
		sdk.WithResource(resource.NewSchemaless(attribute.String("service.name", "loopbackd"),
			attribute.String("service.version", o.Version), attribute.String("service.instance.id", o.Replica))),
	)
	return p, p.Shutdown, nil
}

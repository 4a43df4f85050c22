package server

import (
	"context"
	"encoding/hex"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	otlp "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"
)

// gathered is a collector that keeps what it gets, by OTLP over HTTP.
type gathered struct {
	*httptest.Server
	mu    sync.Mutex
	spans []*otlp.Span
}

func gather(t *testing.T) *gathered {
	t.Helper()
	g := &gathered{}
	g.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		var in collector.ExportTraceServiceRequest
		if err != nil || r.URL.Path != "/v1/traces" || proto.Unmarshal(body, &in) != nil {
			t.Errorf("%s: got %d bytes that are no spans, %v", r.URL.Path, len(body), err)
		}
		g.mu.Lock()
		defer g.mu.Unlock()
		for _, resource := range in.GetResourceSpans() {
			for _, scope := range resource.GetScopeSpans() {
				g.spans = append(g.spans, scope.GetSpans()...)
			}
		}
	}))
	t.Cleanup(g.Close)
	return g
}

// of is the spans of one trace by name, once one that is wanted is among them.
func (g *gathered) of(t *testing.T, trace, want string) map[string]*otlp.Span {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		out := map[string]*otlp.Span{}
		g.mu.Lock()
		for _, s := range g.spans {
			if hex.EncodeToString(s.GetTraceId()) == trace {
				out[s.GetName()] = s
			}
		}
		g.mu.Unlock()
		if out[want] != nil {
			return out
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("the trace %s has %v, want %s among them", trace, out, want)
		}
	}
}

// A caller's trace goes on through call, database and what the change leads to.
func TestACallIsTracedToTheHostsThatItReaches(t *testing.T) {
	g := gather(t)
	r := serve(t, "--trace-endpoint", g.URL, "--trace-share", "0")
	const trace, parent = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, r.url+"/api/loopback.v1.HostService/AddHost", strings.NewReader(`{"workspace":"default","name":"traced"}`))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("Authorization", "Bearer "+r.key)
	request.Header.Set("traceparent", "00-"+trace+"-"+parent+"-01")
	answer, err := r.client.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	_ = answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		t.Fatalf("got %s", answer.Status)
	}
	spans := g.of(t, trace, "fleet.apply")
	call := spans["loopback.v1.HostService/AddHost"]
	if call == nil || hex.EncodeToString(call.GetParentSpanId()) != parent {
		t.Fatalf("the call's span: got %v, want one below the caller's", call)
	}
	write := spans["storage.write"]
	if write == nil || hex.EncodeToString(write.GetParentSpanId()) != hex.EncodeToString(call.GetSpanId()) {
		t.Errorf("the write's span: got %v, want one below the call's", write)
	}
	for _, s := range spans {
		if text := s.String(); strings.Contains(text, r.key) || strings.Contains(text, "traced\"") {
			t.Errorf("a credential or a value is in a span: %s", text)
		}
	}
	// With a share of 0 nothing is traced but what callers trace.
	r.post(t, "SessionService/WhoAmI", r.key, "{}")
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, s := range g.spans {
		if hex.EncodeToString(s.GetTraceId()) != trace {
			t.Errorf("a span of another trace: %s", s.GetName())
		}
	}
}

// A collector that is away, or never answers, delays nobody.
func TestACollectorThatIsAwayDelaysNobody(t *testing.T) {
	r := serve(t, "--trace-endpoint", "http://127.0.0.1:1", "--trace-share", "1")
	for range 20 {
		began := time.Now()
		if answer, body := r.post(t, "SessionService/WhoAmI", r.key, "{}"); answer.StatusCode != http.StatusOK {
			t.Fatalf("got %s %s", answer.Status, body)
		}
		if took := time.Since(began); took > 5*time.Second {
			t.Errorf("a call took %s", took)
		}
	}
}

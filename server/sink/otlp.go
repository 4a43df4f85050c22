package sink

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"strings"

	logsv1 "go.opentelemetry.io/proto/otlp/collector/logs/v1"
	common "go.opentelemetry.io/proto/otlp/common/v1"
	logs "go.opentelemetry.io/proto/otlp/logs/v1"
	resource "go.opentelemetry.io/proto/otlp/resource/v1"
	"google.golang.org/protobuf/proto"

	"github.com/loopbackd/loopback/sink"
)

// otlp sends log records to an OpenTelemetry collector over HTTP. A collector that takes only a part of a batch says how
// many records it rejected, not which: they are sent again in smaller batches, until the one that it will not have is alone.
type otlp struct {
	url        string
	token      string // sent as a bearer's; empty: none
	deployment string
	client     *http.Client
}

func newOTLP(s sink.Sink, secret []byte, deployment string, dial Dial) (Sender, error) {
	c, err := client(s, dial)
	url := s.Target
	if !strings.HasSuffix(url, "/v1/logs") {
		url = strings.TrimRight(url, "/") + "/v1/logs"
	}
	return &otlp{url: url, token: string(secret), deployment: deployment, client: c}, err
}

func (o *otlp) Send(ctx context.Context, batch []Event) error {
	records := make([]*logs.LogRecord, len(batch))
	for i, e := range batch {
		severity, name := logs.SeverityNumber_SEVERITY_NUMBER_INFO, "INFO"
		if e.Refused {
			severity, name = logs.SeverityNumber_SEVERITY_NUMBER_WARN, "WARN"
		}
		records[i] = &logs.LogRecord{
			TimeUnixNano: uint64(e.At.UnixNano()), ObservedTimeUnixNano: uint64(e.At.UnixNano()), SeverityNumber: severity, SeverityText: name,
			EventName: "audit." + e.Action, Body: text(string(e.Body)),
			Attributes: []*common.KeyValue{
				{Key: "event.id", Value: text(e.ID)}, {Key: "audit.action", Value: text(e.Action)},
				{Key: "audit.position", Value: &common.AnyValue{Value: &common.AnyValue_IntValue{IntValue: e.Position}}},
			},
		}
	}
	body, err := proto.Marshal(&logsv1.ExportLogsServiceRequest{ResourceLogs: []*logs.ResourceLogs{{
		Resource:  &resource.Resource{Attributes: []*common.KeyValue{{Key: "service.name", Value: text("loopbackd")}, {Key: "service.instance.id", Value: text(o.deployment)}}},
		ScopeLogs: []*logs.ScopeLogs{{Scope: &common.InstrumentationScope{Name: "loopback/audit"}, LogRecords: records}},
	}}})
	if err != nil {
		return err
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, o.url, bytes.NewReader(body))
	if err != nil {
		return err
	}
	r.Header.Set("Content-Type", "application/x-protobuf")
	r.Header.Set("User-Agent", "loopbackd")
	if o.token != "" {
		r.Header.Set("Authorization", "Bearer "+o.token)
	}
	answer, err := post(o.client, r)
	if err != nil {
		return err
	}
	var out logsv1.ExportLogsServiceResponse
	if err := proto.Unmarshal(answer, &out); err != nil {
		return nil // it took them, and answers in another way
	}
	if n := out.GetPartialSuccess().GetRejectedLogRecords(); n > 0 {
		return fmt.Errorf("%w: the collector rejected %d of %d records: %.100s", errRefused, n, len(batch), out.GetPartialSuccess().GetErrorMessage())
	}
	return nil
}

func text(s string) *common.AnyValue {
	return &common.AnyValue{Value: &common.AnyValue_StringValue{StringValue: strings.ToValidUTF8(s, "\uFFFD")}}
}

func (o *otlp) Close() error {
	o.client.CloseIdleConnections()
	return nil
}

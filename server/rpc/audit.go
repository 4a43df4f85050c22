package rpc

import (
	"context"
	"encoding/json"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/loopbackd/loopback/access"
	v1 "github.com/loopbackd/loopback/api/loopback/v1"
	noun "github.com/loopbackd/loopback/audit"
	"github.com/loopbackd/loopback/server/audit"
)

// Audit is loopback.v1.AuditService.
type Audit struct{ Service *audit.Service }

// ListEntries is those that the caller may read.
func (h Audit) ListEntries(ctx context.Context, r *connect.Request[v1.ListEntriesRequest]) (*connect.Response[v1.ListEntriesResponse], error) {
	var f fields
	m := r.Msg
	in := audit.Query{
		Workspace: m.GetWorkspace(), Action: access.Permission(m.GetAction()), Target: m.GetTarget(), Actor: m.GetActor(),
		Since: f.time("since", m.GetSince()), Until: f.time("until", m.GetUntil()), After: m.GetAfterPosition(), Page: page(m.GetPage()),
	}
	if err := f.err(); err != nil {
		return nil, err
	}
	items, next, err := h.Service.List(ctx, in)
	return answer(&v1.ListEntriesResponse{Items: each(items, auditEntry), NextPageToken: next}, err)
}

func auditEntry(e noun.Entry) *v1.AuditEntry {
	return &v1.AuditEntry{
		Id: e.ID, Position: e.Position, At: timestamp(e.At), Action: string(e.Action), Scope: scope(e.Scope),
		Actor:  &v1.AuditActor{Kind: string(e.Actor.Kind), Id: e.Actor.ID, Name: e.Actor.Name, Address: e.Actor.Address},
		Target: e.Target, TargetName: e.Name, Outcome: string(e.Outcome), Reason: e.Reason, Ticket: e.Ticket,
		Before: value(e.Before), After: value(e.After), Decision: e.Decision, RequestId: e.RequestID,
	}
}

// value is stored JSON as the wire has it; nil where there is none. What cannot be read is shown as the text it is
// rather than hidden: it is evidence.
func value(raw json.RawMessage) *structpb.Value {
	if len(raw) == 0 {
		return nil
	}
	var out structpb.Value
	if err := protojson.Unmarshal(raw, &out); err != nil {
		return structpb.NewStringValue(string(raw))
	}
	return &out
}

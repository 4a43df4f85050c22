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
	evidence "github.com/loopbackd/loopback/ledger"
	"github.com/loopbackd/loopback/server/audit"
	"github.com/loopbackd/loopback/server/ledger"
	"github.com/loopbackd/loopback/server/witness"
)

// Audit is loopback.v1.AuditService.
type Audit struct {
	Service   *audit.Service
	Ledger    *ledger.Service
	Retention *audit.Retention
	Witnesses *witness.Service
}

// ListWitnesses is the hosts that remember checkpoints.
func (h Audit) ListWitnesses(ctx context.Context, _ *connect.Request[v1.ListWitnessesRequest]) (*connect.Response[v1.ListWitnessesResponse], error) {
	items, err := h.Witnesses.List(ctx)
	return answer(&v1.ListWitnessesResponse{Items: each(items, func(r witness.Remembering) *v1.AuditWitness {
		return &v1.AuditWitness{HostId: r.HostID, HostName: r.Name, Scope: scope(r.Scope), Log: r.Log, Size: r.Size, Checkpoint: r.Checkpoint,
			State: string(r.Status.State), Message: r.Status.Message, RememberedAt: timestamp(r.Status.AppliedAt)}
	})}, err)
}

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

// GetCheckpoint is the last signed state of a log.
func (h Audit) GetCheckpoint(ctx context.Context, r *connect.Request[v1.GetCheckpointRequest]) (*connect.Response[v1.AuditCheckpoint], error) {
	l, err := h.Ledger.Log(ctx, r.Msg.GetLog())
	return answer(h.checkpoint(l), err)
}

func (h Audit) checkpoint(l evidence.Log) *v1.AuditCheckpoint {
	return &v1.AuditCheckpoint{
		Log: l.Number, Size: l.Signed, Checkpoint: l.Checkpoint, Key: h.Ledger.Key().String(), Began: l.Began,
		Previous: l.Previous, Pruned: l.Pruned, SignedAt: timestamp(l.SignedAt), Handovers: l.Handovers,
	}
}

// GetRetention is how long bodies are kept.
func (h Audit) GetRetention(ctx context.Context, r *connect.Request[v1.GetRetentionRequest]) (*connect.Response[v1.AuditRetention], error) {
	kept, _, err := h.Retention.Get(ctx, r.Msg.GetOrganisation())
	return answer(retention(kept), err)
}

// SetRetention changes it.
func (h Audit) SetRetention(ctx context.Context, r *connect.Request[v1.SetRetentionRequest]) (*connect.Response[v1.AuditRetention], error) {
	kept, err := h.Retention.Set(ctx, r.Msg.GetOrganisation(), noun.Retention{KeepDays: r.Msg.GetKeepDays(), Hold: r.Msg.GetHold(), Reason: r.Msg.GetReason()})
	return answer(retention(kept), err)
}

func retention(r noun.Retention) *v1.AuditRetention {
	return &v1.AuditRetention{OrganisationId: r.Organisation, KeepDays: r.KeepDays, Hold: r.Hold, Reason: r.Reason, UpdatedAt: timestamp(r.UpdatedAt)}
}

// ProveEntry is the proof that an entry is in its log.
func (h Audit) ProveEntry(ctx context.Context, r *connect.Request[v1.ProveEntryRequest]) (*connect.Response[v1.ProveEntryResponse], error) {
	p, err := h.Ledger.Inclusion(ctx, r.Msg.GetEntry())
	return answer(&v1.ProveEntryResponse{Checkpoint: h.checkpoint(p.Log), Leaf: string(p.Leaf), Index: p.Index, Hashes: each(p.Hashes, hashBytes)}, err)
}

// ProveConsistency is the proof that a log only grew.
func (h Audit) ProveConsistency(ctx context.Context, r *connect.Request[v1.ProveConsistencyRequest]) (*connect.Response[v1.ProveConsistencyResponse], error) {
	hashes, err := h.Ledger.Consistency(ctx, r.Msg.GetLog(), r.Msg.GetFrom(), r.Msg.GetTo())
	return answer(&v1.ProveConsistencyResponse{Hashes: each(hashes, hashBytes)}, err)
}

// ListLeaves is what the tree is made of.
func (h Audit) ListLeaves(ctx context.Context, r *connect.Request[v1.ListLeavesRequest]) (*connect.Response[v1.ListLeavesResponse], error) {
	leaves, err := h.Ledger.Leaves(ctx, r.Msg.GetLog(), r.Msg.GetStart(), int(r.Msg.GetLimit()))
	return answer(&v1.ListLeavesResponse{Items: each(leaves, func(l ledger.Leaf) *v1.AuditLeaf {
		if l.Body != nil {
			return &v1.AuditLeaf{Body: string(l.Body)}
		}
		return &v1.AuditLeaf{Hash: l.Hash[:], Absent: l.Absent}
	})}, err)
}

func hashBytes(h evidence.Hash) []byte { return h[:] }

func auditEntry(e noun.Entry) *v1.AuditEntry {
	return &v1.AuditEntry{
		Id: e.ID, Position: e.Position, At: timestamp(e.At), Action: string(e.Action), Scope: scope(e.Scope),
		Actor:  &v1.AuditActor{Kind: string(e.Actor.Kind), Id: e.Actor.ID, Name: e.Actor.Name, Address: e.Actor.Address, Principal: e.Actor.Principal, MfaAt: timestamp(e.Actor.MFA), Method: e.Actor.Method},
		Target: e.Target, TargetName: e.Name, Outcome: string(e.Outcome), Reason: e.Reason, Ticket: e.Ticket,
		Before: value(e.Before), After: value(e.After), Decision: e.Decision, Snapshot: e.Snapshot, Grant: auditGrant(e.Basis), RequestId: e.RequestID,
	}
}

func auditGrant(b *access.Basis) *v1.AuditGrant {
	if b == nil {
		return nil
	}
	return &v1.AuditGrant{Id: b.Grant, Reason: b.Reason, Ticket: b.Ticket, Approvers: each(b.Approvers, func(a access.Approver) *v1.AuditApprover {
		return &v1.AuditApprover{Id: a.ID, Name: a.Name, At: timestamp(a.At)}
	})}
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

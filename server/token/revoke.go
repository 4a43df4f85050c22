package token

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"time"

	"github.com/loopbackd/loopback/access"
	"github.com/loopbackd/loopback/audit"
	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/id"
	"github.com/loopbackd/loopback/operation"
	"github.com/loopbackd/loopback/tenant"
	"github.com/loopbackd/loopback/token"
)

// Revocation is how a token is ended.
type Revocation struct {
	Hosts     token.Fate // what becomes of the hosts that it enrolled; empty: token.Keep
	Since     time.Time  // only hosts enrolled at or after this; zero: all
	Reason    string
	RequestID string // a repeated request with the same one is answered with the same operation
}

// maxReason is the longest reason, in bytes.
const maxReason = 1024

// Revoke ends a token at once. Where its hosts are not kept, the operation that deals with them is in the answer; a
// token that was revoked before, with its hosts kept, can be revoked again so that they are not.
func (s *Service) Revoke(ctx context.Context, ref string, r Revocation) (token.Token, *operation.Operation, error) {
	t, err := s.find(ctx, ref, token.Revoke)
	if err != nil {
		return token.Token{}, nil, err
	}
	if r.Hosts == "" {
		r.Hosts = token.Keep
	}
	var c fault.Check
	c.That(slices.Contains([]token.Fate{token.Keep, token.Quarantine, token.Expel}, r.Hosts), "hosts", "is %q; allowed are keep, quarantine and expel", r.Hosts)
	c.That(r.Hosts != token.Keep || r.Since.IsZero(), "since", "says which hosts to quarantine or expel, but hosts are kept")
	c.That(len(r.Reason) <= maxReason, "reason", "is %d bytes long; at most %d are allowed", len(r.Reason), maxReason)
	c.That(len(r.RequestID) <= 128, "requestId", "is %d bytes long; at most 128 are allowed", len(r.RequestID))
	if err := c.Err("revocation_invalid", "the revocation is not valid"); err != nil {
		return token.Token{}, nil, err
	}
	actor := access.ActorFrom(ctx)
	now := s.options.Now()
	opID := id.New("op", now)
	var out token.Token
	var op *operation.Operation
	err = s.store.Write(ctx, func(tx Tx) error {
		op = nil
		before, err := tx.Token(ctx, t.ID)
		if err != nil {
			return err
		}
		out = before
		if r.Hosts != token.Keep && r.RequestID != "" {
			earlier, err := tx.OperationByRequest(ctx, actor.ID, r.RequestID)
			if err == nil {
				op = &earlier
				return sameRequest(earlier, t.ID)
			}
			if fault.KindOf(err) != fault.NotFound {
				return err
			}
		}
		if before.RevokedAt.IsZero() {
			out.RevokedAt, out.RevokedBy, out.Reason = now, actor.ID, r.Reason
			if out, err = tx.PutToken(ctx, out); err != nil {
				return err
			}
		} else if r.Hosts == token.Keep {
			return errAlreadyRevoked
		}
		if r.Hosts != token.Keep {
			made, err := putOperation(ctx, tx, opID, now, actor, out, r)
			if err != nil {
				return err
			}
			op = &made
		}
		e := audit.Of(actor, token.Revoke, out.Scope, out.ID, out.Name).Change(describe(before), struct {
			record
			Hosts     token.Fate `json:"hosts"`
			Since     time.Time  `json:"since,omitzero"`
			Operation string     `json:"operation,omitempty"`
		}{describe(out), r.Hosts, r.Since, idOf(op)})
		e = e.Because(r.Reason)
		return tx.Audit(ctx, e)
	})
	if errors.Is(err, errAlreadyRevoked) {
		return out, nil, nil // what was asked for is so
	}
	if err != nil {
		return token.Token{}, nil, err
	}
	return out, op, nil
}

func idOf(o *operation.Operation) string {
	if o == nil {
		return ""
	}
	return o.ID
}

func sameRequest(o operation.Operation, target string) error {
	if o.Kind == operation.RevokeToken && o.Target == target {
		return nil
	}
	return fault.New(fault.Conflict, "request_id_reused", "the request id was used for something else: operation %s", o.ID).
		WithHint("give every request an id of its own; repeat one only to repeat the request")
}

func putOperation(ctx context.Context, tx Tx, opID string, now time.Time, actor access.Actor, t token.Token, r Revocation) (operation.Operation, error) {
	input, err := json.Marshal(token.Revocation{Token: t.ID, Hosts: r.Hosts, Since: r.Since, Reason: r.Reason})
	if err != nil {
		return operation.Operation{}, err
	}
	if r.RequestID == "" {
		r.RequestID = opID // unique for the actor, as every operation's has to be
	}
	return tx.PutOperation(ctx, operation.Operation{
		Meta: tenant.Meta{ID: opID, Name: string(operation.RevokeToken), CreatedAt: now},
		Kind: operation.RevokeToken, Scope: t.Scope, Target: t.ID, State: operation.Pending,
		Input: input, Actor: actor.ID, RequestID: r.RequestID,
	})
}

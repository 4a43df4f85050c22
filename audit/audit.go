// Package audit is the record of what was done: who, what, where, when, from where, why, before and after.
//
// An entry is written in the transaction of the change that it describes, so that neither exists without the other.
// Positions are given in commit order without gaps within a deployment; a reader that remembers the last position it
// saw misses nothing. Package ledger makes the log evidence that its owner cannot alter unseen.
package audit

import (
	"encoding/json"
	"time"

	"github.com/loopbackd/loopback/access"
)

// Outcome of an action.
type Outcome string

// The outcomes.
const (
	Done    Outcome = "done"
	Refused Outcome = "refused" // a permitted caller was refused for a stated reason, or a credential was
)

// Entry is one act.
type Entry struct {
	Position  int64             // assigned at commit
	ID        string            // "aud_…"
	At        time.Time         // when the transaction ran
	Actor     access.Actor      // who acted, and on whose behalf (Principal), with what second factor (MFA)
	Action    access.Permission // the permission that the act needed; for hosts and workers "noun.verb" likewise
	Scope     access.Scope
	Target    string // id of what was acted on
	Name      string // its name at that time
	Outcome   Outcome
	Reason    string // why: given by the caller, or the code of the refusal
	Ticket    string
	Before    json.RawMessage // of the target, without secrets; null where it did not exist
	After     json.RawMessage
	Decision  string        // rule that allowed it: a binding's id, or of what else did
	Snapshot  int64         // version of the rules that it was decided by; 0: no rules were asked
	Basis     *access.Basis // the grant that the rule came of, its approvers and why; nil: it rests on none
	RequestID string
}

// Of starts an entry for an act of this actor, with the reason and the ticket that they gave. At, ID and Position are filled in
// by the store.
func Of(a access.Actor, action access.Permission, at access.Scope, target, name string) Entry {
	return Entry{
		Actor: a, Action: action, Scope: at, Target: target, Name: name, Outcome: Done,
		RequestID: a.RequestID, Reason: a.Reason, Ticket: a.Ticket,
	}.By(a.Decide(action, at))
}

// By is the entry with the decision that allowed the act, where the one over its whole scope is not it.
func (e Entry) By(d access.Decision) Entry {
	e.Decision, e.Snapshot, e.Basis = d.Grant, int64(d.Snapshot), d.Basis
	return e
}

// Because is the entry with a reason, where one is given for this very act.
func (e Entry) Because(reason string) Entry {
	if reason != "" {
		e.Reason = reason
	}
	return e
}

// Change adds what the target was and what it became. Values are marshalled as JSON; one that cannot be is a defect
// and shows as its error, since an act must not fail for the sake of its description.
func (e Entry) Change(before, after any) Entry {
	e.Before, e.After = encode(before), encode(after)
	return e
}

func encode(v any) json.RawMessage {
	if v == nil {
		return nil
	}
	b, err := json.Marshal(v)
	if err == nil {
		b, err = Canonical(b)
	}
	if err != nil {
		b, _ = json.Marshal(map[string]string{"error": err.Error()})
	}
	return b
}

// Permissions over the log.
const (
	Read   access.Permission = "audit.read"
	Verify access.Permission = "audit.verify" // see checkpoints, and proofs that the log only grew: they belong to no place
)

// Query selects entries: newest first, or from After on in order.
type Query struct {
	Readable     access.Sight // only what is in this sight; the empty one sees nothing
	Within       access.Scope
	Action       access.Permission
	Target       string
	Actor        string // its id, or that of the principal on whose behalf it acts
	Since, Until time.Time
	After        int64 // position; 0: newest first
	Limit        int
	Before       int64 // newest first: only positions below this; 0: all
}

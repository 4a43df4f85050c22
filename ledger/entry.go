package ledger

import (
	"bytes"
	"encoding/json"
	"errors"
	"strconv"
	"time"

	"github.com/loopbackd/loopback/access"
	"github.com/loopbackd/loopback/audit"
)

// stamp is how times are written: UTC, to the microsecond.
const stamp = "2006-01-02T15:04:05.000000Z"

// Encode is an entry as the log has it: canonical JSON (RFC 8785: keys in order, no white space, one spelling for every
// text) under the names of the API, without what is empty. Before and After stand as they were recorded, which audit.Change
// makes canonical. What is added to entries later is empty in those that are written already: their encoding never changes.
func Encode(e audit.Entry) []byte {
	w := writer{b: make([]byte, 0, 512+len(e.Before)+len(e.After))}
	w.text("action", string(e.Action))
	w.object("actor", func() {
		w.text("address", e.Actor.Address)
		w.text("id", e.Actor.ID)
		w.text("kind", string(e.Actor.Kind))
		w.text("method", e.Actor.Method)
		if !e.Actor.MFA.IsZero() {
			w.text("mfaAt", e.Actor.MFA.UTC().Format(stamp))
		}
		w.text("name", e.Actor.Name)
		w.text("principal", e.Actor.Principal)
	})
	w.raw("after", e.After)
	w.text("at", e.At.UTC().Format(stamp))
	w.raw("before", e.Before)
	w.text("decision", e.Decision)
	w.basis(e.Basis)
	w.text("id", e.ID)
	w.text("outcome", string(e.Outcome))
	w.key("position")
	w.b = strconv.AppendInt(w.b, e.Position, 10)
	w.text("reason", e.Reason)
	w.text("requestId", e.RequestID)
	w.object("scope", func() {
		w.text("organisation", e.Scope.Organisation)
		w.text("project", e.Scope.Project)
		w.text("workspace", e.Scope.Workspace)
	})
	if e.Snapshot != 0 {
		w.key("snapshot")
		w.b = strconv.AppendInt(w.b, e.Snapshot, 10)
	}
	w.text("target", e.Target)
	w.text("targetName", e.Name)
	w.text("ticket", e.Ticket)
	return append(w.b, '}')
}

type writer struct {
	b     []byte
	comma bool
}

func (w *writer) key(name string) {
	if w.comma {
		w.b = append(w.b, ',')
	} else {
		w.b = append(w.b, '{')
	}
	w.comma = true
	w.b = append(append(append(w.b, '"'), name...), '"', ':')
}

func (w *writer) text(name, value string) {
	if value != "" {
		w.key(name)
		w.b = audit.AppendText(w.b, value)
	}
}

// raw embeds JSON as it was recorded. Text that is none is embedded as text: it is evidence all the same.
func (w *writer) raw(name string, value json.RawMessage) {
	if len(value) == 0 {
		return
	}
	w.key(name)
	if bytes.IndexByte(value, '\n') >= 0 || !json.Valid(value) {
		if compact, err := audit.Canonical(value); err == nil {
			value = compact
		} else {
			w.b = audit.AppendText(w.b, string(value))
			return
		}
	}
	w.b = append(w.b, value...)
}

func (w *writer) object(name string, fill func()) {
	before, comma := len(w.b), w.comma
	w.key(name)
	inside := len(w.b)
	w.comma = false
	fill()
	if len(w.b) == inside { // nothing in it: leave it out
		w.b, w.comma = w.b[:before], comma
		return
	}
	w.b, w.comma = append(w.b, '}'), true
}

func (w *writer) basis(b *access.Basis) {
	if b == nil {
		return
	}
	w.object("grant", func() {
		if len(b.Approvers) > 0 {
			w.key("approvers")
			for i, a := range b.Approvers {
				w.b = append(w.b, "[,"[min(i, 1)])
				inside := writer{b: w.b}
				inside.text("at", a.At.UTC().Format(stamp))
				inside.text("id", a.ID)
				inside.text("name", a.Name)
				w.b = append(inside.b, '}')
			}
			w.b = append(w.b, ']')
		}
		w.text("id", b.Grant)
		w.text("reason", b.Reason)
		w.text("ticket", b.Ticket)
	})
}

// record is the JSON of an entry.
type record struct {
	Action string `json:"action"`
	Actor  struct {
		Address   string `json:"address"`
		ID        string `json:"id"`
		Kind      string `json:"kind"`
		Method    string `json:"method"`
		MFAAt     string `json:"mfaAt"`
		Name      string `json:"name"`
		Principal string `json:"principal"`
	} `json:"actor"`
	After    json.RawMessage `json:"after"`
	At       string          `json:"at"`
	Before   json.RawMessage `json:"before"`
	Decision string          `json:"decision"`
	Grant    *struct {
		ID        string            `json:"id"`
		Approvers []access.Approver `json:"approvers"`
		Reason    string            `json:"reason"`
		Ticket    string            `json:"ticket"`
	} `json:"grant"`
	ID        string `json:"id"`
	Outcome   string `json:"outcome"`
	Position  int64  `json:"position"`
	Reason    string `json:"reason"`
	RequestID string `json:"requestId"`
	Scope     struct {
		Organisation string `json:"organisation"`
		Project      string `json:"project"`
		Workspace    string `json:"workspace"`
	} `json:"scope"`
	Snapshot   int64  `json:"snapshot"`
	Target     string `json:"target"`
	TargetName string `json:"targetName"`
	Ticket     string `json:"ticket"`
}

// Decode reads what Encode wrote. Fields that it does not know are passed over: a later version wrote them.
func Decode(leaf []byte) (audit.Entry, error) {
	var r record
	if err := json.Unmarshal(leaf, &r); err != nil {
		return audit.Entry{}, err
	}
	at, err := time.Parse(stamp, r.At)
	if err != nil {
		return audit.Entry{}, err
	}
	var mfa time.Time
	if r.Actor.MFAAt != "" {
		if mfa, err = time.Parse(stamp, r.Actor.MFAAt); err != nil {
			return audit.Entry{}, err
		}
	}
	if r.Position < 1 {
		return audit.Entry{}, errors.New("it has no position")
	}
	var basis *access.Basis
	if g := r.Grant; g != nil {
		basis = &access.Basis{Grant: g.ID, Approvers: g.Approvers, Reason: g.Reason, Ticket: g.Ticket}
	}
	return audit.Entry{
		Position: r.Position, ID: r.ID, At: at, Action: access.Permission(r.Action),
		Actor:  access.Actor{Kind: access.Kind(r.Actor.Kind), ID: r.Actor.ID, Name: r.Actor.Name, Address: r.Actor.Address, Principal: r.Actor.Principal, Method: r.Actor.Method, MFA: mfa, RequestID: r.RequestID},
		Scope:  access.Scope{Organisation: r.Scope.Organisation, Project: r.Scope.Project, Workspace: r.Scope.Workspace},
		Target: r.Target, Name: r.TargetName, Outcome: audit.Outcome(r.Outcome), Reason: r.Reason, Ticket: r.Ticket,
		Before: r.Before, After: r.After, Decision: r.Decision, Snapshot: r.Snapshot, Basis: basis, RequestID: r.RequestID,
	}, nil
}

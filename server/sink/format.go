package sink

import (
	"cmp"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/loopbackd/loopback/access"
	"github.com/loopbackd/loopback/audit"
	"github.com/loopbackd/loopback/ledger"
	"github.com/loopbackd/loopback/sink"
)

// Versions of the schemas that are written. A newer one is a new format's name, never a silent change.
const (
	ocsfVersion = "1.3.0"
	ecsVersion  = "8.17.0"
)

// Event is what a receiver is sent of an entry, or of a part of one.
type Event struct {
	ID       string // of the entry; of a part: ID.1, ID.2 …. Receivers drop what they have seen
	Body     []byte // JSON
	At       time.Time
	Action   string
	Refused  bool
	Position int64
}

// encode is an entry in a format, in parts where it is larger than the receiver takes.
func encode(e audit.Entry, f sink.Format, limit int) []Event {
	var body []byte
	switch f {
	case sink.OCSF:
		body = marshal(ocsf(e))
	case sink.ECS:
		body = marshal(ecs(e))
	default:
		body = ledger.Encode(e)
	}
	whole := Event{ID: e.ID, Body: body, At: e.At, Action: string(e.Action), Refused: e.Outcome == audit.Refused, Position: e.Position}
	return split(whole, limit)
}

// marshal never fails on what is given to it here: maps of texts, numbers and JSON.
func marshal(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		b, _ = json.Marshal(map[string]string{"error": err.Error()})
	}
	return b
}

// part is a piece of an event: the pieces' text, one after the other, is the event.
type part struct {
	ID    string `json:"id"`
	Of    string `json:"of"`
	Part  int    `json:"part"`
	Parts int    `json:"parts"`
	Text  string `json:"text"`
}

// overhead is what a part needs besides its text.
const overhead = 200

func split(e Event, limit int) []Event {
	if limit <= 0 || len(e.Body) <= limit {
		return []Event{e}
	}
	var texts []string
	for rest := string(e.Body); rest != ""; {
		n := fitting(rest, max(limit-overhead, 64))
		texts = append(texts, rest[:n])
		rest = rest[n:]
	}
	out := make([]Event, len(texts))
	for i, text := range texts {
		p := part{ID: fmt.Sprintf("%s.%d", e.ID, i+1), Of: e.ID, Part: i + 1, Parts: len(texts), Text: text}
		out[i] = e
		out[i].ID, out[i].Body = p.ID, quote(p)
	}
	return out
}

// quote writes a part without the escapes that only browsers need.
func quote(p part) []byte {
	b := fmt.Appendf(nil, `{"id":%q,"of":%q,"part":%d,"parts":%d,"text":`, p.ID, p.Of, p.Part, p.Parts)
	return append(audit.AppendText(b, p.Text), '}')
}

// fitting is how much of a text fits into so many bytes once it is quoted, whole characters only.
func fitting(s string, most int) int {
	n := 0
	for i, r := range s {
		width := utf8.RuneLen(r)
		switch {
		case r == '"' || r == '\\':
			width = 2
		case r < ' ':
			width = 6
		case r == utf8.RuneError:
			width = 3
		}
		if n+width > most {
			return i
		}
		n += width
	}
	return len(s)
}

// verb is what kind of act an action is.
func verb(action access.Permission) string {
	_, v, _ := strings.Cut(string(action), ".")
	switch v {
	case "create", "mint", "add", "publish", "enrol", "redeem":
		return "create"
	case "read", "list":
		return "read"
	case "delete", "remove", "revoke":
		return "delete"
	case "use":
		return "use"
	case "update", "set", "label", "move", "rotate", "approve", "quarantine", "release", "cancel":
		return "update"
	}
	return "other"
}

func status(e audit.Entry) (id int, name string) {
	if e.Outcome == audit.Refused {
		return 2, "Failure"
	}
	return 1, "Success"
}

// ocsf is API Activity (6003), or Authentication (3002) where a credential was presented.
func ocsf(e audit.Entry) map[string]any {
	class, className, category, categoryName := 6003, "API Activity", 6, "Application Activity"
	activity, activityName := 99, "Other"
	switch verb(e.Action) {
	case "create":
		activity, activityName = 1, "Create"
	case "read":
		activity, activityName = 2, "Read"
	case "update":
		activity, activityName = 3, "Update"
	case "delete":
		activity, activityName = 4, "Delete"
	case "use":
		class, className, category, categoryName = 3002, "Authentication", 3, "Identity & Access Management"
		activity, activityName = 1, "Logon"
	}
	id, name := status(e)
	severity, severityName := 1, "Informational"
	if id == 2 {
		severity, severityName = 2, "Low"
	}
	user := map[string]any{"uid": e.Actor.ID, "name": e.Actor.Name, "type": string(e.Actor.Kind)}
	if e.Actor.Principal != "" {
		user["uid"], user["credential_uid"] = e.Actor.Principal, e.Actor.ID
	}
	actor := map[string]any{"user": user}
	if e.Decision != "" {
		actor["authorizations"] = []any{map[string]any{"decision": "allowed", "policy": map[string]any{"uid": e.Decision, "version": strconv.FormatInt(e.Snapshot, 10)}}}
	}
	out := map[string]any{
		"metadata": map[string]any{
			"version": ocsfVersion, "uid": e.ID, "sequence": e.Position, "log_name": "audit",
			"product": map[string]any{"name": "Loopback", "vendor_name": "Loopback"},
		},
		"class_uid": class, "class_name": className, "category_uid": category, "category_name": categoryName,
		"activity_id": activity, "activity_name": activityName, "type_uid": class*100 + activity, "type_name": className + ": " + activityName,
		"severity_id": severity, "severity": severityName, "status_id": id, "status": name, "time": e.At.UnixMilli(),
		"message": string(e.Action), "actor": actor,
		"unmapped": map[string]any{"entry": json.RawMessage(ledger.Encode(e))},
	}
	if e.Reason != "" {
		out["status_detail"] = e.Reason
	}
	if e.Actor.Address != "" {
		out["src_endpoint"] = map[string]any{"ip": e.Actor.Address}
	}
	if class == 3002 {
		out["user"] = user
		out["service"] = map[string]any{"name": "Loopback"}
		return out
	}
	out["api"] = map[string]any{"operation": string(e.Action), "request": map[string]any{"uid": e.RequestID}}
	if e.Target != "" {
		out["resources"] = []any{map[string]any{"uid": e.Target, "name": e.Name}}
	}
	return out
}

// ecs is the entry in Elastic's schema; what has no place there is under loopback.
func ecs(e audit.Entry) map[string]any {
	outcome := "success"
	if e.Outcome == audit.Refused {
		outcome = "failure"
	}
	category, kind := "configuration", "change"
	switch v := verb(e.Action); {
	case v == "use":
		category, kind = "authentication", "start"
	case strings.HasPrefix(string(e.Action), "api_keys."), strings.HasPrefix(string(e.Action), "roles."), strings.HasPrefix(string(e.Action), "bindings."):
		category, kind = "iam", "admin"
	case v == "create":
		kind = "creation"
	case v == "read":
		kind = "access"
	case v == "delete":
		kind = "deletion"
	}
	out := map[string]any{
		"@timestamp": e.At.UTC().Format("2006-01-02T15:04:05.000000Z"), "ecs": map[string]any{"version": ecsVersion},
		"event": map[string]any{
			"id": e.ID, "kind": "event", "category": []string{category}, "type": []string{kind}, "action": string(e.Action), "outcome": outcome,
			"sequence": e.Position, "dataset": "loopback.audit", "module": "loopback", "reason": e.Reason,
		},
		"message": string(e.Action), "user": map[string]any{"id": cmp.Or(e.Actor.Principal, e.Actor.ID), "name": e.Actor.Name},
		"loopback": map[string]any{"entry": json.RawMessage(ledger.Encode(e))},
	}
	if e.Actor.Address != "" {
		out["source"] = map[string]any{"ip": e.Actor.Address, "address": e.Actor.Address}
	}
	if e.Scope.Organisation != "" {
		out["organization"] = map[string]any{"id": e.Scope.Organisation}
	}
	return out
}

// witness is a checkpoint of the ledger as an event, which receivers keep: it shows later that nothing was rewritten.
func witness(l ledger.Log, position int64) Event {
	body := map[string]any{"id": fmt.Sprintf("checkpoint-%d-%d", l.Number, l.Signed), "action": "audit.checkpoint", "checkpoint": l.Checkpoint}
	if len(l.Handovers) > 0 {
		body["handovers"] = l.Handovers // by which the keys of the log gave way to each other
	}
	return Event{
		ID: fmt.Sprintf("checkpoint-%d-%d", l.Number, l.Signed), At: l.SignedAt, Action: "audit.checkpoint", Position: position,
		Body: marshal(body),
	}
}

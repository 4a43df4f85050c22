package storage

import (
	"context"
	"slices"

	"github.com/loopbackd/loopback/audit"
	"github.com/loopbackd/loopback/tenant"
)

var auditTable = newTable("audit_entries", func(e *audit.Entry) []column {
	return append([]column{{"position", &e.Position}, {"id", &e.ID}, {"at", moment{&e.At}},
		{"actor_kind", &e.Actor.Kind}, {"actor_id", &e.Actor.ID}, {"actor_name", &e.Actor.Name},
		{"actor_address", &e.Actor.Address}, {"action", &e.Action}, {"target", &e.Target}, {"name", &e.Name},
		{"outcome", &e.Outcome}, {"reason", &e.Reason}, {"ticket", &e.Ticket}, {"before", raw{&e.Before}},
		{"after", raw{&e.After}}, {"decision", &e.Decision}, {"request_id", &e.RequestID},
		{"principal", &e.Actor.Principal}, {"mfa_at", moment{&e.Actor.MFA}}, {"snapshot", &e.Snapshot},
		{"method", &e.Actor.Method}, {"basis", basis{&e.Basis}}}, scopeColumns(&e.Scope)...)
})

// Entries of the audit log: newest first, or from a position on in order.
func (v *View) Entries(ctx context.Context, q audit.Query) ([]audit.Entry, error) {
	var f filter
	f.readable(anywhere, q.Readable, nil)
	f.within(anywhere, q.Within)
	f.equal("action", string(q.Action))
	f.equal("target", q.Target)
	if q.Actor != "" {
		actor := f.arg(q.Actor)
		f.and("(actor_id = " + actor + " OR principal = " + actor + ")")
	}
	if !q.Since.IsZero() {
		f.and("at >= " + f.arg(micros(q.Since)))
	}
	if !q.Until.IsZero() {
		f.and("at < " + f.arg(micros(q.Until)))
	}
	order := " ORDER BY position"
	switch {
	case q.After != 0:
		f.and("position > " + f.arg(q.After))
	case q.Before != 0:
		f.and("position < " + f.arg(q.Before))
		fallthrough
	default:
		order += " DESC"
	}
	limit := tenant.Page{Size: q.Limit}.Limit()
	if q.Limit > tenant.MaxPage {
		limit = tenant.MaxPage + 1 // the one beyond the largest page tells its reader that there is another
	}
	rest := f.where() + order + " LIMIT " + f.arg(limit)
	list, err := auditTable.list(ctx, v.session, rest, f.args...)
	for i := range list {
		list[i].Actor.RequestID = list[i].RequestID
	}
	return slices.Clip(list), err
}

package storage

import (
	"context"

	"github.com/loopbackd/loopback/server/feed"
	"github.com/loopbackd/loopback/witness"
)

var witnessesTable = newTable("audit_witnesses", func(w *witness.Stored) []column {
	return append([]column{{"host_id", &w.HostID}, {"log", &w.Log}, {"size", &w.Size}, {"revision", &w.Revision}, {"step", document{&w.Step}}}, scopeColumns(&w.Scope)...)
})

// Witnesses are what hosts remember of the audit log, of hosts that are still there.
func (v *View) Witnesses(ctx context.Context) ([]witness.Stored, error) {
	return witnessesTable.list(ctx, v.session, "WHERE EXISTS (SELECT 1 FROM hosts WHERE hosts.id = audit_witnesses.host_id AND hosts.lifecycle <> 'removed') ORDER BY host_id")
}

// PutWitness inserts or updates.
func (tx *Tx) PutWitness(ctx context.Context, w witness.Stored) (witness.Stored, error) {
	w.Revision = tx.change(feed.Witness, w.HostID, w.Scope, false)
	return w, witnessesTable.put(ctx, tx.session, &w)
}

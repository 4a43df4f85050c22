package storage

import (
	"context"
	"database/sql/driver"
	"fmt"

	"github.com/loopbackd/loopback/audit"
	"github.com/loopbackd/loopback/ledger"
)

var logsTable = newTable("audit_logs", func(l *ledger.Log) []column {
	return []column{{"number", &l.Number}, {"origin", &l.Origin}, {"began", &l.Began}, {"size", &l.Size}, {"root", hash{&l.Root}},
		{"checkpoint", &l.Checkpoint}, {"signed", &l.Signed}, {"signed_at", moment{&l.SignedAt}}, {"previous", &l.Previous},
		{"pruned", &l.Pruned}, {"handovers", document{&l.Handovers}}, {"lease_owner", &l.LeaseOwner}, {"lease_until", moment{&l.LeaseUntil}}, {"created_at", moment{&l.CreatedAt}}}
})

// AuditLogs are the deployment's logs, the latest first; each after the first goes on from the one before.
func (v *View) AuditLogs(ctx context.Context) ([]ledger.Log, error) {
	return logsTable.list(ctx, v.session, "ORDER BY number DESC")
}

// PutAuditLog inserts or updates.
func (tx *Tx) PutAuditLog(ctx context.Context, l ledger.Log) error {
	tx.touch()
	if l.CreatedAt.IsZero() {
		l.CreatedAt = tx.now
	}
	return logsTable.put(ctx, tx.session, &l)
}

// AuditTile is the hashes of a tile of a log; none where it is not there.
func (v *View) AuditTile(ctx context.Context, log int64, id ledger.TileID) ([]byte, error) {
	var hashes []byte
	err := v.row(ctx, []any{&hashes}, "SELECT hashes FROM audit_tiles WHERE log = $1 AND level = $2 AND number = $3", log, id.Level, id.Number)
	if err != nil {
		return nil, fmt.Errorf("reading hashes of the audit log: %w", err)
	}
	return hashes, nil
}

// PutAuditTiles inserts tiles, or replaces them by longer ones.
func (tx *Tx) PutAuditTiles(ctx context.Context, log int64, tiles []ledger.Tile) error {
	tx.touch()
	for _, t := range tiles {
		if err := tx.session.exec(ctx, `INSERT INTO audit_tiles (log, level, number, hashes) VALUES ($1, $2, $3, $4)
			ON CONFLICT (log, level, number) DO UPDATE SET hashes = excluded.hashes`, log, t.Level, t.Number, t.Hashes); err != nil {
			return fmt.Errorf("writing hashes of the audit log: %w", err)
		}
	}
	return nil
}

// EntriesFrom are the entries after a position in order, without regard to who reads them. Positions can be missing: the
// bodies of old entries are deleted.
func (v *View) EntriesFrom(ctx context.Context, after int64, limit int) ([]audit.Entry, error) {
	list, err := auditTable.list(ctx, v.session, "WHERE position > $1 ORDER BY position LIMIT $2", after, limit)
	for i := range list {
		list[i].Actor.RequestID = list[i].RequestID
	}
	return list, err
}

// Entry by id.
func (v *View) Entry(ctx context.Context, id string) (audit.Entry, error) {
	e, err := auditTable.one(ctx, v.session, "audit entry "+id, "id = $1", id)
	e.Actor.RequestID = e.RequestID
	return e, err
}

// hash stores a hash as its bytes.
type hash struct{ h *ledger.Hash }

func (h hash) Value() (driver.Value, error) { return h.h[:], nil }

func (h hash) Scan(v any) error {
	b, ok := v.([]byte)
	if !ok || len(b) != len(h.h) {
		return fmt.Errorf("a hash is stored as %T of %d bytes", v, len(b))
	}
	copy(h.h[:], b)
	return nil
}

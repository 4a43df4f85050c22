package storage

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/replica"
	"github.com/loopbackd/loopback/trust"
)

var replicasTable = newTable("replicas", func(r *replica.Replica) []column {
	return []column{{"id", &r.Name}, {"instance", &r.Instance}, {"version", &r.Version}, {"address", &r.Address}, {"routes", &r.Routes},
		{"started_at", moment{&r.StartedAt}}, {"seen_at", moment{&r.SeenAt}}, {"beat", &r.Beat}, {"links", &r.Links},
		{"position", &r.Position}, {"leaving", &r.Leaving}}
})

// Replicas of the control plane, by name.
func (v *View) Replicas(ctx context.Context) ([]replica.Replica, error) {
	return replicasTable.list(ctx, v.session, "ORDER BY id")
}

// PutReplica inserts or updates a replica's row. The feed does not speak of it.
func (tx *Tx) PutReplica(ctx context.Context, r replica.Replica) error {
	tx.touch()
	return replicasTable.put(ctx, tx.session, &r)
}

// DeleteReplica forgets a replica; one that is not there is no error.
func (tx *Tx) DeleteReplica(ctx context.Context, name string) error {
	tx.touch()
	return tx.session.exec(ctx, "DELETE FROM replicas WHERE id = $1", name)
}

type signedKeyset struct {
	version int64
	signed  trust.Signed
	at      time.Time
}

var keysetsTable = newTable("keysets", func(k *signedKeyset) []column {
	return []column{{"version", &k.version}, {"signed", document{&k.signed}}, {"at", moment{&k.at}}}
})

// Keyset is the newest that was published; found is false before the first.
func (v *View) Keyset(ctx context.Context) (signed trust.Signed, found bool, err error) {
	list, err := keysetsTable.list(ctx, v.session, "ORDER BY version DESC LIMIT 1")
	if err != nil || len(list) == 0 {
		return signed, false, err
	}
	return list[0].signed, true, nil
}

// PutKeyset publishes one. It must be newer than all before it; the signature is for its readers to check.
func (tx *Tx) PutKeyset(ctx context.Context, signed trust.Signed) error {
	var k trust.Keyset
	if err := json.Unmarshal(signed.Payload, &k); err != nil {
		return fmt.Errorf("reading a keyset: %w", err)
	}
	newest, err := tx.number(ctx, "SELECT coalesce(max(version), 0) FROM keysets")
	if err != nil {
		return err
	}
	if int64(k.Version) <= newest {
		return fault.New(fault.Conflict, "keyset_stale", "keyset %d was published meanwhile; this one is %d", newest, k.Version).
			WithHint("do it again: it then starts from the newest")
	}
	tx.touch()
	return keysetsTable.put(ctx, tx.session, &signedKeyset{version: int64(k.Version), signed: signed, at: tx.now})
}

package storage

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/replica"
	"github.com/loopbackd/loopback/trust"
)

var replicasTable = newTable("replicas", func(r *replica.Replica) []column {
	return []column{{"id", &r.Name}, {"instance", &r.Instance}, {"version", &r.Version}, {"address", &r.Address}, {"routes", &r.Routes},
		{"started_at", moment{&r.StartedAt}}, {"seen_at", moment{&r.SeenAt}}, {"beat", &r.Beat}, {"links", &r.Links},
		{"position", &r.Position}, {"leaving", &r.Leaving}, {"keyset", &r.Keyset}, {"bus_peers", &r.BusPeers},
		{"clock_offset", span{&r.ClockOffset}}, {"clock_known", &r.ClockKnown}}
})

// Replicas of the control plane, by name.
func (v *View) Replicas(ctx context.Context) ([]replica.Replica, error) {
	return replicasTable.list(ctx, v.session, "ORDER BY id")
}

// Leases are what replicas do for all at the moment.
func (v *View) Leases(ctx context.Context, now time.Time) ([]replica.Lease, error) {
	var out []replica.Lease
	for _, text := range []string{
		"SELECT lease_owner, 'audit log' FROM audit_logs WHERE lease_owner <> '' AND lease_until > $1",
		"SELECT lease_owner, 'sink ' || name FROM sinks WHERE lease_owner <> '' AND lease_until > $1 ORDER BY name",
		"SELECT owner, name FROM leases WHERE until > $1 ORDER BY name",
		"SELECT lease_owner, count(*) || ' operations' FROM operations WHERE state = 'running' AND lease_owner <> '' AND lease_until > $1 GROUP BY lease_owner",
	} {
		rows, err := v.session.query(ctx, text, micros(now))
		if err != nil {
			return nil, fmt.Errorf("reading leases: %w", err)
		}
		for rows.Next() {
			var l replica.Lease
			if err = rows.Scan(&l.Owner, &l.What); err != nil {
				break
			}
			out = append(out, l)
		}
		err = errors.Join(err, rows.Err())
		rows.Close()
		if err != nil {
			return nil, fmt.Errorf("reading leases: %w", v.session.explain(err))
		}
	}
	return out, nil
}

// Clock is the time by the database's clock.
func (db *DB) Clock(ctx context.Context) (time.Time, error) {
	at, err := db.View().number(ctx, db.engine.clock())
	if err != nil {
		return time.Time{}, fmt.Errorf("reading the database's clock: %w", err)
	}
	return fromMicros(at), nil
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

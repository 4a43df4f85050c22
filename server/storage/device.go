package storage

import (
	"context"
	"fmt"
	"time"

	"github.com/loopbackd/loopback/signin"
)

var devicesTable = newTable("devices", func(d *signin.Device) []column {
	return []column{{"id", &d.ID}, {"hash", &d.Hash}, {"code_hash", &d.CodeHash}, {"address", &d.Address}, {"network", &d.Network}, {"agent", &d.Agent},
		{"created_at", moment{&d.CreatedAt}}, {"expires_at", moment{&d.ExpiresAt}}, {"decided_at", moment{&d.DecidedAt}}, {"approved", &d.Approved},
		{"user_id", &d.UserID}, {"sign_in_id", &d.SignInID}, {"key_id", &d.KeyID}, {"proved_at", moment{&d.ProvedAt}}, {"used_at", moment{&d.UsedAt}}}
})

// Device by id.
func (v *View) Device(ctx context.Context, id string) (signin.Device, error) {
	return devicesTable.one(ctx, v.session, "device "+id, "id = $1", id)
}

// DeviceByCode is the one of a code's hash.
func (v *View) DeviceByCode(ctx context.Context, hash []byte) (signin.Device, error) {
	return devicesTable.one(ctx, v.session, "device", "code_hash = $1", hash)
}

// WaitingDevices is how many wait, and how many of them are in a network.
func (v *View) WaitingDevices(ctx context.Context, network string, now time.Time) (all, here int64, err error) {
	err = v.row(ctx, []any{&all, &here}, "SELECT count(*), coalesce(sum(CASE WHEN network = $1 THEN 1 ELSE 0 END), 0) FROM devices WHERE decided_at = 0 AND expires_at > $2",
		network, micros(now))
	return all, here, err
}

// PutDevice inserts or updates, and forgets those that are over. The feed does not speak of devices.
func (tx *Tx) PutDevice(ctx context.Context, d signin.Device) error {
	tx.touch()
	if err := tx.session.exec(ctx, "DELETE FROM devices WHERE expires_at < $1", micros(tx.now.Add(-signin.DeviceLife))); err != nil {
		return fmt.Errorf("forgetting old devices: %w", err)
	}
	return devicesTable.put(ctx, tx.session, &d)
}

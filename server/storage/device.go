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
		{"user_id", &d.UserID}, {"sign_in_id", &d.SignInID}, {"key_id", &d.KeyID}, {"proved_at", moment{&d.ProvedAt}}, {"used_at", moment{&d.UsedAt}}, {"step_up", &d.StepUp}, {"mfa_at", moment{&d.MFAAt}}}
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

// Guess notes a code that somebody types as wrong, and is how many were since a time, this one included. Unguess takes it back.
func (tx *Tx) Guess(ctx context.Context, who string, since time.Time) (n int64, err error) {
	tx.touch()
	if err := tx.session.exec(ctx, "DELETE FROM code_guesses WHERE since <= $1", micros(since)); err != nil {
		return 0, fmt.Errorf("forgetting old guesses: %w", err)
	}
	// The row is locked from here on: who guesses on several replicas at once waits for themselves.
	if err := tx.session.exec(ctx, "INSERT INTO code_guesses (who, since, wrong) VALUES ($1, $2, 1) ON CONFLICT (who) DO UPDATE SET wrong = code_guesses.wrong + 1",
		who, micros(tx.now)); err != nil {
		return 0, fmt.Errorf("noting a guess: %w", err)
	}
	n, err = tx.number(ctx, "SELECT wrong FROM code_guesses WHERE who = $1", who)
	return n, err
}

// Unguess takes a guess back that was right.
func (tx *Tx) Unguess(ctx context.Context, who string) error {
	tx.touch()
	if err := tx.session.exec(ctx, "UPDATE code_guesses SET wrong = wrong - 1 WHERE who = $1", who); err != nil {
		return fmt.Errorf("taking back a guess: %w", err)
	}
	return nil
}

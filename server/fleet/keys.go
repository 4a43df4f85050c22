package fleet

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"slices"

	"github.com/loopbackd/loopback/access"
	"github.com/loopbackd/loopback/audit"
	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/host"
	"github.com/loopbackd/loopback/server/link"
)

// Errors of a rotation.
var (
	errKeyTaken = fault.New(fault.Precondition, "key_taken", "the offered identity key is another host's, or was used before").
			WithHint("the host makes a new key by itself and offers that one")
	errGeneration = fault.New(fault.Precondition, "key_generation", "the offered identity key is not of the next generation")
	errKeyUnknown = fault.New(fault.Precondition, "key_unknown", "the key is neither the host's current nor its next one")
)

// OfferKey implements link.Observer. The answer may be lost: what is stored then is what the host offers again.
func (o Observer) OfferKey(ctx context.Context, hostID string, next ed25519.PublicKey, generation int64) error {
	_, err := o.rotate(ctx, hostID, func(tx Tx, h *host.Host) (string, error) {
		switch {
		case bytes.Equal(h.Key, next) && generation == h.Generation, bytes.Equal(h.NextKey, next) && generation == h.Generation+1:
			return "", nil
		case generation != h.Generation+1:
			return "", errGeneration
		case len(next) != ed25519.PublicKeySize:
			return "", errKeyUnknown
		case h.Lifecycle == host.LifecyclePending:
			return "", fault.New(fault.Precondition, "host_pending", "the host awaits approval: its key stays as it is")
		}
		_, _, err := tx.HostByKey(ctx, next)
		if err == nil {
			return "", errKeyTaken
		}
		if fault.KindOf(err) != fault.NotFound {
			return "", err
		}
		h.NextKey = slices.Clone(next)
		return "offered", nil
	})
	return err
}

// UseNextKey implements link.Observer.
func (o Observer) UseNextKey(ctx context.Context, hostID string, next ed25519.PublicKey) (*link.Known, error) {
	h, err := o.rotate(ctx, hostID, func(_ Tx, h *host.Host) (string, error) {
		switch {
		case bytes.Equal(h.Key, next):
			return "", nil
		case !bytes.Equal(h.NextKey, next):
			return "", errKeyUnknown
		case h.Lifecycle == host.LifecyclePending: // it was rolled back: an operator decides first
			return "", fault.New(fault.Precondition, "host_pending", "the host awaits approval: %s", h.LifecycleReason)
		}
		old, promoted := sha256.Sum256(h.Key), sha256.Sum256(next)
		h.KeyHistory = append(slices.DeleteFunc(slices.Clone(h.KeyHistory), func(k []byte) bool { return bytes.Equal(k, promoted[:]) }), old[:])
		h.Fence() // what other machines may still hold is theirs from here on
		h.Key, h.NextKey = slices.Clone(next), nil
		h.Generation++
		return "used", nil
	})
	if err != nil {
		return nil, err
	}
	return known(&h), nil
}

// Succeeded implements link.Observer.
func (o Observer) Succeeded(ctx context.Context, hostID string, from ed25519.PublicKey, keys []ed25519.PublicKey, generation int64) (*link.Known, error) {
	h, err := o.rotate(ctx, hostID, func(tx Tx, h *host.Host) (string, error) {
		last := keys[len(keys)-1]
		switch {
		case bytes.Equal(h.Key, last):
			return "", nil
		case !bytes.Equal(h.Key, from), generation <= h.Generation:
			return "", errKeyUnknown
		case h.Lifecycle == host.LifecyclePending:
			return "", fault.New(fault.Precondition, "host_pending", "the host awaits approval: its key stays as it is")
		}
		for _, key := range keys {
			switch owner, which, err := tx.HostByKey(ctx, key); {
			case fault.KindOf(err) == fault.NotFound, err == nil && owner.ID == hostID && which == "next":
			case err == nil:
				return "", errKeyTaken
			default:
				return "", err
			}
		}
		h.KeyHistory = slices.Clone(h.KeyHistory)
		for _, past := range append([]ed25519.PublicKey{from}, keys[:len(keys)-1]...) {
			sum := sha256.Sum256(past)
			h.KeyHistory = append(h.KeyHistory, sum[:])
		}
		h.Key, h.NextKey, h.Generation = slices.Clone(last), nil, generation
		return "succeeded", nil
	})
	if err != nil {
		return nil, err
	}
	return known(&h), nil
}

// ReasonRolledBack begins the reason for which a host is pending that came with an identity key it had left behind.
const ReasonRolledBack = "rolled back"

// RolledBack implements link.Observer.
func (o Observer) RolledBack(ctx context.Context, hostID string, past ed25519.PublicKey) (*link.Known, error) {
	h, err := o.rotate(ctx, hostID, func(_ Tx, h *host.Host) (string, error) {
		sum := sha256.Sum256(past)
		switch {
		case bytes.Equal(h.Key, past), bytes.Equal(h.NextKey, past):
			return "", nil // approved or noted already
		case !slices.ContainsFunc(h.KeyHistory, func(k []byte) bool { return bytes.Equal(k, sum[:]) }):
			return "", errKeyUnknown
		}
		h.NextKey = slices.Clone(past)
		if h.Lifecycle == host.LifecycleActive || h.Lifecycle == host.LifecyclePending {
			h.Lifecycle = host.LifecyclePending
			h.LifecycleReason = ReasonRolledBack + ": it came with an identity key it had left behind, as after restoring a snapshot; approve it if that is so"
		}
		return "rolled_back", nil
	})
	if err != nil {
		return nil, err
	}
	return known(&h), nil
}

// Cloned implements link.Observer.
func (o Observer) Cloned(ctx context.Context, hostID string, found []host.Copy) (*link.Known, error) {
	d := o.directory
	now := d.options.Now().UTC().Truncate(precision)
	var out host.Host
	err := d.options.Store.Write(ctx, func(tx Tx) error {
		before, err := tx.Host(ctx, hostID)
		if err != nil {
			return err
		}
		out = before
		switch {
		case before.Lifecycle == host.LifecycleRemoved:
			return host.ErrRemoved
		case before.Lifecycle == host.LifecycleUnmanaged:
			return errKeyUnknown
		case !out.Lock(found, now):
			return nil
		}
		out.Settle(now)
		if out, err = tx.PutHost(ctx, out); err != nil {
			return err
		}
		e := audit.Of(access.Actor{Kind: access.System, Name: "clone detection"}, host.Quarantine, before.Scope, hostID, before.Name).
			Change(cloning{before.Lifecycle, before.Clones}, cloning{out.Lifecycle, out.Clones})
		e.Reason, e.Decision = out.LifecycleReason, "built-in"
		return tx.Audit(ctx, e)
	})
	if err != nil {
		return nil, err
	}
	d.Learn(ctx, out)
	return known(&out), nil
}

// cloning is what the audit log shows of a host that several machines answer for.
type cloning struct {
	Lifecycle host.Lifecycle `json:"lifecycle"`
	Clones    *host.Clones   `json:"clones,omitempty"`
}

// rotate changes a host's keys, with its audit entry, and lets the directory know. change returns what it did; an empty
// answer means nothing, which is not written.
func (o Observer) rotate(ctx context.Context, hostID string, change func(Tx, *host.Host) (string, error)) (host.Host, error) {
	var out host.Host
	err := o.directory.options.Store.Write(ctx, func(tx Tx) error {
		before, err := tx.Host(ctx, hostID)
		if err != nil {
			return err
		}
		out = before
		switch before.Lifecycle {
		case host.LifecycleRemoved:
			return host.ErrRemoved
		case host.LifecycleUnmanaged:
			return errKeyUnknown
		}
		did, err := change(tx, &out)
		if err != nil || did == "" {
			return err
		}
		out.Settle(o.directory.options.Now().UTC())
		if out, err = tx.PutHost(ctx, out); err != nil {
			return err
		}
		e := audit.Of(access.Actor{Kind: access.Host, ID: hostID, Name: before.Name}, host.RotateKey, before.Scope, hostID, before.Name).
			Change(keys(before), keys(out))
		e.Reason, e.Decision = did, "built-in"
		return tx.Audit(ctx, e)
	})
	if err != nil {
		return host.Host{}, err
	}
	o.directory.Learn(ctx, out)
	return out, nil
}

// keyring is what the audit log shows of a host's keys.
type keyring struct {
	Generation  int64  `json:"generation"`
	Fingerprint string `json:"keyFingerprint,omitempty"`
	Next        string `json:"nextKeyFingerprint,omitempty"`
	Lifecycle   string `json:"lifecycle"`
}

func keys(h host.Host) keyring {
	return keyring{h.Generation, Fingerprint(h.Key), Fingerprint(h.NextKey), string(h.Lifecycle)}
}

// Fingerprint names a key: SHA-256 in hexadecimal, empty for none.
func Fingerprint(key []byte) string {
	if len(key) == 0 {
		return ""
	}
	sum := sha256.Sum256(key)
	return hex.EncodeToString(sum[:])
}

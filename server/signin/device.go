package signin

import (
	"context"
	"crypto/hmac"
	"sync"
	"time"

	"github.com/loopbackd/loopback/access"
	"github.com/loopbackd/loopback/audit"
	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/secret"
	"github.com/loopbackd/loopback/signin"
)

// Devices are those that wait to be signed in.
type Devices interface {
	Device(ctx context.Context, id string) (signin.Device, error)
	DeviceByCode(ctx context.Context, hash []byte) (signin.Device, error)
	WaitingDevices(ctx context.Context, network string, now time.Time) (all, here int64, err error)
}

// guesses are codes that were wrong, by who typed them.
type guesses struct {
	mu    sync.Mutex
	since time.Time
	wrong map[string]int
}

// maxGuesses are the wrong codes that one person may type in the life of a code: of 20^8, with a thousand devices waiting,
// somebody who types all of them hits one with a chance of 4 in ten million.
const maxGuesses = 10

// full tells whether somebody typed too many wrong codes; wrong notes one.
func (g *guesses) full(who string, now time.Time) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if now.Sub(g.since) >= signin.DeviceLife {
		g.since, g.wrong = now, map[string]int{}
	}
	return g.wrong[who] >= maxGuesses
}

func (g *guesses) note(who string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.wrong[who]++
}

// BeginDevice notes a device that wants to be signed in. The code is for its user, the string for itself.
func (s *Service) BeginDevice(ctx context.Context, agent string) (d signin.Device, code, text string, err error) {
	actor, now := access.ActorFrom(ctx), s.options.Now()
	code = signin.NewCode()
	plain, err := signin.ParseCode(code)
	if err != nil {
		return d, "", "", err
	}
	d = signin.Device{Address: actor.Address, Network: audit.Network(fromOf(actor)), Agent: cleaned(agent), CreatedAt: now, ExpiresAt: now.Add(signin.DeviceLife),
		CodeHash: secret.Hash(s.options.Pepper, "device code "+plain)}
	d.ID, text = signin.NewDevice(now)
	d.Hash = secret.Hash(s.options.Pepper, text)
	err = s.store.Observe(ctx, func(tx Tx) error {
		all, here, err := tx.WaitingDevices(ctx, d.Network, now)
		if err != nil {
			return err
		}
		if all >= signin.MaxDevices || here >= signin.MaxDevicesHere {
			return signin.ErrDevicesMany
		}
		return tx.PutDevice(ctx, d)
	})
	return d, code, text, err
}

// PollDevice is the sign-in of a device once that was approved. waits tells that nobody decided yet. It is given once.
func (s *Service) PollDevice(ctx context.Context, text string) (in signin.SignIn, credential string, waits bool, err error) {
	deviceID, err := signin.ParseDevice(text)
	if err != nil {
		return in, "", false, err
	}
	now := s.options.Now()
	d, err := s.store.View().Device(ctx, deviceID)
	if fault.KindOf(err) == fault.NotFound || err == nil && !hmac.Equal(d.Hash, secret.Hash(s.options.Pepper, text)) {
		return in, "", false, s.refused(ctx, "device", fromOf(access.ActorFrom(ctx)), signin.ErrDevice)
	}
	switch {
	case err != nil:
		return in, "", false, err
	case !d.UsedAt.IsZero() || !now.Before(d.ExpiresAt):
		return in, "", false, signin.ErrDevice
	case d.DecidedAt.IsZero():
		return in, "", true, nil
	case !d.Approved:
		return in, "", false, s.Refused(ctx, signin.ByDevice, d.SignInID, signin.ErrDeviceDenied)
	}
	err = s.store.Observe(ctx, func(tx Tx) error {
		d, err := tx.Device(ctx, deviceID)
		if err != nil {
			return err
		}
		if !d.UsedAt.IsZero() {
			return signin.ErrDevice
		}
		// Who approved it and was sent away since approved nothing.
		by, err := tx.SignIn(ctx, d.SignInID)
		if err != nil || by.Refusal(now, now) != nil {
			return signin.ErrDevice
		}
		d.UsedAt = now
		return tx.PutDevice(ctx, d)
	})
	if err != nil {
		return in, "", false, err
	}
	in, credential, err = s.Begin(ctx, Start{User: d.UserID, Method: signin.ByDevice, Via: d.SignInID, KeyID: d.KeyID, Agent: d.Agent, ProvedAt: d.ProvedAt})
	return in, credential, false, err
}

// WaitingDevice is the one that waits for a code, for who is to approve it.
func (s *Service) WaitingDevice(ctx context.Context, code string) (signin.Device, error) {
	actor := access.ActorFrom(ctx)
	if actor.Kind != access.SignIn {
		return signin.Device{}, access.Denied(access.SelfManage)
	}
	if s.guesses.full(actor.Principal, s.options.Now()) {
		return signin.Device{}, signin.ErrGuesses
	}
	plain, err := signin.ParseCode(code)
	if err != nil {
		return signin.Device{}, err // it cannot be any device's: no guess
	}
	d, err := s.store.View().DeviceByCode(ctx, secret.Hash(s.options.Pepper, "device code "+plain))
	if fault.KindOf(err) == fault.NotFound || err == nil && !d.Waits(s.options.Now()) {
		s.guesses.note(actor.Principal)
		return signin.Device{}, signin.ErrDeviceCode
	}
	return d, err
}

// DecideDevice approves or denies the device that waits for a code. Approved, it acts as the caller does: for the same user, no
// further than the same API key, and no longer than the caller may stay.
func (s *Service) DecideDevice(ctx context.Context, code string, approve bool) (signin.Device, error) {
	d, err := s.WaitingDevice(ctx, code)
	if err != nil {
		return d, err
	}
	actor, now := access.ActorFrom(ctx), s.options.Now()
	err = s.store.Write(ctx, func(tx Tx) error {
		var err error
		if d, err = tx.Device(ctx, d.ID); err != nil {
			return err
		}
		if !d.Waits(now) {
			return signin.ErrDeviceCode
		}
		by, err := tx.SignIn(ctx, actor.ID)
		if err != nil {
			return err
		}
		if why := by.Refusal(now, now); why != nil {
			return why
		}
		d.DecidedAt, d.Approved, d.UserID, d.SignInID, d.KeyID, d.ProvedAt = now, approve, by.UserID, by.ID, by.KeyID, by.ProvedAt
		if err := tx.PutDevice(ctx, d); err != nil {
			return err
		}
		return tx.Audit(ctx, audit.Of(actor, access.SelfManage, by.Scope, d.ID, "device").Change(nil, map[string]any{
			"approved": approve, "address": d.Address, "agent": d.Agent}))
	})
	return d, err
}

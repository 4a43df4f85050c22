package signin

import (
	"context"
	"crypto/hmac"
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

// BeginDevice notes a device that wants to be signed in. The code is for its user, the string for itself.
func (s *Service) BeginDevice(ctx context.Context, agent string) (d signin.Device, code, text string, err error) {
	return s.beginDevice(ctx, signin.Device{Agent: agent})
}

func (s *Service) beginDevice(ctx context.Context, d signin.Device) (_ signin.Device, code, text string, err error) {
	actor, now := access.ActorFrom(ctx), s.options.Now()
	code = signin.NewCode()
	plain, err := signin.ParseCode(code)
	if err != nil {
		return d, "", "", err
	}
	d.Address, d.Network, d.Agent, d.CreatedAt, d.ExpiresAt = actor.Address, audit.Network(fromOf(actor)), cleaned(d.Agent), now, now.Add(signin.DeviceLife)
	d.CodeHash = secret.Hash(s.options.Pepper, "device code "+plain)
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
	if d.StepUp != "" {
		in, err = s.store.View().SignIn(ctx, d.StepUp)
		return in, "", false, err
	}
	in, credential, err = s.Begin(ctx, Start{User: d.UserID, Method: signin.ByDevice, Via: d.SignInID, KeyID: d.KeyID, Agent: d.Agent, ProvedAt: d.ProvedAt, MFAAt: stale(d.MFAAt, now),
		with: func(tx Tx) error {
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
		}})
	return in, credential, false, err
}

// stale is an approver's second factor as the device has it: conditions on its age go by it, and acts of tier 0 do not. Who was
// talked into approving a device has not shown a passkey for what it does next.
func stale(at, now time.Time) time.Time {
	if bound := now.Add(-access.StepUpWithin - time.Second); at.After(bound) {
		return bound
	}
	return at
}

// WaitingDevice is the one that waits for a code, for who is to approve it. A wrong code counts, on whichever replica it is typed.
func (s *Service) WaitingDevice(ctx context.Context, code string) (d signin.Device, err error) {
	actor := access.ActorFrom(ctx)
	if actor.Kind != access.SignIn {
		return signin.Device{}, access.Denied(access.SelfManage)
	}
	plain, err := signin.ParseCode(code)
	if err != nil {
		return signin.Device{}, err // it cannot be any device's: no guess
	}
	now := s.options.Now()
	var wrong error
	err = s.store.Observe(ctx, func(tx Tx) error {
		wrong = nil
		n, err := tx.Guess(ctx, actor.Principal, now.Add(-signin.DeviceLife))
		if err != nil {
			return err
		}
		if n > signin.MaxGuesses {
			wrong = signin.ErrGuesses
			return tx.Unguess(ctx, actor.Principal) // it was not looked at
		}
		d, err = tx.DeviceByCode(ctx, secret.Hash(s.options.Pepper, "device code "+plain))
		switch {
		case fault.KindOf(err) == fault.NotFound || err == nil && !d.Waits(now):
			wrong = signin.ErrDeviceCode
			return nil
		case err != nil:
			return err
		}
		return tx.Unguess(ctx, actor.Principal)
	})
	if err == nil {
		err = wrong
	}
	if err == nil && d.StepUp != "" && d.UserID != actor.Principal {
		err = signin.ErrDeviceUser
	}
	if err != nil {
		return signin.Device{}, err
	}
	return d, nil
}

// lend gives the sign-in that asked for it the passkey that its user showed for it: one that was shown before it asked does not
// count, so that somebody looks each time.
func (s *Service) lend(ctx context.Context, tx Tx, d signin.Device, by signin.SignIn) error {
	if now := s.options.Now(); by.MFAAt.Before(d.CreatedAt) || now.Sub(by.MFAAt) > access.StepUpWithin {
		return access.ErrStepUp
	}
	in, err := tx.SignIn(ctx, d.StepUp)
	if err != nil {
		return err
	}
	if in.UserID != by.UserID {
		return signin.ErrDeviceUser
	}
	if why := in.Refusal(s.options.Now(), s.options.Now()); why != nil {
		return why
	}
	in.MFAAt = by.MFAAt
	_, err = tx.PutSignIn(ctx, in)
	return err
}

// BeginStepUp notes that the caller, who has no browser, wants to show a passkey. Its user does so in any browser that is signed in
// as them, and approves the code there.
func (s *Service) BeginStepUp(ctx context.Context) (d signin.Device, code, text string, err error) {
	actor := access.ActorFrom(ctx)
	if actor.Kind != access.SignIn {
		return d, "", "", access.Denied(access.SelfManage)
	}
	in, err := s.store.View().SignIn(ctx, actor.ID)
	if err != nil {
		return d, "", "", err
	}
	return s.beginDevice(ctx, signin.Device{Agent: in.Agent, StepUp: in.ID, UserID: in.UserID})
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
		d.DecidedAt, d.Approved, d.UserID, d.SignInID, d.KeyID, d.ProvedAt, d.MFAAt = now, approve, by.UserID, by.ID, by.KeyID, by.ProvedAt, by.MFAAt
		if d.StepUp != "" && approve {
			if err := s.lend(ctx, tx, d, by); err != nil {
				return err
			}
		}
		if err := tx.PutDevice(ctx, d); err != nil {
			return err
		}
		return tx.Audit(ctx, audit.Of(actor, access.SelfManage, by.Scope, d.ID, "device").Change(nil, struct {
			Approved bool   `json:"approved"`
			Address  string `json:"address"`
			Agent    string `json:"agent"`
			StepUp   string `json:"stepUp,omitempty"`
		}{approve, d.Address, d.Agent, d.StepUp}))
	})
	return d, err
}

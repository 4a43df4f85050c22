package passkey

import (
	"context"

	"github.com/loopbackd/loopback/access"
	"github.com/loopbackd/loopback/audit"
	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/invitation"
	"github.com/loopbackd/loopback/passkey"
)

// BeginInvited begins to make a passkey of the user whom an invitation is for. The caller found that it works.
func (s *Service) BeginInvited(ctx context.Context, i invitation.Invitation) (Ceremony, error) {
	if err := s.available(); err != nil {
		return Ceremony{}, err
	}
	p, err := s.person(ctx, s.store.View(), i.UserID)
	if err != nil {
		return Ceremony{}, err
	}
	return s.beginRegistration(invited, p, state{User: p.ID, Invitation: i.ID})
}

// FinishInvited keeps the passkey that was made, and uses the invitation up in the same transaction. The caller found that it
// works; whether it still does is found out again.
func (s *Service) FinishInvited(ctx context.Context, i invitation.Invitation, ceremony, response, name string) (Proved, error) {
	if err := s.available(); err != nil {
		return Proved{}, err
	}
	st, err := s.open(invited, ceremony)
	if err == nil && (st.Invitation != i.ID || st.User != i.UserID) {
		err = passkey.ErrOver
	}
	if err != nil {
		return Proved{}, err
	}
	p, err := s.person(ctx, s.store.View(), i.UserID)
	if err != nil {
		return Proved{}, err
	}
	made, err := s.made(ctx, p, st, response, name)
	if err != nil {
		return Proved{}, err
	}
	now := s.options.Now()
	err = s.store.Write(ctx, func(tx Tx) error {
		if err := spend(ctx, tx, st); err != nil {
			return err
		}
		still, err := tx.Invitation(ctx, i.ID)
		if fault.KindOf(err) == fault.NotFound {
			return invitation.ErrInvalid
		}
		if err != nil {
			return err
		}
		if err := still.Works(now); err != nil {
			return err
		}
		u, err := s.person(ctx, tx, i.UserID)
		if err != nil {
			return err
		}
		if len(u.keys) >= passkey.MaxOfUser {
			return passkey.ErrMany
		}
		if made, err = s.keep(ctx, tx, made); err != nil {
			return err
		}
		still.UsedAt, still.UsedFor = now, made.ID
		if _, err := tx.PutInvitation(ctx, still); err != nil {
			return err
		}
		return tx.Audit(ctx, audit.Of(access.ActorFrom(ctx), invitation.Use, still.Scope, still.ID, still.Name).Change(nil, struct {
			User    string `json:"user"`
			Passkey record `json:"passkey"`
		}{u.ID, describe(made)}))
	})
	return Proved{User: i.UserID, Passkey: made.ID, At: now}, err
}

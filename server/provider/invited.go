package provider

import (
	"context"
	"slices"
	"strings"

	"github.com/loopbackd/loopback/audit"
	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/invitation"
	"github.com/loopbackd/loopback/principal"
	"github.com/loopbackd/loopback/provider"
)

// invited is the user whom an invitation is for, where that is whom the provider speaks of. From then on its subject is known as
// them. The invitation is used up in the same transaction; where it lets nobody in it goes on working.
func (s *Service) invited(ctx context.Context, p provider.Provider, c said, text string) (user string, err error) {
	i, err := s.options.Invitations.Open(ctx, text)
	if err != nil {
		return "", err
	}
	now, who := s.options.Now(), speaker(ctx, p)
	err = s.store.Write(ctx, func(tx Tx) error {
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
		u, err := tx.Principal(ctx, still.UserID)
		if fault.KindOf(err) == fault.NotFound || err == nil && !u.Active() {
			return invitation.ErrRevoked // as it is where that is done to a user, in the same transaction
		}
		if err != nil {
			return err
		}
		known, err := tx.Identity(ctx, identity(p, c.Subject, now).ID)
		switch {
		case fault.KindOf(err) == fault.NotFound:
			if err := meant(u, p, c); err != nil {
				return err
			}
			known = identity(p, c.Subject, now)
			known.UserID = u.ID
		case err != nil:
			return err
		case known.UserID != u.ID:
			return invitation.ErrOther
		}
		known.Email, known.LastUsedAt = "", now
		if c.Verified {
			known.Email = c.Email
		}
		if known, err = tx.PutIdentity(ctx, known); err != nil {
			return err
		}
		still.UsedAt, still.UsedFor = now, known.ID
		if _, err := tx.PutInvitation(ctx, still); err != nil {
			return err
		}
		user = u.ID
		if err := regroup(ctx, tx, who, p, c, u); err != nil {
			return err
		}
		said := describeSaid(p, c)
		said["user"], said["identity"] = u.ID, known.ID
		return tx.Audit(ctx, audit.Of(who, invitation.Use, still.Scope, still.ID, still.Name).Change(nil, said))
	})
	return user, err
}

// meant demands that a provider speaks of the user: by the identity that an administrator noted of them, or by an address that it
// vouches for and that is theirs here. The link alone would let in whoever reads it, for good, under the name of somebody else.
func meant(u principal.Principal, p provider.Provider, c said) error {
	if u.Identity != "" && u.Identity == p.Issuer+"|"+c.Subject {
		return nil
	}
	switch {
	case !bool(c.Verified) || c.Email == "":
		return provider.ErrEmail
	case !strings.EqualFold(c.Email, u.Email):
		return invitation.ErrOther
	case len(p.Domains) > 0 && !slices.Contains(p.Domains, strings.ToLower(c.Email[strings.LastIndexByte(c.Email, '@')+1:])):
		return provider.ErrDomain
	}
	return nil
}

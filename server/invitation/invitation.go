// Package invitation makes, lists and revokes invitations, and says whom one is for.
//
// Who uses an invitation is the user, so nobody invites somebody who holds what they do not hold: neither by a binding of
// their own nor by one of a group. An invitation is used in the transaction that keeps the passkey (server/passkey), or who its user is at
// a provider (server/provider); the second of two who try is refused. What is invited to an account that was disabled meanwhile opens nothing.
package invitation

import (
	"context"
	"slices"
	"time"

	"github.com/loopbackd/loopback/access"
	"github.com/loopbackd/loopback/audit"
	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/id"
	"github.com/loopbackd/loopback/invitation"
	"github.com/loopbackd/loopback/policy"
	"github.com/loopbackd/loopback/principal"
	"github.com/loopbackd/loopback/secret"
	"github.com/loopbackd/loopback/tenant"
)

// Reader reads invitations, and what their users hold.
type Reader interface {
	Invitation(ctx context.Context, id string) (invitation.Invitation, error)
	Invitations(ctx context.Context, q invitation.Query) ([]invitation.Invitation, string, error)
	Principal(ctx context.Context, id string) (principal.Principal, error)
	Groups(ctx context.Context, q principal.Query) ([]principal.Group, string, error)
	Bindings(ctx context.Context, q policy.Query) ([]policy.Binding, string, error)
	Role(ctx context.Context, id string) (policy.Role, error)
}

// Tx changes them.
type Tx interface {
	Reader
	PutInvitation(ctx context.Context, i invitation.Invitation) (invitation.Invitation, error)
	Audit(ctx context.Context, e audit.Entry) error
}

// Store is where they are kept.
type Store interface {
	View() Reader
	Write(ctx context.Context, change func(Tx) error) error
}

// Users finds users where the caller may read them.
type Users interface {
	Get(ctx context.Context, kind access.SubjectKind, ref string) (principal.Principal, error)
}

// Service is invitations as people work with them.
type Service struct {
	store  Store
	users  Users
	pepper []byte // keys the hashes
	now    func() time.Time
}

// NewService makes the service.
func NewService(store Store, users Users, pepper []byte, now func() time.Time) *Service {
	return &Service{store, users, pepper, now}
}

// Create invites a user. The string is in the answer for the only time.
func (s *Service) Create(ctx context.Context, user string, ttl time.Duration) (out invitation.Invitation, text string, err error) {
	if ttl == 0 {
		ttl = invitation.DefaultTTL
	}
	var c fault.Check
	c.That(ttl >= invitation.MinTTL && ttl <= invitation.MaxTTL, "ttl", "is %s; allowed are %s to %s", ttl, invitation.MinTTL, invitation.MaxTTL)
	if err := c.Err("invitation_invalid", "the invitation is not valid"); err != nil {
		return out, "", err
	}
	found, err := s.users.Get(ctx, access.User, user)
	if err != nil {
		return out, "", err
	}
	actor, now := access.ActorFrom(ctx), s.now()
	out = invitation.Invitation{Meta: tenant.Meta{ID: id.New("inv", now), CreatedAt: now}, UserID: found.ID, CreatedBy: actor.ID, ExpiresAt: now.Add(ttl)}
	text = invitation.NewSecret(out.ID)
	out.Hash = secret.Hash(s.pepper, text)
	err = s.store.Write(ctx, func(tx Tx) error {
		u, err := tx.Principal(ctx, found.ID)
		if err != nil {
			return err
		}
		if err := actor.Require(invitation.Create, u.Scope, principal.UsersRead, "user "+user); err != nil {
			return err
		}
		if !u.Active() {
			return fault.New(fault.Precondition, "user_disabled", "the user is disabled").WithHint("enable them first: loopback user enable")
		}
		if err := covers(ctx, tx, actor, u.ID); err != nil {
			return err
		}
		out.Name, out.Scope = u.Name, u.Scope
		if out, err = tx.PutInvitation(ctx, out); err != nil {
			return err
		}
		return tx.Audit(ctx, audit.Of(actor, invitation.Create, out.Scope, out.ID, out.Name).Change(nil, describe(out)))
	})
	if err != nil {
		return invitation.Invitation{}, "", err
	}
	return out, text, nil
}

// covers demands that the caller holds what a user was given, by bindings of their own and of their groups.
func covers(ctx context.Context, tx Tx, actor access.Actor, user string) error {
	subjects := []string{user}
	q := principal.Query{Readable: access.Everywhere(), Page: tenant.Page{Size: tenant.MaxPage}}
	for {
		groups, next, err := tx.Groups(ctx, q)
		if err != nil {
			return err
		}
		for _, g := range groups {
			if slices.Contains(g.Members, user) {
				subjects = append(subjects, g.ID)
			}
		}
		if q.Page.Token = next; next == "" {
			break
		}
	}
	for _, subject := range subjects {
		q := policy.Query{Readable: access.Everywhere(), Subject: subject, Page: tenant.Page{Size: tenant.MaxPage}}
		for {
			list, next, err := tx.Bindings(ctx, q)
			if err != nil {
				return err
			}
			for _, b := range list {
				role, err := tx.Role(ctx, b.RoleID)
				if err != nil {
					return err
				}
				if lacking := actor.Covers(b.Rule(role)); len(lacking) > 0 {
					return fault.New(fault.Denied, "permission_not_held", "who uses the invitation holds what you do not hold: binding %s gives %v", b.ID, lacking).
						WithHint("ask somebody who holds that")
				}
			}
			if q.Page.Token = next; next == "" {
				break
			}
		}
	}
	return nil
}

// List is the invitations that the caller may read, newest first: of one user, by id or name, or of all.
func (s *Service) List(ctx context.Context, user string, page tenant.Page) ([]invitation.Invitation, string, error) {
	q := invitation.Query{Readable: access.ActorFrom(ctx).Readable(invitation.Read), Page: page}
	if user != "" {
		u, err := s.users.Get(ctx, access.User, user)
		if err != nil {
			return nil, "", err
		}
		q.User = u.ID
	}
	return s.store.View().Invitations(ctx, q)
}

// Revoke takes an invitation back. One that is over stays as it was.
func (s *Service) Revoke(ctx context.Context, invitationID string) (out invitation.Invitation, err error) {
	if invitationID == "" {
		var c fault.Check
		c.Add("invitation", "is missing: give the id of an invitation")
		return out, c.Err("request_invalid", "the request is not valid")
	}
	actor := access.ActorFrom(ctx)
	err = s.store.Write(ctx, func(tx Tx) error {
		before, err := tx.Invitation(ctx, invitationID)
		if err != nil {
			return err
		}
		if err := actor.Require(invitation.Revoke, before.Scope, invitation.Read, "invitation "+invitationID); err != nil {
			return err
		}
		out = before
		if before.State(s.now()) != "waiting" {
			return nil
		}
		out.RevokedAt = s.now()
		if out, err = tx.PutInvitation(ctx, out); err != nil {
			return err
		}
		return tx.Audit(ctx, audit.Of(actor, invitation.Revoke, out.Scope, out.ID, out.Name).Change(describe(before), describe(out)))
	})
	return out, err
}

// Open is the invitation whose string this is, while it works.
func (s *Service) Open(ctx context.Context, text string) (invitation.Invitation, error) {
	invitationID, err := invitation.ParseSecret(text)
	if err != nil {
		return invitation.Invitation{}, err
	}
	i, err := s.store.View().Invitation(ctx, invitationID)
	if fault.KindOf(err) == fault.NotFound {
		return invitation.Invitation{}, invitation.ErrInvalid
	}
	if err == nil {
		err = i.Opens(s.pepper, text, s.now())
	}
	if err != nil {
		return invitation.Invitation{Meta: tenant.Meta{ID: i.ID}}, err
	}
	return i, nil
}

// record is an invitation as the audit log shows it: never its hash.
type record struct {
	User      string    `json:"user"`
	ExpiresAt time.Time `json:"expiresAt"`
	RevokedAt time.Time `json:"revokedAt,omitzero"`
}

func describe(i invitation.Invitation) record { return record{i.UserID, i.ExpiresAt, i.RevokedAt} }

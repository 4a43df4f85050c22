package passkey

import (
	"context"
	"time"

	"github.com/go-webauthn/webauthn/protocol"
	"github.com/go-webauthn/webauthn/webauthn"

	"github.com/loopbackd/loopback/access"
	"github.com/loopbackd/loopback/audit"
	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/id"
	"github.com/loopbackd/loopback/passkey"
	"github.com/loopbackd/loopback/signin"
	"github.com/loopbackd/loopback/tenant"
)

// firstWithin is how long ago somebody may have shown who they are who makes their first passkey: there is none yet to show.
const firstWithin = 15 * time.Minute

// errAgain asks who makes their first passkey to show who they are first.
var errAgain = fault.New(fault.Denied, "sign_in_again", "it is a while ago that you showed who you are").
	WithHint("sign out, sign in again, and make the passkey within fifteen minutes")

// mayRegister demands of who makes a passkey that they are there.
func (s *Service) mayRegister(ctx context.Context, r Reader, actor access.Actor, p person) error {
	in, err := r.SignIn(ctx, actor.ID)
	switch {
	case err != nil:
		return err
	case p.Kind != access.User || in.KeyID != "":
		return passkey.ErrKey
	case len(p.keys) >= passkey.MaxOfUser:
		return passkey.ErrMany
	}
	actor.MFA = in.MFAAt // the actor's own may be remembered from before
	fresh := actor.RequireStepUp()
	if len(p.keys) == 0 {
		if fresh != nil && s.options.Now().Sub(in.ProvedAt) > firstWithin {
			return errAgain
		}
		return nil
	}
	return fresh
}

// BeginRegistration begins to make a passkey of the caller's.
func (s *Service) BeginRegistration(ctx context.Context) (Ceremony, error) {
	if err := s.available(); err != nil {
		return Ceremony{}, err
	}
	actor, p, err := s.caller(ctx)
	if err != nil {
		return Ceremony{}, err
	}
	if err := s.mayRegister(ctx, s.store.View(), actor, p); err != nil {
		return Ceremony{}, err
	}
	return s.beginRegistration(registering, p, state{User: p.ID, SignIn: actor.ID})
}

func (s *Service) beginRegistration(why purpose, p person, st state) (Ceremony, error) {
	options, session, err := s.party.BeginRegistration(p, webauthn.WithExclusions(p.descriptors()))
	if err != nil {
		return Ceremony{}, err
	}
	st.Session = *session
	return s.seal(why, st, options.Response)
}

// FinishRegistration keeps the passkey that an authenticator made.
func (s *Service) FinishRegistration(ctx context.Context, ceremony, response, name string) (passkey.Passkey, error) {
	if err := s.available(); err != nil {
		return passkey.Passkey{}, err
	}
	actor, p, err := s.caller(ctx)
	if err != nil {
		return passkey.Passkey{}, err
	}
	st, err := s.open(registering, ceremony)
	if err == nil && (st.User != p.ID || st.SignIn != actor.ID) {
		err = passkey.ErrOver
	}
	if err != nil {
		return passkey.Passkey{}, err
	}
	made, err := s.made(ctx, p, st, response, name)
	if err != nil {
		return passkey.Passkey{}, err
	}
	err = s.store.Write(ctx, func(tx Tx) error {
		if err := spend(ctx, tx, st); err != nil {
			return err
		}
		// What was so at the first half has to be so still; but that the passkey was shown within a minute then is enough.
		now, err := s.person(ctx, tx, p.ID)
		if err != nil {
			return err
		}
		in, err := tx.SignIn(ctx, actor.ID)
		if err != nil {
			return err
		}
		if why := in.Refusal(s.options.Now(), s.options.Now()); why != nil {
			return why
		}
		if len(now.keys) >= passkey.MaxOfUser {
			return passkey.ErrMany
		}
		if made, err = s.keep(ctx, tx, made); err != nil {
			return err
		}
		return tx.Audit(ctx, audit.Of(actor, access.SelfManage, made.Scope, made.ID, made.Name).Change(nil, describe(made)))
	})
	return made, err
}

// made is the passkey that an answer describes.
func (s *Service) made(ctx context.Context, p person, st state, response, name string) (passkey.Passkey, error) {
	var c fault.Check
	passkey.CheckName(&c, "name", name)
	if err := c.Err("passkey_name_invalid", "the name is not valid"); err != nil {
		return passkey.Passkey{}, err
	}
	parsed, err := protocol.ParseCredentialCreationResponseBytes([]byte(response))
	if err != nil {
		return passkey.Passkey{}, s.disbelieved(ctx, "a registration", err)
	}
	credential, err := s.party.CreateCredential(p, st.Session, parsed)
	if err != nil {
		return passkey.Passkey{}, s.disbelieved(ctx, "a registration", err)
	}
	now := s.options.Now()
	out := passkey.Passkey{
		Meta: tenant.Meta{ID: id.New("psk", now), Name: name, CreatedAt: now}, Scope: p.Scope, UserID: p.ID, Domain: s.domain,
		CredentialID: credential.ID, PublicKey: credential.PublicKey, SignCount: credential.Authenticator.SignCount, AAGUID: credential.Authenticator.AAGUID,
		BackupEligible: credential.Flags.BackupEligible, BackedUp: credential.Flags.BackupState,
	}
	for _, t := range credential.Transport {
		if len(out.Transports) < 8 && len(t) <= 32 {
			out.Transports = append(out.Transports, string(t))
		}
	}
	return out, nil
}

// keep writes a new passkey down, unless its authenticator is known already.
func (s *Service) keep(ctx context.Context, tx Tx, p passkey.Passkey) (passkey.Passkey, error) {
	switch _, err := tx.PasskeyByCredential(ctx, p.CredentialID); {
	case err == nil:
		return p, fault.New(fault.Exists, "passkey_exists", "this passkey is there already")
	case fault.KindOf(err) != fault.NotFound:
		return p, err
	}
	return tx.PutPasskey(ctx, p)
}

// Mine are the caller's own passkeys, those included that are good for another domain.
func (s *Service) Mine(ctx context.Context, page tenant.Page) ([]passkey.Passkey, string, error) {
	actor := access.ActorFrom(ctx)
	if actor.Kind != access.SignIn {
		return nil, "", access.Denied(access.SelfManage)
	}
	return s.store.View().Passkeys(ctx, passkey.Query{Readable: access.Everywhere(), User: actor.Principal, Page: page})
}

// List is the passkeys that the caller may read: of one user, by id or name, or of all.
func (s *Service) List(ctx context.Context, user string, page tenant.Page) ([]passkey.Passkey, string, error) {
	q := passkey.Query{Readable: access.ActorFrom(ctx).Readable(passkey.Read), Page: page}
	if user != "" {
		u, err := s.options.Users.Get(ctx, access.User, user)
		if err != nil {
			return nil, "", err
		}
		q.User = u.ID
	}
	return s.store.View().Passkeys(ctx, q)
}

// own is a passkey of the caller's.
func own(ctx context.Context, r Reader, passkeyID string) (passkey.Passkey, error) {
	actor := access.ActorFrom(ctx)
	if actor.Kind != access.SignIn {
		return passkey.Passkey{}, access.Denied(access.SelfManage)
	}
	p, err := named(ctx, r, passkeyID)
	if err == nil && p.UserID != actor.Principal {
		return passkey.Passkey{}, access.NotFound("passkey " + passkeyID)
	}
	return p, err
}

func named(ctx context.Context, r Reader, passkeyID string) (passkey.Passkey, error) {
	if passkeyID == "" {
		var c fault.Check
		c.Add("passkey", "is missing: give the id of a passkey")
		return passkey.Passkey{}, c.Err("request_invalid", "the request is not valid")
	}
	return r.Passkey(ctx, passkeyID)
}

// Rename gives one of the caller's own another name.
func (s *Service) Rename(ctx context.Context, passkeyID, name string) (out passkey.Passkey, err error) {
	var c fault.Check
	passkey.CheckName(&c, "name", name)
	if err := c.Err("passkey_name_invalid", "the name is not valid"); err != nil {
		return out, err
	}
	err = s.store.Write(ctx, func(tx Tx) error {
		before, err := own(ctx, tx, passkeyID)
		if err != nil {
			return err
		}
		out = before
		out.Name = name
		if out, err = tx.PutPasskey(ctx, out); err != nil {
			return err
		}
		return tx.Audit(ctx, audit.Of(access.ActorFrom(ctx), access.SelfManage, out.Scope, out.ID, out.Name).Change(describe(before), describe(out)))
	})
	return out, err
}

// Remove removes one of the caller's own, who shows one first. evenLast says that they want it though they could not come in any
// more.
func (s *Service) Remove(ctx context.Context, passkeyID string, evenLast bool) error {
	actor := access.ActorFrom(ctx)
	return s.store.Write(ctx, func(tx Tx) error {
		p, err := own(ctx, tx, passkeyID)
		if err != nil {
			return err
		}
		u, err := s.person(ctx, tx, p.UserID)
		if err != nil {
			return err
		}
		in, err := tx.SignIn(ctx, actor.ID)
		if err != nil {
			return err
		}
		actor.MFA = in.MFAAt // the actor's own may be remembered from before
		if len(u.keys) > 0 { // one is good here: a stolen sign-in does not have it
			if err := actor.RequireStepUp(); err != nil {
				return err
			}
		}
		if !evenLast && p.Domain == s.domain && len(u.keys) == 1 {
			others, err := tx.OtherWaysIn(ctx, p.UserID, s.options.Now())
			if err != nil {
				return err
			}
			if others == 0 {
				return passkey.ErrLast
			}
		}
		return s.remove(ctx, tx, p, access.SelfManage, actor.ID)
	})
}

// Revoke removes somebody's passkey.
func (s *Service) Revoke(ctx context.Context, passkeyID string) error {
	actor := access.ActorFrom(ctx)
	return s.store.Write(ctx, func(tx Tx) error {
		p, err := named(ctx, tx, passkeyID)
		if fault.KindOf(err) == fault.NotFound {
			return access.NotFound("passkey " + passkeyID)
		}
		if err != nil {
			return err
		}
		if err := actor.Require(passkey.Revoke, p.Scope, passkey.Read, "passkey "+passkeyID); err != nil {
			return err
		}
		return s.remove(ctx, tx, p, passkey.Revoke, "")
	})
}

// remove removes a passkey, and the sign-ins that began with it, but for one.
func (s *Service) remove(ctx context.Context, tx Tx, p passkey.Passkey, by access.Permission, except string) error {
	ended, err := tx.EndSignInsVia(ctx, p.UserID, p.ID, except, s.options.Now(), signin.Revoked)
	if err != nil {
		return err
	}
	if err := tx.DeletePasskey(ctx, p); err != nil {
		return err
	}
	return tx.Audit(ctx, audit.Of(access.ActorFrom(ctx), by, p.Scope, p.ID, p.Name).Change(describe(p), struct {
		SignIns []string `json:"signIns,omitempty"`
	}{ended}))
}

package passkey

import (
	"context"
	"time"

	"github.com/go-webauthn/webauthn/protocol"
	"github.com/go-webauthn/webauthn/webauthn"

	"github.com/loopbackd/loopback/access"
	"github.com/loopbackd/loopback/audit"
	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/passkey"
)

// BeginSignIn begins a sign-in of whoever's passkey the browser has.
func (s *Service) BeginSignIn(context.Context) (Ceremony, error) {
	if err := s.available(); err != nil {
		return Ceremony{}, err
	}
	options, session, err := s.party.BeginDiscoverableLogin()
	if err != nil {
		return Ceremony{}, err
	}
	return s.seal(signingIn, state{Session: *session}, options.Response)
}

// Proved is who showed a passkey, and when.
type Proved struct {
	User    string
	Passkey string
	At      time.Time
}

// FinishSignIn is whose passkey was shown. The passkey is in the answer even where it was refused, as far as it is known.
func (s *Service) FinishSignIn(ctx context.Context, ceremony, response string) (Proved, error) {
	if err := s.available(); err != nil {
		return Proved{}, err
	}
	st, err := s.open(signingIn, ceremony)
	if err != nil {
		return Proved{}, err
	}
	return s.prove(ctx, st, response, nil)
}

// BeginStepUp begins that the caller shows anew that it is them.
func (s *Service) BeginStepUp(ctx context.Context) (Ceremony, error) {
	if err := s.available(); err != nil {
		return Ceremony{}, err
	}
	actor, p, err := s.caller(ctx)
	if err != nil {
		return Ceremony{}, err
	}
	if len(p.keys) == 0 {
		return Ceremony{}, passkey.ErrNone
	}
	options, session, err := s.party.BeginLogin(p)
	if err != nil {
		return Ceremony{}, err
	}
	return s.seal(steppingUp, state{User: p.ID, SignIn: actor.ID, Session: *session}, options.Response)
}

// FinishStepUp notes in the caller's sign-in that they showed a passkey just now.
func (s *Service) FinishStepUp(ctx context.Context, ceremony, response string) (Proved, error) {
	if err := s.available(); err != nil {
		return Proved{}, err
	}
	actor := access.ActorFrom(ctx)
	if actor.Kind != access.SignIn {
		return Proved{}, access.Denied(access.SelfManage)
	}
	st, err := s.open(steppingUp, ceremony)
	if err == nil && (st.User != actor.Principal || st.SignIn != actor.ID) {
		err = passkey.ErrOver
	}
	if err != nil {
		return Proved{}, err
	}
	return s.prove(ctx, st, response, func(tx Tx, p Proved) error {
		in, err := tx.SignIn(ctx, actor.ID)
		if err != nil {
			return err
		}
		if why := in.Refusal(p.At, p.At); why != nil {
			return why
		}
		in.MFAAt = p.At
		_, err = tx.PutSignIn(ctx, in)
		return err
	})
}

// prove looks whether an answer is what a passkey gives to the ceremony, notes its use, and does what follows from it in the
// same transaction.
func (s *Service) prove(ctx context.Context, st state, response string, then func(Tx, Proved) error) (Proved, error) {
	parsed, err := protocol.ParseCredentialRequestResponseBytes([]byte(response))
	if err != nil {
		return Proved{}, s.disbelieved(ctx, "a request", err)
	}
	found, err := s.store.View().PasskeyByCredential(ctx, parsed.RawID)
	if fault.KindOf(err) == fault.NotFound || err == nil && found.Domain != s.domain {
		return Proved{}, passkey.ErrUnknown
	}
	if err != nil {
		return Proved{}, err
	}
	proved := Proved{User: found.UserID, Passkey: found.ID, At: s.options.Now()}
	if st.User != "" && found.UserID != st.User {
		return proved, passkey.ErrOther
	}
	p, err := s.person(ctx, s.store.View(), found.UserID)
	if err != nil {
		return proved, err
	}
	flags := parsed.Response.AuthenticatorData.Flags
	for i := range p.keys {
		// Level 3 has it that this never changes. Authenticators that sync change it all the same, and would be locked out for
		// good (go-webauthn/webauthn#335); nothing here depends on it but what is shown.
		if p.keys[i].ID == found.ID {
			p.keys[i].BackupEligible = flags.HasBackupEligible()
		}
	}
	var credential *webauthn.Credential
	if st.User == "" {
		_, credential, err = s.party.ValidatePasskeyLogin(func([]byte, []byte) (webauthn.User, error) { return p, nil }, st.Session, parsed)
	} else {
		// One that was removed since the ceremony began is not asked for any more, which is no reason to refuse another.
		st.Session.AllowedCredentialIDs = nil
		credential, err = s.party.ValidateLogin(p, st.Session, parsed)
	}
	if err != nil {
		return proved, s.disbelieved(ctx, "a request", err)
	}
	counted := parsed.Response.AuthenticatorData.Counter
	err = s.store.Write(ctx, func(tx Tx) error {
		if err := spend(ctx, tx, st); err != nil {
			return err
		}
		now, err := tx.Passkey(ctx, found.ID)
		if fault.KindOf(err) == fault.NotFound {
			return passkey.ErrUnknown
		}
		if err != nil {
			return err
		}
		if !passkey.Counted(now.SignCount, counted) {
			return passkey.ErrCloned
		}
		if _, err := s.person(ctx, tx, found.UserID); err != nil {
			return err
		}
		before := describe(now)
		now.SignCount, now.LastUsedAt = counted, proved.At
		now.BackupEligible, now.BackedUp = credential.Flags.BackupEligible, credential.Flags.BackupState
		if now, err = tx.PutPasskey(ctx, now); err != nil {
			return err
		}
		if then != nil {
			if err := then(tx, proved); err != nil {
				return err
			}
		}
		return tx.Audit(ctx, audit.Of(access.ActorFrom(ctx), passkey.Use, now.Scope, now.ID, now.Name).Change(before, describe(now)))
	})
	if f := fault.Of(err); err != nil && f.Code == passkey.ErrCloned.Code {
		return proved, s.cloned(ctx, found, counted)
	}
	return proved, err
}

// cloned records that a passkey's count went back: each time, for somebody ought to look.
func (s *Service) cloned(ctx context.Context, p passkey.Passkey, counted uint32) error {
	s.options.Logger.WarnContext(ctx, "a passkey counts fewer uses than before: there may be a copy of it", "passkey", p.ID, "user", p.UserID,
		"known", p.SignCount, "shown", counted, "address", access.ActorFrom(ctx).Address)
	err := s.store.Write(ctx, func(tx Tx) error {
		e := audit.Of(access.ActorFrom(ctx), passkey.Use, p.Scope, p.ID, p.Name)
		e.Outcome, e.Reason = audit.Refused, passkey.ErrCloned.Code
		return tx.Audit(ctx, e.Change(describe(p), struct {
			SignCount uint32 `json:"signCount"`
		}{counted}))
	})
	if err != nil {
		return err
	}
	return passkey.ErrCloned
}

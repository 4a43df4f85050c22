package signin

import (
	"context"
	"net/netip"
	"sync"
	"time"

	"github.com/loopbackd/loopback/access"
	"github.com/loopbackd/loopback/audit"
	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/principal"
	"github.com/loopbackd/loopback/signin"
	"github.com/loopbackd/loopback/tenant"
)

// Current is the caller's own sign-in.
func (s *Service) Current(ctx context.Context) (signin.SignIn, error) {
	actor := access.ActorFrom(ctx)
	if actor.Kind != access.SignIn {
		return signin.SignIn{}, access.Denied(access.SelfManage)
	}
	return s.store.View().SignIn(ctx, actor.ID)
}

// Mine are the caller's sign-ins that are live, newest first.
func (s *Service) Mine(ctx context.Context, page tenant.Page) ([]signin.SignIn, string, error) {
	actor := access.ActorFrom(ctx)
	if actor.Kind != access.SignIn {
		return nil, "", access.Denied(access.SelfManage)
	}
	return s.store.View().SignIns(ctx, signin.Query{Readable: access.Everywhere(), User: actor.Principal, LiveAt: s.options.Now(), Page: page})
}

// List is the sign-ins that are live and that the caller may read, newest first: of one user, by id or name, or of all.
func (s *Service) List(ctx context.Context, user string, page tenant.Page) ([]signin.SignIn, string, error) {
	q := signin.Query{Readable: access.ActorFrom(ctx).Readable(signin.Read), LiveAt: s.options.Now(), Page: page}
	if user != "" {
		u, err := s.options.Users.Get(ctx, access.User, user)
		if err != nil {
			return nil, "", err
		}
		q.User = u.ID
	}
	return s.store.View().SignIns(ctx, q)
}

// End ends one of the caller's own sign-ins: this one where the id is empty.
func (s *Service) End(ctx context.Context, signInID string) error {
	actor := access.ActorFrom(ctx)
	if actor.Kind != access.SignIn {
		return access.Denied(access.SelfManage)
	}
	if signInID == "" {
		signInID = actor.ID
	}
	defer s.cache.Drop(signInID)
	return s.store.Write(ctx, func(tx Tx) error {
		in, err := tx.SignIn(ctx, signInID)
		if fault.KindOf(err) == fault.NotFound || err == nil && in.UserID != actor.Principal {
			return access.NotFound("sign-in " + signInID)
		}
		if err != nil {
			return err
		}
		_, err = s.end(ctx, tx, in, access.SelfManage, signin.SignedOut)
		return err
	})
}

// EndMine ends all of the caller's sign-ins, this one included, and says how many there were.
func (s *Service) EndMine(ctx context.Context) (int, error) {
	actor := access.ActorFrom(ctx)
	if actor.Kind != access.SignIn {
		return 0, access.Denied(access.SelfManage)
	}
	defer s.cache.Clear()
	return s.endAll(ctx, actor.Principal, access.SelfManage, signin.SignedOut, func(Tx) (access.Scope, error) { return access.Scope{}, nil })
}

// Revoke ends somebody's sign-in. One that is over stays as it was.
func (s *Service) Revoke(ctx context.Context, signInID string) (out signin.SignIn, err error) {
	if signInID == "" {
		var c fault.Check
		c.Add("signIn", "is missing: give the id of a sign-in")
		return out, c.Err("request_invalid", "the request is not valid")
	}
	actor := access.ActorFrom(ctx)
	defer s.cache.Drop(signInID)
	err = s.store.Write(ctx, func(tx Tx) error {
		in, err := tx.SignIn(ctx, signInID)
		if fault.KindOf(err) == fault.NotFound {
			return access.NotFound("sign-in " + signInID)
		}
		if err != nil {
			return err
		}
		if err := actor.Require(signin.Revoke, in.Scope, signin.Read, "sign-in "+signInID); err != nil {
			return err
		}
		out, err = s.end(ctx, tx, in, signin.Revoke, signin.Revoked)
		return err
	})
	return out, err
}

// RevokeAll ends all sign-ins of a user and says how many there were.
func (s *Service) RevokeAll(ctx context.Context, user string) (int, error) {
	u, err := s.options.Users.Get(ctx, access.User, user)
	if err != nil {
		return 0, err
	}
	actor := access.ActorFrom(ctx)
	defer s.cache.Clear()
	return s.endAll(ctx, u.ID, signin.Revoke, signin.Revoked, func(tx Tx) (access.Scope, error) {
		u, err := tx.Principal(ctx, u.ID)
		if err != nil {
			return u.Scope, err
		}
		return u.Scope, actor.Require(signin.Revoke, u.Scope, principal.UsersRead, "user "+user)
	})
}

func (s *Service) endAll(ctx context.Context, user string, p access.Permission, why string, check func(Tx) (access.Scope, error)) (n int, err error) {
	err = s.store.Write(ctx, func(tx Tx) error {
		at, err := check(tx)
		if err != nil {
			return err
		}
		ended, err := tx.EndSignIns(ctx, user, s.options.Now(), why)
		n = len(ended)
		if err != nil || n == 0 {
			return err
		}
		return tx.Audit(ctx, audit.Of(access.ActorFrom(ctx), p, at, user, "").Change(nil, struct {
			Ended []string `json:"ended"`
			Why   string   `json:"why"`
		}{ended, why}))
	})
	return n, err
}

func (s *Service) end(ctx context.Context, tx Tx, in signin.SignIn, p access.Permission, why string) (signin.SignIn, error) {
	if !in.EndedAt.IsZero() {
		return in, nil
	}
	before := describe(in)
	in.EndedAt, in.EndedFor = s.options.Now(), why
	in, err := tx.PutSignIn(ctx, in)
	if err != nil {
		return in, err
	}
	return in, tx.Audit(ctx, audit.Of(access.ActorFrom(ctx), p, in.Scope, in.ID, in.Name).Change(before, describe(in)))
}

// Replace ends the sign-in whose string this is, because the same browser signed in anew. What is no sign-in is let be.
func (s *Service) Replace(ctx context.Context, credential string, from netip.Addr) error {
	actor, err := s.Authenticate(access.AskedAgain(ctx), credential, from)
	if err != nil {
		return nil
	}
	defer s.cache.Drop(actor.ID)
	actor.Address = access.ActorFrom(ctx).Address
	return s.store.Write(access.WithActor(ctx, actor), func(tx Tx) error {
		in, err := tx.SignIn(ctx, actor.ID)
		if err != nil {
			return err
		}
		_, err = s.end(access.WithActor(ctx, actor), tx, in, access.SelfManage, signin.Replaced)
		return err
	})
}

type refusal struct {
	target string
	from   netip.Addr
	cause  *fault.Error
}

// refused records that a sign-in was refused and gives the error back.
func (s *Service) refused(ctx context.Context, target string, from netip.Addr, cause *fault.Error) error {
	r := refusal{target, from, cause}
	if s.refusals.Add(target+" "+audit.Network(from)+" "+cause.Code, r, s.options.Now()) {
		s.record(ctx, r, 1)
	}
	return cause
}

func (s *Service) record(ctx context.Context, r refusal, times int64) {
	err := s.store.Write(ctx, func(tx Tx) error {
		actor := access.Actor{Kind: access.Anonymous}
		if r.from.IsValid() {
			actor.Address = r.from.String()
		}
		e := audit.Entry{Actor: actor, Action: signin.Use, Target: r.target, Outcome: audit.Refused, Reason: r.cause.Code}
		in, err := tx.SignIn(ctx, r.target)
		switch {
		case err == nil:
			e.Scope, e.Name = in.Scope, in.Name
		case fault.KindOf(err) != fault.NotFound:
			return err
		}
		return tx.Audit(ctx, e.Change(nil, struct {
			Attempts int64 `json:"attempts"`
		}{times}))
	})
	if err != nil {
		s.options.Logger.ErrorContext(ctx, "a refused sign-in could not be recorded", "target", r.target, "address", r.from, "attempts", times, "error", err)
	}
}

// Run writes merged refusals when their window is over, and what is left when ctx ends; once a day it forgets sign-ins that
// have long been over.
func (s *Service) Run(ctx context.Context) {
	var pruning sync.WaitGroup
	defer pruning.Wait()
	pruning.Go(func() { s.prune(ctx) })
	s.refusals.Run(ctx, s.options.Now, s.record)
}

func (s *Service) prune(ctx context.Context) {
	tick := time.NewTicker(refusalWindow)
	defer tick.Stop()
	for pruned := (time.Time{}); ; {
		if now := s.options.Now(); now.Sub(pruned) >= 24*time.Hour {
			pruned = now
			if err := s.store.Observe(ctx, func(tx Tx) error { return tx.PruneSignIns(ctx, now.Add(-keepEnded)) }); err != nil && ctx.Err() == nil {
				s.options.Logger.WarnContext(ctx, "old sign-ins could not be forgotten", "error", err)
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// description is a sign-in as the audit log shows it: never its hash.
type description struct {
	User      string        `json:"user"`
	Method    signin.Method `json:"method"`
	Via       string        `json:"via,omitempty"`
	APIKey    string        `json:"apiKey,omitempty"`
	Address   string        `json:"address,omitempty"`
	Agent     string        `json:"agent,omitempty"`
	ExpiresAt time.Time     `json:"expiresAt"`
	MFAAt     time.Time     `json:"mfaAt,omitzero"`
	EndedAt   time.Time     `json:"endedAt,omitzero"`
	EndedFor  string        `json:"endedFor,omitempty"`
}

func describe(s signin.SignIn) description {
	return description{s.UserID, s.Method, s.Via, s.KeyID, s.Address, s.Agent, s.ExpiresAt, s.MFAAt, s.EndedAt, s.EndedFor}
}

// Package signin begins sign-ins, tells whose a caller shows, lists and ends them.
//
// Everything that lets people in (a provider, a passkey, an API key, the bootstrap code) ends in Begin; the string that it
// gives is in nobody's hands but theirs. A sign-in that is ended is refused at once where it was ended, and on every other
// replica as soon as the change feed got there, milliseconds later; what it had opened is asked again and cut. A replica
// that lost the feed still reads each one anew every few seconds, and fails closed. A user who is disabled or deleted loses
// all of them in the same transaction, and so does everybody when a backup is restored.
//
// Uses are written down once a minute, so the idle limit is kept to about a minute. Sign-ins that are refused are in the
// audit log, merged when they repeat; why is told only to who holds the whole string.
package signin

import (
	"context"
	"crypto/hmac"
	"log/slog"
	"net/netip"
	"strings"
	"time"

	"github.com/loopbackd/loopback/access"
	"github.com/loopbackd/loopback/audit"
	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/id"
	"github.com/loopbackd/loopback/principal"
	"github.com/loopbackd/loopback/secret"
	"github.com/loopbackd/loopback/server/feed"
	"github.com/loopbackd/loopback/server/recent"
	"github.com/loopbackd/loopback/signin"
	"github.com/loopbackd/loopback/tenant"
)

// Reader reads sign-ins and whose they are.
type Reader interface {
	SignIn(ctx context.Context, id string) (signin.SignIn, error)
	SignIns(ctx context.Context, q signin.Query) ([]signin.SignIn, string, error)
	Principal(ctx context.Context, id string) (principal.Principal, error)
	Devices
}

// Tx is one transaction over them.
type Tx interface {
	Reader
	PutSignIn(ctx context.Context, s signin.SignIn) (signin.SignIn, error)
	EndSignIns(ctx context.Context, user string, at time.Time, why string) ([]string, error)
	TouchSignIn(ctx context.Context, id string, at time.Time) error
	PruneSignIns(ctx context.Context, before time.Time) error
	PutDevice(ctx context.Context, d signin.Device) error
	Guess(ctx context.Context, who string, since time.Time) (int64, error)
	Unguess(ctx context.Context, who string) error
	Audit(ctx context.Context, e audit.Entry) error
}

// Store is where they are kept.
type Store interface {
	View() Reader
	Write(ctx context.Context, change func(Tx) error) error
	Observe(ctx context.Context, change func(Tx) error) error
}

// Keys are the API keys that sign-ins can begin with.
type Keys interface {
	// Bound is the actor of a key while that opens anything. Else the error is of kind Unauthenticated.
	Bound(ctx context.Context, keyID string) (access.Actor, error)
}

// Users finds users where the caller may read them.
type Users interface {
	Get(ctx context.Context, kind access.SubjectKind, ref string) (principal.Principal, error)
}

// Options of the service.
type Options struct {
	Policy *access.Policy
	Keys   Keys
	Users  Users
	Pepper []byte        // keys the hashes
	Idle   time.Duration // how long a sign-in lasts without use
	Max    time.Duration // how long it lasts at most, since its user last showed who they are
	Logger *slog.Logger  // nil: slog.Default
	Now    func() time.Time
	Watch  func(signin.Method, string) // told of every attempt by method and outcome ("ok", or a code); nil: nobody is
}

// Service is sign-ins as people and callers work with them.
type Service struct {
	store    Store
	options  Options
	cache    *recent.Cache[signin.SignIn]
	refusals *audit.Repeats[refusal]
}

// What is held in memory, and for how long.
const (
	cacheAge      = 5 * time.Second // bounds how long an end can go unseen where the feed is lost
	cacheSize     = 16384
	touchEvery    = time.Minute
	touchPatience = time.Second // for the writer's turn: who reads does not wait until others have written
	refusalWindow = time.Minute
	refusalKeys   = 4096
	keepEnded     = 30 * 24 * time.Hour // in the list, after their longest time
)

// NewService makes the service. Its Run writes what merged refusals are left, and forgets old sign-ins.
func NewService(store Store, o Options) *Service {
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	if o.Watch == nil {
		o.Watch = func(signin.Method, string) {}
	}
	return &Service{store: store, options: o, cache: recent.New[signin.SignIn](cacheAge, cacheSize), refusals: audit.NewRepeats[refusal](refusalWindow, refusalKeys)}
}

// Start is what a sign-in begins with.
type Start struct {
	User     string // id of a user or service account
	Method   signin.Method
	Via      string
	KeyID    string    // it holds no more than this API key
	Agent    string    // as the program calls itself
	ProvedAt time.Time // zero: now
	MFAAt    time.Time

	// with is done in the transaction that makes the sign-in; an error of it makes none.
	with func(Tx) error
}

const maxAgent = 200

// Begin makes a sign-in; the string is in the answer for the only time. The caller has shown who they are.
func (s *Service) Begin(ctx context.Context, b Start) (_ signin.SignIn, text string, err error) {
	defer func() { s.Attempted(b.Method, err) }()
	now := s.options.Now()
	if b.ProvedAt.IsZero() {
		b.ProvedAt = now
	}
	in := signin.SignIn{
		Meta: tenant.Meta{ID: id.New("sgn", now), CreatedAt: now}, UserID: b.User, Method: b.Method, Via: b.Via, KeyID: b.KeyID,
		Agent: cleaned(b.Agent), ProvedAt: b.ProvedAt, ExpiresAt: b.ProvedAt.Add(s.options.Max), Idle: s.options.Idle, LastUsedAt: now, MFAAt: b.MFAAt,
	}
	actor := access.ActorFrom(ctx)
	if p := s.options.Policy; p != nil {
		if locked := p.Locked(b.User); locked != nil {
			return signin.SignIn{}, "", s.refused(ctx, b.User, fromOf(actor), locked)
		}
	}
	in.Address = actor.Address
	text = signin.NewSecret(in.ID)
	in.Hash = secret.Hash(s.options.Pepper, text)
	err = s.store.Write(ctx, func(tx Tx) error {
		user, err := tx.Principal(ctx, b.User)
		if fault.KindOf(err) == fault.NotFound || err == nil && !user.Active() {
			return signin.ErrUser
		}
		if err != nil {
			return err
		}
		in.Name, in.Scope = user.Name, user.Scope
		if b.with != nil {
			if err := b.with(tx); err != nil {
				return err
			}
		}
		if in, err = tx.PutSignIn(ctx, in); err != nil {
			return err
		}
		who := actor
		who.Kind, who.ID, who.Name, who.Principal, who.Method = access.SignIn, in.ID, in.Name, in.UserID, string(in.Method)
		who.MFA = in.MFAAt
		return tx.Audit(ctx, audit.Of(who, access.SignInBegin, in.Scope, in.ID, in.Name).Change(nil, describe(in)))
	})
	if fault.Of(err) != nil && fault.Of(err).Code == signin.ErrUser.Code {
		return signin.SignIn{}, "", s.refused(ctx, b.User, fromOf(actor), signin.ErrUser)
	}
	if err != nil {
		return signin.SignIn{}, "", err
	}
	if p := s.options.Policy; p != nil {
		_, _ = p.Knows(ctx, in.UserID, in.Revision) // whose user was made a moment ago is used when the rules know them
	}
	return in, text, nil
}

// Attempted counts an attempt to sign in.
func (s *Service) Attempted(m signin.Method, err error) {
	outcome := "ok"
	if err != nil {
		outcome = fault.Of(err).Code
	}
	s.options.Watch(m, outcome)
}

// Refused records that somebody was not let in and gives the error back, if it is of a kind that is theirs to hear. target
// is what they came by: a provider, a passkey.
func (s *Service) Refused(ctx context.Context, m signin.Method, target string, err error) error {
	s.Attempted(m, err)
	if f := fault.Of(err); f.Kind == fault.Unauthenticated || f.Kind == fault.Denied {
		return s.refused(ctx, target, fromOf(access.ActorFrom(ctx)), f)
	}
	return err
}

func fromOf(a access.Actor) netip.Addr {
	from, _ := netip.ParseAddr(a.Address)
	return from
}

// cleaned is what a program calls itself, as far as it can be shown.
func cleaned(agent string) string {
	agent = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r == '\ufffd' {
			return -1
		}
		return r
	}, agent)
	if len(agent) > maxAgent {
		agent = strings.ToValidUTF8(agent[:maxAgent], "")
	}
	return agent
}

// Authenticate is who shows this string.
func (s *Service) Authenticate(ctx context.Context, credential string, from netip.Addr) (access.Actor, error) {
	signInID, err := signin.ParseSecret(credential)
	if err != nil {
		return access.Actor{}, err
	}
	policy := s.options.Policy
	if policy != nil {
		if err := policy.Current(); err != nil {
			return access.Actor{}, err
		}
	}
	now := s.options.Now()
	in, err := s.lookup(ctx, signInID, now)
	switch {
	case fault.KindOf(err) == fault.NotFound:
		return access.Actor{}, s.refused(ctx, signInID, from, signin.ErrInvalid)
	case err != nil:
		return access.Actor{}, err
	case !hmac.Equal(in.Hash, secret.Hash(s.options.Pepper, credential)):
		return access.Actor{}, s.refused(ctx, signInID, from, signin.ErrInvalid)
	}
	if why := in.Refusal(now, s.cache.LastUsed(signInID)); why != nil {
		return access.Actor{}, s.refused(ctx, signInID, from, why)
	}
	actor := access.Actor{Kind: access.SignIn, ID: in.ID, Name: in.Name, Principal: in.UserID, Method: string(in.Method), MFA: in.MFAAt, Policy: policy,
		Grants: []access.Grant{{ID: in.ID, Permissions: append([]access.Permission{access.All}, access.TierZero()...)}}}
	if in.KeyID != "" {
		bound, err := s.options.Keys.Bound(ctx, in.KeyID)
		if fault.KindOf(err) == fault.Unauthenticated {
			return access.Actor{}, s.refused(ctx, signInID, from, signin.ErrKey)
		}
		if err != nil {
			return access.Actor{}, err
		}
		actor.Grants = bound.Grants
	}
	if policy != nil {
		switch known, err := policy.Knows(ctx, in.UserID, in.Revision); {
		case err != nil:
			return access.Actor{}, err
		case !known:
			return access.Actor{}, s.refused(ctx, signInID, from, signin.ErrUser)
		}
		if locked := policy.Locked(in.UserID); locked != nil {
			return access.Actor{}, s.refused(ctx, signInID, from, locked)
		}
	}
	if !access.IsAskedAgain(ctx) && s.cache.Used(signInID, now, touchEvery) && now.Sub(in.LastUsedAt) >= touchEvery {
		soon, cancel := context.WithTimeout(ctx, touchPatience)
		err := s.store.Observe(soon, func(tx Tx) error { return tx.TouchSignIn(ctx, signInID, now) })
		cancel()
		if err != nil {
			// A call is not refused because its time could not be noted.
			s.options.Logger.WarnContext(ctx, "the use of a sign-in could not be noted", "sign_in", signInID, "error", err)
		}
	}
	return actor, nil
}

func (s *Service) lookup(ctx context.Context, signInID string, now time.Time) (signin.SignIn, error) {
	if access.IsAnew(ctx) {
		s.cache.Drop(signInID)
	}
	in, ok, generation := s.cache.Get(signInID, now)
	if ok {
		return in, nil
	}
	in, err := s.store.View().SignIn(ctx, signInID)
	if err != nil {
		return signin.SignIn{}, err
	}
	s.cache.Put(signInID, in, now, generation)
	return in, nil
}

// Changed drops sign-ins that changed from the cache; reset drops all, because track of the changes was lost.
func (s *Service) Changed(changes []feed.Change, reset bool) {
	if reset {
		s.cache.Clear()
		return
	}
	for _, c := range changes {
		if c.Kind == feed.SignIn {
			s.cache.Drop(c.ID)
		}
	}
}

package apikey

import (
	"context"
	"crypto/hmac"
	"net/netip"
	"time"

	"github.com/loopbackd/loopback/access"
	"github.com/loopbackd/loopback/apikey"
	"github.com/loopbackd/loopback/audit"
	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/secret"
	"github.com/loopbackd/loopback/server/feed"
)

func (s *Service) hash(text string) []byte { return secret.Hash(s.options.Pepper, text) }

// SignIn is in the audit log where a key was presented that opens nothing.
const SignIn access.Permission = "api_keys.use"

const (
	touchEvery    = time.Minute // how coarse a key's last use is: writing each one would make every read a write
	touchPatience = time.Second // for the writer's turn: who reads does not wait until others have written
)

// Authenticate is who presents this key. Why a key is refused is told only to who holds the whole of it.
func (s *Service) Authenticate(ctx context.Context, credential string, from netip.Addr) (access.Actor, error) {
	keyID, err := apikey.ParseSecret(credential)
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
	k, err := s.lookup(ctx, keyID, now)
	switch {
	case fault.KindOf(err) == fault.NotFound:
		return access.Actor{}, s.refused(ctx, keyID, from, apikey.ErrInvalid)
	case err != nil:
		return access.Actor{}, err
	case !hmac.Equal(k.Hash, s.hash(credential)):
		return access.Actor{}, s.refused(ctx, keyID, from, apikey.ErrInvalid)
	case !k.RevokedAt.IsZero():
		return access.Actor{}, s.refused(ctx, keyID, from, apikey.ErrRevoked)
	case !k.Live(now):
		return access.Actor{}, s.refused(ctx, keyID, from, apikey.ErrExpired)
	}
	if !access.IsAskedAgain(ctx) && s.cache.Used(keyID, now, touchEvery) {
		soon, cancel := context.WithTimeout(ctx, touchPatience)
		err := s.store.Observe(soon, func(tx Tx) error { return tx.TouchKey(ctx, keyID, now) })
		cancel()
		if err != nil {
			// A call is not refused because its time could not be noted.
			s.options.Logger.WarnContext(ctx, "the last use of an API key could not be noted", "key", keyID, "error", err)
		}
	}
	actor := k.Actor()
	if policy == nil {
		return actor, nil
	}
	switch known, err := policy.Knows(ctx, k.OwnerID, k.Revision); {
	case err != nil:
		return access.Actor{}, err
	case !known:
		return access.Actor{}, s.refused(ctx, keyID, from, apikey.ErrOwner)
	}
	if locked := policy.Locked(k.OwnerID); locked != nil {
		return access.Actor{}, s.refused(ctx, keyID, from, locked)
	}
	actor.Policy = policy
	return actor, nil
}

// Bound is what a sign-in that began with this key acts as: the key's actor, while the key opens anything.
func (s *Service) Bound(ctx context.Context, keyID string) (access.Actor, error) {
	now := s.options.Now()
	k, err := s.lookup(ctx, keyID, now)
	switch {
	case fault.KindOf(err) == fault.NotFound:
		return access.Actor{}, apikey.ErrInvalid
	case err != nil:
		return access.Actor{}, err
	case !k.RevokedAt.IsZero():
		return access.Actor{}, apikey.ErrRevoked
	case !k.Live(now):
		return access.Actor{}, apikey.ErrExpired
	}
	return k.Actor(), nil
}

func (s *Service) lookup(ctx context.Context, keyID string, now time.Time) (apikey.Key, error) {
	k, ok, generation := s.cache.Get(keyID, now)
	if ok {
		return k, nil
	}
	k, err := s.store.View().Key(ctx, keyID)
	if err != nil {
		return apikey.Key{}, err
	}
	s.cache.Put(keyID, k, now, generation)
	return k, nil
}

// Changed drops keys that changed from the cache; reset drops all, because track of the changes was lost.
func (s *Service) Changed(changes []feed.Change, reset bool) {
	if reset {
		s.cache.Clear()
		return
	}
	for _, c := range changes {
		if c.Kind == feed.APIKey {
			s.cache.Drop(c.ID)
		}
	}
}

// Refusals of a kind from a network within the window are merged; beyond so many kinds at once, all are.
const (
	refusalWindow = time.Minute
	refusalKeys   = 4096
)

type refusal struct {
	keyID string
	from  netip.Addr
	cause *fault.Error
}

// refused records that a key was refused and gives the error back.
func (s *Service) refused(ctx context.Context, keyID string, from netip.Addr, cause *fault.Error) error {
	r := refusal{keyID, from, cause}
	if s.refusals.Add(keyID+" "+audit.Network(from)+" "+cause.Code, r, s.options.Now()) {
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
		e := audit.Entry{Actor: actor, Action: SignIn, Target: r.keyID, Outcome: audit.Refused, Reason: r.cause.Code}
		k, err := tx.Key(ctx, r.keyID)
		switch {
		case err == nil:
			e.Scope, e.Name = k.Scope, k.Name
		case fault.KindOf(err) != fault.NotFound:
			return err
		}
		return tx.Audit(ctx, e.Change(nil, struct {
			Attempts int64 `json:"attempts"`
		}{times}))
	})
	if err != nil {
		s.options.Logger.ErrorContext(ctx, "a refused API key could not be recorded", "key", r.keyID, "address", r.from, "attempts", times, "error", err)
	}
}

// Run writes merged refusals when their window is over, and what is left when ctx ends. It returns then.
func (s *Service) Run(ctx context.Context) { s.refusals.Run(ctx, s.options.Now, s.record) }

const (
	cacheAge  = 5 * time.Second // bounds how long a revocation can go unseen where the feed is lost
	cacheSize = 1024
)

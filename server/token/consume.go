package token

import (
	"context"
	"crypto/hmac"
	"net/netip"
	"time"

	"github.com/loopbackd/loopback/access"
	"github.com/loopbackd/loopback/audit"
	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/token"
)

// Uses is the part of a transaction in which a token is consumed.
type Uses interface {
	Token(ctx context.Context, id string) (token.Token, error)
	PutToken(ctx context.Context, t token.Token) (token.Token, error)
	Audit(ctx context.Context, e audit.Entry) error
}

// Consume takes one use of the presented token for a host of this name, or tells why not. It belongs in the transaction
// that registers the host; when that is rolled back because of the error, call Refused.
func (s *Service) Consume(ctx context.Context, tx Uses, presented token.Secret, from netip.Addr, hostName string, now time.Time) (token.Token, error) {
	t, err := tx.Token(ctx, presented.ID)
	if err != nil && fault.KindOf(err) != fault.NotFound {
		return token.Token{}, err
	}
	if err != nil || !s.holds(t, presented) || t.Honeytoken {
		return token.Token{}, token.ErrUnknown
	}
	if err := t.Check(now, from, hostName); err != nil {
		return token.Token{}, err
	}
	signals := len(t.Signals)
	used := t.Used(from, now)
	if used, err = tx.PutToken(ctx, used); err != nil {
		return token.Token{}, err
	}
	e := audit.Of(hostActor(hostName, from), token.Use, used.Scope, used.ID, used.Name).
		Change(use{Uses: t.Uses, MaxUses: t.MaxUses}, use{Uses: used.Uses, MaxUses: used.MaxUses, HostName: hostName})
	if len(used.Signals) > signals {
		e.Reason = string(token.NewNetwork)
	}
	return used, tx.Audit(ctx, e)
}

type use struct {
	Uses     int32  `json:"uses"`
	MaxUses  int32  `json:"maxUses"`
	HostName string `json:"hostName,omitempty"`
}

// holds tells whether the presented string is the token's, in a time that does not depend on how much of it is right.
func (s *Service) holds(t token.Token, presented token.Secret) bool {
	return hmac.Equal(t.Hash, presented.Hash(s.options.Pepper))
}

func hostActor(name string, from netip.Addr) access.Actor {
	a := access.Actor{Kind: access.Host, Name: name}
	if from.IsValid() {
		a.Address = from.Unmap().String()
	}
	return a
}

// Refusals of a kind from a network within the window are merged; beyond so many kinds at once, all are.
const (
	refusalWindow = time.Minute
	refusalKeys   = 4096
)

type refusal struct {
	presented token.Secret
	from      netip.Addr
	hostName  string
	cause     error
}

// Refused records that a presented token was refused: in the audit log, and as a leak signal where it is one. cause is
// the error that the host was told. What cannot be recorded is logged: the host's answer does not wait for it.
func (s *Service) Refused(ctx context.Context, presented token.Secret, from netip.Addr, hostName string, cause error) {
	r := refusal{presented, from, hostName, cause}
	key := presented.ID + " " + token.Network(from).String() + " " + fault.Of(cause).Code
	if s.refusals.Add(key, r, s.options.Now()) {
		s.record(ctx, r, 1)
	}
}

// record writes a refusal that happened so many times.
func (s *Service) record(ctx context.Context, r refusal, times int64) {
	err := s.store.Write(ctx, func(tx Tx) error {
		t, err := tx.Token(ctx, r.presented.ID)
		if err != nil && fault.KindOf(err) != fault.NotFound {
			return err
		}
		now := s.options.Now()
		e := audit.Of(hostActor(r.hostName, r.from), token.Use, t.Scope, r.presented.ID, t.Name)
		e.Outcome = audit.Refused
		var signal token.Warning
		switch {
		case err != nil:
			e.Reason = token.Unknown
		case !s.holds(t, r.presented):
			signal, e.Reason = token.WrongSecret, string(token.WrongSecret)
		case t.Honeytoken:
			signal, e.Reason = token.HoneytokenUsed, string(token.HoneytokenUsed)
		default:
			signal, e.Reason = token.SignalOf(r.cause), fault.Of(r.cause).Code
		}
		if signal != "" {
			if _, err := tx.PutToken(ctx, t.Noted(signal, r.from, now, times)); err != nil {
				return err
			}
		}
		return tx.Audit(ctx, e.Change(nil, refused{HostName: r.hostName, Signal: signal, Attempts: times}))
	})
	if err != nil {
		s.options.Logger.ErrorContext(ctx, "a refused enrolment token could not be recorded",
			"token", r.presented.ID, "address", r.from, "attempts", times, "error", err)
	}
}

type refused struct {
	HostName string        `json:"hostName"`
	Signal   token.Warning `json:"signal,omitempty"`
	Attempts int64         `json:"attempts"`
}

// Run writes merged refusals when their window is over, and what is left when ctx ends. It returns then.
func (s *Service) Run(ctx context.Context) { s.refusals.Run(ctx, s.options.Now, s.record) }

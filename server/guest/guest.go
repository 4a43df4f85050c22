// Package guest invites people without an account to watch a live shell, lets them in, and has them leave.
//
// A guest's link is a credential for one thing: to look at one session. It authenticates no call of the API, and what it shows is in
// package shell; here is who may have one and for how long. Whoever invites has to be allowed to watch the session themselves, and is
// asked after whenever rules or credentials change, as are the link's own row and its time; once one of them says no, the context that
// Join gave is over, with the reason as its cause.
//
// Guests of a session are all at the replica that has it, so it is there that a link which is opened twice is noticed. That a link was
// taken back reaches it by the change feed, from whichever replica it was done on. That a guest came is in the audit log, under the
// session, before they see anything; that they left follows as soon as the database takes it.
package guest

import (
	"context"
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/loopbackd/loopback/access"
	"github.com/loopbackd/loopback/audit"
	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/guest"
	"github.com/loopbackd/loopback/host"
	"github.com/loopbackd/loopback/id"
	"github.com/loopbackd/loopback/label"
	"github.com/loopbackd/loopback/principal"
	"github.com/loopbackd/loopback/secret"
	"github.com/loopbackd/loopback/shell"
	"github.com/loopbackd/loopback/tenant"
)

// Reader reads guests, and the sessions that they look at.
type Reader interface {
	Guest(ctx context.Context, id string) (guest.Guest, error)
	Guests(ctx context.Context, q guest.Query) ([]guest.Guest, string, error)
	CountGuests(ctx context.Context, session string, at time.Time) (int64, error)
	ShellSession(ctx context.Context, id string) (shell.Session, error)
	Principal(ctx context.Context, id string) (principal.Principal, error)
}

// Tx changes them.
type Tx interface {
	Reader
	PutGuest(ctx context.Context, g guest.Guest) (guest.Guest, error)
	Audit(ctx context.Context, e audit.Entry) error
}

// Store is where they are kept.
type Store interface {
	View() Reader
	Write(ctx context.Context, change func(Tx) error) error
}

// Fleet is every host in memory.
type Fleet interface {
	Host(id string) (*host.Host, bool)
}

// Keys tell what an API key is good for now. An error of kind Unauthenticated means that it opens nothing any more.
type Keys interface {
	Bound(ctx context.Context, keyID string) (access.Actor, error)
}

// Options of the service.
type Options struct {
	Policy *access.Policy
	Keys   Keys
	Pepper []byte // keys the hashes
	Now    func() time.Time
	Logger *slog.Logger

	Watching func(more float64)  // told how many more watch through this replica, fewer where it is negative; nil: nobody is
	Refused  func(reason string) // told of whom a link did not let in; nil: nobody is
}

// Service is guests as people work with them.
type Service struct {
	Options
	store    Store
	fleet    Fleet
	refusals *audit.Repeats[refusal]

	work    sync.WaitGroup // those who stay
	mu      sync.Mutex
	here    map[string]*stay // by the guest's id; guarded by mu
	closing bool             // guarded by mu
}

// NewService makes the service. Its Run writes what refusals were merged, and waits for those who leave.
func NewService(store Store, fleet Fleet, o Options) *Service {
	if o.Watching == nil {
		o.Watching = func(float64) {}
	}
	if o.Refused == nil {
		o.Refused = func(string) {}
	}
	return &Service{Options: o, store: store, fleet: fleet, refusals: audit.NewRepeats[refusal](refusalWindow, refusalKeys), here: map[string]*stay{}}
}

// Invite makes a link to a session. Its string is in the answer for the only time.
func (s *Service) Invite(ctx context.Context, session, name string, ttl time.Duration) (out guest.Guest, text string, err error) {
	if ttl == 0 {
		ttl = guest.DefaultTTL
	}
	name = strings.TrimSpace(name)
	var c fault.Check
	c.That(session != "", "session", "is missing: give the id of a session")
	guest.CheckName(&c, name)
	c.That(ttl >= guest.MinTTL && ttl <= guest.MaxTTL, "ttl", "is %s; allowed are %s to %s", ttl, guest.MinTTL, guest.MaxTTL)
	if err := c.Err("guest_unfit", "the guest cannot be invited so"); err != nil {
		return out, "", err
	}
	actor, now := access.ActorFrom(ctx), s.Now()
	err = s.store.Write(ctx, func(tx Tx) error {
		of, err := tx.ShellSession(ctx, session)
		if err != nil {
			return err
		}
		for _, p := range []access.Permission{guest.Invite, shell.Watch} {
			if err := actor.RequireHost(p, of.Scope, of.HostID, s.labels(of.HostID), shell.Read, "session "+session); err != nil {
				return err
			}
		}
		if actor.Principal == "" {
			return fault.New(fault.Precondition, "guest_without_principal", "a guest is invited by a user or a service account, and you act as neither")
		}
		if of.State == shell.Ended || !now.Before(of.EndsBy) {
			return fault.New(fault.Precondition, "session_ended", "session %s has ended already", of.ID)
		}
		others, err := tx.CountGuests(ctx, of.ID, now)
		switch {
		case err != nil:
			return err
		case others >= guest.MaxPerSession:
			return fault.New(fault.Exhausted, "guest_limit", "there are %d links to session %s that work already", others, of.ID).
				WithHint("take one back: loopback session guest list %s; loopback session guest revoke GUEST", of.ID)
		}
		who, err := tx.Principal(ctx, actor.Principal)
		if err != nil {
			return err
		}
		out = guest.Guest{
			Meta: tenant.Meta{ID: id.New("gst", now), Name: name, CreatedAt: now}, Scope: of.Scope, SessionID: of.ID, HostID: of.HostID, HostName: of.HostName,
			Inviter: guest.Inviter{Kind: actor.Kind, ID: actor.ID, Principal: who.ID, Name: who.Name, Address: actor.Address, MFA: actor.MFA, Reason: actor.Reason, Ticket: actor.Ticket},
		}
		if out.ExpiresAt = now.Add(ttl); out.ExpiresAt.After(of.EndsBy) {
			out.ExpiresAt = of.EndsBy
		}
		text = guest.NewSecret(out.ID)
		out.Hash = secret.Hash(s.Pepper, text)
		if out, err = tx.PutGuest(ctx, out); err != nil {
			return err
		}
		return tx.Audit(ctx, audit.Of(actor, guest.Invite, out.Scope, out.SessionID, out.HostName).By(actor.DecideOn(guest.Invite, of.Scope, of.HostID, s.labels(of.HostID))).
			Change(nil, describe(out)))
	})
	if err != nil {
		return guest.Guest{}, "", err
	}
	return out, text, nil
}

// List is the guests of a session, newest first.
func (s *Service) List(ctx context.Context, session string, page tenant.Page) ([]guest.Guest, string, error) {
	if session == "" {
		var c fault.Check
		c.Add("session", "is missing: give the id of a session")
		return nil, "", c.Err("request_invalid", "the request is not valid")
	}
	view := s.store.View()
	of, err := view.ShellSession(ctx, session)
	if err != nil {
		return nil, "", err
	}
	actor := access.ActorFrom(ctx)
	if !owns(actor, of, guest.Read) {
		if err := actor.RequireHost(guest.Read, of.Scope, of.HostID, s.labels(of.HostID), shell.Read, "session "+session); err != nil {
			return nil, "", err
		}
	}
	return view.Guests(ctx, guest.Query{Session: of.ID, Page: page})
}

// Revoke takes a link back, and has its guest leave. One that is over stays as it was.
func (s *Service) Revoke(ctx context.Context, guestID string) (out guest.Guest, err error) {
	if guestID == "" {
		var c fault.Check
		c.Add("guest", "is missing: give the id of a guest")
		return out, c.Err("request_invalid", "the request is not valid")
	}
	actor := access.ActorFrom(ctx)
	err = s.store.Write(ctx, func(tx Tx) error {
		before, err := tx.Guest(ctx, guestID)
		if err != nil {
			return err
		}
		of, err := tx.ShellSession(ctx, before.SessionID)
		if err != nil {
			return err
		}
		invited := actor.Principal != "" && actor.Principal == before.Inviter.Principal && actor.Touches(guest.Revoke)
		if !invited && !owns(actor, of, guest.Revoke) {
			if err := actor.RequireHost(guest.Revoke, before.Scope, before.HostID, s.labels(before.HostID), guest.Read, "guest "+guestID); err != nil {
				return err
			}
		}
		out = before
		now := s.Now()
		if before.Works(now) != nil {
			return nil
		}
		out.RevokedAt = now
		if out, err = tx.PutGuest(ctx, out); err != nil {
			return err
		}
		return tx.Audit(ctx, audit.Of(actor, guest.Revoke, out.Scope, out.SessionID, out.HostName).
			By(actor.DecideOn(guest.Revoke, out.Scope, out.HostID, s.labels(out.HostID))).Change(describe(before), describe(out)))
	})
	return out, err
}

// owns tells whether a session is the actor's own, and they hold a permission anywhere: that will do for what is theirs.
func owns(a access.Actor, of shell.Session, p access.Permission) bool {
	return a.Principal != "" && a.Principal == of.Principal && a.Touches(p)
}

// labels are those of a host now.
func (s *Service) labels(hostID string) label.Set {
	if h, ok := s.fleet.Host(hostID); ok {
		return h.Labels
	}
	return nil
}

// Open is the guest whose string this is, while it shows this session.
func (s *Service) Open(ctx context.Context, session, text string, from netip.Addr) (guest.Guest, error) {
	guestID, err := guest.ParseSecret(text)
	if err != nil {
		return guest.Guest{}, s.refuse(ctx, refusal{reason: guest.ErrInvalid.Code, from: from}, err)
	}
	g, err := s.store.View().Guest(ctx, guestID)
	switch {
	case fault.KindOf(err) == fault.NotFound:
		return guest.Guest{}, s.refuse(ctx, refusal{reason: guest.ErrInvalid.Code, from: from}, guest.ErrInvalid)
	case err != nil:
		return guest.Guest{}, err
	}
	if err = g.Opens(s.Pepper, text, session, s.Now()); err == nil {
		err = s.vouched(ctx, g)
	}
	if err != nil {
		return guest.Guest{}, s.refuse(ctx, refusal{of: g, reason: fault.Of(err).Code, from: from}, err)
	}
	return g, nil
}

// vouched is nil while whoever invited a guest may do so and watch, and another error where that cannot be told. As with a command
// that goes on (server/exec), a second factor counts as fresh as it was when they did, and a sign-in that ended takes nothing back.
func (s *Service) vouched(ctx context.Context, g guest.Guest) error {
	by := g.Inviter
	actor := access.Actor{Kind: by.Kind, ID: by.ID, Principal: by.Principal, Address: by.Address, Reason: by.Reason, Ticket: by.Ticket, Policy: s.Policy,
		Grants: []access.Grant{{ID: by.ID, Permissions: []access.Permission{access.All}}}}
	if !by.MFA.IsZero() {
		actor.MFA = by.MFA.Add(max(0, s.Now().Sub(g.CreatedAt)))
	}
	if s.Policy.Closed() {
		return access.ErrClosed
	}
	if by.Kind == access.APIKey {
		key, err := s.Keys.Bound(ctx, by.ID)
		switch {
		case fault.KindOf(err) == fault.Unauthenticated:
			return guest.ErrUnheld.WithCause(err)
		case err != nil:
			return err
		}
		actor.Grants = key.Grants
	}
	for _, p := range []access.Permission{guest.Invite, shell.Watch} {
		if !actor.DecideOn(p, g.Scope, g.HostID, s.labels(g.HostID)).Allowed {
			return guest.ErrUnheld
		}
	}
	return nil
}

// record is a guest as the audit log shows them: never the hash.
type record struct {
	Guest     string    `json:"guest"`
	Name      string    `json:"name"`
	InvitedBy string    `json:"invitedBy"`
	ExpiresAt time.Time `json:"expiresAt"`
	RevokedAt time.Time `json:"revokedAt,omitzero"`
}

func describe(g guest.Guest) record {
	return record{g.ID, g.Name, g.Inviter.Principal, g.ExpiresAt, g.RevokedAt}
}

// Package sink ships the audit log to where an organisation wants it, and keeps book of how far each receiver is.
//
// A sink's cursor is a row in the database. The replica that holds the sink's lease reads what comes after the cursor,
// sends it, and moves the cursor once the receiver answered; a replica that dies in between leaves the cursor where it was,
// and the next holder sends the same events under the same ids. So nothing is missed, and what comes twice is told by its
// id. A receiver that fails is tried again, ever less often up to a minute; nobody else waits for it, and nothing is
// dropped. One that refuses an event for its size gets it in smaller parts. One that refuses a single entry again and again
// while it takes others has that entry set aside as a dead letter, which people see, send again or give up; where it refuses
// everything, the sink is at fault and stays failing (docs/decisions/0013-dead-letters.md).
//
// The receiver's secret is sealed with a key from the key folder before it is stored, and shown once.
package sink

import (
	"context"
	"time"

	"github.com/loopbackd/loopback/access"
	"github.com/loopbackd/loopback/audit"
	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/id"
	"github.com/loopbackd/loopback/ledger"
	"github.com/loopbackd/loopback/secret"
	"github.com/loopbackd/loopback/sink"
	"github.com/loopbackd/loopback/tenant"
	signing "github.com/loopbackd/loopback/webhook"
)

// Reader reads sinks, and the entries that they get.
type Reader interface {
	Sink(ctx context.Context, id string) (sink.Sink, error)
	Sinks(ctx context.Context, q sink.Query) ([]sink.Sink, string, error)
	EntriesOf(ctx context.Context, organisation string, after int64, limit int) ([]audit.Entry, error)
	AuditPosition(ctx context.Context) (int64, error)
	PositionAt(ctx context.Context, at time.Time) (int64, error)
	DeadLetters(ctx context.Context, q sink.DeadLetterQuery) ([]sink.DeadLetter, string, error)
	CountDeadLetters(ctx context.Context, sink string) (int64, error)
}

// Tx changes sinks.
type Tx interface {
	Sink(ctx context.Context, id string) (sink.Sink, error)
	PutSink(ctx context.Context, s sink.Sink) (sink.Sink, error)
	MoveSink(ctx context.Context, s sink.Sink) error
	DeleteSink(ctx context.Context, s sink.Sink) error
	PutDeadLetter(ctx context.Context, l sink.DeadLetter) error
	DeleteDeadLetters(ctx context.Context, sink string, after, upTo int64) error
	Audit(ctx context.Context, e audit.Entry) error
}

// Store is where they are kept.
type Store interface {
	View() Reader
	Write(ctx context.Context, change func(Tx) error) error
	Observe(ctx context.Context, change func(Tx) error) error
}

// Tenants finds an organisation where the caller holds a permission.
type Tenants interface {
	Organisation(ctx context.Context, ref string, p access.Permission) (tenant.Organisation, error)
}

// Options of the service.
type Options struct {
	Deployment string
	Seal       []byte // 32 bytes: what secrets are sealed with
	Now        func() time.Time
	Log        func(ctx context.Context) (ledger.Log, error) // the ledger's current log; nil: no checkpoints are sent along
}

// Service is sinks as people work with them.
type Service struct {
	store   Store
	tenants Tenants
	options Options
	seal    secret.Box
}

// NewService makes the service.
func NewService(store Store, tenants Tenants, o Options) (*Service, error) {
	seal, err := secret.NewBox(o.Seal)
	return &Service{store: store, tenants: tenants, options: o, seal: seal}, err
}

// New is what a sink is made from.
type New struct {
	Name         string
	Organisation string // name or id; empty: of the whole deployment
	Kind         sink.Kind
	Target       string
	Format       sink.Format // empty: json
	CA           string
	Secret       string    // empty: one is made for a webhook, others have none
	Since        time.Time // entries from then on; zero: from now on
}

// Create makes a sink. Its secret is in the answer, for the only time.
func (s *Service) Create(ctx context.Context, n New) (sink.Sink, string, error) {
	at, err := s.place(ctx, n.Organisation)
	if err != nil {
		return sink.Sink{}, "", err
	}
	actor, now := access.ActorFrom(ctx), s.options.Now()
	k := sink.Sink{Meta: tenant.Meta{ID: id.New("snk", now), Name: n.Name}, Organisation: at.Organisation, Kind: n.Kind, Target: n.Target, Format: n.Format, CA: n.CA}
	if k.Format == "" {
		k.Format = sink.JSON
	}
	var c fault.Check
	k.Validate(&c)
	c.That(len(n.Secret) <= 1024, "secret", "is %d bytes long; at most 1024 are allowed", len(n.Secret))
	if n.CA != "" {
		if _, err := trust(k); err != nil {
			c.Add("ca", "holds no PEM certificate")
		}
	}
	secret := n.Secret
	if k.Kind == sink.Webhook && secret == "" {
		secret = signing.NewSecret()
	}
	if k.Kind == sink.Webhook {
		_, err := signing.Key(secret)
		c.That(err == nil, "secret", "is not whsec_ and base64 of 24 to 64 bytes; leave it out to get one")
	}
	c.That(secret == "" || k.Kind == sink.Webhook || k.Kind == sink.OTLP, "secret", "is of no use to a sink of kind %s", string(k.Kind))
	if err := c.Err("sink_invalid", "the sink is not valid"); err != nil {
		return sink.Sink{}, "", err
	}
	if secret != "" {
		k.Sealed = s.seal.Seal(k.ID, secret)
	}
	if k.Cursor, err = s.from(ctx, n.Since); err != nil {
		return sink.Sink{}, "", err
	}
	err = s.store.Write(ctx, func(tx Tx) error {
		var err error
		if k, err = tx.PutSink(ctx, k); err != nil {
			return err
		}
		return tx.Audit(ctx, audit.Of(actor, sink.Create, k.Scope(), k.ID, k.Name).Change(nil, describe(k)))
	})
	return k, secret, err
}

func (s *Service) from(ctx context.Context, since time.Time) (int64, error) {
	if since.IsZero() {
		return s.store.View().AuditPosition(ctx)
	}
	return s.store.View().PositionAt(ctx, since)
}

// place is where a sink is asked for.
func (s *Service) place(ctx context.Context, organisation string) (access.Scope, error) {
	if organisation != "" {
		o, err := s.tenants.Organisation(ctx, organisation, sink.Create)
		return o.Scope(), err
	}
	actor := access.ActorFrom(ctx)
	if actor.Decide(sink.Create, access.Scope{}).Allowed {
		return access.Scope{}, nil
	}
	if actor.Kind == access.Anonymous {
		return access.Scope{}, access.ErrUnauthenticated
	}
	return access.Scope{}, fault.New(fault.Denied, "permission_denied", "you may not make sinks for the whole deployment").
		WithHint("say for which organisation")
}

// describe is a sink in the audit log.
func describe(s sink.Sink) map[string]any {
	return map[string]any{"name": s.Name, "kind": s.Kind, "target": s.Target, "format": s.Format, "paused": s.Paused, "cursor": s.Cursor}
}

// Get is one that the caller may see.
func (s *Service) Get(ctx context.Context, ref string) (sink.Sink, error) {
	return s.find(ctx, ref, sink.Read)
}

func (s *Service) find(ctx context.Context, ref string, p access.Permission) (sink.Sink, error) {
	actor := access.ActorFrom(ctx)
	k, err := s.store.View().Sink(ctx, ref)
	if err == nil {
		err = actor.Require(p, k.Scope(), sink.Read, "sink "+ref)
	} else if fault.KindOf(err) == fault.NotFound && actor.Kind == access.Anonymous {
		err = access.ErrUnauthenticated
	}
	if err != nil {
		return sink.Sink{}, err
	}
	return k, nil
}

// List is those that the caller may see, newest first, and how many entries there are: what a cursor is held against.
func (s *Service) List(ctx context.Context, page tenant.Page) ([]sink.Sink, string, error) {
	return s.store.View().Sinks(ctx, sink.Query{Readable: access.ActorFrom(ctx).Readable(sink.Read), Page: page})
}

// Head is the position of the last entry.
func (s *Service) Head(ctx context.Context) (int64, error) { return s.store.View().AuditPosition(ctx) }

// Update is what can be changed of a sink; nil: as it is.
type Update struct {
	Paused *bool
	Replay time.Time // send everything from then on once more; zero: do not
}

// Update pauses or resumes a sink, or sends it the past again.
func (s *Service) Update(ctx context.Context, ref string, u Update) (sink.Sink, error) {
	k, err := s.find(ctx, ref, sink.Update)
	if err != nil {
		return k, err
	}
	back := int64(-1)
	if !u.Replay.IsZero() {
		if back, err = s.from(ctx, u.Replay); err != nil {
			return k, err
		}
	}
	actor := access.ActorFrom(ctx)
	err = s.store.Write(ctx, func(tx Tx) error {
		var err error
		if k, err = tx.Sink(ctx, ref); err != nil {
			return err
		}
		before := describe(k)
		if u.Paused != nil {
			k.Paused = *u.Paused
		}
		if back >= 0 {
			k.Cursor = min(k.Cursor, back)
		}
		if k, err = tx.PutSink(ctx, k); err != nil {
			return err
		}
		return tx.Audit(ctx, audit.Of(actor, sink.Update, k.Scope(), k.ID, k.Name).Change(before, describe(k)))
	})
	return k, err
}

// Delete removes a sink.
func (s *Service) Delete(ctx context.Context, ref string) error {
	k, err := s.find(ctx, ref, sink.Delete)
	if err != nil {
		return err
	}
	actor := access.ActorFrom(ctx)
	return s.store.Write(ctx, func(tx Tx) error {
		k, err := tx.Sink(ctx, k.ID)
		if err != nil {
			return err
		}
		if err := tx.DeleteSink(ctx, k); err != nil {
			return err
		}
		return tx.Audit(ctx, audit.Of(actor, sink.Delete, k.Scope(), k.ID, k.Name).Change(describe(k), nil))
	})
}

// open is a sink's secret as its sender needs it.
func (s *Service) open(k sink.Sink) ([]byte, error) {
	if len(k.Sealed) == 0 {
		return nil, nil
	}
	text, ok := s.seal.Open(k.ID, k.Sealed)
	if !ok {
		return nil, errSealed
	}
	if k.Kind == sink.Webhook {
		return signing.Key(text)
	}
	return []byte(text), nil
}

var errSealed = fault.New(fault.Precondition, "sink_secret_lost", "the sink's secret cannot be opened: it was sealed with another key").
	WithHint("restore seal.key among the keys from a backup, or make the sink anew")

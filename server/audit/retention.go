package audit

import (
	"context"
	"log/slog"
	"time"

	"github.com/loopbackd/loopback/access"
	"github.com/loopbackd/loopback/audit"
	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/ledger"
	"github.com/loopbackd/loopback/tenant"
)

// Retention deletes the bodies of entries that are older than somebody decided to keep them. The leaves' hashes stay, so that
// the log is verified and every other entry proved as before; a body that is gone shows as its hash.
//
// Nothing is deleted that no signed checkpoint covers, that a sink has not got yet (also a paused one, and what it set aside),
// or that is on hold. Each pass leaves an entry that says whose bodies went, up to where, how many, and by which retention;
// these entries are never deleted.
type Retention struct {
	store   Keeper
	tenants Organisations
	now     func() time.Time
	logger  *slog.Logger
}

// Keeper is where entries are kept.
type Keeper interface {
	View() KeepReader
	Write(ctx context.Context, change func(KeepTx) error) error
	Observe(ctx context.Context, change func(KeepTx) error) error
}

// KeepReader reads what retention has to know.
type KeepReader interface {
	Retentions(ctx context.Context) ([]audit.Retention, error)
	AuditLogs(ctx context.Context) ([]ledger.Log, error)
	PositionAt(ctx context.Context, at time.Time) (int64, error)
	NeededBySinks(ctx context.Context, organisation string) (int64, error) // the last position that none of them needs
}

// KeepTx is one transaction.
type KeepTx interface {
	PutRetention(ctx context.Context, r audit.Retention) error
	AuditLogs(ctx context.Context) ([]ledger.Log, error)
	PutAuditLog(ctx context.Context, l ledger.Log) error
	DeleteBodies(ctx context.Context, p audit.Prunable, limit int) (deleted, upTo int64, err error)
	Audit(ctx context.Context, e audit.Entry) error
}

// Organisations finds one where the caller holds a permission.
type Organisations interface {
	Organisation(ctx context.Context, ref string, p access.Permission) (tenant.Organisation, error)
}

const (
	pruneEvery = time.Hour
	pruneChunk = 2000 // bodies in a transaction: others wait no longer than for any other
)

// NewRetention makes it. Its Run deletes.
func NewRetention(store Keeper, tenants Organisations, now func() time.Time, logger *slog.Logger) *Retention {
	return &Retention{store: store, tenants: tenants, now: now, logger: logger}
}

// Get is the retention of an organisation, or of the deployment. set is false where nobody set one.
func (s *Retention) Get(ctx context.Context, organisation string) (r audit.Retention, set bool, err error) {
	at, err := s.place(ctx, organisation, audit.Read)
	if err != nil {
		return r, false, err
	}
	return s.of(ctx, at.Organisation)
}

func (s *Retention) of(ctx context.Context, organisation string) (audit.Retention, bool, error) {
	all, err := s.store.View().Retentions(ctx)
	for _, r := range all {
		if r.Organisation == organisation {
			return r, true, err
		}
	}
	return audit.Retention{Organisation: organisation}, false, err
}

func (s *Retention) place(ctx context.Context, organisation string, p access.Permission) (access.Scope, error) {
	if organisation != "" {
		o, err := s.tenants.Organisation(ctx, organisation, p)
		return o.Scope(), err
	}
	actor := access.ActorFrom(ctx)
	if !actor.Decide(p, access.Scope{}).Allowed {
		return access.Scope{}, actor.Refused(p)
	}
	return access.Scope{}, nil
}

// Set sets the retention of an organisation, or of the deployment.
func (s *Retention) Set(ctx context.Context, organisation string, r audit.Retention) (audit.Retention, error) {
	at, err := s.place(ctx, organisation, audit.Retain)
	if err != nil {
		return r, err
	}
	r.Organisation, r.UpdatedAt = at.Organisation, s.now().UTC().Truncate(time.Microsecond)
	var c fault.Check
	r.Validate(&c)
	if err := c.Err("audit_retention_invalid", "the retention is not valid"); err != nil {
		return r, err
	}
	before, set, err := s.of(ctx, r.Organisation)
	if err != nil {
		return r, err
	}
	var was any
	if set {
		was = describe(before)
	}
	actor := access.ActorFrom(ctx)
	return r, s.store.Write(ctx, func(tx KeepTx) error {
		if err := tx.PutRetention(ctx, r); err != nil {
			return err
		}
		return tx.Audit(ctx, audit.Of(actor, audit.Retain, at, r.Organisation, "").Change(was, describe(r)).Because(r.Reason))
	})
}

func describe(r audit.Retention) map[string]any {
	return map[string]any{"keepDays": r.KeepDays, "hold": r.Hold, "reason": r.Reason}
}

// Run deletes what is due, every hour until ctx ends. Several replicas may do so; the second finds nothing.
func (s *Retention) Run(ctx context.Context) error {
	tick := time.NewTicker(pruneEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
		if err := s.Prune(ctx); err != nil && ctx.Err() == nil {
			s.logger.Warn("old entries of the audit log keep their bodies for now", "error", err)
		}
	}
}

// Prune deletes what is due.
func (s *Retention) Prune(ctx context.Context) error {
	all, err := s.store.View().Retentions(ctx)
	if err != nil {
		return err
	}
	var own []string
	for _, r := range all {
		if r.Organisation == "" && r.Hold {
			return nil // everything is on hold
		}
		if r.Organisation != "" {
			own = append(own, r.Organisation)
		}
	}
	for _, r := range all {
		if r.KeepDays == 0 || r.Hold {
			continue
		}
		p := audit.Prunable{Organisation: r.Organisation}
		if r.Organisation == "" {
			p.But = own
		}
		if err := s.prune(ctx, r, p); err != nil {
			return err
		}
	}
	return nil
}

func (s *Retention) prune(ctx context.Context, r audit.Retention, p audit.Prunable) error {
	view := s.store.View()
	old, err := view.PositionAt(ctx, s.now().AddDate(0, 0, -int(r.KeepDays)))
	if err != nil {
		return err
	}
	needed, err := view.NeededBySinks(ctx, r.Organisation)
	if err != nil {
		return err
	}
	logs, err := view.AuditLogs(ctx)
	if err != nil || len(logs) == 0 {
		return err
	}
	p.UpTo = min(old, needed, logs[0].Began+logs[0].Signed)
	worker := access.Actor{Kind: access.System, Name: "audit retention"}
	for p.After < p.UpTo && ctx.Err() == nil {
		err := s.store.Observe(ctx, func(tx KeepTx) error {
			n, last, err := tx.DeleteBodies(ctx, p, pruneChunk)
			if err != nil {
				return err
			}
			if n == 0 {
				p.After = p.UpTo
				return nil
			}
			p.After = last
			if err := s.gone(ctx, tx, last); err != nil {
				return err
			}
			e := audit.Of(worker, audit.Prune, r.Scope(), r.Organisation, "").Because(r.Reason)
			return tx.Audit(ctx, e.Change(nil, map[string]any{"entries": n, "upToPosition": last, "keepDays": r.KeepDays}))
		})
		if err != nil {
			return err
		}
	}
	return ctx.Err()
}

// gone notes in the logs up to where bodies may be missing: beyond, one that is missing was not deleted by us.
func (s *Retention) gone(ctx context.Context, tx KeepTx, upTo int64) error {
	logs, err := tx.AuditLogs(ctx)
	if err != nil {
		return err
	}
	for _, l := range logs {
		if l.Began < upTo && l.Pruned < upTo {
			l.Pruned = upTo
			if err := tx.PutAuditLog(ctx, l); err != nil {
				return err
			}
		}
	}
	return nil
}

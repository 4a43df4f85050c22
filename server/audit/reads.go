package audit

import (
	"context"
	"log/slog"
	"time"

	"github.com/loopbackd/loopback/access"
	"github.com/loopbackd/loopback/audit"
)

// Reads writes down who read the log. The first read of a kind by somebody is written at once, those that follow within
// readWindow are counted and written as one when it is over: whoever follows the log leaves an entry now and then, not one
// for each look. What cannot be written is said in the control plane's own log and hides nothing from the reader: on a full
// disk the audit log is what an operator has to see.
type Reads struct {
	store   Writer
	now     func() time.Time
	logger  *slog.Logger
	repeats *audit.Repeats[read]
}

// Writer writes entries.
type Writer interface {
	Observe(ctx context.Context, change func(Appender) error) error
}

// Appender is one transaction.
type Appender interface {
	Audit(ctx context.Context, e audit.Entry) error
}

const (
	readWindow = 10 * time.Minute
	readKeys   = 10_000
)

type read struct {
	actor access.Actor
	at    access.Scope
	what  string
}

// NewReads makes the book. Its Run writes what was merged.
func NewReads(store Writer, now func() time.Time, logger *slog.Logger) *Reads {
	return &Reads{store: store, now: now, logger: logger, repeats: audit.NewRepeats[read](readWindow, readKeys)}
}

// Note notes that the caller read what lies at a scope: "entries" or "leaves", with what was looked for.
func (r *Reads) Note(ctx context.Context, at access.Scope, what string) {
	actor := access.ActorFrom(ctx)
	if actor.Kind == access.System {
		return
	}
	one := read{actor, at, what}
	if r.repeats.Add(actor.ID+" "+actor.Address+" "+at.Organisation+at.Project+at.Workspace+" "+what, one, r.now()) {
		r.write(ctx, one, 1)
	}
}

func (r *Reads) write(ctx context.Context, one read, times int64) {
	e := audit.Of(one.actor, audit.Read, one.at, "", "").Change(nil, map[string]any{"read": one.what, "times": times})
	if err := r.store.Observe(ctx, func(tx Appender) error { return tx.Audit(ctx, e) }); err != nil && ctx.Err() == nil {
		r.logger.Error("that the audit log was read is not in it", "actor", one.actor.ID, "error", err)
	}
}

// Run writes merged reads when their window is over, and what is left when ctx ends. It returns then.
func (r *Reads) Run(ctx context.Context) error {
	tick := time.NewTicker(readWindow / 10)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			for _, w := range r.repeats.Due(r.now()) {
				r.write(ctx, w.Last, w.Count)
			}
		case <-ctx.Done():
			end, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
			defer cancel()
			for _, w := range r.repeats.Rest(r.now()) {
				r.write(end, w.Last, w.Count)
			}
			return nil
		}
	}
}

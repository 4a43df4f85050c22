package storage

import (
	"context"
	"database/sql"

	"go.opentelemetry.io/otel/attribute"

	"github.com/loopbackd/loopback/fault"
)

// session runs statements: on any connection of the read pool, or on the writer's within its transaction.
type session interface {
	query(ctx context.Context, text string, args ...any) (*sql.Rows, error)
	exec(ctx context.Context, text string, args ...any) error
	explain(err error) error
}

// pool is the session of a View outside of a transaction: every statement sees what is committed when it starts.
type pool struct{ db *DB }

func (p pool) query(ctx context.Context, text string, args ...any) (*sql.Rows, error) {
	within, span := spanned(ctx, "storage.read", attribute.String("db.query.text", text)) // its values are not in it
	rows, err := p.db.reads.QueryContext(ctx, text, args...)
	ended(within, span, ctx, err)
	return rows, p.explain(err)
}

func (p pool) exec(context.Context, string, ...any) error {
	return fault.New(fault.Internal, "storage_read_only", "a view cannot write")
}

func (p pool) explain(err error) error { return p.db.engine.explain(err) }

// work is the session of one closure. It ignores the caller's context: a statement that is cut off would take the whole
// batch with it, and the caller is to learn what really became of the closure.
type work struct {
	line *line
	over bool  // the closure has returned
	own  bool  // it put statements off
	bad  error // a statement failed: nothing that this closure did is kept
}

var errOver = fault.New(fault.Internal, "storage_transaction_over", "a transaction was used after its closure returned")

func (w *work) usable() error {
	if w.over {
		return errOver
	}
	return w.bad
}

func (w *work) query(_ context.Context, text string, args ...any) (*sql.Rows, error) {
	if err := w.sent(); err != nil {
		return nil, err
	}
	rows, err := w.line.query(text, args...)
	return rows, w.explain(err)
}

// exec runs a statement now or, on a line that defers, before the next query or with COMMIT. The error of a deferred one
// makes the whole transaction run again without deferring, so that it comes out here.
func (w *work) exec(_ context.Context, text string, args ...any) error {
	if err := w.usable(); err != nil {
		return err
	}
	if w.line.defers {
		w.own = true
		w.line.deferred = append(w.line.deferred, statement{text, args})
		return nil
	}
	_, err := w.line.exec(text, args...)
	return w.explain(err)
}

// count runs a statement now and tells how many rows it affected.
func (w *work) count(text string, args ...any) (int64, error) {
	if err := w.sent(); err != nil {
		return 0, err
	}
	w.line.runs++
	affected, err := w.line.exec(text, args...)
	return affected, w.explain(err)
}

// sent makes sure that what was deferred has been run.
func (w *work) sent() error {
	if err := w.usable(); err != nil {
		return err
	}
	if len(w.line.deferred) == 0 {
		return nil
	}
	deferred := w.line.deferred
	w.line.deferred, w.line.mark = nil, 0
	if w.own {
		w.line.runs++
	}
	_, err := w.line.pipeline(deferred)
	return w.explain(err)
}

func (w *work) explain(err error) error {
	if err == nil {
		return nil
	}
	err = w.line.note(err)
	if w.bad == nil {
		w.bad = err
	}
	return err
}

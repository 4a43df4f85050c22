package storage

import (
	"context"
	"database/sql"

	"github.com/loopbackd/loopback/fault"
)

// session runs statements: on any connection of the read pool, or on the writer's within its transaction.
type session interface {
	query(ctx context.Context, text string, args ...any) (*sql.Rows, error)
	exec(ctx context.Context, text string, args ...any) (affected int64, err error)
	explain(err error) error
}

// pool is the session of a View outside of a transaction: every statement sees what is committed when it starts.
type pool struct{ db *DB }

func (p pool) query(ctx context.Context, text string, args ...any) (*sql.Rows, error) {
	rows, err := p.db.reads.QueryContext(ctx, text, args...)
	return rows, p.explain(err)
}

func (p pool) exec(context.Context, string, ...any) (int64, error) {
	return 0, fault.New(fault.Internal, "storage_read_only", "a view cannot write")
}

func (p pool) explain(err error) error { return p.db.engine.explain(err) }

// work is the session of one closure. It ignores the caller's context: a statement that is cut off would take the whole
// batch with it, and the caller is to learn what really became of the closure.
type work struct {
	line  *line
	over  bool  // the closure has returned
	wrote bool  // there is something to undo
	bad   error // a statement failed: nothing that this closure did is kept
}

var errOver = fault.New(fault.Internal, "storage_transaction_over", "a transaction was used after its closure returned")

func (w *work) usable() error {
	if w.over {
		return errOver
	}
	return w.bad
}

func (w *work) query(_ context.Context, text string, args ...any) (*sql.Rows, error) {
	if err := w.usable(); err != nil {
		return nil, err
	}
	rows, err := w.line.query(text, args...)
	return rows, w.explain(err)
}

func (w *work) exec(_ context.Context, text string, args ...any) (int64, error) {
	if err := w.usable(); err != nil {
		return 0, err
	}
	w.wrote = true
	affected, err := w.line.exec(text, args...)
	return affected, w.explain(err)
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

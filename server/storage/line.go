package storage

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"fmt"

	"github.com/loopbackd/loopback/fault"
)

// line is the writer's connection, with its statements prepared, in at most one transaction at a time.
type line struct {
	engine     engine
	conn       *sql.Conn
	ctx        context.Context // of the current batch; its end breaks the connection
	statements map[string]*sql.Stmt
	broken     error // the current transaction cannot be trusted any more
}

// maxStatements bounds the statements that stay prepared: lists have as many texts as there are filters.
const maxStatements = 256

func (l *line) prepare(text string) (*sql.Stmt, error) {
	if s := l.statements[text]; s != nil {
		return s, nil
	}
	if len(l.statements) >= maxStatements {
		l.forget()
	}
	s, err := l.conn.PrepareContext(l.ctx, text)
	if err == nil {
		l.statements[text] = s
	}
	return s, err
}

func (l *line) forget() {
	for _, s := range l.statements {
		s.Close()
	}
	l.statements = map[string]*sql.Stmt{}
}

func (l *line) query(text string, args ...any) (*sql.Rows, error) {
	if l.broken != nil {
		return nil, l.broken
	}
	s, err := l.prepare(text)
	if err != nil {
		return nil, err
	}
	return s.QueryContext(l.ctx, args...)
}

func (l *line) exec(text string, args ...any) (int64, error) {
	if l.broken != nil {
		return 0, l.broken
	}
	s, err := l.prepare(text)
	if err != nil {
		return 0, err
	}
	r, err := s.ExecContext(l.ctx, args...)
	if err != nil {
		return 0, err
	}
	return r.RowsAffected()
}

// script runs statements that have neither arguments nor results.
func (l *line) script(text string) error {
	if l.broken != nil {
		return l.broken
	}
	_, err := l.conn.ExecContext(l.ctx, text)
	return l.note(err)
}

// note explains an error and remembers whether it leaves the transaction unfit.
func (l *line) note(err error) error {
	if err == nil || l.broken != nil && err == l.broken {
		return err
	}
	explained := l.engine.explain(err)
	if kind := fault.KindOf(explained); kind == fault.Timeout || kind == fault.Canceled { // the batch's context, nobody's else
		explained = fault.New(fault.Unavailable, "database_silent", "the database does not answer; nothing was written").
			WithHint("look at the database's load and at the network between").WithCause(err)
	}
	if l.broken == nil && l.engine.breaks(l.conn, err) {
		l.broken = explained
	}
	return explained
}

// row reads integers from the single row of a query.
func (l *line) row(text string, into ...any) error {
	rows, err := l.query(text)
	if err != nil {
		return l.note(err)
	}
	defer rows.Close()
	if !rows.Next() {
		if err := rows.Err(); err != nil {
			return l.note(err)
		}
		return fmt.Errorf("storage: %q found no row", text)
	}
	if err := rows.Scan(into...); err != nil {
		return err
	}
	return l.note(rows.Close())
}

// close gives the connection up.
func (l *line) close() {
	l.forget()
	l.conn.Raw(func(any) error { return driver.ErrBadConn }) //nolint:errcheck // this is how a connection is thrown away
	l.conn.Close()
}

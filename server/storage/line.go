package storage

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/loopbackd/loopback/fault"
)

// line is the writer's connection, with its statements prepared, in at most one transaction at a time.
type line struct {
	engine     engine
	conn       *sql.Conn
	ctx        context.Context // of the current batch; its end breaks the connection
	statements map[string]*sql.Stmt
	unnamed    bool  // see nature
	broken     error // the current transaction cannot be trusted any more

	// Where round trips are dear, statements without results are put off.
	defers   bool
	deferred []statement
	mark     int // what is deferred beyond this is the current closure's
	runs     int // counts how often something was run in this transaction that a closure would have to take back
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
	marked := text
	if l.unnamed {
		marked = unnamed(text)
	}
	s, err := l.conn.PrepareContext(l.ctx, marked)
	if err == nil {
		l.statements[text] = s
	}
	return s, err
}

// unnamed is a statement with ? for its parameters, where they are $1, $2 and so on in order, each once; any other as it is.
// To SQLite, $1 is a name like any other. Its driver asks for the name of every parameter, and SQLite finds each by walking
// the list of all: an INSERT of 64 audit entries, with 1,280 parameters, took 60 % of all the time of a group commit there.
func unnamed(text string) string {
	var out strings.Builder
	last := 0
	for rest := text; ; {
		before, after, found := strings.Cut(rest, "$")
		out.WriteString(before)
		if !found {
			break
		}
		digits := len(after) - len(strings.TrimLeft(after, "0123456789"))
		if n, err := strconv.Atoi(after[:digits]); err != nil || n != last+1 || strings.Contains(before, "'") {
			return text // out of order, used twice, or perhaps no parameter at all
		}
		out.WriteByte('?')
		last++
		rest = after[digits:]
	}
	return out.String()
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

// pipeline runs statements in one round trip; those after one that failed are not run. It returns how many were.
func (l *line) pipeline(statements []statement) (done int, err error) {
	if l.broken != nil {
		return 0, l.broken
	}
	err = l.raw(func(conn *pgx.Conn) error {
		var all pgx.Batch
		for _, s := range statements {
			all.Queue(s.text, s.args...)
		}
		results := conn.SendBatch(l.ctx, &all)
		for done = range statements {
			tag, err := results.Exec()
			if err == nil && statements[done].text == commitText && tag.String() != commitText {
				err = errRolledBack
			}
			if err != nil {
				return errors.Join(err, results.Close())
			}
		}
		done++
		return results.Close()
	})
	return done, err
}

const commitText = "COMMIT"

// errRolledBack: PostgreSQL answers the COMMIT of a failed transaction with a friendly ROLLBACK.
var errRolledBack = errors.New("the database rolled back instead of committing")

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
	throwAway(l.conn)
}

// throwAway closes a connection for good instead of giving it back to its pool.
func throwAway(conn *sql.Conn) {
	conn.Raw(func(any) error { return driver.ErrBadConn }) //nolint:errcheck // saying that it is bad is what does it
	conn.Close()
}

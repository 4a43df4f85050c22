package storage

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"net"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"
	"golang.org/x/sys/unix"

	"github.com/loopbackd/loopback/fault"
)

// postgres keeps everything in a database that several replicas share.
type postgres struct {
	where string // host and database, for messages
}

// Bounds on PostgreSQL. A replica that freezes within a transaction holds every other one up until the server ends its
// session, so that has to happen before the others give up on the lock.
const (
	idleInTransaction = 10 * time.Second
	lockTimeout       = 15 * time.Second
	batchLimit        = 30 * time.Second
	postgresPatience  = 5 * time.Second
	connectTimeout    = 5 * time.Second
)

// writeLock is the key of the advisory lock that makes one writer of all replicas: "loopback" in ASCII.
const writeLock = 0x6c6f6f706261636b

// schemaLock is the key of the one that lets one replica migrate at a time.
const schemaLock = writeLock + 1

func (db *DB) openPostgres(ctx context.Context, url string) (dialect, error) {
	config, err := pgx.ParseConfig(url)
	if err != nil {
		// The error may quote the URL, and with it a password.
		return dialect{}, fault.New(fault.Invalid, "database_url_invalid", "the database's URL cannot be read").
			WithHint("write it as postgres://USER:PASSWORD@HOST:5432/DATABASE?sslmode=verify-full")
	}
	if config.ConnectTimeout == 0 {
		config.ConnectTimeout = connectTimeout
	}
	config.DialFunc = dialPostgres
	if config.RuntimeParams["application_name"] == "" {
		config.RuntimeParams["application_name"] = "loopbackd"
	}
	e := &postgres{where: fmt.Sprintf("%s/%s", net.JoinHostPort(config.Host, fmt.Sprint(config.Port)), config.Database)}
	writing := config.Copy()
	writing.RuntimeParams["idle_in_transaction_session_timeout"] = fmt.Sprint(idleInTransaction.Milliseconds())
	writing.RuntimeParams["lock_timeout"] = fmt.Sprint(lockTimeout.Milliseconds())
	writing.RuntimeParams["default_transaction_isolation"] = "read committed" // each statement sees what the lock waited for
	// An acknowledged write is on the disk, whatever the server's default. Stronger settings stay.
	writing.AfterConnect = func(ctx context.Context, conn *pgconn.PgConn) error {
		_, err := conn.Exec(ctx, "SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'").ReadAll()
		return err
	}
	db.writes = stdlib.OpenDB(*writing)
	db.writes.SetMaxOpenConns(2) // one holds the schema's lock while the other migrates
	db.reads = stdlib.OpenDB(*config)
	readers := max(4, 4*runtime.GOMAXPROCS(0))
	db.reads.SetMaxOpenConns(readers)
	db.reads.SetMaxIdleConns(readers)
	db.engine, db.nature = e, nature{hopeful: true, patience: postgresPatience, batchLimit: batchLimit}
	if err := e.check(ctx, db); err != nil {
		return dialect{}, errors.Join(err, db.closePools())
	}
	return dialect{
		goose: goose.DialectPostgres, lock: db.lockSchema,
		rewrite: func(text string) string { return textColumn.ReplaceAllString(text, ` TEXT COLLATE "C"$1`) },
	}, nil
}

// silence is how long the other end of a connection may leave what we sent unconfirmed, or be silent when it is asked.
// Without it a primary that lost its power is waited for by the kernel for a quarter of an hour.
const silence = 15 * time.Second

// dialPostgres connects so that a machine that is gone without a word is found out.
func dialPostgres(ctx context.Context, network, address string) (net.Conn, error) {
	d := net.Dialer{
		KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: silence / 3, Interval: silence / 3, Count: 2},
		Control: func(network, _ string, c syscall.RawConn) error {
			if !strings.HasPrefix(network, "tcp") {
				return nil
			}
			var set error
			err := c.Control(func(fd uintptr) {
				set = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(silence.Milliseconds()))
			})
			return errors.Join(err, set)
		},
	}
	return d.DialContext(ctx, network, address)
}

// lockSchema waits until no other replica migrates. The lock goes with its session.
func (db *DB) lockSchema(ctx context.Context) (release func(), err error) {
	conn, err := db.writes.Conn(ctx)
	if err != nil {
		return nil, err
	}
	release = func() { throwAway(conn) }
	if _, err := conn.ExecContext(ctx, fmt.Sprintf("SET lock_timeout = 0; SELECT pg_advisory_lock(%d)", int64(schemaLock))); err != nil {
		release()
		return nil, err
	}
	return release, nil
}

// textColumn is the type of a column in a migration.
var textColumn = regexp.MustCompile(` TEXT( |,|\n)`)

// check refuses a server that cannot keep what it is given.
func (e *postgres) check(ctx context.Context, db *DB) error {
	var version int
	var encoding, fsync string
	err := db.writes.QueryRowContext(ctx, `SELECT current_setting('server_version_num')::int,
		pg_encoding_to_char(encoding), current_setting('fsync') FROM pg_database WHERE datname = current_database()`).
		Scan(&version, &encoding, &fsync)
	if err != nil {
		return fmt.Errorf("opening the database: %w", e.explain(err))
	}
	if version < 130000 {
		return fault.New(fault.Precondition, "database_too_old", "PostgreSQL at %s is version %d; 13 or newer is needed", e.where, version/10000)
	}
	if encoding != "UTF8" {
		return fault.New(fault.Precondition, "database_encoding", "the database at %s is encoded in %s; UTF8 is needed", e.where, encoding).
			WithHint("create it with: createdb --encoding=UTF8 --template=template0 NAME")
	}
	if fsync != "on" {
		db.logger.Warn("PostgreSQL runs with fsync off: acknowledged changes are lost when its machine loses power", "database", e.where)
	}
	return nil
}

// begin takes one round trip. Each of the statements sees what is committed when it starts: the last one, therefore,
// what the writer before us left.
func (e *postgres) begin(l *line) (feed, entries int64, err error) {
	err = l.raw(func(conn *pgx.Conn) error {
		results, err := conn.PgConn().Exec(l.ctx, fmt.Sprintf(
			"BEGIN; SELECT pg_advisory_xact_lock(%d); SELECT feed, audit FROM positions", int64(writeLock))).ReadAll()
		if err != nil {
			return err
		}
		if last := results[len(results)-1].Rows; len(last) != 1 {
			return fmt.Errorf("storage: %d rows of positions", len(last))
		} else if feed, err = strconv.ParseInt(string(last[0][0]), 10, 64); err != nil {
			return err
		} else {
			entries, err = strconv.ParseInt(string(last[0][1]), 10, 64)
			return err
		}
	})
	return feed, entries, l.note(err)
}

func (e *postgres) next(l *line) error {
	return l.script("RELEASE SAVEPOINT closure; SAVEPOINT closure")
}

// commit takes one round trip. PostgreSQL ignores what follows a statement that failed, COMMIT included.
func (e *postgres) commit(l *line, tx *Tx, writer string, batch int64) error {
	positions, err := tx.positions()
	if err != nil {
		return &commitRefused{err}
	}
	mark := statement{`INSERT INTO writers (id, batch, at) VALUES ($1, $2, $3)
		ON CONFLICT (id) DO UPDATE SET batch = excluded.batch, at = excluded.at`, []any{writer, batch, micros(tx.db.now())}}
	done, err := l.pipeline(append(slices.Concat(l.deferred, positions), mark, statement{text: commitText}))
	var answered *pgconn.PgError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &answered) && !e.lost(answered) && done < len(l.deferred):
		return errWithSavepoints // whoever it was is to hear of it
	case errors.As(err, &answered) && !e.lost(answered), errors.Is(err, errRolledBack):
		l.broken = e.explain(err)
		return &commitRefused{l.broken}
	}
	l.broken = e.explain(err)
	return &doubt{batch: batch, error: fault.New(fault.Unavailable, "commit_unknown",
		"the connection to the database was lost while it committed: whether the change was made is not known").
		WithHint("read it again before trying again").WithCause(err)}
}

func (e *postgres) committed(l *line, writer string, batch int64) (bool, error) {
	rows, err := l.query("SELECT batch FROM writers WHERE id = $1", writer)
	if err != nil {
		return false, l.note(err)
	}
	defer rows.Close()
	var last int64
	if rows.Next() {
		err = rows.Scan(&last)
	}
	if err == nil {
		err = rows.Err()
	}
	return last == batch, l.note(err)
}

// lost tells whether the server's error means that the session, and with it the transaction, is over.
func (e *postgres) lost(err *pgconn.PgError) bool {
	return strings.HasPrefix(err.Code, "08") || err.Severity == "FATAL" || err.Severity == "PANIC"
}

// explain tells what to do about what PostgreSQL, or the way to it, says.
func (e *postgres) explain(err error) error {
	if err == nil {
		return nil
	}
	var known *fault.Error
	if errors.As(err, &known) {
		return err
	}
	unavailable := func(code, message, hint string) error {
		return fault.New(fault.Unavailable, code, "%s", message).WithHint("%s", hint).WithCause(err)
	}
	reach := "check that PostgreSQL at " + e.where + " runs and can be reached"
	var answer *pgconn.PgError
	if errors.As(err, &answer) {
		switch class := answer.Code[:2]; {
		case answer.Code == "23505":
			return errTaken.WithCause(err)
		case answer.Code == "23503":
			return errHeld.WithCause(err)
		case answer.Code == "53100":
			return unavailable("database_full", "the disk of the database is full; nothing was written",
				"free space on the server of "+e.where)
		case answer.Code == "25006":
			return unavailable("database_read_only", "the database cannot be written: it is a standby, or read-only",
				"let the URL name the primary, or several hosts with target_session_attrs=read-write")
		case answer.Code == "55P03":
			return unavailable("database_locked", "another replica holds the write lock; nothing was written",
				"look for a replica that hangs; PostgreSQL ends its session after "+idleInTransaction.String())
		case class == "28", class == "3D":
			return unavailable("database_refused", "the database does not let us in: "+answer.Message,
				"check user, password and database in the URL, and pg_hba.conf at "+e.where)
		case class == "53":
			return unavailable("database_exhausted", "the database has no resources left: "+answer.Message,
				"raise max_connections or memory at "+e.where)
		case class == "08", class == "57", class == "58", answer.Code == "25P03", answer.Severity == "FATAL":
			return unavailable("database_unreachable", "the database went away", reach)
		case class == "40":
			return unavailable("database_conflict", "the database gave the change up for another one", "try again")
		}
		return err
	}
	var network net.Error
	var connect *pgconn.ConnectError
	switch {
	case errors.Is(err, errRolledBack):
		return unavailable("database_refused", "the database rolled the changes back", "look at the log of PostgreSQL at "+e.where)
	case errors.Is(err, context.Canceled):
		return err
	case errors.As(err, &connect), errors.Is(err, driver.ErrBadConn), errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF),
		errors.Is(err, sql.ErrConnDone), errors.As(err, &network) && !errors.Is(err, context.DeadlineExceeded),
		strings.Contains(err.Error(), "conn closed"):
		return unavailable("database_unreachable", "the database cannot be reached", reach)
	}
	return err
}

// breaks: PostgreSQL undoes a failed statement with its savepoint. Only a lost connection ends the transaction.
func (e *postgres) breaks(conn *sql.Conn, err error) bool {
	var answer *pgconn.PgError
	if errors.As(err, &answer) && e.lost(answer) {
		return true
	}
	closed := true
	if raw := conn.Raw(func(c any) error {
		closed = c.(*stdlib.Conn).Conn().IsClosed()
		return nil
	}); raw != nil {
		return true
	}
	return closed
}

// raw runs something on the connection itself.
func (l *line) raw(do func(*pgx.Conn) error) error {
	return l.conn.Raw(func(c any) error { return do(c.(*stdlib.Conn).Conn()) })
}

func (e *postgres) clock() string {
	return "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint"
}

func (e *postgres) backup(context.Context, string) error {
	return fault.New(fault.Precondition, "backup_elsewhere", "a PostgreSQL database is backed up with its own tools").
		WithHint("run: pg_dump --format=custom --file=loopback.dump, or archive its write-ahead log")
}

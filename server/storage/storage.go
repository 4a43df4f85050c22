// Package storage keeps the control plane's state in SQLite or PostgreSQL, behind one set of methods.
//
// # Writing
//
// All changes go through one writer. A caller hands it a closure (DB.Write, DB.Observe); the writer runs closures one
// after the other, each within a savepoint, many to a transaction, and answers their callers after COMMIT. A write that
// was acknowledged is on the disk. A closure that fails, panics or leaves its change without an audit entry loses its
// own work and nobody else's. On PostgreSQL a transaction takes an advisory lock before anything else, so that all
// replicas together have one writer as well: a closure always sees the world as it is, and nothing changes under it.
//
// Because writes take turns, positions in the change feed and in the audit log are given in commit order, without gaps:
// a reader that remembers how far it got misses nothing.
//
// Closures are short, do nothing besides calling their Tx, and may be run more than once: only what the last run did and
// saw counts. They must not call DB.Write: they would wait for themselves. A statement that fails (a name that is taken,
// a full disk) dooms its closure: whatever the closure returns, nothing of it is kept. NotFound and Conflict are answers,
// not failures, and doom nothing.
//
// Round trips to PostgreSQL are dear. There, what a closure writes is put off until it reads or the batch commits, and
// there are no savepoints. Should a statement fail, or a closure after some of its writing was sent, the batch is rolled
// back and run once more the careful way, statement by statement, which gives each closure its own error. On both
// databases the rows of feed and audit log are written together, just before COMMIT.
//
// # Failing
//
// A caller whose context ends before its closure started gets the context's error, and nothing was done. Afterwards it
// is told what really happened, however long that takes. When the database is full, locked, read-only or away, callers
// get Unavailable with what to do about it. A connection that breaks before COMMIT costs a retry that nobody sees; one
// that breaks during COMMIT is looked into: every PostgreSQL transaction leaves its writer's name and number behind, so
// that the next connection can tell whether it took place. Only when that cannot be found out in time is the answer
// Unavailable with an unknown outcome. Success is never reported without a COMMIT that the database confirmed.
//
// # Reading
//
// DB.View reads what is committed, on connections of its own, which no writer blocks. Lists are cut into pages by key:
// a page starts after the last item of the one before. What the caller may read is a condition in the query, never a
// filter over its results.
package storage

import (
	"context"
	"crypto/rand"
	"database/sql"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/loopbackd/loopback/fault"
)

// Options of a database.
type Options struct {
	URL    string           // path of an SQLite file, the same after "sqlite:", or postgres://…
	Clock  func() time.Time // nil: time.Now
	Logger *slog.Logger     // nil: slog.Default
	Watch  Watch            // for metrics
}

// Watch is told what the writer does; fields that are nil are not. They must not block: everybody's writes wait.
type Watch struct {
	Committed func(took time.Duration, closures int) // a transaction, from the word COMMIT until it was durable
	Held      func(took time.Duration)               // a transaction, from the moment that it had the write lock until it let go
	Refused   func(code string, closures int)        // writes that were answered with an error of the database
}

// engine is what the two databases do differently within a transaction.
type engine interface {
	begin(l *line) (feed, entries int64, err error) // take the write lock, then read the last positions
	next(l *line) error                             // keep the savepoint's work, open another savepoint
	commit(l *line, tx *Tx, writer string, batch int64) error
	committed(l *line, writer string, batch int64) (bool, error)
	explain(err error) error               // in our words
	breaks(conn *sql.Conn, err error) bool // the transaction is gone or cannot be trusted
	backup(ctx context.Context, to string) error
	clock() string // a query for its time in microseconds since 1970
}

// nature is what the writer has to know of the database it writes to.
type nature struct {
	blames     bool          // a broken transaction is the doing of the closure that it broke in, not of the connection
	hopeful    bool          // round trips are dear: no savepoints until a closure turns out to need one
	patience   time.Duration // for retrying a transaction that was certainly not committed
	batchLimit time.Duration // after which a transaction is given up; 0: never
	unnamed    bool          // the driver looks each parameter's name up in a list: a thousand are faster without names
}

// DB is an open database. Its methods are safe for concurrent use.
type DB struct {
	engine engine
	nature nature
	writes *sql.DB // one connection
	reads  *sql.DB
	clock  func() time.Time
	logger *slog.Logger
	watch  Watch
	writer *writer

	origins origins

	mu     sync.Mutex
	nudged map[chan struct{}]struct{}
}

// Open opens a database, creates it where it is a file that does not exist, and brings its schema up to date.
func Open(ctx context.Context, o Options) (*DB, error) {
	db := &DB{clock: o.Clock, logger: o.Logger, watch: o.Watch, nudged: map[chan struct{}]struct{}{}}
	if db.clock == nil {
		db.clock = time.Now
	}
	if db.logger == nil {
		db.logger = slog.Default()
	}
	if db.watch.Committed == nil {
		db.watch.Committed = func(time.Duration, int) {}
	}
	if db.watch.Held == nil {
		db.watch.Held = func(time.Duration) {}
	}
	if db.watch.Refused == nil {
		db.watch.Refused = func(string, int) {}
	}
	var err error
	var d dialect
	switch {
	case strings.HasPrefix(o.URL, "postgres://"), strings.HasPrefix(o.URL, "postgresql://"):
		d, err = db.openPostgres(ctx, o.URL)
	case strings.Contains(o.URL, "://"):
		err = fault.New(fault.Invalid, "database_url_invalid", "the database %q is of no kind that is known", o.URL[:strings.Index(o.URL, "://")+3]).
			WithHint("give the path of an SQLite file, or postgres://USER@HOST/DATABASE")
	default:
		d, err = db.openSQLite(ctx, strings.TrimPrefix(o.URL, "sqlite:"))
	}
	if err != nil {
		return nil, err
	}
	if err := db.migrate(ctx, d); err != nil {
		db.closePools()
		return nil, err
	}
	db.writer = newWriter(db, rand.Text())
	go db.writer.run()
	return db, nil
}

// Close lets accepted writes finish, refuses others, and closes the database.
func (db *DB) Close() error {
	db.writer.close()
	return db.closePools()
}

func (db *DB) closePools() error {
	err := db.reads.Close()
	if e := db.writes.Close(); err == nil {
		err = e
	}
	if err != nil {
		return fmt.Errorf("closing the database: %w", err)
	}
	return nil
}

// Write runs a closure that changes something on somebody's behalf and returns once its work is durable. A closure that
// changed anything without calling Tx.Audit is rolled back.
func (db *DB) Write(ctx context.Context, change func(*Tx) error) error {
	return db.change(ctx, true, change)
}

// Observe is Write for what hosts report and workers keep book of: no audit entry is demanded.
func (db *DB) Observe(ctx context.Context, change func(*Tx) error) error {
	return db.change(ctx, false, change)
}

func (db *DB) change(ctx context.Context, audited bool, change func(*Tx) error) error {
	within, span := spanned(ctx, "storage.write")
	err := db.writer.do(within, audited, change)
	ended(within, span, ctx, err)
	return err
}

// View reads what is committed.
func (db *DB) View() *View { return &View{session: pool{db}, clock: db.now} }

// Backup writes a consistent copy of the database to a file while it is in use. PostgreSQL has its own tools for that.
func (db *DB) Backup(ctx context.Context, path string) error { return db.engine.backup(ctx, path) }

// Waiting is how many writes wait for their turn.
func (db *DB) Waiting() int { return len(db.writer.queue) }

// Ping tells whether the database answers.
func (db *DB) Ping(ctx context.Context) error {
	_, err := db.Position(ctx)
	return err
}

// now is the time as it is stored: in UTC, to the microsecond.
func (db *DB) now() time.Time { return db.clock().UTC().Truncate(time.Microsecond) }

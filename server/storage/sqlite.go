package storage

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
	"time"

	"github.com/pressly/goose/v3"
	sqlitedriver "modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"github.com/loopbackd/loopback/fault"
)

// sqlite keeps everything in one file, beside it a write-ahead log. Every COMMIT is on the disk before it returns.
type sqlite struct {
	path  string
	reads *sql.DB
}

// busyTimeout is how long a statement waits for another program that holds the file's lock.
const busyTimeout = 5 * time.Second

func (db *DB) openSQLite(ctx context.Context, path string) (dialect, error) {
	if path == "" || path == ":memory:" {
		return dialect{}, fault.New(fault.Invalid, "database_url_invalid", "the database needs a file").
			WithHint("give the path of an SQLite file, or postgres://USER@HOST/DATABASE")
	}
	path, err := filepath.Abs(path)
	if err != nil {
		return dialect{}, err
	}
	e := &sqlite{path: path}
	// SQLite would make the file readable to everybody.
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	switch {
	case errors.Is(err, syscall.EROFS), errors.Is(err, os.ErrPermission):
		return dialect{}, fault.New(fault.Unavailable, "database_read_only", "the database cannot be written").
			WithHint("%s", e.readOnlyHint()).WithCause(err)
	case err != nil:
		return dialect{}, fault.New(fault.Unavailable, "database_unreachable", "the database cannot be opened").
			WithHint("check that the folder of %s exists and that this user may write there", path).WithCause(err)
	}
	if err := f.Close(); err != nil {
		return dialect{}, err
	}
	dsn := func(pragmas ...string) string {
		u := url.URL{Scheme: "file", Path: path}
		q := url.Values{"_pragma": append([]string{
			fmt.Sprintf("busy_timeout(%d)", busyTimeout.Milliseconds()), "foreign_keys(1)"}, pragmas...)}
		u.RawQuery = q.Encode()
		return u.String()
	}
	db.writes, err = sql.Open("sqlite", dsn("journal_mode(WAL)", "synchronous(FULL)", "cache_size(-32000)",
		"journal_size_limit(67108864)", "temp_store(MEMORY)"))
	if err != nil {
		return dialect{}, err
	}
	db.writes.SetMaxOpenConns(1)
	db.reads, err = sql.Open("sqlite", dsn("query_only(1)", "cache_size(-8000)", "temp_store(MEMORY)"))
	if err != nil {
		return dialect{}, errors.Join(err, db.writes.Close())
	}
	readers := max(4, 2*runtime.GOMAXPROCS(0))
	db.reads.SetMaxOpenConns(readers)
	db.reads.SetMaxIdleConns(readers)
	e.reads = db.reads
	db.engine, db.nature = e, nature{blames: true, patience: 2 * busyTimeout, unnamed: true}
	// The first connection makes the write-ahead log; readers cannot.
	if err := e.first(ctx, db.writes); err != nil {
		return dialect{}, errors.Join(fmt.Errorf("opening %s: %w", path, e.explain(err)), db.closePools())
	}
	// One reader stays open from now on: it keeps the files beside the database in place, should the disk fill up.
	var tables int
	if err := db.reads.QueryRowContext(ctx, "SELECT count(*) FROM sqlite_master").Scan(&tables); err != nil {
		return dialect{}, errors.Join(fmt.Errorf("opening %s: %w", path, e.explain(err)), db.closePools())
	}
	return dialect{goose: goose.DialectSQLite3, rewrite: func(text string) string { return text }}, nil
}

// first opens the connection that turns a new file to write-ahead logging. Where several do so together SQLite refuses one
// at once, whatever its timeout: both read and both want to be alone. The refused one finds it done a little later.
func (e *sqlite) first(ctx context.Context, writes *sql.DB) error {
	until := time.Now().Add(busyTimeout)
	for {
		err := writes.PingContext(ctx)
		var s *sqlitedriver.Error
		if !errors.As(err, &s) || s.Code()&0xff != sqlite3.SQLITE_BUSY || time.Now().After(until) {
			return err
		}
		pause := time.NewTimer(20 * time.Millisecond)
		select {
		case <-pause.C:
		case <-ctx.Done():
			pause.Stop()
			return errors.Join(err, ctx.Err())
		}
	}
}

func (e *sqlite) begin(l *line) (feed, entries int64, err error) {
	if _, err := l.exec("BEGIN IMMEDIATE"); err != nil {
		return 0, 0, l.note(err)
	}
	err = l.row("SELECT feed, audit FROM positions", &feed, &entries)
	return feed, entries, err
}

func (e *sqlite) next(l *line) error {
	for _, text := range []string{"RELEASE SAVEPOINT closure", "SAVEPOINT closure"} {
		if _, err := l.exec(text); err != nil {
			return l.note(err)
		}
	}
	return nil
}

func (e *sqlite) commit(l *line, tx *Tx, _ string, _ int64) error {
	statements, err := tx.positions()
	if err != nil {
		return &commitRefused{err}
	}
	for _, s := range append(statements, statement{text: "COMMIT"}) {
		if _, err := l.exec(s.text, s.args...); err != nil {
			err = l.note(err)
			l.broken = err
			return &commitRefused{err}
		}
	}
	return nil
}

// committed is never asked: this database answers a COMMIT, or the process is dead.
func (e *sqlite) committed(*line, string, int64) (bool, error) { return false, nil }

// explain tells what to do about what SQLite says.
func (e *sqlite) explain(err error) error {
	var s *sqlitedriver.Error
	if err == nil || !errors.As(err, &s) {
		return err
	}
	unavailable := func(code, message, hint string) error {
		return fault.New(fault.Unavailable, code, "%s", message).WithHint("%s", hint).WithCause(err)
	}
	switch s.Code() {
	case sqlite3.SQLITE_CONSTRAINT_UNIQUE, sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY:
		return errTaken.WithCause(err)
	case sqlite3.SQLITE_CONSTRAINT_FOREIGNKEY:
		return errHeld.WithCause(err)
	}
	switch code := s.Code(); {
	case code&0xff == sqlite3.SQLITE_FULL, code == sqlite3.SQLITE_IOERR_SHMSIZE:
		return unavailable("database_full", "the disk of the database is full; nothing was written",
			"free space on the file system of "+e.path)
	case code&0xff == sqlite3.SQLITE_BUSY, code&0xff == sqlite3.SQLITE_LOCKED:
		return unavailable("database_locked", "the database is locked by another program; nothing was written",
			"find what holds "+e.path+" open (fuser "+e.path+") and stop it")
	case code&0xff == sqlite3.SQLITE_READONLY, code&0xff == sqlite3.SQLITE_PERM, code&0xff == sqlite3.SQLITE_AUTH:
		return unavailable("database_read_only", "the database cannot be written",
			e.readOnlyHint())
	case code&0xff == sqlite3.SQLITE_CANTOPEN:
		return unavailable("database_unreachable", "the database cannot be opened",
			"check that "+e.path+" and its folder exist, that this user may write there, and that files can be opened (ulimit -n)")
	case code&0xff == sqlite3.SQLITE_IOERR:
		return unavailable("database_failing", "the disk of the database failed; what was being written may be lost",
			"look at the kernel's log (dmesg) and at the file system of "+e.path)
	case code&0xff == sqlite3.SQLITE_CORRUPT, code&0xff == sqlite3.SQLITE_NOTADB:
		return unavailable("database_corrupt", "the database is damaged",
			"stop loopbackd, keep "+e.path+" aside, and restore a backup: loopbackd restore")
	}
	return err
}

func (e *sqlite) readOnlyHint() string {
	return "check that the user of loopbackd may write " + e.path + " and its folder, and that the file system is not mounted read-only"
}

// breaks: these may have rolled the whole transaction back; whatever ran after them would commit by itself.
func (e *sqlite) breaks(_ *sql.Conn, err error) bool {
	var s *sqlitedriver.Error
	if !errors.As(err, &s) {
		return errors.Is(err, sql.ErrConnDone) || errors.Is(err, driver.ErrBadConn)
	}
	switch s.Code() & 0xff {
	case sqlite3.SQLITE_FULL, sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_IOERR,
		sqlite3.SQLITE_NOMEM, sqlite3.SQLITE_INTERRUPT, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB,
		sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_ABORT, sqlite3.SQLITE_PROTOCOL:
		return true
	}
	return false
}

// backup copies what is committed into a new file, which appears under its name once it is whole and on the disk.
func (e *sqlite) clock() string {
	return "SELECT CAST(round((julianday('now') - 2440587.5) * 86400000) AS INTEGER) * 1000"
}

func (e *sqlite) backup(ctx context.Context, to string) error {
	if _, err := os.Lstat(to); err == nil {
		return fault.New(fault.Exists, "backup_exists", "%s exists already", to).WithHint("give the backup a name of its own")
	}
	f, err := os.CreateTemp(filepath.Dir(to), ".backup-*") // 0600
	if err != nil {
		return backupFailed(to, err)
	}
	defer f.Close()
	defer os.Remove(f.Name())
	source, err := sql.Open("sqlite", (&url.URL{Scheme: "file", Path: e.path,
		RawQuery: url.Values{"_pragma": {fmt.Sprintf("busy_timeout(%d)", busyTimeout.Milliseconds())}}.Encode()}).String())
	if err != nil {
		return backupFailed(to, err)
	}
	defer source.Close()
	if _, err := source.ExecContext(ctx, "VACUUM INTO $1", f.Name()); err != nil {
		return backupFailed(to, err)
	}
	if err := f.Sync(); err != nil {
		return backupFailed(to, err)
	}
	// Link, not rename: a file that came meanwhile is not overwritten.
	if err := os.Link(f.Name(), to); err != nil {
		return backupFailed(to, err)
	}
	folder, err := os.Open(filepath.Dir(to))
	if err != nil {
		return backupFailed(to, err)
	}
	defer folder.Close()
	if err := folder.Sync(); err != nil {
		return backupFailed(to, err)
	}
	return nil
}

func backupFailed(to string, err error) error {
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return fault.New(fault.Unavailable, "backup_failed", "the backup %s could not be written", to).
		WithHint("check that there is space there and that loopbackd may write there").WithCause(err)
}

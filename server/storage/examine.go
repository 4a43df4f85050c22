package storage

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/release"
	"github.com/loopbackd/loopback/replica"
)

// Findings are what Examine saw. What is below Metadata is of several replicas' database only.
type Findings struct {
	Schema, Newest int64             // the database's version, and that of this program
	Read           time.Duration     // that a read took
	Whole          bool              // SQLite's own check found nothing, as far as it got in its time
	Metadata       map[string][]byte // release metadata by its file's name, the newest of each role; none where it is in a folder

	Replicas []replica.Replica
	Position int64         // of the feed
	Ahead    time.Duration // of the database's clock, this machine's is
	Standby  bool          // it takes no writes
	Lost     int64         // files of releases whose content is missing
}

// checkTime bounds SQLite's own check: a large database takes minutes.
const checkTime = 5 * time.Second

// Examine looks at a database without changing it, whether it is in use or not: nothing is made and nothing migrated.
// Errors are those of Open; a database that is not there yet is NotFound.
func Examine(ctx context.Context, target string) (f Findings, err error) {
	db := &DB{clock: time.Now, logger: slog.New(slog.DiscardHandler), nudged: map[chan struct{}]struct{}{}}
	embedded := !strings.Contains(target, "://")
	if embedded {
		target = strings.TrimPrefix(target, "sqlite:")
		if _, err := os.Stat(target); errors.Is(err, fs.ErrNotExist) {
			return f, fault.New(fault.NotFound, "database_missing", "there is no database at %s", target).
				WithHint("the first start makes it; where it was there before, restore a backup: loopbackd restore")
		}
		_, err = db.openSQLite(ctx, target)
	} else {
		_, err = db.openPostgres(ctx, target)
	}
	if err != nil {
		return f, err
	}
	defer func() { err = errors.Join(err, db.closePools()) }()
	names, err := fs.Glob(migrations, "migrations/*.sql")
	if err != nil {
		return f, err
	}
	for _, name := range names {
		digits, _, _ := strings.Cut(strings.TrimPrefix(name, "migrations/"), "_")
		if v, err := strconv.ParseInt(digits, 10, 64); err == nil {
			f.Newest = max(f.Newest, v)
		}
	}
	began := time.Now()
	if err := db.reads.QueryRowContext(ctx, "SELECT COALESCE(max(version_id), 0) FROM "+versionTable).Scan(&f.Schema); err != nil {
		return f, db.engine.explain(fmt.Errorf("reading the schema's version: %w", err))
	}
	f.Read = time.Since(began)
	if f.Schema > f.Newest {
		return f, fault.New(fault.Precondition, "schema_too_new", "the database has schema version %d; this program knows versions up to %d", f.Schema, f.Newest).
			WithHint("run the version of loopbackd that last used this database, or a newer one")
	}
	if !embedded {
		return f, db.examineShared(ctx, &f)
	}
	// Taking the write lock and giving it back changes nothing, and tells whether somebody keeps it.
	conn, err := db.writes.Conn(ctx)
	if err != nil {
		return f, db.engine.explain(err)
	}
	defer conn.Close()
	if _, err := conn.ExecContext(ctx, "BEGIN IMMEDIATE"); err != nil {
		return f, db.engine.explain(err)
	}
	if _, err := conn.ExecContext(ctx, "ROLLBACK"); err != nil {
		return f, db.engine.explain(err)
	}
	limited, cancel := context.WithTimeout(ctx, checkTime)
	defer cancel()
	var verdict string
	switch err := db.reads.QueryRowContext(limited, "PRAGMA quick_check(1)").Scan(&verdict); {
	case limited.Err() != nil && ctx.Err() == nil:
	case err != nil:
		return f, db.engine.explain(err)
	case verdict != "ok":
		return f, fault.New(fault.Unavailable, "database_corrupt", "the database is damaged: %s", strings.Join(strings.Fields(verdict), " ")).
			WithHint("stop loopbackd, keep %s aside, and restore a backup: loopbackd restore", target)
	default:
		f.Whole = true
	}
	return f, nil
}

// examineShared looks at what several replicas share, as far as the schema has it.
func (db *DB) examineShared(ctx context.Context, f *Findings) (err error) {
	if f.Schema < blobsSince {
		return nil
	}
	asked := time.Now()
	theirs, err := db.Clock(ctx)
	if err != nil {
		return err
	}
	f.Ahead = asked.Add(time.Since(asked) / 2).Sub(theirs)
	view := db.View()
	if err := view.row(ctx, []any{&f.Standby}, "SELECT pg_is_in_recovery()"); err != nil {
		return err
	}
	if f.Position, err = db.Position(ctx); err != nil {
		return err
	}
	if f.Replicas, err = view.Replicas(ctx); err != nil {
		return err
	}
	if f.Lost, err = view.number(ctx, `SELECT count(*) FROM blobs WHERE size > 0
		AND NOT EXISTS (SELECT 1 FROM blob_chunks WHERE blob_chunks.version = blobs.version AND number = 0)`); err != nil {
		return err
	}
	f.Metadata, err = db.examineMetadata(ctx, f.Schema)
	return err
}

// blobsSince is the schema that has blobs.
const blobsSince = 11

// examineMetadata reads the newest release metadata of each role.
func (db *DB) examineMetadata(ctx context.Context, schema int64) (map[string][]byte, error) {
	if schema < blobsSince {
		return nil, nil
	}
	view := db.View()
	blobs, err := view.Blobs(ctx, "metadata/")
	if err != nil {
		return nil, err
	}
	newest := map[string]release.Blob{}
	number := func(b release.Blob) int64 {
		digits, _, _ := strings.Cut(strings.TrimPrefix(b.Key, "metadata/"), ".")
		n, _ := strconv.ParseInt(digits, 10, 64) // timestamp.json has none
		return n
	}
	for _, b := range blobs {
		role := strings.TrimLeft(strings.TrimPrefix(b.Key, "metadata/"), "0123456789.")
		if has, ok := newest[role]; !ok || number(b) > number(has) {
			newest[role] = b
		}
	}
	out := map[string][]byte{}
	for _, b := range newest {
		var content []byte
		for n := int64(0); int64(len(content)) < b.Size; n++ {
			chunk, err := view.BlobChunk(ctx, b.Version, n)
			if err != nil {
				return nil, err
			}
			content = append(content, chunk...)
		}
		out[strings.TrimPrefix(b.Key, "metadata/")] = content
	}
	return out, nil
}

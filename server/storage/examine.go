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
)

// Findings are what Examine saw.
type Findings struct {
	Schema, Newest int64             // the database's version, and that of this program
	Read           time.Duration     // that a read took
	Whole          bool              // SQLite's own check found nothing, as far as it got in its time
	Metadata       map[string][]byte // release metadata by its file's name, the newest of each role; none where it is in a folder
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
		f.Metadata, err = db.examineMetadata(ctx, f.Schema)
		return f, err
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

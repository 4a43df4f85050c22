package storage

import (
	"context"
	"database/sql"
	"embed"
	"fmt"
	"io/fs"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/pressly/goose/v3"

	"github.com/loopbackd/loopback/fault"
)

//go:embed migrations/*.sql
var migrations embed.FS

// versionTable is where the schema's version is kept.
const versionTable = "schema_versions"

// dialect is how a migration's text is made the database's own.
type dialect struct {
	goose   goose.Dialect
	rewrite func(text string) string
	lock    func(ctx context.Context) (release func(), err error) // keeps other replicas from migrating; nil: there is no such lock
}

// steps are the migrations, and the version that they lead to.
func (d dialect) steps() (steps []*goose.Migration, newest int64, err error) {
	names, err := fs.Glob(migrations, "migrations/*.sql")
	if err != nil {
		return nil, 0, err
	}
	for _, name := range names {
		digits, _, _ := strings.Cut(strings.TrimPrefix(name, "migrations/"), "_")
		version, err := strconv.ParseInt(digits, 10, 64)
		if err != nil {
			return nil, 0, fmt.Errorf("migration %s has no number: %w", name, err)
		}
		text, err := migrations.ReadFile(name)
		if err != nil {
			return nil, 0, err
		}
		newest = max(newest, version)
		steps = append(steps, goose.NewGoMigration(version, &goose.GoFunc{RunTx: func(ctx context.Context, tx *sql.Tx) error {
			_, err := tx.ExecContext(ctx, d.rewrite(string(text)))
			return err
		}}, nil))
	}
	return steps, newest, nil
}

// newestSchema is the version that this program brings a database to.
var newestSchema = sync.OnceValues(func() (int64, error) {
	_, newest, err := dialect{}.steps()
	return newest, err
})

// SchemaNewer tells whether a later version of this program has brought the database further than this one knows.
func (v *View) SchemaNewer(ctx context.Context) (bool, error) {
	newest, err := newestSchema()
	if err != nil {
		return false, err
	}
	has, err := v.number(ctx, "SELECT max(version_id) FROM "+versionTable)
	if err != nil {
		return false, fmt.Errorf("reading the schema's version: %w", err)
	}
	return has > newest, nil
}

func (d dialect) provider(db *sql.DB, steps []*goose.Migration) (*goose.Provider, error) {
	return goose.NewProvider(d.goose, db, nil, goose.WithGoMigrations(steps...),
		goose.WithDisableGlobalRegistry(true), goose.WithTableName(versionTable), goose.WithLogger(goose.NopLogger()))
}

// migrate brings the schema up to date. It refuses a schema that is newer than this program.
func (db *DB) migrate(ctx context.Context, d dialect) error {
	steps, newest, err := d.steps()
	if err != nil {
		return err
	}
	if d.lock != nil {
		release, err := d.lock(ctx)
		if err != nil {
			return fmt.Errorf("waiting for other replicas to bring the schema up to date: %w", db.engine.explain(err))
		}
		defer release()
	}
	provider, err := d.provider(db.writes, steps)
	if err != nil {
		return err
	}
	for try := 0; ; try++ {
		err := db.upgrade(ctx, provider, newest)
		if err == nil || d.lock != nil || try == migrationTries || fault.KindOf(err) == fault.Precondition {
			return err
		}
		// Somebody else may be at it, in a transaction as we are: one of us has done it by now.
		pause := time.NewTimer(100 * time.Millisecond)
		select {
		case <-pause.C:
		case <-ctx.Done():
			pause.Stop()
			return err
		}
	}
}

const migrationTries = 5

func (db *DB) upgrade(ctx context.Context, provider *goose.Provider, newest int64) error {
	has, err := provider.GetDBVersion(ctx)
	if err != nil {
		return fmt.Errorf("reading the schema's version: %w", db.engine.explain(err))
	}
	if has > newest {
		return fault.New(fault.Precondition, "schema_too_new",
			"the database has schema version %d; this program knows versions up to %d", has, newest).
			WithHint("run the version of loopbackd that last used this database, or a newer one")
	}
	if has == newest {
		return nil
	}
	if _, err := provider.Up(ctx); err != nil {
		return fmt.Errorf("bringing the schema from version %d to %d: %w", has, newest, db.engine.explain(err))
	}
	return nil
}

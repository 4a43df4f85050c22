package storage

import (
	"context"
	"database/sql"
	"embed"
	"fmt"
	"io/fs"
	"strconv"
	"strings"

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
	options []goose.ProviderOption
}

// migrate brings the schema up to date. It refuses a schema that is newer than this program.
func (db *DB) migrate(ctx context.Context, d dialect) error {
	names, err := fs.Glob(migrations, "migrations/*.sql")
	if err != nil {
		return err
	}
	var steps []*goose.Migration
	newest := int64(0)
	for _, name := range names {
		digits, _, _ := strings.Cut(strings.TrimPrefix(name, "migrations/"), "_")
		version, err := strconv.ParseInt(digits, 10, 64)
		if err != nil {
			return fmt.Errorf("migration %s has no number: %w", name, err)
		}
		text, err := migrations.ReadFile(name)
		if err != nil {
			return err
		}
		newest = max(newest, version)
		steps = append(steps, goose.NewGoMigration(version, &goose.GoFunc{RunTx: func(ctx context.Context, tx *sql.Tx) error {
			_, err := tx.ExecContext(ctx, d.rewrite(string(text)))
			return err
		}}, nil))
	}
	options := append([]goose.ProviderOption{goose.WithGoMigrations(steps...), goose.WithDisableGlobalRegistry(true),
		goose.WithTableName(versionTable), goose.WithLogger(goose.NopLogger())}, d.options...)
	provider, err := goose.NewProvider(d.goose, db.writes, nil, options...)
	if err != nil {
		return err
	}
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

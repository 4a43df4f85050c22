package storage

import (
	"context"
	"errors"
)

// OpenAt makes an SQLite database of an earlier version of the schema.
func OpenAt(ctx context.Context, path string, version int64) (err error) {
	db := &DB{}
	d, err := db.openSQLite(ctx, path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.closePools()) }()
	steps, _, err := d.steps()
	if err != nil {
		return err
	}
	provider, err := d.provider(db.writes, steps)
	if err != nil {
		return err
	}
	_, err = provider.UpTo(ctx, version)
	return err
}

// NewestSchema is the version that this program brings a database to.
func NewestSchema() (int64, error) { return newestSchema() }

package storage

import (
	"context"
	"fmt"
	"io/fs"
	"time"

	"github.com/loopbackd/loopback/release"
)

var blobsTable = newTable("blobs", func(b *release.Blob) []column {
	return []column{{"key", &b.Key}, {"version", &b.Version}, {"size", &b.Size}, {"modified", moment{&b.Modified}}}
})

// Blob by key; fs.ErrNotExist where there is none.
func (v *View) Blob(ctx context.Context, key string) (release.Blob, error) {
	found, err := blobsTable.list(ctx, v.session, "WHERE key = $1", key)
	if err == nil && len(found) == 0 {
		err = fmt.Errorf("blob %s: %w", key, fs.ErrNotExist)
	}
	if err != nil {
		return release.Blob{}, err
	}
	return found[0], nil
}

// Blobs whose keys begin with an ASCII prefix, in order of their keys.
func (v *View) Blobs(ctx context.Context, prefix string) ([]release.Blob, error) {
	if prefix == "" {
		return blobsTable.list(ctx, v.session, "ORDER BY key")
	}
	end := []byte(prefix)
	end[len(end)-1]++
	return blobsTable.list(ctx, v.session, "WHERE key >= $1 AND key < $2 ORDER BY key", prefix, string(end))
}

// BlobChunk is one part of a version's content; fs.ErrNotExist where it is not there (any more).
func (v *View) BlobChunk(ctx context.Context, version string, number int64) ([]byte, error) {
	rows, err := v.session.query(ctx, "SELECT data FROM blob_chunks WHERE version = $1 AND number = $2", version, number)
	if err != nil {
		return nil, fmt.Errorf("reading a blob: %w", err)
	}
	defer rows.Close()
	var data []byte
	found := rows.Next()
	if found {
		err = rows.Scan(&data)
	}
	if err == nil {
		err = rows.Err()
	}
	if err == nil && !found {
		return nil, fmt.Errorf("chunk %d of version %s: %w", number, version, fs.ErrNotExist)
	}
	if err != nil {
		return nil, fmt.Errorf("reading a blob: %w", v.session.explain(err))
	}
	return data, nil
}

// PutBlobChunk adds a part of a version's content. The feed does not speak of blobs.
func (tx *Tx) PutBlobChunk(ctx context.Context, version string, number int64, data []byte) error {
	tx.touch()
	if err := tx.session.exec(ctx, "INSERT INTO blob_chunks (version, number, at, data) VALUES ($1, $2, $3, $4)", version, number, micros(tx.now), data); err != nil {
		return fmt.Errorf("writing a blob: %w", err)
	}
	return nil
}

// PutBlob makes a version, whose chunks are there, what the key holds.
func (tx *Tx) PutBlob(ctx context.Context, b release.Blob) error {
	tx.touch()
	b.Modified = tx.now
	return blobsTable.put(ctx, tx.session, &b)
}

// DeleteBlob removes a key; one that is missing is no error.
func (tx *Tx) DeleteBlob(ctx context.Context, key string) error {
	tx.touch()
	if err := tx.session.exec(ctx, "DELETE FROM blobs WHERE key = $1", key); err != nil {
		return fmt.Errorf("deleting a blob: %w", err)
	}
	return nil
}

// SweepBlobChunks deletes chunks from before a time that no key points at.
func (tx *Tx) SweepBlobChunks(ctx context.Context, before time.Time) error {
	tx.touch()
	if err := tx.session.exec(ctx, "DELETE FROM blob_chunks WHERE at < $1 AND version NOT IN (SELECT version FROM blobs)", micros(before)); err != nil {
		return fmt.Errorf("sweeping blobs: %w", err)
	}
	return nil
}

// TakeLease gives a lease to an owner until a time, or renews it, unless somebody else has it.
func (tx *Tx) TakeLease(ctx context.Context, name, owner string, until time.Time) (held bool, err error) {
	var has string
	var end int64
	rows, err := tx.session.query(ctx, "SELECT owner, until FROM leases WHERE name = $1", name)
	if err != nil {
		return false, fmt.Errorf("reading a lease: %w", err)
	}
	if rows.Next() {
		err = rows.Scan(&has, &end)
	}
	if err == nil {
		err = rows.Err()
	}
	rows.Close()
	if err != nil {
		return false, fmt.Errorf("reading a lease: %w", tx.session.explain(err))
	}
	if has != owner && end > micros(tx.now) {
		return false, nil
	}
	tx.touch()
	err = tx.session.exec(ctx, `INSERT INTO leases (name, owner, until) VALUES ($1, $2, $3)
		ON CONFLICT (name) DO UPDATE SET owner = excluded.owner, until = excluded.until`, name, owner, micros(until))
	if err != nil {
		return false, fmt.Errorf("writing a lease: %w", err)
	}
	return true, nil
}

// DropLease gives a lease back; one that is somebody else's by now stays.
func (tx *Tx) DropLease(ctx context.Context, name, owner string) error {
	tx.touch()
	if err := tx.session.exec(ctx, "DELETE FROM leases WHERE name = $1 AND owner = $2", name, owner); err != nil {
		return fmt.Errorf("giving a lease back: %w", err)
	}
	return nil
}

// ExpectBlob fails with release.ErrBlobChanged unless the key holds that version; empty: it must hold none.
func (tx *Tx) ExpectBlob(ctx context.Context, key, version string) error {
	found, err := blobsTable.list(ctx, tx.session, "WHERE key = $1", key)
	if err != nil {
		return err
	}
	if len(found) == 0 && version == "" || len(found) == 1 && found[0].Version == version {
		return nil
	}
	return release.ErrBlobChanged
}

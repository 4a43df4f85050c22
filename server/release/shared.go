package release

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"time"

	"github.com/loopbackd/loopback/release"
)

// BlobReader reads blobs that lie in the database.
type BlobReader interface {
	Blob(ctx context.Context, key string) (release.Blob, error)
	Blobs(ctx context.Context, prefix string) ([]release.Blob, error)
	BlobChunk(ctx context.Context, version string, number int64) ([]byte, error)
}

// BlobTx writes them.
type BlobTx interface {
	PutBlobChunk(ctx context.Context, version string, number int64, data []byte) error
	PutBlob(ctx context.Context, b release.Blob) error
	ExpectBlob(ctx context.Context, key, version string) error
	DeleteBlob(ctx context.Context, key string) error
	SweepBlobChunks(ctx context.Context, before time.Time) error
}

// BlobStore is where they lie.
type BlobStore interface {
	View() BlobReader
	Observe(ctx context.Context, do func(BlobTx) error) error
}

// Shared is Blobs in the database that replicas share.
//
// A value is chunks under a version that nobody has used before, and a row that says which version a key holds. Chunks
// are written in transactions of their own, so that nobody's writes wait for a whole program; the row comes last. What a
// reader has begun it can read to its end, whatever is written meanwhile: versions that no key holds any more are swept
// an hour later.
type Shared struct {
	store BlobStore
	clock func() time.Time
}

// NewShared is the blobs of a database.
func NewShared(store BlobStore, clock func() time.Time) *Shared { return &Shared{store, clock} }

// chunkSize is what one transaction writes: on a slow disk a tenth of a second, for which all writers wait.
const chunkSize = 512 << 10

// orphanLife is for how long chunks that no key holds may still be being written, or read.
const orphanLife = time.Hour

// Put writes chunk by chunk.
func (s *Shared) Put(ctx context.Context, key string, r io.Reader, size int64) error {
	b := release.Blob{Key: key, Version: rand.Text(), Size: size}
	buffer := make([]byte, min(size, chunkSize))
	for at, number := int64(0), int64(0); ; number++ {
		part := buffer[:min(size-at, chunkSize)]
		if n, err := io.ReadFull(r, part); err != nil {
			if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
				err = fmt.Errorf("%w: got %d bytes of %d", io.ErrUnexpectedEOF, at+int64(n), size)
			}
			return fmt.Errorf("write blob %s: %w", key, err)
		}
		at += int64(len(part))
		if at == size { // nothing may come after it
			if n, _ := io.ReadFull(r, make([]byte, 1)); n > 0 {
				return fmt.Errorf("write blob %s: it is longer than %d bytes", key, size)
			}
		}
		err := s.store.Observe(ctx, func(tx BlobTx) error {
			if len(part) > 0 {
				if err := tx.PutBlobChunk(ctx, b.Version, number, part); err != nil {
					return err
				}
			}
			if at < size {
				return nil
			}
			return tx.PutBlob(ctx, b)
		})
		if err != nil {
			return fmt.Errorf("write blob %s: %w", key, err)
		}
		if at == size {
			return nil
		}
	}
}

// Switch writes all of it in one transaction.
func (s *Shared) Switch(ctx context.Context, was string, values []Value) error {
	versions := make([]string, len(values))
	for i := range versions {
		versions[i] = rand.Text()
	}
	return s.store.Observe(ctx, func(tx BlobTx) error {
		if err := tx.ExpectBlob(ctx, values[len(values)-1].Key, was); err != nil {
			return err
		}
		for i, v := range values {
			for at, number := 0, int64(0); at < len(v.Data); at, number = at+chunkSize, number+1 {
				if err := tx.PutBlobChunk(ctx, versions[i], number, v.Data[at:min(at+chunkSize, len(v.Data))]); err != nil {
					return err
				}
			}
			if err := tx.PutBlob(ctx, release.Blob{Key: v.Key, Version: versions[i], Size: int64(len(v.Data))}); err != nil {
				return err
			}
		}
		return nil
	})
}

// Open reads what the key holds now, to its end.
func (s *Shared) Open(ctx context.Context, key string, offset int64) (io.ReadCloser, error) {
	b, err := s.store.View().Blob(ctx, key)
	if err != nil {
		return nil, err
	}
	return &chunks{ctx: ctx, from: s.store.View(), blob: b, at: offset}, nil
}

// Stat describes what the key holds.
func (s *Shared) Stat(ctx context.Context, key string) (release.Blob, error) {
	return s.store.View().Blob(ctx, key)
}

// List reads rows only.
func (s *Shared) List(ctx context.Context, prefix string) ([]release.Blob, error) {
	return s.store.View().Blobs(ctx, prefix)
}

// Delete removes the row; its chunks are swept later.
func (s *Shared) Delete(ctx context.Context, key string) error {
	return s.store.Observe(ctx, func(tx BlobTx) error { return tx.DeleteBlob(ctx, key) })
}

// Sweep deletes what no key holds: what was replaced or deleted, and what somebody began to write and did not finish.
func (s *Shared) Sweep(ctx context.Context) error {
	return s.store.Observe(ctx, func(tx BlobTx) error { return tx.SweepBlobChunks(ctx, s.clock().Add(-orphanLife)) })
}

// chunks reads a version.
type chunks struct {
	ctx  context.Context
	from BlobReader
	blob release.Blob
	at   int64
	held []byte // from at on
}

func (c *chunks) Read(p []byte) (int, error) {
	if c.at >= c.blob.Size {
		return 0, io.EOF
	}
	if len(c.held) == 0 {
		data, err := c.from.BlobChunk(c.ctx, c.blob.Version, c.at/chunkSize)
		if err != nil {
			return 0, fmt.Errorf("read blob %s: %w", c.blob.Key, err)
		}
		begins := c.at - c.at%chunkSize
		if int64(len(data)) != min(chunkSize, c.blob.Size-begins) {
			return 0, fmt.Errorf("read blob %s: chunk %d has %d bytes: %w", c.blob.Key, c.at/chunkSize, len(data), fs.ErrInvalid)
		}
		c.held = data[c.at-begins:]
	}
	n := copy(p, c.held)
	c.held, c.at = c.held[n:], c.at+int64(n)
	return n, nil
}

func (c *chunks) Close() error { return nil }

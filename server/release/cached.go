package release

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/loopbackd/loopback/release"
)

// Cached is Blobs that lie elsewhere, artefacts of which are kept in a folder of this machine once somebody asked for
// them: a fleet that updates reads each from the database once a replica. An artefact's key is its hash, and what is
// kept was checked against it, so that it is never stale. Where the folder cannot be written (a full disk, say) it is
// done without; where the database is away, what is kept is served.
type Cached struct {
	Blobs
	folder *Folder
	log    *slog.Logger

	mu       sync.Mutex
	fetching map[string]*fetch
}

type fetch struct {
	done chan struct{} // closed when it has ended
	err  error
}

// NewCached keeps artefacts of blobs in a folder.
func NewCached(blobs Blobs, folder *Folder, log *slog.Logger) *Cached {
	return &Cached{Blobs: blobs, folder: folder, log: log, fetching: map[string]*fetch{}}
}

// fetchTime is how long one artefact may take to come.
const fetchTime = 10 * time.Minute

// Open reads artefacts from the folder, and fetches those that are missing there.
func (c *Cached) Open(ctx context.Context, key string, offset int64) (io.ReadCloser, error) {
	sum, ok := strings.CutPrefix(key, "artefacts/")
	if !ok {
		return c.Blobs.Open(ctx, key, offset)
	}
	if r, err := c.folder.Open(ctx, key, offset); err == nil {
		return r, nil
	}
	err := c.fetch(ctx, key, sum)
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	if err == nil {
		return c.folder.Open(ctx, key, offset)
	}
	if !errors.Is(err, fs.ErrNotExist) {
		c.log.Warn("an artefact cannot be kept on this machine; it is read from the database each time", "artefact", key, "error", err)
	}
	return c.Blobs.Open(ctx, key, offset)
}

// Stat asks where it lies; the folder only where that does not answer.
func (c *Cached) Stat(ctx context.Context, key string) (release.Blob, error) {
	b, err := c.Blobs.Stat(ctx, key)
	if err != nil && !errors.Is(err, fs.ErrNotExist) && strings.HasPrefix(key, "artefacts/") {
		if kept, e := c.folder.Stat(ctx, key); e == nil {
			return kept, nil
		}
	}
	return b, err
}

// fetch brings an artefact into the folder, once for all who ask at the same time. It goes on when they leave.
func (c *Cached) fetch(ctx context.Context, key, sum string) error {
	c.mu.Lock()
	f := c.fetching[key]
	if f == nil {
		f = &fetch{done: make(chan struct{})}
		c.fetching[key] = f
		going, cancel := context.WithTimeout(context.WithoutCancel(ctx), fetchTime)
		go func() {
			defer cancel()
			f.err = c.bring(going, key, sum)
			c.mu.Lock()
			delete(c.fetching, key)
			c.mu.Unlock()
			close(f.done)
		}()
	}
	c.mu.Unlock()
	select {
	case <-f.done:
		return f.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (c *Cached) bring(ctx context.Context, key, sum string) (err error) {
	b, err := c.Blobs.Stat(ctx, key)
	if err != nil {
		return err
	}
	r, err := c.Blobs.Open(ctx, key, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	return c.folder.Put(ctx, key, &checked{from: r, left: b.Size, hash: sha256.New(), want: sum}, b.Size)
}

// checked fails with its last byte where all of it does not have the hash.
type checked struct {
	from io.Reader
	left int64
	hash hash.Hash
	want string
}

func (c *checked) Read(p []byte) (int, error) {
	n, err := c.from.Read(p)
	c.hash.Write(p[:n])
	if c.left -= int64(n); c.left == 0 && hex.EncodeToString(c.hash.Sum(nil)) != c.want {
		return 0, fmt.Errorf("what is stored as artefact %s has another hash", c.want)
	}
	return n, err
}

// Import gives blobs that hold no publication yet what a folder has: releases from before there were several replicas.
// It verifies them first. Of several that do it at once one wins, and the others' releases are to be published again.
func Import(ctx context.Context, from *Folder, to Blobs) (imported bool, err error) {
	if _, err := to.Stat(ctx, Current); !errors.Is(err, fs.ErrNotExist) {
		return false, err
	}
	r, err := load(ctx, from)
	if err != nil || r.root == nil {
		return false, err
	}
	for _, t := range r.targets {
		key := artefactKey(hex.EncodeToString(t.SHA256))
		if err := carry(ctx, key, t.Length, from, to); err != nil {
			return false, err
		}
	}
	var files []Value
	names := []string{fmt.Sprintf("%d.targets.json", r.targetsVersion), fmt.Sprintf("%d.snapshot.json", r.snapshotVersion), timestampName}
	for v := r.rootVersion; v > 0; v-- {
		names = append([]string{rootName(v)}, names...)
	}
	for _, name := range names {
		b, err := readMetadata(ctx, from, metadataKey(name))
		if errors.Is(err, fs.ErrNotExist) && strings.HasSuffix(name, ".root.json") {
			continue // the chain does not begin with 1
		}
		if err != nil {
			return false, err
		}
		files = append(files, Value{metadataKey(name), b})
	}
	err = to.Switch(ctx, "", files)
	if errors.Is(err, release.ErrBlobChanged) {
		return false, nil
	}
	return err == nil, err
}

func carry(ctx context.Context, key string, length int64, from *Folder, to Blobs) (err error) {
	if b, err := to.Stat(ctx, key); err == nil && b.Size == length {
		return nil
	}
	r, err := from.Open(ctx, key, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	return to.Put(ctx, key, r, length)
}

package release

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/loopbackd/loopback/durable"
	"github.com/loopbackd/loopback/release"
)

// Blobs stores values under keys ("artefacts/<sha256>"), as an object store does: a value is replaced whole or not at
// all, and one that Put acknowledged is durable. A missing key is fs.ErrNotExist.
type Blobs interface {
	// Put stores exactly size bytes of r; fewer are an error and change nothing.
	Put(ctx context.Context, key string, r io.Reader, size int64) error
	// Switch stores small values, the last of which refers to the others, if that one's version is was still; else it
	// changes nothing and fails with release.ErrBlobChanged. It is cut off before the last, or not at all.
	Switch(ctx context.Context, was string, values []Value) error
	// Open reads from offset to the end.
	Open(ctx context.Context, key string, offset int64) (io.ReadCloser, error)
	Stat(ctx context.Context, key string) (release.Blob, error)
	// List returns all blobs whose key begins with prefix, in order of their keys.
	List(ctx context.Context, prefix string) ([]release.Blob, error)
	// Delete removes the key; one that is missing is no error.
	Delete(ctx context.Context, key string) error
}

// Value is a small one with its key.
type Value struct {
	Key  string
	Data []byte
}

// Folder is Blobs in a directory.
type Folder struct{ root string }

// NewFolder makes the directory where it is missing.
func NewFolder(root string) (*Folder, error) {
	if err := durable.MkdirAll(root, 0o700); err != nil {
		return nil, fmt.Errorf("make the release folder: %w", err)
	}
	return &Folder{root}, nil
}

func (f *Folder) path(key string) (string, error) {
	if !fs.ValidPath(key) || key == "." || strings.Contains(key, durable.Temporary) {
		return "", fmt.Errorf("blob key %q is not valid", key)
	}
	return filepath.Join(f.root, filepath.FromSlash(key)), nil
}

// Put writes beside the final name, syncs, renames and syncs the directory.
func (f *Folder) Put(_ context.Context, key string, r io.Reader, size int64) error {
	path, err := f.path(key)
	if err != nil {
		return err
	}
	if err := durable.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	err = durable.Write(path, 0o600, func(w io.Writer) error {
		n, err := io.Copy(w, io.LimitReader(r, size+1))
		if err == nil && n != size {
			err = fmt.Errorf("%w: got %d bytes of %d", io.ErrUnexpectedEOF, n, size)
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("write blob %s: %w", key, err)
	}
	return nil
}

// Switch writes one file after the other. One process at a time has the folder, and switches one thing at a time.
func (f *Folder) Switch(ctx context.Context, was string, values []Value) error {
	has, err := f.Stat(ctx, values[len(values)-1].Key)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if has.Version != was {
		return release.ErrBlobChanged
	}
	for _, v := range values {
		if err := f.Put(ctx, v.Key, bytes.NewReader(v.Data), int64(len(v.Data))); err != nil {
			return err
		}
	}
	return nil
}

// Open opens the file at the offset.
func (f *Folder) Open(_ context.Context, key string, offset int64) (io.ReadCloser, error) {
	path, err := f.path(key)
	if err != nil {
		return nil, err
	}
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	if _, err := file.Seek(offset, io.SeekStart); err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return file, nil
}

// Stat describes the file.
func (f *Folder) Stat(_ context.Context, key string) (release.Blob, error) {
	path, err := f.path(key)
	if err != nil {
		return release.Blob{}, err
	}
	info, err := os.Stat(path)
	if err != nil {
		return release.Blob{}, err
	}
	if info.IsDir() {
		return release.Blob{}, fmt.Errorf("blob %s: %w", key, fs.ErrNotExist)
	}
	return describeFile(key, info), nil
}

// describeFile takes a file's inode, which a file that replaces it has another of, and its time for its version.
func describeFile(key string, info fs.FileInfo) release.Blob {
	inode := uint64(0)
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		inode = st.Ino
	}
	return release.Blob{Key: key, Version: fmt.Sprintf("%d-%d-%d", inode, info.ModTime().UnixNano(), info.Size()), Size: info.Size(), Modified: info.ModTime()}
}

// List walks the directory. Files that are still being written are not there yet.
func (f *Folder) List(_ context.Context, prefix string) ([]release.Blob, error) {
	var out []release.Blob
	start := filepath.Join(f.root, filepath.FromSlash(prefix[:strings.LastIndexByte(prefix, '/')+1]))
	err := filepath.WalkDir(start, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil || d.IsDir() || strings.HasPrefix(d.Name(), durable.Temporary) {
			return err
		}
		rel, err := filepath.Rel(f.root, path)
		if err != nil || !strings.HasPrefix(filepath.ToSlash(rel), prefix) {
			return err
		}
		info, err := d.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		out = append(out, describeFile(filepath.ToSlash(rel), info))
		return nil
	})
	slices.SortFunc(out, func(a, b release.Blob) int { return strings.Compare(a.Key, b.Key) })
	return out, err
}

// Delete removes the file, and its directory when that is empty now.
func (f *Folder) Delete(_ context.Context, key string) error {
	path, err := f.path(key)
	if err != nil {
		return err
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if dir := filepath.Dir(path); dir != f.root {
		_ = os.Remove(dir) // fails where something is left in it, which is the point
	}
	return nil
}

// readMetadata reads a small blob.
func readMetadata(ctx context.Context, b Blobs, key string) (_ []byte, err error) {
	r, err := b.Open(ctx, key, 0)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	data, err := io.ReadAll(io.LimitReader(r, maxMetadata+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", key, err)
	}
	if len(data) > maxMetadata {
		return nil, fmt.Errorf("read %s: longer than %d bytes", key, maxMetadata)
	}
	if err := release.CheckMetadata(data); err != nil {
		return nil, fmt.Errorf("read %s: %w", key, err)
	}
	return data, nil
}

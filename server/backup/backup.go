// Package backup writes a control plane to one file and makes one from it again.
//
// A backup is a gzipped tar of the database (a consistent copy, taken while it is in use), the keys and the releases. It
// holds everything that hosts trust: keep it as you would keep the machine. With PostgreSQL the database is left to its
// own tools; the archive then holds the rest.
//
// A restored control plane begins a new epoch. What was handed out since the backup, or revoked since, cannot be told
// apart, so everything that opens something ends: enrolment tokens, API keys, the bootstrap code. Hosts keep their keys
// and come back by themselves. Those that hold newer configuration than the backup knew keep it until an operator
// decides (package section).
package backup

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/loopbackd/loopback/durable"
	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/server/storage"
)

// format of the archive. An older program refuses a newer one.
const format = 1

// Manifest is the first file of an archive.
type Manifest struct {
	Format    int       `json:"format"`
	Version   string    `json:"version"` // of the program that wrote it
	CreatedAt time.Time `json:"createdAt"`
	Database  string    `json:"database"` // "sqlite", or "elsewhere"
}

// names in the archive
const (
	manifestName = "manifest.json"
	databaseName = "loopback.db"
)

// Create writes a backup of the control plane in dataDir to a file that must not exist. The control plane may run. Should
// it fail, nothing is left under that name.
func Create(ctx context.Context, dataDir, database, version, to string, now time.Time) (err error) {
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return fault.New(fault.Exists, "backup_exists", "%s exists already", to).WithHint("give the backup a name of its own")
	}
	if err != nil {
		return failed(to, err)
	}
	defer func() {
		err = errors.Join(err, out.Close())
		if err != nil {
			os.Remove(to)
		}
	}()
	zipped := gzip.NewWriter(out)
	w := tar.NewWriter(zipped)
	m := Manifest{Format: format, Version: version, CreatedAt: now.UTC(), Database: "elsewhere"}
	copied := ""
	if !strings.Contains(database, "://") {
		m.Database = "sqlite"
		dir, err := os.MkdirTemp(filepath.Dir(to), ".backup-*")
		if err != nil {
			return failed(to, err)
		}
		defer os.RemoveAll(dir)
		copied = filepath.Join(dir, databaseName)
		if err := copyDatabase(ctx, database, copied); err != nil {
			return err
		}
	}
	manifest, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return err
	}
	if err := addBytes(w, manifestName, manifest, now); err != nil {
		return failed(to, err)
	}
	if copied != "" {
		err = addFile(w, databaseName, copied)
	}
	for _, folder := range []string{"keys", "releases"} {
		err = errors.Join(err, addFolder(ctx, w, dataDir, folder))
	}
	if err = errors.Join(err, w.Close(), zipped.Close(), out.Sync()); err != nil {
		return failed(to, err)
	}
	return nil
}

func copyDatabase(ctx context.Context, from, to string) error {
	if _, err := os.Stat(from); err != nil {
		return fault.New(fault.NotFound, "database_missing", "there is no database at %s", from).WithHint("give --data-dir or --database as loopbackd serve has them")
	}
	db, err := storage.Open(ctx, storage.Options{URL: from})
	if err != nil {
		return err
	}
	return errors.Join(db.Backup(ctx, to), db.Close())
}

func addBytes(w *tar.Writer, name string, content []byte, at time.Time) error {
	if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o600, Size: int64(len(content)), ModTime: at, Typeflag: tar.TypeReg}); err != nil {
		return err
	}
	_, err := w.Write(content)
	return err
}

func addFile(w *tar.Writer, name, path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return err
	}
	if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o600, Size: st.Size(), ModTime: st.ModTime(), Typeflag: tar.TypeReg}); err != nil {
		return err
	}
	_, err = io.CopyN(w, f, st.Size())
	return err
}

// addFolder adds the regular files below a folder; one that vanishes meanwhile (an upload's part) is passed over.
func addFolder(ctx context.Context, w *tar.Writer, base, folder string) error {
	return filepath.WalkDir(filepath.Join(base, folder), func(p string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil || !d.Type().IsRegular() || strings.HasPrefix(d.Name(), ".") {
			return err
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		rel, err := filepath.Rel(base, p)
		if err != nil {
			return err
		}
		if err := addFile(w, filepath.ToSlash(rel), p); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return nil
	})
}

func failed(name string, err error) error {
	if fault.KindOf(err) != fault.Internal {
		return err
	}
	return fault.New(fault.Unavailable, "backup_failed", "the backup %s could not be written", name).WithCause(err).
		WithHint("check that there is space there and that this user may write there")
}

func unreadable(name, what string, err error) error {
	return fault.New(fault.Invalid, "backup_unreadable", "%s is not a whole backup: %s", name, what).WithCause(err).
		WithHint("take the file that loopbackd backup wrote, unchanged")
}

// limit of what is unpacked, so that a file that only claims to be a backup cannot fill the disk.
const limit = 64 << 30

// unpack writes an archive's files below a folder.
func unpack(from, to string) (Manifest, error) {
	var m Manifest
	f, err := os.Open(from)
	if err != nil {
		return m, fault.New(fault.NotFound, "backup_missing", "the backup cannot be opened").WithCause(err).
			WithHint("give --from the file that loopbackd backup wrote")
	}
	defer f.Close()
	zipped, err := gzip.NewReader(f)
	if err != nil {
		return m, unreadable(from, "it is not gzipped", err)
	}
	r := tar.NewReader(zipped)
	left := int64(limit)
	for first := true; ; first = false {
		h, err := r.Next()
		if err == io.EOF {
			if first {
				return m, unreadable(from, "it is empty", nil)
			}
			// The checksum of the whole stands at the very end, after the archive's own.
			if _, err := io.Copy(io.Discard, zipped); err != nil {
				return m, unreadable(from, "it is damaged", err)
			}
			return m, nil
		}
		if err != nil {
			return m, unreadable(from, "it is damaged", err)
		}
		if h.Typeflag != tar.TypeReg || !filepath.IsLocal(h.Name) {
			return m, unreadable(from, fmt.Sprintf("it holds %q", h.Name), nil)
		}
		if left -= h.Size; left < 0 {
			return m, unreadable(from, "it is larger than a backup can be", nil)
		}
		if first {
			if h.Name != manifestName {
				return m, unreadable(from, "it does not begin with a manifest", nil)
			}
			if err := json.NewDecoder(r).Decode(&m); err != nil {
				return m, unreadable(from, "its manifest cannot be read", err)
			}
			if m.Format < 1 {
				return m, unreadable(from, "its manifest names no format", nil)
			}
			if m.Format != format {
				return m, fault.New(fault.Precondition, "backup_newer", "%s has format %d; this program knows %d", from, m.Format, format).
					WithHint("restore it with loopbackd %s or newer", m.Version)
			}
			continue
		}
		if err := extract(r, filepath.Join(to, filepath.FromSlash(h.Name))); err != nil {
			return m, unreadable(from, "it is damaged, or the disk is full", err)
		}
	}
}

func extract(r io.Reader, path string) error {
	if err := durable.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	if _, err := os.Lstat(path); err == nil {
		return fmt.Errorf("it holds %s twice", filepath.Base(path))
	}
	return durable.Write(path, 0o600, func(w io.Writer) error {
		_, err := io.Copy(w, r)
		return err
	})
}

// Package durable writes files that are there after a power cut.
//
// A file's content is on the disk once the file was synced, its name once its folder was; a folder that was just made has
// a name in its parent too. What these functions have written is there once they return nil. When the power goes, or the
// process is killed, while one runs, the old file is left, or the new one, never a part; a file whose name begins with
// Temporary may be left beside it, and is the caller's to remove.
//
// See rename(2), fsync(2), and Pillai et al., All File Systems Are Not Created Equal, OSDI 2014.
package durable

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// Temporary begins the names of files that are being written.
const Temporary = ".new-"

// MkdirAll makes a folder and those above it where they are missing, with the mode (before umask).
func MkdirAll(path string, mode fs.FileMode) error {
	path = filepath.Clean(path)
	if info, err := os.Stat(path); err == nil && info.IsDir() {
		return nil
	}
	parent := filepath.Dir(path)
	if parent != path {
		if err := MkdirAll(parent, mode); err != nil {
			return err
		}
	}
	if err := os.Mkdir(path, mode); err != nil {
		// Somebody else made it meanwhile; or it is a file, which the next call on it tells better.
		if info, failed := os.Stat(path); failed != nil || !info.IsDir() {
			return err
		}
	}
	return SyncDir(parent)
}

// WriteFile puts contents in a file's place, exactly with the mode. The folder must be there.
func WriteFile(path string, contents []byte, mode fs.FileMode) error {
	return Write(path, mode, func(w io.Writer) error {
		_, err := w.Write(contents)
		return err
	})
}

// Write puts what fill writes in a file's place, exactly with the mode. When fill fails the old file stays, and the error
// is fill's.
func Write(path string, mode fs.FileMode, fill func(io.Writer) error) (err error) {
	folder := filepath.Dir(path)
	f, err := os.CreateTemp(folder, Temporary+"*")
	if err != nil {
		return err
	}
	placed := false
	defer func() {
		if !placed {
			err = errors.Join(err, os.Remove(f.Name()))
		}
	}()
	err = fill(f)
	if err == nil {
		err = errors.Join(f.Chmod(mode), f.Sync())
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	placed = true
	return SyncDir(folder)
}

// SyncDir makes the names in a folder durable: after a rename, a removal, or a file made in another way.
func SyncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

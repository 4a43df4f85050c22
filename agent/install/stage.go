package install

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/loopbackd/loopback/durable"
	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/release"
)

func versionFolder(t release.Target) string {
	return t.Version + "-" + hex.EncodeToString(t.SHA256[:4])
}

// self opens the program that runs. What is behind this name cannot be exchanged, whatever happens to its path.
func self() (*os.File, error) {
	f, err := os.Open("/proc/self/exe")
	if err != nil {
		return nil, fmt.Errorf("open the program that runs: %w", err)
	}
	return f, nil
}

// stage copies the program that runs beside the other versions and returns its folder. What was written is hashed while
// it is written, and has its place only once it is durable.
func (l Layout) stage(t release.Target) (dir string, fresh bool, err error) {
	dir = l.version(versionFolder(t))
	if held, err := os.Open(filepath.Join(dir, "bin", release.Agent)); err == nil {
		sum, err := hashOf(held)
		if err := errors.Join(err, held.Close()); err != nil {
			return "", false, problem("read the staged program", err)
		}
		if bytes.Equal(sum, t.SHA256) {
			return dir, false, nil
		}
	}
	if err := durable.MkdirAll(l.versions(), 0o755); err != nil {
		return "", false, problem("make "+l.versions(), err)
	}
	temporary, err := os.MkdirTemp(l.Base(), stagingPrefix)
	if err != nil {
		return "", false, problem("stage the program", err)
	}
	defer os.RemoveAll(temporary)
	if err := copySelf(filepath.Join(temporary, "bin", release.Agent), t); err != nil {
		return "", false, err
	}
	if err := errors.Join(os.Chmod(temporary, 0o755), durable.SyncDir(temporary)); err != nil {
		return "", false, problem("stage the program", err)
	}
	if err := os.RemoveAll(dir); err != nil { // damaged, or of another program with the same first digits
		return "", false, problem("stage the program", err)
	}
	if err := os.Rename(temporary, dir); err != nil {
		return "", false, problem("stage the program", err)
	}
	if err := durable.SyncDir(l.versions()); err != nil {
		return "", false, problem("stage the program", err)
	}
	l.relabel(dir)
	return dir, true, nil
}

func copySelf(path string, t release.Target) error {
	from, err := self()
	if err != nil {
		return err
	}
	defer from.Close()
	if err := os.Mkdir(filepath.Dir(path), 0o755); err != nil {
		return problem("stage the program", err)
	}
	to, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o755)
	if err != nil {
		return problem("stage the program", err)
	}
	hash := sha256.New()
	n, err := io.Copy(io.MultiWriter(to, hash), io.LimitReader(from, t.Length+1))
	if err := errors.Join(err, to.Chmod(0o755), to.Sync(), to.Close()); err != nil {
		return problem("stage the program", err)
	}
	if n != t.Length || !bytes.Equal(hash.Sum(nil), t.SHA256) {
		return fault.New(fault.Internal, "release_mismatch", "the program changed while it was copied")
	}
	return problem("stage the program", durable.SyncDir(filepath.Dir(path)))
}

func hashOf(r io.Reader) ([]byte, error) {
	hash := sha256.New()
	if _, err := io.Copy(hash, io.LimitReader(r, release.MaxLength+1)); err != nil {
		return nil, err
	}
	return hash.Sum(nil), nil
}

// relabel gives files the SELinux label that the policy wants for their path. Where there is no SELinux there is
// nothing to do; where it fails, starting the unit will say so.
func (l Layout) relabel(paths ...string) {
	if _, err := os.Stat("/sys/fs/selinux/enforce"); l.Root != "" || err != nil {
		return
	}
	if program, err := exec.LookPath("restorecon"); err == nil {
		_ = exec.Command(program, append([]string{"-RF"}, paths...)...).Run()
	}
}

// point makes a symbolic link lead to target, in one step. It tells whether it led elsewhere before.
func (l Layout) point(link, target string) (changed bool, err error) {
	if held, err := os.Readlink(link); err == nil && held == target {
		return false, nil
	}
	temporary := filepath.Join(filepath.Dir(link), fmt.Sprintf(".%s-%d", filepath.Base(link), os.Getpid()))
	if err := os.Remove(temporary); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, problem("link "+link, err)
	}
	if err := os.Symlink(target, temporary); err != nil {
		return false, problem("link "+link, err)
	}
	if err := os.Rename(temporary, link); err != nil {
		return false, problem("link "+link, errors.Join(err, os.Remove(temporary)))
	}
	return true, problem("link "+link, durable.SyncDir(filepath.Dir(link)))
}

// prune keeps the current version and the one that was staged last besides it.
func (l Layout) prune() error {
	current, err := os.Readlink(l.Current())
	if err != nil {
		return problem("read "+l.Current(), err)
	}
	entries, err := os.ReadDir(l.versions())
	if err != nil {
		return problem("read "+l.versions(), err)
	}
	var last fs.FileInfo
	var others []fs.FileInfo
	for _, e := range entries {
		info, err := e.Info()
		if err != nil || !e.IsDir() || e.Name() == filepath.Base(current) {
			continue
		}
		others = append(others, info)
		if last == nil || info.ModTime().After(last.ModTime()) {
			last = info
		}
	}
	for _, o := range others {
		if o.Name() != last.Name() {
			if err := os.RemoveAll(l.version(o.Name())); err != nil {
				return problem("remove an old version", err)
			}
		}
	}
	return nil
}

const (
	stagingPrefix = ".staging."
	stagingKept   = 24 * time.Hour
)

// sweepStaging removes what interrupted installations left.
func (l Layout) sweepStaging(now time.Time) error {
	entries, err := os.ReadDir(l.Base())
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return problem("read "+l.Base(), err)
	}
	for _, e := range entries {
		info, err := e.Info()
		if err == nil && strings.HasPrefix(e.Name(), stagingPrefix) && now.Sub(info.ModTime()) > stagingKept {
			if err := os.RemoveAll(filepath.Join(l.Base(), e.Name())); err != nil {
				return problem("remove what an earlier installation left", err)
			}
		}
	}
	return nil
}

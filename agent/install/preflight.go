package install

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/loopbackd/loopback/fault"
)

const (
	noExec   = 0x8  // ST_NOEXEC of statvfs(3)
	readOnly = 0x1  // ST_RDONLY
	spare    = 16e6 // bytes that are left alone on the disk
)

// preflight checks what can be known before anything is changed. The way to the control plane is checked by walking it,
// when the release metadata is fetched.
func (r *run) preflight(ctx context.Context) error {
	if err := r.systemd.check(ctx); err != nil {
		return err
	}
	info, err := os.Stat("/proc/self/exe")
	if err != nil {
		return problem("look at the program that runs", err)
	}
	for _, need := range []struct {
		path  string
		bytes int64
		exec  bool
	}{
		{r.layout.Base(), info.Size() + spare, true},
		{filepath.Dir(r.layout.Config()), 1e6, false},
		{r.layout.State(), spare, false},
		{filepath.Dir(r.layout.Unit()), 1e6, false},
	} {
		if err := checkFileSystem(need.path, need.bytes, need.exec); err != nil {
			return err
		}
	}
	r.detail("systemd, disks and mounts are as they should be")
	return r.connect()
}

// checkFileSystem looks at the file system that a path is on, or will be.
func checkFileSystem(path string, need int64, exec bool) error {
	at := path
	for {
		if _, err := os.Stat(at); err == nil {
			break
		} else if !errors.Is(err, fs.ErrNotExist) || at == "/" {
			return problem("look at "+at, err)
		}
		at = filepath.Dir(at)
	}
	var s syscall.Statfs_t
	if err := syscall.Statfs(at, &s); err != nil {
		return problem("look at the file system of "+at, err)
	}
	free := int64(s.Bavail) * s.Bsize
	switch {
	case s.Flags&readOnly != 0:
		return fault.New(fault.Precondition, "disk_read_only", "%s is on a read-only file system", path).
			WithHint("mount it writable; after errors of the disk (dmesg), repair it first")
	case exec && s.Flags&noExec != 0:
		return fault.New(fault.Precondition, "disk_noexec", "%s is mounted noexec: no program can run from it", path).
			WithHint("see findmnt -T %s, and mount it with exec", at)
	case free < need:
		return fault.New(fault.Exhausted, "disk_full", "%s has %d MB left, %d MB are needed", path, free/1e6, need/1e6+1).
			WithHint("free some space (df -h %s) and run this again", at)
	case s.Files > 0 && s.Ffree < 64:
		return fault.New(fault.Exhausted, "disk_full", "%s has no inodes left", path).
			WithHint("remove files that are not needed (df -i %s) and run this again", at)
	}
	return nil
}

package file

import (
	"errors"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/loopbackd/loopback/fault"
)

// maxLinks is how many symbolic links a path may lead over; see path_resolution(7).
const maxLinks = 40

// What a path may not be.
var (
	errNotFound = fault.New(fault.NotFound, "file_not_found", "the host has no such file, or no folder for it")
	errLink     = fault.New(fault.Denied, "file_link", "the path leads over a symbolic link in a folder that others than root may write to").
			WithHint("whoever made the link could send root anywhere: give the path that it leads to, if that is what you mean")
	errIsLink   = fault.New(fault.Precondition, "file_is_link", "the path is a symbolic link, which a file would replace").WithHint("give the path that it leads to")
	errHardLink = fault.New(fault.Denied, "file_link", "the file has another name elsewhere, and its folder is not root's: whoever made the name could have root read anything")
	errRegular  = fault.New(fault.Precondition, "file_not_regular", "the path is a folder, a device or another thing that is no file").WithHint("give the path of a file")
)

// folder opens the folder of a path, and tells the last name in it. Each step is taken from the folder before it, so that nobody
// can put another in its place meanwhile; a symbolic link is followed only where none but root could have made it. With follow
// that goes for the path's last name, too.
func folder(p string, follow bool) (dir *os.File, name string, err error) {
	at, err := unix.Open("/", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, "", named(err)
	}
	defer func() {
		if at >= 0 {
			_ = unix.Close(at)
		}
	}()
	names := strings.Split(strings.Trim(p, "/"), "/")
	for links := 0; ; {
		name, names = names[0], names[1:]
		last := len(names) == 0
		if name == "" || name == "." {
			if last {
				return nil, "", errRegular
			}
			continue
		}
		if last && (!follow || name == "..") {
			break
		}
		next, err := unix.Openat(at, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if err != nil {
			return nil, "", named(err)
		}
		var is unix.Stat_t
		if err := unix.Fstat(next, &is); err != nil {
			_ = unix.Close(next)
			return nil, "", named(err)
		}
		if is.Mode&unix.S_IFMT == unix.S_IFLNK {
			to, err := followed(at, next)
			_ = unix.Close(next)
			if links++; err == nil && links > maxLinks {
				err = named(unix.ELOOP)
			}
			if err != nil {
				return nil, "", err
			}
			names = append(strings.Split(strings.Trim(to, "/"), "/"), names...)
			if path.IsAbs(to) {
				root, err := unix.Open("/", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
				if err != nil {
					return nil, "", named(err)
				}
				_ = unix.Close(at)
				at = root
			}
			continue
		}
		if last {
			_ = unix.Close(next)
			break
		}
		if is.Mode&unix.S_IFMT != unix.S_IFDIR {
			_ = unix.Close(next)
			return nil, "", named(unix.ENOTDIR)
		}
		_ = unix.Close(at)
		at = next
	}
	// A folder that was opened by its path only cannot be synced.
	real, err := unix.Openat(at, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, "", named(err)
	}
	return os.NewFile(uintptr(real), path.Dir(p)), name, nil
}

// followed is where a link in a folder leads, if none but root could have made it.
func followed(dir, link int) (string, error) {
	if !trusted(dir) {
		return "", errLink
	}
	to := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(link, "", to)
	if err != nil {
		return "", named(err)
	}
	return string(to[:n]), nil
}

// trusted tells whether none but root, or whoever this process is, could have made a name in a folder.
func trusted(dir int) bool {
	var is unix.Stat_t
	return unix.Fstat(dir, &is) == nil && is.Mode&0o022 == 0 && (is.Uid == 0 || int(is.Uid) == os.Geteuid())
}

// named says an error of the system so that it tells what to do.
func named(err error) error {
	var n unix.Errno
	if !errors.As(err, &n) {
		return err
	}
	switch n {
	case unix.ENOSPC, unix.EDQUOT:
		return errFull.WithCause(err)
	case unix.ENOENT:
		return errNotFound.WithCause(err)
	case unix.ENOTDIR, unix.EISDIR, unix.ELOOP, unix.ENXIO:
		return errRegular.WithCause(err)
	case unix.EEXIST:
		return errExists.WithCause(err)
	case unix.EROFS:
		return fault.New(fault.Precondition, "file_read_only", "the host's file system is read-only there").WithCause(err)
	case unix.EACCES, unix.EPERM:
		return fault.New(fault.Denied, "file_denied", "the host's own rules refuse it: %v", n).WithHint("a security module, a mount option or an attribute (lsattr) may be why").WithCause(err)
	}
	return fault.New(fault.Unavailable, "file_failed", "the host's system refuses it: %v", n).WithCause(err)
}

// What went wrong with a disk.
var (
	errFull   = fault.New(fault.Exhausted, "disk_full", "the host's disk has no room for the file; nothing was changed").WithHint("make room there, then begin anew")
	errExists = fault.New(fault.Exists, "file_exists", "the host has such a file already").WithHint("leave out --new to replace it")
)

package recording

import (
	"errors"
	"os"
	"syscall"
)

// errNoAllocate is a file system's that cannot set blocks aside; what is written there may find it full.
var errNoAllocate = errors.New("blocks cannot be set aside")

const keepSize = 1 // FALLOC_FL_KEEP_SIZE

// allocate sets a file's blocks aside without changing its size.
func allocate(f *os.File, from, size int64) error {
	for {
		err := syscall.Fallocate(int(f.Fd()), keepSize, from, size)
		switch {
		case errors.Is(err, syscall.EINTR):
		case errors.Is(err, syscall.EOPNOTSUPP), errors.Is(err, syscall.ENOSYS):
			return errNoAllocate
		default:
			return err
		}
	}
}

func isFull(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) || errors.Is(err, syscall.EFBIG)
}

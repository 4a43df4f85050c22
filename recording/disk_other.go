//go:build !linux

package recording

import (
	"errors"
	"os"
	"syscall"
)

// errNoAllocate is a file system's that cannot set blocks aside; what is written there may find it full.
var errNoAllocate = errors.New("blocks cannot be set aside")

func allocate(*os.File, int64, int64) error { return errNoAllocate }

func isFull(err error) bool { return errors.Is(err, syscall.ENOSPC) }

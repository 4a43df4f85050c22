package shell

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// terminal is the near side of a pseudoterminal (pty(7)).
type terminal struct {
	near *os.File
	far  *os.File // keeps it from ending before somebody else has opened it; nil after started
	path string   // of the far side
}

func openTerminal(cols, rows int) (*terminal, error) {
	fd, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("open a terminal: %w", err)
	}
	t := &terminal{near: os.NewFile(uintptr(fd), "/dev/ptmx")}
	if err := t.prepare(fd, cols, rows); err != nil {
		return nil, errors.Join(err, t.near.Close())
	}
	return t, nil
}

func (t *terminal) prepare(fd, cols, rows int) error {
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		return fmt.Errorf("unlock a terminal: %w", err)
	}
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err != nil {
		return fmt.Errorf("name a terminal: %w", err)
	}
	t.path = "/dev/pts/" + strconv.Itoa(n)
	if t.far, err = os.OpenFile(t.path, os.O_RDWR|unix.O_NOCTTY, 0); err != nil {
		return fmt.Errorf("open a terminal: %w", err)
	}
	return t.resize(cols, rows)
}

func (t *terminal) started() {
	_ = t.far.Close()
	t.far = nil
}

func (t *terminal) resize(cols, rows int) error {
	c, err := t.near.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	err = c.Control(func(fd uintptr) {
		failed = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &unix.Winsize{Col: uint16(cols), Row: uint16(rows)})
	})
	return errors.Join(err, failed)
}

// readAll waits until there is something, and takes all of it that fits: a flood comes in few large pieces.
func (t *terminal) readAll(b []byte) (n int, err error) {
	c, err := t.near.SyscallConn()
	if err != nil {
		return 0, err
	}
	var failed error
	err = c.Read(func(fd uintptr) bool {
		for n < len(b) {
			m, err := unix.Read(int(fd), b[n:])
			switch {
			case m > 0:
				n += m
				continue
			case errors.Is(err, unix.EINTR):
				continue
			case errors.Is(err, unix.EAGAIN):
			case err == nil, errors.Is(err, unix.EIO): // nobody has it open any more
				failed = io.EOF
			default:
				failed = err
			}
			break
		}
		return n > 0 || failed != nil
	})
	if err == nil {
		err = failed
	}
	return n, err
}

// Write types. It waits while the program reads nothing.
func (t *terminal) Write(b []byte) (int, error) { return t.near.Write(b) }

// Close hangs up.
func (t *terminal) Close() error {
	var err error
	if t.far != nil {
		err = t.far.Close()
	}
	return errors.Join(err, t.near.Close())
}

package shell

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/loopbackd/loopback/shell"
)

// Direct starts a shell as a child of this process, as the user that this process is: for hosts without systemd, and for trying
// things out. Kill finds what belongs to the session by its session id (setsid(2)): what has left it is not found.
func Direct(_ context.Context, o shell.Order, tty string) (Program, error) {
	f, err := os.OpenFile(tty, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	c := exec.Command("/bin/sh")
	c.Env = append(os.Environ(), "TERM="+o.Term, "LOOPBACK_SESSION="+o.Session)
	c.Stdin, c.Stdout, c.Stderr = f, f, f
	c.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := c.Start(); err != nil {
		return nil, err
	}
	return &child{c}, nil
}

type child struct{ *exec.Cmd }

func (c *child) Wait() (int, error) {
	err := c.Cmd.Wait()
	c.Kill()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return 255, err
	}
	if w, ok := c.ProcessState.Sys().(syscall.WaitStatus); ok && w.Signaled() {
		return 128 + int(w.Signal()), nil
	}
	return c.ProcessState.ExitCode(), nil
}

func (c *child) Kill() {
	all, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, path := range all {
		b, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		_, rest, _ := strings.Cut(string(b), ") ") // the name may hold anything
		f := strings.Fields(rest)
		if len(f) > 3 && f[3] == strconv.Itoa(c.Process.Pid) {
			if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path))); err == nil {
				_ = unix.Kill(pid, unix.SIGKILL)
			}
		}
	}
}

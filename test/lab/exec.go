package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// systemPath is the search path of root on Debian.
const systemPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// Command is something to run as root inside a machine.
type Command struct {
	// Args are the program and its arguments; no shell is involved.
	Args []string
	// Env is added to a root login's PATH, HOME, USER, LOGNAME, SHELL and LANG.
	Env []string
	// Dir is the working directory; "" is /root.
	Dir string
	// Stdin is empty if nil; Stdout and Stderr are discarded if nil.
	Stdin          io.Reader
	Stdout, Stderr io.Writer
}

// Result is what a command left behind.
type Result struct {
	Stdout, Stderr string
	ExitCode       int
}

// Exec runs a command inside the machine and collects what it prints. An exit
// code other than 0 is a result, not an error.
func (m *Machine) Exec(ctx context.Context, args ...string) (Result, error) {
	var stdout, stderr bytes.Buffer
	code, err := m.Run(ctx, Command{Args: args, Stdout: &stdout, Stderr: &stderr})
	return Result{Stdout: stdout.String(), Stderr: stderr.String(), ExitCode: code}, err
}

// Run runs a command as root in all of the machine's namespaces and in a
// cgroup of its own there. It returns the exit code: 127 if the program does
// not exist, 128 and the signal's number if a signal ended it. When the
// context ends, the command and all it started are killed and the context's
// error is returned. What the command leaves in the background lives on, with
// output lost from a second after the command's end.
func (m *Machine) Run(ctx context.Context, c Command) (exitCode int, err error) {
	if len(c.Args) == 0 {
		return 0, fmt.Errorf("run on machine %s: no command given", m.name)
	}
	leader := m.leader()
	if leader == 0 {
		return 0, fmt.Errorf("run %s on machine %s: the machine is off", c.Args[0], m.name)
	}
	cgroups, err := findCgroups()
	if err != nil {
		return 0, err
	}
	payload := cgroups.path(m.cgroup(), "system", "payload")
	// Beside init.scope and system.slice: not a unit's, so systemd lets it be.
	parent := filepath.Join(payload, "lab-exec")
	if err := os.Mkdir(parent, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return 0, fmt.Errorf("run %s on machine %s: %w", c.Args[0], m.name, err)
	}
	own, err := os.MkdirTemp(parent, "")
	if err != nil {
		return 0, fmt.Errorf("run %s on machine %s: %w", c.Args[0], m.name, err)
	}
	// Fails where the command left something running; that ends with the machine.
	defer func() { _ = unix.Rmdir(own) }()
	place, err := os.Open(own)
	if err != nil {
		return 0, fmt.Errorf("run %s on machine %s: %w", c.Args[0], m.name, err)
	}
	defer place.Close()

	dir := c.Dir
	if dir == "" {
		dir = "/root"
	}
	command := exec.CommandContext(ctx, c.Args[0], c.Args[1:]...)
	command.Dir = dir
	command.Env = append([]string{"PATH=" + systemPath, "HOME=/root", "USER=root", "LOGNAME=root",
		"SHELL=/bin/bash", "LANG=C.UTF-8"}, c.Env...)
	command.Stdin, command.Stdout, command.Stderr = c.Stdin, c.Stdout, c.Stderr
	command.SysProcAttr = &unix.SysProcAttr{Setsid: true, UseCgroupFD: true, CgroupFD: int(place.Fd())}
	// Killing the command alone would spare what it started; the cgroup takes all.
	command.Cancel = func() error { return os.WriteFile(filepath.Join(own, "cgroup.kill"), []byte("1"), 0) }
	command.WaitDelay = time.Second
	if err = startInside(leader, command); err != nil {
		if code := startCode(err); code != 0 {
			if c.Stderr != nil {
				fmt.Fprintf(c.Stderr, "lab: %v\n", err)
			}
			return code, nil
		}
		return 0, fmt.Errorf("run %s on machine %s: %w", c.Args[0], m.name, err)
	}
	err = command.Wait()
	hastenShutdown(leader)
	if ctx.Err() != nil {
		// Killed is not yet gone; the kernel needs no more than moments.
		dying, stop := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer stop()
		return 0, fmt.Errorf("run %s on machine %s: %w", c.Args[0], m.name, errors.Join(ctx.Err(), waitEmpty(dying, own)))
	}
	var exit *exec.ExitError
	switch {
	case err == nil, errors.Is(err, exec.ErrWaitDelay):
		return 0, nil
	case errors.As(err, &exit):
		if status, ok := exit.Sys().(syscall.WaitStatus); ok && status.Signaled() {
			return 128 + int(status.Signal()), nil
		}
		return exit.ExitCode(), nil
	default:
		return 0, fmt.Errorf("run %s on machine %s: %w", c.Args[0], m.name, err)
	}
}

// hastenShutdown tells process 1, if it is in the last stage of a shutdown, to
// look again at what is left. There it terminates every process and waits for
// SIGCHLD, for ten seconds at most; a command of ours is not its child, so
// nothing would tell it that the command is gone.
func hastenShutdown(leader int) {
	name, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", leader))
	if err == nil && string(name) == "systemd-shutdow\n" {
		_ = unix.Kill(leader, unix.SIGCHLD) // gone meanwhile is what we want
	}
}

// missing is the exit code by which the scripts below say "no such file";
// no program that they call uses it.
const missing = 44

// PutFile writes a file on the machine, on or off, making the folders above
// it. A reader there sees the old file or the new one, never a part.
func (m *Machine) PutFile(ctx context.Context, name string, content io.Reader, mode fs.FileMode) error {
	const script = `set -e; umask 077; mkdir -p -m 0755 -- "$(dirname -- "$1")"
next="$1.lab-next"; cat >"$next"; chmod "$2" "$next"; mv -fT -- "$next" "$1"`
	_, err := m.fileScript(ctx, content, script, name, fmt.Sprintf("%04o", mode.Perm()))
	if err != nil {
		return fmt.Errorf("put %s on machine %s: %w", name, m.name, err)
	}
	return nil
}

// GetFile reads a file of the machine, on or off. One that is not there is
// [fs.ErrNotExist].
func (m *Machine) GetFile(ctx context.Context, name string) ([]byte, error) {
	const script = `[ -e "$1" ] || [ -L "$1" ] || exit 44; exec cat -- "$1"`
	content, err := m.fileScript(ctx, nil, script, name)
	if err != nil {
		return nil, fmt.Errorf("get %s from machine %s: %w", name, m.name, err)
	}
	return content, nil
}

// fileScript runs a shell script with the machine's own root: inside if it is
// on, chrooted to its disk if it is off. Symbolic links thus mean what they
// mean to the machine, and never lead out of it.
func (m *Machine) fileScript(ctx context.Context, stdin io.Reader, script string, args ...string) ([]byte, error) {
	if !path.IsAbs(args[0]) {
		return nil, errors.New("the path must be absolute")
	}
	words := append([]string{"/bin/sh", "-c", script, "sh"}, args...)
	var stdout, stderr bytes.Buffer
	var code int
	if m.On() {
		var err error
		if code, err = m.Run(ctx, Command{Args: words, Stdin: stdin, Stdout: &stdout, Stderr: &stderr}); err != nil {
			return nil, err
		}
	} else {
		command := exec.CommandContext(ctx, "chroot", append([]string{m.root()}, words...)...)
		command.Env = []string{"PATH=" + systemPath}
		command.Stdin, command.Stdout, command.Stderr = stdin, &stdout, &stderr
		if err := command.Run(); err != nil {
			var exit *exec.ExitError
			if ctx.Err() != nil || !errors.As(err, &exit) {
				return nil, errors.Join(err, ctx.Err())
			}
			code = exit.ExitCode()
		}
	}
	switch code {
	case 0:
		return stdout.Bytes(), nil
	case missing:
		return nil, fs.ErrNotExist
	default:
		return nil, fmt.Errorf("exit code %d: %s", code, strings.TrimSpace(stderr.String()))
	}
}

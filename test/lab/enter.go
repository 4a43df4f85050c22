package lab

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// startInside starts a command as a child of this process in all namespaces
// of the leader's machine.
//
// Not by nsenter(1): it stands between us and the command as a parent outside
// the machine and, when systemd stops all processes on its way down, stops
// itself for ever; the dead command is then never reaped, and the machine never off.
func startInside(leader int, command *exec.Cmd) error {
	started := make(chan error, 1)
	go startOnSpareThread(leader, command, started)
	return <-started
}

// startOnSpareThread uses up its thread: it never unlocks it, so the thread,
// being in the wrong namespaces for anything else, ends with the goroutine.
func startOnSpareThread(leader int, command *exec.Cmd, started chan<- error) {
	runtime.LockOSThread()
	if unix.Gettid() == unix.Getpid() {
		// The first thread is what /proc/self shows of us: it must stay. While
		// we hold it, another goroutine gets another.
		again := make(chan error, 1)
		go startOnSpareThread(leader, command, again)
		started <- <-again
		runtime.UnlockOSThread()
		return
	}
	started <- startInPlace(leader, command)
}

func startInPlace(leader int, command *exec.Cmd) error {
	root, err := os.Open(fmt.Sprintf("/proc/%d/root", leader))
	if err != nil {
		return err
	}
	defer root.Close()
	pidfd, err := unix.PidfdOpen(leader, 0)
	if err != nil {
		return fmt.Errorf("find the machine's first process: %w", err)
	}
	defer unix.Close(pidfd)
	// Root and working directory are shared between threads until told otherwise.
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return fmt.Errorf("part from the other threads: %w", err)
	}
	const all = unix.CLONE_NEWNS | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC | unix.CLONE_NEWNET | unix.CLONE_NEWPID | unix.CLONE_NEWCGROUP
	if err := unix.Setns(pidfd, all); err != nil {
		return fmt.Errorf("enter the machine's namespaces: %w", err)
	}
	if err := unix.Fchdir(int(root.Fd())); err != nil {
		return fmt.Errorf("enter the machine's root: %w", err)
	}
	if err := unix.Chroot("."); err != nil {
		return fmt.Errorf("enter the machine's root: %w", err)
	}
	// Whatever exec.Command found, or did not, was this computer's.
	command.Err = nil
	if command.Path, err = lookInside(command.Args[0]); err != nil {
		return err
	}
	return command.Start()
}

// lookInside is exec.LookPath with the machine's files and root's path; it has
// to be called where both are.
func lookInside(name string) (string, error) {
	candidates := []string{name}
	if !strings.Contains(name, "/") {
		candidates = nil
		for _, dir := range filepath.SplitList(systemPath) {
			candidates = append(candidates, filepath.Join(dir, name))
		}
	}
	for _, each := range candidates {
		if stat, err := os.Stat(each); err == nil && !stat.IsDir() {
			if stat.Mode()&0o111 == 0 {
				return "", fmt.Errorf("%s: %w", each, fs.ErrPermission)
			}
			return each, nil
		}
	}
	return "", fmt.Errorf("%s: %w", name, exec.ErrNotFound)
}

// startCode is the exit code by which a shell would report that a program
// could not be started; 0 if the machine, not the program, is to blame.
func startCode(err error) int {
	switch {
	case errors.Is(err, exec.ErrNotFound):
		return 127
	case errors.Is(err, fs.ErrPermission), errors.Is(err, unix.ENOEXEC):
		return 126
	default:
		return 0
	}
}

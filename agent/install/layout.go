package install

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/loopbackd/loopback/durable"
	"github.com/loopbackd/loopback/fault"
)

// UnitName is the agent's systemd unit.
const UnitName = "loopback-agent.service"

// Layout is where things lie. Root is "" on a real machine; another folder, with the same tree below it, in tests.
type Layout struct{ Root string }

func (l Layout) at(path string) string { return filepath.Join("/", l.Root, path) }

// inside is a path as a program on the machine sees it.
func (l Layout) inside(path string) string {
	return strings.TrimPrefix(path, strings.TrimSuffix(l.Root, "/"))
}

// Base is the folder of the programs.
func (l Layout) Base() string { return l.at("/opt/loopback") }

// Current links to the version that runs.
func (l Layout) Current() string { return l.at("/opt/loopback/current") }

// Link is the program's name in the path.
func (l Layout) Link() string { return l.at("/usr/local/bin/loopback-agent") }

// Config is the agent's settings file.
func (l Layout) Config() string { return l.at("/etc/loopback/agent.yaml") }

// CAFile is our copy of the CA of a control plane whose certificate is not publicly trusted.
func (l Layout) CAFile() string { return l.at("/etc/loopback/ca.pem") }

// State is the agent's state folder.
func (l Layout) State() string { return l.at("/var/lib/loopback") }

// Metadata is the folder of the newest release metadata.
func (l Layout) Metadata() string { return l.at("/var/lib/loopback/releases") }

// Unit is the systemd unit's file.
func (l Layout) Unit() string { return l.at("/etc/systemd/system/" + UnitName) }

// Socket is where the running agent answers.
func (l Layout) Socket() string { return l.at("/run/loopback/agent.sock") }

func (l Layout) lockFile() string           { return l.at("/run/loopback-install.lock") }
func (l Layout) versions() string           { return l.at("/opt/loopback/versions") }
func (l Layout) version(name string) string { return filepath.Join(l.versions(), name) }

// checkRoot demands the right to do all this.
func (l Layout) checkRoot() error {
	if os.Geteuid() != 0 {
		return fault.New(fault.Denied, "not_root", "installing needs root").
			WithHint("run it as root, or with: sudo --preserve-env=LOOPBACK_TOKEN")
	}
	return nil
}

// lock keeps installations apart. Its file names who holds it; it goes with the machine's /run.
func (l Layout) lock(ctx context.Context, wait time.Duration, waiting func(holder string), dry bool) (unlock func(), err error) {
	if dry {
		if _, err := os.Stat(l.lockFile()); errors.Is(err, fs.ErrNotExist) {
			return func() {}, nil
		}
	}
	if err := os.MkdirAll(filepath.Dir(l.lockFile()), 0o755); err != nil {
		return nil, problem("make the lock's folder", err)
	}
	f, err := os.OpenFile(l.lockFile(), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, problem("open the lock", err)
	}
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for said := false; ; {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			break
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, syscall.EINTR) {
			return nil, errors.Join(problem("lock", err), f.Close())
		}
		holder := l.holder()
		if !said {
			waiting(holder)
			said = true
		}
		select {
		case <-ctx.Done():
			busy := fault.New(fault.Unavailable, "install_busy", "another installation is under way: %s", holder).
				WithHint("wait until it is done, or end it, and run this again").WithCause(ctx.Err())
			return nil, errors.Join(busy, f.Close())
		case <-tick.C:
		}
	}
	command := strings.Join(os.Args[:min(len(os.Args), 2)], " ")
	line := fmt.Sprintf("process %d (%s), since %s\n", os.Getpid(), command, time.Now().Format(time.RFC3339))
	if err := f.Truncate(0); err == nil {
		_, _ = f.WriteAt([]byte(line), 0) // only for people
	}
	return func() { _ = f.Close() }, nil
}

func (l Layout) holder() string {
	f, err := os.Open(l.lockFile())
	if err != nil {
		return "unknown process"
	}
	defer f.Close()
	line, _ := bufio.NewReader(f).ReadString('\n')
	if line = strings.TrimSpace(line); line == "" {
		return "unknown process"
	}
	return line
}

// problem gives failures that an operator can mend their code and hint.
func problem(doing string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return fault.New(fault.Exhausted, "disk_full", "%s: the disk is full", doing).
			WithHint("free some space (df -h) and run this again").WithCause(err)
	case errors.Is(err, syscall.EROFS):
		return fault.New(fault.Precondition, "disk_read_only", "%s: the file system is read-only", doing).
			WithHint("mount it writable; after errors of the disk (dmesg), repair it first").WithCause(err)
	case errors.Is(err, fs.ErrPermission):
		return fault.New(fault.Denied, "not_permitted", "%s: not permitted", doing).
			WithHint("as root, this is SELinux, AppArmor or an immutable file: ausearch -m avc -ts recent, lsattr").WithCause(err)
	default:
		return fmt.Errorf("%s: %w", doing, err)
	}
}

// replace writes a file whole or not at all. It tells whether the file was another one.
func replace(path string, contents []byte, mode fs.FileMode) (changed bool, err error) {
	held, err := os.ReadFile(path)
	if err == nil && string(held) == string(contents) {
		return false, nil
	}
	if err := durable.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return false, problem("make "+filepath.Dir(path), err)
	}
	return true, problem("write "+path, durable.WriteFile(path, contents, mode))
}

// Package state is what the agent remembers: /var/lib/loopback.
//
//	identity            who this host is: its key, its id, the key that comes next
//	trust               the control plane's keyset, the highest version seen
//	connection          how many links there were since boot
//	sections/NAME       the last good value of each section
//	aside/NAME          a section's file that could not be read
//	orders, restarts    what was ordered and begun, each once (Journal)
//	lock                held by the one agent that runs
//
// The folder has mode 0700 and the files 0600. A file is written beside the old one, synced, renamed over it, and the
// folder synced: a power cut leaves the old contents or the new, and what a method has stored stays stored once it has
// returned. Every file starts with a line that names its kind, its format and the SHA-256 of the rest, so that damage is
// found and not believed.
//
// What damage leads to depends on what was lost. A section can be had again: its file is set aside, the others are used,
// and the control plane is asked for the whole. The same holds for the keyset. The identity cannot: a host that silently
// made itself a new key would be a stranger with an old name, so a damaged identity is an error that a person resolves.
package state

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"

	"github.com/loopbackd/loopback/durable"
	"github.com/loopbackd/loopback/fault"
)

// DefaultDir of the state.
const DefaultDir = "/var/lib/loopback"

// Store is an open state folder. Its methods may be called concurrently.
type Store struct {
	dir  string
	lock *os.File
	mu   sync.Mutex // one writer at a time
}

// ErrLocked says that another agent uses the folder.
var ErrLocked = fault.New(fault.Precondition, "state_locked", "another loopback-agent uses the state folder").
	WithHint("there is one agent on a host: systemctl status loopback-agent")

// Open makes the folder where it is missing, closes it to everyone else, and locks it until Close; ErrLocked where
// another process has it. Files that an interrupted write left are removed.
func Open(dir string) (*Store, error) {
	for _, d := range []string{dir, filepath.Join(dir, sectionsDir), filepath.Join(dir, asideDir)} {
		if err := durable.MkdirAll(d, 0o700); err != nil {
			return nil, problem("make the state folder", err)
		}
		if err := os.Chmod(d, 0o700); err != nil {
			return nil, problem("close the state folder to other users", err)
		}
	}
	lock, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, problem("open the state folder's lock", err)
	}
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return nil, errors.Join(ErrLocked.WithCause(err), lock.Close())
	}
	s := &Store{dir: dir, lock: lock}
	for _, pattern := range []string{durable.Temporary + "*", filepath.Join(sectionsDir, durable.Temporary+"*")} {
		left, _ := filepath.Glob(filepath.Join(dir, pattern)) // fails on bad patterns only
		for _, l := range left {
			if err := os.Remove(l); err != nil {
				return nil, errors.Join(problem("clean the state folder", err), s.Close())
			}
		}
	}
	return s, nil
}

// Dir is the folder.
func (s *Store) Dir() string { return s.dir }

// Close gives the folder free.
func (s *Store) Close() error { return s.lock.Close() }

// replace writes a file such that it is there as a whole or not at all, and stays.
func (s *Store) replace(name string, contents []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return problem("write "+name, durable.WriteFile(filepath.Join(s.dir, name), contents, 0o600))
}

// problem gives the failures that an operator can do something about their code and hint.
func problem(doing string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return fault.New(fault.Exhausted, "disk_full", "%s: the disk is full", doing).
			WithHint("free some space in /var, or move what grows there").WithCause(err)
	case errors.Is(err, syscall.EROFS):
		return fault.New(fault.Precondition, "disk_read_only", "%s: the file system is read-only", doing).
			WithHint("see dmesg for errors of the disk, repair it and mount it writable").WithCause(err)
	case errors.Is(err, fs.ErrPermission):
		return fault.New(fault.Denied, "state_permission", "%s: not permitted", doing).
			WithHint("the agent runs as root; under SELinux try restorecon -R on the folder").WithCause(err)
	default:
		return fmt.Errorf("%s: %w", doing, err)
	}
}

// errDamaged says that a file is not what was written.
var errDamaged = errors.New("the file is damaged")

// seal puts a body under the line that names kind, format and checksum.
func seal(kind string, body []byte) []byte {
	sum := sha256.Sum256(body)
	return append(fmt.Appendf(nil, "loopback %s 1 %s\n", kind, hex.EncodeToString(sum[:])), body...)
}

// unseal is the body of a sealed file; errDamaged where it is not a whole file of this kind.
func unseal(kind string, contents []byte) ([]byte, error) {
	line, body, ok := bytes.Cut(contents, []byte("\n"))
	if !ok {
		return nil, fmt.Errorf("%w: it has no first line", errDamaged)
	}
	sum := sha256.Sum256(body)
	format, found := strings.CutPrefix(string(line), "loopback "+kind+" ")
	if !found {
		return nil, fmt.Errorf("%w: it is not of the kind %s", errDamaged, kind)
	}
	version, checksum, _ := strings.Cut(format, " ")
	if version != "1" {
		return nil, fmt.Errorf("%w: its format is %.8q and this agent knows format 1", errDamaged, version)
	}
	if checksum != hex.EncodeToString(sum[:]) {
		return nil, fmt.Errorf("%w: its checksum does not match", errDamaged)
	}
	return body, nil
}

func read(dir, name, kind string) ([]byte, error) {
	contents, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		return nil, problem("read "+name, err)
	}
	return unseal(kind, contents)
}

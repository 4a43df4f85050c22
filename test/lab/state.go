package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// record is a network's state on disk: what must be known to find or remove
// every part of it, and nothing that the kernel can tell.
type record struct {
	Name string `json:"name"`
	ID   string `json:"id"`
	// Index is chosen before the bridge that claims it is made; 0 means none yet.
	Index    int             `json:"index"`
	Image    string          `json:"image"`
	Keep     bool            `json:"keep,omitempty"`
	Machines []machineRecord `json:"machines"`
}

type machineRecord struct {
	Name   string `json:"name"`
	Index  int    `json:"index"`
	Faults Faults `json:"faults"`
}

func (r *record) machine(name string) (*machineRecord, error) {
	for i := range r.Machines {
		if r.Machines[i].Name == name {
			return &r.Machines[i], nil
		}
	}
	return nil, fmt.Errorf("machine %q of network %s: %w", name, r.Name, ErrNotFound)
}

func (n *Network) ownerPath() string { return filepath.Join(n.dir, "owner.lock") }

func readRecord(dir string) (record, error) {
	var state record
	text, err := os.ReadFile(filepath.Join(dir, "network.json"))
	if err != nil {
		return state, err
	}
	if err := json.Unmarshal(text, &state); err != nil {
		return state, fmt.Errorf("read %s: %w", filepath.Join(dir, "network.json"), err)
	}
	return state, nil
}

func writeRecord(dir string, state record) error {
	text, err := json.MarshalIndent(state, "", "  ")
	if err != nil {
		return err
	}
	return replaceFile(filepath.Join(dir, "network.json"), text, 0o644)
}

// replaceFile never leaves half a file for a reader or a killed writer's successor.
func replaceFile(path string, content []byte, mode os.FileMode) error {
	next := path + ".next"
	if err := os.WriteFile(next, content, mode); err != nil {
		return err
	}
	return os.Rename(next, path)
}

// update changes the state under its lock. The change is written only if
// change returns nil.
func (n *Network) update(ctx context.Context, change func(*record) error) error {
	unlock, err := lockFile(ctx, filepath.Join(n.dir, "state.lock"))
	if err != nil {
		return err
	}
	defer unlock()
	state, err := readRecord(n.dir)
	if err != nil {
		return err
	}
	if err := change(&state); err != nil {
		return err
	}
	return writeRecord(n.dir, state)
}

// errLocked says that another open file holds the lock.
var errLocked = errors.New("locked")

// tryLock takes an exclusive lock that dies with the returned file, so also
// with the process.
func tryLock(path string) (*os.File, error) {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		file.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("%s: %w", path, errLocked)
		}
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	return file, nil
}

// lockFile waits for an exclusive lock and returns what releases it.
func lockFile(ctx context.Context, path string) (unlock func(), err error) {
	file, err := waitLock(ctx, path)
	if err != nil {
		return nil, err
	}
	return func() { file.Close() }, nil
}

// waitLock is tryLock with patience. flock(2) cannot be interrupted by a
// context, hence the ticker.
func waitLock(ctx context.Context, path string) (*os.File, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, err
	}
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	for {
		file, err := tryLock(path)
		if err == nil || !errors.Is(err, errLocked) {
			return file, err
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("wait for %s: %w", path, ctx.Err())
		case <-ticker.C:
		}
	}
}

// Lock keeps other callers of Lock off the network of that name, there or not,
// until unlock: for programs that look first and then make or remove it.
func Lock(ctx context.Context, dir, name string) (unlock func(), err error) {
	if err := checkName("network", name); err != nil {
		return nil, err
	}
	root, err := resolveDir(dir)
	if err != nil {
		return nil, err
	}
	return lockFile(ctx, filepath.Join(root, "locks", name))
}

package lab

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// tearDown removes the network, whichever part of it was ever made. The bridge
// goes after everything that is named for it, the state file last.
func (n *Network) tearDown(ctx context.Context) error {
	state, err := readRecord(n.dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if n.owns(state) {
		var failures error
		for _, each := range state.Machines {
			failures = errors.Join(failures, n.machine(each).Kill(ctx))
		}
		for _, each := range state.Machines {
			failures = errors.Join(failures, n.machine(each).uninstall())
		}
		cgroups, err := findCgroups()
		if err == nil {
			err = cgroups.remove(n.bridge())
		}
		failures = errors.Join(failures, err,
			nft(ctx, dropTable("inet", n.bridge())+dropTable("bridge", n.bridge())))
		if failures != nil {
			return failures
		}
		if n.Intact() {
			if err := run(ctx, "", "ip", "link", "delete", "dev", n.bridge()); err != nil {
				return err
			}
		}
	}
	if err := unmountBelow(n.dir); err != nil {
		return err
	}
	// Gone with the last machine if nobody else's are there.
	for _, folder := range []string{"locks", "propagate", ""} {
		_ = unix.Rmdir(filepath.Join("/run/systemd/nspawn", folder))
	}
	if err := os.RemoveAll(filepath.Join(n.dir, "machines")); err != nil {
		return err
	}
	return os.RemoveAll(n.dir)
}

// owns says whether what bears our index's names is ours: the bridge says so,
// or, where somebody deleted it, machines of ours that still have cgroups (no
// network takes an index that has those).
func (n *Network) owns(state record) bool {
	return n.Intact() || n.index != 0 && len(state.Machines) > 0 && !exists(n.bridge()) && n.hasCgroup()
}

func (n *Network) hasCgroup() bool {
	cgroups, err := findCgroups()
	if err != nil {
		return false
	}
	_, err = os.Stat(cgroups.path(n.bridge()))
	return err == nil
}

// unmountBelow unmounts everything at or below a folder, so that removing the
// folder cannot reach into something else.
func unmountBelow(dir string) error {
	text, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return fmt.Errorf("look for mounts below %s: %w", dir, err)
	}
	for _, mount := range slices.Backward(parseMounts(string(text))) {
		if mount.at != dir && !strings.HasPrefix(mount.at, dir+"/") {
			continue
		}
		if err := unix.Unmount(mount.at, 0); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("unmount %s: %w", mount.at, err)
		}
	}
	return nil
}

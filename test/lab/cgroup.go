package lab

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// cgroupRoot is the lab's own top cgroup. It is made beside, not below, the
// caller's: machines must outlive the session that started them, and a cgroup
// that systemd manages may not be given subgroups by others.
const cgroupRoot = "loopback-lab"

// cgroups says where the hierarchies are mounted. Where v1 controllers are
// mounted too (the hybrid layout), machines stay where their starter was in
// those: limits that somebody set on us hold for our machines.
type cgroups struct {
	unified string
	// mirror is the v1 name=systemd hierarchy, in which nspawn repeats the
	// unified tree; "" where there is none.
	mirror string
}

func findCgroups() (cgroups, error) {
	text, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return cgroups{}, fmt.Errorf("find cgroups: %w", err)
	}
	var found cgroups
	for _, mount := range parseMounts(string(text)) {
		switch {
		case mount.kind == "cgroup2" && found.unified == "":
			found.unified = mount.at
		case mount.kind == "cgroup" && slices.Contains(strings.Split(mount.options, ","), "name=systemd") && found.mirror == "":
			found.mirror = mount.at
		}
	}
	if found.unified == "" {
		return found, &Unsupported{Feature: "cgroup v2", Detail: "not mounted"}
	}
	return found, nil
}

type mount struct{ at, kind, options string }

// parseMounts reads /proc/PID/mountinfo (proc_pid_mountinfo(5)); lines that do
// not have its form are passed over.
func parseMounts(text string) []mount {
	var mounts []mount
	for line := range strings.Lines(text) {
		before, after, found := strings.Cut(strings.TrimSuffix(line, "\n"), " - ")
		left, right := strings.Fields(before), strings.Fields(after)
		if !found || len(left) < 6 || len(right) < 3 {
			continue
		}
		mounts = append(mounts, mount{at: unescapeMount(left[4]), kind: right[0], options: right[2]})
	}
	return mounts
}

// unescapeMount undoes the kernel's octal escapes of blanks and backslashes.
func unescapeMount(path string) string {
	var plain strings.Builder
	for i := 0; i < len(path); i++ {
		if path[i] == '\\' && i+4 <= len(path) {
			if code, err := strconv.ParseUint(path[i+1:i+4], 8, 8); err == nil {
				plain.WriteByte(byte(code))
				i += 3
				continue
			}
		}
		plain.WriteByte(path[i])
	}
	return plain.String()
}

// make makes a cgroup of the lab and hands down the controllers that its
// parent has, so that limits inside machines work where the kernel allows.
func (c cgroups) make(path string) error {
	err := c.makeOnce(path)
	for attempt := 0; attempt < 10 && errors.Is(err, fs.ErrNotExist); attempt++ {
		// Another network, closing, removed the top between two of our steps.
		err = c.makeOnce(path)
	}
	return err
}

func (c cgroups) makeOnce(path string) error {
	at := c.unified
	parts := strings.Split(filepath.Join(cgroupRoot, path), "/")
	for i, part := range parts {
		at = filepath.Join(at, part)
		if err := os.Mkdir(at, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("make cgroup %s: %w", at, err)
		}
		if i == len(parts)-1 {
			// Processes live here, and a cgroup has either those or controlled children.
			break
		}
		available, err := os.ReadFile(filepath.Join(at, "cgroup.controllers"))
		if err != nil {
			return fmt.Errorf("make cgroup %s: %w", at, err)
		}
		for controller := range strings.FieldsSeq(string(available)) {
			// A controller may be refused (threaded parents, real-time
			// processes); a machine without it is a lesser machine, still one.
			_ = os.WriteFile(filepath.Join(at, "cgroup.subtree_control"), []byte("+"+controller), 0)
		}
	}
	return nil
}

func (c cgroups) path(parts ...string) string {
	return filepath.Join(append([]string{c.unified, cgroupRoot}, parts...)...)
}

// processes lists the processes of one cgroup, without those of its subgroups.
// A cgroup that is gone has none.
func processes(cgroup string) []int {
	text, err := os.ReadFile(filepath.Join(cgroup, "cgroup.procs"))
	if err != nil {
		return nil
	}
	var pids []int
	for field := range strings.FieldsSeq(string(text)) {
		// 0 stands for a process of a pid namespace that we cannot see.
		if pid, err := strconv.Atoi(field); err == nil && pid > 0 {
			pids = append(pids, pid)
		}
	}
	return pids
}

// populated says whether a cgroup or any below it has a process.
func populated(cgroup string) bool {
	text, err := os.ReadFile(filepath.Join(cgroup, "cgroup.events"))
	return err == nil && strings.Contains(string(text), "populated 1")
}

// waitEmpty returns when no process is left in the cgroup. The kernel reports
// a change of cgroup.events as POLLPRI.
func waitEmpty(ctx context.Context, cgroup string) error {
	events, err := os.Open(filepath.Join(cgroup, "cgroup.events"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer events.Close()
	for populated(cgroup) {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("wait for the last process of %s: %w", cgroup, err)
		}
		polled := []unix.PollFd{{Fd: int32(events.Fd()), Events: unix.POLLPRI}}
		if _, err := unix.Poll(polled, 50); err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("wait for the last process of %s: %w", cgroup, err)
		}
	}
	return nil
}

// killAll ends every process in the cgroup at once; none can slip away by forking.
func killAll(ctx context.Context, cgroup string) error {
	err := os.WriteFile(filepath.Join(cgroup, "cgroup.kill"), []byte("1"), 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("kill %s: %w", cgroup, err)
	}
	return waitEmpty(ctx, cgroup)
}

// remove removes an empty tree of cgroups in both hierarchies.
func (c cgroups) remove(path string) error {
	var failures error
	for _, hierarchy := range []string{c.unified, c.mirror} {
		if hierarchy == "" {
			continue
		}
		var found []string
		top := filepath.Join(hierarchy, cgroupRoot, path)
		err := filepath.WalkDir(top, func(at string, entry fs.DirEntry, err error) error {
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			if err == nil && entry.IsDir() {
				found = append(found, at)
			}
			return err
		})
		failures = errors.Join(failures, err)
		for _, at := range slices.Backward(found) {
			// rmdir, not a recursive removal: the files in a cgroup are not files.
			if err := unix.Rmdir(at); err != nil && !errors.Is(err, unix.ENOENT) {
				failures = errors.Join(failures, fmt.Errorf("remove cgroup %s: %w", at, err))
			}
		}
		// The top goes with the last network; while others live it is not empty.
		_ = unix.Rmdir(filepath.Join(hierarchy, cgroupRoot))
	}
	return failures
}

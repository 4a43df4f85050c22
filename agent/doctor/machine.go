package doctor

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Where the installer puts things, under the root.
const (
	programs = "opt/loopback"
	current  = "opt/loopback/current/bin/loopback-agent"
	unit     = "etc/systemd/system/loopback-agent.service"
	brought  = "usr/lib/systemd/system/loopback-agent.service" // by a package
	enabled  = "etc/systemd/system/multi-user.target.wants/loopback-agent.service"
	manager  = "run/systemd/system" // there exactly while systemd is process 1, see sd_booted(3)
	enforce  = "sys/fs/selinux/enforce"
)

// checkMachine looks at what lets the agent run here: programs that may be executed, and a service manager that starts them.
func checkMachine(root string) []Check {
	if root == "" {
		root = "/"
	}
	at := func(path string) string { return filepath.Join(root, path) }
	if _, err := os.Stat(at(programs)); errors.Is(err, fs.ErrNotExist) {
		return []Check{{Name: "programs", About: at(programs), Outcome: Skipped, Code: "skipped", Seen: "nothing is installed there; this agent was put somewhere else by hand"}}
	}
	out := []Check{checkPrograms(at(programs), at(current)), checkUnit(at(manager), firstThere(at(unit), at(brought)), at(enabled))}
	if c, on := checkSELinux(at(enforce), at(current)); on {
		out = append(out, c)
	}
	return out
}

func checkPrograms(dir, program string) Check {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return Check{Name: "programs", About: dir, Outcome: Skipped, Code: "skipped", Seen: "cannot be looked at: " + err.Error()}
	}
	if st.Flags&unix.ST_NOEXEC != 0 {
		return Check{Name: "programs", About: dir, Outcome: Failed, Code: "disk_noexec", Seen: "the file system is mounted noexec: no program can run from it",
			Change: "see findmnt -T " + dir + ", and mount it with exec"}
	}
	if err := unix.Access(program, unix.X_OK); err != nil {
		return Check{Name: "programs", About: program, Outcome: Failed, Code: "program_missing", Seen: "the agent's program cannot be executed: " + err.Error(),
			Change: "run the installer again: it stages what is missing, and needs no token"}
	}
	return fine("programs", dir, "may be executed")
}

// firstThere is the first of the paths at which something is, else the first.
func firstThere(paths ...string) string {
	for _, p := range paths {
		if _, err := os.Stat(p); err == nil {
			return p
		}
	}
	return paths[0]
}

func checkUnit(manager, unit, enabled string) Check {
	if _, err := os.Stat(manager); err != nil {
		return Check{Name: "systemd", About: manager, Outcome: Failed, Code: "systemd_missing", Seen: "systemd does not run this machine",
			Change: "the agent needs systemd as process 1"}
	}
	if _, err := os.Stat(unit); err != nil {
		return Check{Name: "systemd", About: unit, Outcome: Warning, Code: "unit_missing", Seen: "there is no unit: nothing starts the agent",
			Change: "run the installer again, or systemctl daemon-reload after putting it back"}
	}
	if _, err := os.Lstat(enabled); err != nil {
		return Check{Name: "systemd", About: unit, Outcome: Warning, Code: "unit_disabled", Seen: "the unit is not enabled: the agent is gone after a reboot",
			Change: "systemctl enable loopback-agent"}
	}
	return fine("systemd", unit, "enabled")
}

// checkSELinux looks at the label of the program where SELinux enforces: one that was moved out of a home or a temporary
// folder keeps that folder's label, and systemd is then not allowed to execute it (203/EXEC).
func checkSELinux(enforce, program string) (Check, bool) {
	mode, err := os.ReadFile(enforce)
	if err != nil {
		return Check{}, false
	}
	if strings.TrimSpace(string(mode)) != "1" {
		return fine("selinux", "", "permissive: it only warns"), true
	}
	path, err := filepath.EvalSymlinks(program)
	if err != nil {
		return Check{Name: "selinux", About: program, Outcome: Skipped, Code: "skipped", Seen: "there is no program to look at"}, true
	}
	label := make([]byte, 256)
	n, err := unix.Getxattr(path, "security.selinux", label)
	if err != nil {
		return Check{Name: "selinux", About: path, Outcome: Skipped, Code: "skipped", Seen: "its label cannot be read: " + err.Error()}, true
	}
	return judgeLabel(path, strings.TrimRight(string(label[:n]), "\x00")), true
}

// judgeLabel tells whether systemd may execute what has this label (user:role:type:level).
func judgeLabel(path, label string) Check {
	kind := label
	if parts := strings.SplitN(label, ":", 4); len(parts) >= 3 {
		kind = parts[2]
	}
	for _, wrong := range []string{"user_home_t", "admin_home_t", "user_tmp_t", "tmp_t", "unlabeled_t", "default_t"} {
		if kind == wrong {
			return Check{Name: "selinux", About: path, Outcome: Failed, Code: "selinux_label", Seen: fmt.Sprintf("SELinux enforces, and the program is labelled %s: systemd may not execute it", kind),
				Change: "restorecon -RFv /opt/loopback"}
		}
	}
	return fine("selinux", path, "labelled %s", kind)
}

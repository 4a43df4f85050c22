package shell

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/loopbackd/loopback/shell"
)

// HostUnit is the unit of a session's shell host; terminalUnit that of the shell and all that is started from it.
func HostUnit(session string) string     { return "loopback-shell-" + session + ".service" }
func terminalUnit(session string) string { return "loopback-terminal-" + session + ".service" }

// pamNames are stacks in /etc/pam.d that a session is opened by, the first that is there.
var pamNames = []string{"loopback", "login"}

// account is a line of passwd(5).
type account struct{ name, uid, home, shell string }

// lookup finds a user. What /etc/passwd does not have is asked of getent(1), which knows the directory services that a host has.
func lookup(ctx context.Context, name string) (account, error) {
	if f, err := os.Open("/etc/passwd"); err == nil {
		defer f.Close()
		for lines := bufio.NewScanner(f); lines.Scan(); {
			if a, ok := parseAccount(lines.Text()); ok && a.name == name {
				return a, nil
			}
		}
	}
	if out, err := exec.CommandContext(ctx, "getent", "passwd", "--", name).Output(); err == nil {
		if a, ok := parseAccount(strings.TrimSpace(string(out))); ok && a.name == name {
			return a, nil
		}
	}
	return account{}, fmt.Errorf("there is no user %q on this host", name)
}

func parseAccount(line string) (account, bool) {
	f := strings.Split(line, ":")
	if len(f) != 7 {
		return account{}, false
	}
	a := account{name: f[0], uid: f[2], home: f[5], shell: f[6]}
	if a.shell == "" {
		a.shell = "/bin/sh" // passwd(5)
	}
	return a, true
}

// InUnit starts a user's login shell in a transient unit of systemd, which opens the PAM session, writes utmp, sets the user,
// their groups and environment, and counts what all of it uses. The unit is bound to the shell host's: neither is without the
// other.
func InUnit(ctx context.Context, o shell.Order, tty string) (Program, error) {
	name := o.User
	if name == "" {
		name = "root"
	}
	a, err := lookup(ctx, name)
	if err != nil {
		return nil, err
	}
	u := &unit{name: terminalUnit(o.Session)}
	args := []string{"--unit=" + u.name, "--quiet", "--collect", "--wait", "--service-type=simple", // PAM keeps one of type exec from ever having started
		"--description=Shell of session " + o.Session}
	property := func(name, value string) { args = append(args, "--property="+name+"="+value) }
	property("User", a.name)
	property("WorkingDirectory", "-"+a.home)
	property("StandardInput", "tty")
	property("StandardOutput", "tty")
	property("StandardError", "tty")
	property("TTYPath", tty)
	property("UtmpIdentifier", utmpID(tty))
	property("UtmpMode", "user")
	property("Environment", "TERM="+o.Term)
	property("Environment", "LOOPBACK_SESSION="+o.Session)
	property("IgnoreSIGPIPE", "no")
	property("SendSIGHUP", "yes")
	property("KillMode", "control-group")
	property("TimeoutStopSec", "3s")
	property("OOMPolicy", "continue") // the kernel's choice ends one program, not the session
	property("LogLevelMax", "warning")
	if _, err := os.Stat("/run/systemd/system/" + HostUnit(o.Session)); err == nil || transient(HostUnit(o.Session)) {
		property("BindsTo", HostUnit(o.Session))
		property("After", HostUnit(o.Session))
	}
	for _, pam := range pamNames {
		if _, err := os.Stat(filepath.Join("/etc/pam.d", pam)); err == nil {
			property("PAMName", pam)
			break
		}
	}
	if _, err := os.Stat(a.shell); err != nil {
		return nil, fmt.Errorf("the login shell of %s, %s, is not there", a.name, a.shell)
	}
	args = append(args, "--", a.shell, "-l")
	// Not bound to ctx: what it waits for is the unit, which has ways of its own to end.
	u.wait = exec.Command("systemd-run", args...)
	var said strings.Builder
	u.wait.Stderr = &said
	if err := u.wait.Start(); err != nil {
		return nil, err
	}
	u.done = make(chan struct{})
	go func() {
		u.err = u.wait.Wait()
		close(u.done)
	}()
	if err := u.starts(ctx); err != nil {
		u.Kill()
		<-u.done
		if text := strings.TrimSpace(said.String()); text != "" {
			err = errors.New(strings.Join(strings.Fields(text), " "))
		}
		return nil, err
	}
	return u, nil
}

func transient(unit string) bool {
	_, err := os.Stat("/run/systemd/transient/" + unit)
	return err == nil
}

// utmpID is what utmp(5) has room for: four characters.
func utmpID(tty string) string {
	id := strings.TrimPrefix(tty, "/dev/")
	return id[max(0, len(id)-4):]
}

// unit is a shell in a unit.
type unit struct {
	name string
	wait *exec.Cmd
	done chan struct{}
	err  error

	mu      sync.Mutex
	cgroups []string // in which something of it may be
}

// starts waits until the shell runs, and notes where: PAM may have moved it to a cgroup of the login manager's.
func (u *unit) starts(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	ticks := time.NewTicker(20 * time.Millisecond)
	defer ticks.Stop()
	for {
		out, err := exec.CommandContext(ctx, "systemctl", "show", "--property=ControlGroup,MainPID", u.name).Output()
		if err == nil {
			seen := map[string]string{}
			for line := range strings.Lines(string(out)) {
				if name, value, ok := strings.Cut(strings.TrimSpace(line), "="); ok {
					seen[name] = value
				}
			}
			if pid := seen["MainPID"]; pid != "" && pid != "0" {
				// Until the shell runs, the process is systemd's own, which empties the terminal's queues: what is typed before is lost.
				if running, err := os.Readlink("/proc/" + pid + "/exe"); err == nil && !strings.HasPrefix(filepath.Base(running), "systemd") {
					u.note(seen["ControlGroup"], pid)
					return nil
				}
			}
		}
		select {
		case <-u.done: // it has ended already, well or not
			// systemd.exec(5): what keeps a process from being started has a status of its own.
			if code := u.wait.ProcessState.ExitCode(); u.err != nil && (code == 1 || code >= 200 && code < 250) {
				return fmt.Errorf("systemd did not start it: status %d", code)
			}
			return nil
		case <-ctx.Done():
			return errors.New("systemd did not start it in time")
		case <-ticks.C:
		}
	}
}

func (u *unit) note(control, pid string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if control != "" {
		u.cgroups = append(u.cgroups, control)
	}
	b, err := os.ReadFile("/proc/" + pid + "/cgroup")
	if err != nil {
		return
	}
	for line := range strings.Lines(string(b)) {
		// Only a login session's, never what other things run in too.
		if at, ok := strings.CutPrefix(strings.TrimSpace(line), "0::"); ok && at != control && strings.HasPrefix(filepath.Base(at), "session-") && strings.HasSuffix(at, ".scope") {
			u.cgroups = append(u.cgroups, at)
		}
	}
}

func (u *unit) Wait() (int, error) {
	<-u.done
	u.reap() // what PAM moved away is not the unit's any more
	code := u.wait.ProcessState.ExitCode()
	var exit *exec.ExitError
	if u.err != nil && !errors.As(u.err, &exit) {
		return code, u.err
	}
	return code, nil
}

// Kill ends all of it at once: by the kernel where it can (cgroup.kill leaves a fork bomb no time), then by systemd.
func (u *unit) Kill() {
	u.reap()
	calls := [][]string{{"kill", "--signal=KILL", u.name}, {"stop", u.name}}
	u.mu.Lock()
	for _, at := range u.cgroups {
		if scope := filepath.Base(at); strings.HasSuffix(scope, ".scope") {
			calls = append(calls, []string{"kill", "--signal=KILL", scope})
		}
	}
	u.mu.Unlock()
	for _, args := range calls {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		_ = exec.CommandContext(ctx, "systemctl", args...).Run() // one that has ended already is no failure
		cancel()
	}
}

// cgroupRoots are where the kernel shows control groups of the second version: alone, or beside the first.
var cgroupRoots = []string{"/sys/fs/cgroup", "/sys/fs/cgroup/unified"}

func (u *unit) reap() {
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, at := range u.cgroups {
		for _, root := range cgroupRoots {
			// Gone already, or a kernel before 5.14: systemd does it.
			if f, err := os.OpenFile(filepath.Join(root, at, "cgroup.kill"), os.O_WRONLY, 0); err == nil {
				_, _ = f.WriteString("1")
				_ = f.Close()
			}
		}
	}
}

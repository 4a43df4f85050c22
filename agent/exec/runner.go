package exec

import (
	"errors"
	"fmt"
	"os"
	osexec "os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/loopbackd/loopback/exec"
	"github.com/loopbackd/loopback/fault"
)

// Spec is a command as a Runner gets it.
type Spec struct {
	Name      string // of the unit
	Arguments []string
	User      string // empty: root
	Timeout   time.Duration

	Stdin, Stdout, Stderr *os.File
}

// Process is one that was started.
type Process interface {
	// Wait returns once the command and all that it started have ended, or been ended since the command has.
	Wait() exec.Result
	// Kill ends the command and all that it started. It may be called at any time, and again.
	Kill()
}

// Runner starts commands.
type Runner interface {
	Start(Spec) (Process, error)
}

// runnerHere is systemd's where it is process 1.
func runnerHere() Runner {
	if _, err := os.Stat("/run/systemd/system"); err == nil {
		r := Systemd{}
		r.sweep()
		return r
	}
	return Plain{}
}

// Systemd has each command run in a transient unit: outside the agent's own bounds, which allow it next to nothing.
type Systemd struct{}

// killAfter is how long what a command left behind, or a command that is cancelled, has for ending by SIGTERM.
const killAfter = time.Second

// Start starts a unit.
func (Systemd) Start(s Spec) (Process, error) {
	name := s.User
	if name == "" {
		name = "root"
	}
	args := []string{
		"--quiet", "--pipe", "--wait", "--service-type=exec", "--unit=" + s.Name, "--description=Command by Loopback",
		"--property=User=" + name, "--property=WorkingDirectory=-~", "--property=KillMode=control-group",
		"--property=TimeoutStopSec=" + seconds(killAfter), "--property=RuntimeMaxSec=" + seconds(s.Timeout+10*time.Second),
		"--property=TasksMax=4096", "--property=OOMPolicy=kill", "--setenv=PATH=" + searchPath, "--",
	}
	for _, a := range s.Arguments {
		args = append(args, strings.ReplaceAll(a, "$", "$$")) // systemd would put variables in
	}
	c := osexec.Command("systemd-run", args...)
	c.Stdin, c.Stdout, c.Stderr = s.Stdin, s.Stdout, s.Stderr
	if err := c.Start(); err != nil {
		return nil, fault.New(fault.Unavailable, "command_not_started", "the command could not be started: %v", err)
	}
	return &unitProcess{name: s.Name + ".service", command: c}, nil
}

func seconds(d time.Duration) string { return strconv.FormatFloat(d.Seconds(), 'f', 1, 64) }

// sweep ends what an agent before this one left running: nobody would hear how it ends.
func (Systemd) sweep() {
	_ = osexec.Command("systemctl", "stop", "--no-block", "loopback-exec-*.service").Run()
}

type unitProcess struct {
	name    string
	command *osexec.Cmd
	kill    sync.Once
}

func (p *unitProcess) Kill() {
	p.kill.Do(func() { _ = osexec.Command("systemctl", "stop", p.name).Run() }) // Wait sees whether it did
}

func (p *unitProcess) Wait() exec.Result {
	err := p.command.Wait()
	if err == nil {
		return exec.Result{}
	}
	var exit *osexec.ExitError
	if !errors.As(err, &exit) {
		return exec.Result{ExitCode: -1, ErrorCode: "command_lost", Error: err.Error()}
	}
	result := exec.Result{ExitCode: exit.ExitCode()}
	// A unit that failed is kept until it is forgotten; it knows whether a signal ended it.
	shown, err := osexec.Command("systemctl", "show", "--property=Result,ExecMainCode,ExecMainStatus", p.name).Output()
	if err == nil {
		values := map[string]string{}
		for line := range strings.Lines(string(shown)) {
			if k, v, ok := strings.Cut(strings.TrimSpace(line), "="); ok {
				values[k] = v
			}
		}
		status, _ := strconv.Atoi(values["ExecMainStatus"])
		if code := values["ExecMainCode"]; code == "2" || code == "3" { // CLD_KILLED, CLD_DUMPED
			result.Signal, result.ExitCode = unix.SignalName(syscall.Signal(status)), 128+status
		}
		result.TimedOut = values["Result"] == "timeout"
	}
	_ = osexec.Command("systemctl", "reset-failed", p.name).Run()
	return result
}

// Plain starts commands as children of the agent, each in a process group and, where there is one to be had, a control group.
type Plain struct{}

// Start starts a process.
func (Plain) Start(s Spec) (Process, error) {
	c := osexec.Command(s.Arguments[0], s.Arguments[1:]...)
	c.Stdin, c.Stdout, c.Stderr = s.Stdin, s.Stdout, s.Stderr
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	home := "/root"
	name := "root"
	if s.User != "" {
		u, err := user.Lookup(s.User)
		if err != nil {
			return nil, fault.New(fault.NotFound, "user_not_found", "the host has no user %s", s.User)
		}
		id, _ := strconv.ParseUint(u.Uid, 10, 32)
		group, _ := strconv.ParseUint(u.Gid, 10, 32)
		c.SysProcAttr.Credential = &syscall.Credential{Uid: uint32(id), Gid: uint32(group)}
		groups, _ := u.GroupIds()
		for _, g := range groups {
			if n, err := strconv.ParseUint(g, 10, 32); err == nil {
				c.SysProcAttr.Credential.Groups = append(c.SysProcAttr.Credential.Groups, uint32(n))
			}
		}
		home, name = u.HomeDir, u.Username
	}
	c.Env = []string{"PATH=" + searchPath, "HOME=" + home, "USER=" + name, "LOGNAME=" + name, "LANG=C.UTF-8"}
	if c.Dir = home; !isDir(home) {
		c.Dir = "/"
	}
	group := newGroup(s.Name)
	if group != nil {
		defer group.Close()
		c.SysProcAttr.UseCgroupFD, c.SysProcAttr.CgroupFD = true, int(group.Fd())
	}
	if err := c.Start(); err != nil {
		if group != nil {
			_ = os.Remove(group.Name())
		}
		if errors.Is(err, os.ErrNotExist) {
			return nil, errProgram
		}
		return nil, fault.New(fault.Unavailable, "command_not_started", "the command could not be started: %v", err)
	}
	p := &child{command: c}
	if group != nil {
		p.group = group.Name()
	}
	return p, nil
}

func isDir(path string) bool {
	i, err := os.Stat(path)
	return err == nil && i.IsDir()
}

// newGroup makes a control group; nil where there are none to be had.
func newGroup(name string) *os.File {
	for _, root := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/unified"} {
		if _, err := os.Stat(filepath.Join(root, "cgroup.controllers")); err != nil {
			continue
		}
		dir := filepath.Join(root, name)
		if err := os.Mkdir(dir, 0o755); err != nil {
			return nil
		}
		if _, err := os.Stat(filepath.Join(dir, "cgroup.kill")); err != nil {
			_ = os.Remove(dir)
			return nil
		}
		f, err := os.Open(dir)
		if err != nil {
			_ = os.Remove(dir)
			return nil
		}
		return f
	}
	return nil
}

type child struct {
	command *osexec.Cmd
	group   string // folder; empty: none
}

func (p *child) Kill() {
	if p.group != "" {
		_ = os.WriteFile(filepath.Join(p.group, "cgroup.kill"), []byte("1"), 0)
	}
	_ = syscall.Kill(-p.command.Process.Pid, syscall.SIGKILL)
}

func (p *child) Wait() exec.Result {
	err := p.command.Wait()
	p.Kill() // what it left behind
	if p.group != "" {
		// It is empty once the last of them is gone.
		for range 100 {
			if os.Remove(p.group) == nil {
				break
			}
			time.Sleep(10 * time.Millisecond)
		}
	}
	status, ok := p.command.ProcessState.Sys().(syscall.WaitStatus)
	switch {
	case ok && status.Signaled():
		return exec.Result{ExitCode: 128 + int(status.Signal()), Signal: unix.SignalName(status.Signal())}
	case ok:
		return exec.Result{ExitCode: status.ExitStatus()}
	}
	return exec.Result{ExitCode: -1, ErrorCode: "command_lost", Error: fmt.Sprint(err)}
}

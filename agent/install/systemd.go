package install

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"

	"github.com/loopbackd/loopback/fault"
)

// systemd is the service manager.
type systemd interface {
	check(ctx context.Context) error
	active(ctx context.Context, unit string) (bool, error)
	reload(ctx context.Context) error
	enable(ctx context.Context, unit string) (changed bool, err error)
	disable(ctx context.Context, unit string) error
	restart(ctx context.Context, unit string) error // also starts; waits until the unit says that it is ready
	stop(ctx context.Context, unit string) error    // one that does not exist is no error
}

// systemctl is systemd by its command.
type systemctl struct{}

var errNoSystemd = fault.New(fault.Precondition, "systemd_missing", "this machine is not run by systemd").
	WithHint("the agent is a systemd service; in a container, install it on the machine below")

func (systemctl) check(context.Context) error {
	if _, err := os.Stat("/run/systemd/system"); err != nil {
		return errNoSystemd.WithCause(err)
	}
	if _, err := exec.LookPath("systemctl"); err != nil {
		return errNoSystemd.WithCause(err)
	}
	return nil
}

func (systemctl) run(ctx context.Context, args ...string) (string, error) {
	c := exec.CommandContext(ctx, "systemctl", args...)
	var out, problem bytes.Buffer
	c.Stdout, c.Stderr = &out, &problem
	c.Env = append(os.Environ(), "LC_ALL=C", "SYSTEMD_PAGER=", "SYSTEMD_COLORS=0")
	if err := c.Run(); err != nil {
		if ctx.Err() != nil {
			return "", ctx.Err()
		}
		said := strings.TrimSpace(problem.String())
		said, _, _ = strings.Cut(said, "\n")
		return strings.TrimSpace(out.String()), fmt.Errorf("systemctl %s: %w: %s", strings.Join(args, " "), err, said)
	}
	return strings.TrimSpace(out.String()), nil
}

// answer is the word of is-active and is-enabled, which fail for every word but one.
func (s systemctl) answer(ctx context.Context, args ...string) (string, error) {
	word, err := s.run(ctx, args...)
	var status *exec.ExitError
	if errors.As(err, &status) && ctx.Err() == nil {
		return word, nil
	}
	return word, err
}

func (s systemctl) active(ctx context.Context, unit string) (bool, error) {
	word, err := s.answer(ctx, "is-active", unit)
	return word == "active" || word == "activating" || word == "reloading", err
}

func (s systemctl) reload(ctx context.Context) error {
	_, err := s.run(ctx, "daemon-reload")
	return err
}

func (s systemctl) enable(ctx context.Context, unit string) (changed bool, err error) {
	word, err := s.answer(ctx, "is-enabled", unit)
	if err != nil || word == "enabled" {
		return false, err
	}
	_, err = s.run(ctx, "enable", "--quiet", unit)
	return true, err
}

func (s systemctl) disable(ctx context.Context, unit string) error {
	word, err := s.answer(ctx, "is-enabled", unit)
	if err != nil || word != "enabled" {
		return err
	}
	_, err = s.run(ctx, "disable", "--quiet", unit)
	return err
}

func (s systemctl) restart(ctx context.Context, unit string) error {
	_, _ = s.run(ctx, "reset-failed", unit) // only matters where it had failed too often
	if _, err := s.run(ctx, "restart", unit); err != nil {
		return fault.New(fault.Internal, "agent_start_failed", "the agent does not start: %s", s.why(ctx, unit)).
			WithHint("see journalctl -u %s; status 203 is SELinux or noexec", unit).WithCause(err)
	}
	return nil
}

// why is the last line that the unit wrote.
func (s systemctl) why(ctx context.Context, unit string) string {
	c := exec.CommandContext(ctx, "journalctl", "--unit", unit, "--lines", "3", "--output", "cat", "--no-pager")
	out, err := c.Output()
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	if err != nil || lines[len(lines)-1] == "" {
		return "see its journal"
	}
	return strings.Join(lines, "; ")
}

func (s systemctl) stop(ctx context.Context, unit string) error {
	word, err := s.answer(ctx, "show", "--property=LoadState", "--value", unit)
	if err != nil || word == "not-found" || word == "" {
		return err
	}
	if _, err := s.run(ctx, "stop", unit); err != nil {
		return fmt.Errorf("stop the agent: %w", err)
	}
	return nil
}

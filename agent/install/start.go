package install

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"github.com/loopbackd/loopback/agent/packaged"
	"github.com/loopbackd/loopback/fault"
)

// unit is the unit's text for this layout.
func (l Layout) unit() string {
	return packaged.UnitText(l.inside(l.Current() + "/bin/loopback-agent"))
}

// isOurUnit tells our unit from one that the host's administrator wrote in its place.
func isOurUnit(text []byte) bool { return bytes.HasPrefix(text, []byte(unitMark)) }

const unitMark = "# As `loopback-agent install` and packages bring it"

// unitIsBrought tells whether the unit that a package brought is the one wanted, and none hides it.
func (l Layout) unitIsBrought() bool {
	brought, err := os.ReadFile(l.at(packaged.Unit))
	if err != nil || string(brought) != l.unit() {
		return false
	}
	_, err = os.Lstat(l.Unit())
	return errors.Is(err, fs.ErrNotExist)
}

// start writes the unit, enables it, and starts or restarts the agent where something changed or it does not run.
func (r *run) start(ctx context.Context) error {
	written := false
	if !r.layout.unitIsBrought() {
		var err error
		if written, err = replace(r.layout.Unit(), []byte(r.layout.unit()), 0o644); err != nil {
			return err
		}
	}
	if written {
		r.changed, r.result.Changed = true, true
		r.layout.relabel(r.layout.Unit())
		if err := r.systemd.reload(ctx); err != nil {
			return fmt.Errorf("make systemd read the unit: %w", err)
		}
		r.step("wrote %s", r.layout.Unit())
	}
	enabled, err := r.systemd.enable(ctx, UnitName)
	if err != nil {
		return fmt.Errorf("enable the unit: %w", err)
	}
	r.result.Changed = r.result.Changed || enabled
	active, err := r.systemd.active(ctx, UnitName)
	if err != nil {
		return fmt.Errorf("ask systemd for the unit: %w", err)
	}
	switch {
	case active && !r.changed:
		r.step("nothing changed: the agent runs on, and was not restarted")
		return nil
	case active:
		r.step("restarting the agent")
	default:
		r.step("starting the agent")
	}
	r.result.Changed = true
	return r.systemd.restart(ctx, UnitName)
}

const waitTick = 100 * time.Millisecond

// wait watches the running agent until its host is managed. A host that awaits approval is installed as far as this end
// is concerned.
func (r *run) wait(ctx context.Context) error {
	if r.Wait == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, r.Wait)
	defer cancel()
	tick := time.NewTicker(waitTick)
	defer tick.Stop()
	var last Standing
	said := ""
	for {
		s, err := r.status(ctx, r.layout.Socket())
		if err == nil {
			last = s
			r.result.State = s.State
			switch {
			case s.Managed:
				r.step("%s is managed", r.result.HostName)
				return nil
			case s.State == "pending":
				r.step("%s awaits approval: loopback host approve %s", r.result.HostName, r.result.HostName)
				return nil
			case s.Refused:
				return fault.New(fault.Denied, "host_refused", "the agent runs, and the control plane refuses this host: %s", s.Trouble).WithHint("%s", s.Hint)
			}
			if line := s.line(); line != said && (r.Verbose || s.Trouble != "") {
				r.step("  %s", line)
				said = line
			}
		}
		select {
		case <-ctx.Done():
			why := "it does not answer: journalctl -u " + UnitName
			if line := last.line(); line != "" {
				why = line
			}
			hint := last.Hint
			if hint == "" {
				hint = "it goes on trying; see: loopback-agent status"
			}
			return fault.New(fault.Timeout, "not_managed", "the agent is installed and runs, but is not managed after %s: %s", r.Wait, why).WithHint("%s", hint)
		case <-tick.C:
		}
	}
}

// line is how far it has come, in a few words.
func (s Standing) line() string {
	switch {
	case s.Trouble != "":
		return s.Trouble
	case s.State != "":
		return "the host is " + s.State
	case s.Linked:
		return "linked, waiting for the configuration"
	}
	return ""
}

package command

import (
	"context"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/loopbackd/loopback/agent/doctor"
	"github.com/loopbackd/loopback/agent/link"
	"github.com/loopbackd/loopback/agent/status"
	"github.com/loopbackd/loopback/fault"
)

// pollEvery is how often `status --wait` asks.
const pollEvery = 100 * time.Millisecond

// showStatus prints how the agent is. It succeeds when the host is linked and everything is applied.
func showStatus(ctx context.Context, env Environment, args []string) error {
	f := flags("status")
	format := output(f)
	socket := f.String("socket", status.DefaultSocket, "`SOCKET` of the agent")
	checkpoint := f.Bool("checkpoint", false, "print the checkpoint of the audit log that this host remembers, and nothing else")
	wait := f.Duration("wait", 0, "wait up to `DURATION` until the host is linked and everything applied")
	if err := parse(env, f, args); err != nil {
		return err
	}
	if err := checkOutput(*format); err != nil {
		return err
	}
	r, err := fetch(ctx, *socket, *wait)
	if err != nil {
		return err
	}
	if *checkpoint {
		if r.AuditLog == nil {
			return fault.New(fault.NotFound, "audit_log_not_remembered", "this host remembers no checkpoint of the audit log: it is not one of those that do").
				WithHint("loopback audit witnesses says which are")
		}
		_, err := fmt.Fprint(env.Stdout, r.AuditLog.Checkpoint)
		return err
	}
	if *format == "json" {
		err = printJSON(env.Stdout, r)
	} else {
		err = printReport(env.Stdout, r, time.Now())
	}
	if err == nil && !r.OK {
		return errNotWell
	}
	return err
}

// fetch asks until the host is well, it is refused for good, or the time is up.
func fetch(ctx context.Context, socket string, wait time.Duration) (status.Report, error) {
	until := time.Now().Add(wait)
	ticks := time.NewTicker(pollEvery)
	defer ticks.Stop()
	for {
		r, err := status.Fetch(ctx, socket)
		settled := err == nil && (r.OK || r.State == string(link.Refused)) || err != nil && fault.KindOf(err) == fault.Denied
		if settled || !time.Now().Before(until) {
			return r, err
		}
		select {
		case <-ticks.C:
		case <-ctx.Done():
			return r, fault.Of(ctx.Err())
		}
	}
}

func printReport(w io.Writer, r status.Report, now time.Time) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	line := func(name, format string, args ...any) {
		fmt.Fprintf(t, "%s\t"+format+"\n", append([]any{name}, args...)...)
	}
	ago := func(at time.Time) string { return fault.Roughly(max(0, now.Sub(at))) }
	state := r.State + " for " + ago(r.Since)
	if r.Transport != "" {
		state += ", " + r.Endpoint + " by " + r.Transport
	}
	line("link", "%s", state)
	line("host", "%s (%s)", r.HostName, r.HostID)
	if r.Standing != "" && r.State != string(link.Refused) { // what it was is no more
		line("standing", "%s%s", r.Standing, colon(r.StandingReason))
	}
	line("version", "%s", r.Version)
	for _, s := range r.Sections {
		line("section "+s.Name, "%s %s%s", s.Status, s.Revision, colon(s.Message))
	}
	for _, m := range r.Modules {
		if !m.Healthy {
			line("module "+m.Name, "unhealthy%s", colon(m.Message))
		}
	}
	if r.AuditLog != nil {
		origin, rest, _ := strings.Cut(r.AuditLog.Checkpoint, "\n")
		size, _, _ := strings.Cut(rest, "\n")
		line("audit log", "remembers %s entries of %s (the checkpoint: -o json, or --checkpoint)", size, origin)
	}
	if r.RetryAt != nil {
		line("next try", "in %s, after %d that failed", fault.Roughly(max(0, r.RetryAt.Sub(now))), r.Attempts)
	}
	if r.LastError != nil {
		line("last error", "%s ago: %s (%s)", ago(r.LastError.At), r.LastError.Message, r.LastError.Code)
		if r.LastError.Hint != "" && r.State != string(link.Linked) {
			line("hint", "%s", r.LastError.Hint)
		}
	}
	if !r.OK {
		line("not well", "%s", r.Reason)
	}
	return t.Flush()
}

func colon(s string) string {
	if s == "" {
		return ""
	}
	return ": " + s
}

// runDoctor prints every check. It succeeds when none failed.
func runDoctor(ctx context.Context, env Environment, args []string) error {
	f := flags("doctor")
	format := output(f)
	var p places
	p.register(f)
	timeout := f.Duration("timeout", 40*time.Second, "how long to try each endpoint")
	if err := parse(env, f, args); err != nil {
		return err
	}
	if err := checkOutput(*format); err != nil {
		return err
	}
	checks := doctor.Run(ctx, doctor.Options{ConfigPath: p.config, StateDir: p.state, Socket: p.socket, Timeout: *timeout})
	var err error
	if *format == "json" {
		err = printJSON(env.Stdout, map[string]any{"ok": doctor.Healthy(checks), "items": checks})
	} else {
		err = printChecks(env.Stdout, checks)
	}
	if err == nil && !doctor.Healthy(checks) {
		return errNotWell
	}
	return err
}

func printChecks(w io.Writer, checks []doctor.Check) error {
	var b strings.Builder
	for _, c := range checks {
		fmt.Fprintf(&b, "%-8s %-12s %s", c.Outcome, c.Name, c.Seen)
		if c.Outcome == doctor.Failed || c.Outcome == doctor.Warning {
			fmt.Fprintf(&b, " [%s]", c.Code)
		}
		if c.About != "" {
			fmt.Fprintf(&b, " (%s)", c.About)
		}
		b.WriteString("\n")
		if c.Change != "" && c.Outcome != doctor.OK {
			fmt.Fprintf(&b, "%22schange: %s\n", "", c.Change)
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

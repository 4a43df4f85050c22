package agent

import (
	"fmt"
	"time"

	"github.com/loopbackd/loopback/agent/link"
	"github.com/loopbackd/loopback/agent/status"
	"github.com/loopbackd/loopback/section"
)

// Status is how the agent is, as the socket tells it.
func (a *Agent) Status() status.Report {
	l := a.link.Status()
	now := time.Now()
	a.mu.Lock()
	identity := a.identity
	a.mu.Unlock()
	r := status.Report{
		State: string(l.State), Since: onClock(l.Since, now), Version: a.options.Version,
		HostID: identity.HostID, HostName: identity.HostName, WorkspaceID: identity.WorkspaceID,
		Standing: string(l.Standing), StandingReason: l.Reason, Endpoint: l.Endpoint, Transport: l.Transport, Server: l.Server,
		LastHeard: moment(onClock(l.LastHeard, now)), RetryAt: moment(onClock(l.RetryAt, now)), Attempts: l.Attempts,
		Keyset: l.Keyset, KeyGeneration: l.Key, Sections: []status.Section{}, Modules: []status.Module{},
	}
	if l.Heartbeat > 0 {
		r.Heartbeat = l.Heartbeat.String()
	}
	if !l.LastHeard.IsZero() {
		r.ClockSkew = l.Skew.Round(time.Millisecond).String()
	}
	if l.LastError != nil {
		r.LastError = &status.Problem{Code: l.LastError.Code, Message: l.LastError.Error(), Hint: l.LastError.Hint, At: onClock(l.ErrorAt, now)}
	}
	for _, s := range a.sections.statuses() {
		r.Sections = append(r.Sections, status.Section{
			Name: s.Name, Status: string(s.State), Revision: s.Revision.String(), AppliedAt: moment(s.AppliedAt), Message: s.Message, Frozen: s.Frozen,
		})
	}
	for _, h := range a.Health() {
		r.Modules = append(r.Modules, status.Module{Name: h.Module, Healthy: h.Healthy, Message: h.Message})
	}
	if m := a.witness.Memory(); m.Checkpoint != "" {
		r.AuditLog = &status.AuditLog{Key: m.Key, Checkpoint: m.Checkpoint}
	}
	r.Reason = whyNot(r)
	r.OK = r.Reason == ""
	return r
}

// onClock moves what was noted before the clock was set to where it is by the clock of now: how long ago it was stays true.
func onClock(t, now time.Time) time.Time {
	if t.IsZero() {
		return t
	}
	return now.Add(t.Sub(now)).Round(0) // both have the monotonic reading, and so has the difference
}

func moment(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}

// whyNot is the first thing that keeps the host from being all that is desired; empty: nothing does.
func whyNot(r status.Report) string {
	switch {
	case r.State == string(link.Refused):
		return "the control plane refuses this host for good" + problem(r)
	case r.State != string(link.Linked) && r.LastError == nil:
		return "connecting to the control plane"
	case r.State != string(link.Linked):
		return "not linked to the control plane" + problem(r)
	case r.Standing == string(link.Pending):
		return "the host awaits approval" + because(r.StandingReason)
	case r.Standing == string(link.Quarantined):
		return "the host is quarantined" + because(r.StandingReason)
	case len(r.Sections) == 0:
		return "waiting for the first configuration"
	}
	for _, s := range r.Sections {
		if s.Status != string(section.Applied) || s.Frozen {
			word := s.Status
			if s.Frozen {
				word = "frozen"
			}
			return fmt.Sprintf("the section %s is %s", s.Name, word) + because(s.Message)
		}
	}
	for _, m := range r.Modules {
		if !m.Healthy {
			return fmt.Sprintf("the module %s is unhealthy", m.Name) + because(m.Message)
		}
	}
	return ""
}

func because(reason string) string {
	if reason == "" {
		return ""
	}
	return ": " + reason
}

func problem(r status.Report) string {
	if r.LastError == nil {
		return ""
	}
	return because(r.LastError.Message)
}

// statusLine is the report in one line, for `systemctl status`.
func statusLine(r status.Report) string {
	if r.State != string(link.Linked) {
		return r.Reason
	}
	if r.OK {
		return "linked to " + r.Endpoint + " by " + r.Transport + ", everything applied"
	}
	return "linked to " + r.Endpoint + "; " + r.Reason
}

package shell

import (
	"strings"
	"time"

	"github.com/loopbackd/loopback/access"
	"github.com/loopbackd/loopback/fault"
)

// Permissions over how long recordings are kept.
const (
	Retain access.Permission = "shell_sessions.retain"
	Hold   access.Permission = "shell_sessions.hold"
	Forget access.Permission = "shell_sessions.forget" // tier 0: to delete one recording on purpose

	// What the audit log says of holds that end, and of recordings that the control plane deletes when their time is over; nobody holds them.
	Release access.Permission = "shell_sessions.release"
	Expire  access.Permission = "shell_sessions.expire"
)

// Bounds of a retention, in days.
const (
	MinKeepDays = 1
	MaxKeepDays = 36_500
)

// Retention is how long recordings of sessions within a scope are kept. Of several the one over the least decides; without one they are
// kept for ever.
type Retention struct {
	Scope     access.Scope
	KeepDays  int64 // since a session's end; 0: for ever
	Reason    string
	By        string // name of who set it
	UpdatedAt time.Time
}

// Validate collects what is wrong with a retention that is to be set.
func (r Retention) Validate(c *fault.Check) {
	c.That(r.KeepDays == 0 || r.KeepDays >= MinKeepDays, "keepDays", "is %d; keep at least %d day, or 0 for ever", r.KeepDays, MinKeepDays)
	c.That(r.KeepDays <= MaxKeepDays, "keepDays", "is %d; at most %d are allowed, and 0 is for ever", r.KeepDays, MaxKeepDays)
	c.That(len(r.Reason) <= access.MaxReason, "reason", "is %d bytes long; at most %d are allowed", len(r.Reason), access.MaxReason)
}

// NearestRetention is the retention over the least that holds a scope; one of KeepDays 0 where there is none.
func NearestRetention(all []Retention, at access.Scope) Retention {
	var best Retention
	for _, r := range all {
		if r.Scope.Contains(at) && best.Scope.Contains(r.Scope) {
			best = r
		}
	}
	return best
}

// KeptUntil is when a session's recording is deleted unless it is held, as retentions are now; zero where it is kept for ever, is deleted
// already, or the session has not ended. Two recordings that disagree are evidence: no time alone deletes them.
func (s Session) KeptUntil(all []Retention) time.Time {
	r := NearestRetention(all, s.Scope)
	if s.State != Ended || s.Verdict == Disagreed || !s.Deletion.At.IsZero() || r.KeepDays == 0 {
		return time.Time{}
	}
	return s.EndedAt.AddDate(0, 0, int(r.KeepDays))
}

// Word is somebody's about a recording: that it is held, or that it was deleted. Its zero value is that nobody said so.
type Word struct {
	At     time.Time
	By     string // id of a principal; empty: the control plane itself
	ByName string // their name then
	Reason string
}

// CheckReason demands that somebody says why, and not at too great a length.
func CheckReason(c *fault.Check, reason string) {
	c.That(strings.TrimSpace(reason) != "", "reason", "is missing: say why")
	c.That(len(reason) <= access.MaxReason, "reason", "is %d bytes long; at most %d are allowed", len(reason), access.MaxReason)
}

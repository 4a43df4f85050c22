package audit

import (
	"time"

	"github.com/loopbackd/loopback/access"
	"github.com/loopbackd/loopback/fault"
)

// Permissions over retention. Prune is what the entries of the control plane's own deletions have.
const (
	Retain access.Permission = "audit.retain"
	Prune  access.Permission = "audit.prune"
)

// Shortest retention, in days: what an investigation needs at the least.
const MinKeepDays = 30

// Retention is how long the bodies of an organisation's entries are kept; without one, of everything that has no retention
// of its own. Only bodies go: the hashes stay, and the log verifies as before.
type Retention struct {
	Organisation string // id; empty: of the deployment
	KeepDays     int64  // 0: for ever
	Hold         bool   // nothing is deleted while it is set, however old: a legal hold
	Reason       string // of the hold, or of the retention
	UpdatedAt    time.Time
}

// Scope is where it holds.
func (r Retention) Scope() access.Scope { return access.Scope{Organisation: r.Organisation} }

// Validate collects what is wrong with a retention that is to be set.
func (r Retention) Validate(c *fault.Check) {
	c.That(r.KeepDays == 0 || r.KeepDays >= MinKeepDays, "keepDays", "is %d; keep at least %d days, or 0 for ever", r.KeepDays, MinKeepDays)
	c.That(r.KeepDays <= 36_500, "keepDays", "is %d; at most 36500 are allowed, and 0 is for ever", r.KeepDays)
	c.That(!r.Hold || r.Reason != "", "reason", "is missing: say why entries are on hold")
	c.That(len(r.Reason) <= access.MaxReason, "reason", "is %d bytes long; at most %d are allowed", len(r.Reason), access.MaxReason)
}

// Prunable are the entries that a retention is about: an organisation's, or those of none of some.
type Prunable struct {
	Organisation string
	But          []string // where Organisation is empty: not these organisations'
	After, UpTo  int64    // positions
}

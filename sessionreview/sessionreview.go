// Package sessionreview is recorded shells that somebody else has to look at.
//
// A Policy says which sessions of a place come into the queue when they end: all that were opened by roles that it names, and of the
// rest a share that is drawn by lot once a month is over. Each comes in once:
//
//	open ──▶ done (somebody who did not type in it gave a verdict)
//
// # The draw
//
// Nobody can know beforehand which sessions are drawn, nor have others drawn, without it showing. When a month begins the control plane
// makes a secret and writes its hash into the audit log. When the month is over the secret is revealed there, with the root of the
// audit log's tree under the next checkpoint:
//
//	seed  = SHA-256("loopback session draw 1" ‖ 0 ‖ month ‖ 0 ‖ secret ‖ root)
//	score = HMAC-SHA256(seed, session's id)
//
// Of a place's population the sessions with the lowest scores are drawn. Whoever sessions are about knows the secret too late, and
// whoever knows the secret (the control plane's own machine) does not choose the root. All that goes into it is in the audit log, so
// anybody who may read that can draw again.
package sessionreview

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"slices"
	"time"

	"github.com/loopbackd/loopback/access"
	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/tenant"
)

// Permissions over reviews of sessions.
const (
	Set    access.Permission = "session_reviews.set" // the policies
	Read   access.Permission = "session_reviews.read"
	Answer access.Permission = "session_reviews.answer"

	// What the audit log says of the control plane's own acts.
	Queue  access.Permission = "session_reviews.queue"  // a session came in
	Commit access.Permission = "session_reviews.commit" // to a month's secret
	Draw   access.Permission = "session_reviews.draw"
)

// Bounds.
const (
	MaxRoles      = 50
	MaxNote       = 2048
	MaxWithin     = 90 * 24 * time.Hour
	DefaultWithin = 14 * 24 * time.Hour
)

// Policy says which sessions within a scope have to be looked at. Of several the one over the least decides.
type Policy struct {
	tenant.Meta
	Scope  access.Scope
	Roles  []string // ids; AnyRole: every session
	Share  int      // of the others, in percent; of a month that had some, one at the least. 0: none
	Within time.Duration
	By     string // who wrote it last
}

// AnyRole stands for every role.
const AnyRole = "*"

// Validate collects what is wrong with a policy.
func (p Policy) Validate(c *fault.Check) {
	c.That(len(p.Roles) <= MaxRoles, "roles", "has %d entries; at most %d are allowed", len(p.Roles), MaxRoles)
	c.That(p.Share >= 0 && p.Share <= 100, "sharePercent", "is %d; allowed are 0 to 100", p.Share)
	c.That(p.Within >= time.Hour && p.Within <= MaxWithin, "within", "is %s; allowed are %s to %s", fault.Span(p.Within), fault.Span(time.Hour), fault.Span(MaxWithin))
}

// Wants tells whether a session that a role gave has to be looked at without being drawn. A role that cannot be told any more is
// taken to be one that is named.
func (p Policy) Wants(role string) bool {
	return slices.Contains(p.Roles, AnyRole) || len(p.Roles) > 0 && (role == "" || slices.Contains(p.Roles, role))
}

// Nearest is the policy over the least that holds a scope.
func Nearest(policies []Policy, at access.Scope) (Policy, bool) {
	var best Policy
	found := false
	for _, p := range policies {
		if p.Scope.Contains(at) && (!found || best.Scope.Contains(p.Scope)) {
			best, found = p, true
		}
	}
	return best, found
}

// State of a review.
type State string

// The states.
const (
	Open State = "open"
	Done State = "done"
)

// States are all of them.
var States = []State{Open, Done}

// Verdict of whoever looked.
type Verdict string

// The verdicts.
const (
	Fine      Verdict = "fine"
	FollowUp  Verdict = "follow_up" // nothing wrong, something to be mended: a saved command, a permission
	Violation Verdict = "violation"
)

// Verdicts are all of them.
var Verdicts = []Verdict{Fine, FollowUp, Violation}

// Review is one session in the queue.
type Review struct {
	tenant.Meta
	Scope     access.Scope
	SessionID string
	HostName  string
	Principal string // who opened it
	Who       string // their name then
	Reason    string
	Ticket    string
	EndedAt   time.Time // the session
	Cause     string    // why it is here: "role debugger", "drawn for 2026-10"
	DueAt     time.Time
	State     State
	Verdict   Verdict
	Note      string
	By        string // id of the reviewer
	ByName    string
	DoneAt    time.Time
}

// Overdue tells whether nobody looked in time.
func (r Review) Overdue(now time.Time) bool { return r.State == Open && !now.Before(r.DueAt) }

// ID of a session's review: a session comes in once.
func ID(session string) string { return "srv_" + session[len("ses_"):] }

// Query selects reviews, those that are due first.
type Query struct {
	Readable access.Sight
	Within   access.Scope
	States   []State
	DueBy    time.Time // zero: any
	Page     tenant.Page
}

// Month is a draw.
type Month struct {
	ID        string // "2026-11"
	Committed [32]byte
	Sealed    []byte // the secret, encrypted; revealed in the audit log when it is drawn
	DrawnAt   time.Time
}

// MonthOf a time.
func MonthOf(t time.Time) string { return t.UTC().Format("2006-01") }

// Bounds of a month: from the first moment to the first of the next.
func Bounds(month string) (from, to time.Time, err error) {
	from, err = time.Parse("2006-01", month)
	return from, from.AddDate(0, 1, 0), err
}

// Commitment to a secret.
func Commitment(secret [32]byte) [32]byte { return sha256.Sum256(secret[:]) }

// Seed of a month's draw. root is of the audit log's tree under a checkpoint that was signed after the month.
func Seed(month string, secret, root [32]byte) [32]byte {
	b := append([]byte("loopback session draw 1\x00"), month...)
	b = append(append(append(b, 0), secret[:]...), root[:]...)
	return sha256.Sum256(b)
}

// Drawn are the sessions that are drawn of a population: a share in percent, rounded up.
func Drawn(seed [32]byte, population []string, share int) []string {
	type scored struct {
		id    string
		score []byte
	}
	all := make([]scored, 0, len(population))
	for _, id := range population {
		mac := hmac.New(sha256.New, seed[:])
		mac.Write([]byte(id))
		all = append(all, scored{id, mac.Sum(nil)})
	}
	slices.SortFunc(all, func(a, b scored) int { return bytes.Compare(a.score, b.score) })
	out := make([]string, 0, len(all))
	for _, s := range all[:(len(all)*share+99)/100] {
		out = append(out, s.id)
	}
	return out
}

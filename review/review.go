// Package review is the review of standing access: what somebody holds for good is looked at by somebody else, and kept with
// a rationale or revoked.
//
//	     ┌──done      (everything was answered)
//	open ┼──overdue   (its time was over before that)
//	     └──cancelled
//
// A review is over a place. When it begins it notes every binding there and below that allows something, came of no grant and
// has not ended: who holds it, which role, since when, by whom made, and when it was last used as far as is known. Bindings that are
// made later are for the next review; those of places above are reviewed there. What is deleted meanwhile is gone.
//
// Only people answer, and nobody for what they hold themselves: as another account of theirs neither, nor through a group that
// they are in. What nobody answered for in time is listed and, where the review says so, revoked, but never the last owner's.
package review

import (
	"slices"
	"strings"
	"time"

	"github.com/loopbackd/loopback/access"
	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/tenant"
)

// Permissions over reviews.
const (
	Create access.Permission = "access_reviews.create"
	Read   access.Permission = "access_reviews.read"
	Answer access.Permission = "access_reviews.answer"
	Cancel access.Permission = "access_reviews.cancel"
)

// Expire is what the audit log says of what nobody answered for, and of a review whose time was over.
const Expire access.Permission = "access_reviews.expire"

// Bounds.
const (
	MinSpan    = time.Hour
	MaxSpan    = 366 * 24 * time.Hour
	MaxItems   = 5000 // bindings under one review
	MaxAnswers = 100  // at once
)

// State of a review.
type State string

// The states.
const (
	Open      State = "open"
	Done      State = "done"
	Overdue   State = "overdue"
	Cancelled State = "cancelled"
)

// States are all of them.
var States = []State{Open, Done, Overdue, Cancelled}

// Verdict is what became of one binding.
type Verdict string

// The verdicts.
const (
	Unasked    Verdict = "open"
	Kept       Verdict = "kept"
	Revoked    Verdict = "revoked"
	Expired    Verdict = "expired"    // nobody answered in time: revoked
	Unanswered Verdict = "unanswered" // nobody answered in time: left as it is
	Gone       Verdict = "gone"       // deleted, or over, before anybody answered
)

// Verdicts are all of them.
var Verdicts = []Verdict{Unasked, Kept, Revoked, Expired, Unanswered, Gone}

// Review is one.
type Review struct {
	tenant.Meta
	Scope       access.Scope
	Description string
	State       State
	DueAt       time.Time
	Revoke      bool // what nobody answered for by then
	CreatedBy   string
	ClosedAt    time.Time
	Counts      map[Verdict]int // of its items
}

// Items is how many there are.
func (r Review) Items() (n int) {
	for _, count := range r.Counts {
		n += count
	}
	return n
}

// Validate collects what is wrong with a review that is to begin.
func (r Review) Validate(c *fault.Check, now time.Time) {
	tenant.CheckName(c, "name", r.Name)
	r.Labels.Validate(c, "labels")
	c.That(len(r.Description) <= tenant.MaxDescription, "description", "is %d bytes long; at most %d are allowed", len(r.Description), tenant.MaxDescription)
	if r.DueAt.IsZero() {
		c.Add("dueAt", "is missing: say until when it is to be answered")
		return
	}
	span := r.DueAt.Sub(now)
	c.That(span >= MinSpan && span <= MaxSpan, "dueAt", "is in %s; allowed are %s to %s", fault.Span(span.Truncate(time.Minute)), fault.Span(MinSpan), fault.Span(MaxSpan))
}

// Item is one binding under review, as it was when the review began.
type Item struct {
	ReviewID  string
	BindingID string
	Scope     access.Scope // of the binding
	Subject   access.Subject
	Who       string // its name
	RoleID    string
	RoleName  string
	Hosts     string
	NotAfter  time.Time
	About     string // its description
	GrantedAt time.Time
	GrantedBy string
	LastAct   time.Time // the last that rests on it, among those that are looked at; zero: none does
	LastSeen  time.Time // when a credential of whoever holds it was last used; zero: never, as far as is known

	Verdict   Verdict
	Rationale string
	By        string // principal
	ByName    string
	At        time.Time
}

// CheckAnswer collects what is wrong with an answer.
func CheckAnswer(c *fault.Check, bindings []string, v Verdict, rationale string) {
	c.That(len(bindings) > 0 && len(bindings) <= MaxAnswers, "bindings", "has %d entries; allowed are 1 to %d", len(bindings), MaxAnswers)
	c.That(len(slices.Compact(slices.Sorted(slices.Values(bindings)))) == len(bindings), "bindings", "has one twice")
	c.That(v == Kept || v == Revoked, "answer", "is neither keep nor revoke")
	c.That(strings.TrimSpace(rationale) != "", "rationale", "is missing: say why it is kept or revoked")
	c.That(len(rationale) <= access.MaxReason, "rationale", "is %d bytes long; at most %d are allowed", len(rationale), access.MaxReason)
}

// Query selects reviews, newest first.
type Query struct {
	Readable access.Sight
	Within   access.Scope
	States   []State
	DueBy    time.Time // only those that are due by then; zero: any
	Page     tenant.Page
}

// ItemQuery selects items of a review, in the order of their bindings.
type ItemQuery struct {
	Review   string
	Verdicts []Verdict
	Page     tenant.Page
}

// Use is when somebody was last seen to make use of what they hold.
type Use struct {
	Seen time.Time            // a credential of theirs
	Acts map[string]time.Time // by the binding that they rest on
}

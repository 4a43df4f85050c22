package cli

import (
	"cmp"
	"encoding/json"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/loopbackd/loopback/audit"
)

// grantLife is what the log says became of a grant.
type grantLife struct {
	asked, last audit.Entry
	id          string
	now         struct {
		Subject   string    `json:"subject"`
		Role      string    `json:"role"`
		Hosts     string    `json:"hosts"`
		Duration  string    `json:"duration"`
		State     string    `json:"state"`
		Policy    string    `json:"policy"`
		Needed    int       `json:"approvalsNeeded"`
		Binding   string    `json:"binding"`
		NotAfter  time.Time `json:"notAfter"`
		Comment   string    `json:"comment"`
		Approvals []struct {
			User string    `json:"user"`
			Name string    `json:"name"`
			At   time.Time `json:"at"`
		} `json:"approvals"`
	}
	began    time.Time
	position []string
}

// grantLives are those of a log, by id.
type grantLives map[string]*grantLife

func (l grantLives) note(e audit.Entry) {
	if !strings.HasPrefix(e.Target, "gnt_") || len(e.After) == 0 {
		return
	}
	g := l[e.Target]
	if g == nil {
		g = &grantLife{id: e.Target, asked: e}
		l[e.Target] = g
	}
	before := g.now.State
	_ = json.Unmarshal(e.After, &g.now) // by what it says, whoever wrote it
	if g.now.State == "active" && before != "active" {
		g.began = e.At
	}
	g.last, g.position = e, append(g.position, strconv.FormatInt(e.Position, 10))
}

// within are those that were not over before a time, in the order in which they were asked for.
func (l grantLives) within(from time.Time) []*grantLife {
	var out []*grantLife
	for _, g := range l {
		if over := g.now.State != "pending" && g.now.State != "active"; !over || !g.last.At.Before(from) {
			out = append(out, g)
		}
	}
	slices.SortFunc(out, func(a, b *grantLife) int { return cmp.Compare(a.asked.Position, b.asked.Position) })
	return out
}

func grantRows(lives []*grantLife) [][]string {
	rows := [][]string{{"grant", "asked", "by", "subject", "role", "scope", "hosts", "for", "reason", "ticket", "policy", "approvals needed", "approvers", "began", "expires",
		"state", "over", "over by", "comment", "binding", "positions"}}
	for _, g := range lives {
		var approvers []string
		for _, a := range g.now.Approvals {
			approvers = append(approvers, a.Name+" ("+a.User+") "+instant(a.At))
		}
		over, by := time.Time{}, ""
		if g.now.State != "pending" && g.now.State != "active" {
			over, by = g.last.At, doer(g.last)
		}
		rows = append(rows, []string{g.id, instant(g.asked.At), doer(g.asked), g.now.Subject, g.now.Role, where(g.asked.Scope), g.now.Hosts, g.now.Duration, g.asked.Reason,
			g.asked.Ticket, g.now.Policy, strconv.Itoa(g.now.Needed), strings.Join(approvers, "; "), instant(g.began), instant(g.now.NotAfter), g.now.State, instant(over), by,
			g.now.Comment, g.now.Binding, strings.Join(g.position, " ")})
	}
	return rows
}

// reviewLife is what the log says became of a review of access.
type reviewLife struct {
	begun audit.Entry
	over  time.Time
	due   time.Time
	items []*reviewedBinding
	by    map[string]*reviewedBinding // by binding
}

// reviewedBinding is a binding under review, as the log has it.
type reviewedBinding struct {
	Binding   string    `json:"binding"`
	Subject   string    `json:"subject"`
	Name      string    `json:"subjectName"`
	Role      string    `json:"role"`
	RoleName  string    `json:"roleName"`
	Hosts     string    `json:"hosts"`
	GrantedAt time.Time `json:"grantedAt"`
	GrantedBy string    `json:"grantedBy"`
	LastAct   time.Time `json:"lastActAt"`
	LastSeen  time.Time `json:"lastSeenAt"`
	Answer    string    `json:"answer"`
	Rationale string    `json:"rationale"`

	answered audit.Entry
}

// reviewLives are those of a log, by id.
type reviewLives map[string]*reviewLife

func (l reviewLives) note(e audit.Entry) {
	if strings.HasPrefix(e.Target, "rvw_") {
		var what struct {
			State    string             `json:"state"`
			DueAt    time.Time          `json:"dueAt"`
			Bindings []*reviewedBinding `json:"bindings"`
		}
		_ = json.Unmarshal(e.After, &what) // by what it says, whoever wrote it
		r := l[e.Target]
		if r == nil {
			r = &reviewLife{begun: e, due: what.DueAt, by: map[string]*reviewedBinding{}}
			l[e.Target] = r
			for _, b := range what.Bindings {
				if b != nil {
					r.items, r.by[b.Binding] = append(r.items, b), b
				}
			}
		}
		if what.State != "open" {
			r.over = e.At
		}
		return
	}
	var what struct {
		Review    string `json:"review"`
		Answer    string `json:"answer"`
		Rationale string `json:"rationale"`
	}
	_ = json.Unmarshal(e.After, &what)
	if r := l[what.Review]; r != nil && r.by[e.Target] != nil {
		b := r.by[e.Target]
		b.Answer, b.Rationale, b.answered = what.Answer, what.Rationale, e
	}
}

// within are the bindings of the reviews that were not over before a time, in the order in which the reviews began, as rows.
func (l reviewLives) within(from time.Time) [][]string {
	var reviews []*reviewLife
	for _, r := range l {
		if r.over.IsZero() || !r.over.Before(from) {
			reviews = append(reviews, r)
		}
	}
	slices.SortFunc(reviews, func(a, b *reviewLife) int { return cmp.Compare(a.begun.Position, b.begun.Position) })
	rows := [][]string{{"review", "name", "scope", "began", "by", "due", "over", "binding", "subject", "subject name", "role", "role name", "hosts", "granted", "granted by",
		"last act", "last seen", "answer", "rationale", "answered by", "answered", "position"}}
	for _, r := range reviews {
		for _, b := range r.items {
			by, position := "", ""
			if b.answered.Position > 0 {
				by, position = doer(b.answered), strconv.FormatInt(b.answered.Position, 10)
			}
			rows = append(rows, []string{r.begun.Target, r.begun.Name, where(r.begun.Scope), instant(r.begun.At), doer(r.begun), instant(r.due), instant(r.over), b.Binding, b.Subject,
				b.Name, b.Role, b.RoleName, b.Hosts, instant(b.GrantedAt), b.GrantedBy, instant(b.LastAct), instant(b.LastSeen), b.Answer, b.Rationale, by, instant(b.answered.At), position})
		}
	}
	return rows
}

package sessionreview

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"time"

	"github.com/loopbackd/loopback/access"
	"github.com/loopbackd/loopback/exec"
	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/sessionreview"
	"github.com/loopbackd/loopback/shell"
	"github.com/loopbackd/loopback/tenant"
)

// Bounds of a report.
const (
	MaxReportTime     = 366 * 24 * time.Hour
	DefaultReportTime = 30 * 24 * time.Hour
	maxReportRows     = 200_000 // commands that are read
	maxReportSessions = 100_000
	maxReportTop      = 100 // lines of each table
	maxReasons        = 5
)

// Report is who had shells where, how often and why, and what recurs in them.
type Report struct {
	Since, Until time.Time
	Sessions     int
	Runs         int // commands that were run without a shell
	Partial      bool
	People       []Person
	Hosts        []HostUse
	Commands     []Recurring
}

// Person is who had shells.
type Person struct {
	Principal string
	Name      string
	Sessions  int
	Hosts     int
	Time      time.Duration
	Last      time.Time
	Reasons   []Counted // the most frequent, tickets in front
}

// HostUse is where.
type HostUse struct {
	Host     string
	Name     string
	Sessions int
	People   int
	Time     time.Duration
	Last     time.Time
}

// Counted is how often something was said.
type Counted struct {
	Text  string
	Times int
}

// Recurring is a command that was given again and again: what could be a saved command instead.
type Recurring struct {
	Command  string // in its normal form
	Times    int
	Sessions int // shells that it was given in
	Runs     int // runs that it was, or was in
	People   int
	Hosts    int
}

// set counts what is distinct.
type set map[string]struct{}

func (s set) add(v string) { s[v] = struct{}{} }

// Report reads what the caller may read: sessions by shell_sessions.read, commands of runs by exec.read.
func (s *Service) Report(ctx context.Context, at Place, since, until time.Time) (Report, error) {
	now := s.Now()
	if until.IsZero() {
		until = now
	}
	if since.IsZero() {
		since = until.Add(-DefaultReportTime)
	}
	var c fault.Check
	c.That(since.Before(until), "since", "is not before until")
	c.That(until.Sub(since) <= MaxReportTime, "since", "is %s before until; at most %s are allowed", fault.Span(until.Sub(since)), fault.Span(MaxReportTime))
	if err := c.Err("request_invalid", "the request is not valid"); err != nil {
		return Report{}, err
	}
	actor := access.ActorFrom(ctx)
	var within access.Scope
	if at != (Place{}) {
		var err error
		if within, err = s.Places.Scope(ctx, at.Organisation, at.Project, at.Workspace, shell.Read); err != nil {
			return Report{}, err
		}
	}
	out := Report{Since: since, Until: until}
	sight := actor.Readable(shell.Read)
	if err := s.sessions(ctx, &out, sight, within); err != nil {
		return Report{}, err
	}
	return out, s.recurring(ctx, &out, sight, actor.Readable(exec.Read), within)
}

func (s *Service) sessions(ctx context.Context, out *Report, sight access.Sight, within access.Scope) error {
	type use struct {
		Person
		hosts   set
		reasons map[string]int
	}
	type where struct {
		HostUse
		people set
	}
	people, hosts := map[string]*use{}, map[string]*where{}
	err := s.each(ctx, out.Since, out.Until, false, func(one shell.Session) error {
		if !within.Contains(one.Scope) || !sight.Sees(one.Scope) {
			return nil
		}
		if out.Sessions == maxReportSessions {
			out.Partial = true
			return nil
		}
		out.Sessions++
		took := max(0, one.EndedAt.Sub(one.CreatedAt))
		p := people[one.Principal]
		if p == nil {
			p = &use{hosts: set{}, reasons: map[string]int{}}
			p.Principal = one.Principal
			people[one.Principal] = p
		}
		if one.EndedAt.After(p.Last) {
			p.Last, p.Name = one.EndedAt, one.Who
		}
		p.Sessions, p.Time = p.Sessions+1, p.Time+took
		p.hosts.add(one.HostID)
		p.reasons[strings.TrimPrefix(one.Ticket+": "+one.Reason, ": ")]++
		h := hosts[one.HostID]
		if h == nil {
			h = &where{people: set{}}
			h.Host = one.HostID
			hosts[one.HostID] = h
		}
		if one.EndedAt.After(h.Last) {
			h.Last, h.Name = one.EndedAt, one.HostName
		}
		h.Sessions, h.Time = h.Sessions+1, h.Time+took
		h.people.add(one.Principal)
		return nil
	})
	for _, p := range people {
		p.Hosts, p.Reasons = len(p.hosts), top(p.reasons, maxReasons)
		out.People = append(out.People, p.Person)
	}
	for _, h := range hosts {
		h.People = len(h.people)
		out.Hosts = append(out.Hosts, h.HostUse)
	}
	slices.SortFunc(out.People, func(a, b Person) int {
		return cmp.Or(cmp.Compare(b.Sessions, a.Sessions), cmp.Compare(a.Name, b.Name), cmp.Compare(a.Principal, b.Principal))
	})
	slices.SortFunc(out.Hosts, func(a, b HostUse) int {
		return cmp.Or(cmp.Compare(b.Sessions, a.Sessions), cmp.Compare(a.Name, b.Name), cmp.Compare(a.Host, b.Host))
	})
	out.Partial = out.Partial || len(out.People) > maxReportTop || len(out.Hosts) > maxReportTop
	out.People, out.Hosts = out.People[:min(len(out.People), maxReportTop)], out.Hosts[:min(len(out.Hosts), maxReportTop)]
	return err
}

func top(counts map[string]int, n int) []Counted {
	var out []Counted
	for text, times := range counts {
		out = append(out, Counted{text, times})
	}
	slices.SortFunc(out, func(a, b Counted) int {
		return cmp.Or(cmp.Compare(b.Times, a.Times), cmp.Compare(a.Text, b.Text))
	})
	return out[:min(n, len(out))]
}

// recurring are the commands of shells, and of runs, by their normal form.
func (s *Service) recurring(ctx context.Context, out *Report, sight, runs access.Sight, within access.Scope) error {
	type seen struct {
		Recurring
		people, hosts set
	}
	all := map[string]*seen{}
	of := func(command string) *seen {
		c := all[command]
		if c == nil {
			c = &seen{people: set{}, hosts: set{}}
			c.Command = command
			all[command] = c
		}
		return c
	}
	view := s.store.View()
	rows, err := view.ShellCommands(ctx, sight, within, out.Since, out.Until, maxReportRows)
	if err != nil {
		return err
	}
	out.Partial = out.Partial || len(rows) == maxReportRows
	for _, r := range rows {
		if r.Command == noted {
			continue
		}
		c := of(r.Command)
		c.Times += int(r.Times)
		c.Sessions++
		c.people.add(r.Principal)
		c.hosts.add(r.HostID)
	}
	q := exec.Query{Readable: runs, Within: within, Page: tenant.Page{Size: tenant.MaxPage}}
	for len(runs) > 0 {
		list, next, err := view.Execs(ctx, q)
		if err != nil {
			return err
		}
		for _, r := range list {
			if r.CreatedAt.Before(out.Since) {
				next = ""
				break
			}
			if !r.CreatedAt.Before(out.Until) {
				continue
			}
			out.Runs++
			c := of(sessionreview.Normal(strings.Join(r.Command.Arguments, " ")))
			c.Times++
			c.Runs++
			c.people.add(r.Actor.Principal)
		}
		if q.Page.Token = next; next == "" {
			break
		}
	}
	for _, c := range all {
		if c.Times < 2 || c.Command == "" {
			continue
		}
		c.People, c.Hosts = len(c.people), len(c.hosts)
		out.Commands = append(out.Commands, c.Recurring)
	}
	slices.SortFunc(out.Commands, func(a, b Recurring) int {
		return cmp.Or(cmp.Compare(b.Times, a.Times), cmp.Compare(a.Command, b.Command))
	})
	out.Partial = out.Partial || len(out.Commands) > maxReportTop
	out.Commands = out.Commands[:min(len(out.Commands), maxReportTop)]
	return nil
}

package access

import (
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/label"
)

// Lock keeps out at once, whatever rules allow: one of a subject, who may do nothing within the scope, and nothing at all with
// their credentials where they belong to it; a role, of which whoever holds it may not do what it gives, by other rules neither;
// a host, or the hosts that a selector matches, into which nobody may reach.
//
// It is a denial that is made in one step and named in the refusal. What it takes away comes back when it is lifted.
type Lock struct {
	ID       string
	Subject  Subject
	Role     string         // id
	Host     string         // id
	Hosts    label.Selector // one that matches all is of every host of the scope
	Every    bool           // Hosts is meant, were it empty
	Scope    Scope
	NotAfter time.Time // zero: until it is lifted
	Reason   string    // which whoever it keeps out is told
}

func (l *Lock) at(now time.Time) bool { return l.NotAfter.IsZero() || now.Before(l.NotAfter) }

func (l *Lock) ofHosts() bool { return l.Host != "" || l.Every || len(l.Hosts) > 0 }

// LockPrefix is what ids of locks begin with; those of rules do not.
const LockPrefix = "lck_"

// refusal is what whoever is kept out is told.
func (l *Lock) refusal() *fault.Error {
	what := "you are locked out"
	switch {
	case l.Role != "":
		what = "a role that you hold is locked"
	case l.ofHosts():
		what = "the host is locked"
	}
	until := ""
	if !l.NotAfter.IsZero() {
		until = " until " + l.NotAfter.UTC().Format(time.RFC3339)
	}
	return fault.New(fault.Denied, "locked", "%s%s: %s", what, until, l.Reason).WithHint("ask whoever locked it (%s); who may lift it: loopback lock lift %s", l.ID, l.ID)
}

// reaching are the acts on a host that a lock of it refuses, besides everything of tier 0. Looking at it, and what is needed to
// manage it, go on.
var reaching = []Permission{"hosts.diagnose", "hosts.restart_module", "commands.run", "checks.run"}

// reachingNouns are those of which a lock refuses all verbs but these.
var (
	reachingNouns = []string{"exec", "file"}
	looking       = []string{"read", "list", "watch", "cancel", "kill"}
)

// Reaches tells whether a permission lets one reach into a host, as a lock of the host refuses.
func Reaches(p Permission) bool {
	noun, verb, _ := strings.Cut(string(p), ".")
	return tierZero(p) || slices.Contains(reaching, p) || slices.Contains(reachingNouns, noun) && !slices.Contains(looking, verb)
}

// shut are the locks of hosts. It never changes.
type shut struct {
	one  map[string][]*Lock // by host
	many []*Lock
}

func (s *shut) lock(at *Scope, hostID string, labels label.Set, now time.Time) *Lock {
	if s == nil {
		return nil
	}
	for _, l := range s.one[hostID] {
		if l.at(now) && l.Scope.Contains(*at) {
			return l
		}
	}
	for _, l := range s.many {
		if l.at(now) && l.Scope.Contains(*at) && l.Hosts.Matches(labels) {
			return l
		}
	}
	return nil
}

// PutLock notes a lock, in the place of one with its id.
func (r *Rules) PutLock(l Lock) {
	r.DeleteLock(l.ID)
	r.locks = maps.Clone(r.locks) // snapshots have the one before
	if r.locks == nil {
		r.locks = map[string]*Lock{}
	}
	r.locks[l.ID] = &l
	r.soilLock(&l)
}

// DeleteLock forgets a lock.
func (r *Rules) DeleteLock(id string) {
	l, ok := r.locks[id]
	if !ok {
		return
	}
	r.locks = maps.Clone(r.locks)
	delete(r.locks, id)
	r.soilLock(l)
}

func (r *Rules) soilLock(l *Lock) {
	switch {
	case l.Role != "":
		for s, rules := range r.bySubject {
			for _, parts := range rules {
				if parts[0].RoleID == l.Role {
					r.soil(s)
					break
				}
			}
		}
	case l.ofHosts():
		r.shut = r.closeHosts()
	default:
		r.soil(l.Subject)
	}
}

func (r *Rules) closeHosts() *shut {
	out := &shut{one: map[string][]*Lock{}}
	for _, id := range slices.Sorted(maps.Keys(r.locks)) {
		switch l := r.locks[id]; {
		case l.Host != "":
			out.one[l.Host] = append(out.one[l.Host], l)
		case l.ofHosts():
			out.many = append(out.many, l)
		}
	}
	if len(out.one)+len(out.many) == 0 {
		return nil
	}
	return out
}

// denials are what the locks take from whoever is one of the subjects and holds the rules.
func (r *Rules) denials(subjects []Subject, rules []*compiled) (out []*compiled, of []*Lock) {
	for _, id := range slices.Sorted(maps.Keys(r.locks)) {
		l := r.locks[id]
		deny := func(rule Rule) {
			rule.ID, rule.Role, rule.Deny = l.ID, "lock", true
			parts := r.catalogue.compile(&rule)
			for _, p := range parts {
				r.share(p)
			}
			out = append(out, parts...)
		}
		switch {
		case l.Role != "":
			seen := map[string]bool{}
			for _, c := range rules {
				scope, ok := l.Scope.Intersect(c.Scope)
				if c.RoleID != l.Role || c.Deny || !ok || seen[c.ID] {
					continue
				}
				seen[c.ID] = true
				deny(Rule{Subject: c.Subject, Permissions: c.Permissions, Scope: scope, Hosts: c.Rule.Hosts, NotBefore: c.NotBefore, NotAfter: sooner(l.NotAfter, c.NotAfter)})
			}
		case !l.ofHosts() && slices.Contains(subjects, l.Subject):
			of = append(of, l)
			deny(Rule{Subject: l.Subject, Permissions: r.catalogue.names, Scope: l.Scope, NotAfter: l.NotAfter})
		}
	}
	return out, of
}

func sooner(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

// keptFrom is a lock that takes a permission from the actor somewhere.
func (a *Actor) keptFrom(p Permission) *Lock {
	if a.Policy == nil {
		return nil
	}
	s := a.Policy.current.Load()
	n, ok := a.Policy.catalogue.index[p]
	sheet := s.sheets[a.Principal]
	if !ok || sheet == nil || len(s.locks) == 0 {
		return nil
	}
	for _, r := range sheet.rules {
		if l := s.locks[r.ID]; l != nil && r.set.Has(n) && r.at(a.Policy.now()) {
			return l
		}
	}
	return nil
}

// Locked is why a principal may do nothing at all where they belong; nil where they may.
func (p *Policy) Locked(principal string) *fault.Error {
	sheet := p.current.Load().sheets[principal]
	if sheet == nil {
		return nil
	}
	for _, l := range sheet.locks {
		if l.at(p.now()) && l.Scope.Contains(sheet.Scope) {
			return l.refusal()
		}
	}
	return nil
}

// Holds tells whether a lock keeps a principal out of anything now, by name, by a group or by a role.
func (s *Snapshot) Holds(lock, principal string) bool {
	sheet := s.sheets[principal]
	return sheet != nil && slices.Contains(sheet.ids, lock)
}

// HostLock is the lock that keeps everybody out of a host; empty where there is none.
func (s *Snapshot) HostLock(at Scope, hostID string, labels label.Set, now time.Time) string {
	if l := s.shut.lock(&at, hostID, labels, now); l != nil {
		return l.ID
	}
	return ""
}

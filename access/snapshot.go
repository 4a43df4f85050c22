package access

import (
	"maps"
	"slices"
	"time"

	"github.com/loopbackd/loopback/label"
)

// Snapshot is compiled rules. It never changes.
type Snapshot struct {
	version uint64
	closed  bool
	sheets  map[string]*sheet // by user or service account
}

// Version of the rules.
func (s *Snapshot) Version() uint64 { return s.version }

// Principal is a user or a service account, as the rules need to know it.
type Principal struct {
	Kind   SubjectKind
	ID     string
	Name   string
	Scope  Scope
	Active bool
}

// sheet is all that concerns one principal: its own rules and those of its groups.
type sheet struct {
	Principal
	active bool
	rules  []*compiled      // denials first, then by id
	global *cell            // over the whole deployment; nil: none
	cells  map[string]*cell // by the id of organisation, project or workspace
}

// cell is the rules over one scope: bits to pass over what does not matter, and the rules side by side in memory, denials
// first, then those that allow whatever the host, the time and the circumstances, then the rest.
type cell struct {
	scope              Scope
	scopeN             int
	allow, deny, plain Set
	entries            []entry
}

// entry is of a rule what decides.
type entry struct {
	set    Set
	id     string
	hosts  label.Selector
	whereN int
	deny   bool
	timed  bool
	asks   bool
	plain  bool // no hosts, no time, no conditions
	rule   *compiled
}

func (c *cell) add(r *compiled) {
	c.scope, c.scopeN = r.Scope, r.scopeN
	e := entry{set: r.set, id: r.ID, hosts: r.Hosts, whereN: r.whereN, deny: r.Deny, timed: r.timed, asks: r.asks,
		plain: len(r.Hosts) == 0 && !r.timed && !r.asks, rule: r}
	c.entries = append(c.entries, e)
	switch {
	case e.deny:
		c.deny.union(&e.set)
	case e.plain:
		c.plain.union(&e.set)
		fallthrough
	default:
		c.allow.union(&e.set)
	}
}

func (c *cell) sort() {
	rank := func(e entry) int {
		switch {
		case e.deny:
			return 0
		case e.plain:
			return 1
		default:
			return 2
		}
	}
	slices.SortStableFunc(c.entries, func(a, b entry) int { return rank(a) - rank(b) })
}

func newSheet(p Principal, rules []*compiled) *sheet {
	s := &sheet{Principal: p, active: p.Active, rules: rules}
	slices.SortFunc(s.rules, func(a, b *compiled) int {
		switch {
		case a.Deny != b.Deny && a.Deny:
			return -1
		case a.Deny != b.Deny:
			return 1
		case a.ID < b.ID:
			return -1
		case a.ID > b.ID:
			return 1
		default:
			return len(a.Hosts) - len(b.Hosts)
		}
	})
	for _, r := range s.rules {
		at := r.Scope.narrowest()
		c := s.global
		if at != "" {
			c = s.cells[at]
		}
		if c == nil {
			c = &cell{}
			if at == "" {
				s.global = c
			} else {
				if s.cells == nil {
					s.cells = map[string]*cell{}
				}
				s.cells[at] = c
			}
		}
		c.add(r)
	}
	if s.global != nil {
		s.global.sort()
	}
	for _, c := range s.cells {
		c.sort()
	}
	return s
}

// decide asks the rules over the scope and those above it. A denial anywhere wins.
func (s *sheet) decide(n uint16, at Scope, host bool, labels label.Set, c *circumstances) Decision {
	cells := [4]*cell{s.global}
	if len(s.cells) > 0 {
		if at.Organisation != "" {
			cells[1] = s.cells[at.Organisation]
		}
		if at.Project != "" {
			cells[2] = s.cells[at.Project]
		}
		if at.Workspace != "" {
			cells[3] = s.cells[at.Workspace]
		}
	}
	may, plain := false, false
	for _, cell := range &cells {
		if cell == nil {
			continue
		}
		may, plain = may || cell.allow.Has(n), plain || cell.plain.Has(n)
		if !cell.deny.Has(n) {
			continue
		}
		for i := range cell.entries {
			e := &cell.entries[i]
			if !e.deny {
				break
			}
			if e.set.Has(n) && e.matches(host, labels) && e.holds(c) {
				return Decision{Denial: e.id}
			}
		}
	}
	if !may {
		return Decision{}
	}
	for _, cell := range &cells {
		if cell == nil || plain && !cell.plain.Has(n) || !cell.allow.Has(n) {
			continue
		}
		for i := range cell.entries {
			e := &cell.entries[i]
			if !e.deny && e.set.Has(n) && (e.plain || e.matches(host, labels) && e.holds(c)) {
				return Decision{Allowed: true, Grant: e.id}
			}
		}
	}
	return Decision{}
}

// matches tells whether the rule is about what is asked for: a rule on selected hosts is about those hosts only.
func (e *entry) matches(host bool, labels label.Set) bool {
	return len(e.hosts) == 0 || host && e.hosts.Matches(labels)
}

// matches tells whether the rule is about what is asked for: a rule on selected hosts is about those hosts only.
func (r *compiled) matches(host bool, labels label.Set) bool {
	return len(r.Hosts) == 0 || host && r.Hosts.Matches(labels)
}

func (e *entry) holds(c *circumstances) bool { return !e.timed && !e.asks || e.rule.holds(c) }

// Rules is what snapshots are compiled from. It belongs to one goroutine, which changes it and asks for a Snapshot now
// and then; only what concerns those whom the changes touch is compiled anew.
type Rules struct {
	catalogue  *Catalogue
	principals map[string]Principal
	members    map[string][]string // of groups: users
	groups     map[string][]string // of users: groups
	bySubject  map[Subject]map[string][]*compiled
	subjects   map[string]Subject // of rules
	sheets     map[string]*sheet
	dirty      map[string]bool // principals to compile anew
	scopes     map[string]int  // numbers of scopes, by what names them
	selectors  map[string]int
}

// NewRules is no rules.
func NewRules(c *Catalogue) *Rules {
	return &Rules{catalogue: c, principals: map[string]Principal{}, members: map[string][]string{}, groups: map[string][]string{},
		bySubject: map[Subject]map[string][]*compiled{}, subjects: map[string]Subject{}, sheets: map[string]*sheet{}, dirty: map[string]bool{},
		scopes: map[string]int{}, selectors: map[string]int{}}
}

// number is that of a text, which gets the next one where it is new.
func number(in map[string]int, text string) int {
	n, ok := in[text]
	if !ok {
		n = len(in)
		in[text] = n
	}
	return n
}

// PutPrincipal notes a user or a service account.
func (r *Rules) PutPrincipal(p Principal) { r.principals[p.ID], r.dirty[p.ID] = p, true }

// DeletePrincipal forgets one. Its rules stay where they are and concern nobody.
func (r *Rules) DeletePrincipal(id string) {
	delete(r.principals, id)
	r.dirty[id] = true
}

// PutGroup notes who is in a group; nobody where it is gone.
func (r *Rules) PutGroup(id string, members []string) {
	for _, m := range r.members[id] {
		r.groups[m] = slices.DeleteFunc(r.groups[m], func(g string) bool { return g == id })
		r.dirty[m] = true
	}
	delete(r.members, id)
	if len(members) > 0 {
		r.members[id] = slices.Clone(members)
	}
	for _, m := range members {
		r.groups[m] = append(r.groups[m], id)
		r.dirty[m] = true
	}
}

// PutRule notes a rule, in the place of one with its id.
func (r *Rules) PutRule(rule Rule) {
	r.DeleteRule(rule.ID)
	r.subjects[rule.ID] = rule.Subject
	if r.bySubject[rule.Subject] == nil {
		r.bySubject[rule.Subject] = map[string][]*compiled{}
	}
	parts := r.catalogue.compile(&rule)
	for _, p := range parts {
		p.scopeN, p.whereN = number(r.scopes, p.Scope.narrowest()), number(r.selectors, p.where)
	}
	r.bySubject[rule.Subject][rule.ID] = parts
	r.soil(rule.Subject)
}

// DeleteRule forgets a rule.
func (r *Rules) DeleteRule(id string) {
	subject, ok := r.subjects[id]
	if !ok {
		return
	}
	delete(r.subjects, id)
	delete(r.bySubject[subject], id)
	r.soil(subject)
}

func (r *Rules) soil(s Subject) {
	if s.Kind != Group {
		r.dirty[s.ID] = true
		return
	}
	for _, m := range r.members[s.ID] {
		r.dirty[m] = true
	}
}

// Clone is a copy that can be changed apart from the original.
func (r *Rules) Clone() *Rules {
	c := &Rules{catalogue: r.catalogue, principals: maps.Clone(r.principals), members: maps.Clone(r.members), groups: map[string][]string{},
		bySubject: map[Subject]map[string][]*compiled{}, subjects: maps.Clone(r.subjects), sheets: maps.Clone(r.sheets), dirty: maps.Clone(r.dirty),
		scopes: maps.Clone(r.scopes), selectors: maps.Clone(r.selectors)}
	for k, v := range r.groups {
		c.groups[k] = slices.Clone(v)
	}
	for k, v := range r.bySubject {
		c.bySubject[k] = maps.Clone(v)
	}
	return c
}

// Snapshot compiles what changed since the last one.
func (r *Rules) Snapshot(version uint64) *Snapshot {
	if len(r.dirty) > 0 {
		r.sheets = maps.Clone(r.sheets) // the last snapshot keeps its own
	}
	for id := range r.dirty {
		p, ok := r.principals[id]
		if !ok {
			delete(r.sheets, id)
			continue
		}
		var rules []*compiled
		gather := func(s Subject) {
			for _, parts := range r.bySubject[s] {
				rules = append(rules, parts...)
			}
		}
		gather(Subject{p.Kind, id})
		if p.Kind == User {
			for _, g := range r.groups[id] {
				gather(Subject{Group, g})
			}
		}
		r.sheets[id] = newSheet(p, rules)
	}
	clear(r.dirty)
	return &Snapshot{version: version, sheets: r.sheets}
}

// Next is the first moment after now at which a rule begins or ends to apply; zero where there is none.
func (r *Rules) Next(now time.Time) time.Time {
	var next time.Time
	for _, rules := range r.bySubject {
		for _, parts := range rules {
			for _, t := range []time.Time{parts[0].NotBefore, parts[0].NotAfter} {
				if t.After(now) && (next.IsZero() || t.Before(next)) {
					next = t
				}
			}
		}
	}
	return next
}

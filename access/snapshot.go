package access

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"github.com/loopbackd/loopback/label"
)

// Snapshot is compiled rules. It never changes.
//
// What a decision reads lies close together: scopes have numbers, and what a role gives, and which hosts a selector means, is
// kept once for all rules that say the same. Memory that nobody read lately takes longer to come than all that is computed.
type Snapshot struct {
	version uint64
	closed  bool
	sheets  map[string]*sheet // by user or service account
	numbers map[string]uint32 // of scopes that rules are over, by the id that names them
	places  []place           // by number
	locks   map[string]*Lock
	shut    *shut // nil: no host is locked
}

// place is a scope that rules are over, or that holds one.
type place struct {
	Scope
	organisation, project, workspace uint32 // numbers of what it names; noneN where it names none
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
	active  bool
	near    uint64   // of the number of each entry's scope, the bit that bit gives: most scopes that are asked about are none of them
	places  []uint32 // number of the scope of each entry
	entries []entry  // by scope; over each first denials, then what always allows, then the rest
	allow   Set      // what is allowed anywhere
	ids     []string // of rules, in order
	Principal
	rules []*compiled // denials first, then by id
	locks []*Lock     // of the principal, or of groups
}

// entry is of a rule what decides.
type entry struct {
	set   *Set
	hosts *hosts // nil: all, and everything else at the scope
	rule  *compiled
	id    uint32 // in sheet.ids
	deny  bool
	timed bool
	asks  bool
}

// hosts are those that a selector matches. Rules that select the same have the same.
type hosts struct {
	label.Selector
	n uint32
}

// wholeN is the number of the whole deployment, noneN that of scopes that no rule is over.
const (
	wholeN uint32 = 0
	noneN  uint32 = 1<<32 - 1
)

// rank is the order in which a cell has its rules.
func (r *compiled) rank() int {
	switch {
	case r.Deny:
		return 0
	case r.plain():
		return 1
	default:
		return 2
	}
}

func (r *compiled) plain() bool { return len(r.Hosts) == 0 && !r.timed && !r.asks }

// byID orders the parts of rules.
func byID(a, b *compiled) int {
	return cmp.Or(cmp.Compare(a.ID, b.ID), cmp.Compare(len(a.Hosts), len(b.Hosts)))
}

func newSheet(p Principal, rules []*compiled) *sheet {
	s := &sheet{Principal: p, active: p.Active, rules: rules, places: make([]uint32, len(rules)), entries: make([]entry, len(rules))}
	slices.SortFunc(rules, byID)
	for i, r := range rules {
		if i == 0 || r.ID != rules[i-1].ID {
			s.ids = append(s.ids, r.ID)
		}
		s.entries[i] = entry{set: r.set, hosts: r.hosts, rule: r, id: uint32(len(s.ids) - 1), deny: r.Deny, timed: r.timed, asks: r.asks}
		if !r.Deny {
			s.allow.union(r.set)
		}
	}
	s.ids = slices.Clip(s.ids)
	slices.SortStableFunc(s.entries, func(a, b entry) int {
		return cmp.Or(cmp.Compare(a.rule.scopeN, b.rule.scopeN), cmp.Compare(a.rule.rank(), b.rule.rank()))
	})
	for i := range s.entries {
		s.places[i] = s.entries[i].rule.scopeN
		s.near |= bit(s.places[i])
	}
	slices.SortStableFunc(rules, func(a, b *compiled) int { return cmp.Compare(min(a.rank(), 1), min(b.rank(), 1)) })
	return s
}

// number of the scope that an id names.
func (s *Snapshot) number(id string) uint32 {
	if id == "" {
		return noneN
	}
	if n, ok := s.numbers[id]; ok {
		return n
	}
	return noneN
}

// path is the numbers of a scope and of those above it.
func (s *Snapshot) path(at *Scope) [4]uint32 {
	if n := s.number(at.narrowest()); n != noneN && s.places[n].Scope == *at {
		p := &s.places[n]
		return [4]uint32{wholeN, p.organisation, p.project, p.workspace}
	}
	return [4]uint32{wholeN, s.number(at.Organisation), s.number(at.Project), s.number(at.Workspace)}
}

// bit stands for a scope, and for every 64th after it, in a sheet's near.
func bit(place uint32) uint64 { return 1 << (place & 63) }

// few is how many entries are looked through faster than searched.
const few = 16

// over are the entries over one scope.
func (s *sheet) over(place uint32) []entry {
	from := 0
	if place == wholeN || len(s.places) <= few {
		for from < len(s.places) && s.places[from] < place {
			from++
		}
	} else {
		from, _ = slices.BinarySearch(s.places, place)
	}
	to := from
	for to < len(s.places) && s.places[to] == place {
		to++
	}
	return s.entries[from:to]
}

// decide asks the rules over the scope and those above it. A denial anywhere wins.
func (s *Snapshot) decide(of *sheet, n uint16, at *Scope, host bool, labels label.Set, c *circumstances) Decision {
	var grant *entry
	for _, place := range s.path(at) {
		if of.near&bit(place) == 0 || place == noneN {
			continue
		}
		entries := of.over(place)
		for i := range entries {
			e := &entries[i]
			if !e.deny && grant != nil {
				break
			}
			if !e.set.Has(n) || !e.matches(host, labels) || !e.holds(c) {
				continue
			}
			if e.deny {
				return Decision{Denial: of.ids[e.id], Snapshot: s.version}
			}
			grant = e
		}
	}
	if grant == nil {
		return Decision{Snapshot: s.version}
	}
	d := Decision{Allowed: true, Grant: of.ids[grant.id], Snapshot: s.version}
	if grant.timed { // a grant ends: of other rules there is nothing to read
		d.Basis = grant.rule.Basis
	}
	return d
}

// matches tells whether the rule is about what is asked for: a rule on selected hosts is about those hosts only.
func (e *entry) matches(host bool, labels label.Set) bool {
	return e.hosts == nil || host && e.hosts.Matches(labels)
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
	numbers    map[string]uint32
	places     []place
	numbered   map[string]uint32 // numbers as the last snapshot has them: never written to
	hosts      map[string]*hosts // by the selector's text
	sets       map[Set]*Set
	locks      map[string]*Lock // never written to: snapshots have it
	shut       *shut
}

// NewRules is no rules.
func NewRules(c *Catalogue) *Rules {
	return &Rules{catalogue: c, principals: map[string]Principal{}, members: map[string][]string{}, groups: map[string][]string{},
		bySubject: map[Subject]map[string][]*compiled{}, subjects: map[string]Subject{}, sheets: map[string]*sheet{}, dirty: map[string]bool{},
		numbers: map[string]uint32{"": wholeN}, places: []place{{organisation: noneN, project: noneN, workspace: noneN}}, hosts: map[string]*hosts{}, sets: map[Set]*Set{}}
}

// number is that of a scope, which gets one with those above it.
func (r *Rules) number(s Scope) uint32 {
	id := s.narrowest()
	if n, ok := r.numbers[id]; ok {
		return n
	}
	p := place{s, noneN, noneN, noneN}
	n := func(named string, s Scope) uint32 {
		switch named {
		case "":
			return noneN
		case id:
			return uint32(len(r.places))
		default:
			return r.number(s)
		}
	}
	p.organisation = n(s.Organisation, Scope{Organisation: s.Organisation})
	p.project = n(s.Project, Scope{Organisation: s.Organisation, Project: s.Project})
	p.workspace = n(s.Workspace, s)
	r.numbers[id], r.places = uint32(len(r.places)), append(r.places, p)
	return r.numbers[id]
}

// share gives a part of a rule its numbers, and what it has in common with others.
func (r *Rules) share(p *compiled) {
	p.scopeN = r.number(p.Scope)
	if set, ok := r.sets[*p.set]; ok {
		p.set = set
	} else {
		r.sets[*p.set] = p.set
	}
	if len(p.Hosts) == 0 {
		return
	}
	text := p.Hosts.String()
	if r.hosts[text] == nil {
		r.hosts[text] = &hosts{p.Hosts, uint32(len(r.hosts))}
	}
	p.hosts = r.hosts[text]
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
		r.share(p)
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
		numbers: maps.Clone(r.numbers), places: slices.Clone(r.places), numbered: r.numbered, hosts: maps.Clone(r.hosts), sets: maps.Clone(r.sets), locks: r.locks, shut: r.shut}
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
		var subjects []Subject
		gather := func(s Subject) {
			subjects = append(subjects, s)
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
		denied, locks := r.denials(subjects, rules)
		r.sheets[id] = newSheet(p, append(rules, denied...))
		r.sheets[id].locks = locks
	}
	clear(r.dirty)
	if len(r.numbered) != len(r.numbers) {
		r.numbered = maps.Clone(r.numbers)
	}
	return &Snapshot{version: version, sheets: r.sheets, numbers: r.numbered, places: slices.Clip(r.places), locks: r.locks, shut: r.shut}
}

// Next is the first moment after now at which a rule begins or ends to apply; zero where there is none.
func (r *Rules) Next(now time.Time) time.Time {
	var next time.Time
	for _, l := range r.locks {
		if l.NotAfter.After(now) && (next.IsZero() || l.NotAfter.Before(next)) {
			next = l.NotAfter
		}
	}
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

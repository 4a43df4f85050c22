package access

import (
	"cmp"
	"math/bits"
	"slices"
	"time"

	"github.com/loopbackd/loopback/label"
)

// Query is a question about one principal and one thing.
type Query struct {
	Principal  string
	Permission Permission
	At         Scope
	Host       string // id of the host with these labels that it is about; empty: it is about none
	Labels     label.Set
	Now        time.Time
	Address    string
	MFA        time.Time
	Ticket     string
}

// Reason is what one rule says to a query.
type Reason struct {
	Rule    Rule
	Applies bool
	Why     string // it does not
}

// Explain decides a query and says what each rule has to say that is about the principal and the permission. known is
// false where there is no such principal; reason says why nothing is allowed where no rule is to blame.
func (s *Snapshot) Explain(c *Catalogue, q Query) (d Decision, reasons []Reason, known bool) {
	d.Snapshot = s.version
	sheet := s.sheets[q.Principal]
	n, ok := c.index[q.Permission]
	if sheet == nil || !ok {
		return d, nil, sheet != nil
	}
	why := &circumstances{func() time.Time { return q.Now }, &Actor{Address: q.Address, MFA: q.MFA, Ticket: q.Ticket}}
	for _, r := range sheet.rules {
		if !r.set.Has(n) {
			continue
		}
		reason := Reason{Rule: *r.Rule}
		switch {
		case !r.Scope.Contains(q.At):
			reason.Why = "it holds elsewhere"
		case len(r.Hosts) > 0 && q.Host == "":
			reason.Why = "it is about selected hosts only"
		case !r.matches(q.Host != "", q.Labels):
			reason.Why = "the host's labels do not match " + r.Hosts.String()
		case !r.NotBefore.IsZero() && q.Now.Before(r.NotBefore):
			reason.Why = "it does not hold yet"
		case !r.NotAfter.IsZero() && !q.Now.Before(r.NotAfter):
			reason.Why = "its time is over"
		case r.met(why) != "":
			reason.Why = r.met(why)
		case !sheet.active:
			reason.Why = "the principal is disabled"
		default:
			reason.Applies = true
		}
		reasons = append(reasons, reason)
	}
	if q.Host != "" && c.reach.Has(n) {
		if l := s.shut.lock(&q.At, q.Host, q.Labels, q.Now); l != nil {
			reasons = append(reasons, Reason{Rule: Rule{ID: l.ID, Role: "lock", Deny: true, Scope: l.Scope, Hosts: l.Hosts, NotAfter: l.NotAfter}, Applies: true})
			d.Denial = l.ID
			return d, reasons, true
		}
	}
	if sheet.active && !s.closed {
		d = s.decide(sheet, n, &q.At, q.Host != "", q.Labels, why)
	}
	return d, reasons, true
}

// Hosts are the hosts that a question is about, grouped by place and labels: what decides of one host of a group decides
// of all. It belongs to one goroutine.
type Hosts struct {
	groups    []hostGroup
	total     int
	scopes    []hostSet // by their number, nil where nobody asked yet
	selectors []hostSet
	locked    hostSet // nil: not known yet

	reached, denied hostSet // room to work in
	rules           []bool
}

type hostGroup struct {
	at     Scope
	labels label.Set
	count  int
	locked bool
}

// hostSet is a set of groups.
type hostSet []uint64

// NewHosts is no hosts.
func NewHosts() *Hosts {
	return &Hosts{}
}

// Group is hosts of one place that have the same labels. What Hosts was asked before is forgotten.
func (h *Hosts) Group(at Scope, labels label.Set, count int) { h.GroupOf(at, labels, count, false) }

// GroupOf is Group of hosts that are locked, or are not.
func (h *Hosts) GroupOf(at Scope, labels label.Set, count int, locked bool) {
	h.groups = append(h.groups, hostGroup{at, labels, count, locked})
	h.total += count
	h.scopes, h.selectors, h.locked = nil, nil, nil
}

// Total is how many hosts there are.
func (h *Hosts) Total() int { return h.total }

// Groups is how many groups there are.
func (h *Hosts) Groups() int { return len(h.groups) }

func (h *Hosts) words() int { return (len(h.groups) + 63) / 64 }

func (h *Hosts) where(matches func(*hostGroup) bool) hostSet {
	out := make(hostSet, h.words())
	for i := range h.groups {
		if matches(&h.groups[i]) {
			out[i/64] |= 1 << (i % 64)
		}
	}
	return out
}

func (h *Hosts) count(s hostSet) int {
	n := 0
	for w, word := range s {
		for ; word != 0; word &= word - 1 {
			n += h.groups[w*64+bits.TrailingZeros64(word)].count
		}
	}
	return n
}

// within are the hosts in a scope, by its number.
func (h *Hosts) within(n uint32, scope *Scope) hostSet {
	return h.known(&h.scopes, n, func(g *hostGroup) bool { return scope.Contains(g.at) })
}

// selected are the hosts that a rule's selector matches, wherever they are; nil: all.
func (h *Hosts) selected(e *entry) hostSet {
	if e.hosts == nil {
		return nil
	}
	return h.known(&h.selectors, e.hosts.n, func(g *hostGroup) bool { return e.hosts.Matches(g.labels) })
}

// shut are the hosts that are locked.
func (h *Hosts) shut() hostSet {
	if h.locked == nil {
		h.locked = append(h.where(func(g *hostGroup) bool { return g.locked }), 0)
	}
	return h.locked
}

// known is a set that was found out before, or is now.
func (h *Hosts) known(sets *[]hostSet, n uint32, matches func(*hostGroup) bool) hostSet {
	for uint32(len(*sets)) <= n {
		*sets = append(*sets, nil)
	}
	if (*sets)[n] == nil {
		(*sets)[n] = append(h.where(matches), 0) // never nil, were there no hosts
	}
	return (*sets)[n]
}

func (s hostSet) add(scope, selected hostSet) {
	for i := range s {
		if selected == nil {
			s[i] |= scope[i]
		} else {
			s[i] |= scope[i] & selected[i]
		}
	}
}

// Reach is how far a principal holds a permission. Conditions are taken to be met where they allow, and not to be met
// where they deny: it is what the principal can do at best.
type Reach struct {
	Principal   Principal
	Permission  Permission
	Everything  bool     // all that lies at the place, not only hosts
	Hosts       int      // how many hosts of the question
	Rules       []string // ids of the rules that allow it
	Conditional bool     // one of these has conditions
	set         hostSet  // until the next reach of the same Hosts
}

func (r Reach) none() bool { return !r.Everything && r.Hosts == 0 }

// reach is how far a sheet reaches.
func (s *Snapshot) reach(c *Catalogue, of *sheet, n uint16, at Scope, hosts *Hosts, now time.Time) Reach {
	out := Reach{Principal: of.Principal}
	if !of.active || !of.allow.Has(n) {
		return out
	}
	words := hosts.words()
	reached, denied, all := append(hosts.reached[:0], make(hostSet, words)...), hosts.denied[:0], true
	rules := append(hosts.rules[:0], make([]bool, len(of.ids))...)
	for i := range of.entries {
		e := &of.entries[i]
		if !e.set.Has(n) || e.timed && !e.rule.at(now) || e.deny && e.asks {
			continue
		}
		scope := &s.places[of.places[i]].Scope
		whole := scope.Contains(at)
		if !whole && !at.Contains(*scope) {
			continue
		}
		whole = whole && e.hosts == nil
		within, selected := hosts.within(of.places[i], scope), hosts.selected(e)
		if e.deny {
			if len(denied) == 0 {
				denied = append(denied, make(hostSet, words)...)
			}
			denied.add(within, selected)
			all = all && !whole
			continue
		}
		out.Everything = out.Everything || whole
		reached.add(within, selected)
		rules[e.id] = true
		out.Conditional = out.Conditional || e.asks
	}
	out.Everything = out.Everything && all
	if s.shut != nil && c.reach.Has(n) {
		for i, locked := range hosts.shut()[:words] {
			reached[i] &^= locked
		}
	}
	for i := range denied {
		reached[i] &^= denied[i]
	}
	out.set, out.Hosts = reached, hosts.count(reached)
	if !out.none() {
		out.Rules = make([]string, 0, count(rules))
		for i, allows := range rules {
			if allows {
				out.Rules = append(out.Rules, of.ids[i])
			}
		}
	}
	hosts.reached, hosts.denied, hosts.rules = reached, denied, rules
	return out
}

func count(list []bool) int {
	n := 0
	for _, is := range list {
		if is {
			n++
		}
	}
	return n
}

// WhoCan is everybody who holds a permission at a place, or on hosts there, by name.
func (s *Snapshot) WhoCan(c *Catalogue, p Permission, at Scope, hosts *Hosts, now time.Time) []Reach {
	n, ok := c.index[p]
	if !ok {
		return nil
	}
	var out []Reach
	for _, sheet := range s.sheets {
		if !sheet.allow.Has(n) {
			continue
		}
		if r := s.reach(c, sheet, n, at, hosts, now); !r.none() {
			r.Permission = p
			out = append(out, r)
		}
	}
	slices.SortFunc(out, func(a, b Reach) int {
		return cmp.Or(cmp.Compare(a.Principal.Kind, b.Principal.Kind), cmp.Compare(a.Principal.Name, b.Principal.Name), cmp.Compare(a.Principal.ID, b.Principal.ID))
	})
	return out
}

// WhatCan is what a principal holds at a place, or on hosts there, in the order of the catalogue.
func (s *Snapshot) WhatCan(c *Catalogue, principal string, at Scope, hosts *Hosts, now time.Time) []Reach {
	sheet := s.sheets[principal]
	if sheet == nil {
		return nil
	}
	var out []Reach
	for i, p := range c.names {
		if r := s.reach(c, sheet, uint16(i), at, hosts, now); !r.none() {
			r.Permission = p
			out = append(out, r)
		}
	}
	return out
}

// Difference is what a principal gains and loses of one permission.
type Difference struct {
	Principal       Principal
	Permission      Permission
	Before, After   bool // holds it on all that lies at the place
	Gained, Lost    int  // hosts
	BeforeN, AfterN int
}

// Diff is what would change at a place, or on hosts there, if the rules became others.
func (s *Snapshot) Diff(c *Catalogue, to *Snapshot, at Scope, hosts *Hosts, now time.Time) []Difference {
	var out []Difference
	ids := map[string]bool{}
	for id, sheet := range s.sheets {
		if to.sheets[id] != sheet { // what did not change is shared
			ids[id] = true
		}
	}
	for id, sheet := range to.sheets {
		if s.sheets[id] != sheet {
			ids[id] = true
		}
	}
	for id := range ids {
		before, after := s.sheets[id], to.sheets[id]
		for i, p := range c.names {
			var b, a Reach
			if before != nil {
				b = s.reach(c, before, uint16(i), at, hosts, now)
				b.set = slices.Clone(b.set)
			}
			if after != nil {
				a = to.reach(c, after, uint16(i), at, hosts, now)
			}
			d := Difference{Principal: a.Principal, Permission: p, Before: b.Everything, After: a.Everything, BeforeN: b.Hosts, AfterN: a.Hosts}
			if after == nil {
				d.Principal = b.Principal
			}
			d.Gained, d.Lost = hosts.without(a.set, b.set), hosts.without(b.set, a.set)
			if d.Before != d.After || d.Gained > 0 || d.Lost > 0 {
				out = append(out, d)
			}
		}
	}
	slices.SortFunc(out, func(a, b Difference) int {
		return cmp.Or(cmp.Compare(a.Principal.Name, b.Principal.Name), cmp.Compare(a.Principal.ID, b.Principal.ID), cmp.Compare(c.index[a.Permission], c.index[b.Permission]))
	})
	return out
}

// without counts the hosts of a that are not in b.
func (h *Hosts) without(a, b hostSet) int {
	if a == nil {
		return 0
	}
	left := slices.Clone(a)
	for i := range b {
		left[i] &^= b[i]
	}
	return h.count(left)
}

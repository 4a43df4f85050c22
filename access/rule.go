package access

import (
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/loopbackd/loopback/label"
)

// SubjectKind is what kind of subject a rule is about.
type SubjectKind string

// The kinds of subjects.
const (
	User           SubjectKind = "user"
	Group          SubjectKind = "group"
	ServiceAccount SubjectKind = "service_account"
)

// Subject is whom a rule is about.
type Subject struct {
	Kind SubjectKind
	ID   string
}

// Conditions narrow when a rule applies. The zero value asks for nothing.
type Conditions struct {
	MFAWithin time.Duration  // the second factor was given no longer ago than this
	Addresses []netip.Prefix // the call comes from one of these
	Ticket    string         // the call names a ticket; the whole of it matches this pattern (RE2)
}

// None tells whether nothing is asked for.
func (c Conditions) None() bool {
	return c.MFAWithin == 0 && len(c.Addresses) == 0 && c.Ticket == ""
}

// Equal tells whether two ask for the same.
func (c Conditions) Equal(o Conditions) bool {
	return c.MFAWithin == o.MFAWithin && c.Ticket == o.Ticket && slices.Equal(c.Addresses, o.Addresses)
}

// Rule says that a subject is allowed, or denied, permissions.
//
// A rule on selected hosts is about those hosts only: permissions over other things do not follow from it, but that the
// places which hold the hosts may be seen (Catalogue.Places).
type Rule struct {
	ID          string // of the binding
	Subject     Subject
	Role        string // name of the role, for people
	RoleID      string
	Permissions []Permission // All and "noun.*" are wildcards; tier 0 needs to be named, and an end
	Scope       Scope
	Hosts       label.Selector
	Conditions  Conditions
	Deny        bool
	NotBefore   time.Time // zero: from ever
	NotAfter    time.Time // zero: for ever; at this moment it no longer applies
	Basis       *Basis    // nil: somebody wrote it
}

// Basis is the grant that a rule came of: who approved it, and why. It never changes.
type Basis struct {
	Grant     string     `json:"grant"` // "gnt_…"
	Approvers []Approver `json:"approvers,omitempty"`
	Reason    string     `json:"reason,omitempty"`
	Ticket    string     `json:"ticket,omitempty"`
}

// Approver is somebody who approved a grant.
type Approver struct {
	ID   string    `json:"id"`
	Name string    `json:"name"` // then
	At   time.Time `json:"at"`
}

// tiers of permissions that wildcards never match, by name. Shells are the way round everything else, and their recordings the only witness of them.
var tierZeroNames = []Permission{"exec.run", "commands.approve", "file.put", "file.get", "shell_sessions.open", "shell_sessions.join", "shell_sessions.forget"}

func tierZero(p Permission) bool { return slices.Contains(tierZeroNames, p) }

// Set is a set of permissions of one catalogue.
type Set [4]uint64

// maxPermissions is how many a catalogue can hold.
const maxPermissions = 256

// Has tells whether the n-th permission is in the set.
func (s *Set) Has(n uint16) bool { return s[n>>6]&(1<<(n&63)) != 0 }

func (s *Set) add(n uint16) { s[n>>6] |= 1 << (n & 63) }

func (s *Set) union(o *Set) {
	for i := range s {
		s[i] |= o[i]
	}
}

func (s *Set) empty() bool { return *s == Set{} }

// Catalogue is every permission there is, numbered.
type Catalogue struct {
	names  []Permission
	index  map[Permission]uint16
	tier0  Set
	places Set
	reach  Set // into hosts
}

// NewCatalogue numbers permissions. tierZero are those that wildcards do not match and that no rule without an end gives;
// places are those that let one see organisations, projects and workspaces.
func NewCatalogue(all, zero, places []Permission) *Catalogue {
	c := &Catalogue{index: map[Permission]uint16{}}
	for _, p := range all {
		if _, ok := c.index[p]; ok || len(c.names) == maxPermissions {
			panic("access: the catalogue has " + string(p) + " twice, or too many permissions")
		}
		c.index[p] = uint16(len(c.names))
		if Reaches(p) || slices.Contains(zero, p) {
			c.reach.add(uint16(len(c.names)))
		}
		c.names = append(c.names, p)
	}
	for _, p := range zero {
		if n, ok := c.index[p]; ok {
			c.tier0.add(n)
		}
	}
	for _, p := range places {
		if n, ok := c.index[p]; ok {
			c.places.add(n)
		}
	}
	return c
}

// TierZero are the permissions of tier 0 by name, whether a catalogue has them or not.
func TierZero() []Permission { return slices.Clone(tierZeroNames) }

// Names are all permissions in order.
func (c *Catalogue) Names() []Permission { return c.names }

// Known tells whether a role may name p: a permission, All, or "noun.*" of a noun that has permissions.
func (c *Catalogue) Known(p Permission) bool {
	if _, ok := c.index[p]; ok || p == All {
		return true
	}
	noun, ok := strings.CutSuffix(string(p), ".*")
	return ok && slices.ContainsFunc(c.names, func(n Permission) bool { return strings.HasPrefix(string(n), noun+".") })
}

// IsTierZero tells whether p is of tier 0.
func (c *Catalogue) IsTierZero(p Permission) bool {
	n, ok := c.index[p]
	return ok && c.tier0.Has(n)
}

// Expand is what a list with wildcards stands for. What is not known is left out.
func (c *Catalogue) Expand(list []Permission) Set {
	var out Set
	for _, p := range list {
		if n, ok := c.index[p]; ok {
			out.add(n)
			continue
		}
		noun, ok := strings.CutSuffix(string(p), ".*")
		if p != All && !ok {
			continue
		}
		for i, name := range c.names {
			if !c.tier0.Has(uint16(i)) && (p == All || strings.HasPrefix(string(name), noun+".")) {
				out.add(uint16(i))
			}
		}
	}
	return out
}

// List is a set as names.
func (c *Catalogue) List(s Set) []Permission {
	var out []Permission
	for i, p := range c.names {
		if s.Has(uint16(i)) {
			out = append(out, p)
		}
	}
	return out
}

// compiled is a rule as it is decided by.
type compiled struct {
	*Rule
	set    *Set   // never changed once the rule is noted
	hosts  *hosts // nil: all
	scopeN uint32 // the scope's number
	timed  bool
	asks   bool
	ticket *regexp.Regexp // nil where none is asked for, or the pattern is broken: then nothing matches
}

// compile makes what a rule comes to: one part, or two where places follow from selected hosts.
func (c *Catalogue) compile(r *Rule) []*compiled {
	set := c.Expand(r.Permissions)
	one := &compiled{Rule: r, set: &set, timed: !r.NotBefore.IsZero() || !r.NotAfter.IsZero(), asks: !r.Conditions.None()}
	if r.Conditions.Ticket != "" {
		one.ticket, _ = regexp.Compile("^(?:" + r.Conditions.Ticket + ")$")
	}
	if r.NotAfter.IsZero() && !r.Deny {
		for i := range set {
			set[i] &^= c.tier0[i]
		}
	}
	if len(r.Hosts) == 0 {
		return []*compiled{one}
	}
	places := set
	for i := range places {
		places[i] &= c.places[i]
		set[i] &^= c.places[i]
	}
	if r.Deny || places.empty() {
		return []*compiled{one}
	}
	all := *r
	all.Hosts = nil
	also := *one
	also.Rule, also.set = &all, &places
	return []*compiled{one, &also}
}

// circumstances are what conditions are held against.
type circumstances struct {
	now func() time.Time
	*Actor
}

// holds tells whether a rule applies now, as far as time and conditions go.
func (r *compiled) holds(c *circumstances) bool {
	if r.timed && !r.at(c.now()) {
		return false
	}
	return !r.asks || r.met(c) == ""
}

func (r *compiled) at(now time.Time) bool {
	return (r.NotBefore.IsZero() || !now.Before(r.NotBefore)) && (r.NotAfter.IsZero() || now.Before(r.NotAfter))
}

// met is empty where all conditions are met, or which one is not.
func (r *compiled) met(c *circumstances) string {
	if d := r.Conditions.MFAWithin; d > 0 {
		if c.MFA.IsZero() || c.now().Sub(c.MFA) > d || c.MFA.After(c.now()) {
			return "the second factor was not given within " + d.String()
		}
	}
	if len(r.Conditions.Addresses) > 0 {
		from, err := netip.ParseAddr(c.Address)
		from = from.Unmap().WithZone("")
		if err != nil || !slices.ContainsFunc(r.Conditions.Addresses, func(p netip.Prefix) bool { return p.Contains(from) }) {
			return "the call does not come from the addresses that it asks for"
		}
	}
	if r.Conditions.Ticket != "" && (r.ticket == nil || !r.ticket.MatchString(c.Ticket)) {
		return r.wrongTicket()
	}
	return ""
}

// wrongTicket is what met says where nothing else is missing: tickets are looked at last.
func (r *compiled) wrongTicket() string {
	return "no ticket of the form " + r.Conditions.Ticket + " is named"
}

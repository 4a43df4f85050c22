package access

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/label"
)

// Policy is the rules that hold now. Its methods are safe for concurrent use, and those that decide take no lock.
//
// A policy that cannot learn of changes is closed by its keeper (Close): it allows nothing then, and says so as
// ErrClosed to whoever signs in, until it is opened with rules that are known to be current.
type Policy struct {
	catalogue *Catalogue
	now       func() time.Time
	current   atomic.Pointer[Snapshot]

	mu       sync.Mutex
	changed  chan struct{} // closed when the snapshot is swapped
	advanced chan struct{} // closed when the version grows; nil while nobody waits for that
}

// ErrClosed says that who may do what cannot be told at the moment.
var ErrClosed = fault.New(fault.Unavailable, "access_unknown", "who may do what cannot be told at the moment: changes do not reach this replica").
	WithHint("try again; if it goes on, look whether the database answers (loopbackd doctor)")

// NewPolicy makes one that is closed.
func NewPolicy(c *Catalogue, now func() time.Time) *Policy {
	p := &Policy{catalogue: c, now: now, changed: make(chan struct{})}
	p.current.Store(&Snapshot{closed: true})
	return p
}

// Catalogue is the permissions that the policy knows.
func (p *Policy) Catalogue() *Catalogue { return p.catalogue }

// Version of the rules: the place in the change feed up to which they are known.
func (p *Policy) Version() uint64 { return p.current.Load().version }

// Closed tells whether nothing is allowed because changes do not arrive.
func (p *Policy) Closed() bool { return p.current.Load().closed }

// Snapshot is the rules as they are now, for questions about them.
func (p *Policy) Snapshot() *Snapshot { return p.current.Load() }

// Swap makes a snapshot the current one and wakes all who wait for a change.
func (p *Policy) Swap(s *Snapshot) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.current.Store(s)
	close(p.changed)
	p.changed = make(chan struct{})
	p.wake()
}

// Advance notes that the rules are the same up to a later version.
func (p *Policy) Advance(version uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := *p.current.Load()
	s.version = version
	p.current.Store(&s)
	p.wake()
}

func (p *Policy) wake() {
	if p.advanced != nil {
		close(p.advanced)
		p.advanced = nil
	}
}

// Reach waits until the rules are known up to a version, or ctx ends: so that who wrote a rule finds it in force.
func (p *Policy) Reach(ctx context.Context, version uint64) {
	for {
		p.mu.Lock()
		if p.Version() >= version {
			p.mu.Unlock()
			return
		}
		if p.advanced == nil {
			p.advanced = make(chan struct{})
		}
		advanced := p.advanced
		p.mu.Unlock()
		select {
		case <-advanced:
		case <-ctx.Done():
			return
		}
	}
}

// patience is how long is waited for rules that were written already: longer than they take to arrive on a busy machine, shorter than
// a caller waits.
const patience = 5 * time.Second

// Settled waits until what was written with a revision is in force here, a few seconds at most, and gives err back: who changed who may
// do what is answered when it holds. Of an error there is nothing to wait for, nor where changes do not arrive.
func (p *Policy) Settled(ctx context.Context, revision int64, err error) error {
	if err == nil && !p.Closed() {
		soon, cancel := context.WithTimeout(ctx, patience)
		defer cancel()
		p.Reach(soon, uint64(revision))
	}
	return err
}

// Current is ErrClosed where changes ceased to arrive: a caller is told so without a look at a database that may not answer.
func (p *Policy) Current() error {
	if s := p.current.Load(); s.closed && s.version > 0 {
		return ErrClosed
	}
	return nil
}

// Knows tells whether a user or service account, of whom something written with a revision speaks, is known and not disabled. Where
// both were written a moment ago the rules are waited for. ErrClosed: it cannot be told.
func (p *Policy) Knows(ctx context.Context, principal string, revision int64) (bool, error) {
	if !p.Active(principal) {
		_ = p.Settled(ctx, revision, nil)
	}
	if p.Closed() {
		return false, ErrClosed
	}
	return p.Active(principal), nil
}

// Close lets nothing be allowed until the next Swap.
func (p *Policy) Close() {
	if !p.Closed() {
		p.Swap(&Snapshot{version: p.Version(), closed: true})
	}
}

// Touch wakes all who wait for a change though the rules are the same: time passed for one of them, or a credential died.
func (p *Policy) Touch() { p.Swap(p.current.Load()) }

// Changed is closed when what is allowed may no longer be what it was. Take it before asking what is allowed.
func (p *Policy) Changed() <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.changed
}

// Active tells whether a user or service account is known and not disabled.
func (p *Policy) Active(principal string) bool {
	s := p.current.Load().sheets[principal]
	return s != nil && s.active
}

func (p *Policy) circumstances(a *Actor) circumstances { return circumstances{p.now, a} }

func (p *Policy) decide(a *Actor, permission Permission, at *Scope, host string, labels label.Set) Decision {
	s := p.current.Load()
	n, ok := p.catalogue.index[permission]
	sheet := s.sheets[a.Principal]
	if !ok || sheet == nil || !sheet.active {
		return Decision{Snapshot: s.version}
	}
	c := p.circumstances(a)
	if s.shut != nil && host != "" && p.catalogue.reach.Has(n) {
		if l := s.shut.lock(at, host, labels, p.now()); l != nil {
			return Decision{Denial: l.ID, Snapshot: s.version}
		}
	}
	return s.decide(sheet, n, at, host != "", labels, &c)
}

// sight is where the actor's principal holds a permission now.
func (p *Policy) sight(a *Actor, permission Permission) Sight {
	s := p.current.Load()
	n, ok := p.catalogue.index[permission]
	sheet := s.sheets[a.Principal]
	if !ok || sheet == nil || !sheet.active {
		return nil
	}
	c := p.circumstances(a)
	var allow, deny []Clause
	for _, r := range sheet.rules {
		if !r.set.Has(n) || !r.holds(&c) {
			continue
		}
		clause := Clause{Scope: r.Scope, Hosts: r.Hosts}
		if r.Deny {
			deny = append(deny, clause)
		} else {
			allow = append(allow, clause)
		}
	}
	var out Sight
	for _, clause := range allow {
		for _, d := range deny {
			if _, ok := d.Intersect(clause.Scope); ok {
				clause.Except = append(clause.Except, d)
			}
		}
		gone := slices.ContainsFunc(clause.Except, func(d Clause) bool { return len(d.Hosts) == 0 && d.Contains(clause.Scope) })
		if !gone && !slices.ContainsFunc(out, func(o Clause) bool { return Sight{o}.Equal(Sight{clause}) }) {
			out = append(out, clause)
		}
	}
	return out
}

// ticketFor is the pattern of a ticket that would let the actor do it, by a rule that applies but for that; empty where there is
// none. at is nil for a rule over whatever scope, on whatever hosts.
func (a *Actor) ticketFor(permission Permission, at *Scope, host string, labels label.Set) string {
	if a.Policy == nil {
		return ""
	}
	s := a.Policy.current.Load()
	n, ok := a.Policy.catalogue.index[permission]
	sheet := s.sheets[a.Principal]
	if !ok || sheet == nil || !sheet.active || !sheet.allow.Has(n) {
		return ""
	}
	c := a.Policy.circumstances(a)
	for _, r := range sheet.rules {
		if r.Deny || r.Conditions.Ticket == "" || !r.set.Has(n) || at != nil && (!r.Scope.Contains(*at) || !r.matches(host != "", labels)) {
			continue
		}
		within := slices.ContainsFunc(a.Grants, func(g Grant) bool {
			if at != nil {
				return g.Scope.Contains(*at) && g.holds(permission)
			}
			_, ok := g.Scope.Intersect(r.Scope)
			return ok && g.holds(permission)
		})
		denied := func(d *compiled) bool {
			return d.Deny && d.set.Has(n) && len(d.Hosts) == 0 && d.Scope.Contains(r.Scope) && d.holds(&c)
		}
		if within && r.at(c.now()) && r.met(&c) == r.wrongTicket() && !slices.ContainsFunc(sheet.rules, denied) {
			return r.Conditions.Ticket
		}
	}
	return ""
}

// Covers tells whether the actor may give a rule to somebody: for each of its permissions the actor holds one that
// reaches as far, over the scope, the hosts, the time and the conditions, and is denied nothing there. lacking is what
// the actor does not hold.
func (a Actor) Covers(r Rule) (lacking []Permission) {
	if a.Kind == System {
		return nil
	}
	within := func(p Permission) bool { _, ok := a.within(p, &r.Scope); return ok }
	if a.Policy == nil {
		if !a.alone {
			return r.Permissions
		}
		for _, p := range r.Permissions {
			if !within(p) {
				lacking = append(lacking, p)
			}
		}
		return lacking
	}
	catalogue := a.Policy.catalogue
	sheet := a.Policy.current.Load().sheets[a.Principal]
	if sheet == nil || !sheet.active {
		return r.Permissions
	}
	c := a.Policy.circumstances(&a)
	wanted := catalogue.Expand(r.Permissions)
	if r.Deny {
		return nil // it takes, it does not give
	}
	owner := sheet.covers(catalogue, allButTierZero(catalogue), r, &c)
	for i, p := range catalogue.names {
		n := uint16(i)
		if !wanted.Has(n) {
			continue
		}
		// Nobody holds tier 0 for good. Who holds all the rest without bounds may lend it for a time.
		if catalogue.tier0.Has(n) && owner && !r.NotAfter.IsZero() && within(All) {
			continue
		}
		var one Set
		one.add(n)
		if !within(p) || !sheet.covers(catalogue, one, r, &c) {
			lacking = append(lacking, p)
		}
	}
	return lacking
}

func allButTierZero(c *Catalogue) Set { return c.Expand([]Permission{All}) }

func (s *sheet) covers(catalogue *Catalogue, wanted Set, r Rule, c *circumstances) bool {
	var held Set
	for _, own := range s.rules {
		var both Set
		for i := range both {
			both[i] = own.set[i] & wanted[i]
		}
		if both.empty() {
			continue
		}
		if own.Deny { // whether it applies now or may do so later
			if _, ok := own.Scope.Intersect(r.Scope); ok && (own.NotAfter.IsZero() || c.now().Before(own.NotAfter)) {
				return false
			}
			continue
		}
		if own.holds(c) && own.Scope.Contains(r.Scope) && narrows(r.Hosts, own.Hosts) && (own.Conditions.None() || own.Conditions.Equal(r.Conditions)) &&
			(own.NotAfter.IsZero() || !r.NotAfter.IsZero() && !r.NotAfter.After(own.NotAfter)) {
			held.union(&both)
		}
	}
	return held == wanted
}

// narrows tells whether a selector has every requirement of a wider one.
func narrows(s, wider label.Selector) bool {
	for _, w := range wider {
		if !slices.ContainsFunc(s, func(r label.Requirement) bool { return label.Selector{r}.String() == label.Selector{w}.String() }) {
			return false
		}
	}
	return true
}

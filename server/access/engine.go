// Package access keeps the rules that decisions go by, and answers questions about them.
//
// The Engine follows the change feed. It compiles what roles, bindings, users, groups and service accounts come to, anew
// only for those whom a change touches, and swaps the snapshot in: from then on every decision of this replica goes by
// it, and every stream is asked again whether it may go on. That takes milliseconds from the commit on.
//
// It fails closed. A replica whose feed cannot be read, or whose engine cannot read what changed, does not know of
// revocations: after StaleAfter it allows nothing, says so (access_unknown), ends its streams, and opens by itself once
// it has caught up. Until the rules were read for the first time nothing is allowed either.
package access

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/loopbackd/loopback/access"
	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/lock"
	"github.com/loopbackd/loopback/policy"
	"github.com/loopbackd/loopback/principal"
	"github.com/loopbackd/loopback/server/feed"
	"github.com/loopbackd/loopback/tenant"
)

// StaleAfter is how long a replica goes on by rules that it cannot tell to be current. A revocation that it cannot hear
// of is in force there after this, and a second more.
const StaleAfter = 10 * time.Second

// again is how long to wait before what could not be read is tried again.
const again = 200 * time.Millisecond

// Reader reads what rules are made from.
type Reader interface {
	Principal(ctx context.Context, id string) (principal.Principal, error)
	Principals(ctx context.Context, q principal.Query) ([]principal.Principal, string, error)
	Group(ctx context.Context, id string) (principal.Group, error)
	Groups(ctx context.Context, q principal.Query) ([]principal.Group, string, error)
	Role(ctx context.Context, id string) (policy.Role, error)
	Binding(ctx context.Context, id string) (policy.Binding, error)
	Bindings(ctx context.Context, q policy.Query) ([]policy.Binding, string, error)
	Locks
}

// Locks reads what keeps out.
type Locks interface {
	Lock(ctx context.Context, id string) (lock.Lock, error)
	Locks(ctx context.Context, q lock.Query) ([]lock.Lock, string, error)
}

// Store is where that is kept.
type Store interface {
	View() Reader
}

// Options of an engine.
type Options struct {
	Store    Store
	Policy   *access.Policy
	Position func() int64     // of the last change that the feed handed out
	Fresh    func() time.Time // when the feed was last read, by the machine's own clock
	Now      func() time.Time
	Logger   *slog.Logger
}

// Engine keeps a policy.
type Engine struct {
	options Options

	mu       sync.Mutex // over what the rules are made from; decisions do not take it
	rules    *access.Rules
	bindings map[string]policy.Binding
	roles    map[string]policy.Role     // those that bindings name
	byRole   map[string]map[string]bool // bindings
	groups   map[string]principal.Group
	behind   time.Time // since when something that changed cannot be read; zero: all was
	next     time.Time // when a rule begins or ends to apply
}

// NewEngine makes one. Nothing is allowed before its Follow has read the rules.
func NewEngine(o Options) *Engine { return &Engine{options: o} }

// Follow keeps the policy until ctx ends. ready is closed when it was read for the first time.
func (e *Engine) Follow(ctx context.Context, from *feed.Subscription, ready chan<- struct{}) error {
	var keeping sync.WaitGroup
	defer keeping.Wait()
	keeping.Go(func() { e.keep(ctx) })
	for {
		changes, anew, err := e.wait(ctx, from)
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, context.DeadlineExceeded):
			e.options.Policy.Touch() // time passed for a rule
			e.mu.Lock()
			e.next = e.rules.Next(e.options.Now())
			e.mu.Unlock()
			continue
		case err != nil:
			return err
		}
		if anew {
			err = e.Load(ctx)
		} else {
			err = e.Apply(ctx, changes)
		}
		if err == nil {
			e.mu.Lock()
			e.behind = time.Time{}
			e.mu.Unlock()
			if ready != nil {
				close(ready)
				ready = nil
			}
			continue
		}
		if ctx.Err() != nil {
			return nil
		}
		e.mu.Lock()
		if e.behind.IsZero() {
			e.behind = time.Now()
			e.options.Logger.WarnContext(ctx, "rules of access cannot be read; nothing is allowed if this goes on", "after", StaleAfter, "error", fault.Of(err).Error())
		}
		e.mu.Unlock()
		from.Anew()
		pause := time.NewTimer(again)
		select {
		case <-pause.C:
		case <-ctx.Done():
			pause.Stop()
			return nil
		}
	}
}

// wait is for changes, or until a rule begins or ends to apply.
func (e *Engine) wait(ctx context.Context, from *feed.Subscription) ([]feed.Change, bool, error) {
	e.mu.Lock()
	next := e.next
	e.mu.Unlock()
	if next.IsZero() {
		return from.Next(ctx)
	}
	bounded, cancel := context.WithTimeout(ctx, max(0, next.Sub(e.options.Now())))
	defer cancel()
	return from.Next(bounded)
}

// keep closes the policy while it cannot be told to be current, and opens it again.
func (e *Engine) keep(ctx context.Context) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			e.Check()
		case <-ctx.Done():
			return
		}
	}
}

// Check looks whether the policy can be told to be current.
func (e *Engine) Check() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.rules == nil {
		return
	}
	unsure := e.options.Fresh()
	if !e.behind.IsZero() && e.behind.Before(unsure) {
		unsure = e.behind
	}
	stale, closed := time.Since(unsure) > StaleAfter, e.options.Policy.Closed()
	switch {
	case stale && !closed:
		e.options.Logger.Error("changes of access do not arrive; nothing is allowed until they do", "since", unsure)
		e.options.Policy.Close()
	case !stale && closed && e.behind.IsZero():
		e.options.Logger.Info("changes of access arrive again")
		e.options.Policy.Swap(e.rules.Snapshot(e.options.Policy.Version()))
	}
}

// Load reads everything.
func (e *Engine) Load(ctx context.Context) error {
	version := uint64(e.options.Position())
	view := e.options.Store.View()
	rules := access.NewRules(e.options.Policy.Catalogue())
	fresh := &Engine{options: e.options, rules: rules, bindings: map[string]policy.Binding{}, roles: map[string]policy.Role{},
		byRole: map[string]map[string]bool{}, groups: map[string]principal.Group{}}
	q := principal.Query{Readable: access.Everywhere(), Page: tenant.Page{Size: tenant.MaxPage}}
	if err := pages(func(token string) (string, error) {
		q.Page.Token = token
		list, next, err := view.Principals(ctx, q)
		for _, p := range list {
			rules.PutPrincipal(described(p))
		}
		return next, err
	}); err != nil {
		return err
	}
	if err := pages(func(token string) (string, error) {
		q.Page.Token = token
		list, next, err := view.Groups(ctx, q)
		for _, g := range list {
			fresh.putGroup(g)
		}
		return next, err
	}); err != nil {
		return err
	}
	bindings := policy.Query{Readable: access.Everywhere(), Page: tenant.Page{Size: tenant.MaxPage}}
	if err := pages(func(token string) (string, error) {
		bindings.Page.Token = token
		list, next, err := view.Bindings(ctx, bindings)
		for _, b := range list {
			if err == nil {
				err = fresh.putBinding(ctx, view, b)
			}
		}
		return next, err
	}); err != nil {
		return err
	}
	locks := lock.Query{Readable: access.Everywhere(), States: []lock.State{lock.Active}, Page: tenant.Page{Size: tenant.MaxPage}}
	if err := pages(func(token string) (string, error) {
		locks.Page.Token = token
		list, next, err := view.Locks(ctx, locks)
		for _, l := range list {
			rules.PutLock(l.Rule())
		}
		return next, err
	}); err != nil {
		return err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.rules, e.bindings, e.roles, e.byRole, e.groups = rules, fresh.bindings, fresh.roles, fresh.byRole, fresh.groups
	e.next = rules.Next(e.options.Now())
	e.options.Policy.Swap(rules.Snapshot(version))
	return nil
}

func pages(read func(token string) (next string, err error)) error {
	for token := ""; ; {
		next, err := read(token)
		if err != nil || next == "" {
			return err
		}
		token = next
	}
}

func described(p principal.Principal) access.Principal {
	return access.Principal{Kind: p.Kind, ID: p.ID, Name: p.Name, Scope: p.Scope, Active: p.Active()}
}

func (e *Engine) putGroup(g principal.Group) {
	e.groups[g.ID] = g
	e.rules.PutGroup(g.ID, g.Members)
}

func (e *Engine) putBinding(ctx context.Context, view Reader, b policy.Binding) error {
	role, ok := e.roles[b.RoleID]
	if !ok {
		var err error
		if role, err = view.Role(ctx, b.RoleID); err != nil && fault.KindOf(err) != fault.NotFound {
			return err
		}
		e.roles[b.RoleID] = role // one that is gone gives nothing
	}
	e.bindings[b.ID] = b
	if e.byRole[b.RoleID] == nil {
		e.byRole[b.RoleID] = map[string]bool{}
	}
	e.byRole[b.RoleID][b.ID] = true
	e.rules.PutRule(b.Rule(role))
	return nil
}

// Apply takes in changes that the feed handed out.
func (e *Engine) Apply(ctx context.Context, changes []feed.Change) error {
	type thing struct {
		kind feed.Kind
		id   string
	}
	seen := map[thing]bool{}
	view := e.options.Store.View()
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, c := range changes {
		t := thing{c.Kind, c.ID}
		if seen[t] {
			continue
		}
		var err error
		switch c.Kind {
		case feed.Principal:
			err = e.principal(ctx, view, c.ID)
		case feed.Group:
			err = e.group(ctx, view, c.ID)
		case feed.Role:
			err = e.role(ctx, view, c.ID)
		case feed.Binding:
			err = e.binding(ctx, view, c.ID)
		case feed.Lock:
			err = e.lock(ctx, view, c.ID)
		default:
			continue
		}
		if err != nil {
			return err
		}
		seen[t] = true
	}
	version := uint64(changes[len(changes)-1].Position)
	if len(seen) > 0 {
		e.next = e.rules.Next(e.options.Now())
	}
	if len(seen) == 0 || e.options.Policy.Closed() { // Check opens it when it is time
		e.options.Policy.Advance(version)
		return nil
	}
	e.options.Policy.Swap(e.rules.Snapshot(version))
	return nil
}

func (e *Engine) principal(ctx context.Context, view Reader, id string) error {
	p, err := view.Principal(ctx, id)
	switch {
	case fault.KindOf(err) == fault.NotFound:
		e.rules.DeletePrincipal(id)
	case err != nil:
		return err
	default:
		e.rules.PutPrincipal(described(p))
	}
	return nil
}

func (e *Engine) group(ctx context.Context, view Reader, id string) error {
	g, err := view.Group(ctx, id)
	switch {
	case fault.KindOf(err) == fault.NotFound:
		delete(e.groups, id)
		e.rules.PutGroup(id, nil)
	case err != nil:
		return err
	default:
		e.putGroup(g)
	}
	return nil
}

func (e *Engine) binding(ctx context.Context, view Reader, id string) error {
	b, err := view.Binding(ctx, id)
	switch {
	case fault.KindOf(err) == fault.NotFound:
		delete(e.byRole[e.bindings[id].RoleID], id)
		delete(e.bindings, id)
		e.rules.DeleteRule(id)
	case err != nil:
		return err
	default:
		return e.putBinding(ctx, view, b)
	}
	return nil
}

func (e *Engine) lock(ctx context.Context, view Reader, id string) error {
	l, err := view.Lock(ctx, id)
	switch {
	case fault.KindOf(err) == fault.NotFound || err == nil && l.State != lock.Active:
		e.rules.DeleteLock(id)
	case err != nil:
		return err
	default:
		e.rules.PutLock(l.Rule())
	}
	return nil
}

// role reads a role anew, and with it all rules that it is in.
func (e *Engine) role(ctx context.Context, view Reader, id string) error {
	if len(e.byRole[id]) == 0 {
		delete(e.roles, id)
		return nil
	}
	r, err := view.Role(ctx, id)
	if err != nil && fault.KindOf(err) != fault.NotFound {
		return err
	}
	e.roles[id] = r
	for b := range e.byRole[id] {
		e.rules.PutRule(e.bindings[b].Rule(r))
	}
	return nil
}

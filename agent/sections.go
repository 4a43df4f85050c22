package agent

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/loopbackd/loopback/agent/link"
	"github.com/loopbackd/loopback/agent/state"
	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/section"
)

// applyTimeout bounds one Apply; a module that ignores it starves the watchdog a minute later.
const applyTimeout = 5 * time.Minute

// retryFailed is how long after a failure the same value is tried again.
const retryFailed = 5 * time.Minute

// sections brings what the control plane desires to the modules, and says how far each section has come.
//
// A value goes through three hands: received (it is what it claims to be and newer than what is held), applied (the module
// made the machine match), stored (it survives a restart). It counts as held only after the last. Values are applied one
// at a time; one that was overtaken while it waited is never applied.
type sections struct {
	modules map[string]Module
	store   *state.Store
	log     *slog.Logger
	uplink  uplink
	promise func(time.Duration)
	rest    func()
	applied func()        // is told after each attempt: a module's health may have changed
	wake    chan struct{} // holds one while something may be there to apply

	turns map[string]chan struct{} // by module: held by whoever has it do something

	mu       sync.Mutex
	held     map[string]*holding // by name; guarded by mu, its members too
	standing link.Standing
}

// uplink is where results go; *link.Client is one.
type uplink interface {
	Report(section.Status)
	Request(name string, held section.Revision)
}

// holding is one section on this host.
type holding struct {
	good     section.Section // last applied; a zero revision: none yet
	latest   section.Section // newest received; good, or newer
	status   section.Status
	todo     bool      // latest is to be applied
	asked    bool      // for the whole, on this link
	withheld bool      // something came while the standing forbade it
	retryAt  time.Time // of a failed value; zero: not tried again
}

func newSections(store *state.Store, modules []Module, log *slog.Logger) *sections {
	s := &sections{
		modules: map[string]Module{}, turns: map[string]chan struct{}{}, store: store, log: log, wake: make(chan struct{}, 1),
		held: map[string]*holding{}, standing: link.Managed, promise: func(time.Duration) {}, rest: func() {}, applied: func() {},
	}
	for _, m := range modules {
		s.modules[m.Name()], s.turns[m.Name()] = m, make(chan struct{}, 1)
	}
	return s
}

// load reads the last good sections and has them applied. Those whose file was damaged are asked for whole.
func (s *sections) load() error {
	held, aside, err := s.store.Sections()
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, h := range held {
		v := h.Section
		s.held[v.Name] = &holding{good: v, latest: v, todo: s.modules[v.Name] != nil, status: section.Status{
			Name: v.Name, Revision: v.Revision, Digest: v.Digest, State: section.Applied, AppliedAt: h.AppliedAt,
		}}
	}
	for _, a := range aside {
		s.log.Error("a section's file is damaged; it was set aside and the section is asked for", "section", a.Name, "error", a.Err)
		s.held[a.Name] = &holding{withheld: true, status: section.Status{
			Name: a.Name, State: section.Pending, Message: "the copy on disk was damaged and is asked for again",
		}}
	}
	s.stir()
	return nil
}

func (s *sections) stir() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// holding finds or makes the holding of a section; mu is held.
func (s *sections) holding(name string) *holding {
	h := s.held[name]
	if h == nil {
		h = &holding{status: section.Status{Name: name, State: section.Pending}}
		s.held[name] = h
	}
	return h
}

// linking is a link's beginning: requests made before are void.
func (s *sections) linking() []section.Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]section.Status, 0, len(s.held))
	for _, name := range slices.Sorted(maps.Keys(s.held)) {
		h := s.held[name]
		h.asked = false
		if h.status.Revision.IsZero() && h.good.Revision.IsZero() && !h.status.Frozen {
			continue // nothing is held, and nothing was tried
		}
		out = append(out, h.status)
	}
	return out
}

// stand takes in the host's standing. What was withheld meanwhile is asked for when the host is managed again.
func (s *sections) stand(standing link.Standing) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.standing = standing
	if standing != link.Managed {
		return
	}
	for name, h := range s.held {
		if h.withheld {
			h.withheld, h.asked = false, true
			s.uplink.Request(name, h.good.Revision)
		}
	}
	s.stir()
}

// forget makes this a host that holds nothing. What was applied stays in force until what is to replace it comes.
func (s *sections) forget() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.store.DropSections(); err != nil {
		return err
	}
	for name := range s.held {
		s.held[name] = &holding{status: section.Status{Name: name, State: section.Pending}}
	}
	return nil
}

// good is a section as it was last applied.
func (s *sections) good(name string) (section.Section, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	h := s.held[name]
	if h == nil || h.good.Revision.IsZero() {
		return section.Section{}, false
	}
	return h.good, true
}

// statuses are those of all sections, by name.
func (s *sections) statuses() []section.Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []section.Status
	for _, name := range slices.Sorted(maps.Keys(s.held)) {
		out = append(out, s.held[name].status)
	}
	return out
}

// whole receives a section whole, as it was announced.
func (s *sections) whole(announced section.Section) {
	s.mu.Lock()
	defer s.mu.Unlock()
	h, ok := s.admit(announced.Name, announced.Revision)
	if !ok {
		return
	}
	v, err := section.New(announced.Name, announced.Revision, announced.Items)
	switch {
	case err != nil:
		s.fail(h, announced.Revision, fault.Of(err).Error())
	case v.Digest != announced.Digest && h.asked:
		h.asked = false
		s.fail(h, announced.Revision, "the section does not match its digest, sent whole a second time either")
	case v.Digest != announced.Digest:
		s.ask(h)
	default:
		h.asked = false
		s.receive(h, v)
	}
}

// delta receives a change to a section.
func (s *sections) delta(d section.Delta) {
	s.mu.Lock()
	defer s.mu.Unlock()
	h, ok := s.admit(d.Name, d.Revision)
	if !ok {
		return
	}
	if h.latest.Revision == d.Revision && h.latest.Digest == d.Digest && !d.Revision.IsZero() {
		s.receive(h, h.latest) // said again
		return
	}
	base := h.latest
	if base.Revision != d.Base || base.Digest != d.BaseDigest {
		base = h.good
	}
	base.Name = d.Name // of a section never held
	v, err := base.Apply(d)
	switch {
	case err == nil:
		s.receive(h, v)
	case h.asked:
		// The whole is on its way already; this one was sent before our request arrived.
	case fault.Of(err).Code == section.ErrMismatch.Code:
		s.ask(h)
	default:
		s.fail(h, d.Revision, fault.Of(err).Error())
	}
}

// admit finds the section's holding, unless the standing forbids or no module is there for it; then that is the answer.
// mu is held.
func (s *sections) admit(name string, r section.Revision) (*holding, bool) {
	if s.modules[name] == nil {
		s.log.Warn("the control plane sends a section that this agent has no module for", "section", name)
		s.uplink.Report(section.Status{
			Name: name, Revision: r, State: section.Failed,
			Message: fmt.Sprintf("this version of the agent has no module for the section %q; update the agent", name),
		})
		return nil, false
	}
	h := s.holding(name)
	if s.standing != link.Managed {
		h.withheld = true
		answer := h.status
		answer.Message = "held back while the host is " + string(s.standing)
		s.uplink.Report(answer)
		return nil, false
	}
	return h, true
}

// ask has the section sent whole, once; mu is held.
func (s *sections) ask(h *holding) {
	h.asked = true
	s.log.Warn("a section does not match its digest; asking for it whole", "section", h.status.Name)
	s.uplink.Request(h.status.Name, h.good.Revision)
}

// fail is the verdict on a value that cannot be applied; what is held stays. mu is held.
func (s *sections) fail(h *holding, r section.Revision, message string) {
	h.status = section.Status{
		Name: h.status.Name, Revision: r, Digest: h.good.Digest, State: section.Failed, AppliedAt: h.status.AppliedAt, Message: message,
	}
	s.log.Error("a section failed", "section", h.status.Name, "revision", r, "error", message)
	s.uplink.Report(h.status)
}

// receive takes a value that is what it claims to be; mu is held.
func (s *sections) receive(h *holding, v section.Section) {
	current := h.latest
	if h.status.State == section.Failed && !h.todo {
		current = h.good // what failed is not held
	}
	order := v.Revision.Compare(current.Revision)
	switch {
	case order < 0, order == 0 && v.Digest != current.Digest && !current.Revision.IsZero():
		h.status.Frozen = true
		h.status.Message = fmt.Sprintf("frozen: this host holds %s, and the control plane sent %s with other contents; an operator decides who wins", current.Revision, v.Revision)
		s.log.Error("a section is frozen", "section", v.Name, "held", current.Revision, "sent", v.Revision)
		s.uplink.Report(h.status)
	case order == 0 && !h.todo && h.status.State != section.Failed && !h.status.Frozen:
		s.uplink.Report(h.status) // held already
	default:
		h.latest, h.todo, h.retryAt = v, true, time.Time{}
		h.status.Frozen = false
		s.stir()
	}
}

// run applies what is to be applied until ctx ends.
func (s *sections) run(ctx context.Context) {
	defer s.rest()
	for {
		for {
			name, v, ok := s.next()
			if !ok || ctx.Err() != nil {
				break
			}
			s.promise(applyTimeout + time.Minute)
			s.apply(ctx, name, v, applyTimeout)
			<-s.turns[name]
		}
		s.rest()
		timer := time.NewTimer(s.untilRetry())
		select {
		case <-s.wake:
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return
		}
		timer.Stop()
	}
}

// next is the next value to apply. Its module's turn is taken; modules that are being restarted are passed over.
func (s *sections) next() (name string, v section.Section, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.standing != link.Managed {
		return "", section.Section{}, false
	}
	now := time.Now()
	for _, name := range slices.Sorted(maps.Keys(s.held)) {
		h := s.held[name]
		if h.todo || !h.retryAt.IsZero() && !now.Before(h.retryAt) {
			select {
			case s.turns[name] <- struct{}{}:
			default:
				continue
			}
			h.todo, h.retryAt = false, time.Time{}
			return name, h.latest, true
		}
	}
	return "", section.Section{}, false
}

// untilRetry is the time until the first failed value is tried again.
func (s *sections) untilRetry() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	d := time.Hour
	for name, h := range s.held {
		if !h.retryAt.IsZero() && s.standing == link.Managed && len(s.turns[name]) == 0 {
			d = min(d, max(0, time.Until(h.retryAt)))
		}
	}
	return d
}

// apply has a module make the machine match, stores the value where that succeeded, and reports.
func (s *sections) apply(ctx context.Context, name string, v section.Section, within time.Duration) (result section.Status) {
	bounded, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	result = applyWith(bounded, s.modules[name], v)
	now := time.Now()
	matches := result.State == section.Applied || result.State == section.Degraded
	s.mu.Lock()
	again := s.held[name].good.Revision == v.Revision && s.held[name].good.Digest == v.Digest
	s.mu.Unlock()
	switch {
	case matches && !again:
		if err := s.store.PutSection(state.Held{Section: v, AppliedAt: now}); err != nil {
			s.log.Error("a section was applied but cannot be stored", "section", name, "error", err)
			result.State = section.Degraded
			result.Message = "applied, but not kept for the next start: " + err.Error()
		}
	case !matches && ctx.Err() != nil:
		return result // the agent stops; the section is tried again at the next start
	}
	defer s.applied()
	s.mu.Lock()
	defer s.mu.Unlock()
	h := s.held[name]
	if matches && again && h.status.Frozen {
		return result // by which nothing has changed
	}
	h.status = section.Status{
		Name: name, Revision: v.Revision, Digest: h.good.Digest, State: result.State, AppliedAt: h.status.AppliedAt, Message: result.Message,
	}
	if matches {
		h.good = v
		h.status.Digest = v.Digest
		if !again || h.status.AppliedAt.IsZero() { // applying once more what is held is no news
			h.status.AppliedAt = now
		}
		s.log.Info("a section was applied", "section", name, "revision", v.Revision, "state", result.State, "message", result.Message)
	} else {
		h.status.State = section.Failed
		h.retryAt = now.Add(retryFailed)
		s.log.Error("a section failed", "section", name, "revision", v.Revision, "error", result.Message)
	}
	s.uplink.Report(h.status)
	return result
}

// applyWith keeps a module that panics from taking the agent down.
func applyWith(ctx context.Context, m Module, v section.Section) (st section.Status) {
	defer func() {
		if p := recover(); p != nil {
			st = section.Status{State: section.Failed, Message: fmt.Sprintf("the module %s panicked: %v", m.Name(), p)}
		}
	}()
	return m.Apply(ctx, v)
}

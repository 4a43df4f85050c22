// Package linktest holds a fleet in memory that the hub can be tested against.
//
// Fleet is what the rest of the control plane is to the hub: it enrols, knows, desires and observes, keeps the promises
// that the seam makes (an enrolled host is known when Enrol returns, what was observed is known when Observe returns,
// known values are never changed but replaced) and forgets everything with the process. Its zero value is ready.
package linktest

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"fmt"
	"iter"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/host"
	"github.com/loopbackd/loopback/id"
	"github.com/loopbackd/loopback/section"
	"github.com/loopbackd/loopback/server/link"
	"github.com/loopbackd/loopback/settings"
	"github.com/loopbackd/loopback/token"
)

// Fleet keeps hosts in memory. Uses and RequiresApproval are set before it is used.
type Fleet struct {
	// Uses are the tokens and how often each may enrol; nil takes any token any number of times.
	Uses map[string]int
	// RequiresApproval makes new hosts pending.
	RequiresApproval bool

	Observations atomic.Int64 // that were stored
	Transactions atomic.Int64

	mu       sync.RWMutex
	hosts    map[string]*record
	byKey    map[string]string
	used     map[string]int
	shared   []*link.Compiled  // desired of every host
	bounds   settings.Settings // of heartbeats
	number   uint64            // of the newest revision
	epoch    link.Epoch
	presence map[string][]link.Presence
	changed  func(hostIDs []string)
	failing  func(batch []link.Observation) error
}

type record struct {
	known  *link.Known
	own    []*link.Compiled // instead of the shared ones
	answer link.Enrolled
}

// Tell has hosts that are not what they were told to somebody; link.Hub has a method for that. Nil: to nobody.
func (f *Fleet) Tell(changed func(hostIDs []string)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.changed = changed
}

// FailBy has a function asked before anything is made durable; its error is the database's. The batch is nil for keys
// and enrolments. Nil ends it.
func (f *Fleet) FailBy(failing func(batch []link.Observation) error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.failing = failing
}

func (f *Fleet) fail(batch []link.Observation) error {
	f.Transactions.Add(1)
	f.mu.RLock()
	failing := f.failing
	f.mu.RUnlock()
	if failing != nil {
		return failing(batch)
	}
	return nil
}

func (f *Fleet) tell(ids ...string) {
	f.mu.RLock()
	changed := f.changed
	f.mu.RUnlock()
	if changed != nil && len(ids) > 0 {
		changed(ids)
	}
}

// Lookup is what is known of a host.
func (f *Fleet) Lookup(hostID string) *link.Known {
	f.mu.RLock()
	defer f.mu.RUnlock()
	if r := f.hosts[hostID]; r != nil {
		return r.known
	}
	return nil
}

// Pace is the bounds of a host's heartbeats.
func (f *Fleet) Pace(string) (least, most time.Duration) {
	f.mu.RLock()
	defer f.mu.RUnlock()
	s := f.bounds.Defaults()
	return s.HeartbeatMin, s.HeartbeatMax
}

// Desired are a host's sections: its own where it has any, else those of all.
func (f *Fleet) Desired(hostID string) []*link.Compiled {
	f.mu.RLock()
	defer f.mu.RUnlock()
	r := f.hosts[hostID]
	switch {
	case r == nil || r.known.Lifecycle != host.LifecycleActive:
		return nil
	case r.own != nil:
		return r.own
	default:
		return f.shared
	}
}

// Online are the hosts that are known as online.
func (f *Fleet) Online() iter.Seq[string] {
	f.mu.RLock()
	defer f.mu.RUnlock()
	var ids []string
	for id, r := range f.hosts {
		if r.known.Online {
			ids = append(ids, id)
		}
	}
	return slices.Values(ids)
}

// Epoch is the current one.
func (f *Fleet) Epoch() link.Epoch {
	f.mu.RLock()
	defer f.mu.RUnlock()
	return f.epoch
}

// SetEpoch begins a new history of revisions.
func (f *Fleet) SetEpoch(e link.Epoch) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.epoch = e
}

// Enrol takes a machine in.
func (f *Fleet) Enrol(_ context.Context, e link.Enrolment) (link.Enrolled, error) {
	if err := f.fail(nil); err != nil {
		return link.Enrolled{}, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if known, ok := f.byKey[string(e.Key)]; ok {
		r := f.hosts[known]
		if r.known.Lifecycle == host.LifecycleRemoved {
			return link.Enrolled{}, fault.New(fault.Denied, "host_removed", "this host was removed")
		}
		return r.answer, nil
	}
	if f.Uses != nil {
		most, ok := f.Uses[e.Token]
		switch {
		case !ok:
			return link.Enrolled{}, token.ErrUnknown
		case f.used[e.Token] >= most:
			return link.Enrolled{}, token.ErrExhausted
		}
	}
	hostID := id.New("hst", time.Now())
	lifecycle, state := host.LifecycleActive, host.Enrolling
	if f.RequiresApproval {
		lifecycle, state = host.LifecyclePending, host.Pending
	}
	if f.hosts == nil {
		f.hosts, f.byKey, f.used = map[string]*record{}, map[string]string{}, map[string]int{}
	}
	f.used[e.Token]++
	f.byKey[string(e.Key)] = hostID
	r := &record{
		known:  &link.Known{HostID: hostID, WorkspaceID: "ws_test", Lifecycle: lifecycle, Key: e.Key, Generation: 1, AgentVersion: e.AgentVersion},
		answer: link.Enrolled{HostID: hostID, HostName: e.HostName, WorkspaceID: "ws_test", State: state, Channel: "stable"},
	}
	f.hosts[hostID] = r
	return r.answer, nil
}

// Observe stores a batch.
func (f *Fleet) Observe(_ context.Context, batch []link.Observation) error {
	if err := f.fail(batch); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, o := range batch {
		r := f.hosts[o.HostID]
		if r == nil || r.known.Lifecycle == host.LifecycleRemoved {
			continue
		}
		f.Observations.Add(1)
		k := *r.known
		if o.Presence != nil {
			k.Online = o.Presence.Online
			if f.presence == nil {
				f.presence = map[string][]link.Presence{}
			}
			f.presence[o.HostID] = append(f.presence[o.HostID], *o.Presence)
		}
		if o.AgentVersion != "" {
			k.AgentVersion = o.AgentVersion
		}
		if o.Modules != nil {
			k.Modules = *o.Modules
		}
		if o.Inventory != nil {
			k.InventoryDigest = o.Inventory.Digest
		}
		k.Troubles = host.MetTrouble(k.Troubles, o.Met...)
		if o.Ongoing != nil {
			k.Troubles = host.OngoingTroubles(k.Troubles, *o.Ongoing)
		}
		if len(o.Sections) > 0 {
			k.Sections = slices.Clone(k.Sections)
			for _, s := range o.Sections {
				if i := slices.IndexFunc(k.Sections, func(old section.Status) bool { return old.Name == s.Name }); i >= 0 {
					k.Sections[i] = s
				} else {
					k.Sections = append(k.Sections, s)
				}
			}
		}
		r.known = &k
	}
	return nil
}

// OfferKey stores a host's next key.
func (f *Fleet) OfferKey(_ context.Context, hostID string, next ed25519.PublicKey, generation int64) error {
	if err := f.fail(nil); err != nil {
		return err
	}
	return f.change(hostID, func(k *link.Known) error {
		if generation != k.Generation+1 {
			return fault.New(fault.Precondition, "generation_wrong", "generation %d does not follow %d", generation, k.Generation)
		}
		k.NextKey = next
		return nil
	})
}

// UseNextKey makes the next key the current one.
func (f *Fleet) UseNextKey(_ context.Context, hostID string, next ed25519.PublicKey) (*link.Known, error) {
	if err := f.fail(nil); err != nil {
		return nil, err
	}
	err := f.change(hostID, func(k *link.Known) error {
		switch {
		case next.Equal(k.Key):
			return nil
		case !next.Equal(k.NextKey):
			return fault.New(fault.Precondition, "key_not_offered", "the key was not offered")
		}
		f.byKey[string(next)] = hostID
		h := host.Host{Key: k.Key, Clones: k.Clones}
		h.Fence()
		k.Clones = h.Clones
		k.PastKeys = append(slices.Clone(k.PastKeys), sha256.Sum256(k.Key))
		k.Key, k.NextKey = k.NextKey, nil
		k.Generation++
		return nil
	})
	return f.Lookup(hostID), err
}

// RolledBack makes the host pending, with its past key as the next one.
func (f *Fleet) RolledBack(_ context.Context, hostID string, past ed25519.PublicKey) (*link.Known, error) {
	if err := f.fail(nil); err != nil {
		return nil, err
	}
	err := f.change(hostID, func(k *link.Known) error {
		k.Lifecycle, k.LifecycleReason, k.NextKey = host.LifecyclePending, "rolled back", past
		return nil
	})
	return f.Lookup(hostID), err
}

// change replaces what is known of a host.
func (f *Fleet) change(hostID string, by func(*link.Known) error) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	r := f.hosts[hostID]
	if r == nil || r.known.Lifecycle == host.LifecycleRemoved {
		return fault.New(fault.NotFound, "host_unknown", "no host %s", hostID)
	}
	k := *r.known
	if err := by(&k); err != nil {
		return err
	}
	r.known = &k
	return nil
}

// Put makes a host that never enrolled here, or replaces it.
func (f *Fleet) Put(known *link.Known) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.hosts == nil {
		f.hosts, f.byKey = map[string]*record{}, map[string]string{}
	}
	f.hosts[known.HostID] = &record{known: known}
	f.byKey[string(known.Key)] = known.HostID
}

// SetLifecycle is an operator's decision on hosts. Tell the hub of removed ones by Expel.
func (f *Fleet) SetLifecycle(l host.Lifecycle, reason string, hostIDs ...string) error {
	for _, hostID := range hostIDs {
		if err := f.change(hostID, func(k *link.Known) error {
			k.Lifecycle, k.LifecycleReason = l, reason
			return nil
		}); err != nil {
			return err
		}
	}
	f.tell(hostIDs...)
	return nil
}

// SetBounds sets the bounds of hosts' heartbeats.
func (f *Fleet) SetBounds(least, most time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.bounds = settings.Settings{HeartbeatMin: least, HeartbeatMax: most}
}

// Want makes the settings the desired ones of every host, under the next revision, and tells the hub.
func (f *Fleet) Want(s settings.Settings) (*link.Compiled, error) {
	f.mu.Lock()
	f.number++
	c, err := f.compile(s)
	if err == nil {
		f.shared = []*link.Compiled{c}
	}
	ids := slices.Collect(maps.Keys(f.hosts))
	f.mu.Unlock()
	if err != nil {
		return nil, err
	}
	f.tell(ids...)
	return c, nil
}

func (f *Fleet) compile(s settings.Settings) (*link.Compiled, error) {
	compiled, err := s.Section(section.Revision{Epoch: f.epoch.Number, Number: f.number})
	if err != nil {
		return nil, err
	}
	return link.Compile(compiled)
}

// WantOf gives one host sections of its own and tells the hub.
func (f *Fleet) WantOf(hostID string, sections ...section.Section) error {
	own := make([]*link.Compiled, len(sections))
	for i, s := range sections {
		c, err := link.Compile(s)
		if err != nil {
			return err
		}
		own[i] = c
	}
	f.mu.Lock()
	r := f.hosts[hostID]
	if r != nil {
		r.own = own
	}
	f.mu.Unlock()
	if r == nil {
		return fmt.Errorf("no host %s", hostID)
	}
	f.tell(hostID)
	return nil
}

// Hosts are the ids of all hosts.
func (f *Fleet) Hosts() []string {
	f.mu.RLock()
	defer f.mu.RUnlock()
	return slices.Sorted(maps.Keys(f.hosts))
}

// Used is how often a token enrolled.
func (f *Fleet) Used(tokenText string) int {
	f.mu.RLock()
	defer f.mu.RUnlock()
	return f.used[tokenText]
}

// Transitions are a host's comings and goings as they were observed.
func (f *Fleet) Transitions(hostID string) []link.Presence {
	f.mu.RLock()
	defer f.mu.RUnlock()
	return slices.Clone(f.presence[hostID])
}

// Status is what was last observed of a host's section.
func (f *Fleet) Status(hostID, name string) section.Status {
	if k := f.Lookup(hostID); k != nil {
		for _, s := range k.Sections {
			if s.Name == name {
				return s
			}
		}
	}
	return section.Status{}
}

// Troubles are what a host reported to stand, or to have stood, in its way.
func (f *Fleet) Troubles(hostID string) []host.Trouble {
	if k := f.Lookup(hostID); k != nil {
		return k.Troubles
	}
	return nil
}

package fleet

import (
	"sync"

	"github.com/loopbackd/loopback/host"
	"github.com/loopbackd/loopback/section"
	"github.com/loopbackd/loopback/settings"
)

// firstNumber is the revision of a section that is compiled from nothing that was ever changed: 0 would say that nothing
// is held, and position 1 of the feed is never a host's or a setting's.
const firstNumber = 1

// inputs are all that a settings section is compiled from. Equal inputs give the same value, whichever host asks.
type inputs struct {
	workspace         string
	workspaceRevision int64
	host              string // set where the host has settings of its own
	hostRevision      int64
	labels            *labels
	number            uint64
}

// identity is what names a value: what an agent says it holds.
type identity struct {
	revision section.Revision
	digest   section.Digest
}

// kept is how many compiled values are kept at least, and half of how many at most.
const kept = 8192

// compiler caches compiled values in two generations: what is asked for stays, what nobody asks for while the younger
// generation fills is forgotten. A value that is forgotten is compiled anew, or sent whole instead of as a delta.
type compiler struct {
	mu         sync.Mutex
	young, old generation
}

type generation struct {
	byInputs map[inputs]*value
	byName   map[identity]*value
}

func (c *compiler) find(in inputs) *value {
	c.mu.Lock()
	defer c.mu.Unlock()
	if v := c.young.byInputs[in]; v != nil {
		return v
	}
	v := c.old.byInputs[in]
	if v != nil {
		c.add(in, v)
	}
	return v
}

func (c *compiler) named(n identity) *value {
	c.mu.Lock()
	defer c.mu.Unlock()
	if v := c.young.byName[n]; v != nil {
		return v
	}
	return c.old.byName[n]
}

// keep adds a value, and returns the one to use: somebody may have compiled the same meanwhile.
func (c *compiler) keep(in inputs, v *value) *value {
	c.mu.Lock()
	defer c.mu.Unlock()
	if have := c.young.byInputs[in]; have != nil {
		return have
	}
	c.add(in, v)
	return v
}

func (c *compiler) add(in inputs, v *value) {
	if len(c.young.byInputs) >= kept {
		c.old, c.young = c.young, generation{}
	}
	if c.young.byInputs == nil {
		c.young = generation{byInputs: map[inputs]*value{}, byName: map[identity]*value{}}
	}
	c.young.byInputs[in] = v
	c.young.byName[identity{v.section.Revision, v.section.Digest}] = v
}

// Wanted is the revision of each section that a host should have, by name. It is empty for a host that receives
// nothing: pending, quarantined, unmanaged or unknown.
func (d *Directory) Wanted(hostID string) map[string]section.Revision {
	in, _, ok := d.inputs(hostID)
	if !ok {
		return nil
	}
	return map[string]section.Revision{settings.SectionName: {Epoch: d.Epoch, Number: in.number}}
}

// inputs are what a host's section is compiled from, and the settings that follow from them.
func (d *Directory) inputs(hostID string) (inputs, settings.Settings, bool) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	e := d.hosts[hostID]
	if e == nil || e.host.Lifecycle != host.LifecycleActive {
		return inputs{}, settings.Settings{}, false
	}
	w := d.workspaces[e.host.Scope.Workspace]
	in := inputs{workspace: e.host.Scope.Workspace, workspaceRevision: w.settings.Revision, labels: e.labels}
	effective := d.Defaults.Over(w.settings.Settings)
	if e.settings != nil {
		in.host, in.hostRevision = hostID, e.settings.Revision
		effective = effective.Over(e.settings.Settings)
	}
	in.number = uint64(max(firstNumber, w.settings.Revision, revision(e.settings), e.host.SettingsRevision))
	effective.Labels = e.labels.set // a host's labels are its own: settings do not add to them
	return in, effective, true
}

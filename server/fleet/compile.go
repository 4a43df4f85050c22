package fleet

import (
	"sync"

	"github.com/loopbackd/loopback/host"
	"github.com/loopbackd/loopback/label"
	"github.com/loopbackd/loopback/section"
	"github.com/loopbackd/loopback/server/link"
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

// kept is how many compiled values are kept at least, and half of how many at most.
const kept = 8192

// compiler caches compiled values in two generations: what is asked for stays, what nobody asks for while the younger
// generation fills is forgotten, and compiled anew when it is asked for after all.
type compiler struct {
	mu         sync.Mutex
	young, old map[inputs]*link.Compiled
}

func (c *compiler) find(in inputs) *link.Compiled {
	c.mu.Lock()
	defer c.mu.Unlock()
	if v := c.young[in]; v != nil {
		return v
	}
	v := c.old[in]
	if v != nil {
		c.add(in, v)
	}
	return v
}

// keep adds a value, and returns the one to use: somebody may have compiled the same meanwhile.
func (c *compiler) keep(in inputs, v *link.Compiled) *link.Compiled {
	c.mu.Lock()
	defer c.mu.Unlock()
	if have := c.young[in]; have != nil {
		return have
	}
	c.add(in, v)
	return v
}

func (c *compiler) add(in inputs, v *link.Compiled) {
	if len(c.young) >= kept {
		c.old, c.young = c.young, nil
	}
	if c.young == nil {
		c.young = map[inputs]*link.Compiled{}
	}
	c.young[in] = v
}

// Desired implements link.Fleet.
func (d *Directory) Desired(hostID string) []*link.Compiled {
	in, from, ok := d.inputs(hostID)
	if !ok {
		return nil
	}
	var also []*link.Compiled
	d.mu.RLock()
	if w := d.witnesses[hostID]; w != nil {
		also = append(also, w)
	}
	d.mu.RUnlock()
	if v := d.compiled.find(in); v != nil {
		return append([]*link.Compiled{v}, also...)
	}
	s, err := from.effective().Section(section.Revision{Epoch: d.Epoch().Number, Number: in.number})
	var v *link.Compiled
	if err == nil {
		v, err = link.Compile(s)
	}
	if err != nil { // settings are bounded when they are set: a defect of ours, and the host keeps what it has
		d.options.Logger.Error("settings of a host cannot be compiled", "host", hostID, "error", err)
		return also
	}
	return append([]*link.Compiled{d.compiled.keep(in, v)}, also...)
}

// Wanted is the revision of each section that a host should have, by name. It is empty for a host that receives
// nothing: pending, quarantined, unmanaged or unknown. What it is to remember of the audit log is not among them: no host waits
// for that to be managed.
func (d *Directory) Wanted(hostID string) map[string]section.Revision {
	in, _, ok := d.inputs(hostID)
	if !ok {
		return nil
	}
	return map[string]section.Revision{settings.SectionName: {Epoch: d.Epoch().Number, Number: in.number}}
}

// inputs are what a host's section is compiled from.
func (d *Directory) inputs(hostID string) (inputs, sources, bool) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	e := d.hosts[hostID]
	if e == nil || e.host.Lifecycle != host.LifecycleActive {
		return inputs{}, sources{}, false
	}
	w := d.workspaces[e.host.Scope.Workspace].settings
	in := inputs{workspace: e.host.Scope.Workspace, workspaceRevision: w.Revision, labels: e.labels}
	in.number = uint64(max(firstNumber, w.Revision, revision(e.settings), e.host.SettingsRevision))
	if e.settings != nil {
		in.host, in.hostRevision = hostID, e.settings.Revision
	}
	return in, sources{w.Settings, e.settings, e.labels.set}, true
}

// sources are the settings that a host's follow from.
type sources struct {
	workspace settings.Settings
	own       *settings.Stored
	labels    label.Set
}

// effective are a host's settings: the workspace's with the host's own on top. Nothing else may enter here that is not
// part of the revision, not even a default that an operator can choose: the same revision must mean the same value on
// every replica and after every restart.
func (s sources) effective() settings.Settings {
	out := s.workspace
	if s.own != nil {
		out = out.Over(s.own.Settings)
	}
	out.Labels = s.labels // a host's labels are its own: settings do not add to them
	return out
}

package fleet

import (
	"iter"
	"time"

	"github.com/loopbackd/loopback/host"
	"github.com/loopbackd/loopback/server/link"
	"github.com/loopbackd/loopback/settings"
)

// Directory answers the hub.
var _ link.Fleet = (*Directory)(nil)

// Lookup implements link.Fleet.
func (d *Directory) Lookup(hostID string) *link.Known {
	d.mu.RLock()
	e := d.hosts[hostID]
	var gone *removed
	if e == nil {
		gone = d.removed[hostID]
	}
	d.mu.RUnlock()
	switch {
	case e != nil:
		return known(e.host)
	case gone != nil:
		return &link.Known{
			HostID: hostID, WorkspaceID: gone.scope.Workspace, Lifecycle: host.LifecycleRemoved, LifecycleReason: gone.reason, Key: gone.key,
		}
	default:
		return nil
	}
}

// known is what the hub is to know of a host.
func known(h *host.Host) *link.Known {
	k := &link.Known{
		HostID: h.ID, WorkspaceID: h.Scope.Workspace, Lifecycle: h.Lifecycle, LifecycleReason: h.LifecycleReason,
		Key: h.Key, NextKey: h.NextKey, Generation: h.Generation, Clones: h.Clones, Settling: h.Settling,
		Online: h.Online, Link: h.Link, AgentVersion: h.AgentVersion, InventoryDigest: h.Inventory.Digest,
		Sections: h.Sections, Modules: h.Modules, Troubles: h.Troubles,
	}
	for _, past := range h.KeyHistory {
		if len(past) == 32 {
			k.PastKeys = append(k.PastKeys, [32]byte(past))
		}
	}
	return k
}

// Pace implements link.Fleet.
func (d *Directory) Pace(hostID string) (least, most time.Duration) {
	var s settings.Settings
	d.mu.RLock()
	if e := d.hosts[hostID]; e != nil {
		w := &d.workspaces[e.host.Scope.Workspace].settings.Settings
		s.HeartbeatMin, s.HeartbeatMax = w.HeartbeatMin, w.HeartbeatMax
		if e.settings != nil {
			s = s.Over(settings.Settings{HeartbeatMin: e.settings.Settings.HeartbeatMin, HeartbeatMax: e.settings.Settings.HeartbeatMax})
		}
	}
	d.mu.RUnlock()
	s = s.Defaults()
	return s.HeartbeatMin, s.HeartbeatMax
}

// Online implements link.Fleet.
func (d *Directory) Online() iter.Seq[string] {
	return func(yield func(string) bool) {
		d.mu.RLock()
		online := make([]string, 0, len(d.hosts))
		for id, e := range d.hosts {
			if e.host.Online {
				online = append(online, id)
			}
		}
		d.mu.RUnlock()
		for _, id := range online {
			if !yield(id) {
				return
			}
		}
	}
}

// Epoch implements link.Fleet.
func (d *Directory) Epoch() link.Epoch { return d.options.Epoch }

package fleet

import (
	"iter"

	"github.com/loopbackd/loopback/host"
	"github.com/loopbackd/loopback/server/link"
)

// Directory answers the hub.
var _ link.Fleet = (*Directory)(nil)

// Lookup implements link.Fleet.
func (d *Directory) Lookup(hostID string) *link.Known {
	d.mu.RLock()
	e, gone := d.hosts[hostID], d.removed[hostID]
	d.mu.RUnlock()
	switch {
	case e != nil:
		return d.known(e.host)
	case gone != nil:
		return &link.Known{
			HostID: hostID, WorkspaceID: gone.scope.Workspace, Lifecycle: host.LifecycleRemoved, LifecycleReason: gone.reason, Key: gone.key,
		}
	default:
		return nil
	}
}

// known is what the hub is to know of a host.
func (d *Directory) known(h *host.Host) *link.Known {
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
	k.HeartbeatMin, k.HeartbeatMax = d.heartbeat(h.ID)
	return k
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

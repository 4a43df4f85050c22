package fleet

import (
	"bytes"
	"slices"

	"github.com/loopbackd/loopback/host"
	"github.com/loopbackd/loopback/settings"
)

// update is what was read and is to be taken in together.
type update struct {
	hosts      []*entry
	deleted    []string
	workspaces map[string]settings.Stored
}

// put takes an update in, logs what changed for watchers, and tells the listener which hosts to look at again.
func (d *Directory) put(u update) {
	now := d.options.Now().UTC()
	var told, expelled []string
	var logged []host.Change
	d.mu.Lock()
	for id, stored := range u.workspaces {
		w := d.workspace(id)
		if stored.Revision <= w.settings.Revision && w.settings.Revision != 0 {
			continue
		}
		changed := stored.Revision != w.settings.Revision
		w.settings = stored
		if changed {
			for member := range w.members {
				told = append(told, member)
			}
		}
	}
	for _, e := range u.hosts {
		before := d.hosts[e.host.ID]
		if before != nil && before.host.Revision >= e.host.Revision && revision(before.settings) >= revision(e.settings) {
			continue
		}
		if e.host.Lifecycle == host.LifecycleRemoved {
			if d.remove(e.host) {
				logged = append(logged, host.Change{Before: hostOf(before), After: e.host, At: now})
				expelled = append(expelled, e.host.ID)
			}
			continue
		}
		if d.removed[e.host.ID] != nil {
			continue // a late word about a host that is no more
		}
		e.labels = d.share(e.host.Labels)
		e.host.Labels = e.labels.set
		d.hosts[e.host.ID] = e
		d.workspace(e.host.Scope.Workspace).members[e.host.ID] = struct{}{}
		change := host.Change{After: e.host, At: now}
		if before != nil {
			change.Before = before.host
			d.unshare(before.labels)
			if before.host.Scope.Workspace != e.host.Scope.Workspace {
				d.leave(before.host)
			}
		}
		logged = append(logged, change)
		if matters(before, e) {
			told = append(told, e.host.ID)
			if h := e.host; !h.Converged && h.Lifecycle == host.LifecycleActive && len(h.Sections) > 0 {
				select {
				case d.unsettled <- struct{}{}:
				default:
				}
			}
		}
	}
	for _, id := range u.deleted {
		before := d.hosts[id]
		if before == nil {
			continue
		}
		d.drop(before)
		logged, expelled = append(logged, host.Change{Before: before.host, At: now}), append(expelled, id)
	}
	// Logged before the lock is given back: a watcher's snapshot and its place in the log belong together.
	d.log.add(logged)
	listener := d.listener
	d.mu.Unlock()
	if listener == nil {
		return
	}
	if len(expelled) > 0 {
		listener.Expel(expelled)
	}
	if len(told) > 0 {
		listener.Changed(told)
	}
}

// remove keeps of a host what is kept of removed ones, and tells whether that is new; d.mu is held.
func (d *Directory) remove(h *host.Host) bool {
	if d.removed[h.ID] != nil {
		return false
	}
	d.removed[h.ID] = &removed{scope: h.Scope, key: h.Key, reason: h.LifecycleReason}
	if before := d.hosts[h.ID]; before != nil {
		d.drop(before)
	}
	return true
}

// drop forgets a host; d.mu is held.
func (d *Directory) drop(e *entry) {
	delete(d.hosts, e.host.ID)
	d.unshare(e.labels)
	d.leave(e.host)
}

func hostOf(e *entry) *host.Host {
	if e == nil {
		return nil
	}
	return e.host
}

func revision(s *settings.Stored) int64 {
	if s == nil {
		return 0
	}
	return s.Revision
}

// workspace finds or makes it; d.mu is held.
func (d *Directory) workspace(id string) *workspace {
	w := d.workspaces[id]
	if w == nil {
		w = &workspace{members: map[string]struct{}{}}
		d.workspaces[id] = w
	}
	return w
}

func (d *Directory) leave(h *host.Host) {
	w := d.workspaces[h.Scope.Workspace]
	delete(w.members, h.ID)
	if len(w.members) == 0 {
		delete(d.workspaces, h.Scope.Workspace)
	}
}

// matters tells whether the hub has to look at the host again: its configuration, standing or key may be another. What
// a host reports of itself does not matter to the hub, which reported it.
func matters(before, after *entry) bool {
	if before == nil {
		return true
	}
	b, a := before.host, after.host
	return b.Lifecycle != a.Lifecycle || b.LifecycleReason != a.LifecycleReason ||
		b.Generation != a.Generation || !bytes.Equal(b.Key, a.Key) || !bytes.Equal(b.NextKey, a.NextKey) ||
		!b.Clones.Equal(a.Clones) || !slices.Equal(b.Settling, a.Settling) || b.Scope != a.Scope || before.labels != after.labels ||
		b.SettingsRevision != a.SettingsRevision || revision(before.settings) != revision(after.settings)
}

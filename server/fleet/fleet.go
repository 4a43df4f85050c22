// Package fleet is every host in memory, and what each of them should be.
//
// The Directory is loaded by one scan when a replica starts and then follows the change feed, so that a host's hello is
// answered without the database. What it keeps of a host is immutable and shared: a pointer handed out stays true to
// the moment at which it was taken. Hosts that were removed are not kept; who asks for one looks in the database.
//
//	database ──scan, then feed──▶ Directory ──▶ the hub, told which hosts are to be looked at again
//	 this replica's own writes ─────▲   │
//	                                    └─────▶ a bounded log of changes, which watchers read at their own pace
//
// What a host should be follows from rows that are there anyway: its section of settings from the settings of its
// workspace, its own settings, and its labels. The revision is the feed position of the latest change among those, so
// every replica computes the same section under the same revision and nothing is written for a host because its
// workspace changed. Hosts that see the same share one compiled value and its encoded frames.
//
// When the database is away the Directory goes on answering with what it has. When it lost its place in the feed it
// scans again, and what differs is treated like changes.
package fleet

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/host"
	"github.com/loopbackd/loopback/server/feed"
	"github.com/loopbackd/loopback/settings"
)

// Store is where hosts and settings are read.
type Store interface {
	Host(ctx context.Context, id string) (host.Host, error)
	HostsAfter(ctx context.Context, id string, limit int) ([]host.Host, error)
	WorkspaceSettings(ctx context.Context, workspaceID string) (settings.Stored, error)
	HostSettings(ctx context.Context, hostID string) (settings.Stored, error)
}

// Listener is told of hosts whose desired state, standing or key may be another than before.
type Listener interface {
	Changed(hostIDs []string)
}

// Options of a Directory.
type Options struct {
	Store    Store
	Epoch    uint32 // of the deployment: grows when a backup is restored
	Defaults settings.Settings
	Now      func() time.Time
	Logger   *slog.Logger
	Log      int // changes kept for watchers; 0: 4,096
}

// Directory is the hosts of the deployment.
type Directory struct {
	Options
	compiled compiler

	applying sync.Mutex // one reader of the database at a time: entries never go backwards

	mu         sync.RWMutex
	listener   Listener
	hosts      map[string]*entry
	workspaces map[string]*workspace
	labels     map[string]*labels

	log changes
}

// entry is one host. It is replaced, never changed.
type entry struct {
	host     *host.Host
	labels   *labels
	settings *settings.Stored // nil: the host has none of its own
}

type workspace struct {
	settings settings.Stored
	members  map[string]struct{}
}

// New makes an empty directory. Load fills it.
func New(o Options) *Directory {
	if o.Log == 0 {
		o.Log = 4096
	}
	d := &Directory{
		Options: o, hosts: map[string]*entry{}, workspaces: map[string]*workspace{}, labels: map[string]*labels{},
	}
	d.log.init(o.Log)
	return d
}

// Tell names who is told of changed hosts: the hub, which is made after the directory that it asks.
func (d *Directory) Tell(l Listener) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.listener = l
}

// scanned is how many hosts a scan reads at a time.
const scanned = 1000

// Load reads every host. It may be called again at any time: what differs from before counts as changed.
func (d *Directory) Load(ctx context.Context) error {
	d.applying.Lock()
	defer d.applying.Unlock()
	found := map[string]bool{}
	after := ""
	fresh := map[string]bool{} // workspaces whose settings were read in this scan
	for {
		hosts, err := d.Store.HostsAfter(ctx, after, scanned)
		if err != nil {
			return fmt.Errorf("scanning hosts: %w", err)
		}
		var batch update
		for _, h := range hosts {
			after = h.ID
			if h.Lifecycle == host.LifecycleRemoved {
				continue
			}
			found[h.ID] = true
			if err := d.read(ctx, &batch, h, fresh); err != nil {
				return err
			}
		}
		d.put(batch)
		if len(hosts) < scanned {
			break
		}
	}
	var gone update
	d.mu.RLock()
	for id := range d.hosts {
		if !found[id] {
			gone.removed = append(gone.removed, id)
		}
	}
	d.mu.RUnlock()
	// A host that was enrolled while we scanned is not gone: ask for each.
	kept := gone.removed[:0]
	for _, id := range gone.removed {
		h, err := d.Store.Host(ctx, id)
		switch {
		case err == nil && h.Lifecycle != host.LifecycleRemoved:
		case err == nil || fault.KindOf(err) == fault.NotFound:
			kept = append(kept, id)
		default:
			return fmt.Errorf("looking for host %s: %w", id, err)
		}
	}
	gone.removed = kept
	d.put(gone)
	return nil
}

// read adds a host to an update, with its own and its workspace's settings.
func (d *Directory) read(ctx context.Context, u *update, h host.Host, fresh map[string]bool) error {
	e := &entry{host: brief(h)}
	if h.SettingsRevision != 0 { // grows with the host's own settings as well
		stored, err := d.Store.HostSettings(ctx, h.ID)
		if err != nil {
			return fmt.Errorf("reading settings of host %s: %w", h.ID, err)
		}
		if stored.Revision != 0 {
			e.settings = &stored
		}
	}
	if ws := h.Scope.Workspace; !fresh[ws] && (fresh != nil || !d.knows(ws)) {
		if err := d.readWorkspace(ctx, u, ws); err != nil {
			return err
		}
		if fresh != nil {
			fresh[ws] = true
		}
	}
	u.hosts = append(u.hosts, e)
	return nil
}

func (d *Directory) readWorkspace(ctx context.Context, u *update, id string) error {
	stored, err := d.Store.WorkspaceSettings(ctx, id)
	if err != nil && fault.KindOf(err) != fault.NotFound {
		return fmt.Errorf("reading settings of workspace %s: %w", id, err)
	}
	if u.workspaces == nil {
		u.workspaces = map[string]settings.Stored{}
	}
	u.workspaces[id] = stored
	return nil
}

func (d *Directory) knows(workspaceID string) bool {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return d.workspaces[workspaceID] != nil
}

// Apply brings the directory to where these changes lead. After an error it may be called with them again.
func (d *Directory) Apply(ctx context.Context, changes []feed.Change) error {
	d.applying.Lock()
	defer d.applying.Unlock()
	var u update
	seen := map[string]bool{}
	for i := len(changes) - 1; i >= 0; i-- { // what is read is the newest: one look at each is enough
		c := changes[i]
		ownSettings := c.Kind == feed.Settings && strings.HasPrefix(c.ID, "hst_")
		switch {
		case c.Kind != feed.Host && c.Kind != feed.Settings || seen[c.ID]:
			continue
		case c.Kind == feed.Settings && !ownSettings:
			seen[c.ID] = true
			if d.knows(c.ID) { // else its first host brings it
				if err := d.readWorkspace(ctx, &u, c.ID); err != nil {
					return err
				}
			}
			continue
		case !ownSettings && d.revision(c.ID) >= c.Position:
			continue // our own write, learnt already
		}
		seen[c.ID] = true
		h, err := d.Store.Host(ctx, c.ID)
		switch {
		case fault.KindOf(err) == fault.NotFound, err == nil && h.Lifecycle == host.LifecycleRemoved:
			u.removed = append(u.removed, c.ID)
		case err != nil:
			return fmt.Errorf("reading host %s: %w", c.ID, err)
		default:
			if err := d.read(ctx, &u, h, nil); err != nil {
				return err
			}
		}
	}
	d.put(u)
	return nil
}

func (d *Directory) revision(id string) int64 {
	d.mu.RLock()
	defer d.mu.RUnlock()
	if e := d.hosts[id]; e != nil {
		return e.host.Revision
	}
	return 0
}

// Learn takes in hosts that this replica has just written, so that it need not read them back. Only what is newer than
// what is known counts.
func (d *Directory) Learn(ctx context.Context, hosts ...host.Host) {
	d.applying.Lock()
	defer d.applying.Unlock()
	var u update
	for _, h := range hosts {
		if h.Lifecycle == host.LifecycleRemoved {
			u.removed = append(u.removed, h.ID)
			continue
		}
		if d.revision(h.ID) == 0 {
			// New here, or removed meanwhile: what the database says now decides, lest a late word brings it back.
			now, err := d.Store.Host(ctx, h.ID)
			if err != nil || now.Lifecycle == host.LifecycleRemoved {
				continue
			}
			h = now
		}
		if err := d.read(ctx, &u, h, nil); err != nil {
			continue // the feed brings it
		}
	}
	d.put(u)
}

// Package fleet is every host in memory, and what each of them should be.
//
// The Directory is loaded by one scan when a replica starts and then follows the change feed, so that a host's hello is
// answered without the database. What it keeps of a host is immutable and shared: a pointer handed out stays true to
// the moment at which it was taken. Of hosts that were removed only the key and the reason stay.
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

	"go.opentelemetry.io/otel/trace"

	"github.com/loopbackd/loopback/access"
	"github.com/loopbackd/loopback/audit"
	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/host"
	"github.com/loopbackd/loopback/server/feed"
	"github.com/loopbackd/loopback/server/link"
	"github.com/loopbackd/loopback/settings"
	"github.com/loopbackd/loopback/witness"
)

// Reader reads hosts and settings.
type Reader interface {
	HostsOf(ctx context.Context, ids []string) ([]host.Host, error)
	HostsAfter(ctx context.Context, id string, limit int) ([]host.Host, error)
	WorkspaceSettings(ctx context.Context, workspaceID string) (settings.Stored, error)
	HostSettings(ctx context.Context, hostID string) (settings.Stored, error)
	Witnesses(ctx context.Context) ([]witness.Stored, error)
}

// Tx changes hosts.
type Tx interface {
	Host(ctx context.Context, id string) (host.Host, error)
	HostsOf(ctx context.Context, ids []string) ([]host.Host, error)
	HostByKey(ctx context.Context, key []byte) (h host.Host, which string, err error)
	PutHost(ctx context.Context, h host.Host) (host.Host, error)
	PutHosts(ctx context.Context, hosts []host.Host) error
	WorkspaceSettings(ctx context.Context, workspaceID string) (settings.Stored, error)
	PutHostSettings(ctx context.Context, hostID string, s settings.Settings) (settings.Stored, error)
	Audit(ctx context.Context, e audit.Entry) error
}

// Store is where hosts are kept.
type Store interface {
	View() Reader
	Write(ctx context.Context, change func(Tx) error) error
	Observe(ctx context.Context, change func(Tx) error) error
}

// Listener is told which hosts to look at again. Both return without waiting for a host.
type Listener interface {
	Changed(hostIDs []string) // desired state, standing or key may be another than before
	Expel(hostIDs []string)   // removed
}

// Options of a Directory.
type Options struct {
	Store  Store
	Epoch  link.Epoch // of the deployment: grows when a backup is restored
	Now    func() time.Time
	Logger *slog.Logger

	Tracer trace.Tracer                           // nil: nothing is traced
	Origin func(position int64) trace.SpanContext // the span that wrote a change; nil: none is known
	Log    int                                    // changes kept for watchers; 0: 4,096
}

// Directory is the hosts of the deployment.
type Directory struct {
	options  Options
	compiled compiler

	applying sync.Mutex // one reader of the database at a time: entries never go backwards

	mu         sync.RWMutex
	listener   Listener
	hosts      map[string]*entry
	removed    map[string]*removed
	workspaces map[string]*workspace
	labels     map[string]*labels
	witnesses  map[string]*link.Compiled // of the few hosts that remember the audit log

	log       changes
	unsettled chan struct{} // a host may hold its first configuration without having reported it as news
}

// entry is one host. It is replaced, never changed.
type entry struct {
	host     *host.Host
	labels   *labels
	settings *settings.Stored // nil: the host has none of its own
}

// removed is what is kept of a host that was: enough to know its key, and to tell it that it was removed.
type removed struct {
	scope  access.Scope
	key    []byte
	reason string
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
		options: o, hosts: map[string]*entry{}, removed: map[string]*removed{}, workspaces: map[string]*workspace{}, labels: map[string]*labels{},
		unsettled: make(chan struct{}, 1),
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
		hosts, err := d.options.Store.View().HostsAfter(ctx, after, scanned)
		if err != nil {
			return fmt.Errorf("scanning hosts: %w", err)
		}
		var batch update
		for _, h := range hosts {
			after = h.ID
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
			gone.deleted = append(gone.deleted, id)
		}
	}
	d.mu.RUnlock()
	// A host that was enrolled while we scanned is not gone: ask once more.
	missing := gone.deleted
	gone.deleted = nil
	if err := d.readAll(ctx, &gone, missing); err != nil {
		return err
	}
	d.put(gone)
	return d.readWitnesses(ctx)
}

// readAll adds hosts to an update: as they are, or as deleted.
func (d *Directory) readAll(ctx context.Context, u *update, ids []string) error {
	hosts, err := d.options.Store.View().HostsOf(ctx, ids)
	if err != nil {
		return fmt.Errorf("reading %d hosts: %w", len(ids), err)
	}
	found := make(map[string]bool, len(hosts))
	for _, h := range hosts {
		found[h.ID] = true
		if err := d.read(ctx, u, h, nil); err != nil {
			return err
		}
	}
	for _, id := range ids {
		if !found[id] {
			u.deleted = append(u.deleted, id)
		}
	}
	return nil
}

// read adds a host to an update, with its own and its workspace's settings.
func (d *Directory) read(ctx context.Context, u *update, h host.Host, fresh map[string]bool) error {
	e := &entry{host: brief(h)}
	if h.Lifecycle == host.LifecycleRemoved {
		u.hosts = append(u.hosts, e)
		return nil
	}
	if h.SettingsRevision != 0 { // grows with the host's own settings as well
		stored, err := d.options.Store.View().HostSettings(ctx, h.ID)
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
	stored, err := d.options.Store.View().WorkspaceSettings(ctx, id)
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
	var ids []string
	seen, witnesses := map[string]bool{}, false
	for i := len(changes) - 1; i >= 0; i-- { // what is read is the newest: one look at each is enough
		c := changes[i]
		ownSettings := c.Kind == feed.Settings && strings.HasPrefix(c.ID, "hst_")
		switch {
		case c.Kind == feed.Witness:
			witnesses = true
			continue
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
		ids = append(ids, c.ID)
	}
	if err := d.readAll(ctx, &u, ids); err != nil {
		return err
	}
	d.put(u)
	if witnesses {
		return d.readWitnesses(ctx)
	}
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
		if err := d.read(ctx, &u, h, nil); err != nil {
			continue // the feed brings it
		}
	}
	d.put(u)
}

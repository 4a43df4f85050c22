package fleet_test

import (
	"bytes"
	"fmt"
	"maps"
	"math/rand/v2"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/loopbackd/loopback/access"
	"github.com/loopbackd/loopback/host"
	"github.com/loopbackd/loopback/label"
	"github.com/loopbackd/loopback/section"
	"github.com/loopbackd/loopback/server/fleet"
	serverhost "github.com/loopbackd/loopback/server/host"
	"github.com/loopbackd/loopback/server/link"
	serversettings "github.com/loopbackd/loopback/server/settings"
	"github.com/loopbackd/loopback/server/storage"
	tokens "github.com/loopbackd/loopback/server/token"
	"github.com/loopbackd/loopback/settings"
	"github.com/loopbackd/loopback/test/plane"
)

// enrolled makes hosts and returns their ids.
func enrolled(t *testing.T, p *plane.Plane, names ...string) []string {
	t.Helper()
	m := p.Mint(t, tokens.Request{})
	var ids []string
	for _, name := range names {
		r := p.Enrol(t, m, name)
		h, err := p.Enrolment.Enrol(t.Context(), r)
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, h.ID)
	}
	p.Follow(t)
	p.Links.Told()
	return ids
}

func desired(t *testing.T, d *fleet.Directory, id string) *link.Compiled {
	t.Helper()
	list := d.Desired(id)
	if len(list) != 1 || list[0].Name != settings.SectionName {
		t.Fatalf("host %s is to have the sections %v, want settings alone", id, list)
	}
	return list[0]
}

func TestWorkIsInProportionToWhatChanged(t *testing.T) {
	p := plane.New(t)
	ctx := plane.AsAdmin(t.Context())
	ids := enrolled(t, p, "a", "b", "c")
	if one, other := desired(t, p.Fleet, ids[0]), desired(t, p.Fleet, ids[1]); one != other {
		t.Errorf("hosts that see the same have the values %p and %p, want one", one, other)
	}

	if _, err := p.Settings.Set(ctx, serversettings.Place{Workspace: "prod"}, settings.Settings{LogLevel: "debug"}, 0); err != nil {
		t.Fatal(err)
	}
	p.Follow(t)
	if told := p.Links.Told(); len(told) != 3 {
		t.Errorf("settings of the workspace changed: told of %v, want all three", told)
	}
	if one, other := desired(t, p.Fleet, ids[0]), desired(t, p.Fleet, ids[2]); one != other {
		t.Errorf("hosts that see the same have the values %p and %p, want one", one, other)
	}
	if level, _ := desired(t, p.Fleet, ids[0]).Get("log"); string(level) != `"debug"` {
		t.Errorf("log level %s, want \"debug\"", level)
	}

	if _, err := p.Hosts.Label(ctx, serverhost.Ref{Host: "a"}, label.Set{"env": "prod"}, nil, 0); err != nil {
		t.Fatal(err)
	}
	p.Follow(t)
	if told := p.Links.Told(); !maps.Equal(told, map[string]bool{ids[0]: true}) {
		t.Errorf("one host's label changed: told of %v, want %s alone", told, ids[0])
	}
	if _, err := p.Settings.Set(ctx, serversettings.Place{Host: "b"}, settings.Settings{LogLevel: "warn"}, 0); err != nil {
		t.Fatal(err)
	}
	p.Follow(t)
	if told := p.Links.Told(); !maps.Equal(told, map[string]bool{ids[1]: true}) {
		t.Errorf("one host's settings changed: told of %v, want %s alone", told, ids[1])
	}
	if level, _ := desired(t, p.Fleet, ids[1]).Get("log"); string(level) != `"warn"` {
		t.Errorf("log level %s, want \"warn\"", level)
	}
	if _, err := p.Settings.Set(ctx, serversettings.Place{Workspace: "lab"}, settings.Settings{LogLevel: "error"}, 0); err != nil {
		t.Fatal(err)
	}
	p.Follow(t)
	if told := p.Links.Told(); len(told) != 0 {
		t.Errorf("another workspace's settings changed: told of %v, want nobody", told)
	}
	// What a host reports is no news to the hub.
	seen := link.Observation{HostID: ids[2], Presence: &link.Presence{Online: true, Since: p.Clock.Now()}}
	if err := p.Fleet.Observer().Observe(t.Context(), []link.Observation{seen}); err != nil {
		t.Fatal(err)
	}
	p.Follow(t)
	if told := p.Links.Told(); len(told) != 0 {
		t.Errorf("a host reported: told of %v, want nobody", told)
	}
}

// TestEveryReplicaCompilesTheSame changes settings, labels and workspaces at random. After each change a directory that
// followed the feed, and one that has just been loaded, must want the same of every host; and for each host a revision
// must mean one value for ever, a new value a higher revision.
func TestEveryReplicaCompilesTheSame(t *testing.T) {
	p := plane.New(t)
	ctx := plane.AsAdmin(t.Context())
	ids := enrolled(t, p, "a", "b", "c", "d", "e")
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	dice := rand.New(rand.NewPCG(seed, 0))
	levels := settings.LogLevels
	type value struct {
		revision section.Revision
		digest   section.Digest
	}
	last := map[string]value{}
	meant := map[string]map[section.Revision]section.Digest{}
	for step := range 120 {
		id := ids[dice.IntN(len(ids))]
		s := settings.Settings{LogLevel: levels[dice.IntN(len(levels))]}
		if dice.IntN(3) == 0 {
			s = settings.Settings{}
		}
		var did string
		var err error
		switch dice.IntN(5) {
		case 0:
			did = "workspace settings"
			_, err = p.Settings.Set(ctx, serversettings.Place{Workspace: []string{"prod", "lab"}[dice.IntN(2)]}, s, 0)
		case 1:
			did = "host settings"
			_, err = p.Settings.Set(ctx, serversettings.Place{Host: id}, s, 0)
		case 2:
			did = "label"
			_, err = p.Hosts.Label(ctx, serverhost.Ref{Host: id}, label.Set{"n": fmt.Sprint(dice.IntN(3))}, nil, 0)
		case 3:
			did = "unlabel"
			_, err = p.Hosts.Label(ctx, serverhost.Ref{Host: id}, nil, []string{"n"}, 0)
		case 4:
			did = "move"
			_, err = p.Hosts.Move(ctx, serverhost.Ref{Host: id}, []string{"prod", "lab"}[dice.IntN(2)], "")
		}
		if err != nil {
			t.Fatalf("step %d, %s: %v", step, did, err)
		}
		if dice.IntN(2) == 0 {
			p.Follow(t) // else the directory knows what it learnt, and catches up later
			fresh := directory(t, p)
			for _, id := range ids {
				followed, loaded := desired(t, p.Fleet, id), desired(t, fresh, id)
				if followed.Revision != loaded.Revision || followed.Digest != loaded.Digest || !slices.EqualFunc(followed.Whole, loaded.Whole, bytes.Equal) {
					t.Fatalf("step %d, %s: host %s is to have %s %x where the feed was followed, %s %x where it was loaded",
						step, did, id, followed.Revision, followed.Digest[:4], loaded.Revision, loaded.Digest[:4])
				}
				now, was := value{followed.Revision, followed.Digest}, last[id]
				if meant[id] == nil {
					meant[id] = map[section.Revision]section.Digest{}
				}
				if d, ok := meant[id][now.revision]; ok && d != now.digest {
					t.Fatalf("step %d, %s: revision %s of host %s meant %x, now %x", step, did, now.revision, id, d[:4], now.digest[:4])
				}
				meant[id][now.revision] = now.digest
				if now.digest != was.digest && now.revision.Compare(was.revision) <= 0 {
					t.Fatalf("step %d, %s: host %s got another value under %s after %s", step, did, id, now.revision, was.revision)
				}
				if now.revision.Compare(was.revision) < 0 {
					t.Fatalf("step %d, %s: host %s went back from %s to %s", step, did, id, was.revision, now.revision)
				}
				last[id] = now
			}
		}
	}
}

func directory(t testing.TB, p *plane.Plane) *fleet.Directory {
	t.Helper()
	d := fleet.New(fleet.Options{Store: storage.Bind[fleet.Reader, fleet.Tx](p.DB), Epoch: link.Epoch{Number: 1}, Now: p.Clock.Now})
	if err := d.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	return d
}

// A host freezes a section that comes under the same revision with another digest. What is compiled from the same rows
// must therefore never change, not with a new version of this program either, unless the revision changes with it.
func TestWhatIsCompiledStaysAsItIs(t *testing.T) {
	p := plane.New(t)
	ids := enrolled(t, p, "a")
	if _, err := p.Hosts.Label(plane.AsAdmin(t.Context()), serverhost.Ref{Host: "a"}, label.Set{"env": "prod"}, nil, 0); err != nil {
		t.Fatal(err)
	}
	const want = "f4403cbb7ec7d3d82c7e7bb460c23bf4df6970ba09a1e0f2fcacdfe6d06c4b06"
	if got := desired(t, p.Fleet, ids[0]).Digest.String(); got != want {
		t.Errorf("digest of default settings with env=prod\ngot  %s\nwant %s", got, want)
	}
}

func TestALateWordDoesNotBringARemovedHostBack(t *testing.T) {
	p := plane.New(t)
	ctx := plane.AsAdmin(t.Context())
	id := enrolled(t, p, "a")[0]
	stale, err := p.DB.View().Host(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Hosts.Remove(ctx, serverhost.Ref{Host: "a"}, "sold", ""); err != nil {
		t.Fatal(err)
	}
	p.Fleet.Learn(t.Context(), stale)
	p.Follow(t)
	k := p.Fleet.Lookup(id)
	if k == nil || k.Lifecycle != host.LifecycleRemoved || k.LifecycleReason != "sold" || !bytes.Equal(k.Key, stale.Key) {
		t.Errorf("known: %+v, want removed, with reason and key", k)
	}
	if p.Links.Expelled(id) == 0 {
		t.Error("the hub was not told to expel it")
	}
	if _, ok := p.Fleet.Host(id); ok {
		t.Error("it is still in the directory")
	}
	// A replica that starts later knows as much.
	if k := directory(t, p).Lookup(id); k == nil || k.Lifecycle != host.LifecycleRemoved {
		t.Errorf("loaded: %+v, want removed", k)
	}
}

func TestOnlineHostsAreThoseOfTheDatabase(t *testing.T) {
	p := plane.New(t)
	ids := enrolled(t, p, "a", "b")
	seen := link.Observation{HostID: ids[1], Presence: &link.Presence{Online: true, Since: p.Clock.Now()}}
	if err := p.Fleet.Observer().Observe(t.Context(), []link.Observation{seen}); err != nil {
		t.Fatal(err)
	}
	if got := slices.Collect(directory(t, p).Online()); !slices.Equal(got, ids[1:]) {
		t.Errorf("online after a restart: %v, want %v", got, ids[1:])
	}
}

func TestReadersThatFallBehindAreTold(t *testing.T) {
	p := plane.New(t)
	d := fleet.New(fleet.Options{Store: storage.Bind[fleet.Reader, fleet.Tx](p.DB), Now: p.Clock.Now, Log: 4})
	enrolled(t, p, "a", "b", "c")
	_, start := d.Snapshot(access.Scope{})
	if err := d.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	if list, next, _, ok := d.Since(start); !ok || len(list) != 3 || next != start+3 {
		t.Fatalf("got %d changes up to %d, %t, want 3 up to %d", len(list), next, ok, start+3)
	}
	enrolled(t, p, "d", "e")
	if err := d.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, _, _, ok := d.Since(start); ok {
		t.Error("a reader five changes behind a log of four was not told")
	}
	if list, _, _, ok := d.Since(start + 1); !ok || len(list) != 4 {
		t.Errorf("a reader four changes behind got %d, %t, want all", len(list), ok)
	}
	hosts, _ := d.Snapshot(p.Workspace.Scope())
	if len(hosts) != 5 {
		t.Errorf("%d hosts in the workspace, want 5", len(hosts))
	}
	if hosts, _ := d.Snapshot(p.Other.Scope()); len(hosts) != 0 {
		t.Errorf("%d hosts in the other workspace, want none", len(hosts))
	}
}

// TestMemoryOfAHost measures what a host costs in memory.
func TestMemoryOfAHost(t *testing.T) {
	hosts := int64(5000)
	if testing.Short() {
		hosts = 1000
	}
	p := plane.New(t)
	template, err := p.DB.View().Host(t.Context(), enrolled(t, p, "a")[0])
	if err != nil {
		t.Fatal(err)
	}
	store := storage.Bind[fleet.Reader, fleet.Tx](p.DB)
	if err := store.Observe(t.Context(), func(tx fleet.Tx) error {
		for i := range hosts {
			h := template
			h.ID = fmt.Sprintf("hst_%026d", i)
			h.Name, h.Key = fmt.Sprint("host-", i), plane.Key()
			h.Labels = label.Set{"env": "prod", "rack": fmt.Sprint(i % 50)}
			h.Sections = []section.Status{{Name: settings.SectionName, Revision: section.Revision{Epoch: 1, Number: 7}, State: section.Applied, AppliedAt: p.Clock.Now()}}
			h.Modules = []host.Health{{Module: "settings", Healthy: true}}
			h.Inventory = host.Inventory{
				HostName: h.Name, OS: "debian", OSVersion: "13", OSName: "Debian GNU/Linux 13 (trixie)", Kernel: "6.12.48-cloud-amd64",
				Architecture: "amd64", CPUModel: "AMD EPYC", CPUs: 8, MemoryBytes: 1 << 34, Virtualisation: "kvm",
				BootID: fmt.Sprintf("%036d", i), MachineID: fmt.Sprintf("%064d", i), Digest: plane.Key(),
				Disks:     []host.Disk{{Mount: "/", Device: "/dev/vda1", FileSystem: "ext4", SizeBytes: 1 << 40}},
				Addresses: []host.Address{{Interface: "eth0", Prefix: "10.0.0.1/24"}},
			}
			if _, err := tx.PutHost(t.Context(), h); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	before := heap()
	d := directory(t, p)
	each := (heap() - before) / hosts
	runtime.KeepAlive(d)
	t.Logf("%d bytes a host", each)
	if each > 2048 {
		t.Errorf("a host costs %d bytes of memory, want at most 2,048", each)
	}
}

func heap() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

package fleet_test

import (
	"crypto/ed25519"
	"errors"
	"testing"
	"time"

	"github.com/loopbackd/loopback/access"
	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/host"
	"github.com/loopbackd/loopback/section"
	"github.com/loopbackd/loopback/server/fleet"
	serverhost "github.com/loopbackd/loopback/server/host"
	"github.com/loopbackd/loopback/server/link"
	"github.com/loopbackd/loopback/server/storage"
	tokens "github.com/loopbackd/loopback/server/token"
	"github.com/loopbackd/loopback/test/plane"
)

func observe(t *testing.T, p *plane.Plane, batch ...link.Observation) {
	t.Helper()
	if err := p.Fleet.Observer().Observe(t.Context(), batch); err != nil {
		t.Fatal(err)
	}
}

func stored(t *testing.T, p *plane.Plane, id string) host.Host {
	t.Helper()
	h, err := p.DB.View().Host(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func position(t *testing.T, p *plane.Plane) int64 {
	t.Helper()
	n, err := p.DB.Position(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// applied is a host's word that it applied what it should have.
func applied(t *testing.T, p *plane.Plane, id string) link.Observation {
	t.Helper()
	d := desired(t, p.Fleet, id)
	return link.Observation{HostID: id, Sections: []section.Status{{
		Name: d.Name, Revision: d.Revision, Digest: d.Digest, State: section.Applied, AppliedAt: p.Clock.Now(),
	}}}
}

func online(p *plane.Plane, id string) link.Observation {
	return link.Observation{HostID: id, Presence: &link.Presence{Online: true, Since: p.Clock.Now()}}
}

func offline(p *plane.Plane, id string) link.Observation {
	return link.Observation{HostID: id, Presence: &link.Presence{Online: false, Since: p.Clock.Now()}}
}

func TestReportsBecomeStates(t *testing.T) {
	p := plane.New(t)
	id := enrolled(t, p, "a")[0]
	begun := p.Clock.Now()
	expect := func(when string, state host.State, since time.Time) {
		t.Helper()
		h := stored(t, p, id)
		if h.State != state || !h.StateSince.Equal(since) {
			t.Errorf("%s: %s since %s (%s), want %s since %s", when, h.State, h.StateSince, h.StateReason, state, since)
		}
		if known, _ := p.Fleet.Host(id); known.State != state || known.Revision != h.Revision {
			t.Errorf("%s: memory says %s at %d, want %s at %d", when, known.State, known.Revision, state, h.Revision)
		}
	}
	expect("enrolled", host.Enrolling, begun)
	p.Clock.Pass(time.Second)
	observe(t, p, online(p, id))
	expect("online, nothing applied", host.Enrolling, begun)
	p.Clock.Pass(time.Second)
	failed := applied(t, p, id)
	failed.Sections[0].State, failed.Sections[0].Message = section.Failed, "no"
	observe(t, p, failed)
	expect("online, section failed", host.Enrolling, begun)
	p.Clock.Pass(time.Second)
	observe(t, p, applied(t, p, id))
	managed := p.Clock.Now()
	expect("all applied", host.Managed, managed)
	p.Clock.Pass(time.Second)
	observe(t, p, link.Observation{HostID: id, AgentVersion: "1.0.1", Modules: &[]host.Health{{Module: "settings", Healthy: true}}})
	expect("healthy", host.Managed, managed)
	p.Clock.Pass(time.Second)
	observe(t, p, link.Observation{HostID: id, Modules: &[]host.Health{{Module: "settings", Message: "broken"}}})
	expect("unhealthy", host.Degraded, p.Clock.Now())
	p.Clock.Pass(time.Second)
	observe(t, p, offline(p, id))
	expect("gone", host.Offline, p.Clock.Now())
	if h := stored(t, p, id); !h.OfflineSince.Equal(p.Clock.Now()) {
		t.Errorf("offline since %s, want %s", h.OfflineSince, p.Clock.Now())
	}
	p.Clock.Pass(time.Second)
	back := online(p, id)
	back.Modules = &[]host.Health{{Module: "settings", Healthy: true}}
	observe(t, p, back)
	expect("back", host.Managed, p.Clock.Now())
	if h := stored(t, p, id); !h.OnlineSince.Equal(p.Clock.Now()) || !h.OfflineSince.IsZero() || h.AgentVersion != "1.0.1" {
		t.Errorf("online since %s, offline since %s, version %s", h.OnlineSince, h.OfflineSince, h.AgentVersion)
	}
}

func TestWhatIsKnownAlreadyCostsNothing(t *testing.T) {
	p := plane.New(t)
	id := enrolled(t, p, "a")[0]
	all := applied(t, p, id)
	all.Presence = online(p, id).Presence
	all.Modules = &[]host.Health{{Module: "settings", Healthy: true}}
	all.AgentVersion = "1.2.3"
	all.Sections[0].AppliedAt = all.Sections[0].AppliedAt.Add(1234567 * time.Nanosecond).In(time.FixedZone("", 3600))
	all.Inventory = &link.Inventory{Inventory: host.Inventory{OS: "debian", Disks: []host.Disk{{Mount: "/"}}}, Digest: []byte{1, 2}}
	observe(t, p, all)
	before := position(t, p)
	p.Clock.Pass(time.Minute)
	observe(t, p, all)
	again := online(p, id) // a new link of a host that is online
	observe(t, p, again, link.Observation{HostID: "hst_unknown", AgentVersion: "9"})
	if after := position(t, p); after != before {
		t.Errorf("repeating what is known made %d changes, want none", after-before)
	}
}

func TestALateGoneDoesNotBeatANewerHere(t *testing.T) {
	p := plane.New(t)
	id := enrolled(t, p, "a")[0]
	late := offline(p, id)
	p.Clock.Pass(time.Second)
	observe(t, p, online(p, id))
	observe(t, p, late)
	if h := stored(t, p, id); !h.Online {
		t.Error("the host was declared offline by a word from before it came")
	}
}

func TestPassedOver(t *testing.T) {
	p := plane.New(t)
	ctx := plane.AsAdmin(t.Context())
	id := enrolled(t, p, "a")[0]
	added, err := p.Hosts.Add(ctx, serverhost.Addition{Workspace: "prod", Name: "metal"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Hosts.Remove(ctx, serverhost.Ref{Host: "a"}, "", ""); err != nil {
		t.Fatal(err)
	}
	observe(t, p, online(p, id), online(p, added.ID))
	for _, id := range []string{id, added.ID} {
		if h := stored(t, p, id); h.Online {
			t.Errorf("host %s, which is %s, came online", h.Name, h.State)
		}
	}
}

func TestStatesSettleByThemselves(t *testing.T) {
	p := plane.New(t)
	id := enrolled(t, p, "a")[0]
	p.Run(t)
	all := applied(t, p, id)
	all.Presence = online(p, id).Presence
	observe(t, p, all)
	ctx := plane.AsAdmin(t.Context())

	// An update's lease ends though nobody says a word.
	store := storage.Bind[fleet.Reader, fleet.Tx](p.DB)
	if err := store.Observe(ctx, func(tx fleet.Tx) error {
		h, err := tx.Host(ctx, id)
		if err != nil {
			return err
		}
		h.Updating, h.UpdatingUntil = "2.0.0", p.Clock.Now().Add(time.Minute)
		h.Settle(p.Clock.Now())
		_, err = tx.PutHost(ctx, h)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	await(t, p, id, host.Updating)
	p.Clock.Pass(2 * time.Minute)
	await(t, p, id, host.Managed)

	// A host that was rolled back and approved holds its configuration already, and has nothing to report.
	if _, err := p.Fleet.Observer().RolledBack(ctx, id, rotated(t, p, id)); err != nil {
		t.Fatal(err)
	}
	await(t, p, id, host.Pending)
	if _, err := p.Hosts.Approve(ctx, serverhost.Ref{Host: "a"}); err != nil {
		t.Fatal(err)
	}
	await(t, p, id, host.Managed)
}

// await waits for a state by watching.
func await(t *testing.T, p *plane.Plane, id string, want host.State) {
	t.Helper()
	ctx := plane.AsAdmin(t.Context())
	done := errors.New("seen")
	over := time.AfterFunc(20*time.Second, func() {
		t.Errorf("host %s is %s after 20 s, want %s", id, stored(t, p, id).State, want)
	})
	defer over.Stop()
	err := p.Hosts.Watch(ctx, serverhost.WatchQuery{Hosts: []string{id}}, func(e serverhost.Event) error {
		if e.Changed != nil && e.Changed.State == want {
			return done
		}
		if t.Failed() {
			return errors.New("given up")
		}
		return nil
	})
	if err != done {
		t.Fatal(err)
	}
}

// rotated gives a host its next key and returns the one that it leaves behind.
func rotated(t *testing.T, p *plane.Plane, id string) ed25519.PublicKey {
	t.Helper()
	k := p.Fleet.Lookup(id)
	next := plane.Key()
	if err := p.Fleet.Observer().OfferKey(t.Context(), id, next, k.Generation+1); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Fleet.Observer().UseNextKey(t.Context(), id, next); err != nil {
		t.Fatal(err)
	}
	return k.Key
}

func TestKeyRotation(t *testing.T) {
	p := plane.New(t)
	ctx := t.Context()
	ids := enrolled(t, p, "a", "b")
	id := ids[0]
	o := p.Fleet.Observer()
	first, next := p.Fleet.Lookup(id).Key, plane.Key()

	for _, c := range []struct {
		what       string
		key        ed25519.PublicKey
		generation int64
	}{
		{"a generation too far", next, 3},
		{"the current generation", next, 1},
		{"another host's key", p.Fleet.Lookup(ids[1]).Key, 2},
	} {
		if err := o.OfferKey(ctx, id, c.key, c.generation); fault.KindOf(err) != fault.Precondition {
			t.Errorf("offering %s: %v, want a precondition", c.what, err)
		}
	}
	if err := o.OfferKey(ctx, id, next, 2); err != nil {
		t.Fatal(err)
	}
	before := position(t, p)
	if err := o.OfferKey(ctx, id, next, 2); err != nil { // the answer was lost
		t.Fatal(err)
	}
	if now := position(t, p); now != before {
		t.Errorf("offering the same key again made %d changes", now-before)
	}
	k := p.Fleet.Lookup(id)
	if !first.Equal(k.Key) || !next.Equal(k.NextKey) || k.Generation != 1 {
		t.Fatalf("offered: %+v, want both keys in generation 1", k)
	}
	// The agent lost what it had stored, and offers another.
	other := plane.Key()
	if err := o.OfferKey(ctx, id, other, 2); err != nil {
		t.Fatal(err)
	}
	if _, err := o.UseNextKey(ctx, id, next); fault.KindOf(err) != fault.Precondition {
		t.Errorf("using a key that was replaced: %v, want a precondition", err)
	}
	for range 2 { // the second time, the answer to the first was lost
		k, err := o.UseNextKey(ctx, id, other)
		if err != nil || !other.Equal(k.Key) || k.NextKey != nil || k.Generation != 2 || len(k.PastKeys) != 1 {
			t.Fatalf("used: %+v, %v, want the next key current in generation 2", k, err)
		}
	}
	if err := o.OfferKey(ctx, id, other, 2); err != nil { // the answer to the offer is asked for after its use
		t.Errorf("offering what is in use already: %v, want nothing", err)
	}
	if err := o.OfferKey(ctx, id, first, 3); fault.KindOf(err) != fault.Precondition {
		t.Errorf("offering a key that was left behind: %v, want a precondition", err)
	}
	if n := len(p.Entries(t, host.RotateKey)); n != 3 {
		t.Errorf("%d audit entries, want 3: two offers, one use", n)
	}
}

func TestARolledBackHostAwaitsOneApproval(t *testing.T) {
	p := plane.New(t)
	ctx := plane.AsAdmin(t.Context())
	id := enrolled(t, p, "a")[0]
	o := p.Fleet.Observer()
	if _, err := o.RolledBack(ctx, id, plane.Key()); fault.KindOf(err) != fault.Precondition {
		t.Errorf("a key that the host never had: %v, want a precondition", err)
	}
	past := rotated(t, p, id)
	newer := p.Fleet.Lookup(id).Key
	for range 2 {
		k, err := o.RolledBack(ctx, id, past)
		if err != nil || k.Lifecycle != host.LifecyclePending || !past.Equal(k.NextKey) || !newer.Equal(k.Key) {
			t.Fatalf("rolled back: %+v, %v, want pending with the past key as its next", k, err)
		}
	}
	if d := p.Fleet.Desired(id); d != nil {
		t.Error("a rolled back host is to receive something")
	}
	if _, err := o.UseNextKey(ctx, id, past); fault.KindOf(err) != fault.Precondition {
		t.Errorf("using the past key before approval: %v, want a precondition", err)
	}
	if _, err := p.Hosts.Approve(ctx, serverhost.Ref{Host: "a"}); err != nil {
		t.Fatal(err)
	}
	k, err := o.UseNextKey(ctx, id, past)
	if err != nil || !past.Equal(k.Key) || k.Generation != 3 || k.Lifecycle != host.LifecycleActive {
		t.Fatalf("approved: %+v, %v, want the past key current in generation 3", k, err)
	}
	// Now the other copy is the one that comes with a key left behind.
	if k, err = o.RolledBack(ctx, id, newer); err != nil || k.Lifecycle != host.LifecyclePending {
		t.Errorf("the other copy: %+v, %v, want pending", k, err)
	}
}

func TestKeysOfARemovedHostAreDead(t *testing.T) {
	p := plane.New(t)
	ctx := plane.AsAdmin(t.Context())
	id := enrolled(t, p, "a")[0]
	next := plane.Key()
	if err := p.Fleet.Observer().OfferKey(ctx, id, next, 2); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Hosts.Remove(ctx, serverhost.Ref{Host: "a"}, "", ""); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Fleet.Observer().UseNextKey(ctx, id, next); !errors.Is(err, host.ErrRemoved) {
		t.Errorf("got %v, want %v", err, host.ErrRemoved)
	}
	if err := p.Fleet.Observer().OfferKey(ctx, id, plane.Key(), 2); !errors.Is(err, host.ErrRemoved) {
		t.Errorf("got %v, want %v", err, host.ErrRemoved)
	}
}

// TestManyHostsInOneTransaction is what a thousand hosts coming at once cost.
func TestManyHostsInOneTransaction(t *testing.T) {
	p := plane.New(t)
	m := p.Mint(t, tokens.Request{})
	for range 300 {
		p.Enrol(t, m, "web")
	}
	hosts, _ := p.Fleet.Snapshot(access.Scope{})
	var batch []link.Observation
	for _, h := range hosts {
		o := applied(t, p, h.ID)
		o.Presence = online(p, h.ID).Presence
		batch = append(batch, o)
	}
	began := time.Now()
	observe(t, p, batch...)
	t.Logf("%d hosts in %s", len(batch), time.Since(began))
	for _, h := range hosts {
		if now, _ := p.Fleet.Host(h.ID); now.State != host.Managed {
			t.Errorf("host %s is %s, want managed", h.Name, now.State)
		}
	}
}

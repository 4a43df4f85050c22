package host_test

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"strings"
	"testing"

	noun "github.com/loopbackd/loopback/host"
	"github.com/loopbackd/loopback/label"
	"github.com/loopbackd/loopback/server/enrol"
	tokens "github.com/loopbackd/loopback/server/token"
	"github.com/loopbackd/loopback/test/plane"
)

var copies = []noun.Copy{
	{BootID: "aaaa-1111", Address: "10.0.0.5", HostName: "web-1", MachineID: "m"},
	{BootID: "bbbb-2222", Address: "::ffff:10.0.0.9", HostName: "web-1", MachineID: "m"},
}

func TestALockedHostStaysLockedUntilItsCopiesAreDecidedOn(t *testing.T) {
	p := plane.New(t)
	ctx := plane.AsAdmin(t.Context())
	_, ids := enrolled(t, p, tokens.Request{}, "a")
	cloned := func() noun.Host {
		t.Helper()
		if _, err := p.Fleet.Observer().Cloned(ctx, ids[0], copies); err != nil {
			t.Fatal(err)
		}
		h, err := p.DB.View().Host(ctx, ids[0])
		if err != nil {
			t.Fatal(err)
		}
		return h
	}
	h := cloned()
	if h.State != noun.Quarantined || !strings.HasPrefix(h.StateReason, "cloned: ") || !h.Clones.Locked() || len(h.Clones.Copies) != 2 {
		t.Fatalf("got %s (%s), %+v, want it locked", h.State, h.StateReason, h.Clones)
	}
	if again := cloned(); again.Revision != h.Revision {
		t.Error("what was known already changed the host")
	}
	if q := p.Entries(t, noun.Quarantine); len(q) != 1 || !strings.Contains(string(q[0].After), "bbbb-2222") {
		t.Errorf("the audit log has %v, want one entry that names the copies", q)
	}
	if _, err := p.Hosts.Release(ctx, ref("a"), ""); code(err) != "host_cloned" {
		t.Errorf("releasing it: %v, want host_cloned", err)
	}
	if _, err := p.Hosts.Split(ctx, ref("a"), "", ""); code(err) != "request_invalid" {
		t.Errorf("keeping nobody: %v, want request_invalid", err)
	}
	if _, err := p.Hosts.Split(ctx, ref("a"), "10.9.9.9", ""); code(err) != "copy_not_found" {
		t.Errorf("keeping a stranger: %v, want copy_not_found", err)
	}
	if _, err := p.Hosts.Drop(ctx, ref("a"), "web-1", "", ""); code(err) != "copy_ambiguous" {
		t.Errorf("dropping by a name that both have: %v, want copy_ambiguous", err)
	}
	if _, err := p.Hosts.Drop(ctx, ref("a"), "aaaa", "aaaa-1111", ""); code(err) != "copy_kept_and_dropped" {
		t.Errorf("keeping what is dropped: %v, want copy_kept_and_dropped", err)
	}
	got, err := p.Hosts.Drop(ctx, ref("a"), "10.0.0.9", "", "a copied disk")
	if err != nil || got.Lifecycle != noun.LifecycleActive || got.Clones.Of([32]byte{}, "aaaa-1111") != noun.Kept || got.Clones.Of([32]byte{}, "bbbb-2222") != noun.Dropped {
		t.Fatalf("got %+v, %v, want the other kept", got.Host, err)
	}
	if d := p.Entries(t, noun.Drop); len(d) != 1 || d[0].Reason != "a copied disk" {
		t.Errorf("the audit log has %v, want the decision with its reason", d)
	}
	if _, err := p.Hosts.Split(ctx, ref("a"), "aaaa", ""); code(err) != "host_not_cloned" {
		t.Errorf("deciding twice: %v, want host_not_cloned", err)
	}
}

func TestALockDoesNotLetAHostInThatAwaitsApproval(t *testing.T) {
	p := plane.New(t)
	ctx := plane.AsAdmin(t.Context())
	_, ids := enrolled(t, p, tokens.Request{RequiresApproval: true}, "a")
	if _, err := p.Fleet.Observer().Cloned(ctx, ids[0], copies); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Hosts.Approve(ctx, ref("a")); code(err) != "host_cloned" {
		t.Errorf("approving it: %v, want host_cloned", err)
	}
	h, err := p.Hosts.Split(ctx, ref("a"), "aaaa", "")
	if err != nil || h.State != noun.Pending || h.StateReason != "its token demands approval" {
		t.Fatalf("got %s (%s), %v, want it pending as before", h.State, h.StateReason, err)
	}
	if h, err = p.Hosts.Approve(ctx, ref("a")); err != nil || h.Lifecycle != noun.LifecycleActive {
		t.Errorf("approving it then: %s, %v", h.Lifecycle, err)
	}
}

func TestAQuarantineOutlivesALock(t *testing.T) {
	p := plane.New(t)
	ctx := plane.AsAdmin(t.Context())
	_, ids := enrolled(t, p, tokens.Request{}, "a")
	if _, err := p.Fleet.Observer().Cloned(ctx, ids[0], copies); err != nil {
		t.Fatal(err)
	}
	o, err := p.Hosts.Quarantine(ctx, ref("a"), "odd traffic", "")
	if err != nil {
		t.Fatal(err)
	}
	wait(t, p, o)
	if h, err := p.Hosts.Get(ctx, ref("a")); err != nil || !strings.HasPrefix(h.StateReason, "cloned") {
		t.Errorf("got %s, %v: the lock does not show any more", h.StateReason, err)
	}
	h, err := p.Hosts.Split(ctx, ref("a"), "bbbb", "")
	if err != nil || h.State != noun.Quarantined || h.StateReason != "odd traffic" {
		t.Errorf("got %s (%s), %v, want it quarantined by the operator", h.State, h.StateReason, err)
	}
}

// The kept copy's new key is the fence; the other becomes a host of its own that stands as the first did.
func TestASplitCopyBecomesAHostOfItsOwn(t *testing.T) {
	p := plane.New(t)
	ctx := plane.AsAdmin(t.Context())
	minted, ids := enrolled(t, p, tokens.Request{HostLabels: label.Set{"env": "prod"}}, "a")
	if _, err := p.Hosts.Label(ctx, ref("a"), label.Set{"role": "web"}, nil, 0); err != nil {
		t.Fatal(err)
	}
	observer := p.Fleet.Observer()
	if _, err := observer.Cloned(ctx, ids[0], copies); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Hosts.Split(ctx, ref("a"), "aaaa", ""); err != nil {
		t.Fatal(err)
	}
	before, err := p.DB.View().Host(ctx, ids[0])
	if err != nil {
		t.Fatal(err)
	}
	next, _, _ := ed25519.GenerateKey(rand.Reader)
	if err := observer.OfferKey(ctx, ids[0], next, before.Generation+1); err != nil {
		t.Fatal(err)
	}
	known, err := observer.UseNextKey(ctx, ids[0], next)
	if err != nil {
		t.Fatal(err)
	}
	if v := known.Clones.Of(sha256.Sum256(before.Key), "any boot"); v != noun.SplitOff {
		t.Errorf("got %q on the key that was copied, want split", v)
	}
	if v := known.Clones.Of(sha256.Sum256(next), "aaaa-1111"); v != noun.Single {
		t.Errorf("got %q on the new key, want nothing against it", v)
	}
	own, _, _ := ed25519.GenerateKey(rand.Reader)
	request := enrol.Request{Key: own, HostName: "a", AgentVersion: "1.0.0"}
	h, err := p.Enrolment.Split(ctx, ids[0], request)
	if err != nil {
		t.Fatal(err)
	}
	if h.ID == ids[0] || h.Name != "a-2" || h.Labels["env"] != "prod" || h.Labels["role"] != "web" || len(h.ForcedLabels) != 1 ||
		h.TokenID != minted.Token.ID || h.Lifecycle != noun.LifecycleActive || h.Scope != before.Scope {
		t.Errorf("got %+v, want a host of its own that stands as the first", h)
	}
	again, err := p.Enrolment.Split(ctx, ids[0], request)
	if err != nil || again.ID != h.ID {
		t.Errorf("asked again: %s, %v, want the same host", again.ID, err)
	}
	var found bool
	for _, e := range p.Entries(t, noun.Enrol) {
		found = found || e.Decision == ids[0] && strings.Contains(e.Reason, "split from host a")
	}
	if !found {
		t.Error("the audit log does not say where the new host comes from")
	}
}

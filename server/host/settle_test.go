package host_test

import (
	"testing"

	noun "github.com/loopbackd/loopback/host"
	"github.com/loopbackd/loopback/label"
	"github.com/loopbackd/loopback/section"
	"github.com/loopbackd/loopback/server/host"
	"github.com/loopbackd/loopback/server/link"
	tokens "github.com/loopbackd/loopback/server/token"
	"github.com/loopbackd/loopback/settings"
	"github.com/loopbackd/loopback/test/plane"
)

// frozen is a host that holds a section which is ahead of what the control plane has.
func frozen(t *testing.T, p *plane.Plane, id string, at section.Revision) section.Section {
	t.Helper()
	held, err := settings.Settings{LogLevel: "debug", Labels: label.Set{"role": "db", "env": "stale"}}.Section(at)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Fleet.Observer().Observe(t.Context(), []link.Observation{{HostID: id, Sections: []section.Status{{
		Name: "settings", Revision: at, Digest: held.Digest, State: section.Applied, Frozen: true,
	}}}}); err != nil {
		t.Fatal(err)
	}
	return held
}

func TestWhoWinsIsSaidOfFrozenSectionsAlone(t *testing.T) {
	p := plane.New(t)
	ctx := plane.AsAdmin(t.Context())
	_, ids := enrolled(t, p, tokens.Request{}, "a")
	if _, err := p.Hosts.Settle(ctx, ref("a"), "", host.HostWins, ""); code(err) != "section_not_frozen" {
		t.Errorf("nothing frozen: got %v, want section_not_frozen", err)
	}
	epoch := p.Fleet.Epoch().Number
	frozen(t, p, ids[0], section.Revision{Epoch: epoch, Number: 1 << 40})
	for _, c := range []struct {
		section string
		winner  host.Winner
		code    string
	}{
		{"", "", "request_invalid"}, {"", "nobody", "request_invalid"}, {"mesh", host.HostWins, "section_not_frozen"},
		{"settings", host.ControlPlaneWins, "section_ahead"}, // nothing here would be newer
	} {
		if _, err := p.Hosts.Settle(ctx, ref("a"), c.section, c.winner, ""); code(err) != c.code {
			t.Errorf("section %q, winner %q: got %v, want %s", c.section, c.winner, err, c.code)
		}
	}
	if h, err := p.Hosts.Settle(ctx, ref("a"), "settings", host.HostWins, "x"); err != nil || len(h.Settling) != 1 {
		t.Errorf("got %v, %v, want the host's value to be taken over", h.Settling, err)
	}
}

func TestWhatTheHostHoldsBecomesItsOwnSettings(t *testing.T) {
	p := plane.New(t)
	ctx := plane.AsAdmin(t.Context())
	_, ids := enrolled(t, p, tokens.Request{HostLabels: label.Set{"env": "prod"}}, "a")
	held := frozen(t, p, ids[0], section.Revision{Epoch: p.Fleet.Epoch().Number, Number: 1 << 40})
	observer := p.Fleet.Observer()
	if err := observer.Adopt(ctx, ids[0], held); err != nil {
		t.Fatal(err)
	}
	if s, err := p.DB.View().HostSettings(ctx, ids[0]); err != nil || s.Revision != 0 {
		t.Fatalf("a host's value was taken over though nobody said so: %+v, %v", s, err)
	}
	if _, err := p.Hosts.Settle(ctx, ref("a"), "", host.HostWins, ""); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second says nothing new
		if err := observer.Adopt(ctx, ids[0], held); err != nil {
			t.Fatal(err)
		}
	}
	s, err := p.DB.View().HostSettings(ctx, ids[0])
	if err != nil || s.Settings.LogLevel != "debug" || s.Settings.HeartbeatMax != 0 || s.Settings.Modules != nil {
		t.Errorf("got %+v, %v, want what differs from the workspace's and nothing else", s, err)
	}
	h, err := p.DB.View().Host(ctx, ids[0])
	if err != nil || h.Labels["role"] != "db" || h.Labels["env"] != "prod" || len(h.Settling) != 0 {
		t.Errorf("got labels %v, settling %v, %v; want the host's, but for what its token forces", h.Labels, h.Settling, err)
	}
	if e := p.Entries(t, settings.Set); len(e) != 1 || e[0].Actor.ID != ids[0] {
		t.Errorf("the audit log has %v, want one entry", e)
	}
	if e := p.Entries(t, noun.Settle); len(e) != 1 {
		t.Errorf("the audit log has %d decisions, want one", len(e))
	}
}

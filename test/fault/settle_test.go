package fault

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/durationpb"

	pb "github.com/loopbackd/loopback/api/loopback/v1"
	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/section"
	"github.com/loopbackd/loopback/test/daemon"
	"github.com/loopbackd/loopback/test/fleet"
)

// A backup is restored that is older than what hosts hold. They keep what they have, the operator sees which are ahead, and
// says what shall win: on one half the hosts, whose value the control plane takes over, on the other the control plane.
func TestAnOldBackupLeavesHostsAheadUntilAnOperatorSaysWhoWins(t *testing.T) {
	d := start(t)
	const n = 6
	_, secret := mint(t, d, n)
	set(t, d, "info", 0)
	f := agents(t, d, n, secret, nil)
	await(t, f, time.Minute, func(c fleet.Counts) bool { return c.Linked == n && level(f) == strings.Repeat("info ", n) })

	file := filepath.Join(t.TempDir(), "backup")
	command(t, d, "backup", "--to", file, "--data-dir", d.DataDir)
	set(t, d, "debug", 7*time.Second) // what the backup does not know
	await(t, f, time.Minute, func(fleet.Counts) bool { return level(f) == strings.Repeat("debug ", n) })
	held := map[string]section.Section{}
	for _, a := range f.Agents {
		held[a.HostID()] = a.Holds("settings")
	}
	if err := d.Kill(); err != nil {
		t.Fatal(err)
	}
	restored := d.Moved(filepath.Join(t.TempDir(), "restored"))
	command(t, d, "restore", "--from", file, "--data-dir", restored.DataDir)
	if err := restored.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := restored.Kill(); err != nil {
			t.Error(err)
		}
	})
	await(t, f, time.Minute, func(c fleet.Counts) bool { return c.Linked == n })

	ahead := func() []*pb.Host {
		r, err := restored.Hosts.ListHosts(t.Context(), connect.NewRequest(&pb.ListHostsRequest{Query: "reason~ahead"}))
		if err != nil {
			t.Fatal(err)
		}
		return r.Msg.Items
	}
	hosts := eventually(t, "all hosts are seen to be ahead", func() ([]*pb.Host, bool) { h := ahead(); return h, len(h) == n })
	for _, h := range hosts {
		if h.State != "degraded" || !h.Sections[0].Frozen {
			t.Errorf("host %s: got %s (%s), %v", h.Name, h.State, h.Reason, h.Sections)
		}
	}
	for _, a := range f.Agents {
		if got := a.Holds("settings"); got.Revision != held[a.HostID()].Revision || got.Digest != held[a.HostID()].Digest {
			t.Errorf("agent %s holds %s now: what was newer on the host was overwritten", a.Name, got.Revision)
		}
	}

	winners := map[string]string{}
	for i, h := range hosts {
		winner := []string{"host", "control-plane"}[i%2]
		winners[h.Id] = winner
		if _, err := restored.Hosts.SettleHost(t.Context(), connect.NewRequest(&pb.SettleHostRequest{Host: h.Id, Winner: winner, Reason: "TCK-7"})); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "no host is ahead any more", func() (any, bool) {
		r, err := restored.Hosts.ListHosts(t.Context(), connect.NewRequest(&pb.ListHostsRequest{States: []string{"managed"}}))
		if err != nil {
			t.Fatal(err)
		}
		return nil, len(r.Msg.Items) == n && len(ahead()) == 0
	})
	for _, a := range f.Agents {
		got, before := a.Holds("settings"), held[a.HostID()]
		switch winners[a.HostID()] {
		case "host":
			if got.Digest != before.Digest || got.Revision.Epoch != 2 {
				t.Errorf("agent %s holds %s with other contents, wanted its own under a revision of the new epoch", a.Name, got.Revision)
			}
			s, err := restored.Settings.GetSettings(t.Context(), connect.NewRequest(&pb.GetSettingsRequest{Host: a.HostID()}))
			if err != nil {
				t.Fatal(err)
			}
			if e := s.Msg.GetEffective(); e.GetLogLevel() != "debug" || e.GetHeartbeatMax().AsDuration() != 7*time.Second {
				t.Errorf("the control plane has %v for agent %s, wanted what the host holds", e, a.Name)
			}
		default:
			if text := levelOf(a); text != "info" || got.Revision.Epoch != 2 {
				t.Errorf("agent %s holds level %s at %s, wanted what the backup knew", a.Name, text, got.Revision)
			}
		}
	}
	entries, err := restored.Entries(t.Context(), "hosts.settle", "")
	if err != nil || len(entries) != n || !strings.Contains(entries[0].GetReason(), "TCK-7") {
		t.Errorf("the audit log has %d decisions, %v", len(entries), err)
	}
	// From here on the control plane is in command again.
	set(t, restored, "warn", 0)
	await(t, f, time.Minute, func(fleet.Counts) bool {
		for _, a := range f.Agents {
			if winners[a.HostID()] == "control-plane" && levelOf(a) != "warn" {
				return false
			}
		}
		return true
	})
}

// Hosts that replaced their keys after the backup was taken come back by themselves: their earlier keys vouch for the new.
func TestHostsThatReplacedTheirKeysSinceTheBackupComeBack(t *testing.T) {
	d := start(t)
	const n = 6
	_, secret := mint(t, d, n)
	f := agents(t, d, n, secret, nil)
	await(t, f, time.Minute, func(c fleet.Counts) bool { return c.Linked == n })
	f.Stop()
	file := filepath.Join(t.TempDir(), "backup")
	command(t, d, "backup", "--to", file, "--data-dir", d.DataDir)
	for _, a := range f.Agents {
		for range 2 { // twice
			s, err := a.Link(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if err := s.Offer(t.Context()); err != nil {
				t.Fatal(err)
			}
			if err := s.Serve(within(t, time.Minute)); fault.Of(err).Code != "link_anew" {
				t.Fatalf("rotating: %v", err)
			}
		}
	}
	if err := d.Kill(); err != nil {
		t.Fatal(err)
	}
	restored := d.Moved(filepath.Join(t.TempDir(), "restored"))
	command(t, d, "restore", "--from", file, "--data-dir", restored.DataDir)
	if err := restored.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := restored.Kill(); err != nil {
			t.Error(err)
		}
	})
	for _, a := range f.Agents {
		s, err := a.Link(t.Context())
		if err != nil {
			t.Fatalf("agent %s does not get back: %v", a.Name, err)
		}
		if s.Welcome.Standing != "managed" {
			t.Errorf("agent %s: got %s (%s), wanted managed", a.Name, s.Welcome.Standing, s.Welcome.Reason)
		}
		s.Conn.Close()
	}
	entries, err := restored.Entries(t.Context(), "hosts.rotate_key", "")
	if err != nil || len(entries) != n || entries[0].GetReason() != "succeeded" {
		t.Errorf("the audit log has %d entries on keys, %v; wanted one for each host", len(entries), err)
	}
}

func set(t *testing.T, d *daemon.Daemon, level string, longest time.Duration) {
	t.Helper()
	s := &pb.AgentSettings{LogLevel: level}
	if longest > 0 {
		s.HeartbeatMax = durationpb.New(longest)
	}
	if _, err := d.Settings.SetSettings(t.Context(), connect.NewRequest(&pb.SetSettingsRequest{Workspace: d.Workspace, Settings: s})); err != nil {
		t.Fatal(err)
	}
}

func levelOf(a *fleet.Agent) string {
	v, _ := a.Holds("settings").Get("log")
	return strings.Trim(string(v), `"`)
}

// level is what all agents hold, in order.
func level(f *fleet.Fleet) string {
	var b strings.Builder
	for _, a := range f.Agents {
		b.WriteString(levelOf(a) + " ")
	}
	return b.String()
}

func eventually[T any](t *testing.T, what string, is func() (T, bool)) T {
	t.Helper()
	ctx := within(t, 30*time.Second)
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		v, ok := is()
		if ok {
			return v
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("not yet: %s", what)
		}
	}
}

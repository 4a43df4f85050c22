package cli_test

import (
	"encoding/json"
	"maps"
	"strings"
	"testing"

	pb "github.com/loopbackd/loopback/api/loopback/v1"
)

func TestLabels(t *testing.T) {
	p := new(controlPlane).start(t)
	x := sit(t, p)
	p.put(&pb.Host{Name: "web-1", State: "managed", Labels: map[string]string{"old": "1", "env": "test"}})
	x.ok("host", "label", "web-1", "env=prod", "note=", "url=a=b", "old-")
	h, _ := p.host("web-1")
	if want := map[string]string{"env": "prod", "note": "", "url": "a=b"}; !maps.Equal(h.Labels, want) {
		t.Errorf("labels are %v, want %v", h.Labels, want)
	}
}

func TestSelectorsAndNames(t *testing.T) {
	p := new(controlPlane).start(t)
	x := sit(t, p)
	for _, h := range []*pb.Host{
		{Name: "web-1", State: "pending", Labels: map[string]string{"env": "prod", "role": "web"}},
		{Name: "db-1", State: "pending", Labels: map[string]string{"env": "prod", "role": "db"}},
		{Name: "web-2", State: "pending", Labels: map[string]string{"env": "test", "role": "web"}},
	} {
		p.put(h)
	}
	names := func(args ...string) string {
		t.Helper()
		var got struct{ Items []struct{ Name string } }
		if err := json.Unmarshal([]byte(x.ok(append(args, "-o", "json")...)), &got); err != nil {
			t.Fatal(err)
		}
		var out []string
		for _, h := range got.Items {
			out = append(out, h.Name)
		}
		return strings.Join(out, " ")
	}
	for selector, want := range map[string]string{"env=prod,role in (db,web)": "web-1 db-1", "role!=web": "db-1", "env": "web-1 db-1 web-2", "!env": ""} {
		if got := names("host", "list", "-l", selector); got != want {
			t.Errorf("-l %q gives %q, want %q", selector, got, want)
		}
	}
	if got := names("host", "list", "web-2", "hst_db-1"); got != "web-2 db-1" {
		t.Errorf("by name: %q, want what was named", got)
	}
	x.fails(5, "web-9", "host list", "host", "list", "web-9")
	x.fails(2, "selector", "", "host", "list", "-l", "env in (")
	if got := names("host", "approve", "-l", "env=prod"); got != "web-1 db-1" {
		t.Errorf("approved %q, want the two that match", got)
	}
	if h, _ := p.host("web-2"); h.State != "pending" {
		t.Errorf("web-2 is %s, want it left alone", h.State)
	}
	x.fails(5, `no host matches "env=none"`, "host list", "host", "remove", "-l", "env=none")
	r := x.run("host", "release", "web-1", "web-8", "web-2", "web-9", "-o", "json")
	if r.code != 5 || !strings.Contains(r.out, "web-2") || !strings.Contains(r.err, "web-8") || !strings.Contains(r.err, "web-9") {
		t.Errorf("got %+v, want both hosts that are there, both errors, exit code 5", r)
	}
}

func TestRemovalIsConfirmedByPeopleOnly(t *testing.T) {
	p := new(controlPlane).start(t)
	x := sit(t, p)
	p.put(hostIn("web-1", "managed"), hostIn("web-2", "managed"), hostIn("web-3", "managed"))
	x.tty, x.in = true, "n\n"
	if r := x.run("host", "remove", "web-1"); r.code != 1 || r.out != "" || r.err != "remove web-1? [y/N] loopback: nothing was done\n" {
		t.Errorf("after a no got %+v, want exit code 1 and that nothing was done", r)
	}
	if h, _ := p.host("web-1"); h.State != "managed" {
		t.Errorf("web-1 is %s after a no, want it left alone", h.State)
	}
	x.in = "Yes\n"
	x.ok("host", "remove", "web-1")
	x.in = ""
	x.ok("host", "remove", "web-2", "--yes")
	x.tty = false
	x.ok("host", "remove", "web-3")
	for _, name := range []string{"web-1", "web-2", "web-3"} {
		if h, _ := p.host(name); h.State != "removed" {
			t.Errorf("%s is %s, want removed", name, h.State)
		}
	}
}

func TestMove(t *testing.T) {
	p := new(controlPlane).start(t)
	x := sit(t, p)
	p.put(hostIn("web-1", "managed"))
	if out := x.ok("host", "move", "web-1", "--to", "ws_other", "--reason", "OPS-31"); !strings.Contains(out, "ws_other") {
		t.Errorf("got %q, want the host in its new workspace", out)
	}
}

func TestMintPrintsTheTokenAlone(t *testing.T) {
	p := new(controlPlane).start(t)
	x := sit(t, p)
	r := x.run("token", "mint", "--ttl", "7d", "--max-uses", "20", "--ephemeral", "36h", "--host-label", "env=prod,role=web")
	if r.out != "lbt_tok_1\n" {
		t.Errorf("standard output is %q, want the token alone", r.out)
	}
	for _, want := range []string{"only time", "20 hosts", "curl -fsSL https://cp.example.com/install.sh | sh", "loopback host watch"} {
		if !strings.Contains(r.err, want) {
			t.Errorf("standard error is %q, want %q in it", r.err, want)
		}
	}
	q := p.lastMint
	if q.Ttl.AsDuration().Hours() != 168 || q.EphemeralTtl.AsDuration().Hours() != 36 || q.HostLabels["role"] != "web" || q.MaxUses != 20 {
		t.Errorf("asked for %v", q)
	}
	if r := x.run("token", "mint", "--honeytoken"); !strings.Contains(r.err, "enrols nobody") {
		t.Errorf("of a honeytoken it says %q", r.err)
	}
	var minted struct{ Secret, InstallCommand string }
	if err := json.Unmarshal([]byte(x.ok("token", "mint", "-o", "json")), &minted); err != nil || minted.Secret != "lbt_tok_3" || minted.InstallCommand == "" {
		t.Errorf("JSON has %+v (%v)", minted, err)
	}
	if out := x.ok("token", "rotate", "tok_1", "--overlap", "1h"); out != "lbt_tok_4\n" {
		t.Errorf("rotate prints %q, want the successor alone", out)
	}
	if out := x.ok("token", "revoke", "tok_1", "--reason", "leaked"); !strings.Contains(out, "revoked") {
		t.Errorf("revoke prints %q", out)
	}
	if out := x.ok("token", "list", "--state", "revoked"); strings.Count(out, "\n") != 2 || !strings.Contains(out, "tok_1") {
		t.Errorf("list prints %q, want the revoked token alone", out)
	}
}

func TestSettingsAndPolicyChangeOnlyWhatIsNamed(t *testing.T) {
	p := new(controlPlane).start(t)
	x := sit(t, p)
	x.ok("settings", "set", "--heartbeat-max", "30s", "--module", "lbfw")
	x.ok("settings", "set", "--log-level", "debug")
	if s := p.settings; s.HeartbeatMax.AsDuration().Seconds() != 30 || s.LogLevel != "debug" || len(s.GetModules().GetNames()) != 1 || s.HeartbeatMin != nil {
		t.Errorf("settings are %v, want both changes and no other", s)
	}
	x.ok("settings", "set", "--module", "", "--unset", "log-level")
	if s := p.settings; s.LogLevel != "" || s.Modules == nil || len(s.Modules.Names) != 0 {
		t.Errorf("settings are %v, want no module and the log level from above", s)
	}
	x.ok("workspace", "create", "prod", "--token-ttl", "2h", "--require-approval")
	x.ok("workspace", "update", "prod", "--token-max-ttl", "7d")
	x.ok("workspace", "update", "prod", "--token-ttl", "0", "--require-approval=false", "--description", "shop")
	w := p.tree[0]
	if w.TokenPolicy.MaxTtl.AsDuration().Hours() != 168 || w.TokenPolicy.DefaultTtl != nil || w.TokenPolicy.RequireApproval || w.Description != "shop" {
		t.Errorf("the workspace is %v, want both changes and no other", w)
	}
}

func TestDeleting(t *testing.T) {
	p := new(controlPlane).start(t)
	x := sit(t, p)
	for _, noun := range []string{"org", "project", "workspace"} {
		for format, want := range map[string]string{"table": "", "json": "{}\n", "yaml": "{}\n"} {
			x.ok(noun, "create", "gone")
			if r := x.run(noun, "delete", "gone", "-o", format); r.code != 0 || r.out != want || !strings.Contains(r.err, "deleted") {
				t.Errorf("%s delete -o %s: got %+v, want %q", noun, format, r, want)
			}
		}
		x.fails(5, "gone", "", noun, "delete", "gone")
	}
}

func TestRestartingAModule(t *testing.T) {
	p := new(controlPlane).start(t)
	x := sit(t, p)
	p.put(&pb.Host{Name: "web-1", State: "managed", Modules: []*pb.ModuleHealth{{Module: "settings", Healthy: true}, {Module: "mesh"}, {Module: "me\x1bsh"}}})
	if out := x.ok("host", "restart-module", "web-1", "settings", "--reason", "it is stuck"); !strings.Contains(out, "succeeded") {
		t.Errorf("it says %q", out)
	}
	x.fails(5, "no module", "it has settings", "host", "restart-module", "web-1", "none")
	x.fails(2, "MODULE is missing", "--help", "host", "restart-module", "web-1")
	if out := x.ok("__complete", "host", "restart-module", "web-1", ""); out != "settings\nmesh\n:4\n" {
		t.Errorf("completion offers %q", out)
	}
	p.step = func(o *pb.Operation) {
		o.State, o.Error = "failed", &pb.OperationError{Code: "module_unhealthy", Message: "the module mesh was restarted, and is unhealthy"}
	}
	if r := x.run("host", "restart-module", "web-1", "mesh", "-o", "json"); r.code != 1 || !strings.Contains(r.out, `"module_unhealthy"`) || !strings.Contains(r.err, "is unhealthy") {
		t.Errorf("of one that went wrong: code %d, %q, %q", r.code, r.out, r.err)
	}
}

// Package console tests the web console in a real browser (Debian's Chromium, driven by web/e2e) against a real control
// plane with agents that speak the real protocol.
package console

import (
	"bytes"
	"cmp"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/timestamppb"

	agentfile "github.com/loopbackd/loopback/agent/file"
	pb "github.com/loopbackd/loopback/api/loopback/v1"
	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/file"
	"github.com/loopbackd/loopback/host"
	"github.com/loopbackd/loopback/section"
	"github.com/loopbackd/loopback/test/daemon"
	"github.com/loopbackd/loopback/test/fleet"
	"github.com/loopbackd/loopback/test/idp"
	"github.com/loopbackd/loopback/wire"
)

var web = filepath.Join("..", "..", "web")

// TestConsole runs every test of web/e2e. Where CONSOLE_OUT is set, every page is pictured in every theme and shape, and all go there.
func TestConsole(t *testing.T) {
	if testing.Short() {
		t.Skip("a browser and a control plane are started: not in the quick part")
	}
	node, err := filepath.Abs(filepath.Join(web, "node_modules", ".bin", "node"))
	if err != nil {
		t.Fatal(err)
	}
	for what, path := range map[string]string{"Debian's chromium (make prepare)": "/usr/bin/chromium", "npm packages (make web)": node, "the built console (make web)": filepath.Join(web, "dist", "index.html")} {
		if _, err := os.Stat(path); err != nil {
			t.Fatalf("missing: %s: %v", what, err)
		}
	}
	d, err := daemon.Start(t.Context(), daemon.Options{Dir: t.TempDir(), Host: "localhost"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Kill(); err != nil {
			t.Error(err)
		}
	})
	count := 40
	if n, err := strconv.Atoi(os.Getenv("CONSOLE_HOSTS")); err == nil {
		count = n
	}
	seed(t, d, count)

	key, err := d.APIKeys.CreateApiKey(t.Context(), connect.NewRequest(&pb.CreateApiKeyRequest{Name: "browser", Permissions: []string{"*"}}))
	if err != nil {
		t.Fatal(err)
	}
	reader, err := d.APIKeys.CreateApiKey(t.Context(), connect.NewRequest(&pb.CreateApiKeyRequest{Name: "reader", Permissions: []string{"hosts.read", "workspaces.read"}}))
	if err != nil {
		t.Fatal(err)
	}
	provider := httptest.NewServer(told(idp.Start(t)))
	t.Cleanup(provider.Close)
	out, pictures := os.Getenv("CONSOLE_OUT"), "all"
	if out == "" {
		out, pictures = t.TempDir(), "some"
	}
	ctx, cancel := context.WithTimeout(t.Context(), 25*time.Minute)
	defer cancel()
	program := filepath.Join(t.TempDir(), "loopback")
	build := exec.CommandContext(ctx, "go", "build", "-o", program, "./cmd/loopback")
	build.Dir = daemon.Tree()
	if said, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build loopback: %v: %s", err, said)
	}
	c := exec.CommandContext(ctx, node, "--test", "--test-reporter=spec", "--test-concurrency=1", "e2e/"+cmp.Or(os.Getenv("CONSOLE_TESTS"), "*.test.mjs"))
	c.Dir = web
	c.Env = append(os.Environ(), "CONSOLE_URL="+d.URL, "CONSOLE_KEY="+key.Msg.GetSecret(), "CONSOLE_READER="+reader.Msg.GetSecret(),
		"CONSOLE_HOSTS="+strconv.Itoa(count), "CONSOLE_OUT="+out, "CONSOLE_PICTURES="+pictures, "CONSOLE_CLI="+program, "CONSOLE_CONTROL="+control(t, d), "CONSOLE_RUNNER="+runner(t, d),
		"CONSOLE_IDP="+provider.URL, "CONSOLE_DAEMON="+d.Program(),
		"NODE_EXTRA_CA_CERTS="+filepath.Join(d.DataDir, "keys", "ca.crt"))
	output, err := c.CombinedOutput()
	t.Logf("%s", output)
	if err != nil {
		t.Errorf("the browser's tests: %v", err)
	}
}

// control lets a test of the browser stop the control plane, as a crash would, and start it again: POST /stop, POST /start.
func control(t *testing.T, d *daemon.Daemon) string {
	t.Helper()
	mux := http.NewServeMux()
	does := func(path string, do func() error) {
		mux.HandleFunc("POST "+path, func(w http.ResponseWriter, r *http.Request) {
			if err := do(); err != nil {
				http.Error(w, err.Error(), http.StatusInternalServerError)
			}
		})
	}
	does("/stop", d.Kill)
	does("/start", func() error { return d.Restart(t.Context()) })
	s := httptest.NewServer(mux)
	t.Cleanup(s.Close)
	return s.URL
}

// runner is a key that may run commands, and approve those that others saved, for an hour, as nobody may for good.
func runner(t *testing.T, d *daemon.Daemon) string {
	t.Helper()
	ctx := t.Context()
	account, err := d.Accounts.CreateServiceAccount(ctx, connect.NewRequest(&pb.CreateServiceAccountRequest{Name: "runner"}))
	if err != nil {
		t.Fatal(err)
	}
	role, err := d.Roles.CreateRole(ctx, connect.NewRequest(&pb.CreateRoleRequest{Name: "runs-commands", Permissions: []string{"exec.run", "exec.read", "exec.cancel", "hosts.read", "workspaces.read", "commands.approve", "commands.read"}}))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.Bindings.CreateBinding(ctx, connect.NewRequest(&pb.CreateBindingRequest{ServiceAccount: account.Msg.GetId(), Role: role.Msg.GetId(), NotAfter: timestamppb.New(time.Now().Add(time.Hour))})); err != nil {
		t.Fatal(err)
	}
	key, err := d.APIKeys.CreateApiKey(ctx, connect.NewRequest(&pb.CreateApiKeyRequest{Name: "runner", ServiceAccount: account.Msg.GetId(), Permissions: []string{"*", "exec.run", "commands.approve"}}))
	if err != nil {
		t.Fatal(err)
	}
	return key.Msg.GetSecret()
}

// hostile is text that a machine may put in every field that is its to set.
var hostile = `<img src=x onerror="globalThis.pwned=1"><script>globalThis.pwned=1</script>{{7*7}} ` + "\u202eשלום مرحبا\u202c 🦀👩‍👩‍👧‍👦 " + strings.Repeat("long", 2500)

// told lets the browser's tests tell the identity provider what it does: GET says what it is, POST /return?url=… where its client has
// people sent back to, POST /groups?subject=…&group=… which groups somebody is in.
func told(p *idp.Provider) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /", func(w http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(w).Encode(map[string]string{"issuer": p.Issuer, "ca": p.CA, "clientId": idp.Client, "secret": idp.Secret, "password": idp.Password,
			"subject": idp.Second, "name": idp.SecondName, "mail": idp.SecondMail, "otherName": idp.FirstName})
	})
	mux.HandleFunc("POST /return", func(_ http.ResponseWriter, r *http.Request) { p.Return(r.FormValue("url")) })
	mux.HandleFunc("POST /groups", func(_ http.ResponseWriter, r *http.Request) { p.Group(r.FormValue("subject"), r.Form["group"]...) })
	return mux
}

// seed fills the fleet: agents that are linked, one that waits for approval, one in quarantine, some without an agent.
func seed(t *testing.T, d *daemon.Daemon, count int) {
	t.Helper()
	mint := func(r *pb.MintTokenRequest) string {
		m, err := d.Tokens.MintToken(t.Context(), connect.NewRequest(r))
		if err != nil {
			t.Fatal(err)
		}
		return m.Msg.GetSecret()
	}
	roles := []string{"web", "db", "cache", "worker"}
	secrets := map[string]string{}
	for _, role := range roles {
		secrets[role] = mint(&pb.MintTokenRequest{MaxUses: int32(count), Description: "seed: " + role, HostLabels: map[string]string{"role": role, "env": "prod"}})
	}
	run := func(n int, template func(i int) *fleet.Agent) {
		f := fleet.Run(t.Context(), n, 64, template)
		t.Cleanup(f.Stop)
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
		defer cancel()
		if err := f.Wait(ctx, func(c fleet.Counts) bool { return c.Links >= n }); err != nil {
			t.Fatal(err)
		}
	}
	run(count, func(i int) *fleet.Agent {
		role := roles[i%len(roles)]
		return &fleet.Agent{Dialer: d.Dialer(wire.WebSocket, i), Token: secrets[role], Name: fmt.Sprintf("%s-%d", role, i/len(roles)+1), Patience: 200 * time.Millisecond, Exec: machine(t, i, executor(i))}
	})
	waiting := mint(&pb.MintTokenRequest{RequiresApproval: true, Description: "seed: waits for approval"})
	run(1, func(int) *fleet.Agent {
		return &fleet.Agent{Dialer: d.Dialer(wire.WebSocket, count), Token: waiting, Name: "newcomer", Patience: 200 * time.Millisecond}
	})
	for _, name := range []string{"bare-metal-7", "a-machine-with-a-name-that-is-as-long-as-host-names-may-be-in-dns"[:63]} {
		if _, err := d.Hosts.AddHost(t.Context(), connect.NewRequest(&pb.AddHostRequest{Name: name, Address: "192.0.2.7", Labels: map[string]string{"rack": "b4", "env": "lab"}})); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := d.Hosts.QuarantineHost(t.Context(), connect.NewRequest(&pb.QuarantineHostRequest{Host: "db-2", Reason: "looked at by security: INC-7"})); err != nil {
		t.Fatal(err)
	}
	mint(&pb.MintTokenRequest{Description: "a trap in an old runbook", Honeytoken: true})

	troubled := mint(&pb.MintTokenRequest{MaxUses: 3, Description: "seed: with something to decide"})
	agent := func(i int, name string) *fleet.Agent {
		return &fleet.Agent{Dialer: d.Dialer(wire.WebSocket, count+i), Token: troubled, Name: name, BootID: name + "-boot", Patience: 200 * time.Millisecond}
	}
	original := agent(1, "golden-image")
	run(1, func(int) *fleet.Agent { return original })
	run(1, func(int) *fleet.Agent { return original.Clone("b7f3a1c2-copied") })
	run(1, func(int) *fleet.Agent {
		a := agent(3, "says-too-much")
		a.Version = "0.1.0"
		a.Inventory = &pb.Inventory{HostName: hostile, Os: hostile, OsVersion: hostile, OsName: hostile, Kernel: hostile, Architecture: hostile, CpuModel: hostile, Virtualisation: hostile,
			BootId: a.BootID, MachineId: hostile, AgentVersion: hostile, Cpus: -1, MemoryBytes: -1,
			Disks:     []*pb.Disk{{Mount: hostile, Device: hostile, FileSystem: hostile, SizeBytes: -1}},
			Addresses: []*pb.InterfaceAddress{{Interface: hostile, Mac: hostile, Prefix: hostile}}}
		a.Met = &pb.LinkTrouble{Code: "proxy_auth_required", Message: hostile, Attempts: 1, At: timestamppb.New(time.Now().Add(-time.Hour))}
		a.Apply = func(s section.Section) section.Status {
			return section.Status{Name: s.Name, Revision: s.Revision, State: section.Failed, Message: hostile}
		}
		return a
	})
	run(1, func(int) *fleet.Agent {
		a := agent(2, "behind-a-proxy")
		a.Met = &pb.LinkTrouble{Code: "proxy_auth_required", Message: "the proxy proxy.example.com:3128 wants a user and password", Attempts: 12, At: timestamppb.New(time.Now().Add(-time.Hour))}
		return a
	})
}

// machine is one that also tells of itself, and restarts modules, as an agent does; one in ten cannot.
func machine(t *testing.T, i int, run func(context.Context, fleet.Order)) func(context.Context, fleet.Order) {
	t.Helper()
	l := agentfile.NewLauncher(agentfile.Options{Now: time.Now, Notes: t.TempDir(), Bundle: func(context.Context) ([]byte, error) {
		if i%10 == 3 {
			return nil, fault.New(fault.Exhausted, "disk_full", "the host's disk has no room for it").WithHint("make room there, begin anew")
		}
		return bytes.Repeat([]byte("a bundle"), 100<<10), nil
	}})
	t.Cleanup(l.Close)
	return func(ctx context.Context, o fleet.Order) {
		if o.GetModule() != nil {
			how := host.Restart{State: section.Applied, Revision: "1.1", Healthy: i%10 != 3, Health: "it has no peer"}
			result, _ := json.Marshal(how) // plain fields
			for _, r := range []*pb.OrderReport{{State: "begun"}, {State: "ended", Result: result}} {
				_ = o.Report(ctx, r) // a link that ended has no use for it
			}
			return
		}
		var task file.Task
		if o.GetFile() == nil || json.Unmarshal(o.GetFile().GetTask(), &task) != nil {
			run(ctx, o)
			return
		}
		l.Order(agentfile.Order{ID: o.GetId(), NotAfter: o.GetNotAfter().AsTime(), Task: task, Dial: o.Dial}, func(why *fault.Error) {
			_ = o.Report(ctx, &pb.OrderReport{State: "refused", Message: why.Message, Detail: &pb.ErrorDetail{Code: why.Code, Hint: why.Hint}}) // a link that ended has no use for it
		})
	}
}

// executor is what a machine of the seed does with a command: one in ten fails, one in ten never ends.
func executor(i int) func(context.Context, fleet.Order) {
	switch i % 10 {
	case 3:
		return fleet.Say("df: /var/lib/shop: Input/output error\n", 1)
	case 7:
		return fleet.Hang
	}
	return fleet.Say("Filesystem      Size  Used Avail Use% Mounted on\n/dev/vda1        40G   31G  6.9G  82% /\n", 0)
}

// firstLoad is what may come before the first page is seen, packed.
const firstLoad = 150_000

func TestTheFirstLoadStaysSmall(t *testing.T) {
	dist := filepath.Join(web, "dist")
	page, err := os.ReadFile(filepath.Join(dist, "index.html"))
	if err != nil {
		t.Fatalf("missing: the built console (make web): %v", err)
	}
	total := 0
	for _, found := range regexp.MustCompile(`(?:src|href)="(/assets/[^"]+)"`).FindAllStringSubmatch(string(page), -1) {
		text, err := os.ReadFile(filepath.Join(dist, found[1]))
		if err != nil {
			t.Fatal(err)
		}
		var b bytes.Buffer
		z, err := gzip.NewWriterLevel(&b, gzip.BestCompression)
		if err != nil {
			t.Fatal(err)
		}
		_, err = z.Write(text)
		if err = errors.Join(err, z.Close()); err != nil {
			t.Fatal(err)
		}
		t.Logf("%s: %d bytes packed", found[1], b.Len())
		total += b.Len()
	}
	if total == 0 || total > firstLoad {
		t.Errorf("the first load is %d bytes packed, want 1 to %d", total, firstLoad)
	}
}

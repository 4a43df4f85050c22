// Package console tests the web console in a real browser (Debian's Chromium, driven by web/e2e) against a real control
// plane with agents that speak the real protocol.
package console

import (
	"bytes"
	"cmp"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/loopbackd/loopback/api/loopback/v1"
	"github.com/loopbackd/loopback/test/daemon"
	"github.com/loopbackd/loopback/test/fleet"
	"github.com/loopbackd/loopback/wire"
)

var web = filepath.Join("..", "..", "web")

// TestConsole runs every test of web/e2e. Pictures go to CONSOLE_OUT, where it is set.
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
	out := os.Getenv("CONSOLE_OUT")
	if out == "" {
		out = t.TempDir()
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
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
		"CONSOLE_HOSTS="+strconv.Itoa(count), "CONSOLE_OUT="+out, "CONSOLE_CLI="+program,
		"NODE_EXTRA_CA_CERTS="+filepath.Join(d.DataDir, "keys", "ca.crt"))
	output, err := c.CombinedOutput()
	t.Logf("%s", output)
	if err != nil {
		t.Errorf("the browser's tests: %v", err)
	}
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
		return &fleet.Agent{Dialer: d.Dialer(wire.WebSocket, i), Token: secrets[role], Name: fmt.Sprintf("%s-%d", role, i/len(roles)+1), Patience: 200 * time.Millisecond}
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

	troubled := mint(&pb.MintTokenRequest{MaxUses: 2, Description: "seed: with something to decide"})
	agent := func(i int, name string) *fleet.Agent {
		return &fleet.Agent{Dialer: d.Dialer(wire.WebSocket, count+i), Token: troubled, Name: name, BootID: name + "-boot", Patience: 200 * time.Millisecond}
	}
	original := agent(1, "golden-image")
	run(1, func(int) *fleet.Agent { return original })
	run(1, func(int) *fleet.Agent { return original.Clone("b7f3a1c2-copied") })
	run(1, func(int) *fleet.Agent {
		a := agent(2, "behind-a-proxy")
		a.Met = &pb.LinkTrouble{Code: "proxy_auth_required", Message: "the proxy proxy.example.com:3128 wants a user and password", Attempts: 12, At: timestamppb.New(time.Now().Add(-time.Hour))}
		return a
	})
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

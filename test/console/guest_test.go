package console

import (
	"cmp"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/loopbackd/loopback/api/loopback/v1"
	"github.com/loopbackd/loopback/test/daemon"
	"github.com/loopbackd/loopback/test/fleet"
	"github.com/loopbackd/loopback/test/terminal"
	"github.com/loopbackd/loopback/wire"
)

// TestGuestOfAShell has somebody invited to a shell who looks on in a browser of their own, without an account.
func TestGuestOfAShell(t *testing.T) {
	if testing.Short() {
		t.Skip("two browsers and a control plane are started: not in the quick part")
	}
	node, err := filepath.Abs(filepath.Join(web, "node_modules", ".bin", "node"))
	if err != nil {
		t.Fatal(err)
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
	m := &terminal.Machine{Dir: t.TempDir()}
	t.Cleanup(m.Close)
	token := must(d.Tokens.MintToken(t.Context(), connect.NewRequest(&pb.MintTokenRequest{})))(t).GetSecret()
	f := fleet.Run(t.Context(), 1, 1, func(int) *fleet.Agent {
		return &fleet.Agent{Dialer: d.Dialer(wire.WebSocket, 0), Token: token, Name: "db-7", Patience: 200 * time.Millisecond, Shell: m.Begin}
	})
	t.Cleanup(f.Stop)
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	if err := f.Wait(ctx, func(c fleet.Counts) bool { return c.Linked >= 1 }); err != nil {
		t.Fatal(err)
	}
	host := f.Agents[0].HostID()
	for tick := time.Tick(20 * time.Millisecond); must(d.Hosts.GetHost(ctx, connect.NewRequest(&pb.GetHostRequest{Host: host})))(t).GetState() != "managed"; <-tick {
	}
	account := must(d.Accounts.CreateServiceAccount(ctx, connect.NewRequest(&pb.CreateServiceAccountRequest{Name: "ada"})))(t).GetId()
	role := must(d.Roles.CreateRole(ctx, connect.NewRequest(&pb.CreateRoleRequest{Name: "debugger", Permissions: []string{"shell_sessions.open", "hosts.read"}})))(t).GetId()
	must(d.Bindings.CreateBinding(ctx, connect.NewRequest(&pb.CreateBindingRequest{ServiceAccount: account, Role: role, NotAfter: timestamppb.New(time.Now().Add(time.Hour))})))(t)
	ada := must(d.APIKeys.CreateApiKey(ctx, connect.NewRequest(&pb.CreateApiKeyRequest{Name: "ada", ServiceAccount: account, Permissions: []string{"*", "shell_sessions.open"}})))(t).GetSecret()
	session := must(d.As(ada).Shells.OpenShell(ctx, connect.NewRequest(&pb.OpenShellRequest{Host: host, Reason: "replication is stuck"})))(t).GetId()
	y := terminal.New(terminal.Way{URL: d.URL, TLS: d.Dialer(wire.WebSocket, 0).TLS, Key: ada}, session, "own")
	stay, leave := context.WithCancel(ctx)
	left := make(chan error, 1)
	go func() { left <- y.Keep(stay) }()
	t.Cleanup(func() { leave(); <-left })
	if err := y.Await(ctx, "is recorded"); err != nil {
		t.Fatal(err)
	}
	key := must(d.APIKeys.CreateApiKey(ctx, connect.NewRequest(&pb.CreateApiKeyRequest{Name: "browser", Permissions: []string{"*"}})))(t).GetSecret()
	c := exec.CommandContext(ctx, node, "e2e/guest.mjs")
	c.Dir = web
	c.Env = append(os.Environ(), "CONSOLE_URL="+d.URL, "CONSOLE_KEY="+key, "CONSOLE_SESSION="+session, "CONSOLE_OUT="+cmp.Or(os.Getenv("CONSOLE_OUT"), t.TempDir()))
	output, err := c.CombinedOutput()
	t.Logf("%s", output)
	if err != nil {
		t.Errorf("the browsers' test: %v", err)
	}
}

// must is an answer that there has to be.
func must[T any](r *connect.Response[T], err error) func(t *testing.T) *T {
	return func(t *testing.T) *T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return r.Msg
	}
}

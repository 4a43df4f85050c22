package file

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/timestamppb"

	agentfile "github.com/loopbackd/loopback/agent/file"
	pb "github.com/loopbackd/loopback/api/loopback/v1"
	"github.com/loopbackd/loopback/cli"
	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/file"
	"github.com/loopbackd/loopback/host"
	"github.com/loopbackd/loopback/stream"
	"github.com/loopbackd/loopback/test/daemon"
	"github.com/loopbackd/loopback/test/fleet"
	"github.com/loopbackd/loopback/wire"
)

var program string // loopbackd, built once

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "loopback-file-*")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	if program, err = daemon.Build(context.Background(), dir); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

func must[T any](r *connect.Response[T], err error) *T {
	if err != nil {
		panic(err)
	}
	return r.Msg
}

// machine carries files as an agent does.
type machine struct {
	t     *testing.T
	allow host.Ceiling
	notes string

	mu       sync.Mutex
	launcher *agentfile.Launcher
	held     chan struct{} // closes once the next attempt has come half way, and is held there
}

func (m *machine) start() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.launcher = agentfile.NewLauncher(agentfile.Options{Allow: m.allow, Now: time.Now, Notes: m.notes, Bundle: func(context.Context) ([]byte, error) { return []byte("a bundle"), nil }})
}

func (m *machine) kill() {
	m.mu.Lock()
	l := m.launcher
	m.mu.Unlock()
	l.Close()
	m.start()
}

// hold has the next attempt stop half way.
func (m *machine) hold() <-chan struct{} {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.held = make(chan struct{})
	return m.held
}

func (m *machine) order(ctx context.Context, o fleet.Order) {
	var task file.Task
	if err := json.Unmarshal(o.GetFile().GetTask(), &task); err != nil {
		m.t.Error(err)
	}
	m.mu.Lock()
	l, held := m.launcher, m.held
	m.held = nil
	m.mu.Unlock()
	dial := o.Dial
	if held != nil {
		dial = func(ctx context.Context) (stream.Conn, error) {
			c, err := o.Dial(ctx)
			return &stopping{Conn: c, held: held}, err
		}
	}
	l.Order(agentfile.Order{ID: o.GetId(), NotAfter: o.GetNotAfter().AsTime(), Task: task, Dial: dial}, func(why *fault.Error) {
		_ = o.Report(ctx, &pb.OrderReport{State: "refused", Message: why.Message, Detail: &pb.ErrorDetail{Code: why.Code, Hint: why.Hint}}) // a link that ended has no use for it
	})
}

// stopping is a connection that brings nothing any more after a while, and takes nothing.
type stopping struct {
	stream.Conn
	mu   sync.Mutex
	n    int
	held chan struct{}
}

func (s *stopping) step(ctx context.Context) {
	s.mu.Lock()
	s.n++
	n := s.n
	s.mu.Unlock()
	if n == 60 {
		close(s.held)
	}
	if n >= 60 {
		<-ctx.Done()
	}
}

func (s *stopping) Receive(ctx context.Context) ([]byte, error) {
	b, err := s.Conn.Receive(ctx)
	if err == nil {
		s.step(ctx)
	}
	return b, err
}

func (s *stopping) Send(ctx context.Context, m []byte) error {
	s.step(ctx)
	return s.Conn.Send(ctx, m)
}

// bed is a control plane with two hosts, of which the second allows nothing, and somebody who may move files for an hour.
type bed struct {
	*daemon.Daemon
	hosts   [2]*machine
	key     string
	binding string
	ca      string
}

func start(t *testing.T) *bed {
	t.Helper()
	if testing.Short() {
		t.Skip("loopbackd is started as a process of its own: not in the quick part")
	}
	dir := t.TempDir()
	d, err := daemon.Start(t.Context(), daemon.Options{Program: program, Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	b := &bed{Daemon: d}
	t.Cleanup(func() {
		if err := d.Kill(); err != nil {
			t.Error(err)
		}
		if log, err := d.Log(); t.Failed() && err == nil {
			t.Logf("end of the control plane's log: %s", log[max(0, len(log)-4000):])
		}
	})
	b.ca = filepath.Join(d.DataDir, "keys", "ca.crt")
	ctx := t.Context()
	account := must(d.Accounts.CreateServiceAccount(ctx, connect.NewRequest(&pb.CreateServiceAccountRequest{Name: "mover"})))
	must(d.Bindings.CreateBinding(ctx, connect.NewRequest(&pb.CreateBindingRequest{ServiceAccount: account.Id, Role: "member"})))
	role := must(d.Roles.CreateRole(ctx, connect.NewRequest(&pb.CreateRoleRequest{Name: "files", Permissions: []string{"file.put", "file.get", "file.read", "file.cancel", "hosts.read", "hosts.diagnose"}})))
	b.binding = must(d.Bindings.CreateBinding(ctx, connect.NewRequest(&pb.CreateBindingRequest{ServiceAccount: account.Id, Role: role.Id, NotAfter: timestamppb.New(time.Now().Add(time.Hour))}))).Id
	b.key = must(d.APIKeys.CreateApiKey(ctx, connect.NewRequest(&pb.CreateApiKeyRequest{Name: "mover", ServiceAccount: account.Id, Permissions: []string{"*", "file.put", "file.get"}}))).Secret
	minted, err := d.Mint(ctx, 2)
	if err != nil {
		t.Fatal(err)
	}
	f := fleet.Run(ctx, 2, 2, func(i int) *fleet.Agent {
		m := &machine{t: t, allow: host.Ceiling{Files: i == 0}, notes: t.TempDir()}
		m.start()
		b.hosts[i] = m
		return &fleet.Agent{Dialer: d.Dialer(wire.WebSocket, i), Token: minted.GetSecret(), Patience: 200 * time.Millisecond, Exec: m.order, Ceiling: &pb.Ceiling{Files: i == 0}}
	})
	t.Cleanup(func() {
		f.Stop()
		for _, m := range b.hosts {
			m.launcher.Close()
		}
	})
	waiting, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	if err := f.Wait(waiting, func(c fleet.Counts) bool { return c.Linked == 2 }); err != nil {
		t.Fatal(err)
	}
	return b
}

// loopback is the command line.
func (b *bed) loopback(t *testing.T, args ...string) (code int, out, said string) {
	t.Helper()
	var stdout, stderr bytes.Buffer
	env := map[string]string{"LOOPBACK_URL": b.URL, "LOOPBACK_API_KEY": b.key, "LOOPBACK_CA_FILE": b.ca, "LOOPBACK_WORKSPACE": "default", "XDG_CONFIG_HOME": t.TempDir()}
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	code = cli.Run(ctx, args, cli.Environment{In: strings.NewReader(""), Out: &stdout, Err: &stderr, Getenv: func(k string) string { return env[k] }, Version: "0.0.0"})
	return code, stdout.String(), stderr.String()
}

func contents(n int) []byte {
	b := make([]byte, n)
	r := rand.NewChaCha8([32]byte{1})
	_, _ = r.Read(b)
	return b
}

func TestFiles(t *testing.T) {
	b := start(t)
	local, remote := t.TempDir(), t.TempDir()
	large := contents(16 << 20)
	from := filepath.Join(local, "large")
	if err := os.WriteFile(from, large, 0o640); err != nil {
		t.Fatal(err)
	}
	same := func(t *testing.T, path string) {
		t.Helper()
		if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, large) {
			t.Errorf("%s holds %d bytes that are not those, %v", path, len(got), err)
		}
	}
	alone := func(t *testing.T, dir string, want int) {
		t.Helper()
		if entries, err := os.ReadDir(dir); err != nil || len(entries) != want {
			t.Errorf("%s holds %v, %v; wanted %d", dir, entries, err, want)
		}
	}
	t.Run("there and back, in the audit log", func(t *testing.T) {
		to := filepath.Join(remote, "f")
		code, out, said := b.loopback(t, "file", "put", "--reason", "a test", "-o", "json", from, "host-00000:"+to)
		var m struct{ ID, State, Sha256 string }
		if err := json.Unmarshal([]byte(out), &m); err != nil || code != 0 || m.State != "succeeded" {
			t.Fatalf("%d, %s, %s", code, out, said)
		}
		same(t, to)
		back := filepath.Join(local, "back")
		if code, out, said := b.loopback(t, "file", "get", "--reason", "a test", "host-00000:"+to, back); code != 0 {
			t.Fatalf("%d, %s, %s", code, out, said)
		}
		same(t, back)
		alone(t, remote, 1)
		alone(t, local, 2)
		for action, want := range map[string]string{"file.put": m.Sha256, "file.end": `string_value:"succeeded"`} {
			entries, err := b.Entries(t.Context(), action, m.ID)
			if err != nil || len(entries) != 1 || entries[0].GetReason() != "a test" || !strings.Contains(strings.ReplaceAll(entries[0].String(), `\"`, `"`), want) {
				t.Errorf("%s: got %v, %v; wanted one with %s", action, entries, err, want)
			}
		}
		// Of size 0, and what the kernel writes as it is read.
		if code, _, said := b.loopback(t, "file", "get", "--reason", "a test", "host-00000:/proc/self/status", back); code != 0 {
			t.Errorf("%d, %s", code, said)
		}
		if got, err := os.ReadFile(back); err != nil || !strings.HasPrefix(string(got), "Name:") {
			t.Errorf("got %q, %v", got, err)
		}
	})
	t.Run("who may not, who says no why, and a host that allows none", func(t *testing.T) {
		to := "host-00000:" + filepath.Join(remote, "no")
		if code, _, said := b.loopback(t, "file", "put", from, to); code != 2 || !strings.Contains(said, "reason") {
			t.Errorf("without a reason: %d, %s", code, said)
		}
		if code, _, said := b.loopback(t, "file", "put", "--reason", "a test", from, "host-00001:"+filepath.Join(remote, "no")); code != 6 || !strings.Contains(said, "files: true") {
			t.Errorf("where none are allowed: %d, %s", code, said)
		}
		holder := b.key
		b.key = b.Key // the administrator's holds no tier 0
		code, _, said := b.loopback(t, "file", "put", "--reason", "a test", from, to)
		b.key = holder
		if code != 4 {
			t.Errorf("without the permission: %d, %s", code, said)
		}
		if code, _, said := b.loopback(t, "file", "put", "--reason", "a test", from, "host-00000:/nowhere/f"); code != 5 {
			t.Errorf("where there is no folder: %d, %s", code, said)
		}
		alone(t, remote, 1)
	})
	t.Run("a diagnosis", func(t *testing.T) {
		to := filepath.Join(t.TempDir(), "bundle")
		if code, _, said := b.loopback(t, "host", "diagnose", "host-00001", "-o", to); code != 0 {
			t.Fatalf("%d, %s", code, said)
		}
		if got, err := os.ReadFile(to); err != nil || string(got) != "a bundle" {
			t.Errorf("got %q, %v", got, err)
		}
	})
	for name, cut := range map[string]func(t *testing.T){
		"the agent is killed": func(*testing.T) { b.hosts[0].kill() },
		"the control plane is killed": func(t *testing.T) {
			if err := b.Kill(); err != nil {
				t.Fatal(err)
			}
			if err := b.Restart(t.Context()); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			for _, verb := range []string{"put", "get"} {
				held := b.hosts[0].hold()
				done := make(chan string, 1)
				dir := t.TempDir()
				to := filepath.Join(dir, "f")
				go func() {
					words := []string{"file", "put", "--reason", "a test", from, "host-00000:" + to}
					if verb == "get" {
						words = []string{"file", "get", "--reason", "a test", "host-00000:" + from, to}
					}
					code, out, said := b.loopback(t, words...)
					done <- fmt.Sprint(code, out, said)
				}()
				select {
				case <-held:
				case said := <-done:
					t.Fatalf("%s ended before it was half way: %s", verb, said)
				}
				cut(t)
				if said := <-done; !strings.HasPrefix(said, "0") {
					t.Errorf("%s: %s", verb, said)
				}
				same(t, to)
				alone(t, dir, 1)
			}
		})
	}
	t.Run("the right ends on the way", func(t *testing.T) {
		held := b.hosts[0].hold()
		done := make(chan string, 1)
		dir := t.TempDir()
		go func() {
			code, out, said := b.loopback(t, "file", "put", "--reason", "a test", from, "host-00000:"+filepath.Join(dir, "f"))
			done <- fmt.Sprint(code, out, said)
		}()
		<-held
		must(b.Bindings.DeleteBinding(t.Context(), connect.NewRequest(&pb.DeleteBindingRequest{Binding: b.binding})))
		if said := <-done; !strings.HasPrefix(said, "4") {
			t.Errorf("got %s", said)
		}
		// What has come is removed by a host that hears of it. This one is held, and may not have.
		if _, err := os.Stat(filepath.Join(dir, "f")); err == nil {
			t.Error("the file is in its place")
		}
	})
}

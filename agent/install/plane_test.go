package install

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"encoding/pem"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	agentlink "github.com/loopbackd/loopback/agent/link"

	"github.com/loopbackd/loopback/access"
	"github.com/loopbackd/loopback/agent/config"
	"github.com/loopbackd/loopback/agent/state"
	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/release"
	"github.com/loopbackd/loopback/release/publish"
	server "github.com/loopbackd/loopback/server/release"
	"github.com/loopbackd/loopback/server/storage"
	"github.com/loopbackd/loopback/token"
	"github.com/loopbackd/loopback/trust"
)

// plane serves a real repository of releases over TLS; Alter may change what is answered.
type plane struct {
	t       testing.TB
	dir     string
	service *server.Service
	keys    *publish.Keys
	http    *httptest.Server
	now     atomic.Pointer[time.Time]
	alter   atomic.Pointer[func(path string, file []byte) []byte] // nil: 404
	gets    atomic.Int32
}

func newPlane(t testing.TB) *plane {
	t.Helper()
	p := &plane{t: t, dir: t.TempDir()}
	p.setNow(time.Now())
	db, err := storage.Open(t.Context(), storage.Options{URL: "sqlite:" + filepath.Join(p.dir, "db")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	blobs, err := server.NewFolder(filepath.Join(p.dir, "repository"))
	if err != nil {
		t.Fatal(err)
	}
	_, snapshot, _ := ed25519.GenerateKey(nil)
	_, timestamp, _ := ed25519.GenerateKey(nil)
	p.service, err = server.New(t.Context(), server.Options{
		Blobs: blobs, Store: storage.Bind[server.Reader, server.Tx](db), SnapshotKey: snapshot, TimestampKey: timestamp,
		Clock: p.clock, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	if p.keys, err = publish.Create(filepath.Join(p.dir, "keys"), 1, 1); err != nil {
		t.Fatal(err)
	}
	p.keys = p.keys.WithClock(p.clock)
	p.http = httptest.NewTLSServer(http.HandlerFunc(p.answer))
	t.Cleanup(p.http.Close)
	return p
}

func (p *plane) clock() time.Time    { return *p.now.Load() }
func (p *plane) setNow(at time.Time) { p.now.Store(&at) }

func (p *plane) answer(w http.ResponseWriter, r *http.Request) {
	p.gets.Add(1)
	alter := p.alter.Load()
	if alter == nil {
		p.service.ServeHTTP(w, r)
		return
	}
	true := httptest.NewRecorder()
	p.service.ServeHTTP(true, r)
	var file []byte
	if true.Code == http.StatusOK {
		file = true.Body.Bytes()
	}
	if file = (*alter)(strings.TrimPrefix(r.URL.Path, "/dl/metadata/"), file); file == nil {
		http.NotFound(w, r)
		return
	}
	_, _ = w.Write(file)
}

// between lets f stand between the host and the control plane.
func (p *plane) between(f func(name string, file []byte) []byte) { p.alter.Store(&f) }

func (p *plane) Metadata(ctx context.Context) (publish.Metadata, error) {
	files, snapshot, timestamp, err := p.service.Metadata(ctx)
	return publish.Metadata{Files: files, SnapshotKey: snapshot, TimestampKey: timestamp}, err
}

func (p *plane) Upload(ctx context.Context, sum string, length, offset int64, data []byte) (int64, bool, error) {
	return p.service.Upload(ctx, server.Part{SHA256: sum, Length: length, Offset: offset, Data: data})
}

func (p *plane) Publish(ctx context.Context, roots [][]byte, targets []byte) ([]release.Release, error) {
	return p.service.Publish(ctx, roots, targets)
}

// publish publishes this test's own program as a version of the agent, and others beside it.
func (p *plane) publish(version, channel string, others ...string) {
	p.t.Helper()
	program, err := os.Executable()
	if err != nil {
		p.t.Fatal(err)
	}
	artefacts := []publish.Artefact{{File: program, Name: release.Agent, Version: version, OS: runtime.GOOS, Architecture: runtime.GOARCH, Channel: channel}}
	for _, other := range others {
		file := filepath.Join(p.t.TempDir(), "other")
		if err := os.WriteFile(file, []byte(other), 0o600); err != nil {
			p.t.Fatal(err)
		}
		artefacts = append(artefacts, publish.Artefact{File: file, Name: release.Agent, Version: other, OS: runtime.GOOS, Architecture: runtime.GOARCH, Channel: channel})
	}
	if _, err := p.keys.Publish(asPublisher(p.t.Context()), p, artefacts, nil); err != nil {
		p.t.Fatal("publish: ", err)
	}
}

func asPublisher(ctx context.Context) context.Context {
	return access.WithActor(ctx, access.Actor{Kind: access.System, ID: "test", Name: "test"})
}

// machine is a folder with the tree of a machine, and an installer for it.
type machine struct {
	t         testing.TB
	plane     *plane
	layout    Layout
	out       bytes.Buffer
	installer *Installer
	systemd   *recordingSystemd
	enrolled  int
	refuse    error // of the next enrolment
	standing  Standing
	options   Options
	secret    token.Secret
}

// recordingSystemd is a systemd that only remembers what it was told; the real one is in the tests on machines.
type recordingSystemd struct {
	running, on bool
	calls       []string
	failStart   error
}

func (s *recordingSystemd) say(what string)                              { s.calls = append(s.calls, what) }
func (s *recordingSystemd) check(context.Context) error                  { return nil }
func (s *recordingSystemd) active(context.Context, string) (bool, error) { return s.running, nil }
func (s *recordingSystemd) reload(context.Context) error                 { s.say("reload"); return nil }
func (s *recordingSystemd) disable(context.Context, string) error        { s.on = false; return nil }

func (s *recordingSystemd) enable(context.Context, string) (bool, error) {
	changed := !s.on
	s.on = true
	return changed, nil
}

func (s *recordingSystemd) restart(context.Context, string) error {
	s.say("restart")
	s.running = s.failStart == nil
	return s.failStart
}

func (s *recordingSystemd) stop(context.Context, string) error {
	if s.running {
		s.say("stop")
	}
	s.running = false
	return nil
}

func newMachine(t testing.TB, p *plane) *machine {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("missing feature: root, to own what is installed")
	}
	m := &machine{t: t, plane: p, layout: Layout{Root: t.TempDir()}, systemd: &recordingSystemd{}, standing: Standing{Managed: true, State: "managed", Linked: true}}
	if err := os.MkdirAll(m.layout.at("/etc/systemd/system"), 0o755); err != nil {
		t.Fatal(err)
	}
	m.installer = &Installer{
		open: func(c config.Config, outer *tls.Config, endpoint string) Opener {
			return agentlink.Open(c, outer, endpoint)
		},
		layout: m.layout, systemd: m.systemd, getenv: func(string) string { return "" }, out: &m.out, clock: p.clock,
		status: func(context.Context, string) (Standing, error) { return m.standing, nil },
		enrol: func(_ context.Context, e Enrolment) (state.Identity, error) {
			if m.refuse != nil {
				return state.Identity{}, m.refuse
			}
			_, key, err := ed25519.GenerateKey(nil)
			if err != nil {
				return state.Identity{}, err
			}
			m.enrolled++
			i := state.Identity{HostID: "hst_1", HostName: e.Name, Generation: 1, Key: key}
			return i, e.Store.PutIdentity(i)
		},
	}
	m.secret = token.NewSecret("tok_00000000000000000000000000", trust.AnchorHash{1, 2})
	brought := filepath.Join(m.layout.Root, "brought")
	if err := os.MkdirAll(brought, 0o700); err != nil {
		t.Fatal(err)
	}
	write := func(name string, b []byte) string {
		path := filepath.Join(brought, name)
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	m.options = Options{
		Endpoint: p.http.URL, CAFile: write("ca.pem", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: p.http.Certificate().Raw})),
		TrustRoot: write("root.json", p.service.Root()), TokenFile: write("token", []byte(m.secret.Reveal()+"\n")), Name: "web-1", Wait: time.Second, LockWait: time.Second,
	}
	return m
}

// install runs an installation with changed options.
func (m *machine) install(change ...func(*Options)) (Result, error) {
	m.t.Helper()
	o := m.options
	for _, c := range change {
		c(&o)
	}
	m.out.Reset()
	m.systemd.calls = nil
	return m.installer.Install(m.t.Context(), o)
}

func (m *machine) mustInstall(change ...func(*Options)) Result {
	m.t.Helper()
	r, err := m.install(change...)
	if err != nil {
		m.t.Fatalf("install: %v (hint: %s)\n%s", err, fault.Of(err).Hint, m.out.String())
	}
	return r
}

// tree lists what is on the machine, besides what was brought.
func (m *machine) tree() string {
	var out strings.Builder
	err := filepath.WalkDir(m.layout.Root, func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(m.layout.Root, path)
		if strings.HasPrefix(rel, "brought") {
			return err
		}
		info, ierr := d.Info()
		if err := errors.Join(err, ierr); err != nil {
			return err
		}
		out.WriteString(rel + " " + info.Mode().String())
		if target, err := os.Readlink(path); err == nil {
			out.WriteString(" -> " + target)
		}
		out.WriteString("\n")
		return nil
	})
	if err != nil {
		m.t.Fatal(err)
	}
	return out.String()
}

func code(err error) string {
	if err == nil {
		return ""
	}
	return fault.Of(err).Code
}

package install

import (
	"bytes"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/loopbackd/loopback/release"
	"github.com/loopbackd/loopback/release/publish"
	server "github.com/loopbackd/loopback/server/release"
)

// seen records every file that is asked for, as the control plane serves it now.
func seen(m *machine) map[string][]byte {
	m.t.Helper()
	files := map[string][]byte{}
	m.plane.between(func(name string, file []byte) []byte {
		if file != nil {
			files[name] = file
		}
		return file
	})
	defer m.plane.alter.Store(nil)
	fresh := newMachine(m.t, m.plane)
	fresh.mustInstall()
	return files
}

// role is "targets.json" of "17.targets.json".
func role(name string) string {
	_, rest, found := strings.Cut(name, ".")
	if found && strings.Contains(rest, ".") {
		return rest
	}
	return name
}

func TestAlteredMetadataIsRefused(t *testing.T) {
	_, m := published(t)
	for _, which := range []string{"timestamp.json", "snapshot.json", "targets.json"} {
		for name, alter := range map[string]func([]byte) []byte{
			"a version":     func(b []byte) []byte { return bytes.Replace(b, []byte(`"version":`), []byte(`"version":1`), 1) },
			"the expiry":    func(b []byte) []byte { return bytes.Replace(b, []byte(`"expires":"2`), []byte(`"expires":"3`), 1) },
			"the signature": func(b []byte) []byte { return bytes.Replace(b, []byte(`"sig":"`), []byte(`"sig":"00`), 1) },
			"no signature":  func(b []byte) []byte { return bytes.Replace(b, []byte(`"sig":"`), []byte(`"sig":"","x":"`), 1) },
			"cut short":     func(b []byte) []byte { return b[:len(b)/2] },
			"empty":         func([]byte) []byte { return []byte{} },
			"not JSON":      func([]byte) []byte { return []byte("<html>sign in</html>") },
			"null":          func([]byte) []byte { return []byte(`{"signed":null,"signatures":null}`) },
			"nulls": func([]byte) []byte {
				return []byte(`{"signed":{"_type":"targets","targets":{"a":null}},"signatures":[]}`)
			},
			"nested":       func([]byte) []byte { return bytes.Repeat([]byte(`{"a":`), 3000) },
			"another role": func([]byte) []byte { return m.plane.service.Root() },
		} {
			m.plane.between(func(file string, b []byte) []byte {
				if role(file) == which {
					return alter(b)
				}
				return b
			})
			// One that is longer than the file before it says is not even read to its end.
			if _, err := m.install(); code(err) != "release_unverified" && code(err) != "release_oversized" {
				t.Errorf("%s of %s: got %v, wanted release_unverified", name, which, err)
			}
		}
	}
	if m.enrolled != 0 || len(m.systemd.calls) != 0 {
		t.Errorf("enrolled %d times, systemd told %v; wanted nothing done", m.enrolled, m.systemd.calls)
	}
	if _, err := os.Stat(m.layout.Base()); err == nil {
		t.Errorf("something was staged:\n%s", m.tree())
	}
	m.plane.alter.Store(nil)
	m.mustInstall()
}

func TestAnotherPublishersRepositoryIsRefused(t *testing.T) {
	_, m := published(t)
	evil := newPlane(t)
	evil.publish("6.6.6", release.Stable)
	their := newMachine(t, evil)
	files := seen(their)
	m.plane.between(func(name string, _ []byte) []byte { return files[name] })
	if _, err := m.install(); code(err) != "release_unverified" {
		t.Errorf("all of it: got %v, wanted release_unverified", err)
	}
	m.plane.between(func(name string, b []byte) []byte {
		if name == "2.root.json" {
			return evil.service.Root()
		}
		return b
	})
	if _, err := m.install(); code(err) != "release_unverified" && code(err) != "release_rollback" {
		t.Errorf("only a new root: got %v, wanted it refused", err)
	}
}

func TestOlderMetadataThanSeenIsRefused(t *testing.T) {
	p, m := published(t)
	old := seen(m)
	p.setNow(p.clock().Add(time.Hour))
	p.publish("1.0.0", release.Stable, "1.1.0")
	m.mustInstall()
	for name, replayed := range map[string]func(string) bool{
		"everything":           func(string) bool { return true },
		"the timestamp":        func(f string) bool { return f == "timestamp.json" },
		"all but the root":     func(f string) bool { return role(f) != "root.json" },
		"targets and snapshot": func(f string) bool { return role(f) == "targets.json" || role(f) == "snapshot.json" },
	} {
		byRole := map[string][]byte{}
		for f, b := range old {
			byRole[role(f)] = b
		}
		m.plane.between(func(f string, b []byte) []byte {
			if b != nil && replayed(f) && role(f) != "root.json" {
				return byRole[role(f)]
			}
			return b
		})
		_, err := m.install()
		// Old targets and snapshot are not asked for: the host has newer ones, which the timestamp confirms.
		if want := "release_rollback"; name == "targets and snapshot" && err != nil || name != "targets and snapshot" && code(err) != want {
			t.Errorf("%s: got %v, wanted %s", name, err, want)
		}
	}
}

func TestMetadataOfTwoPublicationsMixedIsRefused(t *testing.T) {
	p, m := published(t)
	old := seen(m)
	p.setNow(p.clock().Add(time.Hour))
	p.publish("1.0.0", release.Stable, "1.1.0")
	byRole := map[string][]byte{}
	for f, b := range old {
		byRole[role(f)] = b
	}
	for _, which := range []string{"snapshot.json", "targets.json"} {
		m.plane.between(func(f string, b []byte) []byte {
			if role(f) == which {
				return byRole[which]
			}
			return b
		})
		if _, err := m.install(); code(err) != "release_unverified" && code(err) != "release_rollback" {
			t.Errorf("the old %s among the new: got %v, wanted it refused", which, err)
		}
	}
	m.plane.alter.Store(nil)
	m.mustInstall()
}

func TestExpiredMetadataKeepsNewThingsOutAndOldThingsRunning(t *testing.T) {
	p, m := published(t)
	frozen := maps.Clone(seen(m))
	m.mustInstall()
	fresh := newMachine(t, p)
	for _, age := range []time.Duration{server.TimestampLifetime + time.Hour, 365 * 24 * time.Hour, publish.RootLifetime + time.Hour} {
		p.setNow(time.Now().Add(age))
		p.between(func(name string, _ []byte) []byte { return frozen[name] })
		fresh.options.TokenFile = m.options.TokenFile
		fresh.installer.clock, m.installer.clock = p.clock, p.clock
		// The test server's certificate is good for decades; only metadata ages.
		if _, err := fresh.install(); code(err) != "release_metadata_expired" || len(fresh.systemd.calls) > 0 {
			t.Errorf("after %s, a new host: got %v, wanted release_metadata_expired", age, err)
		}
		m.systemd.running = false
		if _, err := m.install(); err != nil || !m.systemd.running || !strings.Contains(m.out.String(), "expired") {
			t.Errorf("after %s, the installed program again: got %v and %q; wanted it started, with a warning", age, err, m.out.String())
		}
	}
}

func TestEndlessMetadataIsBounded(t *testing.T) {
	_, m := published(t)
	// In the order in which they are fetched: what was verified before a later one was refused is kept, and not fetched again.
	for _, file := range []struct {
		name  string
		limit int
	}{{"root.json", maxRoot}, {"timestamp.json", maxTimestamp}, {"snapshot.json", maxSnapshot}, {"targets.json", maxTargets}} {
		which, limit := file.name, file.limit
		m.plane.between(func(name string, b []byte) []byte {
			if role(name) == which {
				return append(bytes.Clone(b), bytes.Repeat([]byte(" "), 3*limit)...)
			}
			return b
		})
		if _, err := m.install(); code(err) != "release_oversized" {
			t.Errorf("%s: got %v, wanted release_oversized", which, err)
		}
	}
	many := m.plane.gets.Load()
	m.plane.between(func(name string, b []byte) []byte {
		if role(name) == "root.json" {
			return m.plane.service.Root() // a root for every version that is asked for
		}
		return b
	})
	if _, err := m.install(); err == nil {
		t.Error("roots without end: installed")
	}
	if n := m.plane.gets.Load() - many; n > 10 {
		t.Errorf("roots without end: asked %d times", n)
	}
}

func TestOnlyTheProgramThatWasMeantIsInstalled(t *testing.T) {
	p := newPlane(t)
	m := newMachine(t, p)
	m.options.TrustRoot = filepath.Join(t.TempDir(), "none")
	if _, err := m.install(); code(err) != "release_root_missing" {
		t.Errorf("nothing published: got %v, wanted release_root_missing", err)
	}
	p.publishOthers(t, "2.0.0")
	m = newMachine(t, p)
	if _, err := m.install(); code(err) != "release_unknown" {
		t.Errorf("a program that nobody published: got %v, wanted release_unknown", err)
	}
	p.publish("1.0.0", release.Preview)
	m = newMachine(t, p)
	for name, c := range map[string]struct {
		change func(*Options)
		want   string
	}{
		"another version": {func(o *Options) { o.Version = "2.0.0" }, "release_mismatch"},
		"another channel": {func(o *Options) { o.Channel = release.Stable }, "release_mismatch"},
	} {
		if _, err := m.install(c.change); code(err) != c.want {
			t.Errorf("%s: got %v, wanted %s", name, err, c.want)
		}
	}
	if err := os.MkdirAll(m.layout.version("1.0.1-00000000"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("versions/1.0.1-00000000", m.layout.Current()); err != nil {
		t.Fatal(err)
	}
	if _, err := m.install(); code(err) != "release_downgrade" {
		t.Errorf("older than what runs: got %v, wanted release_downgrade", err)
	}
	if r := m.mustInstall(func(o *Options) { o.AllowDowngrade = true }); r.Version != "1.0.0" {
		t.Errorf("on purpose: got %+v", r)
	}
}

// publishOthers publishes programs that are not this one.
func (p *plane) publishOthers(t *testing.T, version string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "other")
	if err := os.WriteFile(file, []byte("other"), 0o600); err != nil {
		t.Fatal(err)
	}
	a := publish.Artefact{File: file, Name: release.Agent, Version: version, OS: "linux", Architecture: "amd64", Channel: release.Stable}
	if _, err := p.keys.Publish(asPublisher(t.Context()), p, []publish.Artefact{a}, nil); err != nil {
		t.Fatal(err)
	}
}

func TestADamagedCacheIsMended(t *testing.T) {
	_, m := published(t)
	m.mustInstall()
	for _, name := range metadataFiles {
		path := filepath.Join(m.layout.Metadata(), name)
		want, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, damage := range [][]byte{nil, want[:len(want)/2], bytes.Repeat([]byte{0}, len(want))} {
			if err := os.WriteFile(path, damage, 0o600); err != nil {
				t.Fatal(err)
			}
			m.mustInstall()
			if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, want) {
				t.Errorf("%s damaged: got %d bytes, %v; wanted it mended", name, len(got), err)
			}
		}
	}
}

func TestANewRootIsFollowedAndKept(t *testing.T) {
	p, m := published(t)
	m.mustInstall()
	p.setNow(p.clock().Add(publish.RootLifetime - 24*time.Hour)) // due: the next publication brings a root
	p.publish("1.0.0", release.Stable, "1.0.1")
	m.mustInstall(func(o *Options) { o.TrustRoot = "" })
	kept, err := os.ReadFile(filepath.Join(m.layout.Metadata(), "root.json"))
	if err != nil || !bytes.Equal(kept, p.service.Root()) || bytes.Contains(kept, []byte(`"version":1}`)) {
		t.Errorf("kept %d bytes, %v; wanted the second root", len(kept), err)
	}
}

// Whatever stands between answers, nothing is installed by it and the refusal has a code.
func FuzzMetadata(f *testing.F) {
	if os.Geteuid() != 0 {
		f.Skip("missing feature: root")
	}
	p := newPlane(f)
	p.publish("1.0.0", release.Stable)
	f.Add(uint8(0), []byte(`{"signed":{"_type":"timestamp","meta":{"snapshot.json":{}}},"signatures":[{"keyid":"x","sig":"00"}]}`))
	f.Add(uint8(3), []byte(`{"signed":{"_type":"root","roles":{"root":{"keyids":["a"],"threshold":1}},"keys":{"a":{"keytype":"ed25519","scheme":"ed25519","keyval":{"public":"00"}}},"version":2},"signatures":[{"keyid":"a","sig":"00"}]}`))
	m := newMachine(f, p)
	m.options.Anchor, m.options.DryRun = m.secret.Anchor, true // remembers nothing
	r := &run{Installer: m.installer, Options: m.options}
	if _, err := r.settle(); err != nil {
		f.Fatal(err)
	}
	r.client = &http.Client{Transport: direct{p}}
	f.Fuzz(func(t *testing.T, which uint8, file []byte) {
		names := []string{"timestamp.json", "snapshot.json", "targets.json", "root.json"}
		p.between(func(name string, b []byte) []byte {
			if role(name) == names[int(which)%len(names)] {
				return file
			}
			return b
		})
		if _, err := r.refresh(t.Context()); !strings.HasPrefix(code(err), "release_") {
			t.Fatalf("got %v, wanted a refusal", err)
		}
	})
}

// direct answers without a network between.
type direct struct{ plane *plane }

func (d direct) RoundTrip(r *http.Request) (*http.Response, error) {
	w := httptest.NewRecorder()
	d.plane.answer(w, r)
	return w.Result(), nil
}

package install

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/loopbackd/loopback/agent/config"
	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/release"
	"github.com/loopbackd/loopback/release/mirror"
)

// mirrored is a copy of what the control plane serves, which from then on serves nothing itself.
func mirrored(t *testing.T, p *plane) (dir string) {
	t.Helper()
	dir = t.TempDir()
	if _, err := mirror.Copy(t.Context(), dir, mirror.Options{URL: p.http.URL + "/dl", Client: p.http.Client(), Root: p.service.Root()}); err != nil {
		t.Fatal(err)
	}
	p.between(func(string, []byte) []byte { return nil })
	return dir
}

func TestMirrorIsAsGoodAsTheControlPlane(t *testing.T) {
	p, m := published(t)
	dir := mirrored(t, p)
	files := httptest.NewServer(http.FileServer(http.Dir(dir)))
	defer files.Close()
	if _, err := m.install(); code(err) != "release_not_found" {
		t.Fatalf("without a mirror: got %v; this test proves nothing", err)
	}
	r := m.mustInstall(func(o *Options) { o.Mirror = files.URL + "/" })
	if r.State != "managed" {
		t.Errorf("got %+v, wanted it managed", r)
	}
	if c, err := config.Read(m.layout.Config()); err != nil || c.Mirror != files.URL {
		t.Errorf("settings: got mirror %q, %v, wanted %s for later", c.Mirror, err, files.URL)
	}
	if r := m.mustInstall(); r.Changed {
		t.Errorf("a second run, by the mirror of agent.yaml: got %+v, wanted nothing changed", r)
	}
	for name, c := range map[string]struct {
		code string
		do   func()
		undo func()
	}{
		"expired":    {"release_metadata_expired", func() { p.setNow(time.Now().Add(8 * 24 * time.Hour)) }, func() { p.setNow(time.Now()) }},
		"elsewhere":  {"release_not_found", func() { m.options.Mirror = files.URL + "/nothing" }, func() { m.options.Mirror = "" }},
		"away":       {"connect_refused", func() { m.options.Mirror = "http://127.0.0.1:1" }, func() { m.options.Mirror = "" }},
		"no address": {"config_invalid", func() { m.options.Mirror = "ftp://files" }, func() { m.options.Mirror = "" }},
	} {
		fresh := newMachine(t, p)
		m = fresh
		m.options.Mirror = files.URL
		c.do()
		_, err := m.install()
		if got := code(err); got != c.code && !(c.code == "connect_refused" && got == "connect_failed") {
			t.Errorf("%s: got %v, wanted %s", name, err, c.code)
		}
		if err != nil && fault.Of(err).Hint == "" && c.code != "config_invalid" {
			t.Errorf("%s: %v says not what to do", name, err)
		}
		c.undo()
	}
	// Without a mirror again.
	p.alter.Store(nil)
	back := newMachine(t, p)
	back.mustInstall(func(o *Options) { o.Mirror = files.URL })
	back.mustInstall(func(o *Options) { o.Mirror = "none" })
	if c, err := config.Read(back.layout.Config()); err != nil || c.Mirror != "" {
		t.Errorf("settings after --mirror none: got %q, %v", c.Mirror, err)
	}
}

func TestBundleInstallsWithoutFetching(t *testing.T) {
	p, m := published(t)
	dir := mirrored(t, p)
	asked := p.gets.Load()
	r := m.mustInstall(func(o *Options) { o.Bundle = dir })
	if r.State != "managed" || p.gets.Load() != asked {
		t.Errorf("got %+v, and %d files fetched, wanted it managed and none", r, p.gets.Load()-asked)
	}
	if c, err := config.Read(m.layout.Config()); err != nil || strings.Contains(c.Mirror, dir) {
		t.Errorf("settings: got %+v, %v, wanted the bundle forgotten", c, err)
	}
}

func TestBundleThatIsNotWholeAndFreshIsRefused(t *testing.T) {
	p, m := published(t)
	dir := mirrored(t, p)
	metadata := func(role string) string {
		found, err := filepath.Glob(filepath.Join(dir, "metadata", "*"+role))
		if err != nil || len(found) != 1 {
			t.Fatalf("got %v, %v", found, err)
		}
		return found[0]
	}
	refused := func(name, want string, change func(o *Options)) {
		t.Helper()
		_, err := m.install(func(o *Options) { o.Bundle = dir }, change)
		if code(err) != want || !strings.Contains(fault.Of(err).Hint, "bundle") {
			t.Errorf("%s: got %v (hint: %s), wanted %s and a word about bundles", name, err, fault.Of(err).Hint, want)
		}
		if m.enrolled != 0 {
			t.Fatalf("%s: the host was enrolled", name)
		}
	}
	same := func(*Options) {}
	for _, role := range []string{"timestamp.json", "snapshot.json", "targets.json"} {
		file := metadata(role)
		whole, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Remove(file); err != nil {
			t.Fatal(err)
		}
		refused("without "+role, "bundle_incomplete", same)
		for what, altered := range map[string][]byte{
			"altered": bytes.Replace(whole, []byte(`"expires":"2`), []byte(`"expires":"3`), 1), "cut short": whole[:len(whole)/2], "empty": {},
			"of zeros": make([]byte, len(whole)),
		} {
			if err := os.WriteFile(file, altered, 0o644); err != nil {
				t.Fatal(err)
			}
			refused(role+" "+what, "release_unverified", same)
		}
		if err := os.WriteFile(file, append(whole, make([]byte, 6<<20)...), 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := m.install(func(o *Options) { o.Bundle = dir }); code(err) != "release_oversized" && code(err) != "release_unverified" {
			t.Errorf("%s with more behind it: got %v", role, err)
		}
		if err := os.WriteFile(file, whole, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	refused("another folder", "bundle_incomplete", func(o *Options) { o.Bundle = t.TempDir() })
	p.setNow(time.Now().Add(8 * 24 * time.Hour))
	refused("a week old", "release_metadata_expired", same)
	p.setNow(time.Now())

	// Another publisher's bundle, whole and fresh.
	other := newPlane(t)
	other.publish("1.0.0", release.Stable)
	theirs := mirrored(t, other)
	refused("another publisher's", "release_unverified", func(o *Options) { o.Bundle = theirs })

	// One that does not hold this program.
	p.alter.Store(nil)
	stranger := newPlane(t)
	stranger.publishOthers(t, "7.7.7")
	m2 := newMachine(t, stranger)
	if _, err := m2.install(func(o *Options) { o.Bundle = mirrored(t, stranger) }); code(err) != "release_unknown" || !strings.Contains(fault.Of(err).Hint, "bundle") {
		t.Errorf("of other programs: got %v, wanted release_unknown", err)
	}

	// And one that is older than what the host has seen.
	p.setNow(p.clock().Add(time.Hour))
	p.publish("1.0.0", release.Stable, "1.1.0")
	m.mustInstall()
	if _, err := m.install(func(o *Options) { o.Bundle = dir }); code(err) != "release_rollback" || !strings.Contains(fault.Of(err).Hint, "bundle") {
		t.Errorf("an old one: got %v, wanted release_rollback", err)
	}
}

package mirror_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/loopbackd/loopback/access"
	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/release"
	"github.com/loopbackd/loopback/release/mirror"
	"github.com/loopbackd/loopback/release/publish"
	server "github.com/loopbackd/loopback/server/release"
	"github.com/loopbackd/loopback/server/storage"
)

// plane serves a real repository of releases. alter may change what is answered; nil answers: not found.
type plane struct {
	t       *testing.T
	service *server.Service
	keys    *publish.Keys
	http    *httptest.Server
	now     time.Time
	alter   atomic.Pointer[func(path string, file []byte) []byte]
	targets atomic.Int32 // that were asked for
}

func newPlane(t *testing.T) *plane {
	t.Helper()
	dir := t.TempDir()
	p := &plane{t: t, now: time.Now()}
	db, err := storage.Open(t.Context(), storage.Options{URL: "sqlite:" + filepath.Join(dir, "db")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	blobs, err := server.NewFolder(filepath.Join(dir, "repository"))
	if err != nil {
		t.Fatal(err)
	}
	_, snapshot, _ := ed25519.GenerateKey(nil)
	_, timestamp, _ := ed25519.GenerateKey(nil)
	clock := func() time.Time { return p.now }
	p.service, err = server.New(t.Context(), server.Options{
		Blobs: blobs, Store: storage.Bind[server.Reader, server.Tx](db), SnapshotKey: snapshot, TimestampKey: timestamp,
		Clock: clock, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	if p.keys, err = publish.Create(filepath.Join(dir, "keys"), 1, 1); err != nil {
		t.Fatal(err)
	}
	p.keys = p.keys.WithClock(clock)
	p.http = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/dl/targets/") {
			p.targets.Add(1)
		}
		alter := p.alter.Load()
		if alter == nil {
			p.service.ServeHTTP(w, r)
			return
		}
		real := httptest.NewRecorder()
		p.service.ServeHTTP(real, r)
		file := (*alter)(r.URL.Path, real.Body.Bytes())
		if file == nil || real.Code != http.StatusOK {
			http.NotFound(w, r)
			return
		}
		_, _ = w.Write(file)
	}))
	t.Cleanup(p.http.Close)
	return p
}

func (p *plane) between(f func(path string, file []byte) []byte) {
	if f == nil {
		p.alter.Store(nil)
		return
	}
	p.alter.Store(&f)
}

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

// publish publishes a version for two platforms, each with a deb.
func (p *plane) publish(version string) {
	p.t.Helper()
	var artefacts []publish.Artefact
	for _, arch := range []string{"amd64", "arm64"} {
		for _, format := range []string{release.FormatProgram, release.FormatDeb} {
			file := filepath.Join(p.t.TempDir(), "file")
			if err := os.WriteFile(file, []byte(version+arch+format), 0o600); err != nil {
				p.t.Fatal(err)
			}
			artefacts = append(artefacts, publish.Artefact{File: file, Name: release.Agent, Version: version, OS: "linux", Architecture: arch, Channel: release.Stable, Format: format})
		}
	}
	ctx := access.WithActor(p.t.Context(), access.Actor{Kind: access.System, ID: "test", Name: "test"})
	if _, err := p.keys.Publish(ctx, p, artefacts, nil); err != nil {
		p.t.Fatal("publish: ", err)
	}
}

func (p *plane) options() mirror.Options {
	return mirror.Options{URL: p.http.URL + "/dl", Client: p.http.Client(), Root: p.service.Root(), Plain: true}
}

func files(t *testing.T, dir string) map[string]string {
	t.Helper()
	out := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		rel, _ := filepath.Rel(dir, path)
		out[filepath.ToSlash(rel)] = string(b)
		return err
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	return out
}

func TestMirrorServesWhatTheControlPlaneDoes(t *testing.T) {
	p := newPlane(t)
	p.publish("1.0.0")
	dir := filepath.Join(t.TempDir(), "www")
	copied, err := mirror.Copy(t.Context(), dir, p.options())
	if err != nil {
		t.Fatal(err)
	}
	if copied.Fetched != 4 || len(copied.Targets) != 4 || time.Until(copied.Expires) > 7*24*time.Hour || time.Until(copied.Expires) < 6*24*time.Hour {
		t.Errorf("got %+v, wanted four files and the timestamp's week", copied)
	}
	have := files(t, dir)
	for path, text := range have {
		answer, err := p.http.Client().Get(p.http.URL + "/dl/" + path)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(answer.Body)
		answer.Body.Close()
		if err != nil || answer.StatusCode != http.StatusOK || string(body) != text {
			t.Errorf("%s: the control plane answers %s with %d bytes, %v, the mirror holds %d", path, answer.Status, len(body), err, len(text))
		}
	}
	if len(have) != 8+4 { // each target by two names; root, targets, snapshot, timestamp
		t.Errorf("the mirror holds %d files: %v", len(have), slices.Sorted(maps.Keys(have)))
	}

	p.targets.Store(0)
	if copied, err = mirror.Copy(t.Context(), dir, p.options()); err != nil || copied.Fetched != 0 || p.targets.Load() != 0 {
		t.Errorf("again: got %+v, %v, %d targets asked for, wanted none", copied, err, p.targets.Load())
	}
	p.now = p.now.Add(time.Minute)
	p.publish("1.1.0")
	damaged := filepath.Join(dir, "targets/loopback-agent/1.0.0/linux-amd64/loopback-agent")
	if err := os.WriteFile(damaged, []byte("damaged"), 0o755); err != nil {
		t.Fatal(err)
	}
	if copied, err = mirror.Copy(t.Context(), dir, p.options()); err != nil || copied.Fetched != 5 {
		t.Errorf("after another version: got %+v, %v, wanted its four files and the one that was damaged", copied, err)
	}
	if text, err := os.ReadFile(damaged); err != nil || string(text) != "1.0.0amd64" {
		t.Errorf("the damaged file: got %q, %v, wanted it mended", text, err)
	}
}

// Whatever goes wrong on the way, the mirror says what it said before.
func TestWhatWasAlteredIsNotCopied(t *testing.T) {
	p := newPlane(t)
	p.publish("1.0.0")
	dir := t.TempDir()
	if _, err := mirror.Copy(t.Context(), dir, p.options()); err != nil {
		t.Fatal(err)
	}
	before := files(t, dir)
	p.now = p.now.Add(time.Minute)
	p.publish("1.1.0")
	for name, c := range map[string]struct {
		code  string
		alter func(path string, b []byte) []byte
	}{
		"another program": {"artefact_altered", func(path string, b []byte) []byte {
			if strings.HasSuffix(path, "linux-arm64/loopback-agent") || strings.Contains(path, "linux-arm64") && strings.HasSuffix(path, ".loopback-agent") {
				return bytes.ToUpper(b)
			}
			return b
		}},
		"a longer program": {"artefact_altered", func(path string, b []byte) []byte {
			if strings.HasSuffix(path, ".loopback-agent") {
				return append(b, "more"...)
			}
			return b
		}},
		"no program": {"http_status", func(path string, b []byte) []byte {
			if strings.HasSuffix(path, ".loopback-agent") {
				return nil
			}
			return b
		}},
		"altered targets": {"release_unverified", func(path string, b []byte) []byte {
			if strings.HasSuffix(path, ".targets.json") {
				return bytes.Replace(b, []byte("1.1.0"), []byte("6.6.6"), 1)
			}
			return b
		}},
		"an altered timestamp": {"release_unverified", func(path string, b []byte) []byte {
			if strings.HasSuffix(path, "timestamp.json") {
				return bytes.Replace(b, []byte(`"version":`), []byte(`"version":1`), 1)
			}
			return b
		}},
		"a page of a proxy": {"release_unverified", func(string, []byte) []byte { return []byte("<html>sign in</html>") }},
		"nothing":           {"release_not_found", func(string, []byte) []byte { return nil }},
	} {
		p.between(c.alter)
		_, err := mirror.Copy(t.Context(), dir, p.options())
		if fault.Of(err).Code != c.code || fault.Of(err).Hint == "" {
			t.Errorf("%s: got %v, wanted %s and a hint", name, err, c.code)
		}
		after := files(t, dir)
		for path, text := range before {
			if after[path] != text {
				t.Errorf("%s: %s is another file now", name, path)
			}
		}
		for path, text := range after {
			if strings.Contains(path, ".new-") || strings.Contains(text, "6.6.6") {
				t.Errorf("%s: left %s", name, path)
			}
		}
	}
	p.between(nil)
	if copied, err := mirror.Copy(t.Context(), dir, p.options()); err != nil || len(copied.Targets) != 8 {
		t.Errorf("afterwards: got %+v, %v, wanted all of it", copied, err)
	}
	other := newPlane(t)
	other.publish("1.0.0")
	o := p.options()
	o.Root = other.service.Root()
	if _, err := mirror.Copy(t.Context(), dir, o); fault.Of(err).Code != "release_unverified" {
		t.Errorf("by another publisher's root: got %v, wanted release_unverified", err)
	}
}

func TestExpiredMetadataIsNotCopied(t *testing.T) {
	p := newPlane(t)
	p.now = time.Now().Add(-8 * 24 * time.Hour)
	p.publish("1.0.0")
	dir := t.TempDir()
	if _, err := mirror.Copy(t.Context(), dir, p.options()); fault.Of(err).Code != "release_metadata_expired" {
		t.Errorf("got %v, wanted release_metadata_expired", err)
	}
	if left := files(t, dir); len(left) != 0 {
		t.Errorf("left %v", left)
	}
}

func TestBundleIsOneFileWithAllThatIsNeeded(t *testing.T) {
	p := newPlane(t)
	p.publish("1.0.0")
	p.now = p.now.Add(time.Minute)
	p.publish("1.1.0")
	o := p.options()
	o.Plain = false
	o.Pick = func(all []release.Target) ([]release.Target, error) {
		return release.Resolve(all, release.Agent, "", ""), nil
	}
	script := func(version string) ([]byte, error) {
		text := "#!/bin/sh\n# " + version + "\n"
		for _, arch := range []string{"amd64", "arm64"} {
			text += fmt.Sprintf("%x\n", sha256.Sum256([]byte(version+arch)))
		}
		return []byte(text), nil
	}
	var first, second bytes.Buffer
	copied, err := mirror.Bundle(t.Context(), &first, o, script)
	if err != nil || len(copied.Targets) != 2 {
		t.Fatalf("got %+v, %v, wanted two programs", copied, err)
	}
	if _, err := mirror.Bundle(t.Context(), &second, o, script); err != nil || !bytes.Equal(first.Bytes(), second.Bytes()) {
		t.Errorf("the same bundle again: %v, the same bytes %v", err, bytes.Equal(first.Bytes(), second.Bytes()))
	}
	plain, err := gzip.NewReader(&first)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for archive := tar.NewReader(plain); ; {
		h, err := archive.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if rest, ok := strings.CutPrefix(h.Name, "loopback-1.1.0/"); ok {
			names = append(names, rest)
		} else {
			t.Errorf("%s is outside of the bundle's folder", h.Name)
		}
	}
	for _, want := range []string{"install.sh", "README.txt", "metadata/timestamp.json", "metadata/1.root.json"} {
		if !slices.Contains(names, want) {
			t.Errorf("the bundle holds %v, and not %s", names, want)
		}
	}
	if len(names) != 2+4+2 {
		t.Errorf("the bundle holds %v, wanted script, read-me, four files of metadata and two programs", names)
	}

	if _, err := mirror.Bundle(t.Context(), io.Discard, o, func(string) ([]byte, error) { return []byte("#!/bin/sh\n"), nil }); fault.Of(err).Code != "bundle_mixed" {
		t.Errorf("with the script of another version: got %v, wanted bundle_mixed", err)
	}
	o.Pick = func([]release.Target) ([]release.Target, error) { return nil, nil }
	if _, err := mirror.Bundle(t.Context(), io.Discard, o, script); fault.Of(err).Code != "release_not_found" {
		t.Errorf("of nothing: got %v, wanted release_not_found", err)
	}
}

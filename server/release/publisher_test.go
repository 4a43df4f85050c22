package release_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/release"
	"github.com/loopbackd/loopback/release/publish"
	"github.com/theupdateframework/go-tuf/v2/metadata"
)

func (b *bench) useKeys(rootKeys, threshold int) string {
	b.t.Helper()
	dir := filepath.Join(b.t.TempDir(), "keys")
	keys, err := publish.Create(dir, rootKeys, threshold)
	if err != nil {
		b.t.Fatal(err)
	}
	b.keys = keys.WithClock(b.options.Clock)
	return dir
}

func (b *bench) root(version string) *metadata.Metadata[metadata.RootType] {
	b.t.Helper()
	_, file, _ := b.get("/dl/metadata/" + version + ".root.json")
	root, err := metadata.Root().FromBytes(file)
	if err != nil {
		b.t.Fatal(err)
	}
	return root
}

func TestTwoOfThreeRootKeysSignAndThenGoAway(t *testing.T) {
	b := newBench(t)
	dir := b.useKeys(3, 2)
	away := t.TempDir()
	move := func(from, to, name string) {
		t.Helper()
		if err := os.Rename(filepath.Join(from, name), filepath.Join(to, name)); err != nil {
			t.Fatal(err)
		}
	}
	move(dir, away, "root-2.key")
	move(dir, away, "root-3.key")
	a := b.artefact("1.0.0", release.Stable, "amd64", []byte("agent"))
	if _, err := b.publish(a); code(err) != "publisher_root_keys_missing" {
		t.Errorf("one of three keys: got %v, wanted publisher_root_keys_missing", err)
	}
	move(away, dir, "root-3.key")
	b.mustPublish(a)
	if r := b.root("1"); r.Signed.Roles["root"].Threshold != 2 || len(r.Signed.Roles["root"].KeyIDs) != 3 || len(r.Signatures) != 2 {
		t.Errorf("root: got %+v with %d signatures, wanted 2 of 3", r.Signed.Roles["root"], len(r.Signatures))
	}
	move(dir, away, "root-1.key")
	move(dir, away, "root-3.key")
	b.mustPublish(b.artefact("1.1.0", release.Stable, "amd64", []byte("newer"))) // everyday work needs no root key
	b.options.TimestampKey = newKey()
	b.restart()
	if _, err := b.publish(); code(err) != "publisher_root_keys_missing" {
		t.Errorf("another timestamp key: got %v, wanted publisher_root_keys_missing", err)
	}
	move(away, dir, "root-1.key")
	move(away, dir, "root-2.key")
	b.mustPublish()
	if r := b.root("2"); len(r.Signatures) != 2 {
		t.Errorf("second root: got %d signatures, wanted 2", len(r.Signatures))
	}
}

func TestRootAndTargetsAreRenewedBeforeTheyExpire(t *testing.T) {
	b := newBench(t)
	b.mustPublish(b.artefact("1.0.0", release.Stable, "amd64", []byte("agent")))
	b.now = b.now.Add(publish.TargetsLifetime/2 + time.Hour)
	b.mustPublish()
	if status, _, _ := b.get("/dl/metadata/2.targets.json"); status != 200 {
		t.Errorf("targets past half of their life: got %d, wanted them signed again", status)
	}
	if status, _, _ := b.get("/dl/metadata/2.root.json"); status != 404 {
		t.Errorf("a young root: got %d, wanted none newer", status)
	}
	b.now = b.now.Add(publish.RootLifetime*9/10 - publish.TargetsLifetime/2)
	b.mustPublish()
	if status, _, _ := b.get("/dl/metadata/2.root.json"); status != 200 {
		t.Errorf("an old root: got %d, wanted it signed again", status)
	}
}

func TestPublishersFolder(t *testing.T) {
	for _, c := range [][2]int{{0, 0}, {1, 0}, {1, 2}, {17, 1}, {-1, -1}} {
		if _, err := publish.Create(t.TempDir(), c[0], c[1]); code(err) != "publisher_threshold_invalid" {
			t.Errorf("%d of %d: got %v, wanted publisher_threshold_invalid", c[1], c[0], err)
		}
	}
	b := newBench(t)
	dir := b.useKeys(1, 1)
	if _, err := publish.Create(dir, 1, 1); code(err) != "publisher_keys_exist" {
		t.Errorf("made twice: got %v, wanted publisher_keys_exist", err)
	}
	if _, err := publish.Open(t.TempDir()); code(err) != "publisher_keys_missing" {
		t.Errorf("an empty folder: got %v, wanted publisher_keys_missing", err)
	}
	if again, err := publish.Open(dir); err != nil {
		t.Fatal(err)
	} else {
		b.keys = again.WithClock(b.options.Clock)
	}
	a := b.artefact("1.0.0", release.Stable, "amd64", []byte("agent"))
	targets := filepath.Join(dir, "targets.key")
	if err := os.Chmod(targets, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := b.publish(a); code(err) != "publisher_key_exposed" {
		t.Errorf("a key for all to read: got %v, wanted publisher_key_exposed", err)
	}
	if err := os.Chmod(targets, 0o600); err != nil {
		t.Fatal(err)
	}
	root, err := os.ReadFile(filepath.Join(dir, "root-1.key"))
	if err != nil {
		t.Fatal(err)
	}
	right, err := os.ReadFile(targets)
	if err != nil {
		t.Fatal(err)
	}
	for _, wrong := range [][]byte{root, []byte("nothing"), nil} {
		if err := os.WriteFile(targets, wrong, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := b.publish(a); code(err) != "publisher_key_wrong" {
			t.Errorf("another key in its place: got %v, wanted publisher_key_wrong", err)
		}
	}
	if err := os.WriteFile(targets, right, 0o600); err != nil {
		t.Fatal(err)
	}
	b.mustPublish(a)
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if info, err := e.Info(); err != nil || info.Mode().Perm() != 0o600 || strings.HasPrefix(e.Name(), ".new-") {
			t.Errorf("%s: got mode %v, %v", e.Name(), info.Mode(), err)
		}
	}
	strangers := newBench(t) // another folder of keys for the same control plane
	strangers.service = b.service
	if _, err := strangers.publish(a); code(err) != "publisher_unknown" {
		t.Errorf("another publisher: got %v, wanted publisher_unknown", err)
	}
}

func TestWrongArtefactsAreNamed(t *testing.T) {
	b := newBench(t)
	good := b.artefact("1.0.0", release.Stable, "amd64", []byte("agent"))
	for name, change := range map[string]func(*publish.Artefact){
		"version": func(a *publish.Artefact) { a.Version = "v1" }, "name": func(a *publish.Artefact) { a.Name = "../agent" },
		"channel": func(a *publish.Artefact) { a.Channel = "nightly" }, "platform": func(a *publish.Artefact) { a.OS = "" },
	} {
		bad := good
		change(&bad)
		if _, err := b.publish(bad); code(err) != "artefact_invalid" || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: got %v, wanted artefact_invalid", name, err)
		}
	}
	empty := b.artefact("1.0.0", release.Stable, "amd64", nil)
	if _, err := b.publish(empty); code(err) != "artefact_invalid" {
		t.Errorf("an empty file: got %v, wanted artefact_invalid", err)
	}
	good.File += "-missing"
	if _, err := b.publish(good); code(err) != "artefact_unreadable" {
		t.Errorf("a missing file: got %v, wanted artefact_unreadable", err)
	}
}

// liar is a control plane that shows a publisher other metadata than it has.
type liar struct {
	direct
	show      func(files map[string][]byte)
	published []byte
}

func (l *liar) Metadata(ctx context.Context) (publish.Metadata, error) {
	m, err := l.direct.Metadata(ctx)
	l.show(m.Files)
	return m, err
}

func (l *liar) Publish(_ context.Context, _ [][]byte, targets []byte) ([]release.Release, error) {
	l.published = targets
	return nil, errors.New("it got this far")
}

func TestAPublisherBelievesOnlyWhatItsKeysSigned(t *testing.T) {
	b := newBench(t)
	b.mustPublish(b.artefact("1.0.0", release.Stable, "amd64", []byte("agent")))
	other := newBench(t)
	other.mustPublish(other.artefact("6.6.6", release.Stable, "amd64", []byte("evil")))
	_, evilTargets, _ := other.get("/dl/metadata/1.targets.json")
	_, evilRoot, _ := other.get("/dl/metadata/1.root.json")
	a := b.artefact("1.1.0", release.Stable, "amd64", []byte("newer"))
	for name, c := range map[string]struct {
		show func(map[string][]byte)
		want string
	}{
		"another's targets": {func(f map[string][]byte) { f["targets.json"] = evilTargets }, "publisher_targets_refused"},
		"another's root":    {func(f map[string][]byte) { f["1.root.json"] = evilRoot }, "publisher_root_differs"},
		"a second root":     {func(f map[string][]byte) { f["2.root.json"] = evilRoot }, "publisher_root_refused"},
		"targets altered": {func(f map[string][]byte) {
			f["targets.json"] = bytes.Replace(f["targets.json"], []byte("1.0.0"), []byte("9.9.9"), -1)
		}, "publisher_targets_refused"},
		"nonsense": {func(f map[string][]byte) { f["targets.json"] = []byte("null") }, "publisher_targets_refused"},
	} {
		l := &liar{direct: direct{service: b.service}, show: c.show}
		if _, err := b.keys.Publish(publisher(t.Context()), l, []publish.Artefact{a}, nil); code(err) != c.want || l.published != nil {
			t.Errorf("%s: got %v, wanted %s and nothing signed", name, err, c.want)
		}
	}
	b.mustPublish(a)
}

// Whatever a control plane shows, a publisher signs no target that it was not given.
func FuzzPublisher(f *testing.F) {
	b := newBench(f)
	b.mustPublish(b.artefact("1.0.0", release.Stable, "amd64", []byte("agent")))
	_, targets, _ := b.get("/dl/metadata/1.targets.json")
	f.Add("targets.json", targets)
	f.Add("2.root.json", []byte(`{"signed":{"_type":"root","roles":{},"keys":{}},"signatures":[]}`))
	f.Add("targets.json", []byte(`{"signed":{"_type":"targets","targets":{"a":{"custom":1}}},"signatures":[{}]}`))
	f.Fuzz(func(t *testing.T, name string, file []byte) {
		l := &liar{direct: direct{service: b.service}, show: func(files map[string][]byte) { files[name] = file }}
		if _, err := b.keys.Publish(publisher(t.Context()), l, nil, nil); err == nil || fault.KindOf(err) == fault.Internal && l.published == nil {
			t.Fatalf("got %v", err)
		}
		if l.published != nil && !bytes.Equal(l.published, targets) {
			t.Fatalf("signed %s", l.published)
		}
	})
}

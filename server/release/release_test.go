package release_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/loopbackd/loopback/access"
	"github.com/loopbackd/loopback/audit"
	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/release"
	"github.com/loopbackd/loopback/release/publish"
	server "github.com/loopbackd/loopback/server/release"
	"github.com/loopbackd/loopback/server/storage"
	"github.com/loopbackd/loopback/tenant"
	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// catalogue is the real storage, whose next write may fail.
type catalogue struct {
	storage.Store[server.Reader, server.Tx]
	db   *storage.DB
	fail error
}

func newCatalogue(t testing.TB) *catalogue {
	db, err := storage.Open(t.Context(), storage.Options{URL: "sqlite:" + filepath.Join(t.TempDir(), "db")})
	if err != nil {
		t.Fatal("open the database: ", err)
	}
	t.Cleanup(func() { _ = db.Close() })
	return &catalogue{Store: storage.Bind[server.Reader, server.Tx](db), db: db}
}

func (c *catalogue) Write(ctx context.Context, do func(server.Tx) error) error {
	if err := c.fail; err != nil {
		c.fail = nil
		return err
	}
	return c.Store.Write(ctx, do)
}

func (b *bench) rows() []release.Release {
	b.t.Helper()
	rows, _, err := b.catalogue.View().Releases(b.t.Context(), "", "", tenant.Page{})
	if err != nil {
		b.t.Fatal(err)
	}
	return rows
}

func (b *bench) entries() []audit.Entry {
	b.t.Helper()
	entries, err := b.catalogue.db.View().Entries(b.t.Context(), audit.Query{Readable: access.Everywhere(), Action: release.Publish, Limit: 100})
	if err != nil {
		b.t.Fatal(err)
	}
	return entries
}

// bench is a repository with a publisher beside it.
type bench struct {
	t         testing.TB
	dir       string
	options   server.Options
	service   *server.Service
	catalogue *catalogue
	keys      *publish.Keys
	now       time.Time
}

func newBench(t testing.TB) *bench {
	b := &bench{t: t, dir: t.TempDir(), catalogue: newCatalogue(t), now: time.Now()}
	_, snapshot, _ := ed25519.GenerateKey(nil)
	_, timestamp, _ := ed25519.GenerateKey(nil)
	b.options = server.Options{
		Blobs: b.folder(), Store: b.catalogue, SnapshotKey: snapshot, TimestampKey: timestamp,
		Clock: func() time.Time { return b.now }, Logger: slog.New(slog.DiscardHandler),
	}
	b.restart()
	keys, err := publish.Create(filepath.Join(b.dir, "keys"), 1, 1)
	if err != nil {
		t.Fatal(err)
	}
	b.keys = keys.WithClock(b.options.Clock)
	return b
}

func (b *bench) folder() server.Blobs {
	f, err := server.NewFolder(filepath.Join(b.dir, "repository"))
	if err != nil {
		b.t.Fatal(err)
	}
	return f
}

func (b *bench) restart() {
	b.t.Helper()
	s, err := server.New(b.t.Context(), b.options)
	if err != nil {
		b.t.Fatal("open the repository: ", err)
	}
	b.service = s
}

func publisher(ctx context.Context) context.Context {
	return access.WithActor(ctx, access.GrantsAlone(access.Actor{Kind: access.APIKey, ID: "key_1", Grants: []access.Grant{{ID: "key_1", Permissions: []access.Permission{access.All}}}}))
}

// direct is the service without a wire between. A hook may fail an upload before or after it was carried out.
type direct struct {
	service *server.Service
	before  func(offset int64) error
	after   func(offset int64) error
	uploads int
}

func (d *direct) Metadata(ctx context.Context) (publish.Metadata, error) {
	files, snapshot, timestamp, err := d.service.Metadata(ctx)
	return publish.Metadata{Files: files, SnapshotKey: snapshot, TimestampKey: timestamp}, err
}

func (d *direct) Upload(ctx context.Context, sum string, length, offset int64, data []byte) (int64, bool, error) {
	if d.before != nil {
		if err := d.before(offset); err != nil {
			return 0, false, err
		}
	}
	next, complete, err := d.service.Upload(ctx, server.Part{SHA256: sum, Length: length, Offset: offset, Data: data})
	if len(data) > 0 && err == nil {
		d.uploads++
	}
	if d.after != nil && err == nil {
		if err := d.after(offset); err != nil {
			return 0, false, err
		}
	}
	return next, complete, err
}

func (d *direct) Publish(ctx context.Context, roots [][]byte, targets []byte) ([]release.Release, error) {
	return d.service.Publish(ctx, roots, targets)
}

func (b *bench) artefact(version, channel, arch string, contents []byte) publish.Artefact {
	b.t.Helper()
	file := filepath.Join(b.t.TempDir(), "program")
	if err := os.WriteFile(file, contents, 0o600); err != nil {
		b.t.Fatal(err)
	}
	return publish.Artefact{File: file, Name: release.Agent, Version: version, OS: "linux", Architecture: arch, Channel: channel}
}

func (b *bench) publish(artefacts ...publish.Artefact) ([]release.Release, error) {
	return b.keys.Publish(publisher(b.t.Context()), &direct{service: b.service}, artefacts, nil)
}

func (b *bench) mustPublish(artefacts ...publish.Artefact) []release.Release {
	b.t.Helper()
	out, err := b.publish(artefacts...)
	if err != nil {
		b.t.Fatal("publish: ", err)
	}
	return out
}

func code(err error) string {
	if err == nil {
		return ""
	}
	return fault.Of(err).Code
}

func (b *bench) get(path string, header ...string) (int, []byte, http.Header) {
	b.t.Helper()
	r := httptest.NewRequest(http.MethodGet, path, nil)
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	b.service.ServeHTTP(w, r)
	return w.Code, w.Body.Bytes(), w.Header()
}

func TestAPublicationIsServedAndEnteredInTheCatalogue(t *testing.T) {
	b := newBench(t)
	program := bytes.Repeat([]byte("agent "), 600_000) // several parts
	out := b.mustPublish(b.artefact("1.0.0", release.Stable, "amd64", program), b.artefact("1.0.0", release.Stable, "arm64", []byte("arm")))
	if len(out) != 1 || out[0].Name != "loopback-agent 1.0.0" || len(out[0].Targets) != 2 {
		t.Fatalf("released: got %+v, wanted loopback-agent 1.0.0 with two targets", out)
	}
	if len(b.entries()) != 1 || b.entries()[0].Action != release.Publish {
		t.Errorf("audit: got %+v, wanted one entry of releases.publish", b.entries())
	}
	sum := sha256.Sum256(program)
	plain := "/dl/targets/loopback-agent/1.0.0/linux-amd64/loopback-agent"
	hashed := "/dl/targets/loopback-agent/1.0.0/linux-amd64/" + hex.EncodeToString(sum[:]) + ".loopback-agent"
	for _, path := range []string{plain, hashed} {
		if status, body, _ := b.get(path); status != 200 || !bytes.Equal(body, program) {
			t.Errorf("GET %s: got %d with %d bytes, wanted the program", path, status, len(body))
		}
	}
	status, body, _ := b.get(plain, "Range", "bytes=3000000-")
	if status != http.StatusPartialContent || !bytes.Equal(body, program[3000000:]) {
		t.Errorf("range: got %d with %d bytes, wanted the rest from byte 3000000", status, len(body))
	}
	for _, path := range []string{
		"/dl/targets/loopback-agent/1.0.0/linux-amd64/" + strings.Repeat("0", 64) + ".loopback-agent",
		"/dl/targets/artefacts/" + hex.EncodeToString(sum[:]), "/dl/targets/../metadata/1.root.json", "/dl/metadata/../uploads/x",
		"/dl/metadata/2.root.json", "/dl/metadata/keys.json", "/dl/", "/dl/targets/",
	} {
		if status, _, _ := b.get(path); status != http.StatusNotFound {
			t.Errorf("GET %s: got %d, wanted 404", path, status)
		}
	}
	for _, path := range []string{"/dl/metadata/timestamp.json", "/dl/metadata/1.root.json", "/dl/metadata/1.targets.json"} {
		if status, _, _ := b.get(path); status != 200 {
			t.Errorf("GET %s: got %d, wanted 200", path, status)
		}
	}
}

func TestTheSamePublicationTwiceChangesNothing(t *testing.T) {
	b := newBench(t)
	a := b.artefact("1.0.0", release.Stable, "amd64", []byte("agent"))
	b.mustPublish(a)
	_, before, _ := b.get("/dl/metadata/timestamp.json")
	again := b.mustPublish(a)
	_, after, _ := b.get("/dl/metadata/timestamp.json")
	if !bytes.Equal(before, after) || len(b.entries()) != 1 || len(again) != 1 {
		t.Errorf("second time: got %d audit entries, %d releases, timestamp changed %v; wanted 1, 1, false", len(b.entries()), len(again), !bytes.Equal(before, after))
	}
}

func TestWhatIsPublishedNeverBecomesAnotherFile(t *testing.T) {
	b := newBench(t)
	b.mustPublish(b.artefact("1.0.0", release.Stable, "amd64", []byte("agent")))
	if _, err := b.publish(b.artefact("1.0.0", release.Stable, "amd64", []byte("other"))); code(err) != "release_changed" {
		t.Errorf("other bytes: got %v, wanted release_changed", err)
	}
	if _, err := b.publish(b.artefact("1.0.0", release.Preview, "amd64", []byte("agent"))); code(err) != "release_changed" {
		t.Errorf("back to preview: got %v, wanted release_changed", err)
	}
}

func TestAPreviewIsPromotedToStable(t *testing.T) {
	b := newBench(t)
	b.mustPublish(b.artefact("1.0.0", release.Preview, "amd64", []byte("a")), b.artefact("1.0.0", release.Preview, "arm64", []byte("b")))
	if _, err := b.service.Resolve(release.Agent, "", ""); code(err) != "release_not_found" {
		t.Errorf("stable before: got %v, wanted release_not_found", err)
	}
	b.mustPublish(b.artefact("1.0.0", release.Stable, "amd64", []byte("a")), b.artefact("1.0.0", release.Stable, "arm64", []byte("b")))
	if got, err := b.service.Resolve(release.Agent, release.Stable, ""); err != nil || len(got) != 2 {
		t.Errorf("stable after: got %v, %v, wanted two targets", got, err)
	}
	if len(b.rows()) != 1 || b.rows()[0].Channel != release.Stable || len(b.rows()[0].Targets) != 2 {
		t.Errorf("catalogue: got %+v, wanted one stable release of two targets", b.rows())
	}
}

func TestResolveByChannelAndVersion(t *testing.T) {
	b := newBench(t)
	if _, err := b.service.Resolve(release.Agent, "", ""); code(err) != "release_not_found" {
		t.Errorf("nothing published: got %v, wanted release_not_found", err)
	}
	b.mustPublish(
		b.artefact("1.0.0", release.Stable, "amd64", []byte("a")), b.artefact("1.2.0-rc.1", release.Preview, "amd64", []byte("b")),
		b.artefact("1.1.0", release.Stable, "amd64", []byte("c")), b.artefact("1.1.0", release.Stable, "arm64", []byte("d")))
	for _, c := range []struct{ channel, version, want, code string }{
		{"", "", "1.1.0", ""}, {"stable", "", "1.1.0", ""}, {"preview", "", "1.2.0-rc.1", ""}, {"", "1.2.0-rc.1", "1.2.0-rc.1", ""},
		{"preview", "1.0.0", "1.0.0", ""}, {"stable", "1.2.0-rc.1", "", "release_not_found"}, {"", "9.9.9", "", "release_not_found"},
		{"nightly", "", "", "channel_unknown"}, {"", "v1.0.0", "", "version_invalid"}, {"", "$(reboot)", "", "version_invalid"},
	} {
		got, err := b.service.Resolve(release.Agent, c.channel, c.version)
		if code(err) != c.code || err == nil && got[0].Version != c.want {
			t.Errorf("Resolve(%q, %q): got %v, %v; wanted %q, %q", c.channel, c.version, got, err, c.want, c.code)
		}
	}
}

func TestAnUploadGoesOnWhereItStopped(t *testing.T) {
	b := newBench(t)
	program := bytes.Repeat([]byte("0123456789abcdef"), 300_000)
	unavailable := fault.New(fault.Unavailable, "unavailable", "gone")
	seen := map[int64]int{}
	d := &direct{service: b.service,
		before: func(offset int64) error {
			if seen[offset]++; offset > 0 && seen[offset] == 1 {
				return unavailable // the part never arrived
			}
			return nil
		},
		after: func(offset int64) error {
			if seen[offset]++; offset > 0 && seen[offset] == 3 {
				return unavailable // it did, its answer was lost
			}
			return nil
		},
	}
	if _, err := b.keys.Publish(publisher(t.Context()), d, []publish.Artefact{b.artefact("1.0.0", release.Stable, "amd64", program)}, nil); err != nil {
		t.Fatal(err)
	}
	if d.uploads != 5 {
		t.Errorf("parts taken: got %d, wanted 5: none twice", d.uploads)
	}
	if _, body, _ := b.get("/dl/targets/loopback-agent/1.0.0/linux-amd64/loopback-agent"); !bytes.Equal(body, program) {
		t.Errorf("served %d bytes, wanted the program's %d", len(body), len(program))
	}
}

func TestAnUploadSurvivesARestartAndAWrongHashDropsIt(t *testing.T) {
	b := newBench(t)
	ctx := publisher(t.Context())
	data := bytes.Repeat([]byte("x"), 3000)
	sum := sha256.Sum256(data)
	part := func(sum string, from, to int64) (int64, bool, error) {
		return b.service.Upload(ctx, server.Part{SHA256: sum, Length: 3000, Offset: from, Data: data[from:to]})
	}
	good, bad := hex.EncodeToString(sum[:]), strings.Repeat("ab", 32)
	if next, _, err := part(good, 0, 1000); next != 1000 || err != nil {
		t.Fatalf("first part: got %d, %v", next, err)
	}
	b.restart()
	if next, _, err := part(good, 2000, 3000); next != 1000 || err != nil {
		t.Errorf("a part that runs ahead: got %d, %v; wanted 1000", next, err)
	}
	if next, _, err := part(good, 0, 1000); next != 1000 || err != nil {
		t.Errorf("a repeated part: got %d, %v; wanted 1000", next, err)
	}
	if next, complete, err := part(good, 1000, 3000); next != 3000 || !complete || err != nil {
		t.Errorf("the rest: got %d, %v, %v; wanted 3000, complete", next, complete, err)
	}
	if next, complete, err := part(good, 0, 10); next != 3000 || !complete || err != nil {
		t.Errorf("after the end: got %d, %v, %v; wanted 3000, complete", next, complete, err)
	}
	if _, _, err := part(bad, 0, 3000); code(err) != "artefact_corrupt" {
		t.Errorf("wrong hash: got %v, wanted artefact_corrupt", err)
	}
	if next, complete, err := part(bad, 1, 1); next != 0 || complete || err != nil {
		t.Errorf("after a wrong hash: got %d, %v, %v; wanted to start over", next, complete, err)
	}
	for _, p := range []server.Part{
		{SHA256: "../../etc", Length: 1}, {SHA256: good, Length: 0}, {SHA256: good, Length: release.MaxLength + 1},
		{SHA256: good, Length: 10, Offset: 11}, {SHA256: good, Length: 10, Offset: -1}, {SHA256: good, Length: 2, Data: data},
		{SHA256: good, Length: 1 << 28, Data: make([]byte, server.MaxPart+1)}, {SHA256: strings.ToUpper(good), Length: 1},
	} {
		if _, _, err := b.service.Upload(ctx, p); code(err) != "artefact_invalid" {
			t.Errorf("part of %q length %d at %d: got %v, wanted artefact_invalid", p.SHA256, p.Length, p.Offset, err)
		}
	}
}

func TestWhoMayNotPublishCannot(t *testing.T) {
	b := newBench(t)
	reader := access.WithActor(t.Context(), access.GrantsAlone(access.Actor{Kind: access.APIKey, Grants: []access.Grant{{Permissions: []access.Permission{release.Read}}}}))
	workspace := access.WithActor(t.Context(), access.GrantsAlone(access.Actor{Kind: access.APIKey, Grants: []access.Grant{{Permissions: []access.Permission{access.All}, Scope: access.Scope{Organisation: "org_1"}}}}))
	for name, c := range map[string]struct {
		ctx  context.Context
		want string
	}{"nobody": {t.Context(), "not_signed_in"}, "a reader": {reader, "permission_denied"}, "an administrator of one organisation": {workspace, "not_found"}} {
		if _, err := b.service.Publish(c.ctx, nil, []byte("{}")); code(err) != c.want {
			t.Errorf("%s publishes: got %v, wanted %s", name, err, c.want)
		}
		if _, _, err := b.service.Upload(c.ctx, server.Part{}); code(err) != c.want {
			t.Errorf("%s uploads: got %v, wanted %s", name, err, c.want)
		}
	}
	if _, _, err := b.service.List(workspace, "", "", tenant.Page{}); err != nil {
		t.Errorf("a workspace's administrator lists releases: got %v, wanted none", err)
	}
	if _, _, err := b.service.List(t.Context(), "", "", tenant.Page{}); code(err) != "not_signed_in" {
		t.Errorf("nobody lists: got %v, wanted not_signed_in", err)
	}
}

func TestRefusedPublications(t *testing.T) {
	b := newBench(t)
	ctx := publisher(t.Context())
	b.mustPublish(b.artefact("1.0.0", release.Stable, "amd64", []byte("agent")))
	_, stale, _ := b.get("/dl/metadata/1.targets.json")
	b.mustPublish(b.artefact("1.1.0", release.Stable, "amd64", []byte("newer")))

	other := newBench(t) // another publisher altogether
	other.mustPublish(other.artefact("1.0.0", release.Stable, "amd64", []byte("agent")))
	_, foreignTargets, _ := other.get("/dl/metadata/1.targets.json")
	_, foreignRoot, _ := other.get("/dl/metadata/1.root.json")

	for name, c := range map[string]struct {
		roots   [][]byte
		targets []byte
		want    string
	}{
		"older targets":          {nil, stale, "release_targets_stale"},
		"another's targets":      {nil, foreignTargets, "release_targets_refused"},
		"another's root":         {[][]byte{foreignRoot}, foreignTargets, "release_root_refused"},
		"no targets":             {nil, nil, "release_metadata_invalid"},
		"not JSON":               {nil, []byte("\x00"), "release_metadata_refused"},
		"a root as targets":      {nil, foreignRoot, "release_targets_refused"},
		"a million bytes":        {nil, bytes.Repeat([]byte("["), 1_000_000), "release_metadata_refused"},
		"more than hosts accept": {nil, bytes.Repeat([]byte(" "), 5_000_001), "release_metadata_invalid"},
	} {
		if _, err := b.service.Publish(ctx, c.roots, c.targets); code(err) != c.want {
			t.Errorf("%s: got %v, wanted %s", name, err, c.want)
		}
	}
	b.restart()
	if got, err := b.service.Resolve(release.Agent, "", ""); err != nil || got[0].Version != "1.1.0" {
		t.Errorf("afterwards: got %v, %v, wanted 1.1.0 untouched", got, err)
	}
}

func TestTargetsWithoutTheirArtefactAreRefused(t *testing.T) {
	b := newBench(t)
	ctx := publisher(t.Context())
	lying := &lyingService{direct: direct{service: b.service}}
	_, err := b.keys.Publish(ctx, lying, []publish.Artefact{b.artefact("1.0.0", release.Stable, "amd64", []byte("agent"))}, nil)
	if code(err) != "artefact_missing" {
		t.Errorf("got %v, wanted artefact_missing", err)
	}
	if status, _, _ := b.get("/dl/metadata/timestamp.json"); status != http.StatusNotFound {
		t.Errorf("timestamp: got %d, wanted none", status)
	}
	b.mustPublish(b.artefact("1.0.0", release.Stable, "amd64", []byte("agent"))) // the folder's targets 1 are taken up
}

// lyingService says that an artefact arrived without storing it.
type lyingService struct{ direct }

func (l *lyingService) Upload(_ context.Context, _ string, length, _ int64, _ []byte) (int64, bool, error) {
	return length, true, nil
}

func TestACatalogueThatWasNotWrittenIsWrittenAtTheNextStart(t *testing.T) {
	b := newBench(t)
	a := b.artefact("1.0.0", release.Stable, "amd64", []byte("agent"))
	b.catalogue.fail = errors.New("the power went")
	if _, err := b.publish(a); err == nil {
		t.Fatal("published although the catalogue could not be written")
	}
	b.restart()
	if err := b.service.Freshen(t.Context()); err != nil || len(b.rows()) != 1 {
		t.Errorf("after the start: got %d rows, %v; wanted 1", len(b.rows()), err)
	}
	if err := b.service.Freshen(t.Context()); err != nil || len(b.entries()) != 1 {
		t.Errorf("after another start: got %d audit entries, %v; wanted 1", len(b.entries()), err)
	}
}

// failing is Blobs whose n-th write fails, and all after it: a crash.
type failing struct {
	server.Blobs
	left int
}

var errCrash = errors.New("crash")

// Switch is Put after Put, as a folder does it.
func (f *failing) Switch(ctx context.Context, _ string, values []server.Value) error {
	for _, v := range values {
		if err := f.Put(ctx, v.Key, bytes.NewReader(v.Data), int64(len(v.Data))); err != nil {
			return err
		}
	}
	return nil
}

func (f *failing) Put(ctx context.Context, key string, r io.Reader, size int64) error {
	if f.left--; f.left < 0 {
		return errCrash
	}
	return f.Blobs.Put(ctx, key, r, size)
}

func TestACrashAtEveryWriteOfAPublicationIsHealedByRepeatingIt(t *testing.T) {
	for first := range 12 {
		b := newBench(t)
		b.mustPublish(b.artefact("1.0.0", release.Stable, "amd64", []byte("agent")))
		b.options.SnapshotKey = newKey() // so that the second publication brings a root, too
		a := b.artefact("1.1.0", release.Stable, "amd64", []byte("newer"))
		real := b.options.Blobs
		b.options.Blobs = &failing{real, first}
		b.restart()
		_, err := b.publish(a)
		b.options.Blobs = real
		b.restart()
		if got, err := b.service.Resolve(release.Agent, "", "1.0.0"); err != nil || len(got) != 1 {
			t.Fatalf("crash at write %d: 1.0.0 is gone: %v", first, err)
		}
		b.mustPublish(a)
		if got, rerr := b.service.Resolve(release.Agent, "", ""); rerr != nil || got[0].Version != "1.1.0" {
			t.Fatalf("crash at write %d: got %v, %v; wanted 1.1.0", first, got, rerr)
		}
		if err == nil {
			if first < 4 {
				t.Errorf("only %d writes failed, wanted every one of root, targets, snapshot, timestamp and artefact", first)
			}
			return
		}
		if !errors.Is(err, errCrash) {
			t.Fatalf("crash at write %d: got %v", first, err)
		}
	}
	t.Error("never came through")
}

func newKey() ed25519.PrivateKey {
	_, k, _ := ed25519.GenerateKey(nil)
	return k
}

func TestSignaturesAreRenewedLongBeforeTheyExpire(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.options.Clock = time.Now
		b.restart()
		b.keys = b.keys.WithClock(time.Now)
		b.mustPublish(b.artefact("1.0.0", release.Stable, "amd64", []byte("agent")))
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- b.service.Run(ctx) }()
		var last int64
		for day := range 100 {
			time.Sleep(24 * time.Hour)
			synctest.Wait()
			_, file, _ := b.get("/dl/metadata/timestamp.json")
			timestamp, err := metadata.Timestamp().FromBytes(file)
			if err != nil {
				t.Fatal(err)
			}
			if left := time.Until(timestamp.Signed.Expires); left < server.TimestampLifetime/2-time.Hour {
				t.Fatalf("day %d: %s left of the timestamp, wanted at least half of %s", day, left, server.TimestampLifetime)
			}
			_, file, _ = b.get(fmt.Sprintf("/dl/metadata/%d.snapshot.json", timestamp.Signed.Meta["snapshot.json"].Version))
			snapshot, err := metadata.Snapshot().FromBytes(file)
			if err != nil {
				t.Fatal(err)
			}
			if left := time.Until(snapshot.Signed.Expires); left < server.SnapshotLifetime/2-time.Hour {
				t.Fatalf("day %d: %s left of the snapshot, wanted at least half of %s", day, left, server.SnapshotLifetime)
			}
			if timestamp.Signed.Version < last {
				t.Fatalf("day %d: timestamp %d after %d", day, timestamp.Signed.Version, last)
			}
			last = timestamp.Signed.Version
		}
		stop()
		if err := <-done; err != nil {
			t.Errorf("Run: got %v, wanted nil at its end", err)
		}
	})
}

func TestASleptThroughExpiryIsSignedAnewAtStart(t *testing.T) {
	b := newBench(t)
	b.mustPublish(b.artefact("1.0.0", release.Stable, "amd64", []byte("agent")))
	b.now = b.now.Add(300 * 24 * time.Hour)
	b.restart()
	if err := b.service.Freshen(t.Context()); err != nil {
		t.Fatal(err)
	}
	_, file, _ := b.get("/dl/metadata/timestamp.json")
	timestamp, err := metadata.Timestamp().FromBytes(file)
	if err != nil || !timestamp.Signed.Expires.After(b.now) {
		t.Errorf("timestamp: got expiry %v, %v; wanted one after %v", timestamp.Signed.Expires, err, b.now)
	}
}

func TestVersionsRiseAfterARestoredBackup(t *testing.T) {
	b := newBench(t)
	b.mustPublish(b.artefact("1.0.0", release.Stable, "amd64", []byte("agent")))
	backup := filepath.Join(b.dir, "backup")
	if err := os.CopyFS(backup, os.DirFS(filepath.Join(b.dir, "repository"))); err != nil {
		t.Fatal(err)
	}
	versions := func() (timestamp, snapshot int64) {
		_, file, _ := b.get("/dl/metadata/timestamp.json")
		ts, err := metadata.Timestamp().FromBytes(file)
		if err != nil {
			t.Fatal(err)
		}
		return ts.Signed.Version, ts.Signed.Meta["snapshot.json"].Version
	}
	for i := range 5 {
		b.now = b.now.Add(time.Minute)
		b.mustPublish(b.artefact(fmt.Sprintf("1.0.%d", i+1), release.Stable, "amd64", []byte{byte(i)}))
	}
	timestamp, snapshot := versions()
	if err := os.RemoveAll(filepath.Join(b.dir, "repository", "metadata")); err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(filepath.Join(b.dir, "repository", "metadata"), os.DirFS(filepath.Join(backup, "metadata"))); err != nil {
		t.Fatal(err)
	}
	b.now = b.now.Add(time.Minute)
	b.restart()
	out := b.mustPublish() // nothing new: the folder of keys gives back what was forgotten
	if ts, ss := versions(); ts <= timestamp || ss <= snapshot {
		t.Errorf("after the restore: got timestamp %d and snapshot %d, wanted more than %d and %d", ts, ss, timestamp, snapshot)
	}
	if got, err := b.service.Resolve(release.Agent, "", ""); err != nil || got[0].Version != "1.0.5" || len(out) != 5 {
		t.Errorf("after the restore: got %v (%d given back), %v; wanted 1.0.5 and 5", got, len(out), err)
	}
}

func TestAlteredMetadataIsNotLoaded(t *testing.T) {
	b := newBench(t)
	b.mustPublish(b.artefact("1.0.0", release.Stable, "amd64", []byte("agent")))
	err := filepath.WalkDir(filepath.Join(b.dir, "repository", "metadata"), func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		was, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		altered := bytes.Replace(was, []byte(`"expires":"2`), []byte(`"expires":"3`), 1)
		if bytes.Equal(altered, was) {
			return fmt.Errorf("%s has nothing to alter", path)
		}
		if err := os.WriteFile(path, altered, 0o600); err != nil {
			return err
		}
		if _, err := server.New(t.Context(), b.options); err == nil {
			t.Errorf("%s altered: loaded, wanted an error", d.Name())
		}
		return os.WriteFile(path, was, 0o600)
	})
	if err != nil {
		t.Fatal(err)
	}
	b.restart()
}

func TestAbandonedUploadsAreRemoved(t *testing.T) {
	b := newBench(t)
	ctx := publisher(t.Context())
	part := server.Part{SHA256: strings.Repeat("ab", 32), Length: 100, Data: []byte("x")}
	if _, _, err := b.service.Upload(ctx, part); err != nil {
		t.Fatal(err)
	}
	part.Data = nil
	for _, c := range []struct{ age, want int64 }{{23, 1}, {25, 0}} {
		b.now = time.Now().Add(time.Duration(c.age) * time.Hour)
		if err := b.service.Freshen(t.Context()); err != nil {
			t.Fatal(err)
		}
		if have, _, err := b.service.Upload(ctx, part); have != c.want || err != nil {
			t.Errorf("after %d hours: got %d bytes, %v; wanted %d", c.age, have, err, c.want)
		}
	}
}

package release_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/loopbackd/loopback/release"
	"github.com/loopbackd/loopback/release/publish"
	server "github.com/loopbackd/loopback/server/release"
	"github.com/loopbackd/loopback/server/storage"
)

// replica is one of several that share a database. Its database can be away.
type replica struct {
	*bench
	service *server.Service
	blobs   *away
	dir     string // of what it keeps
}

type away struct {
	server.Blobs
	is bool
}

var errAway = errors.New("the database is away")

func (a *away) Stat(ctx context.Context, key string) (release.Blob, error) {
	if a.is {
		return release.Blob{}, errAway
	}
	return a.Blobs.Stat(ctx, key)
}

func (a *away) Open(ctx context.Context, key string, offset int64) (io.ReadCloser, error) {
	if a.is {
		return nil, errAway
	}
	return a.Blobs.Open(ctx, key, offset)
}

func (b *bench) shared() *server.Shared {
	return server.NewShared(storage.Bind[server.BlobReader, server.BlobTx](b.catalogue.db), b.options.Clock)
}

// join is a further replica on the database of b, with a folder of its own.
func (b *bench) join(name string, wrap func(server.Blobs) server.Blobs) *replica {
	b.t.Helper()
	r := &replica{bench: b, blobs: &away{Blobs: b.shared()}, dir: filepath.Join(b.t.TempDir(), "kept")}
	folder, err := server.NewFolder(r.dir)
	if err != nil {
		b.t.Fatal(err)
	}
	o := b.options
	o.Owner, o.Blobs = name, server.NewCached(r.blobs, folder, b.options.Logger)
	if wrap != nil {
		o.Blobs = wrap(o.Blobs)
	}
	if r.service, err = server.New(b.t.Context(), o); err != nil {
		b.t.Fatal(err)
	}
	return r
}

// publish signs with a copy of the keys, as somebody else who has them would.
func (r *replica) publish(artefacts ...publish.Artefact) error {
	own, theirs := filepath.Join(r.bench.dir, "keys"), filepath.Join(r.t.TempDir(), "keys")
	copyKeys(r.t, own, theirs)
	keys, err := publish.Open(theirs)
	if err != nil {
		return err
	}
	_, err = keys.WithClock(r.options.Clock).Publish(publisher(r.t.Context()), &direct{service: r.service}, artefacts, nil)
	if err == nil {
		copyKeys(r.t, theirs, own) // whose root it is
	}
	return err
}

func copyKeys(t testing.TB, from, to string) {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(from, "*"))
	err = errors.Join(err, os.MkdirAll(to, 0o700))
	for _, name := range names {
		b, e := os.ReadFile(name)
		err = errors.Join(err, e, os.WriteFile(filepath.Join(to, filepath.Base(name)), b, 0o600))
	}
	if err != nil {
		t.Error(err)
	}
}

func (r *replica) get(path string) (int, []byte) {
	w := httptest.NewRecorder()
	r.service.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
	return w.Code, w.Body.Bytes()
}

// whole demands that a replica, and one that starts now, serve what is published.
func (b *bench) whole(t *testing.T, r *replica, version string, program []byte) {
	t.Helper()
	for _, r := range []*replica{r, b.join("replica-9", nil)} { // New verifies every signature
		if status, got := r.get("/dl/targets/loopback-agent/" + version + "/linux-amd64/loopback-agent"); status != http.StatusOK || !bytes.Equal(got, program) {
			t.Errorf("%s is served as %d with %d bytes, want all %d", version, status, len(got), len(program))
		}
	}
}

func TestWhatOneReplicaPublishesEveryOneServes(t *testing.T) {
	b := newBench(t)
	one, two := b.join("replica-1", nil), b.join("replica-2", nil)
	program := bytes.Repeat([]byte("agent "), 400_000) // several parts, and several chunks
	if err := one.publish(b.artefact("1.0.0", release.Stable, "amd64", program)); err != nil {
		t.Fatal(err)
	}
	b.whole(t, two, "1.0.0", program) // nobody told it
	if status, _ := two.get("/dl/metadata/timestamp.json"); status != http.StatusOK {
		t.Errorf("its metadata is served as %d", status)
	}
	if err := two.publish(b.artefact("1.1.0", release.Stable, "amd64", []byte("newer"))); err != nil {
		t.Errorf("upon what the other published: %v", err)
	}
	if err := one.service.Refresh(t.Context()); err != nil {
		t.Error(err)
	}
	if got, err := one.service.Resolve(release.Agent, "", ""); err != nil || got[0].Version != "1.1.0" {
		t.Errorf("the first resolves %v, %v; want 1.1.0", got, err)
	}

	// The second has the program in its folder now: the database may go.
	two.blobs.is = true
	if status, got := two.get("/dl/targets/loopback-agent/1.0.0/linux-amd64/loopback-agent"); status != http.StatusOK || !bytes.Equal(got, program) {
		t.Errorf("without the database it serves %d with %d bytes", status, len(got))
	}
	if status, _ := two.get("/dl/metadata/timestamp.json"); status != http.StatusInternalServerError {
		t.Errorf("without the database its metadata, which may be old by then, is served as %d", status)
	}
}

// Two that publish at once never tear what hosts see: each is whole or refused.
func TestTwoPublishersAtOnce(t *testing.T) {
	b := newBench(t)
	one, two := b.join("replica-1", nil), b.join("replica-2", nil)
	if err := one.publish(b.artefact("1.0.0", release.Stable, "amd64", []byte("first"))); err != nil {
		t.Fatal(err)
	}
	for round, versions := range [][2]string{{"1.1.0", "1.2.0"}, {"1.3.0", "1.4.0"}, {"1.5.0", "1.6.0"}} {
		var both sync.WaitGroup
		var errs [2]error
		for i, r := range []*replica{one, two} {
			a := b.artefact(versions[i], release.Stable, "amd64", []byte("program "+versions[i]))
			both.Go(func() { errs[i] = r.publish(a) })
		}
		both.Wait()
		if errs[0] != nil && errs[1] != nil {
			t.Fatalf("round %d: both were refused: %v, %v", round, errs[0], errs[1])
		}
		for i, err := range errs {
			if err == nil {
				b.whole(t, []*replica{two, one}[i], versions[i], []byte("program "+versions[i]))
			} else if c := code(err); c != "release_targets_stale" && c != "release_conflict" {
				t.Errorf("round %d: the loser was answered %v", round, err)
			}
		}
	}
}

// frozen stops before it switches, as a replica does that is paused, past its lease.
type frozen struct {
	server.Blobs
	reached, woken chan struct{}
}

func (f *frozen) Switch(ctx context.Context, was string, values []server.Value) error {
	close(f.reached)
	<-f.woken
	return f.Blobs.Switch(context.WithoutCancel(ctx), was, values)
}

func TestAReplicaThatWakesPastItsLeaseSwitchesNothing(t *testing.T) {
	b := newBench(t)
	two := b.join("replica-2", nil)
	if err := two.publish(b.artefact("1.0.0", release.Stable, "amd64", []byte("first"))); err != nil {
		t.Fatal(err)
	}
	f := &frozen{reached: make(chan struct{}), woken: make(chan struct{})}
	one := b.join("replica-1", func(blobs server.Blobs) server.Blobs { f.Blobs = blobs; return f })
	ended := make(chan error, 1)
	lost := b.artefact("1.1.0", release.Stable, "amd64", []byte("of the one that froze"))
	go func() { ended <- one.publish(lost) }()
	select {
	case <-f.reached:
	case err := <-ended:
		t.Fatalf("it did not come to its switch: %v", err)
	}
	// Its lease is over.
	err := b.catalogue.db.Observe(t.Context(), func(tx *storage.Tx) error { return tx.DropLease(t.Context(), "releases", "replica-1") })
	if err != nil {
		t.Fatal(err)
	}
	if err := two.publish(b.artefact("1.2.0", release.Stable, "amd64", []byte("of the other"))); err != nil {
		t.Fatal(err)
	}
	close(f.woken)
	if err := <-ended; code(err) != "release_conflict" {
		t.Errorf("it was answered %v, want release_conflict", err)
	}
	b.whole(t, two, "1.2.0", []byte("of the other"))
	if status, _ := two.get("/dl/targets/loopback-agent/1.1.0/linux-amd64/loopback-agent"); status != http.StatusNotFound {
		t.Errorf("1.1.0 is served as %d, want 404", status)
	}
}

func TestAReplicaThatDiedWhilePublishingIsWaitedFor(t *testing.T) {
	b := newBench(t)
	two := b.join("replica-2", nil)
	took := func(owner string, until time.Time) (held bool) {
		t.Helper()
		err := b.catalogue.db.Observe(t.Context(), func(tx *storage.Tx) error {
			var err error
			held, err = tx.TakeLease(t.Context(), "releases", owner, until)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return held
	}
	until := time.Now().Add(2 * time.Second)
	if !took("replica-1", until) || took("replica-3", until) {
		t.Fatal("a lease is one replica's")
	}
	if err := two.publish(b.artefact("1.0.0", release.Stable, "amd64", []byte("agent"))); err != nil {
		t.Fatal(err)
	}
	if time.Now().Before(until) {
		t.Error("it did not wait for the lease's end")
	}
	if !took("replica-3", until) {
		t.Error("the lease was not given back")
	}
}

func TestAnArtefactIsKeptOnlyIfItsHashIsRight(t *testing.T) {
	b := newBench(t)
	one, two := b.join("replica-1", nil), b.join("replica-2", nil)
	program := []byte("what was signed")
	sum := sha256.Sum256(program)
	key := "artefacts/" + hex.EncodeToString(sum[:])
	if err := one.publish(b.artefact("1.0.0", release.Stable, "amd64", program)); err != nil {
		t.Fatal(err)
	}
	// Somebody alters the database.
	if err := b.shared().Put(t.Context(), key, strings.NewReader("what they like!"), int64(len(program))); err != nil {
		t.Fatal(err)
	}
	if _, got := two.get("/dl/targets/loopback-agent/1.0.0/linux-amd64/loopback-agent"); bytes.Equal(got, program) {
		t.Fatal("the alteration was not read; this test tests nothing")
	}
	if _, err := os.Stat(filepath.Join(two.dir, key)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("it is kept: %v", err)
	}
}

func TestAFolderThatCannotBeWrittenIsDoneWithout(t *testing.T) {
	b := newBench(t)
	one, two := b.join("replica-1", nil), b.join("replica-2", nil)
	if err := os.WriteFile(filepath.Join(two.dir, "artefacts"), nil, 0o600); err != nil { // in the way of the folder
		t.Fatal(err)
	}
	if err := one.publish(b.artefact("1.0.0", release.Stable, "amd64", []byte("agent"))); err != nil {
		t.Fatal(err)
	}
	if status, got := two.get("/dl/targets/loopback-agent/1.0.0/linux-amd64/loopback-agent"); status != http.StatusOK || string(got) != "agent" {
		t.Errorf("it serves %d %q", status, got)
	}
}

func TestReleasesFromBeforeThereWereReplicasAreTakenOver(t *testing.T) {
	b := newBench(t)
	program := bytes.Repeat([]byte("old "), 300_000)
	b.mustPublish(b.artefact("1.0.0", release.Stable, "amd64", program))
	b.options.SnapshotKey = newKey() // two roots
	b.restart()
	b.mustPublish(b.artefact("1.1.0", release.Stable, "amd64", []byte("newer")))
	for i, want := range []bool{true, false} {
		if done, err := server.Import(t.Context(), b.folder().(*server.Folder), b.shared()); err != nil || done != want {
			t.Fatalf("import %d: %t, %v; want %t", i+1, done, err, want)
		}
	}
	one := b.join("replica-1", nil)
	b.whole(t, one, "1.0.0", program)
	if err := one.publish(b.artefact("1.2.0", release.Stable, "amd64", []byte("newest"))); err != nil {
		t.Errorf("publishing goes on: %v", err)
	}
	if done, err := server.Import(t.Context(), b.folder().(*server.Folder), b.shared()); err != nil || done {
		t.Errorf("what was published since was overwritten: %t, %v", done, err)
	}
}

// Both kinds of blobs keep the contract that publications rest on.
func TestBlobs(t *testing.T) {
	b := newBench(t)
	for name, blobs := range map[string]server.Blobs{"folder": b.folder(), "database": b.shared()} {
		t.Run(name, func(t *testing.T) {
			ctx := t.Context()
			read := func(key string, offset int64) string {
				t.Helper()
				r, err := blobs.Open(ctx, key, offset)
				if err != nil {
					t.Fatal(err)
				}
				defer r.Close()
				got, err := io.ReadAll(r)
				if err != nil {
					t.Fatal(err)
				}
				return string(got)
			}
			for _, size := range []int{0, 1, 512<<10 - 1, 512 << 10, 512<<10 + 1, 1<<20 + 7} {
				content := strings.Repeat("x", size)
				if err := blobs.Put(ctx, "d/k", strings.NewReader(content), int64(size)); err != nil {
					t.Fatal(err)
				}
				if got := read("d/k", 0); got != content {
					t.Errorf("of %d bytes %d are read", size, len(got))
				}
				if size > 0 && read("d/k", int64(size-1)) != "x" {
					t.Errorf("the last of %d bytes is not read", size)
				}
			}
			before, err := blobs.Stat(ctx, "d/k")
			if err != nil || before.Size != 1<<20+7 {
				t.Errorf("got %+v, %v", before, err)
			}
			if err := blobs.Put(ctx, "d/k", strings.NewReader("short"), 9); !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Errorf("less than was said: got %v", err)
			}
			if err := blobs.Put(ctx, "d/k", strings.NewReader("too long"), 3); err == nil {
				t.Error("more than was said was taken")
			}
			if after, err := blobs.Stat(ctx, "d/k"); err != nil || after != before {
				t.Errorf("a write that failed left %+v, %v; want %+v", after, err, before)
			}
			if err := blobs.Switch(ctx, "", []server.Value{{Key: "d/a", Data: []byte("a")}, {Key: "d/k", Data: []byte("k")}}); !errors.Is(err, release.ErrBlobChanged) {
				t.Errorf("upon nothing: got %v", err)
			}
			if _, err := blobs.Stat(ctx, "d/a"); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("a switch that was refused left something: %v", err)
			}
			if err := blobs.Switch(ctx, before.Version, []server.Value{{Key: "d/a", Data: []byte("a")}, {Key: "d/k", Data: []byte("k")}}); err != nil {
				t.Error(err)
			}
			list, err := blobs.List(ctx, "d/")
			if err != nil || len(list) != 2 || list[0].Key != "d/a" || list[1].Key != "d/k" || list[1].Version == before.Version || read("d/k", 0) != "k" {
				t.Errorf("after the switch there are %+v, %v", list, err)
			}
			for range 2 {
				if err := blobs.Delete(ctx, "d/a"); err != nil {
					t.Error(err)
				}
			}
			if _, err := blobs.Open(ctx, "d/a", 0); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("what was deleted opens: %v", err)
			}
		})
	}
}

func TestWhatNobodyRefersToIsSweptLater(t *testing.T) {
	b := newBench(t)
	s := b.shared()
	put := func(content string) string {
		t.Helper()
		if err := s.Put(t.Context(), "k", strings.NewReader(content), int64(len(content))); err != nil {
			t.Fatal(err)
		}
		at, err := s.Stat(t.Context(), "k")
		if err != nil {
			t.Fatal(err)
		}
		return at.Version
	}
	old := put("old")
	reading, err := s.Open(t.Context(), "k", 0)
	if err != nil {
		t.Fatal(err)
	}
	now := put("new")
	for _, later := range []time.Duration{0, 2 * time.Hour} {
		b.now = time.Now().Add(later)
		if err := s.Sweep(t.Context()); err != nil {
			t.Fatal(err)
		}
		_, err := b.catalogue.db.View().BlobChunk(t.Context(), old, 0)
		if swept := errors.Is(err, fs.ErrNotExist); swept != (later > 0) {
			t.Errorf("%s later what was replaced is gone: %t, %v", later, swept, err)
		}
		if later == 0 {
			if got, err := io.ReadAll(reading); err != nil || string(got) != "old" {
				t.Errorf("who had begun to read reads %q, %v", got, err)
			}
		}
		if _, err := b.catalogue.db.View().BlobChunk(t.Context(), now, 0); err != nil {
			t.Errorf("what the key holds was swept: %v", err)
		}
	}
}

package backup_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/loopbackd/loopback/access"
	"github.com/loopbackd/loopback/apikey"
	"github.com/loopbackd/loopback/audit"
	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/id"
	"github.com/loopbackd/loopback/server/backup"
	"github.com/loopbackd/loopback/server/storage"
	"github.com/loopbackd/loopback/tenant"
	"github.com/loopbackd/loopback/token"
)

var now = time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)

const tokens, keys = 1003, 3 // more tokens than a page holds

// planted is a data folder with a deployment in its second epoch, live and dead credentials, keys and a release.
func planted(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "data")
	for name, content := range map[string]string{"keys/anchor.key": "anchor", "keys/ca.crt": "ca", "releases/targets/agent": "program", "releases/.part": "half an upload", "loose.txt": "not ours"} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	db := open(t, dir)
	ctx := t.Context()
	err := db.Write(ctx, func(tx *storage.Tx) error {
		if err := tx.PutDeployment(ctx, tenant.Deployment{ID: "dep_test", Epoch: 2, CreatedAt: now, BootstrapHash: []byte("code")}); err != nil {
			return err
		}
		o := tenant.Organisation{Meta: tenant.Meta{ID: "org_a", Name: "acme", CreatedAt: now}}
		p := tenant.Project{Meta: tenant.Meta{ID: "prj_a", Name: "shop", CreatedAt: now}, OrganisationID: o.ID}
		w := tenant.Workspace{Meta: tenant.Meta{ID: "ws_a", Name: "prod", CreatedAt: now}, OrganisationID: o.ID, ProjectID: p.ID}
		if _, err := tx.PutOrganisation(ctx, o); err != nil {
			return err
		}
		if _, err := tx.PutProject(ctx, p); err != nil {
			return err
		}
		if _, err := tx.PutWorkspace(ctx, w); err != nil {
			return err
		}
		for i := range tokens {
			tok := token.Token{Meta: tenant.Meta{ID: id.New("tok", now), CreatedAt: now}, Scope: w.Scope(), Hash: []byte{byte(i), byte(i >> 8)}, ExpiresAt: now.Add(time.Hour), MaxUses: 1}
			tok.Name = tok.ID
			if _, err := tx.PutToken(ctx, tok); err != nil {
				return err
			}
		}
		for i := range keys {
			k := apikey.Key{Meta: tenant.Meta{ID: id.New("key", now), CreatedAt: now}, Hash: []byte{byte(i)}, ExpiresAt: now.Add(time.Hour), Permissions: []access.Permission{access.All}}
			k.Name = k.ID
			if i == 0 {
				k.RevokedAt = now.Add(-time.Minute)
			}
			if _, err := tx.PutKey(ctx, k); err != nil {
				return err
			}
		}
		return tx.Audit(ctx, audit.Entry{Action: "test.plant", Target: "all"})
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	return dir
}

func open(t *testing.T, dir string) *storage.DB {
	t.Helper()
	db, err := storage.Open(t.Context(), storage.Options{URL: database(dir)})
	if err != nil {
		t.Fatal(err)
	}
	return db
}

func database(dir string) string { return filepath.Join(dir, "loopback.db") }

func create(t *testing.T, dir string) string {
	t.Helper()
	to := filepath.Join(t.TempDir(), "backup.tar.gz")
	if err := backup.Create(t.Context(), dir, database(dir), "1.2.3", to, now); err != nil {
		t.Fatal(err)
	}
	return to
}

func TestRestoreBeginsANewEpochAndEndsWhatOpens(t *testing.T) {
	dir := planted(t)
	from := create(t, dir)
	if st, err := os.Stat(from); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("the backup: got %v, %v; want mode 0600", st.Mode(), err)
	}
	to := filepath.Join(t.TempDir(), "restored")
	done, err := backup.Restore(t.Context(), from, to, database(to), now)
	if err != nil {
		t.Fatal(err)
	}
	if done.Deployment.Epoch != 3 || done.Tokens != tokens || done.APIKeys != keys-1 || done.Manifest.Version != "1.2.3" {
		t.Errorf("got %+v, want epoch 3, %d tokens, %d keys ended", done, tokens, keys-1)
	}
	for name, want := range map[string]string{"keys/anchor.key": "anchor", "releases/targets/agent": "program"} {
		if got, err := os.ReadFile(filepath.Join(to, name)); string(got) != want {
			t.Errorf("%s: got %q, %v; want %q", name, got, err, want)
		}
	}
	for _, name := range []string{"releases/.part", "loose.txt", "manifest.json"} {
		if _, err := os.Stat(filepath.Join(to, name)); err == nil {
			t.Errorf("%s was restored", name)
		}
	}
	if st, err := os.Stat(to); err != nil || st.Mode().Perm() != 0o700 {
		t.Errorf("the data folder: got %v, %v; want mode 0700", st.Mode(), err)
	}
	db := open(t, to)
	defer db.Close()
	ctx := t.Context()
	active, _, err := db.View().Tokens(ctx, token.Query{Readable: access.Everywhere(), States: []token.State{token.Active}, Now: now})
	if err != nil || len(active) != 0 {
		t.Errorf("active tokens: got %d, %v; want none", len(active), err)
	}
	all, _, err := db.View().Keys(ctx, apikey.Query{Readable: access.Everywhere()})
	if err != nil || len(all) != keys {
		t.Fatalf("got %d keys, %v", len(all), err)
	}
	for _, k := range all {
		if k.Live(now) {
			t.Errorf("key %s lives", k.ID)
		}
	}
	d, err := db.View().Deployment(ctx)
	if err != nil || d.Epoch != 3 || len(d.BootstrapHash) != 0 || d.ID != "dep_test" || d.EpochBegan == 0 {
		t.Errorf("deployment: got %+v, %v", d, err)
	}
	entries, err := db.View().Entries(ctx, audit.Query{Readable: access.Everywhere()})
	if err != nil || len(entries) != 2 || entries[0].Action != backup.RestoreAction || entries[0].Position != entries[1].Position+1 {
		t.Errorf("audit log: got %+v, %v; want the restore after what was there", entries, err)
	}
}

func TestABackupIsNotWrittenOverAnother(t *testing.T) {
	dir := planted(t)
	to := create(t, dir)
	before, err := os.ReadFile(to)
	if err != nil {
		t.Fatal(err)
	}
	if err := backup.Create(t.Context(), dir, database(dir), "1", to, now); fault.KindOf(err) != fault.Exists {
		t.Errorf("got %v, want that it exists", err)
	}
	if after, _ := os.ReadFile(to); !bytes.Equal(before, after) {
		t.Error("the backup that was there is another now")
	}
}

func TestABackupThatFailsLeavesNothing(t *testing.T) {
	dir := t.TempDir()
	folder := t.TempDir()
	err := backup.Create(t.Context(), dir, database(dir), "1", filepath.Join(folder, "b"), now)
	if fault.Of(err).Code != "database_missing" {
		t.Errorf("without a database: got %v", err)
	}
	if left, _ := os.ReadDir(folder); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestRestoreLeavesAFolderInUseAlone(t *testing.T) {
	dir := planted(t)
	from := create(t, dir)
	if _, err := backup.Restore(t.Context(), from, dir, database(dir), now); fault.Of(err).Code != "data_folder_in_use" {
		t.Errorf("got %v, want data_folder_in_use", err)
	}
	empty := t.TempDir() // an empty folder is fine
	if _, err := backup.Restore(t.Context(), from, empty, database(empty), now); err != nil {
		t.Errorf("into an empty folder: %v", err)
	}
}

// file is an entry of an archive made by hand.
type file struct {
	header  tar.Header
	content string
}

func archive(t *testing.T, files ...file) string {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	w := tar.NewWriter(z)
	for _, f := range files {
		if f.header.Typeflag == 0 {
			f.header.Typeflag, f.header.Size = tar.TypeReg, int64(len(f.content))
		}
		f.header.Mode = 0o600
		if err := w.WriteHeader(&f.header); err != nil {
			t.Fatal(err)
		}
		if f.header.Typeflag == tar.TypeReg {
			if _, err := io.WriteString(w, f.content); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "made")
	if err := os.WriteFile(path, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func manifest(content string) file { return file{tar.Header{Name: "manifest.json"}, content} }

// refused restores into a folder of its own and finds that nothing was made of it.
func refused(t *testing.T, what, from, code string) {
	t.Helper()
	parent := t.TempDir()
	to := filepath.Join(parent, "inner", "data")
	_, err := backup.Restore(t.Context(), from, to, database(to), now)
	if err == nil {
		t.Errorf("%s: it was restored", what)
		return
	}
	e := fault.Of(err)
	if e.Code != code || e.Hint == "" {
		t.Errorf("%s: got %v (code %q, hint %q), want %s and a hint", what, err, e.Code, e.Hint, code)
	}
	if strings.Contains(e.Message, "\n") {
		t.Errorf("%s: the message has more than one line: %q", what, e.Message)
	}
	if err := filepath.WalkDir(parent, func(p string, d os.DirEntry, err error) error {
		if err == nil && p != parent && filepath.Base(p) != "inner" {
			t.Errorf("%s: left behind: %s", what, p)
		}
		return err
	}); err != nil {
		t.Error(err)
	}
}

func TestArchivesThatAreNotOursAreRefused(t *testing.T) {
	good := manifest(`{"format":1,"version":"1.2.3","database":"sqlite"}`)
	link := func(kind byte, target string) file {
		return file{tar.Header{Name: "keys/link", Typeflag: kind, Linkname: target}, ""}
	}
	for what, c := range map[string]struct {
		from, code string
	}{
		"a path upwards":           {archive(t, good, file{tar.Header{Name: "../../escaped"}, "x"}), "backup_unreadable"},
		"a path that is absolute":  {archive(t, good, file{tar.Header{Name: "/tmp/escaped-by-restore"}, "x"}), "backup_unreadable"},
		"a path upwards in middle": {archive(t, good, file{tar.Header{Name: "keys/../../escaped"}, "x"}), "backup_unreadable"},
		"a symbolic link":          {archive(t, good, link(tar.TypeSymlink, "/etc"), file{tar.Header{Name: "keys/link/x"}, "x"}), "backup_unreadable"},
		"a hard link":              {archive(t, good, link(tar.TypeLink, "/etc/passwd")), "backup_unreadable"},
		"a device":                 {archive(t, good, link(tar.TypeChar, "")), "backup_unreadable"},
		"a file twice":             {archive(t, good, file{tar.Header{Name: "keys/a"}, "x"}, file{tar.Header{Name: "keys/a"}, "y"}), "backup_unreadable"},
		"no manifest first":        {archive(t, file{tar.Header{Name: "loopback.db"}, "x"}, good), "backup_unreadable"},
		"a manifest of nonsense":   {archive(t, manifest("{")), "backup_unreadable"},
		"nothing in it":            {archive(t), "backup_unreadable"},
		"a newer format":           {archive(t, manifest(`{"format":2,"version":"9.0.0","database":"sqlite"}`)), "backup_newer"},
		"no format":                {archive(t, manifest(`{}`)), "backup_unreadable"},
		"no database":              {archive(t, good), "backup_unreadable"},
		"a database of nonsense":   {archive(t, good, file{tar.Header{Name: "loopback.db"}, strings.Repeat("nonsense", 1000)}), "backup_unreadable"},
		"a database elsewhere":     {archive(t, manifest(`{"format":1,"database":"elsewhere"}`)), "database_elsewhere"},
		"no such file":             {filepath.Join(t.TempDir(), "none"), "backup_missing"},
	} {
		refused(t, what, c.from, c.code)
	}
	if _, err := os.Stat("/tmp/escaped-by-restore"); err == nil {
		t.Error("a file was written outside")
	}
	plain := filepath.Join(t.TempDir(), "plain")
	if err := os.WriteFile(plain, []byte("not gzipped"), 0o600); err != nil {
		t.Fatal(err)
	}
	refused(t, "a file that is no archive", plain, "backup_unreadable")
}

func TestDamagedAndTruncatedArchivesAreRefused(t *testing.T) {
	whole, err := os.ReadFile(create(t, planted(t)))
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "harmed")
	for _, part := range []int{0, 1, 10, len(whole) / 4, len(whole) / 2, len(whole) - 9, len(whole) - 1} {
		if err := os.WriteFile(path, whole[:part], 0o600); err != nil {
			t.Fatal(err)
		}
		refused(t, "cut short", path, "backup_unreadable")
	}
	for at := 20; at < len(whole); at += len(whole) / 12 {
		harmed := bytes.Clone(whole)
		harmed[at] ^= 0x20
		if err := os.WriteFile(path, harmed, 0o600); err != nil {
			t.Fatal(err)
		}
		refused(t, "a bit turned", path, "backup_unreadable")
	}
}

package storage_test

import (
	"bufio"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/loopbackd/loopback/access"
	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/server/storage"
	"github.com/loopbackd/loopback/server/storage/storagetest"
	"github.com/loopbackd/loopback/tenant"
)

// childVariable makes this test program a writer that is going to be killed.
const childVariable = "LOOPBACK_STORAGE_TEST_CHILD"

func TestMain(m *testing.M) {
	if url := os.Getenv(childVariable); url != "" {
		if err := writeUntilKilled(url); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

func open(t testing.TB, url string) *storage.DB {
	t.Helper()
	db, err := storage.Open(t.Context(), storage.Options{URL: url, Logger: quiet()})
	if err != nil {
		t.Fatalf("opening the database: %v", err)
	}
	t.Cleanup(func() { db.Close() })
	return db
}

// put writes an organisation of this name.
func put(db *storage.DB, name string) error {
	return putLong(db, name, "")
}

func putLong(db *storage.DB, name, description string) error {
	ctx := context.Background()
	return db.Observe(ctx, func(tx *storage.Tx) error {
		_, err := tx.PutOrganisation(ctx, tenant.Organisation{Meta: tenant.Meta{ID: "org_" + name, Name: name}, Description: description})
		return err
	})
}

func wantKept(t *testing.T, db *storage.DB, name string) {
	t.Helper()
	if _, err := db.View().Organisation(t.Context(), "org_"+name); err != nil {
		t.Errorf("%s was acknowledged and is lost: %v", name, err)
	}
}

// writeUntilKilled prints what was acknowledged.
func writeUntilKilled(url string) error {
	db, err := storage.Open(context.Background(), storage.Options{URL: url, Logger: quiet()})
	if err != nil {
		return err
	}
	var out sync.Mutex
	failed := make(chan error)
	for p := range 16 {
		go func() {
			for n := 0; ; n++ {
				name := fmt.Sprintf("%d-%d-%d", os.Getpid(), p, n)
				if err := put(db, name); err != nil {
					failed <- err
					return
				}
				out.Lock()
				fmt.Println(name)
				out.Unlock()
			}
		}()
	}
	return <-failed
}

func killed(t *testing.T, url string, rounds int) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	var acknowledged []string
	for round := range rounds {
		child := exec.Command(self)
		child.Env = append(os.Environ(), childVariable+"="+url)
		child.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		child.Stderr = os.Stderr
		out, err := child.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := child.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(out)
		for until := 1 + rand.IntN(200); until > 0 && lines.Scan(); until-- {
			acknowledged = append(acknowledged, lines.Text())
		}
		child.Process.Kill()
		for lines.Scan() { // what was acknowledged before the end, whole lines only
			acknowledged = append(acknowledged, lines.Text())
		}
		child.Wait()
		if len(acknowledged) == 0 {
			t.Fatalf("round %d: the child wrote nothing", round)
		}
	}
	db := open(t, url)
	for _, name := range acknowledged {
		wantKept(t, db, name)
	}
	// The feed has no holes, whatever was cut off.
	position := int64(0)
	for {
		list, err := db.Changes(t.Context(), position, 1000)
		if err != nil {
			t.Fatalf("after %d: %v", position, err)
		}
		if len(list) == 0 {
			break
		}
		position = list[len(list)-1].Position
	}
	if position < int64(len(acknowledged)) {
		t.Errorf("the feed ends at %d; %d changes were acknowledged", position, len(acknowledged))
	}
	t.Logf("%d kills, %d changes acknowledged, %d in the feed", rounds, len(acknowledged), position)
}

func TestSQLiteKeepsWhatItAcknowledgedWhenKilled(t *testing.T) {
	killed(t, filepath.Join(t.TempDir(), "loopback.db"), 20)
}

func TestPostgresKeepsWhatItAcknowledgedWhenTheProcessIsKilled(t *testing.T) {
	server := storagetest.StartPostgres(t, "fsync=off")
	killed(t, server.NewDatabase(t), 5)
}

// small is a file system of a few MiB.
func small(t *testing.T, size string) string {
	t.Helper()
	dir := t.TempDir()
	if err := syscall.Mount("loopback-test", dir, "tmpfs", 0, "size="+size); err != nil {
		t.Skipf("this machine lacks the right to mount a file system: %v", err)
	}
	t.Cleanup(func() { syscall.Unmount(dir, syscall.MNT_DETACH) })
	return dir
}

func wantFault(t *testing.T, err error, code string, words ...string) {
	t.Helper()
	f := fault.Of(err)
	if err == nil || f.Code != code || f.Kind != fault.Unavailable || f.Hint == "" {
		t.Errorf("got %v (%+v); wanted Unavailable %s with a hint", err, f, code)
		return
	}
	for _, w := range words {
		if !strings.Contains(f.Message+" "+f.Hint, w) {
			t.Errorf("%q, hint %q does not say %q", f.Message, f.Hint, w)
		}
	}
}

func TestSQLiteDiskFull(t *testing.T) {
	dir := small(t, "6m")
	db := open(t, filepath.Join(dir, "loopback.db"))
	var kept []string
	var err error
	for n := 0; n < 10_000 && err == nil; n++ {
		name := fmt.Sprint(n)
		if err = putLong(db, name, strings.Repeat("x", 20_000)); err == nil {
			kept = append(kept, name)
		}
	}
	wantFault(t, err, "database_full", "full", dir)
	if err := putLong(db, "again", strings.Repeat("x", 20_000)); err == nil {
		kept = append(kept, "again") // SQLite may have made room by a checkpoint
	} else {
		wantFault(t, err, "database_full", "full")
	}
	for _, name := range kept {
		wantKept(t, db, name)
	}
	// More room, and it goes on without a restart.
	if err := syscall.Mount("", dir, "", syscall.MS_REMOUNT, "size=64m"); err != nil {
		t.Fatal(err)
	}
	if err := put(db, "later"); err != nil {
		t.Errorf("after space was freed: %v", err)
	}
	wantKept(t, db, "later")
	t.Logf("%d changes before the disk was full", len(kept))
}

// One that does not fit must not take the others of its batch with it.
func TestSQLiteOneTooLargeHarmsNobodyElse(t *testing.T) {
	dir := small(t, "16m")
	db := open(t, filepath.Join(dir, "loopback.db"))
	inside, leave := make(chan struct{}), make(chan struct{})
	first := make(chan error)
	go func() {
		first <- db.Observe(context.Background(), func(*storage.Tx) error { close(inside); <-leave; return nil })
	}()
	<-inside // all others gather in one batch behind this one
	var all sync.WaitGroup
	var large error
	for n := range 20 {
		all.Go(func() {
			if n == 10 {
				large = putLong(db, "large", strings.Repeat("x", 48<<20))
				return
			}
			if err := put(db, fmt.Sprint(n)); err != nil {
				t.Errorf("change %d: %v", n, err)
			}
		})
	}
	time.Sleep(50 * time.Millisecond) // let them queue; the test holds either way
	close(leave)
	all.Wait()
	if err := <-first; err != nil {
		t.Error(err)
	}
	wantFault(t, large, "database_full")
	for n := range 20 {
		if n != 10 {
			wantKept(t, db, fmt.Sprint(n))
		}
	}
}

func TestSQLiteLockedByAnotherProgram(t *testing.T) {
	path := filepath.Join(t.TempDir(), "loopback.db")
	db := open(t, path)
	if err := put(db, "before"); err != nil {
		t.Fatal(err)
	}
	other, err := sql.Open("sqlite", "file:"+path)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	conn, err := other.Conn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.ExecContext(t.Context(), "BEGIN IMMEDIATE"); err != nil {
		t.Fatal(err)
	}
	// Many wait; all are told, together, not one after the other.
	began := time.Now()
	var all sync.WaitGroup
	for n := range 50 {
		all.Go(func() { wantFault(t, put(db, fmt.Sprint(n)), "database_locked", "locked", path) })
	}
	all.Wait()
	if waited := time.Since(began); waited > 15*time.Second {
		t.Errorf("telling them took %s; wanted about the 5s of one attempt", waited)
	}
	if _, err := db.View().Organisation(t.Context(), "org_before"); err != nil {
		t.Errorf("reading while it is locked: %v", err)
	}
	if _, err := conn.ExecContext(t.Context(), "ROLLBACK"); err != nil {
		t.Fatal(err)
	}
	if err := put(db, "after"); err != nil {
		t.Errorf("after the lock was released: %v", err)
	}
}

func TestSQLiteThatCannotBeOpened(t *testing.T) {
	tryOpen := func(url string) error {
		db, err := storage.Open(t.Context(), storage.Options{URL: url, Logger: quiet()})
		if err == nil {
			db.Close()
		}
		return err
	}
	dir := t.TempDir()
	wantFault(t, tryOpen(filepath.Join(dir, "none", "loopback.db")), "database_unreachable", "folder")
	damaged := filepath.Join(dir, "damaged.db")
	if err := os.WriteFile(damaged, []byte(strings.Repeat("no database ", 1000)), 0o600); err != nil {
		t.Fatal(err)
	}
	wantFault(t, tryOpen(damaged), "database_corrupt", "restore")
	for url, code := range map[string]string{"": "database_url_invalid", ":memory:": "database_url_invalid",
		"mysql://x": "database_url_invalid", "postgres://%zz": "database_url_invalid"} {
		if err := tryOpen(url); fault.Of(err).Code != code {
			t.Errorf("%q: got %v; wanted %s", url, err, code)
		}
	}
	if err := tryOpen("postgres://u:secret@127.0.0.1:1/x?sslmode=wrong"); err == nil || strings.Contains(err.Error()+fault.Of(err).Hint, "secret") {
		t.Errorf("got %v; wanted an error without the password", err)
	}

	readOnly := small(t, "16m")
	path := filepath.Join(readOnly, "loopback.db")
	db := open(t, path)
	if err := put(db, "a"); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("", readOnly, "", syscall.MS_REMOUNT|syscall.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	wantFault(t, tryOpen(path), "database_read_only", "read-only", path)
}

func TestASchemaNewerThanTheProgram(t *testing.T) {
	path := filepath.Join(t.TempDir(), "loopback.db")
	db := open(t, path)
	if err := put(db, "a"); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	other, err := sql.Open("sqlite", "file:"+path)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	if _, err := other.Exec("INSERT INTO schema_versions (version_id, is_applied) VALUES (4711, 1)"); err != nil {
		t.Fatal(err)
	}
	_, err = storage.Open(t.Context(), storage.Options{URL: path})
	newest, e := storage.NewestSchema()
	if e != nil {
		t.Fatal(e)
	}
	if f := fault.Of(err); f.Code != "schema_too_new" || !strings.Contains(f.Message, "4711") || !strings.HasSuffix(f.Message, fmt.Sprint("up to ", newest)) {
		t.Errorf("got %v; wanted schema_too_new with both versions", err)
	}
}

func TestBackup(t *testing.T) {
	dir := t.TempDir()
	db := open(t, filepath.Join(dir, "loopback.db"))
	stop := make(chan struct{})
	var writers sync.WaitGroup
	for p := range 4 {
		writers.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				if err := put(db, fmt.Sprintf("%d-%d", p, n)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	for len(listed(t, db)) < 50 {
	}
	to := filepath.Join(dir, "copy.db")
	if err := db.Backup(t.Context(), to); err != nil {
		t.Fatal(err)
	}
	close(stop)
	writers.Wait()
	if info, err := os.Stat(to); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the copy has mode %v, %v; wanted 0600: it holds what the database holds", info.Mode(), err)
	}
	if err := db.Backup(t.Context(), to); fault.KindOf(err) != fault.Exists {
		t.Errorf("over an existing file: got %v; wanted Exists", err)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, ".backup*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	copied := open(t, to)
	position, err := copied.Position(t.Context())
	if err != nil || position < 50 {
		t.Fatalf("the copy ends at %d, %v; wanted at least what was there before", position, err)
	}
	list, err := copied.Changes(t.Context(), 0, int(position)+1)
	if err != nil || int64(len(list)) != position {
		t.Errorf("the copy has %d changes of %d, %v", len(list), position, err)
	}
	for _, c := range list {
		if _, err := copied.View().Organisation(t.Context(), c.ID); err != nil {
			t.Errorf("the copy has change %d without its row: %v", c.Position, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := db.Backup(ctx, filepath.Join(dir, "other.db")); !errors.Is(err, context.Canceled) && fault.KindOf(err) != fault.Canceled {
		t.Errorf("cancelled: got %v; wanted Canceled", err)
	}
}

func listed(t *testing.T, db *storage.DB) []tenant.Organisation {
	list, _, err := db.View().Organisations(t.Context(), tenant.Query{Readable: access.Everywhere()})
	if err != nil {
		t.Fatal(err)
	}
	return list
}

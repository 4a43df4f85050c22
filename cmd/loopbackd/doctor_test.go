package main_test

import (
	"context"
	"database/sql"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"connectrpc.com/connect"
	_ "modernc.org/sqlite" // locks the database as another program does

	pb "github.com/loopbackd/loopback/api/loopback/v1"
	"github.com/loopbackd/loopback/server/doctor"
	"github.com/loopbackd/loopback/test/daemon"
)

// examine runs doctor on a data folder and returns what it found, by check.
func examine(t *testing.T, wantCode int, dataDir string, more ...string) (doctor.Report, map[string]doctor.Finding) {
	t.Helper()
	args := append([]string{"doctor", "-o", "json", "--data-dir", dataDir, "--listen", "127.0.0.1:0", "--metrics-listen", "off"}, more...)
	code, out, errs := loopbackd(t, nil, args...)
	if code != wantCode {
		t.Errorf("doctor: got code %d, want %d: %s%s", code, wantCode, out, errs)
	}
	var r doctor.Report
	if err := json.Unmarshal([]byte(out), &r); err != nil {
		t.Fatalf("doctor: %v: %s", err, out)
	}
	by := map[string]doctor.Finding{}
	for _, f := range r.Findings {
		by[f.Check] = f
		if (f.Status == doctor.Failed || f.Status == doctor.Warning) && (f.Code == "" || f.Hint == "") {
			t.Errorf("%+v has no code or no hint", f)
		}
	}
	return r, by
}

// serveFails starts the control plane where it cannot run.
func serveFails(t *testing.T, dataDir string, words ...string) {
	t.Helper()
	code, _, errs := loopbackd(t, nil, "serve", "--data-dir", dataDir, "--listen", "127.0.0.1:0", "--metrics-listen", "off")
	if code != 7 {
		t.Errorf("serve: got code %d, want 7: %s", code, errs)
	}
	for _, w := range append(words, "hint: ") {
		if !strings.Contains(errs, w) {
			t.Errorf("serve: %q does not say %q", errs, w)
		}
	}
}

func TestDoctorBesideARunningAndAStoppedControlPlane(t *testing.T) {
	d := start(t)
	r, by := examine(t, 0, d.DataDir, "--listen", d.Address)
	if !r.Running || by["ports"].Status != doctor.OK || !strings.Contains(by["ports"].Seen, "ready") || by["database"].Status != doctor.OK {
		t.Errorf("beside a running one: got %+v", r)
	}
	if by["backup"].Code != "backup_missing" {
		t.Errorf("without a backup: got %+v", by["backup"])
	}
	if code, _, errs := loopbackd(t, nil, "backup", "--data-dir", d.DataDir, "--to", filepath.Join(t.TempDir(), "b.tgz")); code != 0 {
		t.Fatalf("backup: %d %s", code, errs)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if _, err := d.Stop(ctx); err != nil {
		t.Fatal(err)
	}
	r, by = examine(t, 0, d.DataDir, "--listen", d.Address)
	if r.Running || by["ports"].Status != doctor.OK || by["backup"].Status != doctor.OK || by["keys"].Status != doctor.OK || by["commit_latency"].Status == doctor.Failed {
		t.Errorf("of a stopped one: got %+v", r)
	}
	// The text is the same, and a key that others can read is a failure.
	if err := os.Chmod(filepath.Join(d.DataDir, "keys", "pepper"), 0o644); err != nil {
		t.Fatal(err)
	}
	code, out, _ := loopbackd(t, nil, "doctor", "--data-dir", d.DataDir, "--listen", "127.0.0.1:0", "--metrics-listen", "off")
	if code != 1 || !strings.Contains(out, "failed   keys_open: ") || !strings.Contains(out, "hint: chmod 600") {
		t.Errorf("got code %d, %s; want 1 and keys_open", code, out)
	}
}

func TestADamagedDatabaseIsNamedAndSoIsRestore(t *testing.T) {
	d := start(t)
	for range 50 {
		if _, err := d.Mint(t.Context(), 1); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if _, err := d.Stop(ctx); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(d.DataDir, "loopback.db")
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for what, damage := range map[string]func([]byte){
		"its first page": func(b []byte) { copy(b, "this is no database") },
		"its middle": func(b []byte) {
			for i := 4096; i < len(b); i++ {
				b[i] = 0xA5
			}
		},
	} {
		t.Run(what, func(t *testing.T) {
			b := append([]byte(nil), whole...)
			damage(b)
			if err := os.WriteFile(path, b, 0o600); err != nil {
				t.Fatal(err)
			}
			serveFails(t, d.DataDir, "damaged", "loopbackd restore")
			if _, by := examine(t, 1, d.DataDir); by["database"].Code != "database_corrupt" || !strings.Contains(by["database"].Hint, "restore") {
				t.Errorf("doctor: got %+v", by["database"])
			}
			if got, err := os.ReadFile(path); err != nil || len(got) != len(b) {
				t.Errorf("the damaged file was changed: %d bytes of %d, %v", len(got), len(b), err)
			}
		})
	}
}

func mount(t *testing.T, size string) string {
	t.Helper()
	dir := t.TempDir()
	if err := syscall.Mount("loopback-test", dir, "tmpfs", 0, "mode=0700,size="+size); err != nil {
		t.Skipf("this machine lacks the right to mount a file system: %v", err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(dir, syscall.MNT_DETACH) })
	return dir
}

// Full while it serves: changes are refused and say why, reads go on, and it starts and is examined on the full disk.
func TestADiskThatIsFull(t *testing.T) {
	dir := mount(t, "24m")
	d, err := daemon.Start(t.Context(), daemon.Options{Program: program, Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Kill() })
	fill := filepath.Join(dir, "filler")
	f, err := os.Create(fill)
	if err != nil {
		t.Fatal(err)
	}
	for err == nil {
		_, err = f.Write(make([]byte, 64<<10))
	}
	f.Close()
	var refused error
	for n := 0; n < 5000 && refused == nil; n++ {
		_, refused = d.Mint(t.Context(), 1)
	}
	if connect.CodeOf(refused) != connect.CodeUnavailable || !strings.Contains(refused.Error(), "full") {
		t.Errorf("got %v, want unavailable that says full", refused)
	}
	if _, err := d.Hosts.ListHosts(t.Context(), connect.NewRequest(&pb.ListHostsRequest{})); err != nil {
		t.Errorf("reading on a full disk: %v", err)
	}
	if _, by := examine(t, 1, d.DataDir, "--listen", d.Address); by["disk_space"].Code != "disk_full" {
		t.Errorf("doctor: got %+v", by["disk_space"])
	}
	if err := d.Kill(); err != nil {
		t.Fatal(err)
	}
	// At start: it comes up where it can, or says why not. It never loses what it has.
	if err := d.Launch(); err != nil {
		t.Fatal(err)
	}
	select {
	case <-d.Ended():
		if log, _ := d.Log(); d.ExitCode() != 7 || !strings.Contains(log, "full") {
			t.Errorf("got code %d; its log does not say full: %s", d.ExitCode(), log)
		}
	case <-time.After(5 * time.Second):
		if err := d.Kill(); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Remove(fill); err != nil {
		t.Fatal(err)
	}
	if err := d.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Mint(t.Context(), 1); err != nil {
		t.Errorf("with space again: %v", err)
	}
}

func TestADataFolderThatIsReadOnly(t *testing.T) {
	dir := mount(t, "64m")
	d, err := daemon.Start(t.Context(), daemon.Options{Program: program, Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Kill() })
	if err := d.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("", dir, "", syscall.MS_REMOUNT|syscall.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	serveFails(t, d.DataDir, "read-only")
	if _, by := examine(t, 1, d.DataDir); by["data_folder"].Code != "data_folder_read_only" {
		t.Errorf("doctor: got %+v", by["data_folder"])
	}
}

func TestADatabaseThatSomebodyElseLocks(t *testing.T) {
	d := start(t)
	other, err := sql.Open("sqlite", "file:"+filepath.Join(d.DataDir, "loopback.db")+"?_pragma=busy_timeout(30000)") // the control plane may be writing
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
	if _, err := d.Mint(t.Context(), 1); connect.CodeOf(err) != connect.CodeUnavailable || !strings.Contains(err.Error(), "locked") {
		t.Errorf("got %v, want unavailable that says locked", err)
	}
	if _, err := d.Hosts.ListHosts(t.Context(), connect.NewRequest(&pb.ListHostsRequest{})); err != nil {
		t.Errorf("reading meanwhile: %v", err)
	}
	if _, by := examine(t, 1, d.DataDir, "--listen", d.Address); by["database"].Code != "database_locked" {
		t.Errorf("doctor: got %+v", by["database"])
	}
	if _, err := conn.ExecContext(t.Context(), "ROLLBACK"); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Mint(t.Context(), 1); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}

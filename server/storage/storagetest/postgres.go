package storagetest

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	_ "github.com/jackc/pgx/v5/stdlib" // the driver "pgx"

	"github.com/loopbackd/loopback/test/port"
)

// Postgres is a throw-away PostgreSQL server: a real one, with a folder of its own, that listens on 127.0.0.1 and lets
// everybody on this machine in. It dies with the test.
type Postgres struct {
	Port int
	Dir  string

	programs  string
	account   *syscall.Credential // postgres refuses to run as root
	settings  []string
	process   *exec.Cmd
	ended     chan struct{}
	output    bytes.Buffer
	databases atomic.Int64
}

// StartPostgres starts a server, with settings ("fsync=off") beyond the defaults. A machine without PostgreSQL skips the
// test, and says what it lacks.
func StartPostgres(t testing.TB, settings ...string) *Postgres {
	t.Helper()
	if testing.Short() {
		t.Skip("a short run starts no PostgreSQL server")
	}
	programs := postgresPrograms()
	if programs == "" {
		t.Skip("this machine lacks a PostgreSQL server (Debian: apt-get install postgresql)")
	}
	p := &Postgres{programs: programs, settings: settings}
	dir, err := os.MkdirTemp("", "loopback-postgres-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	p.Dir = filepath.Join(dir, "data")
	if os.Geteuid() == 0 {
		if p.account, err = postgresAccount(); err != nil {
			t.Skipf("this machine lacks an account to run PostgreSQL as: %v", err)
		}
		if err := os.Chown(dir, int(p.account.Uid), int(p.account.Gid)); err != nil {
			t.Fatal(err)
		}
	}
	initdb := p.command("initdb", "-D", p.Dir, "-A", "trust", "-U", "postgres", "-E", "UTF8", "--locale=C.UTF-8", "--no-sync")
	if out, err := initdb.CombinedOutput(); err != nil {
		t.Fatalf("initdb: %v\n%s", err, out)
	}
	if p.Port, err = port.Free("127.0.0.1"); err != nil {
		t.Fatal(err)
	}
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Stop() })
	return p
}

// postgresPrograms is the folder of the newest server that is installed.
func postgresPrograms() string {
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/postgres")
	slices.SortFunc(found, func(a, b string) int { return version(b) - version(a) })
	if len(found) > 0 {
		return filepath.Dir(found[0])
	}
	if path, err := exec.LookPath("postgres"); err == nil {
		return filepath.Dir(path)
	}
	return ""
}

func version(path string) int {
	n, _ := strconv.Atoi(strings.Split(path, "/")[4])
	return n
}

func postgresAccount() (*syscall.Credential, error) {
	u, err := user.Lookup("postgres")
	if err != nil {
		return nil, err
	}
	uid, err := strconv.ParseUint(u.Uid, 10, 32)
	if err != nil {
		return nil, err
	}
	gid, err := strconv.ParseUint(u.Gid, 10, 32)
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, err
}

func (p *Postgres) command(name string, args ...string) *exec.Cmd {
	c := exec.Command(filepath.Join(p.programs, name), args...)
	c.Dir = "/"
	c.Env = []string{"PATH=/usr/bin:/bin", "LC_ALL=C.UTF-8", "TZ=UTC"}
	c.SysProcAttr = &syscall.SysProcAttr{Credential: p.account, Pdeathsig: syscall.SIGKILL}
	return c
}

// Start starts a server that was stopped or killed, and waits until it answers.
func (p *Postgres) Start() error {
	args := []string{"-D", p.Dir, "-h", "127.0.0.1", "-p", strconv.Itoa(p.Port), "-k", ""}
	for _, s := range p.settings {
		args = append(args, "-c", s)
	}
	p.output.Reset()
	p.process = p.command("postgres", args...)
	p.process.Stdout, p.process.Stderr = &p.output, &p.output
	if err := p.process.Start(); err != nil {
		return err
	}
	process, ended := p.process, make(chan struct{})
	p.ended = ended
	go func() {
		process.Wait() //nolint:errcheck // how it ended is in its output
		close(ended)
	}()
	db, err := sql.Open("pgx", p.URL("postgres"))
	if err != nil {
		return err
	}
	defer db.Close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for {
		if err = db.PingContext(ctx); err == nil {
			return nil
		}
		pause := time.NewTimer(20 * time.Millisecond)
		select {
		case <-ended:
			return fmt.Errorf("postgres ended: %s", p.output.String())
		case <-ctx.Done():
			return errors.Join(ctx.Err(), err)
		case <-pause.C:
		}
	}
}

// Standby starts a further server that follows this one by streaming replication under a name, and refuses writes until
// Promote. This one should run with wal_level=replica, PostgreSQL's default.
func (p *Postgres) Standby(t testing.TB, name string) *Postgres {
	t.Helper()
	s := &Postgres{programs: p.programs, account: p.account, settings: p.settings}
	dir, err := os.MkdirTemp("", "loopback-postgres-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	s.Dir = filepath.Join(dir, "data")
	if p.account != nil {
		if err := os.Chown(dir, int(p.account.Uid), int(p.account.Gid)); err != nil {
			t.Fatal(err)
		}
	}
	copying := p.command("pg_basebackup", "-D", s.Dir, "-R", "-X", "stream", "-c", "fast", "--no-sync",
		"-d", fmt.Sprintf("host=127.0.0.1 port=%d user=postgres application_name=%s", p.Port, name))
	if out, err := copying.CombinedOutput(); err != nil {
		t.Fatalf("pg_basebackup: %v\n%s", err, out)
	}
	if s.Port, err = port.Free("127.0.0.1"); err != nil {
		t.Fatal(err)
	}
	if err := s.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Stop() })
	return s
}

// Promote makes a standby a server of its own, that takes writes.
func (p *Postgres) Promote() error {
	out, err := p.command("pg_ctl", "promote", "-D", p.Dir, "-w").CombinedOutput()
	if err != nil {
		return fmt.Errorf("pg_ctl promote: %w: %s", err, out)
	}
	return nil
}

// Stop ends the server as an administrator would: transactions are rolled back, connections cut.
func (p *Postgres) Stop() { p.signal(syscall.SIGINT) }

// Crash ends the server at once, without a word to anybody, as a power cut that spares the disk's cache would.
func (p *Postgres) Crash() { p.signal(syscall.SIGQUIT) }

func (p *Postgres) signal(s os.Signal) {
	p.process.Process.Signal(s) //nolint:errcheck // it may have ended
	<-p.ended
}

// URL of a database of this server.
func (p *Postgres) URL(database string) string {
	return fmt.Sprintf("postgres://postgres@127.0.0.1:%d/%s?sslmode=disable", p.Port, database)
}

// NewDatabase makes an empty database and returns its URL.
func (p *Postgres) NewDatabase(t testing.TB) string {
	t.Helper()
	name := fmt.Sprintf("test%d", p.databases.Add(1))
	p.Exec(t, "CREATE DATABASE "+name)
	return p.URL(name)
}

// Exec runs a statement as the server's administrator.
func (p *Postgres) Exec(t testing.TB, statement string) {
	t.Helper()
	db, err := sql.Open("pgx", p.URL("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.ExecContext(context.Background(), statement); err != nil {
		t.Fatalf("%s: %v", statement, err)
	}
}

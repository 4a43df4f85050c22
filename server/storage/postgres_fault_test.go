package storage_test

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/loopbackd/loopback/fault"
	"github.com/loopbackd/loopback/server/storage"
	"github.com/loopbackd/loopback/server/storage/storagetest"
)

// proxy stands between us and PostgreSQL, and cuts the connection around a COMMIT.
type proxy struct {
	listener net.Listener
	server   string
	cut      atomic.Value // mode: what to do with the next COMMIT
	refuse   atomic.Bool  // new connections are closed at once
	open     sync.WaitGroup
}

type mode string

const (
	pass      mode = ""
	cutBefore mode = "before" // the server never hears of it
	cutAfter  mode = "after"  // the server has answered, the answer is lost
)

func newProxy(t *testing.T, port int) *proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{listener: l, server: fmt.Sprintf("127.0.0.1:%d", port)}
	p.cut.Store(pass)
	p.open.Go(func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			p.open.Go(func() { p.serve(client) })
		}
	})
	t.Cleanup(func() { l.Close(); p.open.Wait() })
	return p
}

var preparedCommit = regexp.MustCompile(`(stmtcache_[0-9a-f]+)\x00COMMIT\x00`)

func (p *proxy) serve(client net.Conn) {
	defer client.Close()
	if p.refuse.Load() {
		return
	}
	server, err := net.Dial("tcp", p.server)
	if err != nil {
		return
	}
	defer server.Close()
	var drop atomic.Bool
	answered := make(chan struct{}, 1)
	var back sync.WaitGroup
	back.Go(func() {
		defer client.Close()
		buffer := make([]byte, 64<<10)
		for {
			n, err := server.Read(buffer)
			if err != nil {
				return
			}
			if drop.Load() {
				answered <- struct{}{}
				return
			}
			if _, err := client.Write(buffer[:n]); err != nil {
				return
			}
		}
	})
	defer back.Wait()
	defer server.Close()
	var commit []byte // a Bind of the prepared COMMIT: the empty portal's name, then the statement's
	buffer := make([]byte, 64<<10)
	for {
		n, err := client.Read(buffer)
		if err != nil {
			return
		}
		if prepared := preparedCommit.FindSubmatch(buffer[:n]); prepared != nil {
			commit = slices.Concat([]byte{0}, prepared[1], []byte{0})
		}
		if commit != nil && bytes.Contains(buffer[:n], commit) {
			switch p.cut.Swap(pass) {
			case cutBefore:
				return
			case cutAfter:
				drop.Store(true)
				server.Write(buffer[:n])
				<-answered
				return
			}
		}
		if _, err := server.Write(buffer[:n]); err != nil {
			return
		}
	}
}

func (p *proxy) url(url string) string {
	return strings.Replace(url, p.server, p.listener.Addr().String(), 1)
}

// count adds one to the description, so that doing it twice shows.
func count(db *storage.DB) error {
	ctx := context.Background()
	return db.Observe(ctx, func(tx *storage.Tx) error {
		o, err := tx.Organisation(ctx, "org_counter")
		if err != nil && fault.KindOf(err) != fault.NotFound {
			return err
		}
		o.ID, o.Name, o.Description = "org_counter", "counter", o.Description+"x"
		_, err = tx.PutOrganisation(ctx, o)
		return err
	})
}

func wantCount(t *testing.T, url string, want int) {
	t.Helper()
	o, err := open(t, url).View().Organisation(t.Context(), "org_counter")
	if err != nil || len(o.Description) != want {
		t.Errorf("counted %d, %v; wanted %d", len(o.Description), err, want)
	}
}

func TestPostgresFaults(t *testing.T) {
	server := storagetest.StartPostgres(t, "fsync=off")

	for _, m := range []mode{cutBefore, cutAfter} {
		t.Run("the connection is cut "+string(m)+" the COMMIT", func(t *testing.T) {
			url := server.NewDatabase(t)
			p := newProxy(t, server.Port)
			db := open(t, p.url(url))
			want := 0
			for round := range 5 {
				p.cut.Store(m)
				var all sync.WaitGroup
				for range 20 {
					all.Go(func() {
						if err := count(db); err != nil {
							t.Errorf("round %d: %v; wanted success: the outcome can be found out", round, err)
						}
					})
				}
				all.Wait()
				want += 20
				if p.cut.Load() != pass {
					t.Fatal("the proxy saw no COMMIT")
				}
			}
			wantCount(t, url, want)
		})
	}

	t.Run("the answer to COMMIT is lost and nobody can be asked", func(t *testing.T) {
		url := server.NewDatabase(t)
		p := newProxy(t, server.Port)
		db := open(t, p.url(url))
		if err := count(db); err != nil {
			t.Fatal(err)
		}
		p.refuse.Store(true)
		p.cut.Store(cutAfter)
		err := count(db)
		wantFault(t, err, "commit_unknown", "not known")
		p.refuse.Store(false)
		if err := count(db); err != nil {
			t.Errorf("after the server came back: %v", err)
		}
		wantCount(t, url, 3) // it had been committed
	})

	t.Run("the server ends the session within a closure", func(t *testing.T) {
		url := server.NewDatabase(t)
		db := open(t, url)
		if err := count(db); err != nil {
			t.Fatal(err)
		}
		runs := 0
		if err := db.Observe(t.Context(), func(tx *storage.Tx) error {
			ctx := t.Context()
			o, err := tx.Organisation(ctx, "org_counter")
			if err != nil {
				return err
			}
			if runs++; runs == 1 {
				server.Exec(t, "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND database = (SELECT oid FROM pg_database WHERE datname = '"+name(url)+"')")
			}
			o.Description += "x"
			_, err = tx.PutOrganisation(ctx, o)
			return err
		}); err != nil {
			t.Errorf("got %v; wanted success at the second run", err)
		}
		if runs != 2 {
			t.Errorf("the closure ran %d times; wanted 2", runs)
		}
		wantCount(t, url, 2)
	})

	t.Run("a frozen replica holds the others up for a bounded time", func(t *testing.T) {
		url := server.NewDatabase(t)
		frozen, other := open(t, url), open(t, url)
		if err := count(other); err != nil {
			t.Fatal(err)
		}
		inside, thaw := make(chan struct{}), make(chan struct{})
		answer := make(chan error)
		runs := 0
		go func() {
			answer <- frozen.Observe(context.Background(), func(tx *storage.Tx) error {
				ctx := context.Background()
				if runs++; runs == 1 {
					close(inside)
					<-thaw
				}
				o, err := tx.Organisation(ctx, "org_counter")
				if err != nil {
					return err
				}
				o.Description += "x"
				_, err = tx.PutOrganisation(ctx, o)
				return err
			})
		}()
		<-inside
		began := time.Now()
		if err := count(other); err != nil {
			t.Errorf("the other replica: %v", err)
		}
		if waited := time.Since(began); waited < 5*time.Second || waited > 14*time.Second {
			t.Errorf("the other replica waited %s; wanted about 10s", waited)
		}
		close(thaw)
		// It was away for longer than the writer retries: it is told, and nothing of it was done.
		wantFault(t, <-answer, "database_unreachable", "went away")
		wantCount(t, url, 2)
		if err := count(frozen); err != nil {
			t.Errorf("afterwards: %v", err)
		}
		wantCount(t, url, 3)
	})

	t.Run("a standby or a read-only database", func(t *testing.T) {
		url := server.NewDatabase(t)
		if err := count(open(t, url)); err != nil {
			t.Fatal(err)
		}
		server.Exec(t, "ALTER DATABASE "+name(url)+" SET default_transaction_read_only = on")
		db := open(t, url)
		wantFault(t, count(db), "database_read_only", "primary")
		wantCount(t, url, 1)
	})

	t.Run("what cannot be opened", func(t *testing.T) {
		for url, code := range map[string]string{
			server.URL("none"): "database_refused",
			strings.Replace(server.URL("postgres"), fmt.Sprint(server.Port), "1", 1): "database_unreachable",
		} {
			_, err := storage.Open(t.Context(), storage.Options{URL: url, Logger: quiet()})
			wantFault(t, err, code, "127.0.0.1")
		}
		server.Exec(t, "CREATE DATABASE latin ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0")
		if _, err := storage.Open(t.Context(), storage.Options{URL: server.URL("latin"), Logger: quiet()}); fault.Of(err).Code != "database_encoding" {
			t.Errorf("got %v; wanted database_encoding", err)
		}
	})

	t.Run("text is ordered byte by byte whatever the database's language", func(t *testing.T) {
		server.Exec(t, "CREATE DATABASE english TEMPLATE template0 LOCALE_PROVIDER icu ICU_LOCALE 'en-US'") // a A b B é
		db := open(t, server.URL("english"))
		for _, n := range []string{"b", "A", "é", "a", "B"} {
			if err := put(db, n); err != nil {
				t.Fatal(err)
			}
		}
		var got []string
		for _, o := range listed(t, db) {
			got = append(got, o.Name)
		}
		if fmt.Sprint(got) != "[A B a b é]" {
			t.Errorf("got %v; wanted [A B a b é]", got)
		}
	})
}

// What PostgreSQL acknowledged is there after it crashed, and writers get over it by themselves.
func TestPostgresCrashesAndComesBack(t *testing.T) {
	server := storagetest.StartPostgres(t)
	url := server.NewDatabase(t)
	db := open(t, url)
	stop := make(chan struct{})
	var mu sync.Mutex
	var kept []string
	var unavailable, succeeded atomic.Int64
	var writers sync.WaitGroup
	for p := range 8 {
		writers.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				name := fmt.Sprintf("%d-%d", p, n)
				switch err := put(db, name); {
				case err == nil:
					succeeded.Add(1)
					mu.Lock()
					kept = append(kept, name)
					mu.Unlock()
				case fault.KindOf(err) == fault.Unavailable:
					unavailable.Add(1)
				default:
					t.Errorf("got %v; wanted success or Unavailable", err)
				}
			}
		})
	}
	for range 3 {
		for n := succeeded.Load(); succeeded.Load() < n+30; {
			time.Sleep(5 * time.Millisecond)
		}
		server.Crash()
		if err := server.Start(); err != nil {
			t.Fatal(err)
		}
	}
	for n := succeeded.Load(); succeeded.Load() < n+30; {
		time.Sleep(5 * time.Millisecond)
	}
	close(stop)
	writers.Wait()
	for _, name := range kept {
		wantKept(t, db, name)
	}
	position, err := db.Position(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	list, err := db.Changes(t.Context(), 0, int(position)+1)
	if err != nil || int64(len(list)) != position || len(list) < len(kept) {
		t.Errorf("the feed has %d changes up to %d, %v; %d were acknowledged", len(list), position, err, len(kept))
	}
	seen := map[string]bool{}
	for _, c := range list {
		if seen[c.ID] {
			t.Errorf("%s was written twice", c.ID)
		}
		seen[c.ID] = true
	}
	t.Logf("3 crashes: %d acknowledged, %d told Unavailable", len(kept), unavailable.Load())
}

// name of the database in a URL.
func name(url string) string {
	_, rest, _ := strings.Cut(url, "127.0.0.1:")
	_, rest, _ = strings.Cut(rest, "/")
	database, _, _ := strings.Cut(rest, "?")
	return database
}

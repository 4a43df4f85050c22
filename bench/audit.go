package main

import (
	"bufio"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"encoding/pem"

	"github.com/loopbackd/loopback/access"
	"github.com/loopbackd/loopback/audit"
	"github.com/loopbackd/loopback/id"
	evidence "github.com/loopbackd/loopback/ledger"
	"github.com/loopbackd/loopback/server/ledger"
	"github.com/loopbackd/loopback/server/sink"
	"github.com/loopbackd/loopback/server/storage"
	noun "github.com/loopbackd/loopback/sink"
	"github.com/loopbackd/loopback/tenant"
)

// The audit log, held against the plainest thing that claims the same: a chain in which each entry holds the hash of the
// one before, appended and synced one by one, and verified by reading it.
const (
	auditProducers = 1024
	auditTime      = 4 * time.Second
	auditEntries   = 300_000
)

func (b *bench) audit(ctx context.Context) ([]Result, error) {
	const chain = "a chain of hashes in a file, synced entry by entry"
	durable := &figure{Result: Result{Name: fmt.Sprintf("durable entries, %d producers, SQLite, signed as they come", auditProducers), Unit: "1/s", Rival: chain, Target: 20_000, Better: "higher"}}
	const floor = "the same rows inserted in groups by the same driver, by one goroutine, not signed"
	spent := &figure{Result: Result{Name: "processor time of a durable entry, producers and commits", Unit: "µs", Rival: floor, Target: 50, Better: "lower"}}
	raw := &figure{Result: Result{Name: fmt.Sprintf("durable entries, %d producers, SQLite", auditProducers), Unit: "1/s", Rival: floor, Target: 20_000, Better: "higher"}}
	behind := &figure{Result: Result{Name: "entries that no checkpoint covers at the end of it", Unit: "entries", Target: 100_000, Better: "lower"}}
	verified := &figure{Result: Result{Name: "entries verified from an export", Unit: "1/s", Rival: "the chain, read and hashed", Target: 300_000, Better: "higher"}}
	shipped := &figure{Result: Result{Name: "entries shipped to a webhook", Unit: "1/s", Target: 50_000, Better: "higher"}}
	lag := &figure{Result: Result{Name: fmt.Sprintf("from the act to its receiver, p99, %d acts a second", lagRate), Unit: "ms", Target: 1000, Better: "lower"}}
	for range b.rounds {
		late, err := b.lag(ctx)
		if err != nil {
			return nil, err
		}
		lag.add(late, 0, 0)
		alone, cpu, err := b.commitEntries(ctx)
		if err != nil {
			return nil, err
		}
		least, leastCPU, err := b.floor(ctx)
		if err != nil {
			return nil, err
		}
		raw.add(alone, least, 0)
		spent.add(cpu, leastCPU, 0)
		rate, left, ships, err := b.produce(ctx)
		if err != nil {
			return nil, err
		}
		slow, read, err := b.chain(ctx)
		if err != nil {
			return nil, err
		}
		fast, err := b.verify()
		if err != nil {
			return nil, err
		}
		durable.add(rate, slow, 0)
		behind.add(left, 0, 0)
		verified.add(fast, read, 0)
		shipped.add(ships, 0, 0)
	}
	return []Result{durable.result(), raw.result(), spent.result(), behind.result(), verified.result(), shipped.result(), lag.result()}, nil
}

func benchEntry(i int) audit.Entry {
	return audit.Of(access.Actor{Kind: access.APIKey, ID: "key_06h25bty7yh6pgrts69dgn853m", Name: "ci", Address: "192.0.2.7", Principal: "usr_06h25bty7yh6pgrts69dgn853m", RequestID: "req_06h25bty7yh6pgrts69dgn853m"}, "hosts.label",
		access.Scope{Organisation: "org_1", Project: "prj_1", Workspace: "ws_1"}, fmt.Sprint("hst_", i), "web-1").Change(map[string]string{"env": "test"}, map[string]string{"env": "prod"})
}

type noMemory struct{}

func (noMemory) Load() (string, error) { return "", nil }
func (noMemory) Store(string) error    { return nil }

type anyTenant struct{}

func (anyTenant) Organisation(context.Context, string, access.Permission) (tenant.Organisation, error) {
	return tenant.Organisation{Meta: tenant.Meta{ID: "org_1"}}, nil
}

// produce writes entries from many producers at once while they are numbered and signed, and then ships them.
func (b *bench) produce(ctx context.Context) (rate, left, ships float64, err error) {
	dir, err := os.MkdirTemp(b.dir, "audit-*")
	if err != nil {
		return 0, 0, 0, err
	}
	defer os.RemoveAll(dir)
	quiet := slog.New(slog.DiscardHandler)
	db, err := storage.Open(ctx, storage.Options{URL: filepath.Join(dir, "loopback.db"), Logger: quiet})
	if err != nil {
		return 0, 0, 0, err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		return 0, 0, 0, err
	}
	tree := ledger.NewService(storage.Bind[ledger.Reader, ledger.Tx](db), ledger.Options{
		Deployment: "dep_bench", Epoch: 1, Key: key, Memory: noMemory{}, Owner: "bench", Now: time.Now, Logger: quiet})
	signing, stop := context.WithCancel(ctx)
	var workers sync.WaitGroup
	workers.Go(func() { _ = tree.Run(signing) })
	defer workers.Wait()
	defer stop()

	var written atomic.Int64
	var failed atomic.Pointer[error]
	var producers sync.WaitGroup
	began := time.Now()
	for i := range auditProducers {
		producers.Go(func() {
			for time.Since(began) < auditTime && failed.Load() == nil {
				if err := db.Observe(ctx, func(tx *storage.Tx) error { return tx.Audit(ctx, benchEntry(i)) }); err != nil {
					failed.Store(&err)
					return
				}
				written.Add(1)
			}
		})
	}
	producers.Wait()
	if e := failed.Load(); e != nil {
		return 0, 0, 0, *e
	}
	rate = float64(written.Load()) / time.Since(began).Seconds()
	if log, err := tree.Current(ctx); err == nil {
		left = float64(written.Load() - log.Signed)
	}
	stop()
	workers.Wait()
	ships, err = b.ship(ctx, db, dir, written.Load())
	return rate, left, ships, err
}

// commitEntries writes entries from many producers at once: how many a second, and what of processor time each cost, in µs.
func (b *bench) commitEntries(ctx context.Context) (rate, cpu float64, err error) {
	dir, err := os.MkdirTemp(b.dir, "entries-*")
	if err != nil {
		return 0, 0, err
	}
	defer os.RemoveAll(dir)
	db, err := storage.Open(ctx, storage.Options{URL: filepath.Join(dir, "loopback.db"), Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		return 0, 0, err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	var written atomic.Int64
	var failed atomic.Pointer[error]
	var producers sync.WaitGroup
	before := processorTime()
	began := time.Now()
	for i := range auditProducers {
		producers.Go(func() {
			for time.Since(began) < auditTime && failed.Load() == nil {
				if err := db.Observe(ctx, func(tx *storage.Tx) error { return tx.Audit(ctx, benchEntry(i)) }); err != nil {
					failed.Store(&err)
					return
				}
				written.Add(1)
			}
		})
	}
	producers.Wait()
	if e := failed.Load(); e != nil {
		return 0, 0, *e
	}
	n := float64(written.Load())
	return n / time.Since(began).Seconds(), (processorTime() - before).Seconds() * 1e6 / n, nil
}

// floor is what the driver can do with the same rows, indexes and durability: 256 to a COMMIT, 64 to a statement.
func (b *bench) floor(ctx context.Context) (rate, cpu float64, err error) {
	dir, err := os.MkdirTemp(b.dir, "floor-*")
	if err != nil {
		return 0, 0, err
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "loopback.db")
	made, err := storage.Open(ctx, storage.Options{URL: path, Logger: slog.New(slog.DiscardHandler)}) // for its schema
	if err == nil {
		err = made.Close()
	}
	if err != nil {
		return 0, 0, err
	}
	db, err := sql.Open("sqlite", path+"?_pragma=journal_mode(WAL)&_pragma=synchronous(FULL)&_pragma=cache_size(-32000)")
	if err != nil {
		return 0, 0, err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	db.SetMaxOpenConns(1)
	conn, err := db.Conn(ctx)
	if err != nil {
		return 0, 0, err
	}
	defer conn.Close()
	const rows, statements, width = 64, 4, 23
	marks := "(" + strings.TrimSuffix(strings.Repeat("?, ", width), ", ") + ")"
	insert, err := conn.PrepareContext(ctx, `INSERT INTO audit_entries (position, id, at, actor_kind, actor_id, actor_name, actor_address, action,
		target, name, outcome, reason, ticket, before, after, decision, request_id, organisation_id, project_id, workspace_id,
		principal, mfa_at, snapshot)
		VALUES `+strings.TrimSuffix(strings.Repeat(marks+", ", rows), ", "))
	if err != nil {
		return 0, 0, err
	}
	defer insert.Close()
	before := processorTime()
	began := time.Now()
	n := 0
	for time.Since(began) < auditTime {
		if _, err := conn.ExecContext(ctx, "BEGIN IMMEDIATE"); err != nil {
			return 0, 0, err
		}
		for range statements {
			args := make([]any, 0, rows*width)
			for range rows {
				n++
				e := benchEntry(n % auditProducers)
				now := time.Now()
				args = append(args, n, id.New("aud", now), now.UnixMicro(), string(e.Actor.Kind), e.Actor.ID, e.Actor.Name, e.Actor.Address, string(e.Action),
					e.Target, e.Name, "done", "", "", string(e.Before), string(e.After), "", e.Actor.RequestID, "org_1", "prj_1", "ws_1", e.Actor.Principal, 0, 1)
			}
			if _, err := insert.ExecContext(ctx, args...); err != nil {
				return 0, 0, err
			}
		}
		if _, err := conn.ExecContext(ctx, "COMMIT"); err != nil {
			return 0, 0, err
		}
	}
	return float64(n) / time.Since(began).Seconds(), (processorTime() - before).Seconds() * 1e6 / float64(n), nil
}

// processorTime is what this process used so far.
func processorTime() time.Duration {
	var u syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// lagRate is how many acts a second there are while the way to a receiver is timed.
const lagRate = 200

// lag is how long it takes from an act to a receiver that has it, in milliseconds.
func (b *bench) lag(ctx context.Context) (p99 float64, err error) {
	dir, err := os.MkdirTemp(b.dir, "lag-*")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir)
	quiet := slog.New(slog.DiscardHandler)
	db, err := storage.Open(ctx, storage.Options{URL: filepath.Join(dir, "loopback.db"), Logger: quiet})
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	var mu sync.Mutex
	var late []float64
	receiver := httptest.NewTLSServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		var in struct {
			Data []struct {
				Action string    `json:"action"`
				At     time.Time `json:"at"`
			} `json:"data"`
		}
		if json.NewDecoder(r.Body).Decode(&in) != nil {
			return
		}
		mu.Lock()
		defer mu.Unlock()
		for _, e := range in.Data {
			if e.Action == "hosts.label" {
				late = append(late, time.Since(e.At).Seconds()*1000)
			}
		}
	}))
	defer receiver.Close()
	service, err := sink.NewService(storage.Bind[sink.Reader, sink.Tx](db), anyTenant{}, sink.Options{Deployment: "dep_bench", Seal: make([]byte, 32), Now: time.Now})
	if err != nil {
		return 0, err
	}
	admin := access.WithActor(ctx, access.Actor{Kind: access.System, ID: "bench"})
	if _, _, err := service.Create(admin, sink.New{Name: "bench", Kind: noun.Webhook, Target: receiver.URL, Since: time.Unix(1, 0), CA: pemOf(receiver)}); err != nil {
		return 0, err
	}
	shipper := sink.NewShipper(service, sink.ShipOptions{Owner: "bench", DataDir: dir, Now: time.Now, Logger: quiet})
	running, stop := context.WithCancel(ctx)
	var workers sync.WaitGroup
	workers.Go(func() { _ = shipper.Run(running) })
	defer workers.Wait()
	defer stop()
	const acts = 5 * lagRate
	pace := time.NewTicker(time.Second / lagRate)
	defer pace.Stop()
	for i := range acts {
		<-pace.C
		if err := db.Observe(ctx, func(tx *storage.Tx) error { return tx.Audit(ctx, benchEntry(i)) }); err != nil {
			return 0, err
		}
	}
	for end := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		mu.Lock()
		n := len(late)
		mu.Unlock()
		if n >= acts {
			break
		}
		if time.Now().After(end) {
			return 0, fmt.Errorf("the webhook got %d of %d entries within a minute", n, acts)
		}
	}
	slices.Sort(late)
	return late[len(late)*99/100], nil
}

func pemOf(s *httptest.Server) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}))
}

// ship sends what is there to a receiver that throws it away.
func (b *bench) ship(ctx context.Context, db *storage.DB, dir string, entries int64) (float64, error) {
	receiver := httptest.NewTLSServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { _, _ = io.Copy(io.Discard, r.Body) }))
	defer receiver.Close()
	service, err := sink.NewService(storage.Bind[sink.Reader, sink.Tx](db), anyTenant{}, sink.Options{Deployment: "dep_bench", Seal: make([]byte, 32), Now: time.Now})
	if err != nil {
		return 0, err
	}
	admin := access.WithActor(ctx, access.Actor{Kind: access.System, ID: "bench"})
	if _, _, err := service.Create(admin, sink.New{Name: "bench", Kind: noun.Webhook, Target: receiver.URL, Since: time.Unix(1, 0),
		CA: pemOf(receiver)}); err != nil {
		return 0, err
	}
	done := make(chan struct{})
	var sent atomic.Int64
	shipper := sink.NewShipper(service, sink.ShipOptions{Owner: "bench", DataDir: dir, Now: time.Now, Logger: slog.New(slog.DiscardHandler), Every: 10 * time.Millisecond,
		Watch: func(_ string, n int, err error) {
			if err == nil && sent.Add(int64(n)) >= entries {
				select {
				case <-done:
				default:
					close(done)
				}
			}
		}})
	running, stop := context.WithCancel(ctx)
	var workers sync.WaitGroup
	began := time.Now()
	workers.Go(func() { _ = shipper.Run(running) })
	select {
	case <-done:
	case <-time.After(time.Minute):
		err = errors.New("the webhook did not get everything within a minute")
	}
	took := time.Since(began)
	stop()
	workers.Wait()
	return float64(sent.Load()) / took.Seconds(), err
}

// chain is the rival: write for as long, then verify what was written, again and again for a second.
func (b *bench) chain(ctx context.Context) (write, read float64, err error) {
	f, err := os.CreateTemp(b.dir, "chain-*")
	if err != nil {
		return 0, 0, err
	}
	defer os.Remove(f.Name())
	defer f.Close()
	type link struct {
		Previous string          `json:"previous"`
		Entry    json.RawMessage `json:"entry"`
	}
	var mu sync.Mutex
	var previous string
	var written atomic.Int64
	var failed atomic.Bool
	var producers sync.WaitGroup
	began := time.Now()
	for i := range auditProducers {
		producers.Go(func() {
			for time.Since(began) < auditTime && !failed.Load() && ctx.Err() == nil {
				mu.Lock()
				line, err := json.Marshal(link{previous, evidence.Encode(benchEntry(i))})
				sum := sha256.Sum256(line)
				previous = hex.EncodeToString(sum[:])
				if err == nil {
					_, err = f.Write(append(line, '\n'))
				}
				if err == nil {
					err = f.Sync()
				}
				mu.Unlock()
				if err != nil {
					failed.Store(true)
					return
				}
				written.Add(1)
			}
		})
	}
	producers.Wait()
	if failed.Load() {
		return 0, 0, errors.New("the chain cannot be written")
	}
	write = float64(written.Load()) / time.Since(began).Seconds()
	var lines int64
	for began = time.Now(); time.Since(began) < time.Second; {
		if _, err := f.Seek(0, io.SeekStart); err != nil {
			return 0, 0, err
		}
		want := ""
		r := bufio.NewScanner(f)
		for r.Scan() {
			var l link
			if err := json.Unmarshal(r.Bytes(), &l); err != nil || l.Previous != want {
				return 0, 0, errors.New("the chain is broken")
			}
			sum := sha256.Sum256(r.Bytes())
			want = hex.EncodeToString(sum[:])
			lines++
		}
	}
	return write, float64(lines) / time.Since(began).Seconds(), nil
}

// verify checks an export of many entries.
func (b *bench) verify() (float64, error) {
	f, err := os.CreateTemp(b.dir, "export-*")
	if err != nil {
		return 0, err
	}
	defer os.Remove(f.Name())
	defer f.Close()
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		return 0, err
	}
	var tree evidence.Range
	leaves := make([][]byte, auditEntries)
	for i := range leaves {
		e := benchEntry(i)
		e.ID, e.At, e.Position, e.Outcome = fmt.Sprintf("aud_%026d", i), time.Unix(int64(i), 0), int64(i)+1, audit.Done
		leaves[i] = evidence.Encode(e)
		tree.Add(leaves[i])
	}
	name := evidence.KeyName("dep_bench")
	k := evidence.Key{Name: name, Public: key.Public().(ed25519.PublicKey)}
	w, err := evidence.NewWriter(f, evidence.Header{Key: k.String(),
		Checkpoint: evidence.Checkpoint{Origin: evidence.Origin("dep_bench", 1, ""), Size: auditEntries, Root: tree.Root()}.Sign(name, key)})
	if err != nil {
		return 0, err
	}
	for _, l := range leaves {
		if err := w.Add(l); err != nil {
			return 0, err
		}
	}
	if err := w.Close(); err != nil {
		return 0, err
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return 0, err
	}
	began := time.Now()
	if _, err := evidence.Verify(f, evidence.Trust{Key: k}, nil); err != nil {
		return 0, err
	}
	return auditEntries / time.Since(began).Seconds(), nil
}

package main

import (
	"bufio"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
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
	"sync"
	"sync/atomic"
	"time"

	"encoding/pem"

	"github.com/loopbackd/loopback/access"
	"github.com/loopbackd/loopback/audit"
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
	behind := &figure{Result: Result{Name: "entries that no checkpoint covers at the end of it", Unit: "entries", Target: 100_000, Better: "lower"}}
	verified := &figure{Result: Result{Name: "entries verified from an export", Unit: "1/s", Rival: "the chain, read and hashed", Target: 300_000, Better: "higher"}}
	shipped := &figure{Result: Result{Name: "entries shipped to a webhook", Unit: "1/s", Target: 50_000, Better: "higher"}}
	for range b.rounds {
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
	return []Result{durable.result(), behind.result(), verified.result(), shipped.result()}, nil
}

func benchEntry(i int) audit.Entry {
	return audit.Of(access.Actor{Kind: access.APIKey, ID: "key_06h25bty7yh6pgrts69dgn853m", Name: "ci", Address: "192.0.2.7", RequestID: "req_06h25bty7yh6pgrts69dgn853m"}, "hosts.label",
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
		CA: string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: receiver.Certificate().Raw}))}); err != nil {
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

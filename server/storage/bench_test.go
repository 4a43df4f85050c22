package storage_test

import (
	"context"
	"database/sql"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync/atomic"
	"testing"

	"github.com/loopbackd/loopback/server/storage"
	"github.com/loopbackd/loopback/server/storage/storagetest"
	"github.com/loopbackd/loopback/tenant"
)

// One operation is one durable change: a row and its place in the feed, two rows in all. The rival writes the same two
// rows in a transaction of their own, as a program without a group committer would.
func BenchmarkDurableSQLite(b *testing.B) {
	durable(b, filepath.Join(b.TempDir(), "loopback.db"))
}

func BenchmarkDurablePostgres(b *testing.B) {
	server := storagetest.StartPostgres(b)
	durable(b, server.NewDatabase(b))
}

func durable(b *testing.B, url string) {
	db, err := storage.Open(b.Context(), storage.Options{URL: url, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		b.Fatal(err)
	}
	defer db.Close()
	for _, producers := range []int{1, 64, 1024} {
		b.Run(fmt.Sprintf("grouped/producers=%d", producers), func(b *testing.B) {
			var n atomic.Int64
			produce(b, producers, func() error {
				i := n.Add(1)
				ctx := context.Background()
				return db.Observe(ctx, func(tx *storage.Tx) error {
					_, err := tx.PutOrganisation(ctx, tenant.Organisation{Meta: tenant.Meta{ID: fmt.Sprintf("org_%d", i), Name: fmt.Sprint(i)}})
					return err
				})
			})
		})
	}
	plain, err := sql.Open(map[bool]string{true: "sqlite", false: "pgx"}[url[0] == '/'], map[bool]string{
		true:  "file:" + url + "?_txlock=immediate&_pragma=busy_timeout(60000)&_pragma=synchronous(FULL)",
		false: url}[url[0] == '/'])
	if err != nil {
		b.Fatal(err)
	}
	defer plain.Close()
	plain.SetMaxOpenConns(32)
	if url[0] == '/' {
		plain.SetMaxOpenConns(1) // more would only wait for the file's lock, and time out
	}
	if _, err := plain.Exec("CREATE TABLE rival (id TEXT PRIMARY KEY, name TEXT, at BIGINT); CREATE TABLE rival_changes (position BIGINT, id TEXT, at BIGINT)"); err != nil {
		b.Fatal(err)
	}
	for _, producers := range []int{1, 64} {
		b.Run(fmt.Sprintf("rival/producers=%d", producers), func(b *testing.B) {
			var n atomic.Int64
			produce(b, producers, func() error {
				i := n.Add(1)
				tx, err := plain.Begin()
				if err != nil {
					return err
				}
				defer tx.Rollback()
				if _, err := tx.Exec("INSERT INTO rival (id, name, at) VALUES ($1, $2, $3) ON CONFLICT (id) DO UPDATE SET name = excluded.name", fmt.Sprint(i), "name", i); err != nil {
					return err
				}
				if _, err := tx.Exec("INSERT INTO rival_changes (position, id, at) VALUES ($1, $2, $3)", i, fmt.Sprint(i), i); err != nil {
					return err
				}
				return tx.Commit()
			})
		})
	}
}

// produce spreads b.N writes over so many goroutines.
func produce(b *testing.B, producers int, write func() error) {
	b.ReportAllocs()
	left, failed := atomic.Int64{}, make(chan error, producers)
	left.Store(int64(b.N))
	b.ResetTimer()
	for range producers {
		go func() {
			for left.Add(-1) >= 0 {
				if err := write(); err != nil {
					failed <- err
					return
				}
			}
			failed <- nil
		}()
	}
	for range producers {
		if err := <-failed; err != nil {
			b.Error(err)
		}
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "changes/s")
	b.ReportMetric(2*float64(b.N)/b.Elapsed().Seconds(), "rows/s")
}

package storage_test

import (
	"fmt"
	"path/filepath"
	"sync"
	"testing"

	"github.com/loopbackd/loopback/server/storage"
	"github.com/loopbackd/loopback/server/storage/storagetest"
)

// Replicas that start together find an empty database together.
func openedBySeveralAtOnce(t *testing.T, newDatabase func(testing.TB) string) {
	for round := range 3 {
		url := newDatabase(t)
		var all sync.WaitGroup
		for n := range 6 {
			all.Go(func() {
				db, err := storage.Open(t.Context(), storage.Options{URL: url, Logger: quiet()})
				if err != nil {
					t.Errorf("round %d, replica %d: %v", round, n, err)
					return
				}
				defer db.Close()
				if err := put(db, fmt.Sprint(n)); err != nil {
					t.Errorf("round %d, replica %d: %v", round, n, err)
				}
			})
		}
		all.Wait()
		if got := len(listed(t, open(t, url))); got != 6 {
			t.Errorf("round %d: %d rows; wanted 6", round, got)
		}
	}
}

func TestSQLiteOpenedBySeveralAtOnce(t *testing.T) {
	openedBySeveralAtOnce(t, func(testing.TB) string { return filepath.Join(t.TempDir(), "loopback.db") })
}

func TestPostgresOpenedBySeveralAtOnce(t *testing.T) {
	server := storagetest.StartPostgres(t, "fsync=off")
	openedBySeveralAtOnce(t, server.NewDatabase)
}

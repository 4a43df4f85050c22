package storage_test

import (
	"path/filepath"
	"testing"

	"github.com/loopbackd/loopback/server/storage/storagetest"
)

func TestSQLite(t *testing.T) {
	storagetest.Run(t, func(t testing.TB) string { return filepath.Join(t.TempDir(), "loopback.db") })
}
